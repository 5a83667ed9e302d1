//! A backup proven restorable: a set is made by the installed script, restored into a scratch member, and an apiserver of
//! its own shows what is in it. The cluster goes on meanwhile; what is written to it after the snapshot must not be there.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use shakedown_core::{Finding, Judgement, Observation, Resource, Touches, UndoStep};
use shakedown_engine::{Cx, Expect, ObserveError, Probe, expect_fn};

use crate::backup::{STORE, component, places};
use crate::etcd_lab::{Lab, end_of, lab_script, told, understand};
use crate::node_command::script;
use crate::objects::ObjectRef;
use crate::platform::Platform;

/// Kinds that are compared: version, kind, path of its list.
const KINDS: [(&str, &str, &str); 7] = [
    ("v1", "Node", "/api/v1/nodes"),
    ("v1", "Namespace", "/api/v1/namespaces"),
    ("v1", "Pod", "/api/v1/pods"),
    ("v1", "Service", "/api/v1/services"),
    ("v1", "ConfigMap", "/api/v1/configmaps"),
    ("v1", "Secret", "/api/v1/secrets"),
    ("apps/v1", "Deployment", "/apis/apps/v1/deployments"),
];
/// Namespace of the objects that are made for the purpose.
const NAMESPACE: &str = "default";
/// How long the programs may take to be ended.
const END: Duration = Duration::from_secs(30);
/// Value of the marker when the snapshot is taken.
const AT_SNAPSHOT: &str = "at-the-snapshot";

/// A restored platform.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Restored {
    /// What the steps came to: `backup`, `restore-m0`, `up-m0`, `api`, and reading `marker`, `later`, `secret`.
    pub lab: Lab,
    /// Kind to uids of what was there all the time that the snapshot took.
    pub expected: BTreeMap<String, BTreeSet<String>>,
    /// Kind to uids of what the restored platform lists.
    pub listed: BTreeMap<String, BTreeSet<String>>,
}

impl Observation for Restored {
    const SCHEMA: &'static str = "etcd-restored/1";
}

/// How it is done.
#[derive(Debug, Clone, Copy)]
pub struct Restore {
    with_config: bool,
    snapshot_first: bool,
}

/// The snapshot is taken once the marker is written, and the set is restored as a whole.
pub fn restored() -> Restore {
    Restore { with_config: true, snapshot_first: false }
}

impl Restore {
    /// The encryption configuration of the set is left out.
    #[must_use]
    pub fn without_config(mut self) -> Self {
        self.with_config = false;
        self
    }

    /// The snapshot is taken before the marker is written.
    #[must_use]
    pub fn from_an_earlier_snapshot(mut self) -> Self {
        self.snapshot_first = true;
        self
    }
}

struct Made {
    marker: ObjectRef,
    secret: ObjectRef,
    later: ObjectRef,
}

impl Made {
    fn named(cx: &Cx) -> Self {
        let of = |kind: &str, stem: &str| ObjectRef::namespaced("v1", kind, NAMESPACE, &cx.name(stem));
        Self {
            marker: of("ConfigMap", "restore-marker"),
            secret: of("Secret", "restore-secret"),
            later: of("ConfigMap", "restore-later"),
        }
    }

    fn undo(&self) -> Vec<UndoStep> {
        [&self.marker, &self.secret, &self.later].map(ObjectRef::deletion).to_vec()
    }
}

async fn create(platform: &Platform, object: &ObjectRef, value: &str) -> Result<(), ObserveError> {
    let field = if object.kind == "Secret" { "stringData" } else { "data" };
    let manifest = json!({
        "apiVersion": object.api_version, "kind": object.kind,
        "metadata": {"name": object.name, "namespace": NAMESPACE}, field: {"value": value},
    });
    let answer = platform.create(&manifest).await.map_err(ObserveError::no_ground)?;
    if answer.is_ok() { Ok(()) } else { Err(ObserveError::no_ground(answer.message())) }
}

async fn uids(platform: &Platform) -> Result<BTreeMap<String, BTreeSet<String>>, ObserveError> {
    let mut all = BTreeMap::new();
    for (version, kind, _) in KINDS {
        let list = platform.list(version, kind, None, None).await.map_err(ObserveError::no_ground)?;
        all.insert(kind.to_owned(), list.iter().filter_map(uid).collect());
    }
    Ok(all)
}

fn uid(object: &Value) -> Option<String> {
    Some(format!("{} {}", object["metadata"]["name"].as_str()?, object["metadata"]["uid"].as_str()?))
}

impl Probe<Platform> for Restore {
    type Seen = Restored;

    fn touches(&self) -> Touches {
        Touches::nothing()
            .reads(component())
            .reads(Resource::Etcd)
            .reads(Resource::Nodes)
            .reads(Resource::Apiserver)
            .writes(Resource::Namespace(NAMESPACE.to_owned()))
    }

    async fn observe(&self, platform: &Platform, cx: &Cx) -> Result<Restored, ObserveError> {
        let (producer, store) = places(platform).map_err(ObserveError::no_ground)?;
        let made = Made::named(cx);
        let bucket = cx.name("restore");
        let folder = format!("/tmp/{bucket}");
        let set = format!("{folder}-set");
        let end = format!("{}; rm -rf {set}", end_of(&folder));
        let argv = ["/bin/sh", "-c", &end].map(str::to_owned).to_vec();
        let mut undo = made.undo();
        undo.push(UndoStep::RunOnNode { node: producer.clone(), argv, tolerate_failure: false });
        undo.push(UndoStep::RemoveFile { node: store, path: format!("{STORE}/{bucket}") });
        cx.undo_afterwards(undo)?;

        let backup = format!(
            "rm -rf {set}; BACKUP_DIR={set} BUCKET=s3://{bucket}/etcd/ /usr/local/bin/etcd-backup.sh >/dev/null 2>&1; cd {set}"
        );
        let run = || script(platform, &producer, &backup, cx.budget);
        if self.snapshot_first {
            run().await.map_err(ObserveError::no_ground)?;
        }
        create(platform, &made.marker, AT_SNAPSHOT).await?;
        create(platform, &made.secret, AT_SNAPSHOT).await?;
        let mut expected = uids(platform).await?;
        if !self.snapshot_first {
            run().await.map_err(ObserveError::no_ground)?;
        }
        let since = uids(platform).await?;
        for (kind, names) in &mut expected {
            names.retain(|name| since.get(kind).is_some_and(|since| since.contains(name)));
        }
        let patch = json!({"data": {"value": "since-then"}});
        platform.patch(&made.marker, crate::api::Patch::Merge, &patch).await.map_err(ObserveError::no_ground)?;
        create(platform, &made.later, "since-then").await?;

        let number = cx.seed.derive(&format!("{}/{}/restored", cx.check, cx.phase)).0;
        let text = lab_script(&folder, 20_000 + (number % 900) as u16 * 8, 1, &self.steps(&set, &made));
        let out = told(platform, &producer, &text, cx.budget).await;
        script(platform, &producer, &end, END).await.map_err(ObserveError::harness)?;
        let lab = understand(&String::from_utf8_lossy(&out?))?;
        let listed = KINDS.iter().map(|(_, kind, _)| ((*kind).to_owned(), names_in(&lab, kind))).collect();
        let mut seen = Restored { lab, expected, listed };
        // The lists have been taken in; whole they are of no use as evidence.
        seen.lab.said.retain(|step, _| !step.starts_with("list-"));
        Ok(seen)
    }
}

impl Restore {
    fn steps(&self, set: &str, made: &Made) -> String {
        let config = if self.with_config { "--encryption-provider-config=config.yaml" } else { "" };
        let mut text = format!(
            "s=$(ls {set}/etcd-*.db | head -n 1); cp \"${{s%.db}}.encryption-config.yaml\" config.yaml\n\
             say restore-m0 \"$eu\" snapshot restore \"$s\" --data-dir d0 --name m0 --initial-cluster $cluster \
             --initial-cluster-token lab --initial-advertise-peer-urls $(peer 0)\n\
             start 0; say up-m0 comes 0; api_start {config}; say api api_comes\n"
        );
        let path =
            |object: &ObjectRef, plural: &str| format!("/api/v1/namespaces/{NAMESPACE}/{plural}/{}", object.name);
        for (name, path) in [
            ("marker", path(&made.marker, "configmaps")),
            ("later", path(&made.later, "configmaps")),
            ("secret", path(&made.secret, "secrets")),
        ] {
            // The status code, and whether the value is the one that was there at the snapshot.
            let encoded = if name == "secret" { BASE64_STANDARD.encode(AT_SNAPSHOT) } else { AT_SNAPSHOT.to_owned() };
            let _ = writeln!(
                text,
                "code=$(api {path} -o body -w '%{{http_code}}'); say {name} echo \"$code $(grep -q '\"value\": *\"{encoded}\"' body && echo same || echo other)\""
            );
        }
        for (_, kind, path) in KINDS {
            // Names and uids alone: nothing of a Secret's content leaves the node.
            let _ = writeln!(
                text,
                "api '{path}' -H 'Accept: application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1' >list; \
                 printf '= list-{kind} 0 %s\\n' \"$(awk -F'\"' '$2 == \"name\" && !n {{ n = $4 }} $2 == \"uid\" && n {{ print n, $4; n = \"\" }} /^    }},?$/ {{ n = \"\" }}' list | base64 -w0)\""
            );
        }
        text.push_str("api_end\n");
        text
    }
}

fn names_in(lab: &Lab, kind: &str) -> BTreeSet<String> {
    lab.of(&format!("list-{kind}")).map(|ran| ran.stdout.lines().map(str::to_owned).collect()).unwrap_or_default()
}

/// Judges where the restored apiserver lives.
fn where_it_lives(judge: impl Fn(&Restored, &mut Vec<Finding>) + Send + Sync + 'static) -> impl Expect<Restored> {
    expect_fn(move |seen: &Restored| {
        let mut found = vec![];
        for step in ["restore-m0", "up-m0", "api"] {
            if !seen.lab.ok(step) {
                let why = seen.lab.of(step).map_or_else(|| "it was not done".to_owned(), |ran| ran.brief());
                return Judgement::fail("not-restored", step, why);
            }
        }
        judge(seen, &mut found);
        Judgement::from_findings(found)
    })
}

fn said<'a>(seen: &'a Restored, step: &str) -> &'a str {
    seen.lab.of(step).map_or("", |ran| ran.stdout.as_str())
}

/// Everything that was there at the snapshot is, the marker has its value of then, the Secret can be read, and what was
/// made since is not there.
pub fn as_at_the_snapshot() -> impl Expect<Restored> {
    where_it_lives(|seen, found| {
        for (kind, expected) in &seen.expected {
            let listed = seen.listed.get(kind).cloned().unwrap_or_default();
            let missing: Vec<_> = expected.difference(&listed).cloned().collect();
            if !missing.is_empty() {
                found.push(Finding::new("missing", kind, missing.join(", ")));
            }
        }
        if seen.expected.get("Node").is_none_or(BTreeSet::is_empty)
            || seen.expected.get("Pod").is_none_or(BTreeSet::is_empty)
        {
            found.push(Finding::new("nothing-compared", "nodes and pods", "the cluster listed none".to_owned()));
        }
        if said(seen, "marker") != "200 same" {
            found.push(Finding::new("other-state", "marker", said(seen, "marker").to_owned()));
        }
        if said(seen, "secret") != "200 same" {
            found.push(Finding::new("secret-unreadable", "Secret", said(seen, "secret").to_owned()));
        }
        if !said(seen, "later").starts_with("404 ") {
            found.push(Finding::new("survived", "made since", said(seen, "later").to_owned()));
        }
    })
}

/// Reading a Secret is an error, while objects of other kinds can be read.
pub fn secrets_unreadable() -> impl Expect<Restored> {
    where_it_lives(|seen, found| {
        if !said(seen, "secret").starts_with("500 ") {
            found.push(Finding::new("secret-readable", "Secret", said(seen, "secret").to_owned()));
        }
        if said(seen, "marker") != "200 same" {
            found.push(Finding::new("other-state", "marker", said(seen, "marker").to_owned()));
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node_command::Ran;
    use crate::testing::codes;

    fn good() -> Restored {
        let mut seen = Restored::default();
        for (step, text) in [
            ("restore-m0", ""),
            ("up-m0", ""),
            ("api", ""),
            ("marker", "200 same"),
            ("secret", "200 same"),
            ("later", "404 other"),
        ] {
            seen.lab.said.insert(step.into(), Ran { code: 0, stdout: text.into(), stderr: String::new() });
        }
        for kind in ["Node", "Pod"] {
            let names = BTreeSet::from(["a u1".to_owned(), "b u2".to_owned()]);
            seen.expected.insert(kind.into(), names.clone());
            seen.listed.insert(kind.into(), names);
        }
        seen
    }

    fn says(step: &str, text: &str) -> Restored {
        let mut seen = good();
        seen.lab.said.get_mut(step).unwrap().stdout = text.into();
        seen
    }

    #[test]
    fn each_defect_has_its_code() {
        let judge = |seen: &Restored| codes(as_at_the_snapshot().judge(seen));
        assert_eq!(judge(&good()), Vec::<String>::new());
        assert_eq!(judge(&says("marker", "404 other")), ["other-state"]);
        assert_eq!(judge(&says("secret", "500 other")), ["secret-unreadable"]);
        assert_eq!(judge(&says("later", "200 other")), ["survived"]);
        let mut seen = good();
        seen.listed.insert("Pod".into(), BTreeSet::new());
        assert_eq!(judge(&seen), ["missing"]);
        seen.expected.clear();
        assert_eq!(judge(&seen), ["nothing-compared"]);
        seen.lab.said.get_mut("up-m0").unwrap().code = 3;
        assert_eq!(judge(&seen), ["not-restored"]);
        assert_eq!(codes(secrets_unreadable().judge(&good())), ["secret-readable"]);
        assert_eq!(codes(secrets_unreadable().judge(&says("secret", "500 other"))), Vec::<String>::new());
    }
}
