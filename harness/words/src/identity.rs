//! Who asks: the administrator, a service account by a token of the TokenRequest API or by its documented token
//! Secret, a user and groups acted as, or nobody. Tokens are never part of an observation.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::Method;
use kube::client::Client;
use serde_json::{Value, json};

use crate::api::{ApiAnswer, ApiError, Ask, Credentials};
use crate::objects::{ObjectRef, refused};
use crate::platform::Platform;

/// Lifetime of a token that is asked for, in seconds: the shortest that the API grants (TokenRequest, `spec`).
const TOKEN_LIFETIME: u64 = 600;

/// Who asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Identity {
    /// The administrator of the platform's kubeconfig.
    Admin,
    /// A service account, with a token fresh from the TokenRequest API.
    ServiceAccount {
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
    },
    /// A service account, with the token of a Secret of type `kubernetes.io/service-account-token` (RBAC-030).
    TokenSecret {
        /// The Secret's namespace.
        namespace: String,
        /// The Secret's name.
        name: String,
    },
    /// Somebody whom the administrator acts as (`--as`, `--as-group`).
    User {
        /// User name.
        name: String,
        /// Groups.
        groups: Vec<String>,
    },
    /// A text that is offered as a bearer token.
    Bearer(String),
    /// Nobody: no credentials at all.
    Anonymous,
}

impl Identity {
    /// A service account, with a fresh token.
    pub fn service_account(namespace: &str, name: &str) -> Self {
        Identity::ServiceAccount { namespace: namespace.to_owned(), name: name.to_owned() }
    }

    /// The service account of a token Secret.
    pub fn token_secret(namespace: &str, name: &str) -> Self {
        Identity::TokenSecret { namespace: namespace.to_owned(), name: name.to_owned() }
    }

    /// A user without groups of its own.
    pub fn user(name: &str) -> Self {
        Identity::User { name: name.to_owned(), groups: vec![] }
    }

    /// The same user in these groups.
    #[must_use]
    pub fn in_groups(self, groups: &[&str]) -> Self {
        match self {
            Identity::User { name, .. } => {
                Identity::User { name, groups: groups.iter().map(|&group| group.to_owned()).collect() }
            }
            other => other,
        }
    }

    /// What to send requests with.
    ///
    /// # Errors
    /// The token cannot be had: no such Secret or service account, or no answer.
    pub async fn caller(&self, platform: &Platform) -> Result<Caller, ApiError> {
        let with_token = |token: String| Caller {
            client: platform.anonymous().clone(),
            credentials: Credentials { token: Some(token), act_as: None },
        };
        Ok(match self {
            Identity::Admin => Caller { client: platform.admin().clone(), credentials: Credentials::default() },
            Identity::Anonymous => Caller { client: platform.anonymous().clone(), credentials: Credentials::default() },
            Identity::User { name, groups } => Caller {
                client: platform.admin().clone(),
                credentials: Credentials { token: None, act_as: Some((name.clone(), groups.clone())) },
            },
            Identity::Bearer(text) => with_token(text.clone()),
            Identity::ServiceAccount { namespace, name } => with_token(requested(platform, namespace, name).await?),
            Identity::TokenSecret { namespace, name } => with_token(from_secret(platform, namespace, name).await?),
        })
    }
}

impl std::fmt::Display for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Identity::Admin => f.write_str("the administrator"),
            Identity::ServiceAccount { namespace, name } => write!(f, "service account {namespace}/{name}"),
            Identity::TokenSecret { namespace, name } => write!(f, "the bearer of Secret {namespace}/{name}"),
            Identity::User { name, .. } => write!(f, "user {name}"),
            Identity::Bearer(_) => f.write_str("the bearer of a made-up token"),
            Identity::Anonymous => f.write_str("nobody"),
        }
    }
}

/// A client with the credentials of one identity.
#[derive(Clone)]
pub struct Caller {
    client: Client,
    credentials: Credentials,
}

impl Caller {
    /// Its bearer token, where it has one; it must enter no observation.
    pub(crate) fn token(&self) -> Option<&str> {
        self.credentials.token.as_deref()
    }

    /// Sends a request as this identity.
    ///
    /// # Errors
    /// No answer came.
    pub async fn ask(&self, ask: Ask<'_>) -> Result<ApiAnswer, ApiError> {
        ask.by(self.credentials.clone()).send(&self.client).await
    }

    /// The API's own word on who this is (SelfSubjectReview): user name and groups. `None` where it is not let in.
    ///
    /// # Errors
    /// No answer came.
    pub async fn whoami(&self) -> Result<Option<(String, Vec<String>)>, ApiError> {
        let review = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"});
        let path = "/apis/authentication.k8s.io/v1/selfsubjectreviews";
        let answer = self.ask(Ask::new(Method::POST, path).with(&review)).await?;
        let info = &answer.body["status"]["userInfo"];
        let groups = info["groups"].as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned);
        Ok(info["username"].as_str().filter(|_| answer.is_ok()).map(|name| (name.to_owned(), groups.collect())))
    }
}

async fn requested(platform: &Platform, namespace: &str, name: &str) -> Result<String, ApiError> {
    let path = format!("/api/v1/namespaces/{namespace}/serviceaccounts/{name}/token");
    let request = json!({
        "apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"expirationSeconds": TOKEN_LIFETIME},
    });
    let answer = Ask::new(Method::POST, &path).with(&request).send(platform.admin()).await?;
    match answer.body["status"]["token"].as_str() {
        Some(token) if answer.is_ok() => Ok(token.to_owned()),
        _ => Err(refused(&Method::POST, &path, &answer)),
    }
}

async fn from_secret(platform: &Platform, namespace: &str, name: &str) -> Result<String, ApiError> {
    let secret = ObjectRef::namespaced("v1", "Secret", namespace, name);
    let missing = |why: &str| ApiError { method: "GET".into(), path: secret.to_string(), why: why.to_owned() };
    let live = platform.get(&secret).await?.ok_or_else(|| missing("it does not exist"))?;
    let encoded = live["data"]["token"].as_str().ok_or_else(|| missing("it has no token"))?;
    let bytes = STANDARD.decode(encoded).map_err(|_| missing("its token is not base64"))?;
    String::from_utf8(bytes).map_err(|_| missing("its token is not text"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::FakeApi;

    #[tokio::test]
    async fn a_refused_caller_is_nobody() {
        let api = FakeApi::default();
        let path = "POST /apis/authentication.k8s.io/v1/selfsubjectreviews";
        api.script(path, 401, json!({"kind": "Status", "code": 401}), &[]);
        let platform = Platform::for_test(api.client(), vec![]);
        let caller = Identity::Bearer("x".into()).caller(&platform).await.unwrap();
        assert_eq!(caller.whoami().await.unwrap(), None);
    }

    #[tokio::test]
    async fn a_missing_service_account_is_named() {
        let platform = Platform::for_test(FakeApi::default().client(), vec![]);
        let error = Identity::service_account("a", "b").caller(&platform).await.err().unwrap();
        assert!(error.to_string().contains("serviceaccounts/b/token"), "{error}");
    }
}
