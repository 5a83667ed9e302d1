//! The platform from nothing to nothing, as a user calls it. Needs root and the bundle; `cargo xtask test --tier e2e`
//! brings both.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod voyage;

use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;
use voyage::Voyage;

fn nodes(status: &Value, role: &str) -> usize {
    status["nodes"].as_array().unwrap().iter().filter(|node| node["role"] == role && node["state"] == "running").count()
}

#[test]
fn e2e_the_documented_platform_is_proven_and_nothing_is_left_of_it() {
    let voyage = Voyage::new("e2e");
    voyage.must(&["up"]);
    let status = voyage.status();
    assert_eq!((nodes(&status, "control-plane"), nodes(&status, "worker")), (3, 2), "{status}");
    voyage.must(&["converge"]);
    voyage.must(&["status"]);
    // What is there already is left as it is.
    let again = voyage.facts(&["up"]);
    assert!(again["seconds"].as_f64().unwrap() < 10.0, "{again}");
    voyage.must(&["converge"]);

    let controls = if std::env::var_os("SHAKEDOWN_FULL").is_some() { "all" } else { "sample" };
    voyage.must(&["run", "--controls", controls]);
    let report: Value =
        serde_json::from_slice(&std::fs::read(voyage.folder.join("shakedown-reports/latest/report.json")).unwrap())
            .unwrap();
    let summary = &report["summary"];
    assert!(summary["pass"].as_u64().unwrap() >= 18, "{summary}");
    for verdict in ["fail", "inconclusive", "error"] {
        assert_eq!(summary[verdict], 0, "{summary}");
    }
    assert_eq!(summary["kill_rate"], 1.0, "{summary}");
    assert!(report["statements"]["checked"].as_u64().unwrap() > 0);
    for file in ["junit.xml", "report.html"] {
        assert!(voyage.folder.join("shakedown-reports/latest").join(file).is_file(), "{file}");
    }
    evidence_is_whole(&voyage.folder.join("shakedown-reports/latest"), &report);
    // The evidence alone gives the same verdicts.
    let rejudged = voyage.facts(&["rejudge", "latest"]);
    assert_eq!(rejudged["changes"], Value::Array(vec![]), "{}", rejudged["changes"]);

    assert_eq!(voyage.code(&["run", "--check", "no.such-check"]), Some(2));
    assert_eq!(voyage.code(&["exec", "cp-1", "--", "sh", "-c", "exit 7"]), Some(7));
    voyage.must(&["recover"]);
    voyage.must(&["recover"]);
    voyage.must(&["down"]);
    voyage.must(&["down"]);
    assert_eq!(voyage.code(&["status"]), Some(2), "a cluster that is gone has no status");
    let left = voyage.call(&["residue", "--json"]);
    let left: Value = serde_json::from_slice(&left.stdout).unwrap();
    let of_ours: Vec<&Value> = left["residue"].as_array().unwrap().iter().filter(|r| r["cluster"] == "e2e").collect();
    assert!(of_ours.is_empty(), "{of_ours:?}");
}

/// Every file that the report names is there with the hash that it names, and none of them is read by its path alone.
fn evidence_is_whole(run: &Path, report: &Value) {
    let mut count = 0;
    for check in report["checks"].as_array().unwrap() {
        for item in check["evidence"].as_array().unwrap() {
            let path = item["path"].as_str().unwrap();
            assert!(Path::new(path).is_relative(), "{path}");
            let bytes = std::fs::read(run.join(path)).unwrap_or_else(|e| panic!("{path}: {e}"));
            assert_eq!(sha256(&bytes), item["sha256"].as_str().unwrap(), "{path}");
            count += 1;
        }
    }
    assert!(count > 0, "a run without evidence proves nothing");
}

fn sha256(bytes: &[u8]) -> String {
    use std::io::Write as _;
    let mut child = Command::new("sha256sum").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(bytes).unwrap();
    let output = child.wait_with_output().unwrap();
    String::from_utf8(output.stdout).unwrap().split_whitespace().next().unwrap().to_owned()
}

#[test]
fn e2e_the_smallest_cluster_stands_beside_another_and_grows() {
    let voyage = Voyage::new("e2e-small");
    voyage.must(&["up", "--control-planes", "1", "--workers", "0"]);
    let status = voyage.status();
    assert_eq!((nodes(&status, "control-plane"), nodes(&status, "worker")), (1, 0), "{status}");
    voyage.must(&["up", "--workers", "1"]);
    let status = voyage.status();
    assert_eq!((nodes(&status, "control-plane"), nodes(&status, "worker")), (1, 1), "{status}");
    voyage.must(&["down"]);
}
