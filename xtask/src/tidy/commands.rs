//! The commands and links that the documents show exist. `cargo xtask` lines are parsed by the task's own parser here;
//! `shakedown` lines by the binary's, in its own tests.

use std::path::{Path, PathBuf};

use anyhow::Result;
use clap::Parser;
use clap::error::ErrorKind;

use super::{Breach, files, read};
use crate::Cli;

/// Breaches in README.md, ARCHITECTURE.md and the other documents.
///
/// # Errors
/// When a document cannot be read.
pub fn check(root: &Path) -> Result<Vec<Breach>> {
    let mut documents: Vec<PathBuf> =
        ["README.md", "ARCHITECTURE.md", "CHANGELOG.md"].iter().map(PathBuf::from).collect();
    documents.extend(files(root, "md")?);
    let mut found = Vec::new();
    for file in documents {
        let text = read(root, &file)?;
        found.extend(check_one(root, &file, &text));
    }
    Ok(found)
}

fn check_one(root: &Path, file: &Path, text: &str) -> Vec<Breach> {
    let mut found = Vec::new();
    let mut fenced = false;
    for (at, line) in text.lines().enumerate() {
        let mut breach = |what: String| found.push(Breach { file: file.to_path_buf(), line: at + 1, what });
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
        } else if fenced {
            if let Some(error) = task_error(line) {
                breach(error);
            }
        } else {
            for link in links(line).filter(|link| !exists(root, file, link)) {
                breach(format!("the link `{link}` leads nowhere"));
            }
        }
    }
    found
}

/// Why a `cargo xtask` line cannot be run as printed, if it cannot.
fn task_error(line: &str) -> Option<String> {
    let line = line.trim_start().trim_start_matches("$ ").trim_start_matches("sudo -E ");
    let words = line.strip_prefix("cargo xtask")?.split('#').next()?.split_whitespace();
    let words: Vec<&str> = words.take_while(|word| !["&&", "|", ";"].contains(word)).collect();
    match Cli::try_parse_from(std::iter::once("xtask").chain(words)) {
        Ok(_) => None,
        Err(error) if error.kind() == ErrorKind::DisplayHelp => None,
        Err(error) => Some(format!("`{}`: {}", line.trim(), error.to_string().lines().next().unwrap_or_default())),
    }
}

/// Targets of the Markdown links in a line.
fn links(line: &str) -> impl Iterator<Item = &str> {
    line.split("](").skip(1).filter_map(|rest| rest.split(')').next())
}

fn exists(root: &Path, file: &Path, link: &str) -> bool {
    if link.contains("://") || link.starts_with('#') {
        return true;
    }
    let target = link.split('#').next().unwrap_or(link);
    root.join(file).parent().is_some_and(|folder| folder.join(target).exists())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_that_does_not_exist_is_found() {
        assert!(task_error("cargo xtask tset").is_some());
        assert!(task_error("cargo xtask test --tier nonsense").is_some());
        assert_eq!(task_error("cargo xtask test --tier unit   # seconds"), None);
        assert_eq!(task_error("$ cargo xtask run --controls none"), None);
        assert_eq!(task_error("ls"), None);
    }

    #[test]
    fn a_dead_link_is_found() {
        let root = crate::shell::root();
        let text = "See [a](no/such/file.md), [b](Cargo.toml), [c](https://example.com) and [d](#there).";
        let found = check_one(&root, Path::new("README.md"), text);
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].what.contains("no/such/file.md"));
    }

    #[test]
    fn commands_count_in_code_blocks_only() {
        let root = crate::shell::root();
        let text = "cargo xtask nonsense\n```sh\ncargo xtask nonsense\n```\n";
        assert_eq!(check_one(&root, Path::new("README.md"), text).len(), 1);
    }
}
