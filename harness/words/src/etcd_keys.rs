//! What is in etcd: the keys of the cluster's state, and the texts that a snapshot of it holds.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use shakedown_core::{Finding, Judgement, Observation, Resource, Touches, UndoStep};
use shakedown_engine::{Cx, Expect, ObserveError, Probe, expect_fn};

use crate::etcd;
use crate::etcd_lab::{end_of, lab_script, told, understand};
use crate::node_command::{first_control_plane, script};
use crate::objects::ObjectRef;
use crate::platform::Platform;

/// How long a node's command may take.
const COMMAND: Duration = Duration::from_secs(40);
/// How long a namespace may take to be gone.
const GONE: Duration = Duration::from_secs(60);

/// What has a key of its own.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Keys {
    /// Key that is expected to what it stands for.
    pub expected: BTreeMap<String, String>,
    /// Those of them that are there while the objects are.
    pub there: BTreeSet<String>,
    /// Those of the objects that were made for the purpose, still there after they were deleted.
    pub left: BTreeSet<String>,
}

impl Observation for Keys {
    const SCHEMA: &'static str = "etcd-keys/1";
}

/// Reads keys.
pub struct KeysOf {
    elsewhere: bool,
}

/// Makes one object of each documented kind in a namespace of its own, reads the keys of etcd, deletes them, and reads
/// the keys again.
pub fn keys_of_the_state() -> KeysOf {
    KeysOf { elsewhere: false }
}

/// The same, but the keys are read from another, empty member.
pub fn keys_read_elsewhere() -> KeysOf {
    KeysOf { elsewhere: true }
}

impl Probe<Platform> for KeysOf {
    type Seen = Keys;

    fn touches(&self) -> Touches {
        Touches::nothing().reads(Resource::Etcd)
    }

    async fn observe(&self, platform: &Platform, cx: &Cx) -> Result<Keys, ObserveError> {
        let node = first_control_plane(platform).map_err(ObserveError::no_ground)?;
        let space = cx.name("keys");
        let namespace = ObjectRef::cluster("v1", "Namespace", &space);
        cx.undo_afterwards(vec![namespace.deletion()])?;
        for manifest in manifests(&space) {
            let answer = platform.create(&manifest).await.map_err(ObserveError::no_ground)?;
            if !answer.is_ok() {
                return Err(ObserveError::no_ground(answer.message()));
            }
        }
        let mut expected: BTreeMap<String, String> = ["deployments", "configmaps", "secrets"]
            .map(|kind| (format!("/registry/{kind}/{space}/a"), kind.to_owned()))
            .into();
        expected.insert(format!("/registry/services/specs/{space}/a"), "services".to_owned());
        expected.insert(format!("/registry/namespaces/{space}"), "namespaces".to_owned());
        let own: BTreeSet<String> = expected.keys().cloned().collect();
        for node in platform.list("v1", "Node", None, None).await.map_err(ObserveError::no_ground)? {
            if let Some(name) = node["metadata"]["name"].as_str() {
                expected.insert(format!("/registry/minions/{name}"), "nodes".to_owned());
            }
        }
        let all = if self.elsewhere { elsewhere(platform, &node, cx).await? } else { keys(platform, &node).await? };
        platform.delete_and_wait(&namespace, GONE).await.map_err(ObserveError::no_ground)?;
        let after = keys(platform, &node).await?;
        Ok(Keys {
            there: expected.keys().filter(|key| all.contains(*key)).cloned().collect(),
            left: own.into_iter().filter(|key| after.contains(key)).collect(),
            expected,
        })
    }
}

fn manifests(space: &str) -> Vec<Value> {
    let meta = json!({"name": "a", "namespace": space});
    let labels = json!({"app": "a"});
    vec![
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": space}}),
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta, "data": {"a": "b"}}),
        json!({"apiVersion": "v1", "kind": "Secret", "metadata": meta, "stringData": {"a": "b"}}),
        json!({"apiVersion": "v1", "kind": "Service", "metadata": meta, "spec": {"selector": labels, "ports": [{"port": 80}]}}),
        // No replicas: the state is what counts.
        json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": meta, "spec": {"replicas": 0, "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "a", "image": "registry.invalid/a:1"}]}}}}),
    ]
}

async fn keys(platform: &Platform, node: &str) -> Result<BTreeSet<String>, ObserveError> {
    // Filtered on the node: thousands of keys are no evidence.
    let argv = etcd::etcdctl_change(&["get", "/registry/", "--prefix", "--keys-only"]);
    let output = platform.machine(node).map_err(ObserveError::no_ground)?.exec(&argv, &[], COMMAND).await;
    let output = output.map_err(ObserveError::no_ground)?;
    if output.code != 0 {
        return Err(ObserveError::no_ground(output.complaint()));
    }
    Ok(output.text().lines().map(str::to_owned).collect())
}

async fn elsewhere(platform: &Platform, node: &str, cx: &Cx) -> Result<BTreeSet<String>, ObserveError> {
    let lab =
        in_a_lab(platform, node, cx, "start 0; comes 0; say keys at 0 get /registry/ --prefix --keys-only").await?;
    Ok(lab.of("keys").map(|ran| ran.stdout.lines().map(str::to_owned).collect()).unwrap_or_default())
}

async fn in_a_lab(platform: &Platform, node: &str, cx: &Cx, steps: &str) -> Result<crate::etcd_lab::Lab, ObserveError> {
    let folder = format!("/tmp/{}", cx.name("keys-lab"));
    let number = cx.seed.derive(&format!("{}/{}/keys", cx.check, cx.phase)).0;
    let end = end_of(&folder);
    let argv = ["/bin/sh", "-c", &end].map(str::to_owned).to_vec();
    cx.undo_afterwards(vec![UndoStep::RunOnNode { node: node.to_owned(), argv, tolerate_failure: false }])?;
    let text = lab_script(&folder, 28_000 + (number % 200) as u16 * 8, 1, steps);
    let out = told(platform, node, &text, cx.budget).await;
    script(platform, node, &end, COMMAND).await.map_err(ObserveError::harness)?;
    understand(&String::from_utf8_lossy(&out?))
}

/// Every object of every documented kind has its key while it is there, and none once it is deleted.
pub fn all_have_keys() -> impl Expect<Keys> {
    expect_fn(|seen: &Keys| {
        for kind in ["deployments", "services", "configmaps", "secrets", "nodes", "namespaces"] {
            if !seen.expected.values().any(|of| of == kind) {
                return Judgement::Inconclusive(format!("no {kind} were looked for"));
            }
        }
        let missing = seen.expected.iter().filter(|(key, _)| !seen.there.contains(*key));
        let mut found: Vec<Finding> =
            missing.map(|(key, kind)| Finding::new("key-missing", kind, format!("no {key}"))).collect();
        found.extend(seen.left.iter().map(|key| Finding::new("key-left", key, "its object is deleted".to_owned())));
        Judgement::from_findings(found)
    })
}

/// What texts a snapshot holds.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Texts {
    /// Size of the snapshot, bytes.
    pub size: u64,
    /// The encryption key's text, as the configuration on the node has it.
    pub key: bool,
    /// The value of a ConfigMap.
    pub object: bool,
    /// What was written to a volume's file.
    pub volume: bool,
}

impl Observation for Texts {
    const SCHEMA: &'static str = "etcd-snapshot-texts/1";
}

/// Searches a snapshot.
pub struct Search {
    key_stored: bool,
    volume_stored: bool,
}

/// Writes a text to a ConfigMap and another to a volume's file, takes a snapshot, and searches it for both and for the
/// encryption key.
pub fn texts_of_a_snapshot() -> Search {
    Search { key_stored: false, volume_stored: false }
}

impl Search {
    /// The snapshot is of a scratch member that was given the key's text as a value.
    #[must_use]
    pub fn with_the_key_stored(mut self) -> Self {
        self.key_stored = true;
        self
    }

    /// The text of the volume's file is in the ConfigMap too.
    #[must_use]
    pub fn with_the_files_text_stored(mut self) -> Self {
        self.volume_stored = true;
        self
    }
}

impl Probe<Platform> for Search {
    type Seen = Texts;

    fn touches(&self) -> Touches {
        Touches::nothing().reads(Resource::Etcd).reads(Resource::Nodes)
    }

    async fn observe(&self, platform: &Platform, cx: &Cx) -> Result<Texts, ObserveError> {
        let node = first_control_plane(platform).map_err(ObserveError::no_ground)?;
        let (object, volume) = (cx.name("object-text"), cx.name("volume-text"));
        let map = ObjectRef::namespaced("v1", "ConfigMap", "default", &cx.name("texts"));
        let claimed = ObjectRef::cluster("v1", "PersistentVolume", &cx.name("texts"));
        let folder = format!("/tmp/{}", cx.name("volume"));
        cx.undo_afterwards(vec![
            map.deletion(),
            claimed.deletion(),
            UndoStep::RemoveFile { node: node.clone(), path: folder.clone() },
        ])?;
        let text = if self.volume_stored { format!("{object} {volume}") } else { object.clone() };
        for manifest in [
            json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": map.name, "namespace": "default"}, "data": {"text": text}}),
            json!({"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": claimed.name},
                "spec": {"capacity": {"storage": "1Mi"}, "accessModes": ["ReadWriteOnce"], "hostPath": {"path": folder},
                         "storageClassName": "none", "persistentVolumeReclaimPolicy": "Retain"}}),
        ] {
            let answer = platform.create(&manifest).await.map_err(ObserveError::no_ground)?;
            if !answer.is_ok() {
                return Err(ObserveError::no_ground(answer.message()));
            }
        }
        let search = format!(
            "k=$(sed -n 's/^ *secret: *//p' /etc/kubernetes/encryption-config.yaml | head -n 1); [ -n \"$k\" ] || echo nokey; \
             has() {{ grep -aqF -e \"$1\" s.db && echo yes || echo no; }}; \
             found() {{ echo \"$(stat -c %s s.db) $(has \"$k\") $(has {object}) $(has {volume})\"; }}"
        );
        let steps = if self.key_stored {
            format!(
                "{search}; start 0; comes 0; c put key \"$k\" >/dev/null; c put object {object} >/dev/null; at 0 snapshot save s.db >/dev/null 2>&1; say found found"
            )
        } else {
            let save = etcd::etcdctl_change(&["snapshot", "save", "s.db"]);
            let save =
                save.iter().map(|word| format!("'{}'", word.replace('\'', "'\\''"))).collect::<Vec<_>>().join(" ");
            format!(
                "mkdir -p {folder}; echo {volume} >{folder}/file; {search}; {save} >/dev/null 2>&1; say found found"
            )
        };
        let lab = in_a_lab(platform, &node, cx, &steps).await?;
        let said = lab.of("found").map(|ran| ran.stdout.clone()).unwrap_or_default();
        match said.split(' ').collect::<Vec<_>>().as_slice() {
            [size, key, object, volume] => {
                let size = size.parse().map_err(|e| ObserveError::no_ground(format!("no snapshot: {e}")))?;
                Ok(Texts { size, key: *key == "yes", object: *object == "yes", volume: *volume == "yes" })
            }
            _ => Err(ObserveError::no_ground(format!("no snapshot was searched: {said}"))),
        }
    }
}

/// The value of the ConfigMap is in the snapshot, the encryption key is not, and neither is what a volume holds.
pub fn state_alone() -> impl Expect<Texts> {
    expect_fn(|seen: &Texts| {
        if !seen.object {
            return Judgement::Inconclusive("not even the ConfigMap's value was found: nothing can be said".to_owned());
        }
        let mut found = vec![];
        if seen.key {
            found.push(Finding::new("key-in-snapshot", "snapshot", "it holds the encryption key's text".to_owned()));
        }
        if seen.volume {
            found.push(Finding::new("volume-in-snapshot", "snapshot", "it holds a volume's data".to_owned()));
        }
        Judgement::from_findings(found)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::codes;

    #[test]
    fn a_key_that_is_missing_or_left_is_named() {
        let mut seen = Keys::default();
        assert!(matches!(all_have_keys().judge(&seen), Judgement::Inconclusive(_)));
        for kind in ["deployments", "services", "configmaps", "secrets", "nodes", "namespaces"] {
            seen.expected.insert(format!("/registry/{kind}"), kind.to_owned());
            seen.there.insert(format!("/registry/{kind}"));
        }
        assert_eq!(codes(all_have_keys().judge(&seen)), Vec::<String>::new());
        seen.there.remove("/registry/nodes");
        seen.left.insert("/registry/secrets".into());
        assert_eq!(codes(all_have_keys().judge(&seen)), ["key-missing", "key-left"]);
    }

    #[test]
    fn a_text_that_does_not_belong_is_named() {
        let good = Texts { size: 9, object: true, ..Texts::default() };
        assert_eq!(codes(state_alone().judge(&good)), Vec::<String>::new());
        assert_eq!(codes(state_alone().judge(&Texts { key: true, ..good.clone() })), ["key-in-snapshot"]);
        assert_eq!(codes(state_alone().judge(&Texts { volume: true, ..good.clone() })), ["volume-in-snapshot"]);
        assert!(matches!(state_alone().judge(&Texts { object: false, ..good }), Judgement::Inconclusive(_)));
    }
}
