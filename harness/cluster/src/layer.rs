//! What lies under the nodes: one layer that all of a cluster's nodes share, and each node's own directories.

use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use shakedown_node::boot::EXECUTABLE;
use shakedown_node::helper;

use crate::config;
use crate::error::{ClusterError, Result};
use crate::parts::{NODE_BINARIES, Parts};
use crate::state::write_bytes;

/// Makes the common layer, whole or not at all. `restricted` as in [`config::containerd`].
///
/// # Errors
/// When a part cannot be copied.
pub fn common(parts: &Parts, directory: &Path, restricted: bool) -> Result<PathBuf> {
    let layer = directory.join("layer");
    if layer.is_dir() {
        return Ok(layer);
    }
    whole(&layer, |layer| {
        for name in NODE_BINARIES {
            link_or_copy(&parts.binary(name), &layer.join("usr/local/bin").join(name))?;
        }
        // A copy, not a link: a rebuilt executable must not change under a running node.
        copy(&helper::executable()?, &layer.join(EXECUTABLE.trim_start_matches('/')))?;
        // Where network plugins are looked for, and where Cilium puts its own.
        let plugins = parts.node_root.join("usr/lib/cni");
        for entry in fs::read_dir(&plugins).into_iter().flatten().flatten() {
            link_or_copy(&entry.path(), &layer.join("opt/cni/bin").join(entry.file_name()))?;
        }
        write_bytes(&layer.join("etc/containerd/config.toml"), config::containerd(restricted).as_bytes(), 0o644)?;
        write_bytes(
            &layer.join("etc/crictl.yaml"),
            format!("runtime-endpoint: {}\n", config::CRI_SOCKET).as_bytes(),
            0o644,
        )?;
        for empty in ["etc/containerd/certs.d", "etc/kubernetes/manifests", "etc/cni/net.d"] {
            make(&layer.join(empty))?;
        }
        // Overlay takes the modes of its top directories from here; /root must stay closed.
        fs::set_permissions(layer, fs::Permissions::from_mode(0o755)).map_err(|e| ClusterError::file("open", layer, e))
    })?;
    Ok(layer)
}

/// Makes a node's own directories. The containerd directory is hard-linked from the seed: committed layers and content
/// are never written to; its databases are, and are copied.
///
/// # Errors
/// When the disk is full or the seed cannot be read; nothing half-made stays.
pub fn node(parts: &Parts, directory: &Path, seeded: bool) -> Result<()> {
    for name in ["upper", "work", "root", "kubelet", "etcd"] {
        make(&directory.join(name))?;
    }
    // etcd refuses a data directory that others can read.
    let etcd = directory.join("etcd");
    fs::set_permissions(&etcd, fs::Permissions::from_mode(0o700)).map_err(|e| ClusterError::file("close", &etcd, e))?;
    let containerd = directory.join("containerd");
    if containerd.is_dir() {
        return Ok(());
    }
    if !seeded {
        return make(&containerd);
    }
    whole(&containerd, |to| link_tree(&parts.containerd_seed, to))
}

/// Makes a directory under a temporary name and renames it when it is complete.
fn whole(path: &Path, fill: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push(".part");
    let temporary = path.with_file_name(name);
    remove(&temporary)?;
    make(&temporary)?;
    fill(&temporary)?;
    fs::rename(&temporary, path).map_err(|e| ClusterError::file("finish", path, e))
}

fn make(path: &Path) -> Result<()> {
    fs::create_dir_all(path).map_err(|e| ClusterError::file("make", path, e))
}

/// Removes a tree; having none is fine.
///
/// # Errors
/// When something in it cannot be removed.
pub fn remove(path: &Path) -> Result<()> {
    match fs::remove_dir_all(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(ClusterError::file("remove", path, e)),
        _ => Ok(()),
    }
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    to.parent().map_or(Ok(()), make)?;
    fs::copy(from, to).map_err(|e| ClusterError::file("copy", from, e))?;
    fs::set_permissions(to, fs::Permissions::from_mode(0o755)).map_err(|e| ClusterError::file("open", to, e))
}

/// Links a file; copies it where the bundle is on another file system.
fn link_or_copy(from: &Path, to: &Path) -> Result<()> {
    to.parent().map_or(Ok(()), make)?;
    match fs::hard_link(from, to) {
        Ok(()) => Ok(()),
        Err(_) => fs::copy(from, to).map(drop).map_err(|e| ClusterError::file("copy", from, e)),
    }
}

fn link_tree(from: &Path, to: &Path) -> Result<()> {
    let failed = |e| ClusterError::file("link", from, e);
    let about = fs::symlink_metadata(from).map_err(failed)?;
    make(to)?;
    for entry in fs::read_dir(from).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        let kind = entry.file_type().map_err(failed)?;
        if kind.is_dir() {
            link_tree(&source, &target)?;
        } else if source.extension().is_some_and(|e| e == "db") {
            fs::copy(&source, &target).map_err(|e| ClusterError::file("copy", &source, e))?;
        } else if kind.is_symlink() {
            // A link of a link is not allowed everywhere; a new one is the same.
            let points = fs::read_link(&source).map_err(|e| ClusterError::file("read", &source, e))?;
            symlink(points, &target).map_err(|e| ClusterError::file("link", &target, e))?;
            std::os::unix::fs::lchown(&target, Some(entry_owner(&source)?.0), Some(entry_owner(&source)?.1))
                .map_err(|e| ClusterError::file("give", &target, e))?;
        } else {
            link_or_copy(&source, &target)?;
        }
    }
    fs::set_permissions(to, about.permissions())
        .and_then(|()| std::os::unix::fs::chown(to, Some(about.uid()), Some(about.gid())))
        .map_err(|e| ClusterError::file("give", to, e))
}

fn entry_owner(path: &Path) -> Result<(u32, u32)> {
    let about = fs::symlink_metadata(path).map_err(|e| ClusterError::file("read", path, e))?;
    Ok((about.uid(), about.gid()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_is_linked_but_its_databases_are_copied() {
        let directory = tempfile::tempdir().unwrap();
        let parts = Parts::in_directory(directory.path(), "v1.34.4");
        let seed = &parts.containerd_seed;
        fs::create_dir_all(seed.join("content")).unwrap();
        fs::write(seed.join("content/blob"), "b").unwrap();
        fs::write(seed.join("meta.db"), "d").unwrap();
        symlink("blob", seed.join("content/link")).unwrap();
        let node_directory = directory.path().join("node");
        node(&parts, &node_directory, true).unwrap();
        node(&parts, &node_directory, true).unwrap();
        let same = |name: &str| {
            let made = fs::metadata(node_directory.join("containerd").join(name)).unwrap();
            made.ino() == fs::metadata(seed.join(name)).unwrap().ino()
        };
        assert!(same("content/blob") && !same("meta.db"));
        assert_eq!(fs::read_link(node_directory.join("containerd/content/link")).unwrap(), Path::new("blob"));
    }

    #[test]
    fn a_cut_off_seed_is_made_again() {
        let directory = tempfile::tempdir().unwrap();
        let parts = Parts::in_directory(directory.path(), "v1.34.4");
        fs::create_dir_all(&parts.containerd_seed).unwrap();
        let node_directory = directory.path().join("node");
        fs::create_dir_all(node_directory.join("containerd.part/half")).unwrap();
        node(&parts, &node_directory, true).unwrap();
        assert!(!node_directory.join("containerd/half").exists());
        assert!(!node_directory.join("containerd.part").exists());
    }
}
