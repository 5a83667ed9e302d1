//! One machine of a cluster: commands, files, processes, power. What carries it is a transport behind [`Node`]; here
//! is `namespace`, a machine made of Linux namespaces on this host.
//!
//! Namespaces are entered only in helper processes with one thread ([`helper`]); the async runtime never changes its
//! own. `unsafe` is in [`sys`] alone.

pub mod boot;
pub mod cgroup;
mod enter;
pub mod error;
pub mod files;
pub mod helper;
pub mod init;
mod mounts;
pub mod namespace;
pub mod net;
pub mod netlink;
pub mod nft;
pub mod node;
pub mod probe;
pub mod process;
pub mod sys;

pub use error::{NodeError, Result};
pub use namespace::NamespaceNode;
pub use node::{Exec, Node, NodeState, Output, Power, Process, Role};
