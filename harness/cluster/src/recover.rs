//! Bringing back what is dead or hangs in a cluster that is meant to run. Safe at any time, and twice.

use std::sync::Arc;

use futures::future::try_join_all;
use serde::{Deserialize, Serialize};
use shakedown_node::{NamespaceNode, Node, NodeState, Power};

use crate::cluster::Cluster;
use crate::error::Result;
use crate::names;

/// What was done.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recovered {
    /// Nodes that were frozen and go on.
    pub thawed: Vec<String>,
    /// Nodes that were down and were booted again.
    pub booted: Vec<String>,
}

/// Thaws frozen nodes and boots dead ones again from their own disks. Does not wait for Kubernetes on them.
///
/// # Errors
/// When a node does not boot; after a reboot of the host its network is gone, and `up` is what rebuilds it.
pub async fn nodes(cluster: &Cluster) -> Result<Recovered> {
    let fabric = names::fabric(cluster.name(), cluster.state().subnet);
    let mut recovered = Recovered::default();
    let machines: &[Arc<NamespaceNode>] = cluster.all_machines();
    for machine in machines.iter().filter(|m| m.state() == NodeState::Frozen) {
        machine.power(Power::Thaw).await?;
        recovered.thawed.push(machine.name().to_owned());
    }
    let dead: Vec<_> =
        machines.iter().filter(|m| m.state() == NodeState::Stopped && !m.spec().lower.is_empty()).collect();
    if !dead.is_empty() && !fabric.exists() {
        return Err(crate::ClusterError::Usage(format!(
            "cluster `{0}` is stopped: its network is gone\nhint: `shakedown up --name {0}` rebuilds it",
            cluster.name()
        )));
    }
    try_join_all(dead.iter().map(|m| m.power(Power::On))).await?;
    recovered.booted.extend(dead.iter().map(|m| m.name().to_owned()));
    Ok(recovered)
}
