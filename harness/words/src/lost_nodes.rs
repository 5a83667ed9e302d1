//! Pods of nodes that do not answer: nobody there can say that they have ended, and their namespace waits for that.

use crate::api::ApiError;
use crate::objects::ObjectRef;
use crate::platform::Platform;
use crate::pods::is_ready;

/// Lets go of a namespace's Pods that are to end on nodes that are not ready: they are deleted without their kubelet's
/// word. How many it were.
///
/// # Errors
/// The API's.
pub(crate) async fn let_go(platform: &Platform, namespace: &str) -> Result<usize, ApiError> {
    let nodes = platform.list("v1", "Node", None, None).await?;
    let lost: Vec<_> = nodes.iter().filter(|node| !is_ready(node)).map(|node| &node["metadata"]["name"]).collect();
    let mut count = 0;
    for pod in platform.list("v1", "Pod", Some(namespace), None).await? {
        if pod["metadata"]["deletionTimestamp"].is_null() || !lost.contains(&&pod["spec"]["nodeName"]) {
            continue;
        }
        let name = pod["metadata"]["name"].as_str().unwrap_or_default();
        platform.delete(&ObjectRef::namespaced("v1", "Pod", namespace, name)).await?;
        count += 1;
    }
    Ok(count)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::FakeApi;
    use serde_json::{Value, json};

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
        assert_eq!(let_go(&platform, "n").await.unwrap(), 1);
        let left: Vec<_> = platform.list("v1", "Pod", Some("n"), None).await.unwrap();
        let left: Vec<_> = left.iter().map(|pod| pod["metadata"]["name"].as_str().unwrap()).collect();
        assert_eq!(left, ["ends-up", "stays-lost"]);
    }
}
