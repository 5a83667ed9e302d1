//! Server-side apply, drift and deletion against a real apiserver.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod scratch;

use std::time::Duration;

use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};
use shakedown_stack::StackError;
use shakedown_stack::apply::Applier;
use shakedown_stack::render::objects;

const BUDGET: Duration = Duration::from_secs(30);

const YAML: &str = "
apiVersion: v1
kind: ConfigMap
metadata: {name: settings, namespace: here}
data: {a: '1'}
---
apiVersion: v1
kind: Namespace
metadata: {name: here, labels: {level: restricted}}
";

const DEFINITION: &str = "
apiVersion: example.org/v1
kind: Thing
metadata: {name: one, namespace: default}
spec: {size: 3}
---
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: things.example.org}
spec:
  group: example.org
  scope: Namespaced
  names: {kind: Thing, plural: things, singular: thing, listKind: ThingList}
  versions:
  - name: v1
    served: true
    storage: true
    schema:
      openAPIV3Schema:
        type: object
        properties: {spec: {type: object, properties: {size: {type: integer}}}}
";

async fn patch(applier: &Applier, object: &Value, patch: Value) {
    let api = applier.api_of(object).await.unwrap();
    let name = object["metadata"]["name"].as_str().unwrap();
    api.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await.unwrap();
}

#[tokio::test]
async fn component_what_was_applied_is_there_and_a_change_is_seen_and_repaired() {
    let scratch = scratch::start().await;
    let applier = Applier::new(scratch.client.clone());
    let objects = objects("test", YAML).unwrap();
    let missing = applier.drift(&objects).await.unwrap();
    assert_eq!(missing, ["ConfigMap here/settings is missing", "Namespace here is missing"]);

    // The namespace stands last in the stream and is still made first.
    applier.apply(&objects).await.unwrap();
    assert_eq!(applier.drift(&objects).await.unwrap(), Vec::<String>::new());

    patch(&applier, &objects[1], json!({"metadata": {"labels": {"level": "baseline"}}})).await;
    patch(&applier, &objects[0], json!({"data": {"b": "somebody else's"}})).await;
    // A field of ours that was changed is drift; one that somebody added beside it is not.
    assert_eq!(applier.drift(&objects).await.unwrap(), ["Namespace here differs at /metadata/labels/level"]);
    applier.apply(&objects).await.unwrap();
    assert_eq!(applier.drift(&objects).await.unwrap(), Vec::<String>::new());
    let settings = applier.get_value(&objects[0]).await.unwrap().unwrap();
    assert_eq!(settings["data"], json!({"a": "1", "b": "somebody else's"}));

    applier.delete(&objects[..1], BUDGET).await.unwrap();
    applier.delete(&objects[..1], BUDGET).await.unwrap();
    assert_eq!(applier.drift(&objects).await.unwrap(), ["ConfigMap here/settings is missing"]);
}

#[tokio::test]
async fn component_a_definition_and_its_object_are_applied_in_one_go() {
    let scratch = scratch::start().await;
    let applier = Applier::new(scratch.client.clone());
    let objects = objects("test", DEFINITION).unwrap();
    let missing = applier.drift(&objects).await.unwrap();
    assert_eq!(missing, ["CustomResourceDefinition things.example.org is missing", "Thing default/one is missing"]);
    applier.apply(&objects).await.unwrap();
    assert_eq!(applier.drift(&objects).await.unwrap(), Vec::<String>::new());
}

#[tokio::test]
async fn component_an_immutable_difference_is_named_and_a_refusal_is_an_error_at_once() {
    let scratch = scratch::start().await;
    let applier = Applier::new(scratch.client.clone());
    let pod = |image: &str, host: &str| {
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "namespace": "default"},
            "spec": {"hostname": host, "containers": [{"name": "c", "image": image}]}})
    };
    applier.apply(&[pod("a:1", "x")]).await.unwrap();
    assert_eq!(applier.drift(&[pod("a:2", "x")]).await.unwrap(), ["Pod default/p differs at /spec/containers/0/image"]);
    assert_eq!(applier.drift(&[pod("a:1", "y")]).await.unwrap(), ["Pod default/p differs and has to be made anew"]);
    let bad =
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "Bad_Name", "namespace": "default"}});
    let error = applier.apply(&[bad]).await.unwrap_err();
    assert!(matches!(error, StackError::Api { .. }), "{error}");
    assert!(error.to_string().starts_with("cannot apply ConfigMap default/Bad_Name: "), "{error}");
}
