//! Converging a real cluster of one node: killed on the way, repeated, damaged and repaired.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use serde_json::Value;

const NAME: &str = "converge-test";

/// Takes the cluster away whatever happens.
struct Cluster;

impl Drop for Cluster {
    fn drop(&mut self) {
        let _ = shakedown(&["down"]).status();
    }
}

fn binary() -> PathBuf {
    if let Some(path) = std::env::var_os("SHAKEDOWN_BIN") {
        return path.into();
    }
    let test = std::env::current_exe().unwrap();
    let built = test.ancestors().nth(2).unwrap().join("shakedown");
    assert!(built.is_file(), "build it first: cargo build -p shakedown");
    built
}

fn shakedown(args: &[&str]) -> Command {
    let mut command = Command::new(binary());
    command.args(args).args(["--name", NAME, "--quiet"]).stdin(Stdio::null());
    command
}

fn run(args: &[&str]) -> Output {
    let output = shakedown(args).output().unwrap();
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    output
}

/// Converges; every step's name and how it ended.
fn converge() -> BTreeMap<String, String> {
    let report: Value = serde_json::from_slice(&run(&["converge", "--json"]).stdout).unwrap();
    assert_eq!(report["converged"], true, "{report:#}");
    let steps = report["steps"].as_array().unwrap();
    steps.iter().map(|s| (s["name"].as_str().unwrap().to_owned(), s["ended"].as_str().unwrap().to_owned())).collect()
}

fn installed(steps: &BTreeMap<String, String>) -> Vec<&str> {
    steps.iter().filter(|(_, ended)| *ended != "unchanged").map(|(name, _)| name.as_str()).collect()
}

fn on_node(argv: &[&str]) -> String {
    let mut args = vec!["exec", "cp-1", "--"];
    args.extend(argv);
    // The name goes before `--`.
    let output = Command::new(binary()).args(["--name", NAME, "--quiet"]).args(&args).output().unwrap();
    assert!(output.status.success(), "{argv:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn e2e_converge_goes_on_after_a_kill_changes_nothing_twice_and_repairs_what_was_damaged() {
    let _cluster = Cluster;
    run(&["up", "--control-planes", "1", "--workers", "0"]);

    // While helm sends its objects, while agents compile, while the apiserver is rolled.
    for seconds in [2, 12, 30] {
        let mut running = shakedown(&["converge"]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        std::thread::sleep(Duration::from_secs(seconds));
        running.kill().unwrap();
        running.wait().unwrap();
    }
    converge();
    assert_eq!(installed(&converge()), Vec::<&str>::new());

    // Every Secret in etcd is encrypted, the ones from before the change too.
    let keys = on_node(&["sh", "-c", "ls /etc/containerd/certs.d"]);
    let registry = keys.trim();
    let raw = on_node(&[
        "etcdctl",
        "--cacert=/etc/kubernetes/pki/etcd/ca.crt",
        "--cert=/etc/kubernetes/pki/etcd/server.crt",
        "--key=/etc/kubernetes/pki/etcd/server.key",
        "get",
        "--print-value-only",
        "/registry/secrets/storage-demo/super-password",
    ]);
    assert!(raw.starts_with("k8s:enc:aescbc:v1:key1:"), "the Secret is not encrypted");
    assert!(!raw.contains("MyP@ssw0rd"), "the Secret can be read");

    on_node(&["rm", &format!("/etc/containerd/certs.d/{registry}/hosts.toml")]);
    on_node(&[
        "kubectl",
        "label",
        "--overwrite",
        "namespace",
        "psa-test",
        "pod-security.kubernetes.io/enforce=baseline",
    ]);
    on_node(&["kubectl", "-n", "storage-demo", "delete", "rolebinding", "demo-viewer-can-read"]);
    let steps = converge();
    assert_eq!(installed(&steps), ["hosts-toml", "namespaces", "viewer"]);
    assert_eq!(installed(&converge()), Vec::<&str>::new());
}
