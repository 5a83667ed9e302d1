//! Putting things back as they were found: every kind of undo step, each safe to repeat.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures::future::BoxFuture;
use serde_json::{Map, Value, json};
use shakedown_core::UndoStep;
use shakedown_engine::WorldError;

use crate::lost_nodes::let_go;
use crate::objects::{ObjectRef, refused};
use crate::platform::Platform;

/// How long an object may take to go, or to make room for its predecessor.
const GONE_BUDGET: Duration = Duration::from_secs(60);
/// How long kubelets get to say that their Pods have ended, before it is asked which of them are still there.
const KUBELETS: Duration = Duration::from_secs(20);
/// How long a command that undoes something may take.
const COMMAND_BUDGET: Duration = Duration::from_secs(120);
/// Others write to the same object at the same time (its controller, Argo CD): so often is a conflict read anew.
const CONFLICTS: usize = 20;

/// Puts back what only its own word knows how to put back.
pub type CustomUndo = for<'a> fn(&'a Platform, &'a Value) -> BoxFuture<'a, Result<(), WorldError>>;

/// The words with an undo of their own, by the name in their steps.
pub const CUSTOM: &[(&str, CustomUndo)] =
    &[(crate::change::TAKEN_DOWN, crate::change::take_down), (crate::rotation::WAY_BACK, crate::rotation::way_back)];

/// Does one step.
///
/// # Errors
/// What could not be put back, and why.
pub async fn undo(platform: &Platform, step: &UndoStep) -> Result<(), WorldError> {
    match step {
        UndoStep::RestoreObject { manifest } => restore(platform, manifest).await,
        UndoStep::DeleteObject { api_version, kind, namespace, name } => {
            let object = ObjectRef {
                api_version: api_version.clone(),
                kind: kind.clone(),
                namespace: namespace.clone(),
                name: name.clone(),
            };
            gone(platform, &object).await.map_err(|why| failed(format!("{object}: {why}")))
        }
        UndoStep::RestoreFile { node, path, content, mode } => {
            let bytes = STANDARD.decode(content).map_err(|e| failed(format!("journal: content of {path}: {e}")))?;
            platform.machine(node).map_err(failed)?.write(path, &bytes, *mode).await.map_err(failed)
        }
        UndoStep::RemoveFile { node, path } => {
            platform.machine(node).map_err(failed)?.remove(path).await.map_err(failed)
        }
        UndoStep::RunOnNode { node, argv, tolerate_failure } => {
            let output = platform.machine(node).map_err(failed)?.exec(argv, &[], COMMAND_BUDGET).await;
            match output.map_err(failed)? {
                output if output.code == 0 || *tolerate_failure => Ok(()),
                output => Err(failed(format!(
                    "node {node}: `{}` ended with {}: {}",
                    argv.join(" "),
                    output.code,
                    output.complaint()
                ))),
            }
        }
        UndoStep::Custom { word, data } => match CUSTOM.iter().find(|(name, _)| name == word) {
            Some((_, undo)) => undo(platform, data).await,
            None => Err(failed(format!("no word `{word}`: the journal is of another version"))),
        },
    }
}

/// The step that puts an object back as it is now, or deletes it where it does not exist now.
///
/// # Errors
/// It cannot be read.
pub async fn as_found(platform: &Platform, object: &ObjectRef) -> Result<UndoStep, String> {
    Ok(match platform.get(object).await.map_err(|e| e.to_string())? {
        Some(found) => UndoStep::RestoreObject { manifest: desired(&found) },
        None => object.deletion(),
    })
}

/// The step that puts a node's file back as it is now, or removes it where it does not exist now.
///
/// # Errors
/// It cannot be read.
pub async fn file_as_found(platform: &Platform, node: &str, path: &str) -> Result<UndoStep, String> {
    let machine = platform.machine(node).map_err(|e| e.to_string())?;
    let (node, path) = (node.to_owned(), path.to_owned());
    Ok(match machine.read(&path).await.map_err(|e| e.to_string())? {
        Some(found) => UndoStep::RestoreFile { node, path, content: STANDARD.encode(found.content), mode: found.mode },
        None => UndoStep::RemoveFile { node, path },
    })
}

/// An object without what the API server itself writes: status, versions, times, managers of fields.
pub fn desired(object: &Value) -> Value {
    let mut object = object.clone();
    if let Some(fields) = object.as_object_mut() {
        fields.remove("status");
    }
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        for written_by_server in [
            "resourceVersion",
            "uid",
            "creationTimestamp",
            "generation",
            "managedFields",
            "selfLink",
            "deletionTimestamp",
        ] {
            metadata.remove(written_by_server);
        }
        metadata.remove("deletionGracePeriodSeconds");
    }
    object
}

/// The found object's desired part over the living one's identity: what has to be sent to replace it.
fn merged(found: &Value, live: &Value) -> Value {
    let mut fields: Map<String, Value> = desired(found).as_object().cloned().unwrap_or_default();
    if let Some(status) = live.get("status") {
        // Where status is no subresource (Argo CD's Application) a replacement without it would wipe it.
        fields.insert("status".to_owned(), status.clone());
    }
    let metadata = fields.entry("metadata").or_insert_with(|| json!({}));
    for identity in ["resourceVersion", "uid", "creationTimestamp", "generation"] {
        if let Some(value) = live["metadata"].get(identity) {
            metadata[identity] = value.clone();
        }
    }
    Value::Object(fields)
}

async fn gone(platform: &Platform, object: &ObjectRef) -> Result<(), String> {
    if object.kind == "Namespace" && platform.delete_and_wait(object, KUBELETS).await.is_err() {
        let_go(platform, &object.name).await.map_err(|e| e.to_string())?;
    }
    platform.delete_and_wait(object, GONE_BUDGET).await
}

async fn restore(platform: &Platform, found: &Value) -> Result<(), WorldError> {
    let object = ObjectRef::of(found).ok_or_else(|| failed("journal: an object without kind or name"))?;
    let wanted = desired(found);
    let path = platform.path_of(&object).await.map_err(failed)?;
    let mut last = String::new();
    for _ in 0..CONFLICTS {
        let live = platform.get(&object).await.map_err(failed)?;
        let mut replacing = false;
        let answer = match live {
            Some(live) if desired(&live) == wanted && live["metadata"]["deletionTimestamp"].is_null() => return Ok(()),
            Some(live) if !live["metadata"]["deletionTimestamp"].is_null() => {
                // Half deleted: it cannot be saved any more, so its end is awaited and it is made anew.
                platform.delete_and_wait(&object, GONE_BUDGET).await.map_err(failed)?;
                continue;
            }
            Some(live) => {
                replacing = true;
                platform.replace(&object, &merged(found, &live)).await.map_err(failed)?
            }
            None => platform.create(&wanted).await.map_err(failed)?,
        };
        match answer.code {
            // Changed or deleted in between, or made anew by its controller.
            404 | 409 => last = answer.message().to_owned(),
            // A field that cannot be changed, because the object was made anew in between (a Service's address).
            422 if replacing => {
                platform.delete_and_wait(&object, GONE_BUDGET).await.map_err(failed)?;
                last = answer.message().to_owned();
            }
            _ if !answer.is_ok() => return Err(failed(refused(&http::Method::PUT, &path, &answer))),
            _ if desired(&answer.body) == wanted => return Ok(()),
            _ => {
                return Err(failed(format!(
                    "{object} was written, but the API server keeps something else than was found"
                )));
            }
        }
    }
    Err(failed(format!("{object} is changed by others all the time: {last}")))
}

fn failed(why: impl std::fmt::Display) -> WorldError {
    WorldError(why.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{FakeApi, FakeMachine};
    use std::sync::Arc;

    fn deployment() -> Value {
        json!({
            "apiVersion": "apps/v1", "kind": "Deployment",
            "metadata": {"name": "web", "namespace": "demo", "labels": {"app": "web"}, "uid": "u1", "resourceVersion": "7"},
            "spec": {"replicas": 2}, "status": {"readyReplicas": 2},
        })
    }

    fn web() -> ObjectRef {
        ObjectRef::namespaced("apps/v1", "Deployment", "demo", "web")
    }

    #[tokio::test]
    async fn a_changed_object_is_restored_with_nothing_left_of_the_change() {
        let api = FakeApi::with([deployment()]);
        let platform = Platform::for_test(api.client(), vec![]);
        let step = as_found(&platform, &web()).await.unwrap();
        let mut changed = deployment();
        changed["spec"] = json!({"replicas": 5, "paused": true});
        changed["metadata"]["labels"]["extra"] = json!("yes");
        changed["metadata"]["annotations"] = json!({"note": "by hand"});
        api.put(changed);
        undo(&platform, &step).await.unwrap();
        let live = platform.get(&web()).await.unwrap().unwrap();
        assert_eq!(desired(&live), desired(&deployment()));
        assert_eq!(live["status"], json!({"readyReplicas": 2}), "status is the controllers' own");
        undo(&platform, &step).await.unwrap();
    }

    #[tokio::test]
    async fn a_deleted_object_is_made_anew_and_one_that_was_not_there_is_deleted() {
        let api = FakeApi::with([deployment()]);
        let platform = Platform::for_test(api.client(), vec![]);
        let restore = as_found(&platform, &web()).await.unwrap();
        platform.delete(&web()).await.unwrap();
        let delete = as_found(&platform, &web()).await.unwrap();
        assert!(matches!(delete, UndoStep::DeleteObject { .. }));
        undo(&platform, &restore).await.unwrap();
        assert_eq!(desired(&platform.get(&web()).await.unwrap().unwrap()), desired(&deployment()));
        undo(&platform, &delete).await.unwrap();
        assert_eq!(platform.get(&web()).await.unwrap(), None);
    }

    #[tokio::test]
    async fn an_object_that_cannot_be_changed_back_is_made_anew() {
        let api = FakeApi::with([deployment()]);
        let platform = Platform::for_test(api.client(), vec![]);
        let step = as_found(&platform, &web()).await.unwrap();
        let mut anew = deployment();
        anew["spec"]["replicas"] = json!(1);
        anew["metadata"]["uid"] = json!("u2");
        api.put(anew);
        let path = "PUT /apis/apps/v1/namespaces/demo/deployments/web";
        api.script(path, 422, json!({"kind": "Status", "message": "may not change once set"}), &[]);
        undo(&platform, &step).await.unwrap();
        assert_eq!(desired(&platform.get(&web()).await.unwrap().unwrap()), desired(&deployment()));
    }

    #[tokio::test]
    async fn a_refused_restore_is_an_error() {
        let api = FakeApi::with([deployment()]);
        let platform = Platform::for_test(api.client(), vec![]);
        let mut broken = deployment();
        broken["spec"]["replicas"] = json!(9);
        api.refuse_writes(403, "immutable");
        let error = undo(&platform, &UndoStep::RestoreObject { manifest: broken }).await.unwrap_err();
        assert!(error.0.contains("immutable"), "{error}");
    }

    #[tokio::test]
    async fn files_come_back_with_bytes_and_mode() {
        let machine = Arc::new(FakeMachine::named("cp-1"));
        machine.put("/etc/a", b"as found\n", 0o640);
        let platform = Platform::for_test(FakeApi::default().client(), vec![machine.clone()]);
        let present = file_as_found(&platform, "cp-1", "/etc/a").await.unwrap();
        let absent = file_as_found(&platform, "cp-1", "/etc/b").await.unwrap();
        machine.put("/etc/a", b"changed", 0o600);
        machine.put("/etc/b", b"new", 0o600);
        undo(&platform, &present).await.unwrap();
        undo(&platform, &absent).await.unwrap();
        assert_eq!(machine.files(), vec![("/etc/a".to_owned(), b"as found\n".to_vec(), 0o640)]);
        let nowhere = UndoStep::RemoveFile { node: "cp-9".into(), path: "/x".into() };
        assert!(undo(&platform, &nowhere).await.unwrap_err().0.contains("there are: cp-1"));
    }

    #[tokio::test]
    async fn an_unknown_word_is_an_error() {
        let platform = Platform::for_test(FakeApi::default().client(), vec![]);
        let step = UndoStep::Custom { word: "nobody".into(), data: Value::Null };
        assert!(undo(&platform, &step).await.is_err());
    }
}
