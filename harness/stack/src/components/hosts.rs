//! containerd's `hosts.toml` for the registry, on every node: any of them may be given a Pod that pulls (REG-039).

use futures::future::BoxFuture;
use shakedown_core::Capability;
use shakedown_node::NodeError;

use crate::component::{Component, State};
use crate::error::{Result, StackError};
use crate::files;
use crate::names;
use crate::site::Site;

/// containerd's own configuration, which has to name the directory.
const CONTAINERD_CONFIG: &str = "/etc/containerd/config.toml";

/// The component.
pub struct Hosts;

impl Component for Hosts {
    fn name(&self) -> &'static str {
        "hosts-toml"
    }

    fn what(&self) -> &'static str {
        "containerd's hosts.toml for the HTTP registry, on every node"
    }

    fn needs(&self) -> &'static [&'static str] {
        &["marker"]
    }

    fn gives(&self) -> &'static [Capability] {
        &[Capability::Containerd]
    }

    fn readiness(&self) -> &'static str {
        "the file is on every node, and containerd's config_path names its directory"
    }

    fn state<'a>(&'a self, site: &'a Site) -> BoxFuture<'a, Result<State>> {
        Box::pin(async move {
            let registry = site.facts.registry();
            let (path, text) = (files::hosts_toml_path(&registry), files::hosts_toml(&registry));
            let mut found = Vec::new();
            for node in &site.nodes {
                match node.read_text(&path).await {
                    Ok(there) if there == text => {}
                    Ok(_) => found.push(format!("{path} on {} is another one", node.name())),
                    Err(NodeError::File { .. }) => found.push(format!("{path} is missing on {}", node.name())),
                    Err(error) => return Err(error.into()),
                }
            }
            Ok(State::of(&found))
        })
    }

    fn install<'a>(&'a self, site: &'a Site) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            let registry = site.facts.registry();
            let (path, text) = (files::hosts_toml_path(&registry), files::hosts_toml(&registry));
            for node in &site.nodes {
                node.write_file(&path, text.as_bytes(), 0o644).await?;
            }
            Ok(())
        })
    }

    fn ready<'a>(&'a self, site: &'a Site) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            for node in &site.nodes {
                let config = node.read_text(CONTAINERD_CONFIG).await?;
                if !names_directory(&config) {
                    return Err(StackError::Unfit(format!(
                        "containerd on {} does not read {dir}\nhint: set config_path = \"{dir}\" for its CRI registry in \
                         {CONTAINERD_CONFIG} and restart it once",
                        node.name(),
                        dir = names::CERTS_D,
                    )));
                }
            }
            Ok(())
        })
    }

    fn remove<'a>(&'a self, site: &'a Site) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            let path = files::hosts_toml_path(&site.facts.registry());
            let directory = path.trim_end_matches("/hosts.toml");
            for node in &site.nodes {
                node.remove_file(directory).await?;
            }
            Ok(())
        })
    }
}

/// Whether a line of the configuration sets `config_path` to the directory.
fn names_directory(config: &str) -> bool {
    config.lines().filter_map(|line| line.trim().split_once('=')).any(|(key, value)| {
        key.trim() == "config_path" && value.trim().trim_matches('"').split(':').any(|d| d == names::CERTS_D)
    })
}

#[cfg(test)]
mod tests {
    use super::names_directory;

    #[test]
    fn only_a_set_path_counts() {
        assert!(names_directory("[x]\n  config_path = \"/etc/containerd/certs.d\"\n"));
        assert!(names_directory("config_path = \"/etc/containerd/certs.d:/etc/docker/certs.d\""));
        assert!(!names_directory("# config_path = \"/etc/containerd/certs.d\""));
        assert!(!names_directory("config_path = \"\""));
        assert!(!names_directory(""));
    }
}
