//! Defects planted by hand before `run`: each is reported as `fail` by the check that exists for it, and no unrelated
//! check fails. Needs root and the bundle; `cargo xtask test --tier defects` brings both, and `--full` runs it too.
//! `SHAKEDOWN_DEFECTS=a,b` plants only those.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

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
    /// These fail too where they happen to look at what is broken.
    may_fail: &'static [&'static str],
}

/// The agents read what a CiliumNodeConfig says when they start: one node gets its own word for one option.
macro_rules! agent_option {
    ($option:literal) => {
        concat!(
            "kubectl apply -f - <<EOF\n",
            "{\"apiVersion\": \"cilium.io/v2\", \"kind\": \"CiliumNodeConfig\",\n",
            " \"metadata\": {\"name\": \"planted\", \"namespace\": \"kube-system\"},\n",
            " \"spec\": {\"nodeSelector\": {\"matchLabels\": {\"kubernetes.io/hostname\": \"worker-2\"}},\n",
            "          \"defaults\": {",
            $option,
            "}}}\nEOF\n",
            "kubectl -n kube-system delete pod -l k8s-app=cilium --field-selector spec.nodeName=worker-2\n",
            "kubectl -n kube-system rollout status ds/cilium --timeout=300s"
        )
    };
}

const NO_AGENT_OPTION: &str = "kubectl -n kube-system delete ciliumnodeconfig planted\n\
    kubectl -n kube-system delete pod -l k8s-app=cilium --field-selector spec.nodeName=worker-2\n\
    kubectl -n kube-system rollout status ds/cilium --timeout=300s";

const DEFECTS: &[Defect] = &[
    Defect {
        name: "a-node-without-hosts-toml",
        node: "worker-2",
        plant: "cd /etc/containerd/certs.d/*:30002 && mv hosts.toml /root/hosts.toml",
        heal: "cd /etc/containerd/certs.d/*:30002 && mv /root/hosts.toml hosts.toml",
        fails: &["registry.every-node-pulls-over-http-with-hosts-toml-as-found"],
        may_fail: &["registry.a-node-without-hosts-toml-fails-as-documented-and-recovers"],
    },
    Defect {
        name: "the-enforce-label-lowered",
        node: "cp-1",
        plant: "kubectl label --overwrite namespace psa-test pod-security.kubernetes.io/enforce=baseline",
        heal: "kubectl label --overwrite namespace psa-test pod-security.kubernetes.io/enforce=restricted",
        fails: &["psa.namespace-is-labelled", "psa.default-pod-is-refused"],
        may_fail: &["psa.privileged-pod-is-refused"],
    },
    Defect {
        name: "a-secret-that-was-never-rewritten",
        node: "cp-1",
        plant: r#"printf '%s' '{"apiVersion":"v1","kind":"Secret","metadata":{"name":"never-rewritten","namespace":"default","uid":"5d1f0000-0000-4000-8000-000000000002","creationTimestamp":"2026-01-01T00:00:00Z"},"type":"Opaque","data":{"marker":"cGxhbnRlZA=="}}' |
            kubectl -n kube-system exec -i etcd-cp-1 -- etcdctl --cacert=/etc/kubernetes/pki/etcd/ca.crt \
            --cert=/etc/kubernetes/pki/etcd/server.crt --key=/etc/kubernetes/pki/etcd/server.key \
            put /registry/secrets/default/never-rewritten"#,
        heal: "kubectl -n default delete secret never-rewritten",
        fails: &["encryption.every-secret-is-cipher-text-on-every-member"],
        may_fail: &[],
    },
    Defect {
        name: "wireguard-off-on-one-node",
        node: "cp-1",
        plant: agent_option!("\"enable-wireguard\": \"false\""),
        heal: NO_AGENT_OPTION,
        fails: &["wireguard.every-node-has-every-other-as-its-peer"],
        may_fail: &["wireguard.pods-on-different-nodes-talk-encrypted"],
    },
    Defect {
        name: "a-member-stopped",
        node: "cp-3",
        plant: "mv /etc/kubernetes/manifests/etcd.yaml /root/etcd.yaml; timeout 120 sh -c 'while pgrep -x etcd; do sleep 0.2; done'",
        heal: "mv /root/etcd.yaml /etc/kubernetes/manifests/etcd.yaml\n\
            timeout 180 sh -c 'until kubectl --server https://127.0.0.1:6443 get --raw /readyz; do sleep 0.5; done'",
        fails: &["etcd.three-members-follow-one-leader-with-the-same-data"],
        may_fail: &["etcd.every-member-publishes-the-documented-metrics"],
    },
    Defect {
        name: "self-heal-off",
        node: "cp-1",
        plant: r#"kubectl -n argocd patch application guestbook --type merge -p '{"spec":{"syncPolicy":{"automated":{"selfHeal":false}}}}'"#,
        heal: r#"kubectl -n argocd patch application guestbook --type merge -p '{"spec":{"syncPolicy":{"automated":{"selfHeal":true}}}}'"#,
        fails: &["argocd.drift-is-reverted"],
        may_fail: &[],
    },
    Defect {
        name: "another-maglev-seed-on-one-node",
        node: "cp-1",
        plant: agent_option!("\"bpf-lb-maglev-hash-seed\": \"c2hha2Vkb3duLTEy\""),
        heal: NO_AGENT_OPTION,
        fails: &["maglev.every-node-has-the-table-of-the-published-algorithm"],
        may_fail: &["maglev.connections-from-outside-spread-as-the-table-says"],
    },
];

/// What a run came to, in words; empty when it is as the defect demands.
fn complaints(defect: &Defect, report: &Value) -> Vec<String> {
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
    let missed = defect.fails.iter().filter(|id| !failed.contains(*id));
    complaints.extend(missed.map(|id| format!("{id} does not fail")));
    let unrelated = failed.iter().filter(|id| !defect.fails.contains(id) && !defect.may_fail.contains(id));
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
    for defect in DEFECTS.iter().filter(|defect| chosen(defect.name)) {
        eprintln!("defects: {} is planted", defect.name);
        voyage.must(&["exec", defect.node, "--", "sh", "-ec", defect.plant]);
        voyage.call(&["run", "--controls", "none"]);
        let report = voyage.folder.join("shakedown-reports/latest/report.json");
        let report: Value = serde_json::from_slice(&std::fs::read(report).unwrap()).unwrap();
        voyage.must(&["exec", defect.node, "--", "sh", "-ec", defect.heal]);
        let complaints = complaints(defect, &report);
        let summary = &report["summary"];
        eprintln!("defects: {}: {summary} {}", defect.name, if complaints.is_empty() { "found" } else { "MISSED" });
        complaints_of_all.extend(complaints.into_iter().map(|text| format!("{}: {text}", defect.name)));
    }
    // The heals are as good as the plants: what follows is not judged by what an earlier defect left.
    voyage.must(&["run", "--controls", "none"]);
    assert!(complaints_of_all.is_empty(), "\n{}", complaints_of_all.join("\n"));
}

#[test]
fn a_missed_defect_and_an_unrelated_failure_are_told() {
    let defect = &DEFECTS[0];
    let report =
        |id: &str, verdict: &str| serde_json::json!({"checks": [{"id": id, "verdict": verdict, "reason": "r"}]});
    assert!(complaints(defect, &report(defect.fails[0], "fail")).is_empty());
    assert_eq!(complaints(defect, &report(defect.fails[0], "pass")).len(), 1);
    assert_eq!(complaints(defect, &report("rbac.other", "fail")).len(), 2);
    assert_eq!(complaints(defect, &report(defect.fails[0], "error")).len(), 2);
}
