//! The desired state of everything that an exclusive check must leave as it was: objects of the API, files and rules of
//! the nodes, processes by role. No status, version, time or leader.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::{StreamExt, TryStreamExt};
use serde_json::Value;
use sha2::{Digest, Sha256};
use shakedown_core::{Answer, wait_for};
use shakedown_engine::{Fingerprint, WorldError};

use crate::api::{ApiAnswer, Ask};
use crate::objects::{percent, version_path};
use crate::platform::Platform;
use crate::undo::desired;

/// Kinds that controllers write by themselves, or that come and go.
const PASSING: &[&str] = &[
    "Event",
    "Lease",
    "Endpoints",
    "EndpointSlice",
    "Pod",
    "ReplicaSet",
    "ControllerRevision",
    "CSINode",
    "VolumeAttachment",
    "CertificateSigningRequest",
    "ComponentStatus",
    "CiliumEndpoint",
    "CiliumIdentity",
    "CiliumNode",
    "CiliumEndpointSlice",
    "PolicyReport",
    "ClusterPolicyReport",
    "EphemeralReport",
    "ClusterEphemeralReport",
    "UpdateRequest",
    "PodMetrics",
    "NodeMetrics",
    "IPAddress",
    "ServiceCIDR",
    "APIService",
    "StorageVersion",
    "FlowSchema",
    "PriorityLevelConfiguration",
];
/// Annotations and labels that controllers write by themselves.
const WRITTEN: &[&str] = &[
    "deployment.kubernetes.io/revision",
    "control-plane.alpha.kubernetes.io/leader",
    "deprecated.daemonset.template.generation",
    "argocd.argoproj.io/refresh",
    "volumes.kubernetes.io/controller-managed-attach-detach",
];
/// How long an apiserver that has too much to do is asked again.
const PATIENCE: Duration = Duration::from_secs(30);
/// Lists read at once.
const AT_ONCE: usize = 8;
/// Objects of an answer: definitions with their schemas are megabytes, and what was once held is not given back.
const PAGE: usize = 20;

/// What is read on a node: files by hash, firewall rules without counters, processes by role.
const ON_NODE: &str = r#"
find /etc/kubernetes /etc/containerd /etc/cni /var/lib/kubelet/config.yaml /etc/hosts /etc/sysctl.d -type f 2>/dev/null |
  LC_ALL=C sort | xargs -r sha256sum | sed 's/^/file /'
iptables-save 2>/dev/null | grep -v '^[#:]' | LC_ALL=C sort | sha256sum | sed 's/^/rules /'
for f in /proc/[0-9]*/comm; do cat "$f" 2>/dev/null; done |
  grep -xE 'containerd|kubelet|haproxy|kube-apiserver|kube-controller|kube-scheduler|etcd|cilium-agent' |
  LC_ALL=C sort | uniq -c | sed 's/^/process /'
"#;

/// Takes it.
///
/// # Errors
/// Something could not be read.
pub async fn take(platform: &Platform) -> Result<Fingerprint, WorldError> {
    let (objects, nodes) = futures::join!(of_api(platform), of_nodes(platform));
    let mut all = objects?;
    all.extend(nodes?);
    Ok(all)
}

async fn of_api(platform: &Platform) -> Result<Fingerprint, WorldError> {
    let lists = collections(platform).await?;
    let read = futures::stream::iter(lists)
        .map(|(version, kind, path)| async move {
            let mut hashes = Vec::new();
            let mut page = format!("{path}?limit={PAGE}");
            loop {
                let answer = patiently(platform, &page).await?;
                if !answer.is_ok() {
                    return Err(WorldError(format!("{path}: answered {}: {}", answer.code, answer.message())));
                }
                let items = answer.body["items"].as_array().into_iter().flatten();
                hashes.extend(items.map(|item| (name_of(&version, &kind, item), hash_of(item))));
                match answer.body["metadata"]["continue"].as_str() {
                    Some(token) if !token.is_empty() => {
                        page = format!("{path}?limit={PAGE}&continue={}", percent(token));
                    }
                    _ => return Ok(hashes),
                }
            }
        })
        .buffer_unordered(AT_ONCE)
        .try_collect::<Vec<_>>()
        .await?;
    Ok(read.into_iter().flatten().collect())
}

/// Asks again for as long as the apiserver says that it has too much to do (429): its cache of a kind is being filled.
async fn patiently(platform: &Platform, path: &str) -> Result<ApiAnswer, WorldError> {
    wait_for(path, PATIENCE, || async {
        match Ask::get(path).send(platform.admin()).await {
            Ok(answer) if answer.code == 429 => Answer::NotYet(answer.message().to_owned()),
            Ok(answer) => Answer::Ready(answer),
            Err(e) => Answer::Never(e.to_string()),
        }
    })
    .await
    .map_err(|e| WorldError(e.to_string()))
}

/// Every kind that can be listed and is desired state: version, kind, path.
async fn collections(platform: &Platform) -> Result<Vec<(String, String, String)>, WorldError> {
    let ask = |path: String| async move {
        let answer = Ask::get(&path).send(platform.admin()).await.map_err(|e| WorldError(e.to_string()))?;
        if answer.is_ok() { Ok(answer.body) } else { Err(WorldError(format!("{path}: answered {}", answer.code))) }
    };
    let groups = ask("/apis".to_owned()).await?;
    let mut versions = vec!["v1".to_owned()];
    for group in groups["groups"].as_array().into_iter().flatten() {
        // Served by an aggregated apiserver that may be down; its objects are measurements.
        if group["name"] != "metrics.k8s.io" {
            versions.extend(group["preferredVersion"]["groupVersion"].as_str().map(str::to_owned));
        }
    }
    let lists = futures::stream::iter(versions)
        .map(|version| async move {
            let folder = version_path(&version);
            let body = ask(folder.clone()).await?;
            Ok::<_, WorldError>(listable(&version, &folder, &body))
        })
        .buffered(AT_ONCE)
        .try_collect::<Vec<_>>()
        .await?;
    Ok(lists.into_iter().flatten().collect())
}

fn listable(version: &str, folder: &str, body: &Value) -> Vec<(String, String, String)> {
    let resources = body["resources"].as_array().into_iter().flatten();
    resources
        .filter_map(|resource| {
            let (name, kind) = (resource["name"].as_str()?, resource["kind"].as_str()?);
            let lists = resource["verbs"].as_array()?.iter().any(|verb| verb == "list");
            let wanted = lists && !name.contains('/') && !PASSING.contains(&kind);
            wanted.then(|| (version.to_owned(), kind.to_owned(), format!("{folder}/{name}")))
        })
        .collect()
}

fn name_of(version: &str, kind: &str, item: &Value) -> String {
    let ns = item["metadata"]["namespace"].as_str().unwrap_or("-");
    format!("api/{version}/{kind}/{ns}/{}", item["metadata"]["name"].as_str().unwrap_or_default())
}

/// The hash of the desired part. A Secret's values are in it and cannot be had back from it.
fn hash_of(item: &Value) -> String {
    let mut desired = desired(item);
    for map in ["annotations", "labels"] {
        if let Some(map) = desired["metadata"].get_mut(map).and_then(Value::as_object_mut) {
            map.retain(|key, _| !WRITTEN.contains(&key.as_str()));
        }
    }
    // What an Application's controller writes while it syncs.
    if let Some(fields) = desired.as_object_mut() {
        fields.remove("operation");
    }
    hex(&Sha256::digest(desired.to_string().as_bytes()))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

async fn of_nodes(platform: &Platform) -> Result<Fingerprint, WorldError> {
    let read = futures::future::try_join_all(platform.machines().keys().map(|node| async move {
        let text = platform.exec_ok(node, &["sh", "-c", ON_NODE]).await.map_err(|e| WorldError(e.to_string()))?;
        Ok::<_, WorldError>(of_node(node, &text))
    }))
    .await?;
    Ok(read.into_iter().flatten().collect())
}

fn of_node(node: &str, text: &str) -> BTreeMap<String, String> {
    text.lines()
        .filter_map(|line| {
            let mut parts = line.split_whitespace();
            Some(match (parts.next()?, parts.next()?, parts.next()?) {
                ("file", hash, path) => (format!("node/{node}/file{path}"), hash.to_owned()),
                ("rules", hash, _) => (format!("node/{node}/rules"), hash.to_owned()),
                ("process", count, name) => (format!("node/{node}/process/{name}"), count.to_owned()),
                _ => return None,
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn only_desired_state_changes_the_hash() {
        let item = json!({
            "apiVersion": "v1", "kind": "X", "metadata": {"name": "a", "resourceVersion": "1", "labels": {"l": "1"}},
            "spec": {"a": 1}, "status": {"b": 1},
        });
        let mut later = item.clone();
        later["status"]["b"] = json!(2);
        later["metadata"]["resourceVersion"] = json!("2");
        later["metadata"]["annotations"] = json!({});
        let with_annotations = hash_of(&later);
        later["metadata"]["annotations"] = json!({"deployment.kubernetes.io/revision": "4"});
        assert_eq!(hash_of(&later), with_annotations);
        later["metadata"]["labels"]["l"] = json!("2");
        assert_ne!(hash_of(&later), with_annotations);
        let mut spec = item.clone();
        spec["spec"]["a"] = json!(2);
        assert_ne!(hash_of(&spec), hash_of(&item));
    }

    #[test]
    fn a_nodes_lines_are_read() {
        let text = "file abc  /etc/kubernetes/manifests/etcd.yaml\nrules def  -\nprocess       1 kubelet\n";
        let seen = of_node("cp-1", text);
        assert_eq!(seen["node/cp-1/file/etc/kubernetes/manifests/etcd.yaml"], "abc");
        assert_eq!(seen["node/cp-1/rules"], "def");
        assert_eq!(seen["node/cp-1/process/kubelet"], "1");
        assert_eq!(seen.len(), 3);
    }

    #[test]
    fn passing_kinds_and_subresources_are_left_out() {
        let body = json!({"resources": [
            {"name": "pods", "kind": "Pod", "verbs": ["list"]},
            {"name": "services", "kind": "Service", "verbs": ["list"]},
            {"name": "services/status", "kind": "Service", "verbs": ["get"]},
            {"name": "bindings", "kind": "Binding", "verbs": ["create"]},
        ]});
        assert_eq!(listable("v1", "/api/v1", &body), vec![("v1".into(), "Service".into(), "/api/v1/services".into())]);
    }
}
