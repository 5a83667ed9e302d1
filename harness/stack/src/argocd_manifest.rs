//! The bundle's core-install manifest of Argo CD, adapted: what it leaves to argocd-server or to a registry on the
//! internet is supplied here.

use serde_json::{Value, json};

use crate::error::{Result, StackError};
use crate::names;
use crate::render::objects;

/// Images that stand in for those of the manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Images {
    /// For every image called `argocd`.
    pub argocd: String,
    /// For every image called `redis`.
    pub redis: String,
}

/// Environment of the components. Without GPG's wrappers in the image, signature checks have to be off.
const ENVIRONMENT: &[(&str, &str)] = &[("ARGOCD_GPG_ENABLED", "false")];

/// Entrypoint of the redis image: the manifest gives arguments only, some of which redis-server alone understands.
const REDIS_COMMAND: &[&str] = &["redis-server"];

/// The manifest's objects in namespace `argocd`, with our images and pull policy, the `default` project that
/// argocd-server would have written, and the `server.secretkey` that it would have drawn.
///
/// # Errors
/// [`StackError::Manifest`] where the manifest is no YAML or names an image that has no stand-in.
pub fn adapted(manifest: &str, images: &Images, secret_key: &str) -> Result<Vec<Value>> {
    let mut all = vec![json!({
        "apiVersion": "v1", "kind": "Namespace", "metadata": {"name": names::ARGOCD_NAMESPACE},
    })];
    for mut object in objects("argo-cd core-install", manifest)? {
        let kind = object["kind"].as_str().unwrap_or_default().to_owned();
        if !matches!(kind.as_str(), "CustomResourceDefinition" | "ClusterRole" | "ClusterRoleBinding" | "Namespace") {
            object["metadata"]["namespace"] = names::ARGOCD_NAMESPACE.into();
        }
        if kind == "Secret" && object["metadata"]["name"] == "argocd-secret" {
            object["stringData"] = json!({"server.secretkey": secret_key});
        }
        if matches!(kind.as_str(), "Deployment" | "StatefulSet") {
            let pod = &mut object["spec"]["template"]["spec"];
            for list in ["initContainers", "containers"] {
                for container in pod.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten() {
                    adapt(container, images)?;
                }
            }
        }
        all.push(object);
    }
    all.push(json!({
        "apiVersion": "argoproj.io/v1alpha1", "kind": "AppProject",
        "metadata": {"name": "default", "namespace": names::ARGOCD_NAMESPACE},
        "spec": {
            "sourceRepos": ["*"],
            "destinations": [{"namespace": "*", "server": "*"}],
            "clusterResourceWhitelist": [{"group": "*", "kind": "*"}],
        },
    }));
    Ok(all)
}

fn adapt(container: &mut Value, images: &Images) -> Result<()> {
    let image = container["image"].as_str().unwrap_or_default().to_owned();
    let base = image.rsplit('/').next().and_then(|s| s.split([':', '@']).next()).unwrap_or_default();
    container["image"] = match base {
        "argocd" => images.argocd.clone().into(),
        "redis" => {
            container["command"] = json!(REDIS_COMMAND);
            images.redis.clone().into()
        }
        _ => {
            return Err(StackError::Manifest {
                name: "argo-cd core-install".into(),
                why: format!("no stand-in for image {image}"),
            });
        }
    };
    container["imagePullPolicy"] = "IfNotPresent".into();
    if base == "argocd" {
        let mut env = container["env"].as_array().cloned().unwrap_or_default();
        for (name, value) in ENVIRONMENT {
            env.retain(|e| e["name"] != *name);
            env.push(json!({"name": name, "value": value}));
        }
        container["env"] = env.into();
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// In the shape of the real one, written by hand.
    const MANIFEST: &str = r#"
apiVersion: v1
kind: Secret
metadata: {name: argocd-secret}
type: Opaque
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: argocd-application-controller}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: argocd-redis}
spec:
  template:
    spec:
      initContainers:
      - {name: secret-init, image: "quay.io/argoproj/argocd:v3.2.5", imagePullPolicy: IfNotPresent}
      containers:
      - {name: redis, image: "public.ecr.aws/docker/library/redis:8-alpine", imagePullPolicy: Always, args: [--save, ""]}
"#;

    fn images() -> Images {
        Images { argocd: "local/argocd:1".into(), redis: "local/redis:1".into() }
    }

    #[test]
    fn the_manifest_is_adapted() {
        insta::assert_yaml_snapshot!(adapted(MANIFEST, &images(), "KEY").unwrap());
    }

    #[test]
    fn an_image_without_stand_in_is_refused() {
        let other = MANIFEST.replace("library/redis", "library/valkey");
        let error = adapted(&other, &images(), "KEY").unwrap_err().to_string();
        assert!(error.contains("no stand-in for image public.ecr.aws/docker/library/valkey:8-alpine"), "{error}");
    }
}
