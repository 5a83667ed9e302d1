//! The bundle's install manifest of Kyverno, adapted: pinned images, and the settings that the platform's documents ask
//! for and the manifest leaves off.

use serde_json::{Value, json};

use crate::error::{Result, StackError};
use crate::names;
use crate::render::objects;

/// Last part of an image's name in the manifest to the bundle's short name.
const IMAGES: &[(&str, &str)] = &[
    ("kyverno", "kyverno"),
    ("kyvernopre", "kyverno-init"),
    ("background-controller", "kyverno-background-controller"),
    ("cleanup-controller", "kyverno-cleanup-controller"),
    ("reports-controller", "kyverno-reports-controller"),
];
/// The documented registry speaks plain HTTP (REG-001).
const INSECURE: &str = "--allowInsecureRegistry=";
/// The documents exempt system components by exceptions (KYV-055, KYV-061), which are off in the manifest.
const EXCEPTIONS: &str = "--enablePolicyException=";

/// The manifest's objects with the bundle's images and the platform's settings.
///
/// # Errors
/// [`StackError::Manifest`] where the manifest is no YAML, names an image that is not in the bundle, or has no
/// settings; whatever `image` says.
pub fn adapted(manifest: &str, image: &dyn Fn(&str) -> Result<String>) -> Result<Vec<Value>> {
    let mut all = objects("kyverno install", manifest)?;
    let mut settings = false;
    for object in &mut all {
        match (object["kind"].as_str(), object["metadata"]["name"].as_str()) {
            (Some("ConfigMap"), Some("kyverno")) => settings = asked_about_labelled_namespaces(object)?,
            (Some("Deployment"), _) => deployment(object, image)?,
            _ => {}
        }
    }
    if settings { Ok(all) } else { Err(wrong("it has no ConfigMap kyverno".to_owned())) }
}

fn wrong(why: String) -> StackError {
    StackError::Manifest { name: "kyverno install".to_owned(), why }
}

/// Adds our label to the selector that keeps the webhooks out of kube-system and of Kyverno's own namespace.
fn asked_about_labelled_namespaces(settings: &mut Value) -> Result<bool> {
    let text = settings["data"]["webhooks"].as_str().unwrap_or_default();
    let mut webhooks: Value =
        serde_json::from_str(text).map_err(|e| wrong(format!("its setting `webhooks` is no JSON: {e}")))?;
    let Some(expressions) = webhooks.pointer_mut("/namespaceSelector/matchExpressions").and_then(Value::as_array_mut)
    else {
        return Err(wrong("its setting `webhooks` has no namespaceSelector".to_owned()));
    };
    expressions.push(json!({"key": names::POLICY_LABEL, "operator": "Exists"}));
    settings["data"]["webhooks"] = webhooks.to_string().into();
    Ok(true)
}

fn deployment(object: &mut Value, image: &dyn Fn(&str) -> Result<String>) -> Result<()> {
    if let Some(spec) = object["spec"].as_object_mut() {
        // A null is no number of replicas, and a server-side apply would own it.
        spec.retain(|_, value| !value.is_null());
    }
    let pod = &mut object["spec"]["template"]["spec"];
    for list in ["initContainers", "containers"] {
        for container in pod.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten() {
            let named = container["image"].as_str().unwrap_or_default().to_owned();
            let base = named.rsplit('/').next().and_then(|s| s.split([':', '@']).next()).unwrap_or_default();
            let Some((_, short)) = IMAGES.iter().find(|(theirs, _)| *theirs == base) else {
                return Err(wrong(format!("no stand-in for image {named}")));
            };
            container["image"] = image(short)?.into();
            container["imagePullPolicy"] = "IfNotPresent".into();
            if list == "initContainers"
                && let Some(limits) = container.pointer_mut("/resources/limits").and_then(Value::as_object_mut)
            {
                // A tenth of a processor for the program that everything waits for.
                limits.remove("cpu");
            }
            arguments(container);
        }
    }
    Ok(())
}

fn arguments(container: &mut Value) {
    let Some(args) = container.get_mut("args").and_then(Value::as_array_mut) else { return };
    let mut exceptions = false;
    for arg in args.iter_mut() {
        let text = arg.as_str().unwrap_or_default();
        if text.starts_with(INSECURE) {
            *arg = format!("{INSECURE}true").into();
        } else if text.starts_with(EXCEPTIONS) {
            *arg = format!("{EXCEPTIONS}true").into();
            exceptions = true;
        }
    }
    if exceptions {
        args.push(format!("--exceptionNamespace={}", names::POLICY_NAMESPACE).into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// In the shape of the real one, written by hand.
    const MANIFEST: &str = r#"
apiVersion: v1
kind: ConfigMap
metadata: {name: kyverno, namespace: kyverno}
data:
  webhooks: '{"namespaceSelector":{"matchExpressions":[{"key":"kubernetes.io/metadata.name","operator":"NotIn","values":["kube-system"]}]}}'
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: kyverno-admission-controller, namespace: kyverno}
spec:
  replicas: null
  template:
    spec:
      initContainers:
      - {name: kyverno-pre, image: "ghcr.io/kyverno/kyvernopre:latest", resources: {limits: {cpu: 100m, memory: 256Mi}}}
      containers:
      - name: kyverno
        image: ghcr.io/kyverno/kyverno:latest
        args: [--v=2, --enablePolicyException=false, --allowInsecureRegistry=false]
"#;

    fn image(short: &str) -> Result<String> {
        Ok(format!("local/{short}:1"))
    }

    #[test]
    fn the_manifest_is_adapted() {
        insta::assert_yaml_snapshot!(adapted(MANIFEST, &image).unwrap());
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        let refused = |from: &str, to: &str| adapted(&MANIFEST.replace(from, to), &image).unwrap_err().to_string();
        assert!(refused("kyvernopre:", "kyvernopost:").contains("no stand-in for image ghcr.io/kyverno/kyvernopost"));
        assert!(refused("namespaceSelector", "selector").contains("no namespaceSelector"));
        assert!(refused("name: kyverno, n", "name: other, n").contains("no ConfigMap kyverno"));
    }
}
