//! `shakedown down`: removes a cluster, whatever state it is in.

use anyhow::{Context as _, Result};
use shakedown_cluster::Store;
use shakedown_cluster::down::down;

use crate::cmd::up::wrong_use;
use crate::ctx::Ctx;
use crate::exit::Exit;

/// Arguments of `down`.
#[derive(Debug, clap::Args)]
pub struct Args {}

/// Removes it.
///
/// # Errors
/// What does not go.
pub async fn run(_args: Args, ctx: &Ctx) -> Result<Exit> {
    down(&Store::default(), &ctx.name)
        .await
        .map_err(wrong_use)
        .with_context(|| format!("cannot remove `{}`", ctx.name))?;
    ctx.progress.say(format!("cluster `{}` is gone", ctx.name));
    Ok(Exit::OK)
}
