//! What the audit logs of all control planes say about a request. In a highly available cluster a request leaves its
//! line on the control plane that answered it, so every log is searched.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use shakedown_core::{Answer, Finding, Judgement, Observation, Resource, Touches, wait_for};
use shakedown_engine::{Cx, Expect, ObserveError, Probe};
use shakedown_stack::names::AUDIT_LOG;

use crate::admission::{Answered, Submissions, pod_security};
use crate::admitted::Expected;
use crate::node_command::never_used;
use crate::platform::Platform;

/// How long a line may take to reach the log: the file is written before the request is answered, so this is generous.
const WRITTEN: Duration = Duration::from_secs(5);
/// The annotation of Pod Security's audit mode.
const VIOLATIONS: &str = "pod-security.kubernetes.io/audit-violations";
/// The annotation of the authorizer.
const DECISION: &str = "authorization.k8s.io/decision";

/// One line of an audit log.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Line {
    /// The control plane whose log has it.
    pub node: String,
    /// Who asked.
    pub user: String,
    /// `create`.
    pub verb: String,
    /// `pods`.
    pub resource: String,
    /// Status code of the answer.
    pub code: u64,
    /// Its annotations.
    pub annotations: BTreeMap<String, String>,
}

/// A request with its lines.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Traced {
    /// The answer.
    pub answer: Answered,
    /// Its lines in all logs.
    pub lines: Vec<Line>,
}

/// What the probe saw.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trail {
    /// In the order of the requests.
    pub requests: Vec<Traced>,
}

impl Observation for Trail {
    const SCHEMA: &'static str = "audit-trail/1";
}

/// What is read by whoever looks for a line, and written by whoever moves a log.
pub(crate) fn audit_logs() -> Resource {
    Resource::Component("audit-logs".to_owned())
}

/// Submits manifests and follows them through the audit logs.
#[derive(Debug, Clone)]
pub struct TrailOf(Submissions);

/// Submits manifests and follows them through the audit logs.
pub fn trail_of(submissions: Submissions) -> TrailOf {
    TrailOf(submissions)
}

impl Probe<Platform> for TrailOf {
    type Seen = Trail;

    fn touches(&self) -> Touches {
        Probe::touches(&self.0).reads(audit_logs())
    }

    async fn observe(&self, platform: &Platform, cx: &Cx) -> Result<Trail, ObserveError> {
        // What an earlier look with the same seed left is still in the logs.
        let look = never_used(platform).await.map_err(ObserveError::no_ground)?;
        let marked = self.0.clone().marked(&format!("{}-{look}", cx.name("audit")));
        let answers = marked.observe(platform, cx).await?.answers;
        let mut requests = vec![];
        for (answer, marker) in answers.into_iter().zip(marked.markers()) {
            requests.push(Traced { answer, lines: lines(platform, &marker).await? });
        }
        Ok(Trail { requests })
    }
}

async fn lines(platform: &Platform, marker: &str) -> Result<Vec<Line>, ObserveError> {
    let found = wait_for("a line in an audit log", WRITTEN, || async {
        match search(platform, marker).await {
            Err(why) => Answer::Never(why),
            Ok(lines) if lines.is_empty() => Answer::NotYet("no line".to_owned()),
            Ok(lines) => Answer::Ready(lines),
        }
    })
    .await;
    match found {
        Ok(lines) => Ok(lines),
        Err(shakedown_core::WaitError::Never { why, .. }) => Err(ObserveError::no_ground(why)),
        // No line within the time is an answer: the judge calls it so.
        Err(shakedown_core::WaitError::TimedOut { .. }) => Ok(vec![]),
    }
}

async fn search(platform: &Platform, marker: &str) -> Result<Vec<Line>, String> {
    let mut found = vec![];
    for machine in platform.control_planes() {
        let node = machine.name();
        let output = platform.exec(node, &["grep", "-hF", marker, AUDIT_LOG]).await.map_err(|e| e.to_string())?;
        match output.code {
            0 => found.extend(output.text().lines().filter_map(|text| line(node, text))),
            1 => {}
            _ => return Err(format!("{node}: {AUDIT_LOG}: {}", output.complaint())),
        }
    }
    Ok(found)
}

fn line(node: &str, text: &str) -> Option<Line> {
    let entry: Value = serde_json::from_str(text).ok()?;
    let string = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let annotations = entry["annotations"].as_object().into_iter().flatten();
    Some(Line {
        node: node.to_owned(),
        user: string(&entry["user"]["username"]),
        verb: string(&entry["verb"]),
        resource: string(&entry["objectRef"]["resource"]),
        code: entry["responseStatus"]["code"].as_u64().unwrap_or_default(),
        annotations: annotations.map(|(key, value)| (key.clone(), string(value))).collect(),
    })
}

/// What one request must have left behind.
#[derive(Debug, Clone)]
pub struct Audited {
    answer: Expected,
    violations: Option<&'static [&'static str]>,
    decision: Option<&'static str>,
    user: Option<&'static str>,
}

/// A request that is answered so leaves exactly one line in all logs together.
pub fn audited(answer: Expected) -> Audited {
    Audited { answer, violations: None, decision: None, user: None }
}

impl Audited {
    /// The line names exactly these violations of Pod Security, by their heads.
    #[must_use]
    pub fn for_violations(mut self, heads: &'static [&'static str]) -> Self {
        self.violations = Some(heads);
        self
    }

    /// The line carries this decision of the authorizer about this user.
    #[must_use]
    pub fn decided(mut self, decision: &'static str, user: &'static str) -> Self {
        (self.decision, self.user) = (Some(decision), Some(user));
        self
    }

    fn findings(&self, seen: &Traced) -> Vec<Finding> {
        let mut findings = self.answer.findings(&seen.answer);
        let finding = |code: &str, message: String| Finding::new(code, &seen.answer.case, message);
        let [line] = seen.lines.as_slice() else {
            findings.push(finding("not-audited", format!("{} lines in all audit logs, not one", seen.lines.len())));
            return findings;
        };
        let annotation = |name: &str| line.annotations.get(name).map(String::as_str).unwrap_or_default();
        if let Some(decision) = self.decision.filter(|decision| annotation(DECISION) != *decision) {
            findings
                .push(finding("decision-differs", format!("{DECISION} is `{}`, not {decision}", annotation(DECISION))));
        }
        if let Some(user) = self.user.filter(|user| line.user != *user) {
            findings.push(finding("other-user", format!("the line names {}, not {user}", line.user)));
        }
        if let Some(heads) = self.violations {
            let said = pod_security(annotation(VIOLATIONS)).map(|seen| seen.violations).unwrap_or_default();
            let named = said.iter().filter(|violation| heads.contains(&violation.head.as_str())).count();
            if named != heads.len() || said.len() != heads.len() {
                let message = format!("{VIOLATIONS} is `{}`, expected {heads:?}", annotation(VIOLATIONS));
                findings.push(finding("annotation-missing", message));
            }
        }
        findings
    }
}

/// The requests, in order, each with what it must have left behind.
pub struct All(Vec<Audited>);

/// The requests, in order, each with what it must have left behind.
pub fn all_audited(rows: Vec<Audited>) -> All {
    All(rows)
}

impl Expect<Trail> for All {
    fn judge(&self, seen: &Trail) -> Judgement {
        if seen.requests.is_empty() || seen.requests.len() != self.0.len() {
            return Judgement::Inconclusive(format!("{} requests, {} expected", seen.requests.len(), self.0.len()));
        }
        Judgement::from_findings(self.0.iter().zip(&seen.requests).flat_map(|(row, seen)| row.findings(seen)).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admitted::{allowed, denied};
    use serde_json::json;

    fn traced(annotations: Value) -> Traced {
        let entry = json!({
            "user": {"username": "u"}, "verb": "create", "objectRef": {"resource": "pods"},
            "responseStatus": {"code": 201}, "annotations": annotations,
        });
        let answer = Answered {
            case: "p".into(),
            namespace: "n".into(),
            dry_run: true,
            code: 201,
            reason: String::new(),
            message: String::new(),
            refused_for: None,
            warnings: vec![],
            exists_afterwards: false,
            stored: Value::Null,
        };
        Traced { answer, lines: vec![line("cp-1", &entry.to_string()).unwrap()] }
    }

    fn codes(row: Audited, traced: Traced) -> Vec<String> {
        match all_audited(vec![row]).judge(&Trail { requests: vec![traced] }) {
            Judgement::Fail(findings) => findings.into_iter().map(|finding| finding.code).collect(),
            Judgement::Pass => vec![],
            Judgement::Inconclusive(why) => vec![why],
        }
    }

    #[test]
    fn lines_are_judged() {
        let said = json!({VIOLATIONS: "would violate PodSecurity \"restricted:latest\": seccompProfile (x)", DECISION: "allow"});
        let row = || audited(allowed());
        assert_eq!(
            codes(row().for_violations(&["seccompProfile"]).decided("allow", "u"), traced(said.clone())),
            [""; 0]
        );
        assert_eq!(codes(row().for_violations(&["privileged"]), traced(said.clone())), ["annotation-missing"]);
        assert_eq!(codes(row().for_violations(&["seccompProfile"]), traced(json!({}))), ["annotation-missing"]);
        assert_eq!(codes(row().decided("forbid", "v"), traced(said.clone())), ["decision-differs", "other-user"]);
        assert_eq!(codes(audited(denied()), traced(said.clone())), ["not-refused"]);
        assert_eq!(codes(row(), Traced { lines: vec![], ..traced(said) }), ["not-audited"]);
    }

    #[test]
    fn no_request_is_no_answer() {
        assert!(matches!(all_audited(vec![]).judge(&Trail { requests: vec![] }), Judgement::Inconclusive(_)));
    }
}
