//! Which checks run: by id or pattern, area, statement, or a list of ids.

use std::collections::BTreeSet;

use thiserror::Error;

use crate::check::Check;

/// What was asked for. Within one kind any match will do; between kinds all must hold. Empty: everything.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Selection {
    /// Ids, or patterns with `*`.
    pub checks: Vec<String>,
    /// Areas.
    pub areas: Vec<String>,
    /// Ids of statements.
    pub statements: Vec<String>,
    /// Only these ids, such as those that failed last. Ids that no longer exist are left out.
    pub only: Option<BTreeSet<String>>,
}

/// Something was asked for that is not there.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{problem} `{name}`\nhint: {hint}")]
pub struct UnknownName {
    problem: &'static str,
    name: String,
    hint: String,
}

impl UnknownName {
    /// Names the closest of those that exist.
    pub fn new<'a>(problem: &'static str, name: &str, known: impl IntoIterator<Item = &'a str>) -> Self {
        let near = closest(name, known);
        let hint = if near.is_empty() {
            "`shakedown run --plan` lists what there is".to_owned()
        } else {
            format!("the closest are: {}", near.join(", "))
        };
        Self { problem, name: name.to_owned(), hint }
    }
}

impl Selection {
    /// Positions of the chosen checks in the table, in its order.
    ///
    /// # Errors
    /// The first name that matches nothing.
    pub fn choose<W>(&self, table: &[Check<W>]) -> Result<Vec<usize>, UnknownName> {
        let ids = || table.iter().map(|check| check.id);
        for pattern in &self.checks {
            if !ids().any(|id| matches(pattern, id)) {
                return Err(UnknownName::new("no check", pattern, ids()));
            }
        }
        for area in &self.areas {
            if !table.iter().any(|check| check.area() == area) {
                return Err(UnknownName::new("no checks in area", area, table.iter().map(Check::area)));
            }
        }
        for statement in &self.statements {
            if !table.iter().any(|check| check.statements.contains(&statement.as_str())) {
                let known = table.iter().flat_map(|check| check.statements.iter().copied());
                return Err(UnknownName::new("no check asserts statement", statement, known));
            }
        }
        let any = |wanted: &[String], hit: &dyn Fn(&str) -> bool| wanted.is_empty() || wanted.iter().any(|w| hit(w));
        Ok(table
            .iter()
            .enumerate()
            .filter(|(_, check)| {
                any(&self.checks, &|pattern| matches(pattern, check.id))
                    && any(&self.areas, &|area| check.area() == area)
                    && any(&self.statements, &|statement| check.statements.contains(&statement))
                    && self.only.as_ref().is_none_or(|only| only.contains(check.id))
            })
            .map(|(at, _)| at)
            .collect())
    }
}

/// Whether the text is what the pattern says; `*` stands for any run of characters.
fn matches(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split('*');
    let Some(mut rest) = parts.next().and_then(|head| text.strip_prefix(head)) else { return false };
    let mut tail = None;
    let middle: Vec<&str> = parts.collect();
    for (at, part) in middle.iter().enumerate() {
        if at + 1 == middle.len() {
            tail = Some(*part);
        } else {
            let Some(found) = rest.find(part) else { return false };
            rest = rest.get(found + part.len()..).unwrap_or_default();
        }
    }
    match tail {
        Some(tail) => rest.ends_with(tail),
        None => rest.is_empty(),
    }
}

/// At most three names near to the one given, nearest first.
pub fn closest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Vec<&'a str> {
    let limit = (name.len() / 2).max(3);
    let lower = name.to_lowercase();
    let known: BTreeSet<&str> = known.into_iter().collect();
    let mut scored: Vec<(usize, &str)> = known
        .into_iter()
        .map(|candidate| {
            let text = candidate.to_lowercase();
            // Part of a name is how people remember ids; and a wrong name in a right area is at least near its others.
            let same_area =
                lower.split_once('.').is_some_and(|(area, _)| text.split_once('.').is_some_and(|(a, _)| a == area));
            let score = match distance(&lower, &text) {
                _ if lower.len() >= 3 && text.contains(&lower) => 1,
                far if same_area => far.min(limit),
                far => far,
            };
            (score, candidate)
        })
        .filter(|(score, _)| *score <= limit)
        .collect();
    scored.sort_unstable();
    scored.into_iter().take(3).map(|(_, candidate)| candidate).collect()
}

/// Levenshtein's distance.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = i;
        let mut left = i + 1;
        let mut next = vec![left];
        for (above, to) in row.iter().skip(1).zip(&b) {
            let cost = diagonal + usize::from(from != *to);
            left = cost.min(left + 1).min(*above + 1);
            diagonal = *above;
            next.push(left);
        }
        row = next;
    }
    row.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns() {
        for (pattern, text, expected) in [
            ("psa.a", "psa.a", true),
            ("psa.a", "psa.ab", false),
            ("psa.*", "psa.ab", true),
            ("*", "psa.ab", true),
            ("*.ab", "psa.ab", true),
            ("p*.a*b", "psa.axxb", true),
            ("p*.a*b", "psa.axxc", false),
            ("a*a", "a", false),
        ] {
            assert_eq!(matches(pattern, text), expected, "{pattern} {text}");
        }
    }

    #[test]
    fn the_closest_names_come_first() {
        assert_eq!(distance("kitten", "sitting"), 3);
        let known = ["etcd.three-members", "etcd.no-alarm", "psa.default-pod-is-refused"];
        assert_eq!(closest("etcd.tree-members", known), ["etcd.three-members", "etcd.no-alarm"]);
        assert_eq!(closest("alarm", known), ["etcd.no-alarm"]);
        assert_eq!(closest("psa.x", known), ["psa.default-pod-is-refused"]);
        assert!(closest("zzzzzzzzzzzz", known).is_empty());
    }
}
