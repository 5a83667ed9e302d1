//! The guest's disk: a Debian tree with systemd, the binary under test and an excerpt of the bundle, in one ext4 image.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use shakedown_bundle::{CacheDir, Selection, VmParts, excerpt};
use tempfile::TempDir;

/// Free space in the guest, in MiB; sparse, so it costs what is written to.
const FREE_MIB: u64 = 12 * 1024;
const SCRIPT: &str = include_str!("guest.sh");
const UNIT: &str = include_str!("guest.service");

/// Programs that the commands under test take from the bundle.
const PROGRAMS: [&str; 7] = ["kubeadm", "kubelet", "kubectl", "etcdctl", "etcdutl", "helm", "crane"];

/// A directory of this test alone, on the file system of the bundle's store so that its files can be linked. What a
/// killed run left is removed; the lock keeps two runs apart.
pub struct Workshop {
    dir: TempDir,
    _lock: File,
}

impl Workshop {
    /// Opens it.
    pub fn open(cache: &CacheDir) -> Result<Self> {
        let base = cache.path().join("vm");
        fs::create_dir_all(&base).with_context(|| format!("cannot make {}", base.display()))?;
        let path = base.join("lock");
        let lock = File::create(&path).with_context(|| format!("cannot make {}", path.display()))?;
        if lock.try_lock().is_err() {
            bail!("another virtual machine is being tested ({} is locked)", path.display());
        }
        for left in fs::read_dir(&base)?.flatten().filter(|item| item.path().is_dir()) {
            fs::remove_dir_all(left.path()).with_context(|| format!("cannot remove {}", left.path().display()))?;
        }
        Ok(Self { dir: tempfile::tempdir_in(&base)?, _lock: lock })
    }

    /// A path in it.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }
}

/// What the guest needs of a component: all of the trees that become nodes, and single programs and charts.
fn needed(component: &str, path: &Path) -> bool {
    match component {
        "node-root" | "containerd-seed" => true,
        "cilium" => path.starts_with("charts"),
        "argocd" | "kyverno" => path.starts_with("manifests"),
        _ => path.parent() == Some(Path::new("bin")) && PROGRAMS.iter().any(|name| path.ends_with(name)),
    }
}

/// Makes the image.
pub fn make(parts: &VmParts, cache: &CacheDir, binary: &Path, shop: &Workshop) -> Result<PathBuf> {
    let root = shop.path("root");
    fs::create_dir(&root)?;
    parts.lay_out_root(&root)?;
    excerpt(cache, &Selection::core(), &CacheDir::at(root.join("root/.cache/shakedown")), &needed)?;
    let place = |path: &str, bytes: &[u8], mode: u32| -> Result<()> {
        let path = root.join(path);
        path.parent().map_or(Ok(()), fs::create_dir_all)?;
        // Never into the file that is there: it is the bundle's.
        let _ = fs::remove_file(&path);
        fs::write(&path, bytes).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(fs::set_permissions(&path, Permissions::from_mode(mode))?)
    };
    let bytes = fs::read(binary).with_context(|| format!("cannot read {}", binary.display()))?;
    place("opt/shakedown/shakedown", &bytes, 0o755)?;
    place("opt/shakedown/guest.sh", SCRIPT.as_bytes(), 0o755)?;
    place("etc/systemd/system/guest.service", UNIT.as_bytes(), 0o644)?;
    place("etc/hostname", b"guest\n", 0o644)?;
    place("etc/hosts", b"127.0.0.1 localhost guest\n", 0o644)?;
    let wants = root.join("etc/systemd/system/multi-user.target.wants");
    fs::create_dir_all(&wants)?;
    symlink("../guest.service", wants.join("guest.service"))?;

    let image = shop.path("disk.img");
    let size = size_mib(&root)? + FREE_MIB;
    let mut command = parts.mke2fs();
    command.args(["-q", "-F", "-t", "ext4", "-m", "0", "-E", "lazy_itable_init=1,lazy_journal_init=1", "-d"]);
    command.arg(&root).arg(&image).arg(format!("{size}M"));
    done(&mut command)?;
    fs::remove_dir_all(&root)?;
    Ok(image)
}

/// Room that a tree takes, in MiB, each file counted once and rounded up to blocks.
fn size_mib(root: &Path) -> Result<u64> {
    let mut seen = std::collections::BTreeSet::new();
    let mut bytes = 0;
    let mut open = vec![root.to_path_buf()];
    while let Some(dir) = open.pop() {
        for item in fs::read_dir(&dir)? {
            let item = item?;
            let meta = item.metadata()?;
            if meta.is_dir() {
                open.push(item.path());
            }
            if seen.insert(meta.ino()) {
                bytes += meta.len().next_multiple_of(4096);
            }
        }
    }
    // A sixteenth for the file system's own tables.
    Ok((bytes + bytes / 16) >> 20)
}

fn done(command: &mut Command) -> Result<()> {
    let output = command.output().with_context(|| format!("cannot start {:?}", command.get_program()))?;
    if output.status.success() {
        return Ok(());
    }
    bail!("{:?} failed: {}", command, String::from_utf8_lossy(&output.stderr).trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_guest_gets_what_the_commands_take_and_no_more() {
        let needs = |component, path: &str| needed(component, Path::new(path));
        assert!(
            needs("node-root", "usr/bin/runc") && needs("containerd-seed", "io.containerd.metadata.v1.bolt/meta.db")
        );
        assert!(needs("kubernetes", "bin/kubeadm") && !needs("kubernetes", "bin/kube-apiserver"));
        assert!(needs("cilium", "charts/cilium/Chart.yaml") && !needs("cilium", "bin/cilium-agent"));
        assert!(!needs("image-cilium", "image.tar") && !needs("helm", "share/helm"));
    }
}
