//! How something that was changed is put back. Written and fsynced before the change is made, so that a run that is
//! killed at any instant leaves behind all that `recover` needs.

use serde::{Deserialize, Serialize};

use crate::verdict::ControlKind;

/// One step that puts something back as it was found. Safe to repeat.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "step", rename_all = "kebab-case")]
pub enum UndoStep {
    /// The object is again what this manifest says (its spec, data, labels and annotations; no status, no resourceVersion).
    RestoreObject {
        /// The object as it was found, as JSON. A Secret's values stay in the journal (0600, root) and never become evidence.
        manifest: serde_json::Value,
    },
    /// The object did not exist: it is deleted, and waited for until it is gone.
    DeleteObject {
        /// `v1`, `apps/v1`.
        api_version: String,
        /// `Deployment`.
        kind: String,
        /// None for a cluster-wide object.
        namespace: Option<String>,
        /// Its name.
        name: String,
    },
    /// The file on the node has again this content (base64), owner and mode.
    RestoreFile {
        /// Node name.
        node: String,
        /// Absolute path in the node.
        path: String,
        /// Its bytes, base64.
        content: String,
        /// Permission bits.
        mode: u32,
    },
    /// The file or directory did not exist on the node: it is removed.
    RemoveFile {
        /// Node name.
        node: String,
        /// Absolute path in the node.
        path: String,
    },
    /// A command that may be repeated without harm.
    RunOnNode {
        /// Node name.
        node: String,
        /// Command and arguments; no shell.
        argv: Vec<String>,
        /// Exit code 0 is expected unless this is set.
        tolerate_failure: bool,
    },
    /// Something that only its own word knows how to put back; the name is looked up in the words' table.
    Custom {
        /// Name in that table.
        word: String,
        /// Its own data.
        data: serde_json::Value,
    },
}

/// A line of the journal.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "entry", rename_all = "kebab-case")]
pub enum JournalEntry {
    /// Something is about to be changed. Open until closed.
    Intent {
        /// Unique in the journal.
        id: String,
        /// Run that it belongs to.
        run: String,
        /// Check, fixture or fault.
        owner: String,
        /// Set for a control.
        kind: Option<ControlKind>,
        /// Undone from last to first.
        undo: Vec<UndoStep>,
    },
    /// It has been put back.
    Closed {
        /// The intent's id.
        id: String,
    },
}
