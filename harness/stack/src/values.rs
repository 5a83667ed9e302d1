//! The values of the Cilium chart, as a function of the cluster's facts.

use serde_json::{Value, json};

use crate::facts::Facts;

/// Cilium's own default table size (LB-032); asserted by checks, so it is named.
pub const MAGLEV_TABLE_SIZE: u32 = 16381;

/// What the agent may do where it is not privileged: the chart's own list, and the two that `bpftool feature probe` asks
/// for by name since kernels tell them from `SYS_ADMIN`. Without them the agent ends with `could not run bpftool`.
const AGENT_CAPABILITIES: [&str; 14] = [
    "CHOWN",
    "KILL",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "SYS_MODULE",
    "SYS_ADMIN",
    "SYS_RESOURCE",
    "PERFMON",
    "BPF",
    "DAC_OVERRIDE",
    "FOWNER",
    "SETGID",
    "SETUID",
];

/// The documented values: kube-proxy replacement, WireGuard, Maglev; and what this cluster's nodes need beyond them.
pub fn cilium(facts: &Facts) -> Value {
    let mut values = json!({
        "kubeProxyReplacement": true,
        "k8sServiceHost": facts.api_host,
        "k8sServicePort": facts.api_port,
        "image": {"useDigest": false},
        "operator": {"image": {"useDigest": false}, "replicas": if facts.several_nodes() { 2 } else { 1 }},
        // No Envoy in the bundle, so no layer 7 proxy either (CIL-014..017 say what this costs).
        "envoy": {"enabled": false},
        "l7Proxy": false,
        "encryption": {"enabled": true, "type": "wireguard"},
        "loadBalancer": {"algorithm": "maglev"},
        "maglev": {"tableSize": MAGLEV_TABLE_SIZE},
        "bpf": {"masquerade": true},
        "cgroup": {"autoMount": {"enabled": false}, "hostRoot": facts.cgroup_root},
        "hubble": {"enabled": false},
        // Looked at every 2 s: five agents that compile on a starved machine take longer than the chart's 210 s, and an
        // agent that is ended half-way begins again from nothing.
        "startupProbe": {"failureThreshold": 450},
        "ipam": if facts.node_ranges {
            json!({"mode": "kubernetes"})
        } else {
            json!({"mode": "cluster-pool", "operator": {"clusterPoolIPv4PodCIDRList": [facts.pod_cidr]}})
        },
    });
    if !facts.kernel_wireguard {
        values["encryption"]["wireguard"] = json!({"userspaceFallback": true});
    }
    values["securityContext"] = if facts.agent_capabilities {
        json!({"capabilities": {"ciliumAgent": AGENT_CAPABILITIES}})
    } else {
        // One of the list (SYS_RESOURCE, say) cannot be given to any container here; a privileged one takes what there is.
        json!({"privileged": true})
    };
    values
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::facts::five_nodes;

    #[test]
    fn values_where_the_machine_lacks_something() {
        insta::assert_yaml_snapshot!(cilium(&five_nodes()));
    }

    #[test]
    fn values_on_a_single_node_of_a_complete_host() {
        let facts = Facts {
            agent_capabilities: true,
            kernel_wireguard: true,
            node_ranges: false,
            nodes: vec!["k8s-cp-1".into()],
            cgroup_root: "/sys/fs/cgroup".into(),
            ..five_nodes()
        };
        insta::assert_yaml_snapshot!(cilium(&facts));
    }

    #[test]
    fn workarounds_are_used_only_where_something_is_missing() {
        let complete = Facts { agent_capabilities: true, kernel_wireguard: true, ..five_nodes() };
        let values = cilium(&complete);
        assert!(values["securityContext"].get("privileged").is_none());
        assert!(values["encryption"].get("wireguard").is_none());
    }
}
