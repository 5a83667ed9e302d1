//! Where reports are kept: `shakedown-reports/RUN/`, with a `latest` link, owned by the user who called.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::{lchown, symlink};
use std::path::{Path, PathBuf};

use thiserror::Error;

use crate::schema::{Report, SCHEMA};

/// The folder of all runs, under the directory that the harness is called in.
pub const FOLDER: &str = "shakedown-reports";
const LATEST: &str = "latest";
const REPORT: &str = "report.json";

/// A report could not be kept or read.
#[derive(Debug, Error)]
pub enum StoreError {
    /// Writing failed.
    #[error("cannot write {path}: {cause}\nhint: is the directory writable, and is there space left?")]
    Write {
        /// What was written.
        path: PathBuf,
        /// What the system said.
        cause: io::Error,
    },
    /// Reading failed.
    #[error("cannot read {path}: {cause}")]
    Read {
        /// What was read.
        path: PathBuf,
        /// What the system said.
        cause: io::Error,
    },
    /// There is no such run.
    #[error("no run `{run}` under {root}\nhint: {hint}")]
    NoRun {
        /// As it was asked for.
        run: String,
        /// Where it was looked for.
        root: PathBuf,
        /// What to do.
        hint: String,
    },
    /// The file is no report, or is damaged.
    #[error("{path} is not a report: {cause}\nhint: it is damaged or was written by something else; run again")]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        cause: serde_json::Error,
    },
    /// The file is a report of another version.
    #[error("{path} has schema `{found}`, this version reads `{SCHEMA}`\nhint: read it with the version that wrote it")]
    OtherSchema {
        /// The file.
        path: PathBuf,
        /// Its schema.
        found: String,
    },
}

/// The folder of all runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Store {
    root: PathBuf,
    owner: Option<(u32, u32)>,
}

impl Store {
    /// Runs are kept in `root`. `owner` gets them, as uid and gid: see [`caller`].
    pub fn new(root: impl Into<PathBuf>, owner: Option<(u32, u32)>) -> Self {
        Self { root: root.into(), owner }
    }

    /// The folder of all runs.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The folder of one run; evidence goes below it. It need not exist.
    pub fn run_folder(&self, run: &str) -> PathBuf {
        self.root.join(run)
    }

    /// Makes the folder of a new run, so that evidence can be kept before there is a report.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn begin(&self, run: &str) -> Result<PathBuf, StoreError> {
        let folder = self.run_folder(run);
        fs::create_dir_all(&folder).map_err(|cause| StoreError::Write { path: folder.clone(), cause })?;
        self.hand_over(&self.root, false)?;
        self.hand_over(&folder, true)?;
        Ok(folder)
    }

    /// Writes a file of a run: to a temporary name first, so that there is never half a file under its own name.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&self, run: &str, name: &str, bytes: &[u8]) -> Result<PathBuf, StoreError> {
        let path = self.run_folder(run).join(name);
        let failed = |cause| StoreError::Write { path: path.clone(), cause };
        let part = path.with_file_name(format!(".{}.part", file_name(&path)));
        let written = (|| {
            fs::create_dir_all(path.parent().unwrap_or(&self.root))?;
            let mut file = File::create(&part)?;
            file.write_all(bytes)?;
            file.sync_all()?;
            fs::rename(&part, &path)
        })();
        if let Err(cause) = written {
            // Nothing half-made stays; that it cannot be removed either is the same failure.
            let _ = fs::remove_file(&part);
            return Err(failed(cause));
        }
        Ok(path)
    }

    /// Keeps a report with its renderings (`name`, text), points `latest` at it, and gives all files of the run to
    /// the user who called.
    ///
    /// # Errors
    /// When something cannot be written.
    pub fn keep(&self, report: &Report, renderings: &[(&str, String)]) -> Result<PathBuf, StoreError> {
        let run = &report.run.id;
        let folder = self.begin(run)?;
        for (name, text) in renderings {
            self.write(run, name, text.as_bytes())?;
        }
        let mut json = serde_json::to_vec_pretty(report)
            .map_err(|cause| StoreError::Write { path: folder.join(REPORT), cause: cause.into() })?;
        json.push(b'\n');
        // Last: where there is a report.json, the rest of the run is there too.
        self.write(run, REPORT, &json)?;
        self.point_latest_at(run)?;
        self.hand_over(&folder, true)?;
        Ok(folder)
    }

    fn point_latest_at(&self, run: &str) -> Result<(), StoreError> {
        let link = self.root.join(LATEST);
        let part = self.root.join(".latest.part");
        let made = match fs::remove_file(&part) {
            Err(cause) if cause.kind() != io::ErrorKind::NotFound => Err(cause),
            _ => symlink(run, &part).and_then(|()| fs::rename(&part, &link)),
        };
        made.map_err(|cause| StoreError::Write { path: link.clone(), cause })?;
        self.hand_over(&link, false)
    }

    /// Gives `path`, and all below it when `deep`, to the user who called.
    fn hand_over(&self, path: &Path, deep: bool) -> Result<(), StoreError> {
        let Some((uid, gid)) = self.owner else { return Ok(()) };
        let give = |path: &Path| {
            lchown(path, Some(uid), Some(gid)).map_err(|cause| StoreError::Write { path: path.to_owned(), cause })
        };
        give(path)?;
        if !deep {
            return Ok(());
        }
        let read = |cause| StoreError::Read { path: path.to_owned(), cause };
        for entry in fs::read_dir(path).map_err(read)? {
            let entry = entry.map_err(read)?;
            let below = entry.file_type().map_err(read)?.is_dir();
            self.hand_over(&entry.path(), below)?;
        }
        Ok(())
    }

    /// Reads the report of a run: an id, `latest`, or a path to a run's folder or its `report.json`.
    ///
    /// # Errors
    /// When there is no such run, or its report is damaged or of another version.
    pub fn read(&self, run: &str) -> Result<Report, StoreError> {
        self.read_file(&self.find(run)?.join(REPORT))
    }

    /// The folder of a run: an id, `latest`, or a path to a run's folder or its `report.json`.
    ///
    /// # Errors
    /// When there is no such run.
    pub fn find(&self, run: &str) -> Result<PathBuf, StoreError> {
        let candidates = [
            self.root.join(run),
            PathBuf::from(run),
            PathBuf::from(run).parent().map(Path::to_path_buf).unwrap_or_default(),
        ];
        let found = candidates.into_iter().find(|folder| folder.join(REPORT).is_file());
        found.ok_or_else(|| StoreError::NoRun { run: run.to_owned(), root: self.root.clone(), hint: self.hint() })
    }

    fn hint(&self) -> String {
        match self.runs().as_slice() {
            [] => "`shakedown run` makes one".to_owned(),
            runs => format!("there are {}", runs.join(", ")),
        }
    }

    /// Ids of all runs that have a report, oldest first.
    pub fn runs(&self) -> Vec<String> {
        let Ok(entries) = fs::read_dir(&self.root) else { return Vec::new() };
        let mut runs: Vec<String> = entries
            .filter_map(Result::ok)
            // The link is not a run of its own.
            .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
            .filter(|entry| entry.path().join(REPORT).is_file())
            .filter_map(|entry| entry.file_name().into_string().ok())
            .collect();
        runs.sort();
        runs
    }

    /// The latest report, or `None` where there was no run yet.
    ///
    /// # Errors
    /// When there is one and it cannot be read.
    pub fn latest(&self) -> Result<Option<Report>, StoreError> {
        match self.read(LATEST) {
            Ok(report) => Ok(Some(report)),
            Err(StoreError::NoRun { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn read_file(&self, path: &Path) -> Result<Report, StoreError> {
        let bytes = fs::read(path).map_err(|cause| StoreError::Read { path: path.to_owned(), cause })?;
        let malformed = |cause| StoreError::Malformed { path: path.to_owned(), cause };
        // The schema first: another version's fields would only give a confusing error.
        #[derive(serde::Deserialize)]
        struct Head {
            schema: String,
        }
        let head: Head = serde_json::from_slice(&bytes).map_err(malformed)?;
        if head.schema != SCHEMA {
            return Err(StoreError::OtherSchema { path: path.to_owned(), found: head.schema });
        }
        serde_json::from_slice(&bytes).map_err(malformed)
    }
}

fn file_name(path: &Path) -> String {
    path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

/// The user who called through sudo, as uid and gid; `None` where nobody stands behind the process. `variable` reads
/// the environment.
pub fn caller(variable: impl Fn(&str) -> Option<String>) -> Option<(u32, u32)> {
    let number = |name| variable(name)?.parse().ok();
    Some((number("SUDO_UID")?, number("SUDO_GID")?))
}

#[cfg(test)]
mod tests;
