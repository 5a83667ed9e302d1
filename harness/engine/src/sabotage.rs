//! Sabotages plant the defect that a check exists to find; fixtures set up what several checks share.

use std::future::Future;

use shakedown_core::{Touches, UndoStep};
use thiserror::Error;

/// The defect is not in place: the control is `not-planted`.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{0}")]
pub struct PlantError(pub String);

impl PlantError {
    /// Why it is not in place.
    pub fn new(why: impl std::fmt::Display) -> Self {
        Self(why.to_string())
    }
}

/// A defect that can be planted in a cluster and taken out again.
pub trait Sabotage<W>: Send + Sync + 'static {
    /// One line for reports: what is broken.
    fn describe(&self) -> String;

    /// What it writes.
    fn touches(&self) -> Touches;

    /// How everything it is going to change is put back as found, byte for byte. Only looks. The engine has the
    /// answer on disk before it calls [`Sabotage::plant`], and does the steps from last to first.
    fn undo_plan(&self, world: &W) -> impl Future<Output = Result<Vec<UndoStep>, PlantError>> + Send;

    /// Plants it, and returns once it has been proved to have landed.
    fn plant(&self, world: &W) -> impl Future<Output = Result<(), PlantError>> + Send;

    /// Called after the undo: returns once the cluster has taken it in, so that the check can pass again.
    fn settled(&self, _world: &W) -> impl Future<Output = Result<(), PlantError>> + Send {
        async { Ok(()) }
    }
}

/// A state that is expensive to reach and shared by several checks: set up before the first, taken down after the last.
pub trait Fixture<W>: Send + Sync + 'static {
    /// Checks share it by this name.
    fn name(&self) -> &'static str;

    /// What it writes while it is set up and taken down, and what its users hold as readers.
    fn touches(&self) -> Touches;

    /// How it is taken down; on disk before it is set up.
    fn undo_plan(&self, world: &W) -> impl Future<Output = Result<Vec<UndoStep>, PlantError>> + Send;

    /// Sets it up, and returns once it can be used.
    fn set_up(&self, world: &W) -> impl Future<Output = Result<(), PlantError>> + Send;
}
