//! The control: with its defect in place a check must say so, and must pass again once the defect is gone.

use std::sync::Arc;
use std::time::Duration;

use shakedown_core::{ControlRecord, ControlVerdict, Event, EvidenceRecord, Finding, Judgement};
use tokio::time::Instant;

use crate::baseline::{millis, sentence};
use crate::check::{AnySabotage, Check, Defect, Tag};
use crate::fingerprint::Fingerprints;
use crate::guard::{Caught, caught};
use crate::look::{Bench, Look, Looked, after};
use crate::redact::redacted;
use crate::sabotage::{PlantError, Prepared};
use crate::undo::UndoLog;
use crate::world::World;

/// No control is given less than this for its observation.
const LEAST: Duration = Duration::from_secs(5);
/// How long planting, and settling after the undo, may take at least.
const PLANTING: Duration = Duration::from_secs(180);
/// Between two looks after the undo.
const PAUSE: Duration = Duration::from_millis(500);

/// What a control came to.
pub(crate) struct Controlled {
    pub record: ControlRecord,
    pub evidence: Vec<EvidenceRecord>,
    /// The harness itself failed on the way.
    pub harness: Option<String>,
    /// Something was left changed: nothing may run after this.
    pub stop: Option<String>,
}

/// The course of a control: what it is to be recorded as, filled in on the way.
struct Course {
    verdict: ControlVerdict,
    found: Vec<Finding>,
    note: String,
    evidence: Vec<EvidenceRecord>,
    harness: Option<String>,
    stop: Option<String>,
}

impl Course {
    fn of(verdict: ControlVerdict, note: impl Into<String>) -> Self {
        Self { verdict, found: vec![], note: note.into(), evidence: vec![], harness: None, stop: None }
    }

    fn undo_failed(&mut self, why: String) {
        self.verdict = ControlVerdict::UndoFailed;
        self.note.clone_from(&why);
        self.stop = Some(why);
    }
}

/// The record of a control that did not run.
pub(crate) fn not_run<W: Send + Sync + 'static>(check: &Check<W>, due: bool, note: &str) -> ControlRecord {
    ControlRecord {
        verdict: ControlVerdict::NotRun,
        kind: check.control.defect.kind(),
        due,
        found: vec![],
        note: note.to_owned(),
        duration_ms: 0,
    }
}

impl<W: World> Bench<'_, W> {
    /// Shows the defect, judges, undoes and looks again.
    pub async fn control(&self, check: &Check<W>, baseline_ms: u64) -> Controlled {
        self.events.emit(Event::ControlStarted { check: check.id.to_owned() });
        let began = Instant::now();
        let before = Fingerprints::before(self.world, check.is(Tag::Exclusive)).await;
        let mut course = match &before {
            Err(why) => Course::of(ControlVerdict::NotPlanted, format!("no fingerprint before the control: {why}")),
            Ok(_) => self.show(check, (Duration::from_millis(baseline_ms) * 3).max(LEAST)).await,
        };
        if let (Ok(before), None) = (&before, &course.stop)
            && let Err(why) = before.still_holds(self.world).await
        {
            course.undo_failed(format!("left the cluster changed: {why}"));
        }
        let record = ControlRecord {
            verdict: course.verdict,
            kind: check.control.defect.kind(),
            due: true,
            found: course.found,
            note: course.note,
            duration_ms: millis(began.elapsed()),
        };
        self.events.emit(Event::ControlFinished {
            check: check.id.to_owned(),
            verdict: record.verdict,
            duration_ms: record.duration_ms,
        });
        Controlled { record, evidence: course.evidence, harness: course.harness, stop: course.stop }
    }

    async fn show(&self, check: &Check<W>, budget: Duration) -> Course {
        match &check.control.defect {
            Defect::Plant(sabotage) => self.plant(check, sabotage.as_ref(), budget).await,
            Defect::Input(_, probe) | Defect::OmitStep(_, probe) => {
                let look = self.look_with(check, probe.as_ref(), "control", budget).await;
                self.word_of_control(check, look).await
            }
            Defect::Recorded(_, text) => match serde_json::from_str(text) {
                Ok(seen) => {
                    let mut evidence = Vec::new();
                    let came_to = self.judge_kept(check, check.probe.schema(), "control", seen, &mut evidence);
                    let look = Look { came_to, evidence, took: Duration::ZERO, undo_failed: None };
                    self.word_of_control(check, look).await
                }
                Err(error) => Course::of(ControlVerdict::NotPlanted, format!("the record is not JSON: {error}")),
            },
        }
    }

    async fn plant(&self, check: &Check<W>, sabotage: &dyn AnySabotage<W>, budget: Duration) -> Course {
        let limit = PLANTING.max(check.budget);
        let prepared = match self.step(limit, sabotage.prepare(self.world)).await {
            Ok(prepared) if prepared.undo.is_empty() => Err("it names no way back".to_owned()),
            other => other,
        };
        let undo = Arc::new(UndoLog::new(
            self.journal.clone(),
            &self.run,
            format!("{}/control", check.id),
            Some(check.control.defect.kind()),
        ));
        let intended = prepared.and_then(|Prepared { choice, undo: steps }| {
            undo.intend(steps).map(|()| choice).map_err(|e| e.to_string())
        });
        let choice = match intended {
            Ok(choice) => choice,
            Err(why) => return Course::of(ControlVerdict::NotPlanted, why),
        };
        let mut course = match self.step(limit, sabotage.plant(self.world, &choice)).await {
            Ok(()) => {
                let look = self.look(check, "control", budget).await;
                self.word_of_control(check, look).await
            }
            Err(why) => Course::of(ControlVerdict::NotPlanted, why),
        };
        if let Err(why) = undo.undo_all(self.world, self.events.as_ref()).await {
            course.undo_failed(format!("{} is still in place: {why}", sabotage.describe()));
        }
        // Also where the defect was not shown to have landed: it may have, in part. Only a user who wants to go is not
        // kept waiting: the undo itself has been done.
        if course.stop.is_none() && !self.halt.is_cancelled() {
            self.look_again(check, sabotage, limit, &mut course).await;
        }
        course
    }

    /// After the undo the check must pass again. Taking it in is the cluster's own pace: it is looked until it passes
    /// or the budget is used up, and how long that took is told.
    async fn look_again(&self, check: &Check<W>, sabotage: &dyn AnySabotage<W>, limit: Duration, course: &mut Course) {
        let began = Instant::now();
        let settled = self.step(limit, sabotage.settled(self.world)).await;
        let end = Instant::now() + check.budget;
        let mut looks = 0_u32;
        loop {
            looks += 1;
            let look = self.look(check, "after", check.budget).await;
            if let Some(why) = look.undo_failed {
                return course.undo_failed(why);
            }
            let last_seen = match look.came_to {
                Looked::Judged(Judgement::Pass) => {
                    course.evidence.extend(look.evidence);
                    if looks > 1 {
                        let seconds = began.elapsed().as_secs_f32();
                        course.note.push_str(&format!("; passed again {seconds:.1} s after the undo, at look {looks}"));
                    }
                    return;
                }
                Looked::Judged(Judgement::Fail(findings)) => {
                    findings.iter().map(sentence).collect::<Vec<_>>().join("; ")
                }
                Looked::Judged(Judgement::Inconclusive(why)) | Looked::NoGround(why) => why,
                Looked::Harness(why) => {
                    course.harness = Some(why.clone());
                    why
                }
                Looked::Interrupted => return,
            };
            if Instant::now() + PAUSE >= end {
                course.evidence.extend(look.evidence);
                let settling = settled.err().map(|why| format!(" (settling: {why})")).unwrap_or_default();
                return course
                    .undo_failed(format!("the check does not pass again after the undo: {last_seen}{settling}"));
            }
            self.events.emit(Event::Waiting {
                who: check.id.to_owned(),
                what: "the platform to be as found again".to_owned(),
                last_seen,
            });
            tokio::time::sleep(PAUSE).await;
        }
    }

    async fn word_of_control(&self, check: &Check<W>, look: Look) -> Course {
        use ControlVerdict::{Found, Missed, NotRun};
        let planted = check.control.defect.describe();
        let mut course = match look.came_to {
            Looked::Judged(Judgement::Fail(findings)) => {
                let named = findings.iter().any(|finding| finding.code == check.control.finds);
                let dead = if named { self.dead().await } else { None };
                let (verdict, note) = match (named, dead) {
                    (true, None) => (Found, planted),
                    (true, Some(why)) => {
                        (Missed, format!("{planted}: the API was dead, which is not a finding: {why}"))
                    }
                    (false, _) => {
                        let codes: Vec<&str> = findings.iter().map(|f| f.code.as_str()).collect();
                        (Missed, format!("{planted}: found {}, not {}", codes.join(", "), check.control.finds))
                    }
                };
                Course { found: findings, ..Course::of(verdict, note) }
            }
            Looked::Judged(Judgement::Pass) => Course::of(Missed, format!("{planted}: the check still passes")),
            Looked::Judged(Judgement::Inconclusive(why)) | Looked::NoGround(why) => {
                Course::of(Missed, format!("{planted}: nothing could be judged: {why}"))
            }
            Looked::Harness(why) => {
                Course { harness: Some(why.clone()), ..Course::of(Missed, format!("{planted}: {why}")) }
            }
            Looked::Interrupted => Course::of(NotRun, format!("{planted}: interrupted")),
        };
        course.evidence = look.evidence;
        if let Some(why) = look.undo_failed {
            course.undo_failed(why);
        }
        course
    }

    /// A step of a sabotage within its limit. Ctrl-C ends it at once: its undo is in the journal.
    async fn step<T>(&self, limit: Duration, step: impl Future<Output = Result<T, PlantError>>) -> Result<T, String> {
        tokio::select! {
            done = caught(step) => match done {
                Caught::Done(Ok(value)) => Ok(value),
                Caught::Done(Err(error)) => Err(redacted(&error.to_string())),
                Caught::Panicked(words) => Err(format!("it panicked: {}", redacted(&words))),
            },
            () = tokio::time::sleep(limit) => Err(format!("no end after {} s", limit.as_secs())),
            () = after(&self.halt, Duration::ZERO) => Err("interrupted".to_owned()),
        }
    }

    /// Sets a fixture up: its undo on disk first.
    pub async fn set_up(&self, fixture: &dyn crate::check::AnyFixture<W>, undo: &UndoLog) -> Result<(), String> {
        self.events.emit(Event::Fixture { name: fixture.name().to_owned(), up: true });
        let steps = self.step(PLANTING, fixture.undo_plan(self.world)).await?;
        undo.intend(steps).map_err(|e| e.to_string())?;
        self.step(PLANTING * 2, fixture.set_up(self.world)).await
    }
}
