//! Builds the static `shakedown` binary and runs it.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::shell::{self, Ended};

/// How the binary is compiled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Profile {
    /// What tests and `run` use: compiled once, dependencies optimised.
    Dev,
    /// What `bench` measures.
    Release,
}

/// A built `shakedown`.
#[derive(Debug)]
pub struct Binary {
    path: PathBuf,
}

/// Builds the binary; fast when nothing changed.
///
/// # Errors
/// When the build fails, or when cargo names no executable.
pub fn build(profile: Profile) -> Result<Binary> {
    let mut command = shell::cargo();
    command
        .current_dir(shell::root())
        .args(["build", "--package", "shakedown", "--bin", "shakedown"])
        .args(["--message-format", "json-render-diagnostics"]);
    if profile == Profile::Release {
        command.arg("--release");
    }
    let line = shell::shown(&command);
    shell::say(&line);
    let output = command.stderr(Stdio::inherit()).output().with_context(|| format!("cannot start `{line}`"))?;
    if !output.status.success() {
        bail!("the shakedown binary does not build: `{line}` failed, see above");
    }
    let path = executable(&String::from_utf8_lossy(&output.stdout))
        .with_context(|| format!("`{line}` named no executable"))?;
    Ok(Binary { path })
}

/// The executable named by cargo's JSON messages.
fn executable(messages: &str) -> Option<PathBuf> {
    messages
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .filter(|message| message["target"]["name"] == "shakedown")
        .find_map(|message| message["executable"].as_str().map(PathBuf::from))
}

impl Binary {
    /// Where it lies.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Runs it as the calling user.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn own(&self, args: &[impl AsRef<OsStr>]) -> Result<Ended> {
        shell::run(Command::new(&self.path).args(args))
    }

    /// Runs it as root.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn as_root(&self, args: &[impl AsRef<OsStr>]) -> Result<Ended> {
        shell::run(self.root_command().args(args))
    }

    /// The command that runs it as root, without arguments yet.
    pub fn root_command(&self) -> Command {
        shell::as_root(&self.path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_executable_is_found_among_other_messages() {
        let messages = "not json\n\
            {\"reason\":\"compiler-artifact\",\"target\":{\"name\":\"serde\"},\"executable\":null}\n\
            {\"reason\":\"compiler-artifact\",\"target\":{\"name\":\"shakedown\"},\"executable\":\"/t/shakedown\"}\n";
        assert_eq!(executable(messages), Some(PathBuf::from("/t/shakedown")));
        assert_eq!(executable("{\"reason\":\"build-finished\"}"), None);
    }
}
