//! After apiservers were restarted: everything that lives off them works again, so that nobody who comes later is disturbed.
//!
//! A controller manager or scheduler that led and could not renew its lease for ten seconds ends itself. The kubelet starts
//! it once more, the first time at once, then after 10 s, 20 s, and so on up to five minutes: that is what several rolls in
//! a row make everybody wait for, not connections and not the lease. A kubelet that is itself started anew has forgotten
//! how long it lets a container wait, and what runs goes on running; so that is done here where something waits.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use serde_json::Value;
use shakedown_core::{Answer, wait_for};
use shakedown_engine::ObserveError;

use crate::node_command::{Which, script};
use crate::objects::ObjectRef;
use crate::platform::Platform;
use crate::roll::lives;

/// How long all of it may take.
const SETTLED: Duration = Duration::from_secs(420);
/// A kubelet is not ended twice within this time: it has to have come back and have had its chance.
const CHANCE: Duration = Duration::from_secs(45);
const COMMAND: Duration = Duration::from_secs(20);
/// Who leads, by the name of the lease.
const LEASES: [&str; 2] = ["kube-controller-manager", "kube-scheduler"];
/// What a kubelet says of a container that it does not start for the time being.
const WAITS: &str = "CrashLoopBackOff";

/// What did not work before anything was changed; it need not work afterwards.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct AsFound {
    unready: BTreeSet<String>,
}

/// Looks at what does not work.
pub(crate) async fn as_found(platform: &Platform) -> Result<AsFound, ObserveError> {
    let unready = unready(platform).await.map_err(ObserveError::no_ground)?;
    Ok(AsFound { unready: unready.into_keys().collect() })
}

/// A Pod by name, where it does not work: what it waits for, and its node.
fn trouble(pod: &Value) -> Option<(String, (String, String))> {
    let name = format!("{}/{}", pod["metadata"]["namespace"].as_str()?, pod["metadata"]["name"].as_str()?);
    let node = pod["spec"]["nodeName"].as_str().unwrap_or_default().to_owned();
    // Over, or about to be: nobody waits for it.
    let over = matches!(pod["status"]["phase"].as_str(), Some("Succeeded" | "Failed"));
    if over || !pod["metadata"]["deletionTimestamp"].is_null() {
        return None;
    }
    let all = ["initContainerStatuses", "containerStatuses"].iter();
    let all = all.flat_map(|part| pod["status"][part].as_array().into_iter().flatten());
    let reason = all.filter_map(|container| container["state"]["waiting"]["reason"].as_str()).next();
    let conditions = pod["status"]["conditions"].as_array().into_iter().flatten();
    let ready = conditions.filter(|it| it["type"] == "Ready").any(|it| it["status"] == "True");
    match (reason, ready) {
        (Some(reason), _) => Some((name, (reason.to_owned(), node))),
        (None, false) => Some((name, ("not ready".to_owned(), node))),
        (None, true) => None,
    }
}

async fn unready(platform: &Platform) -> Result<BTreeMap<String, (String, String)>, String> {
    let pods = platform.list("v1", "Pod", None, None).await.map_err(|e| e.to_string())?;
    Ok(pods.iter().filter_map(trouble).collect())
}

/// Holder and time of renewal of the leases.
async fn renewals(platform: &Platform) -> Result<Vec<(String, String)>, String> {
    let mut all = vec![];
    for name in LEASES {
        let lease = ObjectRef::namespaced("coordination.k8s.io/v1", "Lease", "kube-system", name);
        let live = platform.get(&lease).await.map_err(|e| e.to_string())?.unwrap_or_default();
        let of = |field: &str| live["spec"][field].as_str().unwrap_or_default().to_owned();
        all.push((of("holderIdentity"), of("renewTime")));
    }
    Ok(all)
}

/// Ends the kubelets that let something wait, each for the first time or once more after its chance.
async fn end_kubelets(platform: &Platform, nodes: BTreeSet<String>, ended: &Mutex<BTreeMap<String, Instant>>) {
    for node in nodes {
        let due = match ended.lock() {
            Ok(mut ended) => match ended.get(&node) {
                Some(at) if at.elapsed() < CHANCE => false,
                _ => {
                    ended.insert(node.clone(), Instant::now());
                    true
                }
            },
            Err(_) => false,
        };
        if due {
            let _ = script(platform, &node, "kill $(pgrep -xo kubelet) 2>/dev/null || true", COMMAND).await;
        }
    }
}

/// Waits until each control plane's components run and its apiserver answers, whoever leads has renewed its lease since, and
/// (where it is known what worked before) every Pod that worked before works.
pub(crate) async fn settled(platform: &Platform, before: Option<&AsFound>) -> Result<(), ObserveError> {
    const ALL: &str =
        "for p in kube-apiserver kube-controller kube-scheduler kubelet; do pgrep -x $p >/dev/null || echo $p; done";
    let ended = Mutex::new(BTreeMap::new());
    let first = Mutex::new(None);
    let began = Instant::now();
    wait_for("all that lives off the apiservers", SETTLED, || async {
        for node in Which::ControlPlanes.on(platform) {
            if !lives(platform, &node).await {
                return Answer::NotYet(format!("the apiserver of {node} does not answer"));
            }
        }
        for node in Which::ControlPlanes.on(platform) {
            match script(platform, &node, ALL, COMMAND).await {
                Ok(missing) if missing.is_empty() => {}
                Ok(missing) => {
                    if began.elapsed() > Duration::from_secs(3) {
                        end_kubelets(platform, BTreeSet::from([node.clone()]), &ended).await;
                    }
                    let missing = String::from_utf8_lossy(&missing).trim().replace('\n', ", ");
                    return Answer::NotYet(format!("{node} lacks {missing}"));
                }
                Err(e) => return Answer::NotYet(e.to_string()),
            }
        }
        let now = match renewals(platform).await {
            Ok(now) => now,
            Err(why) => return Answer::NotYet(why),
        };
        let renewed = match first.lock() {
            Ok(mut first) => {
                let then: &Vec<(String, String)> = first.get_or_insert_with(|| now.clone());
                then.iter().zip(&now).all(|(then, now)| now.1 > then.1 && !now.0.is_empty())
            }
            Err(_) => false,
        };
        if !renewed {
            return Answer::NotYet(format!("leases: {now:?}"));
        }
        let Some(before) = before else { return Answer::Ready(()) };
        match unready(platform).await {
            Err(why) => Answer::NotYet(why),
            Ok(now) => {
                let new: BTreeMap<_, _> = now.into_iter().filter(|(pod, _)| !before.unready.contains(pod)).collect();
                let waiting = new.values().filter(|(reason, _)| reason == WAITS).map(|(_, node)| node.clone());
                end_kubelets(platform, waiting.collect(), &ended).await;
                match new.into_iter().next() {
                    Some((pod, (reason, _))) => Answer::NotYet(format!("{pod}: {reason}")),
                    None => Answer::Ready(()),
                }
            }
        }
    })
    .await
    .map_err(ObserveError::no_ground)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(status: Value) -> Value {
        json!({"metadata": {"namespace": "n", "name": "p"}, "spec": {"nodeName": "worker-1"}, "status": status})
    }

    #[test]
    fn a_pod_that_works_is_no_trouble_and_one_that_waits_says_what_for() {
        let ready = json!([{"type": "Ready", "status": "True"}]);
        assert_eq!(trouble(&pod(json!({"phase": "Running", "conditions": ready}))), None);
        assert_eq!(trouble(&pod(json!({"phase": "Succeeded"}))), None);
        let waits = json!([{"state": {"waiting": {"reason": WAITS}}}]);
        let (name, why) = trouble(&pod(json!({"phase": "Running", "containerStatuses": waits}))).unwrap();
        assert_eq!((name.as_str(), why), ("n/p", (WAITS.to_owned(), "worker-1".to_owned())));
        assert_eq!(trouble(&pod(json!({"phase": "Running"}))).unwrap().1.0, "not ready");
    }

    #[tokio::test]
    async fn a_kubelet_is_ended_once_and_then_has_its_chance() {
        let machine = std::sync::Arc::new(crate::testing::FakeMachine::named("cp-1"));
        let platform = Platform::for_test(crate::testing::FakeApi::default().client(), vec![machine]);
        let ended = Mutex::new(BTreeMap::new());
        let nodes = BTreeSet::from(["cp-1".to_owned()]);
        end_kubelets(&platform, nodes.clone(), &ended).await;
        let first = ended.lock().unwrap()["cp-1"];
        end_kubelets(&platform, nodes, &ended).await;
        assert_eq!(ended.lock().unwrap()["cp-1"], first);
    }
}
