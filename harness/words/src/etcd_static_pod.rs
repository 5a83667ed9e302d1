//! etcd as a static Pod: its manifest is moved away from one control plane, and back.

use serde::{Deserialize, Serialize};
use shakedown_core::{Finding, Judgement, Observation, Resource, Touches, UndoStep};
use shakedown_engine::{Cx, Expect, ObserveError, Probe, expect_fn};

use crate::etcd::{ask, understand_status};
use crate::etcd_lab::told;
use crate::node_command::Which;
use crate::objects::ObjectRef;
use crate::platform::Platform;

/// The member's manifest.
const MANIFEST: &str = "/etc/kubernetes/manifests/etcd.yaml";
/// How many seconds a member may take to stop: its grace period, and the kubelet's own pace.
const STOPS: u32 = 60;
/// How many seconds it may take to come back, on a machine with much to do.
const BACK: u32 = 150;

/// What became of the member.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct StaticPod {
    /// Control plane.
    pub node: String,
    /// Seconds until neither its container, nor its process, nor its port was there; none where they stayed.
    pub stopped_after: Option<f64>,
    /// What was still there when the waiting ended.
    pub still: String,
    /// Seconds from the manifest's return until the member was healthy and its apiserver ready.
    pub back_after: Option<f64>,
    /// Containers of etcd on the node then.
    pub containers: u32,
}

impl Observation for StaticPod {
    const SCHEMA: &'static str = "etcd-static-pod/1";
}

/// Moves the manifest.
pub struct MoveAway {
    copy: bool,
}

/// The manifest of one member that follows is moved away, and back.
pub fn manifest_moved() -> MoveAway {
    MoveAway { copy: false }
}

/// It is copied instead.
pub fn manifest_copied() -> MoveAway {
    MoveAway { copy: true }
}

/// A member that follows; where there is a choice, not beside the controllers that lead: they would have to hand over.
async fn choice(platform: &Platform) -> Result<String, ObserveError> {
    let mut leads = vec![];
    for name in ["kube-controller-manager", "kube-scheduler"] {
        let lease = ObjectRef::namespaced("coordination.k8s.io/v1", "Lease", "kube-system", name);
        let live = platform.get(&lease).await.map_err(ObserveError::no_ground)?.unwrap_or_default();
        leads.push(live["spec"]["holderIdentity"].as_str().unwrap_or_default().to_owned());
    }
    let mut followers = vec![];
    for node in Which::ControlPlanes.on(platform).into_iter().rev() {
        let ran = ask(platform, &node, &["endpoint", "status", "-w", "json"]).await.map_err(ObserveError::no_ground)?;
        if understand_status(&ran.stdout).is_ok_and(|status| status.id != status.leader) {
            followers.push(node);
        }
    }
    let quiet = followers.iter().find(|node| !leads.iter().any(|lead| lead.starts_with(&format!("{node}_"))));
    let chosen = quiet.or(followers.first()).cloned();
    chosen.ok_or_else(|| ObserveError::no_ground("no member follows another"))
}

impl Probe<Platform> for MoveAway {
    type Seen = StaticPod;

    fn touches(&self) -> Touches {
        Touches::nothing().writes(Resource::Cluster)
    }

    async fn observe(&self, platform: &Platform, cx: &Cx) -> Result<StaticPod, ObserveError> {
        let node = choice(platform).await?;
        let folder = format!("/tmp/{}", cx.name("static-pod"));
        // A copy is only removed: the kubelet must see no change at all.
        let back = match self.copy {
            true => format!("rm -rf {folder}"),
            false => format!("[ ! -e {folder}/etcd.yaml ] || mv {folder}/etcd.yaml {MANIFEST}; rm -rf {folder}"),
        };
        let argv = ["/bin/sh", "-c", &back].map(str::to_owned).to_vec();
        cx.undo_afterwards(vec![UndoStep::RunOnNode { node: node.clone(), argv, tolerate_failure: false }])?;
        // Copied, it is waited for as long as a real stop is likely to take.
        let (verb, patience) = if self.copy { ("cp -p", 10) } else { ("mv", STOPS) };
        let text = format!(
            r#"set -u; umask 077; mkdir -p {folder}
running() {{
  t=$(ctr -n k8s.io tasks ls | awk '$3 == "RUNNING" {{ print $1 }}')
  for i in $(ctr -n k8s.io containers ls -q 'labels."io.kubernetes.container.name"==etcd'); do echo "$t" | grep -x "$i"; done
}}
still() {{
  [ -z "$(running)" ] || echo container
  pgrep -x etcd >/dev/null && echo process
  ss -Hltn 'sport = :2379' | grep -q . && echo port
  true
}}
seconds() {{ awk '{{ print $1 }}' /proc/uptime; }}
programs() {{ pgrep -xc 'kube-apiserver|kube-controller|kube-scheduler|etcd'; }}
before=$(programs)
t0=$(seconds); {verb} {MANIFEST} {folder}/etcd.yaml
until s=$(still); [ -z "$s" ] || awk -v t="$t0" '{{ exit !($1 > t + {patience}) }}' /proc/uptime; do sleep 0.2; done
echo "stopped $t0 $(seconds) $(echo $s)"
t0=$(seconds); {back}
P=/etc/kubernetes/pki/etcd
comes() {{
  timeout 5 etcdctl --endpoints=https://127.0.0.1:2379 --cacert=$P/ca.crt --cert=$P/server.crt --key=$P/server.key endpoint health >/dev/null 2>&1 &&
  [ "$(curl -sk -m 4 --noproxy '*' https://127.0.0.1:6443/readyz)" = ok ] && [ "$(programs)" = "$before" ]
}}
until comes || awk -v t="$t0" '{{ exit !($1 > t + {BACK}) }}' /proc/uptime; do sleep 0.5; done
comes && echo "back $t0 $(seconds) $(running | wc -l)"
exit 0"#
        );
        let out = told(platform, &node, &text, cx.budget).await?;
        understand(node, &String::from_utf8_lossy(&out))
    }
}

fn understand(node: String, text: &str) -> Result<StaticPod, ObserveError> {
    let mut seen = StaticPod { node, ..StaticPod::default() };
    let mut looked = false;
    let between = |from: &str, to: &str| Some(to.parse::<f64>().ok()? - from.parse::<f64>().ok()?);
    for line in text.lines() {
        match line.split_whitespace().collect::<Vec<_>>().as_slice() {
            ["stopped", from, to, still @ ..] => {
                looked = true;
                seen.still = still.join(", ");
                seen.stopped_after = between(from, to).filter(|_| still.is_empty());
            }
            ["back", from, to, containers] => {
                seen.back_after = between(from, to);
                seen.containers = containers.parse().unwrap_or_default();
            }
            _ => {}
        }
    }
    if looked { Ok(seen) } else { Err(ObserveError::no_ground(format!("the member was not looked at: {text}"))) }
}

/// The member stopped, and came back as one container, healthy, its apiserver ready.
pub fn stopped_and_back() -> impl Expect<StaticPod> {
    expect_fn(|seen: &StaticPod| {
        let mut found = vec![];
        if seen.stopped_after.is_none() {
            found.push(Finding::new("still-runs", &seen.node, format!("still there: {}", seen.still)));
        }
        if seen.back_after.is_none() || seen.containers != 1 {
            let message = format!("after {:?} s, {} containers", seen.back_after, seen.containers);
            found.push(Finding::new("not-back", &seen.node, message));
        }
        Judgement::from_findings(found)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::codes;

    #[test]
    fn each_defect_has_its_code() {
        let of = |text: &str| understand("cp-1".into(), text).unwrap();
        let good = of("stopped 10.5 13.0 \nback 13.1 20.1 1\n");
        assert_eq!((good.stopped_after, codes(stopped_and_back().judge(&good))), (Some(2.5), vec![]));
        let copied = of("stopped 10.5 25.5 container process port\nback 25.6 25.7 1\n");
        assert_eq!(codes(stopped_and_back().judge(&copied)), ["still-runs"]);
        assert_eq!(codes(stopped_and_back().judge(&of("stopped 10 12\n"))), ["not-back"]);
        assert!(understand("cp-1".into(), "sh: ctr: not found").is_err());
    }
}
