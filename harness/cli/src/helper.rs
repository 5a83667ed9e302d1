//! Roles that this executable plays for itself: PID 1 of a node, and the process that enters one.
//!
//! They run before any thread starts, because `setns` and `unshare` change the calling thread only.

use std::process::ExitCode;

/// Plays the role that the first argument names; `None` where it names none.
///
/// Each role is a line `"__role" => Some(shakedown_node::role(args))`.
pub fn dispatch() -> Option<ExitCode> {
    let mut args = std::env::args_os().skip(1);
    let role = args.next()?;
    match role.to_str()? {
        _ => None,
    }
}
