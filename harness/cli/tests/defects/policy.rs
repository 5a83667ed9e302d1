//! Defects of the control planes, of rights and policies, of etcd and its backup.

use crate::Defect;

/// The client in the member's own container, with its certificates.
macro_rules! etcdctl {
    ($args:literal) => {
        concat!(
            "kubectl -n kube-system exec etcd-$(hostname) -- etcdctl --cacert=/etc/kubernetes/pki/etcd/ca.crt ",
            "--cert=/etc/kubernetes/pki/etcd/server.crt --key=/etc/kubernetes/pki/etcd/server.key ",
            $args
        )
    };
}

/// Waits for the apiserver of this node to serve, its arguments with or without what is asked for.
macro_rules! apiserver_serves {
    ($test:literal, $argument:literal) => {
        concat!(
            "\ntimeout 400 sh -c 'until ",
            $test,
            "tr \"\\0\" \"\\n\" </proc/$(pgrep -xo kube-apiserver)/cmdline | grep -q -e ",
            $argument,
            " && kubectl --server https://127.0.0.1:6443 get --raw /readyz; do sleep 0.5; done'"
        )
    };
}

/// A manifest is put in place in one go: the kubelet reads whatever lies in its folder.
macro_rules! manifest_edited {
    ($name:literal, $edit:literal) => {
        concat!(
            "cd /etc/kubernetes; cp -p manifests/",
            $name,
            " /root/; sed ",
            $edit,
            " manifests/",
            $name,
            " >planted.yaml; ! cmp -s planted.yaml manifests/",
            $name,
            "; mv planted.yaml manifests/",
            $name
        )
    };
}

macro_rules! manifest_back {
    ($name:literal) => {
        concat!("mv /root/", $name, " /etc/kubernetes/manifests/", $name)
    };
}

/// Ends the apiserver of this node, and waits for the next one to serve.
macro_rules! apiserver_anew {
    () => {
        "\nold=$(pgrep -xo kube-apiserver); kill $old; export old\ntimeout 400 sh -c 'until new=$(pgrep -xo kube-apiserver) && \
         [ \"$new\" != \"$old\" ] && kubectl --server https://127.0.0.1:6443 get --raw /readyz; do sleep 0.5; done'"
    };
}

/// Rights, policies and backups: each is an object or a file of its own.
pub const RIGHTS_AND_BACKUPS: &[Defect] = &[
    Defect {
        name: "a-role-with-one-verb-too-many",
        node: "cp-1",
        plant: r#"kubectl -n storage-demo patch role pod-cm-reader --type json -p '[{"op":"add","path":"/rules/0/verbs/-","value":"delete"}]'"#,
        heal: r#"kubectl -n storage-demo patch role pod-cm-reader --type json -p '[{"op":"remove","path":"/rules/0/verbs/3"}]'"#,
        fails: &["rbac.viewer-does-not-write"],
        may_fail: &[],
    },
    Defect {
        name: "a-policy-that-only-audits",
        node: "cp-1",
        plant: r#"kubectl patch clusterpolicy disallow-latest-tag --type merge -p '{"spec":{"validationFailureAction":"Audit"}}'"#,
        heal: r#"kubectl patch clusterpolicy disallow-latest-tag --type merge -p '{"spec":{"validationFailureAction":"Enforce"}}'"#,
        fails: &["kyverno.three-policies-enforce", "kyverno.latest-tag-is-refused"],
        // What is refused by this policy alone.
        may_fail: &[
            "kyverno.tag-policy-looks-for-a-colon",
            "kyverno.policies-on-pods-act-on-templates",
            "kyverno.rights-come-before-policies",
        ],
    },
    Defect {
        name: "a-truncated-backup",
        node: "cp-1",
        plant: "n=$(ls /backup/etcd-*.db | tail -n 1); cp -p $n /root/; truncate -s $(($(stat -c %s $n) / 2)) $n",
        heal: "mv /root/etcd-*.db /backup/",
        fails: &["etcd.every-backup-is-whole"],
        may_fail: &["etcd.every-backup-is-offsite-byte-for-byte"],
    },
    Defect {
        name: "a-backup-without-the-encryption-configuration",
        node: "cp-1",
        plant: "mv $(ls /backup/etcd-*.encryption-config.yaml | tail -n 1) /root/",
        heal: "mv /root/etcd-*.encryption-config.yaml /backup/",
        fails: &["etcd.the-encryption-configuration-lies-beside-every-backup"],
        may_fail: &["etcd.every-backup-is-offsite-byte-for-byte"],
    },
];

/// Control planes that were treated differently, and a backup that has stopped.
pub const CONTROL_PLANES: &[Defect] = &[
    Defect {
        name: "audit-flags-missing-on-one-control-plane",
        node: "cp-2",
        plant: concat!(
            manifest_edited!("kube-apiserver.yaml", "/--audit-/d"),
            apiserver_serves!("! ", "--audit-policy-file")
        ),
        heal: concat!(manifest_back!("kube-apiserver.yaml"), apiserver_serves!("", "--audit-policy-file")),
        fails: &[
            "encryption.the-control-planes-are-alike",
            "encryption.every-read-of-a-secret-is-audited-where-it-was-answered",
        ],
        // Requests that happened to be answered there leave no line.
        may_fail: &[
            "encryption.the-configuration-is-the-documented-one-on-every-control-plane",
            "psa.audit-mode-only-records",
            "psa.week-one-warns-and-records",
            "rbac.refusals-are-in-the-audit-log",
        ],
    },
    Defect {
        name: "identity-before-aescbc",
        node: "cp-3",
        plant: concat!(
            "f=/etc/kubernetes/encryption-config.yaml; cp -p $f /root/; ",
            r"sed -i -e '/^  - identity/d' -e 's/^  providers:$/&\n  - identity: {}/' $f; ! cmp -s $f /root/encryption-config.yaml",
            apiserver_anew!()
        ),
        heal: concat!(
            "mv /root/encryption-config.yaml /etc/kubernetes/",
            apiserver_anew!(),
            "\nkubectl get secrets -A -o json | kubectl replace -f -"
        ),
        fails: &["encryption.the-configuration-is-the-documented-one-on-every-control-plane"],
        // Secrets that are written through it are in clear.
        may_fail: &[
            "encryption.every-secret-is-cipher-text-on-every-member",
            "encryption.the-control-planes-are-alike",
            "encryption.the-documented-pipe-rewrites-every-secret",
        ],
    },
    Defect {
        name: "a-backup-that-has-stopped",
        node: "cp-1",
        plant: "mv /etc/cron.d/etcd-backup /root/; cp -a /backup /root/backup; cd /backup; \
            n=$(ls etcd-*.db | tail -n 1); n=${n%.db}; old=etcd-$(date -d '9 hours ago' +%Y%m%d-%H%M%S); \
            mv $n.db $old.db; mv $n.encryption-config.yaml $old.encryption-config.yaml; \
            ls etcd-* | grep -v ^$old | xargs -r rm",
        heal: "mv /root/etcd-backup /etc/cron.d/; rm -rf /backup; mv /root/backup /backup",
        fails: &[
            "etcd.the-backup-is-scheduled-every-six-hours",
            "etcd.the-newest-backup-is-fresh-and-none-is-kept-too-long",
        ],
        may_fail: &["etcd.every-backup-is-offsite-byte-for-byte"],
    },
];

/// Nothing asks Kyverno any more. It would put its webhooks back: the right to do so is taken from it before.
pub const WEBHOOK: &[Defect] = &[Defect {
    name: "kyvernos-webhook-removed",
    node: "cp-1",
    plant: "kubectl get clusterrolebinding kyverno:admission-controller -o json | \
        sed -e '/\"uid\"/d' -e '/\"resourceVersion\"/d' -e '/\"creationTimestamp\"/d' >/root/binding.json\n\
        kubectl delete clusterrolebinding kyverno:admission-controller\n\
        timeout 60 sh -c 'while kubectl auth can-i create validatingwebhookconfigurations \
        --as system:serviceaccount:kyverno:kyverno-admission-controller; do sleep 0.5; done'\n\
        kubectl delete validatingwebhookconfiguration kyverno-resource-validating-webhook-cfg",
    heal: "kubectl create -f /root/binding.json\n\
        kubectl -n kyverno rollout restart deployment kyverno-admission-controller\n\
        kubectl -n kyverno rollout status deployment kyverno-admission-controller --timeout=240s\n\
        timeout 180 sh -c 'until kubectl get validatingwebhookconfiguration kyverno-resource-validating-webhook-cfg; do sleep 0.5; done'",
    fails: &[
        "kyverno.webhooks-are-served-by-the-admission-controller",
        "kyverno.unlabelled-deployment-is-refused",
        "kyverno.latest-tag-is-refused",
        "kyverno.missing-requests-are-refused",
    ],
    may_fail: &["kyverno.*"],
}];

/// One member hears nothing of its peers.
pub const LAGGING: &[Defect] = &[Defect {
    name: "a-lagging-member",
    node: "cp-2",
    plant: "nft -f - <<EOF\n\
        table inet planted {\n\
        chain in { type filter hook input priority 0; tcp dport 2380 drop; tcp sport 2380 drop; }\n\
        chain out { type filter hook output priority 0; tcp dport 2380 drop; tcp sport 2380 drop; }\n\
        }\nEOF\n",
    heal: "nft delete table inet planted\n\
        timeout 180 sh -c 'until kubectl --server https://127.0.0.1:6443 get --raw /readyz; do sleep 0.5; done'",
    fails: &["etcd.three-members-follow-one-leader-with-the-same-data"],
    may_fail: &["etcd.every-member-publishes-the-documented-metrics"],
}];

/// One member works with a quota below the size of its database: at the next write it raises an alarm, and no member
/// takes writes any more.
pub const QUOTA: &[Defect] = &[Defect {
    name: "a-member-over-its-quota",
    node: "cp-3",
    plant: concat!(
        manifest_edited!("etcd.yaml", "'s/--quota-backend-bytes=.*/--quota-backend-bytes=4194304/'"),
        "\ntimeout 180 sh -c 'until kubectl -n default create configmap planted 2>&1 | grep \"database space exceeded\"; do \
         kubectl -n default delete configmap planted --ignore-not-found; sleep 0.5; done'"
    ),
    heal: concat!(
        manifest_back!("etcd.yaml"),
        "\ntimeout 180 sh -c 'until tr \"\\0\" \"\\n\" </proc/$(pgrep -xo etcd)/cmdline | grep -q bytes=8589934592 && \
         kubectl --server https://127.0.0.1:6443 get --raw /readyz; do sleep 0.5; done'\n",
        etcdctl!("alarm disarm"),
        "\nkubectl -n default delete configmap planted --ignore-not-found"
    ),
    fails: &[
        "etcd.three-members-follow-one-leader-with-the-same-data",
        "etcd.the-documented-quota-is-on-every-member",
        "etcd.every-member-has-headroom-below-its-quota",
    ],
    may_fail: &[],
}];
