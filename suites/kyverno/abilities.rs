//! What Kyverno can do beyond refusing: mutate, generate, verify, clean up, exempt. Policies of the checks' own.

use std::time::Duration;

use serde_json::{Value, json};
use shakedown_core::Capability::Kyverno;
use shakedown_engine::{Check, Tag, check, finds, fixture};
use shakedown_words::kyverno::{Controller, DEMO, LABEL, pod, requests, scaled_to_zero, within};
use shakedown_words::kyverno_await::Await;
use shakedown_words::kyverno_facts::{Want, admitted, facts, refused};
use shakedown_words::kyverno_scene::{Scene, scene};
use shakedown_words::{ObjectRef, Platform, manifest, manifests};

use super::kyverno_common::{IMAGE, LATER, SCENES, demands, own_policy, stage};
use super::kyverno_scenes::in_scenes;

/// A controller acts on what it sees within seconds; on a busy machine it takes a while.
const ACTED: Duration = Duration::from_secs(180);
/// A schedule of a minute, and its run.
const SCHEDULED: Duration = Duration::from_secs(100);
/// All schedules are of the same minute: where one of them has run, the others are about to.
const SAME_MINUTE: Duration = Duration::from_secs(45);
/// A whole minute in vain, and a little more.
const IN_VAIN: Duration = Duration::from_secs(70);
/// A policy is in force within seconds.
const SETTLED: Duration = Duration::from_secs(30);
/// Long enough for what a running controller does at once.
const QUIET: Duration = Duration::from_secs(8);

/// The checks of abilities.
pub fn checks() -> Vec<Check<Platform>> {
    vec![
        yaml_is_all_a_policy_needs(),
        locked_out_and_rescued(),
        pods_are_mutated(),
        objects_are_generated(),
        generation_needs_the_background_controller(),
        existing_pods_are_mutated(),
        due_objects_are_deleted(),
        exception_exempts_a_namespace(),
    ]
}

fn own(name: &str) -> ObjectRef {
    ObjectRef::namespaced("kyverno.io/v1", "Policy", SCENES, name)
}

fn yaml_is_all_a_policy_needs() -> Check<Platform> {
    let asked = |rule: Value| {
        scene()
            .creating("policy", own_policy("shakedown-plain", "Pod", "plain-*", rule))
            .seeing("ready", Await::Ready(own("shakedown-plain")), SETTLED)
            .seeing("blocks", Await::Refused(in_scenes("plain-a"), "shakedown-plain"), SETTLED)
    };
    let owned = || json!({"metadata": {"labels": {"owner": "?*"}}});
    let mut broken = demands("owner wanted", owned());
    broken["validate"]["anyPattern"] = json!([owned()]);
    check("kyverno.yaml-is-all-a-policy-needs")
        .asserts(["KYV-005"])
        .needs([Kyverno])
        .within(Duration::from_secs(150))
        .observe(asked(demands("owner wanted", owned())))
        .with(fixture(stage()))
        .expect(facts(vec![("policy", admitted()), ("ready", Want::Comes), ("blocks", Want::Comes)]))
        .sabotage_input("the rule has two kinds of pattern at once", asked(broken), finds("refused"))
        .remedy("look at the refusal of the policy: it names the field")
}

fn locked_out_and_rescued() -> Check<Platform> {
    let deployment = || {
        json!({
            "apiVersion": "apps/v1", "kind": "Deployment",
            "metadata": {"name": "locked-d", "namespace": SCENES, "labels": {"app.kubernetes.io/name": "locked"}},
            "spec": {
                "selector": {"matchLabels": {"app": "locked"}},
                "template": {
                    "metadata": {"labels": {"app": "locked"}},
                    "spec": {"containers": [{"name": "c", "image": IMAGE,
                        "resources": {"requests": {"cpu": "10m", "memory": "16Mi"}}}]},
                },
            },
        })
    };
    let asked = |action: &str| {
        let mut lock = own_policy(
            "shakedown-lock",
            "Pod",
            "locked-*",
            demands("nobody can meet this", json!({"metadata": {"annotations": {"locked": "impossible-?????"}}})),
        );
        lock["spec"]["validationFailureAction"] = action.into();
        if let Some(kinds) = lock.pointer_mut("/spec/rules/0/match/any/0/resources/kinds") {
            *kinds = json!(["Pod", "Deployment"]);
        }
        scene()
            .making(in_scenes("locked-before"))
            .once(Await::Is(
                ObjectRef::namespaced("v1", "Pod", SCENES, "locked-before"),
                "/status/phase",
                json!("Running"),
            ))
            .making(lock)
            .once(Await::Ready(own("shakedown-lock")))
            .seeing("in-force", Await::Refused(in_scenes("locked-a"), "shakedown-lock"), SETTLED)
            .trying("pod", in_scenes("locked-a"))
            .trying("deployment", deployment())
            .reading("runs-on", ObjectRef::namespaced("v1", "Pod", SCENES, "locked-before"), "/status/phase")
            .removing(own("shakedown-lock"))
            .seeing("rescued", Await::Admitted(in_scenes("locked-a")), ACTED)
            .trying("deployment-again", deployment())
    };
    check("kyverno.a-wrong-policy-locks-out-until-it-is-deleted")
        .asserts(["KYV-001"])
        .needs([Kyverno])
        .within(Duration::from_secs(400))
        .observe(asked("Enforce"))
        .with(fixture(stage()))
        .expect(facts(vec![
            ("pod", refused(&["shakedown-lock"])),
            ("deployment", refused(&["shakedown-lock"])),
            ("runs-on", Want::Value(json!("Running"))),
            ("rescued", Want::Comes),
            ("deployment-again", admitted()),
        ]))
        .sabotage_input("the policy only audits", asked("Audit"), finds("not-refused"))
        .remedy("delete the policy: policies themselves are never refused by policies")
}

fn pods_are_mutated() -> Check<Platform> {
    let asked = |with_policy: bool| {
        let rule = json!({"mutate": {"patchStrategicMerge": {
            "metadata": {"labels": {"+(added-by)": "kyverno"}},
            "spec": {"securityContext": {"+(runAsNonRoot)": true}},
        }}});
        let made = in_scenes("mutated-a");
        let staged = if with_policy {
            scene().making(own_policy("shakedown-mutate", "Pod", "mutated-*", rule)).once(Await::Stored(
                made.clone(),
                "/metadata/labels/added-by",
                json!("kyverno"),
            ))
        } else {
            scene()
        };
        staged.trying_for("label", made.clone(), "/metadata/labels/added-by").trying_for(
            "field",
            made,
            "/spec/securityContext/runAsNonRoot",
        )
    };
    check("kyverno.pods-are-mutated")
        .asserts(["KYV-007", "KYV-056"])
        .needs([Kyverno])
        .within(Duration::from_secs(150))
        .observe(asked(true))
        .with(fixture(stage()))
        .expect(facts(vec![("label", Want::Value(json!("kyverno"))), ("field", Want::Value(json!(true)))]))
        .sabotage_omitting("the mutate rule is left out", asked(false), finds("value-differs"))
        .remedy("look at `kubectl get mutatingwebhookconfigurations kyverno-resource-mutating-webhook-cfg`")
}

/// A new namespace with a name of its own, of which Kyverno is asked.
fn new_namespace(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": {LABEL: "enforced"}}})
}

fn generated(namespace: &str, kind: &str) -> ObjectRef {
    match kind {
        "NetworkPolicy" => ObjectRef::namespaced("networking.k8s.io/v1", kind, namespace, "default-deny"),
        _ => ObjectRef::namespaced("v1", kind, namespace, "default-quota"),
    }
}

/// Steps that several scenes have in common.
trait Staged {
    /// The generate rules are in force.
    fn generating(self) -> Self;
    /// Whatever policy was made before is in force: a later one, called so, is.
    fn all_in_force(self, ground: &'static str) -> Self;
}

impl Staged for Scene {
    fn generating(self) -> Self {
        // A policy is Ready before the last apiserver asks about its kinds; one that refuses shows it.
        let [generate, ground] = [0, 1].map(|at| manifests!("generate.yaml").into_iter().nth(at).unwrap_or_default());
        let refusal = Await::Refused(new_namespace("shakedown-generated-ground"), "shakedown-ground");
        self.making(generate).making(ground).once(refusal)
    }

    fn all_in_force(self, ground: &'static str) -> Self {
        let rule = demands("ground", json!({"metadata": {"labels": {"ground": "?*"}}}));
        self.making(own_policy(ground, "Pod", ground, rule)).once(Await::Refused(in_scenes(ground), ground))
    }
}

fn objects_are_generated() -> Check<Platform> {
    const NEW: &str = "shakedown-generated-a";
    check("kyverno.objects-are-generated")
        .asserts(["KYV-006", "KYV-057"])
        .needs([Kyverno])
        .within(Duration::from_secs(400))
        .observe(
            scene()
                .depending_on(Controller::Background)
                .generating()
                .creating("namespace", new_namespace(NEW))
                .seeing("network-policy", Await::Exists(generated(NEW, "NetworkPolicy")), ACTED)
                .seeing("quota", Await::Exists(generated(NEW, "ResourceQuota")), ACTED),
        )
        .expect(facts(vec![("namespace", admitted()), ("network-policy", Want::Comes), ("quota", Want::Comes)]))
        .sabotage(scaled_to_zero(Controller::Background), finds("missing"))
        .remedy("look at `kubectl get updaterequests -A`: what is left to generate, and why")
}

fn generation_needs_the_background_controller() -> Check<Platform> {
    const NEW: &str = "shakedown-generated-b";
    let broken = || within(LATER, pod("unwatched", IMAGE, json!({})));
    let scanned = || ObjectRef::namespaced("v1", "Pod", LATER, "unwatched");
    let number = |replicas: u32| json!({"spec": {"replicas": replicas}});
    let controller = || Controller::Background.deployment();
    let asked = |stopped: bool| {
        let scene = scene().bending(Controller::Background).depending_on(Controller::Reports);
        let first = if stopped {
            scene.changing(controller(), number(0)).once(Await::Down(Controller::Background))
        } else {
            scene
        };
        first
            .generating()
            .creating("namespace", new_namespace(NEW))
            .creating("broken", broken())
            .seeing("scanned", Await::Reported(scanned(), "require-resources".into(), "fail"), ACTED)
            .seeing("while-stopped", Await::Exists(generated(NEW, "NetworkPolicy")), QUIET)
            .changing(controller(), number(1))
            .seeing("afterwards", Await::Exists(generated(NEW, "NetworkPolicy")), ACTED)
            .once(Await::Up(Controller::Background))
    };
    check("kyverno.background-controller-generates-and-does-not-scan")
        .contradicts(["KYV-020"])
        .needs([Kyverno])
        .tag(Tag::Slow)
        .within(Duration::from_secs(600))
        .observe(asked(true))
        .with(fixture(stage()))
        .expect(facts(vec![
            ("namespace", admitted()),
            ("while-stopped", Want::StaysAway),
            ("scanned", Want::Comes),
            ("afterwards", Want::Comes),
        ]))
        .sabotage_omitting("the background controller is left running", asked(false), finds("appeared"))
        .remedy("`kubectl -n kyverno scale deployment kyverno-background-controller --replicas=1`")
}

fn existing_pods_are_mutated() -> Check<Platform> {
    let older = || ObjectRef::namespaced("v1", "Pod", SCENES, "older-a");
    let trigger =
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "trigger-a", "namespace": SCENES}});
    let rule = json!({"mutate": {
        "targets": [{"apiVersion": "v1", "kind": "Pod", "namespace": SCENES, "name": "older-a"}],
        "patchStrategicMerge": {"metadata": {"annotations": {"stamped": "yes"}}},
    }});
    check("kyverno.existing-pods-are-mutated")
        .asserts(["KYV-059"])
        .needs([Kyverno])
        .within(Duration::from_secs(400))
        .observe(
            scene()
                .depending_on(Controller::Background)
                .making(in_scenes("older-a"))
                .reading("before", older(), "/metadata/uid")
                .making(own_policy("shakedown-stamp", "ConfigMap", "trigger-*", rule))
                .all_in_force("shakedown-stamp-ground")
                .creating("trigger", trigger)
                .seeing("stamped", Await::Is(older(), "/metadata/annotations/stamped", json!("yes")), ACTED)
                .reading("after", older(), "/metadata/uid"),
        )
        .with(fixture(stage()))
        .expect(facts(vec![("trigger", admitted()), ("stamped", Want::Comes), ("after", Want::SameAs("before"))]))
        .sabotage(scaled_to_zero(Controller::Background), finds("missing"))
        .remedy("the background controller needs the right to update Pods: an aggregated ClusterRole gives it")
}

fn due_objects_are_deleted() -> Check<Platform> {
    let staged = |index: usize| manifests!("cleanup.yaml").into_iter().nth(index).unwrap_or_default();
    let job = |name: &str| ObjectRef::namespaced("batch/v1", "Job", SCENES, name);
    let named = |name: &str| ObjectRef::namespaced("v1", "Pod", SCENES, name);
    let asked = |running: bool| {
        let due = scene()
            .making(staged(0))
            .making(staged(1))
            .making(staged(2))
            .making(in_scenes("cleanup-running"))
            .once(Await::Is(named("cleanup-completed"), "/status/phase", json!("Succeeded")))
            .making(staged(3))
            .making(staged(4))
            .making(staged(5));
        let (watched, first, second) = if running {
            (due.depending_on(Controller::Cleanup), SCHEDULED, SAME_MINUTE)
        } else {
            let stopped = due
                .bending(Controller::Cleanup)
                .changing(Controller::Cleanup.deployment(), json!({"spec": {"replicas": 0}}))
                .once(Await::Down(Controller::Cleanup));
            (stopped, IN_VAIN, QUIET)
        };
        watched
            .seeing("old-job-gone", Await::Gone(job("cleanup-old")), first)
            .seeing("completed-pod-gone", Await::Gone(named("cleanup-completed")), second)
            .reading("younger-job", job("cleanup-young"), "/metadata/name")
            .reading("running-pod", named("cleanup-running"), "/metadata/name")
    };
    check("kyverno.due-objects-are-deleted")
        .asserts(["KYV-021", "KYV-060"])
        .needs([Kyverno])
        .tag(Tag::Slow)
        .within(Duration::from_secs(300))
        .observe(asked(true))
        .with(fixture(stage()))
        .expect(facts(vec![
            ("old-job-gone", Want::Comes),
            ("completed-pod-gone", Want::Comes),
            ("younger-job", Want::Value(json!("cleanup-young"))),
            ("running-pod", Want::Value(json!("cleanup-running"))),
        ]))
        .sabotage_input(
            "the cleanup controller is scaled to 0 once the policies are made",
            asked(false),
            finds("missing"),
        )
        .remedy("the cleanup controller needs the right to delete what its policies name")
}

fn exception_exempts_a_namespace() -> Check<Platform> {
    let latest = |namespace: &str| within(namespace, pod("exempt-a", "nginx:latest", requests()));
    let asked = |rule: &str| {
        let mut made = manifest!("exception.yaml");
        made["spec"]["exceptions"][0]["ruleNames"] = json!([rule, format!("autogen-{rule}")]);
        scene()
            .within(DEMO)
            .making(made)
            .seeing("in-force", Await::Admitted(latest(SCENES)), SETTLED)
            .trying("exempted", latest(SCENES))
            .trying("elsewhere", latest(DEMO))
    };
    check("kyverno.an-exception-exempts-a-namespace")
        .asserts(["KYV-061"])
        .needs([Kyverno])
        .within(Duration::from_secs(150))
        .observe(asked("require-image-tag"))
        .with(fixture(stage()))
        .expect(facts(vec![("exempted", admitted()), ("elsewhere", refused(&["disallow-latest-tag"]))]))
        .sabotage_input("the exception names another rule", asked("require-image-digest"), finds("refused"))
        .remedy("exceptions are off unless the controllers run with --enablePolicyException and --exceptionNamespace")
}
