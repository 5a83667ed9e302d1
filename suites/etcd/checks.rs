//! etcd: status of the members, keys, snapshots, metrics.

use shakedown_core::Capability::{EtcdAccess, Nodes3cp, NodesExec};
use shakedown_engine::{Check, check, finds};
use shakedown_words::{Platform, etcd, etcd_faults, etcd_metrics, etcd_snapshot};

/// The checks of this area.
pub fn checks() -> Vec<Check<Platform>> {
    vec![
        check("etcd.three-members-follow-one-leader-with-the-same-data")
            .asserts(["ETCD-004", "ETCD-006", "ETCD-007", "ETCD-008", "ETCD-009"])
            .needs([NodesExec, EtcdAccess, Nodes3cp])
            .observe(etcd::members())
            .expect(etcd::healthy(3))
            .sabotage(etcd_faults::a_follower_stopped(), finds("member-silent"))
            .remedy("look at `etcdctl endpoint status` on each control plane and at the log of the member named"),
        check("etcd.a-snapshot-is-one-whole-database-file")
            .asserts(["ETCD-010", "ETCD-011", "ETCD-012", "ETCD-013"])
            .needs([NodesExec, EtcdAccess])
            .observe(etcd_snapshot::snapshot())
            .expect(etcd_snapshot::saved_whole())
            .sabotage_omitting(
                "the flag that names the key",
                etcd_snapshot::snapshot_without_key_flag(),
                finds("save-failed"),
            )
            .remedy("run the documented command by hand on the control plane and look at what it says"),
        check("etcd.every-member-publishes-the-documented-metrics")
            .asserts(["ETCD-039", "ETCD-040"])
            .needs([NodesExec, EtcdAccess, Nodes3cp])
            .observe(etcd_metrics::metrics())
            .expect(etcd_metrics::documented(3))
            .sabotage_input(
                "the apiserver is scraped instead",
                etcd_metrics::metrics_of_the_apiserver(),
                finds("metric-missing"),
            )
            .remedy("look at --listen-metrics-urls in /etc/kubernetes/manifests/etcd.yaml"),
    ]
}
