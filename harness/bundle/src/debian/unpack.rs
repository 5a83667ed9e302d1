//! Takes the files out of a package: an `ar` archive with a compressed `tar` archive inside.

use std::collections::BTreeSet;
use std::fs;
use std::io::Read;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Component, Path, PathBuf};

use crate::error::{BundleError, io, malformed};

/// Directories that are links into `/usr` on a merged system, while packages still ship both forms.
const MERGED: &[&str] = &["bin", "sbin", "lib", "lib64", "lib32", "libx32"];

/// What no node and no image reads. Copyright notices stay.
const DROPPED: &[&str] = &[
    "usr/share/doc/",
    "usr/share/man/",
    "usr/share/info/",
    "usr/share/locale/",
    "usr/share/lintian/",
    "usr/share/bug/",
    "usr/share/doc-base/",
    "usr/share/gitweb/",
    "usr/share/menu/",
    "usr/share/pixmaps/",
    "usr/share/bash-completion/",
    "usr/share/zsh/",
];

/// Unpacks a package below `root`. With `only`, nothing but these paths.
pub(crate) fn unpack(deb: impl Read, name: &str, root: &Path, only: &[&str]) -> Result<(), BundleError> {
    let mut archive = ar::Archive::new(deb);
    while let Some(entry) = archive.next_entry() {
        let entry = entry.map_err(|error| malformed(name, error))?;
        let member = String::from_utf8_lossy(entry.header().identifier()).into_owned();
        let Some(form) = member.strip_prefix("data.tar") else { continue };
        let data: Box<dyn Read + '_> = match form {
            "" => Box::new(entry),
            ".gz" => Box::new(flate2::read::GzDecoder::new(entry)),
            ".xz" => Box::new(liblzma::read::XzDecoder::new(entry)),
            ".zst" => Box::new(zstd::stream::read::Decoder::new(entry).map_err(|error| malformed(name, error))?),
            other => return Err(malformed(name, format!("its data is packed as {other}"))),
        };
        return unpack_tar(data, name, root, only);
    }
    Err(malformed(name, "it has no data.tar"))
}

fn unpack_tar(data: impl Read, name: &str, root: &Path, only: &[&str]) -> Result<(), BundleError> {
    let mut archive = tar::Archive::new(data);
    let mut modes: Vec<(PathBuf, u32)> = Vec::new();
    let mut made = BTreeSet::new();
    for entry in archive.entries().map_err(|error| malformed(name, error))? {
        let mut entry = entry.map_err(|error| malformed(name, error))?;
        let path = place(&entry.path().map_err(|error| malformed(name, error))?, name)?;
        let kind = entry.header().entry_type();
        if path.as_os_str().is_empty() || !kept(&path, kind.is_dir(), only) {
            continue;
        }
        let full = root.join(&path);
        if let Some(parent) = full.parent().filter(|parent| made.insert(parent.to_path_buf())) {
            fs::create_dir_all(parent).map_err(io("create", parent))?;
        }
        let mode = entry.header().mode().map_err(|error| malformed(name, error))? & 0o7777;
        if kind.is_dir() {
            fs::create_dir_all(&full).map_err(io("create", &full))?;
            modes.push((full, mode));
            continue;
        }
        if full.symlink_metadata().is_ok() {
            fs::remove_file(&full).map_err(io("replace", &full))?;
        }
        if kind.is_symlink() {
            let target = link_target(&entry, name)?;
            symlink(&target, &full).map_err(io("link", &full))?;
        } else if kind.is_hard_link() {
            let target = root.join(place(&link_target(&entry, name)?, name)?);
            fs::hard_link(&target, &full).map_err(io("link", &full))?;
        } else if kind.is_file() {
            let mut file = fs::File::create(&full).map_err(io("create", &full))?;
            std::io::copy(&mut entry, &mut file).map_err(io("write", &full))?;
            fs::set_permissions(&full, fs::Permissions::from_mode(mode)).map_err(io("change the mode of", &full))?;
        } else {
            return Err(malformed(name, format!("{} is of the kind {kind:?}", path.display())));
        }
    }
    // Last, so that a directory without write permission does not keep its own files out.
    for (path, mode) in modes {
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).map_err(io("change the mode of", &path))?;
    }
    Ok(())
}

fn link_target(entry: &tar::Entry<'_, impl Read>, name: &str) -> Result<PathBuf, BundleError> {
    let target = entry.link_name().map_err(|error| malformed(name, error))?;
    target.map(std::borrow::Cow::into_owned).ok_or_else(|| malformed(name, "a link without a target"))
}

/// The path below the root: without `./`, never above it, with the merged directories moved into `usr`.
fn place(path: &Path, name: &str) -> Result<PathBuf, BundleError> {
    let mut placed = PathBuf::new();
    for part in path.components() {
        match part {
            Component::Normal(part) => placed.push(part),
            Component::CurDir | Component::RootDir => {}
            Component::ParentDir | Component::Prefix(_) => {
                return Err(malformed(name, format!("{} leads out of the tree", path.display())));
            }
        }
    }
    let merged = MERGED.iter().any(|dir| placed.starts_with(dir));
    Ok(if merged { Path::new("usr").join(placed) } else { placed })
}

fn kept(path: &Path, is_dir: bool, only: &[&str]) -> bool {
    if !only.is_empty() {
        return only.iter().any(|wanted| path == Path::new(wanted));
    }
    let text = path.to_string_lossy();
    let copyright = text.starts_with("usr/share/doc/") && (is_dir || text.ends_with("/copyright"));
    copyright || !DROPPED.iter().any(|dropped| text.starts_with(dropped))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn deb(files: &[(&str, &str)]) -> Vec<u8> {
        let mut data = tar::Builder::new(Vec::new());
        for (path, text) in files {
            let mut header = tar::Header::new_gnu();
            header.set_size(text.len() as u64);
            header.set_mode(0o755);
            // Written by hand: the library itself refuses to make a path that leads out.
            header.as_gnu_mut().unwrap().name[..path.len()].copy_from_slice(path.as_bytes());
            header.set_cksum();
            data.append(&header, text.as_bytes()).unwrap();
        }
        let data = data.into_inner().unwrap();
        let mut archive = ar::Builder::new(Vec::new());
        for (name, body) in [("debian-binary", b"2.0\n".to_vec()), ("data.tar", data)] {
            archive.append(&ar::Header::new(name.as_bytes().to_vec(), body.len() as u64), body.as_slice()).unwrap();
        }
        archive.into_inner().unwrap()
    }

    #[test]
    fn files_end_up_below_usr_and_manuals_are_dropped() {
        let root = tempfile::tempdir().unwrap();
        let files = [
            ("./bin/mount", "a"),
            ("./usr/share/man/man8/mount.8", "b"),
            ("./usr/share/doc/mount/copyright", "c"),
            ("./libexec/x", "d"),
        ];
        unpack(deb(&files).as_slice(), "mount", root.path(), &[]).unwrap();
        let found: Vec<_> = walkdir::WalkDir::new(root.path())
            .sort_by_file_name()
            .into_iter()
            .map(Result::unwrap)
            .filter(|item| item.file_type().is_file())
            .map(|item| item.path().strip_prefix(root.path()).unwrap().display().to_string())
            .collect();
        assert_eq!(found, ["libexec/x", "usr/bin/mount", "usr/share/doc/mount/copyright"]);
    }

    #[test]
    fn a_path_that_leads_out_is_refused() {
        let root = tempfile::tempdir().unwrap();
        let error = unpack(deb(&[("../evil", "x")]).as_slice(), "evil.deb", root.path(), &[]).unwrap_err().to_string();
        assert!(error.contains("evil.deb") && error.contains("leads out of the tree"), "{error}");
    }

    #[test]
    fn what_is_no_package_is_said_to_be_none() {
        let root = tempfile::tempdir().unwrap();
        assert!(unpack(&b"<html>not found</html>"[..], "x.deb", root.path(), &[]).is_err());
        assert!(unpack(&b"!<arch>\n"[..], "x.deb", root.path(), &[]).unwrap_err().to_string().contains("no data.tar"));
    }
}
