//! Server-side apply with the field manager `shakedown`, and what belongs to it: drift, roll-out, deletion.
//!
//! Reusable beyond the installers: give it objects as JSON values and it finds their API by itself.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use futures::stream::{self, StreamExt, TryStreamExt};
use kube::api::{Api, ApiResource, DeleteParams, DynamicObject, Patch, PatchParams, PropagationPolicy};
use kube::core::GroupVersionKind;
use kube::discovery::{ApiCapabilities, Scope, pinned_kind};
use serde_json::Value;
use shakedown_core::{Answer, wait_for};
use tokio::sync::Mutex;

use crate::error::{Result, StackError};
use crate::rollout::rollout;

/// Owner of the fields that we set.
pub const FIELD_MANAGER: &str = "shakedown";

/// An apiserver that is being rolled, or a kind that was registered a moment ago, gets this long to answer.
const PATIENCE: Duration = Duration::from_secs(60);
/// Requests at a time: two cores serve no more, and the apiserver's own limits stay out of the way.
const SIDE_BY_SIDE: usize = 8;

/// Applies objects. Cheap to clone; clones share what was discovered.
#[derive(Clone)]
pub struct Applier {
    client: kube::Client,
    kinds: Arc<Mutex<BTreeMap<String, (ApiResource, Scope)>>>,
}

impl Applier {
    /// With this client's rights.
    pub fn new(client: kube::Client) -> Self {
        Self { client, kinds: Arc::default() }
    }

    /// The client.
    pub fn client(&self) -> &kube::Client {
        &self.client
    }

    /// The API of an object: its kind is looked up once.
    ///
    /// # Errors
    /// The kind is unknown to the API, or the API does not answer for a minute.
    pub async fn api_of(&self, object: &Value) -> Result<Api<DynamicObject>> {
        let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
        self.api(text("/apiVersion"), text("/kind"), object.pointer("/metadata/namespace").and_then(Value::as_str))
            .await
    }

    /// The API of a kind in a namespace; the namespace is ignored for a cluster-wide kind, and `default` where missing.
    ///
    /// # Errors
    /// As [`Applier::api_of`].
    pub async fn api(&self, api_version: &str, kind: &str, namespace: Option<&str>) -> Result<Api<DynamicObject>> {
        let key = format!("{api_version}/{kind}");
        let known = self.kinds.lock().await.get(&key).cloned();
        let (resource, scope) = match known {
            Some(known) => known,
            None => {
                let found = self.discover(api_version, kind).await?;
                self.kinds.lock().await.insert(key, found.clone());
                found
            }
        };
        Ok(match scope {
            Scope::Cluster => Api::all_with(self.client.clone(), &resource),
            Scope::Namespaced => Api::namespaced_with(self.client.clone(), namespace.unwrap_or("default"), &resource),
        })
    }

    async fn discover(&self, api_version: &str, kind: &str) -> Result<(ApiResource, Scope)> {
        let (group, version) = api_version.rsplit_once('/').unwrap_or(("", api_version));
        let gvk = GroupVersionKind::gvk(group, version, kind);
        let what = format!("kind {kind} of {api_version} in the API");
        let found: (ApiResource, ApiCapabilities) = wait_for(&what, PATIENCE, || async {
            match pinned_kind(&self.client, &gvk).await {
                Ok(found) => Answer::Ready(found),
                // A definition that was just established is not in the discovery document at once.
                Err(error) => Answer::NotYet(error.to_string()),
            }
        })
        .await?;
        Ok((found.0, found.1.scope))
    }

    /// Applies all objects: namespaces and definitions first, then accounts, rights and settings, then the rest.
    /// Waits for definitions to be established before anything of their kind is sent.
    ///
    /// # Errors
    /// The first refusal, by name of the object.
    pub async fn apply(&self, objects: &[Value]) -> Result<()> {
        let ranks: BTreeSet<u8> = objects.iter().map(rank).collect();
        for wave in ranks {
            let of_wave: Vec<&Value> = objects.iter().filter(|o| rank(o) == wave).collect();
            let sent: Vec<_> = of_wave.iter().map(|o| self.apply_one(o, false).boxed()).collect();
            stream::iter(sent).buffer_unordered(SIDE_BY_SIDE).try_collect::<Vec<_>>().await?;
            for definition in of_wave.iter().filter(|o| kind(o) == "CustomResourceDefinition") {
                self.established(definition).await?;
            }
        }
        Ok(())
    }

    async fn apply_one(&self, object: &Value, dry_run: bool) -> Result<DynamicObject> {
        let api = self.api_of(object).await?;
        let mut params = PatchParams::apply(FIELD_MANAGER).force();
        params.dry_run = dry_run;
        let name = name(object);
        let patch = Patch::Apply(object);
        self.tried(&format!("apply {}", full_name(object)), || api.patch(name, &params, &patch)).await
    }

    async fn established(&self, definition: &Value) -> Result<()> {
        let api = self.api_of(definition).await?;
        let what = format!("definition {} to be established", name(definition));
        wait_for(&what, PATIENCE, || async {
            match api.get(name(definition)).await {
                Ok(found) if condition_is_true(&found.data, "Established") => Answer::Ready(()),
                Ok(_) => Answer::NotYet("condition Established is not True".into()),
                Err(error) => Answer::NotYet(error.to_string()),
            }
        })
        .await?;
        Ok(())
    }

    /// What differs from the objects, as found: missing objects, and fields that applying them would change.
    ///
    /// # Errors
    /// The API does not answer, or refuses an object.
    pub async fn drift(&self, objects: &[Value]) -> Result<Vec<String>> {
        let looks: Vec<_> = objects.iter().map(|o| self.drift_of(o).boxed()).collect();
        let mut found: Vec<String> = stream::iter(looks)
            .buffer_unordered(SIDE_BY_SIDE)
            .try_filter_map(|d| async move { Ok(d) })
            .try_collect()
            .await?;
        found.sort();
        Ok(found)
    }

    async fn drift_of(&self, object: &Value) -> Result<Option<String>> {
        let full = full_name(object);
        let (api_version, of_kind) = (text(object, "/apiVersion"), kind(object));
        let key = format!("{api_version}/{of_kind}");
        // A kind that is not registered yet must be seen as missing at once, without the patience of `apply`.
        if !self.kinds.lock().await.contains_key(&key) {
            let (group, version) = api_version.rsplit_once('/').unwrap_or(("", api_version));
            match pinned_kind(&self.client, &GroupVersionKind::gvk(group, version, of_kind)).await {
                Ok(_) => {}
                Err(kube::Error::Discovery(_)) => return Ok(Some(format!("{full} is missing"))),
                // An unknown group is answered by the server's plain 404, which is no Status.
                Err(kube::Error::Api(status)) if status.code == 404 => {
                    return Ok(Some(format!("{full} is missing")));
                }
                Err(error) => return Err(StackError::api(format!("look up kind {of_kind}"), error)),
            }
        }
        let Some(live) = self.get_value(object).await? else { return Ok(Some(format!("{full} is missing"))) };
        let after = match self.apply_one(object, true).await {
            Ok(after) => after,
            Err(StackError::Api { source, .. }) if matches!(&*source, kube::Error::Api(s) if s.code == 422) => {
                // An immutable field differs.
                return Ok(Some(format!("{full} differs and has to be made anew")));
            }
            Err(error) => return Err(error),
        };
        let after = serde_json::to_value(&after).map_err(|e| manifest_error(&full, &e))?;
        Ok(first_difference(&desired(live), &desired(after), "").map(|at| format!("{full} differs at {at}")))
    }

    /// The object as it is now.
    ///
    /// # Errors
    /// The API does not answer.
    pub async fn get_value(&self, object: &Value) -> Result<Option<Value>> {
        let api = self.api_of(object).await?;
        let found = self.tried(&format!("read {}", full_name(object)), || api.get_opt(name(object))).await?;
        found.map(|o| serde_json::to_value(o).map_err(|e| manifest_error(&full_name(object), &e))).transpose()
    }

    /// Waits until every Deployment, StatefulSet and DaemonSet among the objects is rolled out.
    /// Tells `seen` what it saw last.
    ///
    /// # Errors
    /// [`StackError::Wait`] with the last thing seen.
    pub async fn rolled_out(&self, objects: &[Value], budget: Duration, seen: &(dyn Fn(&str) + Sync)) -> Result<()> {
        let of_them = objects.iter().filter(|o| matches!(kind(o), "Deployment" | "StatefulSet" | "DaemonSet"));
        let waits: Vec<_> = of_them.map(|object| self.one_rolled_out(object, budget, seen).boxed()).collect();
        stream::iter(waits).buffer_unordered(SIDE_BY_SIDE).try_collect::<Vec<()>>().await?;
        Ok(())
    }

    async fn one_rolled_out(&self, object: &Value, budget: Duration, seen: &(dyn Fn(&str) + Sync)) -> Result<()> {
        let what = format!("roll-out of {}", full_name(object));
        let api = self.api_of(object).await?;
        wait_for(&what, budget, || async {
            let answer = match api.get(name(object)).await {
                Ok(found) => {
                    serde_json::to_value(&found).map_or_else(|e| Answer::Never(e.to_string()), |v| rollout(&v))
                }
                Err(error) => Answer::NotYet(error.to_string()),
            };
            if let Answer::NotYet(last) = &answer {
                seen(&format!("{}: {last}", name(object)));
            }
            answer
        })
        .await?;
        Ok(())
    }

    /// Deletes the objects, last kinds first, and waits until they are gone. Missing ones are no error.
    ///
    /// # Errors
    /// A refusal, or an object that is still there after the budget.
    pub async fn delete(&self, objects: &[Value], budget: Duration) -> Result<()> {
        let ranks: BTreeSet<u8> = objects.iter().map(rank).collect();
        for wave in ranks.into_iter().rev() {
            for object in objects.iter().filter(|o| rank(o) == wave) {
                self.delete_one(object, budget).await?;
            }
        }
        Ok(())
    }

    async fn delete_one(&self, object: &Value, budget: Duration) -> Result<()> {
        let api = match self.api_of(object).await {
            Ok(api) => api,
            // The kind itself is gone, and all of its objects with it.
            Err(StackError::Wait(_)) => return Ok(()),
            Err(error) => return Err(error),
        };
        // A workload is gone when its Pods are: only then may what they use go too.
        let policy = match kind(object) {
            "Deployment" | "StatefulSet" | "DaemonSet" | "Job" => PropagationPolicy::Foreground,
            _ => PropagationPolicy::Background,
        };
        let params = DeleteParams { propagation_policy: Some(policy), ..DeleteParams::default() };
        match api.delete(name(object), &params).await {
            Ok(_) => {}
            Err(kube::Error::Api(status)) if status.is_not_found() => return Ok(()),
            Err(error) => return Err(StackError::api(format!("delete {}", full_name(object)), error)),
        }
        wait_for(&format!("{} to be gone", full_name(object)), budget, || async {
            match api.get_opt(name(object)).await {
                Ok(None) => Answer::Ready(()),
                Ok(Some(_)) => Answer::NotYet("still there".into()),
                Err(error) => Answer::NotYet(error.to_string()),
            }
        })
        .await?;
        Ok(())
    }

    /// Asks again while the API is away: one apiserver after another may be rolled meanwhile. An answer of the API,
    /// whatever it says, ends it.
    async fn tried<T, F, Fut>(&self, what: &str, mut ask: F) -> Result<T>
    where
        F: FnMut() -> Fut,
        Fut: Future<Output = kube::Result<T>>,
    {
        let answer = wait_for(what, PATIENCE, || {
            let asked = ask();
            async {
                match asked.await {
                    Err(error) if is_away(&error) => Answer::NotYet(error.to_string()),
                    done => Answer::Ready(done),
                }
            }
        })
        .await?;
        answer.map_err(|e| StackError::api(what, e))
    }
}

fn manifest_error(name: &str, error: &serde_json::Error) -> StackError {
    StackError::Manifest { name: name.to_owned(), why: error.to_string() }
}

/// Whether the API could not be reached or is not ready, as opposed to having answered.
pub fn is_away(error: &kube::Error) -> bool {
    match error {
        kube::Error::Api(status) => matches!(status.code, 429 | 500 | 502 | 503 | 504),
        kube::Error::HyperError(_) | kube::Error::Service(_) | kube::Error::ReadEvents(_) => true,
        _ => false,
    }
}

/// Order of application: what others live in or refer to comes first.
fn rank(object: &Value) -> u8 {
    match kind(object) {
        "Namespace" | "CustomResourceDefinition" | "PriorityClass" => 0,
        "ServiceAccount" | "Role" | "ClusterRole" | "RoleBinding" | "ClusterRoleBinding" => 1,
        "ConfigMap" | "Secret" | "Service" | "NetworkPolicy" | "PersistentVolume" | "PersistentVolumeClaim" => 2,
        _ => 3,
    }
}

fn text<'a>(object: &'a Value, pointer: &str) -> &'a str {
    object.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

fn kind(object: &Value) -> &str {
    text(object, "/kind")
}

fn name(object: &Value) -> &str {
    text(object, "/metadata/name")
}

fn full_name(object: &Value) -> String {
    match object.pointer("/metadata/namespace").and_then(Value::as_str) {
        Some(namespace) => format!("{} {namespace}/{}", kind(object), name(object)),
        None => format!("{} {}", kind(object), name(object)),
    }
}

/// Whether a condition of an object's status is true.
pub(crate) fn condition_is_true(object: &Value, wanted: &str) -> bool {
    object
        .pointer("/status/conditions")
        .and_then(Value::as_array)
        .is_some_and(|conditions| conditions.iter().any(|c| c["type"] == wanted && c["status"] == "True"))
}

/// Without what the server keeps for itself.
fn desired(mut object: Value) -> Value {
    if let Some(map) = object.as_object_mut() {
        map.remove("status");
    }
    if let Some(meta) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        for field in ["managedFields", "resourceVersion", "generation", "uid", "creationTimestamp"] {
            meta.remove(field);
        }
    }
    object
}

/// Path of the first place where the two differ.
fn first_difference(a: &Value, b: &Value, at: &str) -> Option<String> {
    match (a, b) {
        (Value::Object(a), Value::Object(b)) => {
            let keys: BTreeSet<&String> = a.keys().chain(b.keys()).collect();
            keys.into_iter().find_map(|key| {
                let path = format!("{at}/{key}");
                match (a.get(key), b.get(key)) {
                    (Some(a), Some(b)) => first_difference(a, b, &path),
                    _ => Some(path),
                }
            })
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            a.iter().zip(b).enumerate().find_map(|(i, (a, b))| first_difference(a, b, &format!("{at}/{i}")))
        }
        (a, b) if a == b => None,
        _ => Some(if at.is_empty() { "/".into() } else { at.to_owned() }),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_first_difference_is_named_and_server_fields_are_not() {
        let a = json!({"metadata": {"name": "x", "resourceVersion": "1", "labels": {"k": "a"}}, "status": {"n": 1}});
        let b = json!({"metadata": {"name": "x", "resourceVersion": "2", "labels": {"k": "b"}}, "status": {"n": 2}});
        assert_eq!(first_difference(&desired(a.clone()), &desired(b), ""), Some("/metadata/labels/k".into()));
        assert_eq!(first_difference(&desired(a.clone()), &desired(a), ""), None);
        assert_eq!(first_difference(&json!([1]), &json!([1, 2]), ""), Some("/".into()));
    }

    #[test]
    fn namespaces_come_before_what_lives_in_them() {
        let of = |kind: &str| rank(&json!({"kind": kind}));
        assert!(of("Namespace") < of("ServiceAccount"));
        assert!(of("ServiceAccount") < of("ConfigMap"));
        assert!(of("ConfigMap") < of("Deployment"));
        assert!(of("CustomResourceDefinition") < of("Application"));
    }

    #[test]
    fn objects_are_named_with_their_namespace() {
        assert_eq!(full_name(&json!({"kind": "Pod", "metadata": {"name": "p", "namespace": "n"}})), "Pod n/p");
        assert_eq!(full_name(&json!({"kind": "Node", "metadata": {"name": "p"}})), "Node p");
    }
}
