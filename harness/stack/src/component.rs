//! What a component of the platform is to the graph: what it needs, what it gives, and four operations on it.

use std::time::Duration;

use futures::future::BoxFuture;
use serde_json::Value;
use shakedown_core::Capability;

use crate::error::Result;
use crate::site::Site;

/// What a real look at a component says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// As it should be.
    Converged,
    /// Something is missing or different; what.
    Wanting(String),
}

impl State {
    /// Converged where nothing was found.
    pub fn of(found: &[String]) -> Self {
        match found {
            [] => State::Converged,
            [one] => State::Wanting(one.clone()),
            [first, rest @ ..] => State::Wanting(format!("{first}, and {} more", rest.len())),
        }
    }
}

/// A component of the platform.
///
/// `install` may be repeated and may have been killed at any point before: it brings whatever it finds to what it
/// should be. `ready` waits, within its own budget.
pub trait Component: Send + Sync {
    /// Its name, unique.
    fn name(&self) -> &'static str;
    /// One sentence for people.
    fn what(&self) -> &'static str;
    /// Components that have to be there before.
    fn needs(&self) -> &'static [&'static str] {
        &[]
    }
    /// Components that go before it only because two cores are few.
    fn after(&self) -> &'static [&'static str] {
        &[]
    }
    /// Its version; of our own manifests that of this program.
    fn version(&self, _site: &Site) -> String {
        env!("CARGO_PKG_VERSION").to_owned()
    }
    /// What the cluster offers once it is there.
    fn gives(&self) -> &'static [Capability] {
        &[]
    }
    /// What its readiness is, in words.
    fn readiness(&self) -> &'static str;
    /// Looks at the cluster, changes nothing.
    ///
    /// # Errors
    /// It could not be looked at.
    fn state<'a>(&'a self, site: &'a Site) -> BoxFuture<'a, Result<State>>;
    /// Brings it to what it should be.
    ///
    /// # Errors
    /// What could not be done; it may be repeated.
    fn install<'a>(&'a self, site: &'a Site) -> BoxFuture<'a, Result<()>>;
    /// Waits for it.
    ///
    /// # Errors
    /// It did not come; the last thing seen.
    fn ready<'a>(&'a self, site: &'a Site) -> BoxFuture<'a, Result<()>>;
    /// Takes it away and waits until it is gone.
    ///
    /// # Errors
    /// What could not be done; it may be repeated.
    fn remove<'a>(&'a self, site: &'a Site) -> BoxFuture<'a, Result<()>>;
}

/// A component that is nothing but manifests: applied, watched until rolled out, compared field by field.
pub struct Manifests {
    /// See [`Component::name`].
    pub name: &'static str,
    /// See [`Component::what`].
    pub what: &'static str,
    /// See [`Component::needs`].
    pub needs: &'static [&'static str],
    /// See [`Component::after`].
    pub after: &'static [&'static str],
    /// See [`Component::gives`].
    pub gives: &'static [Capability],
    /// The image whose tag is its version.
    pub image: Option<&'static str>,
    /// Its objects.
    pub objects: fn(&Site) -> Result<Vec<Value>>,
    /// How long the roll-out may take.
    pub budget: Duration,
}

impl Component for Manifests {
    fn name(&self) -> &'static str {
        self.name
    }

    fn what(&self) -> &'static str {
        self.what
    }

    fn needs(&self) -> &'static [&'static str] {
        self.needs
    }

    fn after(&self) -> &'static [&'static str] {
        self.after
    }

    fn version(&self, site: &Site) -> String {
        let tag = self.image.and_then(|short| site.tools.tag(short));
        tag.unwrap_or_else(|| env!("CARGO_PKG_VERSION").to_owned())
    }

    fn gives(&self) -> &'static [Capability] {
        self.gives
    }

    fn readiness(&self) -> &'static str {
        if self.image.is_some() { "its workloads are rolled out" } else { "its objects are accepted" }
    }

    fn state<'a>(&'a self, site: &'a Site) -> BoxFuture<'a, Result<State>> {
        Box::pin(async move {
            let objects = (self.objects)(site)?;
            let mut found = site.applier.drift(&objects).await?;
            if found.is_empty() {
                found = not_rolled_out(site, &objects).await?;
            }
            Ok(State::of(&found))
        })
    }

    fn install<'a>(&'a self, site: &'a Site) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move { site.applier.apply(&(self.objects)(site)?).await })
    }

    fn ready<'a>(&'a self, site: &'a Site) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move { site.rolled_out(self.name, &(self.objects)(site)?, self.budget).await })
    }

    fn remove<'a>(&'a self, site: &'a Site) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move { site.applier.delete(&(self.objects)(site)?, self.budget).await })
    }
}

/// The workloads among the objects that are not rolled out, with what they lack.
///
/// # Errors
/// The API does not answer.
pub async fn not_rolled_out(site: &Site, objects: &[Value]) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for object in
        objects.iter().filter(|o| matches!(o["kind"].as_str(), Some("Deployment" | "StatefulSet" | "DaemonSet")))
    {
        let name = object["metadata"]["name"].as_str().unwrap_or_default();
        match site.applier.get_value(object).await? {
            None => found.push(format!("{name} is missing")),
            Some(live) => match crate::rollout::rollout(&live) {
                shakedown_core::Answer::Ready(()) => {}
                shakedown_core::Answer::NotYet(seen) | shakedown_core::Answer::Never(seen) => {
                    found.push(format!("{name}: {seen}"));
                }
            },
        }
    }
    Ok(found)
}
