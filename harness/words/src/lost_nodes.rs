//! Pods of nodes that do not answer: nobody there can say that they have ended, and their namespace waits for that.

use serde_json::Value;

use crate::api::ApiError;
use crate::objects::ObjectRef;
use crate::platform::Platform;
use crate::pods::is_ready;

/// Pods of a namespace on nodes that are not ready.
async fn stranded(platform: &Platform, namespace: &str) -> Result<Vec<Value>, ApiError> {
    let nodes = platform.list("v1", "Node", None, None).await?;
    let lost: Vec<_> = nodes.iter().filter(|node| !is_ready(node)).map(|node| &node["metadata"]["name"]).collect();
    let mut pods = platform.list("v1", "Pod", Some(namespace), None).await?;
    pods.retain(|pod| lost.contains(&&pod["spec"]["nodeName"]));
    Ok(pods)
}

/// No Pod of the namespace is on a node that is not ready: what depends on one has no ground there.
///
/// # Errors
/// The first such Pod and its node; the API's.
pub(crate) async fn none_stranded(platform: &Platform, namespace: &str) -> Result<(), String> {
    let stranded = stranded(platform, namespace).await.map_err(|e| e.to_string())?;
    // One that is to end has been replaced elsewhere.
    match stranded.iter().find(|pod| pod["metadata"]["deletionTimestamp"].is_null()) {
        Some(pod) => Err(format!(
            "{namespace}/{} is on {}, which does not answer",
            pod["metadata"]["name"].as_str().unwrap_or_default(),
            pod["spec"]["nodeName"].as_str().unwrap_or_default()
        )),
        None => Ok(()),
    }
}

/// Lets go of a namespace's Pods that are to end on nodes that are not ready: they are deleted without their kubelet's
/// word. How many it were.
///
/// # Errors
/// The API's.
pub(crate) async fn let_go(platform: &Platform, namespace: &str) -> Result<usize, ApiError> {
    let mut ending = stranded(platform, namespace).await?;
    ending.retain(|pod| !pod["metadata"]["deletionTimestamp"].is_null());
    for pod in &ending {
        let name = pod["metadata"]["name"].as_str().unwrap_or_default();
        platform.delete(&ObjectRef::namespaced("v1", "Pod", namespace, name)).await?;
    }
    Ok(ending.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::FakeApi;
    use serde_json::json;

    #[tokio::test]
    async fn only_pods_that_are_to_end_on_a_lost_node_are_let_go() {
        let node = |name: &str, ready: &str| -> Value {
            let conditions = json!([{"type": "Ready", "status": ready}]);
            json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}, "status": {"conditions": conditions}})
        };
        let pod = |name: &str, node: &str, ends: bool| -> Value {
            let mut metadata = json!({"name": name, "namespace": "n"});
            if ends {
                metadata["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
            }
            json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": {"nodeName": node}})
        };
        let api = FakeApi::with([
            node("up", "True"),
            node("lost", "Unknown"),
            pod("ends-up", "up", true),
            pod("ends-lost", "lost", true),
            pod("stays-lost", "lost", false),
        ]);
        let platform = Platform::for_test(api.client(), vec![]);
        assert_eq!(none_stranded(&platform, "n").await.unwrap_err(), "n/stays-lost is on lost, which does not answer");
        assert!(none_stranded(&platform, "other").await.is_ok());
        assert_eq!(let_go(&platform, "n").await.unwrap(), 1);
        let left: Vec<_> = platform.list("v1", "Pod", Some("n"), None).await.unwrap();
        let left: Vec<_> = left.iter().map(|pod| pod["metadata"]["name"].as_str().unwrap()).collect();
        assert_eq!(left, ["ends-up", "stays-lost"]);
    }
}
