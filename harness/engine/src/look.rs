//! One look: an observation within its budget, kept as evidence, judged after its round trip, and cleaned up after.

use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use shakedown_core::{Answer, Cancel, EventSink, Evidence, EvidenceRecord, Judgement, Seed, WaitError, wait_for};
use tokio::time::Instant;

use crate::check::{AnyProbe, Check, Judge};
use crate::evidence::EvidenceStore;
use crate::guard::{Caught, caught, caught_fn};
use crate::probe::{Cx, ObserveError};
use crate::redact::redacted;
use crate::undo::UndoLog;
use crate::world::{Journal, World};

/// Beyond its budget an observation gets this long to end by itself, with better words than "timed out".
const GRACE: Duration = Duration::from_secs(10);
/// For how long the API is asked whether it is alive.
const COMES_BACK: Duration = Duration::from_secs(15);
/// After Ctrl-C it gets this long to put away what it made.
const CANCEL_GRACE: Duration = Duration::from_secs(3);

/// What all of a run's jobs share.
pub(crate) struct Bench<'a, W> {
    pub world: &'a W,
    pub store: EvidenceStore,
    pub journal: Arc<dyn Journal>,
    pub events: Arc<dyn EventSink>,
    /// Set by Ctrl-C, and when something could not be undone.
    pub halt: Cancel,
    pub run: String,
    pub seed: Seed,
}

/// What a look came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Looked {
    /// The judge's word on what was seen.
    Judged(Judgement),
    /// There was nothing to judge: the ground is gone, or nothing came in time.
    NoGround(String),
    /// The harness failed.
    Harness(String),
    /// The run ended early.
    Interrupted,
}

/// A look and what it left behind.
pub(crate) struct Look {
    pub came_to: Looked,
    pub evidence: Vec<EvidenceRecord>,
    pub took: Duration,
    /// What the probe made could not be removed.
    pub undo_failed: Option<String>,
}

impl<W: World> Bench<'_, W> {
    /// Looks with a check's own probe.
    pub async fn look(&self, check: &Check<W>, phase: &'static str, budget: Duration) -> Look {
        self.look_with(check, check.probe.as_ref(), phase, budget).await
    }

    /// Looks with this probe, and judges with the check's judge.
    pub async fn look_with(
        &self,
        check: &Check<W>,
        probe: &dyn AnyProbe<W>,
        phase: &'static str,
        budget: Duration,
    ) -> Look {
        let began = Instant::now();
        let scratch = match self.store.scratch(check.id, phase) {
            Ok(path) => path,
            Err(error) => return Look::failed(error.to_string(), began),
        };
        let undo = Arc::new(UndoLog::new(self.journal.clone(), &self.run, format!("{}/{phase}", check.id), None));
        let cx = Cx::new(check.id, phase, self.seed, budget, scratch.clone(), self.events.clone())
            .within_run(self.halt.clone(), undo.clone());
        let seen = tokio::select! {
            seen = caught(probe.observe(self.world, &cx)) => Some(seen),
            () = tokio::time::sleep(budget + GRACE) => None,
            () = after(&self.halt, CANCEL_GRACE) => None,
        };
        let took = began.elapsed();
        let mut evidence = Vec::new();
        let came_to = match seen {
            Some(Caught::Done(Ok(seen))) => self.keep_and_judge(check, probe, phase, seen, &cx, &mut evidence),
            // An observation that was cut short by Ctrl-C says nothing about the platform.
            Some(Caught::Done(Err(_))) | None if self.halt.is_cancelled() => Looked::Interrupted,
            Some(Caught::Done(Err(ObserveError::NoGround(why)))) => Looked::NoGround(redacted(&why)),
            Some(Caught::Done(Err(ObserveError::Harness(why)))) => Looked::Harness(redacted(&why)),
            Some(Caught::Panicked(words)) => Looked::Harness(format!("the probe panicked: {}", redacted(&words))),
            None => {
                let last = cx.last_wait().map(|last| format!(": {}", redacted(&last))).unwrap_or_default();
                Looked::NoGround(format!("the observation did not end within {} s{last}", budget.as_secs_f32()))
            }
        };
        let undo_failed = undo.undo_all(self.world, self.events.as_ref()).await.err();
        self.store.clear_scratch(&scratch);
        Look { came_to, evidence, took, undo_failed }
    }

    fn keep_and_judge(
        &self,
        check: &Check<W>,
        probe: &dyn AnyProbe<W>,
        phase: &'static str,
        seen: Value,
        cx: &Cx,
        kept: &mut Vec<EvidenceRecord>,
    ) -> Looked {
        for file in cx.take_attachments() {
            match self.store.adopt(check.id, phase, &file) {
                Ok(record) => kept.push(record),
                Err(error) => return Looked::Harness(error.to_string()),
            }
        }
        self.judge_kept(check, probe.schema(), phase, seen, kept)
    }

    /// Writes what was seen, reads it back and judges that.
    pub fn judge_kept(
        &self,
        check: &Check<W>,
        schema: &str,
        phase: &str,
        seen: Value,
        kept: &mut Vec<EvidenceRecord>,
    ) -> Looked {
        let evidence =
            Evidence { schema: schema.to_owned(), check: check.id.to_owned(), phase: phase.to_owned(), seen };
        match self.store.write(&evidence) {
            Ok((record, value)) => {
                kept.insert(0, record);
                judged(&check.judge, &value)
            }
            Err(error) => Looked::Harness(error.to_string()),
        }
    }

    /// Says whether the API is alive; its last words where it is not. One apiserver may just be ending, by another
    /// check's doing, and the balancer may not have noticed: the API is dead where it stays so for a while.
    pub async fn dead(&self) -> Option<String> {
        let alive = wait_for("the API", COMES_BACK, || async {
            match tokio::time::timeout(GRACE, caught(self.world.alive())).await {
                Ok(Caught::Done(Ok(()))) => Answer::Ready(()),
                Ok(Caught::Done(Err(error))) => Answer::NotYet(redacted(&error.to_string())),
                Ok(Caught::Panicked(words)) => Answer::Never(words),
                Err(_) => Answer::NotYet(format!("no answer within {} s", GRACE.as_secs())),
            }
        });
        match alive.await {
            Ok(()) => None,
            Err(WaitError::TimedOut { last_seen: why, .. } | WaitError::Never { why, .. }) => Some(why),
        }
    }
}

/// Judges a value that has been read back.
pub(crate) fn judged(judge: &Judge, value: &Value) -> Looked {
    match caught_fn(|| judge(value)) {
        Caught::Done(Ok(Judgement::Fail(findings))) if findings.is_empty() => {
            Looked::Harness("the judge said fail and named no finding".to_owned())
        }
        Caught::Done(Ok(judgement)) => Looked::Judged(judgement),
        Caught::Done(Err(why)) => Looked::Harness(redacted(&why)),
        Caught::Panicked(words) => Looked::Harness(format!("the judge panicked: {}", redacted(&words))),
    }
}

/// Returns once the wish to stop is that old.
pub(crate) async fn after(halt: &Cancel, grace: Duration) {
    halt.cancelled().await;
    tokio::time::sleep(grace).await;
}

impl Look {
    fn failed(why: String, began: Instant) -> Self {
        Look { came_to: Looked::Harness(why), evidence: vec![], took: began.elapsed(), undo_failed: None }
    }
}
