//! The ground that checks stand on: a cluster that is up and was converged once, its journal, and the way to it.

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::{Context as _, Result, anyhow};
use shakedown_bundle::{Bundle, CacheDir, Selection};
use shakedown_cluster::cluster::API_PORT;
use shakedown_cluster::state::{Lock, Phase};
use shakedown_cluster::{Cluster, Parts, Store, UpOptions, up};
use shakedown_core::{EventSink, JournalEntry};
use shakedown_engine::{Journal, JournalError, replay};
use shakedown_fault::FileJournal;
use shakedown_node::NodeState;
use shakedown_stack::components::is_ours;
use shakedown_stack::converge::{self, Ended};
use shakedown_stack::{StackError, open};
use shakedown_words::Platform;
use shakedown_words::helm::Helm;
use shakedown_words::machine::{Machine, OfCluster};

use crate::cmd::up::wrong_use;
use crate::ctx::Ctx;
use crate::exit::usage;

/// A cluster's journal, beside its state; it goes with the cluster.
const JOURNAL: &str = "journal.jsonl";

/// The ground of a run. The cluster is locked against other processes while it is held.
pub struct Ground {
    /// The platform under test.
    pub platform: Platform,
    /// Where undos stand before anything is changed.
    pub journal: Arc<FileJournal>,
    _lock: Lock,
}

/// The engine's word for the journal on disk.
pub struct OnDisk(pub Arc<FileJournal>);

impl Journal for OnDisk {
    fn append(&self, entry: &JournalEntry) -> Result<(), JournalError> {
        self.0.append(entry).map_err(|fault| {
            let text = fault.to_string();
            let (why, hint) = text.split_once("\nhint: ").unwrap_or((&text, ""));
            JournalError { path: self.0.path().display().to_string(), why: why.to_owned(), hint: hint.to_owned() }
        })
    }
}

/// Brings the cluster up where there is none, puts back what an earlier run left open, and converges the platform where
/// it never was, or where that is asked for. A cluster that is there is left as found, and one that does not carry the
/// marker is refused unless its user says that it is `owned`.
///
/// # Errors
/// The step that failed; a second call goes on from there. A cluster without the marker is wrong use.
pub async fn prepare(ctx: &Ctx, converge_anyway: bool, owned: bool) -> Result<Ground> {
    let (cluster, made) = find_or_make(ctx).await?;
    let lock = cluster.lock()?;
    let platform = connect(&cluster).await?;
    let journal = Arc::new(open_journal(&cluster)?);
    recover(ctx, &platform, &journal).await?;
    if converge_anyway || needs_converging(&cluster, made).await? {
        converge_all(ctx, &cluster).await?;
    } else if !owned {
        // An API that does not answer is for the checks to report: they can change nothing through it.
        if let Ok(false) = is_ours(&cluster.api().await?).await {
            return Err(usage(StackError::Foreign));
        }
    }
    Ok(Ground { platform, journal, _lock: lock })
}

/// Puts back what the cluster's journal still has open; whose changes those were.
///
/// # Errors
/// The journal cannot be read, or something cannot be put back; it stays open.
pub async fn put_back(ctx: &Ctx, cluster: &Cluster) -> Result<Vec<String>> {
    let journal = Arc::new(open_journal(cluster)?);
    // A cluster that never came up has nothing open, and no API to ask.
    if journal.open_entries()?.is_empty() {
        return Ok(Vec::new());
    }
    recover(ctx, &connect(cluster).await?, &journal).await
}

fn open_journal(cluster: &Cluster) -> Result<FileJournal> {
    Ok(FileJournal::open(&cluster.directory().join(JOURNAL), cluster.name(), &cluster.state().id)?)
}

async fn recover(ctx: &Ctx, platform: &Platform, journal: &Arc<FileJournal>) -> Result<Vec<String>> {
    let open = journal.open_entries()?;
    if open.is_empty() {
        return Ok(Vec::new());
    }
    ctx.progress.say(format!("putting back what an earlier run left open: {} changes", open.len()));
    let sink: &dyn EventSink = ctx.progress.as_ref();
    replay(platform, &open, &OnDisk(Arc::clone(journal)), sink).await.map_err(|why| {
        let path = journal.path().display();
        anyhow!("cannot put back what an earlier run left open: {why}\nhint: it stays in {path}; `shakedown recover` tries again")
    })?;
    journal.compact()?;
    let owner = |entry: &JournalEntry| match entry {
        JournalEntry::Intent { owner, .. } => Some(owner.clone()),
        JournalEntry::Closed { .. } => None,
    };
    Ok(open.iter().filter_map(owner).collect())
}

/// The way to a cluster of ours.
///
/// # Errors
/// Its kubeconfig cannot be used.
pub async fn connect(cluster: &Cluster) -> Result<Platform> {
    let apiservers: BTreeMap<String, String> = cluster
        .control_planes()
        .iter()
        .map(|node| (node.name().to_owned(), format!("https://{}:{API_PORT}", node.address())))
        .collect();
    let machines = cluster.nodes().into_iter().map(|node| Arc::new(OfCluster(node)) as Arc<dyn Machine>).collect();
    let platform = Platform::connect(cluster.name(), &cluster.kubeconfig()?, &apiservers, machines).await?;
    // Without a bundle only the checks that upgrade a release lack something, and say so themselves.
    Ok(match bundle().ok().and_then(|bundle| open::tools(&bundle).ok()) {
        Some(tools) => platform.with_helm(Helm {
            program: tools.helm,
            cilium_chart: tools.cilium_chart,
            kubeconfig: cluster.kubeconfig_path(),
        }),
        None => platform,
    })
}

/// The cluster, and whether it was brought up just now.
async fn find_or_make(ctx: &Ctx) -> Result<(Cluster, bool)> {
    if Store::default().load(&ctx.name)?.is_some() {
        let cluster = Cluster::find(&ctx.name).map_err(wrong_use)?;
        let lives = cluster.nodes().iter().any(|node| node.state() != NodeState::Stopped);
        // A single node that is down is something for a check to find; a cluster that is down has been rebooted.
        if cluster.state().phase == Phase::Formed && lives {
            return Ok((cluster, false));
        }
    }
    let progress = Arc::clone(&ctx.progress);
    progress.say(format!("bringing up cluster `{}`", ctx.name));
    let options = UpOptions {
        name: ctx.name.clone(),
        control_planes: None,
        workers: None,
        lines: Arc::new(move |line| progress.say(line)),
    };
    let (cluster, _) = up(&Parts::of(&bundle()?), &options)
        .await
        .map_err(wrong_use)
        .with_context(|| format!("cannot bring up `{}`", ctx.name))?;
    Ok((cluster, true))
}

async fn needs_converging(cluster: &Cluster, made: bool) -> Result<bool> {
    // The mark beside the state answers without the API: a dead one is for the checks to report.
    if !made && cluster.directory().join("stack/converged.json").is_file() {
        return Ok(false);
    }
    Ok(!converge::was_converged(&cluster.api().await?).await?)
}

async fn converge_all(ctx: &Ctx, cluster: &Cluster) -> Result<()> {
    ctx.progress.say("converging the platform");
    let sink: Arc<dyn EventSink> = ctx.progress.clone();
    let site = open::site(cluster, open::tools(&bundle()?)?, sink).await?;
    let report = converge::converge(&site, None).await?;
    if report.converged {
        return Ok(());
    }
    let failed: Vec<String> = report
        .steps
        .iter()
        .filter(|step| step.ended == Ended::Failed)
        .map(|step| format!("{}: {}", step.name, step.error.as_deref().unwrap_or("no reason given")))
        .collect();
    Err(anyhow!(
        "the platform does not converge: {}\nhint: `shakedown converge` tries again and tells more",
        failed.join("; ")
    ))
}

fn bundle() -> Result<Bundle> {
    Bundle::open(&CacheDir::for_caller()?, &Selection::core()).context("cannot open the bundle")
}
