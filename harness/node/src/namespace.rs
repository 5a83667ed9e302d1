//! The transport `namespace`: a node that is a set of namespaces on this host.

use std::io;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use futures::FutureExt;
use futures::future::BoxFuture;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::boot::{BootRecord, BootSpec};
use crate::cgroup::{Group, Layout};
use crate::enter::Enter;
use crate::error::{NodeError, Result};
use crate::files::Root;
use crate::helper;
use crate::node::{Exec, Node, NodeState, Power, Process, Role};
use crate::process::{lifeline, look, start_time};

/// File name of a node's boot specification beside its directories.
pub const SPEC: &str = "node.json";
/// How long ended processes may take to leave their control group.
const LEAVE: Duration = Duration::from_secs(30);

/// A node made of namespaces; its state is looked up in the kernel each time, nothing is remembered.
#[derive(Debug, Clone)]
pub struct NamespaceNode {
    spec: BootSpec,
    role: Role,
    layout: Layout,
}

impl NamespaceNode {
    /// A node as specified; it may be running or not.
    #[must_use]
    pub fn new(spec: BootSpec, role: Role, layout: Layout) -> Self {
        Self { spec, role, layout }
    }

    /// The specification it boots from.
    #[must_use]
    pub fn spec(&self) -> &BootSpec {
        &self.spec
    }

    /// Its control group.
    #[must_use]
    pub fn group(&self) -> Group {
        self.spec.group(self.layout.clone())
    }

    /// The record of its running first process.
    #[must_use]
    pub fn living(&self) -> Option<BootRecord> {
        BootRecord::living(&self.spec.directory)
    }

    fn record(&self) -> Result<BootRecord> {
        self.living().ok_or_else(|| NodeError::Down { node: self.spec.node.clone() })
    }

    fn root(&self) -> Result<Root> {
        Root::open(&PathBuf::from(format!("/proc/{}/root", self.record()?.pid)))
    }

    /// Writes the specification and boots. What an earlier boot left running is ended first.
    ///
    /// # Errors
    /// When the kernel refuses a part of it; then nothing of it stays.
    pub async fn boot(&self) -> Result<()> {
        if self.living().is_some() {
            return Ok(());
        }
        self.cut()?;
        let path = self.spec.directory.join(SPEC);
        let bytes = serde_json::to_vec_pretty(&self.spec).map_err(|e| NodeError::system("write the node's spec", e))?;
        Root::open(&self.spec.directory)?.write(SPEC, &bytes, 0o644)?;
        helper::run("__boot", &path.to_string_lossy()).await.map(drop)
    }

    /// Ends everything in the node at once and removes its control group.
    ///
    /// # Errors
    /// When a process does not end within some seconds.
    pub fn cut(&self) -> Result<()> {
        let group = self.group();
        // A frozen process takes no signal before it goes on.
        let _ = group.freeze(false);
        // The first process takes the whole process namespace with it; whatever joined the group alone follows.
        if let Some(record) = self.living() {
            let _ = kill(Pid::from_raw(record.pid), Signal::SIGKILL);
        }
        group.end(LEAVE)?;
        // A process leaves its control group a moment before it is gone; a boot must not take it for a living one.
        let end = Instant::now() + LEAVE;
        while self.living().is_some() {
            if Instant::now() >= end {
                return Err(NodeError::system(
                    format!("end node {}: its first process does not go", self.spec.node),
                    io::Error::from(io::ErrorKind::TimedOut),
                ));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }
}

impl Node for NamespaceNode {
    fn name(&self) -> &str {
        &self.spec.node
    }

    fn role(&self) -> Role {
        self.role
    }

    fn address(&self) -> Ipv4Addr {
        self.spec.wire.address
    }

    fn state(&self) -> NodeState {
        match self.living() {
            None => NodeState::Stopped,
            Some(_) if self.group().frozen() => NodeState::Frozen,
            Some(_) => NodeState::Running,
        }
    }

    fn command(&self, exec: &Exec) -> Result<Command> {
        let record = self.record()?;
        // The helper would join the frozen group and hang in it.
        if self.group().frozen() {
            return Err(NodeError::Frozen { node: self.spec.node.clone() });
        }
        let request = Enter {
            pid: record.pid,
            started: record.started,
            group: format!("{}/{}/{}", crate::cgroup::TOP, self.spec.cluster, self.spec.node),
            lifeline: lifeline(),
            detached: exec.detached,
            interactive: exec.interactive,
            argv: exec.argv.clone(),
        };
        let request = serde_json::to_string(&request).map_err(|e| NodeError::system("write the request", e))?;
        let mut command = Command::new(helper::executable()?);
        command
            .arg("__enter")
            .arg(request)
            .env_clear()
            .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
            .env("HOME", "/root")
            .env("LANG", "C.UTF-8")
            .env("KUBECONFIG", "/etc/kubernetes/admin.conf")
            .env(crate::boot::OWNER, format!("{}/{}", self.spec.cluster, self.spec.node));
        if let (true, Some(terminal)) = (exec.interactive, std::env::var_os("TERM")) {
            command.env("TERM", terminal);
        }
        command.envs(&exec.env);
        Ok(command)
    }

    fn read_file<'a>(&'a self, path: &'a str) -> BoxFuture<'a, Result<Vec<u8>>> {
        async move { self.root()?.read(path) }.boxed()
    }

    fn write_file<'a>(&'a self, path: &'a str, bytes: &'a [u8], mode: u32) -> BoxFuture<'a, Result<()>> {
        async move { self.root()?.write(path, bytes, mode) }.boxed()
    }

    fn remove_file<'a>(&'a self, path: &'a str) -> BoxFuture<'a, Result<bool>> {
        async move { self.root()?.remove(path) }.boxed()
    }

    fn processes(&self) -> BoxFuture<'_, Result<Vec<Process>>> {
        async move { Ok(self.group().processes().into_iter().filter_map(look).collect()) }.boxed()
    }

    fn kill<'a>(&'a self, process: &'a Process, signal: i32) -> BoxFuture<'a, Result<()>> {
        async move {
            let gone = || io::Error::from_raw_os_error(nix::libc::ESRCH);
            let action = || format!("signal process {} of node {}", process.pid, self.spec.node);
            let signal = Signal::try_from(signal).map_err(|e| NodeError::system(action(), e))?;
            let ours =
                self.group().processes().contains(&process.pid) && start_time(process.pid) == Some(process.started);
            if !ours {
                return Err(NodeError::system(action(), gone()));
            }
            kill(Pid::from_raw(process.pid), signal).map_err(|e| NodeError::system(action(), e))
        }
        .boxed()
    }

    fn power(&self, power: Power) -> BoxFuture<'_, Result<()>> {
        async move {
            match power {
                Power::Freeze | Power::Thaw => {
                    self.record()?;
                    self.group().freeze(power == Power::Freeze)
                }
                Power::Cut => self.cut(),
                Power::On => self.boot().await,
            }
        }
        .boxed()
    }
}

/// A node from the specification that lies in its directory.
///
/// # Errors
/// When there is none, or it is not understood.
pub fn load(directory: &Path, role: Role) -> Result<NamespaceNode> {
    let path = directory.join(SPEC);
    let bytes = std::fs::read(&path).map_err(|e| NodeError::file("read", &path, e))?;
    let spec = serde_json::from_slice(&bytes).map_err(|e| NodeError::file("understand", &path, e))?;
    Ok(NamespaceNode::new(spec, role, Layout::detect()?))
}
