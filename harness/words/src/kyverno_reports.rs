//! PolicyReports: which workloads have one, and whether its counts are those of its results.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use shakedown_core::{Answer, Finding, Judgement, Observation, Resource, Touches, UndoStep, wait_for};
use shakedown_engine::{Cx, Expect, ObserveError, PlantError, Prepared, Probe, Sabotage};

use crate::change::Signal;
use crate::kyverno::{Controller, POLICIES, up_or_down};
use crate::objects::ObjectRef;
use crate::platform::Platform;
use crate::undo::as_found;

/// API version of the reports.
const VERSION: &str = "wgpolicyk8s.io/v1alpha2";
/// Namespaces of checks come and go.
const OURS: &str = "shakedown-";
/// For the scan to catch up with what was just made: it begins half a minute later.
const CATCHING_UP: Duration = Duration::from_secs(90);
/// How long a stopped controller's Pods may take to go.
const STOPPING: Duration = Duration::from_secs(120);

/// One report.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// Its own name.
    pub name: String,
    /// UID of what it is about.
    pub about: String,
    /// The columns PASS, FAIL, WARN, ERROR and SKIP.
    pub summary: BTreeMap<String, u64>,
    /// The same, counted in its results.
    pub counted: BTreeMap<String, u64>,
    /// Results of the documented policies: policy to result.
    pub documented: BTreeMap<String, String>,
}

/// A workload and its reports.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Workload {
    /// Its UID.
    pub uid: String,
    /// Reports whose scope names it.
    pub reports: Vec<Report>,
}

/// What the probe saw: `KIND NAMESPACE/NAME` to workload.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reports {
    /// Deployments, StatefulSets and DaemonSets of all namespaces but those of checks.
    pub workloads: BTreeMap<String, Workload>,
}

impl Observation for Reports {
    const SCHEMA: &'static str = "kyverno-reports/1";
}

/// Looks at the reports about all workloads.
#[derive(Debug, Clone, Copy)]
pub struct AboutWorkloads;

impl Probe<Platform> for AboutWorkloads {
    type Seen = Reports;

    fn touches(&self) -> Touches {
        Touches::nothing()
            .reads(Controller::Admission.lock())
            .reads(Controller::Reports.lock())
            .reads(Resource::Component("cluster-wide".to_owned()))
    }

    async fn observe(&self, platform: &Platform, cx: &Cx) -> Result<Reports, ObserveError> {
        let last = Mutex::new(Err("nothing yet".to_owned()));
        // A workload of a moment ago is scanned within seconds: the last look counts, whatever it shows.
        let _ = wait_for("a report about every workload", CATCHING_UP.min(cx.budget.mul_f32(0.7)), || async {
            let now = look(platform).await;
            let answer = match &now {
                Ok(seen) => match every_workload_is_reported().judge(seen) {
                    Judgement::Pass => Answer::Ready(()),
                    other => Answer::NotYet(format!("{other:?}")),
                },
                Err(why) => Answer::NotYet(why.clone()),
            };
            if let Ok(mut last) = last.lock() {
                *last = now;
            }
            answer
        })
        .await;
        let last = last.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner());
        last.map_err(ObserveError::no_ground)
    }
}

async fn look(platform: &Platform) -> Result<Reports, String> {
    let mut seen = Reports::default();
    for kind in ["Deployment", "StatefulSet", "DaemonSet"] {
        for object in platform.list("apps/v1", kind, None, None).await.map_err(|e| e.to_string())? {
            let (namespace, name) = (text(&object["metadata"]["namespace"]), text(&object["metadata"]["name"]));
            if !namespace.starts_with(OURS) {
                let uid = text(&object["metadata"]["uid"]);
                seen.workloads.insert(format!("{kind} {namespace}/{name}"), Workload { uid, reports: vec![] });
            }
        }
    }
    for report in platform.list(VERSION, "PolicyReport", None, None).await.map_err(|e| e.to_string())? {
        let scope = &report["scope"];
        let about = format!("{} {}/{}", text(&scope["kind"]), text(&scope["namespace"]), text(&scope["name"]));
        if let Some(workload) = seen.workloads.get_mut(&about) {
            workload.reports.push(read(&report));
        }
    }
    Ok(seen)
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn read(report: &Value) -> Report {
    let results = report["results"].as_array().cloned().unwrap_or_default();
    let mut counted: BTreeMap<String, u64> = COLUMNS.map(|column| (column.to_owned(), 0)).into();
    for result in &results {
        *counted.entry(text(&result["result"])).or_default() += 1;
    }
    let documented = results.iter().filter(|r| POLICIES.iter().any(|policy| r["policy"] == *policy));
    Report {
        name: text(&report["metadata"]["name"]),
        about: text(&report["scope"]["uid"]),
        summary: COLUMNS.map(|c| (c.to_owned(), report["summary"][c].as_u64().unwrap_or_default())).into(),
        counted,
        documented: documented.map(|r| (text(&r["policy"]), text(&r["result"]))).collect(),
    }
}

/// The document's columns, in small letters.
const COLUMNS: [&str; 5] = ["pass", "fail", "warn", "error", "skip"];

/// Each workload has exactly one report, named after its UID, with sums that agree with the results, and a result for
/// each documented policy that applies to its kind: three, or two where the kind is not one of the label policy's.
pub struct EveryWorkload;

/// See [`EveryWorkload`].
pub fn every_workload_is_reported() -> EveryWorkload {
    EveryWorkload
}

impl Expect<Reports> for EveryWorkload {
    fn judge(&self, seen: &Reports) -> Judgement {
        if seen.workloads.is_empty() {
            return Judgement::Inconclusive("there are no workloads".to_owned());
        }
        let mut findings = vec![];
        for (about, workload) in &seen.workloads {
            let [report] = workload.reports.as_slice() else {
                let (code, found) = match workload.reports.len() {
                    0 => ("report-missing", "no report is about it".to_owned()),
                    many => ("report-doubled", format!("{many} reports are about it")),
                };
                findings.push(Finding::new(code, about, found));
                continue;
            };
            let mut expect = |code: &str, holds: bool| {
                if !holds {
                    findings.push(Finding::new(code, about, format!("{report:?}")));
                }
            };
            expect("name-differs", report.name == workload.uid && report.about == workload.uid);
            expect("sums-differ", report.summary == report.counted);
            expect("results-differ", report.documented.keys().copied_names() == applying_to(about));
        }
        Judgement::from_findings(findings)
    }
}

trait CopiedNames<'a> {
    fn copied_names(self) -> BTreeSet<&'a str>;
}

impl<'a, I: Iterator<Item = &'a String>> CopiedNames<'a> for I {
    fn copied_names(self) -> BTreeSet<&'a str> {
        self.map(String::as_str).collect()
    }
}

/// The documented policies that apply to a kind.
fn applying_to(about: &str) -> BTreeSet<&'static str> {
    let labelled = about.starts_with("Deployment ") || about.starts_with("StatefulSet ");
    POLICIES.into_iter().filter(|policy| labelled || *policy != "require-app-label").collect()
}

/// The reports about these workloads have these results of the documented policies: PASS and FAIL, the rest zero.
pub struct Counts(&'static [(&'static str, u64, u64)]);

/// `KIND NAMESPACE/NAME`, PASS and FAIL.
pub fn counts(rows: &'static [(&'static str, u64, u64)]) -> Counts {
    Counts(rows)
}

impl Expect<Reports> for Counts {
    fn judge(&self, seen: &Reports) -> Judgement {
        let mut findings = vec![];
        for (about, pass, fail) in self.0 {
            let Some(workload) = seen.workloads.get(*about) else {
                return Judgement::Inconclusive(format!("there is no {about}"));
            };
            let Some(report) = workload.reports.first() else {
                findings.push(Finding::new("report-missing", *about, "no report is about it"));
                continue;
            };
            let of = |result: &str| report.documented.values().filter(|r| *r == result).count() as u64;
            if (of("pass"), of("fail"), report.documented.len() as u64) != (*pass, *fail, pass + fail) {
                let message = format!("expected PASS {pass}, FAIL {fail}, is {:?}", report.documented);
                findings.push(Finding::new("counts-differ", *about, message));
            }
        }
        Judgement::from_findings(findings)
    }
}

/// The results in the report about an object, as one line.
pub fn results_about(object: ObjectRef) -> Signal {
    Box::new(move |platform, _| {
        let object = object.clone();
        Box::pin(async move {
            let report = report_about(platform, &object).await?;
            let live = platform.get(&report).await.map_err(|e| e.to_string())?.unwrap_or_default();
            Ok(format!("{:?}", read(&live).documented))
        })
    })
}

async fn report_about(platform: &Platform, object: &ObjectRef) -> Result<ObjectRef, String> {
    let live = platform.get(object).await.map_err(|e| e.to_string())?.unwrap_or_default();
    let uid = live["metadata"]["uid"].as_str().ok_or_else(|| format!("there is no {object}"))?;
    Ok(ObjectRef::namespaced(VERSION, "PolicyReport", object.namespace.as_deref().unwrap_or_default(), uid))
}

/// A report is deleted while nobody writes reports.
pub struct ReportRemoved(ObjectRef);

/// The report about this object is gone, and its controller is stopped.
pub fn report_removed(about: ObjectRef) -> ReportRemoved {
    ReportRemoved(about)
}

impl Sabotage<Platform> for ReportRemoved {
    type Choice = ObjectRef;

    fn describe(&self) -> String {
        format!("the reports controller is stopped and the report about {} deleted", self.0)
    }

    fn touches(&self) -> Touches {
        Touches::nothing().writes(Controller::Reports.lock())
    }

    async fn prepare(&self, platform: &Platform) -> Result<Prepared<ObjectRef>, PlantError> {
        let report = report_about(platform, &self.0).await.map_err(PlantError::new)?;
        let undo: Vec<UndoStep> = vec![
            as_found(platform, &Controller::Reports.deployment()).await.map_err(PlantError::new)?,
            as_found(platform, &report).await.map_err(PlantError::new)?,
        ];
        Ok(Prepared::new(report, undo))
    }

    async fn plant(&self, platform: &Platform, report: &ObjectRef) -> Result<(), PlantError> {
        let patch = serde_json::json!({"spec": {"replicas": 0}});
        let deployment = Controller::Reports.deployment();
        platform.patch(&deployment, crate::api::Patch::Merge, &patch).await.map_err(PlantError::new)?;
        awaited(platform, "down").await?;
        platform.delete_and_wait(report, STOPPING).await.map_err(PlantError::new)
    }

    async fn settled(&self, platform: &Platform) -> Result<(), PlantError> {
        awaited(platform, "up").await
    }
}

async fn awaited(platform: &Platform, wanted: &str) -> Result<(), PlantError> {
    wait_for(&format!("the reports controller to be {wanted}"), STOPPING, || async {
        match up_or_down(platform, Controller::Reports).await {
            Ok(now) if now == wanted => Answer::Ready(()),
            Ok(other) | Err(other) => Answer::NotYet(other),
        }
    })
    .await
    .map_err(PlantError::new)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::codes;
    use serde_json::json;

    fn seen(results: &[(&str, &str)]) -> Reports {
        let list: Vec<_> = results.iter().map(|(policy, result)| json!({"policy": policy, "result": result})).collect();
        let count = |wanted: &str| results.iter().filter(|(_, result)| *result == wanted).count();
        let report = read(&json!({
            "metadata": {"name": "u"}, "scope": {"uid": "u"}, "results": list,
            "summary": {"pass": count("pass"), "fail": count("fail"), "warn": 0, "error": 0, "skip": 0},
        }));
        let workload = Workload { uid: "u".into(), reports: vec![report] };
        Reports { workloads: BTreeMap::from([("Deployment n/d".to_owned(), workload)]) }
    }

    const ALL: &[(&str, &str)] =
        &[("disallow-latest-tag", "pass"), ("require-app-label", "pass"), ("require-resources", "fail")];

    #[test]
    fn a_complete_report_is_accepted_and_every_lack_is_named() {
        let judged = |seen: &Reports| codes(every_workload_is_reported().judge(seen));
        assert!(judged(&seen(ALL)).is_empty());
        assert_eq!(judged(&seen(&ALL[..2])), ["results-differ"]);
        let mut other = seen(ALL);
        let workload = other.workloads.get_mut("Deployment n/d").unwrap();
        workload.reports[0].summary.insert("pass".into(), 3);
        workload.reports[0].name = "x".into();
        assert_eq!(judged(&other), ["name-differs", "sums-differ"]);
        let report = workload_reports(&mut other).pop().unwrap();
        assert_eq!(judged(&other), ["report-missing"]);
        workload_reports(&mut other).extend([report.clone(), report]);
        assert_eq!(judged(&other), ["report-doubled"]);
    }

    fn workload_reports(seen: &mut Reports) -> &mut Vec<Report> {
        &mut seen.workloads.get_mut("Deployment n/d").unwrap().reports
    }

    #[test]
    fn counts_are_those_of_the_documented_policies() {
        let judged = |seen: &Reports| codes(counts(&[("Deployment n/d", 2, 1)]).judge(seen));
        assert!(judged(&seen(ALL)).is_empty());
        assert_eq!(judged(&seen(&ALL[..2])), ["counts-differ"]);
        let with_another = [ALL, &[("another", "fail")]].concat();
        assert!(judged(&seen(&with_another)).is_empty());
    }
}
