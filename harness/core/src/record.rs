//! What is kept of a check that ran: the facts that reports are made of.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::seed::Seed;
use crate::verdict::{ControlKind, ControlVerdict, Finding, Verdict};

/// A run's head.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunInfo {
    /// Sortable name of the run; also its folder.
    pub id: String,
    /// Fixes every random choice.
    pub seed: Seed,
    /// Name of the cluster, as `--name` takes it.
    pub cluster: String,
    /// When it began.
    pub started: Timestamp,
    /// When it ended.
    pub finished: Option<Timestamp>,
    /// `local`, `kind`, `ssh`, `existing`.
    pub provisioner: String,
    /// Component to version, as seen on the cluster.
    pub versions: BTreeMap<String, String>,
    /// The command that repeats the run.
    pub command: String,
}

/// A file of evidence.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EvidenceRecord {
    /// `baseline`, `control`, `after`, or an attachment's kind such as `pcap`.
    pub kind: String,
    /// Relative to the run's folder.
    pub path: String,
    /// Of its bytes, in hex.
    pub sha256: String,
}

/// A check's control.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ControlRecord {
    /// What it came to.
    pub verdict: ControlVerdict,
    /// How the defect was shown.
    pub kind: ControlKind,
    /// Whether it was due: the baseline passed and the control was asked for.
    pub due: bool,
    /// What the judge said with the defect in place.
    pub found: Vec<Finding>,
    /// What was planted, and why it was not found.
    pub note: String,
    /// Plant, observe, undo, observe again; milliseconds.
    pub duration_ms: u64,
}

/// A check that has been dealt with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckRecord {
    /// Its id.
    pub id: String,
    /// The area it is listed in.
    pub area: String,
    /// Statements it answers.
    pub statements: Vec<String>,
    /// Those of them that the real system contradicts: the check asserts what is true, and when it passes these are
    /// reported as refuted.
    #[serde(default)]
    pub contradicts: Vec<String>,
    /// What it came to, control included.
    pub verdict: Verdict,
    /// Why, for anything but `pass`.
    pub reason: String,
    /// What the judge found wrong.
    pub findings: Vec<Finding>,
    /// The baseline observation, milliseconds.
    pub duration_ms: u64,
    /// Its control found its defect in this run.
    pub proven: bool,
    /// Its control.
    pub control: ControlRecord,
    /// Files, relative to the run's folder.
    pub evidence: Vec<EvidenceRecord>,
    /// What to do where it fails.
    pub remedy: String,
}
