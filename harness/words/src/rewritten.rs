//! The documented pipe that rewrites every Secret (ENC-054), run on a control plane.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::json;
use shakedown_core::{Finding, Judgement, Observation, Resource, Touches};
use shakedown_engine::{Cx, Expect, ObserveError, Probe, expect_fn};

use crate::node_command::{first_control_plane, run};
use crate::objects::ObjectRef;
use crate::platform::Platform;

const COMMAND: Duration = Duration::from_secs(120);
/// Where a Secret of the probe's own lies meanwhile.
const NAMESPACE: &str = "kube-public";

/// How it went.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rewrite {
    /// Exit status of the pipe.
    pub code: i32,
    /// Secrets that there are.
    pub secrets: usize,
    /// Lines that say `replaced`.
    pub replaced: Vec<String>,
    /// The end of what it said besides.
    pub complaint: String,
}

impl Observation for Rewrite {
    const SCHEMA: &'static str = "rewrite/1";
}

/// Runs the pipe.
#[derive(Debug, Clone)]
pub struct Rewrites {
    disturbed: bool,
}

/// `kubectl get secrets -A -o json | kubectl replace -f -`, with one more Secret there meanwhile.
pub fn rewriting_every_secret() -> Rewrites {
    Rewrites { disturbed: false }
}

impl Rewrites {
    /// That Secret is written by somebody else between the two halves.
    #[must_use]
    pub fn while_one_is_written(mut self) -> Self {
        self.disturbed = true;
        self
    }
}

impl Probe<Platform> for Rewrites {
    type Seen = Rewrite;

    fn touches(&self) -> Touches {
        Touches::nothing().writes(Resource::Apiserver)
    }

    async fn observe(&self, platform: &Platform, cx: &Cx) -> Result<Rewrite, ObserveError> {
        let node = first_control_plane(platform).map_err(ObserveError::no_ground)?;
        let name = cx.name("rewritten");
        cx.undo_afterwards(vec![ObjectRef::namespaced("v1", "Secret", NAMESPACE, &name).deletion()])?;
        let own = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name, "namespace": NAMESPACE}});
        let answer = platform.create(&own).await.map_err(ObserveError::no_ground)?;
        if !answer.is_ok() {
            return Err(ObserveError::no_ground(answer.message().to_owned()));
        }
        let between = match self.disturbed {
            true => format!("$K label secret {name} -n {NAMESPACE} written=meanwhile >/dev/null;"),
            false => String::new(),
        };
        // The pipe with room between its halves: what the first one wrote stays in memory.
        let text = format!(
            "K='kubectl --kubeconfig /etc/kubernetes/admin.conf'; all=$($K get secrets -A -o json); {between} \
             printf '%s\\n' \"$all\" | $K replace -f -"
        );
        let secrets = platform.list("v1", "Secret", None, None).await.map_err(ObserveError::no_ground)?.len();
        let argv = ["/bin/sh", "-c", &text].map(str::to_owned);
        let ran = run(platform, &node, &argv, COMMAND).await.map_err(ObserveError::no_ground)?;
        let lines = ran.stdout.lines().filter(|line| line.ends_with(" replaced"));
        Ok(Rewrite {
            code: ran.code,
            secrets,
            // The name of the probe's own Secret is another one each time.
            replaced: lines.map(|line| line.replace(&name, "of-the-probe")).collect(),
            complaint: ran.stderr.chars().take(600).collect::<String>().replace(&name, "of-the-probe"),
        })
    }
}

/// The pipe ends well, with a line for each Secret, among them the documented ones.
pub fn every_secret_was_replaced() -> impl Expect<Rewrite> {
    const NAMED: &[&str] = &["secret/demo-viewer-token replaced", "secret/super-password replaced"];
    expect_fn(|seen: &Rewrite| {
        let mut found = vec![];
        if seen.code != 0 || !seen.complaint.is_empty() {
            found.push(Finding::new("not-replaced", "the pipe", format!("exit {}: {}", seen.code, seen.complaint)));
        }
        if seen.replaced.len() != seen.secrets {
            let said = format!("{} lines for {} Secrets", seen.replaced.len(), seen.secrets);
            found.push(Finding::new("count", "the pipe", said));
        }
        let missing = NAMED.iter().filter(|line| !seen.replaced.iter().any(|said| said == *line));
        found.extend(missing.map(|line| Finding::new("line-missing", *line, "it is not there")));
        Judgement::from_findings(found)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::codes;

    #[test]
    fn each_defect_has_its_code() {
        let replaced = ["demo-viewer-token", "super-password"].map(|name| format!("secret/{name} replaced")).to_vec();
        let good = Rewrite { code: 0, secrets: 2, replaced, complaint: String::new() };
        let judge = |seen: &Rewrite| codes(every_secret_was_replaced().judge(seen));
        assert!(judge(&good).is_empty());
        let conflict = Rewrite { code: 1, secrets: 3, complaint: "Conflict".into(), ..good.clone() };
        assert_eq!(judge(&conflict), ["not-replaced", "count"]);
        assert_eq!(judge(&Rewrite { secrets: 0, replaced: vec![], ..good }), ["line-missing", "line-missing"]);
    }
}
