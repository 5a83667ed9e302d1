//! What a cluster can offer, and what a check can need.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

macro_rules! capabilities {
    ($($(#[$doc:meta])* $variant:ident => $name:literal,)+) => {
        /// Something that a cluster or the machine under it may or may not offer.
        ///
        /// The names are those of the catalogue's `needs`.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Capability { $($(#[$doc])* $variant,)+ }

        impl Capability {
            /// All of them, in a fixed order.
            pub const ALL: &'static [Capability] = &[$(Capability::$variant,)+];

            /// The name in files and on the command line.
            pub const fn name(self) -> &'static str {
                match self { $(Capability::$variant => $name,)+ }
            }
        }
    };
}

capabilities! {
    /// Commands can be run and files read on the nodes.
    NodesExec => "nodes-exec",
    /// Five nodes or more.
    Nodes5 => "nodes-5",
    /// Three control planes or more.
    Nodes3cp => "nodes-3cp",
    /// The control plane's static manifests can be changed.
    ApiserverManifests => "apiserver-manifests",
    /// etcd can be asked directly, each member for itself.
    EtcdAccess => "etcd-access",
    /// containerd's files and socket on the nodes.
    Containerd => "containerd",
    /// CRI-O instead of containerd.
    Crio => "crio",
    /// systemd runs the nodes' services.
    Systemd => "systemd",
    /// Cilium is the network plug-in.
    Cilium => "cilium",
    /// Cilium replaces kube-proxy.
    CiliumKpr => "cilium-kpr",
    /// Cilium's layer 7 proxy.
    CiliumL7 => "cilium-l7",
    /// Cilium's Maglev load balancing.
    CiliumMaglev => "cilium-maglev",
    /// Cilium's WireGuard encryption.
    CiliumWireguard => "cilium-wireguard",
    /// Hubble.
    CiliumHubble => "cilium-hubble",
    /// A registry over plain HTTP.
    RegistryHttp => "registry-http",
    /// Harbor.
    Harbor => "harbor",
    /// A git server over HTTP in the cluster.
    GitHttp => "git-http",
    /// Argo CD.
    Argocd => "argocd",
    /// Kyverno.
    Kyverno => "kyverno",
    /// Longhorn.
    Longhorn => "longhorn",
    /// A CSI driver that can expand volumes.
    CsiExpand => "csi-expand",
    /// Velero.
    Velero => "velero",
    /// An S3 object store.
    ObjectStore => "object-store",
    /// Gitea.
    Gitea => "gitea",
    /// In-cluster image builds.
    Builder => "builder",
    /// Jenkins.
    Jenkins => "jenkins",
    /// Trivy.
    Trivy => "trivy",
    /// metrics-server or Prometheus.
    Metrics => "metrics",
    /// kind.
    Kind => "kind",
    /// k3s.
    K3s => "k3s",
    /// A way out to the internet.
    Internet => "internet",
    /// A control plane that the cloud's provider runs (EKS, GKE, AKS).
    ManagedControlPlane => "managed-control-plane",
}

impl fmt::Display for Capability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The name is in no list.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown capability `{0}`")]
pub struct UnknownCapability(pub String);

impl FromStr for Capability {
    type Err = UnknownCapability;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL.iter().copied().find(|c| c.name() == text).ok_or_else(|| UnknownCapability(text.to_owned()))
    }
}

impl Serialize for Capability {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(self.name())
    }
}

impl<'de> Deserialize<'de> for Capability {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        String::deserialize(from)?.parse().map_err(serde::de::Error::custom)
    }
}

/// What is known of a capability on one cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Availability {
    /// It was seen.
    Present,
    /// It is not there; why, and who could prove the check.
    Absent(String),
    /// It could not be found out: never taken for either answer.
    Unknown(String),
}
