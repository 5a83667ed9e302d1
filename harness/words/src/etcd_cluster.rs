//! The cluster's own members: what their status prints, a leader that is moved and comes back, and defragmentation of
//! one member after the other while writes go on.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use shakedown_core::{Answer, Finding, Judgement, Observation, Resource, Touches, UndoStep, wait_for};
use shakedown_engine::{Cx, Expect, ObserveError, Probe, expect_fn};

use crate::etcd::{self, Status, understand_status};
use crate::etcd_metrics::{LEADER_CHANGES, values};
use crate::node_command::{Commanded, Ran, Which, each_node, script};
use crate::platform::Platform;

/// Whether a member knows a leader.
const HAS_LEADER: &str = "etcd_server_has_leader";
/// How long a node's command may take.
const COMMAND: Duration = Duration::from_secs(40);
/// How long the members may take to agree on a leader.
const ELECTION: Duration = Duration::from_secs(30);
/// Keys that are written while members are defragmented.
const OWN_KEYS: &str = "/shakedown/defrag/";

/// The cells of a printed table's header.
fn header(table: &str) -> Vec<String> {
    let line = table.lines().find(|line| line.starts_with('|')).unwrap_or_default();
    line.split('|').map(str::trim).filter(|cell| !cell.is_empty()).map(str::to_owned).collect()
}

/// On every node the table's header has each of these columns and none of those, and one row: that of the endpoint asked.
pub fn header_has(columns: &'static [&'static str], not: &'static [&'static str]) -> impl Expect<Commanded> {
    let judge = each_node(3, move |node, ran| {
        let cells = header(&ran.stdout);
        let has = |column: &&&str| cells.iter().any(|cell| cell == **column);
        let mut found: Vec<Finding> = columns
            .iter()
            .filter(|column| !has(column))
            .map(|column| Finding::new("column-missing", node, format!("no `{column}` among {cells:?}")))
            .collect();
        found.extend(not.iter().filter(has).map(|column| Finding::new("as-documented", node, format!("`{column}`"))));
        let rows = ran.stdout.lines().filter(|line| line.starts_with('|')).count().saturating_sub(1);
        if found.is_empty() && rows != 1 {
            found.push(Finding::new("rows", node, format!("{rows} rows for one endpoint")));
        }
        found
    });
    expect_fn(move |seen: &Commanded| match seen.nodes.iter().find(|(_, ran)| !ran.ok()) {
        Some((node, ran)) => Judgement::Inconclusive(format!("the member on {node} gives no status: {}", ran.brief())),
        None => judge.judge(seen),
    })
}

/// A leader that was moved, and back.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Moved {
    /// Who led before, then, and at the end.
    pub leaders: Vec<String>,
    /// Control plane to the counter of leader changes before.
    pub before: BTreeMap<String, f64>,
    /// After the first move.
    pub after: BTreeMap<String, f64>,
    /// Control plane to whether it knows a leader, at the end.
    pub has_leader: BTreeMap<String, f64>,
}

impl Observation for Moved {
    const SCHEMA: &'static str = "etcd-leader-moved/1";
}

/// Moves the leader.
pub struct Move {
    really: bool,
}

/// The leader hands over to the next control plane's member, and back again.
pub fn leader_moved_and_back() -> Move {
    Move { really: true }
}

/// The counters are read twice, and nothing is moved.
pub fn leader_left_alone() -> Move {
    Move { really: false }
}

async fn statuses(platform: &Platform) -> Result<BTreeMap<String, Status>, String> {
    let mut all = BTreeMap::new();
    for node in Which::ControlPlanes.on(platform) {
        let ran =
            etcd::change(platform, &node, &["endpoint", "status", "-w", "json"]).await.map_err(|e| e.to_string())?;
        all.insert(node, understand_status(&ran.stdout).map_err(|why| format!("{why}: {}", ran.brief()))?);
    }
    Ok(all)
}

/// The control plane whose member leads; everyone has to agree.
async fn leader(platform: &Platform) -> Result<String, String> {
    let all = statuses(platform).await?;
    let leads = all.iter().find(|(_, status)| status.id == status.leader);
    let (node, status) = leads.ok_or("nobody leads")?;
    if all.values().any(|other| other.leader != status.id) {
        return Err("the members follow several leaders".to_owned());
    }
    Ok(node.clone())
}

async fn metric(platform: &Platform, name: &str) -> Result<BTreeMap<String, f64>, ObserveError> {
    let mut all = BTreeMap::new();
    for node in Which::ControlPlanes.on(platform) {
        let text = "curl -sS -m 5 --noproxy '*' http://127.0.0.1:2381/metrics";
        let out = script(platform, &node, text, COMMAND).await.map_err(ObserveError::no_ground)?;
        if let Some(value) = values(&String::from_utf8_lossy(&out)).get(name) {
            all.insert(node, *value);
        }
    }
    Ok(all)
}

async fn hand_over(platform: &Platform, from: &str, to: &str) -> Result<(), ObserveError> {
    let all = statuses(platform).await.map_err(ObserveError::no_ground)?;
    let id = all.get(to).map(|status| status.id.clone()).unwrap_or_default();
    let ran = etcd::change(platform, from, &["move-leader", &id]).await.map_err(ObserveError::no_ground)?;
    if !ran.ok() {
        return Err(ObserveError::no_ground(format!("move-leader: {}", ran.brief())));
    }
    wait_for(&format!("{to} to lead"), ELECTION, || async {
        match leader(platform).await {
            Ok(now) if now == to => Answer::Ready(()),
            Ok(now) => Answer::NotYet(format!("{now} leads")),
            Err(why) => Answer::NotYet(why),
        }
    })
    .await
    .map_err(ObserveError::no_ground)
}

impl Probe<Platform> for Move {
    type Seen = Moved;

    fn touches(&self) -> Touches {
        Touches::nothing().writes(Resource::Etcd)
    }

    async fn observe(&self, platform: &Platform, _cx: &Cx) -> Result<Moved, ObserveError> {
        let first = leader(platform).await.map_err(ObserveError::no_ground)?;
        let other = Which::ControlPlanes.on(platform).into_iter().find(|node| *node != first);
        let other = other.ok_or_else(|| ObserveError::no_ground("there is nobody to hand over to"))?;
        let before = metric(platform, LEADER_CHANGES).await?;
        let mut leaders = vec![first.clone()];
        if self.really {
            hand_over(platform, &first, &other).await?;
        }
        leaders.push(leader(platform).await.map_err(ObserveError::no_ground)?);
        let after = metric(platform, LEADER_CHANGES).await?;
        if self.really {
            // Who leads is nobody's desired state; it is handed back all the same.
            hand_over(platform, &other, &first).await?;
        }
        leaders.push(leader(platform).await.map_err(ObserveError::no_ground)?);
        Ok(Moved { leaders, before, after, has_leader: metric(platform, HAS_LEADER).await? })
    }
}

/// The leader was another in between and is the first again, `count` members counted the change, and all know a leader.
pub fn change_counted(count: usize) -> impl Expect<Moved> {
    expect_fn(move |seen: &Moved| {
        if seen.before.len() != count || seen.after.len() != count {
            return Judgement::fail("metric-missing", "etcd", format!("{:?}, {:?}", seen.before, seen.after));
        }
        let mut found = vec![];
        for (node, after) in &seen.after {
            let before = seen.before.get(node).copied().unwrap_or_default();
            if after - before < 1.0 {
                found.push(Finding::new("not-counted", node, format!("{before} before, {after} after")));
            }
        }
        if seen.leaders.first() != seen.leaders.last() {
            found.push(Finding::new("leader", "etcd", format!("leaders: {:?}", seen.leaders)));
        }
        let without = seen.has_leader.iter().filter(|(_, has)| **has != 1.0);
        found.extend(without.map(|(node, _)| Finding::new("no-leader", node, "it knows no leader".to_owned())));
        Judgement::from_findings(found)
    })
}

/// Defragmentation of the cluster's members.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Defragmented {
    /// Control plane to what `defrag` came to.
    pub defrag: BTreeMap<String, Ran>,
    /// Control plane to share of its database that is free, after.
    pub free: BTreeMap<String, f64>,
    /// Control plane to its health, after.
    pub health: BTreeMap<String, Ran>,
    /// Writes that were acknowledged meanwhile.
    pub acknowledged: u64,
    /// Writes that were refused.
    pub refused: u64,
    /// Writes that were acknowledged and are not there.
    pub lost: u64,
}

impl Observation for Defragmented {
    const SCHEMA: &'static str = "etcd-defragmented/1";
}

/// Defragments.
pub struct Defragment {
    but_the_last: bool,
}

/// Every member, one after the other, while a client writes.
pub fn defragmented_under_load() -> Defragment {
    Defragment { but_the_last: false }
}

/// The same, but the last member is left out.
pub fn defragmented_but_for_the_last() -> Defragment {
    Defragment { but_the_last: true }
}

/// Writes until a file appears; then tells acknowledged, refused and lost.
fn writer(folder: &str) -> String {
    let command = |args: &str| {
        let head = etcd::etcdctl_change(&[]);
        let head = head.iter().map(|word| format!("'{}'", word.replace('\'', "'\\''"))).collect::<Vec<_>>().join(" ");
        format!("{head} {args}")
    };
    format!(
        "rm -rf {folder}; mkdir -m 700 {folder}; cd {folder}; : >ack; : >fail; n=0; end=$(($(date +%s) + 90))\n\
         while [ -d {folder} ] && [ ! -e stop ] && [ $(date +%s) -lt $end ]; do n=$((n + 1))\n\
         if {put} >/dev/null 2>&1; then echo $n >>ack; else echo $n >>fail; fi; : >begun; done\n\
         {get} | sed -n 's#^{OWN_KEYS}##p' | sort >there; sort ack >acked\n\
         echo \"$(wc -l <ack) $(wc -l <fail) $(comm -23 acked there | wc -l)\"",
        put = command(&format!("put {OWN_KEYS}$n $n")),
        get = command(&format!("get {OWN_KEYS} --prefix --keys-only")),
    )
}

impl Probe<Platform> for Defragment {
    type Seen = Defragmented;

    fn touches(&self) -> Touches {
        Touches::nothing().writes(Resource::Etcd)
    }

    async fn observe(&self, platform: &Platform, cx: &Cx) -> Result<Defragmented, ObserveError> {
        let names = Which::ControlPlanes.on(platform);
        let Some(first) = names.first() else { return Err(ObserveError::no_ground("there is no control plane")) };
        let folder = format!("/tmp/{}", cx.name("defrag"));
        let argv = etcd::etcdctl_change(&["del", OWN_KEYS, "--prefix"]);
        cx.undo_afterwards(vec![
            UndoStep::RunOnNode { node: first.clone(), argv, tolerate_failure: false },
            UndoStep::RemoveFile { node: first.clone(), path: folder.clone() },
        ])?;
        let text = writer(&folder);
        let (counts, seen) =
            futures::join!(script(platform, first, &text, cx.budget), self.all(platform, &names, &folder),);
        let mut seen = seen?;
        let counts = counts.map_err(ObserveError::no_ground)?;
        let counts: Vec<u64> =
            String::from_utf8_lossy(&counts).split_whitespace().filter_map(|n| n.parse().ok()).collect();
        let [acknowledged, refused, lost] = counts.as_slice() else {
            return Err(ObserveError::no_ground(format!("the writer told {counts:?}")));
        };
        (seen.acknowledged, seen.refused, seen.lost) = (*acknowledged, *refused, *lost);
        Ok(seen)
    }
}

impl Defragment {
    async fn all(&self, platform: &Platform, names: &[String], folder: &str) -> Result<Defragmented, ObserveError> {
        let went = self.each(platform, names, folder).await;
        // Whatever became of it, the writer ends.
        if let Some(first) = names.first() {
            script(platform, first, &format!("[ ! -d {folder} ] || : >{folder}/stop"), COMMAND)
                .await
                .map_err(ObserveError::no_ground)?;
        }
        went
    }

    async fn each(&self, platform: &Platform, names: &[String], folder: &str) -> Result<Defragmented, ObserveError> {
        let mut seen = Defragmented::default();
        if let Some(first) = names.first() {
            let begun = format!("n=0; until [ -e {folder}/begun ]; do n=$((n + 1)); [ $n -lt 300 ]; sleep 0.1; done");
            script(platform, first, &begun, COMMAND).await.map_err(ObserveError::no_ground)?;
        }
        let last = if self.but_the_last { names.len().saturating_sub(1) } else { names.len() };
        for node in names.iter().take(last) {
            let ran = etcd::change(platform, node, &["defrag"]).await.map_err(ObserveError::no_ground)?;
            seen.defrag.insert(node.clone(), ran);
        }
        for node in names {
            let health =
                etcd::change(platform, node, &["endpoint", "health"]).await.map_err(ObserveError::no_ground)?;
            seen.health.insert(node.clone(), health);
        }
        for (node, status) in statuses(platform).await.map_err(ObserveError::no_ground)? {
            seen.free.insert(node, 1.0 - status.in_use as f64 / status.size.max(1) as f64);
        }
        Ok(seen)
    }
}

/// `count` members were defragmented with exit code 0, are healthy and less than half free; writes went on all the time
/// and none that was acknowledged is lost.
pub fn all_defragmented(count: usize) -> impl Expect<Defragmented> {
    expect_fn(move |seen: &Defragmented| {
        if seen.health.len() != count {
            return Judgement::Inconclusive(format!("{} members, {count} expected", seen.health.len()));
        }
        let mut found = vec![];
        for (node, health) in &seen.health {
            match seen.defrag.get(node) {
                Some(ran) if ran.ok() => {}
                Some(ran) => found.push(Finding::new("defrag-failed", node, ran.brief())),
                None => found.push(Finding::new("not-defragmented", node, "it was left out".to_owned())),
            }
            if !health.ok() {
                found.push(Finding::new("unhealthy", node, health.brief()));
            }
            if seen.free.get(node).is_none_or(|free| *free > 0.5) {
                found.push(Finding::new("still-fragmented", node, format!("free share: {:?}", seen.free.get(node))));
            }
        }
        if seen.acknowledged == 0 || seen.refused > 0 {
            let message = format!("{} acknowledged, {} refused", seen.acknowledged, seen.refused);
            found.push(Finding::new("write-refused", "etcd", message));
        }
        if seen.lost > 0 {
            found.push(Finding::new("write-lost", "etcd", format!("{} acknowledged writes are gone", seen.lost)));
        }
        Judgement::from_findings(found)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::codes;

    #[test]
    fn a_header_is_read_cell_by_cell() {
        let table = "+--+--+\n|  ENDPOINT | IS LEADER |\n+--+--+\n| a | true |\n+--+--+";
        assert_eq!(header(table), ["ENDPOINT", "IS LEADER"]);
        let ran = Ran { code: 0, stdout: table.into(), stderr: String::new() };
        let nodes: BTreeMap<_, _> = ["a", "b", "c"].map(|n| (n.to_owned(), ran.clone())).into();
        let seen = Commanded { command: String::new(), nodes };
        assert_eq!(codes(header_has(&["IS LEADER"], &["LEADER"]).judge(&seen)), Vec::<String>::new());
        let mut silent = seen.clone();
        silent.nodes.insert("c".to_owned(), Ran { code: 1, ..Ran::default() });
        assert!(matches!(header_has(&["IS LEADER"], &[]).judge(&silent), Judgement::Inconclusive(_)));
        assert_eq!(codes(header_has(&["DB SIZE"], &[]).judge(&seen)), ["column-missing"; 3]);
        assert_eq!(codes(header_has(&[], &["ENDPOINT"]).judge(&seen)), ["as-documented"; 3]);
    }

    #[test]
    fn a_change_that_is_not_counted_is_named() {
        let all = |value: f64| BTreeMap::from([("cp-1".to_owned(), value)]);
        let good = Moved {
            leaders: vec!["a".into(), "b".into(), "a".into()],
            before: all(1.0),
            after: all(2.0),
            has_leader: all(1.0),
        };
        assert_eq!(codes(change_counted(1).judge(&good)), Vec::<String>::new());
        assert_eq!(codes(change_counted(1).judge(&Moved { after: all(1.0), ..good.clone() })), ["not-counted"]);
        assert_eq!(codes(change_counted(1).judge(&Moved { has_leader: all(0.0), ..good.clone() })), ["no-leader"]);
        assert_eq!(codes(change_counted(3).judge(&good)), ["metric-missing"]);
    }

    #[test]
    fn a_member_left_out_and_a_write_lost_are_named() {
        let ok = BTreeMap::from([("cp-1".to_owned(), Ran::default())]);
        let good = Defragmented {
            defrag: ok.clone(),
            health: ok,
            free: BTreeMap::from([("cp-1".to_owned(), 0.1)]),
            acknowledged: 9,
            ..Defragmented::default()
        };
        assert_eq!(codes(all_defragmented(1).judge(&good)), Vec::<String>::new());
        assert_eq!(
            codes(all_defragmented(1).judge(&Defragmented { defrag: BTreeMap::new(), ..good.clone() })),
            ["not-defragmented"]
        );
        assert_eq!(
            codes(all_defragmented(1).judge(&Defragmented { lost: 1, refused: 1, ..good })),
            ["write-refused", "write-lost"]
        );
    }
}
