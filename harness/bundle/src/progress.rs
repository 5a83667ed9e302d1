//! How a build tells what it is doing.

use std::time::{Duration, Instant};

/// Receives the steps of a build, from several threads at once. The command line renders them.
pub trait Progress: Sync {
    /// A step of a component begins, or goes on with something else.
    fn step(&self, component: &str, what: &str);
    /// A component is ready.
    fn done(&self, component: &str, elapsed: Duration);
    /// Something worth knowing that is not a step: a package that drifted, a signature that could not be checked.
    fn note(&self, text: &str);
}

/// Says nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl Progress for Silent {
    fn step(&self, _: &str, _: &str) {}
    fn done(&self, _: &str, _: Duration) {}
    fn note(&self, _: &str) {}
}

/// Plain lines on standard error, each with the time since the start.
#[derive(Debug, Clone, Copy)]
pub struct Lines {
    start: Instant,
}

impl Default for Lines {
    fn default() -> Self {
        Self { start: Instant::now() }
    }
}

impl Lines {
    fn line(&self, text: &str) {
        eprintln!("[{:>6.1}s] {text}", self.start.elapsed().as_secs_f64());
    }
}

impl Progress for Lines {
    fn step(&self, component: &str, what: &str) {
        self.line(&format!("{component}: {what}"));
    }

    fn done(&self, component: &str, elapsed: Duration) {
        self.line(&format!("{component}: ready after {:.1} s", elapsed.as_secs_f64()));
    }

    fn note(&self, text: &str) {
        self.line(text);
    }
}
