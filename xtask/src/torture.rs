//! `kill -9` at random moments: what was interrupted must succeed when it is called again, and nothing may stay behind.

use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::Args;
use serde::Deserialize;

use crate::binary::{self, Binary, Profile};
use crate::{host, shell};

/// Where clusters keep their state.
const STATE: &str = "/var/lib/shakedown";
/// The cluster that is tortured; a user's own cluster has another name.
const NAME: &str = "torture";

/// Areas with every way of putting back: objects, files, commands on nodes, kernel tables, fixtures. All areas would take
/// twice as long and be killed half as often in the same time.
const RUN: [&str; 15] = [
    "run",
    "--name",
    NAME,
    "--controls",
    "sample",
    "--area",
    "argocd",
    "--area",
    "maglev",
    "--area",
    "psa",
    "--area",
    "registry",
    "--area",
    "wireguard",
];

/// Arguments of `cargo xtask torture`.
#[derive(Debug, Args)]
pub struct TortureArgs {
    /// How often each of `up`, `converge` and `run` is killed.
    #[arg(long, default_value_t = 2)]
    kills: u32,
    /// Fixes the moments; drawn from the clock unless given, and printed.
    #[arg(long)]
    seed: Option<u64>,
}

/// Kills of one command in one voyage: what goes on after a kill is itself killed, before the last call is left alone.
const IN_A_ROW: u32 = 3;

/// A command that is killed and then called again.
struct Victim {
    args: &'static [&'static str],
    /// The moments of the kills are drawn from this span; it follows what the command is seen to take.
    span: Duration,
    /// Whether the next call goes on where the killed one was; else it begins anew.
    goes_on: bool,
    kills: u32,
}

impl Victim {
    /// The span of the next kill, after `spent` in calls of this voyage that were killed.
    fn ahead(&self, spent: Duration) -> Duration {
        if self.goes_on { self.span.saturating_sub(spent) } else { self.span }
    }
}

/// Kills each command as often as asked, checks that the next call succeeds, and takes everything down.
///
/// # Errors
/// When a repeated command fails, or something stays behind after `down`.
pub fn torture(args: &TortureArgs) -> Result<u8> {
    if !shell::is_root() {
        bail!("only root can kill what root started\nhint: run the task as root");
    }
    host::require(host::Need::Bundle)?;
    let binary = binary::build(Profile::Dev)?;
    binary.own(&["bundle", "build"])?.check("the bundle")?;
    let seed = args.seed.unwrap_or_else(clock_seed);
    shell::say(format!("torture: seed {seed}; repeat with `cargo xtask torture --kills {} --seed {seed}`", args.kills));
    let mut moments = Moments(seed);
    let mut victims = [
        Victim { args: &["up", "--name", NAME], span: Duration::from_secs(10), goes_on: true, kills: 0 },
        Victim { args: &["converge", "--name", NAME], span: Duration::from_secs(90), goes_on: true, kills: 0 },
        Victim { args: &RUN, span: Duration::from_secs(60), goes_on: false, kills: 0 },
    ];
    // A command may be done before its moment; such a call does not count, and too many of them say that the span is wrong.
    for voyage in 1..=2 * args.kills {
        if victims.iter().all(|victim| victim.kills >= args.kills) {
            break;
        }
        shell::say(format!("torture: voyage {voyage}"));
        down(&binary, NAME)?;
        for victim in &mut victims {
            interrupt(&binary, victim, args.kills, &mut moments)?;
        }
        binary.as_root(&["status", "--name", NAME])?.check("the cluster after its last kill")?;
    }
    down(&binary, NAME)?;
    binary.as_root(&["residue"])?.check("the search for residue")?;
    for victim in &victims {
        shell::say(format!("torture: {} survived {} kill(s)", victim.args[0], victim.kills));
        if victim.kills < args.kills {
            bail!("{} ended before its moment too often", victim.args[0]);
        }
    }
    Ok(0)
}

/// Kills the command up to [`IN_A_ROW`] times, and then runs it to its end.
fn interrupt(binary: &Binary, victim: &mut Victim, kills: u32, moments: &mut Moments) -> Result<()> {
    let line = victim.args.join(" ");
    let mut spent = Duration::ZERO;
    for _ in 0..IN_A_ROW.min(kills.saturating_sub(victim.kills)) {
        let moment = moments.within(victim.ahead(spent));
        shell::say(format!("torture: `shakedown {line}` will be killed after {:.1} s", moment.as_secs_f64()));
        if !kill_after(binary, victim.args, moment)? {
            shell::say(format!("torture: `shakedown {line}` was done before its moment"));
            break;
        }
        victim.kills += 1;
        spent += moment;
    }
    let started = Instant::now();
    binary.as_root(victim.args)?.check(&format!("`shakedown {line}` after its kill"))?;
    let whole = started.elapsed() + if victim.goes_on { spent } else { Duration::ZERO };
    // The last fifth is the likeliest to be missed: a call after a kill may have less to do.
    victim.span = whole.mul_f64(0.8);
    Ok(())
}

/// Starts the command and kills it at the moment; false when it had succeeded before.
fn kill_after(binary: &Binary, args: &[&str], moment: Duration) -> Result<bool> {
    let started = Instant::now();
    let mut command = binary.root_command();
    let mut child = command.args(args).stdin(Stdio::null()).spawn().context("cannot start shakedown")?;
    while started.elapsed() < moment {
        match child.try_wait().context("cannot wait for shakedown")? {
            Some(status) if status.success() => return Ok(false),
            Some(status) => {
                bail!("`shakedown {}` failed by itself with exit code {}", args.join(" "), shell::code_of(status));
            }
            None => std::thread::sleep(Duration::from_millis(20)),
        }
    }
    child.kill().context("cannot kill shakedown")?;
    child.wait().context("cannot wait for shakedown")?;
    Ok(true)
}

fn down(binary: &Binary, name: &str) -> Result<()> {
    binary.as_root(&["down", "--name", name])?.check("down")?;
    Ok(())
}

/// Takes every cluster down that an earlier run left, whatever state it is in, and looks for residue.
///
/// # Errors
/// When a cluster cannot be removed or something stays behind.
pub fn clear_all(binary: &Binary) -> Result<()> {
    // A run that was cut off early has residue before it has a state folder, one that was cut off late the reverse.
    let mut left = names(Path::new(STATE));
    left.extend(residue_of(binary)?);
    left.sort();
    left.dedup();
    for name in &left {
        shell::say(format!("an earlier run left the cluster `{name}`"));
        down(binary, name)?;
    }
    binary.as_root(&["residue"])?.check("the search for residue")?;
    Ok(())
}

/// Clusters of which something is left.
fn residue_of(binary: &Binary) -> Result<Vec<String>> {
    let mut command = binary.root_command();
    let output =
        command.args(["residue", "--json"]).stderr(Stdio::inherit()).output().context("cannot start shakedown")?;
    let facts: Residue =
        serde_json::from_slice(&output.stdout).context("`shakedown residue --json` printed something else")?;
    Ok(facts.residue.into_iter().filter_map(|item| item.cluster).collect())
}

/// `shakedown residue --json`, as far as it is read here.
#[derive(Debug, Deserialize)]
struct Residue {
    residue: Vec<ResidueItem>,
}

#[derive(Debug, Deserialize)]
struct ResidueItem {
    cluster: Option<String>,
}

/// The clusters with a folder under `state`, sorted.
fn names(state: &Path) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(state) else { return Vec::new() };
    let mut names: Vec<String> = entries
        .filter_map(Result::ok)
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| !name.starts_with('.'))
        .collect();
    names.sort();
    names
}

/// Moments drawn from a seed (SplitMix64: the same seed gives the same moments).
struct Moments(u64);

impl Moments {
    /// A moment between 0.2 s and `span`.
    fn within(&mut self, span: Duration) -> Duration {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^= z >> 31;
        let first = 200;
        let last = u64::try_from(span.as_millis()).unwrap_or(u64::MAX).max(first + 1);
        Duration::from_millis(first + z % (last - first))
    }
}

fn clock_seed() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(1, |d| d.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_repeat_with_their_seed_and_stay_in_their_span() {
        let draw = |seed| -> Vec<Duration> {
            let mut moments = Moments(seed);
            (0..200).map(|_| moments.within(Duration::from_secs(10))).collect()
        };
        assert_eq!(draw(7), draw(7));
        assert_ne!(draw(7), draw(8));
        let bounds = Duration::from_millis(200)..Duration::from_secs(10);
        assert!(draw(7).iter().all(|moment| bounds.contains(moment)));
        // An empty span still gives a moment.
        assert_eq!(Moments(1).within(Duration::ZERO), Duration::from_millis(200));
    }

    #[test]
    fn a_call_that_goes_on_has_less_ahead_of_it() {
        let victim = |goes_on| Victim { args: &[], span: Duration::from_secs(90), goes_on, kills: 0 };
        assert_eq!(victim(true).ahead(Duration::from_secs(60)), Duration::from_secs(30));
        assert_eq!(victim(true).ahead(Duration::from_secs(100)), Duration::ZERO);
        assert_eq!(victim(false).ahead(Duration::from_secs(60)), Duration::from_secs(90));
    }

    #[test]
    fn only_folders_with_a_plain_name_are_clusters() {
        let dir = std::env::temp_dir().join(format!("shakedown-names-{}", std::process::id()));
        std::fs::create_dir_all(dir.join("b")).unwrap();
        std::fs::create_dir_all(dir.join("a")).unwrap();
        std::fs::create_dir_all(dir.join(".hidden")).unwrap();
        std::fs::write(dir.join("file"), "").unwrap();
        assert_eq!(names(&dir), ["a", "b"]);
        std::fs::remove_dir_all(&dir).unwrap();
        assert!(names(&dir).is_empty());
    }
}
