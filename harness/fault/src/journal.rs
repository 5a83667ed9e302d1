//! The journal on disk: JSON lines, appended and fsynced before anything is changed, readable by root only.
//!
//! The first line names the cluster that it belongs to; each further line is a [`JournalEntry`]. A last line without
//! its newline was never acknowledged, so nothing was changed on its word, and it is dropped. Values of Secrets may
//! stand in it (they have to be put back), so it is 0600 and shrinks to its first line whenever nothing is open.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};
use shakedown_core::JournalEntry;
use thiserror::Error;

/// Version of the form.
const VERSION: u32 = 1;

/// The journal cannot be used.
#[derive(Debug, Error)]
pub enum JournalFault {
    /// The file system said no.
    #[error(
        "cannot {action} journal {path}: {source}\nhint: nothing is changed on purpose without a journal; make room or fix its permissions"
    )]
    File {
        /// What was tried.
        action: &'static str,
        /// The file.
        path: String,
        /// What the system said.
        source: io::Error,
    },
    /// It belongs to another cluster.
    #[error(
        "journal {path} belongs to {found}, not to {wanted}\nhint: the cluster was made anew, or its directory was copied; what it undoes does not exist any more: remove the file"
    )]
    Foreign {
        /// The file.
        path: String,
        /// Whose it is.
        found: String,
        /// Whose it should be.
        wanted: String,
    },
    /// It is no journal of this version, or was damaged.
    #[error(
        "journal {path}, line {line}: {why}\nhint: it is damaged or of another version; look at what it would put back before you remove it"
    )]
    Corrupt {
        /// The file.
        path: String,
        /// Line, from 1.
        line: usize,
        /// What is wrong with it.
        why: String,
    },
    /// An earlier write failed and could not be taken back.
    #[error(
        "journal {path} could not be written and is not used any more\nhint: `shakedown recover` puts back what is open"
    )]
    Broken {
        /// The file.
        path: String,
    },
}

/// The first line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Head {
    journal: u32,
    cluster: String,
    /// Of this making of the cluster: another one under the same name is another cluster.
    id: String,
}

/// A journal on disk.
#[derive(Debug)]
pub struct FileJournal {
    path: PathBuf,
    head: Head,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    file: File,
    length: u64,
    broken: bool,
}

impl FileJournal {
    /// Opens the journal of a cluster, making it where there is none. `id` is that of this making of the cluster.
    ///
    /// # Errors
    /// It cannot be read or written, is damaged, or belongs to another cluster.
    pub fn open(path: &Path, cluster: &str, id: &str) -> Result<Self, JournalFault> {
        let head = Head { journal: VERSION, cluster: cluster.to_owned(), id: id.to_owned() };
        let open = match read(path)? {
            Some((found, entries)) if found == head => open_intents(&entries),
            Some((found, _)) => {
                return Err(JournalFault::Foreign {
                    path: path.display().to_string(),
                    found: format!("cluster `{}` ({})", found.cluster, found.id),
                    wanted: format!("`{cluster}` ({id})"),
                });
            }
            None => Vec::new(),
        };
        let state = rewrite(path, &head, &open)?;
        Ok(Self { path: path.to_owned(), head, state: Mutex::new(state) })
    }

    /// What was begun and never put back, oldest first.
    ///
    /// # Errors
    /// It cannot be read any more.
    pub fn open_entries(&self) -> Result<Vec<JournalEntry>, JournalFault> {
        Ok(read(&self.path)?.map(|(_, entries)| open_intents(&entries)).unwrap_or_default())
    }

    /// Appends an entry and has it on disk before it returns.
    ///
    /// # Errors
    /// It is not on disk; what was written of it has been taken back.
    pub fn append(&self, entry: &JournalEntry) -> Result<(), JournalFault> {
        let mut line = serde_json::to_vec(entry).map_err(|e| self.fault("write", e.into()))?;
        line.push(b'\n');
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.broken {
            return Err(JournalFault::Broken { path: self.path.display().to_string() });
        }
        match state.file.write_all(&line).and_then(|()| state.file.sync_data()) {
            Ok(()) => {
                state.length += line.len() as u64;
                Ok(())
            }
            Err(source) => {
                // Half a line in the middle would make the whole journal unreadable.
                let length = state.length;
                let taken_back =
                    state.file.set_len(length).and_then(|()| state.file.seek(SeekFrom::Start(length)).map(drop));
                state.broken = taken_back.is_err();
                Err(self.fault("append to", source))
            }
        }
    }

    /// Keeps only what is open.
    ///
    /// # Errors
    /// It cannot be written; then the longer one stays.
    pub fn compact(&self) -> Result<(), JournalFault> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let open = read(&self.path)?.map(|(_, entries)| open_intents(&entries)).unwrap_or_default();
        *state = rewrite(&self.path, &self.head, &open)?;
        Ok(())
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn fault(&self, action: &'static str, source: io::Error) -> JournalFault {
        fault(action, &self.path, source)
    }
}

/// Intents without their close, in their order.
pub fn open_intents(entries: &[JournalEntry]) -> Vec<JournalEntry> {
    let is_closed = |wanted: &str| entries.iter().any(|e| matches!(e, JournalEntry::Closed { id } if id == wanted));
    entries
        .iter()
        .filter(|entry| match entry {
            JournalEntry::Intent { id, .. } => !is_closed(id),
            JournalEntry::Closed { .. } => false,
        })
        .cloned()
        .collect()
}

/// The whole journal; `None` where there is none, or where its making was cut off.
fn read(path: &Path) -> Result<Option<(Head, Vec<JournalEntry>)>, JournalFault> {
    let mut text = String::new();
    match File::open(path).and_then(|mut file| file.read_to_string(&mut text)) {
        Ok(_) => {}
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) if e.kind() == io::ErrorKind::InvalidData => return Err(corrupt(path, 1, &"it is not text")),
        Err(e) => return Err(fault("read", path, e)),
    }
    let whole = text.rfind('\n').map_or("", |end| text.get(..end).unwrap_or_default());
    if whole.is_empty() {
        return Ok(None);
    }
    let mut lines = whole.lines().enumerate();
    let Some((_, first)) = lines.next() else { return Ok(None) };
    let head: Head = serde_json::from_str(first).map_err(|e| corrupt(path, 1, &e))?;
    if head.journal != VERSION {
        return Err(corrupt(path, 1, &format!("version {} is not {VERSION}", head.journal)));
    }
    let entries = lines
        .map(|(at, line)| serde_json::from_str(line).map_err(|e| corrupt(path, at + 1, &e)))
        .collect::<Result<_, _>>()?;
    Ok(Some((head, entries)))
}

/// Puts a journal with just these entries in place, in one step, and opens it for more.
fn rewrite(path: &Path, head: &Head, open: &[JournalEntry]) -> Result<State, JournalFault> {
    let temporary = path.with_extension("new");
    let written = (|| {
        let mut bytes = serde_json::to_vec(head)?;
        bytes.push(b'\n');
        for entry in open {
            serde_json::to_writer(&mut bytes, entry)?;
            bytes.push(b'\n');
        }
        let mut file = OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&temporary)?;
        // A file that was there before keeps its mode when it is opened.
        file.set_permissions(Permissions::from_mode(0o600))?;
        file.write_all(&bytes)?;
        file.sync_all()?;
        fs::rename(&temporary, path)?;
        File::open(path.parent().unwrap_or(Path::new("/")))?.sync_all()?;
        Ok(State { file, length: bytes.len() as u64, broken: false })
    })();
    written.map_err(|source| {
        // Nothing half-made stays behind; the error that matters is the first.
        let _ = fs::remove_file(&temporary);
        fault("write", path, source)
    })
}

fn fault(action: &'static str, path: &Path, source: io::Error) -> JournalFault {
    JournalFault::File { action, path: path.display().to_string(), source }
}

fn corrupt(path: &Path, line: usize, why: &dyn std::fmt::Display) -> JournalFault {
    JournalFault::Corrupt { path: path.display().to_string(), line, why: why.to_string() }
}

#[cfg(test)]
#[path = "journal_tests.rs"]
mod tests;
