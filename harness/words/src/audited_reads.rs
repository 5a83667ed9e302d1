//! Reads of a Secret through every apiserver for itself, and what the audit logs say of them: who, what, on which control
//! plane, and never the content (ENC-003, ENC-008, ENC-067, ENC-070).

use std::collections::BTreeMap;
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use shakedown_core::{Answer, Finding, Judgement, Observation, Resource, Touches, UndoStep, wait_for};
use shakedown_engine::{Cx, Expect, ObserveError, PlantError, Prepared, Probe, Sabotage, expect_fn};
use shakedown_stack::names::AUDIT_LOG;

use crate::api::Ask;
use crate::audit::audit_logs;
use crate::change::{Shared, shared};
use crate::identity::Identity;
use crate::node_command::{Which, last_control_plane, never_used, script};
use crate::platform::Platform;
use crate::rights::{review_of, subject, user_of};

/// The namespace, account and Secret of the fixture.
const NAMESPACE: &str = "shakedown-audited";
const READER: &str = "reader";
const SECRET: &str = "seen";
/// What the Secret holds: it must be in no log.
const CONTENT: &str = "shakedown-content-that-no-log-may-hold";
const COMMAND: Duration = Duration::from_secs(20);
/// How long a line may take to reach the log.
const WRITTEN: Duration = Duration::from_secs(5);

/// A line of an audit log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReadLine {
    /// The control plane whose log has it.
    pub node: String,
    /// Who asked.
    pub user: String,
    /// `get`.
    pub verb: String,
    /// `RESOURCE NAMESPACE/NAME`.
    pub object: String,
}

/// One read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditedRead {
    /// The control plane that was asked.
    pub apiserver: String,
    /// Who asked.
    pub user: String,
    /// Status code.
    pub code: u16,
    /// Its lines in all logs.
    pub lines: Vec<ReadLine>,
}

/// All of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditedReads {
    /// In the order of asking.
    pub reads: Vec<AuditedRead>,
    /// Control plane to lines of its log that hold the Secret's content.
    pub with_content: BTreeMap<String, u32>,
}

impl Observation for AuditedReads {
    const SCHEMA: &'static str = "audited-reads/1";
}

/// A Secret, and a service account that may read it.
pub fn reader() -> Shared {
    const RBAC: &str = "rbac.authorization.k8s.io/v1";
    let head = |version: &str, kind: &str, name: &str| -> Value {
        json!({"apiVersion": version, "kind": kind, "metadata": {"name": name, "namespace": NAMESPACE}})
    };
    let with = |mut object: Value, more: Value| {
        if let (Some(object), Value::Object(more)) = (object.as_object_mut(), more) {
            object.extend(more);
        }
        object
    };
    let rules = json!({"rules": [{"apiGroups": [""], "resources": ["secrets"], "verbs": ["get"]}]});
    let binding = json!({
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": READER},
        "subjects": [subject("ServiceAccount", READER, Some(NAMESPACE))],
    });
    let user = user_of(NAMESPACE, READER);
    shared(
        "audited-reader",
        vec![
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}}),
            with(head("v1", "Secret", SECRET), json!({"data": {"content": BASE64_STANDARD.encode(CONTENT)}})),
            head("v1", "ServiceAccount", READER),
            with(head(RBAC, "Role", READER), rules),
            with(head(RBAC, "RoleBinding", READER), binding),
        ],
    )
    .shown_by(review_of(&user, &[], "get secrets in shakedown-audited"))
}

/// Reads the Secret of [`reader`].
pub struct ReadAndLook;

/// Reads the Secret through each apiserver, as the administrator and as the service account.
pub fn reads_through_every_apiserver() -> ReadAndLook {
    ReadAndLook
}

impl Probe<Platform> for ReadAndLook {
    type Seen = AuditedReads;

    fn touches(&self) -> Touches {
        Touches::nothing()
            .reads(Resource::Apiserver)
            .reads(Resource::Nodes)
            .reads(audit_logs())
            .reads(Resource::Namespace(NAMESPACE.to_owned()))
    }

    async fn observe(&self, platform: &Platform, cx: &Cx) -> Result<AuditedReads, ObserveError> {
        let token = Identity::service_account(NAMESPACE, READER).caller(platform).await;
        let token = token.map_err(ObserveError::no_ground)?.token().unwrap_or_default().to_owned();
        let mut reads = vec![];
        let run = never_used(platform).await.map_err(ObserveError::no_ground)?;
        for (number, (node, client)) in platform.apiservers().iter().enumerate() {
            let path = |who: &str| {
                let marker = format!("{}-{run}", cx.name(&format!("read-{number}-{who}")));
                (format!("/api/v1/namespaces/{NAMESPACE}/secrets/{SECRET}?shakedown={marker}"), marker)
            };
            let (url, marker) = path("admin");
            let code = Ask::get(&url).send(client).await.map_err(ObserveError::no_ground)?.code;
            let user = "kubernetes-admin".to_owned();
            reads.push(AuditedRead { apiserver: node.clone(), user, code, lines: lines(platform, &marker).await? });
            let (url, marker) = path("account");
            let code = with_token(platform, node, &url, &token).await?;
            let user = user_of(NAMESPACE, READER);
            reads.push(AuditedRead { apiserver: node.clone(), user, code, lines: lines(platform, &marker).await? });
        }
        let mut with_content = BTreeMap::new();
        for node in Which::ControlPlanes.on(platform) {
            let encoded = BASE64_STANDARD.encode(CONTENT);
            let text = format!("grep -cF -e {CONTENT} -e {encoded} {AUDIT_LOG} 2>/dev/null || true");
            let out = script(platform, &node, &text, COMMAND).await.map_err(ObserveError::no_ground)?;
            with_content.insert(node, String::from_utf8_lossy(&out).trim().parse().unwrap_or_default());
        }
        Ok(AuditedReads { reads, with_content })
    }
}

/// Asks a control plane's own apiserver from its node, with a token that comes in by standard input.
async fn with_token(platform: &Platform, node: &str, path: &str, token: &str) -> Result<u16, ObserveError> {
    let text = format!(
        "own=$(tr '\\0' '\\n' < /proc/$(pgrep -xo kube-apiserver)/cmdline | sed -n 's/^--advertise-address=//p'); \
         curl -s -m 10 --noproxy '*' --cacert /etc/kubernetes/pki/ca.crt -K - -o /dev/null -w '%{{http_code}}' \"https://$own:6443{path}\""
    );
    let argv = ["/bin/sh", "-c", &text].map(str::to_owned);
    let stdin = format!("header = \"Authorization: Bearer {token}\"\n");
    let machine = platform.machine(node).map_err(ObserveError::no_ground)?;
    let output = machine.exec(&argv, stdin.as_bytes(), COMMAND).await.map_err(ObserveError::no_ground)?;
    output.text().trim().parse().map_err(|_| ObserveError::no_ground(format!("{node}: {}", output.complaint())))
}

async fn lines(platform: &Platform, marker: &str) -> Result<Vec<ReadLine>, ObserveError> {
    let found = wait_for("a line in an audit log", WRITTEN, || async {
        let mut found = vec![];
        for node in Which::ControlPlanes.on(platform) {
            // A log that is not there has no line.
            let text = format!("grep -hF {marker} {AUDIT_LOG} 2>/dev/null || true");
            match script(platform, &node, &text, COMMAND).await {
                Err(e) => return Answer::Never(e.to_string()),
                Ok(out) => {
                    found.extend(String::from_utf8_lossy(&out).lines().filter_map(|line| understand(&node, line)));
                }
            }
        }
        if found.is_empty() { Answer::NotYet("no line".to_owned()) } else { Answer::Ready(found) }
    })
    .await;
    match found {
        Ok(lines) => Ok(lines),
        Err(shakedown_core::WaitError::Never { why, .. }) => Err(ObserveError::no_ground(why)),
        // No line within the time is an answer: the judge calls it so.
        Err(shakedown_core::WaitError::TimedOut { .. }) => Ok(vec![]),
    }
}

fn understand(node: &str, line: &str) -> Option<ReadLine> {
    let entry: Value = serde_json::from_str(line).ok()?;
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let object = &entry["objectRef"];
    Some(ReadLine {
        node: node.to_owned(),
        user: text(&entry["user"]["username"]),
        verb: text(&entry["verb"]),
        object: format!("{} {}/{}", text(&object["resource"]), text(&object["namespace"]), text(&object["name"])),
    })
}

/// Each read through `count` apiservers left one line, on the control plane that was asked, with user, verb and object;
/// no log holds the content.
pub fn each_left_its_line(count: usize) -> impl Expect<AuditedReads> {
    expect_fn(move |seen: &AuditedReads| {
        if seen.reads.len() != count * 2 || seen.reads.iter().any(|read| read.code != 200) {
            let codes: Vec<u16> = seen.reads.iter().map(|read| read.code).collect();
            return Judgement::Inconclusive(format!("{} good reads expected, answered: {codes:?}", count * 2));
        }
        let mut found = vec![];
        for read in &seen.reads {
            let subject = format!("{} through {}", read.user, read.apiserver);
            let [line] = read.lines.as_slice() else {
                let said = format!("{} lines in all audit logs, not one", read.lines.len());
                found.push(Finding::new("not-audited", subject, said));
                continue;
            };
            let right = ReadLine {
                node: read.apiserver.clone(),
                user: read.user.clone(),
                verb: "get".to_owned(),
                object: format!("secrets {NAMESPACE}/{SECRET}"),
            };
            if *line != right {
                found.push(Finding::new("other-line", subject, format!("{line:?}")));
            }
        }
        for (node, lines) in seen.with_content.iter().filter(|(_, lines)| **lines > 0) {
            found.push(Finding::new("content-in-log", node, format!("{lines} lines hold the Secret's content")));
        }
        Judgement::from_findings(found)
    })
}

/// One control plane leaves no lines.
pub struct LogMoved;

/// The last control plane's audit log is moved away: the apiserver goes on writing to it, and nothing comes to its path.
pub fn a_log_is_moved_away() -> LogMoved {
    LogMoved
}

impl Sabotage<Platform> for LogMoved {
    type Choice = String;

    fn describe(&self) -> String {
        format!("one control plane writes nothing to {AUDIT_LOG}")
    }

    fn touches(&self) -> Touches {
        Touches::nothing().writes(Resource::Nodes).writes(audit_logs())
    }

    async fn prepare(&self, platform: &Platform) -> Result<Prepared<String>, PlantError> {
        let node = last_control_plane(platform).map_err(PlantError::new)?;
        // The same file comes back, with what was written to it meanwhile.
        let back = format!("[ ! -e {AUDIT_LOG}.moved ] || mv -f {AUDIT_LOG}.moved {AUDIT_LOG}");
        let argv = ["/bin/sh", "-c", &back].map(str::to_owned).to_vec();
        let undo = vec![UndoStep::RunOnNode { node: node.clone(), argv, tolerate_failure: false }];
        Ok(Prepared::new(node, undo))
    }

    async fn plant(&self, platform: &Platform, node: &String) -> Result<(), PlantError> {
        let text = format!("mv {AUDIT_LOG} {AUDIT_LOG}.moved; [ ! -e {AUDIT_LOG} ]");
        script(platform, node, &text, COMMAND).await.map(drop).map_err(PlantError::new)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::codes;

    fn good() -> AuditedReads {
        let entry = json!({
            "user": {"username": "u"}, "verb": "get",
            "objectRef": {"resource": "secrets", "namespace": NAMESPACE, "name": SECRET},
        });
        let read = AuditedRead {
            apiserver: "cp-1".into(),
            user: "u".into(),
            code: 200,
            lines: vec![understand("cp-1", &entry.to_string()).unwrap()],
        };
        AuditedReads { reads: vec![read.clone(), read], with_content: BTreeMap::from([("cp-1".into(), 0)]) }
    }

    #[test]
    fn each_defect_has_its_code() {
        type Break = fn(&mut AuditedReads);
        let cases: &[(&[&str], Break)] = &[
            (&[], |_| ()),
            (&["not-audited"], |it| it.reads[0].lines.clear()),
            (&["other-line"], |it| it.reads[0].lines[0].node = "cp-2".into()),
            (&["other-line"], |it| it.reads[1].user = "v".into()),
            (&["content-in-log"], |it| it.with_content = BTreeMap::from([("cp-1".into(), 1)])),
        ];
        for (want, breaks) in cases {
            let mut it = good();
            breaks(&mut it);
            assert_eq!(codes(each_left_its_line(1).judge(&it)), *want);
        }
        assert!(codes(each_left_its_line(3).judge(&good()))[0].starts_with("Inconclusive"));
    }
}
