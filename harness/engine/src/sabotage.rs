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

/// What a sabotage settled on by looking: which object, node or peer it breaks, and the way back.
#[derive(Debug, Clone)]
pub struct Prepared<C> {
    /// What is broken; handed on to [`Sabotage::plant`], so that the undo on disk is the undo of that and nothing else.
    pub choice: C,
    /// The way back, done from last to first.
    pub undo: Vec<UndoStep>,
}

impl<C> Prepared<C> {
    /// This is broken, and put back by these steps.
    pub fn new(choice: C, undo: Vec<UndoStep>) -> Self {
        Self { choice, undo }
    }
}

/// A defect that can be planted in a cluster and taken out again.
pub trait Sabotage<W>: Send + Sync + 'static {
    /// What it settles on by looking; `()` where there is nothing to choose.
    type Choice: Send + Sync + 'static;

    /// One line for reports: what is broken.
    fn describe(&self) -> String;

    /// What it writes.
    fn touches(&self) -> Touches;

    /// Chooses what it is going to change, and says how all of it is put back as found, byte for byte. Only looks. The
    /// engine has the way back on disk before it calls [`Sabotage::plant`].
    fn prepare(&self, world: &W) -> impl Future<Output = Result<Prepared<Self::Choice>, PlantError>> + Send;

    /// Plants it where it was chosen to be, and returns once it has been proved to have landed.
    fn plant(&self, world: &W, choice: &Self::Choice) -> impl Future<Output = Result<(), PlantError>> + Send;

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
