//! Drift: changes made by hand to what an Application manages, and what becomes of them.
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
use crate::argo::{App, NAMESPACE, REFRESH, application, without_self_heal};
use crate::objects::ObjectRef;
use crate::platform::Platform;
use crate::undo::as_found;

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
    /// A change stayed, and the controller did not answer a refresh either: it compares nothing, so that neither a
    /// revert nor a word about the drift can be expected of it.
    #[serde(default)]
    pub silent: bool,
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
/// How long the controller may take to answer a refresh.
const ANSWER: Duration = Duration::from_secs(30);
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
            let off = without_self_heal();
            platform.patch(&app, Patch::Merge, &off).await.map_err(ObserveError::no_ground)?;
            if !compared(platform, &app).await {
                return Err(ObserveError::no_ground(
                    "the application controller does not take in that selfHeal is off",
                ));
            }
        }
        let count = u32::try_from(self.changes.len().max(1)).unwrap_or(u32::MAX);
        let each = if self.self_heal_off {
            STAYS
        } else {
            (cx.budget.saturating_sub(REST + ANSWER) / count).max(Duration::from_secs(4))
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
        let silent = stayed && !answers_a_refresh(platform, &app).await;
        Ok(Drifts { before, drifts, after, silent })
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

/// Whether the controller takes the annotation away with which it is asked for a comparison: it does so once it has made
/// one with the manifests that its repo-server gave it.
async fn answers_a_refresh(platform: &Platform, app: &ObjectRef) -> bool {
    let ask = |word: Value| json!({"metadata": {"annotations": {REFRESH: word}}});
    if platform.patch(app, Patch::Merge, &ask(json!("normal"))).await.is_err() {
        return false;
    }
    if compared(platform, app).await {
        return true;
    }
    // The question is taken back; where that fails, it is one that the controller answers whenever it comes back.
    let _ = platform.patch(app, Patch::Merge, &ask(Value::Null)).await;
    false
}

/// Whether a comparison that was asked for is made.
async fn compared(platform: &Platform, app: &ObjectRef) -> bool {
    let answered = platform.until(app, "an answer to a refresh", ANSWER, |live| match live {
        Some(live) if live["metadata"]["annotations"].get(REFRESH).is_some() => {
            Answer::NotYet("not yet answered".to_owned())
        }
        Some(_) => Answer::Ready(()),
        None => Answer::Never("the Application is gone".to_owned()),
    });
    answered.await.is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::argo::tests::{cx, live};
    use crate::testing::FakeApi;

    fn deployment() -> Value {
        json!({
            "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web", "namespace": "n"},
            "spec": {"replicas": 1},
        })
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
        assert!(seen.silent, "nobody answers a refresh");
    }
}
