//! The commands that the documents show exist, with the arguments shown.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::path::{Path, PathBuf};
use std::process::Command;

const DOCUMENTS: [&str; 5] = ["README.md", "ARCHITECTURE.md", "CHANGELOG.md", "docs/findings.md", "ci/README.md"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// `shakedown ...` lines of the shell blocks in a document, as arguments.
fn commands(text: &str) -> Vec<Vec<String>> {
    let mut found = Vec::new();
    let mut fenced = false;
    for line in text.lines() {
        if let Some(language) = line.trim_start().strip_prefix("```") {
            fenced = !fenced && ["sh", "bash", "console"].contains(&language.trim());
            continue;
        }
        let line = line.trim_start().trim_start_matches("$ ").trim_start_matches("sudo ");
        if let Some(rest) = line.strip_prefix("shakedown ").filter(|_| fenced) {
            let code = rest.split(" #").next().unwrap_or_default();
            found.push(code.split_whitespace().map(str::to_owned).collect());
        }
    }
    found
}

/// Asks the binary for help with these arguments: it refuses what it does not know before it helps.
fn is_known(args: &[String]) -> Result<(), String> {
    // What follows `--` belongs to another command.
    let ours = args.split(|arg| arg == "--").next().unwrap_or_default();
    let output = Command::new(env!("CARGO_BIN_EXE_shakedown")).args(ours).arg("--help").output().unwrap();
    if output.status.success() {
        Ok(())
    } else {
        Err(format!("shakedown {}: {}", args.join(" "), String::from_utf8_lossy(&output.stderr)))
    }
}

#[test]
fn every_command_in_the_documents_exists() {
    let mut wrong = Vec::new();
    let mut count = 0;
    for document in DOCUMENTS {
        let text = std::fs::read_to_string(root().join(document)).unwrap();
        for args in commands(&text) {
            count += 1;
            wrong.extend(is_known(&args).err().map(|error| format!("{document}: {error}")));
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
    assert!(count >= 15, "only {count} commands were found: are the shell blocks still marked as such?");
}

#[test]
fn an_unknown_command_or_option_would_be_noticed() {
    let args = |line: &str| -> Vec<String> { line.split_whitespace().map(str::to_owned).collect() };
    assert!(is_known(&args("nonsense")).is_err());
    assert!(is_known(&args("catalogue --nonsense")).is_err());
    assert!(is_known(&args("catalogue --area psa")).is_ok());
}
