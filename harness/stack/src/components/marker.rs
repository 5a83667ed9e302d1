//! The ConfigMap that says: this cluster is ours.

use std::time::Duration;

use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::Api;
use serde_json::{Value, json};

use crate::component::{Component, State};
use crate::error::{Result, StackError};
use crate::names;
use crate::site::Site;

const BUDGET: Duration = Duration::from_secs(30);

/// The component.
pub struct Marker;

impl Component for Marker {
    fn name(&self) -> &'static str {
        "marker"
    }

    fn what(&self) -> &'static str {
        "the ConfigMap kube-system/shakedown: without it nothing is changed on a cluster"
    }

    fn readiness(&self) -> &'static str {
        "it is there"
    }

    fn state<'a>(&'a self, site: &'a Site) -> BoxFuture<'a, Result<State>> {
        Box::pin(async move { Ok(State::of(&site.applier.drift(&[object(&site.name)]).await?)) })
    }

    fn install<'a>(&'a self, site: &'a Site) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move { site.applier.apply(&[object(&site.name)]).await })
    }

    fn ready<'a>(&'a self, _site: &'a Site) -> BoxFuture<'a, Result<()>> {
        Box::pin(async { Ok(()) })
    }

    fn remove<'a>(&'a self, site: &'a Site) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move { site.applier.delete(&[object(&site.name)], BUDGET).await })
    }
}

fn object(name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": names::MARKER, "namespace": "kube-system"},
        "data": {"cluster": name},
    })
}

/// Whether the cluster carries the marker.
///
/// # Errors
/// The API does not answer.
pub async fn is_ours(client: &kube::Client) -> Result<bool> {
    let api: Api<ConfigMap> = Api::namespaced(client.clone(), "kube-system");
    Ok(api.get_opt(names::MARKER).await.map_err(|e| StackError::api("look for the marker", e))?.is_some())
}
