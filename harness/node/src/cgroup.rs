//! A node's control groups, in every hierarchy of the host: version 1, hybrid and version 2.
//!
//! A node owns `shakedown/CLUSTER/NODE` in each hierarchy, also in a version 2 one without controllers: programs that
//! attach to "the root of the node" must not meet those of another node there. The host's own mounts stay as they are.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use crate::error::{NodeError, Result};

/// Top group of everything the harness makes, below each hierarchy's mount.
pub const TOP: &str = "shakedown";
/// In version 2 a group with controllers for its children holds no processes itself, so a node's live in this leaf.
pub const LEAF: &str = "init";

/// Which versions the host has mounted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Version {
    /// Version 1 hierarchies only.
    V1,
    /// Version 1 with a version 2 mount beside them.
    Hybrid,
    /// One version 2 hierarchy.
    V2,
}

/// One mounted hierarchy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hierarchy {
    /// Where the host has it.
    pub mount: PathBuf,
    /// Version 1: mount options that name it again (`cpu,cpuacct`, `none,name=systemd`). Empty: version 2.
    pub options: String,
    /// Version 1 controllers in it.
    pub controllers: Vec<String>,
}

impl Hierarchy {
    /// Version 2?
    #[must_use]
    pub fn unified(&self) -> bool {
        self.options.is_empty()
    }
}

/// The host's hierarchies.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layout {
    /// Which versions.
    pub version: Version,
    /// Each once, ordered by mount point.
    pub hierarchies: Vec<Hierarchy>,
}

impl Layout {
    /// Reads the calling process's mount table.
    ///
    /// # Errors
    /// When no hierarchy is mounted.
    pub fn detect() -> Result<Self> {
        let path = "/proc/self/mountinfo";
        let text = fs::read_to_string(path).map_err(|e| NodeError::file("read", path, e))?;
        Self::parse(&text).ok_or_else(|| {
            NodeError::system(
                "find control groups (hint: mount cgroup2 on /sys/fs/cgroup)",
                io::Error::from(io::ErrorKind::NotFound),
            )
        })
    }

    /// Understands a `mountinfo` table (proc_pid_mountinfo(5)). None without any hierarchy.
    #[must_use]
    pub fn parse(mountinfo: &str) -> Option<Self> {
        let mut hierarchies: Vec<Hierarchy> = Vec::new();
        for line in mountinfo.lines() {
            let Some((before, after)) = line.split_once(" - ") else { continue };
            let mut after = after.split(' ');
            let (kind, super_options) = (after.next().unwrap_or_default(), after.nth(1).unwrap_or_default());
            let Some(mount) = before.split(' ').nth(4) else { continue };
            // Only the host's own tree: container engines mount the same hierarchies again elsewhere.
            if !mount.starts_with("/sys/fs/cgroup") {
                continue;
            }
            let hierarchy = match kind {
                "cgroup2" => Hierarchy { mount: mount.into(), options: String::new(), controllers: Vec::new() },
                "cgroup" => {
                    let names: Vec<&str> = super_options
                        .split(',')
                        .filter(|o| !matches!(*o, "rw" | "ro" | "xattr" | "clone_children" | "noprefix"))
                        .filter(|o| !o.starts_with("release_agent=") && !o.starts_with("cpuset_"))
                        .collect();
                    let controllers =
                        names.iter().filter(|n| !n.starts_with("name=")).map(ToString::to_string).collect::<Vec<_>>();
                    let prefix = if controllers.is_empty() { "none," } else { "" };
                    Hierarchy { mount: mount.into(), options: format!("{prefix}{}", names.join(",")), controllers }
                }
                _ => continue,
            };
            if !hierarchies.iter().any(|h| h.mount == hierarchy.mount) {
                hierarchies.push(hierarchy);
            }
        }
        hierarchies.sort_by(|a, b| a.mount.cmp(&b.mount));
        let unified = hierarchies.iter().filter(|h| h.unified()).count();
        let version = match (unified, hierarchies.len() - unified) {
            (0, 0) => return None,
            (0, _) => Version::V1,
            (_, 0) => Version::V2,
            _ => Version::Hybrid,
        };
        Some(Self { version, hierarchies })
    }

    fn with(&self, controller: &str) -> Option<&Hierarchy> {
        self.hierarchies.iter().find(|h| h.controllers.iter().any(|c| c == controller))
    }

    fn unified(&self) -> Option<&Hierarchy> {
        self.hierarchies.iter().find(|h| h.unified())
    }
}

/// A group of that path in every hierarchy: a node's, a cluster's, or the top one.
#[derive(Debug, Clone)]
pub struct Group {
    layout: Layout,
    path: PathBuf,
}

impl Group {
    /// Names one; nothing is made. `path` starts with [`TOP`].
    #[must_use]
    pub fn new(layout: Layout, path: impl Into<PathBuf>) -> Self {
        Self { layout, path: path.into() }
    }

    /// Of a whole cluster.
    #[must_use]
    pub fn cluster(layout: Layout, cluster: &str) -> Self {
        Self::new(layout, Path::new(TOP).join(cluster))
    }

    /// Of one node.
    #[must_use]
    pub fn node(layout: Layout, cluster: &str, node: &str) -> Self {
        Self::new(layout, Path::new(TOP).join(cluster).join(node))
    }

    /// Its directories, one per hierarchy, existing or not.
    #[must_use]
    pub fn directories(&self) -> Vec<PathBuf> {
        self.layout.hierarchies.iter().map(|h| h.mount.join(&self.path)).collect()
    }

    /// Makes the group and those above it, ready to take processes.
    ///
    /// # Errors
    /// When the host's hierarchies cannot be written.
    pub fn create(&self) -> Result<()> {
        for hierarchy in &self.layout.hierarchies {
            let mut directory = hierarchy.mount.clone();
            for part in &self.path {
                if hierarchy.unified() {
                    enable_controllers(&directory)?;
                }
                let parent = directory.clone();
                directory.push(part);
                make_directory(&directory)?;
                if hierarchy.controllers.iter().any(|c| c == "cpuset") {
                    inherit_cpuset(&parent, &directory)?;
                }
            }
        }
        Ok(())
    }

    /// Moves a process in, directly.
    ///
    /// # Errors
    /// When the group does not exist or the process is gone.
    pub fn join(&self, pid: i32) -> Result<()> {
        for directory in self.directories() {
            write(&directory.join("cgroup.procs"), &pid.to_string())?;
        }
        Ok(())
    }

    /// Moves a process to where the node's own processes live (in version 2, the leaf).
    ///
    /// # Errors
    /// As [`Group::join`].
    pub fn join_leaf(&self, pid: i32) -> Result<()> {
        for hierarchy in &self.layout.hierarchies {
            let mut directory = hierarchy.mount.join(&self.path);
            if self.layout.version == Version::V2 {
                directory.push(LEAF);
            }
            write(&directory.join("cgroup.procs"), &pid.to_string())?;
        }
        Ok(())
    }

    /// Version 2: makes the leaf, moves `pid` there and hands the controllers to the node's children. Elsewhere nothing.
    ///
    /// # Errors
    /// As [`Group::join`].
    pub fn settle(&self, pid: i32) -> Result<()> {
        let (Version::V2, Some(hierarchy)) = (self.layout.version, self.layout.unified()) else { return Ok(()) };
        let directory = hierarchy.mount.join(&self.path);
        make_directory(&directory.join(LEAF))?;
        write(&directory.join(LEAF).join("cgroup.procs"), &pid.to_string())?;
        enable_controllers(&directory)
    }

    /// Is it there in any hierarchy?
    #[must_use]
    pub fn exists(&self) -> bool {
        self.directories().iter().any(|d| d.is_dir())
    }

    /// Every process in the group and below, by the host's numbers, ascending.
    #[must_use]
    pub fn processes(&self) -> Vec<i32> {
        let mut found = std::collections::BTreeSet::new();
        for directory in self.directories() {
            collect_processes(&directory, &mut found);
        }
        found.into_iter().collect()
    }

    /// Stops or continues everything in the group (power: a frozen node is one that hangs).
    ///
    /// # Errors
    /// When the host has no freezer.
    pub fn freeze(&self, frozen: bool) -> Result<()> {
        if let Some(hierarchy) = self.layout.with("freezer") {
            let word = if frozen { "FROZEN" } else { "THAWED" };
            return write(&hierarchy.mount.join(&self.path).join("freezer.state"), word);
        }
        if let Some(hierarchy) = self.layout.unified() {
            let word = if frozen { "1" } else { "0" };
            return write(&hierarchy.mount.join(&self.path).join("cgroup.freeze"), word);
        }
        Err(NodeError::system("freeze the node: no freezer", io::Error::from(io::ErrorKind::Unsupported)))
    }

    /// Is the group frozen by its own switch?
    #[must_use]
    pub fn frozen(&self) -> bool {
        if let Some(hierarchy) = self.layout.with("freezer") {
            let state = fs::read_to_string(hierarchy.mount.join(&self.path).join("freezer.state"));
            return state.is_ok_and(|s| s.trim() != "THAWED");
        }
        let Some(hierarchy) = self.layout.unified() else { return false };
        fs::read_to_string(hierarchy.mount.join(&self.path).join("cgroup.freeze")).is_ok_and(|s| s.trim() == "1")
    }

    /// Processor time used by the group since it was made.
    #[must_use]
    pub fn cpu_time(&self) -> Duration {
        if let Some(hierarchy) = self.layout.with("cpuacct") {
            let text = fs::read_to_string(hierarchy.mount.join(&self.path).join("cpuacct.usage")).unwrap_or_default();
            return Duration::from_nanos(text.trim().parse().unwrap_or(0));
        }
        let Some(hierarchy) = self.layout.unified() else { return Duration::ZERO };
        let text = fs::read_to_string(hierarchy.mount.join(&self.path).join("cpu.stat")).unwrap_or_default();
        let micros = text.lines().find_map(|l| l.strip_prefix("usage_usec "));
        Duration::from_micros(micros.and_then(|m| m.trim().parse().ok()).unwrap_or(0))
    }

    /// Bytes of memory charged to the group, page cache included.
    #[must_use]
    pub fn memory_bytes(&self) -> u64 {
        let path = match (self.layout.with("memory"), self.layout.unified()) {
            (Some(h), _) => h.mount.join(&self.path).join("memory.usage_in_bytes"),
            (None, Some(h)) => h.mount.join(&self.path).join("memory.current"),
            (None, None) => return 0,
        };
        fs::read_to_string(path).ok().and_then(|t| t.trim().parse().ok()).unwrap_or(0)
    }

    /// Removes the group and all below it. Waits up to `budget` for ended processes to leave.
    ///
    /// # Errors
    /// When something in it still lives.
    pub fn remove(&self, budget: Duration) -> Result<()> {
        self.remove_while(budget, || {})
    }

    /// Ends every process in the group, those too that are forked meanwhile, and removes it with all below it.
    ///
    /// # Errors
    /// When something in it does not end within `budget`.
    pub fn end(&self, budget: Duration) -> Result<()> {
        self.remove_while(budget, || {
            for pid in self.processes() {
                let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
            }
        })
    }

    fn remove_while(&self, budget: Duration, mut press: impl FnMut()) -> Result<()> {
        let end = Instant::now() + budget;
        press();
        for directory in self.directories() {
            loop {
                match remove_tree(&directory) {
                    Ok(()) => break,
                    Err(e) if e.kind() == io::ErrorKind::NotFound => break,
                    // The kernel takes a moment to let ended processes go; there is nothing to watch for that.
                    Err(_) if Instant::now() < end => {
                        std::thread::sleep(Duration::from_millis(10));
                        press();
                    }
                    Err(e) => return Err(NodeError::file("remove", directory, e)),
                }
            }
        }
        Ok(())
    }
}

fn make_directory(path: &Path) -> Result<()> {
    match fs::create_dir(path) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => Err(NodeError::file("make", path, e)),
        _ => Ok(()),
    }
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).map_err(|e| NodeError::file("write", path, e))
}

/// Hands every controller that a version 2 group has to its children.
fn enable_controllers(directory: &Path) -> Result<()> {
    let path = directory.join("cgroup.controllers");
    let have = fs::read_to_string(&path).map_err(|e| NodeError::file("read", &path, e))?;
    let path = directory.join("cgroup.subtree_control");
    let enabled = fs::read_to_string(&path).map_err(|e| NodeError::file("read", &path, e))?;
    for controller in have.split_whitespace().filter(|c| !enabled.split_whitespace().any(|e| e == *c)) {
        // One by one: a controller that refuses (realtime for `cpu`) must not cost the others.
        if let Err(error) = fs::write(&path, format!("+{controller}"))
            && matches!(controller, "cpu" | "memory" | "pids")
        {
            return Err(NodeError::file("enable a controller in", &path, error));
        }
    }
    Ok(())
}

/// A version 1 cpuset takes no process before both of its lists are filled in.
fn inherit_cpuset(parent: &Path, child: &Path) -> Result<()> {
    for file in ["cpuset.cpus", "cpuset.mems"] {
        let have = fs::read_to_string(child.join(file)).unwrap_or_default();
        if have.trim().is_empty() {
            let value =
                fs::read_to_string(parent.join(file)).map_err(|e| NodeError::file("read", parent.join(file), e))?;
            write(&child.join(file), value.trim())?;
        }
    }
    Ok(())
}

fn collect_processes(directory: &Path, found: &mut std::collections::BTreeSet<i32>) {
    let text = fs::read_to_string(directory.join("cgroup.procs")).unwrap_or_default();
    found.extend(text.lines().filter_map(|l| l.parse::<i32>().ok()));
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|t| t.is_dir()) {
            collect_processes(&entry.path(), found);
        }
    }
}

fn remove_tree(directory: &Path) -> io::Result<()> {
    for entry in fs::read_dir(directory)?.flatten() {
        if entry.file_type().is_ok_and(|t| t.is_dir()) {
            remove_tree(&entry.path())?;
        }
    }
    fs::remove_dir(directory)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID: &str = "\
30 24 0:26 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
31 30 0:27 / /sys/fs/cgroup/cpu,cpuacct rw,relatime - cgroup cgroup rw,cpu,cpuacct
33 30 0:29 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,xattr,name=systemd
34 30 0:30 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
35 30 0:31 / /var/lib/other/cgroup rw - cgroup cgroup rw,pids
";

    #[test]
    fn a_hybrid_host_is_understood() {
        let layout = Layout::parse(HYBRID).unwrap();
        assert_eq!(layout.version, Version::Hybrid);
        let options: Vec<_> = layout.hierarchies.iter().map(|h| h.options.as_str()).collect();
        assert_eq!(options, ["cpu,cpuacct", "none,name=systemd", ""]);
    }

    #[test]
    fn a_version_2_host_is_understood() {
        let layout =
            Layout::parse("26 22 0:22 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate\n").unwrap();
        assert_eq!(layout.version, Version::V2);
        assert_eq!(layout.hierarchies.len(), 1);
    }

    #[test]
    fn a_host_without_any_is_refused() {
        assert_eq!(Layout::parse("22 1 254:0 / / rw - ext4 /dev/vda rw\n"), None);
    }

    #[test]
    fn a_node_has_a_directory_in_every_hierarchy() {
        let group = Group::node(Layout::parse(HYBRID).unwrap(), "default", "cp-1");
        assert!(group.directories().contains(&PathBuf::from("/sys/fs/cgroup/unified/shakedown/default/cp-1")));
        assert_eq!(group.directories().len(), 3);
    }
}
