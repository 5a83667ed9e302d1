//! What a change of a Helm release's values does to a DaemonSet: to its template, its generation and its Pods.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use shakedown_core::{Answer, Finding, Judgement, Observation, Resource, Touches, UndoStep};
use shakedown_engine::{Cx, Expect, ObserveError, Probe};
use tokio::process::Command;

use crate::manifest::documents;
use crate::objects::ObjectRef;
use crate::platform::Platform;
use crate::undo::as_found;

/// How long a roll-out that is not to come is watched for: the DaemonSet's controller begins one within a second.
const HOLD: Duration = Duration::from_secs(5);
/// How long helm may take.
const HELM_BUDGET: Duration = Duration::from_secs(60);

/// The helm program with what it needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Helm {
    /// The program.
    pub program: PathBuf,
    /// The Cilium chart's directory.
    pub cilium_chart: PathBuf,
    /// An administrator's kubeconfig.
    pub kubeconfig: PathBuf,
}

impl Helm {
    /// Runs it; its standard output.
    async fn run(&self, cx: &Cx, arguments: &[&str]) -> Result<String, ObserveError> {
        let mut command = Command::new(&self.program);
        // helm keeps caches and settings in its home.
        command.args(arguments).env_clear().env("HOME", &cx.scratch).env("KUBECONFIG", &self.kubeconfig);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        let ran = async { command.spawn()?.wait_with_output().await };
        let verb = arguments.first().copied().unwrap_or_default();
        let output = tokio::time::timeout(HELM_BUDGET, ran)
            .await
            .map_err(|_| ObserveError::no_ground(format!("helm {verb} still ran after {HELM_BUDGET:?}")))?
            .map_err(|e| ObserveError::harness(format!("{}: {e}", self.program.display())))?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        Err(ObserveError::no_ground(format!("helm {verb}: {}", String::from_utf8_lossy(&output.stderr).trim())))
    }
}

/// What was seen of a change of values.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ValuesChange {
    /// The values that were set.
    pub set: Vec<String>,
    /// Whether the release was upgraded; else both states were only rendered.
    pub applied: bool,
    /// Keys of the ConfigMap that differ: before and after.
    pub config_changed: BTreeMap<String, (Value, Value)>,
    /// Paths in the DaemonSet's Pod template that differ.
    pub template_changed: Vec<String>,
    /// The DaemonSet's generation before and after.
    pub generation: (i64, i64),
    /// Its Pods before: name to uid.
    pub pods_before: BTreeMap<String, String>,
    /// Its Pods after.
    pub pods_after: BTreeMap<String, String>,
    /// How long a roll-out was watched for, milliseconds.
    pub held_ms: u64,
}

impl Observation for ValuesChange {
    const SCHEMA: &'static str = "values-change/1";
}

/// Changes values of the Cilium release.
#[derive(Debug, Clone)]
pub struct Upgrade {
    set: &'static [&'static str],
    applied: bool,
}

/// `helm upgrade --reuse-values --set ...` of the Cilium release; taken back as found.
pub fn cilium_values(set: &'static [&'static str]) -> Upgrade {
    Upgrade { set, applied: true }
}

impl Upgrade {
    /// Renders the chart with and without the values and changes nothing.
    #[must_use]
    pub fn rendered_only(mut self) -> Self {
        self.applied = false;
        self
    }
}

const NAMESPACE: &str = "kube-system";
const RELEASE: &str = "cilium";

fn daemon_set() -> ObjectRef {
    ObjectRef::namespaced("apps/v1", "DaemonSet", NAMESPACE, "cilium")
}

fn config() -> ObjectRef {
    ObjectRef::namespaced("v1", "ConfigMap", NAMESPACE, "cilium-config")
}

impl Probe<Platform> for Upgrade {
    type Seen = ValuesChange;

    fn touches(&self) -> Touches {
        let cilium = Resource::Component("cilium".to_owned());
        if self.applied { Touches::nothing().writes(cilium) } else { Touches::nothing().reads(cilium) }
    }

    async fn observe(&self, platform: &Platform, cx: &Cx) -> Result<ValuesChange, ObserveError> {
        let Some(helm) = platform.helm() else {
            return Err(ObserveError::no_ground("helm and the Cilium chart are not at hand: the bundle is not opened"));
        };
        let mut seen = ValuesChange {
            set: self.set.iter().map(|&value| value.to_owned()).collect(),
            applied: self.applied,
            pods_before: pods(platform).await?,
            ..ValuesChange::default()
        };
        let (before, after) = if self.applied {
            self.upgraded(platform, cx, helm, &mut seen).await?
        } else {
            self.rendered(cx, helm).await?
        };
        seen.pods_after = pods(platform).await?;
        compare(&before, &after, &mut seen);
        Ok(seen)
    }
}

/// DaemonSet and ConfigMap.
type Pair = (Value, Value);

impl Upgrade {
    fn settings(&self) -> Vec<&str> {
        self.set.iter().flat_map(|value| ["--set", *value]).collect()
    }

    async fn upgraded(
        &self,
        platform: &Platform,
        cx: &Cx,
        helm: &Helm,
        seen: &mut ValuesChange,
    ) -> Result<(Pair, Pair), ObserveError> {
        let before = live(platform).await?;
        cx.undo_afterwards(undo_plan(platform, cx, helm).await?)?;
        let chart = helm.cilium_chart.display().to_string();
        let mut arguments = vec!["upgrade", RELEASE, &chart, "--namespace", NAMESPACE, "--reuse-values"];
        arguments.extend(self.settings());
        helm.run(cx, &arguments).await?;
        let generation = before.0["metadata"]["generation"].clone();
        let began = Instant::now();
        // That no roll-out comes within the time is the answer that is hoped for; the judge has the generation.
        let _ = platform
            .until(&daemon_set(), "a roll-out", HOLD, |live| match live.map(|live| &live["metadata"]["generation"]) {
                Some(now) if *now != generation => Answer::Ready(()),
                now => Answer::NotYet(format!("generation {now:?}")),
            })
            .await;
        seen.held_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
        Ok((before, live(platform).await?))
    }

    async fn rendered(&self, cx: &Cx, helm: &Helm) -> Result<(Pair, Pair), ObserveError> {
        let values = helm.run(cx, &["get", "values", RELEASE, "--namespace", NAMESPACE, "--output", "json"]).await?;
        let file = cx.scratch.join("values.json");
        std::fs::write(&file, values).map_err(|e| ObserveError::harness(format!("{}: {e}", file.display())))?;
        let (chart, file) = (helm.cilium_chart.display().to_string(), file.display().to_string());
        let base = vec!["template", RELEASE, &chart, "--namespace", NAMESPACE, "--is-upgrade", "--values", &file];
        let mut changed = base.clone();
        changed.extend(self.settings());
        Ok((pair(&helm.run(cx, &base).await?)?, pair(&helm.run(cx, &changed).await?)?))
    }
}

/// Everything that an upgrade can touch: the release's objects and helm's own records.
async fn undo_plan(platform: &Platform, cx: &Cx, helm: &Helm) -> Result<Vec<UndoStep>, ObserveError> {
    let manifest = helm.run(cx, &["get", "manifest", RELEASE, "--namespace", NAMESPACE]).await?;
    let mut objects: Vec<ObjectRef> = documents(&manifest)
        .map_err(|e| ObserveError::no_ground(format!("helm get manifest: {e}")))?
        .iter()
        .filter_map(ObjectRef::of)
        .collect();
    let records = platform
        .list("v1", "Secret", Some(NAMESPACE), Some(&format!("owner=helm,name={RELEASE}")))
        .await
        .map_err(ObserveError::no_ground)?;
    let number = |record: &Value| record["metadata"]["labels"]["version"].as_str()?.parse::<u32>().ok();
    let last = records.iter().filter_map(number).max().unwrap_or_default();
    // helm keeps ten records: the oldest goes when an eleventh comes.
    let first = last.saturating_sub(10).max(1);
    objects.extend(
        (first..=last + 1)
            .map(|n| ObjectRef::namespaced("v1", "Secret", NAMESPACE, &format!("sh.helm.release.v1.{RELEASE}.v{n}"))),
    );
    let found = futures::future::try_join_all(objects.iter().map(|object| as_found(platform, object))).await;
    found.map_err(ObserveError::no_ground)
}

async fn live(platform: &Platform) -> Result<Pair, ObserveError> {
    let get = |object: ObjectRef| async move {
        let found = platform.get(&object).await.map_err(ObserveError::no_ground)?;
        found.ok_or_else(|| ObserveError::no_ground(format!("{object} does not exist")))
    };
    Ok((get(daemon_set()).await?, get(config()).await?))
}

fn pair(manifest: &str) -> Result<Pair, ObserveError> {
    let all = documents(manifest).map_err(|e| ObserveError::no_ground(format!("helm template: {e}")))?;
    let find = |kind: &str, name: &str| {
        all.iter().find(|object| object["kind"] == kind && object["metadata"]["name"] == name).cloned()
    };
    match (find("DaemonSet", "cilium"), find("ConfigMap", "cilium-config")) {
        (Some(set), Some(config)) => Ok((set, config)),
        _ => Err(ObserveError::no_ground("the chart renders no DaemonSet cilium or no ConfigMap cilium-config")),
    }
}

async fn pods(platform: &Platform) -> Result<BTreeMap<String, String>, ObserveError> {
    let list =
        platform.list("v1", "Pod", Some(NAMESPACE), Some("k8s-app=cilium")).await.map_err(ObserveError::no_ground)?;
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    Ok(list.iter().map(|pod| (text(&pod["metadata"]["name"]), text(&pod["metadata"]["uid"]))).collect())
}

fn compare(before: &Pair, after: &Pair, seen: &mut ValuesChange) {
    let generation = |set: &Value| set["metadata"]["generation"].as_i64().unwrap_or_default();
    seen.generation = (generation(&before.0), generation(&after.0));
    differing(
        &before.0["spec"]["template"],
        &after.0["spec"]["template"],
        "/spec/template",
        &mut seen.template_changed,
    );
    let empty = serde_json::Map::new();
    let data = |config: &Value| config["data"].as_object().unwrap_or(&empty).clone();
    let (old, new) = (data(&before.1), data(&after.1));
    for key in old.keys().chain(new.keys()) {
        let (was, is) = (old.get(key).cloned().unwrap_or_default(), new.get(key).cloned().unwrap_or_default());
        if was != is {
            seen.config_changed.insert(key.clone(), (was, is));
        }
    }
}

/// The deepest paths at which two values differ.
fn differing(a: &Value, b: &Value, path: &str, found: &mut Vec<String>) {
    match (a, b) {
        (Value::Object(x), Value::Object(y)) => {
            let mut keys: Vec<_> = x.keys().chain(y.keys()).collect();
            keys.sort();
            keys.dedup();
            for key in keys {
                differing(&a[key], &b[key], &format!("{path}/{key}"), found);
            }
        }
        (Value::Array(x), Value::Array(y)) if x.len() == y.len() => {
            for (index, (a, b)) in x.iter().zip(y).enumerate() {
                differing(a, b, &format!("{path}/{index}"), found);
            }
        }
        _ if a != b => found.push(path.to_owned()),
        _ => {}
    }
}

/// The ConfigMap changes, the DaemonSet and its Pods do not.
pub struct DoesNotRoll;

/// The ConfigMap changes, the DaemonSet's template and generation and its Pods do not.
pub fn does_not_roll() -> DoesNotRoll {
    DoesNotRoll
}

impl Expect<ValuesChange> for DoesNotRoll {
    fn judge(&self, seen: &ValuesChange) -> Judgement {
        const SUBJECT: &str = "DaemonSet kube-system/cilium";
        let mut findings = vec![];
        if !seen.template_changed.is_empty() {
            let message = format!("its Pod template changes at {}", seen.template_changed.join(", "));
            findings.push(Finding::new("template-changed", SUBJECT, message));
        }
        if seen.generation.0 != seen.generation.1 {
            let message = format!("its generation went from {} to {}", seen.generation.0, seen.generation.1);
            findings.push(Finding::new("generation-changed", SUBJECT, message));
        }
        if seen.pods_before != seen.pods_after {
            findings.push(Finding::new(
                "pods-replaced",
                SUBJECT,
                format!("its Pods were {:?}, are {:?}", seen.pods_before, seen.pods_after),
            ));
        }
        if findings.is_empty() && (seen.config_changed.is_empty() || seen.pods_before.is_empty()) {
            return Judgement::Inconclusive("the values changed nothing, or there are no agents".to_owned());
        }
        Judgement::from_findings(findings)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn seen() -> ValuesChange {
        ValuesChange {
            config_changed: BTreeMap::from([("debug-verbose".into(), (Value::Null, json!("flow")))]),
            generation: (1, 1),
            pods_before: BTreeMap::from([("a".into(), "1".into())]),
            pods_after: BTreeMap::from([("a".into(), "1".into())]),
            ..ValuesChange::default()
        }
    }

    fn code(seen: &ValuesChange) -> String {
        match does_not_roll().judge(seen) {
            Judgement::Fail(findings) => findings[0].code.clone(),
            Judgement::Pass => "pass".into(),
            Judgement::Inconclusive(_) => "inconclusive".into(),
        }
    }

    #[test]
    fn a_change_is_judged() {
        assert_eq!(code(&seen()), "pass");
        assert_eq!(code(&ValuesChange { generation: (1, 2), ..seen() }), "generation-changed");
        assert_eq!(code(&ValuesChange { pods_after: BTreeMap::new(), ..seen() }), "pods-replaced");
        assert_eq!(code(&ValuesChange { template_changed: vec!["/x".into()], ..seen() }), "template-changed");
        assert_eq!(code(&ValuesChange { config_changed: BTreeMap::new(), ..seen() }), "inconclusive");
    }

    #[test]
    fn differences_are_named_by_path() {
        let mut found = vec![];
        differing(&json!({"a": {"b": [1, 2]}, "c": 1}), &json!({"a": {"b": [1, 3]}, "d": 1}), "", &mut found);
        assert_eq!(found, ["/a/b/1", "/c", "/d"]);
    }
}
