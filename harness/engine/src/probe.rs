//! Probes observe. A probe looks, and at most does what its check is about (creating a Pod, asking an API); it does
//! not judge.

use std::future::Future;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use shakedown_core::{Cancel, Event, EventSink, Observation, Seed, Touches, UndoStep};
use thiserror::Error;

use crate::undo::UndoLog;

/// Why a probe brought nothing back.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ObserveError {
    /// What it looks at is not there or does not answer: the check is inconclusive.
    #[error("{0}")]
    NoGround(String),
    /// The harness could not do its own part: the check is an error.
    #[error("{0}")]
    Harness(String),
}

impl ObserveError {
    /// The ground is gone; `what` says which and why.
    pub fn no_ground(what: impl std::fmt::Display) -> Self {
        ObserveError::NoGround(what.to_string())
    }

    /// The harness failed.
    pub fn harness(what: impl std::fmt::Display) -> Self {
        ObserveError::Harness(what.to_string())
    }
}

/// A file that a probe adds to the evidence, such as a capture.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attachment {
    /// `pcap`, `log`, `table`.
    pub kind: String,
    /// Where the probe left it; the engine moves it into the run's folder.
    pub path: PathBuf,
}

/// What an observation is given beside the world.
#[derive(Clone)]
pub struct Cx {
    /// The check that asks.
    pub check: String,
    /// `baseline`, `control` or `after`.
    pub phase: &'static str,
    /// For every random choice.
    pub seed: Seed,
    /// How long the observation may take. Probes pass it to their waits.
    pub budget: Duration,
    /// A directory of its own for files it makes; emptied afterwards.
    pub scratch: PathBuf,
    /// Set when the run ends early; long waits end with it.
    pub cancel: Cancel,
    events: Arc<dyn EventSink>,
    attachments: Arc<Mutex<Vec<Attachment>>>,
    last_wait: Arc<Mutex<Option<String>>>,
    undo: Option<Arc<UndoLog>>,
}

impl Cx {
    /// For one observation.
    pub fn new(
        check: impl Into<String>,
        phase: &'static str,
        seed: Seed,
        budget: Duration,
        scratch: PathBuf,
        events: Arc<dyn EventSink>,
    ) -> Self {
        Self {
            check: check.into(),
            phase,
            seed,
            budget,
            scratch,
            cancel: Cancel::new(),
            events,
            attachments: Arc::default(),
            last_wait: Arc::default(),
            undo: None,
        }
    }

    /// With the run's wish to stop and its journal.
    #[must_use]
    pub(crate) fn within_run(mut self, cancel: Cancel, undo: Arc<UndoLog>) -> Self {
        self.cancel = cancel;
        self.undo = Some(undo);
        self
    }

    /// Has on disk how something that the probe is about to make or change is put back, before it does so. The engine
    /// does the steps from last to first once the observation is over, however it ended: also after its budget ran
    /// out, after Ctrl-C, and through `shakedown recover` after a kill. Deleting what is already gone is no failure, so
    /// a probe may also clean up by itself.
    ///
    /// # Errors
    /// It is not on disk: the probe must not go on.
    pub fn undo_afterwards(&self, steps: Vec<UndoStep>) -> Result<(), ObserveError> {
        match &self.undo {
            Some(log) => log.intend(steps).map_err(ObserveError::harness),
            // An observation outside of a run, as unit tests of words make it.
            None => Ok(()),
        }
    }

    /// Tells what is being waited for, and the last thing seen.
    pub fn waiting(&self, what: impl Into<String>, last_seen: impl Into<String>) {
        let (what, last_seen) = (what.into(), last_seen.into());
        if let Ok(mut last) = self.last_wait.lock() {
            *last = Some(format!("waiting for {what}, last seen: {last_seen}"));
        }
        self.events.emit(Event::Waiting { who: self.check.clone(), what, last_seen });
    }

    /// What was waited for last, and the last thing seen of it.
    pub(crate) fn last_wait(&self) -> Option<String> {
        self.last_wait.lock().ok().and_then(|last| last.clone())
    }

    /// A name for an object made by this observation: unique among checks and phases, the same for the same seed.
    pub fn name(&self, stem: &str) -> String {
        let tag = self.seed.derive(&format!("{}/{}/{stem}", self.check, self.phase)).0;
        format!("{stem}-{:08x}", tag as u32)
    }

    /// Adds a file to the evidence.
    pub fn attach(&self, kind: impl Into<String>, path: PathBuf) {
        if let Ok(mut list) = self.attachments.lock() {
            list.push(Attachment { kind: kind.into(), path });
        }
    }

    /// Takes what was attached.
    pub fn take_attachments(&self) -> Vec<Attachment> {
        self.attachments.lock().map(|mut list| std::mem::take(&mut *list)).unwrap_or_default()
    }
}

/// Observes one thing.
pub trait Probe<W>: Send + Sync + 'static {
    /// What it sees.
    type Seen: Observation;

    /// What it reads and writes while it looks.
    fn touches(&self) -> Touches;

    /// Looks. Whatever it makes for the purpose it removes again, also when it fails.
    fn observe(&self, world: &W, cx: &Cx) -> impl Future<Output = Result<Self::Seen, ObserveError>> + Send;
}
