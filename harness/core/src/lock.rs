//! What a probe or a sabotage reads and writes, so that the engine can let the rest run beside it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Something in or under the cluster that can be read or written.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Resource {
    /// Everything: its writer runs alone.
    Cluster,
    /// One namespace of the API.
    Namespace(String),
    /// One node's files and services.
    Node(String),
    /// Files and services of all nodes.
    Nodes,
    /// A component of the platform, by the name of its installer.
    Component(String),
    /// The apiservers.
    Apiserver,
    /// etcd and its bytes.
    Etcd,
}

impl Resource {
    /// Whether this names a place that contains the other.
    fn covers(&self, other: &Resource) -> bool {
        match (self, other) {
            (Resource::Cluster, _) => true,
            (Resource::Nodes, Resource::Node(_)) => true,
            (a, b) => a == b,
        }
    }

    /// Whether the two can be the same place.
    pub fn overlaps(&self, other: &Resource) -> bool {
        self.covers(other) || other.covers(self)
    }
}

/// How a resource is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Access {
    /// Beside other readers.
    Read,
    /// Alone.
    Write,
}

/// All that one step reads and writes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Touches(BTreeMap<Resource, Access>);

impl Touches {
    /// Touches nothing.
    pub fn nothing() -> Self {
        Self::default()
    }

    /// Reads this as well.
    #[must_use]
    pub fn reads(mut self, what: Resource) -> Self {
        self.0.entry(what).or_insert(Access::Read);
        self
    }

    /// Writes this as well.
    #[must_use]
    pub fn writes(mut self, what: Resource) -> Self {
        self.0.insert(what, Access::Write);
        self
    }

    /// The stronger of both, for each resource.
    #[must_use]
    pub fn union(mut self, other: &Touches) -> Self {
        for (what, access) in &other.0 {
            let held = self.0.entry(what.clone()).or_insert(*access);
            *held = (*held).max(*access);
        }
        self
    }

    /// Whether the two may not run side by side.
    pub fn conflicts(&self, other: &Touches) -> bool {
        self.0.iter().any(|(a, how_a)| {
            other.0.iter().any(|(b, how_b)| a.overlaps(b) && (*how_a == Access::Write || *how_b == Access::Write))
        })
    }

    /// What is touched, and how, in a fixed order.
    pub fn iter(&self) -> impl Iterator<Item = (&Resource, Access)> {
        self.0.iter().map(|(what, how)| (what, *how))
    }
}
