//! Faults: inject, prove, heal; and the journal that has every undo on disk before anything is broken.
//!
//! Invariant: whatever was changed on purpose is in the [`journal`] from before it was changed until it was put back.

pub mod fault;
pub mod journal;

pub use fault::{Armed, DeadMan, Fault, FaultError, Journalled};
pub use journal::{FileJournal, JournalFault, open_intents};
