//! The echo workload: a state that several checks share. One server on every node behind a NodePort Service, and a
//! neighbour that shares its node with one of them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;
use shakedown_core::{Answer, Resource, Touches, UndoStep};
use shakedown_engine::check::AnyFixture;
use shakedown_engine::{Fixture, ObserveError, PlantError, fixture};

use crate::node_command::Ran;
use crate::objects::ObjectRef;
use crate::platform::Platform;
use crate::pod_command::exec;

/// Namespace of everything here.
pub const NAMESPACE: &str = "shakedown-echo";
/// The Service and the DaemonSet.
pub const NAME: &str = "echo";
/// Port of the servers for HTTP.
pub const HTTP: u16 = 8080;
/// Port of the servers for lines over TCP.
pub const LINES: u16 = 9090;
/// The label that makes a Pod a backend of the Service.
pub const SERVES: &str = "serve";

const MANIFEST: &str = include_str!("../../../fixtures/manifests/echo.yaml");
/// How long the workload may take to be ready.
const READY: Duration = Duration::from_secs(90);

struct Echo;

/// The echo workload, shared by name.
pub fn echo() -> Arc<dyn AnyFixture<Platform>> {
    fixture(Echo)
}

fn objects() -> Result<Vec<Value>, PlantError> {
    serde_yaml_ng::Deserializer::from_str(MANIFEST)
        .map(|part| Value::deserialize(part).map_err(|e| PlantError::new(format!("echo.yaml: {e}"))))
        .collect()
}

impl Fixture<Platform> for Echo {
    fn name(&self) -> &'static str {
        "echo"
    }

    fn touches(&self) -> Touches {
        Touches::nothing().reads(Resource::Namespace(NAMESPACE.into()))
    }

    async fn undo_plan(&self, _platform: &Platform) -> Result<Vec<UndoStep>, PlantError> {
        Ok(vec![ObjectRef::cluster("v1", "Namespace", NAMESPACE).deletion()])
    }

    async fn set_up(&self, platform: &Platform) -> Result<(), PlantError> {
        for object in objects()? {
            let answer = platform.create(&object).await.map_err(PlantError::new)?;
            // Left over from a run that was killed between its setting up and its undo: the same object.
            if !answer.is_ok() && answer.reason() != "AlreadyExists" {
                return Err(PlantError::new(format!("{}: {}", object["kind"], answer.message())));
            }
        }
        let daemons = ObjectRef::namespaced("apps/v1", "DaemonSet", NAMESPACE, NAME);
        let neighbour = ObjectRef::namespaced("apps/v1", "Deployment", NAMESPACE, "neighbour");
        let number = |object: &Value, field: &str| object["status"][field].as_u64().unwrap_or_default();
        platform
            .until(&daemons, "echo server on every node", READY, |object| match object {
                Some(o)
                    if number(o, "numberReady") > 0
                        && number(o, "numberReady") == number(o, "desiredNumberScheduled") =>
                {
                    Answer::Ready(())
                }
                Some(o) => Answer::NotYet(format!(
                    "{} of {} ready",
                    o["status"]["numberReady"], o["status"]["desiredNumberScheduled"]
                )),
                None => Answer::NotYet("not there".into()),
            })
            .await
            .map_err(PlantError::new)?;
        platform
            .until(&neighbour, "the neighbour", READY, |object| match object {
                Some(o) if number(o, "readyReplicas") == 1 => Answer::Ready(()),
                _ => Answer::NotYet("not ready".into()),
            })
            .await
            .map_err(PlantError::new)
    }
}

/// One Pod of the workload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EchoPod {
    /// Name.
    pub name: String,
    /// Its node.
    pub node: String,
    /// Its address.
    pub ip: String,
}

/// The workload as it runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Running {
    /// The server of each node.
    pub servers: BTreeMap<String, EchoPod>,
    /// The Pod that shares its node with a server.
    pub neighbour: EchoPod,
}

/// Looks at the workload.
///
/// # Errors
/// It is not there, or not where it should be.
pub async fn running(platform: &Platform) -> Result<Running, ObserveError> {
    let pods = platform.list("v1", "Pod", Some(NAMESPACE), None).await.map_err(ObserveError::no_ground)?;
    let living = || pods.iter().filter(|pod| pod["metadata"]["deletionTimestamp"].is_null());
    let of = |app: &str| {
        living()
            .filter(|pod| pod["metadata"]["labels"]["app"] == app)
            .filter_map(|pod| {
                Some(EchoPod {
                    name: pod["metadata"]["name"].as_str()?.to_owned(),
                    node: pod["spec"]["nodeName"].as_str()?.to_owned(),
                    ip: pod["status"]["podIP"].as_str()?.to_owned(),
                })
            })
            .collect::<Vec<_>>()
    };
    let servers: BTreeMap<_, _> = of(NAME).into_iter().map(|pod| (pod.node.clone(), pod)).collect();
    let neighbour = of("neighbour").pop();
    match neighbour {
        Some(neighbour) if servers.contains_key(&neighbour.node) => Ok(Running { servers, neighbour }),
        _ => Err(ObserveError::no_ground("the echo workload is not complete")),
    }
}

/// The Service: its ClusterIP and its node port.
///
/// # Errors
/// It is not there.
pub async fn service(platform: &Platform) -> Result<(String, u16), ObserveError> {
    let object = ObjectRef::namespaced("v1", "Service", NAMESPACE, NAME);
    let service = platform.get(&object).await.map_err(ObserveError::no_ground)?;
    let service = service.ok_or_else(|| ObserveError::no_ground("the echo Service is not there"))?;
    let port = service["spec"]["ports"][0]["nodePort"].as_u64().and_then(|port| u16::try_from(port).ok());
    match (service["spec"]["clusterIP"].as_str(), port) {
        (Some(ip), Some(port)) => Ok((ip.to_owned(), port)),
        _ => Err(ObserveError::no_ground("the echo Service has no node port")),
    }
}

/// Runs the workload's own client in one of its Pods: its image holds nothing else.
///
/// # Errors
/// The Pod cannot be reached. A request that failed is an exit code.
pub async fn client(platform: &Platform, pod: &EchoPod, args: &[&str]) -> Result<Ran, ObserveError> {
    let argv: Vec<&str> = std::iter::once("/echo").chain(args.iter().copied()).collect();
    exec(platform, NAMESPACE, &pod.name, "echo", &argv, Duration::from_secs(20)).await.map_err(ObserveError::no_ground)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_manifest_is_whole() {
        let kinds: Vec<String> = objects().unwrap().iter().map(|o| o["kind"].as_str().unwrap().to_owned()).collect();
        assert_eq!(kinds, ["Namespace", "Service", "DaemonSet", "Deployment"]);
        let own = objects().unwrap().into_iter().skip(1);
        assert!(own.into_iter().all(|o| o["metadata"]["namespace"] == NAMESPACE));
    }
}
