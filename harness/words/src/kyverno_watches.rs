//! The reports controller's watches of what it is to scan. In this version each of them ends for good where an apiserver
//! that was started after it answers `410 Gone` (kyverno/kyverno#13862): the controller runs, is ready, says nothing more
//! about it, and no new object is ever scanned. Checks that restart apiservers bring that about.

use std::time::Duration;

use serde_json::Value;
use shakedown_core::{Answer, wait_for};
use shakedown_engine::{Cx, ObserveError};

use crate::kyverno::{Controller, NAMESPACE, up_or_down};
use crate::objects::ObjectRef;
use crate::platform::Platform;

/// How long a new reports controller may take to be ready.
const READY: Duration = Duration::from_secs(120);

/// Starts the reports controller anew where an apiserver is younger than it; whether that was so.
///
/// # Errors
/// The API does not answer, or the new one does not come.
pub(crate) async fn renewed(platform: &Platform, cx: &Cx) -> Result<bool, ObserveError> {
    let list = |namespace: &'static str, selector: String| async move {
        platform.list("v1", "Pod", Some(namespace), Some(&selector)).await.map_err(ObserveError::no_ground)
    };
    let apiservers = list("kube-system", "component=kube-apiserver".to_owned()).await?;
    let reporting = list(NAMESPACE, Controller::Reports.selector()).await?;
    let old = older_than_an_apiserver(&reporting, &apiservers);
    for name in &old {
        let pod = ObjectRef::namespaced("v1", "Pod", NAMESPACE, name);
        platform.delete_and_wait(&pod, READY).await.map_err(ObserveError::no_ground)?;
    }
    if old.is_empty() {
        return Ok(false);
    }
    let what = "a reports controller that is younger than every apiserver";
    wait_for(what, READY, || async {
        match up_or_down(platform, Controller::Reports).await {
            Ok(now) if now == "up" => Answer::Ready(()),
            Ok(last) | Err(last) => {
                cx.waiting(what, last.clone());
                Answer::NotYet(last)
            }
        }
    })
    .await
    .map_err(ObserveError::no_ground)?;
    Ok(true)
}

/// When a Pod's first container was started, as RFC 3339 in UTC: such texts are ordered as the times are.
fn started(pod: &Value) -> Option<&str> {
    pod.pointer("/status/containerStatuses/0/state/running/startedAt").and_then(Value::as_str)
}

fn older_than_an_apiserver(reporting: &[Value], apiservers: &[Value]) -> Vec<String> {
    let youngest = apiservers.iter().filter_map(started).max();
    let old =
        reporting.iter().filter(|pod| matches!((started(pod), youngest), (Some(own), Some(other)) if own <= other));
    old.filter_map(|pod| pod["metadata"]["name"].as_str().map(str::to_owned)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(name: &str, started: &str) -> Value {
        let running = json!({"running": {"startedAt": started}});
        json!({"metadata": {"name": name}, "status": {"containerStatuses": [{"state": running}]}})
    }

    #[test]
    fn one_that_is_older_than_any_apiserver_is_started_anew() {
        let apiservers = [pod("a", "2026-01-01T09:00:00Z"), pod("b", "2026-01-01T10:00:00Z")];
        let old = |started| older_than_an_apiserver(&[pod("reports", started)], &apiservers);
        assert_eq!(old("2026-01-01T09:30:00Z"), ["reports"]);
        assert!(old("2026-01-01T10:00:01Z").is_empty());
        // Not started yet, or a control plane that runs elsewhere.
        assert!(older_than_an_apiserver(&[json!({})], &apiservers).is_empty());
        assert!(older_than_an_apiserver(&[pod("reports", "2026-01-01T09:30:00Z")], &[]).is_empty());
    }
}
