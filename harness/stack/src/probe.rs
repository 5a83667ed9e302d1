//! What a cluster offers and which versions it runs, seen from outside: nothing is believed because it was installed.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::apps::v1::{DaemonSet, Deployment, StatefulSet};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Node as KubeNode, PodSpec, Service};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Api, ListParams};
use shakedown_cluster::Cluster;
use shakedown_cluster::cluster::ETCDCTL;
use shakedown_core::{Availability, Capability};
use shakedown_node::Exec;

use crate::error::{Result, StackError};
use crate::names;

/// One command on a node.
const COMMAND: Duration = Duration::from_secs(10);

/// What the API says about the platform, once: capabilities are judged from it alone.
#[derive(Debug, Clone, Default)]
pub struct Seen {
    /// Names of the Kubernetes nodes.
    pub nodes: usize,
    /// Those of them that are control planes.
    pub control_planes: usize,
    /// Container runtimes, as the nodes report them.
    pub runtimes: Vec<String>,
    /// kubelet versions, as the nodes report them.
    pub kubelets: Vec<String>,
    /// `namespace/name` of workloads to their images.
    pub workloads: BTreeMap<String, Vec<String>>,
    /// Data of cilium-config.
    pub cilium: BTreeMap<String, String>,
    /// Names of the definitions.
    pub definitions: Vec<String>,
    /// `namespace/name` of Services.
    pub services: Vec<String>,
    /// Names of namespaces.
    pub namespaces: Vec<String>,
}

/// Reads what [`judge`] judges.
///
/// # Errors
/// The API does not answer.
pub async fn see(client: &kube::Client) -> Result<Seen> {
    let all = ListParams::default();
    let nodes: Api<KubeNode> = Api::all(client.clone());
    let daemonsets: Api<DaemonSet> = Api::all(client.clone());
    let deployments: Api<Deployment> = Api::all(client.clone());
    let statefulsets: Api<StatefulSet> = Api::all(client.clone());
    let configs: Api<ConfigMap> = Api::namespaced(client.clone(), "kube-system");
    let definitions: Api<CustomResourceDefinition> = Api::all(client.clone());
    let services: Api<Service> = Api::all(client.clone());
    let namespaces: Api<Namespace> = Api::all(client.clone());
    let (nodes, daemonsets, deployments, statefulsets, cilium, definitions, services, namespaces) = tokio::try_join!(
        nodes.list(&all),
        daemonsets.list(&all),
        deployments.list(&all),
        statefulsets.list(&all),
        configs.get_opt("cilium-config"),
        definitions.list_metadata(&all),
        services.list(&all),
        namespaces.list_metadata(&all),
    )
    .map_err(|e| StackError::api("look at the platform", e))?;
    let mut seen = Seen { nodes: nodes.items.len(), ..Seen::default() };
    for node in nodes {
        let labels = node.metadata.labels.unwrap_or_default();
        seen.control_planes += usize::from(labels.contains_key("node-role.kubernetes.io/control-plane"));
        if let Some(info) = node.status.and_then(|s| s.node_info) {
            seen.runtimes.push(info.container_runtime_version);
            seen.kubelets.push(info.kubelet_version);
        }
    }
    let full = |meta: &k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta| {
        format!("{}/{}", meta.namespace.as_deref().unwrap_or_default(), meta.name.as_deref().unwrap_or_default())
    };
    let images = |spec: Option<PodSpec>| -> Vec<String> {
        spec.map(|s| s.containers.into_iter().filter_map(|c| c.image).collect()).unwrap_or_default()
    };
    for d in daemonsets {
        seen.workloads.insert(full(&d.metadata), images(d.spec.and_then(|s| s.template.spec)));
    }
    for d in deployments {
        seen.workloads.insert(full(&d.metadata), images(d.spec.and_then(|s| s.template.spec)));
    }
    for s in statefulsets {
        seen.workloads.insert(full(&s.metadata), images(s.spec.and_then(|s| s.template.spec)));
    }
    seen.cilium = cilium.and_then(|c| c.data).unwrap_or_default();
    seen.definitions = definitions.items.into_iter().filter_map(|d| d.metadata.name).collect();
    seen.services = services.items.iter().map(|s| full(&s.metadata)).collect();
    seen.namespaces = namespaces.items.into_iter().filter_map(|n| n.metadata.name).collect();
    Ok(seen)
}

/// Component to version, as the cluster reports it.
///
/// # Errors
/// The API does not answer.
pub async fn versions(cluster: &Cluster) -> Result<BTreeMap<String, String>> {
    let client = cluster.api().await?;
    let server = client.apiserver_version().await.map_err(|e| StackError::api("ask the API for its version", e))?;
    let mut found = BTreeMap::from([("kubernetes".to_owned(), server.git_version)]);
    let seen = see(&client).await?;
    found.extend(versions_in(&seen));
    Ok(found)
}

/// Versions that workloads' images and nodes name.
fn versions_in(seen: &Seen) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let components = [
        ("cilium", "kube-system/cilium"),
        ("coredns", "kube-system/coredns"),
        ("registry", "harbor/registry"),
        ("argocd", "argocd/argocd-application-controller"),
        ("kyverno", "kyverno/kyverno-admission-controller"),
    ];
    for (name, workload) in components {
        let image = seen.workloads.get(workload).and_then(|images| images.first());
        if let Some((_, tag)) = image.and_then(|i| i.split('@').next()).and_then(|i| i.rsplit_once(':')) {
            found.insert(name.to_owned(), tag.to_owned());
        }
    }
    if let Some(runtime) = seen.runtimes.first() {
        let (name, version) = runtime.split_once("://").unwrap_or(("container-runtime", runtime));
        found.insert(name.to_owned(), version.to_owned());
    }
    found
}

/// Every capability, probed from the real cluster.
///
/// Never fails: what could not be found out is [`Availability::Unknown`].
pub async fn capabilities(cluster: &Cluster) -> BTreeMap<Capability, Availability> {
    let seen = match cluster.api().await {
        Ok(client) => see(&client).await.map_err(|e| e.to_string()),
        Err(error) => Err(error.to_string()),
    };
    let mut found = match seen {
        Ok(seen) => judge(&seen),
        Err(why) => Capability::ALL.iter().map(|c| (*c, Availability::Unknown(why.clone()))).collect(),
    };
    let nodes = cluster.nodes();
    let reached = match nodes.first() {
        None => Availability::Absent("the cluster's machines cannot be reached".into()),
        Some(node) => match node.exec(Exec::new(["true"]).timeout(COMMAND)).await {
            Ok(output) if output.ok() => Availability::Present,
            Ok(output) => Availability::Unknown(format!("`true` ended with {}", output.code)),
            Err(error) => Availability::Unknown(error.to_string()),
        },
    };
    found.insert(Capability::NodesExec, reached);
    for (capability, argv) in [
        (Capability::EtcdAccess, ETCDCTL.iter().copied().chain(["endpoint", "health"]).collect::<Vec<_>>()),
        (Capability::ApiserverManifests, vec!["test", "-w", names::APISERVER_MANIFEST]),
    ] {
        let answer = match cluster.control_planes().first() {
            None => Availability::Absent("no control plane can be reached".into()),
            Some(node) => match node.exec(Exec::new(argv).timeout(COMMAND)).await {
                Ok(output) if output.ok() => Availability::Present,
                Ok(output) => Availability::Absent(output.error_text()),
                Err(error) => Availability::Unknown(error.to_string()),
            },
        };
        found.insert(capability, answer);
    }
    found
}

/// Judges what was seen. Everything that nothing here can show is absent, with who could show it.
fn judge(seen: &Seen) -> BTreeMap<Capability, Availability> {
    Capability::ALL.iter().map(|c| (*c, judge_one(*c, seen))).collect()
}

fn judge_one(capability: Capability, seen: &Seen) -> Availability {
    use Capability as C;
    let when = |there: bool, otherwise: &str| {
        if there { Availability::Present } else { Availability::Absent(otherwise.to_owned()) }
    };
    let workload = |name: &str| seen.workloads.contains_key(name);
    let cilium = workload("kube-system/cilium");
    let cilium_says = |key: &str, value: &str| cilium && seen.cilium.get(key).is_some_and(|v| v == value);
    let service = |name: &str| seen.services.iter().any(|s| s == name);
    let defined = |name: &str| seen.definitions.iter().any(|d| d == name);
    let runtime = |name: &str| !seen.runtimes.is_empty() && seen.runtimes.iter().all(|r| r.starts_with(name));
    let converge = "`shakedown converge` installs it";
    let elsewhere = |what: &str| Availability::Absent(format!("no {what} here; a cluster that runs it can prove it"));
    match capability {
        C::Nodes5 => when(seen.nodes >= 5, "fewer than five nodes; `shakedown up` makes five by default"),
        C::Nodes3cp => when(seen.control_planes >= 3, "fewer than three control planes; `shakedown up` makes three"),
        C::NodesExec | C::EtcdAccess | C::ApiserverManifests => {
            Availability::Unknown("the nodes were not asked".into())
        }
        C::Containerd => when(runtime("containerd://"), "the nodes run another container runtime"),
        C::Crio => when(runtime("cri-o://"), "the nodes do not run CRI-O; a cluster that does can prove it"),
        C::Systemd => Availability::Absent(
            "the nodes' services are not run by systemd; kind's nodes or real machines can prove it".into(),
        ),
        C::Cilium => when(cilium, converge),
        C::CiliumKpr => when(
            cilium_says("kube-proxy-replacement", "true") && !workload("kube-system/kube-proxy"),
            "kube-proxy runs, or Cilium does not replace it",
        ),
        C::CiliumL7 => when(cilium_says("enable-l7-proxy", "true"), "Cilium runs without its layer 7 proxy (Envoy)"),
        C::CiliumMaglev => when(cilium_says("bpf-lb-algorithm", "maglev"), converge),
        C::CiliumWireguard => when(cilium_says("enable-wireguard", "true"), converge),
        C::CiliumHubble => when(cilium_says("enable-hubble", "true"), "Hubble is off"),
        C::RegistryHttp => when(service("harbor/harbor"), converge),
        C::GitHttp => when(service("git/git-server") || service("gitea/gitea-http"), converge),
        C::Argocd => {
            when(defined("applications.argoproj.io") && workload("argocd/argocd-application-controller"), converge)
        }
        C::Kyverno => when(defined("clusterpolicies.kyverno.io"), "Kyverno is not installed"),
        C::Longhorn => when(defined("volumes.longhorn.io"), "Longhorn is not installed; it needs iSCSI in the kernel"),
        C::Velero => when(defined("backups.velero.io"), "Velero is not installed"),
        C::Gitea => when(seen.namespaces.iter().any(|n| n == "gitea"), "Gitea is not installed"),
        C::Harbor => when(workload("harbor/harbor-core"), "Harbor is not installed; Distribution stands in for it"),
        C::Jenkins => when(seen.namespaces.iter().any(|n| n == "jenkins"), "Jenkins is not installed"),
        C::Kind => elsewhere("kind cluster"),
        C::CsiExpand => elsewhere("CSI driver that can expand volumes"),
        C::ObjectStore => elsewhere("S3 object store"),
        C::Builder => elsewhere("image builder"),
        C::Trivy => elsewhere("Trivy"),
        C::Metrics => elsewhere("metrics server"),
        C::K3s => when(seen.kubelets.iter().any(|k| k.contains("+k3s")), "this is no k3s; a k3s cluster can prove it"),
        C::Internet => elsewhere("way out to the internet"),
        C::ManagedControlPlane => when(
            seen.nodes > 0 && seen.control_planes == 0,
            "the cluster runs its own control plane; a provider's can prove it",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn converged() -> Seen {
        let owned = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>();
        let config = [("kube-proxy-replacement", "true"), ("bpf-lb-algorithm", "maglev"), ("enable-wireguard", "true")];
        Seen {
            nodes: 5,
            control_planes: 3,
            runtimes: owned(&["containerd://1.6.20"; 5]),
            kubelets: owned(&["v1.34.4"; 5]),
            workloads: BTreeMap::from([
                ("kube-system/cilium".to_owned(), owned(&["quay.io/cilium/cilium:v1.16.5"])),
                ("argocd/argocd-application-controller".to_owned(), owned(&["quay.io/argoproj/argocd:v3.2.5"])),
            ]),
            cilium: config.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
            definitions: owned(&["applications.argoproj.io"]),
            services: owned(&["harbor/harbor", "git/git-server"]),
            namespaces: owned(&["default"]),
        }
    }

    #[test]
    fn the_converged_platform_offers_what_it_is_made_of() {
        insta::assert_yaml_snapshot!(judge(&converged()));
    }

    #[test]
    fn a_kube_proxy_beside_cilium_is_no_replacement() {
        let mut seen = converged();
        seen.workloads.insert("kube-system/kube-proxy".into(), Vec::new());
        assert!(matches!(judge_one(Capability::CiliumKpr, &seen), Availability::Absent(_)));
    }

    #[test]
    fn settings_left_over_without_agents_offer_nothing() {
        let mut seen = converged();
        seen.workloads.remove("kube-system/cilium");
        for capability in [Capability::Cilium, Capability::CiliumMaglev, Capability::CiliumWireguard] {
            assert!(matches!(judge_one(capability, &seen), Availability::Absent(_)));
        }
    }

    #[test]
    fn versions_are_those_of_the_images() {
        insta::assert_yaml_snapshot!(versions_in(&converged()));
    }
}
