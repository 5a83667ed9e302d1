//! A part of a finished bundle in another place: it opens like the whole, and holds only the files that somebody needs.
//!
//! For a machine that gets its own copy, a disk image above all. Files are hard links where the file system allows it,
//! so an excerpt of gigabytes takes a second; nothing of it may be written to.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, lchown, symlink};
use std::path::{Path, PathBuf};

use crate::cache::CacheDir;
use crate::error::{BundleError, io, malformed};
use crate::manifest::{Entry, Manifest};
use crate::plan::Plan;
use crate::select::Selection;
use crate::store::Slot;

/// File systems made by `mke2fs -d` keep whole seconds, so an excerpt's record says no more than that.
const SECOND: i64 = 1_000_000_000;

/// Lays out what `keep` picks of a finished selection, by component and path inside of it, as a cache directory of its
/// own at `to`. [`Bundle::open`](crate::Bundle::open) finds it there.
///
/// # Errors
/// [`BundleError::Incomplete`] when a component has not been built; file operations.
pub fn excerpt(
    from: &CacheDir,
    want: &Selection,
    to: &CacheDir,
    keep: &dyn Fn(&str, &Path) -> bool,
) -> Result<(), BundleError> {
    let (whole, part) = (Plan::current(from, want)?, Plan::current(to, want)?);
    for (source, target) in whole.components.iter().zip(&part.components) {
        component(&source.slot, &target.slot, keep)?;
    }
    Ok(())
}

fn component(source: &Slot, target: &Slot, keep: &dyn Fn(&str, &Path) -> bool) -> Result<(), BundleError> {
    let incomplete = || BundleError::Incomplete { components: vec![source.name.clone()] };
    let mut manifest: Manifest = source.manifest()?.ok_or_else(incomplete)?;
    manifest.entries = chosen(manifest.entries, &|path| keep(&source.name, path));
    let files = target.files();
    make_like(&source.files(), &files)?;
    // A directory comes before what is in it, and gets its permissions last.
    for (path, entry) in &mut manifest.entries {
        let (from, to) = (source.files().join(path), files.join(path));
        match entry {
            Entry::Dir { .. } => make_like(&from, &to)?,
            Entry::Link { target } => symlink(target, &to).map_err(io("link", &to))?,
            Entry::File { mtime, .. } => {
                link_or_copy(&from, &to)?;
                *mtime -= mtime.rem_euclid(SECOND);
            }
        }
    }
    let record = target.dir().join("manifest.json");
    let text = serde_json::to_vec(&manifest).map_err(|error| malformed("a manifest", error))?;
    fs::write(&record, text).map_err(io("write", &record))
}

/// What is picked, and the directories it lies in.
fn chosen(all: BTreeMap<PathBuf, Entry>, keep: &dyn Fn(&Path) -> bool) -> BTreeMap<PathBuf, Entry> {
    let mut wanted = BTreeSet::new();
    for path in all.keys().filter(|path| keep(path)) {
        wanted.extend(path.ancestors().map(Path::to_path_buf));
    }
    all.into_iter().filter(|(path, _)| wanted.contains(path)).collect()
}

/// Hard-links the tree `from` into `to`, which may exist: what is there already is kept.
///
/// # Errors
/// File operations.
pub(crate) fn link_tree(from: &Path, to: &Path) -> Result<(), BundleError> {
    make_like(from, to)?;
    for item in fs::read_dir(from).map_err(io("list", from))? {
        let item = item.map_err(io("list", from))?;
        let (source, target) = (item.path(), to.join(item.file_name()));
        let kind = item.file_type().map_err(io("stat", &source))?;
        if kind.is_dir() {
            link_tree(&source, &target)?;
        } else if target.symlink_metadata().is_ok() {
            continue;
        } else if kind.is_symlink() {
            let points = fs::read_link(&source).map_err(io("read link", &source))?;
            symlink(points, &target).map_err(io("link", &target))?;
        } else {
            link_or_copy(&source, &target)?;
        }
    }
    Ok(())
}

/// A directory with the owner and the permissions of another one.
fn make_like(like: &Path, dir: &Path) -> Result<(), BundleError> {
    let meta = like.metadata().map_err(io("stat", like))?;
    fs::create_dir_all(dir).map_err(io("create", dir))?;
    lchown(dir, Some(meta.uid()), Some(meta.gid())).map_err(io("change the owner of", dir))?;
    let mode = fs::Permissions::from_mode(meta.permissions().mode() & 0o7777);
    fs::set_permissions(dir, mode).map_err(io("change the mode of", dir))
}

fn link_or_copy(from: &Path, to: &Path) -> Result<(), BundleError> {
    match fs::hard_link(from, to) {
        Err(error) if error.kind() == io::ErrorKind::CrossesDevices => {
            fs::copy(from, to).map(drop).map_err(io("copy", from))
        }
        done => done.map_err(io("link", to)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slot(cache: &Path) -> Slot {
        Slot::new(&CacheDir::at(cache), "tools", "00112233445566778899")
    }

    #[test]
    fn an_excerpt_holds_what_was_picked_and_its_record_agrees() {
        let dir = tempfile::tempdir().unwrap();
        let (whole, part) = (slot(&dir.path().join("a")), slot(&dir.path().join("b")));
        whole
            .make(|files| {
                fs::create_dir_all(files.join("bin")).unwrap();
                fs::create_dir_all(files.join("share/doc")).unwrap();
                fs::write(files.join("bin/one"), "1").unwrap();
                fs::write(files.join("bin/two"), "2").unwrap();
                symlink("one", files.join("bin/first")).unwrap();
                Ok(BTreeMap::from([("version".into(), "v1".into())]))
            })
            .unwrap();
        component(&whole, &part, &|name, path| name == "tools" && path.starts_with("bin") && !path.ends_with("two"))
            .unwrap();
        assert!(part.files().join("bin/one").is_file() && !part.files().join("bin/two").exists());
        assert!(!part.files().join("share").exists());
        let record = part.glance().unwrap();
        assert_eq!(record.facts["version"], "v1");
        let paths: Vec<_> = record.entries.keys().map(|path| path.display().to_string()).collect();
        assert_eq!(paths, ["bin", "bin/first", "bin/one"]);
        for entry in record.entries.values() {
            assert!(!matches!(entry, Entry::File { mtime, .. } if mtime % SECOND != 0));
        }
    }

    #[test]
    fn what_has_not_been_built_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let (whole, part) = (slot(&dir.path().join("a")), slot(&dir.path().join("b")));
        let error = component(&whole, &part, &|_, _| true).unwrap_err().to_string();
        assert!(error.contains("tools"), "{error}");
    }

    #[test]
    fn trees_are_laid_over_each_other_and_what_is_there_stays() {
        let dir = tempfile::tempdir().unwrap();
        let at = |path: &str| dir.path().join(path);
        for (path, text) in [("a/etc/x", "a"), ("b/etc/x", "b"), ("b/etc/y", "b")] {
            fs::create_dir_all(at(path).parent().unwrap()).unwrap();
            fs::write(at(path), text).unwrap();
        }
        link_tree(&at("a"), &at("c")).unwrap();
        link_tree(&at("b"), &at("c")).unwrap();
        assert_eq!(fs::read_to_string(at("c/etc/x")).unwrap(), "a");
        assert_eq!(fs::read_to_string(at("c/etc/y")).unwrap(), "b");
    }
}
