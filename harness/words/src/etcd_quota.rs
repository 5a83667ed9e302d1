//! The quota of every member's database: as the manifest says, as the process runs, as the member works with, and how
//! much of it is used.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::future::join_all;
use serde::{Deserialize, Serialize};
use shakedown_core::{Finding, Judgement, Observation, Resource, Touches};
use shakedown_engine::{Cx, Expect, ObserveError, Probe, expect_fn};

use crate::etcd_lab::{LabMember, Scenario};
use crate::etcd_metrics::values;
use crate::node_command::{Which, script};
use crate::platform::Platform;

/// The documented quota, bytes (ETCD-036).
pub const DOCUMENTED: u64 = 8_589_934_592;
/// Beyond this share of the quota there is little time left to act.
const HEADROOM: f64 = 0.8;
/// The quota that a member works with.
const METRIC: &str = "etcd_server_quota_backend_bytes";
/// The size of its database.
const SIZE: &str = "etcd_mvcc_db_total_size_in_bytes";
/// How long a node's command may take.
const COMMAND: Duration = Duration::from_secs(20);

/// One member.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct MemberQuota {
    /// Values of the flag in the static manifest.
    pub manifest: Vec<u64>,
    /// Values of the flag in the running process.
    pub process: Vec<u64>,
    /// What it works with, bytes.
    pub effective: u64,
    /// Size of its database, bytes.
    pub size: u64,
}

/// All members.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Quotas {
    /// Control plane to member.
    pub nodes: BTreeMap<String, MemberQuota>,
}

impl Observation for Quotas {
    const SCHEMA: &'static str = "etcd-quotas/1";
}

/// Looks.
pub struct Look {
    instead: Option<Scenario>,
}

/// Every member's quota.
pub fn quotas() -> Look {
    Look { instead: None }
}

/// The same, but in place of the last member the one that this scenario looks at under `now`.
pub fn quotas_but_for_the_last(scenario: Scenario) -> Look {
    Look { instead: Some(scenario) }
}

const FACTS: &str = r#"f='s/.*--quota-backend-bytes=\([0-9]*\).*/\1/p'
sed -n "$f" /etc/kubernetes/manifests/etcd.yaml | sed 's/^/manifest /'
tr '\0' '\n' </proc/$(pgrep -xo etcd)/cmdline | sed -n "$f" | sed 's/^/process /'
curl -sS -m 5 --noproxy '*' http://127.0.0.1:2381/metrics"#;

impl Probe<Platform> for Look {
    type Seen = Quotas;

    fn touches(&self) -> Touches {
        Touches::nothing().reads(Resource::Etcd).reads(Resource::Nodes)
    }

    async fn observe(&self, platform: &Platform, cx: &Cx) -> Result<Quotas, ObserveError> {
        let names = Which::ControlPlanes.on(platform);
        let outs = join_all(names.iter().map(|node| script(platform, node, FACTS, COMMAND))).await;
        let mut nodes = BTreeMap::new();
        for (node, out) in names.iter().zip(outs) {
            let out = out.map_err(ObserveError::no_ground)?;
            nodes.insert(node.clone(), understand(&String::from_utf8_lossy(&out)));
        }
        if let (Some(scenario), Some(mut last)) = (&self.instead, nodes.last_entry()) {
            let lab = scenario.observe(platform, cx).await?;
            let member = lab.looks.get("now").and_then(|members| members.get("m0")).cloned();
            last.insert(of_lab(&member.ok_or_else(|| ObserveError::no_ground("the scratch member did not come"))?));
        }
        Ok(Quotas { nodes })
    }
}

fn of_lab(member: &LabMember) -> MemberQuota {
    let metric = |name: &str| member.metrics.get(name).copied().unwrap_or_default() as u64;
    MemberQuota { effective: metric(METRIC), size: metric(SIZE), ..MemberQuota::default() }
}

fn understand(text: &str) -> MemberQuota {
    let flags = |of: &str| {
        let lines = text.lines().filter_map(|line| line.strip_prefix(of)?.trim().parse().ok());
        lines.collect()
    };
    let metrics = values(text);
    let metric = |name: &str| metrics.get(name).copied().unwrap_or_default() as u64;
    MemberQuota {
        manifest: flags("manifest "),
        process: flags("process "),
        effective: metric(METRIC),
        size: metric(SIZE),
    }
}

fn each(seen: &Quotas, count: usize, judge: impl Fn(&str, &MemberQuota) -> Vec<Finding>) -> Judgement {
    if seen.nodes.len() < count {
        return Judgement::Inconclusive(format!("{} members, {count} expected", seen.nodes.len()));
    }
    Judgement::from_findings(seen.nodes.iter().flat_map(|(node, it)| judge(node, it)).collect())
}

/// On `count` members the manifest and the process carry the documented flag once, and the member works with it.
pub fn documented_on(count: usize) -> impl Expect<Quotas> {
    expect_fn(move |seen: &Quotas| {
        each(seen, count, |node, it| {
            let mut found = vec![];
            for (place, values) in [("manifest", &it.manifest), ("process", &it.process)] {
                if values.as_slice() != [DOCUMENTED] {
                    found.push(Finding::new("flag", node, format!("in the {place}: {values:?}, not {DOCUMENTED}")));
                }
            }
            if it.effective != DOCUMENTED {
                found.push(Finding::new("other-quota", node, format!("it works with {} bytes", it.effective)));
            }
            found
        })
    })
}

/// No member's database takes more than four fifths of its quota.
pub fn headroom(count: usize) -> impl Expect<Quotas> {
    expect_fn(move |seen: &Quotas| {
        each(seen, count, |node, it| {
            if it.effective == 0 || it.size == 0 {
                return vec![Finding::new("not-told", node, format!("{it:?}"))];
            }
            let share = it.size as f64 / it.effective as f64;
            let little = Finding::new("little-headroom", node, format!("{:.0} % of its quota is used", share * 100.0));
            if share > HEADROOM { vec![little] } else { vec![] }
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::codes;

    fn good() -> Quotas {
        let text = "manifest 8589934592\nprocess 8589934592\netcd_server_quota_backend_bytes 8.589934592e+09\n\
                    etcd_mvcc_db_total_size_in_bytes 1.5e+07\n";
        Quotas { nodes: [("cp-1".to_owned(), understand(text))].into() }
    }

    #[test]
    fn each_defect_has_its_code() {
        assert_eq!(documented_on(1).judge(&good()), Judgement::Pass);
        assert_eq!(headroom(1).judge(&good()), Judgement::Pass);
        let broken = |breaks: fn(&mut MemberQuota)| {
            let mut seen = good();
            breaks(seen.nodes.get_mut("cp-1").unwrap());
            seen
        };
        assert_eq!(codes(documented_on(1).judge(&broken(|it| it.manifest.clear()))), ["flag"]);
        assert_eq!(codes(documented_on(1).judge(&broken(|it| it.process.push(1)))), ["flag"]);
        assert_eq!(codes(documented_on(1).judge(&broken(|it| it.effective = 2 << 30))), ["other-quota"]);
        assert_eq!(codes(headroom(1).judge(&broken(|it| it.size = 7 << 30))), ["little-headroom"]);
        assert_eq!(codes(headroom(1).judge(&broken(|it| it.effective = 0))), ["not-told"]);
        assert!(matches!(documented_on(3).judge(&good()), Judgement::Inconclusive(_)));
    }
}
