//! Running the programs that a build needs: output to a log, the tail of it in the error.

use std::fs::{self, File, OpenOptions};
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use crate::error::{BundleError, io};

/// How often a long command is said to be still at work.
const HEARTBEAT: Duration = Duration::from_secs(15);
const TAIL_LINES: usize = 15;
const TAIL_BYTES: u64 = 8 << 10;

/// Runs a command to its end, with both its outputs in `log`, which is started anew. `alive` is called now and then with
/// the time it has taken so far.
pub(crate) fn run(
    command: &mut Command,
    what: &str,
    log: &Path,
    hint: &'static str,
    alive: &(dyn Fn(Duration) + Sync),
) -> Result<(), BundleError> {
    let file = open_log(log)?;
    let errors = file.try_clone().map_err(io("open", log))?;
    command.stdin(Stdio::null()).stdout(file).stderr(errors);
    let start = Instant::now();
    let mut child = command.spawn().map_err(|error| missing(command, &error, hint))?;
    let (ended, ends) = mpsc::channel::<()>();
    let status = std::thread::scope(|scope| {
        scope.spawn(move || {
            while let Err(mpsc::RecvTimeoutError::Timeout) = ends.recv_timeout(HEARTBEAT) {
                alive(start.elapsed());
            }
        });
        let status = child.wait();
        drop(ended);
        status
    });
    let status = status.map_err(io("wait for", command.get_program()))?;
    if status.success() { Ok(()) } else { Err(failed(what, &status.to_string(), log)) }
}

/// Runs a command and gives what it printed, without the final newline.
pub(crate) fn output(command: &mut Command, what: &str, log: &Path, hint: &'static str) -> Result<String, BundleError> {
    let file = open_log(log)?;
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(file);
    let output = command.output().map_err(|error| missing(command, &error, hint))?;
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).trim_end().to_string())
    } else {
        Err(failed(what, &output.status.to_string(), log))
    }
}

/// The command for `program` that the kernel ends when this process dies, however it dies; where `setpriv` is not
/// installed it only ends with the terminal's Ctrl-C.
pub(crate) fn bound_to_us(program: &str) -> Command {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let has = |name: &str| std::env::split_paths(&path).any(|dir| dir.join(name).is_file());
    // A program that is not there is started plainly, so that the error names it and not `setpriv`.
    if has("setpriv") && has(program) {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--", program]);
        command
    } else {
        Command::new(program)
    }
}

fn failed(what: &str, status: &str, log: &Path) -> BundleError {
    let tail = tail(log);
    if tail.contains("no space left on device") {
        return BundleError::DiskFull { what: what.to_string(), log: log.to_path_buf() };
    }
    BundleError::Command { what: what.to_string(), status: status.to_string(), tail, log: log.to_path_buf() }
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
        let error = run(&mut command, "building x", &log, "", &|_| ()).unwrap_err().to_string();
        assert!(error.starts_with("building x failed (exit status: 3)") && error.contains("100\nbroken"), "{error}");
        assert!(!error.contains("\n50\n"), "{error}");
    }

    #[test]
    fn a_full_disk_is_called_one() {
        let dir = tempfile::tempdir().unwrap();
        let mut command = Command::new("sh");
        command.args(["-c", "echo 'link: write /x: no space left on device' >&2; exit 1"]);
        let error = run(&mut command, "building x", &dir.path().join("log"), "", &|_| ()).unwrap_err().to_string();
        assert!(error.starts_with("building x failed: the disk is full") && error.contains("hint:"), "{error}");
    }

    #[test]
    fn a_missing_program_is_named_with_the_hint() {
        let dir = tempfile::tempdir().unwrap();
        let mut command = Command::new("no-such-program-here");
        let error = run(&mut command, "x", &dir.path().join("log"), "install it", &|_| ()).unwrap_err().to_string();
        assert!(error.contains("no-such-program-here") && error.contains("hint: install it"), "{error}");
    }
}
