//! What a node's programs wrote, read from its disk: also while it is down.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::path::PathBuf;

use shakedown_node::init::LOGS;

use crate::cluster::Cluster;
use crate::error::{ClusterError, Result};
use crate::nodes;

/// Most bytes that are read from the end of one log.
const MOST: u64 = 8 << 20;

/// The logs of one node: (program, file), by name. Containers' logs are named `NAMESPACE_POD_UID/CONTAINER/N`.
///
/// # Errors
/// [`ClusterError::UnknownNode`].
pub fn of(cluster: &Cluster, node: &str) -> Result<Vec<(String, PathBuf)>> {
    cluster.node(node)?;
    let upper = nodes::upper(cluster.store(), cluster.name(), node);
    let mut found = Vec::new();
    for entry in fs::read_dir(upper.join(LOGS.trim_start_matches('/'))).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().trim_end_matches(".log").to_owned();
        found.push((name, entry.path()));
    }
    let pods = upper.join("var/log/pods");
    for pod in fs::read_dir(&pods).into_iter().flatten().flatten() {
        for container in fs::read_dir(pod.path()).into_iter().flatten().flatten() {
            for file in fs::read_dir(container.path()).into_iter().flatten().flatten() {
                let path = file.path();
                let name = path.strip_prefix(&pods).unwrap_or(&path).with_extension("").display().to_string();
                found.push((name, path));
            }
        }
    }
    found.sort();
    Ok(found)
}

/// The last lines of a log.
///
/// # Errors
/// When it cannot be read.
pub fn tail(path: &PathBuf, lines: usize) -> Result<String> {
    let failed = |e| ClusterError::file("read", path, e);
    let mut file = File::open(path).map_err(failed)?;
    let length = file.metadata().map_err(failed)?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(MOST))).map_err(failed)?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).map_err(failed)?;
    let text = String::from_utf8_lossy(&bytes);
    let all: Vec<&str> = text.lines().collect();
    Ok(all[all.len().saturating_sub(lines)..].join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_log_is_read() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("x.log");
        fs::write(&path, "a\nb\nc\n").unwrap();
        assert_eq!(tail(&path, 2).unwrap(), "b\nc");
        assert_eq!(tail(&path, 9).unwrap(), "a\nb\nc");
    }
}
