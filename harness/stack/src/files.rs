//! Files that converge puts on the nodes: containerd's `hosts.toml`, the encryption configuration, the audit policy.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;

use crate::manifest_edit::{Additions, HostPath, HostPathKind};
use crate::names;

/// The audit policy. Levels are chosen so that no Secret's content can get into the log (ENC-067).
pub const AUDIT_POLICY: &str = include_str!("manifests/audit-policy.yaml");

/// Bytes of an AES-256 key (ENC-031).
pub const KEY_LENGTH: usize = 32;

/// Path of the `hosts.toml` of a registry (REG-037).
pub fn hosts_toml_path(registry: &str) -> String {
    format!("{}/{registry}/hosts.toml", names::CERTS_D)
}

/// The documented `hosts.toml` (REG-038) of a registry given as `ADDRESS:PORT`.
pub fn hosts_toml(registry: &str) -> String {
    format!(
        "server = \"http://{registry}\"\n\
         [host.\"http://{registry}\"]\n  \
           capabilities = [\"pull\", \"resolve\", \"push\"]\n  \
           skip_verify = true\n"
    )
}

/// The documented encryption configuration (ENC-032) with this key.
pub fn encryption_config(key: &[u8; KEY_LENGTH]) -> String {
    format!(
        "apiVersion: apiserver.config.k8s.io/v1\n\
         kind: EncryptionConfiguration\n\
         resources:\n\
         - resources: [secrets]\n  \
           providers:\n  \
           - aescbc:\n      \
               keys:\n      \
               - name: {name}\n        \
                 secret: {secret}\n  \
           - identity: {{}}\n",
        name = names::ENCRYPTION_KEY,
        secret = STANDARD.encode(key),
    )
}

/// The way back: what is written is plain, what was encrypted with the key can still be read.
pub fn decryption_config(key: &[u8; KEY_LENGTH]) -> String {
    let config = encryption_config(key);
    let identity = "  - identity: {}\n";
    config.replace(identity, "").replace("  providers:\n", &format!("  providers:\n{identity}"))
}

/// The key in an encryption configuration of the documented form: none where the form is another.
pub fn key_of(config: &str) -> Option<[u8; KEY_LENGTH]> {
    #[derive(Deserialize)]
    struct Config {
        resources: Vec<Resource>,
    }
    #[derive(Deserialize)]
    struct Resource {
        providers: Vec<Provider>,
    }
    #[derive(Deserialize)]
    struct Provider {
        aescbc: Option<Aescbc>,
    }
    #[derive(Deserialize)]
    struct Aescbc {
        keys: Vec<Key>,
    }
    #[derive(Deserialize)]
    struct Key {
        name: String,
        secret: String,
    }
    let config: Config = serde_yaml_ng::from_str(config).ok()?;
    let first = config.resources.into_iter().next()?.providers.into_iter().next()?.aescbc?.keys.into_iter().next()?;
    if first.name != names::ENCRYPTION_KEY {
        return None;
    }
    STANDARD.decode(first.secret).ok()?.try_into().ok()
}

/// What the apiserver's manifest gets for auditing and encryption (ENC-039 to ENC-041).
pub fn apiserver_additions() -> Additions {
    let host = |name: &str, path: &str, kind, read_only| HostPath {
        name: name.to_owned(),
        path: path.to_owned(),
        kind,
        read_only,
    };
    let log_dir = names::AUDIT_LOG.rsplit_once('/').map_or("/", |(dir, _)| dir);
    Additions {
        args: vec![
            format!("--encryption-provider-config={}", names::ENCRYPTION_CONFIG),
            format!("--audit-policy-file={}", names::AUDIT_POLICY),
            format!("--audit-log-path={}", names::AUDIT_LOG),
            // Bounds on the log's size: three files of 100 MiB at most, a week at most.
            "--audit-log-maxage=7".to_owned(),
            "--audit-log-maxbackup=2".to_owned(),
            "--audit-log-maxsize=100".to_owned(),
        ],
        paths: vec![
            host("encryption-config", names::ENCRYPTION_CONFIG, HostPathKind::File, true),
            host("audit-policy", names::AUDIT_POLICY, HostPathKind::File, true),
            host("audit-log", log_dir, HostPathKind::DirectoryOrCreate, false),
        ],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_toml_is_the_documented_one() {
        assert_eq!(hosts_toml_path("10.0.24.28:30002"), "/etc/containerd/certs.d/10.0.24.28:30002/hosts.toml");
        insta::assert_snapshot!(hosts_toml("10.0.24.28:30002"));
    }

    #[test]
    fn the_encryption_configuration_is_the_documented_one_and_keeps_its_key() {
        let key = [7u8; KEY_LENGTH];
        insta::assert_snapshot!(encryption_config(&key));
        assert_eq!(key_of(&encryption_config(&key)), Some(key));
    }

    #[test]
    fn the_way_back_writes_plain_and_reads_with_the_key() {
        insta::assert_snapshot!(decryption_config(&[7u8; KEY_LENGTH]));
        assert_eq!(key_of(&decryption_config(&[7u8; KEY_LENGTH])), None);
    }

    #[test]
    fn another_configuration_is_not_taken_for_ours() {
        let config = encryption_config(&[7u8; KEY_LENGTH]);
        assert_eq!(key_of(&config.replace("key1", "key2")), None);
        assert_eq!(key_of(&config.replace("BwcH", "B")), None);
        assert_eq!(key_of("kind: x"), None);
    }

    #[test]
    fn the_apiserver_reads_both_files_and_edits_stay_idempotent() {
        let manifest = include_str!("../tests/kube-apiserver.yaml");
        let once = apiserver_additions().apply(manifest).unwrap();
        assert_eq!(apiserver_additions().apply(&once).unwrap(), once);
        insta::assert_snapshot!(once);
    }
}
