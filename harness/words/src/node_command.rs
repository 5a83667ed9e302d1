//! A command on some or all nodes: its exit code and what it wrote.
//!
//! Judges look at every node; a node that was not asked is a finding of its own where a number of nodes is expected.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::future::join_all;
use serde::{Deserialize, Serialize};
use shakedown_core::{Finding, Judgement, Observation, Resource, Touches};
use shakedown_engine::{Cx, Expect, ObserveError, Probe, expect_fn};
use thiserror::Error;

use crate::machine::MachineError;
use crate::platform::Platform;

/// Longest output that is kept of a command, in bytes; the rest is cut off and said so.
const KEPT: usize = 64 * 1024;

/// What a command left behind.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ran {
    /// Exit code.
    pub code: i32,
    /// Standard output, trimmed.
    pub stdout: String,
    /// Standard error, trimmed.
    pub stderr: String,
}

impl Ran {
    /// Exit code 0.
    pub fn ok(&self) -> bool {
        self.code == 0
    }

    /// One line for messages: exit code and the end of what it said.
    pub fn brief(&self) -> String {
        let said = if self.stderr.is_empty() { &self.stdout } else { &self.stderr };
        let last = said.lines().last().unwrap_or("nothing");
        format!("exit code {}, said: {}", self.code, last.chars().take(300).collect::<String>())
    }
}

/// Which nodes are asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Which {
    /// Every one.
    All,
    /// Those with an apiserver.
    ControlPlanes,
    /// Those without.
    Workers,
    /// The first control plane.
    FirstControlPlane,
}

impl Which {
    /// Their names on this platform, in order.
    pub fn on(&self, platform: &Platform) -> Vec<String> {
        let controls: Vec<String> = platform.control_planes().iter().map(|m| m.name().to_owned()).collect();
        match self {
            Which::All => platform.machines().keys().cloned().collect(),
            Which::ControlPlanes => controls,
            Which::Workers => platform.machines().keys().filter(|name| !controls.contains(name)).cloned().collect(),
            Which::FirstControlPlane => controls.into_iter().take(1).collect(),
        }
    }
}

/// Nobody has an apiserver.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("there is no control plane")]
pub struct NoControlPlane;

/// The first control plane.
///
/// # Errors
/// There is none.
pub fn first_control_plane(platform: &Platform) -> Result<String, NoControlPlane> {
    Which::ControlPlanes.on(platform).into_iter().next().ok_or(NoControlPlane)
}

/// Eight hex digits that no earlier observation had: what is kept for ever (a log) still holds what one with the same
/// seed left.
///
/// # Errors
/// No control plane gives them.
pub(crate) async fn never_used(platform: &Platform) -> Result<String, String> {
    let node = first_control_plane(platform).map_err(|e| e.to_string())?;
    let text = "head -c 8 /proc/sys/kernel/random/uuid";
    let out = script(platform, &node, text, Duration::from_secs(10)).await.map_err(|e| e.to_string())?;
    Ok(String::from_utf8_lossy(&out).trim().to_owned())
}

/// The last control plane.
///
/// # Errors
/// There is none.
pub fn last_control_plane(platform: &Platform) -> Result<String, NoControlPlane> {
    Which::ControlPlanes.on(platform).pop().ok_or(NoControlPlane)
}

/// Runs one command on one node, whatever its exit code is.
///
/// # Errors
/// The node cannot be reached or the command cannot be started.
pub async fn run(platform: &Platform, node: &str, argv: &[String], budget: Duration) -> Result<Ran, MachineError> {
    let output = platform.machine(node)?.exec(argv, &[], budget).await?;
    let keep = |bytes: &[u8]| {
        let text = String::from_utf8_lossy(bytes).trim().to_owned();
        match text.char_indices().nth(KEPT) {
            Some((at, _)) => format!("{} [cut off]", &text[..at]),
            None => text,
        }
    };
    Ok(Ran { code: output.code, stdout: keep(&output.stdout), stderr: keep(&output.stderr) })
}

/// Runs a shell script on a node; its output in full.
///
/// # Errors
/// It could not be run, or ended with another code than 0.
pub async fn script(platform: &Platform, node: &str, text: &str, budget: Duration) -> Result<Vec<u8>, MachineError> {
    let argv = ["/bin/sh", "-ec", text].map(str::to_owned);
    let output = platform.machine(node)?.exec(&argv, &[], budget).await?;
    if output.code == 0 {
        return Ok(output.stdout);
    }
    Err(MachineError::new(node, format!("a script ended with {}: {}", output.code, output.complaint())))
}

/// A command by node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Commanded {
    /// As one would type it.
    pub command: String,
    /// Node to outcome.
    pub nodes: BTreeMap<String, Ran>,
}

impl Observation for Commanded {
    const SCHEMA: &'static str = "node-command/1";
}

/// Runs a command on nodes, on all of them at the same time.
pub struct OnNodes {
    which: Which,
    argv: Vec<String>,
}

/// Runs a command on these nodes; no shell.
pub fn on<A: Into<String>>(which: Which, argv: impl IntoIterator<Item = A>) -> OnNodes {
    OnNodes { which, argv: argv.into_iter().map(Into::into).collect() }
}

/// Runs a shell script on these nodes.
pub fn shell(which: Which, text: &str) -> OnNodes {
    on(which, ["/bin/sh", "-c", text])
}

impl Probe<Platform> for OnNodes {
    type Seen = Commanded;

    fn touches(&self) -> Touches {
        Touches::nothing().reads(Resource::Nodes)
    }

    async fn observe(&self, platform: &Platform, cx: &Cx) -> Result<Commanded, ObserveError> {
        let names = self.which.on(platform);
        let runs = join_all(names.iter().map(|node| run(platform, node, &self.argv, cx.budget))).await;
        let mut nodes = BTreeMap::new();
        for (node, ran) in names.into_iter().zip(runs) {
            nodes.insert(node, ran.map_err(ObserveError::no_ground)?);
        }
        Ok(Commanded { command: self.argv.join(" "), nodes })
    }
}

/// A script ends with this where its node lacks what it is about, and has said what is missing (`EX_TEMPFAIL`).
pub const NO_GROUND: i32 = 75;

/// Judges each node for itself; the number of nodes must be at least `at_least`, and each must have had ground
/// ([`NO_GROUND`]).
pub fn each_node(
    at_least: usize,
    judge: impl Fn(&str, &Ran) -> Vec<Finding> + Send + Sync + 'static,
) -> impl Expect<Commanded> {
    expect_fn(move |seen: &Commanded| {
        if seen.nodes.len() < at_least {
            return Judgement::Inconclusive(format!("{} nodes were asked, {at_least} are expected", seen.nodes.len()));
        }
        if let Some((node, ran)) = seen.nodes.iter().find(|(_, ran)| ran.code == NO_GROUND) {
            return Judgement::Inconclusive(format!("{node}: {}", ran.brief()));
        }
        Judgement::from_findings(seen.nodes.iter().flat_map(|(node, ran)| judge(node, ran)).collect())
    })
}

/// Every node's command ends with 0 and its output holds each of these texts.
pub fn says(at_least: usize, code: &'static str, texts: &'static [&'static str]) -> impl Expect<Commanded> {
    each_node(at_least, move |node, ran| {
        if !ran.ok() {
            return vec![Finding::new(code, node, ran.brief())];
        }
        let missing = texts.iter().filter(|text| !ran.stdout.contains(**text));
        missing.map(|text| Finding::new(code, node, format!("`{text}` is not in: {}", ran.stdout))).collect()
    })
}

/// Every node's command ends with 0 and no line of its output holds any of these texts.
pub fn says_nothing_of(at_least: usize, code: &'static str, texts: &'static [&'static str]) -> impl Expect<Commanded> {
    each_node(at_least, move |node, ran| {
        if !ran.ok() {
            return vec![Finding::new("command-failed", node, ran.brief())];
        }
        let hits = ran.stdout.lines().filter(|line| texts.iter().any(|text| line.contains(text)));
        hits.map(|line| Finding::new(code, node, line.to_owned())).collect()
    })
}

/// All nodes say the same.
pub fn says_the_same(at_least: usize, code: &'static str) -> impl Expect<Commanded> {
    expect_fn(move |seen: &Commanded| {
        if seen.nodes.len() < at_least.max(2) {
            return Judgement::Inconclusive(format!("{} nodes cannot be compared", seen.nodes.len()));
        }
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        for ran in seen.nodes.values() {
            *counts.entry(ran.stdout.as_str()).or_default() += 1;
        }
        let usual = counts.iter().max_by_key(|(_, count)| **count).map_or("", |(text, _)| *text).to_owned();
        let odd = seen.nodes.iter().filter(|(_, ran)| !ran.ok() || ran.stdout != usual);
        Judgement::from_findings(
            odd.map(|(node, ran)| Finding::new(code, node, format!("`{}` where others say `{usual}`", ran.stdout)))
                .collect(),
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(of: &[(&str, i32, &str)]) -> Commanded {
        let nodes = of.iter().map(|(node, code, out)| {
            ((*node).to_owned(), Ran { code: *code, stdout: (*out).to_owned(), stderr: String::new() })
        });
        Commanded { command: "x".into(), nodes: nodes.collect() }
    }

    #[test]
    fn one_node_among_many_is_named() {
        let judged = says(2, "silent", &["hello"]).judge(&seen(&[("a", 0, "hello you"), ("b", 0, "bye")]));
        let Judgement::Fail(found) = judged else { panic!("{judged:?}") };
        assert_eq!(found.iter().map(|f| (f.code.as_str(), f.subject.as_str())).collect::<Vec<_>>(), [("silent", "b")]);
    }

    #[test]
    fn a_failed_command_never_passes_for_silence() {
        let judged = says_nothing_of(1, "rule", &["KUBE-SVC"]).judge(&seen(&[("a", 127, "")]));
        assert!(matches!(judged, Judgement::Fail(found) if found[0].code == "command-failed"));
    }

    #[test]
    fn too_few_nodes_are_no_answer() {
        assert!(matches!(says(5, "x", &[]).judge(&seen(&[("a", 0, "")])), Judgement::Inconclusive(_)));
        assert!(matches!(says_the_same(1, "x").judge(&seen(&[("a", 0, "")])), Judgement::Inconclusive(_)));
    }

    #[test]
    fn a_node_without_ground_is_no_answer() {
        let judged =
            says(2, "x", &["hello"]).judge(&seen(&[("a", 0, "hello"), ("b", NO_GROUND, "no member runs here")]));
        assert!(matches!(judged, Judgement::Inconclusive(why) if why.starts_with("b: exit code 75, said: no member")));
    }

    #[test]
    fn the_odd_one_is_named() {
        let judged = says_the_same(3, "differs").judge(&seen(&[("a", 0, "1"), ("b", 0, "2"), ("c", 0, "1")]));
        assert!(matches!(judged, Judgement::Fail(found) if found.len() == 1 && found[0].subject == "b"));
    }
}
