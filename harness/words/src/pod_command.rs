//! A command inside a container of a Pod, through the API (`kubectl exec`), and the same on the network agent of every
//! node.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::future::join_all;
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::AttachParams;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use shakedown_core::{Observation, Resource, Touches};
use shakedown_engine::{Cx, ObserveError, Probe};
use thiserror::Error;
use tokio::io::AsyncReadExt;

use crate::node_command::Ran;
use crate::platform::Platform;

/// Namespace of the platform's own components.
pub const SYSTEM: &str = "kube-system";
/// Selects the network agents.
pub const AGENTS: &str = "k8s-app=cilium";
/// The agents' container.
const AGENT_CONTAINER: &str = "cilium-agent";
/// The agents' command line client.
const AGENT_CLIENT: &str = "cilium-dbg";

/// A command could not be run in a Pod.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("pod {namespace}/{pod}: {why}")]
pub struct PodError {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub pod: String,
    /// What failed.
    pub why: String,
}

/// Runs a command in a Pod's container and waits for its end.
///
/// # Errors
/// The API refuses, the connection breaks or the budget is used up. A non-zero exit is an answer, not an error.
pub async fn exec(
    platform: &Platform,
    namespace: &str,
    pod: &str,
    container: &str,
    argv: &[&str],
    budget: Duration,
) -> Result<Ran, PodError> {
    let fail = |why: String| PodError { namespace: namespace.to_owned(), pod: pod.to_owned(), why };
    let pods: Api<Pod> = Api::namespaced(platform.admin().clone(), namespace);
    let params = AttachParams::default().container(container).stdin(false).stdout(true).stderr(true);
    let run = async {
        let mut process = pods.exec(pod, argv.to_vec(), &params).await.map_err(|e| fail(e.to_string()))?;
        let status = process.take_status();
        let (out, err) = (process.stdout(), process.stderr());
        let (out, err) = futures::join!(drain(out), drain(err));
        let status = match status {
            Some(status) => status.await,
            None => None,
        };
        let code = match status {
            Some(status) if status.status.as_deref() == Some("Success") => 0,
            Some(status) => exit_code(&serde_json::to_value(&status).unwrap_or_default())
                .ok_or_else(|| fail(status.message.unwrap_or_default()))?,
            None => return Err(fail("the connection ended without an exit code".to_owned())),
        };
        Ok(Ran { code, stdout: out.map_err(&fail)?, stderr: err.map_err(&fail)? })
    };
    tokio::time::timeout(budget, run)
        .await
        .map_err(|_| fail(format!("`{}` did not end within {budget:?}", argv.join(" "))))?
}

async fn drain(stream: Option<impl tokio::io::AsyncRead + Unpin>) -> Result<String, String> {
    let mut bytes = vec![];
    if let Some(mut stream) = stream {
        stream.read_to_end(&mut bytes).await.map_err(|e| e.to_string())?;
    }
    Ok(String::from_utf8_lossy(&bytes).trim().to_owned())
}

/// The exit code in the status of a command that failed.
fn exit_code(status: &Value) -> Option<i32> {
    let causes = status["details"]["causes"].as_array()?;
    let cause = causes.iter().find(|cause| cause["reason"] == "ExitCode")?;
    cause["message"].as_str()?.parse().ok()
}

/// The network agents: node name to Pod name. Pods that are being deleted are left out.
///
/// # Errors
/// The API does not answer, or there is no agent at all.
pub async fn agents(platform: &Platform) -> Result<BTreeMap<String, String>, ObserveError> {
    let pods = platform.list("v1", "Pod", Some(SYSTEM), Some(AGENTS)).await.map_err(ObserveError::no_ground)?;
    let living = pods.iter().filter(|pod| pod["metadata"]["deletionTimestamp"].is_null());
    let found: BTreeMap<String, String> = living
        .filter_map(|pod| Some((pod["spec"]["nodeName"].as_str()?, pod["metadata"]["name"].as_str()?)))
        .map(|(node, name)| (node.to_owned(), name.to_owned()))
        .collect();
    if found.is_empty() { Err(ObserveError::no_ground("there is no pod of the network agent")) } else { Ok(found) }
}

/// Runs `cilium-dbg` with these arguments in the agent of every node, at the same time.
///
/// # Errors
/// There is no agent, or one of them cannot be reached.
pub async fn ask_agents(
    platform: &Platform,
    args: &[&str],
    budget: Duration,
) -> Result<BTreeMap<String, Ran>, ObserveError> {
    let agents = agents(platform).await?;
    let argv: Vec<&str> = std::iter::once(AGENT_CLIENT).chain(args.iter().copied()).collect();
    let runs = agents.values().map(|pod| exec(platform, SYSTEM, pod, AGENT_CONTAINER, &argv, budget));
    let runs = join_all(runs).await;
    agents.into_keys().zip(runs).map(|(node, ran)| Ok((node, ran.map_err(ObserveError::no_ground)?))).collect()
}

/// Runs `cilium-dbg` on every node and understands its JSON.
///
/// # Errors
/// As [`ask_agents`]; and an agent's answer is no JSON.
pub async fn ask_agents_json(
    platform: &Platform,
    args: &[&str],
    budget: Duration,
) -> Result<BTreeMap<String, Value>, ObserveError> {
    let mut args = args.to_vec();
    args.extend(["-o", "json"]);
    let answers = ask_agents(platform, &args, budget).await?;
    let understand = |(node, ran): (String, Ran)| {
        let value = serde_json::from_str(&ran.stdout)
            .map_err(|e| ObserveError::no_ground(format!("agent of {node}: {}: {e}", ran.brief())))?;
        Ok((node, value))
    };
    answers.into_iter().map(understand).collect()
}

/// What the agent of each node says to one command.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentsSaid {
    /// As one would type it in the agent's container.
    pub command: String,
    /// Nodes of the cluster, with or without an agent.
    pub cluster: Vec<String>,
    /// Node to answer.
    pub nodes: BTreeMap<String, Ran>,
}

impl Observation for AgentsSaid {
    const SCHEMA: &'static str = "agent-command/1";
}

/// Runs a command of the agent's client in every agent.
pub struct OnAgents(Vec<&'static str>);

/// Runs `cilium-dbg` with these arguments in every node's agent.
pub fn cilium_dbg(args: impl IntoIterator<Item = &'static str>) -> OnAgents {
    OnAgents(args.into_iter().collect())
}

impl Probe<Platform> for OnAgents {
    type Seen = AgentsSaid;

    fn touches(&self) -> Touches {
        Touches::nothing().reads(Resource::Component("cilium".into()))
    }

    async fn observe(&self, platform: &Platform, cx: &Cx) -> Result<AgentsSaid, ObserveError> {
        let nodes = ask_agents(platform, &self.0, cx.budget).await?;
        let list = platform.list("v1", "Node", None, None).await.map_err(ObserveError::no_ground)?;
        let cluster = list.iter().filter_map(|node| node["metadata"]["name"].as_str().map(str::to_owned)).collect();
        Ok(AgentsSaid { command: format!("{AGENT_CLIENT} {}", self.0.join(" ")), cluster, nodes })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn an_exit_code_is_found_in_the_status() {
        let failed = json!({"status": "Failure", "details": {"causes": [{"reason": "ExitCode", "message": "3"}]}});
        assert_eq!(exit_code(&failed), Some(3));
        assert_eq!(exit_code(&json!({"status": "Failure", "message": "container not found"})), None);
    }
}
