//! The few settings of the host that clusters change, directly or through the kubelet. Each is journalled with the
//! value it had before the first change, and put back with the last cluster.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use shakedown_node::process::boot_id;

use crate::error::{ClusterError, Result};
use crate::state::{self, Store};

/// Settings that we raise to at least this.
const RAISED: [(&str, u64); 3] =
    [("fs/inotify/max_user_instances", 8192), ("fs/inotify/max_user_watches", 524_288), ("kernel/keys/maxkeys", 2000)];
/// Settings that kubelets and network plugins write: not ours, but put back all the same.
const WATCHED: [&str; 8] = [
    "vm/overcommit_memory",
    "vm/panic_on_oom",
    "kernel/panic",
    "kernel/panic_on_oops",
    "kernel/keys/root_maxkeys",
    "kernel/keys/root_maxbytes",
    "kernel/timer_migration",
    "net/core/bpf_jit_enable",
];

/// Values that settings had before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostJournal {
    /// The boot they were read in: after a reboot they are void.
    pub boot_id: String,
    /// Path below `/proc/sys` and value.
    pub before: BTreeMap<String, String>,
}

/// The host's settings, reached below a directory that is `/proc/sys` outside tests.
#[derive(Debug, Clone)]
pub struct HostSettings {
    base: PathBuf,
    journal: PathBuf,
}

impl HostSettings {
    /// Those of this host, journalled in the store.
    #[must_use]
    pub fn new(store: &Store) -> Self {
        Self::at("/proc/sys", store)
    }

    fn at(base: impl Into<PathBuf>, store: &Store) -> Self {
        Self { base: base.into(), journal: store.root().join(".host.json") }
    }

    fn current(&self, name: &str) -> Option<String> {
        fs::read_to_string(self.base.join(name)).ok().map(|t| t.trim().to_owned())
    }

    fn load(&self) -> Result<Option<HostJournal>> {
        let journal: Option<HostJournal> = state::read(&self.journal)?;
        let now = boot_id().map_err(|e| ClusterError::file("read", Path::new("/proc"), e))?;
        Ok(journal.filter(|j| j.boot_id == now))
    }

    /// Journals what may change, then raises what must be. Call with the host's lock held.
    ///
    /// # Errors
    /// When the journal cannot be written (then nothing was changed) or a setting cannot be raised.
    pub fn prepare(&self) -> Result<()> {
        if self.load()?.is_none() {
            let names = RAISED.iter().map(|(name, _)| *name).chain(WATCHED);
            let before = names.filter_map(|n| self.current(n).map(|v| (n.to_owned(), v))).collect();
            let boot_id = boot_id().map_err(|e| ClusterError::file("read", Path::new("/proc"), e))?;
            state::write(&self.journal, &HostJournal { boot_id, before })?;
        }
        for (name, least) in RAISED {
            let have = self.current(name).and_then(|v| v.parse::<u64>().ok());
            if have.is_some_and(|have| have < least) {
                let path = self.base.join(name);
                fs::write(&path, least.to_string()).map_err(|e| ClusterError::file("write", &path, e))?;
            }
        }
        Ok(())
    }

    /// Puts back what differs from the journal and closes it. Call with the host's lock held and no cluster left.
    ///
    /// # Errors
    /// When a setting cannot be written; the journal is kept then.
    pub fn restore(&self) -> Result<()> {
        if let Some(journal) = self.load()? {
            for (name, value) in &journal.before {
                if self.current(name).as_ref() != Some(value) {
                    let path = self.base.join(name);
                    fs::write(&path, value).map_err(|e| ClusterError::file("write", &path, e))?;
                }
            }
        }
        match fs::remove_file(&self.journal) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(ClusterError::file("remove", &self.journal, e)),
            _ => Ok(()),
        }
    }

    /// Settings that differ from the journal: (name, value before, value now).
    ///
    /// # Errors
    /// When the journal is not understood.
    pub fn changed(&self) -> Result<Vec<(String, String, String)>> {
        let Some(journal) = self.load()? else { return Ok(Vec::new()) };
        let now = |name: &str| self.current(name).unwrap_or_default();
        Ok(journal.before.into_iter().map(|(n, v)| (n.clone(), v, now(&n))).filter(|(_, v, n)| v != n).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_raised_and_put_back() {
        let directory = tempfile::tempdir().unwrap();
        let (base, store) = (directory.path().join("sys"), Store::at(directory.path().join("state")));
        for (name, value) in [("fs/inotify/max_user_instances", "128"), ("vm/overcommit_memory", "0")] {
            let path = base.join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, format!("{value}\n")).unwrap();
        }
        let settings = HostSettings::at(&base, &store);
        settings.prepare().unwrap();
        fs::write(base.join("vm/overcommit_memory"), "1").unwrap();
        // A second cluster must not take the changed values for the original ones.
        settings.prepare().unwrap();
        assert_eq!(settings.changed().unwrap().len(), 2);
        settings.restore().unwrap();
        assert_eq!(settings.current("fs/inotify/max_user_instances").unwrap(), "128");
        assert_eq!(settings.current("vm/overcommit_memory").unwrap(), "0");
        assert!(settings.changed().unwrap().is_empty());
    }
}
