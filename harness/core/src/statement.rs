//! A documented statement: one sentence of the platform's documents, as the catalogue holds it.

use serde::{Deserialize, Serialize};

use crate::capability::Capability;

/// What kind of sentence the document makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// Something that goes wrong unless care is taken.
    Pitfall,
    /// What a reader may expect to see.
    Outcome,
    /// Steps to be taken.
    Procedure,
    /// A number or bound.
    Limit,
}

/// Whether a cluster on one Linux machine can answer the statement.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Here {
    /// Wholly.
    Yes,
    /// In part; `why` says which part is missing.
    Partly,
    /// Not at all; the check is `skip` there and its judge is tested on recorded observations.
    No,
}

/// One entry of `suites/<area>/statements.toml`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Statement {
    /// `PREFIX-NNN`, unique over all areas.
    pub id: String,
    /// File name of the source document.
    pub source: String,
    /// Place in the document.
    #[serde(rename = "where")]
    pub place: String,
    /// What kind of sentence it is.
    pub kind: Kind,
    /// The system that it speaks of.
    pub system: String,
    /// The sentence, in English.
    pub says: String,
    /// Strings that have to appear letter by letter.
    pub exact: Vec<String>,
    /// How it is checked.
    pub check: String,
    /// The defect that the check has to find.
    pub sabotage: String,
    /// What a cluster must offer for it.
    pub needs: Vec<Capability>,
    /// Whether a local cluster can answer it.
    pub here: Here,
    /// Remarks: what is missing, or why the document is in doubt.
    pub why: String,
}
