//! Properties of the pure types: the algebra of judgements, locks, seeds and waits.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::time::Duration;

use proptest::prelude::*;
use shakedown_core::{Answer, Capability, Finding, Judgement, Resource, Seed, Touches, WaitError, wait_for};

fn judgement() -> impl Strategy<Value = Judgement> {
    prop_oneof![
        Just(Judgement::Pass),
        "[a-z]{1,5}".prop_map(Judgement::Inconclusive),
        proptest::collection::vec("[a-z]{1,5}", 1..3)
            .prop_map(|codes| Judgement::Fail(codes.into_iter().map(|c| Finding::new(c, "node", "seen")).collect())),
    ]
}

fn resource() -> impl Strategy<Value = Resource> {
    prop_oneof![
        Just(Resource::Cluster),
        Just(Resource::Nodes),
        Just(Resource::Apiserver),
        Just(Resource::Etcd),
        "[ab]".prop_map(Resource::Node),
        "[ab]".prop_map(Resource::Namespace),
        "[ab]".prop_map(Resource::Component),
    ]
}

fn touches() -> impl Strategy<Value = Touches> {
    proptest::collection::vec((resource(), any::<bool>()), 0..4).prop_map(|list| {
        list.into_iter().fold(Touches::nothing(), |t, (what, write)| if write { t.writes(what) } else { t.reads(what) })
    })
}

proptest! {
    #[test]
    fn both_pass_only_if_each_passes(a in judgement(), b in judgement()) {
        let both_pass = a == Judgement::Pass && b == Judgement::Pass;
        prop_assert_eq!(a.and(b) == Judgement::Pass, both_pass);
    }

    #[test]
    fn what_was_found_stays_found(a in judgement(), b in judgement()) {
        let count = |j: &Judgement| if let Judgement::Fail(f) = j { f.len() } else { 0 };
        let found = count(&a) + count(&b);
        prop_assert_eq!(count(&a.and(b)), found);
    }

    #[test]
    fn conflicts_are_mutual(a in touches(), b in touches()) {
        prop_assert_eq!(a.conflicts(&b), b.conflicts(&a));
    }

    #[test]
    fn a_union_conflicts_with_whatever_a_part_does(a in touches(), b in touches(), c in touches()) {
        let whole = a.clone().union(&b);
        prop_assert_eq!(whole.conflicts(&c), a.conflicts(&c) || b.conflicts(&c));
    }

    #[test]
    fn the_cluster_s_writer_is_alone(a in touches()) {
        let all = Touches::nothing().writes(Resource::Cluster);
        prop_assert_eq!(all.conflicts(&a), a != Touches::nothing());
    }

    #[test]
    fn a_shuffle_keeps_all_and_repeats(seed: u64, len in 0usize..40) {
        let order = |purpose: &str| {
            let mut items: Vec<usize> = (0..len).collect();
            Seed(seed).shuffle(purpose, &mut items);
            items
        };
        prop_assert_eq!(order("checks"), order("checks"));
        let mut sorted = order("controls");
        sorted.sort_unstable();
        prop_assert_eq!(sorted, (0..len).collect::<Vec<_>>());
    }
}

#[test]
fn readers_stand_side_by_side() {
    let read = Touches::nothing().reads(Resource::Nodes);
    let one = Touches::nothing().reads(Resource::Node("worker-1".into()));
    let write = Touches::nothing().writes(Resource::Node("worker-1".into()));
    assert!(!read.conflicts(&one));
    assert!(read.conflicts(&write));
}

#[test]
fn capability_names_are_unique_and_round_trip() {
    for capability in Capability::ALL {
        assert_eq!(capability.name().parse::<Capability>().unwrap(), *capability);
    }
}

/// The streams are part of what a seed promises: a run of last quarter must be repeatable with today's binary.
#[test]
fn a_seed_s_stream_does_not_change_between_versions() {
    let mut items: Vec<u32> = (0..10).collect();
    Seed(42).shuffle("checks", &mut items);
    insta::assert_compact_json_snapshot!((Seed(42).derive("checks"), items), @"[10121314369355337255, [7, 8, 4, 2, 0, 6, 9, 1, 3, 5]]");
}

#[tokio::test(start_paused = true)]
async fn a_wait_reports_the_last_thing_seen() {
    let mut looks = 0;
    let end = wait_for("the pod", Duration::from_secs(3), || {
        looks += 1;
        let seen = looks;
        async move { Answer::<()>::NotYet(format!("look {seen}")) }
    })
    .await;
    let Err(WaitError::TimedOut { last_seen, .. }) = end else { panic!("{end:?}") };
    assert_eq!(last_seen, format!("look {looks}"));
}

#[tokio::test(start_paused = true)]
async fn a_wait_ends_at_once_when_it_is_hopeless() {
    let end = wait_for("the pod", Duration::from_secs(3600), || async { Answer::<()>::Never("deleted".into()) }).await;
    assert_eq!(end, Err(WaitError::Never { what: "the pod".into(), why: "deleted".into() }));
}

#[tokio::test(start_paused = true)]
async fn a_look_that_hangs_is_cut_off() {
    let end = wait_for("the pod", Duration::from_secs(1), std::future::pending::<Answer<()>>).await;
    assert!(matches!(end, Err(WaitError::TimedOut { .. })), "{end:?}");
}
