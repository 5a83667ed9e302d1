//! PolicyReports: about everything that is there, also from before the policies; audit first, enforce later.

use std::time::Duration;

use serde_json::{Value, json};
use shakedown_core::Capability::{Cilium, Kyverno};
use shakedown_engine::{Check, check, finds, fixture};
use shakedown_words::kyverno::{Controller, LABEL, bent, pod, policy, within};
use shakedown_words::kyverno_await::Await;
use shakedown_words::kyverno_facts::{Want, admitted, facts, refused};
use shakedown_words::kyverno_reports::{
    AboutWorkloads, counts, every_workload_is_reported, report_removed, results_about,
};
use shakedown_words::kyverno_scene::{Scene, scene};
use shakedown_words::{ObjectRef, Platform, change};

use super::kyverno_common::{IMAGE, LATER, SCENES, demands, own_policy, stage};
use super::kyverno_scenes::{in_scenes, labelled};

/// A scan begins half a minute after a change; on a busy machine it takes a while.
const SCANNED: Duration = Duration::from_secs(150);

/// Twice the time in which a controller that runs has scanned.
const IN_VAIN: Duration = Duration::from_secs(75);

/// The checks of reports.
pub fn checks() -> Vec<Check<Platform>> {
    vec![
        every_workload_has_a_report(),
        documented_counts(),
        older_pods_are_only_reported(),
        audit_then_enforce(),
        reports_controller_reports(),
    ]
}

fn operator() -> ObjectRef {
    ObjectRef::namespaced("apps/v1", "Deployment", "kube-system", "cilium-operator")
}

fn every_workload_has_a_report() -> Check<Platform> {
    check("kyverno.every-workload-has-a-report")
        .asserts(["KYV-040"])
        .needs([Kyverno])
        .within(Duration::from_secs(150))
        .observe(AboutWorkloads)
        .expect(every_workload_is_reported())
        .sabotage(
            report_removed(ObjectRef::namespaced("apps/v1", "Deployment", "kube-system", "coredns")),
            finds("report-missing"),
        )
        .remedy("look at `kubectl -n kyverno logs deployment/kyverno-reports-controller`")
}

fn documented_counts() -> Check<Platform> {
    let gone = change::deleted("ClusterPolicy require-resources is deleted", policy("require-resources"));
    check("kyverno.reports-count-the-policies-that-apply")
        .asserts(["KYV-042", "KYV-043", "KYV-044"])
        .needs([Kyverno, Cilium])
        .within(Duration::from_secs(150))
        .observe(AboutWorkloads)
        .expect(counts(&[("Deployment kube-system/cilium-operator", 2, 1), ("DaemonSet kube-system/cilium", 1, 1)]))
        .sabotage(bent(gone.shown_by(results_about(operator()))), finds("counts-differ"))
        .remedy("`shakedown converge` writes the three policies; Cilium's chart sets no requests")
}

/// A Pod with a tag and without requests.
fn without_requests(name: &str) -> Value {
    within(LATER, pod(name, IMAGE, json!({})))
}

fn older_pods_are_only_reported() -> Check<Platform> {
    let older = ObjectRef::namespaced("v1", "Pod", LATER, "older");
    let namespace = || ObjectRef::cluster("v1", "Namespace", LATER);
    let bind = |scene: Scene| {
        let bound = json!({"metadata": {"labels": {LABEL: "enforced"}}});
        scene.changing(namespace(), bound).once(Await::Refused(without_requests("ground"), "require-resources"))
    };
    let asked = |policies_first: bool| {
        let empty = scene().depending_on(Controller::Reports).alone_in(LATER);
        let made = |scene: Scene| scene.creating("older", without_requests("older"));
        (if policies_first { made(bind(empty)) } else { bind(made(empty)) })
            .reading("first", older.clone(), "/metadata/uid")
            .seeing("passes", Await::Reported(older.clone(), "disallow-latest-tag".into(), "pass"), SCANNED)
            .seeing("fails", Await::Reported(older.clone(), "require-resources".into(), "fail"), SCANNED)
            .seeing("runs", Await::Is(older.clone(), "/status/phase", json!("Running")), SCANNED)
            .trying("newer", without_requests("newer"))
            .reading("still", older.clone(), "/metadata/uid")
    };
    check("kyverno.older-pods-are-only-reported")
        .asserts(["KYV-041", "KYV-045"])
        .needs([Kyverno])
        .within(Duration::from_secs(420))
        .observe(asked(false))
        .with(fixture(stage()))
        .expect(facts(vec![
            ("older", admitted()),
            ("passes", Want::Comes),
            ("fails", Want::Comes),
            ("runs", Want::Comes),
            ("newer", refused(&["require-resources"])),
            ("still", Want::SameAs("first")),
        ]))
        .sabotage_input("the policies bind before the Pod is made", asked(true), finds("refused"))
        .remedy("a policy does not touch what runs: read its report, mend it, restart it")
}

/// A policy about Pods whose names begin with `team-`, which takes part in background scans.
fn wants_a_team(action: &str) -> Value {
    let mut made = own_policy(
        "shakedown-team",
        "Pod",
        "team-*",
        demands("a team", json!({"metadata": {"labels": {"team": "?*"}}})),
    );
    made["spec"]["validationFailureAction"] = action.into();
    made["spec"]["background"] = true.into();
    made
}

fn audit_then_enforce() -> Check<Platform> {
    let team = || ObjectRef::namespaced("v1", "Pod", SCENES, "team-a");
    let own = || ObjectRef::namespaced("kyverno.io/v1", "Policy", SCENES, "shakedown-team");
    let asked = |mended: bool| {
        let audited = scene()
            .depending_on(Controller::Reports)
            .making(wants_a_team("Audit"))
            .once(Await::Ready(own()))
            .creating("audited", in_scenes("team-a"))
            .seeing("reported", Await::Reported(team(), "shakedown-team".into(), "fail"), SCANNED);
        let (before, restarted) = if mended {
            let labels = json!({"metadata": {"labels": {"team": "a"}}});
            let clean = Await::Reported(team(), "shakedown-team".into(), "pass");
            (audited.changing(team(), labels).once(clean), labelled(in_scenes("team-b"), "team", "a"))
        } else {
            (audited, in_scenes("team-b"))
        };
        before
            .changing(own(), json!({"spec": {"validationFailureAction": "Enforce"}}))
            .once(Await::Refused(in_scenes("team-ground"), "shakedown-team"))
            .trying("restarted", restarted)
    };
    check("kyverno.audit-first-then-enforce")
        .asserts(["KYV-046"])
        .needs([Kyverno])
        .within(Duration::from_secs(420))
        .observe(asked(true))
        .with(fixture(stage()))
        .expect(facts(vec![("audited", admitted()), ("reported", Want::Comes), ("restarted", admitted())]))
        .sabotage_input("the switch comes with one failure left", asked(false), finds("refused"))
        .remedy("switch to Enforce once no report counts a failure")
}

fn reports_controller_reports() -> Check<Platform> {
    let broken = || ObjectRef::namespaced("v1", "Pod", LATER, "unscanned");
    let asked = |stopped: bool| {
        let (begun, within) = if stopped {
            let stopped = scene()
                .bending(Controller::Reports)
                .changing(Controller::Reports.deployment(), json!({"spec": {"replicas": 0}}))
                .once(Await::Down(Controller::Reports));
            (stopped, IN_VAIN)
        } else {
            (scene().depending_on(Controller::Reports), SCANNED)
        };
        let reported = Await::Reported(broken(), "require-resources".into(), "fail");
        begun.creating("made", without_requests("unscanned")).seeing("reported", reported, within)
    };
    check("kyverno.reports-controller-writes-the-reports")
        .asserts(["KYV-022"])
        .needs([Kyverno])
        .within(Duration::from_secs(240))
        .observe(asked(false))
        .with(fixture(stage()))
        .expect(facts(vec![("made", admitted()), ("reported", Want::Comes)]))
        .sabotage_input("the reports controller is scaled to 0 first", asked(true), finds("missing"))
        .remedy("`kubectl -n kyverno scale deployment kyverno-reports-controller --replicas=1`")
}
