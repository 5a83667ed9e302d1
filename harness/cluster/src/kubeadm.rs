//! kubeadm's phases, run side by side. All control planes start as members of one etcd that is named in advance, with
//! a CA made once; so no member waits for another to be joined. Everything here may be repeated.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use futures::future::try_join_all;
use shakedown_node::{Exec, Node, Role};

use crate::cluster::API_PORT;
use crate::config::{self, Use};
use crate::error::{ClusterError, Result};
use crate::nodes;
use crate::parts::Parts;
use crate::state::{ClusterState, Member, Store, write_bytes};

/// Budget of one kubeadm call on a busy or emulated machine.
const CALL: Duration = Duration::from_secs(600);
/// What is left out of every call: the host was probed already, kube-proxy and CoreDNS are not its business here, and
/// what an init system would do the node's first process does.
const NEVER: &str = "preflight,wait-control-plane,upload-certs,addon,show-join-command";
/// What the first, parallel part leaves out: it needs no API.
const NOT_FIRST: &str = "upload-config,mark-control-plane,bootstrap-token,kubelet-finalize";
/// What the part with an API leaves out.
const NOT_SECOND: &str = "certs,kubeconfig,etcd,control-plane,kubelet-start";

/// Keys that all members share: (phase, file that it makes).
const AUTHORITIES: [(&str, &str); 4] =
    [("ca", "ca.key"), ("front-proxy-ca", "front-proxy-ca.key"), ("etcd-ca", "etcd/ca.key"), ("sa", "sa.pub")];
const SHARED: [&str; 8] =
    ["ca.crt", "ca.key", "front-proxy-ca.crt", "front-proxy-ca.key", "etcd/ca.crt", "etcd/ca.key", "sa.key", "sa.pub"];

/// Where a cluster's authorities are on the host.
fn pki(store: &Store, state: &ClusterState) -> PathBuf {
    store.directory(&state.name).join("pki")
}

/// Runs the bundle's kubeadm on the host, where it only makes keys and files.
async fn on_host(parts: &Parts, arguments: &[&str]) -> Result<()> {
    let mut command = tokio::process::Command::new(parts.binary("kubeadm"));
    command.args(arguments).env_clear().env("PATH", "/usr/bin:/bin").stdin(Stdio::null()).kill_on_drop(true);
    let failed = |message: String| ClusterError::Command {
        command: format!("kubeadm {}", arguments.iter().take(4).copied().collect::<Vec<_>>().join(" ")),
        message,
    };
    let output = command.output().await.map_err(|e| failed(e.to_string()))?;
    if output.status.success() {
        Ok(())
    } else {
        Err(failed(String::from_utf8_lossy(&output.stderr).trim().to_owned()))
    }
}

/// Makes the authorities and the workers' own certificates, before any node runs.
///
/// # Errors
/// When kubeadm fails or a file cannot be written.
pub async fn authorities(parts: &Parts, store: &Store, state: &ClusterState) -> Result<()> {
    let Some(first) = state.with(Role::ControlPlane).next() else {
        return Err(ClusterError::Usage("a cluster needs a control plane".into()));
    };
    let directory = pki(store, state);
    let file = store.directory(&state.name).join("kubeadm-host.yaml");
    let text = config::kubeadm(state, first, Use::Host(&directory.to_string_lossy()));
    write_bytes(&file, text.as_bytes(), 0o600)?;
    let path = file.to_string_lossy().into_owned();
    let missing = AUTHORITIES.iter().filter(|(_, made)| !directory.join(made).is_file());
    try_join_all(missing.map(|(phase, _)| {
        let path = path.as_str();
        async move { on_host(parts, &["init", "phase", "certs", phase, "--config", path]).await }
    }))
    .await?;
    try_join_all(state.with(Role::Worker).filter(|m| !m.late).map(|member| {
        let path = path.as_str();
        async move { worker_identity(parts, store, state, member, path).await }
    }))
    .await?;
    Ok(())
}

/// A worker's client certificate, signed in advance: it need not wait for a token's signature and a TLS bootstrap.
async fn worker_identity(
    parts: &Parts,
    store: &Store,
    state: &ClusterState,
    member: &Member,
    config: &str,
) -> Result<()> {
    let made = nodes::directory(store, &state.name, &member.name).join("identity");
    if made.join("kubelet.conf").is_file() {
        return Ok(());
    }
    let target = made.to_string_lossy().into_owned();
    let argv = [
        "init",
        "phase",
        "kubeconfig",
        "kubelet",
        "--config",
        config,
        "--node-name",
        &member.name,
        "--kubeconfig-dir",
        &target,
    ];
    on_host(parts, &argv).await?;
    Ok(())
}

/// Puts the authorities and the configuration where a control plane will look for them.
///
/// # Errors
/// When a file cannot be written.
pub fn place(store: &Store, state: &ClusterState, member: &Member) -> Result<()> {
    let upper = nodes::upper(store, &state.name, &member.name);
    let (text, kept) = (config::kubeadm(state, member, Use::Start), config::kubeadm(state, member, Use::Upload));
    let at = |path: &str| upper.join(path.trim_start_matches('/'));
    put(&at(config::KUBEADM), text.as_bytes(), 0o600)?;
    put(&at(config::KUBEADM_UPLOADED), kept.as_bytes(), 0o600)?;
    if member.role != Role::ControlPlane {
        return Ok(());
    }
    for name in SHARED {
        let from = pki(store, state).join(name);
        let bytes = std::fs::read(&from).map_err(|e| ClusterError::file("read", &from, e))?;
        let mode = if name.ends_with(".key") { 0o600 } else { 0o644 };
        put(&at("/etc/kubernetes/pki").join(name), &bytes, mode)?;
    }
    Ok(())
}

/// Writes a file into a node's upper layer unless it is there already: under a running node that layer is the kernel's.
fn put(path: &std::path::Path, bytes: &[u8], mode: u32) -> Result<()> {
    if std::fs::read(path).is_ok_and(|have| have == bytes) {
        return Ok(());
    }
    write_bytes(path, bytes, mode)
}

fn call(arguments: &[&str]) -> Exec {
    Exec::new(["kubeadm"].iter().chain(arguments).copied()).timeout(CALL)
}

/// The part without an API on a control plane: keys, kubeconfigs, static pods, kubelet.
///
/// # Errors
/// When kubeadm fails.
pub async fn start(node: &dyn Node) -> Result<()> {
    let skip = format!("--skip-phases={NEVER},{NOT_FIRST}");
    node.run(call(&["init", "--config", config::KUBEADM, &skip])).await?;
    Ok(())
}

/// The kubelet's configuration on a worker that has its identity already.
///
/// # Errors
/// When kubeadm fails.
pub async fn start_worker(node: &dyn Node) -> Result<()> {
    node.run(call(&["init", "phase", "kubelet-start", "--config", config::KUBEADM])).await?;
    Ok(())
}

/// Gives a worker its identity; its kubelet starts with that. It speaks to the load balancer, as after a join.
///
/// # Errors
/// When a file cannot be read or written.
pub async fn identify_worker(store: &Store, state: &ClusterState, node: &dyn Node) -> Result<()> {
    let path = nodes::directory(store, &state.name, node.name()).join("identity/kubelet.conf");
    let text = std::fs::read_to_string(&path).map_err(|e| ClusterError::file("read", &path, e))?;
    let authority = pki(store, state).join("ca.crt");
    let authority = std::fs::read(&authority).map_err(|e| ClusterError::file("read", &authority, e))?;
    // Not earlier: kubeadm takes a CA's certificate without its key for an external CA, and then wants every key.
    node.write_file("/etc/kubernetes/pki/ca.crt", &authority, 0o644).await?;
    let server = format!("    server: https://{}:{API_PORT}", config::endpoint(state));
    let text: Vec<_> =
        text.lines().map(|l| if l.trim_start().starts_with("server: ") { server.as_str() } else { l }).collect();
    node.write_file("/etc/kubernetes/kubelet.conf", format!("{}\n", text.join("\n")).as_bytes(), 0o600).await?;
    Ok(())
}

/// The part with an API, once: configuration for later members, bootstrap token, marks.
///
/// # Errors
/// When kubeadm fails.
pub async fn finish(node: &dyn Node) -> Result<()> {
    let skip = format!("--skip-phases={NEVER},{NOT_SECOND}");
    node.run(call(&["init", "--config", config::KUBEADM_UPLOADED, &skip])).await?;
    Ok(())
}

/// The part with an API on each further control plane.
///
/// # Errors
/// When kubeadm fails.
pub async fn mark(node: &dyn Node) -> Result<()> {
    node.run(call(&["init", "phase", "mark-control-plane", "--config", config::KUBEADM_UPLOADED])).await?;
    node.run(call(&["init", "phase", "kubelet-finalize", "all", "--config", config::KUBEADM_UPLOADED])).await?;
    Ok(())
}

/// Joins a node to a living cluster the documented way: a fresh token, the CA's hash, `kubeadm join`.
///
/// # Errors
/// When kubeadm fails.
pub async fn join(state: &ClusterState, through: &dyn Node, node: &dyn Node, member: &Member) -> Result<()> {
    let printed = through.run(call(&["token", "create", "--ttl", "1h", "--print-join-command"])).await?;
    let after = |word: &str| {
        let mut words = printed.split_whitespace().skip_while(|w| *w != word).skip(1);
        words.next().map(ToOwned::to_owned).ok_or_else(|| ClusterError::Command {
            command: "kubeadm token create --print-join-command".into(),
            message: format!("its answer has no {word}: {printed}"),
        })
    };
    let (token, hash) = (after("--token")?, after("--discovery-token-ca-cert-hash")?);
    let key = if member.role == Role::ControlPlane {
        let said = through
            .run(call(&["init", "phase", "upload-certs", "--upload-certs", "--config", config::KUBEADM_UPLOADED]))
            .await?;
        said.lines().last().map(|l| l.trim().to_owned())
    } else {
        None
    };
    let text = config::join(state, member, &token, &hash, key.as_deref());
    node.write_file("/etc/kubernetes/kubeadm-join.yaml", text.as_bytes(), 0o600).await?;
    node.run(call(&["join", "--config", "/etc/kubernetes/kubeadm-join.yaml", "--skip-phases=preflight"])).await?;
    Ok(())
}
