//! Network work in another namespace or in a throw-away one, done by a helper process that is told what to do as JSON.

use std::ffi::OsString;
use std::fs::File;
use std::net::Ipv4Addr;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};
use serde::{Deserialize, Serialize};

use crate::error::{NodeError, Result};
use crate::netlink::Netlink;

/// What the helper is asked for.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "plan", rename_all = "kebab-case")]
pub enum Plan {
    /// Makes a cluster's fabric: a pinned network namespace with a bridge, and a link from the host into it. What is
    /// there already is kept.
    Fabric(Fabric),
    /// Takes the pin of a namespace and the host's link away. What is not there is fine.
    Clear {
        /// The pin.
        pin: PathBuf,
        /// The host's end of the link.
        host_link: String,
    },
}

/// A cluster's network: its bridge lives in a namespace of its own, so that the host's firewall never sees traffic
/// between nodes and needs no rule for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fabric {
    /// File that keeps the namespace alive.
    pub pin: PathBuf,
    /// Name of the bridge in it.
    pub bridge: String,
    /// The host's end of its link into the fabric.
    pub host_link: String,
    /// The host's address on it.
    pub host_address: Ipv4Addr,
    /// An address of the bridge itself, for traffic from outside the nodes that is no host's.
    pub bridge_address: Ipv4Addr,
    /// Prefix length of both.
    pub prefix: u8,
}

impl Fabric {
    /// Is the namespace pinned and the host's link there?
    #[must_use]
    pub fn exists(&self) -> bool {
        pinned(&self.pin) && nix::net::if_::if_nametoindex(self.host_link.as_str()).is_ok()
    }
}

/// Is something mounted on the pin?
#[must_use]
pub fn pinned(pin: &Path) -> bool {
    const NSFS_MAGIC: i64 = 0x6e73_6673;
    nix::sys::statfs::statfs(pin).is_ok_and(|s| s.filesystem_type().0 == NSFS_MAGIC)
}

/// The helper. Returns an exit code.
pub fn net_helper(argument: &OsString) -> i32 {
    let plan = argument
        .to_str()
        .and_then(|text| serde_json::from_str::<Plan>(text).ok())
        .ok_or_else(|| NodeError::Helper { helper: "net", message: "bad argument".into() });
    let done = plan.and_then(|plan| match plan {
        Plan::Fabric(fabric) => make(&fabric),
        Plan::Clear { pin, host_link } => clear(&pin, &host_link),
    });
    match done {
        Ok(()) => 0,
        Err(error) => {
            eprintln!("{error}");
            1
        }
    }
}

const PORT: &str = "host";

fn make(fabric: &Fabric) -> Result<()> {
    let system = |action: &'static str| move |e: nix::errno::Errno| NodeError::system(action, e);
    let own = "/proc/self/ns/net";
    let host = File::open(own).map_err(|e| NodeError::file("open", own, e))?;
    if pinned(&fabric.pin) {
        let inside = File::open(&fabric.pin).map_err(|e| NodeError::file("open", &fabric.pin, e))?;
        setns(&inside, CloneFlags::CLONE_NEWNET).map_err(system("enter the fabric"))?;
    } else {
        if let Some(parent) = fabric.pin.parent() {
            std::fs::create_dir_all(parent).map_err(|e| NodeError::file("make", parent, e))?;
        }
        File::create(&fabric.pin).map_err(|e| NodeError::file("make", &fabric.pin, e))?;
        unshare(CloneFlags::CLONE_NEWNET).map_err(system("make a network namespace"))?;
        mount(Some(own), &fabric.pin, None::<&str>, MsFlags::MS_BIND, None::<&str>)
            .map_err(|e| NodeError::file("pin the namespace on", &fabric.pin, e))?;
    }
    let inside = File::open(own).map_err(|e| NodeError::file("open", own, e))?;
    let netlink = Netlink::open()?;
    if nix::net::if_::if_nametoindex(fabric.bridge.as_str()).is_err() {
        netlink.add_link("bridge", &fabric.bridge)?;
    }
    netlink.add_address(&fabric.bridge, fabric.bridge_address, fabric.prefix)?;
    netlink.set_up("lo", None, None)?;
    netlink.set_up(&fabric.bridge, None, None)?;
    setns(&host, CloneFlags::CLONE_NEWNET).map_err(system("return to the host's network"))?;
    let outside = Netlink::open()?;
    if nix::net::if_::if_nametoindex(fabric.host_link.as_str()).is_err() {
        outside.add_veth(&fabric.host_link, PORT, Some(inside.as_raw_fd()), None)?;
    }
    outside.add_address(&fabric.host_link, fabric.host_address, fabric.prefix)?;
    outside.set_up(&fabric.host_link, None, None)?;
    setns(&inside, CloneFlags::CLONE_NEWNET).map_err(system("enter the fabric"))?;
    Netlink::open()?.set_up(PORT, Some(&fabric.bridge), None)
}

fn clear(pin: &Path, host_link: &str) -> Result<()> {
    Netlink::open()?.delete_link(host_link)?;
    while pinned(pin) {
        umount2(pin, MntFlags::MNT_DETACH).map_err(|e| NodeError::file("release the namespace on", pin, e))?;
    }
    match std::fs::remove_file(pin) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(NodeError::file("remove", pin, e)),
        _ => Ok(()),
    }
}
