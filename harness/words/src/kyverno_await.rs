//! What a scene waits for: an answer of every apiserver, an object, a field, a controller's Pods, a report's result.

use std::fmt;

use serde_json::Value;
use shakedown_core::Answer;

use crate::kyverno::{Controller, dry_answer, up_or_down};
use crate::objects::ObjectRef;
use crate::platform::Platform;

/// A condition.
#[derive(Debug, Clone, PartialEq)]
pub enum Await {
    /// Every apiserver refuses the manifest in a dry run, with this in the message.
    Refused(Value, &'static str),
    /// Every apiserver admits the manifest in a dry run.
    Admitted(Value),
    /// Every apiserver would store the manifest with this value at a JSON pointer.
    Stored(Value, &'static str, Value),
    /// The object exists.
    Exists(ObjectRef),
    /// The object does not exist.
    Gone(ObjectRef),
    /// A field (JSON pointer) has this value.
    Is(ObjectRef, &'static str, Value),
    /// A policy's condition Ready is True.
    Ready(ObjectRef),
    /// A controller has Pods, all of them ready.
    Up(Controller),
    /// A controller has no Pods.
    Down(Controller),
    /// The report about the object has this result for a policy.
    Reported(ObjectRef, String, &'static str),
}

impl fmt::Display for Await {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = |manifest: &Value| manifest["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        match self {
            Await::Refused(manifest, by) => write!(f, "refusal of {} by {by}", name(manifest)),
            Await::Admitted(manifest) => write!(f, "admission of {}", name(manifest)),
            Await::Stored(manifest, at, _) => write!(f, "{at} in what is stored of {}", name(manifest)),
            Await::Exists(object) => write!(f, "{object}"),
            Await::Gone(object) => write!(f, "end of {object}"),
            Await::Is(object, at, value) => write!(f, "{at} of {object} to be {value}"),
            Await::Ready(object) => write!(f, "{object} to be Ready"),
            Await::Up(controller) => write!(f, "Pods of the {}", controller.component()),
            Await::Down(controller) => write!(f, "end of the {}'s Pods", controller.component()),
            Await::Reported(object, policy, result) => write!(f, "{result} for {policy} in the report about {object}"),
        }
    }
}

impl Await {
    /// One look.
    ///
    /// # Errors
    /// The API does not answer.
    pub async fn look(&self, platform: &Platform) -> Result<Answer<()>, String> {
        match self {
            Await::Refused(manifest, by) => {
                let refused = |code: u16, message: &str| (400..500).contains(&code) && message.contains(by);
                everywhere(platform, manifest, |answer| refused(answer.code, answer.message())).await
            }
            Await::Admitted(manifest) => everywhere(platform, manifest, |answer| answer.is_ok()).await,
            Await::Stored(manifest, at, value) => {
                everywhere(platform, manifest, |answer| answer.body.pointer(at) == Some(value)).await
            }
            Await::Exists(object) => {
                let live = platform.get(object).await.map_err(|e| e.to_string())?;
                Ok(when(live.is_some(), || "it does not exist".to_owned()))
            }
            Await::Gone(object) => {
                let live = platform.get(object).await.map_err(|e| e.to_string())?;
                Ok(when(live.is_none(), || "it is there".to_owned()))
            }
            Await::Is(object, at, value) => {
                let Some(live) = platform.get(object).await.map_err(|e| e.to_string())? else {
                    return Ok(Answer::Never(format!("there is no {object}")));
                };
                let found = live.pointer(at).cloned().unwrap_or_default();
                Ok(when(found == *value, || found.to_string()))
            }
            Await::Ready(object) => {
                let live = platform.get(object).await.map_err(|e| e.to_string())?.unwrap_or_default();
                Ok(when(crate::kyverno::is_ready(&live), || live["status"]["conditions"].to_string()))
            }
            Await::Up(controller) => pods(platform, *controller, "up").await,
            Await::Down(controller) => pods(platform, *controller, "down").await,
            Await::Reported(object, policy, result) => reported(platform, object, policy, result).await,
        }
    }
}

fn when(holds: bool, last: impl FnOnce() -> String) -> Answer<()> {
    if holds { Answer::Ready(()) } else { Answer::NotYet(last()) }
}

fn clients(platform: &Platform) -> Vec<&kube::Client> {
    if platform.apiservers().is_empty() { vec![platform.admin()] } else { platform.apiservers().values().collect() }
}

async fn everywhere(
    platform: &Platform,
    manifest: &Value,
    holds: impl Fn(&crate::api::ApiAnswer) -> bool,
) -> Result<Answer<()>, String> {
    for client in clients(platform) {
        let answer = dry_answer(platform, client, manifest).await?;
        if !holds(&answer) {
            return Ok(Answer::NotYet(format!("{}: {}", answer.code, answer.message())));
        }
    }
    Ok(Answer::Ready(()))
}

async fn pods(platform: &Platform, controller: Controller, wanted: &str) -> Result<Answer<()>, String> {
    Ok(match up_or_down(platform, controller).await {
        Ok(now) if now == wanted => Answer::Ready(()),
        Ok(other) | Err(other) => Answer::NotYet(other),
    })
}

/// The report's name is the UID of what it is about (KYV-040).
async fn reported(platform: &Platform, object: &ObjectRef, policy: &str, result: &str) -> Result<Answer<()>, String> {
    let live = platform.get(object).await.map_err(|e| e.to_string())?.unwrap_or_default();
    let Some(uid) = live["metadata"]["uid"].as_str() else {
        // Nothing will ever be said about it.
        return Ok(Answer::Never(format!("there is no {object}")));
    };
    let namespace = object.namespace.as_deref().unwrap_or_default();
    let report = ObjectRef::namespaced("wgpolicyk8s.io/v1alpha2", "PolicyReport", namespace, uid);
    let report = platform.get(&report).await.map_err(|e| e.to_string())?.unwrap_or_default();
    let results = report["results"].as_array().cloned().unwrap_or_default();
    // A policy of a namespace is named with it.
    let of_policy = results
        .iter()
        .find(|r| r["policy"].as_str().is_some_and(|named| named == policy || named.ends_with(&format!("/{policy}"))));
    let found = of_policy.and_then(|r| r["result"].as_str()).unwrap_or("nothing");
    Ok(when(found == result, || format!("{found} among {} results", results.len())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::FakeApi;
    use serde_json::json;

    fn platform(objects: Vec<Value>) -> Platform {
        Platform::for_test(FakeApi::with(objects).client(), vec![])
    }

    #[tokio::test]
    async fn a_field_is_awaited() {
        let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a", "namespace": "n"}, "data": {"k": "v"}});
        let object = ObjectRef::of(&map).unwrap();
        let platform = platform(vec![map]);
        let is = |value: &str| Await::Is(object.clone(), "/data/k", json!(value));
        assert_eq!(is("v").look(&platform).await, Ok(Answer::Ready(())));
        assert_eq!(is("w").look(&platform).await, Ok(Answer::NotYet("\"v\"".into())));
        let other = ObjectRef { name: "b".to_owned(), ..object.clone() };
        let never = Await::Is(other, "/data/k", json!("v")).look(&platform).await;
        assert!(matches!(never, Ok(Answer::Never(_))));
        assert_eq!(Await::Gone(object).look(&platform).await, Ok(Answer::NotYet("it is there".into())));
    }

    #[tokio::test]
    async fn a_refusal_must_name_the_policy() {
        let api = FakeApi::default();
        let path = "POST /api/v1/namespaces/n/pods?dryRun=All";
        api.script(path, 400, json!({"kind": "Status", "message": "blocked\n\nsome-policy:\n  rule: 'no'"}), &[]);
        let platform = Platform::for_test(api.client(), vec![]);
        let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "namespace": "n"}});
        let by = |policy| Await::Refused(pod.clone(), policy);
        assert_eq!(by("some-policy").look(&platform).await, Ok(Answer::Ready(())));
        assert!(matches!(by("other-policy").look(&platform).await, Ok(Answer::NotYet(_))));
        assert!(matches!(Await::Admitted(pod.clone()).look(&platform).await, Ok(Answer::NotYet(_))));
    }
}
