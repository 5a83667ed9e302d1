//! A namespace with running workloads that comes to enforce `restricted`: at once (PSA-047), or after its workloads were
//! found by dry runs and fixed (PSA-049, PSA-051).

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use shakedown_core::{Answer, Finding, Judgement, Observation, Resource, Touches, wait_for};
use shakedown_engine::{Cx, Expect, ObserveError, Probe, Sabotage, expect_fn};

use crate::api::{Ask, Patch};
use crate::objects::ObjectRef;
use crate::platform::Platform;
use crate::psa::{label, namespace, relabelled};

/// How long a workload may take to be rolled out, or its controller to say that it cannot.
const ROLLED: Duration = Duration::from_secs(90);
/// What its namespaces' names begin with; together they stand for one that nobody else touches.
const NAMESPACES: &str = "shakedown-psa-late";
/// The plain workload breaks `restricted`, the other one does not.
const PLAIN: &str = "plain";
const GOOD: &str = "good";

fn hardened() -> Value {
    json!({
        "allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}, "runAsNonRoot": true, "runAsUser": 65534,
        "seccompProfile": {"type": "RuntimeDefault"},
    })
}

fn deployment(ns: &str, name: &str, context: &Value) -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name, "namespace": ns},
        "spec": {
            "replicas": 1, "selector": {"matchLabels": {"app": name}}, "strategy": {"type": "Recreate"},
            "template": {
                "metadata": {"labels": {"app": name}},
                "spec": {
                    "terminationGracePeriodSeconds": 0, "automountServiceAccountToken": false,
                    "containers": [{
                        "name": "c", "image": "registry.k8s.io/pause:3.10.1", "imagePullPolicy": "IfNotPresent",
                        "securityContext": context,
                    }],
                },
            },
        },
    })
}

/// A namespace with both workloads running, removed afterwards.
async fn set_up(platform: &Platform, cx: &Cx) -> Result<String, ObserveError> {
    let ns = cx.name(NAMESPACES);
    cx.undo_afterwards(vec![ObjectRef::cluster("v1", "Namespace", &ns).deletion()])?;
    let both = [deployment(&ns, PLAIN, &json!({})), deployment(&ns, GOOD, &hardened())];
    for manifest in [namespace(&ns, &[])].iter().chain(&both) {
        let answer = platform.create(manifest).await.map_err(ObserveError::no_ground)?;
        if !answer.is_ok() {
            return Err(ObserveError::no_ground(format!("making the workloads: {}", answer.message())));
        }
    }
    for name in [PLAIN, GOOD] {
        let outcome = rolled_out(platform, cx, &ns, name).await?;
        if outcome != "ready" {
            return Err(ObserveError::no_ground(format!("{name} did not run to begin with: {outcome}")));
        }
    }
    Ok(ns)
}

fn reference(ns: &str, name: &str) -> ObjectRef {
    ObjectRef::namespaced("apps/v1", "Deployment", ns, name)
}

/// `ready`, or why its Pods are refused.
async fn rolled_out(platform: &Platform, cx: &Cx, ns: &str, name: &str) -> Result<String, ObserveError> {
    cx.waiting(format!("{name} to be rolled out"), "");
    platform
        .until(&reference(ns, name), &format!("{name} to be rolled out"), ROLLED, |live| {
            let Some(live) = live else { return Answer::NotYet("it is not there".to_owned()) };
            state(live)
        })
        .await
        .map_err(ObserveError::no_ground)
}

fn state(live: &Value) -> Answer<String> {
    let status = &live["status"];
    if status["observedGeneration"].as_u64() < live["metadata"]["generation"].as_u64() {
        return Answer::NotYet("its controller has not seen it yet".to_owned());
    }
    let mut conditions = status["conditions"].as_array().into_iter().flatten();
    if let Some(failure) = conditions.find(|c| c["type"] == "ReplicaFailure" && c["status"] == "True") {
        let text = |field: &str| failure[field].as_str().unwrap_or_default().to_owned();
        return Answer::Ready(format!("{}: {}", text("reason"), text("message")));
    }
    let count = |field: &str| status[field].as_u64().unwrap_or_default();
    if (count("updatedReplicas"), count("availableReplicas"), count("replicas")) == (1, 1, 1) {
        return Answer::Ready("ready".to_owned());
    }
    Answer::NotYet(format!("{} updated, {} available", count("updatedReplicas"), count("availableReplicas")))
}

async fn pods_of(platform: &Platform, ns: &str, name: &str) -> Result<Vec<Value>, ObserveError> {
    let all = platform.list("v1", "Pod", Some(ns), Some(&format!("app={name}"))).await;
    all.map_err(ObserveError::no_ground)
}

/// What became of a running workload.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AtOnce {
    /// The mode that was set to `restricted`.
    pub mode: String,
    /// The running Pod was still there afterwards.
    pub stays: bool,
    /// After its deletion: `ready`, or why no new Pod came.
    pub next: String,
}

impl Observation for AtOnce {
    const SCHEMA: &'static str = "enforced-at-once/1";
}

/// Sets a mode while a plain workload runs.
#[derive(Debug, Clone)]
pub struct SetsAtOnce(&'static str);

/// A plain workload runs, the namespace's mode is set to `restricted`, and the workload's Pod is deleted.
pub fn set_at_once(mode: &'static str) -> SetsAtOnce {
    SetsAtOnce(mode)
}

impl Probe<Platform> for SetsAtOnce {
    type Seen = AtOnce;

    fn touches(&self) -> Touches {
        Touches::nothing().writes(Resource::Namespace(NAMESPACES.to_owned()))
    }

    async fn observe(&self, platform: &Platform, cx: &Cx) -> Result<AtOnce, ObserveError> {
        let ns = set_up(platform, cx).await?;
        let uid = |pod: &Value| pod["metadata"]["uid"].as_str().unwrap_or_default().to_owned();
        let before: Vec<String> = pods_of(platform, &ns, PLAIN).await?.iter().map(uid).collect();
        relabelled(&ns, self.0, Some("restricted")).plant(platform, &()).await.map_err(ObserveError::no_ground)?;
        let after = pods_of(platform, &ns, PLAIN).await?;
        let stays = after.iter().any(|pod| before.contains(&uid(pod)) && pod["status"]["phase"] == "Running");
        for pod in &after {
            let object = ObjectRef::of(&json!({"apiVersion": "v1", "kind": "Pod", "metadata": pod["metadata"]}));
            let object = object.ok_or_else(|| ObserveError::harness("a Pod without a name"))?;
            platform.delete(&object).await.map_err(ObserveError::no_ground)?;
        }
        let next = wait_for("a new Pod, or a refusal", ROLLED, || async {
            match pods_of(platform, &ns, PLAIN).await {
                Err(e) => return Answer::NotYet(e.to_string()),
                Ok(pods) if pods.iter().any(|pod| !before.contains(&uid(pod))) => {
                    return Answer::Ready("ready".to_owned());
                }
                Ok(_) => {}
            }
            match platform.list("apps/v1", "ReplicaSet", Some(&ns), Some(&format!("app={PLAIN}"))).await {
                Err(e) => Answer::NotYet(e.to_string()),
                Ok(sets) => match sets.iter().find_map(failed_create) {
                    Some(why) => Answer::Ready(why),
                    None => Answer::NotYet("neither yet".to_owned()),
                },
            }
        })
        .await
        .map_err(ObserveError::no_ground)?;
        Ok(AtOnce { mode: self.0.to_owned(), stays, next })
    }
}

fn failed_create(set: &Value) -> Option<String> {
    let mut conditions = set["status"]["conditions"].as_array()?.iter();
    let failure = conditions.find(|c| c["type"] == "ReplicaFailure" && c["status"] == "True")?;
    Some(format!("{}: {}", failure["reason"].as_str()?, failure["message"].as_str()?))
}

/// The running Pod stays; the next one is refused by Pod Security, and the ReplicaSet says so.
pub fn the_next_pod_is_refused() -> impl Expect<AtOnce> {
    expect_fn(|seen: &AtOnce| {
        let mut found = vec![];
        if !seen.stays {
            found.push(Finding::new("gone", PLAIN, "the running Pod did not stay"));
        }
        if seen.next == "ready" {
            found.push(Finding::new("new-pod", PLAIN, format!("a new Pod came with {}=restricted", seen.mode)));
        } else if !(seen.next.starts_with("FailedCreate") && seen.next.contains("violates PodSecurity \"restricted:")) {
            found.push(Finding::new("other-reason", PLAIN, seen.next.clone()));
        }
        Judgement::from_findings(found)
    })
}

/// A namespace's way to `restricted`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepByStep {
    /// Warnings of the dry run of the label, before.
    pub warned: Vec<String>,
    /// The same once the workloads were fixed.
    pub warned_after: Vec<String>,
    /// Each workload after a restart under the label: `ready`, or why not.
    pub restarted: BTreeMap<String, String>,
}

impl Observation for StepByStep {
    const SCHEMA: &'static str = "enforced-step-by-step/1";
}

/// Goes the whole way.
#[derive(Debug, Clone)]
pub struct GoesStepByStep {
    fixes: bool,
}

/// Dry run of the label, fix, dry run, label, restart of everything.
pub fn step_by_step() -> GoesStepByStep {
    GoesStepByStep { fixes: true }
}

/// The same with the plain workload left as it is.
pub fn step_by_step_without_the_fix() -> GoesStepByStep {
    GoesStepByStep { fixes: false }
}

async fn dry_run_of_label(platform: &Platform, ns: &str) -> Result<Vec<String>, ObserveError> {
    let patch = json!({"metadata": {"labels": {label("enforce"): "restricted"}}});
    let path = format!("/api/v1/namespaces/{ns}?dryRun=All");
    let answer = Ask::patch(&path, Patch::Merge, &patch).send(platform.admin()).await;
    let answer = answer.map_err(ObserveError::no_ground)?;
    if answer.is_ok() { Ok(answer.warnings) } else { Err(ObserveError::no_ground(answer.message().to_owned())) }
}

impl Probe<Platform> for GoesStepByStep {
    type Seen = StepByStep;

    fn touches(&self) -> Touches {
        Touches::nothing().writes(Resource::Namespace(NAMESPACES.to_owned()))
    }

    async fn observe(&self, platform: &Platform, cx: &Cx) -> Result<StepByStep, ObserveError> {
        let ns = set_up(platform, cx).await?;
        let warned = dry_run_of_label(platform, &ns).await?;
        let template = |change: Value| json!({"spec": {"template": change}});
        let patch = async |name: &str, change: &Value| {
            platform.patch(&reference(&ns, name), Patch::Strategic, change).await.map_err(ObserveError::no_ground)
        };
        if self.fixes {
            let containers = json!([{"name": "c", "securityContext": hardened()}]);
            patch(PLAIN, &template(json!({"spec": {"containers": containers}}))).await?;
            rolled_out(platform, cx, &ns, PLAIN).await?;
            wait_for("the end of the old Pod", ROLLED, || async {
                match pods_of(platform, &ns, PLAIN).await {
                    Ok(pods) if pods.len() == 1 => Answer::Ready(()),
                    Ok(pods) => Answer::NotYet(format!("{} Pods", pods.len())),
                    Err(e) => Answer::NotYet(e.to_string()),
                }
            })
            .await
            .map_err(ObserveError::no_ground)?;
        }
        let warned_after = dry_run_of_label(platform, &ns).await?;
        relabelled(&ns, "enforce", Some("restricted")).plant(platform, &()).await.map_err(ObserveError::no_ground)?;
        let mut restarted = BTreeMap::new();
        for name in [PLAIN, GOOD] {
            patch(name, &template(json!({"metadata": {"annotations": {"shakedown/restarted": "yes"}}}))).await?;
        }
        for name in [PLAIN, GOOD] {
            restarted.insert(name.to_owned(), rolled_out(platform, cx, &ns, name).await?);
        }
        Ok(StepByStep { warned, warned_after, restarted })
    }
}

/// The dry run names what runs and would be refused; once it is fixed no more; then everything comes back under the label.
pub fn everything_comes_back() -> impl Expect<StepByStep> {
    expect_fn(|seen: &StepByStep| {
        let mut found = vec![];
        let said = |warnings: &[String]| warnings.iter().any(|text| text.contains("existing pods in namespace"));
        if !said(&seen.warned) {
            found.push(Finding::new("not-warned", PLAIN, format!("the dry run said: {:?}", seen.warned)));
        }
        if said(&seen.warned_after) {
            found.push(Finding::new("still-warned", PLAIN, seen.warned_after.join("; ")));
        }
        for (name, outcome) in seen.restarted.iter().filter(|(_, outcome)| *outcome != "ready") {
            found.push(Finding::new("restart-failed", name, outcome.clone()));
        }
        Judgement::from_findings(found)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::codes;

    #[test]
    fn the_next_pod_decides() {
        let refused = "FailedCreate: pods \"x\" is forbidden: violates PodSecurity \"restricted:latest\": a (b)";
        let seen = |stays, next: &str| AtOnce { mode: "enforce".into(), stays, next: next.into() };
        let judge = |seen: AtOnce| codes(the_next_pod_is_refused().judge(&seen));
        assert!(judge(seen(true, refused)).is_empty());
        assert_eq!(judge(seen(true, "ready")), ["new-pod"]);
        assert_eq!(judge(seen(false, refused)), ["gone"]);
        assert_eq!(judge(seen(true, "FailedCreate: exceeded quota")), ["other-reason"]);
    }

    #[test]
    fn the_way_is_judged() {
        let warning = || vec!["existing pods in namespace \"n\" violate the new PodSecurity enforce level".to_owned()];
        let good = StepByStep {
            warned: warning(),
            warned_after: vec![],
            restarted: BTreeMap::from([(PLAIN.to_owned(), "ready".to_owned())]),
        };
        let judge = |seen: &StepByStep| codes(everything_comes_back().judge(seen));
        assert!(judge(&good).is_empty());
        assert_eq!(judge(&StepByStep { warned: vec![], ..good.clone() }), ["not-warned"]);
        let left = BTreeMap::from([(PLAIN.to_owned(), "FailedCreate: no".to_owned())]);
        let unfixed = StepByStep { warned_after: warning(), restarted: left, ..good };
        assert_eq!(judge(&unfixed), ["still-warned", "restart-failed"]);
    }

    #[test]
    fn a_deployments_way_is_read_from_its_status() {
        let live = |status: Value| json!({"metadata": {"generation": 2}, "status": status});
        assert!(matches!(state(&live(json!({"observedGeneration": 1}))), Answer::NotYet(_)));
        let done = json!({"observedGeneration": 2, "updatedReplicas": 1, "availableReplicas": 1, "replicas": 1});
        assert_eq!(state(&live(done)), Answer::Ready("ready".to_owned()));
        let failed = json!({
            "observedGeneration": 2,
            "conditions": [{"type": "ReplicaFailure", "status": "True", "reason": "FailedCreate", "message": "m"}],
        });
        assert_eq!(state(&live(failed)), Answer::Ready("FailedCreate: m".to_owned()));
    }
}
