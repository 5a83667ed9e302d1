//! Taking a cluster down: everything that it is made of, whatever state it is in.

use std::thread;
use std::time::Duration;

use shakedown_node::cgroup::{Group, Layout};
use shakedown_node::net::Plan;
use shakedown_node::{NamespaceNode, helper, sys};

use crate::cluster::Cluster;
use crate::error::{ClusterError, Result};
use crate::host::HostSettings;
use crate::state::{Phase, Store};
use crate::{layer, names, nodes, residue};

/// How long ended processes may take to be gone.
const LEAVE: Duration = Duration::from_secs(30);

/// Removes a cluster. One that is not there, or only in parts, is fine: what there is of it goes.
///
/// # Errors
/// When something does not go; then a second call goes on.
pub async fn down(store: &Store, name: &str) -> Result<()> {
    names::check(name)?;
    let lock = store.lock(name)?;
    let layout = Layout::detect()?;
    if let Ok(Some(mut state)) = store.load(name) {
        // From here on it is no cluster any more, even if this call is cut off.
        state.phase = Phase::Removing;
        store.save(&state)?;
        let cluster = Cluster::from_state(store.clone(), state)?;
        let ended: Vec<Result<()>> = thread::scope(|scope| {
            let all: Vec<_> = cluster
                .all_machines()
                .iter()
                .map(|m: &std::sync::Arc<NamespaceNode>| scope.spawn(|| m.cut()))
                .collect();
            all.into_iter()
                .map(|t| t.join().map_or_else(|_| Err(ClusterError::Usage("a thread ended badly".into())), |r| Ok(r?)))
                .collect()
        });
        ended.into_iter().collect::<Result<()>>()?;
        // Thousands of links each: side by side too.
        thread::scope(|scope| {
            for member in &cluster.state().members {
                let directory = nodes::directory(store, name, &member.name);
                scope.spawn(move || layer::remove(&directory));
            }
        });
    }
    let group = Group::cluster(layout.clone(), name);
    // Also those that left the control group: they still say in their environment whose they are.
    for pid in residue::processes_of(name) {
        let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL);
    }
    group.end(LEAVE)?;
    let directory = store.directory(name);
    for device in sys::loops().into_iter().filter(|l| l.file.starts_with(&directory)) {
        sys::detach(&device.device)?;
    }
    let pin = std::path::Path::new(names::PINS).join(name).join("fabric");
    let plan = Plan::Clear { pin: pin.clone(), host_link: names::host_link(name) };
    let plan = serde_json::to_string(&plan).map_err(|e| ClusterError::Usage(format!("cannot write the plan: {e}")))?;
    helper::run("__net", &plan).await?;
    if let Some(parent) = pin.parent() {
        layer::remove(parent)?;
    }
    layer::remove(&directory)?;
    store.forget_lock(name)?;
    drop(lock);
    let _host = store.lock_host()?;
    if store.names().is_empty() {
        Group::new(layout, shakedown_node::cgroup::TOP).remove(LEAVE)?;
        let _ = std::fs::remove_dir(names::PINS);
        HostSettings::new(store).restore()?;
        store.close();
    }
    Ok(())
}
