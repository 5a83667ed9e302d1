//! `shakedown explain CHECK`: what a check asserts, how it is proved, and what to do where it fails.

use std::fmt::Write as _;

use anyhow::Result;
use serde::Serialize;
use shakedown_core::{Access, CheckRecord, ControlKind, Resource};
use shakedown_engine::{Check, Tag, UnknownName};
use shakedown_reports::schema::verdict_name;
use shakedown_suites::catalogue::Catalogue;
use shakedown_words::Platform;

use crate::cmd::run::{reports, usage_of};
use crate::ctx::Ctx;
use crate::exit::Exit;

/// Arguments of `explain`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Id of the check, as `shakedown run --plan` prints it.
    pub check: String,
}

#[derive(Debug, Serialize)]
struct Explanation {
    check: &'static str,
    area: &'static str,
    statements: Vec<Said>,
    needs: Vec<&'static str>,
    shares: Vec<&'static str>,
    slow: bool,
    exclusive: bool,
    budget_s: f64,
    observes: &'static str,
    touches: Vec<String>,
    control: Proof,
    remedy: &'static str,
    /// What it came to in the latest run.
    latest: Option<CheckRecord>,
}

/// A statement that the check answers.
#[derive(Debug, Serialize)]
struct Said {
    id: &'static str,
    source: String,
    says: String,
    contradicted: bool,
}

/// How the check is proved.
#[derive(Debug, Serialize)]
struct Proof {
    kind: ControlKind,
    defect: String,
    finds: &'static str,
}

/// Explains one check.
///
/// # Errors
/// When there is no such check.
pub async fn run(args: Args, ctx: &Ctx) -> Result<Exit> {
    let table = shakedown_suites::checks();
    let Some(check) = table.iter().find(|check| check.id == args.check) else {
        return Err(usage_of(UnknownName::new("no check", &args.check, table.iter().map(|check| check.id))));
    };
    // A latest run that cannot be read is no reason not to explain.
    let latest = reports()?.latest().ok().flatten();
    let latest = latest.and_then(|report| report.checks.into_iter().find(|record| record.id == check.id));
    let explanation = explain(check, &Catalogue::embedded()?, latest);
    if ctx.json {
        ctx.print_json(&explanation)?;
    } else {
        ctx.line(text(&explanation).trim_end())?;
    }
    Ok(Exit::OK)
}

fn explain(check: &Check<Platform>, catalogue: &Catalogue, latest: Option<CheckRecord>) -> Explanation {
    let said = |id: &&'static str| {
        let statement = catalogue.statement(id).map(|(_, statement)| statement);
        Said {
            id,
            source: statement.map(|s| s.source.clone()).unwrap_or_default(),
            says: statement.map(|s| s.says.clone()).unwrap_or_default(),
            contradicted: check.contradicts.contains(id),
        }
    };
    Explanation {
        check: check.id,
        area: check.area(),
        statements: check.statements.iter().map(said).collect(),
        needs: check.needs.iter().map(|need| need.name()).collect(),
        shares: check.fixtures.iter().map(|fixture| fixture.name()).collect(),
        slow: check.is(Tag::Slow),
        exclusive: check.is(Tag::Exclusive),
        budget_s: check.budget.as_secs_f64(),
        observes: check.probe.schema(),
        touches: check.probe.touches().union(&check.control.defect.touches()).iter().map(touch).collect(),
        control: Proof {
            kind: check.control.defect.kind(),
            defect: check.control.defect.describe(),
            finds: check.control.finds,
        },
        remedy: check.remedy,
        latest,
    }
}

fn touch((what, how): (&Resource, Access)) -> String {
    let verb = match how {
        Access::Read => "reads",
        Access::Write => "writes",
    };
    let what = match what {
        Resource::Cluster => "the whole cluster".to_owned(),
        Resource::Namespace(name) => format!("namespace {name}"),
        Resource::Node(name) => format!("node {name}"),
        Resource::Nodes => "all nodes".to_owned(),
        Resource::Component(name) => format!("component {name}"),
        Resource::Apiserver => "the apiservers".to_owned(),
        Resource::Etcd => "etcd".to_owned(),
    };
    format!("{verb} {what}")
}

fn text(of: &Explanation) -> String {
    let mut out = format!("{}\n\n", of.check);
    for statement in &of.statements {
        let mark = if statement.contradicted { " (the real system contradicts it)" } else { "" };
        let _ = writeln!(out, "  {} {}{mark}\n      {}", statement.id, statement.source, statement.says);
    }
    let _ = writeln!(out);
    let mut row = |label: &str, value: &str| {
        if !value.is_empty() {
            let _ = writeln!(out, "  {label:<10} {value}");
        }
    };
    row("observes", &format!("{} within {} s", of.observes, of.budget_s));
    row("touches", &of.touches.join(", "));
    row("needs", &of.needs.join(", "));
    row("shares", &of.shares.join(", "));
    row(
        "runs",
        match (of.exclusive, of.slow) {
            (true, true) => "alone, and takes over a minute",
            (true, false) => "alone",
            (false, true) => "first: it takes over a minute",
            (false, false) => "",
        },
    );
    let kind = match of.control.kind {
        ControlKind::Plant => "planted",
        ControlKind::Input => "another input",
        ControlKind::OmitStep => "a step left out",
        ControlKind::Recorded => "recorded",
    };
    row("proved by", &format!("{} ({kind}), which it must report as {}", of.control.defect, of.control.finds));
    row("remedy", of.remedy);
    match &of.latest {
        None => row("latest", "not in the latest run"),
        Some(record) => {
            let proven = if record.proven { "proven" } else { "not proven" };
            row("latest", format!("{}, {proven} {}", verdict_name(record.verdict), record.reason).trim_end());
            for evidence in &record.evidence {
                row("evidence", &evidence.path);
            }
        }
    }
    row("run it", &format!("shakedown run --check {}", of.check));
    out
}
