//! A cluster that a test makes for itself, and the commands given to it.
#![allow(dead_code, reason = "every test crate uses a part of it")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Instant;

use serde_json::Value;

/// A cluster of the test's own; taken down also when the test fails half-way.
pub struct Voyage {
    name: &'static str,
    /// Where commands are called, so that reports do not land among the sources.
    pub folder: PathBuf,
}

impl Voyage {
    /// Takes down what an earlier, interrupted test left under the name.
    pub fn new(name: &'static str) -> Self {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        std::fs::create_dir_all(&folder).unwrap();
        let voyage = Self { name, folder };
        voyage.must(&["down"]);
        voyage
    }

    /// Runs a command with its progress on the test's own standard error.
    pub fn call(&self, args: &[&str]) -> Output {
        let started = Instant::now();
        eprintln!("e2e: shakedown --name {} {}", self.name, args.join(" "));
        let output = Command::new(env!("CARGO_BIN_EXE_shakedown"))
            .args(["--name", self.name])
            .args(args)
            .current_dir(&self.folder)
            .stdin(Stdio::null())
            .stderr(Stdio::inherit())
            .output()
            .unwrap();
        eprintln!("e2e: {} after {:.1} s", output.status, started.elapsed().as_secs_f64());
        output
    }

    /// Likewise; it has to succeed.
    pub fn must(&self, args: &[&str]) -> Output {
        let output = self.call(args);
        assert!(output.status.success(), "{args:?}: {}\n{}", output.status, String::from_utf8_lossy(&output.stdout));
        output
    }

    /// What it prints with `--json`.
    pub fn facts(&self, args: &[&str]) -> Value {
        serde_json::from_slice(&self.must(&[args, &["--json"]].concat()).stdout).unwrap()
    }

    /// `status --json` whatever its exit code: without a network no node is ready, and it says so.
    pub fn status(&self) -> Value {
        serde_json::from_slice(&self.call(&["status", "--json"]).stdout).unwrap()
    }

    /// What it ends with.
    pub fn code(&self, args: &[&str]) -> Option<i32> {
        self.call(args).status.code()
    }
}

impl Drop for Voyage {
    fn drop(&mut self) {
        // On the way out of a failed test nothing can be asserted; `residue` of the next test finds what stays.
        self.call(&["down"]);
    }
}
