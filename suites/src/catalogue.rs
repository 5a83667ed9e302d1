//! What is documented: every statement of every area, typed and validated, with the list of those that no check
//! asserts yet.
//!
//! The files are part of the binary, so that `shakedown catalogue` answers anywhere. A statement is asserted by a
//! check or listed in its area's `pending.toml` with a reason: never both, never neither ([`Catalogue::account`]).

mod parse;
mod sources;

use std::collections::{BTreeMap, BTreeSet};

use shakedown_core::Statement;
use thiserror::Error;

pub use sources::{AREAS, AreaSource};

/// Statements of all areas.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Catalogue {
    areas: Vec<Area>,
}

/// One folder of `suites`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Area {
    /// Name of the folder, as `--area` takes it.
    pub name: &'static str,
    /// In document order.
    pub statements: Vec<Statement>,
    /// Statement to the reason why no check asserts it yet.
    pub pending: BTreeMap<String, String>,
}

/// One mistake in a file of the catalogue.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Error)]
#[error("{file}:{line}: {what}")]
pub struct Mistake {
    /// Relative to the repository.
    pub file: String,
    /// From 1.
    pub line: usize,
    /// What is wrong.
    pub what: String,
}

/// The catalogue cannot be used; all mistakes at once, in file and line order.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("the catalogue has {} mistake(s):\n{}", .0.len(), lines(.0))]
pub struct Malformed(pub Vec<Mistake>);

fn lines(mistakes: &[Mistake]) -> String {
    mistakes.iter().map(|mistake| format!("  {mistake}")).collect::<Vec<_>>().join("\n")
}

impl Catalogue {
    /// The catalogue that the binary carries.
    ///
    /// # Errors
    /// When one of its files is malformed; a unit test sees to it that none is.
    pub fn embedded() -> Result<Self, Malformed> {
        Self::parse(AREAS)
    }

    /// Reads and validates the files of `sources`.
    ///
    /// # Errors
    /// Every mistake with its file and line: malformed TOML, a missing or unknown field, an unknown kind, system or
    /// capability, an empty sentence, an id twice or outside of its folder, a pending id that does not exist.
    pub fn parse(sources: &[AreaSource]) -> Result<Self, Malformed> {
        let mut mistakes = Vec::new();
        let mut seen = BTreeSet::new();
        let areas = sources.iter().map(|source| parse::area(source, &mut seen, &mut mistakes)).collect();
        if mistakes.is_empty() {
            Ok(Self { areas })
        } else {
            mistakes.sort();
            Err(Malformed(mistakes))
        }
    }

    /// All areas, in the order of their names.
    pub fn areas(&self) -> &[Area] {
        &self.areas
    }

    /// The area of this name.
    pub fn area(&self, name: &str) -> Option<&Area> {
        self.areas.iter().find(|area| area.name == name)
    }

    /// All statements with their area, in a fixed order.
    pub fn statements(&self) -> impl Iterator<Item = (&Area, &Statement)> {
        self.areas.iter().flat_map(|area| area.statements.iter().map(move |statement| (area, statement)))
    }

    /// The statement of this id and its area.
    pub fn statement(&self, id: &str) -> Option<(&Area, &Statement)> {
        self.statements().find(|(_, statement)| statement.id == id)
    }

    /// What is not accounted for: `asserted` maps each statement to the checks that assert it.
    ///
    /// Empty when each statement is either asserted or listed with a reason, and no check asserts what is not
    /// documented.
    pub fn account(&self, asserted: &BTreeMap<String, Vec<String>>) -> Vec<String> {
        let mut wrong = Vec::new();
        let mut known = BTreeSet::new();
        for (area, statement) in self.statements() {
            let id = &statement.id;
            known.insert(id);
            let checks = asserted.get(id).map_or(&[][..], Vec::as_slice);
            match (checks.is_empty(), area.pending.contains_key(id)) {
                (true, false) => {
                    wrong.push(format!("{id}: neither asserted by a check nor listed in suites/{}/pending.toml", area.name));
                }
                (false, true) => wrong.push(format!(
                    "{id}: asserted by {} and still listed in suites/{}/pending.toml; `cargo xtask tidy --fix` settles it",
                    checks.join(", "),
                    area.name
                )),
                _ => {}
            }
        }
        for (id, checks) in asserted.iter().filter(|(id, _)| !known.contains(id)) {
            wrong.push(format!("{id}: asserted by {} but not in the catalogue", checks.join(", ")));
        }
        wrong
    }
}

#[cfg(test)]
mod tests;
