//! The parts of the bundle that a bare cluster is made of.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use shakedown_bundle::Bundle;

use crate::error::{ClusterError, Result};

/// Where the parts are. All of them are only read.
#[derive(Debug, Clone)]
pub struct Parts {
    /// The tree that every node's root is an overlay of.
    pub node_root: PathBuf,
    /// A prepared containerd directory with the images of a control plane; hard-linked into the nodes.
    pub containerd_seed: PathBuf,
    /// Where each executable is, by name.
    pub binaries: BTreeMap<String, PathBuf>,
    /// Kubernetes version, with `v`.
    pub kubernetes: String,
}

/// Executables that every node gets.
pub const NODE_BINARIES: [&str; 5] = ["kubeadm", "kubelet", "kubectl", "etcdctl", "etcdutl"];

impl Parts {
    /// The parts of an opened bundle.
    #[must_use]
    pub fn of(bundle: &Bundle) -> Self {
        Self {
            node_root: bundle.node_root(),
            containerd_seed: bundle.containerd_seed(),
            binaries: NODE_BINARIES.iter().map(|n| ((*n).to_owned(), bundle.bin(n))).collect(),
            kubernetes: bundle.version("kubernetes").unwrap_or_default().to_owned(),
        }
    }

    /// Parts that lie in one directory as `bin`, `noderoot` and `seed`.
    #[must_use]
    pub fn in_directory(directory: &Path, kubernetes: &str) -> Self {
        Self {
            node_root: directory.join("noderoot"),
            containerd_seed: directory.join("seed"),
            binaries: NODE_BINARIES.iter().map(|n| ((*n).to_owned(), directory.join("bin").join(n))).collect(),
            kubernetes: kubernetes.to_owned(),
        }
    }

    /// Path of an executable.
    #[must_use]
    pub fn binary(&self, name: &str) -> PathBuf {
        self.binaries.get(name).cloned().unwrap_or_else(|| PathBuf::from(name))
    }

    /// Are they all there?
    ///
    /// # Errors
    /// [`ClusterError::Missing`] names the first that is not.
    pub fn check(&self) -> Result<()> {
        let missing = |what: &str, path: &Path| ClusterError::Missing { what: what.to_owned(), path: path.to_owned() };
        for (what, path) in [("the node root", &self.node_root), ("the containerd seed", &self.containerd_seed)] {
            if !path.is_dir() {
                return Err(missing(what, path));
            }
        }
        for name in NODE_BINARIES {
            if !self.binary(name).is_file() {
                return Err(missing(name, &self.binary(name)));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_part_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let parts = Parts::in_directory(directory.path(), "v1.34.4");
        std::fs::create_dir(&parts.node_root).unwrap();
        let said = parts.check().unwrap_err().to_string();
        assert!(said.contains("containerd seed") && said.contains("hint:"), "{said}");
    }
}
