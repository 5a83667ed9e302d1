//! Running commands with progress: every step says what it does before it starts and how long it took.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail};

/// Prints one progress line.
pub fn say(line: impl AsRef<str>) {
    eprintln!("xtask: {}", line.as_ref());
}

/// The folder of the workspace's `Cargo.toml`.
pub fn root() -> PathBuf {
    // The manifest's folder is `<root>/xtask`; it is known when the task is compiled, from the same checkout.
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here).to_path_buf()
}

/// The project's folder for tools under the user's cache directory (`XDG_CACHE_HOME`, or `~/.cache`).
///
/// # Errors
/// When neither variable is set.
pub fn tools_dir() -> Result<PathBuf> {
    let base = match std::env::var_os("XDG_CACHE_HOME").filter(|dir| Path::new(dir).is_absolute()) {
        Some(dir) => PathBuf::from(dir),
        None => {
            let home = std::env::var_os("HOME")
                .context("cannot find the cache directory: HOME is not set\nhint: set HOME or XDG_CACHE_HOME")?;
            PathBuf::from(home).join(".cache")
        }
    };
    Ok(base.join("shakedown").join("tools"))
}

/// How a command ended.
#[derive(Debug)]
pub struct Ended {
    /// The exit code; 128 + the signal's number when a signal ended it.
    pub code: u8,
    /// The lines that [`tee`] was asked to keep.
    pub kept: Vec<String>,
}

impl Ended {
    /// Turns any exit code but 0 into an error that names `what` failed.
    ///
    /// # Errors
    /// When the command did not end with 0.
    pub fn check(self, what: &str) -> Result<Self> {
        if self.code == 0 { Ok(self) } else { bail!("{what} failed with exit code {}", self.code) }
    }
}

/// The exit code of `status` in the manner of a shell.
pub fn code_of(status: ExitStatus) -> u8 {
    use std::os::unix::process::ExitStatusExt;
    let code = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0));
    u8::try_from(code).unwrap_or(1)
}

/// The command as one would type it.
pub fn shown(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(OsStr::to_string_lossy).collect::<Vec<_>>().join(" ")
}

/// Runs `command` with the terminal's own streams.
///
/// # Errors
/// When it cannot be started.
pub fn run(command: &mut Command) -> Result<Ended> {
    let started = Instant::now();
    let line = shown(command);
    say(&line);
    let status = command.status().with_context(|| format!("cannot start `{line}`"))?;
    let code = code_of(status);
    say(format!("{} after {:.1} s: {line}", outcome(code), started.elapsed().as_secs_f64()));
    Ok(Ended { code, kept: Vec::new() })
}

/// Runs `command`, passes its standard error through line by line, and keeps the lines that `keep` picks.
///
/// # Errors
/// When it cannot be started or its output cannot be read.
pub fn tee(command: &mut Command, keep: fn(&str) -> bool) -> Result<Ended> {
    let started = Instant::now();
    let line = shown(command);
    say(&line);
    let mut child = command.stderr(Stdio::piped()).spawn().with_context(|| format!("cannot start `{line}`"))?;
    let mut kept = Vec::new();
    if let Some(stderr) = child.stderr.take() {
        let mut out = std::io::stderr().lock();
        for text in BufReader::new(stderr).split(b'\n') {
            let text = text.with_context(|| format!("cannot read the output of `{line}`"))?;
            out.write_all(&text).and_then(|()| out.write_all(b"\n")).context("cannot write to standard error")?;
            let text = plain(&String::from_utf8_lossy(&text));
            if keep(&text) {
                kept.push(text);
            }
        }
    }
    let code = code_of(child.wait().with_context(|| format!("cannot wait for `{line}`"))?);
    say(format!("{} after {:.1} s: {line}", outcome(code), started.elapsed().as_secs_f64()));
    Ok(Ended { code, kept })
}

fn outcome(code: u8) -> String {
    if code == 0 { "done".to_owned() } else { format!("exit code {code}") }
}

/// Whether colours may be used on standard error.
pub fn colours() -> bool {
    std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none()
}

/// `text` without terminal escapes.
fn plain(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        if c != '\u{1b}' {
            out.push(c);
        } else if chars.next() == Some('[') {
            // A control sequence ends with its first letter.
            for c in chars.by_ref() {
                if c.is_ascii_alphabetic() {
                    break;
                }
            }
        }
    }
    out
}

/// Whether the task runs as root.
pub fn is_root() -> bool {
    // Field 2 of the `Uid:` line is the effective one.
    std::fs::read_to_string("/proc/self/status")
        .ok()
        .and_then(|status| {
            let line = status.lines().find_map(|line| line.strip_prefix("Uid:"))?;
            Some(line.split_whitespace().nth(1)? == "0")
        })
        .unwrap_or(false)
}

/// The cargo that runs this task, for another call of it.
///
/// Without the variables that `cargo run` sets for this task: build scripts take them for a change and build again.
pub fn cargo() -> Command {
    let mut command = Command::new(env!("CARGO"));
    own_environment(&mut command);
    command
}

/// Takes the variables of this task's own package out of `command`'s environment.
pub fn own_environment(command: &mut Command) {
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_CRATE_", "CARGO_BIN_"].iter().any(|prefix| text.starts_with(prefix))
        {
            command.env_remove(&name);
        }
    }
}

/// A command that runs `program` as root: directly, or through sudo where the task itself is not root.
pub fn as_root(program: &Path) -> Command {
    if is_root() {
        return Command::new(program);
    }
    let mut command = Command::new("sudo");
    command.args(["--preserve-env=HOME,XDG_CACHE_HOME,CI,NO_COLOR,SHAKEDOWN_BIN", "--"]).arg(program);
    command
}

/// Where `name` is found on `PATH`.
pub fn which(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|dir| dir.join(name)).find(|file| file.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_are_removed() {
        assert_eq!(plain("\u{1b}[32;1m     Summary\u{1b}[0m [ 0.1s]"), "     Summary [ 0.1s]");
        assert_eq!(plain("no colours"), "no colours");
    }

    #[test]
    fn a_signal_counts_from_128() {
        let ended = Command::new("sh").args(["-c", "kill -9 $$"]).status().map(code_of);
        assert_eq!(ended.ok(), Some(137));
    }

    #[test]
    fn tee_keeps_what_it_is_asked_to_keep() {
        let mut command = Command::new("sh");
        command.args(["-c", "echo one >&2; echo 'Summary two' >&2; exit 3"]);
        let ended = tee(&mut command, |line| line.contains("Summary")).unwrap();
        assert_eq!((ended.code, ended.kept), (3, vec!["Summary two".to_owned()]));
    }

    #[test]
    fn a_program_that_is_not_there_is_named() {
        let error = run(&mut Command::new("/nonexistent/program")).unwrap_err();
        assert!(error.to_string().contains("/nonexistent/program"), "{error}");
    }
}
