//! Who may do what: the same question asked three ways - as an access review for oneself, as an access review by the
//! administrator, and as a real request of that identity (writes as dry runs). The three must agree.
//!
//! A question reads `VERB RESOURCE[/SUBRESOURCE][.GROUP][:NAME] [in NAMESPACE]`, such as `list pods in storage-demo`,
//! `get pods/log:pg-0 in storage-demo`, `create deployments.apps in default`, `list nodes`.

use std::str::FromStr;

use futures::{StreamExt, TryStreamExt};
use http::Method;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use shakedown_core::{Observation, Resource, Touches};
use shakedown_engine::{Cx, ObserveError, Probe};

use crate::api::{ApiAnswer, ApiError, Ask, Patch};
use crate::identity::{Caller, Identity};
use crate::objects::version_path;
use crate::platform::Platform;

/// The name that requests for one object use when the question has none: no such object exists.
const NOBODY: &str = "shakedown-asks";
/// Questions asked at once.
const AT_ONCE: usize = 8;

/// One question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    text: String,
    verb: String,
    resource: String,
    subresource: String,
    group: String,
    name: String,
    namespace: Option<String>,
}

impl FromStr for Question {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let words: Vec<&str> = text.split_whitespace().collect();
        let (verb, what, namespace) = match words.as_slice() {
            [verb, what] => (*verb, *what, None),
            [verb, what, "in", namespace] => (*verb, *what, Some((*namespace).to_owned())),
            _ => return Err(format!("`{text}` does not read VERB RESOURCE [in NAMESPACE]")),
        };
        let (what, name) = what.split_once(':').unwrap_or((what, ""));
        let (what, group) = what.split_once('.').unwrap_or((what, ""));
        let (resource, subresource) = what.split_once('/').unwrap_or((what, ""));
        Ok(Self {
            text: text.to_owned(),
            verb: verb.to_owned(),
            resource: resource.to_owned(),
            subresource: subresource.to_owned(),
            group: group.to_owned(),
            name: name.to_owned(),
            namespace,
        })
    }
}

impl Question {
    /// What an access review asks for.
    pub fn attributes(&self) -> Value {
        json!({
            "verb": self.verb, "group": self.group, "resource": self.resource, "subresource": self.subresource,
            "name": self.name, "namespace": self.namespace.clone().unwrap_or_default(),
        })
    }
}

/// What came of one question.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Asked {
    /// The question as it was put.
    pub question: String,
    /// SelfSubjectAccessReview of the identity itself; None where it may not even ask.
    pub own_review: Option<bool>,
    /// SubjectAccessReview of the administrator.
    pub review: bool,
    /// Why, in the words of the authorizer: names the binding and the role.
    pub review_reason: String,
    /// Status code of the real request.
    pub code: u16,
    /// Whether the authorizer let the real request through, whatever became of it afterwards.
    pub let_through: bool,
    /// The message of a refusal.
    pub message: String,
}

/// What the probe saw.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Access {
    /// Who asked, in words.
    pub identity: String,
    /// The user name that the API server gives it; empty where it is not let in.
    pub user: String,
    /// Its groups.
    pub groups: Vec<String>,
    /// The answers, in the order of the questions.
    pub answers: Vec<Asked>,
}

impl Observation for Access {
    const SCHEMA: &'static str = "access/1";
}

/// Asks what an identity may do.
#[derive(Debug, Clone)]
pub struct Questions {
    identity: Identity,
    questions: Vec<String>,
}

/// Asks these questions as an identity.
pub fn may<'a>(identity: Identity, questions: impl IntoIterator<Item = &'a str>) -> Questions {
    Questions { identity, questions: questions.into_iter().map(str::to_owned).collect() }
}

/// Several identities, each with its own questions.
#[derive(Debug, Clone)]
pub struct Each(Vec<Questions>);

/// Asks for several identities, one after the other.
pub fn may_each(rows: Vec<Questions>) -> Each {
    Each(rows)
}

/// What several identities may do: a row each.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Matrix {
    /// In the order of asking.
    pub rows: Vec<Access>,
}

impl Observation for Matrix {
    const SCHEMA: &'static str = "access-matrix/1";
}

impl Probe<Platform> for Each {
    type Seen = Matrix;

    fn touches(&self) -> Touches {
        self.0.iter().fold(Touches::nothing(), |touches, row| touches.union(&Probe::touches(row)))
    }

    async fn observe(&self, platform: &Platform, cx: &Cx) -> Result<Matrix, ObserveError> {
        let mut rows = Vec::with_capacity(self.0.len());
        for row in &self.0 {
            rows.push(row.observe(platform, cx).await?);
        }
        Ok(Matrix { rows })
    }
}

/// All combinations of verbs and resources, with the same place for each.
pub fn every(verbs: &[&str], resources: &[&str], place: &str) -> Vec<String> {
    verbs.iter().flat_map(|verb| resources.iter().map(move |what| format!("{verb} {what}{place}"))).collect()
}

impl Probe<Platform> for Questions {
    type Seen = Access;

    fn touches(&self) -> Touches {
        let cluster_wide = Touches::nothing().reads(Resource::Component("cluster-wide".to_owned()));
        self.questions
            .iter()
            .filter_map(|text| Question::from_str(text).ok()?.namespace)
            .fold(cluster_wide, |touches, namespace| touches.reads(Resource::Namespace(namespace)))
    }

    async fn observe(&self, platform: &Platform, _: &Cx) -> Result<Access, ObserveError> {
        let caller = self.identity.caller(platform).await.map_err(ObserveError::no_ground)?;
        let (user, groups) = caller.whoami().await.map_err(ObserveError::no_ground)?.unwrap_or_default();
        let questions: Vec<Question> = self
            .questions
            .iter()
            .map(|text| text.parse())
            .collect::<Result<_, String>>()
            .map_err(ObserveError::harness)?;
        let (caller, known, member_of) = (&caller, &user, &groups);
        let answers = futures::stream::iter(questions)
            .map(|question| async move { asked(platform, caller, known, member_of, &question).await })
            .buffered(AT_ONCE)
            .try_collect()
            .await
            .map_err(ObserveError::no_ground)?;
        Ok(Access { identity: self.identity.to_string(), user, groups, answers })
    }
}

async fn asked(
    platform: &Platform,
    caller: &Caller,
    user: &str,
    groups: &[String],
    question: &Question,
) -> Result<Asked, ApiError> {
    let (own, review, real) = futures::join!(
        own_review(caller, question),
        review(platform, user, groups, question),
        real(platform, caller, question)
    );
    let (review, review_reason) = review?;
    let real = real?;
    Ok(Asked {
        question: question.text.clone(),
        own_review: own?,
        review,
        review_reason,
        code: real.code,
        let_through: let_through(&real),
        message: if real.is_ok() { String::new() } else { real.message().to_owned() },
    })
}

/// Whether the authorizer let a request through. Admission refuses with 403 too, but never with the authorizer's words.
fn let_through(answer: &ApiAnswer) -> bool {
    let authorizer = answer.message().contains("cannot ") && answer.message().contains("User \"");
    !(answer.code == 401 || (answer.code == 403 && authorizer))
}

async fn own_review(caller: &Caller, question: &Question) -> Result<Option<bool>, ApiError> {
    let review = json!({
        "apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview",
        "spec": {"resourceAttributes": question.attributes()},
    });
    let path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
    let answer = caller.ask(Ask::new(Method::POST, path).with(&review)).await?;
    Ok(answer.body["status"]["allowed"].as_bool().filter(|_| answer.is_ok()))
}

/// The administrator's word on somebody: allowed, and why.
///
/// # Errors
/// No answer came, or it was refused.
pub async fn review(
    platform: &Platform,
    user: &str,
    groups: &[String],
    question: &Question,
) -> Result<(bool, String), ApiError> {
    review_by(platform.admin(), user, groups, question).await
}

/// The same, by one apiserver.
///
/// # Errors
/// No answer came, or it was refused.
pub async fn review_by(
    client: &kube::client::Client,
    user: &str,
    groups: &[String],
    question: &Question,
) -> Result<(bool, String), ApiError> {
    let review = json!({
        "apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview",
        "spec": {"user": user, "groups": groups, "resourceAttributes": question.attributes()},
    });
    let path = "/apis/authorization.k8s.io/v1/subjectaccessreviews";
    if user.is_empty() {
        // Who is not let in has no name to ask for.
        return Ok((false, String::new()));
    }
    let answer = Ask::new(Method::POST, path).with(&review).send(client).await?;
    match answer.body["status"]["allowed"].as_bool() {
        Some(allowed) => Ok((allowed, answer.body["status"]["reason"].as_str().unwrap_or_default().to_owned())),
        None => Err(crate::objects::refused(&Method::POST, path, &answer)),
    }
}

/// The real request: reads as they are, writes as dry runs of something that is not there.
async fn real(platform: &Platform, caller: &Caller, question: &Question) -> Result<ApiAnswer, ApiError> {
    let folder = if question.group.is_empty() {
        version_path("v1")
    } else {
        version_path(&platform.preferred_version(&question.group).await?)
    };
    let collection = match &question.namespace {
        Some(namespace) => format!("{folder}/namespaces/{namespace}/{}", question.resource),
        None => format!("{folder}/{}", question.resource),
    };
    let name = if question.name.is_empty() { NOBODY } else { &question.name };
    let part = if question.subresource.is_empty() { String::new() } else { format!("/{}", question.subresource) };
    let object = format!("{collection}/{name}{part}");
    let dry = format!("{object}?dryRun=All");
    let new = if part.is_empty() { format!("{collection}?dryRun=All") } else { dry.clone() };
    let watch = format!("{collection}?watch=1&timeoutSeconds=1&fieldSelector=metadata.name%3D{NOBODY}");
    let list = format!("{collection}?limit=1");
    let many = format!("{collection}?dryRun=All&fieldSelector=metadata.name%3D{NOBODY}");
    let empty = json!({});
    let ask = match question.verb.as_str() {
        "get" => Ask::get(&object),
        "list" => Ask::get(&list),
        "watch" => Ask::get(&watch),
        "create" => Ask::new(Method::POST, &new).with(&empty),
        "update" => Ask::new(Method::PUT, &dry).with(&empty),
        "patch" => Ask::patch(&dry, Patch::Merge, &empty),
        "delete" => Ask::new(Method::DELETE, &dry),
        "deletecollection" => Ask::new(Method::DELETE, &many),
        other => {
            let why = format!("`{other}` has no request of its own: ask for it by access review");
            return Err(ApiError { method: other.to_owned(), path: object.clone(), why });
        }
    };
    caller.ask(ask).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn questions_are_read() {
        let question: Question = "get pods/log:pg-0 in storage-demo".parse().unwrap();
        assert_eq!(
            question.attributes(),
            json!({"verb": "get", "group": "", "resource": "pods", "subresource": "log", "name": "pg-0", "namespace": "storage-demo"})
        );
        let question: Question = "create deployments.apps in default".parse().unwrap();
        assert_eq!((question.resource.as_str(), question.group.as_str()), ("deployments", "apps"));
        let question: Question = "list roles.rbac.authorization.k8s.io".parse().unwrap();
        assert_eq!((question.group.as_str(), question.namespace), ("rbac.authorization.k8s.io", None));
        assert!("list".parse::<Question>().is_err());
        assert!("list pods at x".parse::<Question>().is_err());
    }

    #[test]
    fn only_the_authorizers_refusal_counts() {
        let answer = |code: u16, message: &str| ApiAnswer { code, warnings: vec![], body: json!({"message": message}) };
        let words = "pods is forbidden: User \"x\" cannot list resource \"pods\" in API group \"\"";
        assert!(!let_through(&answer(403, words)));
        assert!(!let_through(&answer(401, "Unauthorized")));
        assert!(let_through(&answer(
            403,
            "pods \"x\" is forbidden: violates PodSecurity \"restricted:latest\": a (b)"
        )));
        assert!(let_through(&answer(404, "not found")));
    }

    #[test]
    fn every_combination_is_asked() {
        assert_eq!(every(&["get", "list"], &["pods", "pods/log"], " in a").len(), 4);
    }
}
