//! One machine made of namespaces, without Kubernetes on it.
#![allow(clippy::unwrap_used, clippy::expect_used)] // a test fails by panicking

mod common;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use common::{Name, left_of, parts};
use shakedown_cluster::state::{ClusterState, Phase, SCHEMA, Store};
use shakedown_cluster::{layer, names, nodes};
use shakedown_core::wait::{Answer, wait_for};
use shakedown_node::cgroup::{Group, Layout};
use shakedown_node::net::Plan;
use shakedown_node::{Exec, NamespaceNode, Node, NodeError, NodeState, Power, Role, helper};

/// A machine of a cluster that has nothing else; 10.77.255.0/24 is the last network that `up` would take.
async fn machine(name: &str) -> NamespaceNode {
    let (parts, store, layout) = (parts(), Store::default(), Layout::detect().unwrap());
    let member = names::member(Role::LoadBalancer, 1, 255, false);
    let state = ClusterState {
        schema: SCHEMA,
        name: name.to_owned(),
        id: "test".into(),
        subnet: 255,
        phase: Phase::Making,
        members: vec![member.clone()],
        kubernetes: parts.kubernetes.clone(),
        token: "aaaaaa.aaaaaaaaaaaaaaaa".into(),
    };
    store.save(&state).unwrap();
    let fabric = Plan::Fabric(names::fabric(name, 255));
    Group::cluster(layout.clone(), name).create().unwrap();
    helper::run("__net", &serde_json::to_string(&fabric).unwrap()).await.unwrap();
    let lower: Vec<PathBuf> =
        vec![layer::common(&parts, &store.directory(name), true).unwrap(), parts.node_root.clone()];
    layer::node(&parts, &nodes::directory(&store, name, "lb"), false).unwrap();
    let machine = nodes::machine(&store, &state, &member, lower, layout);
    machine.boot().await.unwrap();
    machine
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn component_a_machine_boots_obeys_and_leaves_nothing() {
    let name = Name::new("machine");
    let machine = machine(&name.0).await;
    let node: &dyn Node = &machine;
    commands(node).await;
    files(node).await;
    isolation(node).await;
    power(node).await;
    let own = name.0.clone();
    drop(name);
    assert_eq!(left_of(&own), Vec::<String>::new());
    assert!(matches!(node.exec(Exec::new(["true"])).await, Err(NodeError::Down { .. })));
}

async fn commands(node: &dyn Node) {
    let output = node.exec(Exec::shell("cat; echo err >&2; exit 7").stdin("in")).await.unwrap();
    assert_eq!((output.code, output.text().as_str(), output.error_text().as_str()), (7, "in", "err"));
    assert_eq!(node.exec(Exec::shell("kill -9 $$")).await.unwrap().code, 137);
    assert_eq!(node.exec(Exec::new(["no-such-command"])).await.unwrap().code, 127);
    let many = node.exec(Exec::new(["cat"]).stdin(vec![b'x'; 1 << 20])).await.unwrap();
    assert_eq!(many.stdout.len(), 1 << 20);
    let said = node.run(Exec::shell("echo why >&2; exit 1")).await.unwrap_err().to_string();
    assert!(said.contains("why"), "{said}");
    assert_eq!(node.run(Exec::shell("echo $WORD").env("WORD", "hello")).await.unwrap(), "hello");

    // Beyond its budget a command ends with all that it started.
    let slow = Exec::shell("sleep 4321 & sleep 4321").timeout(Duration::from_millis(500));
    assert!(matches!(node.exec(slow).await, Err(NodeError::TimedOut { .. })));
    assert_eq!(count(node, "4321").await, 0);
    // A call that is dropped ends its command too.
    let dropped = tokio::time::timeout(Duration::from_millis(500), node.exec(Exec::shell("sleep 5432 | cat"))).await;
    assert!(dropped.is_err());
    gone(node, "5432").await;
    // What is detached goes on.
    node.exec(Exec::new(["sleep", "6543"]).detached()).await.unwrap();
    // It may still be on its way from the helper's executable to its own, when it has no arguments to be known by.
    let found = wait_for("the detached process", Duration::from_secs(5), || async {
        let all = node.processes().await.unwrap();
        let found: Vec<_> =
            all.into_iter().filter(|p| p.name() == "sleep" && p.argv.contains(&"6543".into())).collect();
        if found.len() == 1 { Answer::Ready(found) } else { Answer::NotYet(format!("{found:?}")) }
    })
    .await
    .unwrap();
    node.kill(&found[0], 9).await.unwrap();
    gone(node, "6543").await;
    assert!(node.kill(&found[0], 9).await.is_err(), "a process that is gone must not be signalled");
}

async fn count(node: &dyn Node, word: &str) -> usize {
    node.processes().await.unwrap().iter().filter(|p| p.argv.iter().any(|a| a.contains(word))).count()
}

async fn gone(node: &dyn Node, word: &str) {
    wait_for("the processes to end", Duration::from_secs(5), || async {
        match count(node, word).await {
            0 => Answer::Ready(()),
            n => Answer::NotYet(format!("{n} live")),
        }
    })
    .await
    .unwrap();
}

async fn files(node: &dyn Node) {
    node.write_file("/etc/new/file", b"bytes", 0o600).await.unwrap();
    assert_eq!(node.read_file("/etc/new/file").await.unwrap(), b"bytes");
    assert_eq!(node.run(Exec::new(["stat", "-c", "%a", "/etc/new/file"])).await.unwrap(), "600");
    assert!(node.remove_file("/etc/new").await.unwrap());
    let said = node.read_file("/etc/new/file").await.unwrap_err().to_string();
    assert!(said.contains("/etc/new/file"), "{said}");
}

async fn isolation(node: &dyn Node) {
    assert_eq!(node.run(Exec::new(["hostname"])).await.unwrap(), "lb");
    let groups = node.run(Exec::new(["cat", "/proc/self/cgroup"])).await.unwrap();
    assert!(!groups.contains("shakedown"), "a node sees its own groups as roots: {groups}");
    let host: Vec<_> = std::fs::read_dir("/proc/1/task").unwrap().collect();
    assert!(!host.is_empty());
    assert_eq!(node.run(Exec::new(["cat", "/proc/1/comm"])).await.unwrap(), "shakedown");
    // A setting of the host that could not be put back is the node's own.
    let setting = "/proc/sys/kernel/unprivileged_bpf_disabled";
    let before = std::fs::read_to_string(setting).unwrap();
    node.run(Exec::shell(&format!("echo 7 > {setting}"))).await.unwrap();
    assert_eq!(node.run(Exec::new(["cat", setting])).await.unwrap(), "7");
    assert_eq!(std::fs::read_to_string(setting).unwrap(), before);
    // The default route ends in the fabric.
    assert_ne!(node.exec(Exec::new(["ping", "-c1", "-W1", "192.0.2.200"])).await.unwrap().code, 0);
    assert_eq!(node.exec(Exec::new(["ping", "-c1", "-W2", "10.77.255.1"])).await.unwrap().code, 0);
}

async fn power(node: &dyn Node) {
    node.power(Power::Freeze).await.unwrap();
    assert_eq!(node.state(), NodeState::Frozen);
    let refused = node.exec(Exec::new(["true"])).await.unwrap_err();
    assert!(matches!(refused, NodeError::Frozen { .. }), "{refused}");
    assert!(!node.read_file("/etc/hostname").await.unwrap().is_empty(), "files are reached on a frozen node");
    node.power(Power::Thaw).await.unwrap();
    assert_eq!(node.state(), NodeState::Running);
    node.write_file("/root/kept", b"1", 0o644).await.unwrap();
    let began = Instant::now();
    node.power(Power::Cut).await.unwrap();
    assert_eq!(node.state(), NodeState::Stopped);
    node.power(Power::On).await.unwrap();
    assert!(began.elapsed() < Duration::from_secs(20));
    assert_eq!(node.read_file("/root/kept").await.unwrap(), b"1");
    assert_eq!(node.run(Exec::new(["hostname"])).await.unwrap(), "lb");
}
