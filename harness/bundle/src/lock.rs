//! `bundle.lock`: what the bundle is made from, with digests of whatever is reproducible. It is committed, and compiled
//! in.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::debian::PinnedDeb;
use crate::error::{BundleError, malformed};

const EMBEDDED: &str = include_str!("../../../bundle.lock");

const HEADER: &str = "\
# What the bundle is made from. Written by `shakedown bundle lock`; not meant to be edited.
# Go modules are also held by the go.sum files under harness/bundle/recipes. Digests of programs hold for the named Go
# version. Packages that Debian has replaced are taken from its signed index, which a build says (`--locked` refuses).
";

/// The lock file.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lock {
    /// The Go version that the programs' digests hold for.
    #[serde(default)]
    pub toolchain: String,
    /// Go modules.
    #[serde(default, rename = "module")]
    pub modules: Vec<LockedModule>,
    /// Programs built from them.
    #[serde(default, rename = "binary")]
    pub binaries: Vec<LockedBinary>,
    /// Images.
    #[serde(default, rename = "image")]
    pub images: Vec<LockedImage>,
    /// Debian packages.
    #[serde(default, rename = "package")]
    pub packages: Vec<LockedPackage>,
}

/// A Go module that a component is built from.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LockedModule {
    /// The component.
    pub component: String,
    /// The module's path.
    pub name: String,
    /// Its version.
    pub version: String,
    /// Its `go.sum` digest.
    pub h1: String,
}

/// A program.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LockedBinary {
    /// The component.
    pub component: String,
    /// Its name.
    pub name: String,
    /// Its digest.
    pub sha256: String,
}

/// An image.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LockedImage {
    /// Its reference.
    pub name: String,
    /// The digest of its manifest.
    pub digest: String,
}

/// A Debian package, and the sets it belongs to.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LockedPackage {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// `debian` or `debian-security`.
    pub source: String,
    /// Its path in the archive.
    pub path: String,
    /// Its length in bytes.
    pub size: u64,
    /// Its digest.
    pub sha256: String,
    /// Where it is unpacked.
    pub sets: BTreeSet<String>,
}

impl Lock {
    /// The one that was committed with this version.
    ///
    /// # Errors
    /// When it cannot be parsed; a test makes sure that it can.
    pub fn embedded() -> Result<Self, BundleError> {
        Self::parse(EMBEDDED)
    }

    /// Reads a lock file.
    ///
    /// # Errors
    /// When it is no TOML, or not of this form.
    pub fn parse(text: &str) -> Result<Self, BundleError> {
        toml::from_str(text).map_err(|error| malformed("bundle.lock", error.message()))
    }

    /// The text of the file.
    ///
    /// # Errors
    /// When it cannot be written as TOML.
    pub fn text(&self) -> Result<String, BundleError> {
        let body = toml::to_string(self).map_err(|error| malformed("bundle.lock", error))?;
        Ok(format!("{HEADER}\n{body}"))
    }

    /// The packages of a set, by name.
    pub(crate) fn packages_of(&self, set: &str) -> Vec<PinnedDeb> {
        let mut found: Vec<_> = self
            .packages
            .iter()
            .filter(|package| package.sets.contains(set))
            .map(|package| PinnedDeb {
                name: package.name.clone(),
                version: package.version.clone(),
                archive: package.source.clone(),
                path: package.path.clone(),
                size: package.size,
                sha256: package.sha256.clone(),
            })
            .collect();
        found.sort();
        found
    }

    /// Replaces the pinned packages.
    pub(crate) fn set_packages(&mut self, sets: &BTreeMap<String, Vec<PinnedDeb>>) {
        let mut packages: BTreeMap<PinnedDeb, BTreeSet<String>> = BTreeMap::new();
        for (set, debs) in sets {
            for deb in debs {
                packages.entry(deb.clone()).or_default().insert(set.clone());
            }
        }
        self.packages = packages
            .into_iter()
            .map(|(deb, sets)| LockedPackage {
                name: deb.name,
                version: deb.version,
                source: deb.archive,
                path: deb.path,
                size: deb.size,
                sha256: deb.sha256,
                sets,
            })
            .collect();
    }

    /// What differs from another lock in programs and images, a line each; only what both have is compared, and
    /// programs only if the same Go built them.
    pub(crate) fn differences(&self, built: &Self) -> Vec<String> {
        let mut lines = Vec::new();
        if self.toolchain == built.toolchain {
            for theirs in &built.binaries {
                let ours = self.binaries.iter().find(|b| b.component == theirs.component && b.name == theirs.name);
                if let Some(ours) = ours.filter(|ours| ours.sha256 != theirs.sha256) {
                    lines.push(format!(
                        "program {} of {}: sha256 {} built, {} locked",
                        theirs.name, theirs.component, theirs.sha256, ours.sha256
                    ));
                }
            }
            for theirs in &built.images {
                let ours = self.images.iter().find(|image| image.name == theirs.name);
                if let Some(ours) = ours.filter(|ours| ours.digest != theirs.digest) {
                    lines.push(format!("image {}: {} built, {} locked", theirs.name, theirs.digest, ours.digest));
                }
            }
        }
        for theirs in &built.modules {
            let ours = self.modules.iter().find(|module| module.component == theirs.component);
            if let Some(ours) = ours.filter(|ours| *ours != theirs) {
                lines.push(format!(
                    "module {} {} ({}) built, {} ({}) locked",
                    theirs.name, theirs.version, theirs.h1, ours.version, ours.h1
                ));
            }
        }
        lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_committed_lock_can_be_read_and_names_what_the_recipes_pin() {
        let lock = Lock::embedded().unwrap();
        for recipe in crate::recipe::GO_RECIPES.iter().filter(|recipe| recipe.is_upstream()) {
            if let Some(module) = lock.modules.iter().find(|module| module.component == recipe.name) {
                assert_eq!((module.name.as_str(), module.version.as_str()), (recipe.module, recipe.version));
            }
        }
    }

    #[test]
    fn a_damaged_lock_is_named() {
        let error = Lock::parse("[[package]]\nname = 3").unwrap_err().to_string();
        assert!(error.starts_with("cannot read bundle.lock: "), "{error}");
        assert!(Lock::parse("surprise = 1").is_err());
    }

    #[test]
    fn only_programs_of_the_same_go_are_compared() {
        let program = |sha256: &str| LockedBinary { component: "c".into(), name: "n".into(), sha256: sha256.into() };
        let lock = Lock { toolchain: "go1".into(), binaries: vec![program("a")], ..Lock::default() };
        let same_go = Lock { toolchain: "go1".into(), binaries: vec![program("b")], ..Lock::default() };
        assert_eq!(lock.differences(&same_go).len(), 1);
        assert!(lock.differences(&Lock { toolchain: "go2".into(), ..same_go }).is_empty());
        assert!(lock.differences(&lock).is_empty());
    }

    proptest! {
        #[test]
        fn a_lock_survives_being_written_and_read(
            names in proptest::collection::btree_map("[a-z0-9.+-]{1,12}", ("[0-9a-z:~+.-]{1,10}", "[0-9a-f]{8}", proptest::collection::btree_set("[a-z-]{1,6}", 1..3)), 0..6)
        ) {
            let mut sets: BTreeMap<String, Vec<PinnedDeb>> = BTreeMap::new();
            for (name, (version, sha256, members)) in names {
                for set in members {
                    sets.entry(set).or_default().push(PinnedDeb {
                        name: name.clone(), version: version.clone(), archive: "debian".into(),
                        path: format!("pool/{name}"), size: 7, sha256: sha256.clone(),
                    });
                }
            }
            let mut lock = Lock { toolchain: "go1.26".into(), ..Lock::default() };
            lock.set_packages(&sets);
            let read = Lock::parse(&lock.text().unwrap()).unwrap();
            prop_assert_eq!(&read, &lock);
            for (set, mut debs) in sets {
                debs.sort();
                prop_assert_eq!(read.packages_of(&set), debs);
            }
        }
    }
}
