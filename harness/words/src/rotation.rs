//! A rotation of the key on all control planes: the new key becomes known everywhere, then it writes, every Secret is
//! rewritten, the old key goes (ENC-064). And the way back, to the files as they were found.
//!
//! What was written under the new key can be read with it only, so the way back is more than putting files back: it is an
//! undo of its own, which finds the new key in the files that the control planes have at that moment. No key enters the
//! journal: what was found stays on each node, beside its own files, until it is in place again.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use futures::future::{BoxFuture, join_all};
use futures::{StreamExt, TryStreamExt};
use http::Method;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use shakedown_core::{Finding, Judgement, Observation, Resource, Touches, UndoStep};
use shakedown_engine::{Cx, Expect, ObserveError, Probe, WorldError, expect_fn};

use crate::api::Ask;
use crate::encryption_config::{FILE, MANIFEST};
use crate::machine::FileFound;
use crate::node_command::{Which, first_control_plane, script};
use crate::objects::ObjectRef;
use crate::platform::Platform;
use crate::roll::{Streamed, roll, stream, with_argument};
use crate::rolling::namespace;
use crate::rotation_readers::{readers, secrets};
use crate::settled::{as_found, settled};

/// Name of the undo.
pub const WAY_BACK: &str = "encryption-as-found";
/// Where a node keeps what was found; gone when it is in place again.
const KEPT: &str = "/var/lib/shakedown-found";
/// The name of the new key.
const NEW: &str = "key2";
const COMMAND: Duration = Duration::from_secs(30);
/// Between two requests of the stream: whatever it wrote has to be rewritten.
const PAUSE: Duration = Duration::from_millis(500);
/// So many Secrets are rewritten at once.
const AT_ONCE: usize = 8;
/// How long the namespace of the stream may take to go: only once a controller manager leads again.
const NAMESPACE: Duration = Duration::from_secs(300);

/// After one part of a step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    /// `key1, key2 on cp-1`.
    pub what: String,
    /// Secrets written through one apiserver that another one could not read.
    pub unreadable: Vec<String>,
}

/// How it went.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rotation {
    /// In order.
    pub parts: Vec<Part>,
    /// Prefix of raw values to how many Secrets have it, at the end.
    pub prefixes: BTreeMap<String, usize>,
    /// Control planes whose file still names the old key at the end.
    pub old_key_on: Vec<String>,
    /// The stream through the documented endpoint.
    pub stream: Streamed,
    /// Good answers of each apiserver to a reader that got one Secret after the other throughout.
    pub read: BTreeMap<String, u32>,
    /// What an apiserver said when it could not decrypt them, told once each.
    pub not_decrypted: BTreeSet<String>,
}

impl Observation for Rotation {
    const SCHEMA: &'static str = "rotation/2";
}

/// Rotates, and goes back.
#[derive(Debug, Clone)]
pub struct Rotates {
    learns_first: bool,
}

/// The new key is known everywhere before it writes anywhere.
pub fn rotation() -> Rotates {
    Rotates { learns_first: true }
}

/// The new key writes on the first control plane before the others know it.
pub fn rotation_that_writes_too_early() -> Rotates {
    Rotates { learns_first: false }
}

type Keys = Vec<(String, String)>;

/// Names and values of the keys in a configuration.
pub(crate) fn keys_of(config: &[u8]) -> Keys {
    let config: Value = serde_yaml_ng::from_slice(config).unwrap_or_default();
    let keys = config["resources"][0]["providers"][0]["aescbc"]["keys"].as_array().cloned().unwrap_or_default();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    keys.iter().map(|key| (text(&key["name"]), text(&key["secret"]))).collect()
}

/// A configuration with these keys, first to last, and identity.
fn config_of(keys: &[(String, String)]) -> Vec<u8> {
    let keys: Vec<Value> = keys.iter().map(|(name, secret)| json!({"name": name, "secret": secret})).collect();
    let providers = json!([{"aescbc": {"keys": keys}}, {"identity": {}}]);
    let config = json!({
        "apiVersion": "apiserver.config.k8s.io/v1", "kind": "EncryptionConfiguration",
        "resources": [{"resources": ["secrets"], "providers": providers}],
    });
    config.to_string().into_bytes()
}

async fn file(platform: &Platform, node: &str, path: &str) -> Result<Option<FileFound>, String> {
    platform.machine(node).map_err(|e| e.to_string())?.read(path).await.map_err(|e| e.to_string())
}

async fn write(platform: &Platform, node: &str, path: &str, content: &[u8], mode: u32) -> Result<(), String> {
    platform.machine(node).map_err(|e| e.to_string())?.write(path, content, mode).await.map_err(|e| e.to_string())
}

/// Gives one control plane these keys and restarts its apiserver: its manifest says the same in other words each time.
async fn give(platform: &Platform, node: &str, keys: &[(String, String)]) -> Result<(), String> {
    let found = file(platform, node, &format!("{KEPT}/manifest")).await?;
    let found = found.ok_or_else(|| format!("{node} does not keep what was found"))?;
    let now = file(platform, node, MANIFEST).await?.map(|file| file.content).unwrap_or_default();
    let text = String::from_utf8_lossy(&found.content).into_owned();
    let other = (0..60).map(|n| with_argument(&text, &format!("--event-ttl={}m{}s", 60 - n, 60 * n)));
    let other = other.filter_map(Result::ok).find(|text| text.as_bytes() != now);
    let other = other.ok_or_else(|| format!("the manifest of {node} has no anchor"))?;
    write(platform, node, FILE, &config_of(keys), 0o600).await?;
    roll(platform, node, other.as_bytes(), found.mode, Instant::now()).await.map(drop).map_err(|e| e.to_string())
}

/// Reads every Secret and writes it back: it is stored under the first key.
async fn rewrite(platform: &Platform) -> Result<(), String> {
    let all = platform.list("v1", "Secret", None, None).await.map_err(|e| e.to_string())?;
    let one = async |secret: Value| -> Result<(), String> {
        let text = |field: &str| secret["metadata"][field].as_str().unwrap_or_default().to_owned();
        let object = ObjectRef::namespaced("v1", "Secret", &text("namespace"), &text("name"));
        let mut last = String::new();
        // Somebody else wrote it meanwhile: read anew.
        for _ in 0..20 {
            let Some(live) = platform.get(&object).await.map_err(|e| e.to_string())? else { return Ok(()) };
            let answer = platform.replace(&object, &live).await.map_err(|e| e.to_string())?;
            match answer.code {
                404 => return Ok(()),
                _ if answer.is_ok() => return Ok(()),
                409 => last = answer.message().to_owned(),
                _ => return Err(format!("rewriting {object}: {}", answer.message())),
            }
        }
        Err(format!("rewriting {object}: {last}"))
    };
    futures::stream::iter(all).map(one).buffer_unordered(AT_ONCE).try_collect().await
}

/// Prefixes of all raw values, counted.
async fn prefixes(platform: &Platform) -> Result<BTreeMap<String, usize>, String> {
    let node = first_control_plane(platform).map_err(|none| none.to_string())?;
    let argv = crate::etcd::etcdctl(&["get", "/registry/secrets/", "--prefix", "-w", "json"]);
    let output = platform.machine(&node).map_err(|e| e.to_string())?.exec(&argv, &[], COMMAND).await;
    let output = output.map_err(|e| e.to_string())?;
    let answer: Value = serde_json::from_slice(&output.stdout).map_err(|_| output.complaint())?;
    let mut counts = BTreeMap::new();
    for pair in answer["kvs"].as_array().into_iter().flatten() {
        let value = BASE64_STANDARD.decode(pair["value"].as_str().unwrap_or_default()).map_err(|e| e.to_string())?;
        *counts.entry(crate::raw_bytes::RawValue::of(&value, 0, &[]).prefix).or_default() += 1;
    }
    Ok(counts)
}

/// Writes a Secret through each apiserver and reads it through every one.
async fn cross_read(platform: &Platform, namespace: &str, part: usize) -> Vec<String> {
    let mut unreadable = vec![];
    let path = format!("/api/v1/namespaces/{namespace}/secrets");
    for (writer, client) in platform.apiservers() {
        let name = format!("x-{part}-{writer}");
        let body = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}});
        match Ask::new(Method::POST, &path).with(&body).send(client).await {
            Ok(answer) if answer.is_ok() => {}
            Ok(answer) => unreadable.push(format!("not written through {writer}: {}", answer.message())),
            Err(e) => unreadable.push(format!("not written through {writer}: {e}")),
        }
        for (reader, client) in platform.apiservers() {
            let own = format!("{path}/{name}");
            match Ask::get(&own).send(client).await {
                Ok(answer) if answer.is_ok() => {}
                Ok(answer) => {
                    unreadable.push(format!("written through {writer}, read through {reader}: {}", answer.code))
                }
                Err(e) => unreadable.push(format!("written through {writer}, read through {reader}: {e}")),
            }
        }
    }
    unreadable
}

impl Probe<Platform> for Rotates {
    type Seen = Rotation;

    fn touches(&self) -> Touches {
        Touches::nothing().writes(Resource::Apiserver).writes(Resource::Nodes).writes(Resource::Etcd)
    }

    async fn observe(&self, platform: &Platform, cx: &Cx) -> Result<Rotation, ObserveError> {
        let working = as_found(platform).await?;
        let nodes = Which::ControlPlanes.on(platform);
        let old = match nodes.first() {
            Some(node) => file(platform, node, FILE).await.map_err(ObserveError::no_ground)?,
            None => None,
        };
        let old = keys_of(&old.map(|file| file.content).unwrap_or_default());
        if old.len() != 1 || nodes.len() < 2 {
            let why = format!("{} control planes, {} keys: one key is there to be rotated", nodes.len(), old.len());
            return Err(ObserveError::no_ground(why));
        }
        let data = json!({"nodes": nodes});
        cx.undo_afterwards(vec![UndoStep::Custom { word: WAY_BACK.to_owned(), data: data.clone() }])?;
        // Something kept from before would be what was found: then this stops, and its undo puts that back.
        let keep = format!("mkdir -m 700 {KEPT}; cp -p {FILE} {KEPT}/config; cp -p {MANIFEST} {KEPT}/manifest");
        for node in &nodes {
            script(platform, node, &keep, COMMAND).await.map_err(ObserveError::no_ground)?;
        }
        let (name, object) = namespace(platform, cx).await?;
        let paths = secrets(platform).await.map_err(ObserveError::no_ground)?;
        let (streaming, reading) = (stream(platform, &name, PAUSE), readers(platform, paths));
        let mut seen = Rotation::default();
        let went = self.rotate(platform, cx, &nodes, &old, &name, &mut seen).await;
        streaming.stop();
        let read = reading.end().await;
        cx.waiting("the key as found", "");
        way_back(platform, &data).await.map_err(|e| ObserveError::harness(e.to_string()))?;
        settled(platform, Some(&working)).await?;
        // Only now can all be listed again, also where the new key wrote before all knew it.
        let streamed = streaming.end().await;
        let deleted = platform.delete_and_wait(&object, NAMESPACE).await;
        went.map_err(ObserveError::no_ground)?;
        deleted.map_err(ObserveError::no_ground)?;
        seen.stream = streamed?;
        (seen.read, seen.not_decrypted) = read?;
        Ok(seen)
    }
}

impl Rotates {
    async fn rotate(
        &self,
        platform: &Platform,
        cx: &Cx,
        nodes: &[String],
        old: &Keys,
        namespace: &str,
        seen: &mut Rotation,
    ) -> Result<(), String> {
        let mut bytes = [0_u8; 32];
        std::fs::File::open("/dev/urandom")
            .and_then(|mut file| std::io::Read::read_exact(&mut file, &mut bytes))
            .map_err(|e| format!("/dev/urandom: {e}"))?;
        let new = vec![(NEW.to_owned(), BASE64_STANDARD.encode(bytes))];
        let (first, others) = nodes.split_first().ok_or("there is no control plane")?;
        let steps = [[old.clone(), new.clone()].concat(), [new.clone(), old.clone()].concat(), new];
        for (number, keys) in steps.iter().enumerate() {
            if !self.learns_first && number != 1 {
                continue;
            }
            let names: Vec<&str> = keys.iter().map(|(name, _)| name.as_str()).collect();
            if number == 2 {
                cx.waiting("every Secret to be rewritten", "");
                rewrite(platform).await?;
            }
            for group in [std::slice::from_ref(first), others] {
                let what = format!("{} on {}", names.join(", "), group.join(", "));
                cx.waiting(&what, "");
                for outcome in join_all(group.iter().map(|node| give(platform, node, keys))).await {
                    outcome?;
                }
                let unreadable = cross_read(platform, namespace, seen.parts.len()).await;
                seen.parts.push(Part { what, unreadable });
                if !self.learns_first {
                    // The harm is done and seen: the others never come to know the key.
                    return Ok(());
                }
            }
        }
        seen.prefixes = prefixes(platform).await?;
        for node in nodes {
            let now = file(platform, node, FILE).await?.map(|file| keys_of(&file.content)).unwrap_or_default();
            if now.iter().any(|(name, _)| old.iter().any(|(was, _)| was == name)) {
                seen.old_key_on.push(node.clone());
            }
        }
        Ok(())
    }
}

/// Puts keys, configuration and manifests back as they were found, wherever the rotation had got to. Safe to repeat.
///
/// # Errors
/// What could not be put back, and why.
pub fn way_back<'a>(platform: &'a Platform, data: &'a Value) -> BoxFuture<'a, Result<(), WorldError>> {
    Box::pin(async move {
        let nodes: Vec<String> =
            serde_json::from_value(data["nodes"].clone()).map_err(|e| WorldError(e.to_string()))?;
        go_back(platform, &nodes).await.map_err(WorldError)
    })
}

async fn go_back(platform: &Platform, nodes: &[String]) -> Result<(), String> {
    let mut kept = BTreeMap::new();
    for node in nodes {
        let config = file(platform, node, &format!("{KEPT}/config")).await?;
        let manifest = file(platform, node, &format!("{KEPT}/manifest")).await?;
        if let (Some(config), Some(manifest)) = (config, manifest) {
            kept.insert(node.clone(), (config, manifest));
        }
    }
    let Some((config, _)) = kept.values().next() else { return Ok(()) };
    let mut keys = keys_of(&config.content);
    let found = keys.clone();
    for node in nodes {
        let now = file(platform, node, FILE).await?.map(|file| keys_of(&file.content)).unwrap_or_default();
        for key in now {
            if !keys.contains(&key) {
                keys.push(key);
            }
        }
    }
    // Where one control plane is as found already, nothing was stored under the new key any more when that was done.
    if keys != found && kept.len() == nodes.len() {
        // The found key writes again, everything can still be read; then nothing names the new one any more.
        let (first, others) = nodes.split_first().ok_or("no node")?;
        for group in [std::slice::from_ref(first), others] {
            for outcome in join_all(group.iter().map(|node| give(platform, node, &keys))).await {
                outcome?;
            }
        }
        rewrite(platform).await?;
        let named = prefixes(platform).await?;
        if let Some((prefix, count)) = named.iter().find(|(prefix, _)| prefix.contains(&format!(":{NEW}:"))) {
            return Err(format!("{count} Secrets are still stored behind {prefix}: the key must not go"));
        }
    }
    let kept: Vec<(String, FileFound, FileFound)> =
        kept.into_iter().map(|(node, (config, manifest))| (node, config, manifest)).collect();
    let (first, others) = kept.split_at(1);
    for group in [first, others] {
        for outcome in join_all(group.iter().map(|found| put_back(platform, found))).await {
            outcome?;
        }
    }
    settled(platform, None).await.map_err(|e| e.to_string())
}

/// Puts one control plane's two files back, and has its apiserver run with them.
async fn put_back(platform: &Platform, found: &(String, FileFound, FileFound)) -> Result<(), String> {
    let (node, config, manifest) = found;
    let now = async |path: &str| -> Result<Vec<u8>, String> {
        Ok(file(platform, node, path).await?.map(|file| file.content).unwrap_or_default())
    };
    if now(FILE).await? != config.content {
        write(platform, node, FILE, &config.content, config.mode).await?;
    }
    if now(MANIFEST).await? != manifest.content {
        let rolled = roll(platform, node, &manifest.content, manifest.mode, Instant::now()).await;
        rolled.map_err(|e| e.to_string())?;
    }
    script(platform, node, &format!("rm -rf {KEPT}"), COMMAND).await.map(drop).map_err(|e| e.to_string())
}

/// At every moment what one apiserver wrote every one could read; at the end all is under the new key, no file has the old
/// one, and no acknowledged write is gone.
pub fn readable_throughout() -> impl Expect<Rotation> {
    expect_fn(|seen: &Rotation| {
        if seen.parts.is_empty() {
            return Judgement::Inconclusive("no key was changed".to_owned());
        }
        if seen.read.is_empty() || seen.read.values().any(|good| *good == 0) || seen.stream.acknowledged == 0 {
            return Judgement::Inconclusive(format!("reads {:?}, writes {}", seen.read, seen.stream.acknowledged));
        }
        let mut found = vec![];
        for said in &seen.not_decrypted {
            found.push(Finding::new("unreadable", "all Secrets", said.clone()));
        }
        for part in seen.parts.iter().filter(|part| !part.unreadable.is_empty()) {
            found.push(Finding::new("unreadable", &part.what, part.unreadable.join("; ")));
        }
        if found.is_empty() && seen.prefixes.keys().any(|prefix| !prefix.ends_with(&format!(":{NEW}:"))) {
            found.push(Finding::new("old-key-named", "etcd", format!("{:?}", seen.prefixes)));
        }
        for node in &seen.old_key_on {
            found.push(Finding::new("old-key-kept", node, FILE));
        }
        if !seen.stream.lost.is_empty() {
            found.push(Finding::new("write-lost", "the stream", format!("{:?}", seen.stream.lost)));
        }
        Judgement::from_findings(found)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::codes;

    #[test]
    fn keys_come_back_in_their_order() {
        let keys = vec![("key2".to_owned(), "b".to_owned()), ("key1".to_owned(), "a".to_owned())];
        assert_eq!(keys_of(&config_of(&keys)), keys);
        assert!(keys_of(b"kind: x").is_empty());
    }

    #[tokio::test]
    async fn nothing_kept_is_nothing_to_put_back() {
        let machine = std::sync::Arc::new(crate::testing::FakeMachine::named("cp-1"));
        let platform = Platform::for_test(crate::testing::FakeApi::default().client(), vec![machine]);
        way_back(&platform, &json!({"nodes": ["cp-1"]})).await.unwrap();
    }

    #[test]
    fn each_defect_has_its_code() {
        let good = Rotation {
            read: BTreeMap::from([("a".into(), 4), ("b".into(), 4)]),
            stream: Streamed { acknowledged: 9, ..Streamed::default() },
            parts: vec![Part { what: "key2 on a".into(), unreadable: vec![] }],
            prefixes: BTreeMap::from([("k8s:enc:aescbc:v1:key2:".into(), 3)]),
            ..Rotation::default()
        };
        let judge = |seen: &Rotation| codes(readable_throughout().judge(seen));
        assert!(judge(&good).is_empty());
        let named = BTreeMap::from([("k8s:enc:aescbc:v1:key1:".into(), 1)]);
        assert_eq!(judge(&Rotation { prefixes: named, ..good.clone() }), ["old-key-named"]);
        assert_eq!(judge(&Rotation { old_key_on: vec!["a".into()], ..good.clone() }), ["old-key-kept"]);
        let unreadable = vec![Part { what: "key2 on a".into(), unreadable: vec!["x".into()] }];
        assert_eq!(judge(&Rotation { parts: unreadable, ..good.clone() }), ["unreadable"]);
        let not_decrypted = BTreeSet::from(["b: unable to transform key".to_owned()]);
        assert_eq!(judge(&Rotation { not_decrypted, ..good.clone() }), ["unreadable"]);
        let stream = Streamed { acknowledged: 9, lost: vec![1], ..Streamed::default() };
        assert_eq!(judge(&Rotation { stream, ..good.clone() }), ["write-lost"]);
        let read = BTreeMap::from([("a".into(), 4), ("b".into(), 0)]);
        assert!(judge(&Rotation { read, ..good })[0].starts_with("Inconclusive"));
    }
}
