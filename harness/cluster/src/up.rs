//! Bringing a cluster up. Each step looks at the real world first and then acts, so a call that was killed at any
//! instant is simply made again.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures::future::{try_join, try_join_all};
use serde::{Deserialize, Serialize};
use shakedown_node::cgroup::{Group, Layout};
use shakedown_node::net::{Plan, pinned};
use shakedown_node::probe::CAP_SYS_RESOURCE;
use shakedown_node::{NamespaceNode, Node, Role, helper};

use crate::cluster::Cluster;
use crate::config;
use crate::doctor;
use crate::error::{ClusterError, Result};
use crate::names;
use crate::parts::Parts;
use crate::plan::plan;
use crate::progress::{Lines, PhaseTime, Phases};
use crate::ready;
use crate::state::{self, ClusterState, Member, Phase, Store, write_bytes};
use crate::{kubeadm, layer, nodes};

/// How many nodes and where.
#[derive(Clone)]
pub struct UpOptions {
    /// Name of the cluster.
    pub name: String,
    /// Control planes; None: as it is, or 3 for a new one.
    pub control_planes: Option<usize>,
    /// Workers; None: as it is, or 2 for a new one.
    pub workers: Option<usize>,
    /// Takes progress lines.
    pub lines: Lines,
}

/// What a call did.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct UpReport {
    /// The cluster's name.
    pub name: String,
    /// Seconds in all.
    pub seconds: f64,
    /// Processor seconds in all, of the nodes and of this process.
    pub cpu_seconds: f64,
    /// Its phases by beginning; some run side by side.
    pub phases: Vec<PhaseTime>,
    /// Things to know that are no errors.
    pub warnings: Vec<String>,
}

/// Budget for the whole control plane to answer; an emulated machine needs minutes.
const CONTROL_PLANE: Duration = Duration::from_secs(840);

struct Work<'a> {
    parts: &'a Parts,
    store: Store,
    state: ClusterState,
    layout: Layout,
    phases: Phases,
}

/// Brings a cluster up, or what is missing of it.
///
/// # Errors
/// Refuses early, with a hint, where this machine cannot carry it; otherwise the step that failed.
pub async fn up(parts: &Parts, options: &UpOptions) -> Result<(Cluster, UpReport)> {
    names::check(&options.name)?;
    parts.check()?;
    let store = Store::default();
    let probes = shakedown_node::probe::probe(store.root()).await?;
    doctor::refuse(&probes)?;
    let _lock = store.lock(&options.name)?;
    let layout = Layout::detect()?;
    let group = Group::cluster(layout.clone(), &options.name);
    let phases = Phases::new(Arc::clone(&options.lines), move || group.cpu_time());
    let began = phases.cpu_time();
    let (state, warnings) = plan(&store, options, &parts.kubernetes)?;
    for warning in &warnings {
        phases.say(&format!("warning: {warning}"));
    }
    let restricted = !probes.has_capability(CAP_SYS_RESOURCE);
    let mut work = Work { parts, store, state, layout, phases };
    work.make(restricted).await?;
    let report = UpReport {
        name: options.name.clone(),
        seconds: work.phases.elapsed(),
        cpu_seconds: work.phases.cpu_time().saturating_sub(began).as_secs_f64(),
        phases: work.phases.collected(),
        warnings,
    };
    state::write(&work.store.directory(&options.name).join("up.json"), &report)?;
    Ok((Cluster::from_state(work.store, work.state)?, report))
}

impl Work<'_> {
    async fn make(&mut self, restricted: bool) -> Result<()> {
        let phases = self.phases.clone();
        // The fabric and the keys need nothing of each other; neither do the nodes' directories.
        let (directories, ()) = try_join(
            phases.run(
                "network, keys",
                "two helper processes and kubeadm's keys",
                try_join(self.directories(restricted), self.fabric()),
            ),
            phases.run(
                "authorities",
                "kubeadm on the host",
                kubeadm::authorities(self.parts, &self.store, &self.state),
            ),
        )
        .await?;
        let (lower, ()) = directories;
        let machines = self.machines(&lower);
        let fresh: Vec<_> = self.state.members.iter().filter(|m| !m.late).collect();
        for member in fresh.iter().filter(|m| m.role != Role::LoadBalancer) {
            kubeadm::place(&self.store, &self.state, member)?;
        }
        self.write_haproxy()?;
        phases.run("boot", "namespaces and mounts", try_join_all(machines.iter().map(|m| m.boot()))).await?;
        self.reload_haproxy(&machines).await?;
        if self.state.phase == Phase::Making {
            self.form(&machines).await?;
            self.state.phase = Phase::Formed;
            self.store.save(&self.state)?;
        }
        let late: Vec<_> = self.state.members.iter().filter(|m| m.late).cloned().collect();
        self.join(&machines, &late).await?;
        let cluster = Cluster::from_state(self.store.clone(), self.state.clone())?;
        phases
            .run("ready", "every apiserver, member of etcd and node", ready::complete(&cluster, CONTROL_PLANE))
            .await?;
        Ok(())
    }

    /// Hard links are work for the disk, not for the runtime.
    async fn directories(&self, restricted: bool) -> Result<Vec<PathBuf>> {
        let (parts, store, state) = (self.parts.clone(), self.store.clone(), self.state.clone());
        let made = tokio::task::spawn_blocking(move || {
            let layer = layer::common(&parts, &store.directory(&state.name), restricted)?;
            std::thread::scope(|scope| {
                let running: Vec<_> = state
                    .members
                    .iter()
                    .map(|m| {
                        let (parts, store, name) = (&parts, &store, &state.name);
                        scope.spawn(move || {
                            layer::node(parts, &nodes::directory(store, name, &m.name), m.role != Role::LoadBalancer)
                        })
                    })
                    .collect();
                running.into_iter().try_for_each(|r| {
                    r.join().unwrap_or_else(|_| Err(ClusterError::Usage("a thread ended badly".into())))
                })
            })?;
            Ok(vec![layer, parts.node_root.clone()])
        });
        made.await.unwrap_or_else(|e| Err(ClusterError::Usage(format!("a task ended badly: {e}"))))
    }

    async fn fabric(&self) -> Result<()> {
        let fabric = names::fabric(&self.state.name, self.state.subnet);
        Group::cluster(self.layout.clone(), &self.state.name).create()?;
        if pinned(&fabric.pin) && fabric.exists() {
            return Ok(());
        }
        let plan = serde_json::to_string(&Plan::Fabric(fabric))
            .map_err(|e| ClusterError::Usage(format!("cannot write the plan: {e}")))?;
        helper::run("__net", &plan).await?;
        Ok(())
    }

    fn machines(&self, lower: &[PathBuf]) -> Vec<Arc<NamespaceNode>> {
        let machine = |m: &Member| nodes::machine(&self.store, &self.state, m, lower.to_vec(), self.layout.clone());
        self.state.members.iter().map(|m| Arc::new(machine(m))).collect()
    }

    fn write_haproxy(&self) -> Result<()> {
        for member in self.state.with(Role::LoadBalancer) {
            let path = nodes::upper(&self.store, &self.state.name, &member.name);
            let text = config::haproxy(&self.state);
            let path = path.join(nodes::HAPROXY.trim_start_matches('/'));
            if std::fs::read_to_string(&path).ok().as_ref() != Some(&text)
                && !nodes::directory(&self.store, &self.state.name, &member.name).join("boot.json").exists()
            {
                write_bytes(&path, text.as_bytes(), 0o644)?;
            }
        }
        Ok(())
    }

    /// A balancer that runs learns of new servers by a reload; its connections stay.
    async fn reload_haproxy(&self, machines: &[Arc<NamespaceNode>]) -> Result<()> {
        let text = config::haproxy(&self.state);
        for machine in machines.iter().filter(|m| m.role() == Role::LoadBalancer) {
            let node: &dyn Node = machine.as_ref();
            if node.read_text(nodes::HAPROXY).await.ok().as_ref() == Some(&text) {
                continue;
            }
            node.write_file(nodes::HAPROXY, text.as_bytes(), 0o644).await?;
            for process in node.processes_called("haproxy").await?.iter().take(1) {
                node.kill(process, nix::libc::SIGUSR2).await?;
            }
        }
        Ok(())
    }

    async fn form(&self, machines: &[Arc<NamespaceNode>]) -> Result<()> {
        let of = |role: Role| machines.iter().filter(move |m| m.role() == role && !self.is_late(m));
        let control: Vec<_> = of(Role::ControlPlane).cloned().collect();
        let workers: Vec<_> = of(Role::Worker).cloned().collect();
        let phases = &self.phases;
        phases
            .run(
                "static pods",
                "kubeadm's keys and manifests",
                try_join(
                    try_join_all(control.iter().map(|n| start_control_plane(n))),
                    try_join_all(workers.iter().map(|n| start_worker(n))),
                ),
            )
            .await?;
        self.keep_admin(&control).await?;
        let cluster = Cluster::from_state(self.store.clone(), self.state.clone())?;
        phases.run("API", "etcd's first election, apiservers", ready::apis(&cluster, CONTROL_PLANE)).await?;
        let Some((first, others)) = control.split_first() else { return Ok(()) };
        let registered = async {
            try_join_all(workers.iter().map(|n| kubeadm::identify_worker(&self.store, &self.state, n.as_ref())))
                .await?;
            try_join_all(control.iter().map(|n| hurry_kubelet(&cluster, n))).await?;
            ready::registered(&cluster, CONTROL_PLANE).await
        };
        phases.run("nodes", "kubelets register", registered).await?;
        let finished =
            try_join(kubeadm::finish(first.as_ref()), try_join_all(others.iter().map(|n| kubeadm::mark(n.as_ref()))));
        phases.run("configuration", "kubeadm's uploads, token and marks", finished).await?;
        Ok(())
    }

    fn is_late(&self, machine: &NamespaceNode) -> bool {
        self.state.members.iter().any(|m| m.late && m.name == machine.name())
    }

    /// The administrator's access, which speaks to the balancer.
    async fn keep_admin(&self, control: &[Arc<NamespaceNode>]) -> Result<()> {
        let Some(first) = control.first() else { return Ok(()) };
        let node: &dyn Node = first.as_ref();
        // Bound to a group of administrators that only exists once its binding does; the other one always works.
        let path = self.store.directory(&self.state.name);
        for (name, source) in [(crate::cluster::ADMIN, "admin.conf"), ("super-admin.conf", "super-admin.conf")] {
            let text = node.read_file(&format!("/etc/kubernetes/{source}")).await?;
            write_bytes(&path.join(name), &text, 0o600)?;
        }
        Ok(())
    }

    async fn join(&self, machines: &[Arc<NamespaceNode>], late: &[Member]) -> Result<()> {
        let Some(through) = machines.iter().find(|m| m.role() == Role::ControlPlane && !self.is_late(m)) else {
            return Ok(());
        };
        // Control planes one at a time: members of etcd that are added side by side race. Workers after them.
        for member in late.iter().filter(|m| m.role == Role::ControlPlane) {
            self.join_one(machines, through, member).await?;
        }
        let workers = late.iter().filter(|m| m.role == Role::Worker);
        try_join_all(workers.map(|m| self.join_one(machines, through, m))).await?;
        Ok(())
    }

    async fn join_one(&self, machines: &[Arc<NamespaceNode>], through: &NamespaceNode, member: &Member) -> Result<()> {
        let Some(machine) = machines.iter().find(|m| m.name() == member.name) else { return Ok(()) };
        let node: &dyn Node = machine.as_ref();
        // Written last by a join that went well: the kubelet's own certificate, and for a control plane its manifests.
        let done = nodes::directory(&self.store, &self.state.name, &member.name).join("joined");
        if done.exists() {
            return Ok(());
        }
        self.phases
            .run(&format!("join {}", member.name), "kubeadm join", async {
                if node.read_file("/etc/kubernetes/kubeadm-join.yaml").await.is_ok() {
                    self.start_over(machine, through, member).await?;
                }
                kubeadm::join(&self.state, through, node, member).await
            })
            .await?;
        write_bytes(&done, b"", 0o644)
    }
}

impl Work<'_> {
    /// A join that was cut off may have stopped anywhere: the node gets a new disk, and what the cluster knows of it
    /// is forgotten.
    async fn start_over(&self, machine: &NamespaceNode, through: &NamespaceNode, member: &Member) -> Result<()> {
        machine.cut()?;
        let directory = nodes::directory(&self.store, &self.state.name, &member.name);
        layer::remove(&directory)?;
        layer::node(self.parts, &directory, true)?;
        kubeadm::place(&self.store, &self.state, member)?;
        let cluster = Cluster::from_state(self.store.clone(), self.state.clone())?;
        ready::forget(&cluster, through.name(), &member.name).await?;
        Ok(machine.boot().await?)
    }
}

async fn start_control_plane(machine: &NamespaceNode) -> Result<()> {
    let done = "/etc/kubernetes/.shakedown-started";
    let node: &dyn Node = machine;
    if node.read_file(done).await.is_ok() {
        return Ok(());
    }
    kubeadm::start(node).await?;
    Ok(node.write_file(done, b"", 0o600).await?)
}

async fn start_worker(machine: &NamespaceNode) -> Result<()> {
    let node: &dyn Node = machine;
    if node.read_file("/var/lib/kubelet/config.yaml").await.is_ok()
        && node.read_file("/var/lib/kubelet/kubeadm-flags.env").await.is_ok()
    {
        return Ok(());
    }
    kubeadm::start_worker(node).await
}

/// A kubelet that has been refused for a while asks again only every seven seconds. Started anew, it asks at once.
async fn hurry_kubelet(cluster: &Cluster, machine: &NamespaceNode) -> Result<()> {
    if ready::node_exists(cluster, machine.name()).await {
        return Ok(());
    }
    let node: &dyn Node = machine;
    for process in node.processes_called("kubelet").await? {
        node.kill(&process, nix::libc::SIGTERM).await?;
    }
    Ok(())
}
