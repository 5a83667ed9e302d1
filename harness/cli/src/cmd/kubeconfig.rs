//! `shakedown kubeconfig`: prints the administrator's access to the API.

use anyhow::Result;
use shakedown_cluster::Cluster;

use crate::cmd::up::wrong_use;
use crate::ctx::Ctx;
use crate::exit::Exit;

/// Arguments of `kubeconfig`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Print the path of the file instead.
    #[arg(long)]
    pub path: bool,
}

/// Prints it.
///
/// # Errors
/// When there is no such cluster, or it never came so far.
pub async fn run(args: Args, ctx: &Ctx) -> Result<Exit> {
    let cluster = Cluster::find(&ctx.name).map_err(wrong_use)?;
    if ctx.json {
        let facts = serde_json::json!({ "path": cluster.kubeconfig_path(), "server": cluster.endpoint() });
        ctx.print_json(&facts)?;
    } else if args.path {
        ctx.line(cluster.kubeconfig_path().display())?;
    } else {
        ctx.line(cluster.kubeconfig()?.trim_end())?;
    }
    Ok(Exit::OK)
}
