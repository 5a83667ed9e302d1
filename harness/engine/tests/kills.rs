//! A kill at any instant: whatever a run had changed on purpose is in the journal, and replaying it makes the world as
//! it was found.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod common;

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use common::{Bed, Cells, Holds, Quirk, Trick, is, word_in, wrong_word_in};
use proptest::prelude::*;
use shakedown_core::{Event, Seed, Verdict};
use shakedown_engine::{Check, Stopped, Tag, check, finds, fixture, replay};

const WORLD: &[(&str, &str)] = &[("a", "right"), ("b", "right"), ("c", "wrong")];

/// Every way in which a run changes the world: defects, shared states, things that probes make.
fn table() -> Vec<Check<Cells>> {
    let planted = |id, cell: &str, quirk, trick| {
        check(id)
            .asserts(["C-001"])
            .observe(word_in(cell).but(quirk))
            .expect(is("right"))
            .sabotage(wrong_word_in(cell).but(trick), finds("wrong-word"))
            .remedy("write it")
    };
    vec![
        planted("cells.a", "a", Quirk::None, Trick::None),
        planted("cells.a-made", "a", Quirk::Makes, Trick::None),
        planted("cells.b-half", "b", Quirk::None, Trick::PlantsAndFails),
        planted("cells.c-fails", "c", Quirk::Makes, Trick::None),
        check("cells.shared")
            .asserts(["C-002"])
            .tag(Tag::Slow)
            .observe(word_in("shared").but(Quirk::Makes))
            .with(fixture(Holds { name: "shared", fails: false }))
            .expect(is("right"))
            .sabotage(wrong_word_in("shared"), finds("wrong-word"))
            .remedy("write it"),
        check("cells.alone")
            .asserts(["C-003"])
            .tag(Tag::Exclusive)
            .observe(word_in("b"))
            .expect(is("right"))
            .sabotage(wrong_word_in("b"), finds("wrong-word"))
            .remedy("write it"),
    ]
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap()
}

/// Runs until the world crashes at this operation; true where it was reached.
async fn crash(bed: &Bed, world: &Cells) -> bool {
    let table = table();
    tokio::select! {
        _ = bed.run(world, &table) => {}
        // Budgets are minutes of a paused clock: a crashed run would use them up and go on undoing.
        () = async { while !*world.crashed.lock().unwrap() { tokio::time::sleep(Duration::from_millis(1)).await } } => {}
    }
    *world.crashed.lock().unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn a_kill_at_any_operation_is_put_back_by_the_journal(at in 0..70_usize, seed in 0..8_u64, width in 1..5_usize) {
        let bed = Bed { seed: Seed(seed), width, ..Bed::default() };
        let mut world = Cells::with(WORLD);
        world.crash_at = Some(at);
        runtime().block_on(async {
            let crashed = crash(&bed, &world).await;
            let open = bed.journal.open();
            prop_assert!(crashed || open.is_empty());
            // Another process, the same world and the same journal. Twice: it is safe to repeat.
            let after = Cells { crash_at: None, crashed: false.into(), operations: AtomicUsize::new(0), ..world };
            let silence = |_: Event| {};
            for _ in 0..2 {
                replay(&after, &bed.journal.open(), bed.journal.as_ref(), &silence).await.unwrap();
                prop_assert_eq!(after.all(), Cells::with(WORLD).all());
                prop_assert!(bed.journal.open().is_empty());
            }
            Ok(())
        })?;
    }

    /// The same for a recovery that is itself killed.
    #[test]
    fn a_recovery_that_is_killed_is_taken_up_again(at in 10..70_usize, again in 0..6_usize) {
        let bed = Bed::default();
        let mut world = Cells::with(WORLD);
        world.crash_at = Some(at);
        runtime().block_on(async {
            crash(&bed, &world).await;
            let mut world = Cells { crash_at: Some(again), crashed: false.into(), operations: AtomicUsize::new(0), ..world };
            let silence = |_: Event| {};
            let open = bed.journal.open();
            tokio::select! {
                _ = replay(&world, &open, bed.journal.as_ref(), &silence) => {}
                () = tokio::time::sleep(Duration::from_secs(30)) => {}
            }
            world.crash_at = None;
            replay(&world, &bed.journal.open(), bed.journal.as_ref(), &silence).await.unwrap();
            prop_assert_eq!(world.all(), Cells::with(WORLD).all());
            Ok(())
        })?;
    }

    /// Ctrl-C at any instant: everything is put back before the run returns, and nothing stays open.
    #[test]
    fn an_interrupt_at_any_instant_leaves_the_world_as_found(at in 0..80_u64, seed in 0..8_u64) {
        let bed = Bed { seed: Seed(seed), ..Bed::default() };
        let world = Cells::with(WORLD);
        runtime().block_on(async {
            let cancel = bed.cancel.clone();
            let table = table();
            let (outcome, ()) = tokio::join!(bed.run(&world, &table), async {
                tokio::time::sleep(Duration::from_millis(at)).await;
                cancel.cancel();
            });
            prop_assert_eq!(world.all(), Cells::with(WORLD).all());
            prop_assert!(bed.journal.open().is_empty());
            prop_assert_eq!(outcome.records.len(), 6);
            if outcome.stopped == Some(Stopped::Interrupted) {
                // What did not finish is never green.
                let unproven = |r: &&shakedown_core::CheckRecord| !r.proven && r.verdict == Verdict::Pass;
                prop_assert_eq!(outcome.records.iter().filter(unproven).count(), 0);
            }
            Ok(())
        })?;
    }
}

#[test]
fn the_kills_reach_every_part_of_a_run() {
    // The range of the properties above must end after the last operation, or they would prove less than they say.
    let world = Cells::with(WORLD);
    runtime().block_on(Bed { width: 1, ..Bed::default() }.run(&world, &table()));
    let operations = world.operations.load(std::sync::atomic::Ordering::SeqCst);
    assert!((40..70).contains(&operations), "{operations} operations");
}

#[test]
fn an_interrupt_ends_an_observation_that_hangs() {
    let bed = Bed::default();
    let hangs = check("cells.a")
        .asserts(["C-001"])
        .observe(word_in("a").but(Quirk::Hangs))
        .expect(is("right"))
        .sabotage(wrong_word_in("a"), finds("wrong-word"))
        .remedy("write it");
    runtime().block_on(async {
        let began = tokio::time::Instant::now();
        let cancel = bed.cancel.clone();
        let world = Cells::with(WORLD);
        let table = [hangs];
        let (outcome, ()) = tokio::join!(bed.run(&world, &table), async { cancel.cancel() });
        assert_eq!(outcome.stopped, Some(Stopped::Interrupted));
        assert_eq!(outcome.records[0].verdict, Verdict::Inconclusive);
        assert!(began.elapsed() < Duration::from_secs(5));
    });
}

#[test]
fn the_undo_is_on_disk_before_the_plant() {
    // A journal that looks at the world when it is written to: the defect must not be there yet.
    struct Watching(Arc<Cells>, common::Memory);
    impl shakedown_engine::Journal for Watching {
        fn append(&self, entry: &shakedown_core::JournalEntry) -> Result<(), shakedown_engine::JournalError> {
            if matches!(entry, shakedown_core::JournalEntry::Intent { .. }) {
                assert_eq!(self.0.get("a").as_deref(), Some("right"));
            }
            self.1.append(entry)
        }
    }
    let world = Arc::new(Cells::with(&[("a", "right")]));
    let journal = Arc::new(Watching(world.clone(), common::Memory::default()));
    let bed = Bed::default();
    let table = [table().remove(0)];
    let plan = shakedown_engine::Plan::new(&table, &[0], shakedown_engine::Controls::All, Seed(1));
    let sink = Arc::new(|_: Event| {});
    let outcome =
        runtime().block_on(shakedown_engine::run(world.as_ref(), &table, &plan, journal.clone(), sink, bed.settings()));
    assert!(outcome.records[0].proven);
    assert_eq!(journal.1.entries.lock().unwrap().len(), 2, "an intent and its close");
}
