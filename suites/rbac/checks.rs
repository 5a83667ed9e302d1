//! Identities and rights: the documented viewer, its seven scenarios, and what it must not do.

use serde_json::json;
use shakedown_core::Capability::{ApiserverManifests, NodesExec};
use shakedown_engine::{Check, check, finds};
use shakedown_words::access::{every, may};
use shakedown_words::admission::dry_run;
use shakedown_words::admitted::denied;
use shakedown_words::audit::{all_audited, audited, trail_of};
use shakedown_words::bindings::{bindings_of, only};
use shakedown_words::identity::Identity;
use shakedown_words::rights::{
    binding_removed, bound, forbidden, granted, review_of, rule_added, rule_narrowed, subject, user_of,
};
use shakedown_words::{ObjectRef, Platform, fields, manifest};

/// The documented namespace, account, token Secret, Role and binding (RBAC-021).
pub(super) const NAMESPACE: &str = "storage-demo";
const VIEWER: &str = "demo-viewer";
pub(super) const TOKEN: &str = "demo-viewer-token";
pub(super) const ROLE: &str = "pod-cm-reader";
const BINDING: &str = "demo-viewer-can-read";
/// The viewer's user name (RBAC-043).
pub(super) const USER: &str = "system:serviceaccount:storage-demo:demo-viewer";

const READ: &[&str] = &["get", "list", "watch"];
const WRITE: &[&str] = &["create", "update", "patch", "delete"];
const CORE: &[&str] = &["pods", "configmaps"];
const WORKLOADS: &[&str] = &["statefulsets.apps", "deployments.apps"];
const IN: &str = " in storage-demo";

/// All checks of this area.
pub fn checks() -> Vec<Check<Platform>> {
    vec![
        seven_scenarios(),
        viewer_reads(),
        viewer_does_not_write(),
        viewer_sees_no_secrets(),
        viewer_objects(),
        binding_names_role(),
        refusals_are_in_the_audit_log(),
        viewer_has_one_binding(),
        masters_have_one_binding(),
    ]
}

/// The viewer, by its documented token.
pub(super) fn viewer() -> Identity {
    Identity::token_secret(NAMESPACE, TOKEN)
}

fn viewer_subject() -> serde_json::Value {
    subject("ServiceAccount", VIEWER, Some(NAMESPACE))
}

fn seven_scenarios() -> Check<Platform> {
    check("rbac.viewers-seven-scenarios")
        .asserts([
            "RBAC-035", "RBAC-036", "RBAC-037", "RBAC-038", "RBAC-039", "RBAC-040", "RBAC-041", "RBAC-042", "RBAC-043",
        ])
        .observe(may(
            viewer(),
            [
                "list pods in storage-demo",
                "list configmaps in storage-demo",
                "list secrets in storage-demo",
                "list pods in default",
                "list nodes",
                "create pods in storage-demo",
                "create deployments.apps in storage-demo",
            ],
        ))
        .expect(
            granted(["list pods in storage-demo", "list configmaps in storage-demo"])
                .known_as(USER)
                .forbidden_with("list secrets in storage-demo", &["secrets is forbidden", "cannot list", "\"secrets\""])
                .forbidden_with("list pods in default", &["pods is forbidden", "in the namespace \"default\""])
                .forbidden_with("list nodes", &["nodes is forbidden", "at the cluster scope"])
                .forbidden_with(
                    "create pods in storage-demo",
                    &[
                        "pods is forbidden:",
                        "User \"system:serviceaccount:storage-demo:demo-viewer\"",
                        "cannot create resource \"pods\" in API group \"\" in the namespace \"storage-demo\"",
                    ],
                )
                .forbidden(["create deployments.apps in storage-demo"]),
        )
        .sabotage(
            rule_added(NAMESPACE, ROLE, &[""], &["pods"], &["create"]).shown_by(review_of(
                USER,
                &[],
                "create pods in storage-demo",
            )),
            finds("right-too-many"),
        )
        .remedy("`shakedown converge` writes the documented Role pod-cm-reader")
}

/// What the Role grants: nine combinations of the core group, six of apps.
pub(super) fn readable() -> Vec<String> {
    let mut all = every(READ, CORE, IN);
    all.extend(every(&["get"], &["pods/log"], IN));
    all.extend(every(READ, WORKLOADS, IN));
    all
}

fn viewer_reads() -> Check<Platform> {
    let neighbours = every(&["list"], &["daemonsets.apps", "replicasets.apps"], IN);
    let asked: Vec<String> = readable().into_iter().chain(neighbours.clone()).collect();
    check("rbac.viewer-reads-what-its-role-says")
        .asserts(["RBAC-023", "RBAC-024", "RBAC-025", "RBAC-030"])
        .observe(may(viewer(), asked.iter().map(String::as_str)))
        .expect(granted(readable()).known_as(USER).forbidden(neighbours))
        .sabotage(
            rule_narrowed(NAMESPACE, ROLE, 0, &["pods", "configmaps"]).shown_by(review_of(
                USER,
                &[],
                "get pods/log in storage-demo",
            )),
            finds("right-missing"),
        )
        .remedy("`shakedown converge` writes the documented Role pod-cm-reader")
}

fn viewer_does_not_write() -> Check<Platform> {
    let mut asked = every(WRITE, CORE, IN);
    asked.extend(every(WRITE, WORKLOADS, IN));
    asked.extend(every(READ, &["secrets"], IN));
    check("rbac.viewer-does-not-write")
        .asserts(["RBAC-026"])
        .observe(may(viewer(), asked.iter().map(String::as_str)))
        .expect(forbidden(asked).known_as(USER))
        .sabotage(
            rule_added(NAMESPACE, ROLE, &["apps"], &["deployments"], &["delete"]).shown_by(review_of(
                USER,
                &[],
                "delete deployments.apps in storage-demo",
            )),
            finds("right-too-many"),
        )
        .remedy("take every verb but get, list and watch out of Role pod-cm-reader")
}

fn viewer_sees_no_secrets() -> Check<Platform> {
    let questions = [
        "list pods in storage-demo",
        "get secrets in storage-demo",
        "list pods in default",
        "create deployments.apps in storage-demo",
    ];
    check("rbac.reviews-agree-with-requests")
        .asserts(["RBAC-045", "RBAC-046", "RBAC-047", "RBAC-049", "RBAC-051", "RBAC-052"])
        .observe(may(viewer(), questions))
        .expect(granted(questions[..1].to_vec()).known_as(USER).forbidden(questions[1..].to_vec()))
        .sabotage(
            bound("shakedown-viewer-edits", "edit", Some(NAMESPACE), &viewer_subject()).shown_by(review_of(
                USER,
                &[],
                "get secrets in storage-demo",
            )),
            finds("right-too-many"),
        )
        .remedy("look for bindings of demo-viewer beside demo-viewer-can-read")
}

fn viewer_objects() -> Check<Platform> {
    check("rbac.viewer-is-bound-to-its-role")
        .asserts(["RBAC-021"])
        .observe(fields::of(
            ObjectRef::namespaced("rbac.authorization.k8s.io/v1", "RoleBinding", NAMESPACE, BINDING),
            &["/roleRef/kind", "/roleRef/name", "/subjects"],
        ))
        .expect(fields::are(vec![
            ("/roleRef/kind", json!("Role")),
            ("/roleRef/name", json!(ROLE)),
            ("/subjects", json!([viewer_subject()])),
        ]))
        .sabotage(
            shakedown_words::change::patched(
                "the binding's subject is of another namespace",
                ObjectRef::namespaced("rbac.authorization.k8s.io/v1", "RoleBinding", NAMESPACE, BINDING),
                json!({"subjects": [subject("ServiceAccount", VIEWER, Some("default"))]}),
            )
            .shown_by(review_of(USER, &[], "list pods in storage-demo")),
            finds("field-differs"),
        )
        .remedy("`shakedown converge` writes the four documented objects")
}

fn binding_names_role() -> Check<Platform> {
    check("rbac.binding-is-all-that-grants")
        .asserts(["RBAC-064"])
        .observe(may(
            Identity::user(&user_of(NAMESPACE, VIEWER)),
            ["get pods in storage-demo", "get secrets in storage-demo"],
        ))
        .expect(
            granted(["get pods in storage-demo"])
                .because("demo-viewer-can-read")
                .forbidden(["get secrets in storage-demo"]),
        )
        .sabotage(
            binding_removed(NAMESPACE, BINDING).shown_by(review_of(USER, &[], "get pods in storage-demo")),
            finds("right-missing"),
        )
        .remedy("`shakedown converge` writes the documented RoleBinding demo-viewer-can-read")
}

fn refusals_are_in_the_audit_log() -> Check<Platform> {
    let pod = || dry_run(vec![manifest!("nginx-pod.yaml")]).in_namespace(NAMESPACE);
    check("rbac.refusals-are-in-the-audit-log")
        .asserts(["RBAC-054"])
        .needs([ApiserverManifests, NodesExec])
        .observe(trail_of(pod().as_identity(&viewer())))
        .expect(all_audited(vec![
            audited(denied().saying(&["cannot create resource \"pods\""])).decided("forbid", USER),
        ]))
        .sabotage_input("somebody who may do it asks", trail_of(pod()), finds("decision-differs"))
        .remedy("audit on every control plane: `shakedown converge` writes the documented policy and flags")
}

fn viewer_has_one_binding() -> Check<Platform> {
    let everywhere = bound("shakedown-viewer-everywhere", "view", None, &viewer_subject());
    check("rbac.viewer-has-one-binding")
        .asserts(["RBAC-053", "RBAC-062"])
        .observe(bindings_of("ServiceAccount", VIEWER, Some(NAMESPACE)))
        .expect(only(&[("RoleBinding storage-demo/demo-viewer-can-read", "Role pod-cm-reader")]))
        .sabotage(everywhere.shown_by(review_of(USER, &[], "list pods in default")), finds("binding-unexpected"))
        .remedy("delete bindings of demo-viewer beside demo-viewer-can-read")
}

fn masters_have_one_binding() -> Check<Platform> {
    let masters = subject("Group", "system:masters", None);
    check("rbac.masters-have-one-binding")
        .asserts(["RBAC-060"])
        .observe(bindings_of("Group", "system:masters", None))
        .expect(only(&[("ClusterRoleBinding cluster-admin", "ClusterRole cluster-admin")]))
        .sabotage(bound("shakedown-masters", "view", Some("default"), &masters), finds("binding-unexpected"))
        .remedy("delete bindings of group system:masters beside cluster-admin")
}
