//! What the manifests depend on: addresses, node counts, what the kernel and the machine can do. Probed once from the
//! real cluster; rendering is a pure function of it.

use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

use crate::names;

/// Facts about one cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Facts {
    /// Address of the apiservers' load balancer.
    pub api_host: String,
    /// Its port.
    pub api_port: u16,
    /// ClusterIP of the cluster's DNS.
    pub dns_ip: Ipv4Addr,
    /// All Pods' addresses.
    pub pod_cidr: String,
    /// Every node has a range of its own in its specification, so no operator has to give one out.
    pub node_ranges: bool,
    /// Names of the control planes, in order.
    pub control_planes: Vec<String>,
    /// Names of all nodes, in order.
    pub nodes: Vec<String>,
    /// Address of the first control plane: the registry is known by it (REG-030).
    pub registry_address: Ipv4Addr,
    /// The node that keeps the registry's and the git server's data: the first worker, or the only control plane.
    pub data_node: String,
    /// Containers may be given every capability that Cilium's agent asks for.
    pub agent_capabilities: bool,
    /// The kernel has WireGuard.
    pub kernel_wireguard: bool,
    /// Root of the cgroup v2 hierarchy in a node.
    pub cgroup_root: String,
}

impl Facts {
    /// `ADDRESS:30002`, as images and `hosts.toml` name the registry.
    pub fn registry(&self) -> String {
        format!("{}:{}", self.registry_address, names::REGISTRY_PORT)
    }

    /// The demo image as a Pod names it.
    pub fn demo_image(&self) -> String {
        format!("{}/{}", self.registry(), names::DEMO_IMAGE)
    }

    /// The demo repository as Argo CD reads it.
    pub fn demo_repository(&self) -> String {
        format!("http://git-server.{}.svc/{}.git", names::GIT_NAMESPACE, names::DEMO_REPOSITORY)
    }

    /// Whether workloads can only run beside the control plane.
    pub fn no_workers(&self) -> bool {
        self.nodes.len() == self.control_planes.len()
    }

    /// Whether the platform has more than one node.
    pub fn several_nodes(&self) -> bool {
        self.nodes.len() > 1
    }
}

#[cfg(test)]
pub(crate) fn five_nodes() -> Facts {
    let names = |of: &[&str]| of.iter().map(|n| (*n).to_owned()).collect();
    Facts {
        api_host: "10.99.0.1".into(),
        api_port: 6443,
        dns_ip: Ipv4Addr::new(10, 96, 0, 10),
        pod_cidr: "10.244.0.0/16".into(),
        node_ranges: true,
        control_planes: names(&["k8s-cp-1", "k8s-cp-2", "k8s-cp-3"]),
        nodes: names(&["k8s-cp-1", "k8s-cp-2", "k8s-cp-3", "k8s-w-1", "k8s-w-2"]),
        registry_address: Ipv4Addr::new(10, 99, 0, 11),
        data_node: "k8s-w-1".into(),
        agent_capabilities: false,
        kernel_wireguard: false,
        cgroup_root: "/sys/fs/cgroup/unified".into(),
    }
}
