//! `shakedown catalogue`: what is documented, which checks assert it, and what became of it in the latest run.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use anyhow::{Context as _, Result};
use clap::ValueEnum;
use serde::Serialize;
use shakedown_core::{Here, Statement, Verdict};
use shakedown_reports::{Report, Scope, StatementStatus, Store, store};
use shakedown_suites::catalogue::{Area, Catalogue};

use crate::ctx::Ctx;
use crate::exit::{Exit, usage};

/// How much of a sentence the table shows; `--json` has all of it.
const SAYS: usize = 96;

/// Arguments of `catalogue`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Only this area, a folder of `suites`.
    #[arg(long)]
    pub area: Option<String>,
    /// Only statements of this status.
    #[arg(long, value_enum)]
    pub status: Option<Status>,
    /// The run whose report tells the status: an id, a path, or `latest`.
    #[arg(long, default_value = "latest")]
    pub run: String,
}

/// A status, as the command line takes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Status {
    /// Seen to hold.
    Upheld,
    /// Seen not to hold.
    Refuted,
    /// Seen to hold in part.
    Partial,
    /// Not answered.
    Untested,
}

impl From<Status> for StatementStatus {
    fn from(status: Status) -> Self {
        match status {
            Status::Upheld => Self::Upheld,
            Status::Refuted => Self::Refuted,
            Status::Partial => Self::Partial,
            Status::Untested => Self::Untested,
        }
    }
}

#[derive(Debug, Serialize)]
struct Listing<'a> {
    statements: Vec<Item<'a>>,
}

/// One statement, as `--json` prints it.
#[derive(Debug, Serialize)]
struct Item<'a> {
    id: &'a str,
    area: &'a str,
    source: &'a str,
    says: &'a str,
    here: Here,
    checks: Vec<String>,
    /// Why it is not upheld: not yet checked, or what the run said.
    reason: Option<String>,
    /// Why no check asserts it yet; null where one does.
    pending: Option<&'a str>,
    status: StatementStatus,
}

/// Lists the statements.
///
/// # Errors
/// Wrong use, a malformed catalogue, or a report that cannot be read.
pub async fn run(args: Args, ctx: &Ctx) -> Result<Exit> {
    let catalogue = Catalogue::embedded()?;
    if let Some(name) = args.area.as_deref().filter(|name| catalogue.area(name).is_none()) {
        let names: Vec<&str> = catalogue.areas().iter().map(|area| area.name).collect();
        return Err(usage(format!("no area `{name}`\nhint: areas are {}", names.join(", "))));
    }
    let root = std::env::current_dir().context("cannot find the current directory")?.join(store::FOLDER);
    let store = Store::new(root, None);
    let report = match args.run.as_str() {
        "latest" => store.latest()?,
        run => Some(store.read(run).map_err(usage)?),
    };
    let listing = list(&catalogue, &shakedown_suites::asserted(), report.as_ref(), &args);
    if ctx.json {
        ctx.print_json(&listing)?;
    } else {
        ctx.line(table(&listing).trim_end())?;
    }
    Ok(Exit::OK)
}

/// What is documented and which checks assert it, for the report of a run.
///
/// # Errors
/// When the catalogue is malformed.
pub fn scopes() -> Result<Vec<Scope>> {
    let asserted = shakedown_suites::asserted();
    let catalogue = Catalogue::embedded()?;
    let scope = |(_, statement): (&Area, &Statement)| Scope {
        statement: statement.id.clone(),
        here: statement.here,
        checks: asserted.get(&statement.id).cloned().unwrap_or_default(),
    };
    Ok(catalogue.statements().map(scope).collect())
}

fn list<'a>(
    catalogue: &'a Catalogue,
    asserted: &BTreeMap<String, Vec<String>>,
    report: Option<&Report>,
    args: &Args,
) -> Listing<'a> {
    let statuses: BTreeMap<&str, StatementStatus> = report
        .map(|report| report.statements.items.iter().map(|item| (item.id.as_str(), item.status)).collect())
        .unwrap_or_default();
    let statements = catalogue
        .statements()
        .filter(|(area, _)| args.area.as_deref().is_none_or(|name| area.name == name))
        .map(|(area, statement)| {
            let status = statuses.get(statement.id.as_str()).copied().unwrap_or(StatementStatus::Untested);
            item(area, statement, asserted, report, status)
        })
        .filter(|item| args.status.is_none_or(|status| item.status == status.into()))
        .collect();
    Listing { statements }
}

fn item<'a>(
    area: &'a Area,
    statement: &'a Statement,
    asserted: &BTreeMap<String, Vec<String>>,
    report: Option<&Report>,
    status: StatementStatus,
) -> Item<'a> {
    let checks = asserted.get(&statement.id).cloned().unwrap_or_default();
    let pending = area.pending.get(&statement.id).map(String::as_str);
    let said = report.and_then(|report| reason_of(report, &checks));
    let missing = (statement.here != Here::Yes && status != StatementStatus::Upheld).then(|| statement.why.clone());
    Item {
        id: &statement.id,
        area: area.name,
        source: &statement.source,
        says: &statement.says,
        here: statement.here,
        reason: pending.map(str::to_owned).or(said).or(missing),
        checks,
        pending,
        status,
    }
}

/// What the run said of the first of these checks that did not pass.
fn reason_of(report: &Report, checks: &[String]) -> Option<String> {
    let troubled = |check: &&shakedown_core::CheckRecord| check.verdict != Verdict::Pass && checks.contains(&check.id);
    report.checks.iter().find(troubled).map(|check| format!("{}: {}", check.id, check.reason))
}

fn table(listing: &Listing<'_>) -> String {
    let mut out = String::new();
    let mut areas: BTreeMap<&str, Vec<&Item<'_>>> = BTreeMap::new();
    for item in &listing.statements {
        let checks = if item.checks.is_empty() { "-".to_owned() } else { item.checks.join(" ") };
        let _ = writeln!(out, "{:<9} {:<9} {} [{checks}]", item.id, item.status.name(), cut(item.says));
        areas.entry(item.area).or_default().push(item);
    }
    let _ = writeln!(
        out,
        "\n{:<24} {:>10} {:>9} {:>7} {:>8} {:>8} {:>9}",
        "area", "statements", "asserted", "upheld", "refuted", "partial", "untested"
    );
    for (area, items) in &areas {
        row(&mut out, area, items);
    }
    let all: Vec<&Item<'_>> = listing.statements.iter().collect();
    row(&mut out, "all", &all);
    out
}

fn row(out: &mut String, name: &str, items: &[&Item<'_>]) {
    let asserted = items.iter().filter(|item| !item.checks.is_empty()).count();
    let [upheld, refuted, partial, untested] =
        StatementStatus::ALL.map(|status| items.iter().filter(|item| item.status == status).count());
    let _ = writeln!(
        out,
        "{name:<24} {:>10} {asserted:>9} {upheld:>7} {refuted:>8} {partial:>8} {untested:>9}",
        items.len()
    );
}

fn cut(says: &str) -> String {
    if says.chars().count() <= SAYS {
        return says.to_owned();
    }
    let head: String = says.chars().take(SAYS - 1).collect();
    format!("{}…", head.trim_end())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(area: Option<&str>, status: Option<Status>) -> Args {
        Args { area: area.map(str::to_owned), status, run: "latest".to_owned() }
    }

    #[test]
    fn every_statement_is_listed_with_a_check_or_a_reason() {
        let catalogue = Catalogue::embedded().unwrap();
        let listing = list(&catalogue, &shakedown_suites::asserted(), None, &args(None, None));
        assert_eq!(listing.statements.len(), 1118);
        for item in &listing.statements {
            assert!(!item.checks.is_empty() || item.reason.is_some(), "{}", item.id);
            assert_eq!(item.status, StatementStatus::Untested, "{}", item.id);
        }
    }

    #[test]
    fn area_and_status_narrow_the_list() {
        let catalogue = Catalogue::embedded().unwrap();
        let count = |args: &Args| list(&catalogue, &BTreeMap::new(), None, args).statements.len();
        assert_eq!(count(&args(Some("rbac"), None)), 64);
        assert_eq!(count(&args(Some("rbac"), Some(Status::Untested))), 64);
        assert_eq!(count(&args(None, Some(Status::Upheld))), 0);
    }

    #[test]
    fn the_table_counts_what_it_lists() {
        let catalogue = Catalogue::embedded().unwrap();
        let asserted = BTreeMap::from([("PSA-001".to_owned(), vec!["psa.x".to_owned()])]);
        let text = table(&list(&catalogue, &asserted, None, &args(Some("psa"), None)));
        let all: Vec<&str> = text.lines().last().unwrap().split_whitespace().collect();
        assert_eq!(all, ["all", "57", "1", "0", "0", "0", "57"]);
        assert!(text.lines().all(|line| line.chars().count() < 140), "{text}");
    }

    #[test]
    fn long_sentences_are_cut_at_a_character() {
        assert_eq!(cut("short"), "short");
        let long = "é".repeat(200);
        assert_eq!(cut(&long).chars().count(), SAYS);
    }
}
