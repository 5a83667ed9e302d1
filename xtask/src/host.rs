//! What the host itself must bring along, checked before anything long starts; everything else comes in the bundle.

use std::fmt::Write as _;

use anyhow::{Result, bail};

use crate::shell;

/// What a task is about to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// Build the bundle: compilers and the package manager's downloader.
    Bundle,
    /// Bring a cluster up: root.
    Cluster,
}

/// One program that must be there, and what to do when it is not.
struct Tool {
    name: &'static str,
    hint: &'static str,
}

const BUNDLE: &[Tool] = &[
    Tool { name: "go", hint: "install Go 1.24 or newer (https://go.dev/dl), it fetches the exact toolchain itself" },
    Tool { name: "gcc", hint: "install a C compiler, for example `apt-get install gcc libc6-dev`" },
];

/// Refuses early, and names everything that is missing at once.
///
/// # Errors
/// When something is missing; each gap comes with a hint.
pub fn require(need: Need) -> Result<()> {
    let missing = match need {
        Need::Bundle => missing_tools(BUNDLE, |name| shell::which(name).is_some()),
        Need::Cluster => missing_root(shell::is_root(), shell::which("sudo").is_some()),
    };
    if missing.is_empty() { Ok(()) } else { bail!("this machine is not ready:{missing}") }
}

fn missing_tools(tools: &[Tool], there: impl Fn(&str) -> bool) -> String {
    tools.iter().filter(|tool| !there(tool.name)).fold(String::new(), |mut out, tool| {
        let _ = write!(out, "\n  {} was not found on PATH\n  hint: {}", tool.name, tool.hint);
        out
    })
}

fn missing_root(root: bool, sudo: bool) -> String {
    if root || sudo {
        return String::new();
    }
    "\n  nodes are namespaces, and namespaces need root; this is neither root nor is there sudo\n  \
     hint: run the task as root"
        .to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_missing_tool_is_named_with_its_hint() {
        let text = missing_tools(BUNDLE, |_| false);
        for tool in BUNDLE {
            assert!(text.contains(tool.name) && text.contains(tool.hint), "{text}");
        }
        assert_eq!(missing_tools(BUNDLE, |_| true), "");
    }

    #[test]
    fn root_or_sudo_is_enough() {
        assert_eq!(missing_root(true, false), "");
        assert_eq!(missing_root(false, true), "");
        assert!(missing_root(false, false).contains("hint:"));
    }
}
