//! Tests of the store, each in a directory of its own.

use std::os::unix::fs::MetadataExt;

use super::*;
use crate::samples;

fn store() -> (tempfile::TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::new(dir.path().join(FOLDER), None);
    (dir, store)
}

#[test]
fn a_report_is_read_as_it_was_kept() {
    let (_dir, store) = store();
    let report = samples::report();
    let folder = store.keep(&report, &[("junit.xml", "<x/>".to_owned())]).unwrap();
    for run in ["latest", &report.run.id, folder.to_str().unwrap(), folder.join(REPORT).to_str().unwrap()] {
        assert_eq!(store.read(run).unwrap(), report, "{run}");
    }
    assert_eq!(fs::read_to_string(folder.join("junit.xml")).unwrap(), "<x/>");
    assert_eq!(store.latest().unwrap(), Some(report));
}

#[test]
fn latest_follows_the_last_run_and_older_ones_stay() {
    let (_dir, store) = store();
    let mut report = samples::report();
    store.keep(&report, &[]).unwrap();
    report.run.id = "20260103T000000Z-7".to_owned();
    store.keep(&report, &[]).unwrap();
    assert_eq!(store.latest().unwrap().unwrap().run.id, "20260103T000000Z-7");
    assert_eq!(store.runs(), ["20260102T030405Z-42", "20260103T000000Z-7"]);
    assert!(store.read("20260102T030405Z-42").is_ok());
}

#[test]
fn no_run_yet_is_no_error_and_an_unknown_run_names_those_there_are() {
    let (_dir, store) = store();
    assert_eq!(store.latest().unwrap(), None);
    assert!(store.read("nope").unwrap_err().to_string().contains("hint: `shakedown run` makes one"));
    store.keep(&samples::report(), &[]).unwrap();
    assert!(store.read("nope").unwrap_err().to_string().contains("there are 20260102T030405Z-42"));
}

#[test]
fn damaged_and_foreign_reports_are_told_apart() {
    let (_dir, store) = store();
    store.keep(&samples::report(), &[]).unwrap();
    let file = store.find(LATEST).unwrap().join(REPORT);
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, &text[..text.len() / 2]).unwrap();
    assert!(matches!(store.latest().unwrap_err(), StoreError::Malformed { .. }));
    fs::write(&file, text.replace(SCHEMA, "shakedown-report/9")).unwrap();
    assert!(matches!(store.latest().unwrap_err(), StoreError::OtherSchema { found, .. } if found.ends_with("/9")));
}

#[test]
fn a_full_disk_leaves_nothing_half_made() {
    let (_dir, store) = store();
    store.begin("r").unwrap();
    // A folder in the file's place: the rename fails as it would on a full disk, after the bytes were written.
    fs::create_dir_all(store.run_folder("r").join("report.json/x")).unwrap();
    let error = store.write("r", "report.json", b"{}").unwrap_err();
    assert!(error.to_string().contains("hint:"), "{error}");
    let left: Vec<_> = fs::read_dir(store.run_folder("r")).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left, ["report.json"]);
}

#[test]
fn the_report_has_the_promised_fields() {
    let value = serde_json::to_value(samples::report()).unwrap();
    let has = |value: &serde_json::Value, fields: &[&str]| {
        for field in fields {
            assert!(value.get(field).is_some(), "{field} in {value}");
        }
    };
    has(&value, &["schema", "run", "summary", "checks", "statements"]);
    has(&value["run"], &["id", "seed", "started", "finished", "provisioner", "versions"]);
    has(&value["summary"], &["pass", "fail", "inconclusive", "skip", "error", "kill_rate", "kill_rate_live"]);
    let check = &value["checks"][0];
    has(check, &["id", "statements", "verdict", "reason", "findings", "duration_ms", "proven", "control", "evidence"]);
    has(&check["control"], &["verdict", "kind", "found", "duration_ms"]);
    has(&check["evidence"][0], &["kind", "path", "sha256"]);
    has(&value["statements"], &["total", "checked", "items"]);
    has(&value["statements"]["items"][0], &["id", "status"]);
    insta::assert_json_snapshot!(value);
}

#[test]
fn the_caller_is_the_one_behind_sudo() {
    let sudo = |name: &str| match name {
        "SUDO_UID" => Some("1000".to_owned()),
        "SUDO_GID" => Some("1001".to_owned()),
        _ => None,
    };
    assert_eq!(caller(sudo), Some((1000, 1001)));
    assert_eq!(caller(|_| None), None);
    assert_eq!(caller(|_| Some("nobody".to_owned())), None);
}

#[test]
fn component_files_belong_to_the_caller_under_sudo() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::new(dir.path().join(FOLDER), Some((1234, 1235)));
    let folder = store.begin("20260102T030405Z-42").unwrap();
    fs::create_dir(folder.join("evidence")).unwrap();
    fs::write(folder.join("evidence/a.json"), "{}").unwrap();
    store.keep(&samples::report(), &[("junit.xml", String::new())]).unwrap();
    let mut left = vec![store.root().to_owned()];
    while let Some(path) = left.pop() {
        let meta = fs::symlink_metadata(&path).unwrap();
        assert_eq!((meta.uid(), meta.gid()), (1234, 1235), "{}", path.display());
        if meta.is_dir() {
            left.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        }
    }
}
