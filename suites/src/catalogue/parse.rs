//! From TOML to statements, with a file and a line for every mistake.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;
use shakedown_core::Statement;
use toml::Spanned;

use super::sources::{AreaSource, SYSTEMS};
use super::{Area, Mistake};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct StatementsFile {
    statement: Vec<Spanned<Statement>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PendingFile {
    #[serde(default)]
    pending: Vec<Spanned<Pending>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Pending {
    /// Ids and ranges such as `PSA-001..PSA-009`.
    ids: Vec<String>,
    reason: String,
}

/// A file that is being read.
struct Page<'a> {
    file: String,
    text: &'a str,
}

impl Page<'_> {
    fn line_at(&self, offset: usize) -> usize {
        let before = self.text.get(..offset).unwrap_or(self.text);
        before.matches('\n').count() + 1
    }

    /// The line of `key = ...` in the entry that begins at `offset`; the entry's own line where it has none.
    fn line_of(&self, offset: usize, key: &str) -> usize {
        let first = self.line_at(offset);
        let entry = self.text.get(offset..).unwrap_or_default();
        let at = entry.lines().position(|line| line.split('=').next().is_some_and(|name| name.trim() == key));
        first + at.unwrap_or(0)
    }

    fn mistake(&self, line: usize, what: impl Into<String>) -> Mistake {
        Mistake { file: self.file.clone(), line, what: what.into() }
    }

    fn malformed(&self, error: &toml::de::Error) -> Mistake {
        let line = error.span().map_or(1, |span| self.line_at(span.start));
        // The library's own rendering spans lines and repeats the position; one line of it says what is wrong.
        self.mistake(line, error.message().lines().next().unwrap_or("malformed TOML"))
    }
}

/// Reads one area. What cannot be read is left out and told in `mistakes`; `seen` holds the ids of all areas.
pub fn area(source: &AreaSource, seen: &mut BTreeSet<String>, mistakes: &mut Vec<Mistake>) -> Area {
    let statements = statements(source, seen, mistakes);
    let ids: BTreeSet<&str> = statements.iter().map(|statement| statement.id.as_str()).collect();
    let pending = pending(source, &ids, mistakes);
    Area { name: source.name, statements, pending }
}

fn statements(source: &AreaSource, seen: &mut BTreeSet<String>, mistakes: &mut Vec<Mistake>) -> Vec<Statement> {
    let page = Page { file: format!("suites/{}/statements.toml", source.name), text: source.statements };
    let parsed: StatementsFile = match toml::from_str(page.text) {
        Ok(parsed) => parsed,
        Err(error) => {
            mistakes.push(page.malformed(&error));
            return Vec::new();
        }
    };
    for entry in &parsed.statement {
        let at = entry.span().start;
        let statement = entry.get_ref();
        let mut mistake = |key: &str, what: String| mistakes.push(page.mistake(page.line_of(at, key), what));
        let id = &statement.id;
        match split(id) {
            None => mistake("id", format!("`{id}` is no statement id: PREFIX-NNN")),
            Some((prefix, _)) if !source.prefixes.contains(&prefix) => {
                let fits = source.prefixes.join("- or ");
                mistake("id", format!("`{id}` does not belong here: ids of this folder begin with {fits}-"));
            }
            Some(_) => {}
        }
        if !seen.insert(id.clone()) {
            mistake("id", format!("`{id}` stands in the catalogue twice"));
        }
        if statement.says.trim().is_empty() {
            mistake("says", format!("`{id}` says nothing"));
        }
        if statement.source.trim().is_empty() {
            mistake("source", format!("`{id}` names no source"));
        }
        if !SYSTEMS.contains(&statement.system.as_str()) {
            mistake("system", format!("`{}` is no known system", statement.system));
        }
        if statement.here != shakedown_core::Here::Yes && statement.why.trim().is_empty() {
            mistake("why", format!("`{id}` cannot wholly be checked here and does not say why"));
        }
    }
    parsed.statement.into_iter().map(Spanned::into_inner).collect()
}

fn pending(source: &AreaSource, ids: &BTreeSet<&str>, mistakes: &mut Vec<Mistake>) -> BTreeMap<String, String> {
    let page = Page { file: format!("suites/{}/pending.toml", source.name), text: source.pending };
    let parsed: PendingFile = match toml::from_str(page.text) {
        Ok(parsed) => parsed,
        Err(error) => {
            mistakes.push(page.malformed(&error));
            return BTreeMap::new();
        }
    };
    let mut listed = BTreeMap::new();
    for entry in &parsed.pending {
        let at = entry.span().start;
        let Pending { ids: ranges, reason } = entry.get_ref();
        let mut mistake = |key: &str, what: String| mistakes.push(page.mistake(page.line_of(at, key), what));
        if reason.trim().is_empty() {
            mistake("reason", "a statement that is not checked needs a reason".to_owned());
        }
        for range in ranges {
            let Some(expanded) = expand(range) else {
                mistake("ids", format!("`{range}` is neither an id nor a range such as A-001..A-009"));
                continue;
            };
            for id in expanded {
                if !ids.contains(id.as_str()) {
                    mistake("ids", format!("`{id}` is not a statement of this folder"));
                }
                if listed.insert(id.clone(), reason.clone()).is_some() {
                    mistake("ids", format!("`{id}` is listed twice"));
                }
            }
        }
    }
    listed
}

/// `A-001..A-003` to its three ids; a plain id to itself; nothing for anything else.
fn expand(range: &str) -> Option<Vec<String>> {
    let Some((first, last)) = range.split_once("..") else {
        return split(range).map(|_| vec![range.to_owned()]);
    };
    let ((prefix, from), (other, to)) = (split(first)?, split(last)?);
    (prefix == other && from <= to).then(|| (from..=to).map(|n| format!("{prefix}-{n:03}")).collect())
}

/// Prefix and number of an id: capitals, a hyphen, three digits.
fn split(id: &str) -> Option<(&str, u32)> {
    let (prefix, number) = id.split_once('-')?;
    let fits = !prefix.is_empty()
        && prefix.chars().all(|c| c.is_ascii_uppercase())
        && number.len() == 3
        && number.chars().all(|c| c.is_ascii_digit());
    fits.then(|| number.parse().ok().map(|number| (prefix, number))).flatten()
}
