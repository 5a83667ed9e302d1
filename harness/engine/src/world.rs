//! What the engine needs of a cluster, and of the journal.

use std::collections::BTreeMap;
use std::future::Future;

use shakedown_core::{Availability, Capability, JournalEntry, UndoStep};
use thiserror::Error;

/// Desired state only: a name such as `node/cp-1/file/etc/kubernetes/manifests/kube-apiserver.yaml` to a hash.
pub type Fingerprint = BTreeMap<String, String>;

/// The world could not do what was asked.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{0}")]
pub struct WorldError(pub String);

/// A cluster, or what stands in for one in a test.
pub trait World: Send + Sync + 'static {
    /// What it offers, probed once at the start of a run.
    fn capabilities(&self) -> impl Future<Output = BTreeMap<Capability, Availability>> + Send;

    /// Component to version, as seen.
    fn versions(&self) -> impl Future<Output = BTreeMap<String, String>> + Send;

    /// Says whether the API answers at all: a dead API is never a finding.
    ///
    /// # Errors
    /// What is dead.
    fn alive(&self) -> impl Future<Output = Result<(), WorldError>> + Send;

    /// Does one undo step. Safe to repeat.
    ///
    /// # Errors
    /// Why it could not be done: the run ends with `undo-failed`.
    fn undo(&self, step: &UndoStep) -> impl Future<Output = Result<(), WorldError>> + Send;

    /// The desired state of everything that an exclusive check must leave as it was.
    ///
    /// # Errors
    /// It could not be read.
    fn fingerprint(&self) -> impl Future<Output = Result<Fingerprint, WorldError>> + Send;
}

/// The journal could not be written or read.
#[derive(Debug, Error)]
#[error("journal {path}: {why}\nhint: {hint}")]
pub struct JournalError {
    /// The file.
    pub path: String,
    /// What failed.
    pub why: String,
    /// What to do.
    pub hint: String,
}

/// Takes entries and has them on disk, fsynced, before it returns.
pub trait Journal: Send + Sync {
    /// Appends one entry.
    ///
    /// # Errors
    /// It is not on disk: nothing may be planted.
    fn append(&self, entry: &JournalEntry) -> Result<(), JournalError>;
}
