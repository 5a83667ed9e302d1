//! A cluster's state, looked up now: per node and per component.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::future::join_all;
use k8s_openapi::api::core::v1::Node as KubeNode;
use kube::Api;
use kube::api::ListParams;
use serde::{Deserialize, Serialize};
use shakedown_node::init::STATE;
use shakedown_node::process::boot_id;
use shakedown_node::{Node, NodeState, Role};

use crate::cluster::Cluster;
use crate::ready;
use crate::state::Phase;

/// How a cluster stands as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Overall {
    /// Every node runs and every component answers.
    Up,
    /// Some of it does not.
    Degraded,
    /// It was never complete, or is being removed.
    Partial,
    /// No node runs: the host was started anew, or all were ended. `up` starts them again.
    Stopped,
}

/// State of one node.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NodeStatus {
    /// Its name.
    pub name: String,
    /// What it is.
    pub role: Role,
    /// Its address.
    pub address: String,
    /// Running, frozen or stopped.
    pub state: NodeState,
    /// Component by name: `ok`, or what is wrong with it.
    pub components: BTreeMap<String, String>,
    /// Memory charged to it, in bytes.
    pub memory_bytes: u64,
    /// Processor seconds since it was booted.
    pub cpu_seconds: f64,
}

/// State of a cluster.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// Version of this form.
    pub schema: u32,
    /// Its name.
    pub name: String,
    /// Its random number.
    pub id: String,
    /// As a whole.
    pub state: Overall,
    /// Where its API is.
    pub endpoint: String,
    /// Kubernetes version.
    pub kubernetes: String,
    /// The host was started anew since.
    pub rebooted: bool,
    /// Its machines, the load balancer first.
    pub nodes: Vec<NodeStatus>,
}

/// How long one look may take; what does not answer by then is down.
const LOOK: Duration = Duration::from_secs(4);
const OK: &str = "ok";

/// Looks at a cluster.
pub async fn status(cluster: &Cluster) -> Status {
    let kube = conditions(cluster).await;
    let machines = cluster.all_machines();
    let nodes = join_all(machines.iter().map(|machine| {
        let kube = &kube;
        async move {
            let node: &dyn Node = machine.as_ref();
            let state = node.state();
            let mut components = BTreeMap::new();
            if state == NodeState::Running {
                services(node, &mut components).await;
                if node.role() == Role::ControlPlane {
                    control_plane(cluster, node.name(), &mut components).await;
                }
                if node.role() != Role::LoadBalancer {
                    components.insert("node".to_owned(), kubernetes_word(kube.as_ref(), node.name()));
                }
            }
            let group = machine.group();
            NodeStatus {
                name: node.name().to_owned(),
                role: node.role(),
                address: node.address().to_string(),
                state,
                components,
                memory_bytes: group.memory_bytes(),
                cpu_seconds: group.cpu_time().as_secs_f64(),
            }
        }
    }))
    .await;
    let state = overall(cluster.state().phase, &nodes);
    Status {
        schema: 1,
        name: cluster.name().to_owned(),
        id: cluster.state().id.clone(),
        state,
        endpoint: cluster.endpoint(),
        kubernetes: cluster.state().kubernetes.clone(),
        rebooted: rebooted(cluster),
        nodes,
    }
}

fn overall(phase: Phase, nodes: &[NodeStatus]) -> Overall {
    let running = nodes.iter().filter(|n| n.state != NodeState::Stopped).count();
    let well = nodes.iter().all(|n| n.state == NodeState::Running && n.components.values().all(|c| c == OK));
    match (phase, running, well) {
        (_, 0, _) => Overall::Stopped,
        (Phase::Making | Phase::Removing, _, _) => Overall::Partial,
        (Phase::Formed, _, true) => Overall::Up,
        (Phase::Formed, _, false) => Overall::Degraded,
    }
}

fn rebooted(cluster: &Cluster) -> bool {
    let Ok(now) = boot_id() else { return false };
    cluster.state().members.iter().any(|m| {
        let directory = crate::nodes::directory(cluster.store(), cluster.name(), &m.name);
        let record = crate::state::read::<shakedown_node::boot::BootRecord>(
            &directory.join(shakedown_node::boot::BootRecord::FILE),
        );
        record.ok().flatten().is_some_and(|r| r.boot_id != now)
    })
}

async fn services(node: &dyn Node, components: &mut BTreeMap<String, String>) {
    let names: &[&str] = if node.role() == Role::LoadBalancer { &["haproxy"] } else { &["containerd", "kubelet"] };
    for name in names {
        let word = match node.read_file(&format!("{STATE}/{name}.pid")).await {
            Ok(_) => OK.to_owned(),
            Err(_) => "not running".to_owned(),
        };
        components.insert((*name).to_owned(), word);
    }
}

async fn control_plane(cluster: &Cluster, name: &str, components: &mut BTreeMap<String, String>) {
    let word = |done: Result<(), String>| done.err().unwrap_or_else(|| OK.to_owned());
    let api = async {
        let client = cluster.api_of(name).await.map_err(|e| e.to_string())?;
        tokio::time::timeout(LOOK, ready::api_ready(&client)).await.unwrap_or_else(|_| Err("no answer".to_owned()))
    };
    let etcd = async {
        let asked = tokio::time::timeout(LOOK, cluster.etcdctl(name, &["endpoint", "health"])).await;
        asked.map_err(|_| "no answer".to_owned())?.map(drop).map_err(|e| e.to_string())
    };
    let (api, etcd) = tokio::join!(api, etcd);
    components.insert("apiserver".to_owned(), word(api));
    components.insert("etcd".to_owned(), word(etcd));
}

/// What the API says about nodes: name to the Ready condition's word. None when it does not answer.
async fn conditions(cluster: &Cluster) -> Option<BTreeMap<String, String>> {
    let api: Api<KubeNode> = Api::all(cluster.api().await.ok()?);
    let list = tokio::time::timeout(LOOK, api.list(&ListParams::default())).await.ok()?.ok()?;
    let word = |node: &KubeNode| {
        let conditions = node.status.as_ref().and_then(|s| s.conditions.as_ref());
        match conditions.into_iter().flatten().find(|c| c.type_ == "Ready") {
            Some(ready) if ready.status == "True" => OK.to_owned(),
            Some(ready) => ready.message.clone().unwrap_or_else(|| format!("Ready is {}", ready.status)),
            None => "has not reported".to_owned(),
        }
    };
    Some(list.items.iter().map(|n| (n.metadata.name.clone().unwrap_or_default(), word(n))).collect())
}

fn kubernetes_word(kube: Option<&BTreeMap<String, String>>, name: &str) -> String {
    match kube {
        None => "unknown: the API does not answer".to_owned(),
        Some(nodes) => nodes.get(name).cloned().unwrap_or_else(|| "not registered".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(state: NodeState, word: &str) -> NodeStatus {
        NodeStatus {
            name: "cp-1".into(),
            role: Role::ControlPlane,
            address: "10.77.0.11".into(),
            state,
            components: BTreeMap::from([("etcd".to_owned(), word.to_owned())]),
            memory_bytes: 0,
            cpu_seconds: 0.0,
        }
    }

    #[test]
    fn the_whole_follows_from_the_parts() {
        let well = node(NodeState::Running, OK);
        assert_eq!(overall(Phase::Formed, &[well.clone(), well.clone()]), Overall::Up);
        assert_eq!(overall(Phase::Formed, &[well.clone(), node(NodeState::Running, "no leader")]), Overall::Degraded);
        assert_eq!(overall(Phase::Formed, &[well.clone(), node(NodeState::Frozen, OK)]), Overall::Degraded);
        assert_eq!(overall(Phase::Formed, &[node(NodeState::Stopped, OK)]), Overall::Stopped);
        assert_eq!(overall(Phase::Making, &[well]), Overall::Partial);
    }
}
