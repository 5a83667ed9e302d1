//! What happens during a run, as values: the runner emits them, progress and reports consume them.

use serde::{Deserialize, Serialize};

use crate::record::{CheckRecord, RunInfo};
use crate::verdict::{ControlVerdict, Verdict};

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum Event {
    /// The first event.
    RunStarted {
        /// Head of the run.
        run: RunInfo,
        /// Checks chosen, in the order of their baselines.
        checks: Vec<String>,
    },
    /// A shared state is being set up or taken down.
    Fixture {
        /// Its name.
        name: String,
        /// True for set-up.
        up: bool,
    },
    /// The check observes the platform as found.
    BaselineStarted {
        /// Check.
        check: String,
    },
    /// It has been judged, without its control.
    BaselineFinished {
        /// Check.
        check: String,
        /// So far.
        verdict: Verdict,
        /// Milliseconds.
        duration_ms: u64,
    },
    /// The defect is about to be planted.
    ControlStarted {
        /// Check.
        check: String,
    },
    /// The defect has been undone.
    ControlFinished {
        /// Check.
        check: String,
        /// What it came to.
        verdict: ControlVerdict,
        /// Milliseconds.
        duration_ms: u64,
    },
    /// Something takes its time.
    Waiting {
        /// Check or step.
        who: String,
        /// For what.
        what: String,
        /// The last thing seen.
        last_seen: String,
    },
    /// The check is done, control included.
    CheckFinished {
        /// The facts.
        record: Box<CheckRecord>,
    },
    /// The last event.
    RunFinished {
        /// Head of the run, with its end.
        run: RunInfo,
    },
}

/// Takes events. Must not block.
pub trait EventSink: Send + Sync {
    /// Takes one.
    fn emit(&self, event: Event);
}

impl<F: Fn(Event) + Send + Sync> EventSink for F {
    fn emit(&self, event: Event) {
        self(event);
    }
}
