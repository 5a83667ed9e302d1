//! Somebody who deletes the binding that all their rights come from, and who can bring it back (RBAC-001).

use std::time::Duration;

use http::Method;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use shakedown_core::{Answer, Finding, Judgement, Observation, Resource, Touches, wait_for};
use shakedown_engine::{Cx, Expect, ObserveError, Probe, expect_fn};

use crate::access::{Question, review_by};
use crate::api::Ask;
use crate::identity::Identity;
use crate::objects::ObjectRef;
use crate::platform::Platform;
use crate::rights::{subject, user_of};

/// What the author may do as long as a binding holds, and nobody without rights may.
const QUESTION: &str = "list secrets in kube-system";
const READ: &str = "/api/v1/namespaces/kube-system/secrets?limit=1";
const BINDINGS: &str = "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings";
/// How long all apiservers may take to take a binding in.
const TAKEN_IN: Duration = Duration::from_secs(30);

/// How it went; status codes of the requests.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lockout {
    /// The author's user name.
    pub user: String,
    /// A read before.
    pub before: u16,
    /// The author deletes the binding.
    pub deleted: u16,
    /// A read afterwards, and the message.
    pub after: u16,
    /// Its message.
    pub message: String,
    /// The author creates the binding again.
    pub created: u16,
    /// The other credential creates it.
    pub rescued: u16,
    /// A read after that.
    pub again: u16,
}

impl Observation for Lockout {
    const SCHEMA: &'static str = "lockout/1";
}

/// Locks somebody out.
#[derive(Debug, Clone)]
pub struct LocksOut {
    namespace: &'static str,
    second: bool,
}

/// A service account of a namespace that is there, whose only right is a binding to cluster-admin, deletes this binding.
pub fn author_deletes_own_binding(namespace: &'static str) -> LocksOut {
    LocksOut { namespace, second: false }
}

impl LocksOut {
    /// It has a second binding.
    #[must_use]
    pub fn with_a_second_binding(mut self) -> Self {
        self.second = true;
        self
    }
}

fn account(namespace: &str, name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name, "namespace": namespace}})
}

fn binding(name: &str, subject: &Value) -> Value {
    json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": {"name": name},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"},
        "subjects": [subject],
    })
}

/// Waits until every apiserver's review of the author gives a reason that fits.
async fn reasons(platform: &Platform, user: &str, what: &str, fits: impl Fn(&str) -> bool) -> Result<(), ObserveError> {
    let question: Question = QUESTION.parse().map_err(|e: String| ObserveError::harness(e))?;
    wait_for(what, TAKEN_IN, || async {
        for (name, client) in platform.apiservers() {
            match review_by(client, user, &[], &question).await {
                Err(e) => return Answer::NotYet(e.to_string()),
                Ok((_, reason)) if !fits(&reason) => return Answer::NotYet(format!("{name}: `{reason}`")),
                Ok(_) => {}
            }
        }
        Answer::Ready(())
    })
    .await
    .map_err(ObserveError::no_ground)
}

impl Probe<Platform> for LocksOut {
    type Seen = Lockout;

    fn touches(&self) -> Touches {
        Touches::nothing()
            .writes(Resource::Namespace(self.namespace.to_owned()))
            .writes(Resource::Component("cluster-wide".to_owned()))
    }

    async fn observe(&self, platform: &Platform, cx: &Cx) -> Result<Lockout, ObserveError> {
        let (name, other) = (cx.name("author"), cx.name("author-again"));
        let user = user_of(self.namespace, &name);
        let who = subject("ServiceAccount", &name, Some(self.namespace));
        let rbac = "rbac.authorization.k8s.io/v1";
        cx.undo_afterwards(vec![
            ObjectRef::namespaced("v1", "ServiceAccount", self.namespace, &name).deletion(),
            ObjectRef::cluster(rbac, "ClusterRoleBinding", &name).deletion(),
            ObjectRef::cluster(rbac, "ClusterRoleBinding", &other).deletion(),
        ])?;
        let own = binding(&name, &who);
        let mut made = vec![account(self.namespace, &name), own.clone()];
        made.extend(self.second.then(|| binding(&other, &who)));
        for manifest in &made {
            let answer = platform.create(manifest).await.map_err(ObserveError::no_ground)?;
            if !answer.is_ok() {
                return Err(ObserveError::no_ground(format!("making the author: {}", answer.message())));
            }
        }
        let named = format!("\"{name}\"");
        let any = |reason: &str| reason.contains("ClusterRoleBinding");
        reasons(platform, &user, "the author's rights", any).await?;
        let caller = Identity::service_account(self.namespace, &name).caller(platform).await;
        let caller = caller.map_err(ObserveError::no_ground)?;
        let path = format!("{BINDINGS}/{name}");
        let ask = async |ask: Ask<'_>| caller.ask(ask).await.map_err(ObserveError::no_ground);
        let before = ask(Ask::get(READ)).await?.code;
        let deleted = ask(Ask::new(Method::DELETE, &path)).await?.code;
        reasons(platform, &user, "end of the deleted binding", |reason| !reason.contains(&named)).await?;
        let after = ask(Ask::get(READ)).await?;
        let created = ask(Ask::new(Method::POST, BINDINGS).with(&own)).await?.code;
        let rescued = platform.create(&own).await.map_err(ObserveError::no_ground)?.code;
        reasons(platform, &user, "the binding brought back", any).await?;
        let again = ask(Ask::get(READ)).await?.code;
        let message = if after.is_ok() { String::new() } else { after.message().to_owned() };
        Ok(Lockout { user, before, deleted, after: after.code, message, created, rescued, again })
    }
}

/// The author is refused afterwards, also when creating the binding again; the other credential brings it back.
pub fn locked_out_and_rescued() -> impl Expect<Lockout> {
    expect_fn(|seen: &Lockout| {
        if (seen.before, seen.deleted) != (200, 200) {
            let why = format!("the author read with {} and deleted with {}", seen.before, seen.deleted);
            return Judgement::Inconclusive(why);
        }
        let mut found = vec![];
        for (what, code) in [("reads", seen.after), ("creates the binding again", seen.created)] {
            if code != 403 {
                found.push(Finding::new("not-locked-out", &seen.user, format!("{what}: answered {code}")));
            }
        }
        if found.is_empty() && (seen.rescued, seen.again) != (201, 200) {
            let said = format!("the rescue was answered {}, the read after it {}", seen.rescued, seen.again);
            found.push(Finding::new("not-rescued", &seen.user, said));
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
        let good = Lockout {
            user: "u".into(),
            before: 200,
            deleted: 200,
            after: 403,
            message: String::new(),
            created: 403,
            rescued: 201,
            again: 200,
        };
        let judge = |seen: &Lockout| codes(locked_out_and_rescued().judge(seen));
        assert!(judge(&good).is_empty());
        assert_eq!(judge(&Lockout { after: 200, ..good.clone() }), ["not-locked-out"]);
        assert_eq!(judge(&Lockout { created: 201, ..good.clone() }), ["not-locked-out"]);
        assert_eq!(judge(&Lockout { again: 403, ..good.clone() }), ["not-rescued"]);
        assert!(judge(&Lockout { deleted: 403, ..good })[0].starts_with("Inconclusive"));
    }
}
