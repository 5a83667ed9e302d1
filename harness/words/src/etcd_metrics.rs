//! etcd's metrics, scraped on each control plane where the member publishes them, with writes in between.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::future::join_all;
use serde::{Deserialize, Serialize};
use shakedown_core::{Finding, Judgement, Observation, Resource, Touches, UndoStep};
use shakedown_engine::{Cx, Expect, ObserveError, Probe, expect_fn};

use crate::etcd::{self, understand_status};
use crate::node_command::{Which, run};
use crate::platform::Platform;

/// Size of the database (ETCD-039).
pub const SIZE: &str = "etcd_mvcc_db_total_size_in_bytes";
/// Fsync of the log (ETCD-040); its count.
pub const FSYNC: &str = "etcd_disk_wal_fsync_duration_seconds_count";
/// Changes of the leader (ETCD-041).
pub const LEADER_CHANGES: &str = "etcd_server_leader_changes_seen_total";
/// Where a member of kubeadm publishes them.
const URL: &str = "http://127.0.0.1:2381/metrics";
/// How long a node's command may take.
const COMMAND: Duration = Duration::from_secs(20);
/// The key that is written in between.
const OWN_KEY: &str = "/shakedown/metrics";
/// How often.
const WRITES: usize = 5;

/// One control plane.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Scraped {
    /// Values of the documented metrics before the writes.
    pub before: BTreeMap<String, f64>,
    /// After them.
    pub after: BTreeMap<String, f64>,
    /// Size that the member's status prints, bytes.
    pub status_size: u64,
}

/// All control planes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Metrics {
    /// What was scraped.
    pub source: String,
    /// Control plane to values.
    pub nodes: BTreeMap<String, Scraped>,
}

impl Observation for Metrics {
    const SCHEMA: &'static str = "etcd-metrics/1";
}

/// Scrapes.
pub struct Scrape {
    command: Vec<&'static str>,
}

/// The members' own metrics.
pub fn metrics() -> Scrape {
    Scrape { command: vec!["curl", "-sS", "-m", "5", "--noproxy", "*", URL] }
}

/// The apiserver asked instead, which publishes none of them (and nothing at all to a stranger).
pub fn metrics_of_the_apiserver() -> Scrape {
    Scrape { command: vec!["curl", "-sSk", "-m", "5", "--noproxy", "*", "https://127.0.0.1:6443/metrics"] }
}

impl Scrape {
    async fn on(&self, platform: &Platform, node: &str) -> Result<BTreeMap<String, f64>, ObserveError> {
        let argv: Vec<String> = self.command.iter().map(|&word| word.to_owned()).collect();
        let output = platform.machine(node).map_err(ObserveError::no_ground)?.exec(&argv, &[], COMMAND).await;
        let output = output.map_err(ObserveError::no_ground)?;
        if output.code != 0 {
            return Err(ObserveError::no_ground(format!("{node}: {}: {}", self.command.join(" "), output.complaint())));
        }
        Ok(understand(&output.text()))
    }
}

fn understand(text: &str) -> BTreeMap<String, f64> {
    let mut all = values(text);
    all.retain(|name, _| [SIZE, FSYNC, LEADER_CHANGES].contains(&name.as_str()));
    all
}

/// Metric to value; histograms and comments are left out by the caller.
pub(crate) fn values(text: &str) -> BTreeMap<String, f64> {
    let values = text.lines().filter_map(|line| line.split_once(' '));
    values.filter_map(|(name, value)| Some((name.to_owned(), value.trim().parse().ok()?))).collect()
}

impl Probe<Platform> for Scrape {
    type Seen = Metrics;

    fn touches(&self) -> Touches {
        Touches::nothing().reads(Resource::Etcd)
    }

    async fn observe(&self, platform: &Platform, cx: &Cx) -> Result<Metrics, ObserveError> {
        let names = Which::ControlPlanes.on(platform);
        let Some(first) = names.first() else { return Err(ObserveError::no_ground("there is no control plane")) };
        let all = || join_all(names.iter().map(|node| self.on(platform, node)));
        let before = all().await;
        let argv = etcd::etcdctl_change(&["del", OWN_KEY]);
        cx.undo_afterwards(vec![UndoStep::RunOnNode { node: first.clone(), argv, tolerate_failure: false }])?;
        for _ in 0..WRITES {
            let put = etcd::change(platform, first, &["put", OWN_KEY, "x"]).await.map_err(ObserveError::no_ground)?;
            if !put.ok() {
                return Err(ObserveError::no_ground(put.brief()));
            }
        }
        etcd::change(platform, first, &["del", OWN_KEY]).await.map_err(ObserveError::no_ground)?;
        let after = all().await;
        let mut nodes = BTreeMap::new();
        for ((node, before), after) in names.iter().zip(before).zip(after) {
            let argv = etcd::etcdctl(&["endpoint", "status", "-w", "json"]);
            let status = run(platform, node, &argv, COMMAND).await.map_err(ObserveError::no_ground)?;
            let status_size = understand_status(&status.stdout).map_err(ObserveError::no_ground)?.size;
            nodes.insert(node.clone(), Scraped { before: before?, after: after?, status_size });
        }
        Ok(Metrics { source: self.command.join(" "), nodes })
    }
}

/// On `count` members the three documented metrics are there, the size is the one of the status (within a tenth: it grows
/// between the two), and the fsync count grows by the writes in between.
pub fn documented(count: usize) -> impl Expect<Metrics> {
    expect_fn(move |seen: &Metrics| {
        if seen.nodes.len() != count {
            return Judgement::Inconclusive(format!("{} members, {count} expected", seen.nodes.len()));
        }
        let mut found = vec![];
        for (node, it) in &seen.nodes {
            let missing = [SIZE, FSYNC, LEADER_CHANGES].into_iter().filter(|name| !it.after.contains_key(*name));
            found
                .extend(missing.map(|name| Finding::new("metric-missing", node, format!("{name} in {}", seen.source))));
            if let Some(size) = it.after.get(SIZE) {
                let told = it.status_size as f64;
                if (size - told).abs() > told / 10.0 {
                    found.push(Finding::new("size-differs", node, format!("metric {size}, status {told}")));
                }
            }
            if let (Some(before), Some(after)) = (it.before.get(FSYNC), it.after.get(FSYNC))
                && after - before < 1.0
            {
                let message = format!("count {before} before and {after} after {WRITES} writes");
                found.push(Finding::new("no-fsync", node, message));
            }
        }
        Judgement::from_findings(found)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "# TYPE x counter\netcd_mvcc_db_total_size_in_bytes 1.2e+07\netcd_disk_wal_fsync_duration_seconds_count 41\n\
        etcd_server_leader_changes_seen_total 1\ngo_goroutines 9\n";

    fn good() -> Metrics {
        let before = understand(TEXT);
        let after = understand(&TEXT.replace("count 41", "count 47"));
        let node = Scraped { before, after, status_size: 12_000_000 };
        Metrics { source: "curl".into(), nodes: [("cp-1".to_owned(), node)].into() }
    }

    #[test]
    fn each_defect_has_its_code() {
        assert_eq!(documented(1).judge(&good()), Judgement::Pass);
        type Break = fn(&mut Scraped);
        let cases: &[(&str, Break)] = &[
            ("metric-missing", |it| {
                it.after.remove(LEADER_CHANGES);
            }),
            ("size-differs", |it| it.status_size = 1),
            ("no-fsync", |it| it.after = it.before.clone()),
        ];
        for (code, breaks) in cases {
            let mut seen = good();
            breaks(seen.nodes.get_mut("cp-1").unwrap());
            let Judgement::Fail(found) = documented(1).judge(&seen) else { panic!("{code}") };
            assert_eq!(found[0].code, *code);
        }
    }
}
