//! One fault: its intent is on disk, a dead-man timer is armed on the node, it is injected, its effect is proved, and it
//! is healed. The order is kept by types: [`Fault::inject`] cannot be called without both tokens.

use std::future::Future;
use std::time::{Duration, Instant};

use shakedown_core::{Availability, JournalEntry, UndoStep};
use thiserror::Error;

use crate::journal::{FileJournal, JournalFault};

/// A fault could not be injected, proved or healed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{fault}: {why}")]
pub struct FaultError {
    /// Its name.
    pub fault: String,
    /// What failed, and why.
    pub why: String,
}

/// Proof that an undo is on disk.
#[derive(Debug)]
pub struct Journalled {
    id: String,
    undo: Vec<UndoStep>,
}

impl Journalled {
    /// Has the undo on disk.
    ///
    /// # Errors
    /// It is not: nothing may be injected.
    pub fn write(
        journal: &FileJournal,
        id: &str,
        run: &str,
        owner: &str,
        undo: Vec<UndoStep>,
    ) -> Result<Self, JournalFault> {
        journal.append(&JournalEntry::Intent {
            id: id.to_owned(),
            run: run.to_owned(),
            owner: owner.to_owned(),
            kind: None,
            undo: undo.clone(),
        })?;
        Ok(Self { id: id.to_owned(), undo })
    }

    /// The steps that heal it, to be done from last to first.
    pub fn undo(&self) -> &[UndoStep] {
        &self.undo
    }

    /// It has been healed.
    ///
    /// # Errors
    /// That is not on disk: it will be healed again, which does no harm.
    pub fn close(self, journal: &FileJournal) -> Result<(), JournalFault> {
        journal.append(&JournalEntry::Closed { id: self.id })
    }
}

/// Proof that a timer runs on the node which heals the fault by itself, whatever becomes of the harness.
#[derive(Debug)]
pub struct Armed {
    until: Instant,
}

impl Armed {
    /// Armed until then.
    pub fn until(until: Instant) -> Self {
        Self { until }
    }

    /// How long it still holds; nothing may be injected once it has gone off.
    pub fn remaining(&self) -> Duration {
        self.until.saturating_duration_since(Instant::now())
    }
}

/// Arms timers on a node.
pub trait DeadMan: Send + Sync {
    /// Arms one that does the steps after this time unless it is disarmed.
    ///
    /// # Errors
    /// It does not run: nothing may be injected.
    fn arm(&self, after: Duration, undo: &[UndoStep]) -> impl Future<Output = Result<Armed, FaultError>> + Send;

    /// Disarms it, after the fault has been healed.
    ///
    /// # Errors
    /// It still runs; what it does is safe to repeat.
    fn disarm(&self, armed: Armed) -> impl Future<Output = Result<(), FaultError>> + Send;
}

/// A fault.
pub trait Fault: Send + Sync {
    /// Its name in plans and reports.
    fn name(&self) -> &str;

    /// Whether this machine can carry it, and why not.
    fn available(&self) -> impl Future<Output = Availability> + Send;

    /// How everything that it changes is put back as found. Only looks.
    ///
    /// # Errors
    /// It cannot be found out: nothing may be injected.
    fn undo(&self) -> impl Future<Output = Result<Vec<UndoStep>, FaultError>> + Send;

    /// Injects it.
    ///
    /// # Errors
    /// It may have landed in part; the caller heals it.
    fn inject(&self, journalled: &Journalled, armed: &Armed) -> impl Future<Output = Result<(), FaultError>> + Send;

    /// Shows from the kernel or the API that it has landed; what was seen.
    ///
    /// # Errors
    /// It cannot be shown: whatever was observed under it is inconclusive.
    fn prove(&self) -> impl Future<Output = Result<String, FaultError>> + Send;

    /// Heals it. Safe to repeat.
    ///
    /// # Errors
    /// It is still in place.
    fn heal(&self) -> impl Future<Output = Result<(), FaultError>> + Send;
}
