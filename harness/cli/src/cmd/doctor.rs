//! `shakedown doctor`: what this machine can carry, and what each missing thing costs.

use anyhow::{Context as _, Result};
use serde_json::json;
use shakedown_cluster::Store;
use shakedown_cluster::doctor::{Level, judge};
use shakedown_node::probe::probe;

use crate::ctx::Ctx;
use crate::exit::Exit;

/// Arguments of `doctor`.
#[derive(Debug, clap::Args)]
pub struct Args {}

/// Examines it. Exit code 3 when no cluster can come up here.
///
/// # Errors
/// When the machine cannot be looked at.
pub async fn run(_args: Args, ctx: &Ctx) -> Result<Exit> {
    let probes = probe(Store::default().root()).await.context("cannot examine this machine")?;
    let items = judge(&probes);
    let refused = items.iter().any(|i| i.level == Level::Refused);
    if ctx.json {
        ctx.print_json(&json!({ "schema": 1, "able": !refused, "items": items, "probes": probes }))?;
    } else {
        for item in &items {
            let mark = match item.level {
                Level::Ok => "ok     ",
                Level::Less => "less   ",
                Level::Refused => "MISSING",
            };
            ctx.line(format!("{mark} {:22} {}", item.what, item.seen))?;
            if item.level != Level::Ok {
                ctx.line(format!("        costs: {}", item.costs))?;
                ctx.line(format!("        hint: {}", item.hint))?;
            }
        }
        ctx.line(if refused { "no cluster can come up here" } else { "a cluster can come up here" })?;
    }
    Ok(if refused { Exit::DOUBT } else { Exit::OK })
}
