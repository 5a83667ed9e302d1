//! Declarations of checks as the documents show them: ARCHITECTURE.md tells how long they are and shows real ones, and
//! both must be what the suites hold.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::{Breach, files, read};

/// The document that shows them.
const DOCUMENT: &str = "ARCHITECTURE.md";
/// How the line begins that tells their lengths.
const LENGTHS: &str = "Declarations of checks: ";
/// How a block of a declaration begins.
const BLOCK: &str = "```rust\ncheck(\"";

/// A check's declaration in its suite.
struct Declaration {
    id: String,
    /// Without the indentation that it has there.
    text: String,
}

impl Declaration {
    fn lines(&self) -> usize {
        self.text.lines().count()
    }
}

/// Whether the document is true.
///
/// # Errors
/// When a file cannot be read.
pub fn check(root: &Path) -> Result<Vec<Breach>> {
    let text = read(root, Path::new(DOCUMENT))?;
    if text == truth(&text, &declarations(root)?) {
        return Ok(Vec::new());
    }
    let what =
        "shows a declaration, or tells their lengths, otherwise than the suites; `cargo xtask tidy --fix` mends it";
    Ok(vec![Breach { file: PathBuf::from(DOCUMENT), line: 0, what: what.to_owned() }])
}

/// Makes it true.
///
/// # Errors
/// When a file cannot be read or written.
pub fn settle(root: &Path) -> Result<()> {
    let text = read(root, Path::new(DOCUMENT))?;
    let truth = truth(&text, &declarations(root)?);
    if text != truth {
        fs::write(root.join(DOCUMENT), truth).with_context(|| format!("cannot write {DOCUMENT}"))?;
    }
    Ok(())
}

fn declarations(root: &Path) -> Result<Vec<Declaration>> {
    let mut found = Vec::new();
    for file in files(root, "rs")?.into_iter().filter(|file| file.starts_with("suites") && !file.ends_with("lib.rs")) {
        found.extend(declared(&read(root, &file)?));
    }
    Ok(found)
}

/// From the line that begins with `check("` to the last of those that are indented further.
fn declared(source: &str) -> Vec<Declaration> {
    let lines: Vec<&str> = source.lines().collect();
    let depth = |line: &str| line.len() - line.trim_start().len();
    let mut found = Vec::new();
    for (at, first) in lines.iter().enumerate() {
        let Some((id, _)) = first.trim_start().strip_prefix("check(\"").and_then(|rest| rest.split_once('"')) else {
            continue;
        };
        let indent = depth(first);
        let rest = lines[at + 1..].iter().take_while(|line| line.trim().is_empty() || depth(line) > indent);
        let all = std::iter::once(first).chain(rest);
        let text: Vec<&str> = all.map(|line| line.get(indent..).unwrap_or_default()).collect();
        let text = text.join("\n");
        found.push(Declaration { id: id.to_owned(), text: text.trim_end().trim_end_matches(',').to_owned() });
    }
    found
}

/// The document with the lengths and the blocks as they are.
fn truth(document: &str, declarations: &[Declaration]) -> String {
    let mut text: Vec<String> = document
        .split("\n\n")
        .map(|part| if part.starts_with(LENGTHS) { lengths(declarations) } else { part.to_owned() })
        .collect();
    for part in &mut text {
        let id = part.strip_prefix(BLOCK).and_then(|rest| rest.split_once('"')).map(|(id, _)| id);
        if let Some(real) = id.and_then(|id| declarations.iter().find(|declaration| declaration.id == id)) {
            *part = format!("```rust\n{}\n```", real.text);
        }
    }
    text.join("\n\n")
}

fn lengths(declarations: &[Declaration]) -> String {
    let mut sorted: Vec<&Declaration> = declarations.iter().collect();
    sorted.sort_by_key(|declaration| (declaration.lines(), declaration.id.as_str()));
    let (Some(median), Some(longest)) = (sorted.get(sorted.len() / 2), sorted.last()) else {
        return format!("{LENGTHS}none.");
    };
    format!(
        "{LENGTHS}{} of them, the median has {} lines, the longest {} (`{}`).",
        sorted.len(),
        median.lines(),
        longest.lines(),
        longest.id
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOURCE: &str = "fn a() -> Check {\n    let x = 1;\n    check(\"a.b\")\n        .asserts([\"A-1\"])\n        .remedy(\"r\")\n}\n";

    #[test]
    fn a_declaration_ends_where_its_function_does() {
        let found = declared(SOURCE);
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].id.as_str(), found[0].lines()), ("a.b", 3));
        let listed = declared("[\n    check(\"a.b\")\n        .remedy(\"r\"),\n    check(\"a.c\"),\n]\n");
        let texts: Vec<&str> = listed.iter().map(|one| one.text.as_str()).collect();
        assert_eq!(texts, ["check(\"a.b\")\n    .remedy(\"r\")", "check(\"a.c\")"]);
        assert_eq!(found[0].text, "check(\"a.b\")\n    .asserts([\"A-1\"])\n    .remedy(\"r\")");
    }

    #[test]
    fn a_document_that_tells_otherwise_is_mended() {
        let old = "# T\n\n```rust\ncheck(\"a.b\")\n    .asserts([])\n```\n\nDeclarations of checks: 7.\n\nend\n";
        let new = truth(old, &declared(SOURCE));
        assert!(new.contains(".asserts([\"A-1\"])") && new.ends_with("\n\nend\n"), "{new}");
        assert!(new.contains("1 of them, the median has 3 lines, the longest 3 (`a.b`)."), "{new}");
        assert_eq!(truth(&new, &declared(SOURCE)), new);
    }
}
