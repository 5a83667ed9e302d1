//! The platform under test: its API through the documented endpoint and through each apiserver for itself, and its
//! machines. This is the world that the engine runs checks in.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use kube::client::Client;
use kube::config::{AuthInfo, Config, KubeConfigOptions, Kubeconfig};
use shakedown_cluster::Cluster;
use shakedown_core::{Availability, Capability, UndoStep};
use shakedown_engine::{Fingerprint, World, WorldError};
use thiserror::Error;

use crate::api::Ask;
use crate::helm::Helm;
use crate::machine::{Machine, MachineError, OfCluster, Output};
use crate::objects::Served;

/// The budget of a node command that names none.
const COMMAND_BUDGET: Duration = Duration::from_secs(30);
/// Where kubeadm lets every apiserver listen.
const APISERVER_PORT: u16 = 6443;
/// How long an apiserver may take to say that it lives.
const ALIVE_BUDGET: Duration = Duration::from_secs(10);

/// The platform cannot be reached.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("cannot reach the cluster: {why}\nhint: {hint}")]
pub struct ConnectError {
    /// What failed.
    pub why: String,
    /// What to do.
    pub hint: String,
}

/// The platform under test.
pub struct Platform {
    name: String,
    config: Config,
    admin: Client,
    anonymous: Client,
    apiservers: BTreeMap<String, Client>,
    machines: BTreeMap<String, Arc<dyn Machine>>,
    kinds: Mutex<BTreeMap<(String, String), Served>>,
    helm: Option<Helm>,
    /// When it was last waited in vain for Kyverno to come to rest.
    pub(crate) kyverno_restless: Mutex<Option<Instant>>,
}

impl Platform {
    /// Connects to a cluster that the harness provisioned.
    ///
    /// # Errors
    /// Its kubeconfig is missing or is not one.
    pub async fn of_cluster(cluster: &Cluster) -> Result<Self, ConnectError> {
        let kubeconfig = cluster.kubeconfig().map_err(|e| ConnectError {
            why: e.to_string(),
            hint: "`shakedown up` makes the cluster and its kubeconfig".to_owned(),
        })?;
        let apiservers = cluster
            .control_planes()
            .iter()
            .map(|node| (node.name().to_owned(), format!("https://{}:{APISERVER_PORT}", node.address())))
            .collect();
        let machines = cluster.control_planes().into_iter().chain(cluster.workers());
        let machines = machines.map(|node| Arc::new(OfCluster(node)) as Arc<dyn Machine>).collect();
        Self::connect(cluster.name(), &kubeconfig, &apiservers, machines).await
    }

    /// Connects with an administrator's kubeconfig.
    ///
    /// `apiservers` maps the name of each control plane to its own URL, such as `https://10.8.0.11:6443`; `machines` may
    /// be empty where nodes cannot be reached. Nothing is sent yet.
    ///
    /// # Errors
    /// The kubeconfig is not one.
    pub async fn connect(
        name: &str,
        kubeconfig: &str,
        apiservers: &BTreeMap<String, String>,
        machines: Vec<Arc<dyn Machine>>,
    ) -> Result<Self, ConnectError> {
        let fail = |why: String| ConnectError { why, hint: "`shakedown kubeconfig` prints the one in use".to_owned() };
        let file = Kubeconfig::from_yaml(kubeconfig).map_err(|e| fail(e.to_string()))?;
        let mut config = Config::from_custom_kubeconfig(file, &KubeConfigOptions::default())
            .await
            .map_err(|e| fail(e.to_string()))?;
        // A refusal, also one for lack of capacity, is an observation and must not be tried again in silence.
        config.default_retry = false;
        let client = |config: Config| Client::try_from(config).map_err(|e| fail(e.to_string()));
        let mut own = BTreeMap::new();
        for (node, url) in apiservers {
            let mut config = config.clone();
            config.cluster_url =
                url.parse().map_err(|e| fail(format!("address of {node}'s apiserver `{url}`: {e}")))?;
            own.insert(node.clone(), client(config)?);
        }
        let mut nobody = config.clone();
        nobody.auth_info = AuthInfo::default();
        Ok(Self {
            admin: client(config.clone())?,
            anonymous: client(nobody)?,
            name: name.to_owned(),
            config,
            apiservers: own,
            machines: machines.into_iter().map(|machine| (machine.name().to_owned(), machine)).collect(),
            kinds: Mutex::default(),
            helm: None,
            kyverno_restless: Mutex::default(),
        })
    }

    /// With helm and the Cilium chart at hand.
    #[must_use]
    pub fn with_helm(mut self, helm: Helm) -> Self {
        self.helm = Some(helm);
        self
    }

    /// Helm and the Cilium chart, where they are at hand.
    pub fn helm(&self) -> Option<&Helm> {
        self.helm.as_ref()
    }

    /// The cluster's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The administrator's client, through the documented endpoint (HAProxy where there is one).
    pub fn admin(&self) -> &Client {
        &self.admin
    }

    /// A client that presents nothing: requests carry their own credentials, or none.
    pub fn anonymous(&self) -> &Client {
        &self.anonymous
    }

    /// The administrator's client to each apiserver for itself, by control plane.
    pub fn apiservers(&self) -> &BTreeMap<String, Client> {
        &self.apiservers
    }

    /// URL, CA and credentials of the administrator's client.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The machines that can be reached, by node name.
    pub fn machines(&self) -> &BTreeMap<String, Arc<dyn Machine>> {
        &self.machines
    }

    /// One machine.
    ///
    /// # Errors
    /// No machine has this name; the names that there are.
    pub fn machine(&self, node: &str) -> Result<&Arc<dyn Machine>, MachineError> {
        self.machines.get(node).ok_or_else(|| {
            let known: Vec<_> = self.machines.keys().map(String::as_str).collect();
            MachineError::new(node, format!("no such machine; there are: {}", known.join(", ")))
        })
    }

    /// The machines that run an apiserver.
    pub fn control_planes(&self) -> Vec<&Arc<dyn Machine>> {
        self.apiservers.keys().filter_map(|node| self.machines.get(node)).collect()
    }

    /// Runs a command on a node; its output, whatever the exit code is.
    ///
    /// # Errors
    /// The node cannot be reached or the command cannot be started.
    pub async fn exec(&self, node: &str, argv: &[&str]) -> Result<Output, MachineError> {
        let argv: Vec<String> = argv.iter().map(|&part| part.to_owned()).collect();
        self.machine(node)?.exec(&argv, &[], COMMAND_BUDGET).await
    }

    /// Runs a command on a node, which must end with 0; its standard output.
    ///
    /// # Errors
    /// It could not be run, or it failed: exit code and error output.
    pub async fn exec_ok(&self, node: &str, argv: &[&str]) -> Result<String, MachineError> {
        let output = self.exec(node, argv).await?;
        if output.code == 0 {
            return Ok(output.text());
        }
        Err(MachineError::new(node, format!("`{}` ended with {}: {}", argv.join(" "), output.code, output.complaint())))
    }

    pub(crate) fn known_kind(&self, api_version: &str, kind: &str) -> Option<Served> {
        self.kinds.lock().ok()?.get(&(api_version.to_owned(), kind.to_owned())).cloned()
    }

    pub(crate) fn remember_kind(&self, api_version: &str, kind: &str, served: Served) {
        if let Ok(mut kinds) = self.kinds.lock() {
            kinds.insert((api_version.to_owned(), kind.to_owned()), served);
        }
    }

    /// A platform whose API is a service of the test's own.
    #[cfg(test)]
    pub(crate) fn for_test(client: Client, machines: Vec<Arc<dyn Machine>>) -> Self {
        Self {
            name: "test".to_owned(),
            config: Config::new(http::Uri::from_static("https://test.invalid")),
            admin: client.clone(),
            anonymous: client,
            apiservers: BTreeMap::new(),
            machines: machines.into_iter().map(|machine| (machine.name().to_owned(), machine)).collect(),
            kinds: Mutex::default(),
            helm: None,
            kyverno_restless: Mutex::default(),
        }
    }
}

impl World for Platform {
    async fn capabilities(&self) -> BTreeMap<Capability, Availability> {
        crate::capabilities::probe(self).await
    }

    async fn versions(&self) -> BTreeMap<String, String> {
        crate::capabilities::versions(self).await
    }

    async fn alive(&self) -> Result<(), WorldError> {
        let dead = |why: String| WorldError(format!("the API does not answer: {why}"));
        let answer = tokio::time::timeout(ALIVE_BUDGET, Ask::get("/readyz").send(&self.admin))
            .await
            .map_err(|_| dead(format!("nothing came within {ALIVE_BUDGET:?}")))?
            .map_err(|e| dead(e.to_string()))?;
        if answer.is_ok() { Ok(()) } else { Err(dead(format!("/readyz answered {}", answer.code))) }
    }

    async fn undo(&self, step: &UndoStep) -> Result<(), WorldError> {
        crate::undo::undo(self, step).await
    }

    async fn fingerprint(&self) -> Result<Fingerprint, WorldError> {
        crate::fingerprint::take(self).await
    }
}
