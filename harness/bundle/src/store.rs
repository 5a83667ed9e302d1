//! The content-addressed store: a directory for each finished component, named after a hash of what it was made from.
//!
//! A component is made in a temporary directory, recorded, flushed to disk and only then renamed: what has its final
//! name is complete. What a killed build left behind is cleared by the next one, which holds the lock.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};

use crate::cache::CacheDir;
use crate::error::{BundleError, io};
use crate::manifest::{self, Damage, Manifest, Problem};

const TEMPORARY: &str = ".making-";

/// One component's place in the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Slot {
    pub name: String,
    pub key: String,
    dir: PathBuf,
}

impl Slot {
    pub fn new(cache: &CacheDir, name: &str, key: &str) -> Self {
        let short = key.get(..16).unwrap_or(key);
        Self { name: name.into(), key: key.into(), dir: cache.store().join(format!("{name}-{short}")) }
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Where the files are once it is finished.
    pub fn files(&self) -> PathBuf {
        self.dir.join("files")
    }

    fn record(&self) -> PathBuf {
        self.dir.join("manifest.json")
    }

    /// The record of a finished component; `None` when it has not been built.
    pub fn manifest(&self) -> Result<Option<Manifest>, BundleError> {
        if self.record().exists() { Manifest::read(&self.record()).map(Some) } else { Ok(None) }
    }

    /// A quick look for damage: a record that cannot be read, missing files, other sizes.
    pub fn glance(&self) -> Result<Manifest, Vec<Problem>> {
        match Manifest::read(&self.record()) {
            Ok(manifest) => {
                let problems = manifest::glance(&self.files(), &manifest);
                if problems.is_empty() { Ok(manifest) } else { Err(problems) }
            }
            Err(error) => Err(vec![self.unreadable(&error)]),
        }
    }

    /// A thorough look, with the contents of every file.
    pub fn inspect(&self) -> Result<Vec<Problem>, BundleError> {
        match Manifest::read(&self.record()) {
            Ok(manifest) => manifest::inspect(&self.files(), &manifest),
            Err(error) => Ok(vec![self.unreadable(&error)]),
        }
    }

    fn unreadable(&self, error: &BundleError) -> Problem {
        let what = Damage::Unreadable(error.to_string());
        Problem { component: self.name.clone(), path: PathBuf::new(), what }
    }

    /// Makes the component: `build` fills the directory it is given and returns the facts worth recording.
    pub fn make(
        &self,
        build: impl FnOnce(&Path) -> Result<BTreeMap<String, String>, BundleError>,
    ) -> Result<Manifest, BundleError> {
        let start = std::time::Instant::now();
        let parent = self.dir.parent().unwrap_or(&self.dir);
        fs::create_dir_all(parent).map_err(io("create", parent))?;
        let making = tempfile::Builder::new()
            .prefix(&format!("{TEMPORARY}{}-", self.name))
            .tempdir_in(parent)
            .map_err(io("create a directory in", parent))?;
        let files = making.path().join("files");
        fs::create_dir(&files).map_err(io("create", &files))?;
        let facts = build(&files)?;
        let entries = manifest::scan(&files)?;
        let manifest = Manifest {
            schema: manifest::SCHEMA,
            name: self.name.clone(),
            key: self.key.clone(),
            seconds: (start.elapsed().as_secs_f64() * 10.0).round() / 10.0,
            facts,
            entries,
        };
        let record = making.path().join("manifest.json");
        let text = serde_json::to_vec(&manifest).map_err(|error| crate::error::malformed("a manifest", error))?;
        write_synced(&record, &text)?;
        open_up(making.path())?;
        sync_file_system(making.path())?;
        remove_tree(&self.dir)?;
        fs::rename(making.path(), &self.dir).map_err(io("rename", making.path()))?;
        sync_dir(parent)?;
        Ok(manifest)
    }

    /// Removes the component. The record goes first, so that half of it is never taken for all of it.
    pub fn remove(&self) -> Result<(), BundleError> {
        remove_tree(&self.dir)
    }
}

/// Removes what killed builds left behind. Only for the holder of the lock.
pub(crate) fn clear_leftovers(cache: &CacheDir) -> Result<(), BundleError> {
    for dir in [cache.store(), cache.debs()] {
        for path in children(&dir)? {
            if path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.')) {
                remove_tree(&path)?;
            }
        }
    }
    remove_tree(&cache.work())
}

/// The paths directly in a directory, sorted; none when it does not exist.
pub(crate) fn children(dir: &Path) -> Result<Vec<PathBuf>, BundleError> {
    if !dir.exists() {
        return Ok(Vec::new());
    }
    let mut paths = Vec::new();
    for item in fs::read_dir(dir).map_err(io("list", dir))? {
        paths.push(item.map_err(io("list", dir))?.path());
    }
    paths.sort();
    Ok(paths)
}

/// Removes a file or a directory with all below it, read-only directories included; nothing there is fine.
pub(crate) fn remove_tree(path: &Path) -> Result<(), BundleError> {
    let Ok(meta) = path.symlink_metadata() else { return Ok(()) };
    if !meta.is_dir() {
        return fs::remove_file(path).map_err(io("remove", path));
    }
    let record = path.join("manifest.json");
    if record.is_file() {
        fs::remove_file(&record).map_err(io("remove", &record))?;
    }
    if fs::remove_dir_all(path).is_ok() {
        return Ok(());
    }
    // Go's module cache is read-only on purpose; give the owner its directories back and try once more.
    for item in walkdir::WalkDir::new(path).into_iter().filter_map(Result::ok) {
        if item.file_type().is_dir() {
            let _ = open_up(item.path());
        }
    }
    fs::remove_dir_all(path).map_err(io("remove", path))
}

fn open_up(dir: &Path) -> Result<(), BundleError> {
    use std::os::unix::fs::PermissionsExt as _;
    fs::set_permissions(dir, fs::Permissions::from_mode(0o755)).map_err(io("change the mode of", dir))
}

/// Writes a file so that it survives a crash once this returns.
pub(crate) fn write_synced(path: &Path, bytes: &[u8]) -> Result<(), BundleError> {
    let mut file = File::create(path).map_err(io("create", path))?;
    file.write_all(bytes).and_then(|()| file.sync_all()).map_err(io("write", path))
}

/// Replaces a file as a whole: readers see the old one or the new one.
pub(crate) fn replace_file(path: &Path, bytes: &[u8]) -> Result<(), BundleError> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::create_dir_all(parent).map_err(io("create", parent))?;
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let temporary = parent.join(format!(".{name}.{}", std::process::id()));
    write_synced(&temporary, bytes)?;
    fs::rename(&temporary, path).map_err(io("rename", &temporary))?;
    sync_dir(parent)
}

fn sync_dir(dir: &Path) -> Result<(), BundleError> {
    File::open(dir).and_then(|file| file.sync_all()).map_err(io("flush", dir))
}

/// One call for a tree of thousands of files, where a flush of each would take minutes.
fn sync_file_system(dir: &Path) -> Result<(), BundleError> {
    let file = File::open(dir).map_err(io("open", dir))?;
    nix::unistd::syncfs(&file).map_err(|errno| io("flush", dir)(errno.into()))
}

/// The room left for ordinary users on the file system that holds `path`, in bytes.
pub(crate) fn free_space(path: &Path) -> Result<u64, BundleError> {
    let stat = nix::sys::statvfs::statvfs(path).map_err(|errno| io("measure", path)(errno.into()))?;
    Ok(stat.blocks_available().saturating_mul(stat.fragment_size()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::progress::Silent;
    use std::time::Duration;

    struct Fixture {
        dir: tempfile::TempDir,
    }

    impl Fixture {
        fn new() -> Self {
            Self { dir: tempfile::tempdir().unwrap() }
        }

        fn cache(&self) -> CacheDir {
            CacheDir::at(self.dir.path())
        }

        fn slot(&self) -> Slot {
            Slot::new(&self.cache(), "thing", "0123456789abcdef0123")
        }

        fn made(&self) -> Slot {
            let slot = self.slot();
            slot.make(|files| {
                fs::create_dir(files.join("bin")).unwrap();
                fs::write(files.join("bin/tool"), "a program").unwrap();
                std::os::unix::fs::symlink("tool", files.join("bin/alias")).unwrap();
                Ok(BTreeMap::from([("version".to_string(), "v1".to_string())]))
            })
            .unwrap();
            slot
        }
    }

    fn said(problems: &[Problem]) -> String {
        problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
    }

    #[test]
    fn what_was_made_is_sound_and_carries_its_facts() {
        let fixture = Fixture::new();
        let slot = fixture.made();
        let manifest = slot.glance().unwrap();
        assert_eq!(manifest.facts["version"], "v1");
        assert_eq!(manifest.size(), 9);
        assert_eq!(manifest.sha256("bin/tool"), Some(manifest::hash_bytes(b"a program").as_str()));
        assert!(slot.inspect().unwrap().is_empty());
    }

    #[test]
    fn a_truncated_a_missing_and_a_retargeted_file_are_seen_at_a_glance() {
        let fixture = Fixture::new();
        let slot = fixture.made();
        fs::write(slot.files().join("bin/tool"), "a prog").unwrap();
        let problems = slot.glance().unwrap_err();
        assert_eq!(said(&problems), "thing: bin/tool: corrupted, 6 bytes instead of 9");
        fs::remove_file(slot.files().join("bin/tool")).unwrap();
        assert!(said(&slot.glance().unwrap_err()).contains("bin/tool: missing"));
        let slot = fixture.made();
        fs::remove_file(slot.files().join("bin/alias")).unwrap();
        std::os::unix::fs::symlink("elsewhere", slot.files().join("bin/alias")).unwrap();
        assert!(said(&slot.glance().unwrap_err()).contains("points to elsewhere instead of tool"));
    }

    #[test]
    fn one_flipped_byte_is_found_even_when_size_and_time_are_as_before() {
        let fixture = Fixture::new();
        let slot = fixture.made();
        let path = slot.files().join("bin/tool");
        let before = path.metadata().unwrap().modified().unwrap();
        fs::write(&path, "a proGram").unwrap();
        File::options().append(true).open(&path).unwrap().set_modified(before).unwrap();
        assert!(slot.glance().is_ok(), "a glance does not read contents");
        let problems = slot.inspect().unwrap();
        assert!(said(&problems).starts_with("thing: bin/tool: corrupted, sha256 "), "{}", said(&problems));
    }

    #[test]
    fn a_copied_store_with_new_times_is_still_sound_and_a_changed_file_in_it_is_not() {
        let fixture = Fixture::new();
        let slot = fixture.made();
        let path = slot.files().join("bin/tool");
        let touch = || {
            let later = std::time::SystemTime::now() + Duration::from_secs(60);
            File::options().append(true).open(&path).unwrap().set_modified(later).unwrap();
        };
        touch();
        assert!(slot.glance().is_ok());
        fs::write(&path, "a proGram").unwrap();
        touch();
        assert!(said(&slot.glance().unwrap_err()).contains("bin/tool: corrupted, sha256 "));
    }

    #[test]
    fn files_that_nothing_made_are_found() {
        let fixture = Fixture::new();
        let slot = fixture.made();
        fs::write(slot.files().join("bin/intruder"), "").unwrap();
        assert_eq!(said(&slot.inspect().unwrap()), "thing: bin/intruder: not part of the bundle");
    }

    #[test]
    fn a_damaged_record_is_damage_and_not_a_crash() {
        let fixture = Fixture::new();
        let slot = fixture.made();
        fs::write(slot.dir().join("manifest.json"), "{").unwrap();
        assert!(said(&slot.inspect().unwrap()).contains("its record cannot be read"));
        assert!(slot.glance().is_err());
    }

    #[test]
    fn a_failed_build_leaves_nothing_and_the_next_one_succeeds() {
        let fixture = Fixture::new();
        let slot = fixture.slot();
        let failed = slot.make(|files| {
            fs::write(files.join("half"), "x").unwrap();
            Err(BundleError::NoCacheDir { reason: "test".into() })
        });
        assert!(failed.is_err() && !slot.dir().exists());
        assert!(children(&fixture.cache().store()).unwrap().is_empty());
        assert!(fixture.made().glance().is_ok());
    }

    #[test]
    fn what_a_killed_build_left_behind_is_cleared_and_what_is_finished_stays() {
        let fixture = Fixture::new();
        let slot = fixture.made();
        let left = fixture.cache().store().join(".making-thing-Xy12/files");
        fs::create_dir_all(&left).unwrap();
        fs::write(left.join("half"), "x").unwrap();
        fs::create_dir_all(fixture.cache().work().join("cilium/upstream")).unwrap();
        let lock = fixture.cache().lock(&Silent).unwrap();
        clear_leftovers(&fixture.cache()).unwrap();
        drop(lock);
        assert_eq!(children(&fixture.cache().store()).unwrap(), [slot.dir().to_path_buf()]);
        assert!(!fixture.cache().work().exists());
        assert!(slot.glance().is_ok());
    }
}
