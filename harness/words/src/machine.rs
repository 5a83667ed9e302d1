//! A machine of the cluster as the words use it: commands, files, and nothing that depends on how it is reached.
//!
//! The provisioner's own handle stands behind this trait, so that a word never names a provisioner and its unit tests
//! run on a machine of a few lines.

use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use shakedown_node::{Exec, Node};
use thiserror::Error;

/// A node did not do what was asked.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("node {node}: {why}")]
pub struct MachineError {
    /// Node name.
    pub node: String,
    /// What failed, and why.
    pub why: String,
}

impl MachineError {
    /// `why` went wrong on `node`.
    pub fn new(node: impl Into<String>, why: impl std::fmt::Display) -> Self {
        Self { node: node.into(), why: why.to_string() }
    }
}

/// What a command left behind.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Output {
    /// Exit code; 128 + signal where a signal ended it.
    pub code: i32,
    /// Standard output.
    pub stdout: Vec<u8>,
    /// Standard error.
    pub stderr: Vec<u8>,
}

impl Output {
    /// Standard output as text; what is not UTF-8 is replaced.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// Standard error as text, trimmed.
    pub fn complaint(&self) -> String {
        String::from_utf8_lossy(&self.stderr).trim().to_owned()
    }
}

/// A file as it was found on a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileFound {
    /// Its bytes.
    pub content: Vec<u8>,
    /// Its permission bits.
    pub mode: u32,
}

/// One machine of the cluster.
pub trait Machine: Send + Sync + 'static {
    /// Its name, the same as the API's node name.
    fn name(&self) -> &str;

    /// Runs a command in the node, with nothing but `stdin` as its input. A non-zero exit is an [`Output`], not an error.
    fn exec<'a>(
        &'a self,
        argv: &'a [String],
        stdin: &'a [u8],
        budget: Duration,
    ) -> BoxFuture<'a, Result<Output, MachineError>>;

    /// A file's bytes and mode; `None` where it does not exist.
    fn read<'a>(&'a self, path: &'a str) -> BoxFuture<'a, Result<Option<FileFound>, MachineError>>;

    /// Puts a file in place in one step (temporary file, fsync, rename), with parents where they are missing.
    fn write<'a>(&'a self, path: &'a str, content: &'a [u8], mode: u32) -> BoxFuture<'a, Result<(), MachineError>>;

    /// Removes a file or a directory with all it holds; fine where it does not exist.
    fn remove<'a>(&'a self, path: &'a str) -> BoxFuture<'a, Result<(), MachineError>>;
}

/// A machine of a cluster that the harness provisioned.
pub struct OfCluster(pub Arc<dyn Node>);

impl OfCluster {
    fn fail(&self, why: impl std::fmt::Display) -> MachineError {
        MachineError::new(self.0.name(), why)
    }
}

impl Machine for OfCluster {
    fn name(&self) -> &str {
        self.0.name()
    }

    fn exec<'a>(
        &'a self,
        argv: &'a [String],
        stdin: &'a [u8],
        budget: Duration,
    ) -> BoxFuture<'a, Result<Output, MachineError>> {
        Box::pin(async move {
            let exec = Exec::new(argv.iter().cloned()).stdin(stdin.to_vec()).timeout(budget);
            let output = self.0.exec(exec).await.map_err(|e| self.fail(e))?;
            Ok(Output { code: output.code, stdout: output.stdout, stderr: output.stderr })
        })
    }

    fn read<'a>(&'a self, path: &'a str) -> BoxFuture<'a, Result<Option<FileFound>, MachineError>> {
        Box::pin(async move {
            let stat = self.0.exec(Exec::new(["stat", "-L", "-c", "%a", path])).await.map_err(|e| self.fail(e))?;
            if stat.code != 0 {
                let said = stat.error_text();
                // Anything but absence (no permission, an ill disk) must not pass for absence: the undo would delete it.
                return if said.contains("No such file") { Ok(None) } else { Err(self.fail(said)) };
            }
            let mode = u32::from_str_radix(&stat.text(), 8).map_err(|e| self.fail(format!("mode of {path}: {e}")))?;
            let content = self.0.read_file(path).await.map_err(|e| self.fail(e))?;
            Ok(Some(FileFound { content, mode }))
        })
    }

    fn write<'a>(&'a self, path: &'a str, content: &'a [u8], mode: u32) -> BoxFuture<'a, Result<(), MachineError>> {
        Box::pin(async move { self.0.write_file(path, content, mode).await.map_err(|e| self.fail(e)) })
    }

    fn remove<'a>(&'a self, path: &'a str) -> BoxFuture<'a, Result<(), MachineError>> {
        Box::pin(async move { self.0.remove_file(path).await.map(|_| ()).map_err(|e| self.fail(e)) })
    }
}
