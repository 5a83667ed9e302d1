//! Checks that fail on purpose: every verdict and every control verdict is reached, and none by another way.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod common;

use std::time::Duration;

use common::{Bed, Cells, Holds, Quirk, Trick, is, word_in, wrong_word_in};
use shakedown_core::{Availability, Capability, ControlVerdict, Verdict};
use shakedown_engine::{Check, Controls, Stopped, Tag, check, finds, fixture};

fn simple(probe: common::Reads, sabotage: common::Writes) -> Check<Cells> {
    check("cells.a-is-right")
        .asserts(["C-001"])
        .observe(probe)
        .expect(is("right"))
        .sabotage(sabotage, finds("wrong-word"))
        .remedy("write it")
}

fn right() -> Cells {
    Cells::with(&[("a", "right"), ("b", "other")])
}

#[tokio::test(start_paused = true)]
async fn a_check_that_holds_and_is_shaken_is_proven() {
    let (bed, world) = (Bed::default(), right());
    let record = bed.one(&world, simple(word_in("a"), wrong_word_in("a"))).await;
    assert_eq!((record.verdict, record.proven, record.reason.as_str()), (Verdict::Pass, true, ""));
    assert_eq!(record.control.verdict, ControlVerdict::Found);
    assert!(record.control.due);
    assert_eq!(record.control.found[0].code, "wrong-word");
    assert_eq!(world.all(), right().all());
    let kinds: Vec<_> = record.evidence.iter().map(|e| e.kind.as_str()).collect();
    assert_eq!(kinds, ["baseline", "control", "after"]);
    let expected = ["after", "baseline", "control"].map(|p| format!("evidence/cells.a-is-right/{p}.json"));
    assert_eq!(bed.evidence_files(), expected);
    assert!(bed.journal.open().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_defect_that_was_there_before_is_a_fail_and_stays_there() {
    let (bed, world) = (Bed::default(), Cells::with(&[("a", "wrong")]));
    let record = bed.one(&world, simple(word_in("a"), wrong_word_in("a"))).await;
    assert_eq!(record.verdict, Verdict::Fail);
    assert_eq!(record.reason, "wrong-word (a): expected right, saw wrong");
    assert_eq!((record.control.verdict, record.control.due), (ControlVerdict::NotRun, false));
    assert_eq!(world.get("a").as_deref(), Some("wrong"));
    assert!(bed.journal.entries.lock().unwrap().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_dead_api_is_inconclusive_whatever_the_judge_says() {
    let (bed, world) = (Bed::default(), Cells::with(&[("a", "wrong")]));
    *world.dead.lock().unwrap() = true;
    let record = bed.one(&world, simple(word_in("a"), wrong_word_in("a"))).await;
    assert_eq!(record.verdict, Verdict::Inconclusive);
    assert_eq!(record.reason, "the API is dead: connection refused");
}

#[tokio::test(start_paused = true)]
async fn baselines_that_say_nothing() {
    for (quirk, cell, verdict, reason) in [
        (Quirk::NoGround, "a", Verdict::Inconclusive, "nobody answers"),
        (Quirk::None, "empty", Verdict::Inconclusive, "empty is empty"),
        (
            Quirk::Hangs,
            "a",
            Verdict::Inconclusive,
            "the observation did not end within 60 s: waiting for Godot, last seen: a tree",
        ),
        (Quirk::Harness, "a", Verdict::Error, "no such tool"),
        (Quirk::Panics, "a", Verdict::Error, "the probe panicked: index out of bounds"),
        (
            Quirk::LeaksToken,
            "a",
            Verdict::Error,
            "the evidence holds what looks like a bearer token at /word; it was not written",
        ),
    ] {
        let bed = Bed::default();
        let record = bed.one(&right(), simple(word_in(cell).but(quirk), wrong_word_in("a"))).await;
        assert_eq!((record.verdict, record.reason.as_str()), (verdict, reason), "{quirk:?}");
        assert!(!record.proven && !record.control.due, "{quirk:?}");
        assert_eq!(bed.evidence_files().is_empty(), cell == "a", "{quirk:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn missing_capabilities_skip_and_unknown_ones_do_not() {
    use Capability::{Cilium, Containerd, Harbor, Kind};
    let needy = |need: Vec<Capability>| {
        check("cells.a-is-right")
            .asserts(["C-001"])
            .needs(need)
            .observe(word_in("a"))
            .expect(is("right"))
            .sabotage(wrong_word_in("a"), finds("wrong-word"))
            .remedy("write it")
    };
    let mut world = right();
    world.capabilities = [
        (Harbor, Availability::Absent("not installed; a site with Harbor could".into())),
        (Cilium, Availability::Unknown("the API said 500".into())),
        (Containerd, Availability::Present),
    ]
    .into();
    for (needs, verdict, reason) in [
        (vec![Containerd], Verdict::Pass, ""),
        (vec![Harbor], Verdict::Skip, "needs harbor: not installed; a site with Harbor could"),
        (vec![Cilium, Harbor], Verdict::Skip, "needs harbor: not installed; a site with Harbor could"),
        (vec![Cilium], Verdict::Inconclusive, "needs cilium, and it could not be found out: the API said 500"),
        (vec![Kind], Verdict::Inconclusive, "needs kind, and nothing says whether it is there"),
    ] {
        let record = Bed::default().one(&world, needy(needs)).await;
        assert_eq!((record.verdict, record.reason.as_str()), (verdict, reason));
    }
}

#[tokio::test(start_paused = true)]
async fn controls_that_do_not_find_their_defect_make_the_check_inconclusive() {
    use ControlVerdict::{Missed, NotPlanted};
    let blind = wrong_word_in("b");
    let mut harmless = wrong_word_in("a");
    harmless.word = "right";
    for (sabotage, verdict, note) in [
        (blind, Missed, "wrong in b: the check still passes"),
        (harmless, Missed, "right in a: the check still passes"),
        (wrong_word_in("a").but(Trick::NoPlan), NotPlanted, "it names no way back"),
        (wrong_word_in("a").but(Trick::CannotPlan), NotPlanted, "cannot read the cell"),
        (wrong_word_in("a").but(Trick::CannotPlant), NotPlanted, "the cell is locked"),
        (wrong_word_in("a").but(Trick::PlantsAndFails), NotPlanted, "cannot be shown to have landed"),
        (wrong_word_in("a").but(Trick::Panics), NotPlanted, "it panicked: no such cell"),
        (
            wrong_word_in("a").but(Trick::KillsTheApi),
            Missed,
            "wrong in a: the API was dead, which is not a finding: connection refused",
        ),
    ] {
        let (bed, world) = (Bed::default(), right());
        let record = bed.one(&world, simple(word_in("a"), sabotage.clone())).await;
        assert_eq!((record.verdict, record.control.verdict), (Verdict::Inconclusive, verdict), "{sabotage:?}");
        assert_eq!(record.control.note, note);
        assert!(record.reason.ends_with(note) && !record.proven && record.control.due);
        assert_eq!(world.all(), right().all());
        assert!(bed.journal.open().is_empty(), "{sabotage:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn another_finding_than_the_declared_one_is_a_miss() {
    let other = check("cells.a-is-right")
        .asserts(["C-001"])
        .observe(word_in("a"))
        .expect(is("right"))
        .sabotage(wrong_word_in("a"), finds("empty-word"))
        .remedy("write it");
    let record = Bed::default().one(&right(), other).await;
    assert_eq!(record.control.verdict, ControlVerdict::Missed);
    assert_eq!(record.control.note, "wrong in a: found wrong-word, not empty-word");
}

#[tokio::test(start_paused = true)]
async fn other_kinds_of_controls_plant_nothing() {
    let head = || check("cells.a-is-right").asserts(["C-001"]).observe(word_in("a")).expect(is("right"));
    let code = || finds("wrong-word");
    let recorded = r#"{"cell": "a", "word": "wrong"}"#;
    for (table, verdict) in [
        (head().sabotage_input("cell b", word_in("b"), code()).remedy("r"), ControlVerdict::Found),
        (head().sabotage_omitting("no write", word_in("b"), code()).remedy("r"), ControlVerdict::Found),
        (head().sabotage_recorded("a machine of 2025", recorded, code()).remedy("r"), ControlVerdict::Found),
        (head().sabotage_input("cell a", word_in("a"), code()).remedy("r"), ControlVerdict::Missed),
        (head().sabotage_recorded("no json", "{", code()).remedy("r"), ControlVerdict::NotPlanted),
    ] {
        let (bed, world) = (Bed::default(), right());
        let record = bed.one(&world, table).await;
        assert_eq!(record.control.verdict, verdict, "{}", record.control.note);
        assert_eq!(record.proven, verdict == ControlVerdict::Found);
        assert!(bed.journal.entries.lock().unwrap().is_empty());
    }
}

#[tokio::test(start_paused = true)]
async fn a_control_that_was_not_asked_for_leaves_a_pass_unproven() {
    let bed = Bed { controls: Controls::None, ..Bed::default() };
    let record = bed.one(&right(), simple(word_in("a"), wrong_word_in("a"))).await;
    assert_eq!((record.verdict, record.proven), (Verdict::Pass, false));
    assert_eq!((record.control.verdict, record.control.due), (ControlVerdict::NotRun, false));
}

#[tokio::test(start_paused = true)]
async fn nothing_runs_after_an_undo_that_failed() {
    let mut world = right();
    world.stuck.insert("a".into());
    let table = [
        simple(word_in("a"), wrong_word_in("a")),
        check("cells.b-is-other")
            .asserts(["C-002"])
            .tag(Tag::Exclusive)
            .observe(word_in("b"))
            .expect(is("other"))
            .sabotage(wrong_word_in("b"), finds("wrong-word"))
            .remedy("write it"),
    ];
    let bed = Bed::default();
    let outcome = bed.run(&world, &table).await;
    let [a, b] = outcome.records.as_slice() else { panic!("two records") };
    assert_eq!((a.verdict, a.control.verdict), (Verdict::Error, ControlVerdict::UndoFailed));
    assert!(a.reason.contains("a is stuck"), "{}", a.reason);
    assert_eq!((b.verdict, b.control.verdict, b.control.due), (Verdict::Inconclusive, ControlVerdict::NotRun, true));
    assert!(matches!(outcome.stopped, Some(Stopped::NotUndone(_))));
    assert_eq!(bed.journal.open().len(), 1, "what is still broken stays in the journal");
}

#[tokio::test(start_paused = true)]
async fn a_check_that_does_not_pass_again_after_the_undo_is_an_error() {
    // The undo of another cell does not bring this one back: the plan and the plant disagree.
    struct Liar;
    impl shakedown_engine::Sabotage<Cells> for Liar {
        type Choice = ();

        fn describe(&self) -> String {
            "wrong in a, undone in b".into()
        }
        fn touches(&self) -> shakedown_core::Touches {
            common::writes("a")
        }
        async fn prepare(&self, world: &Cells) -> Result<shakedown_engine::Prepared<()>, shakedown_engine::PlantError> {
            Ok(shakedown_engine::Prepared::new((), vec![world.as_found("b")]))
        }
        async fn plant(&self, world: &Cells, (): &()) -> Result<(), shakedown_engine::PlantError> {
            world.put("a", Some("wrong")).await;
            Ok(())
        }
    }
    let liar = check("cells.a-is-right")
        .asserts(["C-001"])
        .within(Duration::from_secs(10))
        .observe(word_in("a"))
        .expect(is("right"))
        .sabotage(Liar, finds("wrong-word"))
        .remedy("write it");
    let record = Bed::default().one(&right(), liar).await;
    assert_eq!((record.verdict, record.control.verdict), (Verdict::Error, ControlVerdict::UndoFailed));
    assert!(record.reason.contains("does not pass again"), "{}", record.reason);
}

#[tokio::test(start_paused = true)]
async fn exclusive_checks_must_leave_the_fingerprint_as_it_was() {
    let exclusive = |probe, sabotage| {
        check("cells.a-is-right")
            .asserts(["C-001"])
            .tag(Tag::Exclusive)
            .observe(probe)
            .expect(is("right"))
            .sabotage(sabotage, finds("wrong-word"))
            .remedy("write it")
    };
    let record = Bed::default().one(&right(), exclusive(word_in("a"), wrong_word_in("a"))).await;
    assert_eq!((record.verdict, record.proven), (Verdict::Pass, true));
    let record = Bed::default().one(&right(), exclusive(word_in("a").but(Quirk::Litters), wrong_word_in("a"))).await;
    assert_eq!(record.verdict, Verdict::Error);
    assert!(record.reason.contains("litter is new"), "{}", record.reason);
    let record = Bed::default().one(&right(), exclusive(word_in("a"), wrong_word_in("a").but(Trick::Spills))).await;
    assert_eq!((record.verdict, record.control.verdict), (Verdict::Error, ControlVerdict::UndoFailed));
    assert!(record.reason.contains("spill is new"), "{}", record.reason);
}

#[tokio::test(start_paused = true)]
async fn a_journal_that_cannot_be_written_plants_nothing() {
    let bed =
        Bed { journal: std::sync::Arc::new(common::Memory { full: true, ..Default::default() }), ..Bed::default() };
    let record = bed.one(&right(), simple(word_in("a"), wrong_word_in("a"))).await;
    assert_eq!((record.verdict, record.control.verdict), (Verdict::Inconclusive, ControlVerdict::NotPlanted));
    assert!(record.reason.contains("no space left"));
}

#[tokio::test(start_paused = true)]
async fn what_a_probe_makes_is_removed_by_the_engine() {
    let (bed, world) = (Bed::default(), right());
    let record = bed.one(&world, simple(word_in("a").but(Quirk::Makes), wrong_word_in("a"))).await;
    assert_eq!((record.verdict, record.proven), (Verdict::Pass, true));
    assert_eq!(world.all(), right().all());
    assert!(bed.journal.open().is_empty());
}

fn sharing(id: &'static str, fails: bool) -> Check<Cells> {
    check(id)
        .asserts(["C-003"])
        .observe(word_in("shared"))
        .with(fixture(Holds { name: "shared", fails }))
        .expect(is("right"))
        .sabotage(wrong_word_in("shared"), finds("wrong-word"))
        .remedy("write it")
}

#[tokio::test(start_paused = true)]
async fn a_shared_state_is_set_up_once_and_taken_down_once() {
    let (bed, world) = (Bed::default(), right());
    let outcome = bed.run(&world, &[sharing("cells.one", false), sharing("cells.two", false)]).await;
    assert!(outcome.records.iter().all(|r| r.proven), "{:?}", outcome.records);
    let fixtures =
        bed.events.lock().unwrap().iter().filter(|e| matches!(e, shakedown_core::Event::Fixture { .. })).count();
    assert_eq!(fixtures, 2, "one up, one down");
    assert_eq!(world.all(), right().all());
}

#[tokio::test(start_paused = true)]
async fn a_shared_state_that_does_not_come_up_is_taken_down_and_told() {
    let (bed, world) = (Bed::default(), right());
    let outcome = bed.run(&world, &[sharing("cells.one", true), sharing("cells.two", true)]).await;
    for record in &outcome.records {
        assert_eq!(record.verdict, Verdict::Inconclusive);
        assert_eq!(record.reason, "shared could not be set up: it does not come up");
    }
    assert_eq!(world.all(), right().all());
    assert!(bed.journal.open().is_empty());
}
