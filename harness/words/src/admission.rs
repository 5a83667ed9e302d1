//! What the API server answers to a manifest: code, reason, violations of Pod Security, warnings, and whether the object
//! exists afterwards. The submission is real and cleaned up, or a server-side dry run.

use std::collections::BTreeMap;

use http::Method;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use shakedown_core::{Observation, Resource, Touches, UndoStep};
use shakedown_engine::{Cx, ObserveError, Probe};

use crate::api::{ApiAnswer, Ask};
use crate::identity::Identity;
use crate::objects::ObjectRef;
use crate::platform::Platform;
use crate::undo::as_found;

/// What Pod Security found wrong with a Pod, taken apart from the message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodSecurity {
    /// Level and version as the message names them: `restricted:v1.30`.
    pub policy: String,
    /// The violations, in the order of the message.
    pub violations: Vec<Violation>,
}

/// One violation: what is wrong, and in brackets what to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Violation {
    /// `runAsNonRoot != true`.
    pub head: String,
    /// `pod or container "c" must set securityContext.runAsNonRoot=true`.
    pub detail: String,
}

/// The answer to one submission.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answered {
    /// Which submission: the manifest's name unless it was given another.
    pub case: String,
    /// The namespace it went to, empty for a cluster-wide object.
    pub namespace: String,
    /// Whether it was a dry run.
    pub dry_run: bool,
    /// HTTP status code.
    pub code: u16,
    /// `Forbidden`, `AlreadyExists`; empty when it was admitted.
    pub reason: String,
    /// The server's message; empty when it was admitted.
    pub message: String,
    /// What Pod Security refused it for.
    pub refused_for: Option<PodSecurity>,
    /// Texts of the `Warning` headers.
    pub warnings: Vec<String>,
    /// Whether a read found the object afterwards (and, for a dry run, must not have).
    pub exists_afterwards: bool,
    /// The object as the server kept it, without what the server itself writes; null unless it was asked for.
    pub stored: Value,
}

impl Answered {
    /// Whether the server took it.
    pub fn admitted(&self) -> bool {
        (200..300).contains(&self.code)
    }

    /// Pod Security's part of the warnings.
    pub fn warned_for(&self) -> Option<PodSecurity> {
        self.warnings.iter().find_map(|text| pod_security(text))
    }
}

/// What the probe saw.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Admission {
    /// One answer for each submission, in order.
    pub answers: Vec<Answered>,
}

impl Observation for Admission {
    const SCHEMA: &'static str = "admission/1";
}

/// One manifest on its way to the server.
#[derive(Debug, Clone)]
struct Submission {
    case: String,
    manifest: Value,
    namespace: Option<String>,
    dry_run: bool,
    identity: Identity,
    keep: bool,
    marker: Option<String>,
}

/// Submits manifests and keeps the answers.
#[derive(Debug, Clone)]
pub struct Submissions(Vec<Submission>);

/// Creates the object for real; it is deleted again.
pub fn create(manifest: Value) -> Submissions {
    submit(vec![manifest], false)
}

/// Submits manifests as server-side dry runs.
pub fn dry_run(manifests: Vec<Value>) -> Submissions {
    submit(manifests, true)
}

fn submit(manifests: Vec<Value>, dry_run: bool) -> Submissions {
    let submissions = manifests.into_iter().map(|manifest| Submission {
        case: manifest["metadata"]["name"].as_str().unwrap_or_default().to_owned(),
        namespace: manifest["metadata"]["namespace"].as_str().map(str::to_owned),
        manifest,
        dry_run,
        identity: Identity::Admin,
        keep: false,
        marker: None,
    });
    Submissions(submissions.collect())
}

impl Submissions {
    /// Into this namespace, whatever the manifests say.
    #[must_use]
    pub fn in_namespace(mut self, namespace: &str) -> Self {
        for submission in &mut self.0 {
            submission.namespace = Some(namespace.to_owned());
        }
        self
    }

    /// Each of them into each of these namespaces.
    #[must_use]
    pub fn in_each_of(self, namespaces: &[&str]) -> Self {
        let into = |ns: &&str| self.clone().in_namespace(ns).0;
        Self(namespaces.iter().flat_map(into).collect())
    }

    /// Asked for by somebody else than the administrator.
    #[must_use]
    pub fn as_identity(mut self, identity: &Identity) -> Self {
        for submission in &mut self.0 {
            submission.identity = identity.clone();
        }
        self
    }

    /// With the object as the server kept it.
    #[must_use]
    pub fn keeping_what_is_stored(mut self) -> Self {
        for submission in &mut self.0 {
            submission.keep = true;
        }
        self
    }

    /// Each with a text of its own in its address, by which the audit log can be searched.
    #[must_use]
    pub(crate) fn marked(mut self, stem: &str) -> Self {
        for (index, submission) in self.0.iter_mut().enumerate() {
            submission.marker = Some(format!("{stem}-{index}"));
        }
        self
    }

    /// These texts, in order.
    pub(crate) fn markers(&self) -> Vec<String> {
        self.0.iter().filter_map(|submission| submission.marker.clone()).collect()
    }

    /// Called so in the answers.
    #[must_use]
    pub fn called(mut self, case: &str) -> Self {
        for submission in &mut self.0 {
            case.clone_into(&mut submission.case);
        }
        self
    }

    /// These as well, afterwards.
    #[must_use]
    pub fn and(mut self, others: Submissions) -> Self {
        self.0.extend(others.0);
        self
    }
}

impl Probe<Platform> for Submissions {
    type Seen = Admission;

    fn touches(&self) -> Touches {
        self.0.iter().fold(Touches::nothing(), |touches, submission| match &submission.namespace {
            Some(namespace) if !submission.dry_run => touches.writes(Resource::Namespace(namespace.clone())),
            Some(namespace) => touches.reads(Resource::Namespace(namespace.clone())),
            None => touches,
        })
    }

    async fn observe(&self, platform: &Platform, cx: &Cx) -> Result<Admission, ObserveError> {
        let mut answers = Vec::with_capacity(self.0.len());
        for submission in &self.0 {
            answers.push(submission.observe(platform, cx).await?);
        }
        Ok(Admission { answers })
    }
}

impl Submission {
    async fn observe(&self, platform: &Platform, cx: &Cx) -> Result<Answered, ObserveError> {
        let mut manifest = self.manifest.clone();
        if let Some(namespace) = &self.namespace {
            manifest["metadata"]["namespace"] = json!(namespace);
        }
        let object =
            ObjectRef::of(&manifest).ok_or_else(|| ObserveError::harness(format!("no manifest: {manifest}")))?;
        let path = platform
            .collection(&object.api_version, &object.kind, object.namespace.as_deref())
            .await
            .map_err(ObserveError::no_ground)?;
        if !self.dry_run {
            let undo = as_found(platform, &object).await.map_err(ObserveError::no_ground)?;
            if matches!(undo, UndoStep::RestoreObject { .. }) {
                return Err(ObserveError::no_ground(format!("{object} exists already and is not ours to replace")));
            }
            cx.undo_afterwards(vec![undo])?;
        }
        let dry = self.dry_run.then(|| "dryRun=All".to_owned());
        // The name of the writer is free, and is part of the address in the audit log.
        let marked = self.marker.as_ref().map(|marker| format!("fieldManager={marker}"));
        let query = [dry, marked].into_iter().flatten().collect::<Vec<_>>().join("&");
        let query = if query.is_empty() { path } else { format!("{path}?{query}") };
        let caller = self.identity.caller(platform).await.map_err(ObserveError::no_ground)?;
        let answer =
            caller.ask(Ask::new(Method::POST, &query).with(&manifest)).await.map_err(ObserveError::no_ground)?;
        let exists_afterwards = platform.get(&object).await.map_err(ObserveError::no_ground)?.is_some();
        if exists_afterwards && !self.dry_run {
            platform.delete(&object).await.map_err(ObserveError::no_ground)?;
        }
        answered(self, &object, answer, exists_afterwards)
    }
}

fn answered(
    submission: &Submission,
    object: &ObjectRef,
    answer: ApiAnswer,
    exists_afterwards: bool,
) -> Result<Answered, ObserveError> {
    if answer.code >= 500 || answer.code == 404 || answer.code == 401 {
        // No word on the manifest: the namespace is gone, the API is ill, the identity is unknown.
        return Err(ObserveError::no_ground(format!(
            "creating {object}: answered {}: {}",
            answer.code,
            answer.message()
        )));
    }
    let stored = if answer.is_ok() && submission.keep { crate::undo::desired(&answer.body) } else { Value::Null };
    let (reason, message) =
        if answer.is_ok() { (String::new(), String::new()) } else { (answer.reason().into(), answer.message().into()) };
    Ok(Answered {
        case: submission.case.clone(),
        namespace: submission.namespace.clone().unwrap_or_default(),
        dry_run: submission.dry_run,
        code: answer.code,
        refused_for: pod_security(&message),
        reason,
        message,
        warnings: answer.warnings,
        exists_afterwards,
        stored,
    })
}

/// Takes `... violate(s) PodSecurity "LEVEL:VERSION": HEAD (DETAIL), HEAD (DETAIL)` apart. Commas and brackets inside a
/// detail, and inside its quoted names, belong to it.
pub fn pod_security(message: &str) -> Option<PodSecurity> {
    let rest = &message[message.find("PodSecurity \"")? + "PodSecurity \"".len()..];
    let (policy, list) = rest.split_once("\": ")?;
    let mut violations = vec![];
    let (mut depth, mut quoted, mut start) = (0_usize, false, 0);
    for (at, letter) in list.char_indices() {
        match letter {
            '"' => quoted = !quoted,
            '(' if !quoted => depth += 1,
            ')' if !quoted => depth = depth.saturating_sub(1),
            ',' if !quoted && depth == 0 => {
                violations.push(violation(&list[start..at]));
                start = at + 1;
            }
            _ => {}
        }
    }
    violations.push(violation(&list[start..]));
    Some(PodSecurity { policy: policy.to_owned(), violations })
}

fn violation(text: &str) -> Violation {
    let text = text.trim();
    let (head, detail) = text.split_once(" (").unwrap_or((text, ""));
    let detail = detail.strip_suffix(')').unwrap_or(detail);
    Violation { head: head.to_owned(), detail: detail.to_owned() }
}

/// Answers by case and namespace.
pub(crate) fn by_case(seen: &Admission) -> BTreeMap<(&str, &str), &Answered> {
    seen.answers.iter().map(|answer| ((answer.case.as_str(), answer.namespace.as_str()), answer)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::FakeApi;
    use shakedown_core::{Event, Seed};
    use std::sync::Arc;

    const REFUSAL: &str = "pods \"bad-priv\" is forbidden: violates PodSecurity \"restricted:v1.30\": privileged (container \"c\" must not set securityContext.privileged=true), unrestricted capabilities (container \"c\" must set securityContext.capabilities.drop=[\"ALL\"]), runAsNonRoot != true (pod or container \"c\" must set securityContext.runAsNonRoot=true)";

    #[test]
    fn a_refusal_is_taken_apart() {
        let seen = pod_security(REFUSAL).unwrap();
        assert_eq!(seen.policy, "restricted:v1.30");
        let heads: Vec<_> = seen.violations.iter().map(|v| v.head.as_str()).collect();
        assert_eq!(heads, ["privileged", "unrestricted capabilities", "runAsNonRoot != true"]);
        assert_eq!(seen.violations[1].detail, "container \"c\" must set securityContext.capabilities.drop=[\"ALL\"]");
    }

    #[test]
    fn commas_inside_a_detail_do_not_split_it() {
        let text = "would violate PodSecurity \"baseline:latest\": host namespaces (hostNetwork=true, hostPID=true), hostPath volumes (volume \"a,(b\")";
        let seen = pod_security(text).unwrap();
        assert_eq!(seen.violations.len(), 2);
        assert_eq!(seen.violations[0].detail, "hostNetwork=true, hostPID=true");
        assert_eq!(seen.violations[1].detail, "volume \"a,(b\"");
    }

    #[test]
    fn other_messages_are_not_pod_security() {
        assert_eq!(pod_security("pods \"a\" is forbidden: exceeded quota"), None);
    }

    fn cx() -> Cx {
        let budget = std::time::Duration::from_secs(5);
        Cx::new("c", "baseline", Seed(1), budget, std::env::temp_dir(), Arc::new(|_: Event| {}))
    }

    fn pod() -> Value {
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": {}})
    }

    #[tokio::test]
    async fn a_real_creation_is_cleaned_up() {
        let api = FakeApi::default();
        let platform = Platform::for_test(api.client(), vec![]);
        let seen = create(pod()).in_namespace("n").observe(&platform, &cx()).await.unwrap();
        assert!(seen.answers[0].admitted() && seen.answers[0].exists_afterwards);
        let left = platform.get(&ObjectRef::namespaced("v1", "Pod", "n", "p")).await.unwrap();
        assert_eq!(left, None);
    }

    #[tokio::test]
    async fn a_dry_run_leaves_nothing_and_a_refusal_is_kept() {
        let api = FakeApi::default();
        let body = json!({"kind": "Status", "code": 403, "reason": "Forbidden", "message": REFUSAL});
        api.script("POST /api/v1/namespaces/strict/pods?dryRun=All", 403, body, &["beware \"x\""]);
        let platform = Platform::for_test(api.client(), vec![]);
        let seen = dry_run(vec![pod()]).in_each_of(&["open", "strict"]).observe(&platform, &cx()).await.unwrap();
        assert!(seen.answers[0].admitted() && !seen.answers[0].exists_afterwards);
        assert_eq!(seen.answers[1].code, 403);
        assert_eq!(seen.answers[1].warnings, ["beware \"x\""]);
        assert_eq!(seen.answers[1].refused_for.as_ref().unwrap().violations.len(), 3);
        assert!(api.asked().iter().all(|ask| !ask.starts_with("DELETE")));
    }

    #[tokio::test]
    async fn a_missing_namespace_is_no_answer() {
        let api = FakeApi::default();
        let body = json!({"kind": "Status", "code": 404, "message": "namespaces \"n\" not found"});
        api.script("POST /api/v1/namespaces/n/pods?dryRun=All", 404, body, &[]);
        let platform = Platform::for_test(api.client(), vec![]);
        let seen = dry_run(vec![pod()]).in_namespace("n").observe(&platform, &cx()).await;
        assert!(matches!(seen, Err(ObserveError::NoGround(_))));
    }
}
