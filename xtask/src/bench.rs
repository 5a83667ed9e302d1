//! What it costs: wall time, CPU seconds and the harness's own memory, phase by phase. Prints; asserts nothing.

use std::fmt::Write as _;
use std::io::Read as _;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::Args;
use serde_json::Value;

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
    /// Processor seconds of the whole machine: the command's only where nothing else runs.
    machine_cpu: f64,
    /// Processor seconds of the harness's own process.
    own_cpu: f64,
    /// The harness's own peak, in KiB.
    peak_kib: u64,
    /// Its exit code.
    code: u8,
}

/// Measures one life of a cluster.
///
/// # Errors
/// When something cannot be set up.
pub fn bench(args: &BenchArgs) -> Result<u8> {
    if !shell::is_root() {
        bail!("sudo would be measured instead of the harness\nhint: run the task as root");
    }
    host::require(host::Need::Bundle)?;
    let binary = binary::build(Profile::Release)?;
    binary.own(&["bundle", "build"])?.check("the bundle")?;
    binary.as_root(&["down", "--name", NAME])?.check("down")?;
    let mut steps: Vec<&[&str]> = vec![&["up"], &["converge"]];
    if !args.no_run {
        steps.push(&["run", "--controls", "all"]);
    }
    steps.push(&["down"]);
    let mut rows = Vec::new();
    for step in steps {
        shell::say(format!("bench: shakedown {}", step.join(" ")));
        let (cost, facts) = measure(&binary, step)?;
        print!("{}", phases(&facts));
        rows.push((step[0], cost, checks(&facts)));
    }
    println!("\n{:<10} {:>8} {:>8} {:>12} {:>10} {:>5}", "command", "wall s", "CPU s", "own CPU s", "peak MiB", "exit");
    for (name, cost, checks) in &rows {
        println!(
            "{name:<10} {:>8.1} {:>8.1} {:>12.2} {:>10.1} {:>5}",
            cost.wall.as_secs_f64(),
            cost.machine_cpu,
            cost.own_cpu,
            cost.peak_kib as f64 / 1024.0,
            cost.code
        );
        if *checks > 0 {
            println!(
                "  {checks} checks: {:.1} ms of the harness's own CPU each",
                cost.own_cpu * 1000.0 / *checks as f64
            );
        }
    }
    Ok(0)
}

fn measure(binary: &Binary, args: &[&str]) -> Result<(Cost, Value)> {
    let busy = busy_ticks();
    let started = Instant::now();
    let mut command = binary.root_command();
    command.args(["--name", NAME, "--json"]).args(args).stdin(Stdio::null()).stdout(Stdio::piped());
    let mut child = command.spawn().context("cannot start shakedown")?;
    // Read beside the watching, or a long answer would fill the pipe and never end.
    let reader = child.stdout.take().map(|mut out| {
        std::thread::spawn(move || {
            let mut text = Vec::new();
            let _ = out.read_to_end(&mut text);
            text
        })
    });
    let (mut peak_kib, mut own_ticks) = (0, 0);
    let status = loop {
        peak_kib = peak_kib.max(peak_of(&child));
        own_ticks = own_ticks.max(own_ticks_of(&child));
        if let Some(status) = child.try_wait().context("cannot wait for shakedown")? {
            break status;
        }
        std::thread::sleep(Duration::from_millis(100));
    };
    let cost = Cost {
        wall: started.elapsed(),
        machine_cpu: seconds(busy_ticks().saturating_sub(busy)),
        own_cpu: seconds(own_ticks),
        peak_kib,
        code: shell::code_of(status),
    };
    let answer = reader.and_then(|reader| reader.join().ok()).unwrap_or_default();
    // A command without facts, or one that failed, has no phases to show.
    Ok((cost, serde_json::from_slice(&answer).unwrap_or(Value::Null)))
}

/// The phases of `up` or the steps of `converge`, a line each: when it began, how long it took, what it waited for.
fn phases(facts: &Value) -> String {
    let mut out = String::new();
    let list = |name: &str| facts[name].as_array().cloned().unwrap_or_default();
    for phase in list("phases") {
        let number = |name: &str| phase[name].as_f64().unwrap_or(0.0);
        let (start, wall, cpu) = (number("start_seconds"), number("seconds"), number("cpu_seconds"));
        let _ = writeln!(
            out,
            "  {:<28} from {start:>6.1} s {wall:>6.1} s {cpu:>6.1} CPU s  {}",
            phase["name"].as_str().unwrap_or_default(),
            phase["waited_for"].as_str().unwrap_or_default()
        );
    }
    for step in list("steps") {
        let number = |name: &str| step[name].as_f64().unwrap_or(0.0);
        let wall = number("look_s") + number("install_s") + number("ready_s");
        let _ = writeln!(
            out,
            "  {:<28} from {:>6.1} s {wall:>6.1} s ({:.1} to install)  {}",
            step["name"].as_str().unwrap_or_default(),
            number("began_s"),
            number("install_s"),
            step["waited_for"].as_str().unwrap_or_default()
        );
    }
    out
}

/// Checks in a run's report; 0 for any other answer.
fn checks(facts: &Value) -> usize {
    facts["checks"].as_array().map_or(0, Vec::len)
}

fn seconds(ticks: u64) -> f64 {
    // The kernel counts in hundredths of a second (USER_HZ) on every Linux that Rust supports.
    ticks as f64 / 100.0
}

/// Ticks that the process itself has spent, without its children; 0 once it is gone.
fn own_ticks_of(child: &Child) -> u64 {
    ticks_of(&std::fs::read_to_string(format!("/proc/{}/stat", child.id())).unwrap_or_default())
}

/// user + system of a process's `stat` line; its name stands in parentheses and may hold anything.
fn ticks_of(stat: &str) -> u64 {
    let Some((_, rest)) = stat.rsplit_once(')') else { return 0 };
    rest.split_whitespace().skip(11).take(2).filter_map(|word| word.parse::<u64>().ok()).sum()
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
    fn a_process_is_read_whatever_its_name() {
        let stat = "7 (a) b) S 1 7 7 0 -1 4194560 100 0 0 0 30 12 5 5 20 0 1 0 100 0";
        assert_eq!(ticks_of(stat), 42);
        assert_eq!(ticks_of(""), 0);
    }

    #[test]
    fn phases_and_steps_are_shown_and_anything_else_is_not() {
        let up = serde_json::json!({"phases": [
            {"name": "nodes", "start_seconds": 0.0, "seconds": 2.5, "cpu_seconds": 3.0, "waited_for": "containerd"}
        ]});
        assert!(phases(&up).contains("nodes") && phases(&up).contains("2.5 s") && phases(&up).contains("containerd"));
        let converge = serde_json::json!({"steps": [
            {"name": "cilium", "began_s": 1.0, "look_s": 0.5, "install_s": 2.0, "ready_s": 30.0, "waited_for": "agents"}
        ]});
        assert!(phases(&converge).contains("32.5 s"));
        assert_eq!(phases(&Value::Null), "");
        assert_eq!(checks(&serde_json::json!({"checks": [1, 2]})), 2);
    }

    #[test]
    fn the_peak_is_read_in_kib() {
        assert_eq!(field("Name:\tx\nVmHWM:\t   65536 kB\n", "VmHWM:"), Some(65536));
        assert_eq!(field("Name:\tx\n", "VmHWM:"), None);
    }
}
