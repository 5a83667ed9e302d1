//! HTTP to a Service of the cluster through the API's own proxy: works from wherever the API can be reached.

use http::{Method, Request};

use crate::error::{Result, StackError};

/// A port of a Service.
#[derive(Debug, Clone, Copy)]
pub struct Service<'a> {
    /// Its namespace.
    pub namespace: &'a str,
    /// Its name.
    pub name: &'a str,
    /// Its port.
    pub port: u16,
}

/// What a HEAD request came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// HTTP status.
    pub status: u16,
    /// `Docker-Content-Digest`, where a registry gives one.
    pub digest: Option<String>,
}

impl Service<'_> {
    fn uri(&self, path: &str) -> String {
        format!("/api/v1/namespaces/{}/services/{}:{}/proxy{path}", self.namespace, self.name, self.port)
    }

    fn request(&self, method: Method, path: &str, accept: &str, body: Vec<u8>) -> Result<Request<Vec<u8>>> {
        Request::builder()
            .method(method)
            .uri(self.uri(path))
            .header(http::header::ACCEPT, accept)
            .body(body)
            .map_err(|e| StackError::api(format!("ask {}", self.name), kube::Error::HttpError(e)))
    }

    /// Asks for the head of a path. None where the Service or its Pods are not there (yet).
    ///
    /// # Errors
    /// The API itself does not answer.
    pub async fn head(&self, client: &kube::Client, path: &str, accept: &str) -> Result<Option<Head>> {
        let request = self.request(Method::HEAD, path, accept, Vec::new())?;
        let request = request.map(kube::client::Body::from);
        let answer =
            client.send(request).await.map_err(|e| StackError::api(format!("reach Service {}", self.name), e))?;
        let status = answer.status().as_u16();
        let digest = answer.headers().get("docker-content-digest").and_then(|v| v.to_str().ok()).map(str::to_owned);
        // The proxy's own answers: 404 without the Service, 503 without a ready Pod. The registry's 404 ends here too.
        Ok((status < 400).then_some(Head { status, digest }))
    }

    /// The text behind a path. None for any HTTP error.
    ///
    /// # Errors
    /// The API itself does not answer.
    pub async fn get(&self, client: &kube::Client, path: &str) -> Result<Option<String>> {
        self.text(client, Method::GET, path, Vec::new()).await
    }

    /// Posts a body; the answer's text, none for any HTTP error.
    ///
    /// # Errors
    /// The API itself does not answer.
    pub async fn post(&self, client: &kube::Client, path: &str, body: Vec<u8>) -> Result<Option<String>> {
        self.text(client, Method::POST, path, body).await
    }

    async fn text(&self, client: &kube::Client, method: Method, path: &str, body: Vec<u8>) -> Result<Option<String>> {
        let request = self.request(method, path, "*/*", body)?;
        match client.request_text(request).await {
            Ok(text) => Ok(Some(text)),
            Err(kube::Error::Api(_)) => Ok(None),
            Err(error) => Err(StackError::api(format!("reach Service {}", self.name), error)),
        }
    }
}

/// A plain GET of the API.
///
/// # Errors
/// The path is no URI.
pub fn get_request(path: &str) -> Result<Request<Vec<u8>>> {
    Request::builder()
        .uri(path)
        .body(Vec::new())
        .map_err(|e| StackError::api(format!("ask for {path}"), kube::Error::HttpError(e)))
}
