//! Expectations of [`Access`]: what must be granted, what must be refused and in which words; and sabotages of Roles and
//! bindings, each shown to have landed by every apiserver's own access review.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use shakedown_core::{Finding, Judgement};
use shakedown_engine::Expect;

use crate::access::{Access, Asked, Matrix, Question, review_by};
use crate::change::{Change, Signal, added, deleted, json_patched};
use crate::objects::ObjectRef;

const GROUP: &str = "rbac.authorization.k8s.io/v1";

/// What an identity must be granted and refused.
#[derive(Debug, Clone, Default)]
pub struct Rights {
    user: Option<&'static str>,
    reason: Option<&'static str>,
    granted: Vec<String>,
    refused: Vec<(String, Vec<String>)>,
}

/// Granted: every one of these.
pub fn granted<I>(questions: I) -> Rights
where
    I: IntoIterator,
    I::Item: Into<String>,
{
    Rights { granted: questions.into_iter().map(Into::into).collect(), ..Rights::default() }
}

/// Refused: every one of these.
pub fn forbidden<I>(questions: I) -> Rights
where
    I: IntoIterator,
    I::Item: Into<String>,
{
    Rights::default().forbidden(questions)
}

impl Rights {
    /// The API server knows it by this user name.
    #[must_use]
    pub fn known_as(mut self, user: &'static str) -> Self {
        self.user = Some(user);
        self
    }

    /// What is granted is granted for a reason that names this (a binding, a Role).
    #[must_use]
    pub fn because(mut self, reason: &'static str) -> Self {
        self.reason = Some(reason);
        self
    }

    /// Refused: these as well.
    #[must_use]
    pub fn forbidden<I>(mut self, questions: I) -> Self
    where
        I: IntoIterator,
        I::Item: Into<String>,
    {
        self.refused.extend(questions.into_iter().map(|question| (question.into(), vec![])));
        self
    }

    /// Refused with a message that contains all of these, in this order.
    #[must_use]
    pub fn forbidden_with(mut self, question: &str, parts: &[&str]) -> Self {
        self.refused.push((question.to_owned(), parts.iter().map(|&part| part.to_owned()).collect()));
        self
    }

    fn one(asked: &Asked, must: bool, findings: &mut Vec<Finding>) {
        let subject = asked.question.clone();
        if asked.let_through != must {
            let (code, said) =
                if must { ("right-missing", &asked.message) } else { ("right-too-many", &asked.review_reason) };
            findings.push(Finding::new(code, subject.clone(), format!("expected {must}: {said}")));
            return;
        }
        // A question and the real request that disagree make can-i worthless (RBAC-049).
        for (who, review) in [("its own review", asked.own_review), ("the administrator's review", Some(asked.review))]
        {
            if review.is_some_and(|allowed| allowed != asked.let_through) {
                let message =
                    format!("{who} says {}, the request was {}", !must, if must { "let through" } else { "refused" });
                findings.push(Finding::new("review-disagrees", subject.clone(), message));
            }
        }
    }
}

impl Expect<Access> for Rights {
    fn judge(&self, seen: &Access) -> Judgement {
        let answers: BTreeMap<&str, &Asked> = seen.answers.iter().map(|a| (a.question.as_str(), a)).collect();
        let mut findings = vec![];
        if let Some(user) = self.user.filter(|user| *user != seen.user) {
            findings.push(Finding::new(
                "other-identity",
                &seen.identity,
                format!("expected {user}, is `{}`", seen.user),
            ));
        }
        if answers.len() != self.granted.len() + self.refused.len() {
            let why = format!("{} answers for {} expectations", answers.len(), self.granted.len() + self.refused.len());
            return Judgement::Inconclusive(why);
        }
        let expected =
            self.granted.iter().map(|q| (q, true, None)).chain(self.refused.iter().map(|(q, p)| (q, false, Some(p))));
        for (question, must, parts) in expected {
            let Some(asked) = answers.get(question.as_str()) else {
                return Judgement::Inconclusive(format!("`{question}` was not asked"));
            };
            Self::one(asked, must, &mut findings);
            if let Some(reason) =
                self.reason.filter(|reason| must && asked.review && !asked.review_reason.contains(reason))
            {
                let message = format!("`{reason}` is not in: {}", asked.review_reason);
                findings.push(Finding::new("reason-differs", question, message));
            }
            let mut rest = asked.message.as_str();
            for part in parts.into_iter().flatten() {
                match rest.find(part.as_str()) {
                    Some(at) => rest = &rest[at + part.len()..],
                    None => {
                        let message = format!("`{part}` is not (in this order) in: {}", asked.message);
                        findings.push(Finding::new("message-differs", question, message));
                        break;
                    }
                }
            }
        }
        Judgement::from_findings(findings)
    }
}

/// A row of rights for each identity of a matrix.
pub struct Rows(Vec<Rights>);

/// The rights of each identity, in the order of asking.
pub fn each_of(rows: Vec<Rights>) -> Rows {
    Rows(rows)
}

impl Expect<Matrix> for Rows {
    fn judge(&self, seen: &Matrix) -> Judgement {
        if seen.rows.len() != self.0.len() {
            return Judgement::Inconclusive(format!(
                "{} identities for {} expectations",
                seen.rows.len(),
                self.0.len()
            ));
        }
        let named = |judgement: Judgement, who: &str| match judgement {
            Judgement::Fail(findings) => Judgement::Fail(
                findings.into_iter().map(|f| Finding { subject: format!("{who}: {}", f.subject), ..f }).collect(),
            ),
            other => other,
        };
        let rows = self.0.iter().zip(&seen.rows);
        rows.map(|(rights, row)| named(rights.judge(row), &row.identity)).fold(Judgement::Pass, Judgement::and)
    }
}

/// Several signals as one.
pub fn reviews(all: Vec<Signal>) -> Signal {
    Box::new(move |platform, client| {
        let all = all.iter().map(|signal| signal(platform, client)).collect::<Vec<_>>();
        Box::pin(async move { futures::future::try_join_all(all).await.map(|said| said.join(" | ")) })
    })
}

/// What every apiserver's access review says about somebody.
pub fn review_of(user: &str, groups: &[&str], question: &str) -> Signal {
    let (user, text) = (user.to_owned(), question.to_owned());
    let groups: Vec<String> = groups.iter().map(|&group| group.to_owned()).collect();
    Box::new(move |_, client| {
        let (user, groups, text) = (user.clone(), groups.clone(), text.clone());
        Box::pin(async move {
            let question: Question = text.parse()?;
            let (allowed, _) = review_by(client, &user, &groups, &question).await.map_err(|e| e.to_string())?;
            Ok(format!("{text}: {allowed}"))
        })
    })
}

/// The user name of a service account (RBAC-043).
pub fn user_of(namespace: &str, name: &str) -> String {
    format!("system:serviceaccount:{namespace}:{name}")
}

/// The Role has one rule more.
pub fn rule_added(namespace: &str, role: &str, groups: &[&str], resources: &[&str], verbs: &[&str]) -> Change {
    let rule = json!({"apiGroups": groups, "resources": resources, "verbs": verbs});
    let what = format!("Role {namespace}/{role} also allows {} on {}", verbs.join(", "), resources.join(", "));
    let patch = json!([{"op": "add", "path": "/rules/-", "value": rule}]);
    json_patched(what, ObjectRef::namespaced(GROUP, "Role", namespace, role), patch)
}

/// One rule of the Role names other resources.
pub fn rule_narrowed(namespace: &str, role: &str, index: usize, resources: &[&str]) -> Change {
    let what = format!("rule {index} of Role {namespace}/{role} covers only {}", resources.join(", "));
    let patch = json!([{"op": "replace", "path": format!("/rules/{index}/resources"), "value": resources}]);
    json_patched(what, ObjectRef::namespaced(GROUP, "Role", namespace, role), patch)
}

/// The RoleBinding is gone.
pub fn binding_removed(namespace: &str, binding: &str) -> Change {
    let object = ObjectRef::namespaced(GROUP, "RoleBinding", namespace, binding);
    deleted(format!("RoleBinding {namespace}/{binding} is gone"), object)
}

/// The subject of a binding, as its manifest names it.
pub fn subject(kind: &str, name: &str, namespace: Option<&str>) -> Value {
    match namespace {
        Some(namespace) => json!({"kind": kind, "name": name, "namespace": namespace}),
        None => json!({"kind": kind, "name": name, "apiGroup": "rbac.authorization.k8s.io"}),
    }
}

/// A ClusterRole bound to somebody in one namespace, or, without one, everywhere.
pub fn bound(name: &str, cluster_role: &str, namespace: Option<&str>, subject: &Value) -> Change {
    let place = namespace.map_or_else(|| "everywhere".to_owned(), |namespace| format!("in {namespace}"));
    let what = format!("{} has ClusterRole {cluster_role} {place}", subject["name"].as_str().unwrap_or_default());
    added(what, binding(name, cluster_role, namespace, subject))
}

/// The manifest of such a binding.
pub fn binding(name: &str, cluster_role: &str, namespace: Option<&str>, subject: &Value) -> Value {
    json!({
        "apiVersion": GROUP, "kind": if namespace.is_some() { "RoleBinding" } else { "ClusterRoleBinding" },
        "metadata": {"name": name, "namespace": namespace},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": cluster_role},
        "subjects": [subject],
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(question: &str, through: bool, message: &str) -> Asked {
        Asked {
            question: question.to_owned(),
            own_review: Some(through),
            review: through,
            review_reason: "because".to_owned(),
            code: if through { 200 } else { 403 },
            let_through: through,
            message: message.to_owned(),
        }
    }

    fn seen(answers: Vec<Asked>) -> Access {
        Access { identity: "x".into(), user: "u".into(), groups: vec![], answers }
    }

    fn codes(judgement: &Judgement) -> Vec<&str> {
        match judgement {
            Judgement::Fail(findings) => findings.iter().map(|f| f.code.as_str()).collect(),
            Judgement::Pass => vec![],
            Judgement::Inconclusive(_) => vec!["inconclusive"],
        }
    }

    #[test]
    fn rights_are_judged_both_ways() {
        let rights = granted(["list pods"]).forbidden_with("list secrets", &["cannot list", "\"secrets\""]);
        let good = seen(vec![
            asked("list pods", true, ""),
            asked("list secrets", false, "u cannot list resource \"secrets\""),
        ]);
        assert_eq!(rights.judge(&good), Judgement::Pass);
        let swapped = seen(vec![asked("list pods", false, "no"), asked("list secrets", true, "")]);
        assert_eq!(codes(&rights.judge(&swapped)), ["right-missing", "right-too-many", "message-differs"]);
        let silent = seen(vec![asked("list pods", true, ""), asked("list secrets", false, "\"secrets\" cannot list")]);
        assert_eq!(codes(&rights.judge(&silent)), ["message-differs"]);
        assert_eq!(codes(&rights.judge(&seen(vec![asked("list pods", true, "")]))), ["inconclusive"]);
        assert_eq!(codes(&rights.clone().because("a Role").judge(&good)), ["reason-differs"]);
        assert_eq!(codes(&rights.known_as("v").judge(&good)), ["other-identity"]);
    }

    #[test]
    fn a_review_that_disagrees_is_found() {
        let mut answer = asked("list pods", true, "");
        answer.review = false;
        assert_eq!(codes(&granted(["list pods"]).judge(&seen(vec![answer]))), ["review-disagrees"]);
    }

    #[test]
    fn rows_are_judged_each_for_itself() {
        let row = |through| seen(vec![asked("list pods", through, "no")]);
        let rows = || each_of(vec![granted(["list pods"]), forbidden(["list pods"])]);
        assert_eq!(rows().judge(&Matrix { rows: vec![row(true), row(false)] }), Judgement::Pass);
        assert_eq!(
            codes(&rows().judge(&Matrix { rows: vec![row(false), row(true)] })),
            ["right-missing", "right-too-many"]
        );
        assert_eq!(codes(&rows().judge(&Matrix { rows: vec![row(true)] })), ["inconclusive"]);
    }

    #[test]
    fn a_binding_without_namespace_is_cluster_wide() {
        let manifest = binding("b", "view", None, &subject("User", "u", None));
        assert_eq!(manifest["kind"], "ClusterRoleBinding");
        assert_eq!(manifest["subjects"][0]["apiGroup"], "rbac.authorization.k8s.io");
    }
}
