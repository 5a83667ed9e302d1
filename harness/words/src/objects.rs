//! Objects of the API as JSON: found by reference, listed, changed, waited for with a watch.

use std::time::Duration;

use futures::{StreamExt, TryStreamExt};
use http::{Method, Request};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use shakedown_core::{Answer, UndoStep, WaitError};
use tokio::time::Instant;

use crate::api::{ApiAnswer, ApiError, Ask, Patch};
use crate::platform::Platform;

/// Pause before a watch that ended is opened again.
const REOPEN: Duration = Duration::from_millis(100);

/// Names one object.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ObjectRef {
    /// `v1`, `apps/v1`.
    pub api_version: String,
    /// `Deployment`.
    pub kind: String,
    /// None for a cluster-wide object.
    pub namespace: Option<String>,
    /// Its name.
    pub name: String,
}

impl ObjectRef {
    /// An object in a namespace.
    pub fn namespaced(api_version: &str, kind: &str, namespace: &str, name: &str) -> Self {
        Self { namespace: Some(namespace.to_owned()), ..Self::cluster(api_version, kind, name) }
    }

    /// A cluster-wide object.
    pub fn cluster(api_version: &str, kind: &str, name: &str) -> Self {
        Self { api_version: api_version.to_owned(), kind: kind.to_owned(), namespace: None, name: name.to_owned() }
    }

    /// The object that a manifest speaks of; `None` where it lacks its kind or name.
    pub fn of(manifest: &Value) -> Option<Self> {
        Some(Self {
            api_version: manifest["apiVersion"].as_str()?.to_owned(),
            kind: manifest["kind"].as_str()?.to_owned(),
            namespace: manifest["metadata"]["namespace"].as_str().map(str::to_owned),
            name: manifest["metadata"]["name"].as_str()?.to_owned(),
        })
    }

    /// The step that undoes its making.
    pub fn deletion(&self) -> UndoStep {
        UndoStep::DeleteObject {
            api_version: self.api_version.clone(),
            kind: self.kind.clone(),
            namespace: self.namespace.clone(),
            name: self.name.clone(),
        }
    }
}

impl std::fmt::Display for ObjectRef {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.namespace {
            Some(namespace) => write!(f, "{} {namespace}/{}", self.kind, self.name),
            None => write!(f, "{} {}", self.kind, self.name),
        }
    }
}

/// How the API serves a kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Served {
    /// `deployments`.
    pub plural: String,
    /// Whether its objects live in namespaces.
    pub namespaced: bool,
}

/// The folder of an API version: `/api/v1`, `/apis/apps/v1`.
pub fn version_path(api_version: &str) -> String {
    if api_version.contains('/') { format!("/apis/{api_version}") } else { format!("/api/{api_version}") }
}

/// What a failed answer says, as an error.
/// The objects of an answered list.
fn items(path: &str, mut answer: ApiAnswer) -> Result<Vec<Value>, ApiError> {
    match answer.body.get_mut("items").map(Value::take) {
        _ if !answer.is_ok() => Err(refused(&Method::GET, path, &answer)),
        Some(Value::Array(items)) => Ok(items),
        _ => Ok(Vec::new()),
    }
}

pub(crate) fn refused(method: &Method, path: &str, answer: &ApiAnswer) -> ApiError {
    let said = if answer.message().is_empty() { answer.body.to_string() } else { answer.message().to_owned() };
    ApiError { method: method.to_string(), path: path.to_owned(), why: format!("answered {}: {said}", answer.code) }
}

impl Platform {
    /// How a kind is served; asked once and remembered.
    ///
    /// # Errors
    /// No answer, or the API serves no such kind.
    pub async fn served(&self, api_version: &str, kind: &str) -> Result<Served, ApiError> {
        if let Some(known) = self.known_kind(api_version, kind) {
            return Ok(known);
        }
        let path = version_path(api_version);
        let answer = Ask::get(&path).send(self.admin()).await?;
        if !answer.is_ok() {
            return Err(refused(&Method::GET, &path, &answer));
        }
        let found =
            answer.body["resources"].as_array().into_iter().flatten().find(|resource| {
                resource["kind"] == kind && !resource["name"].as_str().unwrap_or_default().contains('/')
            });
        let Some(found) = found else {
            return Err(ApiError {
                method: "GET".into(),
                path,
                why: format!("the API serves no {kind} in {api_version}"),
            });
        };
        let served = Served {
            plural: found["name"].as_str().unwrap_or_default().to_owned(),
            namespaced: found["namespaced"].as_bool().unwrap_or_default(),
        };
        self.remember_kind(api_version, kind, served.clone());
        Ok(served)
    }

    /// The preferred version of an API group, such as `apps/v1` for `apps`.
    ///
    /// # Errors
    /// No answer, or the API serves no such group.
    pub async fn preferred_version(&self, group: &str) -> Result<String, ApiError> {
        let path = format!("/apis/{group}");
        let answer = Ask::get(&path).send(self.admin()).await?;
        match answer.body["preferredVersion"]["groupVersion"].as_str() {
            Some(version) if answer.is_ok() => Ok(version.to_owned()),
            _ => Err(refused(&Method::GET, &path, &answer)),
        }
    }

    /// The path of a kind's collection; `None` as namespace means all of them.
    ///
    /// # Errors
    /// As [`Platform::served`].
    pub async fn collection(&self, api_version: &str, kind: &str, ns: Option<&str>) -> Result<String, ApiError> {
        let served = self.served(api_version, kind).await?;
        let folder = version_path(api_version);
        Ok(match ns {
            Some(ns) if served.namespaced => format!("{folder}/namespaces/{ns}/{}", served.plural),
            _ => format!("{folder}/{}", served.plural),
        })
    }

    /// The path of one object.
    ///
    /// # Errors
    /// As [`Platform::served`].
    pub async fn path_of(&self, object: &ObjectRef) -> Result<String, ApiError> {
        let collection = self.collection(&object.api_version, &object.kind, object.namespace.as_deref()).await?;
        Ok(format!("{collection}/{}", object.name))
    }

    /// The object as it is now; `None` where it does not exist.
    ///
    /// # Errors
    /// No answer, or another refusal than 404.
    pub async fn get(&self, object: &ObjectRef) -> Result<Option<Value>, ApiError> {
        let path = self.path_of(object).await?;
        let answer = Ask::get(&path).send(self.admin()).await?;
        match answer.code {
            404 => Ok(None),
            _ if answer.is_ok() => Ok(Some(answer.body)),
            _ => Err(refused(&Method::GET, &path, &answer)),
        }
    }

    /// All objects of a kind in a namespace (or all namespaces) whose labels fit the selector (or all).
    ///
    /// # Errors
    /// No answer or a refusal.
    pub async fn list(
        &self,
        api_version: &str,
        kind: &str,
        ns: Option<&str>,
        selector: Option<&str>,
    ) -> Result<Vec<Value>, ApiError> {
        let mut path = self.collection(api_version, kind, ns).await?;
        if let Some(selector) = selector {
            path.push_str("?labelSelector=");
            path.push_str(&percent(selector));
        }
        items(&path, Ask::get(&path).send(self.admin()).await?)
    }

    /// Of all objects of a kind in the cluster the metadata.
    ///
    /// # Errors
    /// No answer or a refusal.
    pub async fn list_metadata(&self, api_version: &str, kind: &str) -> Result<Vec<Value>, ApiError> {
        let path = self.collection(api_version, kind, None).await?;
        items(&path, Ask::metadata(&path).send(self.admin()).await?)
    }

    /// Creates the object; the answer as it comes.
    ///
    /// # Errors
    /// No answer, or the manifest names no kind.
    pub async fn create(&self, manifest: &Value) -> Result<ApiAnswer, ApiError> {
        let (version, kind) = (manifest["apiVersion"].as_str(), manifest["kind"].as_str());
        let ns = manifest["metadata"]["namespace"].as_str();
        let path = self.collection(version.unwrap_or_default(), kind.unwrap_or_default(), ns).await?;
        Ask::new(Method::POST, &path).with(manifest).send(self.admin()).await
    }

    /// Replaces the object; the answer as it comes.
    ///
    /// # Errors
    /// No answer.
    pub async fn replace(&self, object: &ObjectRef, manifest: &Value) -> Result<ApiAnswer, ApiError> {
        let path = self.path_of(object).await?;
        Ask::new(Method::PUT, &path).with(manifest).send(self.admin()).await
    }

    /// Patches the object, which must succeed; the object afterwards.
    ///
    /// # Errors
    /// No answer or a refusal.
    pub async fn patch(&self, object: &ObjectRef, kind: Patch, patch: &Value) -> Result<Value, ApiError> {
        let path = self.path_of(object).await?;
        let answer = Ask::patch(&path, kind, patch).send(self.admin()).await?;
        if answer.is_ok() { Ok(answer.body) } else { Err(refused(&Method::PATCH, &path, &answer)) }
    }

    /// Deletes the object without a grace period, and its dependants in the background. Fine where it does not exist.
    ///
    /// # Errors
    /// No answer, or another refusal than 404.
    pub async fn delete(&self, object: &ObjectRef) -> Result<(), ApiError> {
        let path = self.path_of(object).await?;
        let options = json!({
            "apiVersion": "v1", "kind": "DeleteOptions", "gracePeriodSeconds": 0, "propagationPolicy": "Background",
        });
        let answer = Ask::new(Method::DELETE, &path).with(&options).send(self.admin()).await?;
        if answer.is_ok() || answer.code == 404 { Ok(()) } else { Err(refused(&Method::DELETE, &path, &answer)) }
    }

    /// Deletes the object and waits until it is gone.
    ///
    /// # Errors
    /// The API's, or it is still there when the budget ends.
    pub async fn delete_and_wait(&self, object: &ObjectRef, budget: Duration) -> Result<(), String> {
        self.delete(object).await.map_err(|e| e.to_string())?;
        self.until(object, &format!("end of {object}"), budget, |live| match live {
            None => Answer::Ready(()),
            Some(live) => Answer::NotYet(format!("finalizers {}", live["metadata"]["finalizers"])),
        })
        .await
        .map_err(|e| e.to_string())
    }

    /// Watches one object until `look` is satisfied with it (`None`: it does not exist).
    ///
    /// # Errors
    /// [`WaitError`] with the last thing seen.
    pub async fn until<T>(
        &self,
        object: &ObjectRef,
        what: &str,
        budget: Duration,
        mut look: impl FnMut(Option<&Value>) -> Answer<T>,
    ) -> Result<T, WaitError> {
        let end = Instant::now() + budget;
        let mut last_seen = "nothing yet".to_owned();
        loop {
            match tokio::time::timeout_at(end, self.follow(object, &mut look, &mut last_seen)).await {
                Ok(Err(Decided::Ready(value))) => return Ok(value),
                Ok(Err(Decided::Never(why))) => return Err(WaitError::Never { what: what.to_owned(), why }),
                Ok(Ok(Lost(None))) => {}
                Ok(Ok(Lost(Some(why)))) => last_seen = why,
                Err(_) => return Err(WaitError::TimedOut { what: what.to_owned(), budget, last_seen }),
            }
            // A watch that ended or could not be opened is opened anew, but not faster than this.
            tokio::time::sleep_until(end.min(Instant::now() + REOPEN)).await;
        }
    }

    /// One watch: the object as it is, then every change, until `look` has made up its mind or the watch ends.
    async fn follow<T>(
        &self,
        object: &ObjectRef,
        look: &mut impl FnMut(Option<&Value>) -> Answer<T>,
        last_seen: &mut String,
    ) -> Result<Lost, Decided<T>> {
        let collection = match self.collection(&object.api_version, &object.kind, object.namespace.as_deref()).await {
            Ok(path) => path,
            Err(e) => return Ok(Lost(Some(e.to_string()))),
        };
        let field = format!("fieldSelector={}", percent(&format!("metadata.name={}", object.name)));
        let list = match Ask::get(&format!("{collection}?{field}")).send(self.admin()).await {
            Ok(answer) if answer.is_ok() => answer.body,
            Ok(answer) => return Ok(Lost(Some(format!("answered {}: {}", answer.code, answer.message())))),
            Err(e) => return Ok(Lost(Some(e.to_string()))),
        };
        turn(look(list["items"].get(0)), last_seen)?;
        let version = list["metadata"]["resourceVersion"].as_str().unwrap_or_default();
        let watch = format!("{collection}?{field}&watch=1&resourceVersion={version}");
        let request = match Request::get(&watch).body(vec![]) {
            Ok(request) => request,
            Err(e) => return Ok(Lost(Some(e.to_string()))),
        };
        let stream = match self.admin().request_stream(request).await {
            Ok(stream) => stream,
            Err(e) => return Ok(Lost(Some(e.to_string()))),
        };
        let mut lines = Box::pin(lines(stream));
        while let Some(line) = lines.next().await {
            let Ok(event) = line.and_then(|l| serde_json::from_str::<Value>(&l).map_err(|e| e.to_string())) else {
                break;
            };
            match event["type"].as_str() {
                Some("ADDED" | "MODIFIED") => turn(look(Some(&event["object"])), last_seen)?,
                Some("DELETED") => turn(look(None), last_seen)?,
                _ => break,
            }
        }
        Ok(Lost(None))
    }
}

/// The lines of a stream of bytes.
fn lines(stream: impl futures::AsyncBufRead + Send) -> impl futures::Stream<Item = Result<String, String>> + Send {
    use futures::AsyncBufReadExt;
    stream.lines().map_err(|e| e.to_string())
}

/// The watch ended before `look` had made up its mind; why, where it never began.
struct Lost(Option<String>);

/// `look` has made up its mind.
enum Decided<T> {
    Ready(T),
    Never(String),
}

fn turn<T>(answer: Answer<T>, last_seen: &mut String) -> Result<(), Decided<T>> {
    match answer {
        Answer::Ready(value) => Err(Decided::Ready(value)),
        Answer::Never(why) => Err(Decided::Never(why)),
        Answer::NotYet(seen) => {
            *last_seen = seen;
            Ok(())
        }
    }
}

/// Percent-encodes a query value (RFC 3986): everything but unreserved characters.
pub fn percent(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => char::from(byte).to_string(),
            other => format!("%{other:02X}"),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reference_is_read_from_a_manifest() {
        let manifest = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a", "namespace": "b"}});
        assert_eq!(ObjectRef::of(&manifest).unwrap().to_string(), "Pod b/a");
        assert_eq!(ObjectRef::of(&json!({"kind": "Pod"})), None);
    }

    #[test]
    fn a_selector_is_encoded() {
        assert_eq!(percent("k8s-app in (a,b)"), "k8s-app%20in%20%28a%2Cb%29");
    }
}
