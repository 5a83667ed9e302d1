//! Exit codes, all in one place. The first that applies: 2 wrong use, 1 a check failed or residue was found,
//! 3 inconclusive, error or nothing executed, 0; and 130 where Ctrl-C ended it, after everything was undone.

use std::fmt::Write as _;
use std::process::ExitCode;

use shakedown_core::Verdict;
use thiserror::Error;

/// What the process ends with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exit(u8);

impl Exit {
    /// All that was asked for holds.
    pub const OK: Exit = Exit(0);
    /// A check failed, or residue was found.
    pub const FAILED: Exit = Exit(1);
    /// Unknown id, bad file, bad argument.
    pub const USAGE: Exit = Exit(2);
    /// Inconclusive, an error of the harness, or nothing was executed.
    pub const DOUBT: Exit = Exit(3);
    /// Ctrl-C.
    pub const INTERRUPTED: Exit = Exit(130);

    /// The code of a command that was run for the user, passed through.
    pub fn passed_through(code: i32) -> Exit {
        Exit(u8::try_from(code).unwrap_or(u8::MAX))
    }

    /// The code as a number.
    pub fn code(self) -> u8 {
        self.0
    }

    /// Of a run's verdicts. A run in which nothing was executed proves nothing.
    pub fn of_verdicts(verdicts: impl IntoIterator<Item = Verdict>) -> Exit {
        let (mut failed, mut doubt, mut executed) = (false, false, false);
        for verdict in verdicts {
            match verdict {
                Verdict::Pass => executed = true,
                Verdict::Fail => (failed, executed) = (true, true),
                Verdict::Inconclusive | Verdict::Error => doubt = true,
                Verdict::Skip => {}
            }
        }
        match (failed, doubt, executed) {
            (true, _, _) => Exit::FAILED,
            (false, true, _) | (false, false, false) => Exit::DOUBT,
            (false, false, true) => Exit::OK,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> ExitCode {
        ExitCode::from(exit.0)
    }
}

/// The command was used wrongly: exit code 2.
#[derive(Debug, Error)]
#[error("{0}")]
pub struct Usage(String);

/// Wrong use, as an error that ends in exit code 2. May carry a `hint:` line of its own.
pub fn usage(what: impl std::fmt::Display) -> anyhow::Error {
    anyhow::Error::new(Usage(what.to_string()))
}

/// The user ended it.
#[derive(Debug, Error)]
#[error("interrupted")]
pub struct Interrupted;

/// Prints an error and says which code it ends in.
pub fn report(error: &anyhow::Error, cancelled: bool) -> Exit {
    let exit = code_of(error, cancelled);
    // A reader that has gone away (`shakedown ... | head`) is told nothing.
    if !is_broken_pipe(error) {
        eprintln!("{}", text_of(error));
    }
    exit
}

fn code_of(error: &anyhow::Error, cancelled: bool) -> Exit {
    if cancelled || error.is::<Interrupted>() {
        Exit::INTERRUPTED
    } else if error.chain().any(|cause| cause.is::<Usage>()) {
        Exit::USAGE
    } else if is_broken_pipe(error) {
        Exit::OK
    } else {
        Exit::DOUBT
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error
        .chain()
        .any(|cause| cause.downcast_ref::<std::io::Error>().is_some_and(|e| e.kind() == std::io::ErrorKind::BrokenPipe))
}

/// `error: what failed`, then its causes, then the hint, each on a line of its own.
///
/// A cause that its parent already quotes is left out, and hints come last wherever in the chain they stand.
fn text_of(error: &anyhow::Error) -> String {
    let mut hints = Vec::new();
    let mut lines: Vec<String> = Vec::new();
    for cause in error.chain() {
        let text = cause.to_string();
        let mut said = Vec::new();
        for line in text.lines() {
            match line.trim_start().strip_prefix("hint:") {
                Some(hint) => {
                    let hint = hint.trim().to_owned();
                    if !hints.contains(&hint) {
                        hints.push(hint);
                    }
                }
                None => said.push(line),
            }
        }
        let said = said.join("\n");
        if !said.is_empty() && !lines.iter().any(|earlier| earlier.contains(&said)) {
            lines.push(said);
        }
    }
    let mut text = format!("error: {}", lines.first().map_or("unknown", String::as_str));
    for cause in lines.iter().skip(1) {
        let _ = write!(text, "\n  because: {cause}");
    }
    for hint in hints {
        let _ = write!(text, "\nhint: {hint}");
    }
    text
}

#[cfg(test)]
mod tests {
    use anyhow::anyhow;

    use super::*;

    #[test]
    fn the_first_code_that_applies_wins() {
        use Verdict::{Error, Fail, Inconclusive, Pass, Skip};
        assert_eq!(Exit::of_verdicts([Pass, Skip]), Exit::OK);
        assert_eq!(Exit::of_verdicts([Pass, Fail, Error]), Exit::FAILED);
        assert_eq!(Exit::of_verdicts([Pass, Inconclusive]), Exit::DOUBT);
        assert_eq!(Exit::of_verdicts([Pass, Error]), Exit::DOUBT);
        assert_eq!(Exit::of_verdicts([Skip]), Exit::DOUBT);
        assert_eq!(Exit::of_verdicts([]), Exit::DOUBT);
    }

    #[test]
    fn errors_end_in_the_code_that_their_cause_fixes() {
        assert_eq!(code_of(&usage("no check `x`").context("selection"), false), Exit::USAGE);
        assert_eq!(code_of(&anyhow!("cannot read"), false), Exit::DOUBT);
        assert_eq!(code_of(&anyhow!("cannot read"), true), Exit::INTERRUPTED);
        assert_eq!(code_of(&anyhow::Error::new(Interrupted), false), Exit::INTERRUPTED);
    }

    #[test]
    fn an_error_reads_what_why_and_hint() {
        let cause = anyhow!("cannot open the bundle: no such file\nhint: run `shakedown bundle build`");
        let text = text_of(&cause.context("cannot bring the cluster up"));
        assert_eq!(
            text,
            "error: cannot bring the cluster up\n  because: cannot open the bundle: no such file\n\
             hint: run `shakedown bundle build`"
        );
    }

    #[test]
    fn a_cause_that_was_quoted_is_not_repeated() {
        let inner = std::io::Error::other("disk full");
        let text = text_of(&anyhow::Error::new(inner).context("cannot write the report: disk full"));
        assert_eq!(text, "error: cannot write the report: disk full");
    }
}
