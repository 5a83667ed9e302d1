//! Connections from outside the nodes through one node's port, and how they spread over the backends.
//!
//! The bound follows from the table: a connection falls on a backend with the share of slots that the backend has. How
//! far a count may stray from that by chance is bounded by Chernoff's inequality in its exact form; a count that would be
//! seen less than once in a million runs is a finding.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use futures::StreamExt;
use futures::stream;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use shakedown_core::{Finding, Judgement, Observation, Resource, Touches};
use shakedown_engine::{Cx, Expect, ObserveError, Probe, expect_fn};

use crate::echo;
use crate::http_get::get;
use crate::maglev::read_tables;
use crate::maglev_table::Table;
use crate::node_command::Which;
use crate::platform::Platform;
use crate::registry::parsed;
use crate::wire::node_address;

/// Connections at the same time.
const ABREAST: usize = 8;
/// How long one request may take.
const REQUEST: Duration = Duration::from_secs(5);
/// How often a sound table may be found wrong by chance.
const ALARM: f64 = 1e-6;

/// What came of the connections.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Spread {
    /// The node that they came in through.
    pub entry: String,
    /// How many were made.
    pub connections: u64,
    /// How many were not answered by a backend, and the first reason.
    pub failed: u64,
    /// The first of the reasons.
    pub first_failure: Option<String>,
    /// Backend to the number that it answered.
    pub answered: BTreeMap<String, u64>,
    /// Backend to its slots, by the published algorithm.
    pub slots: BTreeMap<String, u64>,
}

impl Observation for Spread {
    const SCHEMA: &'static str = "spread/1";
}

/// Makes connections.
pub struct Connect {
    count: u64,
}

/// So many connections from outside the nodes to the echo Service's node port on the last node.
pub fn connections(count: u64) -> Connect {
    Connect { count }
}

impl Probe<Platform> for Connect {
    type Seen = Spread;

    fn touches(&self) -> Touches {
        Touches::nothing()
            .reads(Resource::Component("cilium".into()))
            .reads(Resource::Namespace(echo::NAMESPACE.into()))
    }

    async fn observe(&self, platform: &Platform, _cx: &Cx) -> Result<Spread, ObserveError> {
        let settings = read_tables(platform).await?.settings;
        let ours =
            Table::of_equals(settings.backends, settings.size, settings.seed).map_err(ObserveError::no_ground)?;
        let slots = ours.shares().into_iter().map(|(name, slots)| (name.to_owned(), slots as u64)).collect();
        let entry = Which::All.on(platform).pop().ok_or_else(|| ObserveError::no_ground("there is no node"))?;
        let (_, port) = echo::service(platform).await?;
        let address = SocketAddr::from((parsed(&node_address(platform, &entry).await?)?, port));
        let mut seen =
            Spread { entry, connections: self.count, failed: 0, first_failure: None, answered: BTreeMap::new(), slots };
        let mut answers = stream::iter(0..self.count).map(|_| get(address, "/", REQUEST)).buffer_unordered(ABREAST);
        while let Some(got) = answers.next().await {
            let body: Value = serde_json::from_str(&got.body).unwrap_or_default();
            match body["podIP"].as_str() {
                Some(ip) if got.code == 200 => {
                    *seen.answered.entry(format!("{ip}:{}", echo::HTTP)).or_default() += 1;
                }
                _ => {
                    seen.failed += 1;
                    seen.first_failure.get_or_insert(got.error.unwrap_or_else(|| format!("code {}", got.code)));
                }
            }
        }
        Ok(seen)
    }
}

/// Every connection is answered, and every backend answers as many as its slots in the table let expect.
pub fn as_the_table_says() -> impl Expect<Spread> {
    expect_fn(|seen: &Spread| {
        let size: u64 = seen.slots.values().sum();
        if seen.connections == 0 || size == 0 {
            return Judgement::Inconclusive("no connection or no table".to_owned());
        }
        let mut found = vec![];
        if seen.failed > 0 {
            let why = seen.first_failure.clone().unwrap_or_default();
            found.push(Finding::new(
                "no-answer",
                &seen.entry,
                format!("{} of {}: {why}", seen.failed, seen.connections),
            ));
        }
        let strangers = seen.answered.keys().filter(|name| !seen.slots.contains_key(*name));
        found.extend(strangers.map(|name| Finding::new("stranger", name, "it answered and is no backend")));
        for (name, slots) in &seen.slots {
            let count = seen.answered.get(name).copied().unwrap_or_default();
            let share = *slots as f64 / size as f64;
            let chance = chance(count, seen.connections, share);
            if chance < ALARM / seen.slots.len() as f64 {
                let message = format!(
                    "{count} of {} connections; {:.0} are expected from {slots} of {size} slots (by chance less than {chance:.1e})",
                    seen.connections,
                    share * seen.connections as f64
                );
                found.push(Finding::new("spread", name, message));
            }
        }
        Judgement::from_findings(found)
    })
}

/// An upper bound for the probability that so many of `of` independent choices, or a count as far off on the other side,
/// fall on something that is chosen with this share (Chernoff 1952, both tails).
fn chance(count: u64, of: u64, share: f64) -> f64 {
    let (n, p) = (of as f64, share);
    let q = count as f64 / n;
    let term = |a: f64, b: f64| if a == 0.0 { 0.0 } else { a * (a / b).ln() };
    (2.0 * (-n * (term(q, p) + term(1.0 - q, 1.0 - p))).exp()).min(1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(counts: [u64; 4]) -> Spread {
        let name = |n: usize| format!("10.0.0.{n}:8080");
        let answered = counts.iter().enumerate().filter(|(_, c)| **c > 0).map(|(n, c)| (name(n), *c)).collect();
        let slots = (0..4).map(|n| (name(n), 4095)).collect();
        Spread { entry: "n".into(), connections: counts.iter().sum(), failed: 0, first_failure: None, answered, slots }
    }

    fn codes(seen: &Spread) -> Vec<String> {
        crate::testing::codes(as_the_table_says().judge(seen))
    }

    #[test]
    fn chance_is_told_from_a_defect() {
        assert!(codes(&seen([100, 112, 88, 100])).is_empty());
        assert!(codes(&seen([130, 70, 100, 100])).is_empty(), "once in a few hundred runs");
        assert_eq!(codes(&seen([0, 133, 133, 134])), ["spread"]);
        assert_eq!(codes(&seen([400, 0, 0, 0])).len(), 4);
    }

    #[test]
    fn a_silence_or_a_stranger_is_a_finding() {
        let mut silent = seen([100, 100, 100, 100]);
        silent.failed = 1;
        assert_eq!(codes(&silent), ["no-answer"]);
        let mut strange = seen([100, 100, 100, 100]);
        strange.answered.insert("10.9.9.9:80".into(), 1);
        assert_eq!(codes(&strange), ["stranger"]);
        assert!(matches!(as_the_table_says().judge(&seen([0; 4])), Judgement::Inconclusive(_)));
    }

    #[test]
    fn the_bound_is_one_where_nothing_is_odd() {
        assert!((chance(25, 100, 0.25) - 1.0).abs() < 1e-9);
        assert!(chance(0, 400, 0.25) < 1e-40);
        assert!(chance(400, 400, 0.25) < 1e-200);
    }
}
