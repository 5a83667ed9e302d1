//! The `shakedown` command: arguments, exit codes, progress; the only place where everything meets.
//!
//! The same executable is also PID 1 of a node and the helper that enters one. Those roles are taken in [`helper`],
//! before any thread or runtime starts.

mod cmd;
mod ctx;
mod exit;
mod ground;
mod helper;
mod progress;

use std::process::ExitCode;

use clap::Parser;

use crate::cmd::Command;
use crate::ctx::Ctx;

/// Takes a Kubernetes platform on its shakedown cruise: provisions it, converges it, breaks it on purpose, and proves
/// what its documents promise.
#[derive(Debug, Parser)]
#[command(name = "shakedown", version, propagate_version = true)]
struct Cli {
    /// Which cluster, where there are several side by side.
    #[arg(long, global = true, default_value = ctx::DEFAULT_NAME, env = "SHAKEDOWN_NAME", value_parser = ctx::cluster_name)]
    name: String,
    /// Facts as JSON on standard output.
    #[arg(long, global = true)]
    json: bool,
    /// No progress lines.
    #[arg(long, short, global = true)]
    quiet: bool,
    #[command(subcommand)]
    command: Command,
}

fn main() -> ExitCode {
    if let Some(code) = helper::dispatch() {
        return code;
    }
    // clap ends the process itself: 2 for wrong use, 0 for `--help` and `--version`.
    let cli = Cli::parse();
    let ctx = Ctx::new(cli.name, cli.json, cli.quiet);
    let done = match tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build() {
        Ok(runtime) => {
            let done = runtime.block_on(ctx::until_interrupted(&ctx, cli.command.interrupt(), cli.command.run(&ctx)));
            // Blocking work that was abandoned by Ctrl-C must not hold the process.
            runtime.shutdown_background();
            done
        }
        Err(error) => Err(anyhow::Error::new(error).context("cannot start the runtime")),
    };
    ctx.progress.end();
    done.unwrap_or_else(|error| exit::report(&error, ctx.cancel.is_cancelled())).into()
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::Cli;

    #[test]
    fn arguments_are_consistent() {
        Cli::command().debug_assert();
    }
}
