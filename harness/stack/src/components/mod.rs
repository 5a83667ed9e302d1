//! The platform's components, a file each where one is more than manifests.

mod argocd;
mod backup;
mod cilium;
mod control_plane;
mod coredns;
mod demo_image;
mod git_content;
mod hosts;
mod kyverno;
mod kyverno_manifest;
mod marker;
mod schedulable;

use std::time::Duration;

use shakedown_core::Capability;

use crate::component::{Component, Manifests};
use crate::render::{Vars, filled, objects};

pub use control_plane::plain_secrets;
pub use marker::is_ours;

/// Objects that no Pod belongs to are there once they are accepted.
const ACCEPTED: Duration = Duration::from_secs(30);
/// A small image that lies on the node already.
const SMALL: Duration = Duration::from_secs(180);

/// All of them, in the order in which they are named to people.
pub fn all() -> Vec<Box<dyn Component>> {
    vec![
        Box::new(marker::Marker),
        Box::new(schedulable::Schedulable),
        Box::new(cilium::Cilium),
        Box::new(coredns::CoreDns),
        Box::new(Manifests {
            name: "namespaces",
            what: "the documented namespaces: psa-test (restricted), psa-privileged, storage-demo, cilium-demo",
            needs: &["marker"],
            after: &[],
            gives: &[],
            image: None,
            objects: |_| objects("namespaces", include_str!("../manifests/namespaces.yaml")),
            budget: ACCEPTED,
        }),
        Box::new(Manifests {
            name: "secret",
            what: "the documented Secret super-password in storage-demo, written before encryption is on",
            needs: &["namespaces"],
            after: &[],
            gives: &[],
            image: None,
            objects: |_| objects("secret", include_str!("../manifests/secret.yaml")),
            budget: ACCEPTED,
        }),
        Box::new(control_plane::ControlPlane),
        Box::new(backup::Backup),
        Box::new(Manifests {
            name: "viewer",
            what: "the viewer: ServiceAccount, token, Role and RoleBinding in storage-demo",
            needs: &["namespaces"],
            after: &["apiservers"],
            gives: &[],
            image: None,
            objects: |_| objects("viewer", include_str!("../manifests/viewer.yaml")),
            budget: ACCEPTED,
        }),
        Box::new(hosts::Hosts),
        Box::new(Manifests {
            name: "registry",
            what: "CNCF Distribution over plain HTTP on NodePort 30002, as Service harbor in namespace harbor",
            needs: &["cilium", "schedulable"],
            after: &["coredns"],
            gives: &[Capability::RegistryHttp],
            image: Some("registry"),
            objects: |site| {
                let vars =
                    Vars::from([("IMAGE", site.tools.image("registry")?), ("DATA_NODE", site.facts.data_node.clone())]);
                filled("registry", include_str!("../manifests/registry.yaml"), &vars)
            },
            budget: SMALL,
        }),
        Box::new(demo_image::DemoImage),
        Box::new(Manifests {
            name: "git-server",
            what: "git over HTTP in namespace git, on NodePort 30022 too",
            needs: &["cilium", "schedulable"],
            after: &["coredns"],
            gives: &[Capability::GitHttp],
            image: Some("git-server"),
            objects: |site| {
                let vars = Vars::from([
                    ("IMAGE", site.tools.image("git-server")?),
                    ("DATA_NODE", site.facts.data_node.clone()),
                ]);
                filled("git-server", include_str!("../manifests/git-server.yaml"), &vars)
            },
            budget: SMALL,
        }),
        Box::new(git_content::GitContent),
        Box::new(argocd::ArgoCd),
        Box::new(argocd::Application),
        Box::new(kyverno::Kyverno),
        Box::new(kyverno::Policies),
    ]
}
