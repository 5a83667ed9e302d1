//! `shakedown converge`: the documented platform, installed to stay.

use std::collections::BTreeSet;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use shakedown_bundle::{Bundle, CacheDir, Selection};
use shakedown_cluster::Cluster;
use shakedown_core::EventSink;
use shakedown_stack::converge::{Ended, PlannedStep, Report};
use shakedown_stack::{converge, open};

use crate::ctx::Ctx;
use crate::exit::{Exit, usage};

/// What to converge.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Print the steps, in which order they run and what each lacks; change nothing.
    #[arg(long)]
    plan: bool,
    /// Only this component and what it needs.
    #[arg(long, value_name = "COMPONENT", conflicts_with = "plan")]
    only: Option<String>,
    /// Take this component away instead.
    #[arg(long, value_name = "COMPONENT", conflicts_with_all = ["plan", "only"])]
    remove: Option<String>,
}

/// Runs it.
///
/// # Errors
/// The cluster cannot be found or reached, the bundle is incomplete, a component is unknown.
pub async fn run(args: Args, ctx: &Ctx) -> Result<Exit> {
    if let Some(name) = args.only.as_ref().or(args.remove.as_ref()) {
        let known: BTreeSet<&str> = shakedown_stack::components::all().iter().map(|c| c.name()).collect();
        if !known.contains(name.as_str()) {
            let known: Vec<&str> = known.into_iter().collect();
            return Err(usage(format!("no component is called `{name}`\nhint: one of {}", known.join(", "))));
        }
    }
    let cluster = Cluster::find(&ctx.name)?;
    let bundle = Bundle::open(&CacheDir::for_caller()?, &Selection::core()).context("cannot open the bundle")?;
    let sink: Arc<dyn EventSink> = ctx.progress.clone();
    let site = open::site(&cluster, open::tools(&bundle)?, sink).await?;
    if args.plan {
        let steps = converge::plan(&site, true).await?;
        ctx.progress.end();
        if ctx.json {
            ctx.print_json(&steps)?;
        } else {
            ctx.line(plan_text(&steps))?;
        }
        return Ok(Exit::OK);
    }
    let _lock = cluster.lock()?;
    if let Some(name) = args.remove {
        converge::remove(&site, &name).await?;
        return Ok(Exit::OK);
    }
    let report = converge::converge_telling(&site, args.only.as_deref(), &|step| {
        // The reason at once: the others may take minutes yet.
        let why = step.error.as_deref().and_then(|e| e.lines().next()).map(|e| format!(": {e}")).unwrap_or_default();
        ctx.progress.say(format!(
            "{}: {} after {:.1} s{why}",
            step.name,
            word(step.ended),
            step.look_s + step.install_s + step.ready_s
        ));
    })
    .await?;
    ctx.progress.end();
    if ctx.json {
        ctx.print_json(&report)?;
    } else {
        ctx.line(report_text(&report))?;
    }
    Ok(if report.converged { Exit::OK } else { Exit::FAILED })
}

fn plan_text(steps: &[PlannedStep]) -> String {
    let mut text = String::new();
    for step in steps {
        let state = step.wanting.as_deref().map_or_else(|| "as it should be".to_owned(), |w| format!("wanting: {w}"));
        text.push_str(&format!("{}. {} {}  {}\n", step.wave + 1, step.name, step.version, step.what));
        if !step.needs.is_empty() {
            text.push_str(&format!("     needs {}\n", step.needs.join(", ")));
        }
        text.push_str(&format!("     ready when {}\n     {state}\n", step.readiness));
    }
    text
}

fn word(ended: Ended) -> &'static str {
    match ended {
        Ended::Unchanged => "unchanged",
        Ended::Installed => "installed",
        Ended::Failed => "FAILED",
        Ended::Blocked => "blocked",
    }
}

fn report_text(report: &Report) -> String {
    let mut text = format!(
        "{:<18} {:<9} {:>8} {:>7} {:>8} {:>8} {:>8}  waited for\n",
        "step", "", "began", "look", "install", "ready", "cpu"
    );
    for step in &report.steps {
        text.push_str(&format!(
            "{:<18} {:<9} {:>7.1}s {:>6.1}s {:>7.1}s {:>7.1}s {:>7.1}s  {}\n",
            step.name,
            word(step.ended),
            step.began_s,
            step.look_s,
            step.install_s,
            step.ready_s,
            step.cpu_s,
            step.waited_for
        ));
        for line in step.error.iter().flat_map(|e| e.lines()) {
            text.push_str(&format!("    {line}\n"));
        }
    }
    let state = if report.converged { "converged" } else { "not converged" };
    text.push_str(&format!("{state} after {:.1} s and {:.1} CPU s of the nodes\n", report.seconds, report.cpu_seconds));
    text
}
