//! Sabotages of Pod Security's labels. Each is shown to have landed by every apiserver's answers to a few dry runs.

use std::sync::LazyLock;

use http::Method;
use kube::client::Client;
use serde_json::{Value, json};

use crate::admission::pod_security;
use crate::api::{Ask, Patch};
use crate::change::{Change, Signal, Step, patched};
use crate::objects::ObjectRef;

/// The prefix of Pod Security's labels.
pub const PREFIX: &str = "pod-security.kubernetes.io";

/// Pods whose answers tell the levels apart: one breaks `baseline`, one only `restricted`, one only a rule newer than
/// v1.30 (the host of a probe, checked from v1.34 on), one nothing.
static TELLTALES: LazyLock<[Value; 4]> = LazyLock::new(|| {
    let pod =
        |name: &str, spec: Value| json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec});
    let hardened = json!({
        "allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}, "runAsNonRoot": true,
        "seccompProfile": {"type": "RuntimeDefault"},
    });
    [
        pod("telltale-host", json!({"hostNetwork": true, "containers": [{"name": "c", "image": "none"}]})),
        pod("telltale-plain", json!({"containers": [{"name": "c", "image": "none"}]})),
        pod(
            "telltale-probe",
            json!({"containers": [{
                "name": "c", "image": "none", "securityContext": hardened.clone(),
                "livenessProbe": {"httpGet": {"port": 80, "host": "127.0.0.1"}},
            }]}),
        ),
        pod("telltale-good", json!({"containers": [{"name": "c", "image": "none", "securityContext": hardened}]})),
    ]
});

/// What an apiserver answers to the telltales in namespaces.
pub fn answers_in(namespaces: &[&str]) -> Signal {
    let paths: Vec<_> = namespaces.iter().map(|ns| format!("/api/v1/namespaces/{ns}/pods?dryRun=All")).collect();
    Box::new(move |_, client| {
        let paths = paths.clone();
        Box::pin(async move {
            let mut said = vec![];
            for path in &paths {
                for telltale in TELLTALES.iter() {
                    said.push(answer_to(telltale, path, client).await?);
                }
            }
            Ok(said.join(" | "))
        })
    })
}

async fn answer_to(telltale: &Value, path: &str, client: &Client) -> Result<String, String> {
    let answer = Ask::new(Method::POST, path).with(telltale).send(client).await.map_err(|e| e.to_string())?;
    if answer.message().contains("error looking up service account") {
        // A namespace that is just being made: its default service account is a controller's work and still to come.
        return Err(answer.message().to_owned());
    }
    let name = telltale["metadata"]["name"].as_str().unwrap_or_default();
    let by = |text: &str| pod_security(text).map(|seen| format!(" {} for {}", seen.policy, seen.violations.len()));
    let refused = by(answer.message()).unwrap_or_default();
    let warned: String = answer.warnings.iter().filter_map(|text| by(text)).collect();
    Ok(format!("{name} {}{refused}, warned{warned}", answer.code))
}

/// The label of a mode, such as `enforce` or `enforce-version`.
pub fn label(mode: &str) -> String {
    format!("{PREFIX}/{mode}")
}

/// The namespace's label for a mode is another (or, with `None`, is gone).
pub fn relabelled(namespace: &str, mode: &str, value: Option<&str>) -> Change {
    let what = match value {
        Some(value) => format!("{} of namespace {namespace} is {value}", label(mode)),
        None => format!("{} of namespace {namespace} is gone", label(mode)),
    };
    let patch = json!({"metadata": {"labels": {label(mode): value}}});
    patched(what, ObjectRef::cluster("v1", "Namespace", namespace), patch).shown_by(answers_in(&[namespace]))
}

/// The namespace's enforced level is lowered.
pub fn enforce_lowered_to(namespace: &str, level: &str) -> Change {
    relabelled(namespace, "enforce", Some(level))
}

/// The namespace's label is changed without an effect on admission of Pods (the audit log is another matter).
pub fn relabelled_silently(namespace: &str, mode: &str, value: Option<&str>) -> Change {
    let patch = json!({"metadata": {"labels": {label(mode): value}}});
    patched(
        format!("{} of namespace {namespace} is {}", label(mode), value.unwrap_or("gone")),
        ObjectRef::cluster("v1", "Namespace", namespace),
        patch,
    )
}

/// A namespace of its own for a check, with these labels of Pod Security.
pub fn namespace(name: &str, modes: &[(&str, &str)]) -> Value {
    let labels: serde_json::Map<_, _> = modes.iter().map(|(mode, value)| (label(mode), json!(value))).collect();
    json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}})
}

/// A patch of a namespace's label, as a step of a larger change.
pub fn relabel(namespace: &str, mode: &str, value: Option<&str>) -> Step {
    let patch = json!({"metadata": {"labels": {label(mode): value}}});
    Step::Patch(ObjectRef::cluster("v1", "Namespace", namespace), Patch::Merge, patch)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::platform::Platform;
    use crate::testing::FakeApi;
    use shakedown_engine::Sabotage;

    #[tokio::test]
    async fn a_label_without_effect_on_the_apiservers_is_not_planted() {
        tokio::time::pause();
        let platform =
            Platform::for_test(FakeApi::with([namespace("n", &[("enforce", "restricted")])]).client(), vec![]);
        // The stand-in admits everything, so no label can be shown to have landed.
        let error = enforce_lowered_to("n", "baseline").plant(&platform, &()).await.unwrap_err();
        assert!(error.0.contains("did not come within"), "{error}");
    }

    #[test]
    fn removal_is_a_null_in_the_patch() {
        let Step::Patch(_, _, patch) = relabel("n", "warn", None) else { panic!("a patch") };
        assert_eq!(patch["metadata"]["labels"], json!({"pod-security.kubernetes.io/warn": null}));
    }
}
