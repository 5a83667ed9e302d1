//! Cilium, installed by helm from the bundle's chart: a release that a documented `helm upgrade --reuse-values` finds.

use std::path::PathBuf;
use std::time::Duration;

use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::{Node as KubeNode, Secret};
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams};
use serde_json::{Value, json};
use shakedown_core::{Answer, Capability};

use crate::component::{Component, State, not_rolled_out};
use crate::error::{Result, StackError};
use crate::names;
use crate::program;
use crate::site::Site;
use crate::values;

/// Namespace and name of the release.
const NAMESPACE: &str = "kube-system";
const RELEASE: &str = "cilium";
/// Five agents compile the datapath on two cores; slower machines get their time.
const BUDGET: Duration = Duration::from_secs(900);
/// helm itself only sends objects.
const HELM_BUDGET: Duration = Duration::from_secs(300);
const HINT: &str = "`helm -n kube-system status cilium` shows the release; converge may be repeated";

/// The component.
pub struct Cilium;

impl Component for Cilium {
    fn name(&self) -> &'static str {
        "cilium"
    }

    fn what(&self) -> &'static str {
        "Cilium as CNI and kube-proxy replacement, with WireGuard and Maglev (helm release cilium in kube-system)"
    }

    fn needs(&self) -> &'static [&'static str] {
        &["marker"]
    }

    fn version(&self, _site: &Site) -> String {
        names::CILIUM_VERSION.to_owned()
    }

    fn gives(&self) -> &'static [Capability] {
        &[Capability::Cilium, Capability::CiliumKpr, Capability::CiliumMaglev, Capability::CiliumWireguard]
    }

    fn readiness(&self) -> &'static str {
        "agents and operator are rolled out, every node is Ready"
    }

    fn state<'a>(&'a self, site: &'a Site) -> BoxFuture<'a, Result<State>> {
        Box::pin(async move {
            let Some(release) = release(site).await? else { return Ok(State::Wanting("no helm release".into())) };
            let mut found = Vec::new();
            if release["status"] != "deployed" {
                found.push(format!("the helm release is {}", release["status"]));
            }
            if release["chart"] != format!("cilium-{}", names::CILIUM_VERSION) {
                found.push(format!("the chart is {}", release["chart"]));
            }
            if user_values(site).await? != values::cilium(&site.facts) {
                found.push("the release has other values".into());
            }
            if restart_pending(site).exists() {
                found.push("agents have not been restarted since the last change of values".into());
            }
            found.extend(not_rolled_out(site, &workloads()).await?);
            found.extend(nodes_not_ready(site).await?);
            Ok(State::of(&found))
        })
    }

    fn install<'a>(&'a self, site: &'a Site) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            forget_cut_off_releases(site).await?;
            let wanted = values::cilium(&site.facts);
            let chart = format!("cilium-{}", names::CILIUM_VERSION);
            let there = release(site).await?;
            let as_wanted = there.as_ref().is_some_and(|r| r["status"] == "deployed" && r["chart"] == chart);
            if !as_wanted || user_values(site).await? != wanted {
                let file = site.state_dir.join("cilium-values.json");
                let text = serde_json::to_vec_pretty(&wanted).unwrap_or_default();
                write(&file, &text)?;
                if there.is_some() {
                    // Before the change: a converge that is killed in between restarts the agents next time.
                    write(&restart_pending(site), b"")?;
                }
                let chart = site.tools.cilium_chart.display().to_string();
                let file = file.display().to_string();
                helm(site, &["upgrade", "--install", RELEASE, &chart, "--namespace", NAMESPACE, "--values", &file])
                    .await?;
            }
            restart_agents(site).await
        })
    }

    fn ready<'a>(&'a self, site: &'a Site) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            site.rolled_out(self.name(), &workloads(), BUDGET).await?;
            site.wait(self.name(), "every node to be Ready", BUDGET, || async {
                match nodes_not_ready(site).await {
                    Ok(found) if found.is_empty() => Answer::Ready(()),
                    Ok(found) => Answer::NotYet(found.join(", ")),
                    Err(error) => Answer::NotYet(error.to_string()),
                }
            })
            .await
        })
    }

    fn remove<'a>(&'a self, site: &'a Site) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            if release(site).await?.is_some() {
                helm(site, &["uninstall", RELEASE, "--namespace", NAMESPACE, "--wait"]).await?;
            }
            Ok(())
        })
    }
}

/// What the chart rolls out, by name.
fn workloads() -> Vec<Value> {
    let object = |kind: &str, name: &str| json!({"apiVersion": "apps/v1", "kind": kind, "metadata": {"name": name, "namespace": NAMESPACE}});
    vec![object("DaemonSet", "cilium"), object("Deployment", "cilium-operator")]
}

fn restart_pending(site: &Site) -> PathBuf {
    site.state_dir.join("cilium-restart-pending")
}

fn write(path: &std::path::Path, bytes: &[u8]) -> Result<()> {
    std::fs::write(path, bytes).map_err(|e| StackError::file(format!("write {}", path.display()), e))
}

/// A change of values alone does not roll the DaemonSet (WG-017 to WG-020): agents that run on are restarted here.
async fn restart_agents(site: &Site) -> Result<()> {
    let pending = restart_pending(site);
    if !pending.exists() {
        return Ok(());
    }
    let api = site.applier.api("apps/v1", "DaemonSet", Some(NAMESPACE)).await?;
    let now = k8s_openapi::jiff::Timestamp::now().to_string();
    let patch =
        json!({"spec": {"template": {"metadata": {"annotations": {"kubectl.kubernetes.io/restartedAt": now}}}}});
    api.patch(RELEASE, &PatchParams::default(), &Patch::Merge(patch))
        .await
        .map_err(|e| StackError::api("restart the Cilium agents", e))?;
    std::fs::remove_file(&pending).map_err(|e| StackError::file(format!("remove {}", pending.display()), e))
}

/// A helm that was killed leaves a release record that says pending, and refuses to go on. The record goes, the objects
/// stay and are taken over.
async fn forget_cut_off_releases(site: &Site) -> Result<()> {
    let api: Api<Secret> = Api::namespaced(site.applier.client().clone(), NAMESPACE);
    let params = ListParams::default().labels(&format!("owner=helm,name={RELEASE}"));
    let records = api.list(&params).await.map_err(|e| StackError::api("list helm's records", e))?;
    for record in records {
        let meta = record.metadata;
        let pending = meta.labels.as_ref().and_then(|l| l.get("status")).is_some_and(|s| s.starts_with("pending-"));
        if let (true, Some(name)) = (pending, meta.name) {
            api.delete(&name, &DeleteParams::default())
                .await
                .map_err(|e| StackError::api(format!("delete helm's record {name}"), e))?;
        }
    }
    Ok(())
}

/// The release as `helm list` describes it.
async fn release(site: &Site) -> Result<Option<Value>> {
    let filter = format!("^{RELEASE}$");
    let out = helm(site, &["list", "--namespace", NAMESPACE, "--all", "--filter", &filter, "--output", "json"]).await?;
    let list: Vec<Value> = parsed("helm list", &out)?;
    Ok(list.into_iter().next())
}

/// The values given by us or by whoever upgraded it since.
async fn user_values(site: &Site) -> Result<Value> {
    let out = helm(site, &["get", "values", RELEASE, "--namespace", NAMESPACE, "--output", "json"]).await?;
    parsed("helm get values", &out)
}

fn parsed<T: serde::de::DeserializeOwned>(what: &str, out: &[u8]) -> Result<T> {
    serde_json::from_slice(out).map_err(|e| StackError::Program {
        program: "helm".into(),
        why: format!("`{what}` answered no JSON: {e}"),
        hint: HINT.into(),
    })
}

async fn helm(site: &Site, args: &[&str]) -> Result<Vec<u8>> {
    // helm keeps caches and settings in its home; it gets one of its own.
    let home = site.state_dir.join("helm");
    std::fs::create_dir_all(&home).map_err(|e| StackError::file(format!("make {}", home.display()), e))?;
    let env = [("HOME", home.as_path()), ("KUBECONFIG", site.kubeconfig.as_path())];
    program::run(&site.tools.helm, args, &env, HELM_BUDGET, HINT).await
}

async fn nodes_not_ready(site: &Site) -> Result<Vec<String>> {
    let api: Api<KubeNode> = Api::all(site.applier.client().clone());
    let nodes = api.list(&ListParams::default()).await.map_err(|e| StackError::api("list nodes", e))?;
    let ready = |node: &KubeNode| {
        let conditions = node.status.as_ref().and_then(|s| s.conditions.as_deref()).unwrap_or_default();
        conditions.iter().any(|c| c.type_ == "Ready" && c.status == "True")
    };
    Ok(nodes
        .iter()
        .filter(|n| !ready(n))
        .map(|n| format!("node {} is not Ready", n.metadata.name.as_deref().unwrap_or_default()))
        .collect())
}
