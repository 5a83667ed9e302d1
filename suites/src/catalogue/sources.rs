//! The files of each area, and the closed lists that they draw from.

/// The files of one area, as text.
#[derive(Debug, Clone, Copy)]
pub struct AreaSource {
    /// Name of the folder.
    pub name: &'static str,
    /// Prefixes of the ids that belong into it.
    pub prefixes: &'static [&'static str],
    /// `statements.toml`.
    pub statements: &'static str,
    /// `pending.toml`.
    pub pending: &'static str,
}

macro_rules! areas {
    ($($name:literal: $($prefix:literal)+;)+) => {
        /// Every area, sorted by name: a folder of `suites` and the prefixes of its statements.
        pub const AREAS: &[AreaSource] = &[$(AreaSource {
            name: $name,
            prefixes: &[$($prefix),+],
            statements: include_str!(concat!("../../", $name, "/statements.toml")),
            pending: include_str!(concat!("../../", $name, "/pending.toml")),
        }),+];
    };
}

areas! {
    "argocd": "ARGO" "GIT";
    "backup": "DR";
    "ci": "CI";
    "cilium": "CIL";
    "cni": "CNI";
    "distribution": "DIST";
    "encryption": "ENC";
    "etcd": "ETCD";
    "kube-proxy-replacement": "KPR";
    "kyverno": "KYV";
    "maglev": "LB";
    "psa": "PSA";
    "rbac": "RBAC";
    "registry": "REG";
    "storage": "PVC" "STO";
    "wireguard": "WG";
}

/// Systems that a statement can speak of.
pub const SYSTEMS: &[&str] = &[
    "argo-workflows",
    "argocd",
    "buildkit",
    "calico",
    "cilium",
    "containerd",
    "coredns",
    "cosign",
    "crio",
    "docker",
    "docker-swarm",
    "etcd",
    "flannel",
    "gitea",
    "harbor",
    "helm",
    "jenkins",
    "k3d",
    "k3s",
    "kaniko",
    "kind",
    "kube-proxy",
    "kubernetes",
    "kyverno",
    "longhorn",
    "microk8s",
    "minikube",
    "nfs",
    "object-store",
    "prometheus",
    "rancher",
    "registry",
    "rook-ceph",
    "systemd",
    "talos",
    "tekton",
    "trivy",
    "vault",
    "velero",
];
