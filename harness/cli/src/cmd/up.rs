//! `shakedown up`: brings a cluster up, or what is missing of it.

use std::sync::Arc;

use anyhow::{Context as _, Result};
use shakedown_bundle::{Bundle, CacheDir, Selection};
use shakedown_cluster::{ClusterError, Parts, UpOptions, up};

use crate::ctx::Ctx;
use crate::exit::{Exit, usage};

/// Arguments of `up`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Nodes with an apiserver and an etcd member; 3 for a new cluster.
    #[arg(long)]
    pub control_planes: Option<usize>,
    /// Nodes for workloads; 2 for a new cluster. More than there are join the documented way.
    #[arg(long)]
    pub workers: Option<usize>,
}

/// Brings it up.
///
/// # Errors
/// The step that failed; a second call goes on from there.
pub async fn run(args: Args, ctx: &Ctx) -> Result<Exit> {
    let progress = Arc::clone(&ctx.progress);
    let options = UpOptions {
        name: ctx.name.clone(),
        control_planes: args.control_planes,
        workers: args.workers,
        lines: Arc::new(move |line| progress.say(line)),
    };
    let (cluster, report) =
        up(&parts()?, &options).await.map_err(wrong_use).with_context(|| format!("cannot bring up `{}`", ctx.name))?;
    if ctx.json {
        ctx.print_json(&report)?;
    } else {
        ctx.line(format!(
            "cluster `{}` is up: {} nodes, {} ({:.1} s, {:.1} CPU s)",
            cluster.name(),
            cluster.nodes().len(),
            cluster.endpoint(),
            report.seconds,
            report.cpu_seconds
        ))?;
    }
    Ok(Exit::OK)
}

/// The caller's mistakes end in exit code 2.
pub fn wrong_use(error: ClusterError) -> anyhow::Error {
    if error.is_usage() { usage(error) } else { error.into() }
}

/// The parts of a bare cluster.
fn parts() -> Result<Parts> {
    let bundle = Bundle::open(&CacheDir::for_caller()?, &Selection::core()).context("cannot open the bundle")?;
    Ok(Parts::of(&bundle))
}
