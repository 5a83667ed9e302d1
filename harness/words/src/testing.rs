//! Stand-ins for unit tests: an apiserver that keeps objects in a map, and a machine that keeps files in one.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::future::BoxFuture;
use http::{Method, Request, Response};
use http_body_util::BodyExt;
use kube::client::{Body, Client};
use serde_json::{Value, json};
use shakedown_core::Judgement;

use crate::machine::{FileFound, Machine, MachineError, Output};
use crate::objects::version_path;

/// Kinds that the stand-in serves: version, kind, plural.
const KINDS: &[(&str, &str, &str)] = &[
    ("apps/v1", "Deployment", "deployments"),
    ("apps/v1", "DaemonSet", "daemonsets"),
    ("v1", "Namespace", "namespaces"),
    ("v1", "Node", "nodes"),
    ("v1", "Pod", "pods"),
    ("v1", "ConfigMap", "configmaps"),
    ("argoproj.io/v1alpha1", "Application", "applications"),
    ("coordination.k8s.io/v1", "Lease", "leases"),
];

/// A Kyverno that lives: its admission controller is ready and leads, and its sign of life is two seconds old.
pub(crate) fn living_kyverno() -> [Value; 3] {
    let lease = |name: &str, annotations: Value, spec: Value| {
        let metadata = json!({"name": name, "namespace": "kyverno", "annotations": annotations});
        json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": metadata, "spec": spec})
    };
    let at = |second: u8| format!("2026-01-01T00:00:{second:02}.000000Z");
    [
        json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "admission", "namespace": "kyverno"},
            "status": {"conditions": [{"type": "Ready", "status": "True"}]},
        }),
        lease("kyverno", json!({}), json!({"holderIdentity": "admission", "renewTime": at(12)})),
        lease("kyverno-health", json!({"kyverno.io/last-request-time": at(10)}), json!({})),
    ]
}

/// The codes that a judge found; none for a pass, and the whole of a judgement that is neither.
pub(crate) fn codes(judged: Judgement) -> Vec<String> {
    match judged {
        Judgement::Fail(found) => found.into_iter().map(|f| f.code).collect(),
        Judgement::Pass => vec![],
        other @ Judgement::Inconclusive(_) => vec![format!("{other:?}")],
    }
}

#[derive(Default)]
struct State {
    objects: BTreeMap<String, Value>,
    version: u64,
    refusal: Option<(u16, String)>,
    /// Every request as `METHOD path`.
    asked: Vec<String>,
    scripted: BTreeMap<String, (u16, Value, Vec<String>)>,
}

/// An apiserver of a few lines.
#[derive(Clone, Default)]
pub(crate) struct FakeApi(Arc<Mutex<State>>);

/// None for a kind that is not served.
fn path_of(object: &Value) -> Option<String> {
    let kind = object["kind"].as_str()?;
    let plural = KINDS.iter().find(|(_, k, _)| *k == kind).map(|(_, _, plural)| *plural)?;
    let folder = version_path(object["apiVersion"].as_str()?);
    let name = object["metadata"]["name"].as_str()?;
    Some(match object["metadata"]["namespace"].as_str() {
        Some(ns) => format!("{folder}/namespaces/{ns}/{plural}/{name}"),
        None => format!("{folder}/{plural}/{name}"),
    })
}

impl FakeApi {
    pub(crate) fn with(objects: impl IntoIterator<Item = Value>) -> Self {
        let api = Self::default();
        for object in objects {
            api.put(object);
        }
        api
    }

    /// Puts an object in place as another client would.
    pub(crate) fn put(&self, mut object: Value) {
        let mut state = self.0.lock().unwrap();
        state.version += 1;
        object["metadata"]["resourceVersion"] = json!(state.version.to_string());
        state.objects.insert(path_of(&object).unwrap(), object);
    }

    /// From now on every write is refused so.
    pub(crate) fn refuse_writes(&self, code: u16, message: &str) {
        self.0.lock().unwrap().refusal = Some((code, message.to_owned()));
    }

    /// Answers `METHOD path` so, whatever the body is.
    pub(crate) fn script(&self, ask: &str, code: u16, body: Value, warnings: &[&str]) {
        let warnings = warnings.iter().map(|w| (*w).to_owned()).collect();
        self.0.lock().unwrap().scripted.insert(ask.to_owned(), (code, body, warnings));
    }

    pub(crate) fn asked(&self) -> Vec<String> {
        self.0.lock().unwrap().asked.clone()
    }

    pub(crate) fn client(&self) -> Client {
        let state = self.0.clone();
        Client::new(
            tower::service_fn(move |request: Request<Body>| {
                let state = state.clone();
                async move {
                    let (parts, body) = request.into_parts();
                    let bytes = body.collect().await.unwrap().to_bytes();
                    let body = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
                    let path = parts.uri.path_and_query().unwrap().as_str().to_owned();
                    let (code, answer, warnings) = answer(&mut state.lock().unwrap(), &parts.method, &path, body);
                    let mut response = Response::builder().status(code);
                    for warning in warnings {
                        response = response.header("Warning", format!("299 - {}", json!(warning)));
                    }
                    Ok::<_, std::io::Error>(response.body(Body::from(answer.to_string().into_bytes())).unwrap())
                }
            }),
            "default",
        )
    }
}

fn status(code: u16, message: &str) -> (u16, Value, Vec<String>) {
    (code, json!({"kind": "Status", "code": code, "message": message}), vec![])
}

fn answer(state: &mut State, method: &Method, path: &str, body: Value) -> (u16, Value, Vec<String>) {
    let ask = format!("{method} {path}");
    state.asked.push(ask.clone());
    if let Some(scripted) = state.scripted.get(&ask) {
        return scripted.clone();
    }
    for (version, ..) in KINDS {
        if path == version_path(version) {
            let kinds = KINDS.iter().filter(|(v, ..)| v == version);
            let list: Vec<_> = kinds
                .map(|(_, kind, plural)| json!({"name": plural, "kind": kind, "namespaced": !matches!(*kind, "Namespace" | "Node")}))
                .collect();
            return (200, json!({"resources": list}), vec![]);
        }
    }
    if let (true, Some((code, message))) = (method != Method::GET, &state.refusal) {
        return status(*code, message);
    }
    let (bare, query) = path.split_once('?').unwrap_or((path, ""));
    match *method {
        Method::GET if query.contains("watch=1") => (200, Value::Null, vec![]),
        Method::GET if state.objects.contains_key(bare) => (200, state.objects[bare].clone(), vec![]),
        Method::GET => {
            let named = query.split("metadata.name%3D").nth(1).map(|rest| rest.split('&').next().unwrap().to_owned());
            let items: Vec<_> = state
                .objects
                .iter()
                .filter(|(at, _)| at.starts_with(bare) && at[bare.len()..].starts_with('/'))
                .filter(|(_, object)| named.as_ref().is_none_or(|name| object["metadata"]["name"] == name.as_str()))
                .map(|(_, object)| object.clone())
                .collect();
            let known = KINDS.iter().any(|(_, _, plural)| bare.ends_with(plural));
            if known {
                (200, json!({"metadata": {"resourceVersion": "1"}, "items": items}), vec![])
            } else {
                status(404, "not found")
            }
        }
        Method::DELETE => match state.objects.remove(bare) {
            Some(object) => (200, object, vec![]),
            None => status(404, "not found"),
        },
        Method::PUT if !state.objects.contains_key(bare) => status(404, "not found"),
        Method::PUT if state.objects[bare]["metadata"]["resourceVersion"] != body["metadata"]["resourceVersion"] => {
            status(409, "the object has been modified")
        }
        Method::POST | Method::PUT => {
            let mut object = body;
            state.version += 1;
            object["metadata"]["resourceVersion"] = json!(state.version.to_string());
            let Some(at) = path_of(&object) else { return status(404, "no such kind") };
            if *method == Method::POST && state.objects.contains_key(&at) {
                return status(409, "already exists");
            }
            if !query.contains("dryRun=All") {
                state.objects.insert(at, object.clone());
            }
            (if *method == Method::POST { 201 } else { 200 }, object, vec![])
        }
        Method::PATCH => {
            let Some(object) = state.objects.get_mut(bare) else { return status(404, "not found") };
            match body.as_array() {
                // RFC 6902, as far as the words use it.
                Some(changes) => {
                    for change in changes {
                        *object.pointer_mut(change["path"].as_str().unwrap()).unwrap() = change["value"].clone();
                    }
                }
                None => merge(object, &body),
            }
            (200, object.clone(), vec![])
        }
        _ => status(405, "not allowed"),
    }
}

/// RFC 7386.
fn merge(target: &mut Value, patch: &Value) {
    let Some(fields) = patch.as_object() else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = json!({});
    }
    for (key, value) in fields {
        if value.is_null() {
            target.as_object_mut().unwrap().remove(key);
        } else {
            merge(&mut target[key], value);
        }
    }
}

/// A machine of a few lines.
pub(crate) struct FakeMachine {
    name: String,
    files: Mutex<BTreeMap<String, FileFound>>,
    answers: Mutex<BTreeMap<String, Output>>,
}

impl FakeMachine {
    pub(crate) fn named(name: &str) -> Self {
        Self { name: name.to_owned(), files: Mutex::default(), answers: Mutex::default() }
    }

    pub(crate) fn put(&self, path: &str, content: &[u8], mode: u32) {
        self.files.lock().unwrap().insert(path.to_owned(), FileFound { content: content.to_vec(), mode });
    }

    /// Answers a command line so.
    #[allow(dead_code)]
    pub(crate) fn answer(&self, command: &str, output: Output) {
        self.answers.lock().unwrap().insert(command.to_owned(), output);
    }

    pub(crate) fn files(&self) -> Vec<(String, Vec<u8>, u32)> {
        self.files.lock().unwrap().iter().map(|(path, f)| (path.clone(), f.content.clone(), f.mode)).collect()
    }
}

impl Machine for FakeMachine {
    fn name(&self) -> &str {
        &self.name
    }

    fn exec<'a>(&'a self, argv: &'a [String], _: &'a [u8], _: Duration) -> BoxFuture<'a, Result<Output, MachineError>> {
        let answer = self.answers.lock().unwrap().get(&argv.join(" ")).cloned();
        Box::pin(async move { answer.ok_or_else(|| MachineError::new(&self.name, format!("no answer to {argv:?}"))) })
    }

    fn read<'a>(&'a self, path: &'a str) -> BoxFuture<'a, Result<Option<FileFound>, MachineError>> {
        let found = self.files.lock().unwrap().get(path).cloned();
        Box::pin(async move { Ok(found) })
    }

    fn write<'a>(&'a self, path: &'a str, content: &'a [u8], mode: u32) -> BoxFuture<'a, Result<(), MachineError>> {
        self.put(path, content, mode);
        Box::pin(async { Ok(()) })
    }

    fn remove<'a>(&'a self, path: &'a str) -> BoxFuture<'a, Result<(), MachineError>> {
        self.files.lock().unwrap().remove(path);
        Box::pin(async { Ok(()) })
    }
}
