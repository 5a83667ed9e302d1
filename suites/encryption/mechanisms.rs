//! What an encryption configuration does, shown on a scratch apiserver and etcd of their own.

use std::time::Duration;

use shakedown_core::Capability::{EtcdAccess, NodesExec};
use shakedown_engine::{Check, Tag, check, finds};
use shakedown_words::Platform;
use shakedown_words::scratch::{Is, Scenario, With, at_the_end, key_of, keys, refuses_to_start, scenario};

use super::encryption::PREFIX;

/// What values under the second key begin with.
const SECOND: &str = "k8s:enc:aescbc:v1:key2:";
/// The documented Secret (ENC-027), and what can be read of it in etcd without encryption (ENC-029).
const PAIRS: &[&str] = &["password", "MyP@ssw0rd_BeforeEncryption", "api_key", "sk_live_1234567890abcdef"];
const READABLE: &[&str] = &["password", "MyP@ssw0rd_BeforeEncryption", "api_key", "sk_live_1234567890abcdef", "Opaque"];
/// How long a scenario on a scratch pair may take: it starts an apiserver for each of its phases.
const SCENARIO: Duration = Duration::from_secs(300);
/// An apiserver that reads its configuration again looks for changes once a minute.
const RELOAD_SECONDS: u32 = 75;

/// The checks of mechanisms.
pub fn checks() -> Vec<Check<Platform>> {
    vec![
        without_a_configuration(),
        identity_first(),
        first_writes_every_reads(),
        rewrite_encrypts(),
        backup_needs_the_key(),
        aescbc_has_no_tag(),
        aesgcm_notices_a_flipped_bit(),
        secretbox(),
        listed_kinds(),
        key_of_twenty_bytes(),
        missing_file(),
        restart_is_needed(),
    ]
}

fn aescbc(names: &[&'static str]) -> [With; 2] {
    [keys("aescbc", names), With::Identity]
}

fn without_a_configuration() -> Check<Platform> {
    let stolen = || scenario().holding(PAIRS);
    check("encryption.without-a-configuration-secrets-can-be-read-in-etcd")
        .asserts(["ENC-002", "ENC-004", "ENC-009", "ENC-011", "ENC-029", "ENC-030"])
        .contradicts(["ENC-010"])
        .needs([NodesExec, EtcdAccess])
        .within(SCENARIO)
        .observe(stolen().phase([]).writes("one").writes("two").dumps())
        .expect(at_the_end(&[("one", Is::ClearWith(READABLE)), ("two", Is::Clear)]).and_a_dump_shows(&["one", "two"]))
        .sabotage_input(
            "aescbc is the first provider",
            stolen().phase(aescbc(&["key1"])).writes("one").writes("two").dumps(),
            finds("not-in-clear"),
        )
        .remedy("this is what the apiserver does; if it fails, it was given a configuration")
}

fn identity_first() -> Check<Platform> {
    check("encryption.identity-as-first-provider-stores-in-clear")
        .asserts(["ENC-016"])
        .needs([NodesExec, EtcdAccess])
        .within(SCENARIO)
        .observe(scenario().phase([With::Identity, keys("aescbc", &["key1"])]).writes("plain"))
        .expect(at_the_end(&[("plain", Is::Clear)]))
        .sabotage_input(
            "aescbc is the first provider",
            scenario().phase(aescbc(&["key1"])).writes("plain"),
            finds("not-in-clear"),
        )
        .remedy("put the provider that is to write first in /etc/kubernetes/encryption-config.yaml")
}

/// A Secret from before encryption, one under key1, and one under key2; at the end the apiserver knows these keys.
fn three_generations(at_the_end: &[&'static str]) -> Scenario {
    scenario()
        .phase([])
        .writes("old")
        .phase(aescbc(&["key1"]))
        .writes("first")
        .phase(aescbc(at_the_end))
        .writes("second")
}

fn first_writes_every_reads() -> Check<Platform> {
    check("encryption.the-first-provider-writes-and-every-provider-reads")
        .asserts(["ENC-012", "ENC-015", "ENC-034", "ENC-035", "ENC-037", "ENC-053"])
        .needs([NodesExec, EtcdAccess])
        .within(SCENARIO)
        .observe(three_generations(&["key2", "key1"]))
        .expect(at_the_end(&[("old", Is::Clear), ("first", Is::Behind(PREFIX)), ("second", Is::Behind(SECOND))]))
        .sabotage_input("key1 is taken off the list", three_generations(&["key2"]), finds("unreadable"))
        .remedy("keep every key that values in etcd still name, and identity last until all are rewritten")
}

fn rewrite_encrypts() -> Check<Platform> {
    // A Secret under key1, and key2 put first.
    let rotation = || scenario().phase(aescbc(&["key1"])).writes("old").phase(aescbc(&["key2", "key1"]));
    check("encryption.a-rewrite-encrypts-what-was-in-clear")
        .asserts(["ENC-055", "ENC-036"])
        .needs([NodesExec, EtcdAccess])
        .within(SCENARIO)
        .observe(rotation().rewrites("old").phase([keys("aescbc", &["key2"])]))
        .expect(at_the_end(&[("old", Is::Behind(SECOND))]))
        .sabotage_omitting(
            "the old key is removed before the rewrite",
            rotation().phase([keys("aescbc", &["key2"])]),
            finds("unreadable"),
        )
        .remedy("rewrite every Secret before a key or identity is taken off the list")
}

fn backup_needs_the_key() -> Check<Platform> {
    let encrypted = || scenario().phase([]).writes("old").phase(aescbc(&["key1"])).rewrites("old").writes("new");
    let taken = |scenario: Scenario| {
        scenario
            .dumps()
            .opens("old", "key1")
            .opens("old", "key2")
            .phase(aescbc(&["key2"]))
            .restored()
            .phase(aescbc(&["key1"]))
            .restored()
    };
    check("encryption.a-backup-after-the-rewrite-needs-the-key")
        .asserts(["ENC-060", "ENC-062"])
        .needs([NodesExec, EtcdAccess])
        .within(SCENARIO)
        .observe(taken(encrypted().compacts()))
        .expect(
            at_the_end(&[("old", Is::Behind(PREFIX)), ("new", Is::Behind(PREFIX))])
                .and_after_phase(3, &[("old", Is::Lost(PREFIX)), ("new", Is::Lost(PREFIX))])
                .and_a_dump_hides(&["old", "new"])
                .and_opens("old with key1")
                .and_stays_shut("old with key2"),
        )
        .sabotage_omitting("old revisions are not compacted before the snapshot", taken(encrypted()), finds("in-dump"))
        .remedy("after the rewrite compact and defragment etcd, and throw older backups away; keep the key elsewhere")
}

fn aescbc_has_no_tag() -> Check<Platform> {
    check("encryption.aescbc-is-cbc-and-carries-no-authentication-tag")
        .contradicts(["ENC-017"])
        .needs([NodesExec, EtcdAccess])
        .within(SCENARIO)
        .observe(scenario().phase(aescbc(&["key1"])).writes("boxed").opens("boxed", "key1"))
        .expect(at_the_end(&[("boxed", Is::Behind(PREFIX))]).and_opens("boxed with key1"))
        .sabotage_input(
            "aesgcm wrote the value",
            scenario().phase([keys("aesgcm", &["key1"]), With::Identity]).writes("boxed").opens("boxed", "key1"),
            finds("stays-shut"),
        )
        .remedy("where changed bytes must be noticed take secretbox, aesgcm with frequent rotation, or KMS")
}

fn aesgcm_notices_a_flipped_bit() -> Check<Platform> {
    const GCM: &str = "k8s:enc:aesgcm:v1:key1:";
    let bent = |provider| {
        scenario()
            .phase([keys(provider, &["key1"]), With::Identity])
            .writes("whole")
            .writes("bent")
            .flips_a_bit_of("bent")
    };
    check("encryption.aesgcm-refuses-a-value-with-a-flipped-bit")
        .asserts(["ENC-018"])
        .needs([NodesExec, EtcdAccess])
        .within(SCENARIO)
        .observe(bent("aesgcm"))
        .expect(at_the_end(&[("whole", Is::Behind(GCM)), ("bent", Is::Lost(GCM))]))
        .sabotage_input("aescbc is the first provider", bent("aescbc"), finds("other-prefix"))
        .remedy("put aesgcm first in the list of providers, and rotate its key often")
}

fn secretbox() -> Check<Platform> {
    check("encryption.secretbox-writes-and-reads")
        .asserts(["ENC-019"])
        .needs([NodesExec, EtcdAccess])
        .within(SCENARIO)
        .observe(scenario().phase([keys("secretbox", &["key1"]), With::Identity]).writes("boxed"))
        .expect(at_the_end(&[("boxed", Is::Behind("k8s:enc:secretbox:v1:key1:"))]))
        .sabotage_input(
            "aescbc is the first provider",
            scenario().phase(aescbc(&["key1"])).writes("boxed"),
            finds("other-prefix"),
        )
        .remedy("put secretbox first in the list of providers")
}

fn listed_kinds() -> Check<Platform> {
    let kinds = |resources: &[&'static str]| {
        scenario()
            .of_resources(resources)
            .phase(aescbc(&["key1"]))
            .writes("secret")
            .writes("configmaps/listed")
            .writes("persistentvolumeclaims/listed")
            .writes("serviceaccounts/unlisted")
    };
    check("encryption.every-listed-kind-is-encrypted-and-no-other")
        .asserts(["ENC-013", "ENC-066"])
        .needs([NodesExec, EtcdAccess])
        .within(SCENARIO)
        .observe(kinds(&["secrets", "configmaps", "persistentvolumeclaims"]))
        .expect(at_the_end(&[
            ("secret", Is::Behind(PREFIX)),
            ("configmaps/listed", Is::Behind(PREFIX)),
            ("persistentvolumeclaims/listed", Is::Behind(PREFIX)),
            ("serviceaccounts/unlisted", Is::Clear),
        ]))
        .sabotage_input(
            "configmaps are not listed, persistentvolumeclaims only in the singular",
            kinds(&["secrets", "persistentvolumeclaim"]),
            finds("other-prefix"),
        )
        .remedy("list each kind by its plural under resources")
}

fn key_of_twenty_bytes() -> Check<Platform> {
    // Good phases before it: a refusal is quicker than a start, and the control has to fit into the baseline's time.
    let good = || scenario().phase(aescbc(&["key1"])).phase(aescbc(&["key1"]));
    let key = |bytes| good().phase([key_of("aescbc", "key2", bytes), With::Identity]);
    check("encryption.a-key-of-twenty-bytes-is-refused")
        .asserts(["ENC-014"])
        .needs([NodesExec, EtcdAccess])
        .within(SCENARIO)
        .observe(key(20))
        .expect(refuses_to_start("expected one of"))
        .sabotage_input("a key of 32 bytes", key(32), finds("did-start"))
        .remedy("make the key with: head -c 32 /dev/urandom | base64")
}

fn missing_file() -> Check<Platform> {
    let thrice = || scenario().phase(aescbc(&["key1"])).phase(aescbc(&["key1"])).phase(aescbc(&["key1"]));
    check("encryption.an-apiserver-without-its-configuration-file-does-not-start")
        .asserts(["ENC-040"])
        .needs([NodesExec, EtcdAccess])
        .within(SCENARIO)
        .observe(thrice().without_the_file())
        .expect(refuses_to_start("no such file or directory"))
        .sabotage_input("the file is there", thrice(), finds("did-start"))
        .remedy("mount /etc/kubernetes/encryption-config.yaml into the apiserver's container, read-only")
}

fn restart_is_needed() -> Check<Platform> {
    let changed = |scenario: Scenario| {
        scenario
            .writes("first")
            .reconfigures(aescbc(&["key2", "key1"]), RELOAD_SECONDS)
            .writes("second")
            .phase(aescbc(&["key2", "key1"]))
            .writes("third")
    };
    let start = || scenario().phase(aescbc(&["key1"]));
    check("encryption.a-changed-configuration-needs-a-restart")
        .asserts(["ENC-024"])
        .needs([NodesExec, EtcdAccess])
        .tag(Tag::Slow)
        .within(SCENARIO)
        .observe(changed(start()))
        .expect(at_the_end(&[
            ("first", Is::Behind(PREFIX)),
            ("second", Is::Behind(PREFIX)),
            ("third", Is::Behind(SECOND)),
        ]))
        .sabotage_input(
            "the apiserver reads its configuration again whenever it changes",
            changed(start().reloading()),
            finds("other-prefix"),
        )
        .remedy("restart the apiserver after its encryption configuration was changed")
}
