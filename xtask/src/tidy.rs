//! The rules of the repository that no compiler checks. Also a unit test, so that nobody has to remember to run it.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::Args;

use crate::shell;

mod arrows;
mod commands;
mod declarations;
mod sources;
mod statements;

/// Arguments of `cargo xtask tidy`.
#[derive(Debug, Args)]
pub struct TidyArgs {
    /// Take the statements that a check asserts by now off the lists of those not yet checked, and have ARCHITECTURE.md
    /// show declarations as they are.
    #[arg(long)]
    fix: bool,
}

/// One rule that is broken at one place.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Breach {
    /// Relative to the repository; line 0 means the whole file.
    pub file: PathBuf,
    /// From 1.
    pub line: usize,
    /// What is wrong and what to do.
    pub what: String,
}

impl fmt::Display for Breach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => write!(f, "{}: {}", self.file.display(), self.what),
            line => write!(f, "{}:{line}: {}", self.file.display(), self.what),
        }
    }
}

/// Runs every rule, the accounting of the statements included.
///
/// # Errors
/// When a file cannot be read, or the catalogue cannot be asked.
pub fn tidy(args: &TidyArgs) -> Result<u8> {
    if args.fix {
        statements::settle(&shell::root())?;
        declarations::settle(&shell::root())?;
    }
    let code = report(&shell::root())?;
    // The table of checks is code: only the suites themselves can tell which statements they assert.
    Ok(code.max(statements::account()?))
}

/// Runs the rules that read files only and prints what they find.
///
/// # Errors
/// When a file cannot be read.
pub fn report(root: &Path) -> Result<u8> {
    let breaches = breaches(root)?;
    for breach in &breaches {
        println!("{breach}");
    }
    shell::say(format!("tidy: {} breach(es)", breaches.len()));
    Ok(u8::from(!breaches.is_empty()))
}

/// Every breach in the tree under `root`, in a fixed order.
///
/// # Errors
/// When a file cannot be read.
fn breaches(root: &Path) -> Result<Vec<Breach>> {
    let mut found = Vec::new();
    for file in files(root, "rs")? {
        let text = read(root, &file)?;
        found.extend(sources::check(&file, &text));
    }
    found.extend(arrows::check(root)?);
    found.extend(commands::check(root)?);
    found.extend(declarations::check(root)?);
    found.sort();
    Ok(found)
}

/// Files of one extension that belong to the project, relative to `root`, sorted.
fn files(root: &Path, extension: &str) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for folder in ["harness", "suites", "fixtures", "reports", "ci", "xtask", "docs"] {
        if !root.join(folder).is_dir() {
            continue;
        }
        for entry in walkdir::WalkDir::new(root.join(folder)).sort_by_file_name() {
            let entry = entry.with_context(|| format!("cannot list {folder}"))?;
            if entry.file_type().is_file() && entry.path().extension().is_some_and(|e| e == extension) {
                found.push(entry.path().strip_prefix(root).context("outside of the root")?.to_path_buf());
            }
        }
    }
    Ok(found)
}

fn read(root: &Path, file: &Path) -> Result<String> {
    fs::read_to_string(root.join(file)).with_context(|| format!("cannot read {}", file.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_repository_is_tidy() {
        let found = breaches(&shell::root()).unwrap();
        let lines: Vec<String> = found.iter().map(ToString::to_string).collect();
        assert!(lines.is_empty(), "\n{}", lines.join("\n"));
    }

    #[test]
    fn sources_are_really_read() {
        let found = files(&shell::root(), "rs").unwrap();
        assert!(found.contains(&PathBuf::from("xtask/src/tidy.rs")), "{found:?}");
        assert!(found.contains(&PathBuf::from("harness/core/src/lib.rs")), "{found:?}");
    }
}
