//! Which namespaces have labels of Pod Security, and what one without any admits (PSA-002).

use std::collections::{BTreeMap, BTreeSet};

use http::Method;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use shakedown_core::{Finding, Judgement, Observation, Resource, Touches};
use shakedown_engine::{Cx, Expect, ObserveError, Probe, expect_fn};

use crate::api::Ask;
use crate::platform::Platform;
use crate::psa::PREFIX;

/// Namespaces that checks make begin so: they are no part of the platform.
const OF_CHECKS: &str = "shakedown-";

/// What the survey saw.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Survey {
    /// Pod Security's labels of each namespace that the exercise did not harden; most have none.
    pub labels: BTreeMap<String, BTreeMap<String, String>>,
    /// The namespaces that the exercise hardened: left out above.
    pub hardened: BTreeSet<String>,
    /// The fresh namespace has these labels of Pod Security.
    pub fresh_labels: BTreeMap<String, String>,
    /// Status code for a privileged Pod in the fresh namespace.
    pub privileged: u16,
    /// Message and warnings of that answer; empty when it was just admitted.
    pub said: Vec<String>,
}

impl Observation for Survey {
    const SCHEMA: &'static str = "psa-survey/1";
}

/// Surveys the namespaces.
#[derive(Debug, Clone)]
pub struct Surveys {
    hardened: &'static [&'static str],
    fresh: &'static str,
}

/// All namespaces but those that the exercise hardened, and a privileged Pod (a dry run) in a fresh one.
pub fn survey(hardened: &'static [&'static str], fresh: &'static str) -> Surveys {
    Surveys { hardened, fresh }
}

fn labels_of(namespace: &Value) -> BTreeMap<String, String> {
    let labels = namespace["metadata"]["labels"].as_object();
    let own = labels.into_iter().flatten().filter(|(key, _)| key.starts_with(&format!("{PREFIX}/")));
    own.map(|(key, value)| (key.clone(), value.as_str().unwrap_or_default().to_owned())).collect()
}

impl Probe<Platform> for Surveys {
    type Seen = Survey;

    fn touches(&self) -> Touches {
        Touches::nothing().reads(Resource::Namespace(self.fresh.to_owned()))
    }

    async fn observe(&self, platform: &Platform, _: &Cx) -> Result<Survey, ObserveError> {
        let mut seen = Survey::default();
        for namespace in platform.list("v1", "Namespace", None, None).await.map_err(ObserveError::no_ground)? {
            let name = namespace["metadata"]["name"].as_str().unwrap_or_default().to_owned();
            let labels = labels_of(&namespace);
            if name == self.fresh {
                seen.fresh_labels = labels;
            } else if self.hardened.contains(&name.as_str()) {
                seen.hardened.insert(name);
            } else if !name.starts_with(OF_CHECKS) {
                seen.labels.insert(name, labels);
            }
        }
        let pod = json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "privileged"},
            "spec": {"containers": [{"name": "c", "image": "none", "securityContext": {"privileged": true}}]},
        });
        let path = format!("/api/v1/namespaces/{}/pods?dryRun=All", self.fresh);
        let answer = Ask::new(Method::POST, &path).with(&pod).send(platform.admin()).await;
        let answer = answer.map_err(ObserveError::no_ground)?;
        seen.privileged = answer.code;
        seen.said = answer.warnings.clone();
        if !answer.is_ok() {
            seen.said.push(answer.message().to_owned());
        }
        Ok(seen)
    }
}

/// No namespace that was not hardened has a label of Pod Security, and where there is none a privileged Pod is admitted
/// without a word.
pub fn only_the_hardened_are_labelled() -> impl Expect<Survey> {
    expect_fn(|seen: &Survey| {
        if !seen.labels.contains_key("kube-system") {
            return Judgement::Inconclusive(format!("namespaces seen: {:?}", seen.labels.keys()));
        }
        let mut found = vec![];
        for (namespace, labels) in &seen.labels {
            for (key, value) in labels {
                found.push(Finding::new("labelled", namespace, format!("{key}={value}")));
            }
        }
        for (key, value) in &seen.fresh_labels {
            found.push(Finding::new("labelled", "a fresh namespace", format!("{key}={value}")));
        }
        if seen.privileged != 201 || !seen.said.is_empty() {
            let said = format!("{} {}", seen.privileged, seen.said.join("; "));
            found.push(Finding::new("not-admitted", "a privileged Pod in a fresh namespace", said));
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
        let none = BTreeMap::new();
        let one = BTreeMap::from([(format!("{PREFIX}/warn"), "baseline".to_owned())]);
        let good = Survey {
            labels: BTreeMap::from([("kube-system".into(), none.clone()), ("default".into(), none)]),
            privileged: 201,
            ..Survey::default()
        };
        let judge = |seen: &Survey| codes(only_the_hardened_are_labelled().judge(seen));
        assert!(judge(&good).is_empty());
        let mut labelled = good.clone();
        labelled.labels.insert("default".into(), one.clone());
        assert_eq!(judge(&labelled), ["labelled"]);
        assert_eq!(judge(&Survey { fresh_labels: one, ..good.clone() }), ["labelled"]);
        assert_eq!(judge(&Survey { privileged: 403, ..good.clone() }), ["not-admitted"]);
        assert_eq!(judge(&Survey { said: vec!["would violate".into()], ..good }), ["not-admitted"]);
        assert!(judge(&Survey::default())[0].starts_with("Inconclusive"));
    }

    #[test]
    fn only_labels_of_pod_security_count() {
        let labels = json!({"a": "b", format!("{PREFIX}/enforce"): "restricted"});
        let labels = labels_of(&json!({"metadata": {"labels": labels}}));
        assert_eq!(labels.into_values().collect::<Vec<_>>(), ["restricted"]);
    }
}
