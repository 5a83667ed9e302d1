//! Clusters: a provisioner that makes them of this host's namespaces, kubeadm's bootstrap, access to their API, and
//! what is left of them.
//!
//! Invariant: every step looks at the real world before it acts, so whatever was cut off is taken up by a second call.

pub mod cluster;
pub mod config;
pub mod doctor;
pub mod down;
pub mod error;
pub mod host;
mod kubeadm;
pub mod layer;
pub mod logs;
pub mod names;
pub mod nodes;
pub mod parts;
mod plan;
pub mod progress;
pub mod ready;
pub mod recover;
pub mod residue;
pub mod state;
pub mod status;
pub mod up;

pub use cluster::Cluster;
pub use error::{ClusterError, Result};
pub use parts::Parts;
pub use state::Store;
pub use up::{UpOptions, UpReport, up};
