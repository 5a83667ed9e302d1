//! What a probe saw: it is the evidence, and it is judged only after a round trip through its serialised form.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Something a probe can see and a judge can judge.
///
/// No key, token or Secret value belongs in it: raw bytes are kept as prefix, length and hash.
pub trait Observation: Serialize + DeserializeOwned + Send + Sync + 'static {
    /// Name and version of the serialised form, such as `admission/1`. It changes when a field changes its meaning.
    const SCHEMA: &'static str;
}

/// An observation as it is written to disk.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Evidence {
    /// [`Observation::SCHEMA`] of what follows.
    pub schema: String,
    /// The check that asked.
    pub check: String,
    /// `baseline`, `control` or `after`.
    pub phase: String,
    /// The observation itself.
    pub seen: Value,
}
