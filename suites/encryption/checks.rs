//! Encryption at rest, audit, and the control planes' manifests, as they are on the cluster.

use std::time::Duration;

use serde_json::{Value, json};
use shakedown_core::Capability::{
    ApiserverManifests, CiliumHubble, Containerd, EtcdAccess, GitHttp, Internet, Nodes3cp, NodesExec,
};
use shakedown_core::Finding;
use shakedown_engine::{Check, Tag, check, finds, fixture};
use shakedown_words::change::{Change, added};
use shakedown_words::node_command::{OnNodes, Which, each_node, shell};
use shakedown_words::{
    Platform, anchored_patch, audited_reads, encryption_config, key_search, pod_events, raw_bytes, rewritten,
    secret_read, symmetry,
};

/// What every Secret's raw value begins with (ENC-058).
pub(super) const PREFIX: &str = "k8s:enc:aescbc:v1:key1:";
/// Texts of the documented Secret (ENC-027, ENC-029).
const TEXTS: [&str; 3] = ["MyP@ssw0rd_BeforeEncryption", "sk_live_1234567890abcdef", "Opaque"];

/// The checks that look at the cluster.
pub fn checks() -> Vec<Check<Platform>> {
    vec![
        check("encryption.every-secret-is-cipher-text-on-every-member")
            .asserts(["ENC-007", "ENC-025", "ENC-026", "ENC-056", "ENC-058", "ENC-068", "ENC-071", "ETCD-045"])
            .needs([NodesExec, EtcdAccess, Nodes3cp])
            .observe(raw_bytes::raw_secrets().looking_for(TEXTS))
            .expect(raw_bytes::all_begin_with(PREFIX, 3))
            .sabotage(raw_bytes::a_secret_stored_in_clear(), finds("stored-in-clear"))
            .remedy("rewrite all Secrets: kubectl get secrets -A -o json | kubectl replace -f -"),
        check("encryption.the-configuration-is-the-documented-one-on-every-control-plane")
            .asserts(["ENC-022", "ENC-023", "ENC-031", "ENC-032", "ENC-033", "ENC-038", "ENC-039", "ENC-040"])
            .needs([NodesExec, ApiserverManifests, Nodes3cp])
            .observe(encryption_config::configurations())
            .expect(encryption_config::documented_on(3))
            .sabotage(encryption_config::readable_by_everyone(), finds("mode"))
            .remedy("copy /etc/kubernetes/encryption-config.yaml from a good control plane, chmod 600, and restart the apiserver"),
        check("encryption.the-documented-secret-reads-the-same-through-every-apiserver")
            .asserts(["ENC-027", "ENC-057", "ENC-059"])
            .needs([Nodes3cp])
            .observe(secret_read::documented_secret())
            .expect(secret_read::reads_as_documented(3))
            .sabotage(secret_read::another_password(), finds("other-value"))
            .remedy("give every apiserver the same encryption configuration, and the Secret its documented values"),
        control_planes_are_alike(),
        every_read_is_audited(),
        only_a_certificate_opens_etcd(),
        anchor_of_every_apiserver(),
        volume_of_type_file(),
        rewriting_replaces_every_secret(),
        kinds_of_secrets(),
        key_stays_where_it_belongs(),
        key_in_the_cloud(),
    ]
}

fn control_planes_are_alike() -> Check<Platform> {
    check("encryption.the-control-planes-are-alike")
        .asserts(["ENC-050", "ENC-051", "ENC-052"])
        .needs([NodesExec, ApiserverManifests, Nodes3cp])
        // Put back, the scheduler is the Pod of before: the kubelet may let it wait before it starts it once more.
        .within(Duration::from_secs(360))
        .observe(symmetry::control_planes())
        .expect(symmetry::are_alike(3))
        .sabotage(symmetry::an_argument_is_gone(), finds("argument"))
        .remedy("give every control plane the same arguments and files; `shakedown converge` writes those of audit and encryption")
}

fn every_read_is_audited() -> Check<Platform> {
    check("encryption.every-read-of-a-secret-is-audited-where-it-was-answered")
        .asserts(["ENC-003", "ENC-008", "ENC-067", "ENC-070"])
        .needs([NodesExec, ApiserverManifests, Nodes3cp])
        .observe(audited_reads::reads_through_every_apiserver())
        .with(fixture(audited_reads::reader()))
        .expect(audited_reads::each_left_its_line(3))
        .sabotage(audited_reads::a_log_is_moved_away(), finds("not-audited"))
        .remedy("audit policy and log path on every control plane, Secrets at level Metadata: `shakedown converge`")
}

/// The documented command with these certificate and key, and without any.
const ETCDCTL: &str = r#"pgrep -xo etcd >/dev/null || { echo "no member runs here"; exit 75; }
c=$(command -v etcdctl) || c=/proc/$(pgrep -xo etcd)/root/usr/local/bin/etcdctl
p=/etc/kubernetes/pki/etcd
get() { "$c" --endpoints=https://127.0.0.1:2379 --dial-timeout=2s --command-timeout=2s "$@" get /registry/secrets/storage-demo/super-password; }
echo "with: $(get --cacert=$p/ca.crt --cert=CERTIFICATE.crt --key=CERTIFICATE.key 2>/dev/null | head -n 1)"
get --cacert=$p/ca.crt >/dev/null 2>&1 && echo "without: answered" || echo "without: refused"
"#;

fn only_a_certificate_opens_etcd() -> Check<Platform> {
    let look = |pair| -> OnNodes { shell(Which::ControlPlanes, &ETCDCTL.replace("CERTIFICATE", pair)) };
    check("encryption.etcd-answers-whoever-has-its-certificate")
        .asserts(["ENC-028"])
        .needs([NodesExec, EtcdAccess, Nodes3cp])
        .observe(look("$p/server"))
        .expect(each_node(3, |node, ran| {
            let said = |line: &str| ran.stdout.lines().any(|said| said == line);
            let mut found = vec![];
            if !said("with: /registry/secrets/storage-demo/super-password") {
                found.push(Finding::new("refused", node, ran.brief()));
            }
            if !said("without: refused") {
                found.push(Finding::new("answered", node, ran.brief()));
            }
            found
        }))
        .sabotage_input(
            "certificate and key are of another CA",
            look("$p/../apiserver-kubelet-client"),
            finds("refused"),
        )
        .remedy("use the member's own three files; who has them reads everything")
}

fn anchor_of_every_apiserver() -> Check<Platform> {
    check("encryption.only-an-anchor-of-every-apiserver-patches-them-all")
        .asserts(["ENC-042", "ENC-047", "ENC-048", "ENC-049"])
        .needs([NodesExec, ApiserverManifests, Nodes3cp])
        .observe(anchored_patch::both_versions())
        .expect(anchored_patch::only_the_second_fits_all(3))
        .sabotage_input(
            "auditing is set up on all three",
            anchored_patch::both_versions().with_auditing_everywhere(),
            finds("no-error"),
        )
        .remedy("take an anchor that every apiserver has: --tls-private-key-file")
}

fn key_stays_where_it_belongs() -> Check<Platform> {
    check("encryption.the-key-is-nowhere-but-in-its-file-and-beside-the-backups")
        .asserts(["ENC-063"])
        .needs([NodesExec, GitHttp])
        .observe(key_search::key_everywhere())
        .expect(key_search::only_beside_the_backups())
        .sabotage(key_search::copied_by_mistake(), finds("key-found"))
        .remedy("delete the copy, and rotate the key: whoever had the copy has it still")
}

fn volume_of_type_file() -> Check<Platform> {
    let pod = |path: &str| -> Value {
        json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "needs-a-file"},
            "spec": {
                "terminationGracePeriodSeconds": 0, "automountServiceAccountToken": false,
                "containers": [{
                    "name": "c", "image": "registry.k8s.io/pause:3.10.1", "imagePullPolicy": "IfNotPresent",
                    "volumeMounts": [{"name": "file", "mountPath": "/file", "readOnly": true}],
                }],
                "volumes": [{"name": "file", "hostPath": {"path": path, "type": "File"}}],
            },
        })
    };
    let follow = |path| pod_events::followed(pod(path), "psa-privileged", "FailedMount");
    check("encryption.a-volume-of-type-file-needs-its-file")
        .asserts(["ENC-041"])
        .needs([Containerd])
        .within(Duration::from_secs(120))
        .observe(follow("/etc/kubernetes/no-such-file.yaml"))
        .expect(pod_events::does_not_start_for("hostPath type check failed"))
        .sabotage_input("the file is there", follow("/etc/hostname"), finds("started"))
        .remedy("put the file in place before the manifest that mounts it")
}

fn rewriting_replaces_every_secret() -> Check<Platform> {
    check("encryption.the-documented-pipe-rewrites-every-secret")
        .asserts(["ENC-054"])
        .needs([NodesExec])
        .tag(Tag::Exclusive)
        .within(Duration::from_secs(150))
        .observe(rewritten::rewriting_every_secret())
        .expect(rewritten::every_secret_was_replaced())
        .sabotage_input(
            "one Secret is written by somebody else meanwhile",
            rewritten::rewriting_every_secret().while_one_is_written(),
            finds("not-replaced"),
        )
        .remedy("run the pipe again until nothing conflicts")
}

fn many_opaque_secrets() -> Change {
    let secret = |number: usize| {
        let metadata = json!({"name": format!("shakedown-opaque-{number}"), "namespace": "kube-public"});
        json!({"apiVersion": "v1", "kind": "Secret", "type": "Opaque", "metadata": metadata})
    };
    let first = added("there are many Secrets of type Opaque", secret(0));
    (1..20).fold(first, |change, number| change.and(added("", secret(number))))
}

fn kinds_of_secrets() -> Check<Platform> {
    const TYPES: &str = r#"kubectl --kubeconfig /etc/kubernetes/admin.conf get secrets -A -o jsonpath='{range .items[*]}{.type} {.metadata.name}{"\n"}{end}'"#;
    check("encryption.most-secrets-are-certificates-and-releases")
        .asserts(["ENC-005"])
        .needs([NodesExec, CiliumHubble])
        .observe(shell(Which::FirstControlPlane, TYPES))
        .expect(each_node(1, |node, ran| {
            let lines: Vec<&str> = ran.stdout.lines().collect();
            let named =
                |line: &&&str| line.starts_with("kubernetes.io/tls ") || line.starts_with("helm.sh/release.v1 ");
            let count = lines.iter().filter(named).count();
            let mut found = vec![];
            if count * 2 <= lines.len() {
                found.push(Finding::new("minority", node, format!("{count} of {} Secrets", lines.len())));
            }
            if !lines.contains(&"kubernetes.io/tls hubble-server-certs") {
                found.push(Finding::new("missing", "hubble-server-certs", ran.stdout.clone()));
            }
            found
        }))
        .sabotage(many_opaque_secrets(), finds("minority"))
        .remedy("look at who makes Secrets of type Opaque: each is one more to protect")
}

fn key_in_the_cloud() -> Check<Platform> {
    check("encryption.with-a-kms-no-key-is-in-the-configuration")
        .asserts(["ENC-065"])
        .needs([NodesExec, ApiserverManifests, Nodes3cp, Internet])
        .observe(encryption_config::configurations())
        .expect(encryption_config::keys_are_kept_elsewhere(3))
        .sabotage_recorded(
            "a key of aescbc beside the plugin",
            include_str!("kms-with-a-key.json"),
            finds("key-material"),
        )
        .remedy("leave the kms provider alone in front, and rewrite every Secret before a local key goes")
}
