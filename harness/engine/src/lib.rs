//! Runs checks and their controls, and judges what they saw.
//!
//! The engine knows no cluster: everything it needs of one is the [`World`] trait, so that its own tests run on a
//! world of a few lines. A check is a [`Check`] value built with [`check()`]; areas list theirs in explicit tables.
//!
//! Invariants: a judge sees an observation only after its round trip through the serialised form; an undo is on disk
//! before its defect is planted; every baseline ends before the first defect is planted; no default arm turns the
//! unknown green.

mod baseline;
pub mod check;
mod control;
pub mod evidence;
pub mod expect;
mod fingerprint;
mod guard;
mod look;
pub mod plan;
pub mod probe;
mod record;
pub mod redact;
mod rejudge;
pub mod runner;
pub mod sabotage;
mod schedule;
pub mod select;
pub mod table;
pub mod undo;
pub mod world;

pub use check::{Check, Control, Defect, Finds, Tag, check, finds, fixture};
pub use evidence::EvidenceStore;
pub use expect::{Expect, all_of, expect_fn};
pub use plan::{Controls, Plan};
pub use probe::{Cx, ObserveError, Probe};
pub use rejudge::rejudge;
pub use runner::{Outcome, Settings, Stopped, run};
pub use sabotage::{Fixture, PlantError, Prepared, Sabotage};
pub use select::{Selection, UnknownName};
pub use undo::replay;
pub use world::{Fingerprint, Journal, JournalError, World, WorldError};
