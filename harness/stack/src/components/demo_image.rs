//! The demo image in the registry, and the documented Pod that pulls it through the NodePort (REG-030, REG-041).

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;

use futures::future::BoxFuture;
use kube::api::DeleteParams;
use serde_json::Value;
use shakedown_core::{Answer, Capability};

use crate::component::{Component, State};
use crate::error::{Result, StackError};
use crate::names;
use crate::program;
use crate::render::{Vars, filled};
use crate::site::Site;
use crate::web;

/// Push and pull take seconds; a busy machine gets more.
const BUDGET: Duration = Duration::from_secs(120);
/// Media types under which the registry may keep the manifest.
const ACCEPT: &str = "application/vnd.oci.image.manifest.v1+json, application/vnd.docker.distribution.manifest.v2+json, \
                      application/vnd.oci.image.index.v1+json";

/// The component.
pub struct DemoImage;

impl Component for DemoImage {
    fn name(&self) -> &'static str {
        "demo-image"
    }

    fn what(&self) -> &'static str {
        "the demo image bootcamp/nginx:1.27-alpine (our echo server) in the registry, and a Pod that runs from it"
    }

    fn needs(&self) -> &'static [&'static str] {
        &["registry", "hosts-toml"]
    }

    fn gives(&self) -> &'static [Capability] {
        &[Capability::RegistryHttp]
    }

    fn readiness(&self) -> &'static str {
        "the Pod harbor-pull-test is Ready and runs the digest that the registry reports"
    }

    fn state<'a>(&'a self, site: &'a Site) -> BoxFuture<'a, Result<State>> {
        Box::pin(async move {
            let Some(digest) = digest(site).await? else {
                return Ok(State::Wanting(format!("the registry has no {}", names::DEMO_IMAGE)));
            };
            let mut found = site.applier.drift(&pod(site)?).await?;
            if found.is_empty() {
                found.extend(runs(site, &digest).await?);
            }
            Ok(State::of(&found))
        })
    }

    fn install<'a>(&'a self, site: &'a Site) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            if digest(site).await?.is_none() {
                push(site).await?;
            }
            let pod = pod(site)?;
            // A Pod's specification cannot be changed, and one whose pull has failed for long backs off for minutes.
            if let (Some(object), State::Wanting(_)) = (pod.first(), self.state(site).await?) {
                let api = site.applier.api_of(object).await?;
                if site.applier.get_value(object).await?.is_some() {
                    let params = DeleteParams::default().grace_period(0);
                    match api.delete(names::PULL_TEST_POD, &params).await {
                        Ok(_) => {}
                        Err(kube::Error::Api(status)) if status.is_not_found() => {}
                        Err(error) => return Err(StackError::api("delete the Pod harbor-pull-test", error)),
                    }
                }
                site.applier.delete(&pod, BUDGET).await?;
            }
            site.applier.apply(&pod).await
        })
    }

    fn ready<'a>(&'a self, site: &'a Site) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            site.wait(self.name(), "the Pod harbor-pull-test to run the pushed image", BUDGET, || async {
                let look = async {
                    let digest = digest(site).await?.unwrap_or_default();
                    runs(site, &digest).await
                };
                match look.await {
                    Ok(None) => Answer::Ready(()),
                    Ok(Some(seen)) => Answer::NotYet(seen),
                    Err(error) => Answer::NotYet(error.to_string()),
                }
            })
            .await
        })
    }

    fn remove<'a>(&'a self, site: &'a Site) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move { site.applier.delete(&pod(site)?, BUDGET).await })
    }
}

fn pod(site: &Site) -> Result<Vec<Value>> {
    let vars = Vars::from([("IMAGE", site.facts.demo_image())]);
    filled("pull-test", include_str!("../manifests/pull-test.yaml"), &vars)
}

/// The digest under the demo image's tag, asked through the API's proxy.
async fn digest(site: &Site) -> Result<Option<String>> {
    let (repository, tag) = names::DEMO_IMAGE.split_once(':').unwrap_or((names::DEMO_IMAGE, "latest"));
    let path = format!("/v2/{repository}/manifests/{tag}");
    let service = web::Service { namespace: names::REGISTRY_NAMESPACE, name: "harbor", port: names::REGISTRY_PORT };
    let answer = service.head(site.applier.client(), &path, ACCEPT).await?;
    Ok(answer.filter(|a| a.status == 200).and_then(|a| a.digest))
}

/// None when the Pod is Ready with an image of this digest; otherwise what was seen.
async fn runs(site: &Site, digest: &str) -> Result<Option<String>> {
    let Some(object) = pod(site)?.into_iter().next() else { return Ok(None) };
    let Some(live) = site.applier.get_value(&object).await? else { return Ok(Some("the Pod is missing".into())) };
    let status = &live["status"]["containerStatuses"][0];
    if let Some(reason) = status["state"]["waiting"]["reason"].as_str() {
        let message = status["state"]["waiting"]["message"].as_str().unwrap_or_default();
        return Ok(Some(format!("{reason} {message}").trim().to_owned()));
    }
    let image = status["imageID"].as_str().unwrap_or_default();
    if status["ready"] != true {
        return Ok(Some(format!("phase {}", live["status"]["phase"].as_str().unwrap_or("unknown"))));
    }
    let wanted = format!("{}@{digest}", site.facts.demo_image().rsplit_once(':').map_or("", |(name, _)| name));
    Ok((image != wanted).then(|| format!("its imageID is {image}, the registry's is {wanted}")))
}

/// Unpacks the archive and has crane push it, as documented, to the NodePort.
async fn push(site: &Site) -> Result<()> {
    let layout = site.state_dir.join("demo-image");
    unpack(&site.tools.demo_archive, &layout)?;
    let target = site.facts.demo_image();
    let layout_text = layout.display().to_string();
    let home = ("HOME", site.state_dir.as_path());
    let hint = "`kubectl -n harbor get pods -o wide` shows the registry; converge may be repeated";
    let pushed =
        program::run(&site.tools.crane, &["push", "--insecure", &layout_text, &target], &[home], BUDGET, hint).await;
    std::fs::remove_dir_all(&layout).map_err(|e| StackError::file(format!("remove {}", layout.display()), e))?;
    pushed.map(|_| ())
}

fn unpack(archive: &Path, to: &PathBuf) -> Result<()> {
    if to.exists() {
        std::fs::remove_dir_all(to).map_err(|e| StackError::file(format!("remove {}", to.display()), e))?;
    }
    std::fs::create_dir_all(to).map_err(|e| StackError::file(format!("make {}", to.display()), e))?;
    let file = File::open(archive).map_err(|e| StackError::file(format!("open {}", archive.display()), e))?;
    tar::Archive::new(file).unpack(to).map_err(|e| StackError::file(format!("unpack {}", archive.display()), e))
}
