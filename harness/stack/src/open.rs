//! Puts a [`Site`] together from a cluster and the bundle.

use std::collections::BTreeMap;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use shakedown_bundle::{Bundle, ImageRef};
use shakedown_cluster::Cluster;
use shakedown_core::{Answer, Event, EventSink, wait_for};

use crate::apply::Applier;
use crate::error::{Result, StackError};
use crate::probe_facts;
use crate::site::{Site, Tools};

/// For the API to answer at all.
const API_BUDGET: Duration = Duration::from_secs(90);
/// The images that components of ours name, by the bundle's short names.
const IMAGES: &[&str] = &[
    "coredns",
    "registry",
    "argocd",
    "redis",
    "git-server",
    "kyverno",
    "kyverno-init",
    "kyverno-background-controller",
    "kyverno-cleanup-controller",
    "kyverno-reports-controller",
];

/// What the installers take from the bundle.
///
/// # Errors
/// [`StackError::NotInBundle`].
pub fn tools(bundle: &Bundle) -> Result<Tools> {
    let mut images = BTreeMap::new();
    for short in IMAGES {
        images.insert((*short).to_owned(), image(bundle, short)?.name);
    }
    Ok(Tools {
        helm: program(bundle, "helm")?,
        crane: program(bundle, "crane")?,
        cilium_chart: bundle.chart("cilium"),
        argocd_manifest: bundle.manifest("argo-cd/core-install.yaml"),
        kyverno_manifest: bundle.manifest("kyverno/install.yaml"),
        demo_archive: image(bundle, "echo")?.archive,
        images,
    })
}

fn image(bundle: &Bundle, short: &str) -> Result<ImageRef> {
    bundle.image(short).ok_or_else(|| StackError::NotInBundle { what: format!("image {short}") })
}

fn program(bundle: &Bundle, name: &str) -> Result<PathBuf> {
    bundle.find_bin(name).ok_or_else(|| StackError::NotInBundle { what: format!("program {name}") })
}

/// A cluster of ours, ready to be converged.
///
/// # Errors
/// The cluster cannot be reached, or is not what kubeadm makes.
pub async fn site(cluster: &Cluster, tools: Tools, sink: Arc<dyn EventSink>) -> Result<Site> {
    let client = cluster.api().await?;
    // A converge that was cut off may have left an apiserver restarting.
    wait_for("the API", API_BUDGET, || async {
        match client.apiserver_version().await {
            Ok(_) => Answer::Ready(()),
            Err(error) => {
                let (who, what, last_seen) = ("converge".to_owned(), "the API".to_owned(), error.to_string());
                sink.emit(Event::Waiting { who, what, last_seen });
                Answer::NotYet(error.to_string())
            }
        }
    })
    .await?;
    let nodes = cluster.nodes();
    let facts = probe_facts::facts(&client, &cluster.endpoint(), &nodes).await?;
    let mut members = BTreeMap::new();
    for node in cluster.control_planes() {
        members.insert(node.name().to_owned(), cluster.api_of(node.name()).await?);
    }
    let state_dir = cluster.directory().join("stack");
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&state_dir)
        .map_err(|e| StackError::file(format!("make {}", state_dir.display()), e))?;
    Ok(Site {
        name: cluster.name().to_owned(),
        facts,
        applier: Applier::new(client),
        members,
        nodes,
        tools,
        kubeconfig: cluster.kubeconfig_path(),
        state_dir,
        cpu_time: Arc::new({
            let group = cluster.group();
            move || group.cpu_time()
        }),
        sink,
    })
}
