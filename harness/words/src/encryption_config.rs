//! The encryption configuration as it lies on each control plane, and as each running apiserver was told of it. Key
//! material stays on the node: only its length and the file's hash are kept.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};
use shakedown_core::{Finding, Judgement, Observation, Resource, Touches, UndoStep};
use shakedown_engine::{Cx, Expect, ObserveError, PlantError, Prepared, Probe, Sabotage, expect_fn};

use crate::node_command::{Which, last_control_plane, run, script};
use crate::platform::Platform;
use crate::undo::file_as_found;

/// The file (ENC-022).
pub const FILE: &str = "/etc/kubernetes/encryption-config.yaml";
/// The flag that names it (ENC-039).
pub const FLAG: &str = "--encryption-provider-config";
/// The static manifest.
pub const MANIFEST: &str = "/etc/kubernetes/manifests/kube-apiserver.yaml";
/// How long a node's command may take.
const COMMAND: Duration = Duration::from_secs(10);

/// A provider of the file, in its order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Provider {
    /// `aescbc`, `identity`, ...
    pub name: String,
    /// Its keys: name and length of the decoded key in bytes (zero: not base64).
    pub keys: Vec<(String, usize)>,
    /// Where its plugin listens, of a provider that has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
}

/// One control plane.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Configured {
    /// Of the file's bytes, in hex; none where it does not exist.
    pub sha256: Option<String>,
    /// Its permission bits.
    pub mode: u32,
    /// `UID:GID` of its owner.
    pub owner: String,
    /// `apiVersion` and `kind`.
    pub kind: String,
    /// Resources of each entry.
    pub resources: Vec<Vec<String>>,
    /// Providers of the first entry.
    pub providers: Vec<Provider>,
    /// Arguments of the running apiserver that speak of encryption and audit.
    pub running: Vec<String>,
    /// The same of the manifest.
    pub manifest: Vec<String>,
    /// The manifest's volume for the file: type, and whether its mount is read-only.
    pub volume: Option<(String, bool)>,
    /// The container's own mount of the file is read-only.
    pub mounted_read_only: bool,
}

/// All control planes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Configurations {
    /// Control plane to what it has.
    pub nodes: BTreeMap<String, Configured>,
}

impl Observation for Configurations {
    const SCHEMA: &'static str = "encryption-config/1";
}

/// Reads the configuration on every control plane.
pub struct ReadConfigurations;

/// Every control plane's file, manifest and running apiserver.
pub fn configurations() -> ReadConfigurations {
    ReadConfigurations
}

impl Probe<Platform> for ReadConfigurations {
    type Seen = Configurations;

    fn touches(&self) -> Touches {
        Touches::nothing().reads(Resource::Apiserver).reads(Resource::Nodes)
    }

    async fn observe(&self, platform: &Platform, _cx: &Cx) -> Result<Configurations, ObserveError> {
        let names = Which::ControlPlanes.on(platform);
        let reads = futures::future::join_all(names.iter().map(|node| read(platform, node))).await;
        let nodes = names.into_iter().zip(reads).map(|(node, read)| Ok((node, read?)));
        Ok(Configurations { nodes: nodes.collect::<Result<_, ObserveError>>()? })
    }
}

/// Prints the running apiserver's arguments, one a line, and its mount of the file.
const RUNNING: &str = "p=$(pgrep -xo kube-apiserver) || exit 0; tr '\\0' '\\n' < /proc/$p/cmdline; \
    grep ' /etc/kubernetes/encryption-config.yaml ' /proc/$p/mountinfo | sed 's/^/mount /' || true";

async fn read(platform: &Platform, node: &str) -> Result<Configured, ObserveError> {
    let machine = platform.machine(node).map_err(ObserveError::no_ground)?;
    let owner = ["stat", "-c", "%u:%g", FILE].map(str::to_owned);
    let running = ["/bin/sh", "-c", RUNNING].map(str::to_owned);
    let (file, manifest, owner, running) = futures::join!(
        machine.read(FILE),
        machine.read(MANIFEST),
        run(platform, node, &owner, COMMAND),
        run(platform, node, &running, COMMAND),
    );
    let mut seen = Configured::default();
    if let Some(file) = file.map_err(ObserveError::no_ground)? {
        seen.sha256 = Some(Sha256::digest(&file.content).iter().map(|byte| format!("{byte:02x}")).collect());
        seen.mode = file.mode & 0o7777;
        understand_file(&mut seen, &file.content);
    }
    seen.owner = owner.map_err(ObserveError::no_ground)?.stdout;
    let running = running.map_err(ObserveError::no_ground)?.stdout;
    seen.running = interesting(running.lines());
    let options = |line: &str| line.split_whitespace().nth(6).map(str::to_owned);
    let mount = running.lines().find(|line| line.starts_with("mount ")).and_then(options);
    seen.mounted_read_only = mount.is_some_and(|options| options.split(',').any(|option| option == "ro"));
    if let Some(file) = manifest.map_err(ObserveError::no_ground)? {
        understand_manifest(&mut seen, &file.content);
    }
    Ok(seen)
}

fn interesting<'a>(lines: impl Iterator<Item = &'a str>) -> Vec<String> {
    lines.filter(|line| line.starts_with("--encryption") || line.starts_with("--audit")).map(str::to_owned).collect()
}

fn texts(value: &Value) -> Vec<String> {
    value.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
}

fn understand_file(seen: &mut Configured, bytes: &[u8]) {
    let config: Value = serde_yaml_ng::from_slice(bytes).unwrap_or_default();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    seen.kind = format!("{} {}", text(&config["apiVersion"]), text(&config["kind"]));
    let entries = config["resources"].as_array().cloned().unwrap_or_default();
    seen.resources = entries.iter().map(|entry| texts(&entry["resources"])).collect();
    let providers = entries.first().and_then(|entry| entry["providers"].as_array().cloned()).unwrap_or_default();
    for (name, settings) in providers.iter().filter_map(Value::as_object).flatten() {
        let keys = settings["keys"].as_array().into_iter().flatten();
        let keys =
            keys.map(|key| (text(&key["name"]), BASE64_STANDARD.decode(text(&key["secret"])).map_or(0, |k| k.len())));
        let endpoint = settings["endpoint"].as_str().map(str::to_owned);
        seen.providers.push(Provider { name: name.clone(), keys: keys.collect(), endpoint });
    }
}

fn understand_manifest(seen: &mut Configured, bytes: &[u8]) {
    let pod: Value = serde_yaml_ng::from_slice(bytes).unwrap_or_default();
    let container = &pod["spec"]["containers"][0];
    seen.manifest = interesting(texts(&container["command"]).iter().map(String::as_str));
    let volumes = pod["spec"]["volumes"].as_array().cloned().unwrap_or_default();
    let volume = volumes.iter().find(|volume| volume["hostPath"]["path"] == FILE);
    seen.volume = volume.map(|volume| {
        let mounts = container["volumeMounts"].as_array().into_iter().flatten();
        let mut mounts = mounts.filter(|mount| mount["name"] == volume["name"] && mount["mountPath"] == FILE);
        let read_only = mounts.next().is_some_and(|mount| mount["readOnly"] == true);
        (volume["hostPath"]["type"].as_str().unwrap_or_default().to_owned(), read_only)
    });
}

/// On `count` control planes: the documented file (aescbc with one 32-byte key1, then identity, for Secrets), of mode 0600
/// and root's, the same everywhere; the argument, the volume and the mount in the manifest and in the running apiserver.
pub fn documented_on(count: usize) -> impl Expect<Configurations> {
    expect_fn(move |seen: &Configurations| {
        if seen.nodes.len() != count {
            return Judgement::Inconclusive(format!("{} control planes, {count} expected", seen.nodes.len()));
        }
        let mut found: Vec<Finding> = seen.nodes.iter().flat_map(|(node, it)| of_node(node, it)).collect();
        let hashes: BTreeSet<&Option<String>> = seen.nodes.values().map(|it| &it.sha256).collect();
        if hashes.len() > 1 {
            found.push(Finding::new("differs", "control planes", "the file is not the same on all of them"));
        }
        Judgement::from_findings(found)
    })
}

/// On `count` control planes a KMS plugin comes first, and no file holds a key.
pub fn keys_are_kept_elsewhere(count: usize) -> impl Expect<Configurations> {
    expect_fn(move |seen: &Configurations| {
        if seen.nodes.len() != count {
            return Judgement::Inconclusive(format!("{} control planes, {count} expected", seen.nodes.len()));
        }
        let mut found = vec![];
        for (node, it) in &seen.nodes {
            let first = it.providers.first();
            if !first.is_some_and(|provider| provider.name == "kms" && provider.endpoint.is_some()) {
                let order: Vec<&str> = it.providers.iter().map(|provider| provider.name.as_str()).collect();
                found.push(Finding::new("no-kms", node, format!("providers: {}", order.join(", "))));
            }
            for provider in it.providers.iter().filter(|provider| !provider.keys.is_empty()) {
                let said = format!("{} has {} keys in the file", provider.name, provider.keys.len());
                found.push(Finding::new("key-material", node, said));
            }
        }
        Judgement::from_findings(found)
    })
}

fn of_node(node: &str, it: &Configured) -> Vec<Finding> {
    let mut found = vec![];
    let mut fault = |bad: bool, code: &str, message: String| {
        if bad {
            found.push(Finding::new(code, node, message));
        }
    };
    if it.sha256.is_none() {
        fault(true, "file-missing", format!("{FILE} does not exist"));
        return found;
    }
    fault(it.mode != 0o600, "mode", format!("mode {:04o}", it.mode));
    fault(it.owner != "0:0", "owner", format!("owner {}", it.owner));
    let kind = "apiserver.config.k8s.io/v1 EncryptionConfiguration";
    fault(it.kind != kind, "kind", it.kind.clone());
    fault(it.resources != [["secrets"]], "resources", format!("{:?}", it.resources));
    let order: Vec<&str> = it.providers.iter().map(|provider| provider.name.as_str()).collect();
    fault(order != ["aescbc", "identity"], "provider-order", order.join(", "));
    let keys = it.providers.first().map(|provider| provider.keys.clone()).unwrap_or_default();
    fault(keys != [("key1".to_owned(), 32)], "key", format!("keys and their bytes: {keys:?}"));
    let argument = format!("{FLAG}={FILE}");
    for (place, arguments) in [("manifest", &it.manifest), ("running apiserver", &it.running)] {
        let times = arguments.iter().filter(|have| **have == argument).count();
        fault(times != 1, "argument", format!("{times} times in the {place}"));
    }
    fault(it.volume != Some(("File".to_owned(), true)), "volume", format!("type and read-only: {:?}", it.volume));
    fault(!it.mounted_read_only, "mount", "the running apiserver has no read-only mount of the file".to_owned());
    found
}

/// The file can be read by everyone on one control plane.
pub struct Readable;

/// On the last control plane the file has mode 0644.
pub fn readable_by_everyone() -> Readable {
    Readable
}

impl Sabotage<Platform> for Readable {
    type Choice = String;

    fn describe(&self) -> String {
        format!("{FILE} has mode 0644 on one control plane")
    }

    fn touches(&self) -> Touches {
        Touches::nothing().writes(Resource::Nodes)
    }

    async fn prepare(&self, platform: &Platform) -> Result<Prepared<Self::Choice>, PlantError> {
        let node = last_control_plane(platform).map_err(PlantError::new)?;
        let UndoStep::RestoreFile { mode, .. } = file_as_found(platform, &node, FILE).await.map_err(PlantError::new)?
        else {
            return Err(PlantError::new(format!("{node} has no {FILE}")));
        };
        // Only the mode is changed, so only the mode is put back: the key stays out of the journal.
        let argv = vec!["chmod".to_owned(), format!("{:04o}", mode & 0o7777), FILE.to_owned()];
        let undo = vec![UndoStep::RunOnNode { node: node.clone(), argv, tolerate_failure: false }];
        Ok(Prepared::new(node, undo))
    }

    async fn plant(&self, platform: &Platform, node: &String) -> Result<(), PlantError> {
        let text = format!("chmod 0644 {FILE}; [ \"$(stat -c %a {FILE})\" = 644 ]");
        script(platform, node, &text, COMMAND).await.map(drop).map_err(PlantError::new)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file() -> String {
        let key = BASE64_STANDARD.encode([7; 32]);
        format!(
            "apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\nresources:\n- resources: [secrets]\n  \
             providers:\n  - aescbc:\n      keys:\n      - name: key1\n        secret: {key}\n  - identity: {{}}\n"
        )
    }

    fn good() -> Configured {
        let argument = format!("{FLAG}={FILE}");
        let mut seen = Configured {
            sha256: Some("aa".into()),
            mode: 0o600,
            owner: "0:0".into(),
            running: vec![argument.clone()],
            manifest: vec![argument],
            volume: Some(("File".into(), true)),
            mounted_read_only: true,
            ..Configured::default()
        };
        understand_file(&mut seen, file().as_bytes());
        seen
    }

    #[test]
    fn no_key_material_is_kept() {
        let text = serde_json::to_string(&good()).unwrap();
        assert!(!text.contains(&BASE64_STANDARD.encode([7; 32])[..20]));
        assert_eq!(good().providers[0].keys, [("key1".to_owned(), 32)]);
    }

    #[test]
    fn a_key_beside_the_plugin_is_found() {
        let with = |providers: &str| {
            let mut it = Configured::default();
            understand_file(
                &mut it,
                format!("resources: [{{resources: [secrets], providers: [{providers}]}}]").as_bytes(),
            );
            let nodes = BTreeMap::from([("cp-1".to_owned(), it)]);
            crate::testing::codes(keys_are_kept_elsewhere(1).judge(&Configurations { nodes }))
        };
        let kms = "{kms: {apiVersion: v2, name: cloud, endpoint: 'unix:///run/kms.sock'}}";
        assert!(with(&format!("{kms}, {{identity: {{}}}}")).is_empty());
        assert_eq!(with(&format!("{kms}, {{aescbc: {{keys: [{{name: a, secret: eA==}}]}}}}")), ["key-material"]);
        assert_eq!(with("{identity: {}}"), ["no-kms"]);
    }

    #[test]
    fn each_defect_has_its_code() {
        type Break = fn(&mut Configured);
        let cases: &[(&[&str], Break)] = &[
            (&[], |_| ()),
            (&["mode"], |it| it.mode = 0o644),
            (&["owner"], |it| it.owner = "1000:0".into()),
            (&["provider-order", "key"], |it| it.providers.reverse()),
            (&["key"], |it| it.providers[0].keys[0].1 = 20),
            (&["argument"], |it| it.running.clear()),
            (&["volume"], |it| it.volume = None),
            (&["mount"], |it| it.mounted_read_only = false),
            (&["resources"], |it| it.resources.push(vec!["configmaps".into()])),
            (&["file-missing"], |it| it.sha256 = None),
        ];
        for (want, breaks) in cases {
            let mut it = good();
            breaks(&mut it);
            let nodes = BTreeMap::from([("cp-1".to_owned(), it)]);
            let got = match documented_on(1).judge(&Configurations { nodes }) {
                Judgement::Fail(found) => found.into_iter().map(|f| f.code).collect(),
                Judgement::Pass => vec![],
                other => vec![format!("{other:?}")],
            };
            assert_eq!(got, *want);
        }
    }
}
