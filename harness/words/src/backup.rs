//! The backups of etcd as they lie on the control plane that makes them, and their copies offsite.

use std::collections::BTreeMap;
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde::{Deserialize, Serialize};
use shakedown_core::{Finding, Judgement, Observation, Resource, Touches};
use shakedown_engine::{Cx, Expect, ObserveError, Probe, expect_fn};
use shakedown_stack::names::{BACKUP_SCHEDULE, BACKUP_SCRIPT};

use crate::node_command::{Which, script};
use crate::platform::Platform;

/// The schedule (ETCD-014).
pub const CRONTAB: &str = "/etc/cron.d/etcd-backup";
/// Where the sets lie (ETCD-010).
pub const FOLDER: &str = "/backup";
/// Where the stand-in for an object store keeps its buckets.
pub const STORE: &str = "/srv/offsite/data";
/// The documented prefix in it (ETCD-016).
pub const PREFIX: &str = "my-backups/etcd";
/// Beside a snapshot, in place of its `.db`.
const CONFIG: &str = ".encryption-config.yaml";
/// Seconds between two backups (ETCD-021).
const INTERVAL: i64 = 6 * 3600;
/// Seconds that one run, and a clock that is set, may add.
const ROUNDING: i64 = 900;
/// Seconds of a day.
const DAY: i64 = 86_400;
/// How long looking at all sets may take.
const COMMAND: Duration = Duration::from_secs(60);

/// What all words about the backup read or write.
pub fn component() -> Resource {
    Resource::Component("etcd-backup".to_owned())
}

/// The control plane that backs up, and the one that stands in for offsite.
///
/// # Errors
/// There is no control plane.
pub fn places(platform: &Platform) -> Result<(String, String), String> {
    let names = Which::ControlPlanes.on(platform);
    match (names.first(), names.last()) {
        (Some(producer), Some(store)) => Ok((producer.clone(), store.clone())),
        _ => Err("there is no control plane that could be backed up".to_owned()),
    }
}

/// One set: a snapshot and what lies beside it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Set {
    /// When it was made, by its name: seconds since the epoch; none where the name has no date.
    pub made: Option<i64>,
    /// Size of the snapshot, bytes.
    pub size: u64,
    /// Hash of the snapshot file.
    pub sha256: String,
    /// The hash at its end is that of what is before it.
    pub whole: bool,
    /// Keys in it; none where it cannot be opened.
    pub keys: Option<u64>,
    /// Hash of the encryption configuration beside it.
    pub config: Option<String>,
}

/// All backups, here and offsite.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Backups {
    /// The control plane that makes them.
    pub producer: String,
    /// The node that stands in for offsite.
    pub store: String,
    /// Its clock, seconds since the epoch.
    pub now: i64,
    /// Hash of the encryption configuration in use.
    pub config: Option<String>,
    /// Text of the system crontab; none where there is none.
    pub crontab: Option<String>,
    /// What the running cron daemon has loaded; none where none runs.
    pub daemon: Option<String>,
    /// The script that the crontab names can be executed.
    pub executable: bool,
    /// Name of the snapshot file to its set.
    pub sets: BTreeMap<String, Set>,
    /// Name of the object to its hash.
    pub offsite: BTreeMap<String, String>,
}

impl Observation for Backups {
    const SCHEMA: &'static str = "etcd-backups/1";
}

/// Looks.
pub struct Look;

/// The schedule, every set and every copy, as found.
pub fn backups() -> Look {
    Look
}

/// Prints the facts, a line each.
const FACTS: &str = r#"
cd /backup 2>/dev/null || cd /
eu=$(command -v etcdutl) || eu=/proc/$(pgrep -xo etcd)/root/usr/local/bin/etcdutl
sum() { [ ! -e "$1" ] || sha256sum <"$1" | cut -c -64; }
echo "now $(date +%s)"
echo "config $(sum /etc/kubernetes/encryption-config.yaml)"
[ ! -e /etc/cron.d/etcd-backup ] || echo "crontab $(base64 -w0 </etc/cron.d/etcd-backup)"
if pgrep -xf 'busybox crond .*' >/dev/null; then echo "daemon $(base64 -w0 </run/cron/root)"
elif pgrep -x 'cron|crond' >/dev/null; then echo "daemon $(base64 -w0 </etc/cron.d/etcd-backup)"; fi
[ ! -x /usr/local/bin/etcd-backup.sh ] || echo executable
for f in etcd-*.db; do
  [ -e "$f" ] || continue
  stamp=$(echo "$f" | sed -n 's/^etcd-\(....\)\(..\)\(..\)-\(..\)\(..\)\(..\)\.db$/\1-\2-\3 \4:\5:\6/p')
  made=-; [ -z "$stamp" ] || made=$(date -d "$stamp" +%s)
  body=$(head -c -32 "$f" | sha256sum | cut -c -64)
  tail=$(tail -c 32 "$f" | od -An -v -tx1 | tr -d ' \n')
  keys=$("$eu" snapshot status "$f" -w json 2>/dev/null | sed -n 's/.*"totalKey":\([0-9]*\).*/\1/p')
  echo "set $f $made $(stat -c %s "$f") $(sum "$f") $([ "$body" = "$tail" ] && echo yes || echo no) ${keys:--} $(sum "${f%.db}.encryption-config.yaml")-"
done
"#;

impl Probe<Platform> for Look {
    type Seen = Backups;

    fn touches(&self) -> Touches {
        Touches::nothing().reads(component()).reads(Resource::Nodes)
    }

    async fn observe(&self, platform: &Platform, _cx: &Cx) -> Result<Backups, ObserveError> {
        let (producer, store) = places(platform).map_err(ObserveError::no_ground)?;
        let copies = format!("cd {STORE}/{PREFIX} 2>/dev/null && sha256sum etcd-* 2>/dev/null || true");
        let (facts, copies) =
            futures::join!(script(platform, &producer, FACTS, COMMAND), script(platform, &store, &copies, COMMAND),);
        let (facts, copies) = (facts.map_err(ObserveError::no_ground)?, copies.map_err(ObserveError::no_ground)?);
        let mut seen = understand(&String::from_utf8_lossy(&facts)).map_err(ObserveError::harness)?;
        seen.offsite = String::from_utf8_lossy(&copies)
            .lines()
            .filter_map(|line| line.split_once("  ").map(|(sum, name)| (name.to_owned(), sum.to_owned())))
            .collect();
        (seen.producer, seen.store) = (producer, store);
        Ok(seen)
    }
}

fn understand(text: &str) -> Result<Backups, String> {
    let decode = |word: &str| {
        let bytes = BASE64_STANDARD.decode(word).map_err(|e| format!("a fact of the backups: {e}"))?;
        Ok::<_, String>(String::from_utf8_lossy(&bytes).into_owned())
    };
    let some = |word: &str| Some(word.trim_end_matches('-').to_owned()).filter(|word| !word.is_empty());
    let mut seen = Backups::default();
    for line in text.lines() {
        match line.split(' ').collect::<Vec<_>>().as_slice() {
            ["now", now] => seen.now = now.parse().map_err(|e| format!("the node's clock: {e}"))?,
            ["config", sum] => seen.config = some(sum),
            ["crontab", text] => seen.crontab = Some(decode(text)?),
            ["daemon", text] => seen.daemon = Some(decode(text)?),
            ["executable"] => seen.executable = true,
            ["set", name, made, size, sha256, whole, keys, config] => {
                let set = Set {
                    made: made.parse().ok(),
                    size: size.parse().map_err(|e| format!("size of {name}: {e}"))?,
                    sha256: (*sha256).to_owned(),
                    whole: *whole == "yes",
                    keys: keys.parse().ok(),
                    config: some(config),
                };
                seen.sets.insert((*name).to_owned(), set);
            }
            _ => {}
        }
    }
    if seen.now == 0 { Err(format!("no facts of the backups: {text}")) } else { Ok(seen) }
}

/// Judges where there is a backup at all.
fn where_there_is_one(judge: impl Fn(&Backups, &mut Vec<Finding>) + Send + Sync + 'static) -> impl Expect<Backups> {
    expect_fn(move |seen: &Backups| {
        if seen.sets.is_empty() {
            return Judgement::fail("no-backup", &seen.producer, format!("no etcd-*.db in {FOLDER}"));
        }
        let mut found = vec![];
        judge(seen, &mut found);
        Judgement::from_findings(found)
    })
}

/// Every snapshot ends in the hash of what is before it, and can be opened.
pub fn whole() -> impl Expect<Backups> {
    where_there_is_one(|seen, found| {
        for (name, set) in &seen.sets {
            if !set.whole || set.keys.unwrap_or_default() == 0 {
                let message = format!("{} bytes; hash fits: {}, keys: {:?}", set.size, set.whole, set.keys);
                found.push(Finding::new("damaged", name, message));
            }
        }
    })
}

/// The newest backup is at most an interval old, no gap is longer, and none is older than is kept, here or offsite.
pub fn on_schedule() -> impl Expect<Backups> {
    where_there_is_one(|seen, found| {
        let mut made: Vec<i64> = seen.sets.values().filter_map(|set| set.made).collect();
        made.sort_unstable();
        let hours = |seconds: i64| format!("{:.1} h", seconds as f64 / 3600.0);
        match made.last() {
            Some(newest) if seen.now - newest <= INTERVAL + ROUNDING => {}
            Some(newest) => {
                let message = format!("the newest backup is {} old", hours(seen.now - newest));
                found.push(Finding::new("stale", &seen.producer, message));
            }
            None => {
                found.push(Finding::new("no-backup", &seen.producer, "no backup has a date in its name".to_owned()))
            }
        }
        for pair in made.windows(2).filter(|pair| pair[1] - pair[0] > INTERVAL + ROUNDING) {
            found.push(Finding::new("gap", &seen.producer, format!("nothing for {}", hours(pair[1] - pair[0]))));
        }
        // Whole days are counted, so each limit has a day of rounding.
        let too_old = made.iter().filter(|made| seen.now - **made > 9 * DAY);
        found.extend(too_old.map(|made| {
            Finding::new("kept-too-long", &seen.producer, format!("one is {} old", hours(seen.now - made)))
        }));
    })
}

/// Beside every snapshot lies an encryption configuration; beside the newest the one that is in use.
pub fn config_beside_each() -> impl Expect<Backups> {
    where_there_is_one(|seen, found| {
        for (name, _) in seen.sets.iter().filter(|(_, set)| set.config.is_none()) {
            found.push(Finding::new("config-missing", name, "nothing can decrypt its Secrets".to_owned()));
        }
        if let Some((name, set)) = seen.sets.last_key_value()
            && set.config.is_some()
            && set.config != seen.config
        {
            found.push(Finding::new("config-differs", name, "another one is in use since".to_owned()));
        }
    })
}

/// Every file of every set is offsite too, byte for byte; and offsite is another node.
pub fn offsite_equal() -> impl Expect<Backups> {
    where_there_is_one(|seen, found| {
        if seen.store == seen.producer {
            found.push(Finding::new(
                "not-offsite",
                &seen.store,
                "the copies lie on the node that made them".to_owned(),
            ));
        }
        for (name, set) in &seen.sets {
            let config = name.replace(".db", CONFIG);
            let files = [(name, Some(&set.sha256)), (&config, set.config.as_ref())];
            for (file, here) in files.into_iter().filter_map(|(file, here)| Some((file, here?))) {
                match seen.offsite.get(file) {
                    None => found.push(Finding::new("offsite-missing", file, "it was never copied".to_owned())),
                    Some(there) if there != here => {
                        found.push(Finding::new("offsite-differs", file, "its hash is another one offsite".to_owned()));
                    }
                    Some(_) => {}
                }
            }
        }
    })
}

/// The system crontab has the documented line, with its user; a daemon runs and has it loaded; the script can be run.
pub fn scheduled() -> impl Expect<Backups> {
    expect_fn(|seen: &Backups| {
        let mut found = vec![];
        let mut fault = |bad: bool, code: &str, message: String| {
            if bad {
                found.push(Finding::new(code, &seen.producer, message));
            }
        };
        let text = seen.crontab.clone().unwrap_or_default();
        let line = text.lines().find(|line| !line.trim().is_empty() && !line.starts_with('#')).unwrap_or_default();
        let fields: Vec<&str> = line.split_whitespace().collect();
        match fields.as_slice() {
            [] => fault(true, "no-schedule", format!("{CRONTAB} has no line")),
            [minute, hour, day, month, weekday, user, command @ ..] => {
                let times = [*minute, *hour, *day, *month, *weekday];
                fault(
                    times.join(" ") != BACKUP_SCHEDULE,
                    "other-times",
                    format!("{} for {BACKUP_SCHEDULE}", times.join(" ")),
                );
                fault(*user != "root", "user-missing", format!("it would be run as user `{user}`"));
                fault(*user == "root" && command != [BACKUP_SCRIPT], "other-command", line.to_owned());
            }
            _ => fault(true, "no-schedule", format!("`{line}` is no line of a system crontab")),
        }
        fault(!seen.executable, "script-missing", format!("{BACKUP_SCRIPT} cannot be executed"));
        match &seen.daemon {
            None => fault(true, "no-daemon", "no cron daemon runs".to_owned()),
            Some(loaded) => fault(!loaded.contains(BACKUP_SCRIPT), "not-loaded", format!("cron has loaded: {loaded}")),
        }
        Judgement::from_findings(found)
    })
}

/// The hours of a day at which a line of a crontab fires in its minute zero.
#[cfg(test)]
fn hours(field: &str) -> Vec<u32> {
    let step = field.strip_prefix("*/").and_then(|step| step.parse().ok()).unwrap_or(1);
    (0..24).step_by(step).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::codes;

    fn good() -> Backups {
        let text = format!(
            "now 1767247200\nconfig aa\ncrontab {}\ndaemon {}\nexecutable\n\
             set etcd-20260101-000000.db 1767225600 10 s1 yes 4 aa-\nset etcd-20260101-060000.db 1767247200 10 s2 yes 4 aa-\n",
            BASE64_STANDARD.encode("0 */6 * * * root /usr/local/bin/etcd-backup.sh\n"),
            BASE64_STANDARD.encode("0 */6 * * *  /usr/local/bin/etcd-backup.sh\n"),
        );
        let mut seen = understand(&text).unwrap();
        (seen.producer, seen.store) = ("cp-1".into(), "cp-3".into());
        for (name, sum) in [("etcd-20260101-000000", "s1"), ("etcd-20260101-060000", "s2")] {
            seen.offsite.insert(format!("{name}.db"), sum.into());
            seen.offsite.insert(format!("{name}{CONFIG}"), "aa".into());
        }
        seen
    }

    #[test]
    fn each_defect_has_its_code() {
        type Break = fn(&mut Backups);
        type Judge = fn(&Backups) -> Judgement;
        let judges: [Judge; 5] = [
            |s| whole().judge(s),
            |s| on_schedule().judge(s),
            |s| config_beside_each().judge(s),
            |s| offsite_equal().judge(s),
            |s| scheduled().judge(s),
        ];
        for judge in judges {
            assert_eq!(judge(&good()), Judgement::Pass);
        }
        let newest = "etcd-20260101-060000.db";
        let cases: &[(usize, &str, Break)] = &[
            (0, "damaged", |s| s.sets.values_mut().for_each(|set| set.whole = set.sha256 != "s2")),
            (0, "damaged", |s| s.sets.values_mut().for_each(|set| set.keys = None)),
            (0, "no-backup", |s| s.sets.clear()),
            (1, "stale", |s| s.now += INTERVAL + ROUNDING + 1),
            (1, "gap", |s| {
                s.sets.values_mut().for_each(|set| {
                    if set.sha256 == "s1" {
                        set.made = Some(1_767_220_000)
                    }
                })
            }),
            (2, "config-missing", |s| s.sets.values_mut().for_each(|set| set.config = None)),
            (2, "config-differs", |s| s.config = Some("bb".into())),
            (3, "offsite-missing", |s| drop(s.offsite.pop_first())),
            (3, "offsite-differs", |s| drop(s.offsite.insert("etcd-20260101-060000.db".into(), "s9".into()))),
            (3, "not-offsite", |s| s.store = "cp-1".into()),
            (4, "no-schedule", |s| s.crontab = None),
            (4, "user-missing", |s| s.crontab = Some(format!("0 */6 * * * {BACKUP_SCRIPT}"))),
            (4, "other-times", |s| s.crontab = Some(format!("0 */12 * * * root {BACKUP_SCRIPT}"))),
            (4, "other-command", |s| s.crontab = Some("0 */6 * * * root /bin/true".into())),
            (4, "script-missing", |s| s.executable = false),
            (4, "no-daemon", |s| s.daemon = None),
            (4, "not-loaded", |s| s.daemon = Some(String::new())),
        ];
        assert!(good().sets.contains_key(newest));
        for (judge, code, breaks) in cases {
            let mut seen = good();
            breaks(&mut seen);
            let found = codes(judges[*judge](&seen));
            assert!(found.contains(&(*code).to_owned()), "{code}: {found:?}");
        }
    }

    #[test]
    fn the_schedule_fires_four_times_a_day() {
        assert_eq!(hours(BACKUP_SCHEDULE.split(' ').nth(1).unwrap()), [0, 6, 12, 18]);
    }
}
