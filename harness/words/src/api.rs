//! Requests to an apiserver, answered whole: status code, warnings and body, whatever the code is.
//!
//! A refusal is what many checks look for, so it is an [`ApiAnswer`] like any other; only a request that got no answer
//! is an [`ApiError`]. Nothing here is retried.

use http::{Method, Request};
use http_body_util::BodyExt;
use kube::client::{Body, Client};
use serde_json::Value;
use thiserror::Error;

/// No answer came, or one that is not the API's.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{method} {path}: {why}")]
pub struct ApiError {
    /// HTTP method.
    pub method: String,
    /// Path with its query.
    pub path: String,
    /// What failed.
    pub why: String,
}

/// An answer of an apiserver.
#[derive(Debug, Clone, PartialEq)]
pub struct ApiAnswer {
    /// HTTP status code.
    pub code: u16,
    /// Texts of the `Warning` headers (RFC 7234, 5.5), unquoted.
    pub warnings: Vec<String>,
    /// The body: an object, a list or a `Status`.
    pub body: Value,
}

impl ApiAnswer {
    /// Whether the code is in the two hundreds.
    pub fn is_ok(&self) -> bool {
        (200..300).contains(&self.code)
    }

    /// `reason` of a `Status`, such as `Forbidden`.
    pub fn reason(&self) -> &str {
        self.body["reason"].as_str().unwrap_or_default()
    }

    /// `message` of a `Status`.
    pub fn message(&self) -> &str {
        self.body["message"].as_str().unwrap_or_default()
    }
}

/// How a request presents itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Credentials {
    /// A bearer token.
    pub token: Option<String>,
    /// A user to act as, and its groups.
    pub act_as: Option<(String, Vec<String>)>,
}

/// The patch formats that the words use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Patch {
    /// RFC 7386.
    Merge,
    /// RFC 6902.
    Json,
    /// Strategic merge: lists are merged by their key.
    Strategic,
}

impl Patch {
    fn content_type(self) -> &'static str {
        match self {
            Patch::Merge => "application/merge-patch+json",
            Patch::Json => "application/json-patch+json",
            Patch::Strategic => "application/strategic-merge-patch+json",
        }
    }
}

/// One request, ready to be sent.
#[derive(Debug, Clone)]
pub struct Ask<'a> {
    method: Method,
    path: &'a str,
    body: Option<&'a Value>,
    content_type: &'static str,
    accept: &'static str,
    credentials: Credentials,
}

/// Of each object of a list its metadata alone: definitions with their schemas are megabytes.
const METADATA: &str = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1";

impl<'a> Ask<'a> {
    /// A request without a body.
    pub fn new(method: Method, path: &'a str) -> Self {
        let (content_type, accept) = ("application/json", "application/json");
        Self { method, path, body: None, content_type, accept, credentials: Credentials::default() }
    }

    /// Reads.
    pub fn get(path: &'a str) -> Self {
        Self::new(Method::GET, path)
    }

    /// Lists, and of each object wants its metadata alone.
    pub fn metadata(path: &'a str) -> Self {
        Self { accept: METADATA, ..Self::get(path) }
    }

    /// Sends an object.
    #[must_use]
    pub fn with(mut self, body: &'a Value) -> Self {
        self.body = Some(body);
        self
    }

    /// The body is a patch of this kind.
    #[must_use]
    pub fn patch(path: &'a str, kind: Patch, body: &'a Value) -> Self {
        let mut ask = Self::new(Method::PATCH, path).with(body);
        ask.content_type = kind.content_type();
        ask
    }

    /// Presents itself so.
    #[must_use]
    pub fn by(mut self, credentials: Credentials) -> Self {
        self.credentials = credentials;
        self
    }

    /// Sends it.
    ///
    /// # Errors
    /// No answer came, or its body is not JSON where JSON belongs.
    pub async fn send(self, client: &Client) -> Result<ApiAnswer, ApiError> {
        let fail = |why: String| ApiError { method: self.method.to_string(), path: self.path.to_owned(), why };
        let mut request = Request::builder()
            .method(self.method.clone())
            .uri(self.path)
            .header(http::header::ACCEPT, self.accept)
            .header(http::header::CONTENT_TYPE, self.content_type);
        if let Some(token) = &self.credentials.token {
            request = request.header(http::header::AUTHORIZATION, format!("Bearer {token}"));
        }
        if let Some((user, groups)) = &self.credentials.act_as {
            request = request.header("Impersonate-User", user);
            for group in groups {
                request = request.header("Impersonate-Group", group);
            }
        }
        let body = match self.body {
            Some(value) => serde_json::to_vec(value).map_err(|e| fail(e.to_string()))?,
            None => vec![],
        };
        let request = request.body(Body::from(body)).map_err(|e| fail(e.to_string()))?;
        let answer = client.send(request).await.map_err(|e| fail(causes(&e)))?;
        let code = answer.status().as_u16();
        let warnings = answer
            .headers()
            .get_all(http::header::WARNING)
            .iter()
            .filter_map(|value| warning_text(&String::from_utf8_lossy(value.as_bytes())))
            .collect();
        let bytes = answer.into_body().collect().await.map_err(|e| fail(causes(&e)))?.to_bytes();
        // /healthz, /livez and logs answer in plain text.
        let body = serde_json::from_slice(&bytes)
            .unwrap_or_else(|_| Value::String(String::from_utf8_lossy(&bytes).into_owned()));
        Ok(ApiAnswer { code, warnings, body })
    }
}

/// An error with all its causes: `kube` keeps the interesting part at the bottom.
fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.ends_with(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        next = cause.source();
    }
    text
}

/// The text of one `Warning` header: `299 - "text"`, with `\"` and `\\` undone.
fn warning_text(header: &str) -> Option<String> {
    let quoted = &header[header.find('"')? + 1..];
    let mut text = String::new();
    let mut chars = quoted.chars();
    loop {
        match chars.next()? {
            '"' => return Some(text),
            '\\' => text.push(chars.next()?),
            other => text.push(other),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_warning_is_unquoted() {
        let header = r#"299 - "would violate PodSecurity \"restricted:latest\": privileged (container \"c\")""#;
        assert_eq!(
            warning_text(header).unwrap(),
            r#"would violate PodSecurity "restricted:latest": privileged (container "c")"#
        );
    }

    #[test]
    fn a_cut_off_warning_is_none() {
        assert_eq!(warning_text("299 - \"half"), None);
        assert_eq!(warning_text("299 -"), None);
    }
}
