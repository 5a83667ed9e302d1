//! Where the bundle lives on this machine, and the lock between processes that change it.

use std::env;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::path::{Path, PathBuf};

use crate::error::{BundleError, io};
use crate::progress::Progress;

/// The directory that holds everything this crate keeps: the store, downloads and Go's caches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CacheDir(PathBuf);

impl CacheDir {
    /// The cache directory of the person who called, under `sudo` too: `$XDG_CACHE_HOME/shakedown`, or
    /// `.cache/shakedown` in the home directory of `SUDO_USER`, or of the user.
    ///
    /// # Errors
    /// When there is no home directory to be found.
    pub fn for_caller() -> Result<Self, BundleError> {
        let passwd = fs::read_to_string("/etc/passwd").unwrap_or_default();
        Self::resolve(|name| env::var(name).ok(), &passwd)
    }

    /// A cache at a place of the caller's choice.
    pub fn at(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }

    fn resolve(var: impl Fn(&str) -> Option<String>, passwd: &str) -> Result<Self, BundleError> {
        let absolute = |name: &str| var(name).map(PathBuf::from).filter(|path| path.is_absolute());
        if let Some(cache) = absolute("XDG_CACHE_HOME") {
            return Ok(Self(cache.join("shakedown")));
        }
        let sudo_user = var("SUDO_USER").filter(|user| !user.is_empty() && user != "root");
        let home = match &sudo_user {
            Some(user) => home_of(user, passwd),
            None => absolute("HOME").or_else(|| home_of("root", passwd)),
        };
        match (home, sudo_user) {
            (Some(home), _) => Ok(Self(home.join(".cache/shakedown"))),
            (None, Some(user)) => Err(BundleError::NoCacheDir { reason: format!("{user} is not in /etc/passwd") }),
            (None, None) => Err(BundleError::NoCacheDir { reason: "HOME is not set".into() }),
        }
    }

    /// The directory itself.
    pub fn path(&self) -> &Path {
        &self.0
    }

    pub(crate) fn store(&self) -> PathBuf {
        self.0.join("store")
    }

    pub(crate) fn debs(&self) -> PathBuf {
        self.0.join("debs")
    }

    pub(crate) fn go(&self) -> PathBuf {
        self.0.join("go")
    }

    pub(crate) fn logs(&self) -> PathBuf {
        self.0.join("log")
    }

    pub(crate) fn work(&self) -> PathBuf {
        self.0.join("work")
    }

    /// Takes the lock that writers share, waiting for another process where there is one. It is given back on drop,
    /// and by the kernel when the process dies.
    pub(crate) fn lock(&self, progress: &dyn Progress) -> Result<CacheLock, BundleError> {
        fs::create_dir_all(&self.0).map_err(io("create", &self.0))?;
        let path = self.0.join("lock");
        let file = OpenOptions::new().create(true).append(true).open(&path).map_err(io("open", &path))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                progress.note("another process is building the bundle; waiting for it");
                file.lock().map_err(io("lock", &path))?;
            }
            Err(TryLockError::Error(source)) => return Err(io("lock", &path)(source)),
        }
        Ok(CacheLock { _file: file })
    }
}

/// Held while the cache is being changed.
#[derive(Debug)]
pub(crate) struct CacheLock {
    _file: File,
}

fn home_of(user: &str, passwd: &str) -> Option<PathBuf> {
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next() == Some(user)).then(|| fields.nth(4).map(PathBuf::from)).flatten()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/bash\nada:x:1000:1000:Ada:/home/ada:/bin/sh\n";

    fn resolved(vars: &[(&str, &str)]) -> String {
        let lookup = |name: &str| vars.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_string());
        match CacheDir::resolve(lookup, PASSWD) {
            Ok(cache) => cache.path().display().to_string(),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn the_cache_belongs_to_the_caller() {
        assert_eq!(resolved(&[("HOME", "/home/ada")]), "/home/ada/.cache/shakedown");
        assert_eq!(resolved(&[("HOME", "/root"), ("SUDO_USER", "ada")]), "/home/ada/.cache/shakedown");
        assert_eq!(resolved(&[("HOME", "/root"), ("SUDO_USER", "root")]), "/root/.cache/shakedown");
        assert_eq!(resolved(&[("HOME", "/root"), ("XDG_CACHE_HOME", "/big")]), "/big/shakedown");
        assert_eq!(resolved(&[("HOME", "/root"), ("XDG_CACHE_HOME", "relative")]), "/root/.cache/shakedown");
        assert!(resolved(&[("SUDO_USER", "nobody-here")]).contains("is not in /etc/passwd"));
    }
}
