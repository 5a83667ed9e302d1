//! etcd: status of the members, keys, snapshots, metrics.

use shakedown_core::Capability::{EtcdAccess, Nodes3cp, NodesExec};
use shakedown_engine::{Check, check, finds};
use shakedown_words::{Platform, etcd, etcd_faults};

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
    ]
}
