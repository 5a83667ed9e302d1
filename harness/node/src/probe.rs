//! What this host can carry, found out by trying. Judged elsewhere: here are facts only, recordable as JSON.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use nix::errno::Errno;
use nix::sched::{CloneFlags, unshare};
use serde::{Deserialize, Serialize};

use crate::cgroup::{Layout, Version};
use crate::error::{NodeError, Result};
use crate::netlink::Netlink;

/// Facts about a host. Numbers are bytes unless the name says otherwise.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Probes {
    /// Version of this form.
    pub schema: u32,
    /// Effective user number.
    pub uid: u32,
    /// Capability bounding set (capabilities(7)), as a bit mask.
    pub capabilities: u64,
    /// `uname -r`.
    pub kernel: String,
    /// Control groups; None without any.
    pub cgroup: Option<Version>,
    /// Controllers in any hierarchy.
    pub controllers: Vec<String>,
    /// File systems that the kernel knows or could load.
    pub filesystems: Vec<String>,
    /// Feature by name: true, false, or absent when it could not be tried.
    pub features: BTreeMap<String, bool>,
    /// Physical memory.
    pub memory: u64,
    /// Memory that could be used now.
    pub memory_available: u64,
    /// Free space where clusters live.
    pub disk_available: u64,
    /// Processors.
    pub processors: usize,
    /// Hard limit of open files.
    pub open_files: u64,
    /// `fs.inotify.max_user_instances`.
    pub inotify_instances: u64,
    /// `fs.inotify.max_user_watches`.
    pub inotify_watches: u64,
    /// Where each tool that only some checks need is; absent: not found.
    pub tools: BTreeMap<String, String>,
}

/// Bit of `CAP_SYS_ADMIN` in a capability mask.
pub const CAP_SYS_ADMIN: u32 = 21;
/// Bit of `CAP_SYS_RESOURCE`.
pub const CAP_SYS_RESOURCE: u32 = 24;
/// Bit of `CAP_NET_ADMIN`.
pub const CAP_NET_ADMIN: u32 = 12;
/// Bit of `CAP_MKNOD`.
pub const CAP_MKNOD: u32 = 27;
/// Bit of `CAP_BPF`.
pub const CAP_BPF: u32 = 39;

impl Probes {
    /// Is the capability in the bounding set?
    #[must_use]
    pub fn has_capability(&self, bit: u32) -> bool {
        self.capabilities & (1 << bit) != 0
    }

    /// Was the feature tried and found?
    #[must_use]
    pub fn has(&self, feature: &str) -> bool {
        self.features.get(feature) == Some(&true)
    }
}

/// Looks at the host; `state` is where clusters live (or will).
///
/// # Errors
/// When `/proc` cannot be read.
pub async fn probe(state: &Path) -> Result<Probes> {
    let read = |path: &str| fs::read_to_string(path).map_err(|e| NodeError::file("read", path, e));
    let status = read("/proc/self/status")?;
    let mask = status.lines().find_map(|l| l.strip_prefix("CapBnd:")).unwrap_or_default();
    let memory = read("/proc/meminfo")?;
    let kib = |name: &str| {
        let line = memory.lines().find_map(|l| l.strip_prefix(name)).unwrap_or_default();
        line.split_whitespace().next().and_then(|n| n.parse::<u64>().ok()).unwrap_or(0) * 1024
    };
    let number = |path: &str| fs::read_to_string(path).ok().and_then(|t| t.trim().parse().ok()).unwrap_or(0);
    let layout = Layout::detect().ok();
    let mut features = local_features();
    // Only root may try; without it those features stay unknown.
    if nix::unistd::geteuid().is_root()
        && let Ok(answer) = crate::helper::run("__probe", "").await
        && let Ok(tried) = serde_json::from_slice::<BTreeMap<String, bool>>(&answer)
    {
        features.extend(tried);
    }
    Ok(Probes {
        schema: 1,
        uid: nix::unistd::geteuid().as_raw(),
        capabilities: u64::from_str_radix(mask.trim(), 16).unwrap_or(0),
        kernel: read("/proc/sys/kernel/osrelease")?.trim().to_owned(),
        cgroup: layout.as_ref().map(|l| l.version),
        controllers: controllers(layout.as_ref()),
        filesystems: read("/proc/filesystems")?
            .lines()
            .filter_map(|l| l.split_whitespace().last().map(ToOwned::to_owned))
            .collect(),
        features,
        memory: kib("MemTotal:"),
        memory_available: kib("MemAvailable:"),
        disk_available: disk_available(state),
        processors: std::thread::available_parallelism().map_or(1, usize::from),
        open_files: nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE).map_or(0, |l| l.1),
        inotify_instances: number("/proc/sys/fs/inotify/max_user_instances"),
        inotify_watches: number("/proc/sys/fs/inotify/max_user_watches"),
        tools: tools(),
    })
}

fn controllers(layout: Option<&Layout>) -> Vec<String> {
    let mut found = std::collections::BTreeSet::new();
    for hierarchy in layout.iter().flat_map(|l| &l.hierarchies) {
        found.extend(hierarchy.controllers.iter().cloned());
        let unified = fs::read_to_string(hierarchy.mount.join("cgroup.controllers")).unwrap_or_default();
        found.extend(unified.split_whitespace().map(ToOwned::to_owned));
    }
    found.into_iter().collect()
}

fn disk_available(state: &Path) -> u64 {
    let existing = state.ancestors().find(|p| p.exists()).unwrap_or(Path::new("/"));
    nix::sys::statvfs::statvfs(existing).map_or(0, |s| s.blocks_available() * s.fragment_size())
}

fn tools() -> BTreeMap<String, String> {
    let path = std::env::var("PATH").unwrap_or_default();
    ["go", "docker", "kind", "qemu-system-x86_64", "gcc"]
        .iter()
        .filter_map(|tool| {
            let found = path.split(':').map(|d| Path::new(d).join(tool)).find(|p| p.is_file())?;
            Some(((*tool).to_owned(), found.to_string_lossy().into_owned()))
        })
        .collect()
}

/// Features that show in the host's files.
fn local_features() -> BTreeMap<String, bool> {
    let exists = |path: &str| Path::new(path).exists();
    BTreeMap::from([
        ("btf".to_owned(), exists("/sys/kernel/btf/vmlinux")),
        ("loadable-modules".to_owned(), exists("/proc/modules")),
        ("loop".to_owned(), exists("/dev/loop-control")),
        ("fuse".to_owned(), exists("/dev/fuse")),
        ("tun".to_owned(), exists("/dev/net/tun")),
        ("psi".to_owned(), exists("/proc/pressure/cpu")),
        ("kvm".to_owned(), exists("/dev/kvm")),
    ])
}

/// The helper: tries what needs a network namespace of its own and prints what worked. Returns an exit code.
pub fn probe_helper() -> i32 {
    if unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).is_err() {
        return 1;
    }
    let mut found = BTreeMap::new();
    let Ok(netlink) = Netlink::open() else { return 1 };
    for kind in ["bridge", "wireguard", "ifb", "vxlan", "dummy"] {
        // A kind that wants parameters still says that it exists.
        found.insert(kind.to_owned(), !refused(&netlink.add_link(kind, "t0"), &[Errno::EOPNOTSUPP]));
        let _ = netlink.delete_link("t0");
    }
    found.insert("veth".to_owned(), netlink.add_veth("v0", "v1", None, None).is_ok());
    for kind in ["netem", "tbf", "htb", "fq", "clsact"] {
        found.insert(format!("qdisc-{kind}"), !refused(&netlink.add_root_qdisc("v0", kind), &[Errno::ENOENT]));
    }
    found.insert("overlay".to_owned(), overlay_works());
    found.insert("bpf".to_owned(), mounts("bpf"));
    found.insert("nftables".to_owned(), socket_works(nix::sys::socket::SockProtocol::NetlinkNetFilter));
    match serde_json::to_string(&found) {
        Ok(text) => {
            use std::io::Write as _;
            i32::from(writeln!(std::io::stdout(), "{text}").is_err())
        }
        Err(_) => 1,
    }
}

fn refused(result: &Result<()>, with: &[Errno]) -> bool {
    matches!(result, Err(NodeError::Link { source, .. }) if with.contains(source))
}

fn socket_works(protocol: nix::sys::socket::SockProtocol) -> bool {
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
    socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, protocol).is_ok()
}

fn mounts(kind: &str) -> bool {
    use nix::mount::{MsFlags, mount};
    let none = None::<&str>;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).is_ok()
        && mount(Some(kind), "/mnt", Some(kind), MsFlags::empty(), none).is_ok()
}

/// An overlay on a tmpfs, seen by nobody else.
fn overlay_works() -> bool {
    use nix::mount::{MsFlags, mount};
    let none = None::<&str>;
    let made = mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).is_ok()
        && mount(Some("tmpfs"), "/mnt", Some("tmpfs"), MsFlags::empty(), none).is_ok()
        && ["l", "u", "w", "m"].iter().all(|d| fs::create_dir(Path::new("/mnt").join(d)).is_ok());
    let options = "lowerdir=/mnt/l,upperdir=/mnt/u,workdir=/mnt/w";
    made && mount(Some("overlay"), "/mnt/m", Some("overlay"), MsFlags::empty(), Some(options)).is_ok()
}
