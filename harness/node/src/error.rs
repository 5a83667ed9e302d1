//! What can go wrong with a node.

use std::path::PathBuf;

use thiserror::Error;

/// An operation on a node or on the host beneath it failed.
#[derive(Debug, Error)]
pub enum NodeError {
    /// A file or directory operation.
    #[error("cannot {action} {}: {source}", path.display())]
    File {
        /// What was tried, as a verb.
        action: &'static str,
        /// On which path (in the node where a node is meant).
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A system call that belongs to no single file.
    #[error("cannot {action}: {source}")]
    System {
        /// What was tried.
        action: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// The node has no living first process.
    #[error("node {node} is not running\nhint: `shakedown up` starts what is down; `shakedown status` shows it")]
    Down {
        /// Node name.
        node: String,
    },
    /// The node's processes are stopped where they are.
    #[error("node {node} is frozen: a command on it would not run\nhint: `shakedown recover` lets it go on")]
    Frozen {
        /// Node name.
        node: String,
    },
    /// A command in the node ran out of its time.
    #[error(
        "`{command}` on node {node} was still running after {seconds} s and was ended\nhint: the node may be frozen or starved; see `shakedown logs {node}`"
    )]
    TimedOut {
        /// Node name.
        node: String,
        /// The command line.
        command: String,
        /// The budget in seconds.
        seconds: u64,
    },
    /// A command in the node ended with a failure.
    #[error("`{command}` on node {node} ended with {code}: {stderr}")]
    Failed {
        /// Node name.
        node: String,
        /// The command line.
        command: String,
        /// Exit code (128 + signal where a signal ended it).
        code: i32,
        /// The end of what it wrote to its error output.
        stderr: String,
    },
    /// A message of the kernel's routing socket was refused.
    #[error("cannot {action}: {source}")]
    Link {
        /// What was asked.
        action: String,
        /// The kernel's answer.
        source: nix::errno::Errno,
    },
    /// A helper process did not do what it was started for.
    #[error("helper process {helper} failed: {message}")]
    Helper {
        /// Which one.
        helper: &'static str,
        /// Its own words.
        message: String,
    },
    /// The executable that carries the helper processes is not known.
    #[error("cannot find the shakedown executable for its helper processes\nhint: set SHAKEDOWN_EXE to its path")]
    NoExecutable,
}

impl NodeError {
    /// Wraps an error of a file operation.
    pub fn file(action: &'static str, path: impl Into<PathBuf>, source: impl Into<std::io::Error>) -> Self {
        Self::File { action, path: path.into(), source: source.into() }
    }

    /// Wraps an error of a system call.
    pub fn system(action: impl Into<String>, source: impl Into<std::io::Error>) -> Self {
        Self::System { action: action.into(), source: source.into() }
    }
}

/// Result of a node operation.
pub type Result<T> = std::result::Result<T, NodeError>;
