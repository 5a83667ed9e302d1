//! What the seed fixes: order, sample, names; what is chosen; what is told; and judging again.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use common::{Bed, Cells, Holds, Memory, Quirk, is, reads, word_in, writes, wrong_word_in};
use proptest::prelude::*;
use shakedown_core::{ControlVerdict, Event, Seed, Touches, Verdict};
use shakedown_engine::{
    Check, Controls, Cx, EvidenceStore, ObserveError, Plan, Probe, Selection, Tag, check, finds, fixture, rejudge,
};

const IDS: [&str; 9] = ["psa.a", "psa.b", "psa.c", "psa.d", "etcd.a", "etcd.b", "etcd.c", "rbac.only", "rbac.slow"];

fn table() -> Vec<Check<Cells>> {
    IDS.iter()
        .map(|id| {
            let head = check(id).asserts(if id.starts_with("psa") { ["PSA-001"] } else { ["ETCD-001"] });
            let head = if *id == "rbac.slow" { head.tag(Tag::Slow) } else { head };
            let head = if *id == "etcd.b" { head.tag(Tag::Exclusive) } else { head };
            head.observe(word_in("a"))
                .expect(is("right"))
                .sabotage(wrong_word_in("a"), finds("wrong-word"))
                .remedy("write it")
        })
        .collect()
}

fn ids<'a>(table: &'a [Check<Cells>], order: &[usize]) -> Vec<&'a str> {
    order.iter().map(|at| table[*at].id).collect()
}

proptest! {
    #[test]
    fn the_same_seed_gives_the_same_plan_whatever_the_order_of_the_table(seed in any::<u64>(), turn in 0..9_usize) {
        let plain = table();
        let mut turned = table();
        turned.rotate_left(turn);
        let all: Vec<usize> = (0..plain.len()).collect();
        for controls in [Controls::All, Controls::Sample, Controls::None] {
            let one = Plan::new(&plain, &all, controls, Seed(seed));
            let two = Plan::new(&turned, &all, controls, Seed(seed));
            prop_assert_eq!(ids(&plain, &one.baselines), ids(&turned, &two.baselines));
            prop_assert_eq!(ids(&plain, &one.controls), ids(&turned, &two.controls));
            prop_assert_eq!(ids(&plain, &one.baselines)[0], "rbac.slow");
            prop_assert_eq!(ids(&plain, &one.baselines)[8], "etcd.b");
        }
    }

    #[test]
    fn a_sample_is_about_a_third_and_at_least_one_of_each_area(seed in any::<u64>()) {
        let table = table();
        let all: Vec<usize> = (0..table.len()).collect();
        let sampled = ids(&table, &Plan::new(&table, &all, Controls::Sample, Seed(seed)).controls);
        let count = |area: &str| sampled.iter().filter(|id| id.starts_with(area)).count();
        prop_assert_eq!((count("psa"), count("etcd"), count("rbac")), (2, 1, 1));
    }
}

#[test]
fn seeds_differ_in_order_and_sample() {
    let table = table();
    let all: Vec<usize> = (0..table.len()).collect();
    let plan = |seed| Plan::new(&table, &all, Controls::Sample, Seed(seed));
    let orders: BTreeSet<Vec<usize>> = (0..20).map(|seed| plan(seed).baselines).collect();
    let samples: BTreeSet<BTreeSet<usize>> = (0..20).map(|seed| plan(seed).controls.into_iter().collect()).collect();
    assert!(orders.len() > 15 && samples.len() > 5, "{} {}", orders.len(), samples.len());
}

#[tokio::test(start_paused = true)]
async fn a_sampled_run_is_proven_where_it_was_shaken_and_green_everywhere() {
    let bed = Bed { controls: Controls::Sample, ..Bed::default() };
    let outcome = bed.run(&Cells::with(&[("a", "right")]), &table()).await;
    assert!(outcome.records.iter().all(|r| r.verdict == Verdict::Pass));
    assert_eq!(outcome.records.iter().filter(|r| r.proven).count(), 4);
    assert!(outcome.records.iter().all(|r| r.proven == r.control.due));
}

#[test]
fn selections() {
    let table = table();
    let choose = |selection: Selection| selection.choose(&table).map(|at| ids(&table, &at).join(" "));
    let words = |list: &[&str]| list.iter().map(|w| (*w).to_owned()).collect::<Vec<_>>();
    assert_eq!(choose(Selection::default()).unwrap().split(' ').count(), 9);
    for (checks, areas, statements, expected) in [
        (words(&["psa.a"]), vec![], vec![], "psa.a"),
        (words(&["psa.a", "etcd.*"]), vec![], vec![], "psa.a etcd.a etcd.b etcd.c"),
        (vec![], words(&["rbac"]), vec![], "rbac.only rbac.slow"),
        (vec![], words(&["rbac", "psa"]), words(&["PSA-001"]), "psa.a psa.b psa.c psa.d"),
        (words(&["*.a"]), words(&["etcd"]), vec![], "etcd.a"),
    ] {
        assert_eq!(choose(Selection { checks, areas, statements, only: None }).unwrap(), expected);
    }
    let last = Some(BTreeSet::from(["psa.b".to_owned(), "gone.check".to_owned()]));
    assert_eq!(choose(Selection { only: last, ..Selection::default() }).unwrap(), "psa.b");
    let wrong = [
        Selection { checks: words(&["psa.aa"]), ..Selection::default() },
        Selection { checks: words(&["maglev.*"]), ..Selection::default() },
        Selection { areas: words(&["rback"]), ..Selection::default() },
        Selection { statements: words(&["PSA-002"]), ..Selection::default() },
    ];
    let errors: Vec<String> = wrong.into_iter().map(|s| choose(s).unwrap_err().to_string()).collect();
    insta::assert_snapshot!(errors.join("\n"), @r"
    no check `psa.aa`
    hint: the closest are: psa.a, psa.b, psa.c
    no check `maglev.*`
    hint: `shakedown run --plan` lists what there is
    no checks in area `rback`
    hint: the closest are: rbac
    no check asserts statement `PSA-002`
    hint: the closest are: PSA-001
    ");
}

/// What an event says, without what differs between machines.
fn told(event: &Event) -> String {
    match event {
        Event::RunStarted { checks, .. } => format!("run started: {}", checks.join(" ")),
        Event::Fixture { name, up } => format!("fixture {name} {}", if *up { "up" } else { "down" }),
        Event::BaselineStarted { check } => format!("baseline of {check}"),
        Event::BaselineFinished { check, verdict, duration_ms } => {
            format!("baseline of {check}: {verdict:?} after {duration_ms} ms")
        }
        Event::ControlStarted { check } => format!("control of {check}"),
        Event::ControlFinished { check, verdict, duration_ms } => {
            format!("control of {check}: {verdict:?} after {duration_ms} ms")
        }
        Event::Waiting { who, what, last_seen } => format!("{who} waits for {what}: {last_seen}"),
        Event::CheckFinished { record } => format!("{}: {:?}, proven: {}", record.id, record.verdict, record.proven),
        Event::RunFinished { .. } => "run finished".to_owned(),
    }
}

#[tokio::test(start_paused = true)]
async fn the_stream_of_events() {
    let bed = Bed { width: 1, ..Bed::default() };
    let world = Cells::with(&[("a", "right"), ("b", "wrong")]);
    let simple = |id, cell: &str| {
        check(id)
            .asserts(["C-001"])
            .observe(word_in(cell))
            .expect(is("right"))
            .sabotage(wrong_word_in(cell), finds("wrong-word"))
            .remedy("write it")
    };
    let shared = check("cells.shared")
        .asserts(["C-002"])
        .observe(word_in("shared").but(Quirk::Slow))
        .with(fixture(Holds { name: "shared", fails: false }))
        .expect(is("right"))
        .sabotage(wrong_word_in("shared"), finds("wrong-word"))
        .remedy("write it");
    bed.run(&world, &[simple("cells.a", "a"), simple("cells.b", "b"), shared]).await;
    let lines: Vec<String> = bed.events.lock().unwrap().iter().map(told).collect();
    insta::assert_snapshot!(lines.join("\n"));
}

#[tokio::test(start_paused = true)]
async fn a_run_leaves_records_that_do_not_depend_on_how_many_run_side_by_side() {
    let mut seen = BTreeMap::new();
    for width in [1, 2, 4] {
        let bed = Bed { width, ..Bed::default() };
        let outcome = bed.run(&Cells::with(&[("a", "right")]), &table()).await;
        let facts: Vec<_> =
            outcome.records.into_iter().map(|r| (r.id, r.verdict, r.proven, r.findings, r.control.found)).collect();
        seen.insert(width, facts);
    }
    assert_eq!(seen[&1], seen[&2]);
    assert_eq!(seen[&1], seen[&4]);
}

/// Notes when it looks, so that the test sees who ran beside whom.
struct Notes {
    touches: Touches,
    me: usize,
    running: Arc<Mutex<Vec<(usize, Touches)>>>,
    worst: Arc<Mutex<usize>>,
}

impl Probe<Cells> for Notes {
    type Seen = common::Word;

    fn touches(&self) -> Touches {
        self.touches.clone()
    }

    async fn observe(&self, world: &Cells, cx: &Cx) -> Result<common::Word, ObserveError> {
        {
            let mut running = self.running.lock().unwrap();
            if let Some((other, _)) = running.iter().find(|(_, touches)| touches.conflicts(&self.touches)) {
                return Err(ObserveError::harness(format!("{} runs beside {other}", self.me)));
            }
            running.push((self.me, self.touches.clone()));
            let mut worst = self.worst.lock().unwrap();
            *worst = (*worst).max(running.len());
        }
        tokio::time::sleep(std::time::Duration::from_millis(3 + 7 * (self.me as u64 % 5))).await;
        world.tick().await;
        self.running.lock().unwrap().retain(|(me, _)| *me != self.me);
        Ok(common::Word { cell: cx.check.clone(), word: Some("right".into()) })
    }
}

const MANY: [&str; 12] = [
    "many.a", "many.b", "many.c", "many.d", "many.e", "many.f", "many.g", "many.h", "many.i", "many.j", "many.k",
    "many.l",
];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn no_two_observations_that_conflict_run_side_by_side(
        wants in proptest::collection::vec(proptest::collection::vec((0..3_u8, any::<bool>()), 1..3), 2..12),
        width in 1..6_usize,
        seed in any::<u64>(),
    ) {
        let running = Arc::new(Mutex::new(Vec::new()));
        let worst = Arc::new(Mutex::new(0));
        let table: Vec<Check<Cells>> = wants
            .iter()
            .enumerate()
            .map(|(me, list)| {
                let touches = list.iter().fold(Touches::nothing(), |all, (cell, write)| {
                    all.union(&if *write { writes(&cell.to_string()) } else { reads(&cell.to_string()) })
                });
                let notes = || Notes { touches: touches.clone(), me, running: running.clone(), worst: worst.clone() };
                check(MANY[me])
                    .asserts(["C-001"])
                    .observe(notes())
                    .expect(is("right"))
                    .sabotage_input("the same", notes(), finds("wrong-word"))
                    .remedy("none")
            })
            .collect();
        let bed = Bed { width, seed: Seed(seed), journal: Arc::new(Memory::default()), ..Bed::default() };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        let outcome = runtime.block_on(bed.run(&Cells::default(), &table));
        for record in &outcome.records {
            prop_assert_eq!(record.control.verdict, ControlVerdict::Missed, "{}", record.reason);
            prop_assert_eq!(record.verdict, Verdict::Inconclusive, "{}", record.reason);
        }
        prop_assert!(*worst.lock().unwrap() <= width);
    }
}

#[tokio::test(start_paused = true)]
async fn evidence_is_judged_again_by_the_judges_of_today() {
    let bed = Bed::default();
    let judged_as = |expected: &'static str| {
        check("cells.a")
            .asserts(["C-001"])
            .observe(word_in("a"))
            .expect(is(expected))
            .sabotage(wrong_word_in("a"), finds("wrong-word"))
            .remedy("write it")
    };
    let old = bed.one(&Cells::with(&[("a", "right")]), judged_as("right")).await;
    let store = EvidenceStore::new(bed.dir.path());
    assert_eq!(rejudge(&judged_as("right"), &old, &store), old, "the same judge says the same");
    let new = rejudge(&judged_as("better"), &old, &store);
    assert_eq!((new.verdict, new.proven), (Verdict::Fail, false));
    assert_eq!(new.reason, "wrong-word (a): expected better, saw right");
    let blind = judged_as("wrong");
    let new = rejudge(&blind, &old, &store);
    assert_eq!(new.verdict, Verdict::Fail);

    let path = bed.dir.path().join(&old.evidence[0].path);
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, text.replace("right", "wrong")).unwrap();
    let forged = rejudge(&judged_as("right"), &old, &store);
    assert_eq!(forged.verdict, Verdict::Error);
    assert!(forged.reason.contains("sha256 differs"), "{}", forged.reason);
    std::fs::remove_file(&path).unwrap();
    assert!(rejudge(&judged_as("right"), &old, &store).reason.contains("cannot read"));
}

#[tokio::test(start_paused = true)]
async fn a_skip_stays_a_skip_when_it_is_judged_again() {
    let bed = Bed::default();
    let needy = || {
        check("cells.a")
            .asserts(["C-001"])
            .needs([shakedown_core::Capability::Harbor])
            .observe(word_in("a"))
            .expect(is("right"))
            .sabotage(wrong_word_in("a"), finds("wrong-word"))
            .remedy("write it")
    };
    let harbor = (shakedown_core::Capability::Harbor, shakedown_core::Availability::Absent("none".into()));
    let world = Cells { capabilities: [harbor].into(), ..Cells::default() };
    let old = bed.one(&world, needy()).await;
    assert_eq!(rejudge(&needy(), &old, &EvidenceStore::new(bed.dir.path())), old);
}
