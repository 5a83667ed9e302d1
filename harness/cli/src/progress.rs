//! Progress for people: plain lines on standard error, with the seconds since the start.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use shakedown_core::{Event, EventSink};

/// A wait is told again after this long.
const REPEAT: Duration = Duration::from_secs(10);
/// Shorter waits are not told at all.
const PATIENCE: Duration = Duration::from_secs(2);

/// Takes events and free words, and writes lines.
pub struct Progress {
    quiet: bool,
    began: Instant,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Who waits for what: since when, and when that was last told.
    waits: BTreeMap<String, Wait>,
    /// Who runs, and since when.
    running: BTreeMap<String, Instant>,
    /// When the last line was written.
    last: Option<Instant>,
    done: usize,
    of: usize,
}

struct Wait {
    since: Instant,
    told: Option<Instant>,
}

impl Progress {
    /// On standard error; says nothing when quiet.
    pub fn to_stderr(quiet: bool) -> Self {
        Self { quiet, began: Instant::now(), state: Mutex::default() }
    }

    /// Says one line.
    pub fn say(&self, text: impl std::fmt::Display) {
        if let Ok(mut state) = self.state.lock() {
            state.last = Some(Instant::now());
        }
        if !self.quiet {
            let seconds = self.began.elapsed().as_secs_f32();
            // Progress that cannot be written is no reason to stop.
            let _ = writeln!(std::io::stderr().lock(), "[{seconds:7.1}s] {text}");
        }
    }

    /// Says what is running, unless something was said within this time.
    pub fn heartbeat(&self, silence: Duration) {
        let line = {
            let Ok(state) = self.state.lock() else { return };
            let is_quiet = state.last.is_none_or(|last| last.elapsed() >= silence);
            if !is_quiet || state.running.is_empty() {
                return;
            }
            let running: Vec<String> =
                state.running.iter().map(|(who, since)| format!("{who} ({}s)", since.elapsed().as_secs())).collect();
            format!("running: {}", running.join(", "))
        };
        self.say(line);
    }

    fn began(&self, who: String) {
        if let Ok(mut state) = self.state.lock() {
            state.running.insert(who, Instant::now());
        }
    }

    fn ended(&self, who: &str) {
        if let Ok(mut state) = self.state.lock() {
            state.running.remove(who);
        }
    }

    /// Nothing follows for now; standard output comes next.
    pub fn end(&self) {
        let _ = std::io::stderr().flush();
    }

    fn waiting(&self, who: &str, what: &str, last_seen: &str) {
        let now = Instant::now();
        let line = {
            let Ok(mut state) = self.state.lock() else { return };
            let key = format!("{who}: {what}");
            let wait = state.waits.entry(key).or_insert_with(|| Wait { since: now, told: None });
            let due = match wait.told {
                None => now - wait.since >= PATIENCE,
                Some(told) => now - told >= REPEAT,
            };
            if !due {
                return;
            }
            wait.told = Some(now);
            let seconds = (now - wait.since).as_secs();
            format!("{who}: waiting {seconds}s for {what}; last seen: {}", one_line(last_seen))
        };
        self.say(line);
    }

    fn forget_waits_of(&self, who: &str) {
        if let Ok(mut state) = self.state.lock() {
            state.waits.retain(|key, _| !key.starts_with(who));
        }
    }
}

impl EventSink for Progress {
    fn emit(&self, event: Event) {
        match event {
            Event::RunStarted { run, checks } => {
                if let Ok(mut state) = self.state.lock() {
                    state.of = checks.len();
                }
                self.say(format!("run {} with seed {}: {} checks", run.id, run.seed, checks.len()));
            }
            Event::Fixture { name, up: true } => self.say(format!("setting up {name}")),
            Event::Fixture { name, up: false } => self.say(format!("taking down {name}")),
            Event::Waiting { who, what, last_seen } => self.waiting(&who, &what, &last_seen),
            Event::BaselineStarted { check } => self.began(check),
            Event::ControlStarted { check } => self.began(format!("{check} control")),
            Event::BaselineFinished { check, .. } => {
                self.ended(&check);
                self.forget_waits_of(&check);
            }
            Event::ControlFinished { check, .. } => {
                self.ended(&format!("{check} control"));
                self.forget_waits_of(&check);
            }
            Event::CheckFinished { record } => {
                let count = self.state.lock().map_or((0, 0), |mut state| {
                    state.done += 1;
                    (state.done, state.of)
                });
                self.say(finished_line(&record, count));
            }
            Event::RunFinished { .. } => {}
        }
    }
}

/// The beginning of a text, on one line: what was seen may be a whole list of an API's own.
fn one_line(text: &str) -> String {
    const LONGEST: usize = 160;
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}...", line.get(..end).unwrap_or_default()),
        None => line,
    }
}

/// One line for a check that is done.
fn finished_line(record: &shakedown_core::CheckRecord, (done, of): (usize, usize)) -> String {
    use shakedown_core::ControlVerdict;
    let verdict = serde_word(&record.verdict);
    let control = match record.control.verdict {
        ControlVerdict::NotRun => String::new(),
        other => format!(", control {} in {:.1}s", serde_word(&other), ms(record.control.duration_ms)),
    };
    let why = if record.reason.is_empty() { String::new() } else { format!(": {}", one_line(&record.reason)) };
    format!("{done:>3}/{of} {verdict:12} {} ({:.1}s{control}){why}", record.id, ms(record.duration_ms))
}

fn ms(milliseconds: u64) -> f64 {
    Duration::from_millis(milliseconds).as_secs_f64()
}

/// The word that reports use for it.
fn serde_word(value: &impl serde::Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(word)) => word,
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::one_line;

    #[test]
    fn what_was_seen_is_told_on_one_line() {
        assert_eq!(one_line("[+]ping ok\n[+]etcd  ok\n"), "[+]ping ok [+]etcd ok");
        assert_eq!(one_line(&"é".repeat(500)).chars().count(), 163);
    }
}
