//! A scene: objects are made, changed and submitted one after the other, and what the cluster says is kept by name.
//!
//! What a scene makes or changes is in the journal before, and is put back by the engine when the observation is over.
//! What it *settles on* is ground: where it does not come, nothing can be said. What it *sees* is an observation.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::PoisonError;
use std::time::{Duration, Instant};

use futures::future::join_all;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use shakedown_core::{Answer, Observation, Resource, Touches, UndoStep, WaitError, wait_for};
use shakedown_engine::{Cx, ObserveError, Probe};

use crate::api::{ApiAnswer, Ask, Patch};
use crate::identity::Identity;
use crate::kyverno::{Controller, NAMESPACE, at_rest, cut_off, is_cut_off, lives};
use crate::kyverno_await::Await;
use crate::kyverno_watches::renewed;
use crate::lost_nodes::none_stranded;
use crate::objects::{ObjectRef, version_path};
use crate::platform::Platform;
use crate::undo::as_found;

/// How long Kyverno gets to come to rest before a scene begins.
const RESTING: Duration = Duration::from_secs(60);
/// How long it is only looked at after a wait in vain.
const AGAIN: Duration = Duration::from_secs(120);
/// How long that look may take.
const GLANCE: Duration = Duration::from_secs(2);
/// Left at least for what follows a wait that is in vain: requests to every apiserver, on a busy machine.
const ROOM: Duration = Duration::from_secs(2);
/// How long the ground of a scene may take to settle.
const SETTLING: Duration = Duration::from_secs(90);

/// The fact that the reports controller had to be started anew.
const STARTED_ANEW: &str = "reports-controller-started-anew";

/// What was seen of one thing.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fact {
    /// HTTP status code of a request; zero where none was made.
    pub code: u16,
    /// The server's message where it refused.
    pub message: String,
    /// Texts of the `Warning` headers.
    pub warnings: Vec<String>,
    /// Whether what was waited for came; null where nothing was waited for.
    pub came: Option<bool>,
    /// A field of an object, or what was seen last.
    pub value: Value,
    /// How long the request or the wait took, milliseconds.
    pub took_ms: u64,
}

/// What a scene came to.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SceneSeen {
    /// Facts by name.
    pub facts: BTreeMap<String, Fact>,
}

impl Observation for SceneSeen {
    const SCHEMA: &'static str = "kyverno-scene/1";
}

#[derive(Clone)]
enum Act {
    Make(Value),
    Change(ObjectRef, Patch, Value),
    Remove(ObjectRef),
    Settle(Await),
    See(&'static str, Await, Duration),
    Submit { case: &'static str, manifest: Value, dry: bool, identity: Identity, keep: &'static str },
    SubmitAll(Vec<(&'static str, Value)>),
    Read(&'static str, ObjectRef, &'static str),
    CutOff,
    Reconnect,
}

/// A scene, written down.
#[derive(Clone)]
pub struct Scene {
    acts: Vec<Act>,
    touches: Touches,
    reported: bool,
}

/// An empty scene; nobody bends Kyverno's policies while it is played.
pub fn scene() -> Scene {
    Scene { acts: vec![], touches: Touches::nothing().reads(Controller::Admission.lock()), reported: false }
}

impl Scene {
    fn then(mut self, act: Act) -> Self {
        self.acts.push(act);
        self
    }

    /// Depends on this controller. The reports controller is started anew where its watches may have ended for good, which
    /// is a fact of the scene then.
    #[must_use]
    pub fn depending_on(mut self, controller: Controller) -> Self {
        self.reported |= controller == Controller::Reports;
        self.touches = self.touches.reads(controller.lock());
        self
    }

    /// Bends this controller: nobody else depends on it meanwhile.
    #[must_use]
    pub fn bending(mut self, controller: Controller) -> Self {
        self.touches = self.touches.writes(controller.lock());
        self
    }

    /// Looks at a namespace.
    #[must_use]
    pub fn within(mut self, namespace: &str) -> Self {
        self.touches = self.touches.reads(Resource::Namespace(namespace.to_owned()));
        self
    }

    /// Changes a namespace: nobody else looks at it meanwhile.
    #[must_use]
    pub fn alone_in(mut self, namespace: &str) -> Self {
        self.touches = self.touches.writes(Resource::Namespace(namespace.to_owned()));
        self
    }

    /// Makes an object, which must be accepted.
    #[must_use]
    pub fn making(self, manifest: Value) -> Self {
        self.then(Act::Make(manifest))
    }

    /// Patches an object (RFC 7386).
    #[must_use]
    pub fn changing(self, object: ObjectRef, patch: Value) -> Self {
        self.then(Act::Change(object, Patch::Merge, patch))
    }

    /// Deletes an object and waits for its end.
    #[must_use]
    pub fn removing(self, object: ObjectRef) -> Self {
        self.then(Act::Remove(object))
    }

    /// Goes on once this holds.
    #[must_use]
    pub fn once(self, condition: Await) -> Self {
        self.then(Act::Settle(condition))
    }

    /// Sees whether this comes within a time.
    #[must_use]
    pub fn seeing(self, case: &'static str, condition: Await, within: Duration) -> Self {
        self.then(Act::See(case, condition, within))
    }

    /// Submits a manifest as a server-side dry run.
    #[must_use]
    pub fn trying(self, case: &'static str, manifest: Value) -> Self {
        self.trying_as(case, manifest, Identity::Admin)
    }

    /// The same, asked for by somebody else.
    #[must_use]
    pub fn trying_as(self, case: &'static str, manifest: Value, identity: Identity) -> Self {
        self.then(Act::Submit { case, manifest, dry: true, identity, keep: "" })
    }

    /// The same, with a field (JSON pointer) of what would be stored.
    #[must_use]
    pub fn trying_for(self, case: &'static str, manifest: Value, keep: &'static str) -> Self {
        self.then(Act::Submit { case, manifest, dry: true, identity: Identity::Admin, keep })
    }

    /// Submits a manifest for real; the object stays until the scene is over.
    #[must_use]
    pub fn creating(self, case: &'static str, manifest: Value) -> Self {
        self.then(Act::Submit { case, manifest, dry: false, identity: Identity::Admin, keep: "/metadata/uid" })
    }

    /// Submits manifests side by side, as dry runs.
    #[must_use]
    pub fn trying_all(self, cases: Vec<(&'static str, Value)>) -> Self {
        self.then(Act::SubmitAll(cases))
    }

    /// Reads a field (JSON pointer) of an object; code 404 where it does not exist.
    #[must_use]
    pub fn reading(self, case: &'static str, object: ObjectRef, pointer: &'static str) -> Self {
        self.then(Act::Read(case, object, pointer))
    }

    /// From here on nobody reaches an admission controller, until the scene reconnects it or is over.
    #[must_use]
    pub fn cutting_off(self) -> Self {
        self.bending(Controller::Admission).then(Act::CutOff)
    }

    /// The admission controllers are reached again.
    #[must_use]
    pub fn reconnecting(self) -> Self {
        self.then(Act::Reconnect)
    }
}

impl Probe<Platform> for Scene {
    type Seen = SceneSeen;

    fn touches(&self) -> Touches {
        self.touches.clone()
    }

    async fn observe(&self, platform: &Platform, cx: &Cx) -> Result<SceneSeen, ObserveError> {
        rested(platform, cx).await;
        // Webhooks that are gone are for the judge; where Kyverno itself is gone there is nothing to judge.
        match lives(platform).await {
            Ok(Answer::NotYet(why) | Answer::Never(why)) | Err(why) => {
                return Err(ObserveError::no_ground(format!("Kyverno does not work: {why}")));
            }
            Ok(Answer::Ready(())) => none_stranded(platform, NAMESPACE).await.map_err(ObserveError::no_ground)?,
        }
        // Room for the acts that follow a wait that is in vain.
        let end = Instant::now() + cx.budget - (cx.budget / 5).max(ROOM).min(cx.budget / 2);
        let mut facts = BTreeMap::new();
        if self.reported && renewed(platform, cx).await? {
            facts.insert(STARTED_ANEW.to_owned(), Fact { came: Some(true), ..Fact::default() });
        }
        // As found is how it was before the first change.
        let mut changed = BTreeSet::new();
        for act in &self.acts {
            play(platform, cx, act, end, &mut facts, &mut changed).await?;
        }
        Ok(SceneSeen { facts })
    }
}

async fn play(
    platform: &Platform,
    cx: &Cx,
    act: &Act,
    end: Instant,
    facts: &mut BTreeMap<String, Fact>,
    changed: &mut BTreeSet<ObjectRef>,
) -> Result<(), ObserveError> {
    match act {
        Act::Make(manifest) => {
            let fact = submitted(platform, Some(cx), manifest, false, &Identity::Admin, "").await?;
            if !(200..300).contains(&fact.code) {
                let name = manifest["metadata"]["name"].as_str().unwrap_or_default();
                return Err(ObserveError::no_ground(format!("making {name}: {}: {}", fact.code, fact.message)));
            }
        }
        Act::Change(object, kind, patch) => {
            if changed.insert(object.clone()) {
                cx.undo_afterwards(vec![as_found(platform, object).await.map_err(ObserveError::no_ground)?])?;
            }
            platform.patch(object, *kind, patch).await.map_err(ObserveError::no_ground)?;
        }
        Act::Remove(object) => platform.delete_and_wait(object, SETTLING).await.map_err(ObserveError::no_ground)?,
        Act::Settle(condition) => {
            wait_for(&condition.to_string(), SETTLING, || looked(platform, cx, condition))
                .await
                .map_err(ObserveError::no_ground)?;
        }
        Act::See(case, condition, within) => {
            let fact =
                seen(platform, cx, condition, (*within).min(end.saturating_duration_since(Instant::now()))).await?;
            facts.insert((*case).to_owned(), fact);
        }
        Act::Submit { case, manifest, dry, identity, keep } => {
            let fact = submitted(platform, Some(cx), manifest, *dry, identity, keep).await?;
            facts.insert((*case).to_owned(), fact);
        }
        Act::SubmitAll(cases) => {
            let all = cases.iter().map(|(case, manifest)| async move {
                let fact = submitted(platform, None, manifest, true, &Identity::Admin, "").await?;
                Ok::<_, ObserveError>(((*case).to_owned(), fact))
            });
            for done in join_all(all).await {
                facts.extend([done?]);
            }
        }
        Act::Read(case, object, pointer) => {
            let began = Instant::now();
            let live = platform.get(object).await.map_err(ObserveError::no_ground)?;
            let value = live.as_ref().and_then(|live| live.pointer(pointer)).cloned().unwrap_or_default();
            let code = if live.is_some() { 200 } else { 404 };
            facts.insert((*case).to_owned(), Fact { code, value, took_ms: millis(began), ..Fact::default() });
        }
        Act::CutOff => {
            Box::pin(play(platform, cx, &Act::Make(cut_off()), end, facts, changed)).await?;
            connected(platform, cx, false).await?;
        }
        Act::Reconnect => {
            if let Some(object) = ObjectRef::of(&cut_off()) {
                platform.delete_and_wait(&object, SETTLING).await.map_err(ObserveError::no_ground)?;
            }
            connected(platform, cx, true).await?;
            // Whoever looks next finds it alive: its sign of life was cut off, too.
            rested(platform, cx).await;
        }
    }
    Ok(())
}

/// Waits until every apiserver reaches an admission controller, or none.
async fn connected(platform: &Platform, cx: &Cx, wanted: bool) -> Result<(), ObserveError> {
    let what = if wanted { "the webhook to be reached" } else { "the webhook not to be reached" };
    wait_for(what, SETTLING, || async {
        match is_cut_off(platform).await {
            Ok(cut) if cut != wanted => Answer::Ready(()),
            Ok(_) => Answer::NotYet("not so".to_owned()),
            Err(why) => {
                cx.waiting(what, why.clone());
                Answer::NotYet(why)
            }
        }
    })
    .await
    .map_err(ObserveError::no_ground)
}

/// Lets Kyverno come to rest after whatever was done to it before. That it does not is for the judge. Where it was just
/// waited for in vain it is only looked at: all other scenes would wait for the same.
pub(crate) async fn rested(platform: &Platform, cx: &Cx) {
    let in_vain = *platform.kyverno_restless.lock().unwrap_or_else(PoisonError::into_inner);
    let patience = match in_vain {
        Some(at) if at.elapsed() < AGAIN => GLANCE,
        _ => RESTING.min(cx.budget / 2),
    };
    let rest = wait_for("Kyverno to come to rest", patience, || async {
        match at_rest(platform).await {
            Ok(Answer::NotYet(last)) | Err(last) => {
                cx.waiting("Kyverno to come to rest", last.clone());
                Answer::NotYet(last)
            }
            Ok(answer) => answer,
        }
    })
    .await;
    let mut restless = platform.kyverno_restless.lock().unwrap_or_else(PoisonError::into_inner);
    match rest {
        Ok(()) => *restless = None,
        Err(_) if patience > GLANCE => *restless = Some(Instant::now()),
        Err(_) => {}
    }
}

/// One look, told as progress.
async fn looked(platform: &Platform, cx: &Cx, condition: &Await) -> Answer<()> {
    match condition.look(platform).await {
        Ok(Answer::NotYet(last)) | Err(last) => {
            cx.waiting(condition.to_string(), last.clone());
            Answer::NotYet(last)
        }
        Ok(answer) => answer,
    }
}

/// Whether something comes. An API that does not answer at the end is no sign that it stays away.
async fn seen(platform: &Platform, cx: &Cx, condition: &Await, within: Duration) -> Result<Fact, ObserveError> {
    let began = Instant::now();
    let came = wait_for(&condition.to_string(), within, || looked(platform, cx, condition)).await;
    let took_ms = millis(began);
    match came {
        Ok(()) => Ok(Fact { came: Some(true), took_ms, ..Fact::default() }),
        Err(WaitError::TimedOut { last_seen: last, .. } | WaitError::Never { why: last, .. }) => {
            condition.look(platform).await.map_err(ObserveError::no_ground)?;
            Ok(Fact { came: Some(false), value: last.into(), took_ms, ..Fact::default() })
        }
    }
}

async fn submitted(
    platform: &Platform,
    cx: Option<&Cx>,
    manifest: &Value,
    dry: bool,
    identity: &Identity,
    keep: &str,
) -> Result<Fact, ObserveError> {
    let object = ObjectRef::of(manifest).ok_or_else(|| ObserveError::harness(format!("no manifest: {manifest}")))?;
    let collection = platform.collection(&object.api_version, &object.kind, object.namespace.as_deref()).await;
    let mut path = collection.map_err(ObserveError::no_ground)?;
    debug_assert!(path.starts_with(&version_path(&object.api_version)));
    if dry {
        path.push_str("?dryRun=All");
    } else if let Some(cx) = cx {
        let undo = as_found(platform, &object).await.map_err(ObserveError::no_ground)?;
        if matches!(undo, UndoStep::RestoreObject { .. }) {
            return Err(ObserveError::no_ground(format!("{object} exists already and is not ours to replace")));
        }
        cx.undo_afterwards(vec![undo])?;
    }
    let caller = identity.caller(platform).await.map_err(ObserveError::no_ground)?;
    let began = Instant::now();
    let answer = caller.ask(Ask::new(http::Method::POST, &path).with(manifest)).await;
    Ok(fact(answer.map_err(ObserveError::no_ground)?, keep, millis(began)))
}

fn fact(answer: ApiAnswer, keep: &str, took_ms: u64) -> Fact {
    let message = if answer.is_ok() { String::new() } else { answer.message().to_owned() };
    let kept = if keep.is_empty() || !answer.is_ok() { None } else { answer.body.pointer(keep).cloned() };
    Fact { code: answer.code, message, value: kept.unwrap_or_default(), warnings: answer.warnings, came: None, took_ms }
}

fn millis(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{FakeApi, living_kyverno};
    use serde_json::json;
    use shakedown_core::{Event, Seed};
    use std::sync::Arc;

    fn cx() -> Cx {
        Cx::new("c", "baseline", Seed(1), Duration::from_secs(5), std::env::temp_dir(), Arc::new(|_: Event| {}))
    }

    fn map(name: &str) -> Value {
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "namespace": "n"}, "data": {"k": "v"}})
    }

    fn world() -> Platform {
        Platform::for_test(FakeApi::with(living_kyverno().into_iter().chain([map("there")])).client(), vec![])
    }

    #[tokio::test]
    async fn facts_are_kept_by_name() {
        tokio::time::pause();
        let platform = world();
        let object = |name| ObjectRef::namespaced("v1", "ConfigMap", "n", name);
        let seen = scene()
            .trying("dry", map("new"))
            .creating("real", map("new"))
            .reading("field", object("new"), "/data/k")
            .reading("nothing", object("none"), "/data/k")
            .seeing("comes", Await::Exists(object("there")), Duration::from_secs(1))
            .seeing("stays", Await::Gone(object("there")), Duration::from_secs(1))
            .observe(&platform, &cx())
            .await
            .unwrap();
        assert_eq!((seen.facts["dry"].code, seen.facts["real"].code), (201, 201));
        assert_eq!((seen.facts["field"].code, &seen.facts["field"].value), (200, &json!("v")));
        assert_eq!(seen.facts["nothing"].code, 404);
        assert_eq!((seen.facts["comes"].came, seen.facts["stays"].came), (Some(true), Some(false)));
    }

    #[tokio::test]
    async fn without_kyverno_there_is_no_ground() {
        tokio::time::pause();
        let [pod, leader, mut health] = living_kyverno();
        health["metadata"]["annotations"]["kyverno.io/last-request-time"] = json!("2025-12-31T23:00:00.000000Z");
        for objects in [vec![], vec![pod, leader, health]] {
            let platform = Platform::for_test(FakeApi::with(objects).client(), vec![]);
            let seen = scene().trying("dry", map("new")).observe(&platform, &cx()).await;
            assert!(matches!(seen, Err(ObserveError::NoGround(why)) if why.contains("Kyverno does not work")));
        }
    }

    #[tokio::test]
    async fn what_is_there_is_not_ours() {
        let platform = world();
        let seen = scene().making(map("there")).observe(&platform, &cx()).await;
        assert!(matches!(seen, Err(ObserveError::NoGround(why)) if why.contains("not ours")));
    }

    #[test]
    fn a_scene_that_cuts_off_is_alone_with_the_webhooks() {
        assert!(scene().cutting_off().touches.conflicts(&scene().touches));
        assert!(!scene().touches.conflicts(&scene().bending(Controller::Cleanup).touches));
    }
}
