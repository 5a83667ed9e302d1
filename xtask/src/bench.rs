//! What it costs: wall time, CPU seconds and the harness's own memory, phase by phase. Prints; asserts nothing.

use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::Args;

use crate::binary::{self, Binary, Profile};
use crate::{host, shell};

/// Arguments of `cargo xtask bench`.
#[derive(Debug, Args)]
pub struct BenchArgs {
    /// Bring-up and removal only.
    #[arg(long)]
    no_run: bool,
}

/// The cluster that is measured; a user's own cluster has another name.
const NAME: &str = "bench";

/// What one command cost.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Cost {
    wall: Duration,
    /// Of the whole machine, so it is the command's only where nothing else runs.
    cpu_seconds: f64,
    /// The harness's own peak, in KiB.
    peak_kib: u64,
}

/// Measures one life of a cluster.
///
/// # Errors
/// When something cannot be set up or a command fails.
pub fn bench(args: &BenchArgs) -> Result<u8> {
    host::require(host::Need::Bundle)?;
    host::require(host::Need::Cluster)?;
    let binary = binary::build(Profile::Release)?;
    binary.own(&["bundle", "build"])?.check("the bundle")?;
    binary.as_root(&["down", "--name", NAME])?.check("down")?;
    let mut steps: Vec<&[&str]> = vec![&["up", "--name", NAME], &["converge", "--name", NAME]];
    if !args.no_run {
        steps.push(&["run", "--name", NAME, "--controls", "all"]);
    }
    steps.push(&["down", "--name", NAME]);
    let mut rows = Vec::new();
    for step in steps {
        shell::say(format!("bench: shakedown {}", step.join(" ")));
        let (cost, code) = measure(&binary, step)?;
        rows.push((step[0], cost, code));
    }
    println!("{:<10} {:>8} {:>8} {:>10} {:>5}", "command", "wall s", "CPU s", "peak MiB", "exit");
    for (name, cost, code) in &rows {
        println!(
            "{name:<10} {:>8.1} {:>8.1} {:>10.1} {code:>5}",
            cost.wall.as_secs_f64(),
            cost.cpu_seconds,
            cost.peak_kib as f64 / 1024.0
        );
    }
    Ok(0)
}

fn measure(binary: &Binary, args: &[&str]) -> Result<(Cost, u8)> {
    let busy = busy_ticks();
    let started = Instant::now();
    let mut command = binary.root_command();
    let mut child = command.args(args).stdin(Stdio::null()).spawn().context("cannot start shakedown")?;
    let mut peak_kib = 0;
    let status = loop {
        peak_kib = peak_kib.max(peak_of(&child));
        if let Some(status) = child.try_wait().context("cannot wait for shakedown")? {
            break status;
        }
        std::thread::sleep(Duration::from_millis(100));
    };
    let cost = Cost {
        wall: started.elapsed(),
        // The kernel counts in hundredths of a second (USER_HZ) on every Linux that Rust supports.
        cpu_seconds: busy_ticks().saturating_sub(busy) as f64 / 100.0,
        peak_kib,
    };
    Ok((cost, shell::code_of(status)))
}

/// The process's peak resident size so far, in KiB; 0 once it is gone.
fn peak_of(child: &Child) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap_or_default();
    field(&status, "VmHWM:").unwrap_or(0)
}

fn field(status: &str, name: &str) -> Option<u64> {
    status.lines().find_map(|line| line.strip_prefix(name))?.split_whitespace().next()?.parse().ok()
}

/// Ticks that the machine's processors have spent on work since it booted.
fn busy_ticks() -> u64 {
    busy_of(&std::fs::read_to_string("/proc/stat").unwrap_or_default())
}

/// user + nice + system + irq + softirq of the first line; idle, iowait and steal are not work.
fn busy_of(stat: &str) -> u64 {
    let first = stat.lines().next().unwrap_or_default();
    let ticks: Vec<u64> = first.split_whitespace().skip(1).filter_map(|word| word.parse().ok()).collect();
    [0, 1, 2, 5, 6].iter().filter_map(|at| ticks.get(*at)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_is_counted_and_idling_is_not() {
        assert_eq!(busy_of("cpu  10 1 5 1000 50 2 3 7 0 0\ncpu0 1 1 1 1\n"), 21);
        assert_eq!(busy_of(""), 0);
    }

    #[test]
    fn the_peak_is_read_in_kib() {
        assert_eq!(field("Name:\tx\nVmHWM:\t   65536 kB\n", "VmHWM:"), Some(65536));
        assert_eq!(field("Name:\tx\n", "VmHWM:"), None);
    }
}
