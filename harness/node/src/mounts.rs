//! A node's root file system: an overlay of its own over the bundle's node root, fresh kernel file systems, its own
//! `/dev`, and plain directories where an overlay must not be. Made in the node's own mount namespace.

use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::Path;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::stat::{Mode, SFlag, makedev, mknod, umask};
use nix::unistd::pivot_root;

use crate::boot::BootSpec;
use crate::cgroup::{Layout, Version};
use crate::error::{NodeError, Result};

const NONE: Option<&str> = None;

/// Builds the tree and makes it the calling process's root. `/proc` is left to the first process, whose it is.
///
/// # Errors
/// When the kernel refuses a mount; nothing of it is seen outside this namespace.
pub fn build(spec: &BootSpec, layout: &Layout) -> Result<()> {
    umask(Mode::empty());
    let root = spec.directory.join("root");
    for name in ["upper", "work", "root"] {
        make_directory(&spec.directory.join(name))?;
    }
    // Nothing below may reach the host, and the host's later mounts must not reach the node.
    attach(NONE, Path::new("/"), NONE, MsFlags::MS_REC | MsFlags::MS_PRIVATE, NONE)?;
    let lower: Vec<_> = spec.lower.iter().map(|l| l.to_string_lossy()).collect();
    let options = format!(
        "lowerdir={},upperdir={},workdir={}",
        lower.join(":"),
        spec.directory.join("upper").display(),
        spec.directory.join("work").display()
    );
    attach(Some("overlay"), &root, Some("overlay"), MsFlags::empty(), Some(&options))?;
    for (from, to) in &spec.binds {
        bind(from, &root.join(to.trim_start_matches('/')))?;
    }
    kernel_file_systems(&root, layout)?;
    devices(&root)?;
    host_files(spec, &root)?;
    enter(&root)
}

fn make_directory(path: &Path) -> Result<()> {
    fs::create_dir_all(path).map_err(|e| NodeError::file("make", path, e))
}

fn attach(source: Option<&str>, target: &Path, kind: Option<&str>, flags: MsFlags, data: Option<&str>) -> Result<()> {
    mount(source, target, kind, flags, data).map_err(|e| NodeError::file("mount on", target, e))
}

fn fresh(target: &Path, kind: &str, flags: MsFlags, data: Option<&str>) -> Result<()> {
    make_directory(target)?;
    attach(Some(kind), target, Some(kind), flags, data)
}

fn bind(from: &Path, to: &Path) -> Result<()> {
    if from.is_dir() {
        make_directory(to)?;
    } else {
        to.parent().map_or(Ok(()), make_directory)?;
        fs::OpenOptions::new().create(true).append(true).open(to).map_err(|e| NodeError::file("make", to, e))?;
    }
    mount(Some(from), to, NONE, MsFlags::MS_BIND | MsFlags::MS_REC, NONE)
        .map_err(|e| NodeError::file("mount on", to, e))
}

fn kernel_file_systems(root: &Path, layout: &Layout) -> Result<()> {
    let quiet = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    let open = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    fresh(&root.join("run"), "tmpfs", open, Some("mode=755"))?;
    fresh(&root.join("tmp"), "tmpfs", open, Some("mode=1777"))?;
    make_directory(&root.join("proc"))?;
    fresh(&root.join("sys"), "sysfs", quiet, None)?;
    // A kernel without BPF carries a node all the same; the network plugin then says what it lacks.
    let _ = attach(Some("bpf"), &root.join("sys/fs/bpf"), Some("bpf"), quiet, Some("mode=700"));
    let groups = root.join("sys/fs/cgroup");
    if layout.version == Version::V2 {
        return attach(Some("cgroup2"), &groups, Some("cgroup2"), quiet, None);
    }
    attach(Some("tmpfs"), &groups, Some("tmpfs"), quiet, Some("mode=755"))?;
    for hierarchy in &layout.hierarchies {
        let Some(name) = hierarchy.mount.file_name() else { continue };
        let target = groups.join(name);
        if hierarchy.unified() {
            fresh(&target, "cgroup2", quiet, None)?;
        } else {
            fresh(&target, "cgroup", quiet, Some(&hierarchy.options))?;
        }
        // `cpu,cpuacct` is also looked for under each of its names.
        for controller in hierarchy.controllers.iter().filter(|c| name.to_string_lossy() != c.as_str()) {
            let _ = symlink(name, groups.join(controller));
        }
    }
    Ok(())
}

/// Character devices of a node: (name, major, minor).
const DEVICES: [(&str, u64, u64); 10] = [
    ("null", 1, 3),
    ("zero", 1, 5),
    ("full", 1, 7),
    ("random", 1, 8),
    ("urandom", 1, 9),
    ("kmsg", 1, 11),
    ("tty", 5, 0),
    ("fuse", 10, 229),
    ("loop-control", 10, 237),
    ("net/tun", 10, 200),
];

fn devices(root: &Path) -> Result<()> {
    let dev = root.join("dev");
    let flags = MsFlags::MS_NOSUID;
    fresh(&dev, "tmpfs", flags, Some("mode=755"))?;
    make_directory(&dev.join("net"))?;
    for (name, major, minor) in DEVICES {
        let path = dev.join(name);
        mknod(&path, SFlag::S_IFCHR, Mode::from_bits_truncate(0o666), makedev(major, minor))
            .map_err(|e| NodeError::file("make the device", &path, e))?;
    }
    for number in 0..8 {
        let path = dev.join(format!("loop{number}"));
        mknod(&path, SFlag::S_IFBLK, Mode::from_bits_truncate(0o660), makedev(7, number))
            .map_err(|e| NodeError::file("make the device", &path, e))?;
    }
    fresh(&dev.join("pts"), "devpts", flags | MsFlags::MS_NOEXEC, Some("newinstance,ptmxmode=0666,mode=0620"))?;
    fresh(&dev.join("shm"), "tmpfs", flags | MsFlags::MS_NODEV, Some("mode=1777"))?;
    fresh(&dev.join("mqueue"), "mqueue", flags | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC, None)?;
    for (name, target) in [
        ("ptmx", "pts/ptmx"),
        ("fd", "/proc/self/fd"),
        ("stdin", "/proc/self/fd/0"),
        ("stdout", "/proc/self/fd/1"),
        ("stderr", "/proc/self/fd/2"),
    ] {
        symlink(target, dev.join(name)).map_err(|e| NodeError::file("link", dev.join(name), e))?;
    }
    Ok(())
}

/// The few files of the host that a node has to share: the kernel's modules, read only.
fn host_files(spec: &BootSpec, root: &Path) -> Result<()> {
    let modules = Path::new("/lib/modules");
    let inside = root.join("lib/modules");
    if modules.is_dir() {
        bind(modules, &inside)?;
        let flags = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
        attach(NONE, &inside, NONE, flags, NONE)?;
    } else {
        make_directory(&inside)?;
    }
    let write = |path: &str, text: String| {
        let path = root.join(path);
        // The node root may have a link there; a file of the node's own replaces it.
        match fs::remove_file(&path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(NodeError::file("replace", path, e)),
            _ => {}
        }
        fs::write(&path, text).map_err(|e| NodeError::file("write", path, e))
    };
    write("etc/hostname", format!("{}\n", spec.node))?;
    if !root.join("etc/resolv.conf").is_file() {
        write("etc/resolv.conf", "# no upstream: this network has no way out\n".to_owned())?;
    }
    write(
        "etc/hosts",
        format!("127.0.0.1 localhost\n::1 localhost ip6-localhost\n{} {}\n", spec.wire.address, spec.node),
    )
}

fn enter(root: &Path) -> Result<()> {
    std::env::set_current_dir(root).map_err(|e| NodeError::file("enter", root, e))?;
    pivot_root(".", ".").map_err(|e| NodeError::file("make the root", root, e))?;
    // The old root is now stacked on the new one, at the same place.
    umount2(".", MntFlags::MNT_DETACH).map_err(|e| NodeError::file("leave the host's tree from", root, e))?;
    std::env::set_current_dir("/").map_err(|e| NodeError::file("enter", "/", e))?;
    // Volumes with mount propagation need a shared tree; it is shared only within the node.
    attach(NONE, Path::new("/"), NONE, MsFlags::MS_REC | MsFlags::MS_SHARED, NONE)
}
