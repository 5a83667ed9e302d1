//! Recorded observations, good ones and broken ones, judged by the check that made them: `fixtures/recorded/AREA/`
//! holds `CHECK.good.json` (must pass) and `CHECK.CODE.json` (must fail with this code), each taken from a real run.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde_json::Value;
use shakedown_core::Judgement;

/// Areas whose every check has both kinds.
const COMPLETE: &[&str] = &["argocd", "cilium-values", "kyverno", "encryption", "etcd", "psa", "rbac"];

fn judged(judgement: &Judgement) -> BTreeSet<&str> {
    match judgement {
        Judgement::Pass => BTreeSet::from(["good"]),
        Judgement::Fail(findings) => findings.iter().map(|finding| finding.code.as_str()).collect(),
        Judgement::Inconclusive(_) => BTreeSet::from(["inconclusive"]),
    }
}

#[test]
fn every_recorded_observation_is_judged_as_its_name_says() {
    let checks: BTreeMap<_, _> = shakedown_suites::checks().into_iter().map(|check| (check.id, check)).collect();
    let mut kinds: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
    for area in COMPLETE {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures/recorded").join(area);
        for entry in std::fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            let (id, code) = name.trim_end_matches(".json").rsplit_once('.').unwrap();
            let (id, check) = checks.get_key_value(id).unwrap_or_else(|| panic!("{name}: no such check"));
            let evidence: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
            assert_eq!(evidence["schema"], check.probe.schema(), "{name}");
            let judgement = (check.judge)(&evidence["seen"]).unwrap();
            assert!(judged(&judgement).contains(code), "{name}: {judgement:?}");
            kinds.entry(id).or_default().insert(code.to_owned());
        }
    }
    for check in checks.values().filter(|check| COMPLETE.contains(&check.area())) {
        let kinds = kinds.get(check.id).unwrap_or_else(|| panic!("{}: nothing is recorded", check.id));
        assert!(kinds.contains("good") && kinds.contains(check.control.finds), "{}: only {kinds:?}", check.id);
    }
}

/// A judge that passes whatever it is given proves nothing: each one is given an observation of another shape, too.
#[test]
fn no_judge_takes_another_shape() {
    for check in shakedown_suites::checks() {
        assert!((check.judge)(&Value::String("nothing of the kind".into())).is_err(), "{}", check.id);
    }
}

#[test]
fn every_manifest_of_a_check_can_be_read() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for area in COMPLETE {
        for entry in std::fs::read_dir(root.join(area)).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|ext| ext == "yaml") {
                let text = std::fs::read_to_string(&path).unwrap();
                let all = shakedown_words::manifest::documents(&text).unwrap();
                assert!(all.iter().all(|object| object["kind"].is_string()), "{}", path.display());
            }
        }
    }
}
