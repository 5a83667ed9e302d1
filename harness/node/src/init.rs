//! The first process of a node: starts what is due, restarts what dies, reaps what is left behind, keeps their logs.
//!
//! It is told what to run as one JSON argument. What it knows is in `/run/shakedown` for whoever looks from outside;
//! `/run/shakedown/NAME.off` holds a service down until the file is removed (the node's `systemctl stop`).

use std::ffi::OsString;
use std::fs::{self, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::mount::{MsFlags, mount};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

/// Where the first process keeps what others may read.
pub const STATE: &str = "/run/shakedown";
/// Where logs are, one file a service.
pub const LOGS: &str = "/var/log/shakedown";

/// Something that the first process keeps running.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Service {
    /// Name of its log and of its files in [`STATE`].
    pub name: String,
    /// Script for `/bin/sh`; it should end in `exec`, so that the service's process is the one that is watched.
    pub script: String,
    /// Started only once all these are there.
    pub after: Vec<String>,
    /// And one of these, if any are named.
    pub after_any: Vec<String>,
}

/// Pause before the first restart; doubled with each one that follows soon.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// Having lived this long, a service has earned a quick restart again.
const SETTLED: Duration = Duration::from_secs(10);
/// How often a condition without a watch is looked at while something is not started yet.
const LOOK: u16 = 50;
/// And while everything runs.
const IDLE: u16 = 1000;

struct Running<'a> {
    service: &'a Service,
    pid: Option<Pid>,
    since: Instant,
    not_before: Instant,
    pause: Duration,
}

/// Runs as first process until the node is ended. Returns only when it cannot even begin.
pub fn init(argument: &OsString) -> i32 {
    // Nothing is started before the record of this boot is written; without one there is no node.
    let mut word = [0; 3];
    if io::stdin().read_exact(&mut word).is_err() {
        return 1;
    }
    let Some(services) = argument.to_str().and_then(|t| serde_json::from_str::<Vec<Service>>(t).ok()) else {
        return 2;
    };
    match run(&services) {
        Ok(()) => 0,
        Err(error) => {
            let _ = writeln!(io::stdout(), "the first process cannot begin: {error}");
            1
        }
    }
}

fn run(services: &[Service]) -> io::Result<()> {
    let quiet = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("proc"), "/proc", Some("proc"), quiet, None::<&str>)?;
    for directory in [STATE, LOGS] {
        fs::create_dir_all(directory)?;
    }
    shield_settings();
    raise_file_limit();
    // The hostname's own forwarding switch: pods are reached through the node.
    let _ = fs::write("/proc/sys/net/ipv4/ip_forward", "1");
    let mut set = SigSet::empty();
    for signal in [Signal::SIGCHLD, Signal::SIGTERM] {
        set.add(signal);
    }
    set.thread_block()?;
    let signals = SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
    let now = Instant::now();
    let mut running: Vec<Running<'_>> = services
        .iter()
        .map(|service| Running { service, pid: None, since: now, not_before: now, pause: FIRST_PAUSE })
        .collect();
    // The pipe's other end waits for its end, so it is closed; nothing else is ever written there.
    writeln!(io::stdout(), "ready")?;
    let null = OpenOptions::new().write(true).open("/dev/null")?;
    nix::unistd::dup2_stdout(&null)?;
    let mut ending = false;
    loop {
        for one in &mut running {
            tend(one, ending);
        }
        if ending && running.iter().all(|r| r.pid.is_none()) {
            return Ok(());
        }
        let waiting = ending || running.iter().any(|r| r.pid.is_none());
        let timeout = PollTimeout::from(if waiting { LOOK } else { IDLE });
        match poll(&mut [PollFd::new(signals.as_fd(), PollFlags::POLLIN)], timeout) {
            Err(nix::errno::Errno::EINTR) | Ok(_) => {}
            Err(error) => return Err(error.into()),
        }
        while let Some(signal) = signals.read_signal()? {
            ending |= signal.ssi_signo.cast_signed() == Signal::SIGTERM as i32;
        }
        reap(&mut running);
    }
}

/// Settings of the whole host that cannot be put back once a program in a node has changed them. In the node they are
/// plain files: whoever writes there reads its own value, and the host keeps its own.
const SHIELDED: [&str; 1] = ["/proc/sys/kernel/unprivileged_bpf_disabled"];

fn shield_settings() {
    for path in SHIELDED {
        let Ok(value) = fs::read(path) else { continue };
        let own = Path::new(STATE).join(path.trim_start_matches('/').replace('/', "."));
        if fs::write(&own, value).is_ok() {
            // A node without the shield works all the same.
            let _ = mount(Some(&own), path, None::<&str>, MsFlags::MS_BIND, None::<&str>);
        }
    }
}

/// Containers' runtimes ask for more descriptors than a host's default; what cannot be raised stays.
fn raise_file_limit() {
    const WANTED: u64 = 1_048_576;
    if setrlimit(Resource::RLIMIT_NOFILE, WANTED, WANTED).is_err()
        && let Ok((_, hard)) = getrlimit(Resource::RLIMIT_NOFILE)
    {
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    }
}

fn tend(one: &mut Running<'_>, ending: bool) {
    let held = ending || Path::new(STATE).join(format!("{}.off", one.service.name)).exists();
    match one.pid {
        Some(pid) if held => {
            let _ = kill(pid, Signal::SIGTERM);
        }
        None if !held && Instant::now() >= one.not_before && due(one.service) => match start(one.service) {
            Ok(pid) => {
                one.pid = Some(pid);
                one.since = Instant::now();
                publish(one.service, Some(pid));
            }
            Err(error) => {
                log(one.service, &format!("cannot start: {error}"));
                one.not_before = Instant::now() + LONGEST_PAUSE;
            }
        },
        _ => {}
    }
}

fn due(service: &Service) -> bool {
    service.after.iter().all(|p| Path::new(p).exists())
        && (service.after_any.is_empty() || service.after_any.iter().any(|p| Path::new(p).exists()))
}

fn start(service: &Service) -> io::Result<Pid> {
    let file = OpenOptions::new().create(true).append(true).open(log_path(service))?;
    let child = Command::new("/bin/sh")
        .args(["-c", &service.script])
        .stdin(Stdio::null())
        .stdout(file.try_clone()?)
        .stderr(file)
        .process_group(0)
        .spawn()?;
    Ok(Pid::from_raw(child.id().cast_signed()))
}

/// A node inherits whatever loses its parent, so every ended process is waited for, not only our own.
fn reap(running: &mut [Running<'_>]) {
    loop {
        let (pid, how) = match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::Exited(pid, code)) => (pid, format!("exit code {code}")),
            Ok(WaitStatus::Signaled(pid, signal, _)) => (pid, format!("signal {signal}")),
            Ok(WaitStatus::StillAlive) | Err(_) => return,
            Ok(_) => continue,
        };
        if let Some(one) = running.iter_mut().find(|r| r.pid == Some(pid)) {
            one.pause = if one.since.elapsed() >= SETTLED { FIRST_PAUSE } else { (one.pause * 2).min(LONGEST_PAUSE) };
            one.pid = None;
            one.not_before = Instant::now() + one.pause;
            publish(one.service, None);
            log(one.service, &format!("ended with {how}"));
        }
    }
}

fn publish(service: &Service, pid: Option<Pid>) {
    let path = Path::new(STATE).join(format!("{}.pid", service.name));
    let _ = match pid {
        Some(pid) => fs::write(path, pid.to_string()),
        None => fs::remove_file(path),
    };
}

fn log_path(service: &Service) -> std::path::PathBuf {
    Path::new(LOGS).join(format!("{}.log", service.name))
}

fn log(service: &Service, line: &str) {
    if let Ok(mut file) = OpenOptions::new().create(true).append(true).open(log_path(service)) {
        let _ = writeln!(file, "shakedown: {}: {line}", service.name);
    }
}
