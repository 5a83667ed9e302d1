//! A cluster that is there: its nodes, its API, its etcd members. Found by name, whoever made it.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use kube::Client;
use kube::config::{KubeConfigOptions, Kubeconfig};
use shakedown_node::cgroup::{Group, Layout};
use shakedown_node::{Exec, NamespaceNode, Node, Role};

use crate::config;
use crate::error::{ClusterError, Result};
use crate::nodes;
use crate::state::{ClusterState, Lock, Member, Store};

/// How long a connection to an apiserver may take to be made.
const CONNECT: Duration = Duration::from_secs(5);
/// Where the harness keeps the administrator's access, in the cluster's directory.
pub const ADMIN: &str = "admin.conf";
/// Port of every apiserver and of the load balancer.
pub const API_PORT: u16 = 6443;

/// A cluster on this host. Cheap to clone; holds no connection and no lock.
#[derive(Debug, Clone)]
pub struct Cluster {
    store: Store,
    state: ClusterState,
    nodes: Vec<Arc<NamespaceNode>>,
    layout: Layout,
}

impl Cluster {
    /// Finds a cluster by its name.
    ///
    /// # Errors
    /// [`ClusterError::Unknown`] names those that there are.
    pub fn find(name: &str) -> Result<Self> {
        Self::find_in(&Store::default(), name)
    }

    /// Finds a cluster in a store.
    ///
    /// # Errors
    /// As [`Cluster::find`].
    pub fn find_in(store: &Store, name: &str) -> Result<Self> {
        crate::names::check(name)?;
        let Some(state) = store.load(name)? else {
            let names = store.names();
            let known = if names.is_empty() { "is none".to_owned() } else { format!("are: {}", names.join(", ")) };
            return Err(ClusterError::Unknown { name: name.to_owned(), known });
        };
        Self::from_state(store.clone(), state)
    }

    /// A cluster as its state says. Nodes that were never booted have no layers yet.
    pub(crate) fn from_state(store: Store, state: ClusterState) -> Result<Self> {
        let layout = Layout::detect()?;
        let nodes = state
            .members
            .iter()
            .map(|member| {
                let directory = nodes::directory(&store, &state.name, &member.name);
                // The specification of its last boot, layers included; before that, only its place is known.
                let known = shakedown_node::namespace::load(&directory, member.role);
                Arc::new(known.unwrap_or_else(|_| nodes::machine(&store, &state, member, Vec::new(), layout.clone())))
            })
            .collect();
        Ok(Self { store, state, nodes, layout })
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.state.name
    }

    /// What is known about it.
    #[must_use]
    pub fn state(&self) -> &ClusterState {
        &self.state
    }

    /// Its directory: state, journal, whatever belongs to this cluster and goes with it.
    #[must_use]
    pub fn directory(&self) -> PathBuf {
        self.store.directory(&self.state.name)
    }

    /// The store that it is in.
    #[must_use]
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Takes the cluster's lock between processes.
    ///
    /// # Errors
    /// [`ClusterError::Locked`] names who holds it.
    pub fn lock(&self) -> Result<Lock> {
        self.store.lock(&self.state.name)
    }

    /// The control group of all its nodes.
    #[must_use]
    pub fn group(&self) -> Group {
        Group::cluster(self.layout.clone(), &self.state.name)
    }

    /// Its Kubernetes nodes, control planes first; the load balancer is not among them.
    #[must_use]
    pub fn nodes(&self) -> Vec<Arc<dyn Node>> {
        self.machines(|role| role != Role::LoadBalancer)
    }

    /// Nodes with an apiserver and an etcd member.
    #[must_use]
    pub fn control_planes(&self) -> Vec<Arc<dyn Node>> {
        self.machines(|role| role == Role::ControlPlane)
    }

    /// Nodes for workloads only.
    #[must_use]
    pub fn workers(&self) -> Vec<Arc<dyn Node>> {
        self.machines(|role| role == Role::Worker)
    }

    fn machines(&self, wanted: impl Fn(Role) -> bool) -> Vec<Arc<dyn Node>> {
        self.nodes.iter().filter(|n| wanted(n.role())).map(|n| Arc::clone(n) as Arc<dyn Node>).collect()
    }

    /// A machine by name; `lb` is the load balancer.
    ///
    /// # Errors
    /// [`ClusterError::UnknownNode`] names those that there are.
    pub fn node(&self, name: &str) -> Result<Arc<dyn Node>> {
        self.machine(name).map(|n| n as Arc<dyn Node>)
    }

    pub(crate) fn machine(&self, name: &str) -> Result<Arc<NamespaceNode>> {
        self.nodes.iter().find(|n| n.name() == name).cloned().ok_or_else(|| ClusterError::UnknownNode {
            cluster: self.state.name.clone(),
            node: name.to_owned(),
            known: self.nodes.iter().map(|n| n.name()).collect::<Vec<_>>().join(", "),
        })
    }

    pub(crate) fn all_machines(&self) -> &[Arc<NamespaceNode>] {
        &self.nodes
    }

    fn member(&self, name: &str) -> Result<&Member> {
        self.machine(name)?;
        self.state
            .members
            .iter()
            .find(|m| m.name == name)
            .ok_or_else(|| ClusterError::Usage(format!("cluster `{}` has no member `{name}`", self.state.name)))
    }

    /// Address of the API before the load balancer: `https://ADDRESS:6443`.
    #[must_use]
    pub fn endpoint(&self) -> String {
        format!("https://{}:{API_PORT}", config::endpoint(&self.state))
    }

    /// Path of the administrator's kubeconfig on this host.
    #[must_use]
    pub fn kubeconfig_path(&self) -> PathBuf {
        self.directory().join(ADMIN)
    }

    /// The administrator's kubeconfig: the API is reached through the load balancer.
    ///
    /// # Errors
    /// When the cluster has never come so far.
    pub fn kubeconfig(&self) -> Result<String> {
        let path = self.kubeconfig_path();
        std::fs::read_to_string(&path).map_err(|e| ClusterError::file("read", path, e))
    }

    /// A client of the API, through the load balancer, as administrator.
    ///
    /// # Errors
    /// When there is no usable kubeconfig.
    pub async fn api(&self) -> Result<Client> {
        client(&self.kubeconfig()?, None).await
    }

    /// A client of one control plane's own apiserver.
    ///
    /// # Errors
    /// As [`Cluster::api`]; and for a node that has none.
    pub async fn api_of(&self, node: &str) -> Result<Client> {
        let member = self.member(node)?;
        if member.role != Role::ControlPlane {
            return Err(ClusterError::Usage(format!(
                "node `{node}` has no apiserver\nhint: {} have one",
                self.state.with(Role::ControlPlane).map(|m| m.name.as_str()).collect::<Vec<_>>().join(", ")
            )));
        }
        client(&self.kubeconfig()?, Some(&format!("https://{}:{API_PORT}", member.address))).await
    }

    /// Runs `etcdctl` on a member, against that member alone, with the health check's client certificate.
    ///
    /// # Errors
    /// When the command fails; its error output is in the error.
    pub async fn etcdctl<S: AsRef<str>>(&self, member: &str, arguments: &[S]) -> Result<String> {
        let node = self.node(member)?;
        let argv = ETCDCTL.iter().copied().chain(arguments.iter().map(AsRef::as_ref));
        Ok(node.run(Exec::new(argv)).await?)
    }
}

/// `etcdctl` with what it needs to speak to the member beside it.
pub const ETCDCTL: [&str; 8] = [
    "etcdctl",
    "--endpoints=https://127.0.0.1:2379",
    "--cacert=/etc/kubernetes/pki/etcd/ca.crt",
    "--cert=/etc/kubernetes/pki/etcd/healthcheck-client.crt",
    "--key=/etc/kubernetes/pki/etcd/healthcheck-client.key",
    "--dial-timeout=2s",
    "--command-timeout=10s",
    "--keepalive-timeout=2s",
];

/// A client for a kubeconfig, at another server of the same cluster where one is given.
///
/// # Errors
/// [`ClusterError::Kubeconfig`].
pub async fn client(kubeconfig: &str, server: Option<&str>) -> Result<Client> {
    let unusable = |e: &dyn std::fmt::Display| ClusterError::Kubeconfig(e.to_string());
    let parsed = Kubeconfig::from_yaml(kubeconfig).map_err(|e| unusable(&e))?;
    let mut config =
        kube::Config::from_custom_kubeconfig(parsed, &KubeConfigOptions::default()).await.map_err(|e| unusable(&e))?;
    if let Some(server) = server {
        config.cluster_url = server.parse().map_err(|e: http::uri::InvalidUri| unusable(&e))?;
    }
    config.connect_timeout = Some(CONNECT);
    Client::try_from(config).map_err(|e| ClusterError::api("make a client", e))
}
