//! The installed backup script, run once on folders and a bucket of its own with a history planted in them: what it
//! keeps, what it removes, and where it stops.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde::{Deserialize, Serialize};
use shakedown_core::{Finding, Judgement, Observation, Resource, Touches, UndoStep};
use shakedown_engine::{Cx, Expect, ObserveError, Probe, expect_fn};

use crate::backup::{STORE, component, places};
use crate::etcd_lab::told;
use crate::node_command::{Ran, script};
use crate::platform::Platform;

/// How long a node's command may take.
const COMMAND: Duration = Duration::from_secs(60);

/// A run of the script.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drill {
    /// How the script ended.
    pub ran: Ran,
    /// Days of age of planted local snapshots to whether they are still there.
    pub local: BTreeMap<i64, bool>,
    /// The old local file of another name is still there.
    pub foreign: bool,
    /// Days of age, by name, of planted objects to whether they are still there.
    pub remote: BTreeMap<i64, bool>,
    /// The object whose name has no date is still there.
    pub nameless: bool,
    /// Local files that are new.
    pub new_local: BTreeSet<String>,
    /// Objects that are new.
    pub new_remote: BTreeSet<String>,
    /// What the documented expression makes of `etcd-20240102-030405.db`.
    pub date: String,
}

impl Observation for Drill {
    const SCHEMA: &'static str = "etcd-backup-drill/1";
}

/// What is run, and on what.
#[derive(Debug, Clone, Default)]
pub struct Setup {
    local: Vec<i64>,
    remote: Vec<i64>,
    dated_by_object: bool,
    layout: Option<&'static str>,
    edit: Option<&'static str>,
    refusing: bool,
    lifecycle: Option<&'static str>,
}

/// The installed script, as it is.
pub fn drill() -> Setup {
    Setup::default()
}

impl Setup {
    /// Local snapshots of so many days are there before, and an old file of another name.
    #[must_use]
    pub fn local(mut self, days: &[i64]) -> Self {
        self.local = days.to_vec();
        self
    }

    /// Objects named for so many days ago are there before, uploaded today, and one whose name has no date.
    #[must_use]
    pub fn remote(mut self, days: &[i64]) -> Self {
        self.remote = days.to_vec();
        self
    }

    /// Their names carry the date in this layout of `date`.
    #[must_use]
    pub fn named(mut self, layout: &'static str) -> Self {
        self.layout = Some(layout);
        self
    }

    /// A copy of the script is run that was changed by this expression of `sed`.
    #[must_use]
    pub fn edited(mut self, edit: &'static str) -> Self {
        self.edit = Some(edit);
        self
    }

    /// The member's endpoint refuses connections.
    #[must_use]
    pub fn endpoint_refusing(mut self) -> Self {
        self.refusing = true;
        self
    }

    /// The script's own remote clean-up is off, the objects are as old as their names, and the bucket has a lifecycle
    /// policy of thirty days for this prefix.
    #[must_use]
    pub fn lifecycle(mut self, prefix: &'static str) -> Self {
        self.lifecycle = Some(prefix);
        self.dated_by_object = true;
        self
    }
}

struct Place {
    producer: String,
    store: String,
    folder: String,
    bucket: String,
}

impl Probe<Platform> for Setup {
    type Seen = Drill;

    fn touches(&self) -> Touches {
        Touches::nothing().reads(component()).reads(Resource::Etcd).reads(Resource::Nodes)
    }

    async fn observe(&self, platform: &Platform, cx: &Cx) -> Result<Drill, ObserveError> {
        let (producer, store) = places(platform).map_err(ObserveError::no_ground)?;
        let bucket = cx.name("drill");
        let place = Place { producer, store, folder: format!("/tmp/{bucket}"), bucket };
        let objects = format!("{STORE}/{}", place.bucket);
        let remove = |node: &str, path: String| UndoStep::RemoveFile { node: node.to_owned(), path };
        cx.undo_afterwards(vec![
            remove(&place.producer, place.folder.clone()),
            remove(&place.store, objects.clone()),
            remove(&place.store, format!("{objects}.lifecycle.json")),
        ])?;
        if self.dated_by_object {
            // Where objects expire by their own age it is set where they lie; the names are made by the same clock.
            self.plant_objects(platform, &place).await?;
        }
        let out = told(platform, &place.producer, &self.text(&place), cx.budget).await?;
        understand(&String::from_utf8_lossy(&out))
    }
}

impl Setup {
    fn layout(&self) -> &'static str {
        self.layout.unwrap_or("%Y%m%d-%H%M%S")
    }

    async fn plant_objects(&self, platform: &Platform, place: &Place) -> Result<(), ObserveError> {
        let folder = format!("{STORE}/{}/etcd", place.bucket);
        let mut text = format!("umask 077; mkdir -p {folder}; cd {folder}\n");
        for days in &self.remote {
            let _ = writeln!(
                text,
                "f=etcd-$(date -d '{days} days ago' +%Y%m%d)-000000.db; echo x >$f; touch -d '{days} days ago 1 hour ago' $f"
            );
        }
        script(platform, &place.store, &text, COMMAND).await.map(drop).map_err(ObserveError::no_ground)
    }

    /// Plants, runs, and tells what is there then.
    fn text(&self, place: &Place) -> String {
        let Place { folder, bucket, .. } = place;
        let mut text = format!(
            "set -u; umask 077; rm -rf {folder}; mkdir -p {folder}/local {folder}/up; cd {folder}\n\
             export BACKUP_DIR={folder}/local BUCKET=s3://{bucket}/etcd/\n\
             aws() {{ /usr/local/bin/aws \"$@\"; }}\n\
             : >planted; : >objects\n"
        );
        for days in &self.local {
            let _ = writeln!(
                text,
                "f=etcd-$(date -d '{days} days ago' +%Y%m%d)-000000.db; echo x >local/$f; \
                 touch -d '{days} days ago 1 hour ago' local/$f; echo \"$f {days}\" >>planted"
            );
        }
        text.push_str("echo x >local/notes.txt; touch -d '30 days ago' local/notes.txt\n");
        for days in &self.remote {
            let name = if self.dated_by_object {
                "etcd-$(date -d '@DAYS days ago' +%Y%m%d)-000000.db"
            } else {
                "etcd-$(date -d '@DAYS days ago' +@LAYOUT).db"
            };
            let name = name.replace("@DAYS", &days.to_string()).replace("@LAYOUT", self.layout());
            let _ = writeln!(text, "f={name}; echo \"$f {days}\" >>objects");
            if !self.dated_by_object {
                text.push_str("echo x >up/$f; aws s3 cp up/$f $BUCKET || exit 9\n");
            }
        }
        if !self.remote.is_empty() {
            text.push_str("echo x >up/readme.txt; aws s3 cp up/readme.txt $BUCKET || exit 9\n");
        }
        if let Some(prefix) = self.lifecycle {
            let _ = writeln!(
                text,
                "export CLEAN_REMOTE=no; aws s3api put-bucket-lifecycle-configuration --bucket {bucket} --lifecycle-configuration \
                 '{{\"Rules\": [{{\"ID\": \"old\", \"Status\": \"Enabled\", \"Filter\": {{\"Prefix\": \"{prefix}\"}}, \"Expiration\": {{\"Days\": 30}}}}]}}' || exit 9"
            );
        }
        if self.refusing {
            // Port 1: nobody listens there.
            text.push_str("export ENDPOINT=https://127.0.0.1:1 PATIENCE=3s\n");
        }
        let edit = self.edit.map(|edit| format!("-e '{edit}'")).unwrap_or_default();
        let _ = write!(
            text,
            r#"sed -e '' {edit} /usr/local/bin/etcd-backup.sh >script.sh || exit 9
out=$(bash script.sh 2>&1); code=$?
echo "ran $code $(printf %s "$out" | tail -c 2000 | base64 -w0)-"
while read -r f d; do [ -e local/$f ] && echo "local $d yes" || echo "local $d no"; done <planted
[ ! -e local/notes.txt ] || echo foreign
for f in local/etcd-*; do [ -e "$f" ] || continue; grep -q "^$(basename $f) " planted || echo "new-local $(basename $f)"; done
aws s3 ls $BUCKET | awk '{{print $4}}' >there || exit 9
while read -r f d; do grep -qx "$f" there && echo "remote $d yes" || echo "remote $d no"; done <objects
! grep -qx readme.txt there || echo nameless
while read -r f; do grep -q "^$f " objects || [ $f = readme.txt ] || echo "new-remote $f"; done <there
e=$(sed -n "s/.*sed '\(s[^']*\)').*/\1/p" script.sh); echo "date $(echo etcd-20240102-030405.db | sed "$e")"
cd /; rm -rf {folder}
"#,
            folder = place.folder
        );
        text
    }
}

fn understand(text: &str) -> Result<Drill, ObserveError> {
    let mut seen = Drill::default();
    let mut ran = false;
    let age = |days: &str| days.parse::<i64>().map_err(|e| ObserveError::harness(format!("days `{days}`: {e}")));
    for line in text.lines() {
        match line.split(' ').collect::<Vec<_>>().as_slice() {
            ["ran", code, said] => {
                let code = code.parse().map_err(|e| ObserveError::harness(format!("exit code: {e}")))?;
                let said = BASE64_STANDARD.decode(said.trim_end_matches('-')).map_err(ObserveError::harness)?;
                seen.ran = Ran { code, stdout: String::from_utf8_lossy(&said).into_owned(), stderr: String::new() };
                ran = true;
            }
            ["local", days, there] => drop(seen.local.insert(age(days)?, *there == "yes")),
            ["remote", days, there] => drop(seen.remote.insert(age(days)?, *there == "yes")),
            ["foreign"] => seen.foreign = true,
            ["nameless"] => seen.nameless = true,
            ["new-local", name] => drop(seen.new_local.insert((*name).to_owned())),
            ["new-remote", name] => drop(seen.new_remote.insert((*name).to_owned())),
            ["date", date] => seen.date = (*date).to_owned(),
            _ => {}
        }
    }
    if ran { Ok(seen) } else { Err(ObserveError::no_ground(format!("the backup script did not run: {text}"))) }
}

/// A snapshot that fails ends the script with an error, before anything is copied or deleted.
pub fn stops_at_the_failure() -> impl Expect<Drill> {
    expect_fn(|seen: &Drill| {
        let mut found = vec![];
        if seen.ran.ok() {
            found.push(Finding::new("carried-on", "etcd-backup.sh", "it ended with 0".to_owned()));
        }
        let gone: Vec<_> = seen.local.iter().filter(|(_, there)| !**there).map(|(days, _)| days).collect();
        if !gone.is_empty() {
            found.push(Finding::new("deleted", "etcd-backup.sh", format!("local snapshots of {gone:?} days are gone")));
        }
        if seen.new_remote.iter().any(|name| name.ends_with(".db")) {
            found.push(Finding::new("copied", "etcd-backup.sh", format!("new offsite: {:?}", seen.new_remote)));
        }
        Judgement::from_findings(found)
    })
}

/// The script ends with 0, makes one set here and offsite, and what it kept is judged.
fn where_it_ran(judge: impl Fn(&Drill, &mut Vec<Finding>) + Send + Sync + 'static) -> impl Expect<Drill> {
    expect_fn(move |seen: &Drill| {
        let mut found = vec![];
        if !seen.ran.ok() {
            found.push(Finding::new("failed", "etcd-backup.sh", seen.ran.brief()));
        }
        judge(seen, &mut found);
        Judgement::from_findings(found)
    })
}

fn kept(of: &BTreeMap<i64, bool>, longest: i64, found: &mut Vec<Finding>) {
    for (days, there) in of.iter().filter(|(days, there)| (**days <= longest) != **there) {
        let message = if *there { "is kept" } else { "is gone" };
        found.push(Finding::new("retention", format!("{days} days"), message.to_owned()));
    }
}

/// Local snapshots of more than seven whole days are gone, others and files of other names stay.
pub fn keeps_seven_days_here() -> impl Expect<Drill> {
    where_it_ran(|seen, found| {
        kept(&seen.local, 7, found);
        if !seen.foreign {
            found.push(Finding::new("foreign-deleted", "notes.txt", "it is gone".to_owned()));
        }
        if seen.new_local.len() != 2 || seen.new_local != seen.new_remote {
            let message = format!("here {:?}, offsite {:?}", seen.new_local, seen.new_remote);
            found.push(Finding::new("not-one-set", "etcd-backup.sh", message));
        }
    })
}

/// Objects named for more than thirty days ago are gone, others stay.
pub fn keeps_thirty_days_offsite() -> impl Expect<Drill> {
    where_it_ran(|seen, found| kept(&seen.remote, 30, found))
}

/// As [`keeps_thirty_days_offsite`], of objects that were all uploaded today: it is the name that counts; an object
/// whose name has no date stays, and the documented expression finds the date.
pub fn goes_by_the_name() -> impl Expect<Drill> {
    where_it_ran(|seen, found| {
        kept(&seen.remote, 30, found);
        if !seen.nameless {
            found.push(Finding::new("nameless-deleted", "readme.txt", "it is gone".to_owned()));
        }
        if seen.date != "2024-01-02" {
            found.push(Finding::new("other-date", "etcd-20240102-030405.db", seen.date.clone()));
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::codes;

    fn good() -> Drill {
        understand(
            "ran 0 -\nlocal 6 yes\nlocal 7 yes\nlocal 8 no\nforeign\nnew-local etcd-1.db\nnew-local etcd-1.encryption-config.yaml\n\
             remote 30 yes\nremote 31 no\nnameless\nnew-remote etcd-1.db\nnew-remote etcd-1.encryption-config.yaml\ndate 2024-01-02\n",
        )
        .unwrap()
    }

    #[test]
    fn each_defect_has_its_code() {
        assert_eq!(codes(keeps_seven_days_here().judge(&good())), Vec::<String>::new());
        assert_eq!(codes(keeps_thirty_days_offsite().judge(&good())), Vec::<String>::new());
        assert_eq!(codes(goes_by_the_name().judge(&good())), Vec::<String>::new());
        let mut seen = good();
        seen.local.insert(8, true);
        seen.local.insert(6, false);
        seen.foreign = false;
        seen.new_remote.clear();
        assert_eq!(
            codes(keeps_seven_days_here().judge(&seen)),
            ["retention", "retention", "foreign-deleted", "not-one-set"]
        );
        let mut seen = good();
        seen.remote.insert(31, true);
        seen.nameless = false;
        seen.date = "2-0-1".into();
        seen.ran.code = 1;
        assert_eq!(codes(goes_by_the_name().judge(&seen)), ["failed", "retention", "nameless-deleted", "other-date"]);
        assert!(understand("sh: not found").is_err());
    }

    #[test]
    fn a_script_that_carries_on_is_found() {
        let mut seen = Drill { ran: Ran { code: 1, ..Ran::default() }, ..Drill::default() };
        seen.local.insert(9, true);
        assert_eq!(codes(stops_at_the_failure().judge(&seen)), Vec::<String>::new());
        seen.local.insert(9, false);
        seen.ran.code = 0;
        seen.new_remote.insert("etcd-1.db".into());
        assert_eq!(codes(stops_at_the_failure().judge(&seen)), ["carried-on", "deleted", "copied"]);
    }
}
