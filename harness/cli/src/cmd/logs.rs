//! `shakedown logs [NODE]`: what the nodes' programs and containers wrote, also of nodes that are down.

use anyhow::Result;
use serde_json::json;
use shakedown_cluster::{Cluster, logs};

use crate::cmd::up::wrong_use;
use crate::ctx::Ctx;
use crate::exit::{Exit, usage};

/// Arguments of `logs`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Name of the node; all of them when none is named.
    pub node: Option<String>,
    /// Only logs whose name contains this (`kubelet`, `kube-apiserver`).
    #[arg(long)]
    pub of: Option<String>,
    /// How many lines from the end of each.
    #[arg(long, short = 'n', default_value_t = 40)]
    pub lines: usize,
    /// Only list the logs there are.
    #[arg(long)]
    pub list: bool,
}

/// Prints them.
///
/// # Errors
/// When there is no such cluster, node or log.
pub async fn run(args: Args, ctx: &Ctx) -> Result<Exit> {
    let cluster = Cluster::find(&ctx.name).map_err(wrong_use)?;
    let names = match args.node {
        Some(name) => vec![name],
        None => cluster.state().members.iter().map(|m| m.name.clone()).collect(),
    };
    let mut found = Vec::new();
    for node in &names {
        let wanted = |name: &str| args.of.as_ref().is_none_or(|of| name.contains(of.as_str()));
        let logs = logs::of(&cluster, node).map_err(wrong_use)?;
        found.extend(logs.into_iter().filter(|(name, _)| wanted(name)).map(|(name, path)| (node, name, path)));
    }
    if found.is_empty() {
        return Err(usage("there is no such log\nhint: `shakedown logs --list` names those that there are"));
    }
    if ctx.json {
        let facts: Vec<_> =
            found.iter().map(|(node, name, path)| json!({ "node": node, "log": name, "path": path })).collect();
        ctx.print_json(&facts)?;
        return Ok(Exit::OK);
    }
    for (node, name, path) in &found {
        if args.list {
            ctx.line(format!("{node} {name} {}", path.display()))?;
        } else {
            ctx.line(format!("==> {node} {name}\n{}", logs::tail(path, args.lines)?))?;
        }
    }
    Ok(Exit::OK)
}
