//! A Pod whose start is followed by its Events: what the kubelet says where it does not come up (ENC-041).

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use shakedown_core::{Answer, Finding, Judgement, Observation, Resource, Touches, WaitError, wait_for};
use shakedown_engine::{Cx, Expect, ObserveError, Probe, expect_fn};

use crate::objects::ObjectRef;
use crate::platform::Platform;
use crate::pods::{events_of, is_ready};

/// How long the Pod may take to run, or the kubelet to say why not.
const BUDGET: Duration = Duration::from_secs(90);

/// What became of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodEvents {
    /// `NAMESPACE/NAME`.
    pub pod: String,
    /// Its containers are ready.
    pub ready: bool,
    /// Warnings: `REASON: MESSAGE`.
    pub warnings: Vec<String>,
}

impl Observation for PodEvents {
    const SCHEMA: &'static str = "pod-events/1";
}

/// Runs a Pod and reads its Events.
#[derive(Debug, Clone)]
pub struct Follows {
    manifest: Value,
    namespace: &'static str,
    reason: &'static str,
}

/// Runs this Pod until it is ready, or until there is an Event with this reason.
pub fn followed(manifest: Value, namespace: &'static str, reason: &'static str) -> Follows {
    Follows { manifest, namespace, reason }
}

impl Probe<Platform> for Follows {
    type Seen = PodEvents;

    fn touches(&self) -> Touches {
        Touches::nothing().writes(Resource::Namespace(self.namespace.to_owned()))
    }

    async fn observe(&self, platform: &Platform, cx: &Cx) -> Result<PodEvents, ObserveError> {
        let name = cx.name("followed");
        let mut manifest = self.manifest.clone();
        manifest["metadata"]["name"] = Value::from(name.clone());
        manifest["metadata"]["namespace"] = Value::from(self.namespace);
        let object = ObjectRef::of(&manifest).ok_or_else(|| ObserveError::harness(format!("no Pod: {manifest}")))?;
        cx.undo_afterwards(vec![object.deletion()])?;
        let answer = platform.create(&manifest).await.map_err(ObserveError::no_ground)?;
        if !answer.is_ok() {
            return Err(ObserveError::no_ground(format!("creating {object}: {}", answer.message())));
        }
        let waited = wait_for("the Pod, or the kubelet's word on it", BUDGET, || async {
            match self.look(platform, &object).await {
                Ok(seen) if seen.ready || seen.warnings.iter().any(|text| text.starts_with(self.reason)) => {
                    Answer::Ready(seen)
                }
                Ok(seen) => Answer::NotYet(format!("not ready, warnings: {:?}", seen.warnings)),
                Err(why) => Answer::NotYet(why),
            }
        })
        .await;
        let seen = match waited {
            Ok(seen) => seen,
            Err(WaitError::TimedOut { .. } | WaitError::Never { .. }) => {
                self.look(platform, &object).await.map_err(ObserveError::no_ground)?
            }
        };
        platform.delete(&object).await.map_err(ObserveError::no_ground)?;
        Ok(seen)
    }
}

impl Follows {
    async fn look(&self, platform: &Platform, object: &ObjectRef) -> Result<PodEvents, String> {
        let live = platform.get(object).await.map_err(|e| e.to_string())?.unwrap_or_default();
        let ready = is_ready(&live);
        let events = events_of(platform, self.namespace, &object.name).await.map_err(|e| e.to_string())?;
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let warnings = events.iter().filter(|event| event["type"] == "Warning");
        let warnings = warnings.map(|event| format!("{}: {}", text(&event["reason"]), text(&event["message"])));
        Ok(PodEvents { pod: format!("{}/{}", self.namespace, object.name), ready, warnings: warnings.collect() })
    }
}

/// It does not start, and the kubelet says this.
pub fn does_not_start_for(words: &'static str) -> impl Expect<PodEvents> {
    expect_fn(move |seen: &PodEvents| {
        let mut found = vec![];
        if seen.ready {
            found.push(Finding::new("started", &seen.pod, "it runs, and was not to"));
        } else if !seen.warnings.iter().any(|text| text.contains(words)) {
            found.push(Finding::new("other-reason", &seen.pod, format!("{:?}", seen.warnings)));
        }
        Judgement::from_findings(found)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::codes;

    #[test]
    fn each_defect_has_its_code() {
        let seen = |ready, warning: &str| PodEvents { pod: "n/p".into(), ready, warnings: vec![warning.into()] };
        let judge = |seen: PodEvents| codes(does_not_start_for("not a file").judge(&seen));
        assert!(judge(seen(false, "FailedMount: x is not a file")).is_empty());
        assert_eq!(judge(seen(true, "")), ["started"]);
        assert_eq!(judge(seen(false, "FailedMount: other")), ["other-reason"]);
    }
}
