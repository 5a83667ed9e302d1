//! Hidden subcommands of the executable: helper processes with one thread, dispatched before any runtime starts.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use crate::error::{NodeError, Result};

/// Does what a hidden subcommand asks for; None when the arguments (without the program's name) are a user's.
///
/// Call it first thing in `main`.
#[must_use]
pub fn dispatch(arguments: &[OsString]) -> Option<i32> {
    let (word, rest) = arguments.split_first()?;
    let empty = OsString::new();
    let first = rest.first().unwrap_or(&empty);
    match word.to_str()? {
        "__init" => Some(crate::init::init(first)),
        "__boot" => Some(crate::boot::boot_helper(first)),
        "__enter" => Some(crate::enter::enter(first)),
        "__exec" => Some(crate::enter::exec(rest)),
        "__net" => Some(crate::net::net_helper(first)),
        "__probe" => Some(crate::probe::probe_helper()),
        _ => None,
    }
}

/// The executable that carries the helpers: this one, or `SHAKEDOWN_EXE` where this one is another program (a test).
///
/// # Errors
/// [`NodeError::NoExecutable`].
pub fn executable() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("SHAKEDOWN_EXE") {
        return Ok(path.into());
    }
    let own = std::env::current_exe().map_err(|_| NodeError::NoExecutable)?;
    if own
        .file_name()
        .is_some_and(|n| n.to_string_lossy().starts_with("shakedown") && !n.to_string_lossy().contains('-'))
    {
        // A running executable that was replaced on disk is still there under this name.
        return Ok("/proc/self/exe".into());
    }
    // A test's executable lies in `deps`, the command one directory above it.
    own.ancestors().skip(1).take(2).map(|d| d.join("shakedown")).find(|p| p.is_file()).ok_or(NodeError::NoExecutable)
}

/// Runs a helper to its end; its error output is the error.
///
/// # Errors
/// [`NodeError::Helper`] with its words.
pub async fn run(helper: &'static str, argument: &str) -> Result<Vec<u8>> {
    let mut command = Command::new(executable()?);
    command.arg(helper).arg(argument).stdin(Stdio::null());
    let output = tokio::process::Command::from(command)
        .kill_on_drop(true)
        .output()
        .await
        .map_err(|e| NodeError::system(format!("start the helper {helper}"), e))?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    Err(NodeError::Helper { helper, message: String::from_utf8_lossy(&output.stderr).trim().to_owned() })
}
