//! Kyverno: the three documented policies and the four scenarios, on the platform as found.

use serde_json::{Value, json};
use shakedown_core::Capability::{Containerd, Kyverno};
use shakedown_engine::{Check, check, finds};
use shakedown_words::change::patched;
use shakedown_words::identity::Identity;
use shakedown_words::kyverno::{
    DEMO, answers_to, audited_only, bent, looking, pod, policy, policy_bent, requests, within,
};
use shakedown_words::kyverno_facts::{Want, admitted, facts, refused};
use shakedown_words::kyverno_inventory::{Policies, three_that_enforce};
use shakedown_words::kyverno_scene::{Scene, scene};
use shakedown_words::pods::{running, runs};
use shakedown_words::{ObjectRef, Platform};

use super::kyverno_common::scenario;

const LABEL: &str = "app.kubernetes.io/name";
const NO_REQUESTS: &str = "Container must set resources.requests.cpu / memory";

/// The checks of policies and scenarios.
pub fn checks() -> Vec<Check<Platform>> {
    vec![
        three_policies_enforce(),
        unlabelled_deployment_is_refused(),
        latest_tag_is_refused(),
        missing_requests_are_refused(),
        compliant_pod_runs(),
        label_policy_binds_two_kinds(),
        tag_policy_has_two_holes(),
        requests_of_every_container(),
        limits_are_not_demanded(),
        templates_are_looked_at(),
        rights_come_before_policies(),
    ]
}

fn replaced(path: &str, value: Value) -> Value {
    json!([{"op": "replace", "path": path, "value": value}])
}

/// The path of the pattern in a documented policy.
fn pattern(below: &str) -> String {
    format!("/spec/rules/0/validate/pattern{below}")
}

fn in_demo(name: &str, image: &str, requests: Value) -> Value {
    within(DEMO, pod(name, image, requests))
}

fn three_policies_enforce() -> Check<Platform> {
    check("kyverno.three-policies-enforce")
        .asserts(["KYV-002", "KYV-024", "KYV-034", "KYV-063"])
        .needs([Kyverno])
        .observe(Policies)
        .expect(three_that_enforce())
        .sabotage(audited_only("require-app-label", scenario(0)), finds("not-enforced"))
        .remedy("`shakedown converge` writes the three documented policies")
}

/// A documented scenario: submitted for real, and looked for afterwards.
fn played(index: usize) -> Scene {
    let manifest = scenario(index);
    let object = ObjectRef::of(&manifest).unwrap_or_else(|| ObjectRef::cluster("v1", "Pod", "none"));
    scene().within(DEMO).creating("scenario", manifest).reading("stored", object, "/metadata/name")
}

fn unlabelled_deployment_is_refused() -> Check<Platform> {
    const SAYING: &[&str] = &[
        "require-app-label:",
        "check-label: 'validation error: Resource must set label ''app.kubernetes.io/name''.",
        "rule check-label failed at path /metadata/labels/",
    ];
    check("kyverno.unlabelled-deployment-is-refused")
        .asserts(["KYV-010", "KYV-035", "KYV-039"])
        .needs([Kyverno])
        .observe(played(0))
        .expect(facts(vec![("scenario", refused(SAYING)), ("stored", Want::Absent)]))
        .sabotage(audited_only("require-app-label", scenario(0)), finds("not-refused"))
        .remedy("set validationFailureAction of ClusterPolicy require-app-label to Enforce")
}

fn latest_tag_is_refused() -> Check<Platform> {
    check("kyverno.latest-tag-is-refused")
        .asserts(["KYV-011", "KYV-036"])
        .needs([Kyverno])
        .observe(played(1))
        .expect(facts(vec![
            ("scenario", refused(&["disallow-latest-tag:", "Image tag must not be ''latest'' or empty"])),
            ("stored", Want::Absent),
        ]))
        .sabotage(audited_only("disallow-latest-tag", scenario(1)), finds("not-refused"))
        .remedy("set validationFailureAction of ClusterPolicy disallow-latest-tag to Enforce")
}

fn missing_requests_are_refused() -> Check<Platform> {
    check("kyverno.missing-requests-are-refused")
        .asserts(["KYV-037"])
        .needs([Kyverno])
        .observe(played(2))
        .expect(facts(vec![("scenario", refused(&["require-resources:", NO_REQUESTS])), ("stored", Want::Absent)]))
        .sabotage(audited_only("require-resources", scenario(2)), finds("not-refused"))
        .remedy("set validationFailureAction of ClusterPolicy require-resources to Enforce")
}

fn compliant_pod_runs() -> Check<Platform> {
    let mut without_memory = scenario(3);
    without_memory["spec"]["containers"][0]["resources"]["requests"] = json!({"cpu": "10m"});
    check("kyverno.compliant-pod-runs")
        .asserts(["KYV-038"])
        .needs([Kyverno, Containerd])
        .observe(looking(runs(scenario(3), DEMO)))
        .expect(running())
        .sabotage_input("the Pod requests no memory", looking(runs(without_memory, DEMO)), finds("refused"))
        .remedy("look at the refusal: the Pod keeps the three documented rules")
}

/// A workload of a kind, with or without the label; its Pods keep the rules.
fn workload(kind: &str, name: &str, labelled: bool, image: &str) -> Value {
    let mut manifest = json!({
        "apiVersion": "apps/v1", "kind": kind, "metadata": {"name": name, "namespace": DEMO},
        "spec": {
            "selector": {"matchLabels": {"app": name}},
            "template": {
                "metadata": {"labels": {"app": name}},
                "spec": {"containers": [{"name": "c", "image": image, "resources": {"requests": requests()}}]},
            },
        },
    });
    if labelled {
        manifest["metadata"]["labels"][LABEL] = name.into();
    }
    manifest
}

fn label_policy_binds_two_kinds() -> Check<Platform> {
    const TAGGED: &str = "nginx:1.27-alpine";
    let set = workload("StatefulSet", "bare-set", false, TAGGED);
    let empty = {
        let mut manifest = workload("Deployment", "empty-label", false, TAGGED);
        manifest["metadata"]["labels"] = json!({LABEL: ""});
        manifest
    };
    check("kyverno.label-policy-binds-two-kinds")
        .asserts(["KYV-025"])
        .needs([Kyverno])
        .observe(
            scene()
                .within(DEMO)
                .trying("deployment", workload("Deployment", "bare", false, TAGGED))
                .trying("empty", empty)
                .trying("set", set.clone())
                .trying("labelled-deployment", workload("Deployment", "named", true, TAGGED))
                .trying("labelled-set", workload("StatefulSet", "named-set", true, TAGGED))
                .trying("daemons", workload("DaemonSet", "bare-daemons", false, TAGGED))
                .trying("pod", in_demo("bare-pod", TAGGED, requests())),
        )
        .expect(facts(vec![
            ("deployment", refused(&["require-app-label", "check-label"])),
            ("empty", refused(&["require-app-label", "check-label"])),
            ("set", refused(&["require-app-label", "check-label"])),
            ("labelled-deployment", admitted()),
            ("labelled-set", admitted()),
            ("daemons", admitted()),
            ("pod", admitted()),
        ]))
        .sabotage(
            policy_bent(
                "require-app-label looks at Deployments only",
                "require-app-label",
                replaced("/spec/rules/0/match/any/0/resources/kinds", json!(["Deployment"])),
                vec![set],
            ),
            finds("not-refused"),
        )
        .remedy("kinds of ClusterPolicy require-app-label: Deployment and StatefulSet")
}

fn tag_policy_has_two_holes() -> Check<Platform> {
    let initial = {
        let mut manifest = in_demo("initial", "nginx:1.27-alpine", requests());
        manifest["spec"]["initContainers"] =
            json!([{"name": "i", "image": "nginx:latest", "resources": {"requests": requests()}}]);
        manifest
    };
    check("kyverno.tag-policy-looks-for-a-colon")
        .contradicts(["KYV-026"])
        .needs([Kyverno])
        .observe(
            scene()
                .within(DEMO)
                .trying("latest", in_demo("latest", "nginx:latest", requests()))
                .trying("untagged", in_demo("untagged", "nginx", requests()))
                .trying("tagged", in_demo("tagged", "nginx:1.27-alpine", requests()))
                .trying("registry-port", in_demo("port", "registry.example:30002/app", requests()))
                .trying("registry-port-latest", in_demo("port-latest", "registry.example:30002/app:latest", requests()))
                .trying("init-container", initial),
        )
        .expect(facts(vec![
            ("latest", refused(&["disallow-latest-tag", "require-image-tag", "Image tag must not be"])),
            ("untagged", refused(&["disallow-latest-tag", "require-image-tag", "Image tag must not be"])),
            ("registry-port-latest", refused(&["disallow-latest-tag"])),
            ("tagged", admitted()),
            ("registry-port", admitted()),
            ("init-container", admitted()),
        ]))
        .sabotage(
            policy_bent(
                "the pattern of disallow-latest-tag is *:*",
                "disallow-latest-tag",
                replaced(&pattern("/spec/containers/0/image"), json!("*:*")),
                vec![in_demo("latest", "nginx:latest", requests())],
            ),
            finds("not-refused"),
        )
        .remedy("the pattern of ClusterPolicy disallow-latest-tag: \"!*:latest & *:*\"")
}

fn requests_of_every_container() -> Check<Platform> {
    const TAGGED: &str = "nginx:1.27-alpine";
    const SAYING: &[&str] = &["require-resources", "require-cpu-mem", NO_REQUESTS];
    let second = {
        let mut manifest = in_demo("second", TAGGED, requests());
        if let Some(containers) = manifest["spec"]["containers"].as_array_mut() {
            containers.push(json!({"name": "d", "image": TAGGED}));
        }
        manifest
    };
    let processor = || in_demo("cpu-only", TAGGED, json!({"cpu": "10m"}));
    check("kyverno.every-container-requests-both")
        .asserts(["KYV-027"])
        .needs([Kyverno])
        .observe(
            scene()
                .within(DEMO)
                .trying("none", in_demo("none", TAGGED, json!({})))
                .trying("cpu-only", processor())
                .trying("memory-only", in_demo("memory-only", TAGGED, json!({"memory": "16Mi"})))
                .trying("second", second)
                .trying("both", in_demo("both", TAGGED, requests())),
        )
        .expect(facts(vec![
            ("none", refused(SAYING)),
            ("cpu-only", refused(SAYING)),
            ("memory-only", refused(SAYING)),
            ("second", refused(SAYING)),
            ("both", admitted()),
        ]))
        .sabotage(
            policy_bent(
                "require-resources asks for no memory",
                "require-resources",
                json!([{"op": "remove", "path": pattern("/spec/containers/0/resources/requests/memory")}]),
                vec![processor()],
            ),
            finds("not-refused"),
        )
        .remedy("the pattern of ClusterPolicy require-resources names cpu and memory")
}

fn limits_are_not_demanded() -> Check<Platform> {
    let without_limits = || in_demo("no-limits", "nginx:1.27-alpine", requests());
    check("kyverno.limits-are-not-demanded")
        .contradicts(["KYV-012"])
        .needs([Kyverno])
        .observe(
            scene()
                .within(DEMO)
                .trying("without-limits", without_limits())
                .trying("without-requests", in_demo("no-requests", "nginx:1.27-alpine", json!({}))),
        )
        .expect(facts(vec![("without-limits", admitted()), ("without-requests", refused(&["require-resources"]))]))
        .sabotage(
            policy_bent(
                "require-resources asks for limits",
                "require-resources",
                json!([{"op": "add", "path": pattern("/spec/containers/0/resources/limits"), "value": {"memory": "?*"}}]),
                vec![without_limits()],
            ),
            finds("refused"),
        )
        .remedy("write limits into the pattern of ClusterPolicy require-resources where they are wanted")
}

fn templates_are_looked_at() -> Check<Platform> {
    let template = || workload("Deployment", "templated", true, "nginx:latest");
    let off = patched(
        "the automatic rules of disallow-latest-tag are off",
        policy("disallow-latest-tag"),
        json!({"metadata": {"annotations": {"pod-policies.kyverno.io/autogen-controllers": "none"}}}),
    );
    check("kyverno.policies-on-pods-act-on-templates")
        .asserts(["KYV-028"])
        .needs([Kyverno])
        .observe(
            scene()
                .within(DEMO)
                .trying("template", template())
                .trying("daemons", workload("DaemonSet", "templated-daemons", true, "nginx:latest")),
        )
        .expect(facts(vec![
            ("template", refused(&["disallow-latest-tag", "autogen-require-image-tag", "/spec/template/spec/"])),
            ("daemons", refused(&["disallow-latest-tag", "autogen-require-image-tag"])),
        ]))
        .sabotage(bent(off.shown_by(answers_to(vec![template()]))), finds("not-refused"))
        .remedy("take the annotation pod-policies.kyverno.io/autogen-controllers off the policy")
}

fn rights_come_before_policies() -> Check<Platform> {
    let viewer = Identity::service_account("storage-demo", "demo-viewer");
    check("kyverno.rights-come-before-policies")
        .asserts(["KYV-004"])
        .needs([Kyverno])
        .observe(scene().within(DEMO).trying("allowed-by-rbac", scenario(1)).trying_as(
            "not-allowed-by-rbac",
            scenario(1),
            viewer,
        ))
        .expect(facts(vec![
            ("allowed-by-rbac", refused(&["admission webhook \"validate.kyverno.svc-fail\" denied the request"])),
            (
                "not-allowed-by-rbac",
                refused(&["system:serviceaccount:storage-demo:demo-viewer", "cannot create resource"]),
            ),
        ]))
        .sabotage(audited_only("disallow-latest-tag", scenario(1)), finds("not-refused"))
        .remedy("set validationFailureAction of ClusterPolicy disallow-latest-tag to Enforce")
}
