//! Undo: on disk before anything changes, done from last to first, closed when it is done.

use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use shakedown_core::{ControlKind, Event, EventSink, JournalEntry, UndoStep};
use tokio::time::Instant;

use crate::guard::{Caught, caught};
use crate::world::{Journal, JournalError, World};

/// How long one step of an undo is tried. It is safe to repeat, an API that is just coming back may refuse it once, and a
/// namespace goes only when a controller manager leads again.
const STEP_BUDGET: Duration = Duration::from_secs(240);
/// Pause between two tries.
const PAUSE: Duration = Duration::from_millis(500);

/// The undo of one owner: a control, a fixture, or what a probe makes while it looks.
pub struct UndoLog {
    journal: Arc<dyn Journal>,
    run: String,
    owner: String,
    kind: Option<ControlKind>,
    open: Mutex<Vec<(String, Vec<UndoStep>)>>,
}

/// Makes ids of intents unique within this process; the run's id makes them unique beyond it.
static NEXT: AtomicU64 = AtomicU64::new(1);

impl UndoLog {
    pub(crate) fn new(journal: Arc<dyn Journal>, run: &str, owner: String, kind: Option<ControlKind>) -> Self {
        Self { journal, run: run.to_owned(), owner, kind, open: Mutex::default() }
    }

    /// Has the steps on disk. Nothing may be changed before it returns.
    ///
    /// # Errors
    /// They are not on disk.
    pub fn intend(&self, undo: Vec<UndoStep>) -> Result<(), JournalError> {
        let id = format!("{}/{}/{}", self.run, self.owner, NEXT.fetch_add(1, Ordering::Relaxed));
        self.journal.append(&JournalEntry::Intent {
            id: id.clone(),
            run: self.run.clone(),
            owner: self.owner.clone(),
            kind: self.kind,
            undo: undo.clone(),
        })?;
        self.open.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push((id, undo));
        Ok(())
    }

    /// Does all that is still open, from last to first, and closes it.
    ///
    /// # Errors
    /// The step that could not be done, and why. It stays open in the journal.
    pub(crate) async fn undo_all<W: World>(&self, world: &W, events: &dyn EventSink) -> Result<(), String> {
        loop {
            let last = self.open.lock().unwrap_or_else(std::sync::PoisonError::into_inner).pop();
            let Some((id, steps)) = last else { return Ok(()) };
            for step in steps.iter().rev() {
                undo_step(world, step, &self.owner, events).await?;
            }
            self.journal.append(&JournalEntry::Closed { id }).map_err(|e| e.to_string())?;
        }
    }
}

/// Replays open intents, last first, closing each as it is done: what `recover` does, and `run` before anything else.
///
/// # Errors
/// The step that could not be done, and why. It and all before it stay open.
pub async fn replay<W: World>(
    world: &W,
    open: &[JournalEntry],
    journal: &dyn Journal,
    events: &dyn EventSink,
) -> Result<usize, String> {
    let mut done = 0;
    for entry in open.iter().rev() {
        let JournalEntry::Intent { id, owner, undo, .. } = entry else { continue };
        for step in undo.iter().rev() {
            undo_step(world, step, owner, events).await?;
        }
        journal.append(&JournalEntry::Closed { id: id.clone() }).map_err(|e| e.to_string())?;
        done += 1;
    }
    Ok(done)
}

async fn undo_step<W: World>(world: &W, step: &UndoStep, owner: &str, events: &dyn EventSink) -> Result<(), String> {
    let end = Instant::now() + STEP_BUDGET;
    loop {
        let why = match tokio::time::timeout_at(end, caught(world.undo(step))).await {
            Ok(Caught::Done(Ok(()))) => return Ok(()),
            Ok(Caught::Done(Err(error))) => error.to_string(),
            Ok(Caught::Panicked(text)) => return Err(format!("{}: the undo panicked: {text}", name(step))),
            Err(_) => return Err(format!("{}: no end after {} s", name(step), STEP_BUDGET.as_secs())),
        };
        if Instant::now() + PAUSE >= end {
            return Err(format!("{}: {why}", name(step)));
        }
        events.emit(Event::Waiting { who: owner.to_owned(), what: format!("undo of {}", name(step)), last_seen: why });
        tokio::time::sleep(PAUSE).await;
    }
}

/// What a step puts back, without any of its content.
pub fn name(step: &UndoStep) -> String {
    match step {
        UndoStep::RestoreObject { manifest } => {
            let text = |at: &str| manifest.pointer(at).and_then(serde_json::Value::as_str).unwrap_or("-").to_owned();
            format!("{} {}/{}", text("/kind"), text("/metadata/namespace"), text("/metadata/name"))
        }
        UndoStep::DeleteObject { kind, namespace, name, .. } => {
            format!("{kind} {}/{name}, made by the harness", namespace.as_deref().unwrap_or("-"))
        }
        UndoStep::RestoreFile { node, path, .. } => format!("{path} on {node}"),
        UndoStep::RemoveFile { node, path } => format!("{path} on {node}, made by the harness"),
        UndoStep::RunOnNode { node, argv, .. } => format!("`{}` on {node}", argv.first().map_or("", String::as_str)),
        UndoStep::Custom { word, .. } => word.clone(),
    }
}
