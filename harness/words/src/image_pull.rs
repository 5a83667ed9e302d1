//! The demo image pulled through the runtime of every node, as the kubelet asks for it.

use std::collections::{BTreeMap, BTreeSet};

use futures::future::join_all;
use serde::{Deserialize, Serialize};
use shakedown_core::{Finding, Judgement, Observation, Resource, Touches, UndoStep};
use shakedown_engine::{Cx, Expect, ObserveError, PlantError, Prepared, Probe, Sabotage, expect_fn};

use crate::node_command::Which;
use crate::platform::Platform;
use crate::registry::{self, Pull, REPOSITORY, TAG, hosts_file};
use crate::undo::file_as_found;

/// One node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PullOnNode {
    /// Its `hosts.toml`, where there is one.
    pub hosts: Option<String>,
    /// How the pull ended.
    pub pull: Pull,
    /// containerd's process before and after.
    pub containerd: (String, String),
}

/// All nodes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pulls {
    /// `ADDRESS:PORT`.
    pub registry: String,
    /// The digest that the registry reports for the tag.
    pub digest: String,
    /// Node to outcome.
    pub nodes: BTreeMap<String, PullOnNode>,
}

impl Observation for Pulls {
    const SCHEMA: &'static str = "image-pulls/1";
}

/// Pulls on every node.
pub struct PullEverywhere;

/// A Pod on every node pulls the demo image from the registry.
pub fn on_every_node() -> PullEverywhere {
    PullEverywhere
}

impl Probe<Platform> for PullEverywhere {
    type Seen = Pulls;

    fn touches(&self) -> Touches {
        Touches::nothing().reads(Resource::Nodes).reads(Resource::Component("registry".into()))
    }

    async fn observe(&self, platform: &Platform, cx: &Cx) -> Result<Pulls, ObserveError> {
        let registry = registry::address(platform).await?;
        let digest = registry::digest(&registry, REPOSITORY, TAG).await?;
        let names = Which::All.on(platform);
        let looks = join_all(names.iter().map(|node| on_node(platform, cx, node, &registry))).await;
        let nodes = names.into_iter().zip(looks).map(|(node, look)| Ok((node, look?)));
        Ok(Pulls { nodes: nodes.collect::<Result<_, ObserveError>>()?, registry, digest })
    }
}

async fn on_node(platform: &Platform, cx: &Cx, node: &str, registry: &str) -> Result<PullOnNode, ObserveError> {
    let machine = platform.machine(node).map_err(ObserveError::no_ground)?;
    let hosts = machine.read(&hosts_file(registry)).await.map_err(ObserveError::no_ground)?;
    registry::reached_from(platform, node, registry).await?;
    let before = registry::containerd(platform, node).await?;
    let pull = registry::pull(platform, cx, node, "demo", &format!("{registry}/{REPOSITORY}:{TAG}")).await?;
    let after = registry::containerd(platform, node).await?;
    let hosts = hosts.map(|file| String::from_utf8_lossy(&file.content).into_owned());
    Ok(PullOnNode { hosts, pull, containerd: (before, after) })
}

/// On at least `count` nodes the pull succeeds, the running image is the one that the registry reports for the tag, the
/// event says so, `hosts.toml` is the documented one and the same everywhere, and containerd was not restarted.
pub fn pulled_over_http(count: usize) -> impl Expect<Pulls> {
    expect_fn(move |seen: &Pulls| {
        if seen.nodes.len() < count {
            return Judgement::Inconclusive(format!("{} nodes, {count} expected", seen.nodes.len()));
        }
        let mut found: Vec<Finding> = seen.nodes.iter().flat_map(|(name, node)| of_node(seen, name, node)).collect();
        let texts: BTreeSet<&Option<String>> = seen.nodes.values().map(|node| &node.hosts).collect();
        if texts.len() > 1 {
            found.push(Finding::new("hosts-differ", "nodes", "hosts.toml is not the same on all nodes"));
        }
        Judgement::from_findings(found)
    })
}

fn of_node(seen: &Pulls, name: &str, node: &PullOnNode) -> Vec<Finding> {
    let mut found = vec![];
    let mut fault = |bad: bool, code: &str, message: String| {
        if bad {
            found.push(Finding::new(code, name, message));
        }
    };
    match &node.hosts {
        None => fault(true, "hosts-missing", format!("no {}", hosts_file(&seen.registry))),
        Some(text) => {
            let missing = undocumented(text, &seen.registry);
            fault(!missing.is_empty(), "hosts-settings", format!("without {}", missing.join(", ")));
        }
    }
    let pull = &node.pull;
    let said = pull.events.get("Failed").cloned().unwrap_or_default();
    fault(pull.state != "Running", "pull-refused", format!("{}: {said}", pull.state));
    if pull.state == "Running" {
        let wanted = format!("{}/{REPOSITORY}@{}", seen.registry, seen.digest);
        fault(pull.image_id != wanted, "image-id", format!("imageID {}, {wanted} expected", pull.image_id));
        let event = pull.events.get("Pulled").cloned().unwrap_or_default();
        let told = event.contains("Successfully pulled image") && event.contains(&seen.registry);
        fault(!told, "pulled-event", format!("event: {event}"));
    }
    let (before, after) = &node.containerd;
    fault(before != after || before.is_empty(), "containerd-restarted", format!("process {before}, then {after}"));
    found
}

/// The documented settings that a `hosts.toml` lacks; white space does not count.
fn undocumented(text: &str, registry: &str) -> Vec<String> {
    let squeeze = |line: &str| line.chars().filter(|c| !c.is_whitespace()).collect::<String>();
    let have: Vec<String> = text.lines().map(squeeze).collect();
    let wanted = registry::documented_hosts(registry);
    let wanted = wanted.lines().map(squeeze).filter(|line| !line.is_empty());
    wanted.filter(|line| !have.contains(line)).collect()
}

/// One node without the file.
pub struct HostsMissing;

/// The last node has lost its `hosts.toml`.
pub fn hosts_toml_missing() -> HostsMissing {
    HostsMissing
}

impl HostsMissing {
    async fn place(&self, platform: &Platform) -> Result<(String, String), PlantError> {
        let node = Which::All.on(platform).pop().ok_or_else(|| PlantError::new("there is no node"))?;
        let registry = registry::address(platform).await.map_err(PlantError::new)?;
        Ok((node, hosts_file(&registry)))
    }
}

impl Sabotage<Platform> for HostsMissing {
    type Choice = (String, String);

    fn describe(&self) -> String {
        "one node has no hosts.toml for the registry".into()
    }

    fn touches(&self) -> Touches {
        Touches::nothing().writes(Resource::Nodes)
    }

    async fn prepare(&self, platform: &Platform) -> Result<Prepared<Self::Choice>, PlantError> {
        let (node, path) = self.place(platform).await?;
        let step = file_as_found(platform, &node, &path).await.map_err(PlantError::new)?;
        if matches!(step, UndoStep::RemoveFile { .. }) {
            return Err(PlantError::new(format!("{node} has no {path} that could be taken away")));
        }
        Ok(Prepared::new((node, path), vec![step]))
    }

    async fn plant(&self, platform: &Platform, (node, path): &Self::Choice) -> Result<(), PlantError> {
        let machine = platform.machine(node).map_err(PlantError::new)?;
        machine.remove(path).await.map_err(PlantError::new)?;
        match machine.read(path).await.map_err(PlantError::new)? {
            None => Ok(()),
            Some(_) => Err(PlantError::new(format!("{path} is still there"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REGISTRY: &str = "10.0.0.1:30002";

    fn good() -> Pulls {
        let pull = Pull {
            state: "Running".into(),
            image_id: format!("{REGISTRY}/bootcamp/nginx@sha256:aa"),
            events: [(
                "Pulled".to_owned(),
                format!("Successfully pulled image \"{REGISTRY}/bootcamp/nginx:1.27-alpine\" in 30ms"),
            )]
            .into(),
            ..Pull::default()
        };
        let hosts = Some(registry::documented_hosts(REGISTRY));
        let node = PullOnNode { hosts, pull, containerd: ("7 100".into(), "7 100".into()) };
        Pulls {
            registry: REGISTRY.into(),
            digest: "sha256:aa".into(),
            nodes: ["a", "b"].map(|name| (name.to_owned(), node.clone())).into(),
        }
    }

    #[test]
    fn each_defect_has_its_code() {
        assert_eq!(pulled_over_http(2).judge(&good()), Judgement::Pass);
        type Break = fn(&mut PullOnNode);
        let cases: &[(&str, Break)] = &[
            ("pull-refused", |n| n.pull.state = "ErrImagePull".into()),
            ("image-id", |n| n.pull.image_id = "x@sha256:bb".into()),
            ("hosts-missing", |n| n.hosts = None),
            ("hosts-settings", |n| n.hosts = Some("server = \"https://10.0.0.1:30002\"".into())),
            ("containerd-restarted", |n| n.containerd.1 = "8 900".into()),
            ("pulled-event", |n| {
                n.pull.events.insert("Pulled".into(), "Container image already present on machine".into());
            }),
        ];
        for (code, breaks) in cases {
            let mut seen = good();
            breaks(seen.nodes.get_mut("b").unwrap());
            let Judgement::Fail(found) = pulled_over_http(2).judge(&seen) else { panic!("{code}") };
            assert!(found.iter().all(|f| f.subject == "b" || f.code == "hosts-differ"), "{found:?}");
            assert!(found.iter().any(|f| f.code == *code), "{found:?}");
        }
        assert!(matches!(pulled_over_http(5).judge(&good()), Judgement::Inconclusive(_)));
    }

    #[test]
    fn white_space_does_not_count() {
        let text = registry::documented_hosts(REGISTRY).replace("  ", "\t");
        assert!(undocumented(&text, REGISTRY).is_empty());
    }
}
