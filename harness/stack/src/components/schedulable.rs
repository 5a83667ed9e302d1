//! On a cluster without workers the control planes carry the workloads: their taint goes, as kubeadm's own guide says
//! for single-node clusters. With workers nothing is changed.

use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::{Node, Taint};
use kube::api::{Api, ListParams, Patch, PatchParams};
use serde_json::json;

use crate::component::{Component, State};
use crate::error::{Result, StackError};
use crate::site::Site;

/// The taint of control planes.
const TAINT: &str = "node-role.kubernetes.io/control-plane";

/// The component.
pub struct Schedulable;

impl Component for Schedulable {
    fn name(&self) -> &'static str {
        "schedulable"
    }

    fn what(&self) -> &'static str {
        "somewhere for workloads to run: without workers the control planes lose their taint"
    }

    fn needs(&self) -> &'static [&'static str] {
        &["marker"]
    }

    fn readiness(&self) -> &'static str {
        "there are workers, or no control plane is tainted"
    }

    fn state<'a>(&'a self, site: &'a Site) -> BoxFuture<'a, Result<State>> {
        Box::pin(async move {
            let tainted = tainted(site).await?;
            let found: Vec<String> = tainted.iter().map(|(name, _)| format!("{name} is tainted")).collect();
            Ok(State::of(&found))
        })
    }

    fn install<'a>(&'a self, site: &'a Site) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            let api: Api<Node> = Api::all(site.applier.client().clone());
            for (name, taints) in tainted(site).await? {
                let rest: Vec<Taint> = taints.into_iter().filter(|t| t.key != TAINT).collect();
                let patch = Patch::Merge(json!({"spec": {"taints": rest}}));
                api.patch(&name, &PatchParams::default(), &patch)
                    .await
                    .map_err(|e| StackError::api(format!("take the taint off {name}"), e))?;
            }
            Ok(())
        })
    }

    fn ready<'a>(&'a self, _site: &'a Site) -> BoxFuture<'a, Result<()>> {
        Box::pin(async { Ok(()) })
    }

    fn remove<'a>(&'a self, _site: &'a Site) -> BoxFuture<'a, Result<()>> {
        // Pods that run there would have to go: the taint comes back with the next cluster.
        Box::pin(async { Ok(()) })
    }
}

/// Nodes whose taint is in the way, with all their taints: none where there are workers.
async fn tainted(site: &Site) -> Result<Vec<(String, Vec<Taint>)>> {
    if !site.facts.no_workers() {
        return Ok(Vec::new());
    }
    let api: Api<Node> = Api::all(site.applier.client().clone());
    let nodes = api.list(&ListParams::default()).await.map_err(|e| StackError::api("list nodes", e))?;
    let taints = |node: Node| Some((node.metadata.name?, node.spec?.taints?));
    Ok(nodes.into_iter().filter_map(taints).filter(|(_, taints)| taints.iter().any(|t| t.key == TAINT)).collect())
}
