//! The documented way of changing an apiserver's manifest: text is put in behind an anchor (ENC-042, ENC-047 to ENC-049).
//! Done here on copies of the control planes' own manifests; nothing is written.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use shakedown_core::{Finding, Judgement, Observation, Resource, Touches};
use shakedown_engine::{Cx, Expect, ObserveError, Probe, expect_fn};

use crate::encryption_config::{FILE, FLAG, MANIFEST};
use crate::node_command::Which;
use crate::platform::Platform;

/// The anchor of the script's first version: only an apiserver with auditing has it.
pub const FIRST_ANCHOR: &str = "--audit-policy-file";
/// The anchor of its second version: every apiserver has it.
pub const SECOND_ANCHOR: &str = "--tls-private-key-file";
/// Name of the volume and of its mount.
const VOLUME: &str = "encryption-config";

/// One version of the script on one copy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Patched {
    /// How often the anchor occurs.
    pub anchors: usize,
    /// Its error; then the copy is as it was.
    pub error: Option<String>,
    /// The result is a Pod that differs by the argument, the read-only mount and the volume of type File, and by nothing
    /// else.
    pub only_additions: bool,
    /// A second run changes nothing more.
    pub twice_is_once: bool,
}

/// All copies.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Patches {
    /// Control plane to how many arguments of auditing its copy has.
    pub audit_arguments: BTreeMap<String, usize>,
    /// Control plane to what the first version did.
    pub first: BTreeMap<String, Patched>,
    /// Control plane to what the second version did.
    pub second: BTreeMap<String, Patched>,
}

impl Observation for Patches {
    const SCHEMA: &'static str = "anchored-patch/1";
}

/// Runs both versions on copies.
#[derive(Debug, Clone)]
pub struct RunsBoth {
    audit_everywhere: bool,
    second_anchor: &'static str,
}

/// Both versions on copies from before: without encryption, with auditing on the first control plane only.
pub fn both_versions() -> RunsBoth {
    RunsBoth { audit_everywhere: false, second_anchor: SECOND_ANCHOR }
}

impl RunsBoth {
    /// The copies have auditing everywhere.
    #[must_use]
    pub fn with_auditing_everywhere(mut self) -> Self {
        self.audit_everywhere = true;
        self
    }
}

impl Probe<Platform> for RunsBoth {
    type Seen = Patches;

    fn touches(&self) -> Touches {
        Touches::nothing().reads(Resource::Nodes)
    }

    async fn observe(&self, platform: &Platform, _cx: &Cx) -> Result<Patches, ObserveError> {
        let mut seen = Patches { audit_arguments: BTreeMap::new(), first: BTreeMap::new(), second: BTreeMap::new() };
        for (number, node) in Which::ControlPlanes.on(platform).into_iter().enumerate() {
            let machine = platform.machine(&node).map_err(ObserveError::no_ground)?;
            let file = machine.read(MANIFEST).await.map_err(ObserveError::no_ground)?;
            let file = file.ok_or_else(|| ObserveError::no_ground(format!("{node} has no {MANIFEST}")))?;
            let mut copy = without(&String::from_utf8_lossy(&file.content), &[FLAG], &[VOLUME]);
            if number > 0 && !self.audit_everywhere {
                copy = without(&copy, &["--audit-"], &["audit-policy", "audit-log"]);
            }
            seen.audit_arguments.insert(node.clone(), copy.matches("- --audit-").count());
            seen.first.insert(node.clone(), run(&copy, FIRST_ANCHOR));
            seen.second.insert(node, run(&copy, self.second_anchor));
        }
        Ok(seen)
    }
}

/// A manifest without arguments that begin so, and without these volumes and their mounts.
fn without(text: &str, flags: &[&str], volumes: &[&str]) -> String {
    let lines: Vec<&str> = text.lines().collect();
    let mut kept: Vec<&str> = vec![];
    let mut at = 0;
    while at < lines.len() {
        let line = lines[at];
        let indent = |line: &str| line.len() - line.trim_start().len();
        // An item of a list goes on for as long as lines are indented deeper than its dash.
        let end = (at + 1..lines.len()).find(|next| indent(lines[*next]) <= indent(line)).unwrap_or(lines.len());
        let is_flag = flags.iter().any(|flag| line.trim_start().starts_with(&format!("- {flag}")));
        let is_path = line.trim_start().starts_with("- mountPath:") || line.trim_start().starts_with("- hostPath:");
        let named = |name: &&str| lines[at..end].iter().any(|line| line.trim() == format!("name: {name}"));
        if is_flag || (is_path && volumes.iter().any(named)) {
            at = end;
            continue;
        }
        kept.push(line);
        at += 1;
    }
    kept.join("\n") + "\n"
}

/// The script: the argument behind the anchor, the mount and the volume first in their lists. Where the argument is there
/// already nothing is done.
fn patch(text: &str, anchor: &str) -> Result<String, String> {
    if text.contains(&format!("- {FLAG}=")) {
        return Ok(text.to_owned());
    }
    let once = |what: &str, said: &str| match text.matches(what).count() {
        1 => Ok(()),
        0 => Err(format!("AssertionError: {said} not found")),
        more => Err(format!("AssertionError: {said} found {more} times")),
    };
    once(&format!("- {anchor}="), &format!("{} arg", anchor.trim_start_matches('-')))?;
    once("\n    volumeMounts:\n", "volumeMounts")?;
    once("\n  volumes:\n", "volumes")?;
    let mount = format!("    - mountPath: {FILE}\n      name: {VOLUME}\n      readOnly: true\n");
    let volume = format!("  - hostPath:\n      path: {FILE}\n      type: File\n    name: {VOLUME}\n");
    let mut patched = String::new();
    for line in text.lines() {
        patched.push_str(line);
        patched.push('\n');
        if line.trim_start().starts_with(&format!("- {anchor}=")) {
            patched.push_str(&format!("    - {FLAG}={FILE}\n"));
        }
        match line {
            "    volumeMounts:" => patched.push_str(&mount),
            "  volumes:" => patched.push_str(&volume),
            _ => {}
        }
    }
    Ok(patched)
}

fn run(text: &str, anchor: &str) -> Patched {
    let anchors = text.matches(&format!("- {anchor}=")).count();
    match patch(text, anchor) {
        Err(error) => Patched { anchors, error: Some(error), only_additions: false, twice_is_once: false },
        Ok(patched) => Patched {
            anchors,
            error: None,
            only_additions: only_additions(text, &patched),
            twice_is_once: patch(&patched, anchor).is_ok_and(|twice| twice == patched),
        },
    }
}

/// Compares the parsed manifests: with the three additions taken out again the second is the first.
fn only_additions(before: &str, after: &str) -> bool {
    let parse = |text: &str| serde_yaml_ng::from_str::<Value>(text).unwrap_or_default();
    let (before, mut after) = (parse(before), parse(after));
    let mut taken = 0;
    let mut take = |list: &mut Value, gone: &dyn Fn(&Value) -> bool| {
        if let Some(list) = list.as_array_mut() {
            let had = list.len();
            list.retain(|item| !gone(item));
            taken += had - list.len();
        }
    };
    let argument = format!("{FLAG}={FILE}");
    let container = &mut after["spec"]["containers"][0];
    take(&mut container["command"], &|item| *item == argument.as_str());
    take(&mut container["volumeMounts"], &|item| item["mountPath"] == FILE && item["readOnly"] == true);
    take(&mut after["spec"]["volumes"], &|item| item["hostPath"]["path"] == FILE && item["hostPath"]["type"] == "File");
    before["kind"] == "Pod" && before == after && taken == 3
}

/// The second version works on all of `count` copies, and a second run changes nothing; the first works on the control
/// plane with auditing, and stops on the others with the documented error.
pub fn only_the_second_fits_all(count: usize) -> impl Expect<Patches> {
    expect_fn(move |seen: &Patches| {
        if seen.second.len() != count {
            return Judgement::Inconclusive(format!("{} control planes, {count} expected", seen.second.len()));
        }
        let mut found = vec![];
        for (node, it) in &seen.second {
            let mut fault = |bad: bool, code: &str, message: String| {
                if bad {
                    found.push(Finding::new(code, node, message));
                }
            };
            fault(it.anchors != 1, "anchor", format!("{SECOND_ANCHOR} occurs {} times", it.anchors));
            fault(it.error.is_some(), "second-fails", format!("{:?}", it.error));
            fault(
                it.error.is_none() && !it.only_additions,
                "other-change",
                "more or less than the additions".to_owned(),
            );
            fault(it.error.is_none() && !it.twice_is_once, "twice", "a second run changes more".to_owned());
        }
        const SAID: &str = "AssertionError: audit-policy-file arg not found";
        for (number, (node, it)) in seen.first.iter().enumerate() {
            let audited = seen.audit_arguments.get(node).copied().unwrap_or_default() > 0;
            match (number, &it.error) {
                (0, None) if audited => {}
                (0, error) => found.push(Finding::new("first-fails", node, format!("{error:?}"))),
                (_, Some(error)) if error == SAID => {}
                (_, error) => {
                    found.push(Finding::new("no-error", node, format!("{error:?}, with auditing: {audited}")))
                }
            }
        }
        Judgement::from_findings(found)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::codes;

    const BARE: &str = "kind: Pod\nspec:\n  containers:\n  - command:\n    - kube-apiserver\n    - --tls-private-key-file=k\n    - --x=y\n    volumeMounts:\n    - mountPath: /a\n      name: a\n  volumes:\n  - hostPath:\n      path: /a\n      type: Directory\n    name: a\n";

    fn audited() -> String {
        BARE.replace("    - --x=y\n", "    - --x=y\n    - --audit-policy-file=p\n")
    }

    #[test]
    fn the_script_adds_three_things_once() {
        let once = patch(BARE, SECOND_ANCHOR).unwrap();
        assert!(once.contains("    - --tls-private-key-file=k\n    - --encryption-provider-config="));
        assert!(only_additions(BARE, &once) && !only_additions(BARE, BARE));
        assert!(!only_additions(BARE, &once.replace("--x=y", "--x=z")));
        assert_eq!(patch(&once, SECOND_ANCHOR).unwrap(), once);
        assert_eq!(without(&once, &[FLAG], &[VOLUME]), BARE);
        assert_eq!(patch(BARE, FIRST_ANCHOR).unwrap_err(), "AssertionError: audit-policy-file arg not found");
    }

    #[test]
    fn each_defect_has_its_code() {
        let seen = |second: &str, others: &str| {
            let copies = [("cp-1", audited()), ("cp-2", others.to_owned())];
            let mut all = Patches { audit_arguments: BTreeMap::new(), first: BTreeMap::new(), second: BTreeMap::new() };
            for (node, text) in copies {
                all.audit_arguments.insert(node.into(), text.matches("- --audit-").count());
                all.first.insert(node.into(), run(&text, FIRST_ANCHOR));
                all.second.insert(node.into(), run(&text, second));
            }
            codes(only_the_second_fits_all(2).judge(&all))
        };
        assert!(seen(SECOND_ANCHOR, BARE).is_empty());
        assert_eq!(seen(SECOND_ANCHOR, &audited()), ["no-error"]);
        assert_eq!(seen("--absent", BARE), ["anchor", "second-fails", "anchor", "second-fails"]);
    }
}
