//! Argo CD: the bundle's core-install manifest, adapted, and the documented demo Application.

use std::io::Read as _;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures::future::BoxFuture;
use serde_json::Value;
use shakedown_core::{Answer, Capability};

use crate::argocd_manifest::{Images, adapted};
use crate::component::{Component, State, not_rolled_out};
use crate::error::{Result, StackError};
use crate::names;
use crate::render::{Vars, filled};
use crate::site::Site;

/// Four programs of 200 MB each start on two cores.
const BUDGET: Duration = Duration::from_secs(300);
/// Bytes of the key that signs sessions.
const SECRET_KEY_LENGTH: usize = 32;

/// Argo CD itself.
pub struct ArgoCd;

impl Component for ArgoCd {
    fn name(&self) -> &'static str {
        "argocd"
    }

    fn what(&self) -> &'static str {
        "Argo CD, core install, in namespace argocd"
    }

    fn needs(&self) -> &'static [&'static str] {
        &["cilium", "coredns", "schedulable"]
    }

    fn after(&self) -> &'static [&'static str] {
        &["apiservers"]
    }

    fn version(&self, site: &Site) -> String {
        site.tools.tag("argocd").unwrap_or_else(|| "unknown".to_owned())
    }

    fn readiness(&self) -> &'static str {
        "its four workloads are rolled out"
    }

    fn state<'a>(&'a self, site: &'a Site) -> BoxFuture<'a, Result<State>> {
        Box::pin(async move {
            let objects = objects(site).await?;
            let mut found = site.applier.drift(&objects).await?;
            if found.is_empty() {
                found = not_rolled_out(site, &objects).await?;
            }
            Ok(State::of(&found))
        })
    }

    fn install<'a>(&'a self, site: &'a Site) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move { site.applier.apply(&objects(site).await?).await })
    }

    fn ready<'a>(&'a self, site: &'a Site) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move { site.rolled_out(self.name(), &objects(site).await?, BUDGET).await })
    }

    fn remove<'a>(&'a self, site: &'a Site) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move { site.applier.delete(&objects(site).await?, BUDGET).await })
    }
}

async fn objects(site: &Site) -> Result<Vec<Value>> {
    let path = &site.tools.argocd_manifest;
    let manifest =
        std::fs::read_to_string(path).map_err(|e| StackError::file(format!("read {}", path.display()), e))?;
    let images = Images { argocd: site.tools.image("argocd")?, redis: site.tools.image("redis")? };
    let key = match secret_key(site).await? {
        Some(key) => key,
        None => new_secret_key()?,
    };
    adapted(&manifest, &images, &key)
}

/// The key that is in use: drawing another one would end every session.
async fn secret_key(site: &Site) -> Result<Option<String>> {
    let object = serde_json::json!({"apiVersion": "v1", "kind": "Secret",
        "metadata": {"name": "argocd-secret", "namespace": names::ARGOCD_NAMESPACE}});
    let live = site.applier.get_value(&object).await?;
    Ok(live
        .as_ref()
        .and_then(|s| s.pointer("/data/server.secretkey"))
        .and_then(Value::as_str)
        .and_then(|base64| STANDARD.decode(base64).ok())
        .and_then(|bytes| String::from_utf8(bytes).ok())
        .filter(|key| !key.is_empty()))
}

fn new_secret_key() -> Result<String> {
    let mut bytes = [0u8; SECRET_KEY_LENGTH];
    let source = "/dev/urandom";
    std::fs::File::open(source)
        .and_then(|mut file| file.read_exact(&mut bytes))
        .map_err(|e| StackError::file(format!("read {source}"), e))?;
    Ok(STANDARD.encode(bytes))
}

/// The demo Application.
pub struct Application;

impl Component for Application {
    fn name(&self) -> &'static str {
        "demo-application"
    }

    fn what(&self) -> &'static str {
        "the Application guestbook with prune and selfHeal, deployed to argocd-demo"
    }

    fn needs(&self) -> &'static [&'static str] {
        &["argocd", "demo-repository", "demo-image"]
    }

    fn gives(&self) -> &'static [Capability] {
        &[Capability::Argocd]
    }

    fn readiness(&self) -> &'static str {
        "the Application is Synced and Healthy"
    }

    fn state<'a>(&'a self, site: &'a Site) -> BoxFuture<'a, Result<State>> {
        Box::pin(async move {
            let mut found = site.applier.drift(&application(site)?).await?;
            if found.is_empty()
                && let Answer::NotYet(seen) | Answer::Never(seen) = status(site).await?
            {
                found.push(seen);
            }
            Ok(State::of(&found))
        })
    }

    fn install<'a>(&'a self, site: &'a Site) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move { site.applier.apply(&application(site)?).await })
    }

    fn ready<'a>(&'a self, site: &'a Site) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            site.wait(self.name(), "the Application to be Synced and Healthy", BUDGET, || async {
                status(site).await.unwrap_or_else(|error| Answer::NotYet(error.to_string()))
            })
            .await
        })
    }

    fn remove<'a>(&'a self, site: &'a Site) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            site.applier.delete(&application(site)?, BUDGET).await?;
            // Without a finalizer the Application leaves what it deployed behind.
            let namespace = serde_json::json!({"apiVersion": "v1", "kind": "Namespace",
                "metadata": {"name": names::DEMO_NAMESPACE}});
            site.applier.delete(&[namespace], BUDGET).await
        })
    }
}

fn application(site: &Site) -> Result<Vec<Value>> {
    let vars = Vars::from([("REPOSITORY", site.facts.demo_repository())]);
    filled("application", include_str!("../manifests/application.yaml"), &vars)
}

async fn status(site: &Site) -> Result<Answer<()>> {
    let Some(object) = application(site)?.into_iter().next() else { return Ok(Answer::Ready(())) };
    Ok(match site.applier.get_value(&object).await? {
        None => Answer::NotYet("there is no Application".into()),
        Some(live) => judged(&live),
    })
}

/// Synced and Healthy, or what is not, with the conditions that say why.
fn judged(application: &Value) -> Answer<()> {
    let text = |pointer: &str| application.pointer(pointer).and_then(Value::as_str).unwrap_or("unknown");
    let (sync, health) = (text("/status/sync/status"), text("/status/health/status"));
    if sync == "Synced" && health == "Healthy" {
        return Answer::Ready(());
    }
    let conditions = application.pointer("/status/conditions").and_then(Value::as_array);
    let why: Vec<&str> = conditions.into_iter().flatten().filter_map(|c| c["message"].as_str()).collect();
    Answer::NotYet(format!("{sync}, {health} {}", why.join("; ")).trim().to_owned())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_synced_and_healthy_is_ready() {
        let of = |sync: &str, health: &str| {
            judged(&json!({"status": {"sync": {"status": sync}, "health": {"status": health},
                "conditions": [{"message": "cannot clone"}]}}))
        };
        assert_eq!(of("Synced", "Healthy"), Answer::Ready(()));
        assert_eq!(of("Synced", "Progressing"), Answer::NotYet("Synced, Progressing cannot clone".into()));
        assert_eq!(of("OutOfSync", "Healthy"), Answer::NotYet("OutOfSync, Healthy cannot clone".into()));
        assert_eq!(judged(&json!({})), Answer::NotYet("unknown, unknown".into()));
    }
}
