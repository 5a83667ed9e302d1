//! The token Secrets of a new service account: since Kubernetes 1.24 nobody makes one (RBAC-022).

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::json;
use shakedown_core::{Answer, Judgement, Observation, Resource, Touches, wait_for};
use shakedown_engine::{Cx, Expect, ObserveError, Probe, expect_fn};

use crate::objects::ObjectRef;
use crate::platform::Platform;

/// For so long no Secret may come: the controller that made them did it at once.
const NEVER_WITHIN: Duration = Duration::from_secs(6);
/// The type of token Secrets.
const KIND: &str = "kubernetes.io/service-account-token";

/// What came.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenSecrets {
    /// The new account.
    pub account: String,
    /// Token Secrets that name it.
    pub secrets: Vec<String>,
    /// Milliseconds that were looked.
    pub looked_ms: u64,
}

impl Observation for TokenSecrets {
    const SCHEMA: &'static str = "token-secrets/1";
}

/// Makes a service account and looks for its token Secrets.
#[derive(Debug, Clone)]
pub struct NewAccount {
    namespace: &'static str,
    made_by_hand: bool,
}

/// A new service account in a namespace that is there.
pub fn of_a_new_account(namespace: &'static str) -> NewAccount {
    NewAccount { namespace, made_by_hand: false }
}

impl NewAccount {
    /// A token Secret for it is made by hand.
    #[must_use]
    pub fn with_one_made_by_hand(mut self) -> Self {
        self.made_by_hand = true;
        self
    }
}

impl Probe<Platform> for NewAccount {
    type Seen = TokenSecrets;

    fn touches(&self) -> Touches {
        Touches::nothing().writes(Resource::Namespace(self.namespace.to_owned()))
    }

    async fn observe(&self, platform: &Platform, cx: &Cx) -> Result<TokenSecrets, ObserveError> {
        let name = cx.name("newcomer");
        let of = |kind: &str| ObjectRef::namespaced("v1", kind, self.namespace, &name);
        cx.undo_afterwards(vec![of("ServiceAccount").deletion(), of("Secret").deletion()])?;
        let mut made = vec![json!({
            "apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name, "namespace": self.namespace},
        })];
        made.extend(self.made_by_hand.then(|| {
            json!({
                "apiVersion": "v1", "kind": "Secret", "type": KIND,
                "metadata": {
                    "name": name, "namespace": self.namespace,
                    "annotations": {"kubernetes.io/service-account.name": name},
                },
            })
        }));
        let began = std::time::Instant::now();
        for manifest in &made {
            let answer = platform.create(manifest).await.map_err(ObserveError::no_ground)?;
            if !answer.is_ok() {
                return Err(ObserveError::no_ground(format!("making it: {}", answer.message())));
            }
        }
        let found = wait_for("a token Secret", NEVER_WITHIN, || async {
            match platform.list("v1", "Secret", Some(self.namespace), None).await {
                Err(e) => Answer::Never(e.to_string()),
                Ok(all) => {
                    let names = all.iter().filter(|secret| {
                        secret["type"] == KIND
                            && secret["metadata"]["annotations"]["kubernetes.io/service-account.name"] == name.as_str()
                    });
                    let names: Vec<String> =
                        names.filter_map(|secret| secret["metadata"]["name"].as_str()).map(str::to_owned).collect();
                    if names.is_empty() { Answer::NotYet("none".to_owned()) } else { Answer::Ready(names) }
                }
            }
        })
        .await;
        let secrets = match found {
            Ok(secrets) => secrets,
            Err(shakedown_core::WaitError::Never { why, .. }) => return Err(ObserveError::no_ground(why)),
            // None within the time is what was looked for.
            Err(shakedown_core::WaitError::TimedOut { .. }) => vec![],
        };
        let looked_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
        for kind in ["Secret", "ServiceAccount"] {
            platform.delete(&of(kind)).await.map_err(ObserveError::no_ground)?;
        }
        Ok(TokenSecrets { account: format!("{}/{name}", self.namespace), secrets, looked_ms })
    }
}

/// None came.
pub fn none_came() -> impl Expect<TokenSecrets> {
    expect_fn(|seen: &TokenSecrets| match seen.secrets.as_slice() {
        [] => Judgement::Pass,
        some => Judgement::fail("token-secret", &seen.account, some.join(", ")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::codes;

    #[test]
    fn a_secret_that_came_is_found() {
        let seen = |secrets| TokenSecrets { account: "n/a".into(), secrets, looked_ms: 1 };
        assert!(codes(none_came().judge(&seen(vec![]))).is_empty());
        assert_eq!(codes(none_came().judge(&seen(vec!["s".into()]))), ["token-secret"]);
    }
}
