//! Files of a node, reached from the host through its first process's root: no process is started for it, and a
//! symbolic link in the node never leads out of it.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, open, openat2, renameat};
use nix::sys::stat::{Mode, fchmod, mkdirat};
use nix::unistd::{UnlinkatFlags, unlinkat};

use crate::error::{NodeError, Result};

/// A directory that is the root of all paths given.
pub struct Root {
    directory: OwnedFd,
}

impl Root {
    /// Opens a directory as root: `/proc/PID/root` of a node, or any other.
    ///
    /// # Errors
    /// When there is no such directory.
    pub fn open(path: &Path) -> Result<Self> {
        let flags = OFlag::O_DIRECTORY | OFlag::O_PATH | OFlag::O_CLOEXEC;
        let directory = open(path, flags, Mode::empty()).map_err(|e| NodeError::file("open", path, e))?;
        Ok(Self { directory })
    }

    fn at(&self, path: &str, flags: OFlag) -> std::result::Result<OwnedFd, Errno> {
        let how = OpenHow::new()
            .flags(flags | OFlag::O_CLOEXEC)
            .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
        openat2(&self.directory, path, how)
    }

    /// A file's bytes.
    ///
    /// # Errors
    /// [`NodeError::File`].
    pub fn read(&self, path: &str) -> Result<Vec<u8>> {
        let fd = self.at(path, OFlag::O_RDONLY).map_err(|e| NodeError::file("read", path, e))?;
        let mut bytes = Vec::new();
        File::from(fd).read_to_end(&mut bytes).map_err(|e| NodeError::file("read", path, e))?;
        Ok(bytes)
    }

    /// Opens the directory of a path, making what is missing on the way.
    fn parent(&self, path: &str) -> Result<(OwnedFd, String)> {
        let (parent, name) = path.trim_end_matches('/').rsplit_once('/').unwrap_or(("", path));
        if name.is_empty() || name == ".." || name == "." {
            return Err(NodeError::file("use", path, io::Error::from(io::ErrorKind::InvalidInput)));
        }
        let flags = OFlag::O_DIRECTORY | OFlag::O_RDONLY;
        let mut reached = PathBuf::from("/");
        let mut current = self.at("/", flags).map_err(|e| NodeError::file("open", path, e))?;
        for part in parent.split('/').filter(|p| !p.is_empty()) {
            reached.push(part);
            let text = reached.to_string_lossy().into_owned();
            current = match self.at(&text, flags) {
                Err(Errno::ENOENT) => {
                    match mkdirat(&current, part, Mode::from_bits_truncate(0o755)) {
                        Ok(()) | Err(Errno::EEXIST) => {}
                        Err(e) => return Err(NodeError::file("make", text, e)),
                    }
                    self.at(&text, flags).map_err(|e| NodeError::file("open", text, e))?
                }
                other => other.map_err(|e| NodeError::file("open", text, e))?,
            };
        }
        Ok((current, name.to_owned()))
    }

    /// Writes a file whole: temporary file beside it, fsync, rename.
    ///
    /// # Errors
    /// [`NodeError::File`]; then the old content is untouched.
    pub fn write(&self, path: &str, bytes: &[u8], mode: u32) -> Result<()> {
        let failed = |e: io::Error| NodeError::file("write", path, e);
        let (directory, name) = self.parent(path)?;
        // Programs that read a whole directory (static pods, CNI) skip names with a leading dot.
        let temporary = format!(".{name}.shakedown-{}", std::process::id());
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_TRUNC | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW;
        let fd = nix::fcntl::openat(&directory, temporary.as_str(), flags, Mode::from_bits_truncate(0o600))
            .map_err(|e| failed(e.into()))?;
        let mut file = File::from(fd);
        let written = (|| {
            file.write_all(bytes)?;
            fchmod(&file, Mode::from_bits_truncate(mode))?;
            file.sync_all()?;
            renameat(&directory, temporary.as_str(), &directory, name.as_str())?;
            Ok(())
        })();
        if written.is_err() {
            let _ = unlinkat(&directory, temporary.as_str(), UnlinkatFlags::NoRemoveDir);
        }
        written.map_err(failed)
    }

    /// Removes a file or a directory with all in it. False when there was none.
    ///
    /// # Errors
    /// [`NodeError::File`].
    pub fn remove(&self, path: &str) -> Result<bool> {
        let (parent, name) = path.trim_end_matches('/').rsplit_once('/').unwrap_or(("", path));
        let parent = if parent.is_empty() { "/" } else { parent };
        let directory = match self.at(parent, OFlag::O_DIRECTORY | OFlag::O_RDONLY) {
            Err(Errno::ENOENT) => return Ok(false),
            other => other.map_err(|e| NodeError::file("remove", path, e))?,
        };
        match remove_at(&directory, name) {
            Ok(()) => Ok(true),
            Err(Errno::ENOENT) => Ok(false),
            Err(e) => Err(NodeError::file("remove", path, e)),
        }
    }
}

fn remove_at(directory: &OwnedFd, name: &str) -> std::result::Result<(), Errno> {
    match unlinkat(directory, name, UnlinkatFlags::NoRemoveDir) {
        Err(Errno::EISDIR) => {}
        other => return other,
    }
    let flags = OFlag::O_DIRECTORY | OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let mut inside = Dir::openat(directory, name, flags, Mode::empty())?;
    let names: Vec<String> = inside
        .iter()
        .flatten()
        .map(|e| e.file_name().to_string_lossy().into_owned())
        .filter(|n| n != "." && n != "..")
        .collect();
    let inside = nix::fcntl::openat(directory, name, flags, Mode::empty())?;
    for inner in names {
        remove_at(&inside, &inner)?;
    }
    unlinkat(directory, name, UnlinkatFlags::RemoveDir)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_in_the_node_does_not_lead_out_of_it() {
        let directory = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("/etc", directory.path().join("etc")).unwrap();
        std::fs::create_dir(directory.path().join("real")).unwrap();
        let root = Root::open(directory.path()).unwrap();
        assert!(root.read("/etc/passwd").is_err());
        std::os::unix::fs::symlink("/real", directory.path().join("link")).unwrap();
        root.write("/link/sub/file", b"x", 0o640).unwrap();
        assert_eq!(std::fs::read(directory.path().join("real/sub/file")).unwrap(), b"x");
        assert_eq!(root.read("/link/sub/file").unwrap(), b"x");
    }

    #[test]
    fn a_file_is_replaced_whole_and_removed_with_its_directory() {
        let directory = tempfile::tempdir().unwrap();
        let root = Root::open(directory.path()).unwrap();
        root.write("/a/b", b"one", 0o644).unwrap();
        root.write("/a/b", b"two", 0o600).unwrap();
        assert_eq!(root.read("/a/b").unwrap(), b"two");
        assert_eq!(std::fs::read_dir(directory.path().join("a")).unwrap().count(), 1);
        assert!(root.remove("/a").unwrap());
        assert!(!root.remove("/a").unwrap());
        assert!(!directory.path().join("a").exists());
    }
}
