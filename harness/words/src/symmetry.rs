//! Whether the control planes are set up in full symmetry: arguments of the apiserver, the controller manager and the
//! scheduler in their manifests and as they run, the manifests' other content, and the files that all must have alike
//! (ENC-050 to ENC-052). What a node must have of its own is written `<self>`.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};
use shakedown_core::{Answer, Finding, Judgement, Observation, Resource, Touches, UndoStep, wait_for};
use shakedown_engine::{Cx, Expect, ObserveError, PlantError, Prepared, Probe, Sabotage, expect_fn};

use crate::api::Ask;
use crate::node_command::{Which, script};
use crate::objects::ObjectRef;
use crate::platform::Platform;
use crate::undo::file_as_found;

/// Components with their static manifests.
const COMPONENTS: &[&str] = &["kube-apiserver", "kube-controller-manager", "kube-scheduler"];
/// Files below /etc/kubernetes that are the same on every control plane: what is signed with, what is encrypted with, what
/// is audited.
const SHARED: &[&str] = &[
    "pki/ca.crt",
    "pki/ca.key",
    "pki/sa.key",
    "pki/sa.pub",
    "pki/front-proxy-ca.crt",
    "pki/front-proxy-ca.key",
    "pki/etcd/ca.crt",
    "pki/etcd/ca.key",
    "encryption-config.yaml",
    "audit-policy.yaml",
];
const COMMAND: Duration = Duration::from_secs(20);
/// How long the kubelet may take to have a component run with other arguments.
const RESTARTED: Duration = Duration::from_secs(60);

/// One component on one control plane.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ComponentSeen {
    /// Arguments of its manifest.
    pub manifest: BTreeSet<String>,
    /// Arguments as it runs; empty where it does not.
    pub running: BTreeSet<String>,
    /// Hash of the manifest without its arguments.
    pub rest: String,
}

/// One control plane.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ControlPlaneSeen {
    /// Its components.
    pub components: BTreeMap<String, ComponentSeen>,
    /// Hashes of the files that are to be the same; `absent` where there is none.
    pub files: BTreeMap<String, String>,
    /// What its apiserver says of its health: a drift does not show there.
    pub healthy: bool,
}

/// All of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Symmetry {
    /// By name.
    pub nodes: BTreeMap<String, ControlPlaneSeen>,
}

impl Observation for Symmetry {
    const SCHEMA: &'static str = "symmetry/1";
}

/// Compares the control planes.
pub struct Compare;

/// The three components and the common files on every control plane.
pub fn control_planes() -> Compare {
    Compare
}

impl Probe<Platform> for Compare {
    type Seen = Symmetry;

    fn touches(&self) -> Touches {
        Touches::nothing().reads(Resource::Apiserver).reads(Resource::Nodes)
    }

    async fn observe(&self, platform: &Platform, _cx: &Cx) -> Result<Symmetry, ObserveError> {
        let names = Which::ControlPlanes.on(platform);
        let reads = futures::future::join_all(names.iter().map(|node| read(platform, node))).await;
        let nodes = names.into_iter().zip(reads).map(|(node, seen)| Ok((node, seen?)));
        Ok(Symmetry { nodes: nodes.collect::<Result<_, ObserveError>>()? })
    }
}

async fn read(platform: &Platform, node: &str) -> Result<ControlPlaneSeen, ObserveError> {
    let machine = platform.machine(node).map_err(ObserveError::no_ground)?;
    let mut own = vec![node.to_owned()];
    let mut seen = ControlPlaneSeen::default();
    for component in COMPONENTS {
        let file = machine.read(&manifest_of(component)).await.map_err(ObserveError::no_ground)?;
        let text = file.map(|file| String::from_utf8_lossy(&file.content).into_owned()).unwrap_or_default();
        // The apiserver's comes first: its manifest names the node's address.
        own.extend(
            text.lines().filter_map(|line| line.split_once("--advertise-address=")).map(|(_, ip)| ip.to_owned()),
        );
        let running = running(platform, node, component).await.map_err(ObserveError::no_ground)?;
        let understood = understand(&text, &running, &own);
        seen.components.insert((*component).to_owned(), understood);
    }
    let hash =
        "cd /etc/kubernetes; for f in FILES; do if [ -f $f ]; then sha256sum $f; else echo \"absent $f\"; fi; done";
    let hashes = script(platform, node, &hash.replace("FILES", &SHARED.join(" ")), COMMAND).await;
    for line in String::from_utf8_lossy(&hashes.map_err(ObserveError::no_ground)?).lines() {
        if let Some((hash, file)) = line.split_once(char::is_whitespace) {
            seen.files.insert(file.trim().to_owned(), hash.to_owned());
        }
    }
    if let Some(client) = platform.apiservers().get(node) {
        seen.healthy = Ask::get("/readyz").send(client).await.is_ok_and(|answer| answer.is_ok());
    }
    Ok(seen)
}

fn manifest_of(component: &str) -> String {
    format!("/etc/kubernetes/manifests/{component}.yaml")
}

/// Arguments of a component's process, one a line; nothing where it does not run.
async fn running(platform: &Platform, node: &str, component: &str) -> Result<String, crate::machine::MachineError> {
    // The kernel keeps the first 15 letters of a name.
    let name: String = component.chars().take(15).collect();
    let text = format!("p=$(pgrep -xo {name}) || exit 0; tr '\\0' '\\n' < /proc/$p/cmdline 2>/dev/null || true");
    Ok(String::from_utf8_lossy(&script(platform, node, &text, COMMAND).await?).into_owned())
}

fn understand(text: &str, running: &str, own: &[String]) -> ComponentSeen {
    let common = |text: &str| own.iter().fold(text.to_owned(), |text, own| text.replace(own.as_str(), "<self>"));
    let mut pod: Value = serde_yaml_ng::from_str(text).unwrap_or_default();
    let command = pod["spec"]["containers"][0]["command"].as_array().cloned().unwrap_or_default();
    let manifest = command.iter().filter_map(Value::as_str).filter(|arg| arg.starts_with("--")).map(common).collect();
    if let Some(container) = pod["spec"]["containers"].get_mut(0).and_then(Value::as_object_mut) {
        container.remove("command");
    }
    let rest = Sha256::digest(common(&pod.to_string())).iter().map(|byte| format!("{byte:02x}")).collect();
    let running = running.lines().filter(|arg| arg.starts_with("--")).map(common).collect();
    ComponentSeen { manifest, running, rest }
}

/// On `count` control planes everything is the same, and everything runs as its manifest says; the apiservers have the
/// arguments of auditing and of encryption.
pub fn are_alike(count: usize) -> impl Expect<Symmetry> {
    expect_fn(move |seen: &Symmetry| {
        if seen.nodes.len() != count || count < 2 {
            return Judgement::Inconclusive(format!("{} control planes, {count} expected", seen.nodes.len()));
        }
        let mut found = vec![];
        for component in COMPONENTS {
            compare_component(component, seen, &mut found);
        }
        for file in SHARED {
            let of = |node: &ControlPlaneSeen| node.files.get(*file).cloned().unwrap_or_default();
            found.extend(odd(seen, of).map(|(node, _)| Finding::new("file", node, format!("{file} is another one"))));
        }
        for flag in ["--encryption-provider-config", "--audit-policy-file", "--audit-log-path"] {
            let has = |node: &ControlPlaneSeen| {
                node.components["kube-apiserver"].manifest.iter().any(|arg| arg.split('=').next() == Some(flag))
            };
            if !seen.nodes.values().any(has) {
                found.push(Finding::new("argument", "every control plane", format!("{flag} is missing")));
            }
        }
        Judgement::from_findings(found)
    })
}

/// Nodes whose value is not the one that most have.
fn odd<T: Ord + Clone>(seen: &Symmetry, of: impl Fn(&ControlPlaneSeen) -> T) -> impl Iterator<Item = (String, T)> {
    let values: Vec<(String, T)> = seen.nodes.iter().map(|(name, node)| (name.clone(), of(node))).collect();
    let mut counts: BTreeMap<T, usize> = BTreeMap::new();
    for (_, value) in &values {
        *counts.entry(value.clone()).or_default() += 1;
    }
    let usual = counts.into_iter().max_by_key(|(_, count)| *count).map(|(value, _)| value);
    values.into_iter().filter(move |(_, value)| Some(value) != usual.as_ref())
}

fn compare_component(component: &str, seen: &Symmetry, found: &mut Vec<Finding>) {
    let of = |node: &ControlPlaneSeen| node.components.get(component).cloned().unwrap_or_default();
    let all: BTreeSet<String> = seen.nodes.values().flat_map(|node| of(node).manifest).collect();
    for (name, node) in &seen.nodes {
        let it = of(node);
        let health =
            if node.healthy { "while its apiserver says that it is well" } else { "its apiserver is not well" };
        if it.running.is_empty() {
            found.push(Finding::new("not-running", name, component));
        } else if it.running != it.manifest {
            let differ: Vec<&String> = it.running.symmetric_difference(&it.manifest).collect();
            found.push(Finding::new(
                "not-restarted",
                name,
                format!("{component} runs with other arguments: {differ:?}"),
            ));
        }
        // An argument that most have and this one lacks, or that only this one has.
        for argument in &all {
            let having = seen.nodes.values().filter(|node| of(node).manifest.contains(argument)).count();
            let has = it.manifest.contains(argument);
            if (!has && having * 2 > seen.nodes.len()) || (has && having * 2 <= seen.nodes.len()) {
                let word = if has { "only it has" } else { "lacks" };
                found.push(Finding::new("argument", name, format!("{component} {word} {argument}, {health}")));
            }
        }
    }
    let differ = odd(seen, |node| of(node).rest);
    found.extend(
        differ.map(|(node, _)| Finding::new("manifest", node, format!("{component}'s manifest is another one"))),
    );
}

/// One control plane's scheduler lacks an argument.
pub struct Drifted;

/// `--leader-elect`, which is on without it too, is gone from the scheduler of a control plane that does not lead.
pub fn an_argument_is_gone() -> Drifted {
    Drifted
}

/// The component that drifts, and its argument.
const DRIFTS: (&str, &str) = ("kube-scheduler", "    - --leader-elect=true\n");

impl Sabotage<Platform> for Drifted {
    type Choice = String;

    fn describe(&self) -> String {
        format!("{} of one control plane lacks {}", DRIFTS.0, DRIFTS.1.trim().trim_start_matches("- "))
    }

    fn touches(&self) -> Touches {
        Touches::nothing().writes(Resource::Nodes)
    }

    async fn prepare(&self, platform: &Platform) -> Result<Prepared<String>, PlantError> {
        let lease = ObjectRef::namespaced("coordination.k8s.io/v1", "Lease", "kube-system", DRIFTS.0);
        let lease = platform.get(&lease).await.map_err(PlantError::new)?.unwrap_or_default();
        let leader = lease["spec"]["holderIdentity"].as_str().unwrap_or_default();
        let leader = leader.split('_').next().unwrap_or_default();
        let node = Which::ControlPlanes.on(platform).into_iter().rev().find(|node| node != leader);
        let node = node.ok_or_else(|| PlantError::new("there is no control plane that does not lead"))?;
        let undo = file_as_found(platform, &node, &manifest_of(DRIFTS.0)).await.map_err(PlantError::new)?;
        if !matches!(undo, UndoStep::RestoreFile { .. }) {
            return Err(PlantError::new(format!("{node} has no manifest of {}", DRIFTS.0)));
        }
        Ok(Prepared::new(node, vec![undo]))
    }

    async fn plant(&self, platform: &Platform, node: &String) -> Result<(), PlantError> {
        let (component, argument) = DRIFTS;
        let machine = platform.machine(node).map_err(PlantError::new)?;
        let path = manifest_of(component);
        let file = machine.read(&path).await.map_err(PlantError::new)?;
        let file = file.ok_or_else(|| PlantError::new(format!("{node} has no {path}")))?;
        let text = String::from_utf8_lossy(&file.content).into_owned();
        if !text.contains(argument) {
            return Err(PlantError::new(format!("{path} has no line `{}`", argument.trim())));
        }
        machine.write(&path, text.replace(argument, "").as_bytes(), file.mode).await.map_err(PlantError::new)?;
        let argument = argument.trim().trim_start_matches("- ").to_owned();
        wait_for("the component without its argument", RESTARTED, || async {
            match running(platform, node, component).await {
                Ok(args) if args.is_empty() => Answer::NotYet("it does not run".to_owned()),
                Ok(args) if args.lines().any(|line| line == argument) => Answer::NotYet("the old one runs".to_owned()),
                Ok(_) => Answer::Ready(()),
                Err(e) => Answer::NotYet(e.to_string()),
            }
        })
        .await
        .map_err(PlantError::new)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::codes;

    const MANIFEST: &str = "kind: Pod\nspec:\n  containers:\n  - command: [x, --advertise-address=10.0.0.1, --encryption-provider-config=e, --audit-policy-file=p, --audit-log-path=l]\n";

    fn node(manifest: &str) -> ControlPlaneSeen {
        let own = ["cp-1".to_owned(), "10.0.0.1".to_owned()];
        let command: Value = serde_yaml_ng::from_str(manifest).unwrap();
        let running: Vec<String> = command["spec"]["containers"][0]["command"]
            .as_array()
            .unwrap()
            .iter()
            .map(|arg| arg.as_str().unwrap().to_owned())
            .collect();
        let it = understand(manifest, &running.join("\n"), &own);
        ControlPlaneSeen {
            components: COMPONENTS.iter().map(|name| ((*name).to_owned(), it.clone())).collect(),
            files: SHARED.iter().map(|file| ((*file).to_owned(), "h".to_owned())).collect(),
            healthy: true,
        }
    }

    fn three(third: ControlPlaneSeen) -> Symmetry {
        let nodes = [("cp-1", node(MANIFEST)), ("cp-2", node(MANIFEST)), ("cp-3", third)];
        Symmetry { nodes: nodes.into_iter().map(|(name, node)| (name.to_owned(), node)).collect() }
    }

    fn judge(seen: &Symmetry) -> Vec<String> {
        codes(are_alike(3).judge(seen))
    }

    #[test]
    fn what_is_the_nodes_own_does_not_differ() {
        let seen = node(MANIFEST);
        assert!(seen.components["kube-apiserver"].manifest.contains("--advertise-address=<self>"));
        assert!(judge(&three(seen)).is_empty());
    }

    #[test]
    fn a_forgotten_control_plane_is_named() {
        let lacks = |flag: &str| node(&MANIFEST.replace(flag, ""));
        for flag in [", --encryption-provider-config=e", ", --audit-policy-file=p"] {
            let found = match are_alike(3).judge(&three(lacks(flag))) {
                Judgement::Fail(found) => found,
                other => panic!("{other:?}"),
            };
            assert!(found.iter().all(|f| f.code == "argument" && f.subject == "cp-3"), "{found:?}");
            assert!(found[0].message.contains("well"), "{found:?}");
        }
    }

    #[test]
    fn each_other_defect_has_its_code() {
        let mut third = node(MANIFEST);
        third.files.insert("encryption-config.yaml".into(), "other".into());
        assert_eq!(judge(&three(third)), ["file"]);
        let mut third = node(MANIFEST);
        third.components.get_mut("kube-scheduler").unwrap().running.clear();
        assert_eq!(judge(&three(third)), ["not-running"]);
        let mut third = node(MANIFEST);
        third.components.get_mut("kube-scheduler").unwrap().running.pop_first();
        assert_eq!(judge(&three(third)), ["not-restarted"]);
        let mut third = node(MANIFEST);
        third.components.get_mut("kube-scheduler").unwrap().rest = "other".into();
        assert_eq!(judge(&three(third)), ["manifest"]);
    }
}
