//! What etcd really holds: the raw values of keys, read from each member's own database, kept as prefix, length and
//! hash. No value enters an observation.

use std::collections::BTreeMap;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use futures::future::join_all;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};
use shakedown_core::{Finding, Judgement, Observation, Resource, Touches, UndoStep};
use shakedown_engine::{Cx, Expect, ObserveError, PlantError, Prepared, Probe, Sabotage, expect_fn};

use crate::etcd;
use crate::node_command::{Which, first_control_plane};
use crate::platform::Platform;

/// What all encrypted values begin with.
const ENCRYPTED: &[u8] = b"k8s:enc:";

/// A raw value without its content.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RawValue {
    /// `k8s:enc:PROVIDER:VERSION:KEY:` of an encrypted value; otherwise its first four bytes, escaped.
    pub prefix: String,
    /// Bytes.
    pub length: usize,
    /// Of its bytes, in hex.
    pub sha256: String,
    /// Revision of its last write.
    pub revision: u64,
    /// Entropy of what follows the prefix, bits per byte (8 is noise).
    pub entropy: f64,
    /// Which of the texts looked for it holds in clear.
    pub clear: Vec<String>,
}

impl RawValue {
    /// Looks at a value, and for each of the texts in it.
    pub fn of(bytes: &[u8], revision: u64, texts: &[&str]) -> Self {
        let prefix = prefix_of(bytes);
        let body = if bytes.starts_with(ENCRYPTED) { &bytes[prefix.len()..] } else { bytes };
        let holds = |text: &&&str| bytes.windows(text.len()).any(|part| part == text.as_bytes());
        Self {
            length: bytes.len(),
            sha256: Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect(),
            revision,
            entropy: (entropy(body) * 100.0).round() / 100.0,
            clear: texts.iter().filter(holds).map(|text| (*text).to_owned()).collect(),
            prefix,
        }
    }

    /// Whether it is encrypted at all.
    pub fn is_encrypted(&self) -> bool {
        self.prefix.as_bytes().starts_with(ENCRYPTED)
    }
}

/// The part up to and including the colon after the key's name; of anything else no more than its format's mark.
fn prefix_of(bytes: &[u8]) -> String {
    let end = bytes.iter().enumerate().filter(|(_, byte)| **byte == b':').nth(4).map(|(at, _)| at + 1);
    match end {
        Some(end) if bytes.starts_with(ENCRYPTED) => bytes[..end].escape_ascii().to_string(),
        _ => bytes.iter().take(4).copied().collect::<Vec<u8>>().escape_ascii().to_string(),
    }
}

/// Shannon's entropy, bits per byte.
fn entropy(bytes: &[u8]) -> f64 {
    let mut counts = [0_usize; 256];
    for byte in bytes {
        counts[usize::from(*byte)] += 1;
    }
    let total = bytes.len() as f64;
    counts.iter().filter(|count| **count > 0).map(|count| *count as f64 / total).map(|p| -p * p.log2()).sum()
}

/// What one member holds below the prefix.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Held {
    /// Why it gave no answer.
    pub silent: Option<String>,
    /// Key to value.
    pub values: BTreeMap<String, RawValue>,
}

/// What all members hold, and what the API says there is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RawBytes {
    /// Prefix of the keys.
    pub below: String,
    /// Keys that the API's list of objects stands for.
    pub in_api: Vec<String>,
    /// Control plane to what its member holds.
    pub members: BTreeMap<String, Held>,
}

impl Observation for RawBytes {
    const SCHEMA: &'static str = "etcd-raw/1";
}

/// Reads raw values of a kind from every member.
pub struct ReadRaw {
    kind: &'static str,
    plural: &'static str,
    texts: Vec<&'static str>,
}

/// Reads every value of a core kind from every member's own database.
pub fn raw_values_of(kind: &'static str, plural: &'static str) -> ReadRaw {
    ReadRaw { kind, plural, texts: vec![] }
}

/// Reads every Secret's value from every member's own database.
pub fn raw_secrets() -> ReadRaw {
    raw_values_of("Secret", "secrets")
}

impl ReadRaw {
    /// Says which of these texts are found in clear.
    #[must_use]
    pub fn looking_for(mut self, texts: impl IntoIterator<Item = &'static str>) -> Self {
        self.texts.extend(texts);
        self
    }

    async fn listed(&self, platform: &Platform, below: &str) -> Result<Vec<String>, ObserveError> {
        let objects = platform.list("v1", self.kind, None, None).await.map_err(ObserveError::no_ground)?;
        Ok(objects
            .iter()
            .filter_map(|o| Some((o["metadata"]["namespace"].as_str()?, o["metadata"]["name"].as_str()?)))
            .map(|(namespace, name)| format!("{below}{namespace}/{name}"))
            .collect())
    }
}

impl Probe<Platform> for ReadRaw {
    type Seen = RawBytes;

    fn touches(&self) -> Touches {
        Touches::nothing().reads(Resource::Etcd)
    }

    async fn observe(&self, platform: &Platform, _cx: &Cx) -> Result<RawBytes, ObserveError> {
        let below = format!("/registry/{}/", self.plural);
        let before = self.listed(platform, &below).await?;
        let names = Which::ControlPlanes.on(platform);
        let reads = names.iter().map(|node| read(platform, node, &below, &self.texts));
        let mut members = BTreeMap::new();
        for (node, held) in names.iter().zip(join_all(reads).await) {
            members.insert(node.clone(), held.map_err(ObserveError::no_ground)?);
        }
        // What came or went meanwhile is nobody's defect.
        let after = self.listed(platform, &below).await?;
        let in_api = before.into_iter().filter(|key| after.contains(key)).collect();
        Ok(RawBytes { below, in_api, members })
    }
}

/// Reads values from the member's own database: a serializable read does not ask the others.
async fn read(
    platform: &Platform,
    node: &str,
    below: &str,
    texts: &[&str],
) -> Result<Held, crate::machine::MachineError> {
    let argv = etcd::etcdctl(&["get", below, "--prefix", "--consistency=s", "-w", "json"]);
    let output = platform.machine(node)?.exec(&argv, &[], std::time::Duration::from_secs(30)).await?;
    if output.code != 0 {
        return Ok(Held { silent: Some(output.complaint()), values: BTreeMap::new() });
    }
    Ok(match understand(&output.stdout, texts) {
        Ok(values) => Held { silent: None, values },
        Err(why) => Held { silent: Some(why), values: BTreeMap::new() },
    })
}

fn understand(json: &[u8], texts: &[&str]) -> Result<BTreeMap<String, RawValue>, String> {
    let answer: Value = serde_json::from_slice(json).map_err(|e| e.to_string())?;
    let decode = |value: &Value| {
        BASE64_STANDARD.decode(value.as_str().unwrap_or_default()).map_err(|e| format!("not base64: {e}"))
    };
    let mut values = BTreeMap::new();
    for pair in answer["kvs"].as_array().into_iter().flatten() {
        let key = String::from_utf8_lossy(&decode(&pair["key"])?).into_owned();
        let revision = pair["mod_revision"].as_u64().unwrap_or_default();
        values.insert(key, RawValue::of(&decode(&pair["value"])?, revision, texts));
    }
    Ok(values)
}

/// On all of `members` members every value begins with this prefix, holds none of the texts looked for, and there is
/// one for each object of the API.
pub fn all_begin_with(prefix: &'static str, members: usize) -> impl Expect<RawBytes> {
    expect_fn(move |seen: &RawBytes| {
        let (mut found, mut silent) = (vec![], vec![]);
        if seen.members.len() != members {
            let message = format!("{} members were read, {members} expected", seen.members.len());
            found.push(Finding::new("member-count", "etcd", message));
        }
        if seen.in_api.is_empty() {
            return Judgement::Inconclusive(format!("the API has no object below {}", seen.below));
        }
        for (node, held) in &seen.members {
            if let Some(why) = &held.silent {
                silent.push(format!("{node}: {why}"));
                continue;
            }
            for (key, value) in &held.values {
                let subject = format!("{node}{key}");
                if !value.is_encrypted() {
                    found.push(Finding::new("stored-in-clear", &subject, format!("begins with {}", value.prefix)));
                } else if value.prefix != prefix {
                    found.push(Finding::new("other-prefix", &subject, format!("{} and not {prefix}", value.prefix)));
                }
                found.extend(value.clear.iter().map(|text| {
                    Finding::new("text-in-clear", &subject, format!("`{text}` can be read in the raw value"))
                }));
            }
            let missing = seen.in_api.iter().filter(|key| !held.values.contains_key(*key));
            found.extend(missing.map(|key| Finding::new("key-missing", format!("{node}{key}"), "the API has it")));
        }
        // What a silent member holds is not known, and that it is silent is for the checks of etcd to report.
        if found.is_empty() && !silent.is_empty() {
            return Judgement::Inconclusive(format!("silent members: {}", silent.join("; ")));
        }
        Judgement::from_findings(found)
    })
}

/// One Secret stored in clear, written past the apiservers.
pub struct StoredInClear;

/// Writes one more Secret in clear straight into etcd, as a control plane without the configuration would.
pub fn a_secret_stored_in_clear() -> StoredInClear {
    StoredInClear
}

const CLEAR_KEY: &str = "/registry/secrets/default/shakedown-in-clear";
/// The apiserver reads JSON from its storage as well as its own binary form.
const CLEAR_VALUE: &str = r#"{"apiVersion":"v1","kind":"Secret","metadata":{"name":"shakedown-in-clear","namespace":"default","uid":"5d1f0000-0000-4000-8000-000000000001","creationTimestamp":"2026-01-01T00:00:00Z"},"type":"Opaque","data":{"marker":"cGxhbnRlZA=="}}"#;

impl Sabotage<Platform> for StoredInClear {
    type Choice = String;

    fn describe(&self) -> String {
        format!("{CLEAR_KEY} is written to etcd without encryption")
    }

    fn touches(&self) -> Touches {
        Touches::nothing().writes(Resource::Etcd)
    }

    async fn prepare(&self, platform: &Platform) -> Result<Prepared<Self::Choice>, PlantError> {
        let node = first_control_plane(platform).map_err(PlantError::new)?;
        let held = etcd::change(platform, &node, &["get", CLEAR_KEY, "--count-only", "-w", "fields"]).await;
        let held = held.map_err(PlantError::new)?;
        if !held.stdout.contains("\"Count\" : 0") {
            return Err(PlantError::new(format!("{CLEAR_KEY} is there already, or etcd is silent: {}", held.brief())));
        }
        let argv = etcd::etcdctl_change(&["del", CLEAR_KEY]);
        let undo = vec![UndoStep::RunOnNode { node: node.clone(), argv, tolerate_failure: false }];
        Ok(Prepared::new(node, undo))
    }

    async fn plant(&self, platform: &Platform, node: &String) -> Result<(), PlantError> {
        let put = etcd::change(platform, node, &["put", CLEAR_KEY, CLEAR_VALUE]).await.map_err(PlantError::new)?;
        if !put.ok() {
            return Err(PlantError::new(put.brief()));
        }
        let back =
            etcd::change(platform, node, &["get", CLEAR_KEY, "--print-value-only"]).await.map_err(PlantError::new)?;
        if back.stdout == CLEAR_VALUE { Ok(()) } else { Err(PlantError::new("the value did not come back as written")) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PREFIX: &str = "k8s:enc:aescbc:v1:key1:";

    #[test]
    fn an_encrypted_value_shows_its_key_and_nothing_else() {
        let bytes: Vec<u8> = PREFIX.bytes().chain((0..=255).map(|n: u8| n.wrapping_mul(151))).collect();
        let value = RawValue::of(&bytes, 7, &["password"]);
        assert_eq!((value.prefix.as_str(), value.length, value.entropy), (PREFIX, PREFIX.len() + 256, 8.0));
        assert!(value.is_encrypted() && value.clear.is_empty());
    }

    #[test]
    fn a_clear_value_keeps_four_bytes_only() {
        let value = RawValue::of(b"k8s\0\n\x0c\n\x02v1\x12\x06Secret MyP@ssw0rd", 7, &["MyP@ssw0rd", "sk_live"]);
        assert_eq!(value.prefix, "k8s\\x00");
        assert_eq!(value.clear, ["MyP@ssw0rd"]);
        assert!(!serde_json::to_string(&value).unwrap().contains("Secret"));
    }

    #[test]
    fn what_only_looks_like_a_prefix_is_cut() {
        assert_eq!(RawValue::of(b"k8s:enc:tail without colons", 1, &[]).prefix, "k8s:");
        assert_eq!(RawValue::of(b"", 1, &[]).prefix, "");
    }

    fn seen(prefix: &str) -> RawBytes {
        let bytes: Vec<u8> = prefix.bytes().chain(*b"noise").collect();
        let values = BTreeMap::from([("/registry/secrets/a/b".to_owned(), RawValue::of(&bytes, 1, &["noise"]))]);
        let members = ["cp-1", "cp-2"].map(|n| (n.to_owned(), Held { silent: None, values: values.clone() }));
        RawBytes {
            below: "/registry/secrets/".into(),
            in_api: vec!["/registry/secrets/a/b".into()],
            members: members.into(),
        }
    }

    fn codes(seen: &RawBytes) -> Vec<String> {
        match all_begin_with(PREFIX, 2).judge(seen) {
            Judgement::Fail(found) => found.into_iter().map(|f| f.code).collect(),
            other => vec![format!("{other:?}")],
        }
    }

    #[test]
    fn every_defect_has_its_code() {
        let mut good = seen(PREFIX);
        good.members.values_mut().for_each(|m| m.values.values_mut().for_each(|v| v.clear.clear()));
        assert_eq!(all_begin_with(PREFIX, 2).judge(&good), Judgement::Pass);
        assert_eq!(codes(&seen(PREFIX)), ["text-in-clear", "text-in-clear"]);
        let mut other = good.clone();
        other
            .members
            .get_mut("cp-2")
            .unwrap()
            .values
            .values_mut()
            .for_each(|v| v.prefix = "k8s:enc:aescbc:v1:key2:".into());
        assert_eq!(codes(&other), ["other-prefix"]);
        let mut clear = good.clone();
        clear.members.get_mut("cp-1").unwrap().values.values_mut().for_each(|v| v.prefix = "k8s\\x00".into());
        assert_eq!(codes(&clear), ["stored-in-clear"]);
        let mut missing = good.clone();
        missing.members.get_mut("cp-1").unwrap().values.clear();
        assert_eq!(codes(&missing), ["key-missing"]);
        let mut silent = good.clone();
        silent.members.get_mut("cp-1").unwrap().silent = Some("refused".into());
        assert!(codes(&silent)[0].starts_with("Inconclusive"));
        let mut nothing = good;
        nothing.in_api.clear();
        assert!(codes(&nothing)[0].starts_with("Inconclusive"));
    }

    #[test]
    fn an_answer_is_understood() {
        let json = br#"{"header":{},"kvs":[{"key":"L3JlZ2lzdHJ5L3NlY3JldHMvYS9i","mod_revision":9,"value":"azhzAA=="}],"count":1}"#;
        let values = understand(json, &[]).unwrap();
        assert_eq!(values["/registry/secrets/a/b"].revision, 9);
        assert!(understand(b"{", &[]).is_err());
    }
}
