//! Roles that this executable plays for itself: PID 1 of a node, and the process that enters one.
//!
//! They run before any thread starts, because `setns` and `unshare` change the calling thread only.

use std::process::ExitCode;

/// Plays the role that the first argument names; `None` where it names none.
pub fn dispatch() -> Option<ExitCode> {
    let arguments: Vec<_> = std::env::args_os().skip(1).collect();
    let code = shakedown_node::helper::dispatch(&arguments)?;
    Some(ExitCode::from(u8::try_from(code).unwrap_or(u8::MAX)))
}
