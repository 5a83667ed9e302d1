//! Defects of the flagship outcomes.

use crate::Defect;

/// The agents read what a CiliumNodeConfig says when they start: one node gets its own word for one option.
macro_rules! agent_option {
    ($node:literal, $option:literal) => {
        concat!(
            "kubectl apply -f - <<EOF\n",
            "{\"apiVersion\": \"cilium.io/v2\", \"kind\": \"CiliumNodeConfig\",\n",
            " \"metadata\": {\"name\": \"planted-",
            $node,
            "\", \"namespace\": \"kube-system\"},\n",
            " \"spec\": {\"nodeSelector\": {\"matchLabels\": {\"kubernetes.io/hostname\": \"",
            $node,
            "\"}},\n          \"defaults\": {",
            $option,
            "}}}\nEOF\n",
            agent_anew!($node)
        )
    };
}

macro_rules! no_agent_option {
    ($node:literal) => {
        concat!("kubectl -n kube-system delete ciliumnodeconfig planted-", $node, "\n", agent_anew!($node))
    };
}

macro_rules! agent_anew {
    ($node:literal) => {
        concat!(
            "kubectl -n kube-system delete pod -l k8s-app=cilium --field-selector spec.nodeName=",
            $node,
            "\nkubectl -n kube-system rollout status ds/cilium --timeout=300s"
        )
    };
}

/// Each is an object or a file of its own.
pub const OBJECTS_AND_FILES: &[Defect] = &[
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
        may_fail: &[
            "psa.privileged-pod-is-refused",
            "psa.ready-made-images-are-refused",
            "psa.the-documented-namespaces-are-there",
        ],
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
        name: "self-heal-off",
        node: "cp-1",
        plant: r#"kubectl -n argocd patch application guestbook --type merge -p '{"spec":{"syncPolicy":{"automated":{"selfHeal":false}}}}'"#,
        heal: r#"kubectl -n argocd patch application guestbook --type merge -p '{"spec":{"syncPolicy":{"automated":{"selfHeal":true}}}}'"#,
        fails: &["argocd.drift-is-reverted"],
        may_fail: &[],
    },
];

/// Each is an agent that was told something else than its peers.
pub const AGENTS: &[Defect] = &[
    Defect {
        name: "wireguard-off-on-one-node",
        node: "cp-1",
        plant: agent_option!("worker-2", "\"enable-wireguard\": \"false\""),
        heal: no_agent_option!("worker-2"),
        fails: &["wireguard.every-node-has-every-other-as-its-peer"],
        // What runs there is cut off from its peers; it may be what serves Kyverno's webhooks.
        may_fail: &[
            "wireguard.pods-on-different-nodes-talk-encrypted",
            "kyverno.webhooks-are-served-by-the-admission-controller",
        ],
    },
    Defect {
        name: "another-maglev-seed-on-one-node",
        node: "cp-1",
        plant: agent_option!("worker-1", "\"bpf-lb-maglev-hash-seed\": \"c2hha2Vkb3duLTEy\""),
        heal: no_agent_option!("worker-1"),
        fails: &["maglev.every-node-has-the-table-of-the-published-algorithm"],
        may_fail: &["maglev.connections-from-outside-spread-as-the-table-says"],
    },
];

/// etcd goes on with two of three.
pub const MEMBER_STOPPED: &[Defect] = &[Defect {
    name: "a-member-stopped",
    node: "cp-3",
    plant: "mv /etc/kubernetes/manifests/etcd.yaml /root/etcd.yaml; timeout 120 sh -c 'while pgrep -x etcd; do sleep 0.2; done'",
    heal: "mv /root/etcd.yaml /etc/kubernetes/manifests/etcd.yaml\n\
            timeout 180 sh -c 'until kubectl --server https://127.0.0.1:6443 get --raw /readyz; do sleep 0.5; done'",
    fails: &["etcd.three-members-follow-one-leader-with-the-same-data"],
    may_fail: &["etcd.every-member-publishes-the-documented-metrics"],
}];
