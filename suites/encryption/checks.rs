//! Encryption at rest, audit, and the control planes' manifests.

use std::time::Duration;

use shakedown_core::Capability::{ApiserverManifests, EtcdAccess, Nodes3cp, NodesExec};
use shakedown_engine::{Check, check, finds};
use shakedown_words::scratch::{Is, With, at_the_end, key_of, keys, refuses_to_start, scenario};
use shakedown_words::{Platform, encryption_config, raw_bytes, secret_read};

/// An observation of the real platform, as it was recorded: good, or with the defect of the check's control.
macro_rules! recorded {
    ($name:literal) => {
        include_str!(concat!("../../fixtures/recorded/encryption/encryption.", $name, ".json"))
    };
}

/// What every Secret's raw value begins with (ENC-058).
const PREFIX: &str = "k8s:enc:aescbc:v1:key1:";
/// Texts of the documented Secret (ENC-027, ENC-029).
const TEXTS: [&str; 3] = ["MyP@ssw0rd_BeforeEncryption", "sk_live_1234567890abcdef", "Opaque"];

/// The checks of this area.
pub fn checks() -> Vec<Check<Platform>> {
    let mut all = on_the_cluster();
    all.extend(mechanisms());
    all
}

fn on_the_cluster() -> Vec<Check<Platform>> {
    vec![
        check("encryption.every-secret-is-cipher-text-on-every-member")
            .asserts(["ENC-007", "ENC-025", "ENC-026", "ENC-056", "ENC-058", "ENC-068", "ENC-071", "ETCD-045"])
            .needs([NodesExec, EtcdAccess, Nodes3cp])
            .observe(raw_bytes::raw_secrets().looking_for(TEXTS))
            .expect(raw_bytes::all_begin_with(PREFIX, 3))
            .sabotage(raw_bytes::a_secret_stored_in_clear(), finds("stored-in-clear"))
            .recorded("good", recorded!("every-secret-is-cipher-text-on-every-member.good"), None)
            .recorded("stored-in-clear", recorded!("every-secret-is-cipher-text-on-every-member.stored-in-clear"), Some("stored-in-clear"))
            .remedy("rewrite all Secrets: kubectl get secrets -A -o json | kubectl replace -f -"),
        check("encryption.the-configuration-is-the-documented-one-on-every-control-plane")
            .asserts(["ENC-022", "ENC-023", "ENC-031", "ENC-032", "ENC-033", "ENC-038", "ENC-039"])
            .needs([NodesExec, ApiserverManifests, Nodes3cp])
            .observe(encryption_config::configurations())
            .expect(encryption_config::documented_on(3))
            .sabotage(encryption_config::readable_by_everyone(), finds("mode"))
            .recorded("good", recorded!("the-configuration-is-the-documented-one-on-every-control-plane.good"), None)
            .recorded("mode", recorded!("the-configuration-is-the-documented-one-on-every-control-plane.mode"), Some("mode"))
            .remedy("copy /etc/kubernetes/encryption-config.yaml from a good control plane, chmod 600, and restart the apiserver"),
        check("encryption.the-documented-secret-reads-the-same-through-every-apiserver")
            .asserts(["ENC-027", "ENC-057", "ENC-059"])
            .needs([Nodes3cp])
            .observe(secret_read::documented_secret())
            .expect(secret_read::reads_as_documented(3))
            .sabotage(secret_read::another_password(), finds("other-value"))
            .recorded("good", recorded!("the-documented-secret-reads-the-same-through-every-apiserver.good"), None)
            .recorded("other-value", recorded!("the-documented-secret-reads-the-same-through-every-apiserver.other-value"), Some("other-value"))
            .remedy("give every apiserver the same encryption configuration, and the Secret its documented values"),
    ]
}

/// How long a scenario on a scratch pair may take: it starts an apiserver for each of its phases.
const SCENARIO: Duration = Duration::from_secs(240);

/// What the configuration does, shown on a scratch apiserver and etcd of their own.
fn mechanisms() -> Vec<Check<Platform>> {
    vec![
        check("encryption.without-a-configuration-secrets-can-be-read-in-etcd")
            .asserts(["ENC-002", "ENC-009", "ENC-010"])
            .contradicts(["ENC-010"])
            .needs([NodesExec, EtcdAccess])
            .within(SCENARIO)
            .observe(scenario().phase([]).writes("plain"))
            .expect(at_the_end(&[("plain", Is::Clear)]))
            .sabotage_input(
                "aescbc is the first provider",
                scenario().phase([keys("aescbc", &["key1"]), With::Identity]).writes("plain"),
                finds("not-in-clear"),
            )
            .recorded("good", recorded!("without-a-configuration-secrets-can-be-read-in-etcd.good"), None)
            .recorded(
                "not-in-clear",
                recorded!("without-a-configuration-secrets-can-be-read-in-etcd.not-in-clear"),
                Some("not-in-clear"),
            )
            .remedy("this is what the apiserver does; if it fails, it was given a configuration"),
        check("encryption.identity-as-first-provider-stores-in-clear")
            .asserts(["ENC-016"])
            .needs([NodesExec, EtcdAccess])
            .within(SCENARIO)
            .observe(scenario().phase([With::Identity, keys("aescbc", &["key1"])]).writes("plain"))
            .expect(at_the_end(&[("plain", Is::Clear)]))
            .sabotage_input(
                "aescbc is the first provider",
                scenario().phase([keys("aescbc", &["key1"]), With::Identity]).writes("plain"),
                finds("not-in-clear"),
            )
            .recorded("good", recorded!("identity-as-first-provider-stores-in-clear.good"), None)
            .recorded(
                "not-in-clear",
                recorded!("identity-as-first-provider-stores-in-clear.not-in-clear"),
                Some("not-in-clear"),
            )
            .remedy("put the provider that is to write first in /etc/kubernetes/encryption-config.yaml"),
        check("encryption.the-first-provider-writes-and-every-provider-reads")
            .asserts(["ENC-012", "ENC-015", "ENC-034", "ENC-035", "ENC-037", "ENC-053"])
            .needs([NodesExec, EtcdAccess])
            .within(SCENARIO)
            .observe(three_generations(&["key2", "key1"]))
            .expect(at_the_end(&[
                ("old", Is::Clear),
                ("first", Is::Behind(PREFIX)),
                ("second", Is::Behind("k8s:enc:aescbc:v1:key2:")),
            ]))
            .sabotage_input("key1 is taken off the list", three_generations(&["key2"]), finds("unreadable"))
            .recorded("good", recorded!("the-first-provider-writes-and-every-provider-reads.good"), None)
            .recorded(
                "unreadable",
                recorded!("the-first-provider-writes-and-every-provider-reads.unreadable"),
                Some("unreadable"),
            )
            .remedy("keep every key that values in etcd still name, and identity last until all are rewritten"),
        check("encryption.a-rewrite-encrypts-what-was-in-clear")
            .asserts(["ENC-055", "ENC-036"])
            .needs([NodesExec, EtcdAccess])
            .within(SCENARIO)
            .observe(rotation().rewrites("old").phase([keys("aescbc", &["key2"])]))
            .expect(at_the_end(&[("old", Is::Behind("k8s:enc:aescbc:v1:key2:"))]))
            .sabotage_omitting(
                "the old key is removed before the rewrite",
                rotation().phase([keys("aescbc", &["key2"])]),
                finds("unreadable"),
            )
            .recorded("good", recorded!("a-rewrite-encrypts-what-was-in-clear.good"), None)
            .recorded("unreadable", recorded!("a-rewrite-encrypts-what-was-in-clear.unreadable"), Some("unreadable"))
            .remedy("rewrite every Secret before a key or identity is taken off the list"),
        check("encryption.secretbox-writes-and-reads")
            .asserts(["ENC-019"])
            .needs([NodesExec, EtcdAccess])
            .within(SCENARIO)
            .observe(scenario().phase([keys("secretbox", &["key1"]), With::Identity]).writes("boxed"))
            .expect(at_the_end(&[("boxed", Is::Behind("k8s:enc:secretbox:v1:key1:"))]))
            .sabotage_input(
                "aescbc is the first provider",
                scenario().phase([keys("aescbc", &["key1"]), With::Identity]).writes("boxed"),
                finds("other-prefix"),
            )
            .recorded("good", recorded!("secretbox-writes-and-reads.good"), None)
            .recorded("other-prefix", recorded!("secretbox-writes-and-reads.other-prefix"), Some("other-prefix"))
            .remedy("put secretbox first in the list of providers"),
        check("encryption.a-key-of-twenty-bytes-is-refused")
            .asserts(["ENC-014"])
            .needs([NodesExec, EtcdAccess])
            .within(SCENARIO)
            .observe(scenario().phase([key_of("aescbc", "key1", 20), With::Identity]))
            .expect(refuses_to_start("expected one of"))
            .sabotage_input(
                "a key of 32 bytes",
                scenario().phase([key_of("aescbc", "key1", 32), With::Identity]),
                finds("did-start"),
            )
            .recorded("good", recorded!("a-key-of-twenty-bytes-is-refused.good"), None)
            .recorded("did-start", recorded!("a-key-of-twenty-bytes-is-refused.did-start"), Some("did-start"))
            .remedy("make the key with: head -c 32 /dev/urandom | base64"),
    ]
}

/// A Secret from before encryption, one under key1, and one under key2; at the end the apiserver knows these keys.
fn three_generations(at_the_end: &[&'static str]) -> shakedown_words::scratch::Scenario {
    scenario()
        .phase([])
        .writes("old")
        .phase([keys("aescbc", &["key1"]), With::Identity])
        .writes("first")
        .phase([keys("aescbc", at_the_end), With::Identity])
        .writes("second")
}

/// A Secret under key1, and key2 put first.
fn rotation() -> shakedown_words::scratch::Scenario {
    scenario()
        .phase([keys("aescbc", &["key1"]), With::Identity])
        .writes("old")
        .phase([keys("aescbc", &["key2", "key1"]), With::Identity])
}
