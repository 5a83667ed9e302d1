//! `shakedown residue`: what is left on this host of clusters that are no more.

use anyhow::{Context as _, Result};
use serde_json::json;
use shakedown_cluster::Store;
use shakedown_cluster::residue::find;

use crate::ctx::Ctx;
use crate::exit::Exit;

/// Arguments of `residue`.
#[derive(Debug, clap::Args)]
pub struct Args {}

/// Lists it. Exit code 1 when there is any.
///
/// # Errors
/// When the host cannot be looked at.
pub async fn run(_args: Args, ctx: &Ctx) -> Result<Exit> {
    let found = find(&Store::default()).context("cannot look for residue")?;
    if ctx.json {
        ctx.print_json(&json!({ "schema": 1, "residue": found }))?;
    } else if found.is_empty() {
        ctx.line("nothing is left")?;
    } else {
        for residue in &found {
            let kind = serde_json::to_value(residue.kind)?;
            ctx.line(format!("{:10} {}", kind.as_str().unwrap_or_default(), residue.what))?;
        }
        let mut clusters: Vec<_> = found.iter().filter_map(|r| r.cluster.as_deref()).collect();
        clusters.sort_unstable();
        clusters.dedup();
        for cluster in clusters {
            ctx.line(format!("hint: `shakedown down --name {cluster}` removes what is left of `{cluster}`"))?;
        }
    }
    Ok(if found.is_empty() { Exit::OK } else { Exit::FAILED })
}
