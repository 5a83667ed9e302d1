//! Rules for one `.rs` file: module docs, its length, and where `unsafe` may stand.

use std::path::Path;

use super::Breach;

/// No file grows beyond what can be read in one sitting.
const LINES: usize = 500;
/// The one file that may call the kernel by hand.
const UNSAFE: &str = "harness/node/src/sys.rs";

/// Breaches in one file.
pub fn check(file: &Path, text: &str) -> Vec<Breach> {
    let mut found = Vec::new();
    let mut breach = |line: usize, what: String| found.push(Breach { file: file.to_path_buf(), line, what });
    if !text.trim_start().starts_with("//!") {
        breach(1, "no module docs: begin with `//!` and say what the module is for".to_owned());
    }
    let lines = text.lines().count();
    if lines > LINES {
        breach(0, format!("{lines} lines: split it, {LINES} is the bound"));
    }
    if file != Path::new(UNSAFE) {
        for (at, line) in text.lines().enumerate() {
            if is_unsafe(line) {
                breach(at + 1, format!("`unsafe` belongs into {UNSAFE} only"));
            }
        }
    }
    found
}

/// Whether the line opens an unsafe block or item, or allows one. Comments and strings are left out.
fn is_unsafe(line: &str) -> bool {
    let code: String = line.split('"').step_by(2).collect();
    let code = code.split("//").next().unwrap_or_default();
    let word = concat!("un", "safe");
    ["{", "fn", "impl", "extern", "trait"].iter().any(|next| code.contains(&format!("{word} {next}")))
        || code.contains(&format!("allow({word}_code"))
        || code.contains(&format!("expect({word}_code"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whats(file: &str, text: &str) -> Vec<String> {
        check(Path::new(file), text).into_iter().map(|b| b.what).collect()
    }

    #[test]
    fn a_good_file_has_no_breach() {
        assert!(whats("harness/core/src/x.rs", "//! Docs.\n\nfn f() {}\n").is_empty());
    }

    #[test]
    fn missing_docs_and_length_are_found() {
        assert!(whats("a.rs", "fn f() {}\n")[0].contains("module docs"));
        let long = format!("//! Docs.\n{}", "// line\n".repeat(LINES));
        assert!(whats("a.rs", &long)[0].contains("501 lines"));
        let just = format!("//! Docs.\n{}", "// line\n".repeat(LINES - 1));
        assert!(whats("a.rs", &just).is_empty());
    }

    #[test]
    fn unsafe_is_found_in_code_only_and_outside_of_its_file_only() {
        let bad = format!("//! Docs.\nfn f() {{ {} {{ g() }} }}\n", concat!("un", "safe"));
        assert_eq!(check(Path::new("harness/node/src/a.rs"), &bad)[0].line, 2);
        assert!(whats(UNSAFE, &bad).is_empty());
        let told = format!("//! Docs.\n// {0} {{\nlet s = \"{0} fn\";\n", concat!("un", "safe"));
        assert!(whats("a.rs", &told).is_empty());
    }
}
