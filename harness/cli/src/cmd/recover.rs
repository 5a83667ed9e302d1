//! `shakedown recover`: puts back whatever an earlier command left changed. Safe at any time, and twice.

use anyhow::{Context as _, Result};
use serde_json::json;
use shakedown_cluster::{Cluster, recover};

use crate::cmd::up::wrong_use;
use crate::ctx::Ctx;
use crate::exit::Exit;
use crate::ground;

/// Arguments of `recover`.
#[derive(Debug, clap::Args)]
pub struct Args {}

/// Recovers the nodes, then what the journal still has open.
///
/// # Errors
/// When there is no such cluster, another command works on it, or something cannot be put back.
pub async fn run(_args: Args, ctx: &Ctx) -> Result<Exit> {
    let cluster = Cluster::find(&ctx.name).map_err(wrong_use)?;
    let _lock = cluster.lock()?;
    let nodes = recover::nodes(&cluster).await.context("cannot recover the nodes")?;
    let put_back = ground::put_back(ctx, &cluster).await?;
    if ctx.json {
        ctx.print_json(&json!({ "schema": 1, "nodes": nodes, "put_back": put_back }))?;
    } else {
        for (what, names) in [("thawed", &nodes.thawed), ("booted", &nodes.booted)] {
            for name in names {
                ctx.line(format!("{what} node {name}"))?;
            }
        }
        for owner in &put_back {
            ctx.line(format!("put back what {owner} had changed"))?;
        }
    }
    Ok(Exit::OK)
}
