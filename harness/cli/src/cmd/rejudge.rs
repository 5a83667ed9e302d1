//! `shakedown rejudge RUN`: judges a run's stored evidence again with today's judges, without a cluster.

use std::io::IsTerminal as _;

use anyhow::Result;
use serde::Serialize;
use shakedown_core::{CheckRecord, ControlVerdict, Verdict};
use shakedown_engine::{EvidenceStore, rejudge};
use shakedown_reports::schema::verdict_name;
use shakedown_reports::{fold, table};

use crate::cmd::catalogue::scopes;
use crate::cmd::run::reports;
use crate::ctx::Ctx;
use crate::exit::{Exit, usage};

/// Arguments of `rejudge`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The run: its id, a path to its folder, or `latest`.
    #[arg(default_value = "latest")]
    pub run: String,
}

/// A check that is judged otherwise than it was.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Change {
    check: String,
    was: Verdict,
    is: Verdict,
    control_was: ControlVerdict,
    control_is: ControlVerdict,
    reason: String,
}

/// Judges again. The stored report stays as it is.
///
/// # Errors
/// There is no such run, or its report cannot be read.
pub async fn run(args: Args, ctx: &Ctx) -> Result<Exit> {
    let store = reports()?;
    let old = store.read(&args.run).map_err(usage)?;
    let evidence = EvidenceStore::new(store.find(&args.run).map_err(usage)?);
    let checks = shakedown_suites::checks();
    let mut unknown = Vec::new();
    let records: Vec<CheckRecord> = old
        .checks
        .iter()
        .map(|record| match checks.iter().find(|check| check.id == record.id) {
            Some(check) => rejudge(check, record, &evidence),
            None => {
                unknown.push(record.id.clone());
                record.clone()
            }
        })
        .collect();
    let changes: Vec<Change> = old.checks.iter().zip(&records).filter_map(|(was, is)| change(was, is)).collect();
    let report = fold::report_of(old.run, records, &scopes()?);
    if ctx.json {
        ctx.print_json(&serde_json::json!({ "changes": changes, "unknown": unknown, "report": report }))?;
    } else {
        let coloured = std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        ctx.line(table::render(&report, coloured).trim_end())?;
        for id in &unknown {
            ctx.line(format!("{id} does not exist any more: its verdict is the stored one"))?;
        }
        for change in &changes {
            let (was, is) = (verdict_name(change.was), verdict_name(change.is));
            ctx.line(format!("{} was {was}, is {is}: {}", change.check, change.reason))?;
        }
        ctx.line(format!("{} of {} checks are judged otherwise", changes.len(), report.checks.len()))?;
    }
    Ok(Exit::of_verdicts(report.checks.iter().map(|check| check.verdict)))
}

fn change(was: &CheckRecord, is: &CheckRecord) -> Option<Change> {
    let same = was.verdict == is.verdict && was.control.verdict == is.control.verdict && was.findings == is.findings;
    (!same).then(|| Change {
        check: is.id.clone(),
        was: was.verdict,
        is: is.verdict,
        control_was: was.control.verdict,
        control_is: is.control.verdict,
        reason: is.reason.clone(),
    })
}
