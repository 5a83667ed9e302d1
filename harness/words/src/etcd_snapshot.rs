//! A snapshot of etcd, taken with the documented command on a control plane.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use shakedown_core::{Finding, Judgement, Observation, Resource, Touches, UndoStep};
use shakedown_engine::{Cx, Expect, ObserveError, Probe, expect_fn};

use crate::etcd::{self, CA, CERT, ENDPOINT, KEY, understand_status};
use crate::node_command::{Ran, first_control_plane, run, script};
use crate::platform::Platform;

/// Where snapshots go (ETCD-010).
const FOLDER: &str = "/backup";
/// How long a node's command may take.
const COMMAND: Duration = Duration::from_secs(60);
/// What a database of this kind has at byte 16 of its first page, in the machine's order.
const MAGIC: [u8; 4] = 0xED0C_DAED_u32.to_le_bytes();

/// A snapshot that was taken, or not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    /// Control plane.
    pub node: String,
    /// Where it was to go.
    pub path: String,
    /// The save command.
    pub save: Ran,
    /// Files below the folder that were not there before.
    pub new_files: Vec<String>,
    /// Its size in bytes; none where it is not there.
    pub size: Option<u64>,
    /// It begins as a database does.
    pub is_database: bool,
    /// The database's size that the member tells, bytes.
    pub database_size: u64,
    /// Keys in it, as the integrity check counts them; none where it does not pass.
    pub keys: Option<u64>,
}

impl Observation for Snapshot {
    const SCHEMA: &'static str = "etcd-snapshot/1";
}

/// Takes a snapshot.
pub struct Save {
    with_key: bool,
}

/// Takes a snapshot with the documented command on the first control plane, looks at it, and removes it.
pub fn snapshot() -> Save {
    Save { with_key: true }
}

/// The same without the flag that names the key.
pub fn snapshot_without_key_flag() -> Save {
    Save { with_key: false }
}

impl Probe<Platform> for Save {
    type Seen = Snapshot;

    fn touches(&self) -> Touches {
        Touches::nothing().reads(Resource::Etcd)
    }

    async fn observe(&self, platform: &Platform, cx: &Cx) -> Result<Snapshot, ObserveError> {
        let node = first_control_plane(platform).map_err(ObserveError::no_ground)?;
        let text = async |text: &str| -> Result<String, ObserveError> {
            let out = script(platform, &node, text, COMMAND).await.map_err(ObserveError::no_ground)?;
            Ok(String::from_utf8_lossy(&out).trim().to_owned())
        };
        let had_folder = text(&format!("[ -d {FOLDER} ] && echo yes || true")).await? == "yes";
        let before = text(&format!("mkdir -p {FOLDER}; ls -A {FOLDER}")).await?;
        let path = text(&format!("echo {FOLDER}/etcd-$(date +%Y%m%d-%H%M%S).db")).await?;
        let remove = |path: &str| UndoStep::RemoveFile { node: node.clone(), path: path.to_owned() };
        cx.undo_afterwards(vec![remove(if had_folder { &path } else { FOLDER })])?;
        let key = if self.with_key { format!("--key={KEY}") } else { String::new() };
        let save = format!(
            "{}; ETCDCTL_API=3 exec \"$c\" snapshot save {path} --endpoints={ENDPOINT} --cacert={CA} --cert={CERT} {key}",
            etcd::FIND_CLIENT
        );
        let argv = ["/bin/sh", "-c", &save].map(str::to_owned);
        let save = run(platform, &node, &argv, COMMAND).await.map_err(ObserveError::no_ground)?;
        let after = text(&format!("ls -A {FOLDER}")).await?;
        let new_files =
            after.lines().filter(|name| !before.lines().any(|old| old == *name)).map(str::to_owned).collect();
        let size = text(&format!("stat -c %s {path} 2>/dev/null || true")).await?.parse().ok();
        let head = text(&format!("od -An -v -tu1 -j16 -N4 {path} 2>/dev/null || true")).await?;
        let head: Vec<u8> = head.split_whitespace().filter_map(|byte| byte.parse().ok()).collect();
        let check = format!(
            "u=$(command -v etcdutl) || u=/proc/$(pgrep -xo etcd)/root/usr/local/bin/etcdutl; \
             \"$u\" snapshot status {path} -w json 2>/dev/null || true"
        );
        let status: Value = serde_json::from_str(&text(&check).await?).unwrap_or_default();
        let member =
            etcd::ask(platform, &node, &["endpoint", "status", "-w", "json"]).await.map_err(ObserveError::no_ground)?;
        let database_size = understand_status(&member.stdout).map_err(ObserveError::no_ground)?.size;
        text(&if had_folder { format!("rm -f {path} {path}.part") } else { format!("rm -rf {FOLDER}") }).await?;
        let keys = status["totalKey"].as_u64();
        Ok(Snapshot { is_database: head == MAGIC, node, path, save, new_files, size, database_size, keys })
    }
}

/// The command ends with 0 and says where it saved; exactly that one file is new, is a database, passes the integrity
/// check and has the database's size but for the trailing checksum and what was written meanwhile (a tenth).
pub fn saved_whole() -> impl Expect<Snapshot> {
    expect_fn(|seen: &Snapshot| {
        let mut found = vec![];
        let mut fault = |bad: bool, code: &str, message: String| {
            if bad {
                found.push(Finding::new(code, &seen.node, message));
            }
        };
        fault(!seen.save.ok(), "save-failed", seen.save.brief());
        let said = format!("Snapshot saved at {}", seen.path);
        fault(!seen.save.stdout.contains(&said), "not-said", format!("it said: {}", seen.save.stdout));
        let name = seen.path.rsplit('/').next().unwrap_or_default();
        fault(seen.new_files != [name], "files", format!("new files: {:?}", seen.new_files));
        fault(!seen.is_database, "no-database", "it does not begin as a database does".to_owned());
        fault(seen.keys.unwrap_or_default() == 0, "damaged", "it does not pass the integrity check".to_owned());
        let (size, whole) = (seen.size.unwrap_or_default(), seen.database_size);
        fault(size.abs_diff(whole) > whole / 10 + 4096, "size", format!("{size} bytes, the database has {whole}"));
        Judgement::from_findings(found)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_defect_has_its_code() {
        let good = Snapshot {
            node: "cp-1".into(),
            path: "/backup/etcd-20260101-000000.db".into(),
            save: Ran {
                code: 0,
                stdout: "Snapshot saved at /backup/etcd-20260101-000000.db".into(),
                stderr: String::new(),
            },
            new_files: vec!["etcd-20260101-000000.db".into()],
            size: Some(10_000_032),
            is_database: true,
            database_size: 10_000_000,
            keys: Some(400),
        };
        assert_eq!(saved_whole().judge(&good), Judgement::Pass);
        type Break = fn(&mut Snapshot);
        let cases: &[(&str, Break)] = &[
            ("save-failed", |s| s.save.code = 1),
            ("not-said", |s| s.save.stdout.clear()),
            ("files", |s| s.new_files.push("etcd-20260101-000000.db.part".into())),
            ("no-database", |s| s.is_database = false),
            ("damaged", |s| s.keys = None),
            ("size", |s| s.size = Some(5_000_000)),
        ];
        for (code, breaks) in cases {
            let mut seen = good.clone();
            breaks(&mut seen);
            let Judgement::Fail(found) = saved_whole().judge(&seen) else { panic!("{code}") };
            assert_eq!(found[0].code, *code);
        }
    }
}
