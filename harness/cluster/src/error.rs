//! What can go wrong with a cluster.

use std::path::PathBuf;

use shakedown_core::wait::WaitError;
use shakedown_node::NodeError;
use thiserror::Error;

/// An operation on a cluster failed.
#[derive(Debug, Error)]
pub enum ClusterError {
    /// A name that cannot be one.
    #[error(
        "`{name}` cannot be a cluster's name: {why}\nhint: lower-case letters, digits and `-`, a letter first, at most 32 characters"
    )]
    BadName {
        /// As given.
        name: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// Wrong use: what was asked for cannot be.
    #[error("{0}")]
    Usage(String),
    /// There is no such cluster.
    #[error("there is no cluster `{name}`; there {known}\nhint: `shakedown up --name {name}` makes it")]
    Unknown {
        /// As asked for.
        name: String,
        /// Those that there are, as a phrase.
        known: String,
    },
    /// There is no such node.
    #[error("cluster `{cluster}` has no node `{node}`\nhint: its nodes are {known}")]
    UnknownNode {
        /// Cluster.
        cluster: String,
        /// As asked for.
        node: String,
        /// Names that there are.
        known: String,
    },
    /// Another process works on it.
    #[error(
        "cluster `{name}` is being worked on by process {holder}\nhint: wait for it, or end it; what it began is taken up again by the next `shakedown up`"
    )]
    Locked {
        /// Cluster.
        name: String,
        /// Who holds it.
        holder: String,
    },
    /// This machine cannot carry a cluster.
    #[error("this machine cannot carry a cluster:\n{0}\nhint: `shakedown doctor` shows all of it")]
    Refused(String),
    /// A file of the state.
    #[error("cannot {action} {}: {source}", path.display())]
    File {
        /// A verb.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A state file that is not understood.
    #[error("the state in {} is not understood: {why}\nhint: it is another version's or damaged; `shakedown down --name NAME` removes it", path.display())]
    BadState {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// A part that the cluster is made of is missing.
    #[error("{what} is missing at {}\nhint: `shakedown bundle build` makes it, `shakedown bundle verify` tells what is broken", path.display())]
    Missing {
        /// What.
        what: String,
        /// Where it should be.
        path: PathBuf,
    },
    /// A command of the bundle on the host failed.
    #[error("`{command}` failed: {message}")]
    Command {
        /// The command.
        command: String,
        /// Its own words.
        message: String,
    },
    /// The Kubernetes API.
    #[error("cannot {action}: {source}")]
    Api {
        /// What was tried.
        action: String,
        /// What the client said.
        source: Box<kube::Error>,
    },
    /// A configuration that the client does not take.
    #[error("the cluster's kubeconfig is not usable: {0}\nhint: `shakedown up` writes it again")]
    Kubeconfig(String),
    /// A node.
    #[error(transparent)]
    Node(#[from] NodeError),
    /// Something did not come.
    #[error(transparent)]
    Wait(#[from] WaitError),
}

impl ClusterError {
    /// Wraps an error of a file operation.
    pub fn file(action: &'static str, path: impl Into<PathBuf>, source: impl Into<std::io::Error>) -> Self {
        Self::File { action, path: path.into(), source: source.into() }
    }

    /// Wraps an error of the API's client.
    pub fn api(action: impl Into<String>, source: kube::Error) -> Self {
        Self::Api { action: action.into(), source: Box::new(source) }
    }

    /// Was it the caller's mistake (exit code 2)?
    #[must_use]
    pub fn is_usage(&self) -> bool {
        matches!(self, Self::BadName { .. } | Self::Usage(_) | Self::Unknown { .. } | Self::UnknownNode { .. })
    }
}

/// Result of a cluster operation.
pub type Result<T> = std::result::Result<T, ClusterError>;
