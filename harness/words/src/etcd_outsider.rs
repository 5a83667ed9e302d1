//! etcd as somebody sees it who has the API and nothing else: on a managed cluster that is everybody.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use shakedown_core::{Finding, Judgement, Observation, Resource, Touches, UndoStep};
use shakedown_engine::{Cx, Expect, ObserveError, Probe, expect_fn};

use crate::api::Ask;
use crate::etcd::{CA, CERT, ENDPOINT, KEY};
use crate::etcd_lab::told;
use crate::node_command::first_control_plane;
use crate::platform::Platform;

/// How long a node's command may take.
const COMMAND: Duration = Duration::from_secs(40);

/// A snapshot that was tried.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tried {
    /// Whose certificate was shown.
    pub identity: String,
    /// Exit code.
    pub code: i32,
    /// The end of what it said.
    pub said: String,
    /// Bytes of the file that it left; none where there is none.
    pub size: Option<u64>,
}

impl Observation for Tried {
    const SCHEMA: &'static str = "etcd-outsider/1";
}

/// Tries.
pub struct Try {
    members_own: bool,
}

/// A snapshot is tried with what an administrator's kubeconfig holds.
pub fn snapshot_with_a_kubeconfig() -> Try {
    Try { members_own: false }
}

/// It is tried with the member's own certificate.
pub fn snapshot_with_the_members_certificate() -> Try {
    Try { members_own: true }
}

impl Probe<Platform> for Try {
    type Seen = Tried;

    fn touches(&self) -> Touches {
        Touches::nothing().reads(Resource::Etcd).reads(Resource::Nodes)
    }

    async fn observe(&self, platform: &Platform, cx: &Cx) -> Result<Tried, ObserveError> {
        let node = first_control_plane(platform).map_err(ObserveError::no_ground)?;
        let folder = format!("/tmp/{}", cx.name("outsider"));
        cx.undo_afterwards(vec![UndoStep::RemoveFile { node: node.clone(), path: folder.clone() }])?;
        let identity = if self.members_own { "the member's certificate" } else { "admin.conf" };
        let files = if self.members_own {
            format!("cp {CERT} crt; cp {KEY} key")
        } else {
            "of() { sed -n \"s/^ *client-$1-data: *//p\" /etc/kubernetes/admin.conf | base64 -d; }; of certificate >crt; of key >key".to_owned()
        };
        let text = format!(
            "set -u; umask 077; rm -rf {folder}; mkdir {folder}; cd {folder}; {files}; [ -s crt ] && [ -s key ] || exit 9\n\
             out=$(timeout 20 etcdctl --endpoints={ENDPOINT} --cacert={CA} --cert=crt --key=key --dial-timeout=3s --command-timeout=4s snapshot save s.db 2>&1)\n\
             echo \"$? $(stat -c %s s.db 2>/dev/null || echo -)\"; echo \"$out\" | tail -n 1 | cut -c -400; cd /; rm -rf {folder}"
        );
        let out = told(platform, &node, &text, COMMAND).await?;
        let out = String::from_utf8_lossy(&out).into_owned();
        let (head, said) = out.split_once('\n').unwrap_or((&out, ""));
        let (code, size) = head.split_once(' ').unwrap_or((head, "-"));
        Ok(Tried {
            identity: identity.to_owned(),
            code: code.parse().map_err(|e| ObserveError::harness(format!("exit code `{code}`: {e}")))?,
            said: said.trim().to_owned(),
            size: size.parse().ok(),
        })
    }
}

/// It was refused, and left no file.
pub fn refused() -> impl Expect<Tried> {
    expect_fn(|seen: &Tried| {
        if seen.code == 0 || seen.size.is_some() {
            let message = format!("exit code {}, {:?} bytes", seen.code, seen.size);
            return Judgement::fail("snapshot-taken", &seen.identity, message);
        }
        Judgement::Pass
    })
}

/// Who runs etcd, as the API shows it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WhoRuns {
    /// The API is ready.
    pub ready: bool,
    /// Nodes that carry a control plane.
    pub control_planes: Vec<String>,
    /// Pods of etcd.
    pub etcd_pods: Vec<String>,
}

impl Observation for WhoRuns {
    const SCHEMA: &'static str = "etcd-who-runs/1";
}

/// Looks.
pub struct LookForEtcd;

/// Nodes, Pods and readiness, as the API shows them.
pub fn who_runs_etcd() -> LookForEtcd {
    LookForEtcd
}

impl Probe<Platform> for LookForEtcd {
    type Seen = WhoRuns;

    fn touches(&self) -> Touches {
        Touches::nothing().reads(Resource::Apiserver)
    }

    async fn observe(&self, platform: &Platform, _cx: &Cx) -> Result<WhoRuns, ObserveError> {
        let name = |object: &Value| object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        let nodes = platform.list("v1", "Node", None, None).await.map_err(ObserveError::no_ground)?;
        let pods = platform.list("v1", "Pod", Some("kube-system"), None).await.map_err(ObserveError::no_ground)?;
        let readyz = Ask::get("/readyz").send(platform.admin()).await.map_err(ObserveError::no_ground)?;
        let leads = |node: &&Value| node["metadata"]["labels"].get("node-role.kubernetes.io/control-plane").is_some();
        Ok(WhoRuns {
            ready: readyz.is_ok(),
            control_planes: nodes.iter().filter(leads).map(name).collect(),
            etcd_pods: pods.iter().map(name).filter(|name| name.starts_with("etcd-")).collect(),
        })
    }
}

/// The API is ready, and neither a control plane nor a Pod of etcd is listed: the provider runs them.
pub fn run_by_the_provider() -> impl Expect<WhoRuns> {
    expect_fn(|seen: &WhoRuns| {
        let mut found = vec![];
        if !seen.ready {
            found.push(Finding::new("not-ready", "the API", "it is not ready".to_owned()));
        }
        let own = seen.control_planes.iter().chain(&seen.etcd_pods);
        found.extend(own.map(|name| Finding::new("self-run", name, "it is listed by the API".to_owned())));
        Judgement::from_findings(found)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::codes;

    #[test]
    fn a_snapshot_that_was_taken_or_left_is_found() {
        let good = Tried { code: 1, ..Tried::default() };
        assert_eq!(codes(refused().judge(&good)), Vec::<String>::new());
        assert_eq!(codes(refused().judge(&Tried { code: 0, ..good.clone() })), ["snapshot-taken"]);
        assert_eq!(codes(refused().judge(&Tried { size: Some(0), ..good })), ["snapshot-taken"]);
    }

    #[test]
    fn a_control_plane_of_ones_own_is_no_managed_one() {
        let managed = WhoRuns { ready: true, ..WhoRuns::default() };
        assert_eq!(codes(run_by_the_provider().judge(&managed)), Vec::<String>::new());
        let own = WhoRuns { etcd_pods: vec!["etcd-cp-1".into()], ready: false, ..managed };
        assert_eq!(codes(run_by_the_provider().judge(&own)), ["not-ready", "self-run"]);
    }
}
