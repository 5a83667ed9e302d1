//! The project's own tasks: `cargo xtask run | test | tidy | torture | bench | clear | bundle | catalogue`.
//!
//! A task sets up all that it needs (the test runner, the static binary, the bundle) and then does its one thing, so
//! that a fresh clone needs no other command. Progress goes to standard error, one line a step; results to standard
//! output.
#![allow(clippy::print_stdout, reason = "a task's results belong on standard output")]

mod bench;
mod binary;
mod browser;
mod host;
mod nextest;
mod shell;
mod tidy;
mod tiers;
mod torture;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

/// The arguments of `cargo xtask`.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", about = "The project's own tasks", disable_version_flag = true)]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Set up everything, then `shakedown run` with the arguments given.
    Run {
        /// Passed on to `shakedown run`.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// Set up everything, then run the test tiers: unit, component, e2e.
    Test(tiers::TestArgs),
    /// Check the rules of the repository that no compiler checks.
    Tidy(tidy::TidyArgs),
    /// Kill `up`, `converge` and `run` at random moments; each must succeed when it is called again.
    Torture(torture::TortureArgs),
    /// Print what bring-up, checks and removal cost; asserts nothing.
    Bench(bench::BenchArgs),
    /// Remove the clusters that an earlier, interrupted run left behind.
    Clear,
    /// `shakedown bundle` with the arguments given.
    Bundle {
        /// Passed on to `shakedown bundle`.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// `shakedown catalogue` with the arguments given.
    Catalogue {
        /// Passed on to `shakedown catalogue`.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
}

fn main() -> ExitCode {
    let code = match dispatch(Cli::parse().task) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            1
        }
    };
    ExitCode::from(code)
}

/// Runs one task and gives the exit code of the command that it ended in.
fn dispatch(task: Task) -> Result<u8> {
    match task {
        Task::Run { args } => run(&args),
        Task::Test(args) => tiers::test(&args),
        Task::Tidy(args) => tidy::tidy(&args),
        Task::Torture(args) => torture::torture(&args),
        Task::Bench(args) => bench::bench(&args),
        Task::Clear => clear(),
        Task::Bundle { args } => pass_through("bundle", &args),
        Task::Catalogue { args } => pass_through("catalogue", &args),
    }
}

fn run(args: &[String]) -> Result<u8> {
    host::require(host::Need::Bundle)?;
    host::require(host::Need::Cluster)?;
    let binary = binary::build(binary::Profile::Dev)?;
    binary.own(&["bundle", "build"])?.check("the bundle")?;
    let mut all = vec!["run".to_owned()];
    all.extend_from_slice(args);
    Ok(binary.as_root(&all)?.code)
}

fn clear() -> Result<u8> {
    host::require(host::Need::Cluster)?;
    let binary = binary::build(binary::Profile::Dev)?;
    torture::clear_all(&binary)?;
    Ok(0)
}

fn pass_through(command: &str, args: &[String]) -> Result<u8> {
    let binary = binary::build(binary::Profile::Dev)?;
    let mut all = vec![command.to_owned()];
    all.extend_from_slice(args);
    Ok(binary.own(&all)?.code)
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
