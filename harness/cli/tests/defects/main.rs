//! Defects planted by hand before `run`: each is reported as `fail` by the check that exists for it, and no unrelated
//! check fails. Needs root and the bundle; `cargo xtask test --tier defects` brings both, and `--full` runs it too.
//! `SHAKEDOWN_DEFECTS=a,b` plants only those.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod outcomes;
mod policy;
#[path = "../voyage/mod.rs"]
mod voyage;

use std::collections::BTreeSet;

use serde_json::Value;
use voyage::Voyage;

/// A defect as a person plants it: a script on a node, with what the node has.
struct Defect {
    name: &'static str,
    node: &'static str,
    plant: &'static str,
    heal: &'static str,
    /// These fail, and no other does.
    fails: &'static [&'static str],
    /// These fail too where they happen to look at what is broken; `area.*` is a whole area that loses its ground.
    may_fail: &'static [&'static str],
}

impl Defect {
    fn explains(&self, id: &str) -> bool {
        let related = |one: &&str| one.strip_suffix('*').map_or(*one == id, |area| id.starts_with(area));
        self.fails.contains(&id) || self.may_fail.iter().any(related)
    }
}

/// Defects that have nothing to do with each other are planted together: each has to be found, and what fails has to be
/// explained by one of them.
const OUTINGS: &[&[&[Defect]]] = &[
    &[outcomes::OBJECTS_AND_FILES, policy::RIGHTS_AND_BACKUPS],
    &[outcomes::AGENTS],
    &[policy::CONTROL_PLANES],
    &[policy::WEBHOOK],
    &[policy::LAGGING],
    &[policy::QUOTA],
    &[outcomes::MEMBER_STOPPED],
];

/// What a run came to, in words; empty when it is as the defects demand.
fn complaints(planted: &[&Defect], report: &Value) -> Vec<String> {
    let mut complaints = Vec::new();
    let mut failed = BTreeSet::new();
    for check in report["checks"].as_array().unwrap() {
        let id = check["id"].as_str().unwrap();
        if check["verdict"] == "fail" {
            failed.insert(id);
        }
        if check["verdict"] == "error" {
            complaints.push(format!("{id} is an error: {}", check["reason"]));
        }
    }
    for defect in planted {
        let missed = defect.fails.iter().filter(|id| !failed.contains(*id));
        complaints.extend(missed.map(|id| format!("{}: {id} does not fail", defect.name)));
    }
    let unrelated = failed.iter().filter(|id| !planted.iter().any(|defect| defect.explains(id)));
    complaints.extend(unrelated.map(|id| format!("{id} fails, and has nothing to do with it")));
    complaints
}

#[test]
fn defects_planted_by_hand_are_found_by_the_checks_that_exist_for_them() {
    let chosen = std::env::var("SHAKEDOWN_DEFECTS").ok();
    let chosen = |name: &str| chosen.as_deref().is_none_or(|list| list.split(',').any(|one| one == name));
    let voyage = Voyage::new("defects");
    voyage.must(&["up"]);
    voyage.must(&["converge"]);
    let mut complaints_of_all = Vec::new();
    for outing in OUTINGS {
        let planted: Vec<&Defect> = outing.iter().copied().flatten().filter(|defect| chosen(defect.name)).collect();
        if planted.is_empty() {
            continue;
        }
        for defect in &planted {
            eprintln!("defects: {} is planted", defect.name);
            voyage.must(&["exec", defect.node, "--", "sh", "-ec", defect.plant]);
        }
        voyage.call(&["run", "--controls", "none"]);
        let report = voyage.folder.join("shakedown-reports/latest/report.json");
        let report: Value = serde_json::from_slice(&std::fs::read(report).unwrap()).unwrap();
        for defect in planted.iter().rev() {
            voyage.must(&["exec", defect.node, "--", "sh", "-ec", defect.heal]);
        }
        let complaints = complaints(&planted, &report);
        eprintln!("defects: {} {}", report["summary"], if complaints.is_empty() { "found" } else { "MISSED" });
        complaints.iter().for_each(|text| eprintln!("defects: {text}"));
        complaints_of_all.extend(complaints);
    }
    // The heals are as good as the plants: what follows is not judged by what an earlier defect left.
    voyage.must(&["run", "--controls", "none"]);
    assert!(complaints_of_all.is_empty(), "\n{}", complaints_of_all.join("\n"));
}

#[test]
fn a_missed_defect_and_an_unrelated_failure_are_told() {
    let (defect, webhook) = (&outcomes::OBJECTS_AND_FILES[0], &policy::WEBHOOK[0]);
    let report =
        |id: &str, verdict: &str| serde_json::json!({"checks": [{"id": id, "verdict": verdict, "reason": "r"}]});
    assert!(complaints(&[defect], &report(defect.fails[0], "fail")).is_empty());
    assert_eq!(complaints(&[defect], &report(defect.fails[0], "pass")).len(), 1);
    assert_eq!(complaints(&[defect], &report("rbac.other", "fail")).len(), 2);
    assert_eq!(complaints(&[defect], &report(defect.fails[0], "error")).len(), 2);
    assert_eq!(complaints(&[defect, webhook], &report(defect.fails[0], "fail")).len(), webhook.fails.len());
    assert!(webhook.explains("kyverno.any") && !webhook.explains("rbac.any"));
}
