//! What is expected of scratch members of etcd.

use shakedown_core::{Finding, Judgement};
use shakedown_engine::{Expect, expect_fn};

use crate::etcd_lab::{Lab, MARKER};
use crate::etcd_metrics::LEADER_CHANGES;

/// The quota that a member works with, bytes.
const QUOTA: &str = "etcd_server_quota_backend_bytes";
/// Whether a member knows a leader.
const HAS_LEADER: &str = "etcd_server_has_leader";
/// Beyond this share of free pages a database counts as fragmented.
const FRAGMENTED: f64 = 0.5;

/// Findings, or no answer where the scenario did not get to where it is judged: these steps must have ended with 0.
fn after(seen: &Lab, steps: &[&str], judge: impl FnOnce(&mut Vec<Finding>)) -> Judgement {
    for step in steps {
        match seen.of(step) {
            Some(ran) if ran.ok() => {}
            Some(ran) => return Judgement::Inconclusive(format!("{step}: {}", ran.brief())),
            None => return Judgement::Inconclusive(format!("{step} was not done")),
        }
    }
    let mut found = vec![];
    judge(&mut found);
    Judgement::from_findings(found)
}

fn brief(seen: &Lab, step: &str) -> String {
    seen.of(step).map_or_else(|| format!("{step} was not done"), |ran| format!("{step}: {}", ran.brief()))
}

fn says(seen: &Lab, step: &str, text: &str) -> bool {
    seen.of(step).is_some_and(|ran| ran.stdout.contains(text))
}

/// At this look writes are refused for lack of space, a NOSPACE alarm is listed, and what is there can be read.
pub fn read_only(look: &'static str) -> impl Expect<Lab> {
    expect_fn(move |seen: &Lab| {
        after(seen, &["up-m0", "marker"], |found| {
            let (write, read, alarms) = (format!("{look}/write"), format!("{look}/read"), format!("{look}/alarms"));
            if seen.ok(&write) {
                found.push(Finding::new("still-writable", "etcd", brief(seen, "fill")));
            } else if !says(seen, &write, "database space exceeded") {
                found.push(Finding::new("other-words", "etcd", brief(seen, &write)));
            }
            if !says(seen, &alarms, "alarm:NOSPACE") {
                found.push(Finding::new("alarm-missing", "etcd", brief(seen, &alarms)));
            }
            if !says(seen, &read, MARKER) {
                found.push(Finding::new("unreadable", "etcd", brief(seen, &read)));
            }
        })
    })
}

/// It was full at the first look; at the second no alarm is listed, a write succeeds, and nothing is lost.
pub fn cured(full: &'static str, look: &'static str) -> impl Expect<Lab> {
    expect_fn(move |seen: &Lab| {
        if seen.ok(&format!("{full}/write")) {
            return Judgement::Inconclusive("it was not full".to_owned());
        }
        after(seen, &["up-m0", "marker"], |found| {
            let (write, read, alarms) = (format!("{look}/write"), format!("{look}/read"), format!("{look}/alarms"));
            if !seen.ok(&write) || says(seen, &alarms, "alarm:") {
                found.push(Finding::new("still-full", "etcd", brief(seen, &write)));
            }
            if !says(seen, &read, MARKER) {
                found.push(Finding::new("unreadable", "etcd", brief(seen, &read)));
            }
        })
    })
}

/// Every member's database was fragmented at the first look and is not at the second, where it has shrunk to less than
/// half; the writes in between were all acknowledged and are there, and the marker is.
pub fn shrunk(before: &'static str, now: &'static str, members: usize) -> impl Expect<Lab> {
    expect_fn(move |seen: &Lab| {
        if seen.free(before).len() < members || seen.free(before).values().any(|free| *free < FRAGMENTED) {
            return Judgement::Inconclusive(format!("free shares before: {:?}", seen.free(before)));
        }
        after(seen, &["marker", "delete", "compact", "load"], |found| {
            let size = |look: &str, member: &str| {
                seen.looks.get(look).and_then(|m| m.get(member)?.status.as_ref()).map_or(0, |status| status.size)
            };
            for (member, free_before) in seen.free(before) {
                let (was, is) = (size(before, member), size(now, member));
                let free = seen.free(now).get(member).copied().unwrap_or(1.0);
                // In bytes: of a database that is small again, the pages of the last writes are a large share.
                let kept = free * is as f64 > free_before * was as f64 / 4.0;
                if is == 0 || is * 2 > was || kept {
                    let message = format!("{was} bytes before, {is} after, {:.0} % of them free", free * 100.0);
                    found.push(Finding::new("not-shrunk", member, message));
                }
            }
            load_kept(seen, found);
            if !says(seen, &format!("{now}/read"), MARKER) {
                found.push(Finding::new("unreadable", "etcd", brief(seen, &format!("{now}/read"))));
            }
        })
    })
}

fn load_kept(seen: &Lab, found: &mut Vec<Finding>) {
    let counts: Vec<u64> =
        seen.of("load").map(|ran| ran.stdout.split(' ').filter_map(|n| n.parse().ok()).collect()).unwrap_or_default();
    match counts.as_slice() {
        [acknowledged, 0, 0] if *acknowledged > 0 => {}
        [_, _, lost] if *lost > 0 => {
            found.push(Finding::new("write-lost", "etcd", format!("{lost} acknowledged writes are gone")));
        }
        _ => found.push(Finding::new("write-refused", "etcd", format!("acknowledged, refused, lost: {counts:?}"))),
    }
}

/// At this look more than half of the database is free pages.
pub fn fragmented(look: &'static str) -> impl Expect<Lab> {
    expect_fn(move |seen: &Lab| {
        after(seen, &["up-m0", "bulk", "compact"], |found| match seen.free(look).get("m0") {
            Some(free) if *free >= FRAGMENTED => {}
            free => found.push(Finding::new("not-fragmented", "m0", format!("free share: {free:?}"))),
        })
    })
}

/// At neither of the two looks any member's database was fragmented.
pub fn fragmented_neither_before_nor_after(before: &'static str, now: &'static str) -> impl Expect<Lab> {
    expect_fn(move |seen: &Lab| {
        let (was, is) = (seen.free(before), seen.free(now));
        if was.is_empty() || !was.keys().eq(is.keys()) {
            return Judgement::Inconclusive(format!("free shares: {was:?}, {is:?}"));
        }
        if was.values().any(|free| *free > FRAGMENTED) {
            return Judgement::Inconclusive(format!("free shares before: {was:?}"));
        }
        let more = is.iter().filter(|(_, free)| **free > FRAGMENTED);
        let found =
            more.map(|(member, free)| Finding::new("fragmented", *member, format!("{:.0} % free", free * 100.0)));
        after(seen, &["bulk"], |all| all.extend(found))
    })
}

/// The leader was handed over.
pub fn leader_was_moved() -> impl Expect<Lab> {
    expect_fn(|seen: &Lab| match seen.of("move") {
        // A scenario that does something else instead is judged by what it did.
        None => Judgement::Pass,
        Some(ran) if ran.ok() => Judgement::Pass,
        Some(ran) => Judgement::Inconclusive(ran.brief()),
    })
}

/// Every member at this look works with this quota, in bytes.
pub fn quota_is(look: &'static str, bytes: u64) -> impl Expect<Lab> {
    expect_fn(move |seen: &Lab| {
        after(seen, &["up-m0"], |found| match seen.metric(look, QUOTA).get("m0") {
            Some(quota) if *quota as u64 == bytes => {}
            quota => found.push(Finding::new("other-quota", "m0", format!("{quota:?} bytes"))),
        })
    })
}

/// From `still` to `after` every member counted at least `times` changes of the leader, from `quiet` to `still` none;
/// and at the end everyone knows a leader.
pub fn counted(times: u8, [quiet, still, now]: [&'static str; 3]) -> impl Expect<Lab> {
    expect_fn(move |seen: &Lab| {
        let counts = |look| seen.metric(look, LEADER_CHANGES);
        let (first, second, third) = (counts(quiet), counts(still), counts(now));
        if first.len() < 3 || second.len() < 3 || third.len() < 3 {
            return Judgement::Inconclusive(format!("counters: {first:?}, {second:?}, {third:?}"));
        }
        if second != first {
            return Judgement::Inconclusive(format!("the leader changed by itself: {first:?}, {second:?}"));
        }
        let mut found = vec![];
        // A leader that was frozen sees its successor, but may have slept through a change in between.
        let most = third.iter().map(|(m, count)| count - second.get(m).copied().unwrap_or(0.0)).fold(0.0, f64::max);
        if most < f64::from(times) {
            found.push(Finding::new("no-leader-change", "etcd", format!("{most} changes counted, {times} expected")));
        }
        let without = seen.metric(now, HAS_LEADER).into_iter().filter(|(_, has)| *has != 1.0);
        found.extend(without.map(|(member, _)| Finding::new("no-leader", member, "it knows no leader".to_owned())));
        Judgement::from_findings(found)
    })
}

/// After the damage the marker cannot be read; from the snapshot it can.
pub fn lost_but_for_the_snapshot() -> impl Expect<Lab> {
    expect_fn(|seen: &Lab| {
        after(seen, &["up-m0", "marker", "save-good", "damage", "restore-m0"], |found| {
            if says(seen, "damaged", MARKER) {
                found.push(Finding::new("not-lost", "m0", "the marker can still be read".to_owned()));
            }
            if !says(seen, "restored", MARKER) {
                found.push(Finding::new("not-restored", "m0", brief(seen, "restored")));
            }
        })
    })
}

/// The apiserver serves before and after; at `stopped` it neither writes nor reads, and its readiness names etcd.
pub fn served_but_for(stopped: &'static str) -> impl Expect<Lab> {
    expect_fn(move |seen: &Lab| {
        after(seen, &["up-m2", "api", "before/create", "before/read"], |found| {
            for what in ["create", "read"] {
                if seen.ok(&format!("{stopped}/{what}")) {
                    found.push(Finding::new(
                        "still-served",
                        "the API",
                        format!("{what} succeeds without etcd's majority"),
                    ));
                }
                if !seen.ok(&format!("after/{what}")) {
                    found.push(Finding::new("not-back", "the API", brief(seen, &format!("after/{what}"))));
                }
            }
            let readyz = format!("{stopped}/readyz");
            if found.is_empty() && !says(seen, &readyz, "[-]etcd") {
                found.push(Finding::new("etcd-not-named", "the API", brief(seen, &readyz)));
            }
        })
    })
}

/// Nobody runs, and nobody listens on the members' ports.
pub fn all_stopped() -> impl Expect<Lab> {
    expect_fn(|seen: &Lab| {
        after(seen, &["up-m0", "up-m1", "up-m2"], |found| match seen.of("running") {
            Some(ran) if ran.stdout.is_empty() => {}
            _ => found.push(Finding::new("still-runs", "etcd", brief(seen, "running"))),
        })
    })
}

/// The data directory was put aside whole, a new one was made, and put back it brings the old state up again.
pub fn way_back_kept() -> impl Expect<Lab> {
    expect_fn(|seen: &Lab| {
        after(seen, &["up-m0", "before-m0", "absent-m0", "restore-m0"], |found| {
            let sums = |step| seen.of(step).filter(|ran| ran.ok()).map(|ran| ran.stdout.as_str());
            if sums("aside-m0").is_none() || sums("aside-m0") != sums("before-m0") {
                found.push(Finding::new("no-way-back", "m0", brief(seen, "aside-m0")));
            } else if !says(seen, "back", "later") {
                found.push(Finding::new("not-as-before", "m0", brief(seen, "back")));
            }
        })
    })
}

/// The documented command restores nothing and says so with exit code 0; `etcdutl` restores with the same five flags.
pub fn restored_by_etcdutl_alone() -> impl Expect<Lab> {
    expect_fn(|seen: &Lab| {
        after(seen, &["up-m0", "save-good"], |found| {
            if seen.ok("documented-member") || !seen.of("documented").is_some_and(|ran| ran.stdout.contains("USAGE")) {
                found.push(Finding::new("etcdctl-restores", "m0", brief(seen, "documented")));
            }
            if !seen.ok("restore-m0") || !seen.ok("member-m0") {
                found.push(Finding::new("not-restored", "m0", brief(seen, "restore-m0")));
            } else if !says(seen, "restored/members", "m0, http://127.0.0.1:") || !says(seen, "restored/read", MARKER) {
                found.push(Finding::new("other-member", "m0", brief(seen, "restored/members")));
            }
        })
    })
}

/// Three members with three names, one leader, and the same data: that of the snapshot's moment.
pub fn three_from_one_snapshot() -> impl Expect<Lab> {
    expect_fn(|seen: &Lab| {
        after(seen, &["up-m2", "save-good", "restore-m0", "restore-m1", "restore-m2"], |found| {
            let Some(members) = seen.looks.get("restored").filter(|members| members.len() == 3) else {
                return found.push(Finding::new("members", "etcd", brief(seen, "restored/members")));
            };
            let named = (0..3).filter(|m| says(seen, "restored/members", &format!("started, m{m}, "))).count();
            if named != 3 {
                found.push(Finding::new("members", "etcd", brief(seen, "restored/members")));
            }
            let hashes: Vec<Option<u64>> = members.values().map(|member| member.hash).collect();
            if hashes.iter().any(|hash| hash.is_none() || *hash != hashes[0]) {
                found.push(Finding::new("data-differs", "etcd", format!("hashes: {hashes:?}")));
            }
            if !says(seen, "restored/read", MARKER) {
                found.push(Finding::new("other-state", "etcd", brief(seen, "restored/read")));
            }
            if seen.of("later").is_none_or(|ran| !ran.stdout.is_empty()) {
                found.push(Finding::new("other-state", "etcd", brief(seen, "later")));
            }
        })
    })
}
