//! The registry over plain HTTP: its address, the settings by which containerd finds it, and a Pod that pulls from it on
//! a node of one's choice.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use shakedown_core::{Answer, wait_for};
use shakedown_engine::{Cx, ObserveError};

use crate::http_get::get_with;
use crate::node_command::{first_control_plane, run, script};
use crate::objects::ObjectRef;
use crate::platform::Platform;
use crate::pods::events_of;
use crate::wire::node_address;

/// Its port on every node.
pub const PORT: u16 = 30002;
/// Repository of the demo image (REG-030).
pub const REPOSITORY: &str = "bootcamp/nginx";
/// Its tag.
pub const TAG: &str = "1.27-alpine";
/// Directory of containerd's registry settings (REG-037).
pub const CERTS_D: &str = "/etc/containerd/certs.d";
/// Namespace of the Pods that pull.
const NAMESPACE: &str = "default";
/// How long a request to the registry may take.
const REQUEST: Duration = Duration::from_secs(5);
/// How long the kubelet may take to tell of a pull.
const TELLS: Duration = Duration::from_secs(10);
/// How long a node's command may take.
const COMMAND: Duration = Duration::from_secs(15);

/// `ADDRESS:PORT` as images name the registry: by the address of the first control plane.
///
/// # Errors
/// There is no control plane.
pub async fn address(platform: &Platform) -> Result<String, ObserveError> {
    let first = first_control_plane(platform).map_err(ObserveError::no_ground)?;
    Ok(format!("{}:{PORT}", node_address(platform, &first).await?))
}

/// The file by which containerd finds a registry.
pub fn hosts_file(registry: &str) -> String {
    format!("{CERTS_D}/{registry}/hosts.toml")
}

/// The documented content for a registry over HTTP (REG-038).
pub fn documented_hosts(registry: &str) -> String {
    format!(
        "server = \"http://{registry}\"\n\n[host.\"http://{registry}\"]\n  \
         capabilities = [\"pull\", \"resolve\", \"push\"]\n  skip_verify = true\n"
    )
}

/// The digest that the registry itself reports for a tag.
///
/// # Errors
/// It does not answer, or has no such tag.
pub async fn digest(registry: &str, repository: &str, tag: &str) -> Result<String, ObserveError> {
    let address: SocketAddr = registry.parse().map_err(|e| ObserveError::no_ground(format!("{registry}: {e}")))?;
    let types = "application/vnd.oci.image.manifest.v1+json, application/vnd.oci.image.index.v1+json, \
                 application/vnd.docker.distribution.manifest.v2+json";
    let got = get_with(address, &format!("/v2/{repository}/manifests/{tag}"), &[("Accept", types)], REQUEST).await;
    match got.headers.get("docker-content-digest") {
        Some(digest) if got.code == 200 => Ok(digest.clone()),
        _ => Err(ObserveError::no_ground(format!("registry {registry}: code {}, {:?}", got.code, got.error))),
    }
}

/// containerd's process on a node: number and start time in ticks since boot.
///
/// # Errors
/// It is not running.
pub async fn containerd(platform: &Platform, node: &str) -> Result<String, ObserveError> {
    let text = "p=$(pgrep -xo containerd); echo $p $(sed 's/.*) //' /proc/$p/stat | cut -d' ' -f20)";
    let out = script(platform, node, text, COMMAND).await.map_err(ObserveError::no_ground)?;
    Ok(String::from_utf8_lossy(&out).trim().to_owned())
}

/// How a Pod's pull ended.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pull {
    /// `Running`, or the reason for which its container waits (`ErrImagePull`, `ImagePullBackOff`).
    pub state: String,
    /// `imageID` of the running container.
    pub image_id: String,
    /// `image` of the running container.
    pub image: String,
    /// Messages of its events, by reason (`Pulled`, `Failed`), the first of each.
    pub events: BTreeMap<String, String>,
    /// From its creation to this state, milliseconds.
    pub millis: u64,
}

/// Starts a Pod on the node that must ask the registry for its image, waits for its end or its beginning, and removes it.
///
/// # Errors
/// The API refuses it, or it comes to nothing within the budget.
pub async fn pull(platform: &Platform, cx: &Cx, node: &str, stem: &str, image: &str) -> Result<Pull, ObserveError> {
    let name = cx.name(&format!("pull-{stem}-{node}"));
    let object = ObjectRef::namespaced("v1", "Pod", NAMESPACE, &name);
    cx.undo_afterwards(vec![object.deletion()])?;
    let begun = Instant::now();
    let answer = platform.create(&pod(&name, node, image)).await.map_err(ObserveError::no_ground)?;
    if !answer.is_ok() {
        return Err(ObserveError::no_ground(format!("{object}: {}", answer.message())));
    }
    let what = format!("pull of {image} on {node}");
    let pulled =
        platform.until(&object, &what, cx.budget, |live| live.map_or(Answer::NotYet("gone".into()), outcome)).await;
    let millis = begun.elapsed().as_millis() as u64;
    let told = match &pulled {
        Ok(pull) if pull.state == "Running" => events(platform, &name, "Pulled").await,
        _ => events(platform, &name, "Failed").await,
    };
    platform.delete(&object).await.map_err(ObserveError::no_ground)?;
    Ok(Pull { millis, events: told?, ..pulled.map_err(ObserveError::no_ground)? })
}

/// The Pod: it must ask the registry anew each time, and nothing of it outlives it.
fn pod(name: &str, node: &str, image: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": NAMESPACE, "labels": {"app": "shakedown-pull"}},
        "spec": {
            "nodeName": node,
            "restartPolicy": "Never",
            "terminationGracePeriodSeconds": 0,
            "automountServiceAccountToken": false,
            "enableServiceLinks": false,
            "tolerations": [{"operator": "Exists"}],
            "containers": [{"name": "pull", "image": image, "imagePullPolicy": "Always"}],
        },
    })
}

fn outcome(pod: &Value) -> Answer<Pull> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let status = &pod["status"]["containerStatuses"][0];
    let reason = text(&status["state"]["waiting"]["reason"]);
    if !status["state"]["running"].is_null() || !status["state"]["terminated"].is_null() {
        let (image_id, image) = (text(&status["imageID"]), text(&status["image"]));
        return Answer::Ready(Pull { state: "Running".into(), image_id, image, ..Pull::default() });
    }
    match reason.as_str() {
        "ErrImagePull" | "ImagePullBackOff" | "InvalidImageName" => {
            Answer::Ready(Pull { state: reason, ..Pull::default() })
        }
        _ => Answer::NotYet(format!("phase {}, waiting: {reason}", pod["status"]["phase"])),
    }
}

/// The first event of each reason, once there is one of the reason `due`: the kubelet tells of what it did afterwards.
/// Where it never does, those that are there.
async fn events(platform: &Platform, pod: &str, due: &str) -> Result<BTreeMap<String, String>, ObserveError> {
    let told = wait_for("the kubelet's word", TELLS, || async {
        match events_now(platform, pod).await {
            Ok(first) if !first.contains_key(due) => Answer::NotYet(format!("{first:?}")),
            told => Answer::Ready(told),
        }
    });
    match told.await {
        Ok(told) => told,
        Err(_) => events_now(platform, pod).await,
    }
}

async fn events_now(platform: &Platform, pod: &str) -> Result<BTreeMap<String, String>, ObserveError> {
    let mut first = BTreeMap::new();
    for event in events_of(platform, NAMESPACE, pod).await.map_err(ObserveError::no_ground)? {
        if let (Some(reason), Some(message)) = (event["reason"].as_str(), event["message"].as_str()) {
            first.entry(reason.to_owned()).or_insert_with(|| message.to_owned());
        }
    }
    Ok(first)
}

/// The node itself reaches the registry over HTTP: without that its runtime cannot either, for reasons of the network.
///
/// # Errors
/// It does not.
pub async fn reached_from(platform: &Platform, node: &str, registry: &str) -> Result<(), ObserveError> {
    let url = format!("http://{registry}/v2/");
    let argv = ["curl", "-sS", "-m", "5", "--noproxy", "*", "-o", "/dev/null", &url].map(str::to_owned);
    let ran = run(platform, node, &argv, COMMAND).await.map_err(ObserveError::no_ground)?;
    if ran.ok() {
        return Ok(());
    }
    Err(ObserveError::no_ground(format!("{node} does not reach the registry over HTTP: {}", ran.brief())))
}

/// An address of the nodes' network, parsed.
///
/// # Errors
/// It is none.
pub fn parsed(address: &str) -> Result<Ipv4Addr, ObserveError> {
    address.parse().map_err(|e| ObserveError::no_ground(format!("{address}: {e}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pods_state_is_understood() {
        let waiting =
            |reason: &str| json!({"status": {"containerStatuses": [{"state": {"waiting": {"reason": reason}}}]}});
        assert!(matches!(outcome(&waiting("ContainerCreating")), Answer::NotYet(_)));
        assert!(matches!(outcome(&waiting("ErrImagePull")), Answer::Ready(p) if p.state == "ErrImagePull"));
        let running = json!({"status": {"containerStatuses": [{"imageID": "r@sha256:1", "state": {"running": {}}}]}});
        assert!(matches!(outcome(&running), Answer::Ready(p) if p.image_id == "r@sha256:1"));
        assert!(matches!(outcome(&json!({})), Answer::NotYet(_)));
    }

    #[test]
    fn the_file_is_where_containerd_looks() {
        assert_eq!(hosts_file("10.0.24.28:30002"), "/etc/containerd/certs.d/10.0.24.28:30002/hosts.toml");
        assert!(documented_hosts("a:1").contains("[host.\"http://a:1\"]"));
    }
}
