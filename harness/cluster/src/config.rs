//! What the cluster's programs are told: kubeadm, kubelet, containerd, HAProxy. Pure text, snapshot-tested.

use std::fmt::Write as _;
use std::net::Ipv4Addr;

use shakedown_node::Role;

use crate::state::{ClusterState, Member};

/// Image of the pod sandbox, by the name that kubeadm and containerd both use.
pub const PAUSE: &str = "registry.k8s.io/pause:3.10.1";
/// Where kubeadm's configuration is on a control plane.
pub const KUBEADM: &str = "/etc/kubernetes/kubeadm.yaml";
/// The same without what only the first start needs: this one is uploaded to the cluster.
pub const KUBEADM_UPLOADED: &str = "/etc/kubernetes/kubeadm-uploaded.yaml";
/// containerd's socket on every node.
pub const CRI_SOCKET: &str = "unix:///run/containerd/containerd.sock";
/// Pods' addresses.
pub const POD_SUBNET: &str = "10.244.0.0/16";
/// The documented quota of a member's database, bytes: 8 GiB (ETCD-036).
pub const ETCD_QUOTA: u64 = 8_589_934_592;
/// Services' addresses.
pub const SERVICE_SUBNET: &str = "10.96.0.0/12";

/// Address of the load balancer.
#[must_use]
pub fn endpoint(state: &ClusterState) -> Ipv4Addr {
    state.with(Role::LoadBalancer).next().map_or(Ipv4Addr::UNSPECIFIED, |m| m.address)
}

/// Where kubeadm's configuration is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Use<'a> {
    /// The first start of a control plane: all members of etcd are named in advance and start side by side.
    Start,
    /// To be kept in the cluster for members that join later.
    Upload,
    /// On the host, with keys in that directory.
    Host(&'a str),
}

/// kubeadm's configuration for one member. Its time for a control plane to come up is also how long a kubelet lets an
/// apiserver start before it is taken for dead: an emulated machine needs minutes.
#[must_use]
pub fn kubeadm(state: &ClusterState, member: &Member, usage: Use<'_>) -> String {
    let certificates = if let Use::Host(directory) = usage { directory } else { "/etc/kubernetes/pki" };
    let mut text = format!(
        "apiVersion: kubeadm.k8s.io/v1beta4
kind: InitConfiguration
timeouts:
  controlPlaneComponentHealthCheck: 15m0s
bootstrapTokens:
- token: {token}
  ttl: 24h0m0s
  usages: [signing, authentication]
  groups: [system:bootstrappers:kubeadm:default-node-token]
localAPIEndpoint:
  advertiseAddress: {address}
  bindPort: 6443
nodeRegistration:
{registration}---
apiVersion: kubeadm.k8s.io/v1beta4
kind: ClusterConfiguration
clusterName: {name}
kubernetesVersion: {version}
controlPlaneEndpoint: {endpoint}:6443
certificatesDir: {certificates}
encryptionAlgorithm: ECDSA-P256
networking:
  podSubnet: {POD_SUBNET}
  serviceSubnet: {SERVICE_SUBNET}
proxy:
  disabled: true
dns:
  disabled: true
apiServer:
  certSANs:
  - {endpoint}
  - 127.0.0.1
",
        token = state.token,
        address = member.address,
        registration = registration(member),
        name = state.name,
        version = state.kubernetes,
        endpoint = endpoint(state),
    );
    let _ = write!(
        text,
        "etcd:
  local:
    extraArgs:
    - name: quota-backend-bytes
      value: \"{ETCD_QUOTA}\"
"
    );
    if usage == Use::Start {
        let members: Vec<_> = state
            .with(Role::ControlPlane)
            .filter(|m| !m.late)
            .map(|m| format!("{}=https://{}:2380", m.name, m.address))
            .collect();
        let _ = write!(
            text,
            "    - name: initial-cluster
      value: {}
    - name: initial-cluster-state
      value: new
",
            members.join(",")
        );
    }
    text.push_str(KUBELET);
    text
}

/// How a node registers itself.
fn registration(member: &Member) -> String {
    format!(
        "  name: {name}
  criSocket: {CRI_SOCKET}
  kubeletExtraArgs:
  - name: node-ip
    value: {address}
",
        name = member.name,
        address = member.address
    )
}

/// The kubelet's configuration, the same on every node. Eviction and image collection are off because the nodes share
/// one disk whose filling is not theirs to judge.
const KUBELET: &str = "---
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
cgroupDriver: cgroupfs
failCgroupV1: false
failSwapOn: false
rotateCertificates: true
evictionHard:
  imagefs.available: 0%
  imagefs.inodesFree: 0%
  nodefs.available: 0%
  nodefs.inodesFree: 0%
imageGCHighThresholdPercent: 100
";

/// A member that joins a living cluster: discovery by token and CA hash, as documented.
#[must_use]
pub fn join(
    state: &ClusterState,
    member: &Member,
    token: &str,
    ca_hash: &str,
    certificate_key: Option<&str>,
) -> String {
    let mut text = format!(
        "apiVersion: kubeadm.k8s.io/v1beta4
kind: JoinConfiguration
discovery:
  bootstrapToken:
    apiServerEndpoint: {}:6443
    token: {token}
    caCertHashes: [\"{ca_hash}\"]
nodeRegistration:
{}",
        endpoint(state),
        registration(member)
    );
    if let Some(key) = certificate_key {
        let _ = write!(
            text,
            "controlPlane:
  certificateKey: {key}
  localAPIEndpoint:
    advertiseAddress: {}
    bindPort: 6443
",
            member.address
        );
    }
    text
}

/// containerd's configuration. `restricted`: the host withholds `CAP_SYS_RESOURCE`, so nothing may lower its OOM score.
#[must_use]
pub fn containerd(restricted: bool) -> String {
    format!(
        "version = 2
root = \"/var/lib/containerd\"
state = \"/run/containerd\"

[grpc]
  address = \"/run/containerd/containerd.sock\"

[plugins.\"io.containerd.grpc.v1.cri\"]
  sandbox_image = \"{PAUSE}\"
  restrict_oom_score_adj = {restricted}

[plugins.\"io.containerd.grpc.v1.cri\".cni]
  bin_dir = \"/opt/cni/bin\"
  conf_dir = \"/etc/cni/net.d\"

[plugins.\"io.containerd.grpc.v1.cri\".containerd]
  snapshotter = \"overlayfs\"
  default_runtime_name = \"runc\"

[plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.runc]
  runtime_type = \"io.containerd.runc.v2\"

[plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.runc.options]
  SystemdCgroup = false

[plugins.\"io.containerd.grpc.v1.cri\".registry]
  config_path = \"/etc/containerd/certs.d\"
"
    )
}

/// HAProxy before the apiservers: TLS passes through, an apiserver is used while it says that it is ready. A connection
/// that one refuses (it is being rolled, and the next check has not seen it yet) goes to another. Connections are cut
/// only where an apiserver was silent three times: one that is slow on a busy machine is not down.
#[must_use]
pub fn haproxy(state: &ClusterState) -> String {
    let mut text = "global
  log stdout format raw local0 notice
  maxconn 4000

defaults
  mode tcp
  log global
  option dontlognull
  timeout connect 2s
  timeout client 4h
  timeout server 4h
  timeout check 5s

frontend apiservers
  bind *:6443
  default_backend apiservers

backend apiservers
  balance roundrobin
  retries 3
  option redispatch 1
  option httpchk GET /readyz
  http-check expect status 200
  default-server check check-ssl verify none inter 1s downinter 300ms fall 3 rise 1 on-marked-down shutdown-sessions
"
    .to_owned();
    for member in state.with(Role::ControlPlane) {
        let _ = writeln!(text, "  server {} {}:6443", member.name, member.address);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::names;
    use crate::state::{Phase, SCHEMA};

    fn state() -> ClusterState {
        let mut members = vec![names::member(Role::LoadBalancer, 1, 7, false)];
        members.extend((1..=3).map(|n| names::member(Role::ControlPlane, n, 7, false)));
        members.push(names::member(Role::Worker, 1, 7, false));
        ClusterState {
            schema: SCHEMA,
            name: "one".into(),
            id: "00".into(),
            subnet: 7,
            phase: Phase::Making,
            members,
            kubernetes: "v1.34.4".into(),
            token: "abcdef.0123456789abcdef".into(),
        }
    }

    #[test]
    fn the_start_names_every_member_of_etcd() {
        let state = state();
        let text = kubeadm(&state, &state.members[2], Use::Start);
        insta::assert_snapshot!(text);
    }

    #[test]
    fn the_uploaded_one_does_not() {
        let state = state();
        let text = kubeadm(&state, &state.members[1], Use::Upload);
        assert!(!text.contains("initial-cluster"));
    }

    #[test]
    fn every_document_is_yaml_with_a_kind() {
        use serde::Deserialize;
        let state = state();
        let texts = [
            kubeadm(&state, &state.members[1], Use::Start),
            kubeadm(&state, &state.members[1], Use::Host("/x")),
            join(&state, &state.members[4], "a.b", "sha256:00", Some("key")),
        ];
        for text in texts {
            for document in serde_yaml_ng::Deserializer::from_str(&text) {
                let value = serde_yaml_ng::Value::deserialize(document).unwrap();
                assert!(value.get("kind").is_some(), "{text}");
            }
        }
    }

    #[test]
    fn a_late_member_is_not_named_before_it_joins() {
        let mut state = state();
        state.members.push(names::member(Role::ControlPlane, 4, 7, true));
        assert!(!kubeadm(&state, &state.members[1], Use::Start).contains("cp-4"));
    }

    #[test]
    fn haproxy_checks_every_apiserver() {
        insta::assert_snapshot!(haproxy(&state()));
    }

    #[test]
    fn containerd_reads_registry_hosts_and_knows_the_sandbox() {
        insta::assert_snapshot!(containerd(true));
    }
}
