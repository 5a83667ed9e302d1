//! `shakedown status`: a cluster's state, per node and per component.

use anyhow::Result;
use shakedown_cluster::Cluster;
use shakedown_cluster::status::{Overall, Status, status};

use crate::cmd::up::wrong_use;
use crate::ctx::Ctx;
use crate::exit::Exit;

/// Arguments of `status`.
#[derive(Debug, clap::Args)]
pub struct Args {}

/// Prints it. Exit code 0 when everything is up, else 3.
///
/// # Errors
/// When there is no such cluster.
pub async fn run(_args: Args, ctx: &Ctx) -> Result<Exit> {
    let cluster = Cluster::find(&ctx.name).map_err(wrong_use)?;
    let status = status(&cluster).await;
    if ctx.json {
        ctx.print_json(&status)?;
    } else {
        ctx.line(text(&status))?;
    }
    Ok(if status.state == Overall::Up { Exit::OK } else { Exit::DOUBT })
}

/// The word that the JSON form uses.
fn word(value: &impl serde::Serialize) -> String {
    serde_json::to_value(value).ok().and_then(|v| v.as_str().map(ToOwned::to_owned)).unwrap_or_default()
}

fn text(status: &Status) -> String {
    let mut lines = vec![format!(
        "cluster {} is {}{} ({}, {})",
        status.name,
        word(&status.state),
        if status.rebooted { ": this host was started anew" } else { "" },
        status.kubernetes,
        status.endpoint
    )];
    if status.state == Overall::Stopped {
        lines.push(format!("hint: `shakedown up --name {}` starts it again", status.name));
    }
    for node in &status.nodes {
        lines.push(format!(
            "{:12} {:13} {:15} {:8} {:5} MiB {:7.1} CPU s",
            node.name,
            word(&node.role),
            node.address,
            word(&node.state),
            node.memory_bytes >> 20,
            node.cpu_seconds
        ));
        for (component, state) in &node.components {
            lines.push(format!("    {component:12} {state}"));
        }
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stopped_cluster_says_what_starts_it() {
        let status = Status {
            schema: 1,
            name: "one".into(),
            id: "00".into(),
            state: Overall::Stopped,
            endpoint: "https://10.77.0.2:6443".into(),
            kubernetes: "v1.34.4".into(),
            rebooted: true,
            nodes: Vec::new(),
        };
        let text = text(&status);
        assert!(text.contains("stopped") && text.contains("hint: `shakedown up --name one`"), "{text}");
    }
}
