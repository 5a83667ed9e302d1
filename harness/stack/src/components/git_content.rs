//! The content of the demo repository: one commit with the folder `guestbook`, whose image comes from the registry of
//! the platform (GIT-039).

use std::collections::BTreeMap;
use std::time::Duration;

use futures::future::BoxFuture;
use serde_json::{Value, json};
use shakedown_core::{Answer, Capability};

use crate::component::{Component, State};
use crate::error::{Result, StackError};
use crate::names;
use crate::render::{Vars, fill};
use crate::site::Site;
use crate::web::Service;

/// One commit takes a moment.
const BUDGET: Duration = Duration::from_secs(60);
/// Where the server answers inside the cluster.
const SERVER: Service<'_> = Service { namespace: names::GIT_NAMESPACE, name: "git-server", port: 80 };

/// The component.
pub struct GitContent;

impl Component for GitContent {
    fn name(&self) -> &'static str {
        "demo-repository"
    }

    fn what(&self) -> &'static str {
        "the repository argocd-example-apps with the folder guestbook"
    }

    fn needs(&self) -> &'static [&'static str] {
        &["git-server"]
    }

    fn gives(&self) -> &'static [Capability] {
        &[Capability::GitHttp]
    }

    fn readiness(&self) -> &'static str {
        "branch main has a commit"
    }

    fn state<'a>(&'a self, site: &'a Site) -> BoxFuture<'a, Result<State>> {
        Box::pin(async move {
            if head(site).await?.is_none() {
                return Ok(State::Wanting("branch main has no commit".into()));
            }
            Ok(State::of(&site.applier.drift(&[record(site)?]).await?))
        })
    }

    fn install<'a>(&'a self, site: &'a Site) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            let record = record(site)?;
            let committed =
                head(site).await?.is_some() && site.applier.drift(std::slice::from_ref(&record)).await?.is_empty();
            if committed {
                return Ok(());
            }
            let body = serde_json::to_vec(&content(site)?).unwrap_or_default();
            let path = format!("/admin/commit?repo={}&message=guestbook", names::DEMO_REPOSITORY);
            site.wait(self.name(), "the git server to take a commit", BUDGET, || async {
                match SERVER.post(site.applier.client(), &path, body.clone()).await {
                    Ok(Some(_)) => Answer::Ready(()),
                    Ok(None) => Answer::NotYet("the server refused it or is away".into()),
                    Err(error) => Answer::NotYet(error.to_string()),
                }
            })
            .await?;
            // After the commit: killed in between, the same content is committed once more, which changes nothing.
            site.applier.apply(&[record]).await
        })
    }

    fn ready<'a>(&'a self, site: &'a Site) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            site.wait(self.name(), "branch main to have a commit", BUDGET, || async {
                match head(site).await {
                    Ok(Some(_)) => Answer::Ready(()),
                    Ok(None) => Answer::NotYet("no commit yet".into()),
                    Err(error) => Answer::NotYet(error.to_string()),
                }
            })
            .await
        })
    }

    fn remove<'a>(&'a self, site: &'a Site) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            // The repository goes with the server's data; here it is only forgotten what was committed.
            site.applier.delete(&[record(site)?], BUDGET).await
        })
    }
}

/// Path to text, as the server takes it.
fn content(site: &Site) -> Result<BTreeMap<&'static str, String>> {
    let vars = Vars::from([("IMAGE", site.facts.demo_image())]);
    let all = fill("guestbook", include_str!("../manifests/guestbook.yaml"), &vars)?;
    let (service, deployment) = all
        .split_once("---\n")
        .ok_or_else(|| StackError::Manifest { name: "guestbook".into(), why: "it is not two documents".into() })?;
    Ok(BTreeMap::from([
        ("guestbook/guestbook-ui-svc.yaml", service.to_owned()),
        ("guestbook/guestbook-ui-deployment.yaml", deployment.to_owned()),
    ]))
}

/// What was committed, kept beside the server: the server itself shows heads, not files.
fn record(site: &Site) -> Result<Value> {
    Ok(json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": names::DEMO_REPOSITORY, "namespace": names::GIT_NAMESPACE},
        "data": content(site)?.into_iter().map(|(path, text)| (path.replace('/', "."), text)).collect::<BTreeMap<_, _>>(),
    }))
}

/// The commit that branch main points to.
async fn head(site: &Site) -> Result<Option<String>> {
    let path = format!("/{}.git/info/refs?service=git-upload-pack", names::DEMO_REPOSITORY);
    let answer = SERVER.get(site.applier.client(), &path).await?;
    Ok(answer.and_then(|text| head_in(&text)))
}

/// The id before `refs/heads/main` in git's advertisement of references.
fn head_in(advertisement: &str) -> Option<String> {
    let line = advertisement.lines().find(|line| line.trim_end().ends_with(" refs/heads/main"))?;
    let id = line.split(' ').next()?;
    // Four digits of packet length stand before the id.
    let id = id.get(id.len().checked_sub(40)?..)?;
    id.chars().all(|c| c.is_ascii_hexdigit()).then(|| id.to_owned())
}

#[cfg(test)]
mod tests {
    use super::head_in;

    #[test]
    fn the_head_is_found_behind_its_packet_length() {
        let id = "8088f4c0d970abb09e250248cc97e35623447cb5";
        let text = format!(
            "001e# service=git-upload-pack\n0000010c{id} HEAD\0symref=HEAD:refs/heads/main\n003d{id} refs/heads/main\n0000"
        );
        assert_eq!(head_in(&text), Some(id.to_owned()));
        assert_eq!(head_in("001e# service=git-upload-pack\n0000"), None);
        assert_eq!(head_in("x refs/heads/main\n"), None);
    }
}
