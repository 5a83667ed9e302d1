//! Debian packages as a source of files: pinned in the lock file, checked by digest, unpacked into trees of ours.
//!
//! Nothing here touches the package database, services or configuration of the machine, and no maintainer script is
//! run; what scripts would have done and the trees need is done by [`tree`] in plain sight.

pub(crate) mod fetch;
pub(crate) mod index;
pub(crate) mod resolve;
pub(crate) mod sets;
pub(crate) mod tree;
pub(crate) mod unpack;
pub(crate) mod version;

use serde::{Deserialize, Serialize};

/// A package at one version, as the lock file pins it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct PinnedDeb {
    /// Its name.
    pub name: String,
    /// Its version, with epoch and revision.
    pub version: String,
    /// `debian` or `debian-security`: the archive, which mirrors serve under this name.
    pub archive: String,
    /// Where it is in the archive, from the archive's root.
    pub path: String,
    /// Its length in bytes.
    pub size: u64,
    /// The digest that the signed index names.
    pub sha256: String,
}
