//! The token that is mounted into a Pod, beside the token of a token Secret: how long each is good for, and what becomes
//! of it when the Pod is gone (RBAC-058, RBAC-059). Claims enter the observation, tokens do not.

use std::time::{Duration, Instant};

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use shakedown_core::{Answer, Finding, Judgement, Observation, Resource, Touches, wait_for};
use shakedown_engine::{Cx, Expect, ObserveError, Probe, expect_fn};

use crate::api::Ask;
use crate::identity::Identity;
use crate::objects::ObjectRef;
use crate::platform::Platform;

/// How long the Pod may take to run.
const RUNS: Duration = Duration::from_secs(60);
/// How long a token that was found good may be remembered after its Pod is gone; the apiserver's own memory is 10 s.
const REFUSED: Duration = Duration::from_secs(60);
/// How long the Pod may take to go.
const GONE: Duration = Duration::from_secs(40);
/// Prints the token in the first container whose cgroup has this id.
const READ: &str = r#"for p in $(grep -ls "$1" /proc/[0-9]*/cgroup | cut -d/ -f3); do
  f=/proc/$p/root/var/run/secrets/kubernetes.io/serviceaccount/token; [ -s $f ] && cat $f && exit 0
done; exit 1"#;

/// What a token says of itself.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claims {
    /// Seconds from its making to its end; none: it has no end.
    pub lifetime: Option<i64>,
    /// Seconds from its making until its use is warned of.
    pub warned_after: Option<i64>,
    /// The Pod that it is bound to.
    pub pod: Option<String>,
    /// `sub`.
    pub subject: String,
}

/// Reads a token's claims.
pub fn claims(token: &str) -> Option<Claims> {
    let payload = BASE64_URL_SAFE_NO_PAD.decode(token.split('.').nth(1)?).ok()?;
    let claims: Value = serde_json::from_slice(&payload).ok()?;
    let bound = &claims["kubernetes.io"];
    let since = claims["iat"].as_i64();
    Some(Claims {
        lifetime: claims["exp"].as_i64().map(|end| end - since.unwrap_or_default()),
        warned_after: bound["warnafter"].as_i64().map(|at| at - since.unwrap_or_default()),
        pod: bound["pod"]["name"].as_str().map(str::to_owned),
        subject: claims["sub"].as_str().unwrap_or_default().to_owned(),
    })
}

/// What the probe saw.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tokens {
    /// The Pod's name.
    pub pod: String,
    /// `expirationSeconds` of the Pod's volume.
    pub asked_for: Option<i64>,
    /// The mounted token.
    pub mounted: Claims,
    /// The Secret's token.
    pub secret: Claims,
    /// Status code with the mounted token while the Pod runs.
    pub mounted_before: u16,
    /// Status code with it once the Pod is gone: 401, or the last one within the budget.
    pub mounted_after: u16,
    /// Milliseconds from the Pod's end until then.
    pub after_ms: u64,
    /// Status code with the Secret's token then.
    pub secret_after: u16,
}

impl Observation for Tokens {
    const SCHEMA: &'static str = "pod-token/1";
}

/// Looks at both tokens.
#[derive(Debug, Clone)]
pub struct LookAtTokens {
    namespace: &'static str,
    account: &'static str,
    secret: (&'static str, &'static str),
    only_secret: bool,
}

/// Runs a Pod of an account of a namespace, and takes the token of a Secret (namespace, name) beside it.
pub fn tokens(namespace: &'static str, account: &'static str, secret: (&'static str, &'static str)) -> LookAtTokens {
    LookAtTokens { namespace, account, secret, only_secret: false }
}

impl LookAtTokens {
    /// The Secret's token is taken for both.
    #[must_use]
    pub fn both_from_the_secret(mut self) -> Self {
        self.only_secret = true;
        self
    }

    fn pod(&self, name: &str) -> Value {
        json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": self.namespace},
            "spec": {
                "serviceAccountName": self.account, "terminationGracePeriodSeconds": 0,
                "containers": [{"name": "c", "image": "registry.k8s.io/pause:3.10.1", "imagePullPolicy": "IfNotPresent"}],
            },
        })
    }
}

/// What the Pod's volumes ask for.
fn asked_for(pod: &Value) -> Option<i64> {
    let volumes = pod["spec"]["volumes"].as_array()?.iter();
    let mut sources = volumes.filter_map(|volume| volume["projected"]["sources"].as_array()).flatten();
    sources.find_map(|source| source["serviceAccountToken"]["expirationSeconds"].as_i64())
}

async fn code(platform: &Platform, token: &str) -> Result<u16, ObserveError> {
    // A question that everyone who is let in may ask.
    let caller = Identity::Bearer(token.to_owned()).caller(platform).await.map_err(ObserveError::no_ground)?;
    caller.ask(Ask::get("/api")).await.map(|answer| answer.code).map_err(ObserveError::no_ground)
}

async fn of_secret(platform: &Platform, secret: (&str, &str)) -> Result<String, ObserveError> {
    let object = ObjectRef::namespaced("v1", "Secret", secret.0, secret.1);
    let live = platform.get(&object).await.map_err(ObserveError::no_ground)?.unwrap_or_default();
    let encoded = live["data"]["token"].as_str().unwrap_or_default();
    let bytes = base64::prelude::BASE64_STANDARD.decode(encoded).unwrap_or_default();
    String::from_utf8(bytes)
        .ok()
        .filter(|token| !token.is_empty())
        .ok_or_else(|| ObserveError::no_ground(format!("{object} holds no token")))
}

impl Probe<Platform> for LookAtTokens {
    type Seen = Tokens;

    fn touches(&self) -> Touches {
        Touches::nothing()
            .writes(Resource::Namespace(self.namespace.to_owned()))
            .reads(Resource::Namespace(self.secret.0.to_owned()))
    }

    async fn observe(&self, platform: &Platform, cx: &Cx) -> Result<Tokens, ObserveError> {
        let name = cx.name("token-bearer");
        let object = ObjectRef::namespaced("v1", "Pod", self.namespace, &name);
        cx.undo_afterwards(vec![object.deletion()])?;
        let made = platform.create(&self.pod(&name)).await.map_err(ObserveError::no_ground)?;
        if !made.is_ok() {
            return Err(ObserveError::no_ground(format!("creating {object}: {}", made.message())));
        }
        let live = platform
            .until(&object, &format!("{object} to run"), RUNS, |live| match live {
                Some(live) if live["status"]["containerStatuses"][0]["ready"] == true => Answer::Ready(live.clone()),
                Some(live) => Answer::NotYet(live["status"]["phase"].to_string()),
                None => Answer::NotYet("it is not there".to_owned()),
            })
            .await
            .map_err(ObserveError::no_ground)?;
        let asked_for = asked_for(&live);
        let secret = of_secret(platform, self.secret).await?;
        let mounted = if self.only_secret {
            secret.clone()
        } else {
            let id = live["status"]["containerStatuses"][0]["containerID"].as_str().unwrap_or_default();
            let id = id.split_once("://").map_or(id, |(_, id)| id);
            let node = live["spec"]["nodeName"].as_str().unwrap_or_default();
            platform.exec_ok(node, &["sh", "-c", READ, "read", id]).await.map_err(ObserveError::no_ground)?
        };
        let mounted = mounted.trim().to_owned();
        let unread = || ObserveError::no_ground("a token is no JSON Web Token".to_owned());
        let (of_mounted, of_the_secret) = (claims(&mounted).ok_or_else(unread)?, claims(&secret).ok_or_else(unread)?);
        let mounted_before = code(platform, &mounted).await?;
        platform.delete_and_wait(&object, GONE).await.map_err(ObserveError::no_ground)?;
        let began = Instant::now();
        let mut mounted_after = mounted_before;
        // A token without an end is not waited for: nothing of it can come to one.
        let budget = if of_mounted.lifetime.is_some() { REFUSED } else { Duration::from_secs(1) };
        let waited = wait_for("the end of the token", budget, || async {
            match code(platform, &mounted).await {
                Ok(401) => Answer::Ready(401),
                Ok(code) => Answer::NotYet(code.to_string()),
                Err(e) => Answer::NotYet(e.to_string()),
            }
        })
        .await;
        if let Ok(refused) = waited {
            mounted_after = refused;
        }
        Ok(Tokens {
            pod: name,
            asked_for,
            mounted: of_mounted,
            secret: of_the_secret,
            mounted_before,
            mounted_after,
            after_ms: u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX),
            secret_after: code(platform, &secret).await?,
        })
    }
}

/// The mounted token is bound to its Pod, has an end, and is refused once the Pod is gone; it is asked for an hour and
/// gets a year, with a warning after the hour. The Secret's has no end and is still good.
pub fn bound_beside_endless() -> impl Expect<Tokens> {
    const HOUR: std::ops::RangeInclusive<i64> = 3600..=3610;
    const YEAR: i64 = 365 * 24 * 3600;
    expect_fn(|seen: &Tokens| {
        if (seen.mounted_before, seen.secret_after) == (401, 401) {
            return Judgement::Inconclusive("neither token was ever let in".to_owned());
        }
        let mut found = vec![];
        let mut fault = |bad: bool, code: &str, message: String| {
            if bad {
                found.push(Finding::new(code, &seen.pod, message));
            }
        };
        let mounted = &seen.mounted;
        fault(mounted.lifetime.is_none(), "no-end", "the mounted token has no end".to_owned());
        fault(mounted.pod.as_deref() != Some(seen.pod.as_str()), "not-bound", format!("bound to {:?}", mounted.pod));
        fault(
            !seen.asked_for.is_some_and(|s| HOUR.contains(&s)),
            "other-time",
            format!("asks for {:?} s", seen.asked_for),
        );
        let warned = mounted.warned_after.is_some_and(|s| HOUR.contains(&s));
        fault(!warned, "other-warning", format!("warned after {:?} s", mounted.warned_after));
        let lifetime = mounted.lifetime.unwrap_or_default();
        fault(lifetime < YEAR, "other-lifetime", format!("good for {lifetime} s"));
        fault(seen.mounted_after != 401, "outlives-its-pod", format!("answered {}", seen.mounted_after));
        fault(seen.secret.lifetime.is_some(), "has-end", "the Secret's token has an end".to_owned());
        fault(seen.secret_after != 200, "secret-refused", format!("answered {}", seen.secret_after));
        Judgement::from_findings(found)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::codes;

    fn good() -> Tokens {
        let payload = json!({"iat": 100, "exp": 100 + 31_536_007, "sub": "s", "kubernetes.io": {"warnafter": 3707, "pod": {"name": "p"}}});
        let token = format!("h.{}.s", BASE64_URL_SAFE_NO_PAD.encode(payload.to_string()));
        let endless = format!("h.{}.s", BASE64_URL_SAFE_NO_PAD.encode(json!({"sub": "s"}).to_string()));
        Tokens {
            pod: "p".into(),
            asked_for: Some(3607),
            mounted: claims(&token).unwrap(),
            secret: claims(&endless).unwrap(),
            mounted_before: 200,
            mounted_after: 401,
            after_ms: 1,
            secret_after: 200,
        }
    }

    #[test]
    fn each_defect_has_its_code() {
        type Break = fn(&mut Tokens);
        let cases: &[(&[&str], Break)] = &[
            (&[], |_| ()),
            (&["no-end", "not-bound", "other-warning", "other-lifetime"], |it| it.mounted = it.secret.clone()),
            (&["outlives-its-pod"], |it| it.mounted_after = 200),
            (&["has-end"], |it| it.secret.lifetime = Some(1)),
            (&["secret-refused"], |it| it.secret_after = 401),
            (&["other-time"], |it| it.asked_for = Some(600)),
            (&["other-lifetime"], |it| it.mounted.lifetime = Some(3607)),
        ];
        for (want, breaks) in cases {
            let mut it = good();
            breaks(&mut it);
            assert_eq!(codes(bound_beside_endless().judge(&it)), *want);
        }
    }

    #[test]
    fn what_is_no_token_has_no_claims() {
        assert_eq!(claims("abc"), None);
        assert_eq!(claims("a.%%.c"), None);
    }
}
