//! The record of what a finished component consists of, and the comparison of a directory with it.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use walkdir::WalkDir;

use crate::error::{BundleError, io, malformed};

/// Raised when the format changes; an entry with another number is built again.
pub(crate) const SCHEMA: u32 = 1;

/// One path of a component.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub(crate) enum Entry {
    /// A directory, with its permission bits.
    Dir { mode: u32 },
    /// A symbolic link.
    Link { target: PathBuf },
    /// A regular file; `mtime` in nanoseconds since the epoch.
    File { mode: u32, size: u64, mtime: i64, sha256: String },
}

/// Everything known about a finished component.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Manifest {
    pub schema: u32,
    pub name: String,
    pub key: String,
    /// How long the build took, in seconds.
    pub seconds: f64,
    /// Facts for the lock file and for people: the toolchain, module sums, what drifted.
    pub facts: BTreeMap<String, String>,
    pub entries: BTreeMap<PathBuf, Entry>,
}

impl Manifest {
    /// Bytes of all files together.
    pub fn size(&self) -> u64 {
        self.entries.values().map(|entry| if let Entry::File { size, .. } = entry { *size } else { 0 }).sum()
    }

    /// The digest of one file, as recorded.
    pub fn sha256(&self, path: &str) -> Option<&str> {
        match self.entries.get(Path::new(path)) {
            Some(Entry::File { sha256, .. }) => Some(sha256),
            _ => None,
        }
    }

    pub fn read(path: &Path) -> Result<Self, BundleError> {
        let text = fs::read(path).map_err(io("read", path))?;
        let manifest: Self =
            serde_json::from_slice(&text).map_err(|error| malformed(path.display().to_string(), error))?;
        if manifest.schema == SCHEMA {
            Ok(manifest)
        } else {
            Err(malformed(path.display().to_string(), format!("it has schema {}, not {SCHEMA}", manifest.schema)))
        }
    }
}

/// What is wrong with one file of the bundle.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Problem {
    /// The component it belongs to.
    pub component: String,
    /// Its path inside the component; empty for the component as a whole.
    pub path: PathBuf,
    /// What was found.
    pub what: Damage,
}

/// The ways in which a file can be wrong.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(tag = "damage", content = "detail", rename_all = "kebab-case")]
pub enum Damage {
    /// It is gone.
    Missing,
    /// It is there although nothing made it.
    Extra,
    /// Its contents are not what was built.
    Corrupted(String),
    /// It is of another kind, or has other permissions or another target.
    Changed(String),
    /// The record of the component itself cannot be read.
    Unreadable(String),
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}: ", self.component, self.path.display())?;
        match &self.what {
            Damage::Missing => f.write_str("missing"),
            Damage::Extra => f.write_str("not part of the bundle"),
            Damage::Corrupted(detail) => write!(f, "corrupted, {detail}"),
            Damage::Changed(detail) => write!(f, "changed, {detail}"),
            Damage::Unreadable(detail) => write!(f, "its record cannot be read, {detail}"),
        }
    }
}

/// Walks a directory and hashes all of it, with two threads.
pub(crate) fn scan(root: &Path) -> Result<BTreeMap<PathBuf, Entry>, BundleError> {
    let mut entries = BTreeMap::new();
    let mut files = Vec::new();
    for item in WalkDir::new(root).min_depth(1).sort_by_file_name() {
        let item = item.map_err(|error| {
            let path = error.path().unwrap_or(root).to_path_buf();
            io("walk", path)(error.into())
        })?;
        let path = item.path().strip_prefix(root).unwrap_or(item.path()).to_path_buf();
        let meta = item.path().symlink_metadata().map_err(io("stat", item.path()))?;
        if meta.is_dir() {
            entries.insert(path, Entry::Dir { mode: mode(&meta) });
        } else if meta.is_symlink() {
            let target = fs::read_link(item.path()).map_err(io("read link", item.path()))?;
            entries.insert(path, Entry::Link { target });
        } else if meta.is_file() {
            files.push(path.clone());
            let entry = Entry::File { mode: mode(&meta), size: meta.len(), mtime: mtime(&meta), sha256: String::new() };
            entries.insert(path, entry);
        } else {
            return Err(malformed(item.path().display().to_string(), "neither a file, a directory nor a link"));
        }
    }
    for (path, digest) in hash_all(root, &files)? {
        if let Some(Entry::File { sha256, .. }) = entries.get_mut(&path) {
            *sha256 = digest;
        }
    }
    Ok(entries)
}

/// Compares by type, size, permissions and time; a file whose time alone differs is hashed. Takes milliseconds.
pub(crate) fn glance(root: &Path, manifest: &Manifest) -> Vec<Problem> {
    let mut problems = Vec::new();
    for (path, entry) in &manifest.entries {
        let full = root.join(path);
        let found = match full.symlink_metadata() {
            Ok(meta) => differs(entry, &full, &meta),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Some(Damage::Missing),
            Err(error) => Some(Damage::Corrupted(error.to_string())),
        };
        if let Some(what) = found {
            problems.push(Problem { component: manifest.name.clone(), path: path.clone(), what });
        }
    }
    problems
}

fn differs(entry: &Entry, full: &Path, meta: &fs::Metadata) -> Option<Damage> {
    match entry {
        Entry::Dir { .. } if !meta.is_dir() => Some(Damage::Changed("no directory any more".into())),
        Entry::Dir { mode: want } | Entry::File { mode: want, .. } if mode(meta) != *want && !meta.is_symlink() => {
            Some(Damage::Changed(format!("mode {:o} instead of {want:o}", mode(meta))))
        }
        Entry::Dir { .. } => None,
        Entry::Link { target } => match fs::read_link(full) {
            Ok(found) if found == *target => None,
            Ok(found) => {
                Some(Damage::Changed(format!("points to {} instead of {}", found.display(), target.display())))
            }
            Err(_) => Some(Damage::Changed("no link any more".into())),
        },
        Entry::File { .. } if !meta.is_file() => Some(Damage::Changed("no file any more".into())),
        Entry::File { size, .. } if meta.len() != *size => {
            Some(Damage::Corrupted(format!("{} bytes instead of {size}", meta.len())))
        }
        Entry::File { mtime: want, sha256, .. } if mtime(meta) != *want => match hash_file(full) {
            Ok(found) if found == *sha256 => None,
            Ok(found) => Some(wrong_digest(&found, sha256)),
            Err(error) => Some(Damage::Corrupted(error.to_string())),
        },
        Entry::File { .. } => None,
    }
}

fn wrong_digest(found: &str, expected: &str) -> Damage {
    Damage::Corrupted(format!("sha256 {} instead of {}", short(found), short(expected)))
}

fn short(digest: &str) -> &str {
    digest.get(..12).unwrap_or(digest)
}

/// Compares everything, with contents, and finds what is there but was not built.
pub(crate) fn inspect(root: &Path, manifest: &Manifest) -> Result<Vec<Problem>, BundleError> {
    let mut problems = glance(root, manifest);
    let reported: Vec<PathBuf> = problems.iter().map(|problem| problem.path.clone()).collect();
    let files: Vec<PathBuf> = manifest
        .entries
        .iter()
        .filter(|(path, entry)| matches!(entry, Entry::File { .. }) && !reported.contains(path))
        .map(|(path, _)| path.clone())
        .collect();
    let problem = |path: PathBuf, what| Problem { component: manifest.name.clone(), path, what };
    for (path, found) in hash_all(root, &files)? {
        if let Some(Entry::File { sha256, .. }) = manifest.entries.get(&path)
            && *sha256 != found
        {
            problems.push(problem(path, wrong_digest(&found, sha256)));
        }
    }
    for item in WalkDir::new(root).min_depth(1).sort_by_file_name().into_iter().filter_map(Result::ok) {
        let path = item.path().strip_prefix(root).unwrap_or(item.path());
        if !manifest.entries.contains_key(path) {
            problems.push(problem(path.to_path_buf(), Damage::Extra));
        }
    }
    problems.sort();
    Ok(problems)
}

fn hash_all(root: &Path, files: &[PathBuf]) -> Result<Vec<(PathBuf, String)>, BundleError> {
    let next = AtomicUsize::new(0);
    let hashed = Mutex::new(Vec::with_capacity(files.len()));
    let work = || -> Result<(), BundleError> {
        while let Some(path) = files.get(next.fetch_add(1, Ordering::Relaxed)) {
            let digest = hash_file(&root.join(path))?;
            hashed.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push((path.clone(), digest));
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let other = scope.spawn(work);
        let mine = work();
        let theirs = other.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        mine.and(theirs)
    })?;
    Ok(hashed.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner))
}

/// The sha256 of a file, in hex.
pub(crate) fn hash_file(path: &Path) -> Result<String, BundleError> {
    let mut file = File::open(path).map_err(io("open", path))?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 1 << 17];
    loop {
        let read = file.read(&mut buffer).map_err(io("read", path))?;
        if read == 0 {
            return Ok(hex(&hasher.finalize()));
        }
        hasher.update(&buffer[..read]);
    }
}

/// The sha256 of bytes, in hex.
pub(crate) fn hash_bytes(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    use fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn mode(meta: &fs::Metadata) -> u32 {
    meta.permissions().mode() & 0o7777
}

fn mtime(meta: &fs::Metadata) -> i64 {
    meta.mtime().saturating_mul(1_000_000_000).saturating_add(meta.mtime_nsec())
}
