//! Brings a cluster to the documented platform: looks at every component, installs what is wanting, waits until it is
//! there, in parallel where nothing depends on anything.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::Api;
use serde::Serialize;
use serde_json::json;
use shakedown_core::{Capability, Event};

use crate::component::{Component, State};
use crate::components;
use crate::error::{Result, StackError};
use crate::graph::{Graph, Outcome, Step};
use crate::site::Site;

/// For how long the API may be away: one apiserver is rolled, and its load balancer notices.
const API_AWAY: Duration = Duration::from_secs(90);
/// Between two tries.
const PAUSE: Duration = Duration::from_millis(500);
/// ConfigMap in kube-system that says: the platform was converged once.
const CONVERGED: &str = "shakedown-converged";

/// A step as `--plan` shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PlannedStep {
    /// Its name.
    pub name: String,
    /// What it is.
    pub what: String,
    /// Its version.
    pub version: String,
    /// What must be there before.
    pub needs: Vec<String>,
    /// What only goes before it.
    pub after: Vec<String>,
    /// What the cluster offers then.
    pub gives: Vec<Capability>,
    /// When it counts as ready.
    pub readiness: String,
    /// Steps of one wave can run side by side.
    pub wave: usize,
    /// None when it is as it should be; otherwise what is wanting. Not looked at yet: absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wanting: Option<String>,
}

/// How a step ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ended {
    /// Nothing had to be done.
    Unchanged,
    /// It was installed or repaired.
    Installed,
    /// It failed.
    Failed,
    /// Something that it needs failed.
    Blocked,
}

/// What became of a step.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct StepReport {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// How it ended.
    pub ended: Ended,
    /// What was wanting before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wanted: Option<String>,
    /// Seconds from the beginning of converge to the step's own.
    pub began_s: f64,
    /// Seconds of looking at it.
    pub look_s: f64,
    /// Seconds of installing it.
    pub install_s: f64,
    /// Seconds of waiting for it.
    pub ready_s: f64,
    /// Processor seconds that the cluster's nodes used from its beginning to its end; steps side by side share them.
    pub cpu_s: f64,
    /// What was waited for.
    pub waited_for: String,
    /// Why it failed or what blocked it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// What converge came to.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// Every step that was chosen, in the order of the graph.
    pub steps: Vec<StepReport>,
    /// Seconds in all.
    pub seconds: f64,
    /// Processor seconds that the cluster's nodes used meanwhile, whatever for.
    pub cpu_seconds: f64,
    /// Every chosen step is as it should be.
    pub converged: bool,
}

/// The platform's graph.
///
/// # Errors
/// The components do not make a graph; a test rules it out.
pub fn graph(components: &[Box<dyn Component>]) -> Result<Graph> {
    Ok(Graph::new(components.iter().map(|c| Step::new(c.name(), c.needs(), c.after())).collect())?)
}

/// The plan; with `look`, what each component lacks now.
///
/// # Errors
/// The cluster could not be looked at.
pub async fn plan(site: &Site, look: bool) -> Result<Vec<PlannedStep>> {
    let components = components::all();
    let graph = graph(&components)?;
    let mut planned = Vec::new();
    for (wave, names) in graph.waves().into_iter().enumerate() {
        for component in components.iter().filter(|c| names.contains(&c.name())) {
            let wanting = match look {
                true => match component.state(site).await? {
                    State::Converged => None,
                    State::Wanting(what) => Some(what),
                },
                false => None,
            };
            let owned = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect();
            planned.push(PlannedStep {
                name: component.name().to_owned(),
                what: component.what().to_owned(),
                version: component.version(site),
                needs: owned(component.needs()),
                after: owned(component.after()),
                gives: component.gives().to_vec(),
                readiness: component.readiness().to_owned(),
                wave,
                wanting,
            });
        }
    }
    Ok(planned)
}

/// Converges everything, or one component and what it needs.
///
/// # Errors
/// As [`converge_telling`].
pub async fn converge(site: &Site, only: Option<&str>) -> Result<Report> {
    converge_telling(site, only, &|_| {}).await
}

/// [`converge`], and tells `ended` of each step as it ends.
///
/// A step that fails does not stop those that do not need it: the report tells all of it.
///
/// # Errors
/// No component has the name asked for, or the mark of convergence could not be written.
pub async fn converge_telling(site: &Site, only: Option<&str>, ended: &(dyn Fn(&StepReport) + Sync)) -> Result<Report> {
    let began = Instant::now();
    let cpu_before = (site.cpu_time)();
    let components = components::all();
    let graph = graph(&components)?;
    let chosen: BTreeSet<String> = match only {
        Some(name) => graph.closure(name)?,
        None => graph.steps().iter().map(|s| s.name.clone()).collect(),
    };
    let by_name: BTreeMap<&str, &dyn Component> = components.iter().map(|c| (c.name(), c.as_ref())).collect();
    let timings: Mutex<BTreeMap<String, StepReport>> = Mutex::default();
    let outcomes = graph
        .run(&chosen, |name| {
            let component = by_name.get(name).copied();
            let timings = &timings;
            let name = name.to_owned();
            async move {
                let component = component.ok_or_else(|| StackError::Unfit(format!("no component {name}")))?;
                let mut report = blank(component, site, began.elapsed());
                let cpu = (site.cpu_time)();
                let result = step(site, component, &mut report).await;
                report.cpu_s = (site.cpu_time)().saturating_sub(cpu).as_secs_f64();
                if let Err(error) = &result {
                    report.ended = Ended::Failed;
                    report.error = Some(error.to_string());
                }
                ended(&report);
                if let Ok(mut timings) = timings.lock() {
                    timings.insert(name, report);
                }
                result
            }
        })
        .await;
    let mut done = timings.into_inner().unwrap_or_default();
    let mut steps = Vec::new();
    for (step, outcome) in graph.steps().iter().filter_map(|s| outcomes.get(&s.name).map(|o| (s, o))) {
        if let Some(report) = done.remove(&step.name) {
            steps.push(report);
        } else if let (Outcome::Blocked(by), Some(component)) = (outcome, by_name.get(step.name.as_str())) {
            let mut report = blank(*component, site, began.elapsed());
            report.ended = Ended::Blocked;
            report.error = Some(format!("it needs {by}"));
            steps.push(report);
        }
    }
    let converged = steps.iter().all(|s| matches!(s.ended, Ended::Unchanged | Ended::Installed));
    if converged && only.is_none() {
        mark(site, &steps).await?;
    }
    let cpu_seconds = (site.cpu_time)().saturating_sub(cpu_before).as_secs_f64();
    Ok(Report { steps, seconds: began.elapsed().as_secs_f64(), cpu_seconds, converged })
}

/// Takes one component away; what needs it stays and will fail.
///
/// # Errors
/// No component has the name, or it could not be removed.
pub async fn remove(site: &Site, name: &str) -> Result<()> {
    let components = components::all();
    graph(&components)?.closure(name)?;
    match components.iter().find(|c| c.name() == name) {
        Some(component) => component.remove(site).await,
        None => Ok(()),
    }
}

/// Whether the platform on this cluster has been complete once.
///
/// # Errors
/// The API does not answer.
pub async fn was_converged(client: &kube::Client) -> Result<bool> {
    let api: Api<ConfigMap> = Api::namespaced(client.clone(), "kube-system");
    Ok(api.get_opt(CONVERGED).await.map_err(|e| StackError::api("look for the mark of convergence", e))?.is_some())
}

async fn step(site: &Site, component: &dyn Component, report: &mut StepReport) -> Result<()> {
    let mut clock = Instant::now();
    let mut lap = || {
        let seconds = clock.elapsed().as_secs_f64();
        clock = Instant::now();
        seconds
    };
    let state = while_api_is_away(site, component, || component.state(site)).await?;
    report.look_s = lap();
    if let State::Wanting(what) = state {
        report.wanted = Some(what);
        site.sink.emit(Event::Fixture { name: component.name().to_owned(), up: true });
        let installed = while_api_is_away(site, component, || component.install(site)).await;
        report.install_s = lap();
        installed?;
        report.ended = Ended::Installed;
    }
    let ready = while_api_is_away(site, component, || component.ready(site)).await;
    report.ready_s = lap();
    ready
}

/// Does it again while the API cannot be reached: an apiserver may be rolled beside this step. Every operation of a
/// component may be repeated; whatever else it says ends it.
async fn while_api_is_away<'a, T: 'a, F>(site: &Site, component: &dyn Component, mut act: F) -> Result<T>
where
    F: FnMut() -> BoxFuture<'a, Result<T>>,
{
    let began = Instant::now();
    loop {
        match act().await {
            Err(error) if error.is_of_an_api_away() && began.elapsed() < API_AWAY => {
                site.saw(component.name(), "the API", &error.to_string());
                tokio::time::sleep(PAUSE).await;
            }
            other => return other,
        }
    }
}

fn blank(component: &dyn Component, site: &Site, began: Duration) -> StepReport {
    StepReport {
        name: component.name().to_owned(),
        version: component.version(site),
        ended: Ended::Unchanged,
        wanted: None,
        began_s: began.as_secs_f64(),
        look_s: 0.0,
        install_s: 0.0,
        ready_s: 0.0,
        cpu_s: 0.0,
        waited_for: component.readiness().to_owned(),
        error: None,
    }
}

/// Writes the mark into the cluster and beside its state. After everything else: a converge that was cut off leaves none.
async fn mark(site: &Site, steps: &[StepReport]) -> Result<()> {
    let versions: BTreeMap<&str, &str> = steps.iter().map(|s| (s.name.as_str(), s.version.as_str())).collect();
    let object = json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": CONVERGED, "namespace": "kube-system"},
        "data": versions,
    });
    site.applier.apply(&[object]).await?;
    let path = site.state_dir.join("converged.json");
    let temporary = path.with_extension("json.new");
    let bytes = serde_json::to_vec_pretty(&versions).unwrap_or_default();
    std::fs::write(&temporary, bytes)
        .and_then(|()| std::fs::File::open(&temporary)?.sync_all())
        .and_then(|()| std::fs::rename(&temporary, &path))
        .map_err(|e| StackError::file(format!("write {}", path.display()), e))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_components_make_a_graph() {
        let components = components::all();
        let graph = graph(&components).unwrap();
        insta::assert_yaml_snapshot!(graph.waves());
    }

    #[test]
    fn whoever_writes_secrets_goes_before_or_after_the_apiservers() {
        let components = components::all();
        let graph = graph(&components).unwrap();
        let position = |name: &str| graph.steps().iter().position(|s| s.name == name).unwrap();
        for step in ["cilium", "secret"] {
            assert!(position(step) < position("apiservers"));
        }
        for step in ["viewer", "argocd"] {
            assert!(position(step) > position("apiservers"));
            assert!(graph.steps()[position(step)].after.contains(&"apiservers".to_owned()));
        }
    }
}
