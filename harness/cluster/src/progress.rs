//! What a long operation says while it runs, and what its phases cost.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;
use serde::{Deserialize, Serialize};

/// A phase that takes longer says so.
const FIRST_WORD: Duration = Duration::from_secs(2);
/// And again after this long.
const NEXT_WORD: Duration = Duration::from_secs(10);

/// Takes lines for a person. Called from several tasks.
pub type Lines = Arc<dyn Fn(&str) + Send + Sync>;

/// Lines that nobody reads.
#[must_use]
pub fn silent() -> Lines {
    Arc::new(|_| {})
}

/// What a phase took.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PhaseTime {
    /// Its name.
    pub name: String,
    /// When it began, in seconds after the operation's start.
    pub start_seconds: f64,
    /// Wall time in seconds.
    pub seconds: f64,
    /// Processor seconds of the cluster and of the harness meanwhile (phases that run side by side share them).
    pub cpu_seconds: f64,
    /// What it waited for last.
    pub waited_for: String,
}

/// Collects phases.
#[derive(Clone)]
pub struct Phases {
    start: Instant,
    lines: Lines,
    cpu: Arc<dyn Fn() -> Duration + Send + Sync>,
    done: Arc<Mutex<Vec<PhaseTime>>>,
}

impl Phases {
    /// Begins to collect. `cpu`: processor time of the cluster so far.
    pub fn new(lines: Lines, cpu: impl Fn() -> Duration + Send + Sync + 'static) -> Self {
        Self { start: Instant::now(), lines, cpu: Arc::new(cpu), done: Arc::default() }
    }

    /// A line for a person.
    pub fn say(&self, line: &str) {
        (self.lines)(line);
    }

    /// Runs a phase and notes what it cost; `waited_for` says what its time goes to.
    ///
    /// # Errors
    /// Whatever the phase fails with.
    pub async fn run<T, E>(
        &self,
        name: &str,
        waited_for: &str,
        phase: impl Future<Output = Result<T, E>>,
    ) -> Result<T, E> {
        let (began, cpu) = (self.start.elapsed(), self.cpu_time());
        let result = self.beside(name, waited_for, phase).await;
        let time = PhaseTime {
            name: name.to_owned(),
            start_seconds: began.as_secs_f64(),
            seconds: (self.start.elapsed() - began).as_secs_f64(),
            cpu_seconds: self.cpu_time().saturating_sub(cpu).as_secs_f64(),
            waited_for: waited_for.to_owned(),
        };
        if result.is_ok() {
            self.say(&format!("{name} ({:.1} s, {:.1} CPU s; {waited_for})", time.seconds, time.cpu_seconds));
        }
        self.done.lock().unwrap_or_else(PoisonError::into_inner).push(time);
        result
    }

    /// Says every few seconds that a phase still runs.
    async fn beside<T>(&self, name: &str, waited_for: &str, phase: impl Future<Output = T>) -> T {
        let began = Instant::now();
        let mut next = FIRST_WORD;
        tokio::pin!(phase);
        loop {
            match tokio::time::timeout(next, &mut phase).await {
                Ok(done) => return done,
                Err(_) => {
                    self.say(&format!("still at {name} after {:.0} s: {waited_for}", began.elapsed().as_secs_f64()));
                    next = NEXT_WORD;
                }
            }
        }
    }

    /// Processor time of the cluster and of this process with its ended children.
    #[must_use]
    pub fn cpu_time(&self) -> Duration {
        let own = |who| {
            getrusage(who).map_or(Duration::ZERO, |u| {
                let micros = u.user_time().num_microseconds() + u.system_time().num_microseconds();
                Duration::from_micros(u64::try_from(micros).unwrap_or(0))
            })
        };
        (self.cpu)() + own(UsageWho::RUSAGE_SELF) + own(UsageWho::RUSAGE_CHILDREN)
    }

    /// Seconds since the start.
    #[must_use]
    pub fn elapsed(&self) -> f64 {
        self.start.elapsed().as_secs_f64()
    }

    /// What was collected, by beginning.
    #[must_use]
    pub fn collected(&self) -> Vec<PhaseTime> {
        let mut all = self.done.lock().unwrap_or_else(PoisonError::into_inner).clone();
        all.sort_by(|a, b| a.start_seconds.total_cmp(&b.start_seconds));
        all
    }
}
