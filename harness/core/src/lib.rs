//! Pure types of the harness: what is documented ([`statement`]), what was seen and judged ([`verdict`],
//! [`observation`]), what a check touches ([`lock`]) and can need ([`capability`]), what happened ([`event`],
//! [`record`]) and how it is put back ([`undo`]).
//!
//! Invariant: nothing here does IO. The only clock is [`wait`]'s timer, which the caller's runtime drives.

pub mod cancel;
pub mod capability;
pub mod event;
pub mod lock;
pub mod observation;
pub mod record;
pub mod seed;
pub mod statement;
pub mod undo;
pub mod verdict;
pub mod wait;

pub use cancel::Cancel;
pub use capability::{Availability, Capability};
pub use event::{Event, EventSink};
pub use lock::{Access, Resource, Touches};
pub use observation::{Evidence, Observation};
pub use record::{CheckRecord, ControlRecord, EvidenceRecord, RunInfo};
pub use seed::Seed;
pub use statement::{Here, Kind, Statement};
pub use undo::{JournalEntry, UndoStep};
pub use verdict::{ControlKind, ControlVerdict, Finding, Judgement, Verdict};
pub use wait::{Answer, WaitError, wait_for};
