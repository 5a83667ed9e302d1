//! When a cluster is there: apiservers that answer, members of etcd that agree, nodes that report.

use std::collections::BTreeSet;
use std::time::Duration;

use futures::future::try_join_all;
use k8s_openapi::api::core::v1::Node as KubeNode;
use kube::api::{DeleteParams, ListParams};
use kube::{Api, Client};
use shakedown_core::wait::{Answer, wait_for};
use shakedown_node::{NodeState, Role};

use crate::cluster::{Cluster, client};
use crate::error::{ClusterError, Result};

/// Asks one apiserver whether it is ready.
///
/// # Errors
/// Its own words when it is not.
pub async fn api_ready(client: &Client) -> std::result::Result<(), String> {
    let request = http::Request::get("/readyz").body(Vec::new()).map_err(|e| e.to_string())?;
    match tokio::time::timeout(Duration::from_secs(5), client.request_text(request)).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(kube::Error::Api(status))) => Err(format!("{} {}", status.code, status.message)),
        Ok(Err(error)) => Err(chain(&error)),
        Err(_) => Err("no answer within 5 s".to_owned()),
    }
}

/// An error with its causes: a client's own words are often only "error trying to connect".
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text = format!("{text}: {inner}");
        cause = inner.source();
    }
    text
}

/// Waits for every apiserver, and for the balancer before them.
///
/// # Errors
/// With the last thing seen.
pub async fn apis(cluster: &Cluster, budget: Duration) -> Result<()> {
    let clients = try_join_all(cluster.control_planes().into_iter().map(|node| async move {
        Ok::<_, ClusterError>((node.name().to_owned(), cluster.api_of(node.name()).await?))
    }))
    .await?;
    let through = [("load balancer".to_owned(), cluster.api().await?)];
    try_join_all(clients.iter().chain(&through).map(|(name, client)| {
        let what = format!("the apiserver of {name}");
        async move {
            wait_for(&what, budget, || async {
                match api_ready(client).await {
                    Ok(()) => Answer::Ready(()),
                    Err(seen) => Answer::NotYet(seen),
                }
            })
            .await
        }
    }))
    .await?;
    Ok(())
}

/// A client that may do everything from the first moment on: the usual administrator's rights come with kubeadm's last
/// phases.
async fn first_client(cluster: &Cluster) -> Result<Client> {
    let path = cluster.directory().join("super-admin.conf");
    let text = std::fs::read_to_string(&path).map_err(|e| ClusterError::file("read", &path, e))?;
    client(&text, Some(&cluster.endpoint())).await
}

/// Has this node registered itself?
pub async fn node_exists(cluster: &Cluster, name: &str) -> bool {
    let Ok(client) = first_client(cluster).await else { return false };
    Api::<KubeNode>::all(client).get_opt(name).await.is_ok_and(|n| n.is_some())
}

/// Removes what a cluster knows of a node: its object and, through a living member, its membership of etcd.
///
/// # Errors
/// When the API or etcd refuses.
pub async fn forget(cluster: &Cluster, through: &str, name: &str) -> Result<()> {
    let api: Api<KubeNode> = Api::all(first_client(cluster).await?);
    match api.delete(name, &DeleteParams::default()).await {
        Err(kube::Error::Api(status)) if status.code == 404 => {}
        other => drop(other.map_err(|e| ClusterError::api(format!("delete the node object {name}"), e))?),
    }
    let members = cluster.etcdctl(through, &["member", "list"]).await?;
    if let Some(id) = member_id(&members, name) {
        cluster.etcdctl(through, &["member", "remove", id]).await?;
    }
    Ok(())
}

/// The id of a member in `etcdctl member list`; one that never started has no name there, but its peer URL is not
/// known here either, so it counts as the one that was being added.
fn member_id<'a>(list: &'a str, name: &str) -> Option<&'a str> {
    list.lines().find_map(|line| {
        let mut fields = line.split(", ");
        let (id, state, member) = (fields.next()?, fields.next()?, fields.next()?);
        (member == name || (member.is_empty() && state == "unstarted")).then_some(id)
    })
}

/// Waits until every node has registered itself.
///
/// # Errors
/// With the names that are missing.
pub async fn registered(cluster: &Cluster, budget: Duration) -> Result<()> {
    let api: Api<KubeNode> = Api::all(first_client(cluster).await?);
    let wanted: BTreeSet<String> = cluster
        .state()
        .members
        .iter()
        .filter(|m| m.role != Role::LoadBalancer && !m.late)
        .map(|m| m.name.clone())
        .collect();
    wait_for("every node to register", budget, || async {
        match api.list(&ListParams::default()).await {
            Ok(list) => {
                let have: BTreeSet<String> = list.items.into_iter().filter_map(|n| n.metadata.name).collect();
                let missing: Vec<_> = wanted.difference(&have).cloned().collect();
                if missing.is_empty() {
                    Answer::Ready(())
                } else {
                    Answer::NotYet(format!("missing: {}", missing.join(", ")))
                }
            }
            Err(error) => Answer::NotYet(chain(&error)),
        }
    })
    .await?;
    Ok(())
}

/// Waits until the cluster is all there. A node without a network plugin counts: it reports, and lacks only that.
///
/// # Errors
/// With the last thing seen.
pub async fn complete(cluster: &Cluster, budget: Duration) -> Result<()> {
    apis(cluster, budget).await?;
    let api: Api<KubeNode> = Api::all(first_client(cluster).await?);
    let wanted: BTreeSet<String> =
        cluster.state().members.iter().filter(|m| m.role != Role::LoadBalancer).map(|m| m.name.clone()).collect();
    wait_for("every node to report", budget, || async {
        match api.list(&ListParams::default()).await {
            Ok(list) => {
                let mut open: Vec<String> = Vec::new();
                for name in &wanted {
                    match list.items.iter().find(|n| n.metadata.name.as_ref() == Some(name)) {
                        None => open.push(format!("{name} is not registered")),
                        Some(node) => open.extend(reports(node).err().map(|why| format!("{name}: {why}"))),
                    }
                }
                if open.is_empty() { Answer::Ready(()) } else { Answer::NotYet(open.join("; ")) }
            }
            Err(error) => Answer::NotYet(chain(&error)),
        }
    })
    .await?;
    members(cluster, budget).await
}

/// Does a node report, with nothing wrong but a network plugin that is not there yet?
fn reports(node: &KubeNode) -> std::result::Result<(), String> {
    let conditions = node.status.as_ref().and_then(|s| s.conditions.as_ref());
    let ready = conditions.into_iter().flatten().find(|c| c.type_ == "Ready");
    let Some(ready) = ready else { return Err("has not reported".to_owned()) };
    let message = ready.message.clone().unwrap_or_default();
    let only_network = ready.status == "False"
        && ready.reason.as_deref() == Some("KubeletNotReady")
        && message.contains("NetworkPluginNotReady")
        && !message.contains("PLEG");
    if ready.status == "True" || only_network { Ok(()) } else { Err(format!("Ready is {}: {message}", ready.status)) }
}

/// Waits until every member of etcd is healthy.
///
/// # Errors
/// With etcd's own words.
pub async fn members(cluster: &Cluster, budget: Duration) -> Result<()> {
    try_join_all(cluster.control_planes().into_iter().map(|node| {
        let what = format!("the etcd member on {}", node.name());
        async move {
            wait_for(&what, budget, || async {
                if node.state() != NodeState::Running {
                    return Answer::NotYet(format!("the node is {:?}", node.state()));
                }
                match cluster.etcdctl(node.name(), &["endpoint", "health"]).await {
                    Ok(_) => Answer::Ready(()),
                    Err(error) => Answer::NotYet(error.to_string()),
                }
            })
            .await
        }
    }))
    .await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_is_found_by_name_or_as_the_one_that_never_started() {
        let list = "8e9e05c52164694d, started, cp-1, https://10.77.0.11:2380, https://10.77.0.11:2379, false\n\
                    91bc3c398fb3c146, unstarted, , https://10.77.0.12:2380, , true";
        assert_eq!(member_id(list, "cp-1"), Some("8e9e05c52164694d"));
        assert_eq!(member_id(list, "cp-2"), Some("91bc3c398fb3c146"));
        assert_eq!(member_id("", "cp-2"), None);
    }

    #[test]
    fn a_node_that_only_lacks_its_network_reports() {
        let node = |status: &str, reason: &str, message: &str| -> KubeNode {
            serde_json::from_value(serde_json::json!({
                "metadata": { "name": "cp-1" },
                "status": { "conditions": [{ "type": "Ready", "status": status, "reason": reason, "message": message }] }
            }))
            .unwrap()
        };
        let lacking =
            "container runtime network not ready: NetworkReady=false reason:NetworkPluginNotReady message:cni";
        assert!(reports(&node("True", "KubeletReady", "")).is_ok());
        assert!(reports(&node("False", "KubeletNotReady", lacking)).is_ok());
        assert!(reports(&node("False", "KubeletNotReady", "container runtime is down")).is_err());
        assert!(reports(&node("Unknown", "NodeStatusUnknown", "Kubelet stopped posting")).is_err());
        assert!(reports(&KubeNode::default()).is_err());
    }
}
