//! Running the programs that a build needs: output to a log, the tail of it in the error.

use std::fs::{self, File, OpenOptions};
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::error::{BundleError, io};

const TAIL_LINES: usize = 15;
const TAIL_BYTES: u64 = 8 << 10;

/// Runs a command to its end, with both its outputs in `log`, which is started anew.
pub(crate) fn run(command: &mut Command, what: &str, log: &Path, hint: &'static str) -> Result<(), BundleError> {
    let file = open_log(log)?;
    let errors = file.try_clone().map_err(io("open", log))?;
    command.stdin(Stdio::null()).stdout(file).stderr(errors);
    let status = command.status().map_err(|error| missing(command, &error, hint))?;
    if status.success() {
        Ok(())
    } else {
        Err(BundleError::Command {
            what: what.to_string(),
            status: status.to_string(),
            tail: tail(log),
            log: log.to_path_buf(),
        })
    }
}

/// Runs a command and gives what it printed, without the final newline.
pub(crate) fn output(command: &mut Command, what: &str, log: &Path, hint: &'static str) -> Result<String, BundleError> {
    let file = open_log(log)?;
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(file);
    let output = command.output().map_err(|error| missing(command, &error, hint))?;
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).trim_end().to_string())
    } else {
        Err(BundleError::Command {
            what: what.to_string(),
            status: output.status.to_string(),
            tail: tail(log),
            log: log.to_path_buf(),
        })
    }
}

fn open_log(log: &Path) -> Result<File, BundleError> {
    if let Some(parent) = log.parent() {
        fs::create_dir_all(parent).map_err(io("create", parent))?;
    }
    OpenOptions::new().create(true).write(true).truncate(true).open(log).map_err(io("write", log))
}

fn missing(command: &Command, error: &std::io::Error, hint: &'static str) -> BundleError {
    BundleError::MissingTool {
        tool: PathBuf::from(command.get_program()).display().to_string(),
        reason: error.to_string(),
        hint,
    }
}

fn tail(log: &Path) -> String {
    let read = || -> std::io::Result<String> {
        let mut file = File::open(log)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(TAIL_BYTES)))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    let text = read().unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failing_command_shows_its_last_words() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("x.log");
        let mut command = Command::new("sh");
        command.args(["-c", "seq 100; echo broken >&2; exit 3"]);
        let error = run(&mut command, "building x", &log, "").unwrap_err().to_string();
        assert!(error.starts_with("building x failed (exit status: 3)") && error.contains("100\nbroken"), "{error}");
        assert!(!error.contains("\n50\n"), "{error}");
    }

    #[test]
    fn a_missing_program_is_named_with_the_hint() {
        let dir = tempfile::tempdir().unwrap();
        let mut command = Command::new("no-such-program-here");
        let error = run(&mut command, "x", &dir.path().join("log"), "install it").unwrap_err().to_string();
        assert!(error.contains("no-such-program-here") && error.contains("hint: install it"), "{error}");
    }
}
