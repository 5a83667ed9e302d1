//! What etcd does, shown on scratch members: quota, fragmentation, elections, damage, restore.

use std::time::Duration;

use shakedown_core::Capability::{EtcdAccess, NodesExec};
use shakedown_engine::expect::all_of;
use shakedown_engine::{Check, check, finds};
use shakedown_words::etcd_lab::{Scenario, lab};
use shakedown_words::{Platform, etcd_lab_expect as expect};

/// How long a scenario may take: it starts up to three members, several times.
const SCENARIO: Duration = Duration::from_secs(150);
/// A quota that is soon reached, bytes.
const SMALL: u64 = 8 << 20;
/// One that is not.
const LARGE: u64 = 1 << 30;
/// Writes of half a mebibyte: more than the small quota holds.
const FILL: u32 = 20;

/// The checks.
pub fn checks() -> Vec<Check<Platform>> {
    let mut all = quota();
    all.extend(fragmentation());
    all.extend(elections());
    all.extend(restore());
    all
}

fn quota() -> Vec<Check<Platform>> {
    vec![
        check("etcd.a-full-member-refuses-writes-and-still-reads")
            .asserts(["ETCD-049"])
            .needs([NodesExec, EtcdAccess])
            .within(SCENARIO)
            .observe(lab(1).quota(SMALL).started().filled(FILL).look("full"))
            .expect(expect::read_only("full"))
            .sabotage_input(
                "the quota is a gibibyte",
                lab(1).quota(LARGE).started().filled(FILL).look("full"),
                finds("still-writable"),
            )
            .remedy("compact, defragment every member, disarm the alarm; then raise --quota-backend-bytes"),
        check("etcd.compaction-defragmentation-and-disarming-cure-a-full-member")
            .asserts(["ETCD-050"])
            .needs([NodesExec, EtcdAccess])
            .within(SCENARIO)
            .observe(full().compacted().defragmented().disarmed().look("cured"))
            .expect(expect::cured("full", "cured"))
            .sabotage_omitting("the defragmentation", full().compacted().disarmed().look("cured"), finds("still-full"))
            .remedy("compact first: without it defragmentation frees nothing that the history still holds"),
        check("etcd.without-the-flag-the-quota-is-two-gibibytes")
            .asserts(["ETCD-037"])
            .needs([NodesExec, EtcdAccess])
            .within(SCENARIO)
            .observe(lab(1).started().look("now"))
            .expect(expect::quota_is("now", 2 << 30))
            .sabotage_input("a quota is given", lab(1).quota(LARGE).started().look("now"), finds("other-quota"))
            .remedy("this is etcd's default; give --quota-backend-bytes where another is wanted"),
    ]
}

fn full() -> Scenario {
    lab(1).quota(SMALL).started().filled(FILL).look("full")
}

fn fragmentation() -> Vec<Check<Platform>> {
    vec![
        check("etcd.a-mass-deletion-leaves-a-large-database-with-few-keys")
            .asserts(["ETCD-034"])
            .needs([NodesExec, EtcdAccess])
            .within(SCENARIO)
            .observe(lab(1).started().with_keys(48).keys_deleted().compacted().look("now"))
            .expect(expect::fragmented("now"))
            .sabotage_omitting(
                "the deletion",
                lab(1).started().with_keys(48).compacted().look("now"),
                finds("not-fragmented"),
            )
            .remedy("compare DB SIZE and IN USE of `etcdctl endpoint status`, and defragment"),
        check("etcd.defragmentation-shrinks-every-member-while-writes-go-on")
            .asserts(["ETCD-033", "ETCD-035"])
            .needs([NodesExec, EtcdAccess])
            .within(SCENARIO)
            .observe(mass_deletion().load_begins().defragmented().load_ends().look("after"))
            .expect(expect::shrunk("before", "after", 3))
            .sabotage_input(
                "only one member is defragmented",
                mass_deletion().load_begins().one_defragmented().load_ends().look("after"),
                finds("not-shrunk"),
            )
            .remedy("run `etcdctl defrag` for each endpoint, one after the other, the leader last"),
        check("etcd.a-leader-change-fragments-nothing")
            .contradicts(["ETCD-035"])
            .needs([NodesExec, EtcdAccess])
            .within(SCENARIO)
            .observe(lab(3).started().with_keys(48).compacted().look("before").leader_moved().look("after"))
            .expect(all_of(vec![
                Box::new(expect::leader_was_moved()),
                Box::new(expect::fragmented_neither_before_nor_after("before", "after")),
            ]))
            .sabotage_input(
                "keys are deleted instead",
                lab(1).started().with_keys(48).look("before").keys_deleted().compacted().look("after"),
                finds("fragmented"),
            )
            .remedy("defragment by the share that is free, not by changes of the leader"),
    ]
}

fn mass_deletion() -> Scenario {
    lab(3).started().with_keys(48).keys_deleted().compacted().look("before")
}

fn elections() -> Vec<Check<Platform>> {
    vec![
        check("etcd.every-forced-election-is-counted-and-quiet-is-quiet")
            .asserts(["ETCD-042"])
            .needs([NodesExec, EtcdAccess])
            .within(SCENARIO)
            .observe(lab(3).started().look("quiet").look("still").leader_frozen(2).look("after"))
            .expect(expect::counted(2, ["quiet", "still", "after"]))
            .sabotage_input(
                "a follower is frozen instead of the leader",
                lab(3).started().look("quiet").look("still").follower_frozen(2).look("after"),
                finds("no-leader-change"),
            )
            .remedy("look at the disk and the peer network of the members whose counter grows"),
    ]
}

fn restore() -> Vec<Check<Platform>> {
    vec![
        check("etcd.damaged-data-is-lost-but-for-a-snapshot")
            .asserts(["ETCD-003"])
            .needs([NodesExec, EtcdAccess])
            .within(SCENARIO)
            .observe(
                snapshot(1)
                    .all_but(0)
                    .damaged()
                    .started_again("damaged-up")
                    .get("damaged", "marker")
                    .all_but(0)
                    .restored("good")
                    .started_again("up-again")
                    .get("restored", "marker"),
            )
            .expect(expect::lost_but_for_the_snapshot())
            .sabotage_input(
                "a copy of the files is damaged",
                snapshot(1)
                    .all_but(0)
                    .copy_damaged()
                    .started_again("damaged-up")
                    .get("damaged", "marker")
                    .all_but(0)
                    .restored("good")
                    .started_again("up-again")
                    .get("restored", "marker"),
                finds("not-lost"),
            )
            .remedy("restore the newest snapshot that is proven whole"),
        check("etcd.before-a-restore-no-member-runs-or-listens")
            .asserts(["ETCD-023"])
            .needs([NodesExec, EtcdAccess])
            .within(SCENARIO)
            .observe(lab(3).started().all_but(0))
            .expect(expect::all_stopped())
            .sabotage_input("the third member is left running", lab(3).started().all_but(1), finds("still-runs"))
            .remedy("move etcd.yaml out of the manifests on every control plane before any restore"),
        check("etcd.the-old-data-is-put-aside-and-can-be-put-back")
            .asserts(["ETCD-024"])
            .needs([NodesExec, EtcdAccess])
            .within(SCENARIO)
            .observe(given_up(snapshot(1).put("marker", "later").all_but(0).put_aside()))
            .expect(expect::way_back_kept())
            .sabotage_input(
                "the old data is deleted",
                given_up(snapshot(1).put("marker", "later").all_but(0).thrown_away()),
                finds("no-way-back"),
            )
            .remedy("move /var/lib/etcd aside, never delete it, until the restore is verified"),
        check("etcd.etcdutl-restores-where-the-documented-etcdctl-does-nothing")
            .contradicts(["ETCD-025"])
            .needs([NodesExec, EtcdAccess])
            .within(SCENARIO)
            .observe(
                snapshot(1)
                    .all_but(0)
                    .put_aside()
                    .restored_as_documented("good")
                    .restored_under_its_url("good")
                    .started_again("up-again")
                    .look("restored"),
            )
            .expect(expect::restored_by_etcdutl_alone())
            .sabotage_input(
                "the peer URL is not the one in the list",
                snapshot(1)
                    .all_but(0)
                    .put_aside()
                    .restored_as_documented("good")
                    .restored_under_another_url("good")
                    .look("restored"),
                finds("not-restored"),
            )
            .remedy("use `etcdutl snapshot restore` with the same flags, and look whether the data directory is there"),
        check("etcd.three-members-are-restored-from-one-snapshot")
            .asserts(["ETCD-026"])
            .needs([NodesExec, EtcdAccess])
            .within(SCENARIO)
            .observe(changed_since().restored("good").started_again("up-again").get("later", "later").look("restored"))
            .expect(expect::three_from_one_snapshot())
            .sabotage_input(
                "the third member is restored from a later snapshot",
                changed_since()
                    .restored("good")
                    .last_restored_from("late")
                    .started_again("up-again")
                    .get("later", "later")
                    .look("restored"),
                finds("data-differs"),
            )
            .remedy("copy the same file to every control plane and compare its checksum before the restore"),
    ]
}

fn snapshot(members: u8) -> Scenario {
    lab(members).started().snapshot("good")
}

/// A restore that is given up.
fn given_up(stopped: Scenario) -> Scenario {
    stopped.restored("good").put_back().started_again("up-again").get("back", "marker")
}

fn changed_since() -> Scenario {
    snapshot(3).put("marker", "changed").put("later", "yes").snapshot("late").all_but(0)
}
