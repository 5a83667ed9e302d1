//! What is installed: policies, controllers, definitions, webhooks and who answers them.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use shakedown_core::{Finding, Judgement, Observation, Resource, Touches};
use shakedown_engine::{Cx, Expect, ObserveError, Probe, expect_fn};

use crate::change::Signal;
use crate::kyverno::{Controller, NAMESPACE, POLICIES, POLICY, is_ready};
use crate::kyverno_scene::rested;
use crate::lost_nodes::none_stranded;
use crate::platform::Platform;

const REGISTRATION: &str = "admissionregistration.k8s.io/v1";
/// Objects of checks' own, told apart by their names.
const OURS: &str = "shakedown-";

/// One ClusterPolicy.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicySeen {
    /// `apiVersion/kind`.
    pub kind: String,
    /// `spec.validationFailureAction`.
    pub action: String,
    /// `spec.admission`, the column ADMISSION.
    pub admission: bool,
    /// `spec.background`, the column BACKGROUND.
    pub background: bool,
    /// Status and message of condition Ready, the columns READY and MESSAGE.
    pub ready: (String, String),
    /// Its rules.
    pub rules: Vec<String>,
}

/// The ClusterPolicies, without those of checks.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PoliciesSeen {
    /// By name.
    pub policies: BTreeMap<String, PolicySeen>,
}

impl Observation for PoliciesSeen {
    const SCHEMA: &'static str = "kyverno-policies/1";
}

/// Lists the ClusterPolicies.
#[derive(Debug, Clone, Copy)]
pub struct Policies;

impl Probe<Platform> for Policies {
    type Seen = PoliciesSeen;

    fn touches(&self) -> Touches {
        Touches::nothing().reads(Controller::Admission.lock())
    }

    async fn observe(&self, platform: &Platform, _: &Cx) -> Result<PoliciesSeen, ObserveError> {
        let all = platform.list(POLICY, "ClusterPolicy", None, None).await.map_err(ObserveError::no_ground)?;
        let named = all.iter().map(|policy| (text(&policy["metadata"]["name"]), seen(policy)));
        Ok(PoliciesSeen { policies: named.filter(|(name, _)| !name.starts_with(OURS)).collect() })
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn seen(policy: &Value) -> PolicySeen {
    let mut conditions = policy["status"]["conditions"].as_array().into_iter().flatten();
    let ready = conditions.find(|c| c["type"] == "Ready").cloned().unwrap_or_default();
    let rules = policy["spec"]["rules"].as_array().into_iter().flatten();
    PolicySeen {
        // A list's items do not name their kind.
        kind: format!("{POLICY}/ClusterPolicy"),
        action: text(&policy["spec"]["validationFailureAction"]),
        admission: policy["spec"]["admission"].as_bool().unwrap_or_default(),
        background: policy["spec"]["background"].as_bool().unwrap_or_default(),
        ready: (text(&ready["status"]), text(&ready["message"])),
        rules: rules.map(|rule| text(&rule["name"])).collect(),
    }
}

/// Exactly the three documented policies, each as the document's table shows it, and enforcing.
pub fn three_that_enforce() -> impl Expect<PoliciesSeen> {
    expect_fn(|seen: &PoliciesSeen| {
        let mut findings = vec![];
        for name in POLICIES {
            let Some(policy) = seen.policies.get(name) else {
                findings.push(Finding::new("policy-missing", name, "it does not exist"));
                continue;
            };
            let mut expect = |code: &str, holds: bool| {
                if !holds {
                    findings.push(Finding::new(code, name, format!("{policy:?}")));
                }
            };
            expect("not-enforced", policy.action == "Enforce");
            expect("not-ready", policy.ready == ("True".to_owned(), "Ready".to_owned()));
            expect("columns-differ", policy.admission && policy.background);
            expect("rules-differ", policy.rules.len() == 1);
        }
        for name in seen.policies.keys().filter(|name| !POLICIES.contains(&name.as_str())) {
            findings.push(Finding::new("policy-unexpected", name, "no document names it"));
        }
        Judgement::from_findings(findings)
    })
}

/// One webhook of a configuration.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WebhookSeen {
    /// `ValidatingWebhookConfiguration NAME` or the mutating one.
    pub configuration: String,
    /// Its own name.
    pub name: String,
    /// Kyverno's label.
    pub managed: bool,
    /// `NAMESPACE/NAME` of the Service that it calls.
    pub service: String,
    /// It names the authority of the Service's certificate.
    pub trusted: bool,
}

/// What is installed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Installed {
    /// Deployments of namespace kyverno: wanted and ready Pods.
    pub deployments: BTreeMap<String, (u64, u64)>,
    /// Plural names of the definitions in Kyverno's groups, by group.
    pub definitions: BTreeMap<String, BTreeSet<String>>,
    /// Definition to the managers that applied it server-side.
    pub appliers: BTreeMap<String, BTreeSet<String>>,
    /// Definitions with an annotation of a client-side apply.
    pub client_side: BTreeSet<String>,
    /// All webhooks of the cluster.
    pub webhooks: Vec<WebhookSeen>,
    /// Service of namespace kyverno to the Pods that are its ready endpoints.
    pub endpoints: BTreeMap<String, BTreeSet<String>>,
    /// Ready Pods of the admission controller.
    pub admission: BTreeSet<String>,
}

impl Observation for Installed {
    const SCHEMA: &'static str = "kyverno-installed/1";
}

/// Looks at what is installed.
#[derive(Debug, Clone, Copy)]
pub struct Installation;

impl Probe<Platform> for Installation {
    type Seen = Installed;

    fn touches(&self) -> Touches {
        Controller::ALL
            .iter()
            .fold(Touches::nothing(), |touches, controller| touches.reads(controller.lock()))
            .reads(Resource::Component("cluster-wide".to_owned()))
    }

    async fn observe(&self, platform: &Platform, cx: &Cx) -> Result<Installed, ObserveError> {
        rested(platform, cx).await;
        none_stranded(platform, NAMESPACE).await.map_err(ObserveError::no_ground)?;
        let mut seen = Installed::default();
        let list = |version: &'static str, kind: &'static str, ns: Option<&'static str>| async move {
            platform.list(version, kind, ns, None).await.map_err(ObserveError::no_ground)
        };
        for deployment in list("apps/v1", "Deployment", Some(NAMESPACE)).await? {
            let number = |value: &Value| value.as_u64().unwrap_or_default();
            let counts = (number(&deployment["spec"]["replicas"]), number(&deployment["status"]["readyReplicas"]));
            seen.deployments.insert(text(&deployment["metadata"]["name"]), counts);
        }
        let definitions = platform.list_metadata("apiextensions.k8s.io/v1", "CustomResourceDefinition").await;
        for definition in definitions.map_err(ObserveError::no_ground)? {
            defined(&definition["metadata"], &mut seen);
        }
        for kind in ["ValidatingWebhookConfiguration", "MutatingWebhookConfiguration"] {
            for configuration in list(REGISTRATION, kind, None).await? {
                seen.webhooks.extend(webhooks(kind, &configuration));
            }
        }
        for slice in list("discovery.k8s.io/v1", "EndpointSlice", Some(NAMESPACE)).await? {
            let service = text(&slice["metadata"]["labels"]["kubernetes.io/service-name"]);
            seen.endpoints.entry(service).or_default().extend(ready_pods(&slice));
        }
        let selector = Controller::Admission.selector();
        let pods = platform.list("v1", "Pod", Some(NAMESPACE), Some(&selector)).await;
        let pods = pods.map_err(ObserveError::no_ground)?;
        seen.admission = pods.iter().filter(|p| is_ready(p)).map(|p| text(&p["metadata"]["name"])).collect();
        Ok(seen)
    }
}

/// A definition's name is its plural and its group.
fn defined(metadata: &Value, seen: &mut Installed) {
    let name = text(&metadata["name"]);
    let Some((plural, group)) = name.split_once('.') else { return };
    if !group.ends_with("kyverno.io") && group != "wgpolicyk8s.io" {
        return;
    }
    let (plural, group) = (plural.to_owned(), group.to_owned());
    let managers = metadata["managedFields"].as_array().into_iter().flatten();
    let applied = managers.filter(|m| m["operation"] == "Apply").map(|m| text(&m["manager"]));
    seen.appliers.insert(plural.clone(), applied.collect());
    if metadata["annotations"].get("kubectl.kubernetes.io/last-applied-configuration").is_some() {
        seen.client_side.insert(plural.clone());
    }
    seen.definitions.entry(group).or_default().insert(plural);
}

fn webhooks(kind: &str, configuration: &Value) -> Vec<WebhookSeen> {
    let metadata = &configuration["metadata"];
    let all = configuration["webhooks"].as_array().into_iter().flatten();
    all.map(|webhook| {
        let client = &webhook["clientConfig"];
        WebhookSeen {
            configuration: format!("{kind} {}", text(&metadata["name"])),
            name: text(&webhook["name"]),
            managed: metadata["labels"]["webhook.kyverno.io/managed-by"] == "kyverno",
            service: format!("{}/{}", text(&client["service"]["namespace"]), text(&client["service"]["name"])),
            trusted: client["caBundle"].as_str().is_some_and(|ca| !ca.is_empty()),
        }
    })
    .collect()
}

fn ready_pods(slice: &Value) -> BTreeSet<String> {
    let endpoints = slice["endpoints"].as_array().into_iter().flatten();
    endpoints.filter(|e| e["conditions"]["ready"] == true).map(|e| text(&e["targetRef"]["name"])).collect()
}

/// The ready endpoints of a Service of Kyverno's.
pub fn endpoints_of(service: &'static str) -> Signal {
    Box::new(move |platform, _| {
        Box::pin(async move {
            let selector = format!("kubernetes.io/service-name={service}");
            let slices = platform.list("discovery.k8s.io/v1", "EndpointSlice", Some(NAMESPACE), Some(&selector)).await;
            let slices = slices.map_err(|e| e.to_string())?;
            let pods: BTreeSet<String> = slices.iter().flat_map(ready_pods).collect();
            Ok(format!("{pods:?}"))
        })
    })
}

/// Exactly the four documented controllers, with as many ready Pods as are wanted, and one at least.
pub fn four_controllers() -> impl Expect<Installed> {
    expect_fn(|seen: &Installed| {
        let documented = Controller::ALL.map(|controller| controller.deployment().name);
        let mut findings = vec![];
        for name in &documented {
            match seen.deployments.get(name) {
                None => findings.push(Finding::new("controller-missing", name, "it does not exist")),
                Some((wanted, ready)) if *ready == 0 || ready != wanted => {
                    findings.push(Finding::new("controller-down", name, format!("{ready} of {wanted} Pods are ready")));
                }
                Some(_) => {}
            }
        }
        for name in seen.deployments.keys().filter(|name| !documented.contains(name)) {
            findings.push(Finding::new("controller-unexpected", name, "no document names it"));
        }
        Judgement::from_findings(findings)
    })
}

/// Exactly these definitions in Kyverno's groups; those of reports are another group's.
pub fn definitions(kyverno: &'static [&'static str], reports: &'static [&'static str]) -> impl Expect<Installed> {
    expect_fn(move |seen: &Installed| {
        let (mut own, mut others) = (BTreeSet::new(), BTreeSet::new());
        for (group, names) in &seen.definitions {
            if group == "wgpolicyk8s.io" { &mut others } else { &mut own }.extend(names.iter().map(String::as_str));
        }
        let mut findings = vec![];
        for (wanted, found) in [(kyverno, own), (reports, others)] {
            let wanted: BTreeSet<&str> = wanted.iter().copied().collect();
            let absent = wanted.difference(&found).map(|name| ("definition-missing", *name, "it does not exist"));
            let extra = found.difference(&wanted).map(|name| ("definition-unexpected", *name, "no document names it"));
            findings.extend(absent.chain(extra).map(|(code, name, why)| Finding::new(code, name, why)));
        }
        Judgement::from_findings(findings)
    })
}

/// Kyverno serves webhooks of both kinds for policies and requests, and the admission controller's Pods answer them.
pub fn webhooks_are_answered() -> impl Expect<Installed> {
    expect_fn(|seen: &Installed| {
        let mut findings = vec![];
        for configuration in [
            "ValidatingWebhookConfiguration kyverno-resource-validating-webhook-cfg",
            "ValidatingWebhookConfiguration kyverno-policy-validating-webhook-cfg",
            "MutatingWebhookConfiguration kyverno-policy-mutating-webhook-cfg",
        ] {
            let mut all = seen.webhooks.iter().filter(|webhook| webhook.configuration == configuration).peekable();
            if all.peek().is_none() {
                findings.push(Finding::new("webhook-missing", configuration, "no webhook is registered"));
            }
            for webhook in all.filter(|webhook| !webhook.trusted || webhook.service != "kyverno/kyverno-svc") {
                findings.push(Finding::new("webhook-differs", &webhook.name, format!("{webhook:?}")));
            }
        }
        let answering = seen.endpoints.get("kyverno-svc").cloned().unwrap_or_default();
        if answering.is_empty() || answering != seen.admission {
            let message = format!("endpoints {answering:?}, admission controllers {:?}", seen.admission);
            findings.push(Finding::new("nobody-answers", "kyverno-svc", message));
        }
        Judgement::from_findings(findings)
    })
}

/// Every webhook of the cluster is Kyverno's, or of one of these configurations.
pub fn no_webhook_besides(known: &'static [&'static str]) -> impl Expect<Installed> {
    expect_fn(move |seen: &Installed| {
        if !seen.webhooks.iter().any(|webhook| webhook.managed) {
            return Judgement::Inconclusive("no webhook at all was seen".to_owned());
        }
        let strange =
            seen.webhooks.iter().filter(|w| !w.managed && !known.iter().any(|k| w.configuration.ends_with(k)));
        let found = strange.map(|w| Finding::new("webhook-unexpected", &w.configuration, "no component brings it"));
        Judgement::from_findings(found.collect())
    })
}

/// Every definition of Kyverno's was applied server-side, and none carries the annotation of a client-side apply.
pub fn applied_server_side() -> impl Expect<Installed> {
    expect_fn(|seen: &Installed| {
        let mut findings = vec![];
        for name in seen.definitions.values().flatten() {
            if seen.appliers.get(name).is_none_or(BTreeSet::is_empty) {
                findings.push(Finding::new("not-applied", name, "no manager applied it server-side"));
            }
        }
        for name in &seen.client_side {
            findings.push(Finding::new("annotated", name, "it has last-applied-configuration"));
        }
        if seen.definitions.is_empty() {
            return Judgement::Inconclusive("there are no definitions".to_owned());
        }
        Judgement::from_findings(findings)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::codes;
    use serde_json::json;

    fn policies() -> PoliciesSeen {
        let policy = json!({
            "spec": {"validationFailureAction": "Enforce", "admission": true, "background": true, "rules": [{"name": "r"}]},
            "status": {"conditions": [{"type": "Ready", "status": "True", "message": "Ready"}]},
        });
        PoliciesSeen { policies: POLICIES.iter().map(|name| ((*name).to_owned(), seen(&policy))).collect() }
    }

    #[test]
    fn policies_are_compared_with_the_table() {
        assert!(codes(three_that_enforce().judge(&policies())).is_empty());
        let mut audits = policies();
        audits.policies.get_mut("require-resources").unwrap().action = "Audit".into();
        assert_eq!(codes(three_that_enforce().judge(&audits)), ["not-enforced"]);
        let mut other = policies();
        let moved = other.policies.remove("require-app-label").unwrap();
        other.policies.insert("another".into(), PolicySeen { ready: ("False".into(), String::new()), ..moved });
        assert_eq!(codes(three_that_enforce().judge(&other)), ["policy-missing", "policy-unexpected"]);
    }

    fn installed() -> Installed {
        let definition = json!({
            "name": "policies.kyverno.io", "managedFields": [{"manager": "shakedown", "operation": "Apply"}],
        });
        let mut seen = Installed {
            deployments: Controller::ALL.iter().map(|c| (c.deployment().name, (1, 1))).collect(),
            endpoints: BTreeMap::from([("kyverno-svc".to_owned(), BTreeSet::from(["a".to_owned()]))]),
            admission: BTreeSet::from(["a".to_owned()]),
            ..Installed::default()
        };
        defined(&definition, &mut seen);
        for (kind, name) in [
            ("ValidatingWebhookConfiguration", "kyverno-resource-validating-webhook-cfg"),
            ("ValidatingWebhookConfiguration", "kyverno-policy-validating-webhook-cfg"),
            ("MutatingWebhookConfiguration", "kyverno-policy-mutating-webhook-cfg"),
        ] {
            let configuration = json!({
                "metadata": {"name": name, "labels": {"webhook.kyverno.io/managed-by": "kyverno"}},
                "webhooks": [{"name": "w", "clientConfig": {
                    "caBundle": "Q0E=", "service": {"namespace": "kyverno", "name": "kyverno-svc"}}}],
            });
            seen.webhooks.extend(webhooks(kind, &configuration));
        }
        seen
    }

    #[test]
    fn an_installation_is_judged() {
        let seen = installed();
        assert!(codes(four_controllers().judge(&seen)).is_empty());
        assert!(codes(webhooks_are_answered().judge(&seen)).is_empty());
        assert!(codes(definitions(&["policies"], &[]).judge(&seen)).is_empty());
        assert!(codes(applied_server_side().judge(&seen)).is_empty());
        assert!(codes(no_webhook_besides(&[]).judge(&seen)).is_empty());
        assert_eq!(codes(definitions(&["policies", "cleanuppolicies"], &[]).judge(&seen)), ["definition-missing"]);
        assert_eq!(codes(definitions(&[], &[]).judge(&seen)), ["definition-unexpected"]);
    }

    #[test]
    fn what_is_wrong_with_an_installation_is_named() {
        let mut seen = installed();
        seen.deployments.insert("kyverno-reports-controller".into(), (0, 0));
        seen.endpoints.clear();
        seen.client_side.insert("policies".into());
        seen.webhooks[0].managed = false;
        seen.webhooks.remove(2);
        assert_eq!(codes(four_controllers().judge(&seen)), ["controller-down"]);
        assert_eq!(codes(webhooks_are_answered().judge(&seen)), ["webhook-missing", "nobody-answers"]);
        assert_eq!(codes(applied_server_side().judge(&seen)), ["annotated"]);
        assert_eq!(codes(no_webhook_besides(&[]).judge(&seen)), ["webhook-unexpected"]);
    }
}
