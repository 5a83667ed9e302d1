//! Argo CD: what an Application says of itself, and what becomes of changes made by hand behind its back.
//!
//! Argo CD waits longer before each further self-heal of the same revision (2, 6, 18 s and so on) and keeps the number of
//! attempts in the Application. A probe that makes drift puts that number back as it found it, or every observation
//! would slow down the next.

use std::time::{Duration, Instant};

use k8s_openapi::jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use shakedown_core::{Answer, Observation, Resource, Touches, UndoStep};
use shakedown_engine::{Cx, ObserveError, Probe};

use crate::api::Patch;
use crate::change::Signal;
use crate::objects::ObjectRef;
use crate::platform::Platform;
use crate::undo::as_found;

/// Namespace of Argo CD and of the Applications (ARGO-004).
pub const NAMESPACE: &str = "argocd";
/// API version of its kinds.
pub const VERSION: &str = "argoproj.io/v1alpha1";

/// An Application by name.
pub fn application(name: &str) -> ObjectRef {
    ObjectRef::namespaced(VERSION, "Application", NAMESPACE, name)
}

/// What an Application says of itself.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct App {
    /// `Synced`, `OutOfSync`, `Unknown`; empty before the first comparison.
    pub sync: String,
    /// `Healthy`, `Progressing`, `Degraded`, `Missing`.
    pub health: String,
    /// The commit that it was last compared with.
    pub revision: String,
    /// Phase of the last operation.
    pub phase: String,
    /// Message of the last operation.
    pub message: String,
    /// Whether automated sync is on, and whether it heals.
    pub automated: bool,
    /// `spec.syncPolicy.automated.selfHeal`.
    pub self_heal: bool,
    /// Commit of the last entry of the history, and whether nobody asked for it by hand.
    pub last_revision: String,
    /// `initiatedBy.automated` of that entry.
    pub last_automated: bool,
    /// A user name in that entry.
    pub last_user: String,
    /// Error conditions: `TYPE: MESSAGE`.
    pub conditions: Vec<String>,
    /// Its resources: `KIND NAMESPACE/NAME` and their sync status.
    pub resources: Vec<(String, String)>,
}

impl App {
    /// Reads it from the live object.
    pub fn read(live: &Value) -> Self {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let (status, operation) = (&live["status"], &live["status"]["operationState"]);
        let automated = &live["spec"]["syncPolicy"]["automated"];
        let last = status["history"].as_array().and_then(|all| all.last()).cloned().unwrap_or_default();
        let list = |field: &str| status[field].as_array().cloned().unwrap_or_default();
        Self {
            sync: text(&status["sync"]["status"]),
            health: text(&status["health"]["status"]),
            revision: text(&status["sync"]["revision"]),
            phase: text(&operation["phase"]),
            message: text(&operation["message"]),
            automated: automated.is_object(),
            self_heal: automated["selfHeal"].as_bool().unwrap_or_default(),
            last_revision: text(&last["revision"]),
            last_automated: last["initiatedBy"]["automated"].as_bool().unwrap_or_default(),
            last_user: text(&last["initiatedBy"]["username"]),
            conditions: list("conditions")
                .iter()
                .map(|c| format!("{}: {}", text(&c["type"]), text(&c["message"])))
                .collect(),
            resources: list("resources")
                .iter()
                .map(|r| {
                    (format!("{} {}/{}", text(&r["kind"]), text(&r["namespace"]), text(&r["name"])), text(&r["status"]))
                })
                .collect(),
        }
    }

    fn is_quiet(&self) -> bool {
        self.sync == "Synced" && matches!(self.phase.as_str(), "Succeeded" | "")
    }
}

/// An Application as observed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AppSeen {
    /// Its name.
    pub name: String,
    /// None where it does not exist.
    pub app: Option<App>,
}

impl Observation for AppSeen {
    const SCHEMA: &'static str = "argo-application/1";
}

/// Looks at an Application once it has come to rest.
#[derive(Debug, Clone)]
pub struct Status {
    name: &'static str,
    rest: Duration,
}

/// Looks at an Application: at once where it is Synced and Healthy, else after a while that it gets to come to rest.
pub fn status(name: &'static str) -> Status {
    Status { name, rest: Duration::from_secs(20) }
}

impl Probe<Platform> for Status {
    type Seen = AppSeen;

    fn touches(&self) -> Touches {
        Touches::nothing().reads(Resource::Namespace(NAMESPACE.to_owned()))
    }

    async fn observe(&self, platform: &Platform, cx: &Cx) -> Result<AppSeen, ObserveError> {
        let object = application(self.name);
        let mut last = None;
        // That it does not come to rest is for the judge: what counts is what it says in the end.
        let _ = platform
            .until(&object, "rest", self.rest.min(cx.budget), |live| {
                last = live.map(App::read);
                match &last {
                    None => Answer::Never("it does not exist".to_owned()),
                    Some(app) if app.is_quiet() && app.health == "Healthy" => Answer::Ready(()),
                    Some(app) => Answer::NotYet(format!("{} {}", app.sync, app.health)),
                }
            })
            .await;
        if last.is_none() {
            // Told apart from an API that does not answer.
            platform.get(&object).await.map_err(ObserveError::no_ground)?;
        }
        Ok(AppSeen { name: self.name.to_owned(), app: last })
    }
}

/// The path in the repository that the controller last compared with. Unlike the state, which may still be moving from
/// something earlier, it changes only once a change of the path has been taken in.
pub fn compared_path_of(name: &'static str) -> Signal {
    Box::new(move |platform, _| {
        Box::pin(async move {
            let live = platform.get(&application(name)).await.map_err(|e| e.to_string())?;
            let path = live.as_ref().and_then(|live| live.pointer("/status/sync/comparedTo/source/path"));
            Ok(path.and_then(Value::as_str).unwrap_or("nothing").to_owned())
        })
    })
}

/// A change made by hand.
#[derive(Debug, Clone, PartialEq)]
pub enum ByHand {
    /// The number of replicas.
    Scale(ObjectRef, u64),
    /// One field, by JSON pointer.
    Edit(ObjectRef, &'static str, Value),
    /// The whole object.
    Delete(ObjectRef),
}

impl ByHand {
    fn object(&self) -> &ObjectRef {
        match self {
            ByHand::Scale(object, _) | ByHand::Edit(object, ..) | ByHand::Delete(object) => object,
        }
    }

    fn kind(&self) -> &'static str {
        match self {
            ByHand::Scale(..) => "scale",
            ByHand::Edit(..) => "edit",
            ByHand::Delete(..) => "delete",
        }
    }

    fn pointer(&self) -> &str {
        match self {
            ByHand::Scale(..) => "/spec/replicas",
            ByHand::Edit(_, pointer, _) => pointer,
            ByHand::Delete(_) => "/metadata/uid",
        }
    }
}

/// What became of one change.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drift {
    /// `scale`, `edit`, `delete`.
    pub change: String,
    /// The object.
    pub object: String,
    /// From the change until it was as before, milliseconds; None: not within `waited_ms`.
    pub reverted_ms: Option<u64>,
    /// How long it was waited for.
    pub waited_ms: u64,
    /// The Application said OutOfSync while the change was in place.
    pub out_of_sync: bool,
    /// The last thing seen of the object.
    pub last_seen: String,
}

/// Drift as observed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drifts {
    /// The Application before.
    pub before: App,
    /// Each change, in order; one that stays ends the list.
    pub drifts: Vec<Drift>,
    /// The Application afterwards.
    pub after: App,
}

impl Observation for Drifts {
    const SCHEMA: &'static str = "argo-drift/1";
}

/// Makes changes by hand to what an Application manages.
#[derive(Debug, Clone)]
pub struct Drifting {
    name: &'static str,
    namespace: &'static str,
    changes: Vec<ByHand>,
    self_heal_off: bool,
}

/// Makes these changes to an Application's objects, one after the other, and times their reverts.
pub fn drift(name: &'static str, namespace: &'static str, changes: Vec<ByHand>) -> Drifting {
    Drifting { name, namespace, changes, self_heal_off: false }
}

impl Drifting {
    /// With selfHeal off while it lasts.
    #[must_use]
    pub fn without_self_heal(mut self) -> Self {
        self.self_heal_off = true;
        self
    }
}

/// How long a change has to stay before it counts as one that stays.
const STAYS: Duration = Duration::from_secs(20);
/// Left of the budget for coming to rest afterwards.
const REST: Duration = Duration::from_secs(15);

impl Probe<Platform> for Drifting {
    type Seen = Drifts;

    fn touches(&self) -> Touches {
        let namespace = Touches::nothing().writes(Resource::Namespace(self.namespace.to_owned()));
        namespace.writes(Resource::Namespace(NAMESPACE.to_owned()))
    }

    async fn observe(&self, platform: &Platform, cx: &Cx) -> Result<Drifts, ObserveError> {
        let app = application(self.name);
        let before = at_rest(platform, &app, REST).await.map_err(ObserveError::no_ground)?;
        let attempts = attempts(platform, &app).await?;
        if self.self_heal_off {
            cx.undo_afterwards(vec![as_found(platform, &app).await.map_err(ObserveError::no_ground)?])?;
            let off = json!({"spec": {"syncPolicy": {"automated": {"selfHeal": false}}}});
            platform.patch(&app, Patch::Merge, &off).await.map_err(ObserveError::no_ground)?;
        }
        let count = u32::try_from(self.changes.len().max(1)).unwrap_or(u32::MAX);
        let each = if self.self_heal_off {
            STAYS
        } else {
            (cx.budget.saturating_sub(REST) / count).max(Duration::from_secs(4))
        };
        let mut drifts = vec![];
        for change in &self.changes {
            cx.waiting(format!("revert of a {} of {}", change.kind(), change.object()), "changed by hand");
            let drift = self.one(platform, cx, &app, change, each).await?;
            restore_attempts(platform, &app, &attempts).await;
            let stays = drift.reverted_ms.is_none();
            drifts.push(drift);
            if stays {
                break;
            }
        }
        let stayed = drifts.last().is_some_and(|drift| drift.reverted_ms.is_none());
        let after = if stayed { None } else { at_rest(platform, &app, REST).await.ok() };
        let after = match after {
            Some(after) => after,
            None => read(platform, &app).await?,
        };
        Ok(Drifts { before, drifts, after })
    }
}

impl Drifting {
    async fn one(
        &self,
        platform: &Platform,
        cx: &Cx,
        app: &ObjectRef,
        change: &ByHand,
        budget: Duration,
    ) -> Result<Drift, ObserveError> {
        let object = change.object();
        let found = platform.get(object).await.map_err(ObserveError::no_ground)?;
        let Some(found) = found else { return Err(ObserveError::no_ground(format!("{object} does not exist"))) };
        let undo = as_found(platform, object).await.map_err(ObserveError::no_ground)?;
        if !matches!(undo, UndoStep::RestoreObject { .. }) {
            return Err(ObserveError::no_ground(format!("{object} went away")));
        }
        cx.undo_afterwards(vec![undo])?;
        let was = found.pointer(change.pointer()).cloned().unwrap_or_default();
        apply(platform, change).await?;
        let began = Instant::now();
        let mut last_seen = String::new();
        let reverted = platform.until(object, "revert", budget, |live| {
            let value = live.and_then(|live| live.pointer(change.pointer())).cloned().unwrap_or_default();
            last_seen = value.to_string();
            let back = match change {
                ByHand::Delete(_) => live.is_some() && value != was,
                _ => value == was,
            };
            if back { Answer::Ready(Instant::now()) } else { Answer::NotYet(value.to_string()) }
        });
        let noticed = platform.until(app, "OutOfSync", budget, |live| match live.map(App::read) {
            Some(app) if app.sync == "OutOfSync" => Answer::Ready(()),
            Some(app) => Answer::NotYet(app.sync),
            None => Answer::Never("the Application is gone".to_owned()),
        });
        // The revert ends the watch for OutOfSync, not the other way round: a change that stays is waited for in full.
        let (mut reverted, mut noticed) = (Box::pin(reverted), Box::pin(noticed));
        let mut out_of_sync = false;
        let back = tokio::select! {
            back = &mut reverted => back,
            seen = &mut noticed => {
                out_of_sync = seen.is_ok();
                reverted.as_mut().await
            }
        };
        drop(reverted);
        let millis = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        Ok(Drift {
            change: change.kind().to_owned(),
            object: object.to_string(),
            reverted_ms: back.ok().map(|at| millis(at.duration_since(began))),
            waited_ms: millis(began.elapsed()),
            out_of_sync,
            last_seen,
        })
    }
}

async fn apply(platform: &Platform, change: &ByHand) -> Result<(), ObserveError> {
    let patch = |pointer: &str, value: Value| json!([{"op": "replace", "path": pointer, "value": value}]);
    let done = match change {
        ByHand::Scale(object, replicas) => {
            platform.patch(object, Patch::Json, &patch(change.pointer(), json!(replicas))).await.map(|_| ())
        }
        ByHand::Edit(object, pointer, value) => {
            platform.patch(object, Patch::Json, &patch(pointer, value.clone())).await.map(|_| ())
        }
        ByHand::Delete(object) => platform.delete(object).await,
    };
    done.map_err(ObserveError::no_ground)
}

async fn read(platform: &Platform, app: &ObjectRef) -> Result<App, ObserveError> {
    let live = platform.get(app).await.map_err(ObserveError::no_ground)?;
    live.as_ref().map(App::read).ok_or_else(|| ObserveError::no_ground(format!("{app} does not exist")))
}

/// Synced, with no operation under way.
async fn at_rest(platform: &Platform, app: &ObjectRef, budget: Duration) -> Result<App, String> {
    platform
        .until(app, &format!("{app} to be Synced and at rest"), budget, |live| match live.map(App::read) {
            Some(app) if app.is_quiet() => Answer::Ready(app),
            Some(app) => Answer::NotYet(format!("{} {} {}", app.sync, app.phase, app.message)),
            None => Answer::Never("it does not exist".to_owned()),
        })
        .await
        .map_err(|e| e.to_string())
}

/// How long after the last operation Argo CD forgets its attempts (its own default).
const FORGETS: i64 = 330;

/// The number of self-heal attempts that counts, as found: null where it would be forgotten by now.
async fn attempts(platform: &Platform, app: &ObjectRef) -> Result<Value, ObserveError> {
    let live = platform.get(app).await.map_err(ObserveError::no_ground)?.unwrap_or_default();
    let operation = &live["status"]["operationState"];
    let finished = operation["finishedAt"].as_str().and_then(|text| text.parse::<Timestamp>().ok());
    let quiet = finished.is_none_or(|at| Timestamp::now().as_second() - at.as_second() > FORGETS);
    Ok(if quiet { Value::Null } else { operation["operation"]["sync"]["autoHealAttemptsCount"].clone() })
}

async fn restore_attempts(platform: &Platform, app: &ObjectRef, found: &Value) {
    // The operation that healed writes its end shortly after the object is back; before that the number is its own.
    let _ = at_rest(platform, app, REST).await;
    let patch = json!({"status": {"operationState": {"operation": {"sync": {"autoHealAttemptsCount": found}}}}});
    // Where it fails the next revert is later: that is measured and shown, not hidden.
    let _ = platform.patch(app, Patch::Merge, &patch).await;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::FakeApi;
    use shakedown_core::{Event, Seed};
    use std::sync::Arc;

    fn live(sync: &str) -> Value {
        json!({
            "apiVersion": VERSION, "kind": "Application", "metadata": {"name": "guestbook", "namespace": NAMESPACE},
            "spec": {"syncPolicy": {"automated": {"selfHeal": true}}},
            "status": {
                "sync": {"status": sync, "revision": "abc"}, "health": {"status": "Healthy"},
                "operationState": {"phase": "Succeeded", "message": "successfully synced (all tasks run)"},
                "history": [{"revision": "abc", "initiatedBy": {"automated": true}}],
                "resources": [{"kind": "Service", "namespace": "n", "name": "s", "status": "Synced"}],
            },
        })
    }

    fn deployment() -> Value {
        json!({
            "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web", "namespace": "n"},
            "spec": {"replicas": 1},
        })
    }

    fn cx(seconds: u64) -> Cx {
        let budget = Duration::from_secs(seconds);
        Cx::new("c", "baseline", Seed(1), budget, std::env::temp_dir(), Arc::new(|_: Event| {}))
    }

    #[test]
    fn an_application_is_read() {
        let app = App::read(&live("Synced"));
        assert!(app.is_quiet() && app.automated && app.self_heal && app.last_automated);
        assert_eq!(app.resources, [("Service n/s".to_owned(), "Synced".to_owned())]);
        assert_eq!(App::read(&json!({})), App::default());
    }

    #[tokio::test]
    async fn a_missing_application_is_seen_as_missing() {
        let platform = Platform::for_test(FakeApi::default().client(), vec![]);
        assert_eq!(status("nobody").observe(&platform, &cx(5)).await.unwrap().app, None);
    }

    #[tokio::test]
    async fn a_change_that_stays_is_waited_for_and_ends_the_list() {
        tokio::time::pause();
        let api = FakeApi::with([live("Synced"), deployment()]);
        let platform = Platform::for_test(api.client(), vec![]);
        let web = ObjectRef::namespaced("apps/v1", "Deployment", "n", "web");
        let changes = vec![ByHand::Edit(web.clone(), "/spec/replicas", json!(3)), ByHand::Delete(web)];
        let seen = drift("guestbook", "n", changes).observe(&platform, &cx(20)).await.unwrap();
        assert_eq!(seen.drifts.len(), 1);
        assert_eq!(seen.drifts[0].reverted_ms, None);
        assert_eq!(seen.drifts[0].last_seen, "3");
    }
}
