//! A documented Secret read through each apiserver for itself. Whether the values are the documented ones is kept, never
//! the values.

use std::collections::BTreeMap;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use shakedown_core::{Finding, Judgement, Observation, Resource, Touches};
use shakedown_engine::{Cx, Expect, ObserveError, PlantError, Prepared, Probe, Sabotage, expect_fn};

use crate::api::{Ask, Patch};
use crate::objects::ObjectRef;
use crate::platform::Platform;

/// The documented Secret (ENC-027): namespace, name, keys and values.
const NAMESPACE: &str = "storage-demo";
const NAME: &str = "super-password";
const VALUES: [(&str, &str); 2] =
    [("password", "MyP@ssw0rd_BeforeEncryption"), ("api_key", "sk_live_1234567890abcdef")];

/// What one apiserver returned.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SecretRead {
    /// HTTP status code; zero where there was no answer.
    pub code: u16,
    /// Its type.
    pub kind: String,
    /// Its keys, and whether each has the documented value.
    pub keys: BTreeMap<String, bool>,
}

/// What every apiserver returned.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SecretReads {
    /// Control plane to answer.
    pub apiservers: BTreeMap<String, SecretRead>,
}

impl Observation for SecretReads {
    const SCHEMA: &'static str = "secret-reads/1";
}

/// Reads the documented Secret.
pub struct ReadSecret;

/// The documented Secret through each apiserver.
pub fn documented_secret() -> ReadSecret {
    ReadSecret
}

impl Probe<Platform> for ReadSecret {
    type Seen = SecretReads;

    fn touches(&self) -> Touches {
        Touches::nothing().reads(Resource::Apiserver).reads(Resource::Namespace(NAMESPACE.into()))
    }

    async fn observe(&self, platform: &Platform, _cx: &Cx) -> Result<SecretReads, ObserveError> {
        let path = format!("/api/v1/namespaces/{NAMESPACE}/secrets/{NAME}");
        let mut apiservers = BTreeMap::new();
        for (node, client) in platform.apiservers() {
            let answer = Ask::get(&path).send(client).await.map_err(ObserveError::no_ground)?;
            apiservers.insert(node.clone(), understand(answer.code, &answer.body));
        }
        Ok(SecretReads { apiservers })
    }
}

fn understand(code: u16, secret: &Value) -> SecretRead {
    let data = secret["data"].as_object().cloned().unwrap_or_default();
    let documented = |key: &str, value: &Value| {
        let wanted = VALUES.iter().find(|(name, _)| *name == key).map(|(_, text)| BASE64_STANDARD.encode(text));
        value.as_str().is_some() && value.as_str() == wanted.as_deref()
    };
    let keys = data.iter().map(|(key, value)| (key.clone(), documented(key, value))).collect();
    SecretRead { code, kind: secret["type"].as_str().unwrap_or_default().to_owned(), keys }
}

/// Through each of `count` apiservers the Secret has its documented type, keys and values.
pub fn reads_as_documented(count: usize) -> impl Expect<SecretReads> {
    expect_fn(move |seen: &SecretReads| {
        if seen.apiservers.len() != count {
            return Judgement::Inconclusive(format!("{} apiservers, {count} expected", seen.apiservers.len()));
        }
        let mut found = vec![];
        for (node, read) in &seen.apiservers {
            if read.code != 200 {
                found.push(Finding::new("unreadable", node, format!("code {}", read.code)));
                continue;
            }
            let keys: Vec<&str> = read.keys.keys().map(String::as_str).collect();
            if read.kind != "Opaque" || keys != ["api_key", "password"] {
                found.push(Finding::new("other-shape", node, format!("type {}, keys {}", read.kind, keys.join(", "))));
            }
            let other = read.keys.iter().filter(|(_, documented)| !**documented);
            found.extend(
                other.map(|(key, _)| Finding::new("other-value", node, format!("{key} is not the documented one"))),
            );
        }
        Judgement::from_findings(found)
    })
}

/// The Secret has another password.
pub struct OtherPassword;

/// The documented Secret's password is changed.
pub fn another_password() -> OtherPassword {
    OtherPassword
}

fn secret() -> ObjectRef {
    ObjectRef::namespaced("v1", "Secret", NAMESPACE, NAME)
}

impl Sabotage<Platform> for OtherPassword {
    type Choice = ();

    fn describe(&self) -> String {
        format!("{} has another password", secret())
    }

    fn touches(&self) -> Touches {
        Touches::nothing().writes(Resource::Namespace(NAMESPACE.into()))
    }

    async fn prepare(&self, platform: &Platform) -> Result<Prepared<()>, PlantError> {
        let undo = crate::undo::as_found(platform, &secret()).await.map_err(PlantError::new)?;
        Ok(Prepared::new((), vec![undo]))
    }

    async fn plant(&self, platform: &Platform, (): &()) -> Result<(), PlantError> {
        let patch = json!({"stringData": {"password": "planted"}});
        platform.patch(&secret(), Patch::Merge, &patch).await.map(drop).map_err(PlantError::new)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_compared_and_forgotten() {
        let data: serde_json::Map<String, Value> =
            VALUES.iter().map(|(key, text)| ((*key).to_owned(), json!(BASE64_STANDARD.encode(text)))).collect();
        let good = understand(200, &json!({"type": "Opaque", "data": data}));
        assert!(!serde_json::to_string(&good).unwrap().contains("TXlQ"));
        let judge = |read: SecretRead| match reads_as_documented(1)
            .judge(&SecretReads { apiservers: [("cp-1".to_owned(), read)].into() })
        {
            Judgement::Fail(found) => found.into_iter().map(|f| f.code).collect::<Vec<_>>(),
            Judgement::Pass => vec![],
            other => vec![format!("{other:?}")],
        };
        assert!(judge(good.clone()).is_empty());
        let mut other = good.clone();
        other.keys.insert("password".into(), false);
        assert_eq!(judge(other), ["other-value"]);
        assert_eq!(judge(SecretRead { code: 500, ..good.clone() }), ["unreadable"]);
        assert_eq!(judge(SecretRead { kind: "x".into(), ..good }), ["other-shape"]);
    }
}
