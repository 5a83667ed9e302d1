//! Processes of the host as `/proc` shows them, and the pipe that ties helpers to the harness's life.

use std::fs;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::ExitStatus;
use std::sync::OnceLock;

use nix::fcntl::{FcntlArg, FdFlag, OFlag, fcntl};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, pipe2};

use crate::node::Process;

/// Exit code as a shell gives it: 128 + signal for a process that a signal ended.
#[must_use]
pub fn exit_code(status: ExitStatus) -> i32 {
    status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0))
}

/// Asks a helper of ours to end what it carries. One that is gone already is fine.
pub(crate) fn terminate(pid: u32) {
    let _ = kill(Pid::from_raw(pid.cast_signed()), Signal::SIGTERM);
}

/// Start time of a living process, in clock ticks since boot; None when it is gone or a zombie.
#[must_use]
pub fn start_time(pid: i32) -> Option<u64> {
    parse_start_time(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// The same from the text of the process's `stat` file (proc_pid_stat(5)).
pub(crate) fn parse_start_time(stat: &str) -> Option<u64> {
    // The name in parentheses may hold anything; the fields follow the last one.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    let state = fields.next()?;
    if state == "Z" || state == "X" {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

/// A process of the host; None when it is gone.
#[must_use]
pub fn look(pid: i32) -> Option<Process> {
    let started = start_time(pid)?;
    let command = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let argv =
        command.split(|b| *b == 0).filter(|a| !a.is_empty()).map(|a| String::from_utf8_lossy(a).into_owned()).collect();
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let numbers = status.lines().find_map(|l| l.strip_prefix("NSpid:")).unwrap_or_default();
    // From the outermost namespace inwards: the second is the node's.
    let node_pid = numbers.split_whitespace().nth(1).and_then(|n| n.parse().ok());
    Some(Process { pid, node_pid, argv, started })
}

/// This boot of the host.
///
/// # Errors
/// When `/proc` is not there.
pub fn boot_id() -> std::io::Result<String> {
    Ok(fs::read_to_string(Path::new("/proc/sys/kernel/random/boot_id"))?.trim().to_owned())
}

/// The number of a descriptor that every child inherits and that reports "hung up" once this process is gone, however
/// it ended. None when no pipe could be made; helpers then live as long as their own parent's other streams.
#[must_use]
pub fn lifeline() -> Option<RawFd> {
    static ENDS: OnceLock<Option<(OwnedFd, OwnedFd)>> = OnceLock::new();
    let ends = ENDS.get_or_init(|| {
        let (read, write) = pipe2(OFlag::O_CLOEXEC).ok()?;
        // Only the read end is inherited: whoever holds the write end keeps the line alive.
        fcntl(read.as_fd(), FcntlArg::F_SETFD(FdFlag::empty())).ok()?;
        Some((read, write))
    });
    ends.as_ref().map(|(read, _)| read.as_raw_fd())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_known_by_number_and_start() {
        let me = std::process::id().cast_signed();
        let seen = look(me).unwrap();
        assert_eq!(Some(seen.started), start_time(me));
        assert!(!seen.argv.is_empty());
        assert_eq!(start_time(i32::MAX), None);
    }

    #[test]
    fn a_signal_becomes_an_exit_code() {
        assert_eq!(exit_code(ExitStatus::from_raw(9)), 137);
        assert_eq!(exit_code(ExitStatus::from_raw(3 << 8)), 3);
    }
}
