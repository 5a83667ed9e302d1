//! What is left on the host of clusters that are no more. Found by marks that nothing else bears: control groups,
//! an environment variable, names of links and tables, paths.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};
use shakedown_node::boot::OWNER;
use shakedown_node::cgroup::{Group, Layout, TOP};
use shakedown_node::process::look;
use shakedown_node::{nft, sys};

use crate::error::{ClusterError, Result};
use crate::host::HostSettings;
use crate::names;
use crate::state::{Phase, Store};

/// Kinds of things that can be left.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// A process of a node.
    Process,
    /// A pinned network namespace.
    Namespace,
    /// A network link of the host.
    Link,
    /// A mount in the host's own tree.
    Mount,
    /// A control group.
    Cgroup,
    /// A table of the host's firewall.
    Firewall,
    /// A setting of the host.
    Setting,
    /// An attached loop device.
    Loop,
    /// A directory with state.
    Directory,
}

/// One thing that is left.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Residue {
    /// Its kind.
    pub kind: Kind,
    /// What it is: number and command, name, path.
    pub what: String,
    /// The cluster that it was of, where that can be told.
    pub cluster: Option<String>,
}

impl Residue {
    fn new(kind: Kind, what: impl Into<String>, cluster: Option<&str>) -> Self {
        Self { kind, what: what.into(), cluster: cluster.map(ToOwned::to_owned) }
    }
}

/// Everything on this host that belongs to no cluster of the store. What a living cluster is made of is not residue.
///
/// # Errors
/// When the host cannot be looked at; "nothing found" is only said after a whole look.
pub fn find(store: &Store) -> Result<Vec<Residue>> {
    let mut kept = BTreeSet::new();
    for name in store.names() {
        // A state that is not understood may be another version's living cluster: it is reported, as a directory.
        if store.load(&name).ok().flatten().is_some_and(|s| s.phase != Phase::Removing) {
            kept.insert(name);
        }
    }
    let mut found: Vec<Residue> =
        everything(store)?.into_iter().filter(|r| r.cluster.as_ref().is_none_or(|c| !kept.contains(c))).collect();
    if kept.is_empty() {
        for (name, before, now) in HostSettings::new(store).changed()? {
            found.push(Residue::new(Kind::Setting, format!("{name} is {now}, was {before}"), None));
        }
    } else {
        // The top directories are the living ones'.
        found.retain(|r| !(r.cluster.is_none() && matches!(r.kind, Kind::Cgroup | Kind::Directory)));
    }
    found.sort();
    found.dedup();
    Ok(found)
}

/// All marked things, living clusters' included.
///
/// # Errors
/// As [`find`].
pub fn everything(store: &Store) -> Result<Vec<Residue>> {
    let layout = Layout::detect()?;
    let mut found = processes();
    found.extend(groups(&layout));
    found.extend(links(store));
    found.extend(mounts(store)?);
    found.extend(
        nft::ours()?.into_iter().map(|t| Residue::new(Kind::Firewall, format!("nftables table {}", t.name), None)),
    );
    found.extend(sys::loops().into_iter().filter_map(|device| {
        let (cluster, marked) = owner_of_path(store, &device.file);
        let what = format!("{} on {}", device.device.display(), device.file.display());
        (marked || device.file.to_string_lossy().contains("shakedown"))
            .then(|| Residue::new(Kind::Loop, what, cluster.as_deref()))
    }));
    for name in store.names() {
        found.push(Residue::new(Kind::Directory, store.directory(&name).display().to_string(), Some(&name)));
    }
    for entry in fs::read_dir(names::PINS).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        found.push(Residue::new(Kind::Directory, entry.path().display().to_string(), Some(&name)));
        let pin = entry.path().join("fabric");
        if shakedown_node::net::pinned(&pin) {
            found.push(Residue::new(Kind::Namespace, pin.display().to_string(), Some(&name)));
        }
    }
    Ok(found)
}

/// Processes in our control groups, and those that say in their environment whose they are.
fn processes() -> Vec<Residue> {
    let own = std::process::id().cast_signed();
    let numbers = fs::read_dir("/proc").into_iter().flatten().flatten();
    numbers
        .filter_map(|e| e.file_name().to_str()?.parse::<i32>().ok())
        .filter(|pid| *pid != own)
        .filter_map(|pid| {
            let owner = owner_by_group(pid).or_else(|| owner_by_environment(pid))?;
            let process = look(pid)?;
            let what = format!("{pid} {}", process.argv.join(" "));
            Some(Residue::new(Kind::Process, what.trim_end(), Some(&owner)))
        })
        .collect()
}

fn owner_by_group(pid: i32) -> Option<String> {
    let groups = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
    groups.lines().find_map(|line| {
        let path = line.splitn(3, ':').nth(2)?.strip_prefix('/')?.strip_prefix(TOP)?.strip_prefix('/')?;
        Some(path.split('/').next()?.to_owned())
    })
}

fn owner_by_environment(pid: i32) -> Option<String> {
    let environment = fs::read(format!("/proc/{pid}/environ")).ok()?;
    let mark = format!("{OWNER}=");
    environment.split(|b| *b == 0).find_map(|entry| {
        let value = std::str::from_utf8(entry).ok()?.strip_prefix(&mark)?;
        Some(value.split('/').next()?.to_owned())
    })
}

/// Numbers of a cluster's processes, wherever they are.
#[must_use]
pub fn processes_of(cluster: &str) -> Vec<i32> {
    processes()
        .into_iter()
        .filter(|r| r.cluster.as_deref() == Some(cluster))
        .filter_map(|r| r.what.split(' ').next()?.parse().ok())
        .collect()
}

fn groups(layout: &Layout) -> Vec<Residue> {
    let mut found = Vec::new();
    for top in Group::new(layout.clone(), TOP).directories().into_iter().filter(|d| d.is_dir()) {
        found.push(Residue::new(Kind::Cgroup, top.display().to_string(), None));
        for entry in fs::read_dir(&top).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|t| t.is_dir()) {
                let name = entry.file_name().to_string_lossy().into_owned();
                found.push(Residue::new(Kind::Cgroup, entry.path().display().to_string(), Some(&name)));
            }
        }
    }
    found
}

fn links(store: &Store) -> Vec<Residue> {
    let known = store.names();
    fs::read_dir("/sys/class/net")
        .into_iter()
        .flatten()
        .flatten()
        .map(|e| e.file_name().to_string_lossy().into_owned())
        .filter(|l| names::is_host_link(l))
        .map(|link| {
            let cluster = known.iter().find(|n| names::host_link(n) == link);
            Residue::new(Kind::Link, link, cluster.map(String::as_str))
        })
        .collect()
}

fn mounts(store: &Store) -> Result<Vec<Residue>> {
    let path = "/proc/self/mountinfo";
    let table = fs::read_to_string(path).map_err(|e| ClusterError::file("read", path, e))?;
    Ok(table
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .filter_map(|at| {
            let (cluster, marked) = owner_of_path(store, Path::new(at));
            marked.then(|| Residue::new(Kind::Mount, at, cluster.as_deref()))
        })
        .collect())
}

/// The cluster that a path belongs to, and whether the path is ours at all.
fn owner_of_path(store: &Store, path: &Path) -> (Option<String>, bool) {
    for base in [store.root(), Path::new(names::PINS)] {
        if let Ok(inside) = path.strip_prefix(base) {
            let first = inside.components().next().map(|c| c.as_os_str().to_string_lossy().into_owned());
            return (first, true);
        }
    }
    (None, false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_tell_their_cluster() {
        let store = Store::at("/var/lib/shakedown");
        let owner = |p: &str| owner_of_path(&store, Path::new(p));
        assert_eq!(owner("/var/lib/shakedown/one/nodes/cp-1/root"), (Some("one".into()), true));
        assert_eq!(owner("/run/shakedown/two/fabric"), (Some("two".into()), true));
        assert_eq!(owner("/var/lib/shakedown-other"), (None, false));
    }

    #[test]
    fn a_directory_without_a_state_is_residue() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::at(directory.path());
        fs::create_dir(directory.path().join("left")).unwrap();
        let found = find(&store).unwrap();
        assert!(found.iter().any(|r| r.kind == Kind::Directory && r.cluster.as_deref() == Some("left")), "{found:?}");
    }
}
