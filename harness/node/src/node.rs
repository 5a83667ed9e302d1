//! What the harness can do with one machine of a cluster, whatever carries it (namespaces, a container engine, ssh).

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::net::Ipv4Addr;
use std::process::Stdio;
use std::time::Duration;

use futures::future::BoxFuture;
use serde::{Deserialize, Serialize};
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use crate::error::{NodeError, Result};

/// Budget of a command that names none.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(60);
/// How long a command that is being ended has for it, before its helper is killed too.
const END_GRACE: Duration = Duration::from_secs(2);

/// What a machine is in its cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// Runs apiserver, controller manager, scheduler and an etcd member.
    ControlPlane,
    /// Runs workloads.
    Worker,
    /// Stands before the apiservers; no Kubernetes node.
    LoadBalancer,
}

/// A command for a node: no shell, own budget.
#[derive(Debug, Clone)]
pub struct Exec {
    /// Command and arguments.
    pub argv: Vec<String>,
    /// What it reads; empty input when None.
    pub stdin: Option<Vec<u8>>,
    /// Added to the environment.
    pub env: BTreeMap<String, String>,
    /// Ended (with all it started) when it runs longer.
    pub timeout: Duration,
    /// Goes on in the node after the call returns, in a session of its own; output is discarded.
    pub detached: bool,
    /// Keeps the caller's terminal: no process group of its own.
    pub interactive: bool,
}

impl Exec {
    /// A command and its arguments.
    pub fn new<I>(argv: I) -> Self
    where
        I: IntoIterator,
        I::Item: Into<String>,
    {
        Self {
            argv: argv.into_iter().map(Into::into).collect(),
            stdin: None,
            env: BTreeMap::new(),
            timeout: DEFAULT_TIMEOUT,
            detached: false,
            interactive: false,
        }
    }

    /// A script for `/bin/sh`.
    #[must_use]
    pub fn shell(script: &str) -> Self {
        Self::new(["/bin/sh", "-c", script])
    }

    /// Gives it input.
    #[must_use]
    pub fn stdin(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.stdin = Some(bytes.into());
        self
    }

    /// Sets a variable.
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.env.insert(name.to_owned(), value.to_owned());
        self
    }

    /// Sets the budget.
    #[must_use]
    pub fn timeout(mut self, budget: Duration) -> Self {
        self.timeout = budget;
        self
    }

    /// Lets it outlive the caller (a dead-man timer).
    #[must_use]
    pub fn detached(mut self) -> Self {
        self.detached = true;
        self
    }

    /// Leaves it on the caller's terminal.
    #[must_use]
    pub fn interactive(mut self) -> Self {
        self.interactive = true;
        self
    }

    /// As one would type it.
    #[must_use]
    pub fn line(&self) -> String {
        self.argv.join(" ")
    }
}

/// How a command ended and what it wrote.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    /// Exit code; 128 + signal where a signal ended it.
    pub code: i32,
    /// Standard output.
    pub stdout: Vec<u8>,
    /// Error output.
    pub stderr: Vec<u8>,
}

impl Output {
    /// Exit code 0?
    #[must_use]
    pub fn ok(&self) -> bool {
        self.code == 0
    }

    /// Standard output as text, without the white space around it.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).trim().to_owned()
    }

    /// Error output as text, without the white space around it.
    #[must_use]
    pub fn error_text(&self) -> String {
        String::from_utf8_lossy(&self.stderr).trim().to_owned()
    }
}

/// One process of a node, containers' included.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// Its number as the transport addresses it (for namespaces: the host's).
    pub pid: i32,
    /// Its number in the node, where known.
    pub node_pid: Option<i32>,
    /// Command line, arguments apart.
    pub argv: Vec<String>,
    /// Start time in clock ticks since boot: with `pid`, an identity.
    pub started: u64,
}

impl Process {
    /// Base name of the executable as started.
    #[must_use]
    pub fn name(&self) -> &str {
        self.argv.first().map_or("", |a| a.rsplit('/').next().unwrap_or(a))
    }
}

/// What can be done to a machine's power.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Power {
    /// Everything on it stops where it is, and keeps its memory and connections.
    Freeze,
    /// It goes on.
    Thaw,
    /// The plug is pulled: nothing is flushed, nothing says goodbye.
    Cut,
    /// It boots from its disk. No effect on a running one.
    On,
}

/// A machine's state as seen from outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NodeState {
    /// Its first process lives.
    Running,
    /// It lives and is frozen.
    Frozen,
    /// It has no first process.
    Stopped,
}

/// One machine of a cluster. Object-safe: hand it around as `Arc<dyn Node>`.
pub trait Node: Debug + Send + Sync {
    /// Its name, which is also the Kubernetes node's.
    fn name(&self) -> &str;
    /// What it is in the cluster.
    fn role(&self) -> Role;
    /// Its address on the nodes' network.
    fn address(&self) -> Ipv4Addr;
    /// Its state, looked up now.
    fn state(&self) -> NodeState;
    /// A command of the host which, when run, is that command in the node: exit code and streams pass through.
    ///
    /// # Errors
    /// [`NodeError::Down`] when the node is not running.
    fn command(&self, exec: &Exec) -> Result<std::process::Command>;
    /// A file's bytes. Works on a frozen node.
    ///
    /// # Errors
    /// [`NodeError::File`] with the path in the node.
    fn read_file<'a>(&'a self, path: &'a str) -> BoxFuture<'a, Result<Vec<u8>>>;
    /// Writes a file whole (temporary file, fsync, rename), making its directories. Works on a frozen node.
    ///
    /// # Errors
    /// [`NodeError::File`] with the path in the node; then the old content is untouched.
    fn write_file<'a>(&'a self, path: &'a str, bytes: &'a [u8], mode: u32) -> BoxFuture<'a, Result<()>>;
    /// Removes a file or a directory with all in it. False when there was none.
    ///
    /// # Errors
    /// [`NodeError::File`] with the path in the node.
    fn remove_file<'a>(&'a self, path: &'a str) -> BoxFuture<'a, Result<bool>>;
    /// Every process on the node, by number.
    ///
    /// # Errors
    /// When they cannot be listed.
    fn processes(&self) -> BoxFuture<'_, Result<Vec<Process>>>;
    /// Sends a signal to a process of this node; refused when it is not that process any more.
    ///
    /// # Errors
    /// When it is gone.
    fn kill<'a>(&'a self, process: &'a Process, signal: i32) -> BoxFuture<'a, Result<()>>;
    /// Changes its power.
    ///
    /// # Errors
    /// When the host cannot do that.
    fn power(&self, power: Power) -> BoxFuture<'_, Result<()>>;
}

impl dyn Node + '_ {
    /// Runs a command to its end and hands back what it wrote, whatever its exit code.
    ///
    /// # Errors
    /// [`NodeError::TimedOut`] beyond its budget, [`NodeError::Down`] on a node that is not running.
    pub async fn exec(&self, exec: Exec) -> Result<Output> {
        let mut command = Command::from(self.command(&exec)?);
        command.kill_on_drop(true).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(|e| NodeError::system(format!("start `{}`", exec.line()), e))?;
        let pid = child.id();
        let input = child.stdin.take();
        let bytes = exec.stdin.clone().unwrap_or_default();
        // Written beside reading, or a command that answers while it reads would block both.
        let feed = async move {
            if let Some(mut input) = input {
                // A command need not read all of its input: a broken pipe is its choice.
                let _ = input.write_all(&bytes).await;
            }
        };
        let run = async { tokio::join!(feed, child.wait_with_output()).1 };
        tokio::pin!(run);
        let done = match tokio::time::timeout(exec.timeout, &mut run).await {
            Ok(done) => done.map_err(|e| NodeError::system(format!("wait for `{}`", exec.line()), e))?,
            Err(_) => {
                // On TERM the helper ends the command's whole process group; what it last wrote is of no use.
                if let Some(pid) = pid {
                    crate::process::terminate(pid);
                }
                let _ = tokio::time::timeout(END_GRACE, run).await;
                return Err(NodeError::TimedOut {
                    node: self.name().to_owned(),
                    command: exec.line(),
                    seconds: exec.timeout.as_secs(),
                });
            }
        };
        let code = crate::process::exit_code(done.status);
        if code == crate::enter::FAILED && done.stderr.starts_with(crate::enter::MARK.as_bytes()) {
            let message = String::from_utf8_lossy(&done.stderr).trim().to_owned();
            return Err(NodeError::Helper { helper: "enter", message });
        }
        Ok(Output { code, stdout: done.stdout, stderr: done.stderr })
    }

    /// Runs a command that has to succeed and hands back its standard output, trimmed.
    ///
    /// # Errors
    /// [`NodeError::Failed`] with the end of its error output; and as [`Node::exec`](#method.exec).
    pub async fn run(&self, exec: Exec) -> Result<String> {
        let line = exec.line();
        let output = self.exec(exec).await?;
        if output.ok() {
            return Ok(output.text());
        }
        let said = if output.stderr.is_empty() { output.text() } else { output.error_text() };
        let start = said.char_indices().rev().nth(1500).map_or(0, |(i, _)| i);
        Err(NodeError::Failed {
            node: self.name().to_owned(),
            command: line,
            code: output.code,
            stderr: said[start..].to_owned(),
        })
    }

    /// A file's text.
    ///
    /// # Errors
    /// As [`Node::read_file`]; bytes that are no UTF-8 are replaced.
    pub async fn read_text(&self, path: &str) -> Result<String> {
        Ok(String::from_utf8_lossy(&self.read_file(path).await?).into_owned())
    }

    /// The processes whose executable is called `name` (`kubelet`, `containerd`).
    ///
    /// # Errors
    /// As [`Node::processes`].
    pub async fn processes_called(&self, name: &str) -> Result<Vec<Process>> {
        Ok(self.processes().await?.into_iter().filter(|p| p.name() == name).collect())
    }
}
