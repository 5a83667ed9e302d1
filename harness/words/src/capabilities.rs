//! What the cluster offers and in which versions, as seen on the cluster itself.

use std::collections::BTreeMap;

use serde_json::Value;
use shakedown_core::{Availability, Capability};

use crate::api::{ApiError, Ask};
use crate::objects::ObjectRef;
use crate::platform::Platform;

/// What is looked at once and answers several capabilities.
struct Seen {
    nodes: Result<Vec<Value>, ApiError>,
    cilium: Result<Option<Value>, ApiError>,
    groups: Result<Vec<String>, ApiError>,
    services: Result<Vec<Value>, ApiError>,
}

/// Probes every capability.
pub async fn probe(platform: &Platform) -> BTreeMap<Capability, Availability> {
    let config = ObjectRef::namespaced("v1", "ConfigMap", "kube-system", "cilium-config");
    let (nodes, cilium, groups, services) = futures::join!(
        platform.list("v1", "Node", None, None),
        platform.get(&config),
        api_groups(platform),
        platform.list("v1", "Service", None, None),
    );
    let seen = Seen { nodes, cilium, groups, services };
    let mut found: BTreeMap<_, _> =
        Capability::ALL.iter().map(|&capability| (capability, look(platform, &seen, capability))).collect();
    on_machines(platform, &mut found).await;
    found
}

async fn api_groups(platform: &Platform) -> Result<Vec<String>, ApiError> {
    let answer = Ask::get("/apis").send(platform.admin()).await?;
    let groups = answer.body["groups"].as_array().cloned().unwrap_or_default();
    Ok(groups.iter().filter_map(|group| group["name"].as_str().map(str::to_owned)).collect())
}

/// Capabilities that need a look at the nodes.
async fn on_machines(platform: &Platform, found: &mut BTreeMap<Capability, Availability>) {
    use Capability::{ApiserverManifests, Containerd, Crio, EtcdAccess, NodesExec, Systemd};
    let Some(machine) = platform.machines().values().next() else {
        for capability in [NodesExec, ApiserverManifests, EtcdAccess, Containerd, Crio, Systemd] {
            found.insert(
                capability,
                absent("the nodes cannot be reached; a cluster that the harness made can prove it"),
            );
        }
        return;
    };
    let node = machine.name().to_owned();
    found.insert(NodesExec, from_result(platform.exec_ok(&node, &["true"]).await.map(|_| true), "commands do not run"));
    for (capability, path, without) in [
        (Containerd, "/run/containerd/containerd.sock", "the nodes run no containerd"),
        (Crio, "/run/crio/crio.sock", "the nodes run no CRI-O"),
        (Systemd, "/run/systemd/system", "the nodes run no systemd"),
    ] {
        found.insert(capability, exists(platform, &node, path, without).await);
    }
    let Some(cp) = platform.control_planes().first().map(|machine| machine.name().to_owned()) else {
        for capability in [ApiserverManifests, EtcdAccess] {
            found.insert(capability, absent("no control plane's machine can be reached"));
        }
        return;
    };
    let manifests = "/etc/kubernetes/manifests";
    for (capability, path, without) in [
        (ApiserverManifests, "kube-apiserver.yaml", "the apiserver is no static Pod"),
        (EtcdAccess, "etcd.yaml", "etcd is no static Pod of the control planes"),
    ] {
        found.insert(capability, exists(platform, &cp, &format!("{manifests}/{path}"), without).await);
    }
}

async fn exists(platform: &Platform, node: &str, path: &str, without: &str) -> Availability {
    let seen = platform.exec(node, &["test", "-e", path]).await.map(|output| output.code == 0);
    from_result(seen, without)
}

fn from_result<E: std::fmt::Display>(seen: Result<bool, E>, without: &str) -> Availability {
    match seen {
        Ok(true) => Availability::Present,
        Ok(false) => absent(without),
        Err(e) => Availability::Unknown(e.to_string()),
    }
}

fn absent(why: &str) -> Availability {
    Availability::Absent(why.to_owned())
}

/// Capabilities that the API answers.
fn look(platform: &Platform, seen: &Seen, capability: Capability) -> Availability {
    use Capability as C;
    match capability {
        C::Nodes5 => count(&seen.nodes, 5, |_| true, "five nodes"),
        C::Nodes3cp => count(&seen.nodes, 3, is_control_plane, "three control planes"),
        C::Cilium => cilium(seen, |_| true, "Cilium is not installed"),
        C::CiliumKpr => cilium(seen, |c| setting(c, "kube-proxy-replacement", "true"), "kube-proxy is not replaced"),
        C::CiliumL7 => cilium(seen, |c| setting(c, "enable-l7-proxy", "true"), "Cilium's layer 7 proxy is off"),
        C::CiliumMaglev => cilium(seen, |c| setting(c, "bpf-lb-algorithm", "maglev"), "Maglev is not switched on"),
        C::CiliumWireguard => cilium(seen, |c| setting(c, "enable-wireguard", "true"), "WireGuard is not switched on"),
        C::CiliumHubble => cilium(seen, |c| setting(c, "enable-hubble", "true"), "Hubble is off"),
        C::Argocd => group(seen, "argoproj.io", "Argo CD is not installed"),
        C::Kyverno => group(seen, "kyverno.io", "Kyverno is not installed"),
        C::Longhorn => group(seen, "longhorn.io", "Longhorn is not installed"),
        C::Velero => group(seen, "velero.io", "Velero is not installed"),
        C::Metrics => group(seen, "metrics.k8s.io", "metrics-server is not installed"),
        C::RegistryHttp => service(seen, |s| node_port(s) == Some(30002), "no Service on NodePort 30002"),
        C::GitHttp => service(seen, |s| named(s, &["git-server", "gitea"]), "no git server in the cluster"),
        C::Gitea => service(seen, |s| named(s, &["gitea"]), "Gitea is not installed"),
        C::ObjectStore => service(seen, |s| named(s, &["minio"]), "no object store in the cluster"),
        C::Builder => service(seen, |s| named(s, &["buildkitd"]), "no builder in the cluster"),
        C::Harbor => service(seen, |s| named(s, &["harbor", "harbor-core"]), "Harbor is not installed"),
        C::Jenkins => service(seen, |s| named(s, &["jenkins"]), "Jenkins is not installed"),
        C::CsiExpand => absent("no CSI driver here can expand volumes"),
        C::Trivy => absent("Trivy is not installed"),
        C::Kind => absent("not a cluster of kind's"),
        C::K3s => absent("not a cluster of k3s's"),
        C::Internet => absent("the nodes' network has no way out"),
        C::ManagedControlPlane => match &seen.nodes {
            Err(e) => Availability::Unknown(e.to_string()),
            Ok(nodes) if !nodes.is_empty() && !nodes.iter().any(is_control_plane) => Availability::Present,
            Ok(_) => absent("the cluster runs its own control plane; a provider's managed cluster can prove it"),
        },
        // Asked on the machines afterwards.
        C::NodesExec | C::ApiserverManifests | C::EtcdAccess | C::Containerd | C::Crio | C::Systemd => {
            Availability::Unknown(format!("the machines of {} were not asked", platform.name()))
        }
    }
}

fn count(nodes: &Result<Vec<Value>, ApiError>, least: usize, of: fn(&Value) -> bool, what: &str) -> Availability {
    match nodes {
        Err(e) => Availability::Unknown(e.to_string()),
        Ok(nodes) => match nodes.iter().filter(|node| of(node)).count() {
            enough if enough >= least => Availability::Present,
            fewer => Availability::Absent(format!("{what} are needed, there are {fewer}")),
        },
    }
}

fn is_control_plane(node: &Value) -> bool {
    node["metadata"]["labels"].get("node-role.kubernetes.io/control-plane").is_some()
}

fn setting(config: &Value, key: &str, value: &str) -> bool {
    config["data"][key] == value
}

fn cilium(seen: &Seen, of: impl Fn(&Value) -> bool, without: &str) -> Availability {
    match &seen.cilium {
        Err(e) => Availability::Unknown(e.to_string()),
        Ok(Some(config)) if of(config) => Availability::Present,
        Ok(_) => absent(without),
    }
}

fn group(seen: &Seen, name: &str, without: &str) -> Availability {
    match &seen.groups {
        Err(e) => Availability::Unknown(e.to_string()),
        Ok(groups) if groups.iter().any(|group| group == name) => Availability::Present,
        Ok(_) => absent(without),
    }
}

fn service(seen: &Seen, of: impl Fn(&Value) -> bool, without: &str) -> Availability {
    match &seen.services {
        Err(e) => Availability::Unknown(e.to_string()),
        Ok(services) if services.iter().any(of) => Availability::Present,
        Ok(_) => absent(without),
    }
}

fn node_port(service: &Value) -> Option<u64> {
    service["spec"]["ports"].as_array()?.iter().find_map(|port| port["nodePort"].as_u64())
}

fn named(service: &Value, names: &[&str]) -> bool {
    service["metadata"]["name"].as_str().is_some_and(|name| names.contains(&name))
}

/// Component to version, as seen.
pub async fn versions(platform: &Platform) -> BTreeMap<String, String> {
    let mut versions = BTreeMap::new();
    if let Ok(answer) = Ask::get("/version").send(platform.admin()).await
        && let Some(version) = answer.body["gitVersion"].as_str()
    {
        versions.insert("kubernetes".to_owned(), version.to_owned());
    }
    if let Ok(nodes) = platform.list("v1", "Node", None, None).await
        && let Some(info) = nodes.first().map(|node| &node["status"]["nodeInfo"])
    {
        for (component, field) in
            [("kubelet", "kubeletVersion"), ("containerd", "containerRuntimeVersion"), ("kernel", "kernelVersion")]
        {
            if let Some(version) = info[field].as_str() {
                versions.insert(component.to_owned(), version.trim_start_matches("containerd://").to_owned());
            }
        }
    }
    for (component, kind, namespace, name) in [
        ("cilium", "DaemonSet", "kube-system", "cilium"),
        ("coredns", "Deployment", "kube-system", "coredns"),
        ("argocd", "StatefulSet", "argocd", "argocd-application-controller"),
        ("kyverno", "Deployment", "kyverno", "kyverno-admission-controller"),
    ] {
        let object = ObjectRef::namespaced("apps/v1", kind, namespace, name);
        if let Ok(Some(live)) = platform.get(&object).await
            && let Some(tag) = live["spec"]["template"]["spec"]["containers"][0]["image"].as_str().and_then(tag)
        {
            versions.insert(component.to_owned(), tag.to_owned());
        }
    }
    versions
}

/// The tag of an image reference.
fn tag(image: &str) -> Option<&str> {
    let without_digest = image.split('@').next()?;
    let last = without_digest.rsplit('/').next()?;
    last.split_once(':').map(|(_, tag)| tag)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tag_is_not_the_port() {
        assert_eq!(tag("127.0.0.1:30002/a/b:v1@sha256:00"), Some("v1"));
        assert_eq!(tag("127.0.0.1:30002/a/b"), None);
    }
}
