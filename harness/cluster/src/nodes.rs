//! The nodes of a cluster: what each boots from and what runs on it.

use std::path::{Path, PathBuf};

use shakedown_node::boot::BootSpec;
use shakedown_node::boot::Wire;
use shakedown_node::cgroup::Layout;
use shakedown_node::init::Service;
use shakedown_node::{NamespaceNode, Role};

use crate::config::CRI_SOCKET;
use crate::names;
use crate::state::{ClusterState, Member, Store};

/// Directory of a node.
#[must_use]
pub fn directory(store: &Store, cluster: &str, node: &str) -> PathBuf {
    store.directory(cluster).join("nodes").join(node)
}

/// A member as a machine. `lower`: the layers under its root, uppermost first.
#[must_use]
pub fn machine(
    store: &Store,
    state: &ClusterState,
    member: &Member,
    lower: Vec<PathBuf>,
    layout: Layout,
) -> NamespaceNode {
    let directory = directory(store, &state.name, &member.name);
    let fabric = names::fabric(&state.name, state.subnet);
    let spec = BootSpec {
        cluster: state.name.clone(),
        node: member.name.clone(),
        lower,
        binds: binds(&directory, member.role),
        directory,
        wire: Wire {
            fabric: fabric.pin,
            bridge: fabric.bridge,
            port: format!("p-{}", member.name),
            mac: names::mac(&state.name, &member.name),
            address: member.address,
            prefix: names::PREFIX,
            // Network plugins look for the link with the default route. It ends in the fabric, which has no way on.
            gateway: Some(fabric.bridge_address),
        },
        services: services(member.role),
    };
    NamespaceNode::new(spec, member.role, layout)
}

/// The upper layer of a node's root: its own files, also while it is down.
#[must_use]
pub fn upper(store: &Store, cluster: &str, node: &str) -> PathBuf {
    directory(store, cluster, node).join("upper")
}

fn binds(directory: &Path, role: Role) -> Vec<(PathBuf, String)> {
    if role == Role::LoadBalancer {
        return Vec::new();
    }
    ["containerd", "kubelet", "etcd"].iter().map(|n| (directory.join(n), format!("/var/lib/{n}"))).collect()
}

fn service(name: &str, script: &str, after: &[&str], after_any: &[&str]) -> Service {
    let own = |list: &[&str]| list.iter().map(|s| (*s).to_owned()).collect();
    Service { name: name.to_owned(), script: script.to_owned(), after: own(after), after_any: own(after_any) }
}

/// Configuration of the load balancer's one program.
pub const HAPROXY: &str = "/etc/haproxy/shakedown.cfg";

/// What the node's cron daemon runs: in the form of a system crontab, with a user in its sixth field.
pub const CRONTAB: &str = "/etc/cron.d/etcd-backup";
/// Configuration of the offsite store's front, on the node that stands in for one.
pub const OFFSITE: &str = "/etc/offsite/haproxy.cfg";
/// The store's own directory of programs, served on the node's loopback address only.
pub const OFFSITE_WWW: &str = "/srv/offsite/www";

fn services(role: Role) -> Vec<Service> {
    if role == Role::LoadBalancer {
        return vec![service("haproxy", &format!("exec haproxy -W -db -f {HAPROXY}"), &[HAPROXY], &[])];
    }
    // The flags are those of kubeadm's own unit file for the kubelet.
    let kubelet =
        "set -a; . /var/lib/kubelet/kubeadm-flags.env; [ ! -f /etc/default/kubelet ] || . /etc/default/kubelet
exec kubelet --bootstrap-kubeconfig=/etc/kubernetes/bootstrap-kubelet.conf --kubeconfig=/etc/kubernetes/kubelet.conf \
--config=/var/lib/kubelet/config.yaml $KUBELET_KUBEADM_ARGS $KUBELET_EXTRA_ARGS";
    let socket = CRI_SOCKET.trim_start_matches("unix://");
    vec![
        service("containerd", "exec containerd", &[], &[]),
        service(
            "kubelet",
            kubelet,
            &["/var/lib/kubelet/config.yaml", "/var/lib/kubelet/kubeadm-flags.env", socket],
            &["/etc/kubernetes/kubelet.conf", "/etc/kubernetes/bootstrap-kubelet.conf"],
        ),
        // A cron daemon, once there is a job: this one's own tables have no field for the user.
        service(
            "cron",
            &format!(
                r#"umask 077; mkdir -p /run/cron && awk '$1 !~ /^#/ && $6 == "root" {{ $6 = ""; print }}' {CRONTAB} >/run/cron/root
exec busybox crond -f -l 8 -c /run/cron"#
            ),
            &[CRONTAB],
            &[],
        ),
        service(
            "offsite",
            &format!("busybox httpd -p 127.0.0.1:9001 -h {OFFSITE_WWW}; exec haproxy -W -db -f {OFFSITE}"),
            &[OFFSITE],
            &[],
        ),
    ]
}
