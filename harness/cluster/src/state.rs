//! A cluster's state on disk: small JSON files, each written whole (temporary file, fsync, rename), and one lock.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::net::Ipv4Addr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use shakedown_node::Role;

use crate::error::{ClusterError, Result};

/// Version of the state's form.
pub const SCHEMA: u32 = 1;
/// Where clusters live unless `SHAKEDOWN_STATE` says otherwise.
pub const STATE: &str = "/var/lib/shakedown";

/// One node as planned.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// Its name everywhere.
    pub name: String,
    /// What it is.
    pub role: Role,
    /// Its address.
    pub address: Ipv4Addr,
    /// It came to a living cluster and joined the documented way.
    pub late: bool,
}

/// How far a cluster has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// `up` has begun.
    Making,
    /// It has been complete once: members that are added now join a living cluster.
    Formed,
    /// `down` has begun.
    Removing,
}

/// What is known about a cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterState {
    /// [`SCHEMA`].
    pub schema: u32,
    /// Its name.
    pub name: String,
    /// Random; also in the cluster's own marker, so that it is known as ours.
    pub id: String,
    /// Third number of its network 10.77.N.0/24.
    pub subnet: u8,
    /// How far it has come.
    pub phase: Phase,
    /// Its nodes: load balancer, control planes, workers.
    pub members: Vec<Member>,
    /// Kubernetes version, with `v`.
    pub kubernetes: String,
    /// Bootstrap token of its making.
    pub token: String,
}

impl ClusterState {
    /// Members of one role.
    pub fn with(&self, role: Role) -> impl Iterator<Item = &Member> {
        self.members.iter().filter(move |m| m.role == role)
    }
}

/// The directory of all clusters.
#[derive(Debug, Clone)]
pub struct Store {
    root: PathBuf,
}

impl Default for Store {
    fn default() -> Self {
        Self::at(std::env::var_os("SHAKEDOWN_STATE").map_or_else(|| STATE.into(), PathBuf::from))
    }
}

impl Store {
    /// A store elsewhere.
    pub fn at(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// Where it is.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Directory of one cluster.
    #[must_use]
    pub fn directory(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// Names of the clusters that have a directory, in order.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(&self.root)
            .into_iter()
            .flatten()
            .flatten()
            .filter(|e| e.file_type().is_ok_and(|t| t.is_dir()))
            .map(|e| e.file_name().to_string_lossy().into_owned())
            .filter(|n| !n.starts_with('.'))
            .collect();
        names.sort();
        names
    }

    /// The state of a cluster; None when there is none.
    ///
    /// # Errors
    /// When there is one that is not understood.
    pub fn load(&self, name: &str) -> Result<Option<ClusterState>> {
        let path = self.directory(name).join("cluster.json");
        let state: Option<ClusterState> = read(&path)?;
        match state {
            Some(state) if state.schema != SCHEMA => {
                Err(ClusterError::BadState { path, why: format!("schema {} is not {SCHEMA}", state.schema) })
            }
            state => Ok(state),
        }
    }

    /// Writes the state of a cluster.
    ///
    /// # Errors
    /// When it cannot be written; then the old one is untouched.
    pub fn save(&self, state: &ClusterState) -> Result<()> {
        write(&self.directory(&state.name).join("cluster.json"), state)
    }

    /// Takes the lock of a cluster, or of the whole host (`.host`); held until dropped or the process ends.
    ///
    /// # Errors
    /// [`ClusterError::Locked`] when another process holds it.
    pub fn lock(&self, name: &str) -> Result<Lock> {
        let path = self.lock_path(name);
        loop {
            let mut file = self.open_lock(&path)?;
            if file.try_lock().is_err() {
                let mut holder = String::new();
                let _ = file.read_to_string(&mut holder);
                let holder = if holder.is_empty() { "of another command".to_owned() } else { holder };
                return Err(ClusterError::Locked { name: name.to_owned(), holder });
            }
            if is_at(&file, &path) {
                sign(&mut file, &path)?;
                return Ok(Lock { _file: file });
            }
        }
    }

    /// Takes the lock of what all clusters share, waiting for it: it is only ever held for moments.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn lock_host(&self) -> Result<Lock> {
        let path = self.lock_path(".host");
        loop {
            let mut file = self.open_lock(&path)?;
            file.lock().map_err(|e| ClusterError::file("lock", &path, e))?;
            if is_at(&file, &path) {
                sign(&mut file, &path)?;
                return Ok(Lock { _file: file });
            }
        }
    }

    /// Removes what is left of a store without clusters, its directory last. Call with the host's lock held.
    pub fn close(&self) {
        let _ = fs::remove_file(self.lock_path(".host"));
        // Fails, as it should, while anything is in it.
        let _ = fs::remove_dir(&self.root);
    }

    /// Removes the file of a lock that belongs to nothing any more.
    ///
    /// # Errors
    /// When it cannot be removed.
    pub fn forget_lock(&self, name: &str) -> Result<()> {
        let path = self.lock_path(name);
        match fs::remove_file(&path) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(ClusterError::file("remove", &path, e)),
            _ => Ok(()),
        }
    }

    /// Locks lie beside the clusters' directories, so that removing one does not remove its lock under a waiter.
    fn lock_path(&self, name: &str) -> PathBuf {
        self.root.join(format!(".{}.lock", name.trim_start_matches('.')))
    }

    fn open_lock(&self, path: &Path) -> Result<File> {
        fs::create_dir_all(&self.root).map_err(|e| ClusterError::file("make", &self.root, e))?;
        OpenOptions::new()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(path)
            .map_err(|e| ClusterError::file("open", path, e))
    }
}

/// Is the open file still the one of that name? A lock may have been removed by its last holder meanwhile.
fn is_at(file: &File, path: &Path) -> bool {
    let same = |a: fs::Metadata, b: fs::Metadata| (a.dev(), a.ino()) == (b.dev(), b.ino());
    file.metadata().and_then(|a| fs::metadata(path).map(|b| same(a, b))).unwrap_or(false)
}

fn sign(file: &mut File, path: &Path) -> Result<()> {
    let signed = file
        .set_len(0)
        .and_then(|()| file.seek(SeekFrom::Start(0)))
        .and_then(|_| write!(file, "{}", std::process::id()));
    signed.map_err(|e| ClusterError::file("write", path, e))
}

/// A held lock.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

/// Reads a JSON file; None when there is none.
///
/// # Errors
/// When it cannot be read or is not understood.
pub fn read<T: DeserializeOwned>(path: &Path) -> Result<Option<T>> {
    let bytes = match fs::read(path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        other => other.map_err(|e| ClusterError::file("read", path, e))?,
    };
    serde_json::from_slice(&bytes)
        .map(Some)
        .map_err(|e| ClusterError::BadState { path: path.to_owned(), why: e.to_string() })
}

/// Writes a JSON file whole, readable by root only.
///
/// # Errors
/// When it cannot be written; then the old one is untouched.
pub fn write<T: Serialize>(path: &Path, value: &T) -> Result<()> {
    let mut bytes = serde_json::to_vec_pretty(value)
        .map_err(|e| ClusterError::BadState { path: path.to_owned(), why: e.to_string() })?;
    bytes.push(b'\n');
    write_bytes(path, &bytes, 0o600)
}

/// Writes a file whole: temporary file beside it, fsync, rename. Makes its directory.
///
/// # Errors
/// When it cannot be written; then the old one is untouched.
pub fn write_bytes(path: &Path, bytes: &[u8], mode: u32) -> Result<()> {
    use std::os::unix::fs::OpenOptionsExt;
    let failed = |e| ClusterError::file("write", path, e);
    let directory = path.parent().unwrap_or(Path::new("/"));
    fs::create_dir_all(directory).map_err(failed)?;
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let temporary = directory.join(format!(".{name}.{}", std::process::id()));
    let written = (|| {
        let mut file = OpenOptions::new().create(true).truncate(true).write(true).mode(mode).open(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&temporary, path)
    })();
    if written.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    written.map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state() -> ClusterState {
        ClusterState {
            schema: SCHEMA,
            name: "one".into(),
            id: "0011".into(),
            subnet: 7,
            phase: Phase::Making,
            members: vec![Member {
                name: "cp-1".into(),
                role: Role::ControlPlane,
                address: Ipv4Addr::new(10, 77, 7, 11),
                late: false,
            }],
            kubernetes: "v1.34.4".into(),
            token: "abcdef.0123456789abcdef".into(),
        }
    }

    #[test]
    fn what_is_saved_is_loaded() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::at(directory.path());
        assert_eq!(store.load("one").unwrap(), None);
        store.save(&state()).unwrap();
        assert_eq!(store.load("one").unwrap(), Some(state()));
        assert_eq!(store.names(), ["one"]);
    }

    #[test]
    fn a_damaged_or_foreign_state_is_an_error_that_says_what_to_do() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::at(directory.path());
        store.save(&ClusterState { schema: 99, ..state() }).unwrap();
        assert!(store.load("one").unwrap_err().to_string().contains("hint:"));
        fs::write(directory.path().join("one/cluster.json"), "{\"schema\": 1, \"na").unwrap();
        assert!(matches!(store.load("one"), Err(ClusterError::BadState { .. })));
    }

    #[test]
    fn a_lock_is_held_by_one_and_names_its_holder() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::at(directory.path());
        let held = store.lock("one").unwrap();
        let refused = store.lock("one").unwrap_err().to_string();
        assert!(refused.contains(&std::process::id().to_string()), "{refused}");
        drop(held);
        let held = store.lock("one").unwrap();
        // Removed while it is held, as by `down`: whoever comes next makes a new one.
        store.forget_lock("one").unwrap();
        let next = store.lock("one").unwrap();
        drop((held, next));
        store.forget_lock("one").unwrap();
        let host = store.lock_host().unwrap();
        store.close();
        drop(host);
        assert!(!directory.path().exists());
    }
}
