//! What can go wrong while the platform is converged.

use shakedown_bundle::BundleError;
use shakedown_cluster::ClusterError;
use shakedown_core::WaitError;
use shakedown_node::NodeError;
use thiserror::Error;

use crate::apply::is_away;
use crate::graph::GraphError;
use crate::manifest_edit::EditError;

/// A step of the platform failed.
#[derive(Debug, Error)]
pub enum StackError {
    /// The components do not make a graph, or none has the name asked for.
    #[error(transparent)]
    Graph(#[from] GraphError),
    /// The API refused or did not answer.
    #[error("cannot {what}: {}", api_text(source))]
    Api {
        /// What was tried, as a verb.
        what: String,
        /// What came back.
        source: Box<kube::Error>,
    },
    /// A node could not do what was asked.
    #[error(transparent)]
    Node(#[from] NodeError),
    /// The cluster could not be found or reached.
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    /// The bundle is incomplete or damaged.
    #[error(transparent)]
    Bundle(#[from] BundleError),
    /// Something did not come.
    #[error(transparent)]
    Wait(#[from] WaitError),
    /// A static manifest could not be edited.
    #[error("cannot edit {path} on {node}: {source}")]
    Edit {
        /// Node name.
        node: String,
        /// Path in the node.
        path: String,
        /// Why.
        source: EditError,
    },
    /// A manifest or template of ours, or of the bundle, is not what it should be.
    #[error("manifest {name} is unusable: {why}\nhint: `shakedown bundle verify` finds and rebuilds damaged files")]
    Manifest {
        /// Its name.
        name: String,
        /// Why.
        why: String,
    },
    /// A program of the bundle failed.
    #[error("{program} failed: {why}\nhint: {hint}")]
    Program {
        /// `helm`, `crane`, `git`.
        program: String,
        /// The end of its error output.
        why: String,
        /// What to do.
        hint: String,
    },
    /// The bundle lacks something.
    #[error("the bundle has no {what}\nhint: run `shakedown bundle build`")]
    NotInBundle {
        /// What is missing.
        what: String,
    },
    /// A file of ours on the host could not be read or written.
    #[error("cannot {what}: {source}")]
    File {
        /// What was tried, with the path.
        what: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// The cluster was not made by shakedown.
    #[error(
        "this cluster is not one of ours: namespace kube-system has no ConfigMap `shakedown`\n\
         hint: `--i-own-this-cluster` changes it all the same; `shakedown converge` marks it"
    )]
    Foreign,
    /// The platform cannot be as documented on this cluster.
    #[error("{0}")]
    Unfit(String),
}

/// What Go's client of the API says, in helm's mouth, where the connection was refused or lost on the way.
const CONNECTION_LOST: [&str; 7] = [
    "unexpected EOF",
    "connection refused",
    "connection reset by peer",
    "client connection lost",
    "TLS handshake timeout",
    "Client.Timeout exceeded",
    "the server is currently unable to handle the request",
];

/// Result of a stack operation.
pub type Result<T> = std::result::Result<T, StackError>;

impl StackError {
    /// Wraps an error of the API.
    pub fn api(what: impl Into<String>, source: kube::Error) -> Self {
        Self::Api { what: what.into(), source: Box::new(source) }
    }

    /// Whether it only says that the API could not be reached, or lost the connection: what was tried may be repeated.
    pub fn is_of_an_api_away(&self) -> bool {
        match self {
            Self::Api { source, .. } => is_away(source),
            Self::Program { why, .. } => CONNECTION_LOST.iter().any(|words| why.contains(words)),
            _ => false,
        }
    }

    /// Wraps an error of a file operation on the host.
    pub fn file(what: impl Into<String>, source: std::io::Error) -> Self {
        Self::File { what: what.into(), source }
    }
}

fn api_text(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => status.message.clone(),
        other => format!("{other}\nhint: `shakedown status` shows whether the apiservers answer"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_helm_that_lost_its_connection_may_be_repeated_and_one_that_was_refused_may_not() {
        let helm = |why: &str| StackError::Program { program: "helm".into(), why: why.into(), hint: String::new() };
        let lost = "Error: query: failed to query with labels: unexpected error when reading response body. Please retry. Original error: unexpected EOF";
        assert!(helm(lost).is_of_an_api_away());
        assert!(
            !helm("Error: UPGRADE FAILED: cannot patch \"cilium\" with kind DaemonSet: invalid").is_of_an_api_away()
        );
    }
}
