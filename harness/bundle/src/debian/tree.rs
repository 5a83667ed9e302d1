//! Makes a tree from a set of packages, and does what maintainer scripts would have done as far as the trees need it.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;

use crate::cache::CacheDir;
use crate::debian::sets::PackageSet;
use crate::debian::{PinnedDeb, fetch, unpack};
use crate::error::{BundleError, io};
use crate::store::children;

/// Raised when the result of the same packages changes.
pub(crate) const REVISION: &str = "1";

/// Links that `update-alternatives` or a package's script would have made: made where the target is and the link is not.
const ALTERNATIVES: &[(&str, &str)] = &[
    ("usr/bin/awk", "gawk"),
    ("usr/bin/awk", "mawk"),
    ("usr/bin/sh", "dash"),
    ("usr/bin/which", "which.debianutils"),
    ("usr/bin/pager", "less"),
    ("usr/bin/clang", "clang-16"),
    ("usr/sbin/iptables", "xtables-nft-multi"),
    ("usr/sbin/iptables-save", "xtables-nft-multi"),
    ("usr/sbin/iptables-restore", "xtables-nft-multi"),
    ("usr/sbin/ip6tables", "xtables-nft-multi"),
    ("usr/sbin/ip6tables-save", "xtables-nft-multi"),
    ("usr/sbin/ip6tables-restore", "xtables-nft-multi"),
    ("usr/sbin/arptables", "xtables-nft-multi"),
    ("usr/sbin/ebtables", "xtables-nft-multi"),
];

/// Users that packages would have added, with group of the same name: (name, id, home, package's own file).
const USERS: &[(&str, u32, &str, &str)] = &[
    ("haproxy", 101, "/var/lib/haproxy", "usr/sbin/haproxy"),
    ("redis", 102, "/var/lib/redis", "usr/bin/redis-server"),
    ("messagebus", 103, "/nonexistent", "usr/bin/dbus-daemon"),
    ("systemd-network", 998, "/", "usr/lib/systemd/systemd"),
    ("systemd-timesync", 997, "/", "usr/lib/systemd/systemd"),
];

/// Configuration of packages that must not reach a node, which writes its own.
const NOT_OURS: &[&str] = &["etc/containerd", "etc/cni", "etc/haproxy/haproxy.cfg", "etc/redis/redis.conf"];

/// Unpacks all packages of a set into `root` and finishes the tree. The order of packages is that of their names.
pub(crate) fn build(cache: &CacheDir, set: &PackageSet, debs: &[PinnedDeb], root: &Path) -> Result<(), BundleError> {
    let whole = set.on_top_of.is_none() && !set.without_dependencies;
    if whole {
        for name in ["bin", "sbin", "lib", "lib64"] {
            let dir = root.join("usr").join(name);
            fs::create_dir_all(&dir).map_err(io("create", &dir))?;
            symlink(Path::new("usr").join(name), root.join(name)).map_err(io("link", root.join(name)))?;
        }
    }
    for deb in debs {
        let file = fetch::open_cached(cache, deb)?;
        unpack::unpack(std::io::BufReader::new(file), &format!("{} {}", deb.name, deb.version), root, set.only)?;
    }
    for (link, target) in ALTERNATIVES {
        let link = root.join(link);
        let there = link.with_file_name(target).symlink_metadata().is_ok();
        if there && link.symlink_metadata().is_err() {
            symlink(target, &link).map_err(io("link", &link))?;
        }
    }
    for path in NOT_OURS {
        crate::store::remove_tree(&root.join(path))?;
    }
    if whole { finish(root) } else { Ok(()) }
}

fn finish(root: &Path) -> Result<(), BundleError> {
    for (dir, mode) in [
        ("dev", 0o755),
        ("proc", 0o555),
        ("sys", 0o555),
        ("run", 0o755),
        ("tmp", 0o1777),
        ("var/tmp", 0o1777),
        ("root", 0o700),
        ("mnt", 0o755),
        ("opt", 0o755),
        ("srv", 0o755),
        ("etc/ssl/certs", 0o755),
        ("var/log", 0o755),
        ("var/lib", 0o755),
        ("var/lib/containerd", 0o755),
    ] {
        let dir = root.join(dir);
        fs::create_dir_all(&dir).map_err(io("create", &dir))?;
        fs::set_permissions(&dir, fs::Permissions::from_mode(mode)).map_err(io("change the mode of", &dir))?;
    }
    let read = |path: &str| fs::read_to_string(root.join(path)).unwrap_or_default();
    let mut passwd = read("usr/share/base-passwd/passwd.master");
    let mut group = read("usr/share/base-passwd/group.master");
    for (name, id, home, file) in USERS {
        if root.join(file).symlink_metadata().is_ok() {
            passwd += &format!("{name}:x:{id}:{id}::{home}:/usr/sbin/nologin\n");
            group += &format!("{name}:x:{id}:\n");
        }
    }
    write(root, "etc/passwd", &passwd)?;
    write(root, "etc/group", &group)?;
    write(
        root,
        "etc/nsswitch.conf",
        "passwd: files\ngroup: files\nshadow: files\nhosts: files dns\nnetworks: files\n",
    )?;
    // Empty, as the manual of machine-id(5) wants it in an image: whoever starts it fills it in.
    write(root, "etc/machine-id", "")?;
    write(root, "etc/ssl/certs/ca-certificates.crt", &authorities(root)?)
}

/// All of Mozilla's authorities in one file, as `update-ca-certificates` would leave them.
fn authorities(root: &Path) -> Result<String, BundleError> {
    let mut all = String::new();
    for path in children(&root.join("usr/share/ca-certificates/mozilla"))? {
        let text = fs::read_to_string(&path).map_err(io("read", &path))?;
        all += text.trim_end();
        all.push('\n');
    }
    Ok(all)
}

fn write(root: &Path, path: &str, text: &str) -> Result<(), BundleError> {
    let path = root.join(path);
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).map_err(io("create", parent))?;
    }
    fs::write(&path, text).map_err(io("write", &path))
}
