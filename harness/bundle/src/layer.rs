//! Image layers: tar archives that come out the same, byte for byte, whenever they are made from the same files.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufWriter, Read, Write};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};
use walkdir::WalkDir;

use crate::error::{BundleError, io};
use crate::manifest::hex;

/// Numeric owner and group.
pub(crate) type Owner = (u64, u64);

/// Writes a tar archive: paths in order, no times, no names of users.
pub(crate) struct LayerWriter<W: Write> {
    tar: tar::Builder<HashingWriter<W>>,
    what: PathBuf,
}

impl LayerWriter<BufWriter<File>> {
    /// An archive in a new file.
    pub fn create(path: &Path) -> Result<Self, BundleError> {
        let file = File::create(path).map_err(io("create", path))?;
        Ok(Self::new(BufWriter::with_capacity(1 << 18, file), path))
    }
}

impl<W: Write> LayerWriter<W> {
    pub fn new(writer: W, what: &Path) -> Self {
        Self {
            tar: tar::Builder::new(HashingWriter { writer, hasher: Sha256::new(), length: 0 }),
            what: what.to_path_buf(),
        }
    }

    /// Adds a directory.
    pub fn dir(&mut self, path: &Path, mode: u32, owner: Owner) -> Result<(), BundleError> {
        let mut header = header(tar::EntryType::Directory, mode, 0, owner);
        let path = format!("{}/", path.display());
        self.tar.append_data(&mut header, path, std::io::empty()).map_err(io("write", &self.what))
    }

    /// Adds a file of known length.
    pub fn file(
        &mut self,
        path: &Path,
        mode: u32,
        size: u64,
        owner: Owner,
        data: impl Read,
    ) -> Result<(), BundleError> {
        let mut header = header(tar::EntryType::Regular, mode, size, owner);
        self.tar.append_data(&mut header, path, data).map_err(io("write", &self.what))
    }

    /// Adds a symbolic link.
    pub fn link(&mut self, path: &Path, target: &Path) -> Result<(), BundleError> {
        let mut header = header(tar::EntryType::Symlink, 0o777, 0, (0, 0));
        self.tar.append_link(&mut header, path, target).map_err(io("write", &self.what))
    }

    fn hard_link(&mut self, path: &Path, target: &Path) -> Result<(), BundleError> {
        let mut header = header(tar::EntryType::Link, 0o644, 0, (0, 0));
        self.tar.append_link(&mut header, path, target).map_err(io("write", &self.what))
    }

    /// Adds what is below a directory, under `prefix`, in the order of the paths. All of it belongs to root.
    pub fn tree(&mut self, root: &Path, prefix: &Path) -> Result<(), BundleError> {
        let mut linked: BTreeMap<(u64, u64), PathBuf> = BTreeMap::new();
        for item in WalkDir::new(root).min_depth(1).sort_by_file_name() {
            let item = item.map_err(|error| io("walk", root)(error.into()))?;
            let full = item.path();
            let path = prefix.join(full.strip_prefix(root).unwrap_or(full));
            let meta = full.symlink_metadata().map_err(io("stat", full))?;
            let mode = meta.permissions().mode() & 0o7777;
            if meta.is_dir() {
                self.dir(&path, mode, (0, 0))?;
            } else if meta.is_symlink() {
                let target = fs::read_link(full).map_err(io("read link", full))?;
                self.link(&path, &target)?;
            } else {
                if meta.nlink() > 1 {
                    if let Some(first) = linked.get(&(meta.dev(), meta.ino())) {
                        let first = first.clone();
                        self.hard_link(&path, &first)?;
                        continue;
                    }
                    linked.insert((meta.dev(), meta.ino()), path.clone());
                }
                let file = File::open(full).map_err(io("open", full))?;
                self.file(&path, mode, meta.len(), (0, 0), file)?;
            }
        }
        Ok(())
    }

    /// Ends the archive; gives its sha256 in hex and its length in bytes.
    pub fn finish(self) -> Result<(String, u64), BundleError> {
        let mut inner = self.tar.into_inner().map_err(io("write", &self.what))?;
        inner.writer.flush().map_err(io("write", &self.what))?;
        Ok((hex(&inner.hasher.finalize()), inner.length))
    }
}

fn header(kind: tar::EntryType, mode: u32, size: u64, owner: Owner) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(size);
    header.set_mtime(0);
    header.set_uid(owner.0);
    header.set_gid(owner.1);
    header
}

struct HashingWriter<W: Write> {
    writer: W,
    hasher: Sha256,
    length: u64,
}

impl<W: Write> Write for HashingWriter<W> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let written = self.writer.write(bytes)?;
        self.hasher.update(&bytes[..written]);
        self.length += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.writer.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn archive(names: &[&str]) -> (String, Vec<u8>) {
        let dir = tempfile::tempdir().unwrap();
        for name in names {
            let path = dir.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, format!("body of {name}")).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o750)).unwrap();
        }
        symlink("a", dir.path().join("z-link")).unwrap();
        fs::hard_link(dir.path().join("a"), dir.path().join("z-hard")).unwrap();
        let mut bytes = Vec::new();
        let mut layer = LayerWriter::new(&mut bytes, Path::new("test"));
        layer.tree(dir.path(), Path::new("")).unwrap();
        let (digest, length) = layer.finish().unwrap();
        assert_eq!(length, bytes.len() as u64);
        assert_eq!(digest, crate::manifest::hash_bytes(&bytes));
        (digest, bytes)
    }

    #[test]
    fn the_same_files_give_the_same_bytes_in_whatever_order_and_when_they_were_made() {
        let long = "d/".repeat(70) + "name";
        assert_eq!(archive(&["a", "b/c", &long]).0, archive(&[&long, "b/c", "a"]).0);
        assert_ne!(archive(&["a", "b/c"]).0, archive(&["a", "b/d"]).0);
    }

    #[test]
    fn links_modes_and_owners_are_as_wanted() {
        let (_, bytes) = archive(&["a"]);
        let mut seen = Vec::new();
        let mut tar = tar::Archive::new(bytes.as_slice());
        for entry in tar.entries().unwrap() {
            let entry = entry.unwrap();
            let header = entry.header();
            assert_eq!((header.mtime().unwrap(), header.uid().unwrap(), header.gid().unwrap()), (0, 0, 0));
            let target = entry.link_name().unwrap().map(|target| target.display().to_string()).unwrap_or_default();
            seen.push(format!("{} {:?} {target}", entry.path().unwrap().display(), header.entry_type()));
        }
        assert_eq!(seen, ["a Regular ", "z-hard Link a", "z-link Symlink a"]);
    }
}
