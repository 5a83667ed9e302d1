//! Runs checks and their controls, and judges what they saw.
//!
//! The engine knows no cluster: everything it needs of one is the [`World`] trait, so that its own tests run on a
//! world of a few lines. A check is a [`Check`] value built with [`check()`]; areas list theirs in explicit tables.
//!
//! Invariants: a judge sees an observation only after its round trip through the serialised form; an undo is on disk
//! before its defect is planted; no default arm turns the unknown green.

pub mod check;
pub mod expect;
pub mod probe;
pub mod sabotage;
pub mod world;

pub use check::{Check, Control, Defect, Finds, Tag, check, finds, fixture};
pub use expect::{Expect, all_of, expect_fn};
pub use probe::{Cx, ObserveError, Probe};
pub use sabotage::{Fixture, PlantError, Sabotage};
pub use world::{Fingerprint, Journal, JournalError, World, WorldError};
