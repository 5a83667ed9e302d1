//! Scratch members of etcd, on one control plane's loopback address: quota, compaction, defragmentation, elections,
//! damage and restore are shown there in seconds, without touching the cluster's own members.
//!
//! A scenario is a list of steps. A look records of every running member its status, metrics and hash, and of them
//! together whether a value can be read and written. Programs and data are gone afterwards, and the programs end by
//! themselves where nobody ends them.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use shakedown_core::{Observation, Touches, UndoStep};
use shakedown_engine::{Cx, ObserveError, Probe};

use crate::etcd::{Status, understand_status};
use crate::etcd_metrics::values;
use crate::node_command::{Ran, last_control_plane, script};
use crate::platform::Platform;

/// Seconds after which the programs end by themselves.
const LIFE: u32 = 240;
/// The functions that steps are made of.
const PRELUDE: &str = include_str!("etcd_lab.sh");
/// A script that is nearly done is not given up for these seconds; the engine grants a little more.
const GRACE: Duration = Duration::from_secs(8);
/// How long the programs may take to be ended.
const END: Duration = Duration::from_secs(30);
/// Value of the key `marker` before anything happens to it.
pub const MARKER: &str = "as-written";

/// One member at one look.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct LabMember {
    /// What it says of itself; none where it does not answer.
    pub status: Option<Status>,
    /// Its metrics, as far as a word wants them.
    pub metrics: BTreeMap<String, f64>,
    /// Hash of its key space.
    pub hash: Option<u64>,
}

/// A scenario as it went.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Lab {
    /// Look to member to what was seen.
    pub looks: BTreeMap<String, BTreeMap<String, LabMember>>,
    /// Step, or `LOOK/write` and its like, to what came of it.
    pub said: BTreeMap<String, Ran>,
}

impl Observation for Lab {
    const SCHEMA: &'static str = "etcd-lab/1";
}

impl Lab {
    /// What came of a step.
    pub fn of(&self, step: &str) -> Option<&Ran> {
        self.said.get(step)
    }

    /// Whether a step was done and ended with 0.
    pub fn ok(&self, step: &str) -> bool {
        self.of(step).is_some_and(Ran::ok)
    }

    /// A metric of every member at a look.
    pub fn metric(&self, look: &str, name: &str) -> BTreeMap<&str, f64> {
        let members = self.looks.get(look).into_iter().flatten();
        members.filter_map(|(member, seen)| Some((member.as_str(), *seen.metrics.get(name)?))).collect()
    }

    /// Share of each member's database that is free at a look, 0 to 1.
    pub fn free(&self, look: &str) -> BTreeMap<&str, f64> {
        let members = self.looks.get(look).into_iter().flatten();
        let sizes = members.filter_map(|(member, seen)| Some((member.as_str(), seen.status.as_ref()?)));
        sizes.filter(|(_, s)| s.size > 0).map(|(m, s)| (m, 1.0 - s.in_use as f64 / s.size as f64)).collect()
    }
}

/// A scenario on scratch members.
#[derive(Debug, Clone)]
pub struct Scenario {
    members: u8,
    flags: String,
    steps: String,
}

/// So many scratch members that have not been started.
pub fn lab(members: u8) -> Scenario {
    Scenario { members, flags: String::new(), steps: String::new() }
}

impl Scenario {
    fn then(mut self, step: &str) -> Self {
        self.steps.push_str(step);
        self.steps.push('\n');
        self
    }

    /// They are started with this quota, in bytes.
    #[must_use]
    pub fn quota(mut self, bytes: u64) -> Self {
        let _ = write!(self.flags, " --quota-backend-bytes={bytes}");
        self
    }

    /// All are started, and a value is written under `marker`.
    #[must_use]
    pub fn started(self) -> Self {
        let flags = self.flags.clone();
        let all = self.start_all("up", &flags);
        all.then(&format!("say marker c put marker {MARKER}"))
    }

    /// All are started as they were left, with their data; how that went is told under this name.
    #[must_use]
    pub fn started_again(self, name: &'static str) -> Self {
        let flags = self.flags.clone();
        self.start_all(name, &flags)
    }

    fn start_all(self, name: &str, flags: &str) -> Self {
        self.then(&format!(
            "for m in $members; do start $m{flags}; done; for m in $members; do say {name}-m$m comes $m; done"
        ))
    }

    /// Values of half a mebibyte are written under one key, until a write is refused or there are so many.
    #[must_use]
    pub fn filled(self, at_most: u32) -> Self {
        self.then(&format!("say fill fill {at_most}"))
    }

    /// So many keys of 64 KiB are written.
    #[must_use]
    pub fn with_keys(self, count: u32) -> Self {
        self.then(&format!("say bulk bulk {count}"))
    }

    /// They are deleted.
    #[must_use]
    pub fn keys_deleted(self) -> Self {
        self.then("say delete c del bulk/ --prefix")
    }

    /// The history up to now is compacted.
    #[must_use]
    pub fn compacted(self) -> Self {
        self.then("say compact compact")
    }

    /// Every member's database is defragmented, one after the other.
    #[must_use]
    pub fn defragmented(self) -> Self {
        self.then("for m in $members; do say defrag-m$m at $m defrag; done")
    }

    /// Only the first member's is.
    #[must_use]
    pub fn one_defragmented(self) -> Self {
        self.then("say defrag-m0 at 0 defrag")
    }

    /// All alarms are disarmed.
    #[must_use]
    pub fn disarmed(self) -> Self {
        self.then("say disarm c alarm disarm")
    }

    /// Looks.
    #[must_use]
    pub fn look(self, name: &'static str) -> Self {
        self.then(&format!("look {name}"))
    }

    /// The leader hands over to another.
    #[must_use]
    pub fn leader_moved(self) -> Self {
        self.then("say move move_leader")
    }

    /// So many times the leader is frozen until another leads, and thawed.
    #[must_use]
    pub fn leader_frozen(self, times: u8) -> Self {
        self.then(&format!(
            "for i in $(seq {times}); do l=$(leader); freeze $l; say froze-$i another_leads $l; thaw $l; comes $l; done"
        ))
    }

    /// So many times a follower is frozen for longer than an election takes, and thawed.
    #[must_use]
    pub fn follower_frozen(self, times: u8) -> Self {
        self.then(&format!("for i in $(seq {times}); do f=$(follower); freeze $f; sleep 2; thaw $f; comes $f; done"))
    }

    /// From here on somebody writes, one value after the other.
    #[must_use]
    pub fn load_begins(self) -> Self {
        self.then("load_begins")
    }

    /// Until here; how many writes were acknowledged, refused, lost.
    #[must_use]
    pub fn load_ends(self) -> Self {
        self.then(": >load.stop; wait $load; say load load_count")
    }

    /// A snapshot is taken of the first member.
    #[must_use]
    pub fn snapshot(self, name: &'static str) -> Self {
        self.then(&format!("say save-{name} at 0 snapshot save {name}.db; say sum-{name} sha256sum {name}.db"))
    }

    /// Another value is written under a key.
    #[must_use]
    pub fn put(self, key: &'static str, value: &'static str) -> Self {
        self.then(&format!("say put-{key} c put {key} {value}"))
    }

    /// The value of a key is read, under this name.
    #[must_use]
    pub fn get(self, name: &'static str, key: &'static str) -> Self {
        self.then(&format!("say {name} c get {key} --print-value-only"))
    }

    /// All members but so many of the last are ended, and who still runs or listens is told.
    #[must_use]
    pub fn all_but(self, last: u8) -> Self {
        let ended = self.members - last;
        self.then(&format!(
            "for m in $(seq 0 {to}); do say end-m$m stop $m; done\n\
             running() {{ for m in $members; do if pids $m >/dev/null; then echo m$m; fi; done; ss -Hltn | awk '{{print $4}}' | \
             grep -E \":($P|$((P+1))|$((P+2))|$((P+3))|$((P+4))|$((P+5)))\\$\" || true; }}; say running running",
            to = i16::from(ended) - 1
        ))
    }

    /// So many of the last members are ended, as if their nodes had died.
    #[must_use]
    pub fn ended(self, last: u8) -> Self {
        let (from, to) = (self.members - last, self.members - 1);
        self.then(&format!("for m in $(seq {from} {to}); do say end-m$m stop $m; done"))
    }

    /// Those that are left have a leader.
    #[must_use]
    pub fn leader_awaited(self) -> Self {
        self.then("say leader another_leads none")
    }

    /// An apiserver of the lab's own runs on the members, and has its default namespace.
    #[must_use]
    pub fn apiserver(self) -> Self {
        self.then(
            "api_start; say api api_comes; n=0; until wait=4 api /api/v1/namespaces/default -f -o /dev/null; do \
             n=$((n+1)); [ $n -gt 120 ] && break; sleep 0.25; done",
        )
    }

    /// It is asked whether it serves.
    #[must_use]
    pub fn asked(self, name: &'static str) -> Self {
        self.then(&format!("api_asked {name}"))
    }

    /// The members that do not run are started again, with their data, and the apiserver takes it in.
    #[must_use]
    pub fn members_back(self) -> Self {
        self.then(
            "for m in $members; do pids $m >/dev/null || start $m; done; for m in $members; do comes $m >/dev/null; done\n\
             n=0; until [ \"$(wait=4 api /readyz)\" = ok ]; do n=$((n+1)); [ $n -gt 60 ] && break; sleep 0.5; done",
        )
    }

    /// Pages in the middle of every member's database file, and its log, are overwritten.
    #[must_use]
    pub fn damaged(self) -> Self {
        self.then(
            "for m in $members; do for f in d$m/member/snap/db d$m/member/wal/*.wal; do \
             dd if=/dev/urandom of=$f bs=1024 count=64 conv=notrunc 2>/dev/null; done; done; say damage true",
        )
    }

    /// The same is done to a copy of the files.
    #[must_use]
    pub fn copy_damaged(self) -> Self {
        self.then(
            "cp d0/member/snap/db copy; dd if=/dev/urandom of=copy bs=1024 count=64 conv=notrunc 2>/dev/null; say damage true",
        )
    }

    /// Every data directory is put aside; its database's checksum before and after is told.
    #[must_use]
    pub fn put_aside(self) -> Self {
        self.then(
            "sum() { sha256sum <$1/member/snap/db | cut -c -64; }\n\
             for m in $members; do say before-m$m sum d$m; mv d$m d$m.bak; say aside-m$m sum d$m.bak; say absent-m$m test ! -e d$m; done",
        )
    }

    /// Every data directory is deleted.
    #[must_use]
    pub fn thrown_away(self) -> Self {
        self.then(
            "sum() { sha256sum <$1/member/snap/db | cut -c -64; }\n\
             for m in $members; do say before-m$m sum d$m; rm -rf d$m; say aside-m$m sum d$m.bak; say absent-m$m test ! -e d$m; done",
        )
    }

    /// What was put aside is put back, for the case that the restore is given up.
    #[must_use]
    pub fn put_back(self) -> Self {
        self.then("for m in $members; do rm -rf d$m; mv d$m.bak d$m; done")
    }

    /// Every member's data directory is restored from this snapshot, each with its own name and peer URL.
    #[must_use]
    pub fn restored(self, from: &'static str) -> Self {
        let step = restore("$m", &format!("{from}.db"), "$(peer $m)");
        self.then(&format!("for m in $members; do rm -rf d$m; say restore-m$m {step}; done"))
    }

    /// So is the last member's, but from another snapshot.
    #[must_use]
    pub fn last_restored_from(self, other: &'static str) -> Self {
        let last = (self.members - 1).to_string();
        let step = restore(&last, &format!("{other}.db"), &format!("$(peer {last})"));
        self.then(&format!("rm -rf d{last}; say restore-m{last} {step}"))
    }

    /// The first member's is, with the peer URL that the list gives it.
    #[must_use]
    pub fn restored_under_its_url(self, from: &'static str) -> Self {
        let step = restore("0", &format!("{from}.db"), "$(peer 0)");
        self.then(&format!("rm -rf d0; say restore-m0 {step}; say member-m0 test -d d0/member"))
    }

    /// The first member's is, with a peer URL that the list does not give it.
    #[must_use]
    pub fn restored_under_another_url(self, from: &'static str) -> Self {
        let step = restore("0", &format!("{from}.db"), "http://127.0.0.1:1");
        self.then(&format!("rm -rf d0; say restore-m0 {step}; say member-m0 test -d d0/member"))
    }

    /// The documented restore command of `etcdctl`, as printed.
    #[must_use]
    pub fn restored_as_documented(self, from: &'static str) -> Self {
        let step = restore("0", &format!("{from}.db"), "$(peer 0)").replace("\"$eu\"", "\"$ec\"");
        self.then(&format!("say documented {step}; say documented-member test -d d0/member"))
    }
}

/// A restore with the five documented flags.
fn restore(member: &str, file: &str, url: &str) -> String {
    format!(
        "\"$eu\" snapshot restore {file} --data-dir d{member} --name m{member} --initial-cluster $cluster \
         --initial-cluster-token lab --initial-advertise-peer-urls {url}"
    )
}

impl Probe<Platform> for Scenario {
    type Seen = Lab;

    fn touches(&self) -> Touches {
        Touches::nothing()
    }

    async fn observe(&self, platform: &Platform, cx: &Cx) -> Result<Lab, ObserveError> {
        let node = last_control_plane(platform)
            .map_err(|none| ObserveError::no_ground(format!("{none} to borrow programs from")))?;
        // Ports of its own for every check and phase: several labs may run side by side.
        let number = cx.seed.derive(&format!("{}/{}/lab", cx.check, cx.phase)).0;
        let port = 12_000 + (number % 900) as u16 * 8;
        let folder = format!("/tmp/{}", cx.name("lab"));
        let end = end_of(&folder);
        let argv = ["/bin/sh", "-c", &end].map(str::to_owned).to_vec();
        cx.undo_afterwards(vec![UndoStep::RunOnNode { node: node.clone(), argv, tolerate_failure: false }])?;
        let text = lab_script(&folder, port, self.members, &self.steps);
        let out = told(platform, &node, &text, cx.budget).await;
        script(platform, &node, &end, END).await.map_err(ObserveError::harness)?;
        understand(&String::from_utf8_lossy(&out?))
    }
}

/// The script of a lab: its functions, and these steps.
pub(crate) fn lab_script(folder: &str, port: u16, members: u8, steps: &str) -> String {
    format!("F={folder} P={port} N={members} LIFE={LIFE}\n{PRELUDE}\n{steps}\nexit 0")
}

/// Runs a long script, which is told and not given as an argument: an error does not repeat all of it.
pub(crate) async fn told(
    platform: &Platform,
    node: &str,
    text: &str,
    budget: Duration,
) -> Result<Vec<u8>, ObserveError> {
    let argv = ["/bin/sh", "-c", "eval \"$(cat)\""].map(str::to_owned);
    let machine = platform.machine(node).map_err(ObserveError::no_ground)?;
    let output = machine.exec(&argv, text.as_bytes(), budget + GRACE).await.map_err(ObserveError::no_ground)?;
    if output.code == 0 {
        return Ok(output.stdout);
    }
    Err(ObserveError::no_ground(format!("a script on {node} ended with {}: {}", output.code, output.complaint())))
}

/// Ends the programs of a lab and removes its data.
pub(crate) fn end_of(folder: &str) -> String {
    format!(
        "for i in 1 2 3 4 5; do p=$(pgrep -f '^(timeout [0-9]+ )?{folder}/' || true); [ -z \"$p\" ] && break; \
         kill -9 $p 2>/dev/null || true; sleep 0.1; done; rm -rf {folder}"
    )
}

/// Understands what the steps wrote.
pub(crate) fn understand(text: &str) -> Result<Lab, ObserveError> {
    let decode = |word: &str| {
        let bytes = BASE64_STANDARD.decode(word.trim_end_matches('-'));
        let bytes = bytes.map_err(|e| ObserveError::harness(format!("a line of the lab: {e}")))?;
        Ok::<_, ObserveError>(String::from_utf8_lossy(&bytes).trim().to_owned())
    };
    let mut lab = Lab::default();
    for line in text.lines() {
        let words: Vec<&str> = line.split(' ').collect();
        match words.as_slice() {
            ["=", name, code, said @ ..] => {
                let code = code.parse().map_err(|e| ObserveError::harness(format!("code of {name}: {e}")))?;
                let stdout = decode(said.first().unwrap_or(&""))?;
                lab.said.insert((*name).to_owned(), Ran { code, stdout, stderr: String::new() });
            }
            ["?", look, member, status, metrics, hash] => {
                let hash: Value = serde_json::from_str(&decode(hash)?).unwrap_or_default();
                let seen = LabMember {
                    status: understand_status(&decode(status)?).ok(),
                    metrics: values(&decode(metrics)?),
                    hash: hash[0]["HashKV"]["hash"].as_u64(),
                };
                lab.looks.entry((*look).to_owned()).or_default().insert((*member).to_owned(), seen);
            }
            _ => {}
        }
    }
    if lab.said.is_empty() {
        return Err(ObserveError::no_ground(format!("the lab wrote nothing: {text}")));
    }
    Ok(lab)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_understood_and_an_empty_lab_is_no_answer() {
        let b = |text: &str| BASE64_STANDARD.encode(text);
        let status = r#"[{"Status":{"header":{"member_id":1,"revision":5},"dbSize":100,"dbSizeInUse":25,"leader":1}}]"#;
        let metrics = "etcd_server_has_leader 1\n";
        let hash = r#"[{"HashKV":{"hash":7}}]"#;
        let text =
            format!("noise\n= full/write 1 {}\n? full m0 {} {}- {}-\n", b("no space"), b(status), b(metrics), b(hash));
        let lab = understand(&text).unwrap();
        assert_eq!((lab.ok("full/write"), lab.of("full/write").map(|r| r.code)), (false, Some(1)));
        assert_eq!(lab.free("full"), [("m0", 0.75)].into());
        assert_eq!(lab.metric("full", "etcd_server_has_leader"), [("m0", 1.0)].into());
        assert_eq!(lab.looks["full"]["m0"].hash, Some(7));
        assert!(understand("sh: not found").is_err());
        // A member that gives no answer is there, without a status.
        assert_eq!(understand("= x 0 \n? a m1  - -\n").unwrap().looks["a"]["m1"], LabMember::default());
    }

    #[test]
    fn the_restore_has_the_five_documented_flags() {
        let step = lab(3).restored("a").steps;
        for flag in
            ["--data-dir", "--name", "--initial-cluster ", "--initial-cluster-token", "--initial-advertise-peer-urls"]
        {
            assert!(step.contains(flag), "{flag}");
        }
    }
}
