//! Encryption at rest, audit, and the control planes' manifests.

use shakedown_core::Capability::{ApiserverManifests, EtcdAccess, Nodes3cp, NodesExec};
use shakedown_engine::{Check, check, finds};
use shakedown_words::{Platform, encryption_config, raw_bytes, secret_read};

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
            .asserts(["ENC-022", "ENC-023", "ENC-031", "ENC-032", "ENC-033", "ENC-038", "ENC-039"])
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
    ]
}
