//! Argo CD: what an Application says of itself.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use shakedown_core::{Answer, Observation, Resource, Touches};
use shakedown_engine::{Cx, ObserveError, Probe};

use crate::change::{Change, Signal, patched};
use crate::objects::ObjectRef;
use crate::platform::Platform;

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

    /// In sync, with no operation under way.
    pub(crate) fn is_quiet(&self) -> bool {
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

/// Asks the controller for a comparison; it takes the annotation away once it has made one.
pub(crate) const REFRESH: &str = "argocd.argoproj.io/refresh";

/// Turns selfHeal off, and asks for a comparison: a controller that has not heard of it yet goes on healing.
pub(crate) fn without_self_heal() -> Value {
    json!({
        "metadata": {"annotations": {REFRESH: "normal"}},
        "spec": {"syncPolicy": {"automated": {"selfHeal": false}}},
    })
}

/// The Application with selfHeal off, as its controller knows it.
pub fn self_heal_off(name: &'static str) -> Change {
    let known: Signal = Box::new(move |platform, _| {
        Box::pin(async move {
            let live = platform.get(&application(name)).await.map_err(|e| e.to_string())?.unwrap_or_default();
            if live["metadata"]["annotations"].get(REFRESH).is_some() {
                return Err("the controller has not compared yet".to_owned());
            }
            Ok(live["spec"]["syncPolicy"]["automated"]["selfHeal"].to_string())
        })
    });
    patched("selfHeal is off", application(name), without_self_heal()).shown_by(known)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::testing::FakeApi;
    use shakedown_core::{Event, Seed};
    use std::sync::Arc;

    pub(crate) fn live(sync: &str) -> Value {
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

    pub(crate) fn cx(seconds: u64) -> Cx {
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
}
