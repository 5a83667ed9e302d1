//! Kyverno: the bundle's install manifest, adapted, and the three documented policies.
//!
//! Both stay installed, so they must not stand in the way of anybody else: Kyverno is asked about requests in labelled
//! namespaces only ([`names::POLICY_LABEL`]). The policies themselves are as documented, for the whole cluster, and the
//! reports are about the whole cluster.

use std::time::Duration;

use futures::future::BoxFuture;
use serde_json::{Value, json};
use shakedown_core::{Answer, Capability};

use super::kyverno_manifest::adapted;
use crate::apply::condition_is_true;
use crate::component::{Component, State, not_rolled_out};
use crate::error::{Result, StackError};
use crate::names;
use crate::render::{Vars, filled};
use crate::site::Site;

/// Four programs of 90 MB each start on two cores, two of them draw their certificates first.
const BUDGET: Duration = Duration::from_secs(300);
/// A policy is in force once the webhook's rules name its kinds.
const IN_FORCE: Duration = Duration::from_secs(120);
/// What all of Kyverno's webhook configurations carry.
const MANAGED: &str = "webhook.kyverno.io/managed-by=kyverno";
/// The webhook configurations that must be there before a policy is sent: kind, name.
const WEBHOOKS: [(&str, &str); 3] = [
    ("ValidatingWebhookConfiguration", "kyverno-policy-validating-webhook-cfg"),
    ("MutatingWebhookConfiguration", "kyverno-policy-mutating-webhook-cfg"),
    ("ValidatingWebhookConfiguration", "kyverno-cleanup-validating-webhook-cfg"),
];
/// Services that the webhooks name.
const SERVICES: [&str; 2] = ["kyverno-svc", "kyverno-cleanup-controller"];
const REGISTRATION: &str = "admissionregistration.k8s.io/v1";

/// Kyverno itself.
pub struct Kyverno;

impl Component for Kyverno {
    fn name(&self) -> &'static str {
        "kyverno"
    }

    fn what(&self) -> &'static str {
        "Kyverno in namespace kyverno, asked about labelled namespaces only"
    }

    fn needs(&self) -> &'static [&'static str] {
        &["cilium", "schedulable"]
    }

    fn after(&self) -> &'static [&'static str] {
        &["coredns", "apiservers"]
    }

    fn version(&self, site: &Site) -> String {
        site.tools.tag("kyverno").unwrap_or_else(|| "unknown".to_owned())
    }

    fn readiness(&self) -> &'static str {
        "its four workloads are rolled out, its webhooks are registered and their endpoints are ready"
    }

    fn state<'a>(&'a self, site: &'a Site) -> BoxFuture<'a, Result<State>> {
        Box::pin(async move {
            let objects = objects(site)?;
            let mut found = site.applier.drift(&objects).await?;
            if found.is_empty() {
                found = not_rolled_out(site, &objects).await?;
            }
            if found.is_empty()
                && let Answer::NotYet(seen) | Answer::Never(seen) = webhooks(site).await?
            {
                found.push(seen);
            }
            Ok(State::of(&found))
        })
    }

    fn install<'a>(&'a self, site: &'a Site) -> BoxFuture<'a, Result<()>> {
        // Server-side: the definitions do not fit into the annotation of a client-side apply (KYV-013).
        Box::pin(async move { site.applier.apply(&objects(site)?).await })
    }

    fn ready<'a>(&'a self, site: &'a Site) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            site.rolled_out(self.name(), &objects(site)?, BUDGET).await?;
            site.wait(self.name(), "its webhooks", IN_FORCE, || async {
                webhooks(site).await.unwrap_or_else(|error| Answer::NotYet(error.to_string()))
            })
            .await
        })
    }

    fn remove<'a>(&'a self, site: &'a Site) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            let objects = objects(site)?;
            let (workloads, rest): (Vec<_>, Vec<_>) = objects.into_iter().partition(|o| o["kind"] == "Deployment");
            // Webhooks that nobody answers refuse what they are asked about: they go once nobody writes them any more.
            site.applier.delete(&workloads, BUDGET).await?;
            for (kind, _) in WEBHOOKS {
                let left = managed(site, kind).await?;
                site.applier.delete(&left, BUDGET).await?;
            }
            site.applier.delete(&rest, BUDGET).await
        })
    }
}

fn objects(site: &Site) -> Result<Vec<Value>> {
    let path = &site.tools.kyverno_manifest;
    let manifest =
        std::fs::read_to_string(path).map_err(|e| StackError::file(format!("read {}", path.display()), e))?;
    adapted(&manifest, &|short| site.tools.image(short))
}

/// Webhook configurations of a kind that Kyverno wrote.
async fn managed(site: &Site, kind: &str) -> Result<Vec<Value>> {
    let api = site.applier.api(REGISTRATION, kind, None).await?;
    let list = api.list(&kube::api::ListParams::default().labels(MANAGED)).await;
    let list = list.map_err(|e| StackError::api(format!("list {kind}s"), e))?;
    let named = |name: String| json!({"apiVersion": REGISTRATION, "kind": kind, "metadata": {"name": name}});
    Ok(list.items.into_iter().filter_map(|item| item.metadata.name).map(named).collect())
}

/// Whether the webhooks are registered with a certificate authority, and somebody answers them.
async fn webhooks(site: &Site) -> Result<Answer<()>> {
    for (kind, name) in WEBHOOKS {
        let object = json!({"apiVersion": REGISTRATION, "kind": kind, "metadata": {"name": name}});
        match site.applier.get_value(&object).await? {
            None => return Ok(Answer::NotYet(format!("{name} is not registered"))),
            Some(live) if !trusted(&live) => return Ok(Answer::NotYet(format!("{name} names no authority"))),
            Some(_) => {}
        }
    }
    for service in SERVICES {
        let api = site.applier.api("discovery.k8s.io/v1", "EndpointSlice", Some(names::KYVERNO_NAMESPACE)).await?;
        let of_service = kube::api::ListParams::default().labels(&format!("kubernetes.io/service-name={service}"));
        let slices = api.list(&of_service).await.map_err(|e| StackError::api("list EndpointSlices", e))?;
        if !slices.items.iter().any(|slice| has_ready_endpoint(&slice.data)) {
            return Ok(Answer::NotYet(format!("{service} has no ready endpoint")));
        }
    }
    Ok(Answer::Ready(()))
}

/// Every webhook of a configuration names the authority of its certificate.
fn trusted(configuration: &Value) -> bool {
    let webhooks = configuration["webhooks"].as_array();
    webhooks.is_some_and(|all| {
        !all.is_empty() && all.iter().all(|w| w["clientConfig"]["caBundle"].as_str().is_some_and(|ca| !ca.is_empty()))
    })
}

fn has_ready_endpoint(slice: &Value) -> bool {
    slice["endpoints"].as_array().is_some_and(|all| all.iter().any(|e| e["conditions"]["ready"] == true))
}

/// The documented policies.
pub struct Policies;

impl Component for Policies {
    fn name(&self) -> &'static str {
        "policies"
    }

    fn what(&self) -> &'static str {
        "the three documented ClusterPolicies, and the namespace kyverno-demo in which they bind"
    }

    fn needs(&self) -> &'static [&'static str] {
        &["kyverno"]
    }

    fn gives(&self) -> &'static [Capability] {
        &[Capability::Kyverno]
    }

    fn readiness(&self) -> &'static str {
        "all three are Ready, and the webhook asks about their kinds"
    }

    fn state<'a>(&'a self, site: &'a Site) -> BoxFuture<'a, Result<State>> {
        Box::pin(async move {
            let mut found = site.applier.drift(&policies()?).await?;
            if found.is_empty()
                && let Answer::NotYet(seen) | Answer::Never(seen) = in_force(site).await?
            {
                found.push(seen);
            }
            Ok(State::of(&found))
        })
    }

    fn install<'a>(&'a self, site: &'a Site) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move { site.applier.apply(&policies()?).await })
    }

    fn ready<'a>(&'a self, site: &'a Site) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            site.wait(self.name(), "the policies to be in force", IN_FORCE, || async {
                in_force(site).await.unwrap_or_else(|error| Answer::NotYet(error.to_string()))
            })
            .await
        })
    }

    fn remove<'a>(&'a self, site: &'a Site) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move { site.applier.delete(&policies()?, BUDGET).await })
    }
}

fn policies() -> Result<Vec<Value>> {
    let vars =
        Vars::from([("NAMESPACE", names::POLICY_NAMESPACE.to_owned()), ("LABEL", names::POLICY_LABEL.to_owned())]);
    filled("policies", include_str!("../manifests/policies.yaml"), &vars)
}

/// Every policy is Ready, and the apiserver asks about Pods and Deployments.
async fn in_force(site: &Site) -> Result<Answer<()>> {
    for policy in policies()?.iter().filter(|object| object["kind"] == "ClusterPolicy") {
        let name = policy["metadata"]["name"].as_str().unwrap_or_default();
        match site.applier.get_value(policy).await? {
            Some(live) if condition_is_true(&live, "Ready") => {}
            Some(_) => return Ok(Answer::NotYet(format!("{name} is not Ready"))),
            None => return Ok(Answer::NotYet(format!("{name} does not exist"))),
        }
    }
    let name = "kyverno-resource-validating-webhook-cfg";
    let object =
        json!({"apiVersion": REGISTRATION, "kind": "ValidatingWebhookConfiguration", "metadata": {"name": name}});
    let live = site.applier.get_value(&object).await?.unwrap_or_default();
    Ok(match ["pods", "deployments"].iter().find(|kind| !asks_about(&live, kind)) {
        None => Answer::Ready(()),
        Some(kind) => Answer::NotYet(format!("{name} does not ask about {kind}")),
    })
}

fn asks_about(configuration: &Value, resource: &str) -> bool {
    let rules = configuration["webhooks"].as_array().into_iter().flatten().flat_map(|w| w["rules"].as_array());
    rules.flatten().any(|rule| rule["resources"].as_array().is_some_and(|all| all.iter().any(|r| r == resource)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_documented_policies_are_complete() {
        let all = policies().unwrap();
        let mut found: Vec<_> = all.iter().filter(|o| o["kind"] == "ClusterPolicy").collect();
        found.sort_by_key(|o| o["metadata"]["name"].to_string());
        assert_eq!(found.iter().map(|o| o["metadata"]["name"].as_str().unwrap()).collect::<Vec<_>>(), names::POLICIES);
        assert!(found.iter().all(|o| o["spec"]["validationFailureAction"] == "Enforce"));
        assert_eq!(all[0]["metadata"]["labels"][names::POLICY_LABEL], "enforced");
    }

    #[test]
    fn a_webhook_without_an_authority_is_not_registered() {
        let with = |ca: &str| json!({"webhooks": [{"clientConfig": {"caBundle": ca}}]});
        assert!(trusted(&with("Q0E=")));
        assert!(!trusted(&with("")) && !trusted(&json!({"webhooks": []})) && !trusted(&json!({})));
    }

    #[test]
    fn endpoints_and_rules_are_read() {
        assert!(has_ready_endpoint(&json!({"endpoints": [{"conditions": {"ready": true}}]})));
        assert!(!has_ready_endpoint(&json!({"endpoints": [{"conditions": {"ready": false}}]})));
        let asks = json!({"webhooks": [{"rules": [{"resources": ["pods", "pods/ephemeralcontainers"]}]}]});
        assert!(asks_about(&asks, "pods") && !asks_about(&asks, "deployments"));
        assert!(condition_is_true(&json!({"status": {"conditions": [{"type": "Ready", "status": "True"}]}}), "Ready"));
        assert!(!condition_is_true(&json!({"status": {}}), "Ready"));
    }
}
