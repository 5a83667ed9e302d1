//! `shakedown exec NODE -- CMD`: runs a command on a node; its exit code is ours.

use anyhow::{Context as _, Result};
use shakedown_cluster::Cluster;
use shakedown_node::Exec;
use shakedown_node::process::exit_code;

use crate::cmd::up::wrong_use;
use crate::ctx::Ctx;
use crate::exit::Exit;

/// Arguments of `exec`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Name of the node; `lb` is the load balancer.
    pub node: String,
    /// The command and its arguments.
    #[arg(last = true, required = true)]
    pub command: Vec<String>,
}

/// Runs it.
///
/// # Errors
/// When there is no such node or it is not running.
pub async fn run(args: Args, ctx: &Ctx) -> Result<Exit> {
    let cluster = Cluster::find(&ctx.name).map_err(wrong_use)?;
    let node = cluster.node(&args.node).map_err(wrong_use)?;
    let command = node.command(&Exec::new(args.command).interactive())?;
    let status = tokio::process::Command::from(command).status().await.context("cannot start the helper")?;
    Ok(Exit::passed_through(exit_code(status)))
}
