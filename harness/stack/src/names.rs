//! Names, paths and ports as the platform's documents give them: checks assert them letter by letter.

/// Version of the Cilium chart (WG-014).
pub const CILIUM_VERSION: &str = "1.16.5";
/// The registry's port: on the nodes, and of its Service too (REG-021).
pub const REGISTRY_PORT: u16 = 30002;
/// Namespace and Service of the registry (REG-022: `http://harbor.harbor:30002`).
pub const REGISTRY_NAMESPACE: &str = "harbor";
/// Repository and tag of the demo image in it (REG-030). Behind the name is our own echo server.
pub const DEMO_IMAGE: &str = "bootcamp/nginx:1.27-alpine";
/// The Pod that pulls it through the NodePort (REG-034).
pub const PULL_TEST_POD: &str = "harbor-pull-test";
/// Directory of containerd's registry settings (REG-037).
pub const CERTS_D: &str = "/etc/containerd/certs.d";
/// Port of the git server on the nodes (CI, section A).
pub const GIT_NODE_PORT: u16 = 30022;
/// Namespace of the git server.
pub const GIT_NAMESPACE: &str = "git";
/// The demo repository (GIT-027).
pub const DEMO_REPOSITORY: &str = "argocd-example-apps";
/// Namespace of Argo CD (ARGO-004).
pub const ARGOCD_NAMESPACE: &str = "argocd";
/// The demo Application and the folder it deploys (GIT-027).
pub const DEMO_APPLICATION: &str = "guestbook";
/// Where it is deployed to (GIT-027).
pub const DEMO_NAMESPACE: &str = "argocd-demo";
/// Enforces `restricted`, pinned (PSA-020).
pub const RESTRICTED_NAMESPACE: &str = "psa-test";
/// Enforces `privileged`: the other end of the scale.
pub const PRIVILEGED_NAMESPACE: &str = "psa-privileged";
/// Namespace of the viewer and of the documented Secret (RBAC-021, ENC-027).
pub const VIEWER_NAMESPACE: &str = "storage-demo";
/// The viewer's ServiceAccount (RBAC-021); its token Secret is `demo-viewer-token`.
pub const VIEWER: &str = "demo-viewer";
/// The documented Secret (ENC-027): written before encryption is on, so it has to be rewritten.
pub const SECRET: &str = "super-password";
/// The encryption configuration on every control plane (ENC-022).
pub const ENCRYPTION_CONFIG: &str = "/etc/kubernetes/encryption-config.yaml";
/// Name of the first key (ENC-032).
pub const ENCRYPTION_KEY: &str = "key1";
/// What every Secret's raw value in etcd begins with (ENC-058).
pub const ENCRYPTED_PREFIX: &str = "k8s:enc:aescbc:v1:key1:";
/// The audit policy on every control plane.
pub const AUDIT_POLICY: &str = "/etc/kubernetes/audit-policy.yaml";
/// The audit log on every control plane (ENC-003).
pub const AUDIT_LOG: &str = "/var/log/kubernetes/audit.log";
/// The apiserver's static manifest.
pub const APISERVER_MANIFEST: &str = "/etc/kubernetes/manifests/kube-apiserver.yaml";
/// Namespace of Kyverno (KYV-018).
pub const KYVERNO_NAMESPACE: &str = "kyverno";
/// Label of the namespaces whose requests Kyverno is asked about; our own, no document names one.
pub const POLICY_LABEL: &str = "shakedown.test/policies";
/// The namespace that carries the label on the converged platform; our own.
pub const POLICY_NAMESPACE: &str = "kyverno-demo";
/// The three documented policies (KYV-034).
pub const POLICIES: [&str; 3] = ["disallow-latest-tag", "require-app-label", "require-resources"];
/// ConfigMap in kube-system that says: this cluster is ours.
pub const MARKER: &str = "shakedown";
/// When etcd is backed up, as cron reads it (ETCD-014).
pub const BACKUP_SCHEDULE: &str = "0 */6 * * *";
/// What does it (ETCD-014).
pub const BACKUP_SCRIPT: &str = "/usr/local/bin/etcd-backup.sh";
/// What it copies with: the AWS client, or what stands in for it.
pub const BACKUP_CLIENT: &str = "/usr/local/bin/aws";
