//! What the checks of this area share: namespaces, requests that tell policies apart, policies of their own.

use serde_json::{Value, json};
use shakedown_words::change::{Shared, shared};
use shakedown_words::kyverno::{answers_to, both, pod, requests, right_of, within};
use shakedown_words::manifests;

/// The namespace of scenes: Kyverno is asked about it.
pub(super) const SCENES: &str = "shakedown-kyverno";
/// A namespace that it is not asked about yet.
pub(super) const LATER: &str = "shakedown-kyverno-later";
/// An image that is on every node.
pub(super) const IMAGE: &str = "registry.k8s.io/pause:3.10.1";

/// Namespaces and rights, made once. They are there when a Pod can be created in both and the rights are aggregated.
pub(super) fn stage() -> Shared {
    let telltale = |namespace| within(namespace, compliant("telltale"));
    shared("kyverno-stage", manifests!("shared.yaml")).shown_by(both(
        answers_to(vec![telltale(LATER), telltale(SCENES)]),
        both(
            right_of(("kyverno", "kyverno-cleanup-controller"), "delete", ("", "configmaps")),
            right_of(("kyverno", "kyverno-background-controller"), "update", ("", "pods")),
        ),
    ))
}

/// One of the documented scenarios.
pub(super) fn scenario(index: usize) -> Value {
    manifests!("scenarios.yaml").into_iter().nth(index).unwrap_or_default()
}

/// A Pod that keeps the documented rules.
pub(super) fn compliant(name: &str) -> Value {
    pod(name, IMAGE, requests())
}

/// A policy of the namespace of scenes that looks at objects of one kind whose names begin so. It does not take part in
/// background scans unless a scene is about them.
pub(super) fn own_policy(name: &str, kind: &str, names: &str, rule: Value) -> Value {
    let mut rule = rule;
    rule["name"] = name.into();
    rule["match"] = json!({"any": [{"resources": {"kinds": [kind], "names": [names]}}]});
    json!({
        "apiVersion": "kyverno.io/v1", "kind": "Policy", "metadata": {"name": name, "namespace": SCENES},
        "spec": {"validationFailureAction": "Enforce", "background": false, "rules": [rule]},
    })
}

/// A rule that demands this pattern.
pub(super) fn demands(message: &str, pattern: Value) -> Value {
    json!({"validate": {"message": message, "pattern": pattern}})
}
