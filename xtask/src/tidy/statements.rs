//! The accounting of the catalogue: each statement is asserted by a check or listed with a reason, never both, never
//! neither. Which check asserts what is known to the binary alone, so it is asked.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use crate::binary::{self, Profile};
use crate::shell;

/// `shakedown catalogue --json`, as far as it is read here.
#[derive(Debug, Deserialize)]
struct Catalogue {
    statements: Vec<Item>,
}

#[derive(Debug, Deserialize)]
struct Item {
    id: String,
    checks: Vec<String>,
    /// Why no check asserts it yet.
    pending: Option<String>,
}

/// Prints every statement that is not accounted for, and gives 1 when there is one.
///
/// # Errors
/// When the binary does not build or does not answer.
pub fn account() -> Result<u8> {
    let catalogue = ask()?;
    let wrong = breaches(&catalogue.statements);
    for line in &wrong {
        println!("{line}");
    }
    let checked = catalogue.statements.iter().filter(|item| !item.checks.is_empty()).count();
    shell::say(format!("tidy: {} statements, {checked} asserted by a check", catalogue.statements.len()));
    Ok(u8::from(!wrong.is_empty()))
}

/// Takes every statement that a check asserts off `suites/*/pending.toml`.
///
/// # Errors
/// When the binary does not answer, or a list cannot be read or written.
pub fn settle(root: &Path) -> Result<()> {
    let asserted: BTreeSet<String> =
        ask()?.statements.into_iter().filter(|item| !item.checks.is_empty()).map(|item| item.id).collect();
    for entry in std::fs::read_dir(root.join("suites")).context("cannot list suites")? {
        let file = entry.context("cannot list suites")?.path().join("pending.toml");
        if !file.is_file() {
            continue;
        }
        let old = std::fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
        let new = without(&old, &asserted).with_context(|| format!("in {}", file.display()))?;
        if new != old {
            std::fs::write(&file, new).with_context(|| format!("cannot write {}", file.display()))?;
            shell::say(format!("settled {}", file.display()));
        }
    }
    Ok(())
}

fn ask() -> Result<Catalogue> {
    let binary = binary::build(Profile::Dev)?;
    let output = Command::new(binary.path())
        .args(["catalogue", "--json"])
        .current_dir(shell::root())
        .stderr(Stdio::inherit())
        .output()
        .context("cannot start the shakedown binary")?;
    if !output.status.success() {
        bail!("`shakedown catalogue --json` failed, see above");
    }
    serde_json::from_slice(&output.stdout).context("`shakedown catalogue --json` printed something else")
}

fn breaches(items: &[Item]) -> Vec<String> {
    let wrong = |item: &Item| match (item.checks.is_empty(), item.pending.is_some()) {
        (true, false) => Some(format!("{}: neither asserted by a check nor listed as not yet checked", item.id)),
        (false, true) => Some(format!(
            "{}: asserted by {} and listed as not yet checked; `cargo xtask tidy --fix` takes it off the list",
            item.id,
            item.checks.join(", ")
        )),
        _ => None,
    };
    items.iter().filter_map(wrong).collect()
}

/// One list with the asserted ids taken out; all other lines stay as they are.
///
/// A list is a series of `ids = ["A-001..A-009", "A-011"]` lines, each under its own `[[pending]]` with its reason.
fn without(text: &str, asserted: &BTreeSet<String>) -> Result<String> {
    let mut blocks: Vec<String> = Vec::new();
    let mut rest = text;
    // Blocks are cut by hand so that comments and order survive.
    while let Some(at) = rest.get(1..).and_then(|tail| tail.find("[[pending]]")) {
        let (block, tail) = rest.split_at(at + 1);
        blocks.push(block.to_owned());
        rest = tail;
    }
    blocks.push(rest.to_owned());
    let mut out = String::new();
    for block in blocks {
        let Some(line) = block.lines().find(|line| line.starts_with("ids = ")) else {
            out.push_str(&block);
            continue;
        };
        let table: toml::Table = line.parse().context("`ids` must stand on one line")?;
        let ids = table["ids"].as_array().context("`ids` must be a list")?;
        let mut left = Vec::new();
        for id in ids {
            left.extend(expand(id.as_str().context("`ids` must hold strings")?)?);
        }
        left.retain(|id| !asserted.contains(id));
        if !left.is_empty() {
            let ids: Vec<String> = collapse(&left).iter().map(|id| format!("\"{id}\"")).collect();
            out.push_str(&block.replacen(line, &format!("ids = [{}]", ids.join(", ")), 1));
        }
    }
    Ok(format!("{}\n", out.trim_end()))
}

/// `A-001..A-003` to its three ids; a plain id to itself.
fn expand(range: &str) -> Result<Vec<String>> {
    let Some((first, last)) = range.split_once("..") else { return Ok(vec![range.to_owned()]) };
    let (prefix, from) = split(first)?;
    let (other, to) = split(last)?;
    if prefix != other || from > to {
        bail!("`{range}` is no range");
    }
    Ok((from..=to).map(|n| format!("{prefix}-{n:03}")).collect())
}

/// Neighbours joined to ranges, in the order given.
fn collapse(ids: &[String]) -> Vec<String> {
    let mut runs: Vec<(&str, u32, u32)> = Vec::new();
    for id in ids {
        let Ok((prefix, number)) = split(id) else { continue };
        match runs.last_mut() {
            Some((p, _, last)) if *p == prefix && *last + 1 == number => *last = number,
            _ => runs.push((prefix, number, number)),
        }
    }
    runs.iter()
        .map(|(prefix, first, last)| match first == last {
            true => format!("{prefix}-{first:03}"),
            false => format!("{prefix}-{first:03}..{prefix}-{last:03}"),
        })
        .collect()
}

fn split(id: &str) -> Result<(&str, u32)> {
    let (prefix, number) = id.split_once('-').with_context(|| format!("`{id}` is no statement id"))?;
    Ok((prefix, number.parse().with_context(|| format!("`{id}` is no statement id"))?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(id: &str, checks: &[&str], pending: Option<&str>) -> Item {
        Item {
            id: id.to_owned(),
            checks: checks.iter().map(|c| (*c).to_owned()).collect(),
            pending: pending.map(str::to_owned),
        }
    }

    #[test]
    fn both_and_neither_are_breaches() {
        let items = [
            item("A-001", &["a.b"], None),
            item("A-002", &[], Some("later")),
            item("A-003", &[], None),
            item("A-004", &["a.b"], Some("later")),
        ];
        let wrong = breaches(&items);
        assert_eq!(wrong.len(), 2, "{wrong:?}");
        assert!(wrong[0].starts_with("A-003: neither") && wrong[1].starts_with("A-004: asserted by a.b"));
    }

    #[test]
    fn settling_takes_ids_out_of_ranges_and_keeps_the_rest() {
        let text = "# head\n\n[[pending]]\nids = [\"A-001..A-005\", \"A-009\"]\nreason = \"one\"\n\n\
                    [[pending]]\nids = [\"B-001\"]\nreason = \"two\"\n";
        let asserted = ["A-003", "A-009", "B-001"].iter().map(|id| (*id).to_owned()).collect();
        let expected = "# head\n\n[[pending]]\nids = [\"A-001..A-002\", \"A-004..A-005\"]\nreason = \"one\"\n";
        assert_eq!(without(text, &asserted).unwrap(), expected);
        assert_eq!(without(text, &BTreeSet::new()).unwrap(), text);
    }

    #[test]
    fn a_bad_range_is_named() {
        assert!(expand("A-005..A-001").is_err());
        assert!(expand("A-001..B-002").is_err());
        assert!(expand("A-x..A-y").is_err());
    }
}
