//! The backup of etcd: its schedule, its sets, its copies offsite, and whether they can be restored.

use std::time::Duration;

use shakedown_core::Capability::{ApiserverManifests, EtcdAccess, Nodes3cp, NodesExec};
use shakedown_engine::{Check, check, finds};
use shakedown_words::backup_drill::{self, drill};
use shakedown_words::{Platform, backup, backup_faults, etcd_restored};

/// How long a run of the script, or a restore with an apiserver of its own, may take.
const DRILL: Duration = Duration::from_secs(240);
/// Days of age on both sides of a week.
const WEEK: &[i64] = &[1, 6, 7, 8, 9];
/// And of a month.
const MONTH: &[i64] = &[1, 29, 30, 31, 40];

/// The checks.
pub fn checks() -> Vec<Check<Platform>> {
    let mut all = as_found();
    all.extend(rules());
    all.extend(restore());
    all
}

fn as_found() -> Vec<Check<Platform>> {
    vec![
        check("etcd.the-backup-is-scheduled-every-six-hours")
            .asserts(["ETCD-014"])
            .needs([NodesExec, EtcdAccess])
            .observe(backup::backups())
            .expect(backup::scheduled())
            .sabotage(backup_faults::without_user(), finds("user-missing"))
            .remedy("`shakedown converge --only etcd-backup` puts /etc/cron.d/etcd-backup back and starts cron"),
        check("etcd.the-newest-backup-is-fresh-and-none-is-kept-too-long")
            .asserts(["ETCD-021"])
            .needs([NodesExec, EtcdAccess])
            .observe(backup::backups())
            .expect(backup::on_schedule())
            .sabotage(backup_faults::stopped(), finds("stale"))
            .remedy("run /usr/local/bin/etcd-backup.sh by hand on the control plane named and look at what it says"),
        check("etcd.every-backup-is-whole")
            .asserts(["ETCD-010", "ETCD-012"])
            .needs([NodesExec, EtcdAccess])
            .observe(backup::backups())
            .expect(backup::whole())
            .sabotage(backup_faults::truncated(), finds("damaged"))
            .remedy("move the damaged file away, make a new backup, and look at the disk"),
        check("etcd.the-encryption-configuration-lies-beside-every-backup")
            .asserts(["ETCD-048"])
            .needs([NodesExec, EtcdAccess, ApiserverManifests])
            .observe(backup::backups())
            .expect(backup::config_beside_each())
            .sabotage(backup_faults::without_config(), finds("config-missing"))
            .remedy("make a new backup after every change of the encryption configuration"),
        check("etcd.every-backup-is-offsite-byte-for-byte")
            .asserts(["ETCD-016"])
            .needs([NodesExec, EtcdAccess, Nodes3cp])
            .observe(backup::backups())
            .expect(backup::offsite_equal())
            .sabotage(backup_faults::empty_copy(), finds("offsite-differs"))
            .remedy("copy the set again: aws s3 cp FILE s3://my-backups/etcd/"),
    ]
}

fn rules() -> Vec<Check<Platform>> {
    vec![
        check("etcd.a-snapshot-that-fails-ends-the-backup-before-anything-is-deleted")
            .asserts(["ETCD-015"])
            .needs([NodesExec, EtcdAccess])
            .within(DRILL)
            .observe(drill().local(WEEK).endpoint_refusing())
            .expect(backup_drill::stops_at_the_failure())
            .sabotage_input(
                "the script has no strict mode",
                drill().local(WEEK).endpoint_refusing().edited("s/^set -euo pipefail$/:/"),
                finds("carried-on"),
            )
            .remedy("begin the script with set -euo pipefail"),
        check("etcd.snapshots-of-more-than-seven-days-are-deleted-here")
            .asserts(["ETCD-017"])
            .needs([NodesExec, EtcdAccess])
            .within(DRILL)
            .observe(drill().local(WEEK))
            .expect(backup_drill::keeps_seven_days_here())
            .sabotage_input(
                "younger ones are deleted instead",
                drill().local(WEEK).edited("s/-mtime +/-mtime -/"),
                finds("retention"),
            )
            .remedy("look at the find line of /usr/local/bin/etcd-backup.sh"),
        check("etcd.snapshots-of-more-than-thirty-days-are-deleted-offsite")
            .asserts(["ETCD-018"])
            .needs([NodesExec, EtcdAccess])
            .within(DRILL)
            .observe(drill().remote(MONTH))
            .expect(backup_drill::keeps_thirty_days_offsite())
            .sabotage_input(
                "the comparison is turned round",
                drill().remote(MONTH).edited("s/-gt 30/-lt 30/"),
                finds("retention"),
            )
            .remedy("look at the last loop of /usr/local/bin/etcd-backup.sh"),
        check("etcd.the-age-of-an-offsite-snapshot-is-that-of-its-name")
            .asserts(["ETCD-019"])
            .needs([NodesExec, EtcdAccess])
            .within(DRILL)
            .observe(drill().remote(&[0, 40]))
            .expect(backup_drill::goes_by_the_name())
            .sabotage_input(
                "the names carry the day first",
                drill().remote(&[0, 40]).named("%d%m%Y-%H%M%S"),
                finds("retention"),
            )
            .remedy("keep the layout etcd-YYYYMMDD-HHMMSS.db: the clean-up reads the date from it"),
        check("etcd.a-lifecycle-policy-can-do-the-offsite-clean-up")
            .asserts(["ETCD-020"])
            .needs([NodesExec, EtcdAccess])
            .within(DRILL)
            .observe(drill().remote(&[1, 29, 31, 40]).lifecycle("etcd/"))
            .expect(backup_drill::keeps_thirty_days_offsite())
            .sabotage_input(
                "the rule is for another prefix",
                drill().remote(&[1, 29, 31, 40]).lifecycle("logs/"),
                finds("retention"),
            )
            .remedy("give the rule the prefix etcd/ and enable it"),
    ]
}

fn restore() -> Vec<Check<Platform>> {
    vec![
        check("etcd.a-restored-backup-is-the-platform-as-it-was")
            .asserts(["ETCD-028", "ETCD-029", "ETCD-030", "ETCD-048"])
            .needs([NodesExec, EtcdAccess, ApiserverManifests])
            .within(DRILL)
            .observe(etcd_restored::restored())
            .expect(etcd_restored::as_at_the_snapshot())
            .sabotage_input(
                "the snapshot was taken before the marker was written",
                etcd_restored::restored().from_an_earlier_snapshot(),
                finds("other-state"),
            )
            .remedy("look at what the restore said; make a new backup and restore that"),
        check("etcd.without-its-encryption-configuration-a-restored-secret-is-lost")
            .asserts(["ETCD-047"])
            .needs([NodesExec, EtcdAccess, ApiserverManifests])
            .within(DRILL)
            .observe(etcd_restored::restored().without_config())
            .expect(etcd_restored::secrets_unreadable())
            .sabotage_input("the configuration is in place", etcd_restored::restored(), finds("secret-readable"))
            .remedy("save the encryption configuration beside every snapshot"),
    ]
}
