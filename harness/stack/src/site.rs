//! The place where components are installed: the cluster's API, its nodes, its facts and the bundle's tools.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use shakedown_core::{Answer, Event, EventSink, wait_for};
use shakedown_node::{Node, Role};

use crate::apply::Applier;
use crate::error::{Result, StackError};
use crate::facts::Facts;

/// What the bundle brings for the installers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tools {
    /// The helm program.
    pub helm: PathBuf,
    /// The crane program.
    pub crane: PathBuf,
    /// The Cilium chart's directory.
    pub cilium_chart: PathBuf,
    /// Argo CD's core-install manifest.
    pub argocd_manifest: PathBuf,
    /// Kyverno's install manifest.
    pub kyverno_manifest: PathBuf,
    /// The demo image as an OCI archive.
    pub demo_archive: PathBuf,
    /// Short name (`coredns`, `registry`, `argocd`, `redis`, `git-server`, `kyverno`, ..) to the name under which the image lies in
    /// the nodes' containerd.
    pub images: BTreeMap<String, String>,
}

impl Tools {
    /// The full name of an image.
    ///
    /// # Errors
    /// [`StackError::NotInBundle`].
    pub fn image(&self, short: &str) -> Result<String> {
        self.images.get(short).cloned().ok_or_else(|| StackError::NotInBundle { what: format!("image {short}") })
    }

    /// The tag of an image, which is the version of what is in it.
    pub fn tag(&self, short: &str) -> Option<String> {
        self.images.get(short)?.rsplit_once(':').map(|(_, tag)| tag.to_owned())
    }
}

/// The place where components are installed.
pub struct Site {
    /// The cluster's name.
    pub name: String,
    /// What manifests depend on.
    pub facts: Facts,
    /// Applies objects through the load balancer.
    pub applier: Applier,
    /// Each control plane's own apiserver.
    pub members: BTreeMap<String, kube::Client>,
    /// The cluster's machines, the load balancer not among them.
    pub nodes: Vec<Arc<dyn Node>>,
    /// What the bundle brings.
    pub tools: Tools,
    /// An administrator's kubeconfig, for programs.
    pub kubeconfig: PathBuf,
    /// Directory for what must survive us (0700).
    pub state_dir: PathBuf,
    /// Processor time of all the cluster's nodes so far.
    pub cpu_time: Arc<dyn Fn() -> Duration + Send + Sync>,
    /// Takes progress.
    pub sink: Arc<dyn EventSink>,
}

impl Site {
    /// Tells progress what a step saw last.
    pub fn saw(&self, who: &str, what: &str, last_seen: &str) {
        self.sink.emit(Event::Waiting { who: who.to_owned(), what: what.to_owned(), last_seen: last_seen.to_owned() });
    }

    /// [`wait_for`], with progress.
    ///
    /// # Errors
    /// [`StackError::Wait`] with the last thing seen.
    pub async fn wait<T, F, Fut>(&self, who: &str, what: &str, budget: Duration, mut look: F) -> Result<T>
    where
        F: FnMut() -> Fut,
        Fut: Future<Output = Answer<T>>,
    {
        Ok(wait_for(what, budget, || {
            let looking = look();
            async {
                let answer = looking.await;
                if let Answer::NotYet(seen) = &answer {
                    self.saw(who, what, seen);
                }
                answer
            }
        })
        .await?)
    }

    /// Waits until the workloads among the objects are rolled out, with progress.
    ///
    /// # Errors
    /// [`StackError::Wait`] with the last thing seen.
    pub async fn rolled_out(&self, who: &str, objects: &[Value], budget: Duration) -> Result<()> {
        self.applier.rolled_out(objects, budget, &|seen| self.saw(who, "its Pods", seen)).await
    }

    /// The machines that carry an apiserver, in the order of their names.
    pub fn control_planes(&self) -> impl Iterator<Item = &Arc<dyn Node>> {
        self.nodes.iter().filter(|n| n.role() == Role::ControlPlane)
    }
}
