//! A Pod that is created, watched until it runs or cannot, looked at from its node, and removed again.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use shakedown_core::{Answer, Finding, Judgement, Observation, Resource, Touches, UndoStep, WaitError};
use shakedown_engine::{Cx, Expect, ObserveError, Probe};

use crate::admission::{PodSecurity, pod_security};
use crate::api::{ApiError, Ask};
use crate::objects::{ObjectRef, percent};
use crate::platform::Platform;
use crate::undo::as_found;

/// What a Pod came to.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodRun {
    /// `NAMESPACE/NAME`.
    pub pod: String,
    /// Status code of its creation.
    pub code: u16,
    /// The server's message where it was refused.
    pub message: String,
    /// What Pod Security warned of.
    pub warned_for: Option<PodSecurity>,
    /// `Running`, `Pending`, `Failed`; empty where it was refused.
    pub phase: String,
    /// All containers are ready.
    pub ready: bool,
    /// Reasons and messages of containers that wait or ended: container to `REASON: MESSAGE`.
    pub stuck: BTreeMap<String, String>,
    /// Its node.
    pub node: String,
    /// Image and its digest, as the node reports them, by container.
    pub image_ids: BTreeMap<String, String>,
    /// `/proc/PID/status` and the root's mount options of the first container's first process, as seen from the node;
    /// empty where that cannot be reached.
    pub process: BTreeMap<String, String>,
    /// From its creation until it was ready or known not to be, milliseconds.
    pub after_ms: u64,
}

impl Observation for PodRun {
    const SCHEMA: &'static str = "pod-run/1";
}

/// Runs a Pod.
#[derive(Debug, Clone)]
pub struct Runs {
    manifest: Value,
    namespace: &'static str,
    beside: Option<Value>,
}

/// Runs this Pod in a namespace.
pub fn runs(manifest: Value, namespace: &'static str) -> Runs {
    Runs { manifest, namespace, beside: None }
}

impl Runs {
    /// This Pod has to run first, in the same namespace: where it does not, the other one's fate says nothing. What
    /// the baseline takes then also tells how long a Pod takes to start here.
    #[must_use]
    pub fn beside(mut self, manifest: Value) -> Self {
        self.beside = Some(manifest);
        self
    }
}

/// Reasons after which a container does not start any more without a change.
const HOPELESS: &[&str] =
    &["CreateContainerConfigError", "ErrImageNeverPull", "ImagePullBackOff", "CrashLoopBackOff", "InvalidImageName"];

impl Probe<Platform> for Runs {
    type Seen = PodRun;

    fn touches(&self) -> Touches {
        Touches::nothing().writes(Resource::Namespace(self.namespace.to_owned()))
    }

    async fn observe(&self, platform: &Platform, cx: &Cx) -> Result<PodRun, ObserveError> {
        if let Some(manifest) = &self.beside {
            let peer = self.run(platform, cx, manifest.clone()).await?;
            if !peer.ready {
                return Err(ObserveError::no_ground(format!("{} does not run either: {:?}", peer.pod, peer.stuck)));
            }
        }
        self.run(platform, cx, self.manifest.clone()).await
    }
}

impl Runs {
    async fn run(&self, platform: &Platform, cx: &Cx, mut manifest: Value) -> Result<PodRun, ObserveError> {
        manifest["metadata"]["namespace"] = Value::from(self.namespace);
        let object = ObjectRef::of(&manifest).ok_or_else(|| ObserveError::harness(format!("no Pod: {manifest}")))?;
        let undo = as_found(platform, &object).await.map_err(ObserveError::no_ground)?;
        if matches!(undo, UndoStep::RestoreObject { .. }) {
            return Err(ObserveError::no_ground(format!("{object} exists already and is not ours to replace")));
        }
        cx.undo_afterwards(vec![undo])?;
        let began = Instant::now();
        let answer = platform.create(&manifest).await.map_err(ObserveError::no_ground)?;
        let mut seen = PodRun {
            pod: format!("{}/{}", self.namespace, object.name),
            code: answer.code,
            warned_for: answer.warnings.iter().find_map(|text| pod_security(text)),
            ..PodRun::default()
        };
        if !answer.is_ok() {
            if answer.code == 404 || answer.code >= 500 {
                return Err(ObserveError::no_ground(format!("creating {object}: {}", answer.message())));
            }
            answer.message().clone_into(&mut seen.message);
            return Ok(seen);
        }
        // Room for the look at the node and the clean-up within the observation's own budget.
        let budget = cx.budget.saturating_sub((cx.budget / 5).min(Duration::from_secs(5)));
        let mut last = Value::Null;
        let waited = platform
            .until(&object, &format!("{object} to run"), budget, |live| {
                last = live.cloned().unwrap_or_default();
                settled(live)
            })
            .await;
        seen.after_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
        fill(&mut seen, &last);
        match waited {
            Ok(()) => look_inside(platform, &last, &mut seen).await,
            Err(WaitError::TimedOut { last_seen, .. } | WaitError::Never { why: last_seen, .. }) => {
                seen.stuck.entry("pod".to_owned()).or_insert(last_seen);
            }
        }
        platform.delete(&object).await.map_err(ObserveError::no_ground)?;
        Ok(seen)
    }
}

/// Ready, hopeless, or still on its way.
fn settled(live: Option<&Value>) -> Answer<()> {
    let Some(live) = live else { return Answer::Never("it was deleted by somebody else".to_owned()) };
    if is_ready(live) {
        return Answer::Ready(());
    }
    let stuck = stuck(live);
    let hopeless = stuck.values().find(|why| HOPELESS.iter().any(|reason| why.starts_with(reason)));
    let phase = live["status"]["phase"].as_str().unwrap_or("no phase yet");
    match hopeless {
        Some(why) => Answer::Never(why.clone()),
        None if phase == "Failed" || phase == "Succeeded" => Answer::Never(format!("{phase}: {stuck:?}")),
        None => Answer::NotYet(format!("{phase}, {}", why_pending(live, &stuck))),
    }
}

fn why_pending(live: &Value, stuck: &BTreeMap<String, String>) -> String {
    let conditions = live["status"]["conditions"].as_array().into_iter().flatten();
    let unscheduled = conditions.filter(|c| c["type"] == "PodScheduled" && c["status"] == "False");
    unscheduled.filter_map(|c| c["message"].as_str()).next().map_or_else(|| format!("{stuck:?}"), str::to_owned)
}

/// A Pod's Events, as the API lists them.
pub(crate) async fn events_of(platform: &Platform, namespace: &str, pod: &str) -> Result<Vec<Value>, ApiError> {
    let field = percent(&format!("involvedObject.name={pod}"));
    let path = format!("/api/v1/namespaces/{namespace}/events?fieldSelector={field}");
    let mut answer = Ask::get(&path).send(platform.admin()).await?;
    Ok(answer.body["items"].as_array_mut().map(std::mem::take).unwrap_or_default())
}

/// Its condition Ready is true.
pub(crate) fn is_ready(live: &Value) -> bool {
    let mut conditions = live["status"]["conditions"].as_array().into_iter().flatten();
    conditions.any(|c| c["type"] == "Ready" && c["status"] == "True")
}

fn stuck(live: &Value) -> BTreeMap<String, String> {
    let statuses = live["status"]["containerStatuses"].as_array().into_iter().flatten();
    statuses
        .filter_map(|status| {
            let name = status["name"].as_str()?.to_owned();
            let state =
                [&status["state"]["waiting"], &status["state"]["terminated"]].into_iter().find(|s| s.is_object())?;
            let text = |field: &str| state[field].as_str().unwrap_or_default();
            Some((name, format!("{}: {}", text("reason"), text("message")).trim_end_matches([':', ' ']).to_owned()))
        })
        .collect()
}

fn fill(seen: &mut PodRun, live: &Value) {
    seen.phase = live["status"]["phase"].as_str().unwrap_or_default().to_owned();
    seen.ready = is_ready(live);
    seen.stuck = stuck(live);
    seen.node = live["spec"]["nodeName"].as_str().unwrap_or_default().to_owned();
    let statuses = live["status"]["containerStatuses"].as_array().into_iter().flatten();
    seen.image_ids = statuses
        .filter_map(|status| Some((status["name"].as_str()?.to_owned(), status["imageID"].as_str()?.to_owned())))
        .collect();
}

/// Prints `/proc/PID/status` of a container's first process, and how its root is mounted. The container is found by its
/// id in the cgroup path; its first process is the one that is 1 in the innermost PID namespace.
const INSIDE: &str = r#"
for p in $(grep -ls "$1" /proc/[0-9]*/cgroup | cut -d/ -f3); do
  [ "$(awk '/^NSpid:/{print $NF}' /proc/$p/status 2>/dev/null)" = 1 ] || continue
  grep -E '^(Uid|Gid|NoNewPrivs|Seccomp|CapEff|CapBnd):' /proc/$p/status
  awk '$5 == "/" {print "Root: " $6}' /proc/$p/mountinfo
  exit 0
done
exit 1
"#;

async fn look_inside(platform: &Platform, live: &Value, seen: &mut PodRun) {
    let id = live["status"]["containerStatuses"][0]["containerID"].as_str().unwrap_or_default();
    let Some((_, id)) = id.split_once("://") else { return };
    if let Ok(text) = platform.exec_ok(&seen.node, &["sh", "-c", INSIDE, "inside", id]).await {
        seen.process = text
            .lines()
            .filter_map(|line| line.split_once(':'))
            .map(|(key, value)| (key.to_owned(), value.split_whitespace().next().unwrap_or_default().to_owned()))
            .collect();
    }
}

/// What the Pod must have come to.
#[derive(Debug, Clone, Default)]
pub struct Outcome {
    starts: bool,
    saying: &'static str,
    process: Vec<(&'static str, &'static str)>,
}

/// It runs, with all containers ready and without a warning of Pod Security.
pub fn running() -> Outcome {
    Outcome { starts: true, ..Outcome::default() }
}

/// It is admitted, but its container does not start, for a reason that contains this.
pub fn stuck_for(saying: &'static str) -> Outcome {
    Outcome { saying, ..Outcome::default() }
}

impl Outcome {
    /// Its process has these values, as `/proc/PID/status` gives them (and `Root`: mount options that begin so).
    #[must_use]
    pub fn with_process(mut self, values: &[(&'static str, &'static str)]) -> Self {
        self.process.extend_from_slice(values);
        self
    }
}

impl Expect<PodRun> for Outcome {
    fn judge(&self, seen: &PodRun) -> Judgement {
        let finding = |code: &str, message: String| Finding::new(code, &seen.pod, message);
        if !(200..300).contains(&seen.code) {
            return Judgement::Fail(vec![finding("refused", seen.message.clone())]);
        }
        let mut findings = vec![];
        let why = format!("{} {:?}", seen.phase, seen.stuck);
        if self.starts && !seen.ready {
            findings.push(finding("not-running", why));
            return Judgement::Fail(findings);
        }
        if let (true, Some(warned)) = (self.starts, &seen.warned_for) {
            findings.push(finding("warning-unexpected", format!("warned by {}", warned.policy)));
        }
        if !self.starts && seen.ready {
            findings.push(finding("started", "it runs, and was not to".to_owned()));
        } else if !self.starts && !seen.stuck.values().any(|why| why.contains(self.saying)) {
            findings.push(finding("other-reason", format!("expected `{}`, is {why}", self.saying)));
        }
        for (key, expected) in &self.process {
            match seen.process.get(*key) {
                None => return Judgement::Inconclusive(format!("{key} of the process could not be read")),
                Some(value) if !value.starts_with(expected) => {
                    findings.push(finding("process-differs", format!("{key}: expected {expected}, is {value}")));
                }
                Some(_) => {}
            }
        }
        Judgement::from_findings(findings)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn run(ready: bool) -> PodRun {
        PodRun {
            pod: "n/p".into(),
            code: 201,
            phase: if ready { "Running" } else { "Pending" }.into(),
            ready,
            stuck: BTreeMap::from([("c".to_owned(), "CreateContainerConfigError: image will run as root".to_owned())]),
            process: BTreeMap::from([("Uid".to_owned(), "65534".to_owned())]),
            ..PodRun::default()
        }
    }

    fn code(judgement: Judgement) -> String {
        match judgement {
            Judgement::Fail(findings) => findings[0].code.clone(),
            other => format!("{other:?}"),
        }
    }

    #[test]
    fn outcomes_are_judged() {
        assert_eq!(running().with_process(&[("Uid", "65534")]).judge(&run(true)), Judgement::Pass);
        assert_eq!(code(running().with_process(&[("Uid", "0")]).judge(&run(true))), "process-differs");
        assert_eq!(code(running().judge(&run(false))), "not-running");
        assert_eq!(stuck_for("run as root").judge(&run(false)), Judgement::Pass);
        assert_eq!(code(stuck_for("no memory").judge(&run(false))), "other-reason");
        assert_eq!(code(stuck_for("run as root").judge(&run(true))), "started");
        assert_eq!(code(running().judge(&PodRun { code: 403, ..run(false) })), "refused");
        assert!(matches!(running().with_process(&[("Root", "ro")]).judge(&run(true)), Judgement::Inconclusive(_)));
    }

    #[test]
    fn a_pods_way_is_read_from_its_status() {
        let waiting = |reason: &str| {
            json!({"status": {"phase": "Pending", "containerStatuses": [
            {"name": "c", "state": {"waiting": {"reason": reason, "message": "m"}}}]}})
        };
        assert_eq!(
            settled(Some(&waiting("CreateContainerConfigError"))),
            Answer::Never("CreateContainerConfigError: m".into())
        );
        assert!(matches!(settled(Some(&waiting("ContainerCreating"))), Answer::NotYet(_)));
        let ready = json!({"status": {"conditions": [{"type": "Ready", "status": "True"}]}});
        assert_eq!(settled(Some(&ready)), Answer::Ready(()));
        assert!(matches!(settled(None), Answer::Never(_)));
    }
}
