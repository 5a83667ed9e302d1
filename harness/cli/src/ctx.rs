//! What every command is given: which cluster, how to answer, where progress goes, and when to stop.

use std::future::Future;
use std::io::Write as _;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use serde::Serialize;
use shakedown_core::Cancel;
use tokio::signal::unix::{SignalKind, signal};

use crate::exit::{Exit, Interrupted};
use crate::progress::Progress;

/// The cluster that is meant where none is named.
pub const DEFAULT_NAME: &str = "shakedown";

/// What every command is given.
#[derive(Clone)]
pub struct Ctx {
    /// The cluster's name.
    pub name: String,
    /// Whether facts are printed as JSON.
    pub json: bool,
    /// Where progress goes; also an event sink.
    pub progress: Arc<Progress>,
    /// Set by Ctrl-C.
    pub cancel: Cancel,
}

impl Ctx {
    /// For one call of the command.
    pub fn new(name: String, json: bool, quiet: bool) -> Self {
        Self { name, json, progress: Arc::new(Progress::to_stderr(quiet)), cancel: Cancel::new() }
    }

    /// Prints a line on standard output.
    ///
    /// # Errors
    /// Standard output is closed.
    pub fn line(&self, text: impl std::fmt::Display) -> Result<()> {
        self.progress.end();
        writeln!(std::io::stdout().lock(), "{text}").context("cannot write to standard output")
    }

    /// Prints facts as JSON on standard output.
    ///
    /// # Errors
    /// Standard output is closed.
    pub fn print_json(&self, facts: &impl Serialize) -> Result<()> {
        self.line(serde_json::to_string_pretty(facts).context("cannot write the facts as JSON")?)
    }
}

/// What Ctrl-C does to a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnInterrupt {
    /// It is dropped where it stands: it goes on from there when it is called again.
    Abandon,
    /// It is told through [`Ctx::cancel`], undoes what it has to and returns. A second Ctrl-C drops it; the journal
    /// keeps what is still open.
    Undo,
    /// The signal belongs to the program that it runs.
    Leave,
}

/// Runs a command until it is done or the user ends it.
///
/// # Errors
/// The command's own, or [`Interrupted`].
pub async fn until_interrupted(
    ctx: &Ctx,
    on: OnInterrupt,
    command: impl Future<Output = Result<Exit>>,
) -> Result<Exit> {
    tokio::pin!(command);
    if on == OnInterrupt::Leave {
        return command.await;
    }
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen for Ctrl-C")?;
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
    loop {
        tokio::select! {
            done = &mut command => {
                return if ctx.cancel.is_cancelled() { done.and(Ok(Exit::INTERRUPTED)) } else { done };
            }
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        if on == OnInterrupt::Abandon || ctx.cancel.is_cancelled() {
            ctx.cancel.cancel();
            return Err(Interrupted.into());
        }
        ctx.cancel.cancel();
        ctx.progress.say("interrupted: putting everything back; once more to stop at once, then `shakedown recover`");
    }
}

/// Accepts what can stand in host names, cgroups and paths.
///
/// # Errors
/// What is wrong with it.
pub fn cluster_name(text: &str) -> Result<String, String> {
    let fits = !text.is_empty()
        && text.len() <= 32
        && text.starts_with(|c: char| c.is_ascii_lowercase())
        && !text.ends_with('-')
        && text.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-');
    if fits {
        Ok(text.to_owned())
    } else {
        Err("a cluster's name is at most 32 of a-z, 0-9 and `-`, begins with a letter and does not end with `-`".into())
    }
}

#[cfg(test)]
mod tests {
    use super::cluster_name;

    #[test]
    fn names_that_could_leave_their_directory_are_refused() {
        for good in ["shakedown", "a", "team-1"] {
            assert!(cluster_name(good).is_ok(), "{good}");
        }
        for bad in ["", "../x", "A", "1a", "a-", "a/b", "a b", &"a".repeat(33)] {
            assert!(cluster_name(bad).is_err(), "{bad}");
        }
    }
}
