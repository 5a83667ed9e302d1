//! Verdicts of checks and of their controls.

use serde::{Deserialize, Serialize};

/// What a check came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// What the document says was seen, and nothing that was due to shake it is missing.
    Pass,
    /// Something else was seen.
    Fail,
    /// Nothing can be said: the ground was gone, nothing matched, or a control that was due did not find its defect.
    Inconclusive,
    /// A capability is missing.
    Skip,
    /// The harness itself failed.
    Error,
}

/// What a check's control came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ControlVerdict {
    /// With the defect in place the judge said `fail` with the declared code, and `pass` again after the undo.
    Found,
    /// The defect was in place and the judge did not name it.
    Missed,
    /// The defect could not be planted, or could not be shown to have landed.
    NotPlanted,
    /// Not due, or not sampled.
    NotRun,
    /// The defect is still in place: nothing runs after this.
    UndoFailed,
}

/// How a control shows the judge a defect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ControlKind {
    /// The defect is planted in the cluster.
    Plant,
    /// The same probe is given another input.
    Input,
    /// A step of the probe is left out.
    OmitStep,
    /// A recorded, broken observation; only where nothing can be planted.
    Recorded,
}

impl ControlKind {
    /// Whether the control ran against the cluster: the kill rate is given for live and recorded ones apart.
    pub const fn is_live(self) -> bool {
        !matches!(self, ControlKind::Recorded)
    }
}

/// One thing that a judge found wrong.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Finding {
    /// A stable name in kebab-case, such as `violation-missing`.
    pub code: String,
    /// What it is about: a node, member, object.
    pub subject: String,
    /// What was expected and what was seen.
    pub message: String,
}

impl Finding {
    /// A finding of `code` about `subject`.
    pub fn new(code: impl Into<String>, subject: impl Into<String>, message: impl Into<String>) -> Self {
        Self { code: code.into(), subject: subject.into(), message: message.into() }
    }
}

/// What a judge says of one observation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Judgement {
    /// As expected.
    Pass,
    /// Not as expected: at least one finding.
    Fail(Vec<Finding>),
    /// The observation cannot answer the question; why.
    Inconclusive(String),
}

impl Judgement {
    /// `Pass` where there is no finding, `Fail` otherwise.
    pub fn from_findings(findings: Vec<Finding>) -> Self {
        if findings.is_empty() { Judgement::Pass } else { Judgement::Fail(findings) }
    }

    /// A failure with one finding.
    pub fn fail(code: impl Into<String>, subject: impl Into<String>, message: impl Into<String>) -> Self {
        Judgement::Fail(vec![Finding::new(code, subject, message)])
    }

    /// Both must hold. Doubt outweighs approval, and a failure outweighs doubt: what was found stays found.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        use Judgement::{Fail, Inconclusive, Pass};
        match (self, other) {
            (Fail(mut a), Fail(b)) => {
                a.extend(b);
                Fail(a)
            }
            (Fail(a), _) | (_, Fail(a)) => Fail(a),
            (Inconclusive(a), Inconclusive(b)) => Inconclusive(format!("{a}; {b}")),
            (Inconclusive(a), Pass) | (Pass, Inconclusive(a)) => Inconclusive(a),
            (Pass, Pass) => Pass,
        }
    }
}
