//! Booting a node: a single-threaded helper makes its namespaces, its link and its root file system, then starts its
//! first process and leaves it on its own. The host's network, mounts and hostname are never touched.

use std::ffi::OsString;
use std::fs::File;
use std::io::{Read, Write};
use std::net::Ipv4Addr;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::sched::{CloneFlags, setns, unshare};
use serde::{Deserialize, Serialize};

use crate::cgroup::{Group, Layout};
use crate::error::{NodeError, Result};
use crate::files::Root;
use crate::init::Service;
use crate::mounts;
use crate::netlink::Netlink;
use crate::process::{boot_id, parse_start_time, start_time};

/// Where the harness's own executable is in every node (its common layer carries it there).
pub const EXECUTABLE: &str = "/opt/shakedown/shakedown";
/// Environment variable of a node's processes that says whose they are (`CLUSTER/NODE`).
pub const OWNER: &str = "SHAKEDOWN_NODE";
/// The node's link to the others.
pub const INTERFACE: &str = "eth0";

/// A node's place on its cluster's network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wire {
    /// Pinned network namespace that holds the bridge.
    pub fabric: PathBuf,
    /// The bridge's name there.
    pub bridge: String,
    /// Name of this node's port on it.
    pub port: String,
    /// The node's hardware address: stable over boots, or its neighbours' caches go stale.
    pub mac: [u8; 6],
    /// The node's address.
    pub address: Ipv4Addr,
    /// Prefix length of the network.
    pub prefix: u8,
    /// Default gateway; None keeps the node without any way out.
    pub gateway: Option<Ipv4Addr>,
}

/// All that a boot needs; lies beside the node's directories as JSON, so that a node can be booted again from it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BootSpec {
    /// Cluster it belongs to.
    pub cluster: String,
    /// Its name and host name.
    pub node: String,
    /// Lower layers of its root, uppermost first.
    pub lower: Vec<PathBuf>,
    /// The node's own directory: `upper`, `work` and `root` are in it, and `boot.json` is written there.
    pub directory: PathBuf,
    /// Plain directories and files of the host in the node: (host, node).
    pub binds: Vec<(PathBuf, String)>,
    /// Its network.
    pub wire: Wire,
    /// What its first process keeps running.
    pub services: Vec<Service>,
}

impl BootSpec {
    /// Path of the control group.
    #[must_use]
    pub fn group(&self, layout: Layout) -> Group {
        Group::node(layout, &self.cluster, &self.node)
    }
}

/// A boot that happened: who the first process is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BootRecord {
    /// Number of the first process, on the host.
    pub pid: i32,
    /// Its start time in ticks.
    pub started: u64,
    /// The host's boot that it belongs to.
    pub boot_id: String,
}

impl BootRecord {
    /// File name beside the node's directories.
    pub const FILE: &'static str = "boot.json";

    /// The record of a node directory, when its process still lives.
    #[must_use]
    pub fn living(directory: &Path) -> Option<Self> {
        let bytes = std::fs::read(directory.join(Self::FILE)).ok()?;
        let record: Self = serde_json::from_slice(&bytes).ok()?;
        let alive = boot_id().is_ok_and(|id| id == record.boot_id) && start_time(record.pid) == Some(record.started);
        alive.then_some(record)
    }
}

/// The helper: boots the node that the file describes. Returns an exit code.
pub fn boot_helper(argument: &OsString) -> i32 {
    let path = PathBuf::from(argument);
    let spec = std::fs::read(&path)
        .map_err(|e| NodeError::file("read", &path, e))
        .and_then(|b| serde_json::from_slice(&b).map_err(|e| NodeError::file("understand", &path, e)));
    match spec.and_then(|spec: BootSpec| boot(&spec)) {
        Ok(()) => 0,
        Err(error) => {
            eprintln!("{error}");
            1
        }
    }
}

fn boot(spec: &BootSpec) -> Result<()> {
    let system = |action: &'static str| move |e: nix::errno::Errno| NodeError::system(action, e);
    // Belongs to no terminal: it must survive the command that made it.
    let _ = nix::unistd::setsid();
    let layout = Layout::detect()?;
    let group = spec.group(layout.clone());
    let me = std::process::id().cast_signed();
    group.create()?;
    group.join(me)?;
    let boot = boot_id().map_err(|e| NodeError::file("read", "/proc/sys/kernel/random/boot_id", e))?;
    // Still usable once the host's tree is out of sight.
    let (own, processes) = (Root::open(&spec.directory)?, Root::open(Path::new("/proc"))?);

    let fabric = File::open(&spec.wire.fabric).map_err(|e| NodeError::file("open", &spec.wire.fabric, e))?;
    unshare(
        CloneFlags::CLONE_NEWNS
            | CloneFlags::CLONE_NEWUTS
            | CloneFlags::CLONE_NEWIPC
            | CloneFlags::CLONE_NEWNET
            | CloneFlags::CLONE_NEWCGROUP,
    )
    .map_err(system("make namespaces"))?;
    let inside = File::open("/proc/self/ns/net").map_err(|e| NodeError::file("open", "/proc/self/ns/net", e))?;
    setns(&fabric, CloneFlags::CLONE_NEWNET).map_err(system("enter the fabric"))?;
    plug_in(&spec.wire, &inside)?;
    setns(&inside, CloneFlags::CLONE_NEWNET).map_err(system("enter the node's network"))?;
    bring_up(&spec.wire)?;

    nix::unistd::sethostname(&spec.node).map_err(system("set the host name"))?;
    group.settle(me)?;
    mounts::build(spec, &layout)?;

    unshare(CloneFlags::CLONE_NEWPID).map_err(system("make a process namespace"))?;
    let services = serde_json::to_string(&spec.services).map_err(|e| NodeError::system("write services", e))?;
    let mut child = Command::new(EXECUTABLE)
        .arg("__init")
        .arg(services)
        .env_clear()
        .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
        .env("HOME", "/root")
        .env("LANG", "C.UTF-8")
        .env(OWNER, format!("{}/{}", spec.cluster, spec.node))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|e| NodeError::system("start the first process", e))?;
    let pid = child.id().cast_signed();
    let stat = processes.read(&format!("/{pid}/stat"))?;
    let started = parse_start_time(&String::from_utf8_lossy(&stat));
    let gone = || NodeError::Helper { helper: "boot", message: "the first process ended at once".into() };
    let record = BootRecord { pid, started: started.ok_or_else(gone)?, boot_id: boot };
    let bytes = serde_json::to_vec(&record).map_err(|e| NodeError::system("write the boot record", e))?;
    own.write(BootRecord::FILE, &bytes, 0o644)?;
    // Only now may it start anything: a first process without a record would be nobody's.
    let go = child.stdin.take().map(|mut pipe| pipe.write_all(b"go\n"));
    go.unwrap_or(Ok(())).map_err(|e| NodeError::system("release the first process", e))?;
    // A node can be entered once its own `/proc` is mounted; the first process says when.
    let mut word = String::new();
    let said = child.stdout.take().map(|mut pipe| pipe.read_to_string(&mut word));
    said.unwrap_or(Ok(0)).map_err(|e| NodeError::system("hear from the first process", e))?;
    if word.trim() == "ready" { Ok(()) } else { Err(NodeError::Helper { helper: "boot", message: word }) }
}

/// The node's port on the bridge, its other end born inside the node.
fn plug_in(wire: &Wire, inside: &File) -> Result<()> {
    let netlink = Netlink::open()?;
    netlink.delete_link(&wire.port)?;
    netlink.add_veth(&wire.port, INTERFACE, Some(inside.as_raw_fd()), Some(wire.mac))?;
    netlink.set_up(&wire.port, Some(&wire.bridge), None)
}

fn bring_up(wire: &Wire) -> Result<()> {
    let netlink = Netlink::open()?;
    netlink.set_up("lo", None, None)?;
    netlink.add_address(INTERFACE, wire.address, wire.prefix)?;
    netlink.set_up(INTERFACE, None, None)?;
    if let Some(gateway) = wire.gateway {
        netlink.add_route(Ipv4Addr::UNSPECIFIED, 0, gateway)?;
    }
    Ok(())
}
