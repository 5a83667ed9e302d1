//! Evidence on disk: `RUN/evidence/<check>/<phase>.json`. What a judge is given has been read back from those bytes.

use std::fs;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use serde_json::Value;
use sha2::{Digest, Sha256};
use shakedown_core::{Evidence, EvidenceRecord};
use thiserror::Error;

use crate::probe::Attachment;
use crate::redact::{self, Leak};

/// Evidence could not be kept or read.
#[derive(Debug, Error)]
pub enum EvidenceError {
    /// The file system said no.
    #[error("cannot {action} {path}: {source}\nhint: evidence needs space and a writable report directory")]
    File {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: String,
        /// What the system said.
        source: io::Error,
    },
    /// It holds something that must not be written.
    #[error(transparent)]
    Leak(#[from] Leak),
    /// It is no evidence, or has changed since it was written.
    #[error("{path} is not the evidence that was recorded: {why}")]
    Corrupt {
        /// The file.
        path: String,
        /// What is wrong with it.
        why: String,
    },
}

/// The folder of one run.
#[derive(Debug, Clone)]
pub struct EvidenceStore {
    root: PathBuf,
}

impl EvidenceStore {
    /// In the run's folder, which need not exist yet.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// Writes an observation and gives back what was read from the bytes written.
    ///
    /// # Errors
    /// It holds a secret, or cannot be written.
    pub fn write(&self, evidence: &Evidence) -> Result<(EvidenceRecord, Value), EvidenceError> {
        redact::inspect(&evidence.seen)?;
        let relative = place(&evidence.check, &format!("{}.json", evidence.phase));
        let path = self.root.join(&relative);
        let bytes = serde_json::to_vec_pretty(evidence).map_err(|e| corrupt(&relative, e))?;
        make_parent(&path)?;
        fs::write(&path, &bytes).map_err(|source| failed("write", &path, source))?;
        let back: Evidence = serde_json::from_slice(&bytes).map_err(|e| corrupt(&relative, e))?;
        Ok((EvidenceRecord { kind: evidence.phase.clone(), sha256: sha256(&bytes), path: relative }, back.seen))
    }

    /// Reads what was recorded, and makes sure that it is what was recorded.
    ///
    /// # Errors
    /// It cannot be read, or has been changed.
    pub fn read(&self, record: &EvidenceRecord) -> Result<Evidence, EvidenceError> {
        let path = self.root.join(&record.path);
        let bytes = fs::read(&path).map_err(|source| failed("read", &path, source))?;
        if sha256(&bytes) != record.sha256 {
            return Err(corrupt(&record.path, "its sha256 differs"));
        }
        serde_json::from_slice(&bytes).map_err(|e| corrupt(&record.path, e))
    }

    /// Moves a file that a probe made into the run's folder. It is read piece by piece: a capture may be large.
    ///
    /// # Errors
    /// It holds a secret, or cannot be moved.
    pub fn adopt(&self, check: &str, phase: &str, file: &Attachment) -> Result<EvidenceRecord, EvidenceError> {
        let name = file.path.file_name().map_or_else(|| file.kind.clone(), |n| n.to_string_lossy().into_owned());
        let relative = place(check, &format!("{phase}-{name}"));
        let sha256 = inspect_file(&file.path, &relative)?;
        let path = self.root.join(&relative);
        make_parent(&path)?;
        if fs::rename(&file.path, &path).is_err() {
            // On another file system.
            fs::copy(&file.path, &path).map_err(|source| failed("write", &path, source))?;
            fs::remove_file(&file.path).map_err(|source| failed("remove", &file.path, source))?;
        }
        Ok(EvidenceRecord { kind: file.kind.clone(), sha256, path: relative })
    }

    /// A directory for one observation's own files.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn scratch(&self, check: &str, phase: &str) -> Result<PathBuf, EvidenceError> {
        let path = self.root.join("scratch").join(check).join(phase);
        fs::create_dir_all(&path).map_err(|source| failed("make", &path, source))?;
        Ok(path)
    }

    /// Removes such a directory with all that is in it, and its parents once they are empty.
    pub fn clear_scratch(&self, scratch: &Path) {
        // What cannot be removed stays visible in the run's folder; it is no reason to judge otherwise.
        let _ = fs::remove_dir_all(scratch);
        for parent in scratch.ancestors().skip(1).take(2) {
            if fs::remove_dir(parent).is_err() {
                break;
            }
        }
    }
}

/// Looks through a file for secrets; its SHA-256.
fn inspect_file(path: &Path, name: &str) -> Result<String, EvidenceError> {
    const PIECE: usize = 64 * 1024;
    /// Longer than any token or header that is to be recognised across the edge of two pieces.
    const OVERLAP: usize = 8 * 1024;
    let unreadable = |source| failed("read", path, source);
    let mut file = fs::File::open(path).map_err(unreadable)?;
    let (mut window, mut piece, mut hash) = (Vec::new(), vec![0; PIECE], Sha256::new());
    loop {
        let length = file.read(&mut piece).map_err(unreadable)?;
        let new = piece.get(..length).unwrap_or_default();
        if new.is_empty() {
            return Ok(hex(&hash.finalize()));
        }
        hash.update(new);
        window.drain(..window.len().saturating_sub(OVERLAP));
        window.extend_from_slice(new);
        redact::inspect_bytes(name, &window)?;
    }
}

/// Hex of the bytes' SHA-256.
pub fn sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(64), |mut hex, byte| {
        let _ = write!(hex, "{byte:02x}");
        hex
    })
}

fn place(check: &str, file: &str) -> String {
    format!("evidence/{check}/{file}")
}

fn make_parent(path: &Path) -> Result<(), EvidenceError> {
    path.parent().map_or(Ok(()), |parent| fs::create_dir_all(parent).map_err(|source| failed("make", parent, source)))
}

fn failed(action: &'static str, path: &Path, source: io::Error) -> EvidenceError {
    EvidenceError::File { action, path: path.display().to_string(), source }
}

fn corrupt(path: &str, why: impl std::fmt::Display) -> EvidenceError {
    EvidenceError::Corrupt { path: path.to_owned(), why: why.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attachment(directory: &Path, bytes: &[u8]) -> Attachment {
        let path = directory.join("wire.pcap");
        fs::write(&path, bytes).unwrap();
        Attachment { kind: "pcap".into(), path }
    }

    #[test]
    fn a_large_attachment_is_moved_with_its_hash() {
        let directory = tempfile::tempdir().unwrap();
        let store = EvidenceStore::new(directory.path().join("run"));
        let bytes: Vec<u8> = (0..300_000_u32).flat_map(u32::to_le_bytes).collect();
        let record = store.adopt("a.b", "baseline", &attachment(directory.path(), &bytes)).unwrap();
        assert_eq!((record.kind.as_str(), record.path.as_str()), ("pcap", "evidence/a.b/baseline-wire.pcap"));
        assert_eq!(record.sha256, sha256(&bytes));
        assert_eq!(fs::read(directory.path().join("run").join(&record.path)).unwrap(), bytes);
        assert!(!directory.path().join("wire.pcap").exists());
    }

    #[test]
    fn a_token_across_the_edge_of_two_pieces_is_recognised() {
        let directory = tempfile::tempdir().unwrap();
        let store = EvidenceStore::new(directory.path().join("run"));
        let token = ["eyJhbGciOiJSUzI1NiJ9", "eyJzdWIiOiJ0ZXN0In0x", "c2lnbmF0dXJlLW9mLXRlc3Q"].join(".");
        for at in [0, 65_500, 65_530, 65_536, 131_060] {
            let mut bytes = vec![0; 200_000];
            bytes.splice(at..at + token.len(), token.bytes());
            let error = store.adopt("a.b", "baseline", &attachment(directory.path(), &bytes)).unwrap_err();
            assert!(matches!(error, EvidenceError::Leak(_)), "{at}: {error}");
            assert!(!directory.path().join("run").exists());
        }
    }
}
