//! Entering a node: a single-threaded helper process joins the node's control groups and namespaces, then carries a
//! command in it. The async runtime itself never changes namespaces.
//!
//! Two stages. `__enter` runs on the host and passes the exit code on. `__exec` is its child inside the node's process
//! namespace and holds the command: when the stage above it ends for any reason, it ends the command's process group.

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus, Stdio};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, setns};
use nix::sys::prctl;
use nix::sys::signal::{SigSet, Signal, kill, killpg};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use crate::cgroup::{Group, Layout};
use crate::error::{NodeError, Result};
use crate::process::{exit_code, start_time};

/// Exit code of a helper that could not even start the command.
pub const FAILED: i32 = 125;
/// Start of its error output then.
pub const MARK: &str = "shakedown-enter: ";

/// What `__enter` is asked for; its one argument, as JSON.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Enter {
    /// The node's first process.
    pub pid: i32,
    /// Its start time, so that a reused number is refused.
    pub started: u64,
    /// The node's control group path.
    pub group: String,
    /// Ends the command when this descriptor hangs up.
    pub lifeline: Option<i32>,
    /// Start it in a session of its own and return at once.
    pub detached: bool,
    /// Leave it in the caller's process group, so that a terminal works.
    pub interactive: bool,
    /// The command.
    pub argv: Vec<String>,
}

/// First stage: joins the node, starts the second stage, hands its exit code on.
pub fn enter(argument: &OsString) -> i32 {
    let done = argument
        .to_str()
        .and_then(|text| serde_json::from_str::<Enter>(text).ok())
        .ok_or_else(|| NodeError::Helper { helper: "enter", message: "bad argument".into() })
        .and_then(|request| join_and_run(&request));
    match done {
        Ok(code) => code,
        Err(error) => {
            eprintln!("{MARK}{error}");
            FAILED
        }
    }
}

fn join_and_run(request: &Enter) -> Result<i32> {
    let open = |name: &str| {
        let path = format!("/proc/{}/ns/{name}", request.pid);
        File::open(&path).map_err(|e| NodeError::file("open", path, e))
    };
    let namespaces = [
        (open("ipc")?, CloneFlags::CLONE_NEWIPC),
        (open("uts")?, CloneFlags::CLONE_NEWUTS),
        (open("net")?, CloneFlags::CLONE_NEWNET),
        (open("pid")?, CloneFlags::CLONE_NEWPID),
        (open("cgroup")?, CloneFlags::CLONE_NEWCGROUP),
        (open("mnt")?, CloneFlags::CLONE_NEWNS),
    ];
    // Opened here: inside the node, `/proc/self` is not this process.
    let lifeline = request.lifeline.and_then(|fd| File::open(format!("/proc/self/fd/{fd}")).ok());
    // After opening: now the descriptors are known to be this process's and not a successor's.
    if start_time(request.pid) != Some(request.started) {
        return Err(NodeError::system(
            "enter the node: its first process is gone",
            io::Error::from(io::ErrorKind::NotFound),
        ));
    }
    Group::new(Layout::detect()?, &request.group).join_leaf(std::process::id().cast_signed())?;
    for (file, kind) in &namespaces {
        setns(file, *kind).map_err(|e| NodeError::system(format!("join the node's namespaces ({kind:?})"), e))?;
    }
    std::env::set_current_dir("/").map_err(|e| NodeError::file("enter", "/", e))?;
    let signals = watched_signals()?;
    let mode = match (request.detached, request.interactive) {
        (true, _) => "detached",
        (false, true) => "interactive",
        (false, false) => "group",
    };
    let mut command = Command::new("/proc/self/exe");
    command.args(["__exec", mode]).args(&request.argv);
    if request.detached {
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    }
    let child = command.spawn().map_err(|e| NodeError::system("start the second stage", e))?;
    if request.detached {
        return Ok(0);
    }
    let code = attend(child, &signals, lifeline, |pid, signal| {
        let _ = kill(pid, signal);
    });
    Ok(exit_code(code.map_err(|e| NodeError::system("wait for the command", e))?))
}

/// Second stage: holds the command and ends its process group when it is told to, or when the first stage is gone.
pub fn exec(arguments: &[OsString]) -> i32 {
    let [mode, program, rest @ ..] = arguments else {
        eprintln!("{MARK}no command given");
        return FAILED;
    };
    let failed = |error: &io::Error| {
        eprintln!("cannot run {}: {error}", program.display());
        if error.kind() == io::ErrorKind::NotFound { 127 } else { 126 }
    };
    let mut command = Command::new(program);
    command.args(rest);
    match mode.to_str() {
        Some("detached") => {
            let _ = nix::unistd::setsid();
            return failed(&command.exec());
        }
        Some("interactive") => {}
        _ => {
            command.process_group(0);
        }
    }
    let interactive = mode == "interactive";
    let _ = prctl::set_pdeathsig(Signal::SIGTERM);
    let mut run = || -> io::Result<ExitStatus> {
        let signals = watched_signals().map_err(io::Error::other)?;
        let child = command.spawn()?;
        attend(child, &signals, None, |pid, signal| {
            // A whole group is ended for good; a terminal's own signals reach its command without our help.
            let _ = if interactive { kill(pid, signal) } else { killpg(pid, Signal::SIGKILL) };
        })
    };
    match run() {
        Ok(status) => exit_code(status),
        Err(error) => failed(&error),
    }
}

fn watched_signals() -> Result<SignalFd> {
    let mut set = SigSet::empty();
    for signal in [Signal::SIGCHLD, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGINT, Signal::SIGQUIT] {
        set.add(signal);
    }
    // A child started through std begins with an empty mask again.
    set.thread_block().map_err(|e| NodeError::system("block signals", e))?;
    SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
        .map_err(|e| NodeError::system("watch signals", e))
}

/// Waits for a child; passes requests to end on.
fn attend(
    child: Child,
    signals: &SignalFd,
    lifeline: Option<File>,
    mut end: impl FnMut(Pid, Signal),
) -> io::Result<ExitStatus> {
    let pid = Pid::from_raw(child.id().cast_signed());
    let mut line: Option<BorrowedFd<'_>> = lifeline.as_ref().map(AsFd::as_fd);
    loop {
        let mut watched = vec![PollFd::new(signals.as_fd(), PollFlags::POLLIN)];
        watched.extend(line.map(|l| PollFd::new(l, PollFlags::empty())));
        match poll(&mut watched, PollTimeout::NONE) {
            Err(nix::errno::Errno::EINTR) | Ok(_) => {}
            Err(error) => return Err(error.into()),
        }
        if watched.get(1).and_then(PollFd::any) == Some(true) {
            line = None;
            end(pid, Signal::SIGTERM);
        }
        while let Some(signal) = signals.read_signal()? {
            match Signal::try_from(signal.ssi_signo.cast_signed()) {
                Ok(Signal::SIGCHLD) | Err(_) => {}
                Ok(signal) => end(pid, signal),
            }
        }
        match waitpid(pid, Some(WaitPidFlag::WNOHANG))? {
            WaitStatus::Exited(_, code) => return Ok(ExitStatus::from_raw(code << 8)),
            WaitStatus::Signaled(_, signal, _) => return Ok(ExitStatus::from_raw(signal as i32)),
            _ => {}
        }
    }
}
