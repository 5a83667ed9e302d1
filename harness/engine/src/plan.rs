//! What a run is going to do, fixed by the seed before it begins.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::str::FromStr;

use shakedown_core::Seed;
use thiserror::Error;

use crate::check::{Check, Tag};

/// Which controls are due, once their baselines have passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Controls {
    /// Every one.
    All,
    /// None: checks that pass stay unproven.
    None,
    /// A third of each area, at least one of each, chosen by the seed.
    Sample,
}

/// Neither `all`, `none` nor `sample`.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("controls are all, none or sample; not `{0}`")]
pub struct UnknownControls(String);

impl FromStr for Controls {
    type Err = UnknownControls;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "all" => Ok(Controls::All),
            "none" => Ok(Controls::None),
            "sample" => Ok(Controls::Sample),
            other => Err(UnknownControls(other.to_owned())),
        }
    }
}

impl std::fmt::Display for Controls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Controls::All => "all",
            Controls::None => "none",
            Controls::Sample => "sample",
        })
    }
}

/// The order of a run. Positions are those of the table of checks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// Order in which baselines are started, as far as locks allow.
    pub baselines: Vec<usize>,
    /// Order in which controls are started, as far as they turn out to be due.
    pub controls: Vec<usize>,
}

impl Plan {
    /// Slow checks first, so that nothing waits for them in the end; exclusive ones last, because they run alone and
    /// everything else is to see the platform as it was found. Within each group the seed decides.
    pub fn new<W>(table: &[Check<W>], chosen: &[usize], controls: Controls, seed: Seed) -> Self {
        let order = |purpose: &str, mut which: Vec<usize>| {
            // A fixed order to start from: the seed alone decides, whatever the order of the table is.
            which.sort_by_key(|at| table.get(*at).map(|check| check.id));
            seed.shuffle(purpose, &mut which);
            which.sort_by_key(|at| table.get(*at).map(|check| (check.is(Tag::Exclusive), !check.is(Tag::Slow))));
            which
        };
        let sampled = sample(table, chosen, seed);
        let due = chosen.iter().copied().filter(|at| match controls {
            Controls::All => true,
            Controls::None => false,
            Controls::Sample => sampled.contains(at),
        });
        Self { baselines: order("baselines", chosen.to_vec()), controls: order("controls", due.collect()) }
    }

    /// The plan as text, a line for each check.
    pub fn describe<W: Send + Sync + 'static>(&self, table: &[Check<W>]) -> String {
        let mut text = String::new();
        for check in self.baselines.iter().filter_map(|at| table.get(*at)) {
            let tags: Vec<&str> = [(Tag::Slow, "slow"), (Tag::Exclusive, "exclusive")]
                .into_iter()
                .filter_map(|(tag, word)| check.is(tag).then_some(word))
                .collect();
            let control = if self.controls.iter().filter_map(|at| table.get(*at)).any(|c| c.id == check.id) {
                check.control.defect.describe()
            } else {
                "not asked for".to_owned()
            };
            let _ = writeln!(text, "{}\n    statements: {}", check.id, check.statements.join(" "));
            for (name, list) in [
                ("needs", check.needs.iter().map(|c| c.name()).collect::<Vec<_>>()),
                ("shares", check.fixtures.iter().map(|f| f.name()).collect()),
                ("tags", tags),
            ] {
                if !list.is_empty() {
                    let _ = writeln!(text, "    {name}: {}", list.join(" "));
                }
            }
            let _ = writeln!(text, "    control: {control}");
        }
        text
    }
}

/// A third of each area's checks, rounded up.
fn sample<W>(table: &[Check<W>], chosen: &[usize], seed: Seed) -> BTreeSet<usize> {
    let mut areas: BTreeMap<&str, Vec<(&str, usize)>> = BTreeMap::new();
    for (at, check) in chosen.iter().filter_map(|at| table.get(*at).map(|check| (*at, check))) {
        areas.entry(check.area()).or_default().push((check.id, at));
    }
    let mut sampled = BTreeSet::new();
    for (area, mut checks) in areas {
        checks.sort_unstable();
        seed.shuffle(&format!("sample/{area}"), &mut checks);
        let third = checks.len().div_ceil(3);
        sampled.extend(checks.into_iter().take(third).map(|(_, at)| at));
    }
    sampled
}
