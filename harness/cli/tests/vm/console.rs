//! What the guest says on its serial line, and what has become of its steps.

use std::collections::BTreeMap;

use base64::Engine as _;
use serde::Deserialize;

/// The step that the guest ends with, once everything else was said.
pub const LAST: &str = "guest";

/// A line of the guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Line {
    /// A step begins; it may take so many seconds.
    Begin {
        /// Its name.
        step: String,
        /// Seconds.
        budget: u64,
    },
    /// A step has ended.
    End {
        /// Its name.
        step: String,
        /// How.
        ended: Step,
    },
    /// Words for people, or something that only looks like more.
    Text(String),
}

/// How a step ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// Exit code; 124 where its time was over.
    pub code: i32,
    /// Milliseconds.
    pub ms: u64,
    /// What it printed.
    pub out: String,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Event {
    Begin { begin: String, budget_s: u64 },
    End { end: String, code: i32, ms: u64, out: String },
}

/// Understands one line. A truncated or foreign one is text: the step that it belonged to is then missing, and said to be.
pub fn parse(line: &str) -> Line {
    let line = line.trim_end_matches(['\r', '\n']);
    match serde_json::from_str(line) {
        Ok(Event::Begin { begin, budget_s }) => Line::Begin { step: begin, budget: budget_s },
        Ok(Event::End { end, code, ms, out }) => match base64::engine::general_purpose::STANDARD.decode(&out) {
            Ok(bytes) => {
                Line::End { step: end, ended: Step { code, ms, out: String::from_utf8_lossy(&bytes).into_owned() } }
            }
            Err(_) => Line::Text(line.to_owned()),
        },
        Err(_) => Line::Text(line.strip_prefix("| ").unwrap_or(line).to_owned()),
    }
}

/// All that was observed, by step.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Observed(pub BTreeMap<String, Step>);

impl Observed {
    /// What a step printed, if it ended well.
    ///
    /// # Errors
    /// Why there is nothing to judge.
    pub fn of(&self, step: &str) -> Result<&str, String> {
        match self.0.get(step) {
            Some(Step { code: 0, out, .. }) => Ok(out),
            Some(Step { code: 124, ms, .. }) => Err(format!("step `{step}` was ended after {} s", ms / 1000)),
            Some(Step { code, .. }) => Err(format!("step `{step}` ended with exit code {code}")),
            None => Err(format!("step `{step}` never ended")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_told_from_words() {
        assert_eq!(parse("{\"begin\":\"up\",\"budget_s\":900}\r\n"), Line::Begin { step: "up".into(), budget: 900 });
        let ended = Step { code: 1, ms: 2500, out: "cgroup2fs\n".into() };
        assert_eq!(
            parse("{\"end\":\"type\",\"code\":1,\"ms\":2500,\"out\":\"Y2dyb3VwMmZzCg==\"}"),
            Line::End { step: "type".into(), ended }
        );
        assert_eq!(parse("| [    1.0s] boot\n"), Line::Text("[    1.0s] boot".into()));
    }

    #[test]
    fn half_a_line_is_no_step() {
        let whole = "{\"end\":\"up\",\"code\":0,\"ms\":1,\"out\":\"Y2dyb3VwMmZzCg==\"}";
        for cut in 1..whole.len() {
            assert!(matches!(parse(&whole[..cut]), Line::Text(_)), "{cut}");
        }
        assert!(matches!(parse("{\"end\":\"up\",\"code\":0,\"ms\":1,\"out\":\"!\"}"), Line::Text(_)));
    }

    #[test]
    fn only_a_step_that_ended_well_can_be_judged() {
        let step = |code| Step { code, ms: 9000, out: "x".into() };
        let observed =
            Observed(BTreeMap::from([("a".into(), step(0)), ("b".into(), step(3)), ("c".into(), step(124))]));
        assert_eq!(observed.of("a"), Ok("x"));
        assert_eq!(observed.of("b").unwrap_err(), "step `b` ended with exit code 3");
        assert_eq!(observed.of("c").unwrap_err(), "step `c` was ended after 9 s");
        assert_eq!(observed.of("d").unwrap_err(), "step `d` never ended");
    }
}
