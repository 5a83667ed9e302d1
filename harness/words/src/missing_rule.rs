//! From a refusal's message to the rule that is missing (RBAC-044): it is granted exactly, and the request repeated.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use shakedown_core::{Answer, Finding, Judgement, Observation, Resource, Touches, wait_for};
use shakedown_engine::{Cx, Expect, ObserveError, Probe, expect_fn};

use crate::access::{Question, may, review_by};
use crate::identity::Identity;
use crate::objects::ObjectRef;
use crate::platform::Platform;
use crate::rights::subject;

/// How long all apiservers may take to take a Role in.
const TAKEN_IN: Duration = Duration::from_secs(30);

/// The rule that a refusal says is missing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rule {
    /// `create`.
    pub verb: String,
    /// `deployments`.
    pub resource: String,
    /// `apps`; empty for the core group.
    pub group: String,
    /// Of the Role.
    pub namespace: String,
}

/// Takes `cannot VERB resource "R" in API group "G" in the namespace "N"` out of a refusal.
pub fn rule_missing_by(message: &str) -> Option<Rule> {
    let (_, rest) = message.split_once(" cannot ")?;
    let (verb, rest) = rest.split_once(" resource \"")?;
    let (resource, rest) = rest.split_once("\" in API group \"")?;
    let (group, rest) = rest.split_once("\" in the namespace \"")?;
    let (namespace, _) = rest.split_once('"')?;
    let [verb, resource, group, namespace] = [verb, resource, group, namespace].map(str::to_owned);
    Some(Rule { verb, resource, group, namespace })
}

/// One question, before and after.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mended {
    /// The question.
    pub question: String,
    /// The refusal.
    pub message: String,
    /// What it says is missing.
    pub missing: Option<Rule>,
    /// The API group that was granted.
    pub granted_group: String,
    /// The authorizer let it through afterwards.
    pub let_through: bool,
}

/// All of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mendings {
    /// In the order of asking.
    pub rows: Vec<Mended>,
}

impl Observation for Mendings {
    const SCHEMA: &'static str = "missing-rule/1";
}

/// Asks, grants what is missing, asks again.
#[derive(Debug, Clone)]
pub struct Mends {
    namespace: &'static str,
    questions: &'static [&'static str],
    core_group: bool,
}

/// Somebody without rights asks these questions about a namespace, is granted what each refusal says, and asks again.
pub fn granting_what_is_missing(namespace: &'static str, questions: &'static [&'static str]) -> Mends {
    Mends { namespace, questions, core_group: false }
}

impl Mends {
    /// The rules are built for the core group, whatever the refusal says.
    #[must_use]
    pub fn in_the_core_group(mut self) -> Self {
        self.core_group = true;
        self
    }

    async fn grant(
        &self,
        platform: &Platform,
        cx: &Cx,
        user: &str,
        name: &str,
        rule: &Rule,
    ) -> Result<(), ObserveError> {
        const RBAC: &str = "rbac.authorization.k8s.io/v1";
        let undo = |kind: &str| ObjectRef::namespaced(RBAC, kind, &rule.namespace, name).deletion();
        cx.undo_afterwards(vec![undo("Role"), undo("RoleBinding")])?;
        let head = |kind: &str| json!({"apiVersion": RBAC, "kind": kind, "metadata": {"name": name, "namespace": rule.namespace}});
        let mut role: Value = head("Role");
        role["rules"] = json!([{"apiGroups": [rule.group], "resources": [rule.resource], "verbs": [rule.verb]}]);
        let mut binding = head("RoleBinding");
        binding["roleRef"] = json!({"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": name});
        binding["subjects"] = json!([subject("User", user, None)]);
        for manifest in [role, binding] {
            let answer = platform.create(&manifest).await.map_err(ObserveError::no_ground)?;
            if !answer.is_ok() {
                return Err(ObserveError::no_ground(format!("granting it: {}", answer.message())));
            }
        }
        let dot = if rule.group.is_empty() { "" } else { "." };
        let granted = format!("{} {}{dot}{} in {}", rule.verb, rule.resource, rule.group, rule.namespace);
        let question: Question = granted.parse().map_err(|e: String| ObserveError::harness(e))?;
        wait_for("the granted rule", TAKEN_IN, || async {
            for (node, client) in platform.apiservers() {
                match review_by(client, user, &[], &question).await {
                    Ok((true, _)) => {}
                    Ok((false, _)) => return Answer::NotYet(format!("{node}: not allowed yet")),
                    Err(e) => return Answer::NotYet(e.to_string()),
                }
            }
            Answer::Ready(())
        })
        .await
        .map_err(ObserveError::no_ground)
    }
}

impl Probe<Platform> for Mends {
    type Seen = Mendings;

    fn touches(&self) -> Touches {
        Touches::nothing()
            .writes(Resource::Namespace(self.namespace.to_owned()))
            .reads(Resource::Component("cluster-wide".to_owned()))
    }

    async fn observe(&self, platform: &Platform, cx: &Cx) -> Result<Mendings, ObserveError> {
        let mut rows = vec![];
        for (index, question) in self.questions.iter().enumerate() {
            // Somebody else for each, so that one grant does not answer for the next.
            let user = cx.name(&format!("newcomer-{index}"));
            let ask = || may(Identity::user(&user), [*question]);
            let first = ask().observe(platform, cx).await?.answers;
            let message = first.into_iter().next().map(|asked| asked.message).unwrap_or_default();
            let mut row = Mended {
                question: (*question).to_owned(),
                missing: rule_missing_by(&message),
                message,
                granted_group: String::new(),
                let_through: false,
            };
            if let Some(mut rule) = row.missing.clone() {
                if self.core_group {
                    rule.group = String::new();
                }
                self.grant(platform, cx, &user, &user, &rule).await?;
                row.granted_group = rule.group;
                row.let_through = ask().observe(platform, cx).await?.answers.iter().any(|asked| asked.let_through);
            }
            rows.push(row);
        }
        Ok(Mendings { rows })
    }
}

/// Each was refused in words that name a rule, and went through once exactly this rule was there.
pub fn the_rule_was_all_that_was_missing() -> impl Expect<Mendings> {
    expect_fn(|seen: &Mendings| {
        if seen.rows.is_empty() {
            return Judgement::Inconclusive("nothing was asked".to_owned());
        }
        let mut found = vec![];
        for row in &seen.rows {
            if row.missing.is_none() {
                found.push(Finding::new("no-rule-named", &row.question, format!("the answer says: {}", row.message)));
            } else if !row.let_through {
                let said = format!("granted in API group `{}`", row.granted_group);
                found.push(Finding::new("still-refused", &row.question, said));
            }
        }
        Judgement::from_findings(found)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::codes;

    const REFUSAL: &str = "deployments.apps is forbidden: User \"u\" cannot create resource \"deployments\" in API group \"apps\" in the namespace \"n\"";

    #[test]
    fn a_refusal_names_the_rule() {
        let rule = rule_missing_by(REFUSAL).unwrap();
        assert_eq!((rule.verb.as_str(), rule.resource.as_str()), ("create", "deployments"));
        assert_eq!((rule.group.as_str(), rule.namespace.as_str()), ("apps", "n"));
        assert_eq!(rule_missing_by("pods \"x\" not found"), None);
    }

    #[test]
    fn each_defect_has_its_code() {
        let row = |message: &str, let_through| Mended {
            question: "q".into(),
            message: message.into(),
            missing: rule_missing_by(message),
            granted_group: "apps".into(),
            let_through,
        };
        let judge = |row| codes(the_rule_was_all_that_was_missing().judge(&Mendings { rows: vec![row] }));
        assert!(judge(row(REFUSAL, true)).is_empty());
        assert_eq!(judge(row(REFUSAL, false)), ["still-refused"]);
        assert_eq!(judge(row("not found", true)), ["no-rule-named"]);
    }
}
