//! Finds the facts of a cluster: what the manifests depend on.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{ConfigMap, Node as KubeNode};
use kube::api::{Api, ListParams};
use serde::Deserialize;
use shakedown_core::{Answer, wait_for};
use shakedown_node::{Exec, Node, Role};

use crate::error::{Result, StackError};
use crate::facts::Facts;

/// One command on a node.
const COMMAND: Duration = Duration::from_secs(60);
/// The controller manager gives ranges out within seconds of a node's first word.
const RANGES: Duration = Duration::from_secs(20);
/// Bits of `CAP_SYS_RESOURCE`, `CAP_PERFMON` and `CAP_BPF` (capabilities(7)): those that a host or its kernel may withhold
/// from Cilium's agent.
const WITHHELD: [u32; 3] = [24, 38, 39];

/// Looks at the cluster and its first node.
///
/// # Errors
/// The API or the node does not answer, or is not what kubeadm makes.
pub async fn facts(client: &kube::Client, server: &str, nodes: &[Arc<dyn Node>]) -> Result<Facts> {
    let (api_host, api_port) = host_and_port(server)
        .ok_or_else(|| StackError::Unfit(format!("the kubeconfig's server `{server}` is no https://HOST:PORT")))?;
    let of_role = |role: Role| nodes.iter().filter(move |n| n.role() == role);
    let first =
        of_role(Role::ControlPlane).next().ok_or_else(|| StackError::Unfit("no control plane is known".into()))?;
    let names = |role: Role| of_role(role).map(|n| n.name().to_owned()).collect::<Vec<_>>();
    let (control_planes, workers) = (names(Role::ControlPlane), names(Role::Worker));
    let (config, node_ranges, dns, status, mounts, wireguard) = tokio::try_join!(
        pod_subnet(client),
        node_ranges(client),
        dns_ip(first),
        text(first, "/proc/1/status"),
        text(first, "/proc/1/mounts"),
        kernel_wireguard(first),
    )?;
    Ok(Facts {
        api_host,
        api_port,
        dns_ip: dns,
        pod_cidr: config,
        node_ranges,
        data_node: workers.first().or(control_planes.first()).cloned().unwrap_or_default(),
        nodes: control_planes.iter().chain(&workers).cloned().collect(),
        control_planes,
        registry_address: first.address(),
        agent_capabilities: WITHHELD.iter().all(|bit| bounding_set_has(&status, *bit)),
        kernel_wireguard: wireguard,
        cgroup_root: cgroup2_root(&mounts).ok_or_else(|| {
            StackError::Unfit(format!(
                "node {} has no cgroup v2 mount below /sys/fs/cgroup\nhint: Cilium's socket load balancer needs one",
                first.name()
            ))
        })?,
    })
}

/// Whether every node has a range of Pod addresses, once the controller manager had the time to give them out: decided
/// earlier, the next converge would decide otherwise and roll out Cilium with other values.
async fn node_ranges(client: &kube::Client) -> Result<bool> {
    let has_range = |node: &KubeNode| node.spec.as_ref().is_some_and(|spec| spec.pod_cidr.is_some());
    let all = wait_for("a range of Pod addresses for every node", RANGES, || async {
        match kube_nodes(client).await {
            Ok(nodes) if !nodes.is_empty() && nodes.iter().all(has_range) => Answer::Ready(()),
            Ok(nodes) => {
                Answer::NotYet(format!("{} of {}", nodes.iter().filter(|n| has_range(n)).count(), nodes.len()))
            }
            Err(error) => Answer::NotYet(error.to_string()),
        }
    })
    .await;
    match all {
        Ok(()) => Ok(true),
        // A cluster that gives none out has had the time too; one that does not answer is an error here.
        Err(_) => kube_nodes(client).await.map(|_| false),
    }
}

async fn kube_nodes(client: &kube::Client) -> Result<Vec<KubeNode>> {
    let api: Api<KubeNode> = Api::all(client.clone());
    Ok(api.list(&ListParams::default()).await.map_err(|e| StackError::api("list nodes", e))?.items)
}

async fn text(node: &Arc<dyn Node>, path: &str) -> Result<String> {
    // By a command and not as a file: only a process in the node sees the node's own /proc.
    Ok(node.run(Exec::new(["cat", path]).timeout(COMMAND)).await?)
}

async fn pod_subnet(client: &kube::Client) -> Result<String> {
    #[derive(Deserialize)]
    struct Configuration {
        networking: Networking,
    }
    #[derive(Deserialize)]
    struct Networking {
        #[serde(rename = "podSubnet")]
        pod_subnet: String,
    }
    let api: Api<ConfigMap> = Api::namespaced(client.clone(), "kube-system");
    let map = api.get("kubeadm-config").await.map_err(|e| StackError::api("read kubeadm's configuration", e))?;
    let yaml = map.data.and_then(|mut d| d.remove("ClusterConfiguration")).unwrap_or_default();
    let parsed: Configuration = serde_yaml_ng::from_str(&yaml)
        .map_err(|e| StackError::Unfit(format!("kubeadm's configuration names no podSubnet: {e}")))?;
    Ok(parsed.networking.pod_subnet)
}

async fn dns_ip(node: &Arc<dyn Node>) -> Result<Ipv4Addr> {
    #[derive(Deserialize)]
    struct Kubelet {
        #[serde(rename = "clusterDNS", default)]
        cluster_dns: Vec<Ipv4Addr>,
    }
    let path = "/var/lib/kubelet/config.yaml";
    let yaml = node.read_text(path).await?;
    let kubelet: Kubelet = serde_yaml_ng::from_str(&yaml)
        .map_err(|e| StackError::Unfit(format!("{path} on {} is not understood: {e}", node.name())))?;
    kubelet
        .cluster_dns
        .first()
        .copied()
        .ok_or_else(|| StackError::Unfit(format!("{path} on {} names no clusterDNS", node.name())))
}

/// Whether the kernel can make a WireGuard link: tried, in a network namespace that goes away with the command.
async fn kernel_wireguard(node: &Arc<dyn Node>) -> Result<bool> {
    let attempt = Exec::new(["unshare", "--net", "ip", "link", "add", "sdwg0", "type", "wireguard"]).timeout(COMMAND);
    Ok(node.exec(attempt).await?.ok())
}

fn host_and_port(server: &str) -> Option<(String, u16)> {
    let rest = server.strip_prefix("https://")?.trim_end_matches('/');
    match rest.rsplit_once(':') {
        Some((host, port)) => Some((host.to_owned(), port.parse().ok()?)),
        None => Some((rest.to_owned(), 443)),
    }
}

fn bounding_set_has(status: &str, capability: u32) -> bool {
    status
        .lines()
        .find_map(|line| line.strip_prefix("CapBnd:"))
        .and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok())
        .is_some_and(|set| set & (1 << capability) != 0)
}

/// Mount point of the cgroup v2 hierarchy; the first one, which is the node's own.
fn cgroup2_root(mounts: &str) -> Option<String> {
    mounts.lines().find_map(|line| {
        let mut fields = line.split(' ').skip(1);
        let (point, kind) = (fields.next()?, fields.next()?);
        (kind == "cgroup2" && point.starts_with("/sys/fs/cgroup")).then(|| point.to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_unified_hierarchy_is_found_on_both_kinds_of_host() {
        let hybrid = "tmpfs /sys/fs/cgroup tmpfs rw 0 0\ncgroup /sys/fs/cgroup/cpu cgroup rw,cpu 0 0\n\
                      cgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n";
        assert_eq!(cgroup2_root(hybrid), Some("/sys/fs/cgroup/unified".into()));
        assert_eq!(cgroup2_root("cgroup2 /sys/fs/cgroup cgroup2 rw 0 0\n"), Some("/sys/fs/cgroup".into()));
        assert_eq!(cgroup2_root("cgroup /sys/fs/cgroup/cpu cgroup rw 0 0\n"), None);
    }

    #[test]
    fn capabilities_are_read_from_the_bounding_set() {
        for bit in WITHHELD {
            assert!(bounding_set_has("CapEff:\t0\nCapBnd:\t000001ffffffffff\n", bit));
            assert!(!bounding_set_has("CapBnd:\t0000003ffeffffff\n", bit));
            assert!(!bounding_set_has("", bit));
        }
    }

    #[test]
    fn servers_have_a_host_and_a_port() {
        assert_eq!(host_and_port("https://10.77.1.1:6443"), Some(("10.77.1.1".into(), 6443)));
        assert_eq!(host_and_port("https://api.example/"), Some(("api.example".into(), 443)));
        assert_eq!(host_and_port("http://x:1"), None);
    }
}
