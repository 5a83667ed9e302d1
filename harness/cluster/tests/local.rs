//! Whole clusters on this machine, from nothing to nothing.
#![allow(clippy::unwrap_used, clippy::expect_used)] // a test fails by panicking

mod common;

use std::process::Stdio;
use std::time::{Duration, Instant};

use common::{Name, left_of, must, run, shakedown};
use shakedown_cluster::{Cluster, Store, names, ready, recover};
use shakedown_node::net::Plan;
use shakedown_node::{NodeState, Power, helper};

const BUDGET: Duration = Duration::from_secs(240);

fn node_names(name: &str) -> Vec<String> {
    let listed = must(name, &["exec", "cp-1", "--", "kubectl", "get", "nodes", "-o", "name"]);
    listed.lines().map(|l| l.trim_start_matches("node/").to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn e2e_one_node_grows_is_stopped_and_goes_without_a_trace() {
    let name = Name::new("one");
    must(&name.0, &["up", "--control-planes", "1", "--workers", "0"]);
    assert_eq!(node_names(&name.0), ["cp-1"]);
    assert_eq!(run(&name.0, &["exec", "cp-1", "--", "sh", "-c", "exit 7"]).status.code(), Some(7));
    assert_eq!(run(&name.0, &["exec", "cp-9", "--", "true"]).status.code(), Some(2));
    assert_eq!(run(&name.0, &["up", "--workers", "0", "--control-planes", "0"]).status.code(), Some(2));

    must(&name.0, &["up", "--workers", "1"]);
    assert_eq!(node_names(&name.0), ["cp-1", "worker-1"]);

    // As after a reboot of the host: no process, no network, only disks.
    let cluster = Cluster::find(&name.0).unwrap();
    for node in cluster.nodes().into_iter().chain([cluster.node("lb").unwrap()]) {
        node.power(Power::Cut).await.unwrap();
    }
    let fabric = names::fabric(&name.0, cluster.state().subnet);
    let clear = Plan::Clear { pin: fabric.pin, host_link: fabric.host_link };
    helper::run("__net", &serde_json::to_string(&clear).unwrap()).await.unwrap();
    let status = run(&name.0, &["status", "--json"]);
    assert_eq!(status.status.code(), Some(3));
    assert!(String::from_utf8_lossy(&status.stdout).contains("\"state\": \"stopped\""));
    must(&name.0, &["up"]);
    assert_eq!(node_names(&name.0), ["cp-1", "worker-1"]);

    must(&name.0, &["down"]);
    assert_eq!(left_of(&name.0), Vec::<String>::new());
    assert_eq!(run(&name.0, &["status"]).status.code(), Some(2));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn e2e_three_and_two_survive_the_loss_of_a_member() {
    let name = Name::new("five");
    must(&name.0, &["up"]);
    assert_eq!(node_names(&name.0).len(), 5);
    let cluster = Cluster::find(&name.0).unwrap();
    let members = cluster.etcdctl("cp-2", &["member", "list"]).await.unwrap();
    assert_eq!(members.lines().filter(|l| l.contains("started")).count(), 3, "{members}");

    let lost = cluster.node("cp-1").unwrap();
    lost.power(Power::Cut).await.unwrap();
    let others = cluster.api_of("cp-3").await.unwrap();
    ready::api_ready(&others).await.unwrap();
    let listed = must(&name.0, &["exec", "cp-2", "--", "kubectl", "get", "nodes", "-o", "name"]);
    assert_eq!(listed.lines().count(), 5, "the API answers through the balancer");

    let done = recover::nodes(&cluster).await.unwrap();
    assert_eq!(done.booted, ["cp-1"]);
    ready::complete(&cluster, BUDGET).await.unwrap();
    assert_eq!(lost.state(), NodeState::Running);
    assert_eq!(recover::nodes(&cluster).await.unwrap(), recover::Recovered::default());
}

/// A small generator with a fixed seed: the moments are the same in every run.
fn moments(count: usize, longest: u64) -> Vec<Duration> {
    let mut state = 20_261_121_u64;
    (0..count)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            Duration::from_millis((state >> 33) % longest)
        })
        .collect()
}

#[test]
fn e2e_a_killed_up_goes_on() {
    let name = Name::new("killed");
    let up = ["up", "--control-planes", "1", "--workers", "1"];
    for moment in moments(4, 7_000) {
        let mut child = shakedown(&name.0, &up).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let end = Instant::now() + moment;
        while Instant::now() < end && child.try_wait().unwrap().is_none() {
            std::thread::sleep(Duration::from_millis(10));
        }
        let _ = child.kill();
        child.wait().unwrap();
    }
    must(&name.0, &up);
    assert_eq!(node_names(&name.0), ["cp-1", "worker-1"]);
    must(&name.0, &["down"]);
    assert_eq!(left_of(&name.0), Vec::<String>::new());
    assert!(!Store::default().names().contains(&name.0));
}
