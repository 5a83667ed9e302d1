//! Kyverno's webhook when nobody answers it: the start-up race, failurePolicy Fail and Ignore, and whom the
//! filters leave out. The network keeps the admission controller from being reached, as a broken link would: stopped for
//! longer than it may lead it ends, and scaled to 0 it takes its own webhooks away, and everything is admitted.
//!
//! None of this is tagged exclusive: Kyverno is asked about labelled namespaces only, and the lock of its webhooks keeps
//! the checks of this area apart.

use std::time::Duration;

use serde_json::{Value, json};
use shakedown_core::Capability::{Cilium, Kyverno, Nodes5};
use shakedown_engine::{Check, Tag, check, finds, fixture};
use shakedown_words::change::patched;
use shakedown_words::kyverno::{
    Controller, DEMO, LABEL, NAMESPACE, POLICIES, answers_to, bent, pod, policy, requests, webhook_names, within,
};
use shakedown_words::kyverno_await::Await;
use shakedown_words::kyverno_facts::{Want, admitted, facts, refused};
use shakedown_words::kyverno_restart::{killed, serves_after_it_runs_and_within, unnoticed};
use shakedown_words::kyverno_scene::{Scene, scene};
use shakedown_words::{ObjectRef, Platform, manifest};

use super::kyverno_common::{IMAGE, LATER, SCENES, compliant, scenario, stage};

/// After a while of standing still everything is served again within this.
const SERVED: Duration = Duration::from_secs(60);

/// A scan begins half a minute after a change; on a busy machine it takes a while.
const SCANNED: Duration = Duration::from_secs(150);

/// The checks of outages.
pub fn checks() -> Vec<Check<Platform>> {
    vec![
        silent_webhook_runs_into_its_deadline(),
        fail_refuses_what_is_asked_about(),
        ignore_lets_everything_pass(),
        webhook_serves_after_it_runs(),
        one_of_three_is_not_missed(),
        system_namespaces_are_left_out(),
    ]
}

fn good(name: &str) -> Value {
    within(DEMO, compliant(name))
}

fn silent_webhook_runs_into_its_deadline() -> Check<Platform> {
    const SAYING: &[&str] = &[
        "Internal error occurred: failed calling webhook \"validate.kyverno.svc-fail\": failed to call webhook: Post \
         \"https://kyverno-svc.kyverno.svc:443/validate/fail?timeout=10s\": context deadline exceeded",
    ];
    const AGAIN: [&str; 10] = ["1st", "2nd", "3rd", "4th", "5th", "6th", "7th", "8th", "9th", "10th"];
    let asked = |cut: bool| {
        let first = if cut { scene().cutting_off() } else { scene().bending(Controller::Admission) };
        let back = first
            .creating("cut-off", good("impatient"))
            .reading("stored", ObjectRef::namespaced("v1", "Pod", DEMO, "impatient"), "/metadata/name")
            .reconnecting()
            .seeing("served", Await::Admitted(good("patient")), SERVED);
        AGAIN.into_iter().fold(back, |scene, case| scene.trying(case, good("patient")))
    };
    let again = AGAIN.into_iter().map(|case| (case, admitted()));
    let expected = [
        ("cut-off", Want::CallFailed(SAYING)),
        ("cut-off", Want::Took(9_000, 60_000)),
        ("stored", Want::Absent),
        ("served", Want::Comes),
    ];
    check("kyverno.silent-webhook-runs-into-its-deadline")
        .asserts(["KYV-047", "KYV-050"])
        .needs([Kyverno, Cilium])
        .within(Duration::from_secs(300))
        .observe(asked(true))
        .expect(facts(expected.into_iter().chain(again).collect()))
        .sabotage_omitting("the webhook can be reached", asked(false), finds("answered"))
        .remedy("try again; for production run three admission controllers")
}

fn ignored() -> Value {
    json!({"spec": {"failurePolicy": "Ignore"}})
}

fn exempted(name: &str) -> Value {
    within(SCENES, pod(name, "nginx:latest", requests()))
}

fn labelled_deployment() -> Value {
    let mut manifest = scenario(0);
    manifest["metadata"]["labels"]["app.kubernetes.io/name"] = "while-down".into();
    manifest
}

fn fail_refuses_what_is_asked_about() -> Check<Platform> {
    const SAYING: &[&str] = &["failed calling webhook \"validate.kyverno.svc-fail\""];
    let service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "while-down", "namespace": DEMO},
        "spec": {"ports": [{"port": 80}]},
    });
    let ignore = POLICIES.iter().map(|name| patched("failurePolicy is Ignore", policy(name), ignored()));
    let ignore = ignore.reduce(shakedown_words::change::Change::and);
    let check = check("kyverno.fail-refuses-what-it-is-asked-about-while-down")
        .asserts(["KYV-053"])
        .contradicts(["KYV-055"])
        .needs([Kyverno, Cilium])
        .within(Duration::from_secs(300))
        .observe(
            scene()
                .making(manifest!("exception.yaml"))
                .once(Await::Admitted(exempted("exempt-up")))
                .cutting_off()
                .trying_all(vec![
                    ("pod", good("while-down")),
                    ("deployment", labelled_deployment()),
                    ("exempted-pod", exempted("exempt-down")),
                    ("service", service),
                    ("system-pod", within("kube-system", pod("while-down", IMAGE, json!({})))),
                    ("pod-elsewhere", within(LATER, compliant("while-down"))),
                ])
                .reading("read", ObjectRef::cluster("v1", "Namespace", DEMO), "/metadata/name")
                .reconnecting()
                .seeing("served", Await::Admitted(good("while-up")), SERVED),
        )
        .with(fixture(stage()))
        .expect(facts(vec![
            ("pod", Want::CallFailed(SAYING)),
            ("deployment", Want::CallFailed(SAYING)),
            ("exempted-pod", Want::CallFailed(SAYING)),
            ("service", admitted()),
            ("system-pod", admitted()),
            ("pod-elsewhere", admitted()),
            ("read", Want::Value(json!(DEMO))),
            ("served", Want::Comes),
        ]));
    let ignore = ignore.unwrap_or_else(|| patched("nothing", policy(POLICIES[0]), ignored()));
    check.sabotage(bent(ignore.shown_by(webhook_names())), finds("answered")).remedy(
        "leave system namespaces out by the webhooks' namespaceSelector: an exception needs a Kyverno that runs",
    )
}

fn ignore_lets_everything_pass() -> Check<Platform> {
    let violating = |name: &str| within(DEMO, pod(name, IMAGE, json!({})));
    let first = || ObjectRef::namespaced("v1", "Pod", DEMO, "slipped-through");
    let configuration = || {
        let name = "kyverno-resource-validating-webhook-cfg";
        ObjectRef::cluster("admissionregistration.k8s.io/v1", "ValidatingWebhookConfiguration", name)
    };
    let asked = |ignore: bool| {
        let set = |scene: Scene| {
            let changed = POLICIES.iter().fold(scene, |scene, name| scene.changing(policy(name), ignored()));
            let only = Await::Is(configuration(), "/webhooks/0/name", json!("validate.kyverno.svc-ignore"));
            changed.once(only)
        };
        let begun = scene().depending_on(Controller::Reports);
        (if ignore { set(begun) } else { begun })
            .cutting_off()
            .creating("violating", violating("slipped-through"))
            .trying_all(vec![("compliant", good("slipped-in"))])
            .reconnecting()
            .seeing("refuses-again", Await::Refused(violating("too-late"), "require-resources"), SERVED)
            .seeing("reported", Await::Reported(first(), "require-resources".into(), "fail"), SCANNED)
    };
    check("kyverno.ignore-lets-everything-pass-while-down")
        .asserts(["KYV-052", "KYV-054"])
        .needs([Kyverno, Cilium])
        .within(Duration::from_secs(500))
        .observe(asked(true))
        .expect(facts(vec![
            ("violating", admitted()),
            ("compliant", admitted()),
            ("compliant", Want::Took(9_000, 60_000)),
            ("refuses-again", Want::Comes),
            ("reported", Want::Comes),
        ]))
        .sabotage_omitting("failurePolicy is left at Fail", asked(false), finds("call-failed"))
        .remedy("with failurePolicy Ignore read the reports after an outage")
}

fn webhook_serves_after_it_runs() -> Check<Platform> {
    check("kyverno.webhook-serves-after-it-runs")
        .asserts(["KYV-048", "KYV-049"])
        .needs([Kyverno])
        .tag(Tag::Slow)
        .within(Duration::from_secs(400))
        .observe(killed(scenario(1), 1))
        .expect(serves_after_it_runs_and_within(Duration::from_secs(60)))
        .sabotage_omitting("nobody is killed", killed(scenario(1), 1).undisturbed(), finds("no-gap"))
        .remedy("the first minute after a start: try again")
}

fn one_of_three_is_not_missed() -> Check<Platform> {
    check("kyverno.one-of-three-admission-controllers-is-not-missed")
        .asserts(["KYV-051"])
        .needs([Cilium, Kyverno, Nodes5])
        .tag(Tag::Slow)
        .within(Duration::from_secs(400))
        .observe(killed(scenario(1), 1).of(3))
        .expect(unnoticed())
        .sabotage_input("there is only one of them", killed(scenario(1), 1).of(1), finds("requests-failed"))
        .remedy("`kubectl -n kyverno scale deployment kyverno-admission-controller --replicas=3`")
}

/// Kyverno's settings without kube-system among those left out.
fn system_namespaces_are_left_out() -> Check<Platform> {
    let sloppy = || within("kube-system", pod("sloppy", "nginx:latest", json!({})));
    let selector = json!({"namespaceSelector": {"matchExpressions": [
        {"key": "kubernetes.io/metadata.name", "operator": "NotIn", "values": [NAMESPACE]},
        {"key": LABEL, "operator": "Exists"},
    ]}});
    let settings = json!({"data": {"webhooks": selector.to_string(), "resourceFilters": "[Event,*,*] [Node,*,*]"}});
    let exposed = patched(
        "kube-system is not left out",
        ObjectRef::cluster("v1", "Namespace", "kube-system"),
        json!({"metadata": {"labels": {LABEL: "enforced"}}}),
    )
    .and(patched("filters", ObjectRef::namespaced("v1", "ConfigMap", NAMESPACE, "kyverno"), settings));
    check("kyverno.system-namespaces-are-left-out")
        .asserts(["KYV-062"])
        .needs([Kyverno])
        .tag(Tag::Exclusive)
        .observe(
            scene()
                .within("kube-system")
                .trying("system", sloppy())
                .trying("business", within(DEMO, pod("sloppy", "nginx:latest", json!({})))),
        )
        .expect(facts(vec![
            ("system", admitted()),
            ("business", refused(&["disallow-latest-tag", "require-resources"])),
        ]))
        .sabotage(bent(exposed.shown_by(answers_to(vec![sloppy()]))), finds("refused"))
        .remedy("keep kube-system in the namespaceSelector and the resourceFilters of ConfigMap kyverno/kyverno")
}
