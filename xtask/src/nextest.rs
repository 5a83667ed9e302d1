//! The test runner: cargo-nextest, installed into the project's own cache directory on first use.

use std::path::PathBuf;

use anyhow::{Context, Result};

use crate::shell;

/// The version that the project's profiles are written for.
const VERSION: &str = "0.9.151";

/// Finds cargo-nextest in the project's cache, or installs it there.
///
/// # Errors
/// When it can neither be found nor built.
pub fn ensure() -> Result<PathBuf> {
    let root = shell::tools_dir()?.join(format!("nextest-{VERSION}"));
    let program = root.join("bin").join("cargo-nextest");
    // Present only once it is complete: `cargo install` copies the program as its last step.
    if program.is_file() {
        return Ok(program);
    }
    shell::say(format!("cargo-nextest {VERSION} is installed into {} (once, a few minutes)", root.display()));
    let build = shell::tools_dir()?.join("nextest-build");
    std::fs::create_dir_all(&build).with_context(|| format!("cannot create {}", build.display()))?;
    let mut command = shell::cargo();
    command
        // Outside of the workspace: its static target and flags are for the harness alone.
        .current_dir(&build)
        .args(["install", "--locked", "cargo-nextest", "--version", VERSION, "--root"])
        .arg(&root)
        // Without its self-update, which nobody may use here and which doubles its dependencies.
        .args(["--no-default-features", "--force"])
        // Kept between attempts, so that an interrupted build goes on where it stopped.
        .env("CARGO_TARGET_DIR", &build)
        // A test runner waits for tests; half the compile time is worth more than its speed.
        .env("CARGO_PROFILE_RELEASE_OPT_LEVEL", "1")
        .env("CARGO_PROFILE_RELEASE_DEBUG", "0");
    shell::run(&mut command)?
        .check("the installation of cargo-nextest")
        .context("hint: it needs a package registry; try `cargo install --locked cargo-nextest` by hand to see why")?;
    std::fs::remove_dir_all(&build).with_context(|| format!("cannot remove {}", build.display()))?;
    Ok(program)
}
