//! etcd, asked member by member: each control plane asks its own endpoint with the documented certificates, so that a
//! member that lags or lies is seen, and not what a load balancer makes of three.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures::future::join_all;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use shakedown_core::{Finding, Judgement, Observation, Resource, Touches};
use shakedown_engine::{Cx, Expect, ObserveError, Probe, expect_fn};

use crate::machine::MachineError;
use crate::node_command::{Ran, Which, run};
use crate::platform::Platform;

/// The member's own endpoint (ETCD-004).
pub const ENDPOINT: &str = "https://127.0.0.1:2379";
/// CA of the members (ETCD-004).
pub const CA: &str = "/etc/kubernetes/pki/etcd/ca.crt";
/// Certificate of the member (ETCD-004).
pub const CERT: &str = "/etc/kubernetes/pki/etcd/server.crt";
/// Its key (ETCD-004).
pub const KEY: &str = "/etc/kubernetes/pki/etcd/server.key";

/// Longest wait for a look: a member that is stopped must not use up a control's budget.
const LOOK: u32 = 4;
/// Longest wait for a change, seconds: it has to come through, also on a machine with much to do.
const CHANGE: u32 = 20;

/// How long the command may take beside its own patience.
const COMMAND: Duration = Duration::from_secs(30);

/// Finds the client on the node or, where it is not installed there, in the member's own container.
pub(crate) const FIND_CLIENT: &str =
    r#"c=$(command -v etcdctl) || c=/proc/$(pgrep -xo etcd)/root/usr/local/bin/etcdctl"#;

/// The command line of a look at a member from its control plane, with the documented endpoint and certificates.
pub fn etcdctl(args: &[&str]) -> Vec<String> {
    client(LOOK, args)
}

/// The command line of a change, likewise.
pub fn etcdctl_change(args: &[&str]) -> Vec<String> {
    client(CHANGE, args)
}

fn client(seconds: u32, args: &[&str]) -> Vec<String> {
    let script = format!(
        r#"{FIND_CLIENT}; exec "$c" --endpoints={ENDPOINT} --cacert={CA} --cert={CERT} --key={KEY} --dial-timeout={seconds}s --command-timeout={seconds}s "$@""#
    );
    let head = ["/bin/sh".to_owned(), "-c".to_owned(), script, "etcdctl".to_owned()];
    head.into_iter().chain(args.iter().map(|&arg| arg.to_owned())).collect()
}

/// Looks at a member from its control plane.
///
/// # Errors
/// The node cannot be reached. A member that does not answer is an exit code.
pub async fn ask(platform: &Platform, node: &str, args: &[&str]) -> Result<Ran, MachineError> {
    run(platform, node, &etcdctl(args), COMMAND).await
}

/// Changes something through a member.
///
/// # Errors
/// As [`ask`].
pub async fn change(platform: &Platform, node: &str, args: &[&str]) -> Result<Ran, MachineError> {
    run(platform, node, &etcdctl_change(args), COMMAND).await
}

/// What a member says of itself.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Its id, in hex.
    pub id: String,
    /// The leader it follows, in hex; zero for none.
    pub leader: String,
    /// Its version.
    pub version: String,
    /// Still learning.
    pub learner: bool,
    /// Revision of the key space.
    pub revision: u64,
    /// Last entry of the log that it applied.
    pub applied: u64,
    /// Size of its database file, bytes.
    pub size: u64,
    /// The part of it in use, bytes.
    pub in_use: u64,
    /// Its quota in bytes, where it tells.
    pub quota: Option<u64>,
    /// Errors it reports.
    pub errors: Vec<String>,
}

/// One member, looked at twice.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// Why it gave no answer.
    pub silent: Option<String>,
    /// The first look.
    pub first: Status,
    /// The second look, after all first ones.
    pub second: Status,
    /// Alarms it knows of, as `MEMBER ALARM`.
    pub alarms: Vec<String>,
    /// Names of the members that it knows as started.
    pub members: BTreeSet<String>,
    /// Hash over the key space at [`Members::hashed_at`], and the compaction that it starts from.
    pub hash: Option<(u64, u64)>,
}

/// All members.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Members {
    /// Revision at which the hashes were taken.
    pub hashed_at: u64,
    /// Control plane to member.
    pub nodes: BTreeMap<String, Member>,
}

impl Observation for Members {
    const SCHEMA: &'static str = "etcd-members/1";
}

/// Looks at every member.
pub struct LookAtMembers;

/// Every member's own status (twice), alarms, member list and hash.
pub fn members() -> LookAtMembers {
    LookAtMembers
}

impl Probe<Platform> for LookAtMembers {
    type Seen = Members;

    fn touches(&self) -> Touches {
        Touches::nothing().reads(Resource::Etcd)
    }

    async fn observe(&self, platform: &Platform, _cx: &Cx) -> Result<Members, ObserveError> {
        let names = Which::ControlPlanes.on(platform);
        if names.is_empty() {
            return Err(ObserveError::no_ground("there is no control plane whose etcd could be asked"));
        }
        let looks = join_all(names.iter().map(|node| first_look(platform, node))).await;
        let looks: Vec<Member> = looks.into_iter().collect::<Result<_, _>>().map_err(ObserveError::no_ground)?;
        let seconds = join_all(names.iter().zip(&looks).map(|(node, member)| async move {
            if member.silent.is_some() { Ok(Err("silent".to_owned())) } else { status(platform, node).await }
        }))
        .await;
        let mut nodes = BTreeMap::new();
        for ((node, mut member), second) in names.iter().zip(looks).zip(seconds) {
            match second.map_err(ObserveError::no_ground)? {
                Ok(status) => member.second = status,
                Err(why) => member.silent = member.silent.or(Some(why)),
            }
            nodes.insert(node.clone(), member);
        }
        let answering = nodes.iter().filter(|(_, member)| member.silent.is_none());
        let hashed_at = answering.map(|(_, member)| member.second.revision).min().unwrap_or_default();
        let hashes = join_all(nodes.iter().map(|(node, member)| async move {
            if member.silent.is_some() { Ok(None) } else { hash(platform, node, hashed_at).await }
        }))
        .await;
        for (member, hash) in nodes.values_mut().zip(hashes) {
            member.hash = hash.map_err(ObserveError::no_ground)?;
        }
        Ok(Members { hashed_at, nodes })
    }
}

async fn first_look(platform: &Platform, node: &str) -> Result<Member, MachineError> {
    let (look, alarms, list) = futures::join!(
        status(platform, node),
        ask(platform, node, &["alarm", "list"]),
        ask(platform, node, &["member", "list", "-w", "json"]),
    );
    let (alarms, list) = (alarms?, list?);
    let first = match look? {
        Ok(first) => first,
        Err(why) => return Ok(Member { silent: Some(why), ..Member::default() }),
    };
    Ok(Member {
        silent: [&alarms, &list].iter().find(|ran| !ran.ok()).map(|ran| ran.brief()),
        first,
        alarms: alarms.stdout.lines().map(str::to_owned).collect(),
        members: started(&list.stdout),
        ..Member::default()
    })
}

async fn status(platform: &Platform, node: &str) -> Result<Result<Status, String>, MachineError> {
    let ran = ask(platform, node, &["endpoint", "status", "-w", "json"]).await?;
    Ok(if ran.ok() { understand_status(&ran.stdout) } else { Err(ran.brief()) })
}

async fn hash(platform: &Platform, node: &str, revision: u64) -> Result<Option<(u64, u64)>, MachineError> {
    let ran = change(platform, node, &["endpoint", "hashkv", "--rev", &revision.to_string(), "-w", "json"]).await?;
    let Ok(value) = serde_json::from_str::<Value>(&ran.stdout) else { return Ok(None) };
    let hash = &value[0]["HashKV"];
    Ok(hash["hash"].as_u64().map(|number| (number, hash["compact_revision"].as_u64().unwrap_or_default())))
}

/// Understands `endpoint status -w json`.
///
/// # Errors
/// It is not that.
pub fn understand_status(json: &str) -> Result<Status, String> {
    let value: Value = serde_json::from_str(json).map_err(|e| format!("status is no JSON: {e}"))?;
    let status = &value[0]["Status"];
    let number = |field: &str| status[field].as_u64().unwrap_or_default();
    let id = status["header"]["member_id"].as_u64().ok_or("status has no member id")?;
    Ok(Status {
        id: format!("{id:x}"),
        leader: format!("{:x}", number("leader")),
        version: status["version"].as_str().unwrap_or_default().to_owned(),
        learner: status["isLearner"].as_bool().unwrap_or_default(),
        revision: status["header"]["revision"].as_u64().ok_or("status has no revision")?,
        applied: number("raftAppliedIndex"),
        size: number("dbSize"),
        in_use: number("dbSizeInUse"),
        quota: status["dbSizeQuota"].as_u64(),
        errors: status["errors"].as_array().into_iter().flatten().map(ToString::to_string).collect(),
    })
}

fn started(json: &str) -> BTreeSet<String> {
    let list: Value = serde_json::from_str(json).unwrap_or_default();
    let members = list["members"].as_array().cloned().unwrap_or_default();
    // A member that never started has no name yet.
    members.iter().filter_map(|m| m["name"].as_str()).filter(|n| !n.is_empty()).map(str::to_owned).collect()
}

/// `count` members, all answering, all following one leader of their own, no learner, no alarm, no error, and the same
/// data: at the second look everyone has reached what anyone had at the first, and equal hashes.
pub fn healthy(count: usize) -> impl Expect<Members> {
    expect_fn(move |seen: &Members| {
        let mut found = vec![];
        if seen.nodes.len() != count {
            found.push(Finding::new("member-count", "etcd", format!("{} members, {count} expected", seen.nodes.len())));
        }
        for (node, member) in &seen.nodes {
            if let Some(why) = &member.silent {
                found.push(Finding::new("member-silent", node, why.clone()));
            }
        }
        let heard: Vec<(&String, &Member)> = seen.nodes.iter().filter(|(_, m)| m.silent.is_none()).collect();
        found.extend(heard.iter().flat_map(|(node, member)| of_one(node, member, count)));
        found.extend(leadership(&heard));
        found.extend(sameness(&heard));
        Judgement::from_findings(found)
    })
}

fn of_one(node: &str, member: &Member, count: usize) -> Vec<Finding> {
    let mut found = vec![];
    if member.second.learner {
        found.push(Finding::new("member-learner", node, "it has no vote yet"));
    }
    found.extend(member.alarms.iter().map(|alarm| Finding::new("alarm", node, alarm.clone())));
    found.extend(member.second.errors.iter().map(|error| Finding::new("member-error", node, error.clone())));
    if member.members.len() != count {
        let known = member.members.iter().cloned().collect::<Vec<_>>().join(", ");
        found.push(Finding::new("member-count", node, format!("it knows {known}; {count} are expected")));
    }
    found
}

fn leadership(heard: &[(&String, &Member)]) -> Option<Finding> {
    let leaders: BTreeSet<&str> = heard.iter().map(|(_, m)| m.second.leader.as_str()).collect();
    let ids: BTreeSet<&str> = heard.iter().map(|(_, m)| m.second.id.as_str()).collect();
    let told = leaders.iter().copied().collect::<Vec<_>>().join(", ");
    match leaders.len() {
        1 if ids.len() < heard.len() => Some(Finding::new("leader", "etcd", "two members have the same id")),
        1 if told != "0" => None,
        _ => Some(Finding::new("leader", "etcd", format!("members follow: {told}"))),
    }
}

fn sameness(heard: &[(&String, &Member)]) -> Vec<Finding> {
    let mut found = vec![];
    let reached = heard.iter().map(|(_, m)| m.first.revision).max().unwrap_or_default();
    for (node, member) in heard {
        if member.second.revision < reached {
            let message = format!("revision {} when others had reached {reached} before", member.second.revision);
            found.push(Finding::new("member-lags", node.as_str(), message));
        }
    }
    let hashes: BTreeMap<u64, BTreeSet<u64>> =
        heard.iter().filter_map(|(_, m)| m.hash).fold(BTreeMap::new(), |mut all, (hash, compacted)| {
            all.entry(compacted).or_default().insert(hash);
            all
        });
    // Hashes that start from different compactions cannot be compared; at least one pair must be comparable.
    if hashes.values().any(|same_start| same_start.len() > 1) {
        found.push(Finding::new("data-differs", "etcd", format!("hashes by compaction: {hashes:?}")));
    }
    found.extend(heard.iter().filter(|(_, m)| m.hash.is_none()).map(|(node, _)| {
        Finding::new("data-differs", node.as_str(), "it gives no hash for the revision that others have".to_owned())
    }));
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(id: &str, revision: u64) -> Status {
        Status { id: id.into(), leader: "a".into(), revision, ..Status::default() }
    }

    fn good() -> Members {
        let names: BTreeSet<String> = ["cp-1", "cp-2", "cp-3"].map(str::to_owned).into();
        let member = |id: &str, first, second| Member {
            first: status(id, first),
            second: status(id, second),
            members: names.clone(),
            hash: Some((7, 1)),
            ..Member::default()
        };
        let nodes = [("cp-1", member("a", 10, 12)), ("cp-2", member("b", 11, 12)), ("cp-3", member("c", 9, 11))];
        Members { hashed_at: 11, nodes: nodes.into_iter().map(|(n, m)| (n.to_owned(), m)).collect() }
    }

    fn codes(seen: &Members) -> Vec<String> {
        match healthy(3).judge(seen) {
            Judgement::Fail(found) => found.into_iter().map(|f| f.code).collect(),
            other => vec![format!("{other:?}")],
        }
    }

    #[test]
    fn three_members_that_catch_up_are_healthy() {
        assert_eq!(healthy(3).judge(&good()), Judgement::Pass);
    }

    #[test]
    fn every_defect_has_its_code() {
        type Break = fn(&mut Member);
        let cases: &[(&str, Break)] = &[
            ("member-silent", |m| m.silent = Some("deadline exceeded".into())),
            ("member-lags", |m| m.second.revision = 8),
            ("data-differs", |m| m.hash = Some((8, 1))),
            ("data-differs", |m| m.hash = None),
            ("leader", |m| m.second.leader = "c".into()),
            ("leader", |m| m.second.id = "b".into()),
            ("member-learner", |m| m.second.learner = true),
            ("alarm", |m| m.alarms.push("memberID:1 alarm:NOSPACE".into())),
            ("member-count", |m| drop(m.members.pop_first())),
            ("member-error", |m| m.second.errors.push("etcdserver: no leader".into())),
        ];
        for (code, breaks) in cases {
            let mut seen = good();
            breaks(seen.nodes.get_mut("cp-3").unwrap());
            assert_eq!(codes(&seen), [*code]);
        }
    }

    #[test]
    fn nobody_leads() {
        let mut seen = good();
        seen.nodes.values_mut().for_each(|m| m.second.leader = "0".into());
        assert_eq!(codes(&seen), ["leader"]);
    }

    #[test]
    fn a_status_is_understood() {
        let json = r#"[{"Endpoint":"https://127.0.0.1:2379","Status":{"header":{"cluster_id":1,"member_id":10276657743932975437,
            "revision":5,"raft_term":2},"version":"3.6.5","dbSize":20480,"leader":10276657743932975437,"raftIndex":9,
            "raftTerm":2,"raftAppliedIndex":9,"dbSizeInUse":16384,"storageVersion":"3.6.0","dbSizeQuota":2147483648}}]"#;
        let status = understand_status(json).unwrap();
        assert_eq!((status.id.as_str(), status.revision, status.quota), ("8e9e05c52164694d", 5, Some(2_147_483_648)));
        assert_eq!(status.id, status.leader);
        assert!(understand_status("[]").is_err());
    }
}
