//! Properties of the schedule, on random units: locks hold, baselines come first, shared states are up, and it ends.

use proptest::prelude::*;
use shakedown_core::{Resource, Touches};

use super::*;

fn touches() -> impl Strategy<Value = Touches> {
    let resource = prop_oneof![
        1 => Just(Resource::Cluster),
        2 => Just(Resource::Nodes),
        4 => (0..3_u8).prop_map(|n| Resource::Node(format!("n{n}"))),
        4 => (0..3_u8).prop_map(|n| Resource::Namespace(format!("ns{n}"))),
        2 => Just(Resource::Etcd),
    ];
    proptest::collection::vec((resource, any::<bool>()), 0..4).prop_map(|list| {
        list.into_iter().fold(
            Touches::nothing(),
            |all, (what, write)| {
                if write { all.writes(what) } else { all.reads(what) }
            },
        )
    })
}

#[derive(Debug, Clone)]
struct Case {
    units: Vec<Unit>,
    fixtures: Vec<Touches>,
    /// Which of the running jobs ends next, again and again.
    ends: Vec<prop::sample::Index>,
    passes: Vec<bool>,
    usable: Vec<bool>,
    width: usize,
    stop_after: usize,
}

fn case() -> impl Strategy<Value = Case> {
    let unit =
        (touches(), touches(), proptest::collection::vec(0..3_usize, 0..3)).prop_map(|(own, more, mut fixtures)| {
            fixtures.dedup();
            Unit { control: own.clone().union(&more), baseline: own, fixtures }
        });
    (
        proptest::collection::vec(unit, 1..12),
        proptest::collection::vec(touches(), 3),
        proptest::collection::vec(any::<prop::sample::Index>(), 64),
        proptest::collection::vec(any::<bool>(), 12),
        proptest::collection::vec(prop::bool::weighted(0.8), 3),
        1..5_usize,
        1..200_usize,
    )
        .prop_map(|(units, fixtures, ends, passes, usable, width, stop_after)| Case {
            units,
            fixtures,
            ends,
            passes,
            usable,
            width,
            stop_after,
        })
}

/// Drives a schedule to its end and gives its history: a job, and whether it began.
fn drive(case: &Case) -> Vec<(Job, bool)> {
    let all: Vec<usize> = (0..case.units.len()).collect();
    let mut schedule = Schedule::new(case.units.clone(), case.fixtures.clone(), all.clone(), all, case.width);
    let mut running: Vec<Job> = Vec::new();
    let mut history = Vec::new();
    for turn in 0..1000 {
        if turn == case.stop_after {
            schedule.stop();
        }
        while let Some(job) = schedule.next() {
            history.push((job, true));
            running.push(job);
        }
        if running.is_empty() {
            return history;
        }
        let at = case.ends[turn % case.ends.len()].index(running.len());
        let job = running.remove(at);
        history.push((job, false));
        match job {
            Job::Baseline(at) => schedule.baseline_over(at, case.passes[at % case.passes.len()]),
            Job::Control(at) => schedule.control_over(at),
            Job::SetUp(at) => schedule.set_up(at, case.usable[at]),
            Job::TakeDown(at) => schedule.taken_down(at),
        }
    }
    panic!("the schedule does not end: {history:?}");
}

fn held(case: &Case, job: Job) -> &Touches {
    match job {
        Job::Baseline(at) => &case.units[at].baseline,
        Job::Control(at) => &case.units[at].control,
        Job::SetUp(at) | Job::TakeDown(at) => &case.fixtures[at],
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn locks_are_never_violated_and_the_width_is_kept(case in case()) {
        let mut running: Vec<Job> = Vec::new();
        for (job, began) in drive(&case) {
            if began {
                for other in &running {
                    prop_assert!(!held(&case, job).conflicts(held(&case, *other)), "{job:?} beside {other:?}");
                }
                running.push(job);
                prop_assert!(running.len() <= case.width);
            } else {
                running.retain(|other| *other != job);
            }
        }
    }

    #[test]
    fn everything_runs_once_unless_stopped_and_controls_come_last(mut case in case()) {
        case.stop_after = usize::MAX;
        let history = drive(&case);
        let begun: Vec<Job> = history.iter().filter(|(_, began)| *began).map(|(job, _)| *job).collect();
        let unique: std::collections::BTreeSet<Job> = begun.iter().copied().collect();
        prop_assert_eq!(unique.len(), begun.len(), "twice: {:?}", begun);
        for at in 0..case.units.len() {
            prop_assert!(unique.contains(&Job::Baseline(at)));
            prop_assert_eq!(unique.contains(&Job::Control(at)), case.passes[at % case.passes.len()]);
        }
        let last_baseline = history.iter().rposition(|(job, _)| matches!(job, Job::Baseline(_)));
        let first_control = history.iter().position(|(job, _)| matches!(job, Job::Control(_)));
        if let (Some(last), Some(first)) = (last_baseline, first_control) {
            prop_assert!(last < first);
        }
    }

    #[test]
    fn a_shared_state_is_up_while_it_is_used_and_down_at_the_end(case in case()) {
        let mut up = [false; 3];
        for (job, began) in drive(&case) {
            match (job, began) {
                (Job::SetUp(at), false) => up[at] = case.usable[at],
                (Job::TakeDown(at), true) => up[at] = false,
                (Job::Baseline(at) | Job::Control(at), _) => {
                    for fixture in &case.units[at].fixtures {
                        prop_assert!(up[*fixture] || !case.usable[*fixture], "{job:?} without {fixture}");
                    }
                }
                (Job::SetUp(_), true) | (Job::TakeDown(_), false) => {}
            }
        }
        prop_assert_eq!(up, [false; 3]);
    }
}

#[test]
fn a_check_that_does_not_share_a_state_sees_the_platform_without_it() {
    let on = |name: &str| Touches::nothing().reads(Resource::Namespace(name.into()));
    let writes = Touches::nothing().writes(Resource::Namespace("a".into()));
    let user = Unit { baseline: on("a"), control: on("a"), fixtures: vec![0] };
    let bystander = Unit { baseline: on("a"), control: on("a"), fixtures: vec![] };
    let mut schedule = Schedule::new(vec![user, bystander], vec![writes], vec![0, 1], vec![0, 1], 4);
    let mut order = Vec::new();
    while let Some(job) = schedule.next() {
        order.push(job);
        match job {
            Job::Baseline(at) => schedule.baseline_over(at, true),
            Job::Control(at) => schedule.control_over(at),
            Job::SetUp(at) => schedule.set_up(at, true),
            Job::TakeDown(at) => schedule.taken_down(at),
        }
    }
    let expected =
        [Job::Baseline(1), Job::SetUp(0), Job::Baseline(0), Job::Control(0), Job::TakeDown(0), Job::Control(1)];
    assert_eq!(order, expected);
}
