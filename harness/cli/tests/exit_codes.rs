//! Exit codes as a user's shell sees them, without a cluster: 2 wrong use, 1 a check failed, 3 nothing can be said, 0.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::path::Path;
use std::process::{Command, Output};

use serde_json::{Value, json};

fn shakedown(folder: &Path, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_shakedown")).args(args).current_dir(folder).output().unwrap()
}

fn code(folder: &Path, args: &[&str]) -> Option<i32> {
    shakedown(folder, args).status.code()
}

/// Keeps a report of checks with these verdicts, none of which has evidence to be judged again.
fn keep_run(folder: &Path, verdicts: &[&str]) {
    let record = |(at, verdict): (usize, &&str)| {
        json!({
            "id": format!("gone.check-{at}"), "area": "gone", "statements": [], "verdict": verdict, "reason": "as recorded",
            "findings": [], "duration_ms": 1, "proven": false, "evidence": [], "remedy": "none",
            "control": {"verdict": "not-run", "kind": "plant", "due": false, "found": [], "note": "", "duration_ms": 0},
        })
    };
    let report = json!({
        "schema": "shakedown-report/1",
        "run": {
            "id": "r1", "seed": 1, "cluster": "shakedown", "started": "2026-01-01T00:00:00Z", "finished": null,
            "provisioner": "local", "versions": {}, "command": "shakedown run",
        },
        "summary": {
            "pass": 0, "fail": 0, "inconclusive": 0, "skip": 0, "error": 0, "controls_due": 0, "controls_found": 0,
            "kill_rate": null, "kill_rate_live": null,
        },
        "checks": verdicts.iter().enumerate().map(record).collect::<Vec<Value>>(),
        "statements": {"total": 0, "checked": 0, "items": []},
    });
    let run = folder.join("shakedown-reports/r1");
    std::fs::create_dir_all(&run).unwrap();
    std::fs::write(run.join("report.json"), report.to_string()).unwrap();
    let latest = folder.join("shakedown-reports/latest");
    if !latest.exists() {
        std::os::unix::fs::symlink("r1", latest).unwrap();
    }
}

#[test]
fn wrong_use_is_2_and_says_what_is_near() {
    let folder = tempfile::tempdir().unwrap();
    for args in [
        &["run", "--check", "no.such-check"][..],
        &["run", "--area", "no-such-area"],
        &["run", "--statement", "XXX-999"],
        &["run", "--controls", "some"],
        &["run", "--seed", "many"],
        &["run", "--failed-last"],
        &["run", "--no-such-option"],
        &["rejudge", "no-such-run"],
        &["explain", "no.such-check"],
        &["--name", "../etc", "run", "--plan"],
        &["no-such-command"],
        &[],
    ] {
        let output = shakedown(folder.path(), args);
        assert_eq!(output.status.code(), Some(2), "{args:?}");
        assert!(output.stdout.is_empty(), "{args:?}");
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(text.contains("error:") || text.contains("Usage:"), "{args:?}: {text}");
    }
    let near = shakedown(folder.path(), &["run", "--area", "psaa"]);
    assert!(String::from_utf8_lossy(&near.stderr).contains("hint: the closest are: psa"));
}

#[test]
fn a_plan_touches_nothing_and_is_the_same_for_the_same_seed() {
    let folder = tempfile::tempdir().unwrap();
    let plan = |seed: &str| {
        let output = shakedown(folder.path(), &["run", "--plan", "--json", "--seed", seed]);
        assert_eq!(output.status.code(), Some(0));
        serde_json::from_slice::<Value>(&output.stdout).unwrap()
    };
    assert_eq!(plan("5"), plan("5"));
    assert_ne!(plan("5")["baselines"], plan("6")["baselines"]);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn the_first_code_that_applies_is_that_of_the_verdicts() {
    for (verdicts, expected) in [
        (&["pass", "skip"][..], 0),
        (&["pass", "inconclusive", "error", "fail"], 1),
        (&["pass", "inconclusive"], 3),
        (&["pass", "error"], 3),
        (&["skip", "skip"], 3),
        (&[], 3),
    ] {
        let folder = tempfile::tempdir().unwrap();
        keep_run(folder.path(), verdicts);
        assert_eq!(code(folder.path(), &["rejudge"]), Some(expected), "{verdicts:?}");
    }
}

#[test]
fn a_damaged_report_and_nothing_to_run_are_3_or_2_with_a_reason() {
    let folder = tempfile::tempdir().unwrap();
    keep_run(folder.path(), &["pass"]);
    // Nothing failed last, so nothing is to be run: nothing executed proves nothing.
    let none = shakedown(folder.path(), &["run", "--failed-last"]);
    assert_eq!(none.status.code(), Some(3));
    assert!(String::from_utf8_lossy(&none.stderr).contains("nothing to run"));
    std::fs::write(folder.path().join("shakedown-reports/r1/report.json"), "{\"schema\": \"shake").unwrap();
    let damaged = shakedown(folder.path(), &["rejudge", "r1"]);
    assert_eq!(damaged.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&damaged.stderr).contains("hint:"));
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let folder = tempfile::tempdir().unwrap();
    let script =
        format!("{} run --plan | head -n 1 >/dev/null; echo ${{PIPESTATUS[0]}}", env!("CARGO_BIN_EXE_shakedown"));
    let output = Command::new("bash").args(["-c", &script]).current_dir(folder.path()).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "0", "{}", String::from_utf8_lossy(&output.stderr));
    assert!(output.stderr.is_empty());
}
