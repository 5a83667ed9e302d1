//! The test tiers: unit (seconds, no root), component (one machine's parts, root), e2e (a real cluster) and, on request,
//! defects (planted by hand, each under a whole run) and vm (another kind of host, in a virtual machine).

use std::fmt;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};
use clap::{Args, ValueEnum};

use crate::binary::{self, Binary, Profile};
use crate::{browser, host, nextest, shell, tidy};

/// A tier is chosen by the names of its tests: `component_*`, `e2e_*`, `defects_*`, `vm_*`, and all others are unit tests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum Tier {
    /// Formatting, lints, the repository's rules and every test that needs neither root nor the bundle.
    Unit,
    /// Namespaces, cgroups, links, containerd, a scratch apiserver: needs root and the bundle.
    Component,
    /// A five-node cluster from nothing to nothing: needs root and the bundle.
    E2e,
    /// A converged cluster with one documented defect after the other: needs root and the bundle.
    Defects,
    /// A cluster in a virtual machine with cgroup v2 and WireGuard in its kernel: needs root and the bundle's group vm.
    Vm,
}

impl fmt::Display for Tier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Tier::Unit => "unit",
            Tier::Component => "component",
            Tier::E2e => "e2e",
            Tier::Defects => "defects",
            Tier::Vm => "vm",
        })
    }
}

/// Arguments of `cargo xtask test`.
#[derive(Debug, Args)]
pub struct TestArgs {
    /// One tier only; without, unit, component and e2e, and with `--full` defects and vm too.
    #[arg(long, value_enum)]
    tier: Option<Tier>,
    /// Every component and every control, defects planted by hand, and a cluster inside a virtual machine.
    #[arg(long)]
    full: bool,
    /// Passed on to nextest, for example a test's name.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    args: Vec<String>,
}

/// Keeps nextest's closing lines for whoever runs more after the tests; below the build's own folder.
const CLOSING: &str = "target/test-summary.txt";

/// Runs the tiers in order and stops at the first that fails: what builds on broken ground says nothing.
///
/// # Errors
/// When something cannot be set up.
pub fn test(args: &TestArgs) -> Result<u8> {
    let tiers = match args.tier {
        Some(tier) => vec![tier],
        None if args.full => vec![Tier::Unit, Tier::Component, Tier::E2e, Tier::Defects, Tier::Vm],
        None => vec![Tier::Unit, Tier::Component, Tier::E2e],
    };
    if tiers.iter().any(|tier| *tier != Tier::Unit) {
        // Before the first compilation, not after half an hour of it.
        host::require(host::Need::Bundle)?;
        host::require(host::Need::Cluster)?;
    }
    let runner = nextest::ensure()?;
    let mut closing = Vec::new();
    let mut code = 0;
    let mut binary = None;
    for tier in tiers {
        if tier == Tier::Unit {
            code = source_rules()?;
        } else if binary.is_none() {
            binary = Some(prepare()?);
        }
        if tier == Tier::Component {
            browser::ensure()?;
        }
        if let Some(binary) = binary.as_ref().filter(|_| tier == Tier::Vm) {
            binary.own(&["bundle", "build", "--groups", "vm"])?.check("the bundle's virtual machine")?;
        }
        if code == 0 {
            let ended = shell::tee(&mut command(&runner, tier, args, binary.as_ref()), is_closing)?;
            closing.extend(ended.kept.into_iter().map(|line| format!("{tier}: {}", line.trim())));
            code = ended.code;
        }
        if code != 0 {
            closing.push(format!("{tier}: failed with exit code {code}; later tiers were not run"));
            break;
        }
    }
    for line in &closing {
        shell::say(line);
    }
    let file = shell::root().join(CLOSING);
    std::fs::write(&file, closing.join("\n") + "\n").with_context(|| format!("cannot write {}", file.display()))?;
    Ok(code)
}

/// nextest's closing lines: its summary, and the tests that did not pass.
fn is_closing(line: &str) -> bool {
    let line = line.trim_start();
    line.starts_with("Summary [") || line.starts_with("error: test run failed") || line.starts_with("TRY ")
}

/// What is checked without running a test.
fn source_rules() -> Result<u8> {
    let cargo =
        |args: &[&str]| -> Result<u8> { Ok(shell::run(shell::cargo().current_dir(shell::root()).args(args))?.code) };
    let rules: [&[&str]; 2] = [
        &["fmt", "--all", "--check"],
        &["clippy", "--quiet", "--workspace", "--all-targets", "--", "--deny", "warnings"],
    ];
    for args in rules {
        match cargo(args)? {
            0 => {}
            code => return Ok(code),
        }
    }
    tidy::report(&shell::root())
}

/// The binary and the bundle that the privileged tiers need.
fn prepare() -> Result<Binary> {
    let binary = binary::build(Profile::Dev)?;
    binary.own(&["bundle", "build"])?.check("the bundle")?;
    Ok(binary)
}

fn command(runner: &Path, tier: Tier, args: &TestArgs, binary: Option<&Binary>) -> Command {
    let mut command = Command::new(runner);
    shell::own_environment(&mut command);
    command
        .current_dir(shell::root())
        .args(["nextest", "run", "--workspace", "--profile", &tier.to_string()])
        .args(["--color", if shell::colours() { "always" } else { "never" }])
        // A tier that is still empty is no failure of what it would have tested.
        .args(["--no-tests", "warn"])
        .args(&args.args);
    if matches!(tier, Tier::E2e | Tier::Defects | Tier::Vm) {
        // Their commands take minutes: the progress has to be seen while they run.
        command.arg("--no-capture");
    }
    if let Some(binary) = binary {
        command.env("SHAKEDOWN_BIN", binary.path());
    }
    if args.full {
        command.env("SHAKEDOWN_FULL", "1");
    }
    if tier != Tier::Unit && !shell::is_root() {
        let runner = "sudo --preserve-env=HOME,XDG_CACHE_HOME,CI,SHAKEDOWN_BIN,SHAKEDOWN_FULL --";
        command.env("CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUNNER", runner);
    }
    command
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn closing_lines_are_recognised() {
        assert!(is_closing("     Summary [   0.012s] 3 tests run: 3 passed, 0 skipped"));
        assert!(is_closing("error: test run failed"));
        assert!(!is_closing("        PASS [   0.004s] xtask shell::tests::x"));
    }

    #[test]
    fn each_tier_has_its_profile() {
        let text = std::fs::read_to_string(shell::root().join(".config/nextest.toml")).unwrap();
        let config: toml::Table = text.parse().unwrap();
        let profiles = config["profile"].as_table().unwrap();
        for tier in Tier::value_variants() {
            assert!(profiles[&tier.to_string()]["default-filter"].is_str(), "{tier}");
        }
    }

    #[test]
    fn only_privileged_tiers_are_told_of_the_binary_and_full_is_passed_on() {
        let args = TestArgs { tier: None, full: true, args: vec!["some_test".to_owned()] };
        let command = command(Path::new("/r/cargo-nextest"), Tier::Unit, &args, None);
        let envs: BTreeMap<_, _> = command.get_envs().collect();
        assert!(envs.contains_key(std::ffi::OsStr::new("SHAKEDOWN_FULL")));
        assert!(!envs.contains_key(std::ffi::OsStr::new("SHAKEDOWN_BIN")));
        assert!(shell::shown(&command).ends_with("some_test"));
    }
}
