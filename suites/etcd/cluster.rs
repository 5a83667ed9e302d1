//! The cluster's own members and what is in them.

use std::time::Duration;

use shakedown_core::Capability::{EtcdAccess, ManagedControlPlane, Nodes3cp, NodesExec};
use shakedown_engine::{Check, Tag, check, finds};
use shakedown_words::etcd::etcdctl;
use shakedown_words::etcd_lab::lab;
use shakedown_words::node_command::{Which, on};
use shakedown_words::{Platform, etcd_cluster, etcd_keys, etcd_lab_expect, etcd_outsider, etcd_quota, etcd_static_pod};

/// How long a look that changes something may take.
const CHANGE: Duration = Duration::from_secs(150);
/// How long a static Pod may take to go and to come back.
const STATIC_POD: Duration = Duration::from_secs(300);
/// A quota that is soon nearly reached, bytes.
const SMALL: u64 = 8 << 20;

/// The checks.
pub fn checks() -> Vec<Check<Platform>> {
    let mut all = members();
    all.extend(content());
    all.extend(without_etcd());
    all
}

fn members() -> Vec<Check<Platform>> {
    vec![
        check("etcd.the-status-table-has-the-columns-of-this-version")
            .contradicts(["ETCD-005"])
            .needs([NodesExec, EtcdAccess, Nodes3cp])
            .observe(on(Which::ControlPlanes, etcdctl(&["endpoint", "status", "--write-out=table"])))
            .expect(etcd_cluster::header_has(
                &["ENDPOINT", "DB SIZE", "IS LEADER", "RAFT INDEX", "ERRORS"],
                &["LEADER", "RAFT IDX", "ALARMS"],
            ))
            .sabotage_input(
                "the list of members is read instead",
                on(Which::ControlPlanes, etcdctl(&["member", "list", "--write-out=table"])),
                finds("column-missing"),
            )
            .remedy("read IS LEADER and RAFT INDEX; alarms are in `etcdctl alarm list`, not in this table"),
        check("etcd.a-change-of-the-leader-is-counted-by-every-member")
            .asserts(["ETCD-041"])
            .needs([NodesExec, EtcdAccess, Nodes3cp])
            .within(CHANGE)
            .observe(etcd_cluster::leader_moved_and_back())
            .expect(etcd_cluster::change_counted(3))
            .sabotage_omitting("the move", etcd_cluster::leader_left_alone(), finds("not-counted"))
            .remedy("look at --listen-metrics-urls in /etc/kubernetes/manifests/etcd.yaml"),
        check("etcd.the-clusters-members-are-defragmented-one-by-one-under-load")
            .asserts(["ETCD-033"])
            .needs([NodesExec, EtcdAccess, Nodes3cp])
            .within(CHANGE)
            .observe(etcd_cluster::defragmented_under_load())
            .expect(etcd_cluster::all_defragmented(3))
            .sabotage_omitting(
                "the last member",
                etcd_cluster::defragmented_but_for_the_last(),
                finds("not-defragmented"),
            )
            .remedy("run `etcdctl defrag` on each control plane in turn, and look at the member that refused"),
        check("etcd.the-documented-quota-is-on-every-member")
            .asserts(["ETCD-036"])
            .needs([NodesExec, EtcdAccess, Nodes3cp])
            .observe(etcd_quota::quotas())
            .expect(etcd_quota::documented_on(3))
            .sabotage_input(
                "one member runs without the flag",
                etcd_quota::quotas_but_for_the_last(lab(1).started().look("now")),
                finds("other-quota"),
            )
            .remedy("give --quota-backend-bytes=8589934592 in /etc/kubernetes/manifests/etcd.yaml"),
        check("etcd.every-member-has-headroom-below-its-quota")
            .asserts(["ETCD-038"])
            .needs([NodesExec, EtcdAccess, Nodes3cp])
            .observe(etcd_quota::quotas())
            .expect(etcd_quota::headroom(3))
            .sabotage_input(
                "one member's quota is just above its size",
                etcd_quota::quotas_but_for_the_last(lab(1).quota(SMALL).started().filled(15).look("now")),
                finds("little-headroom"),
            )
            .remedy("find what fills the database, compact and defragment, or raise the quota before writes stop"),
        check("etcd.the-manifest-moved-away-stops-the-member-and-moved-back-starts-it")
            .asserts(["ETCD-022", "ETCD-027"])
            .needs([NodesExec, EtcdAccess, Nodes3cp])
            .tag(Tag::Exclusive)
            .within(STATIC_POD)
            .observe(etcd_static_pod::manifest_moved())
            .expect(etcd_static_pod::stopped_and_back())
            .sabotage_input(
                "the manifest is copied, not moved",
                etcd_static_pod::manifest_copied(),
                finds("still-runs"),
            )
            .remedy("look at the kubelet's log on the control plane named, and at staticPodPath in its configuration"),
    ]
}

fn content() -> Vec<Check<Platform>> {
    vec![
        check("etcd.every-object-of-the-cluster-has-its-key")
            .asserts(["ETCD-001"])
            .needs([NodesExec, EtcdAccess])
            .within(CHANGE)
            .observe(etcd_keys::keys_of_the_state())
            .expect(etcd_keys::all_have_keys())
            .sabotage_input("the keys of another, empty member", etcd_keys::keys_read_elsewhere(), finds("key-missing"))
            .remedy("look at --etcd-servers of the apiservers: they may use another etcd"),
        check("etcd.no-snapshot-holds-the-encryption-key")
            .asserts(["ETCD-046"])
            .needs([NodesExec, EtcdAccess])
            .within(CHANGE)
            .observe(etcd_keys::texts_of_a_snapshot())
            .expect(etcd_keys::state_alone())
            .sabotage_input(
                "a scratch member was given the key as a value",
                etcd_keys::texts_of_a_snapshot().with_the_key_stored(),
                finds("key-in-snapshot"),
            )
            .remedy("find the object that holds the key, delete it, rotate the key"),
        check("etcd.no-snapshot-holds-what-is-in-a-volume")
            .asserts(["ETCD-032"])
            .needs([NodesExec, EtcdAccess])
            .within(CHANGE)
            .observe(etcd_keys::texts_of_a_snapshot())
            .expect(etcd_keys::state_alone())
            .sabotage_input(
                "the text of the volume's file is in a ConfigMap too",
                etcd_keys::texts_of_a_snapshot().with_the_files_text_stored(),
                finds("volume-in-snapshot"),
            )
            .remedy("back volumes up by themselves: an etcd snapshot has none of their data"),
        check("etcd.without-its-majority-the-api-neither-reads-nor-writes")
            .asserts(["ETCD-002"])
            .needs([NodesExec, EtcdAccess])
            .within(CHANGE)
            .observe(
                lab(3).started().apiserver().asked("before").ended(2).asked("stopped").members_back().asked("after"),
            )
            .expect(etcd_lab_expect::served_but_for("stopped"))
            .sabotage_input(
                "only one of the three members is stopped",
                lab(3)
                    .started()
                    .apiserver()
                    .asked("before")
                    .ended(1)
                    .leader_awaited()
                    .asked("stopped")
                    .members_back()
                    .asked("after"),
                finds("still-served"),
            )
            .remedy("bring two of the three members back, or restore a snapshot"),
    ]
}

fn without_etcd() -> Vec<Check<Platform>> {
    vec![
        check("etcd.a-kubeconfig-alone-takes-no-snapshot")
            .asserts(["ETCD-044"])
            .needs([NodesExec, EtcdAccess])
            .observe(etcd_outsider::snapshot_with_a_kubeconfig())
            .expect(etcd_outsider::refused())
            .sabotage_input(
                "the member's own certificate is shown",
                etcd_outsider::snapshot_with_the_members_certificate(),
                finds("snapshot-taken"),
            )
            .remedy("etcd's CA must be its own: no certificate for the API may open etcd"),
        check("etcd.a-managed-control-plane-shows-no-etcd")
            .asserts(["ETCD-043"])
            .needs([ManagedControlPlane])
            .observe(etcd_outsider::who_runs_etcd())
            .expect(etcd_outsider::run_by_the_provider())
            .sabotage_recorded(
                "the same look at a cluster of kubeadm's",
                include_str!("who-runs-etcd.kubeadm.json"),
                finds("self-run"),
            )
            .remedy("leave etcd's backup to the provider, and back resources up with Velero"),
    ]
}
