//! Prepares a directory of containerd with all images imported and unpacked, once. A node takes it over with hard links
//! (`cp -al`, the `*.db` files copied for real): committed snapshots are never written to.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::cache::CacheDir;
use crate::command;
use crate::error::{BundleError, io};
use crate::manifest::hash_bytes;

/// Raised when the result of the same images changes.
const REVISION: &str = "1";

const SCRIPT: &str = include_str!("seed.sh");
const HINT: &str = "install util-linux, or make sure that `unshare` is in PATH";

/// The key of a seed, given the keys of its node root and of its images.
pub(crate) fn key(parts: &[&str]) -> String {
    hash_bytes(format!("seed {REVISION}\n{}\n{}", hash_bytes(SCRIPT.as_bytes()), parts.join("\n")).as_bytes())
}

/// Imports `archives`, all in the store of this cache, into `seed`, with the containerd of `node_root`.
pub(crate) fn build(
    cache: &CacheDir,
    node_root: &Path,
    archives: &[PathBuf],
    seed: &Path,
    alive: &(dyn Fn(Duration) + Sync),
) -> Result<(), BundleError> {
    let store = cache.store();
    let log = cache.logs().join("seed.log");
    let daemon_log = cache.logs().join("seed-containerd.log");
    std::fs::create_dir_all(cache.logs()).map_err(io("create", cache.logs()))?;
    let mut unshare = command::bound_to_us("unshare");
    unshare.args(["--mount", "--pid", "--fork", "--kill-child", "--propagation", "private"]);
    unshare.args(["sh", "-c", SCRIPT, "seed"]).arg(node_root).arg(seed).arg(&store).arg(&daemon_log);
    unshare.args(archives.iter().map(|archive| archive.strip_prefix(&store).unwrap_or(archive)));
    unshare.env_clear().env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin").env("LC_ALL", "C");
    command::run(&mut unshare, "importing the images into containerd", &log, HINT, alive)
}
