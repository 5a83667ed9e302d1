//! Which parts of the bundle are wanted.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::BundleError;

/// A group of components that only make sense together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Group {
    /// The documented platform: Kubernetes, etcd, Cilium, CoreDNS, registry, Argo CD, Kyverno, tools, images and node root.
    Core,
    /// An emulator, a kernel and a root file system with systemd, for tests on another kind of host.
    Vm,
}

impl Group {
    /// All groups, in order.
    pub const ALL: [Self; 2] = [Self::Core, Self::Vm];

    /// The name that the command line and the lock file use.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Core => "core",
            Self::Vm => "vm",
        }
    }
}

impl fmt::Display for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Group {
    type Err = BundleError;

    fn from_str(text: &str) -> Result<Self, BundleError> {
        Self::ALL.into_iter().find(|group| group.name() == text).ok_or_else(|| BundleError::UnknownGroup {
            name: text.to_string(),
            known: Self::ALL.map(Self::name).join(", "),
        })
    }
}

/// A set of groups; [`Group::Core`] is always in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Selection(BTreeSet<Group>);

impl Selection {
    /// The documented platform and nothing else.
    pub fn core() -> Self {
        Self(BTreeSet::from([Group::Core]))
    }

    /// Everything there is.
    pub fn all() -> Self {
        Self(Group::ALL.into())
    }

    /// The same, with another group.
    #[must_use]
    pub fn with(mut self, group: Group) -> Self {
        self.0.insert(group);
        self
    }

    /// Whether the group is wanted.
    pub fn has(&self, group: Group) -> bool {
        self.0.contains(&group)
    }

    /// This selection and all smaller ones: whoever keeps it keeps what any of them is made of.
    pub(crate) fn parts(&self) -> Vec<Self> {
        self.groups().filter(|group| *group != Group::Core).fold(vec![Self::core()], |parts, group| {
            let with = parts.iter().cloned().map(|part| part.with(group)).collect::<Vec<_>>();
            [parts, with].concat()
        })
    }

    /// The groups, in order.
    pub fn groups(&self) -> impl Iterator<Item = Group> + '_ {
        self.0.iter().copied()
    }
}

impl Default for Selection {
    fn default() -> Self {
        Self::core()
    }
}

/// `core,vm`
impl FromStr for Selection {
    type Err = BundleError;

    fn from_str(text: &str) -> Result<Self, BundleError> {
        text.split(',')
            .map(str::trim)
            .filter(|name| !name.is_empty())
            .try_fold(Self::core(), |all, name| Ok(if name == "all" { Self::all() } else { all.with(name.parse()?) }))
    }
}

impl fmt::Display for Selection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.groups().map(Group::name).collect();
        f.write_str(&names.join(","))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn core_is_always_in() -> Result<(), BundleError> {
        assert_eq!("".parse::<Selection>()?.to_string(), "core");
        assert_eq!("vm".parse::<Selection>()?.to_string(), "core,vm");
        assert_eq!("all".parse::<Selection>()?, Selection::all());
        Ok(())
    }

    #[test]
    fn the_parts_of_a_selection_are_all_smaller_ones_and_itself() {
        let parts: Vec<String> = Selection::all().parts().iter().map(ToString::to_string).collect();
        assert_eq!(parts, ["core", "core,vm"]);
    }

    #[test]
    fn an_unknown_group_is_named_with_the_known_ones() {
        let error = "core,k3s".parse::<Selection>().map(|_| ()).unwrap_err().to_string();
        assert!(error.contains("\"k3s\"") && error.contains("core, vm"), "{error}");
    }
}
