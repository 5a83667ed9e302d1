//! The model of rights (B2): subjects, verbs, subresources, scopes, built-in roles, each with a subject of its own in
//! two namespaces that the checks share.

use serde_json::{Value, json};
use shakedown_engine::{Check, check, finds, fixture};
use shakedown_words::access::{every, may, may_each};
use shakedown_words::change::{Change, Shared, added, patched, shared};
use shakedown_words::identity::Identity;
use shakedown_words::rights::{bound, each_of, forbidden, granted, review_of, reviews, rule_added, subject};
use shakedown_words::{ObjectRef, Platform, fields, manifests};

pub(super) const A: &str = "shakedown-rbac-a";
const IN_A: &str = " in shakedown-rbac-a";
const IN_B: &str = " in shakedown-rbac-b";
const GROUP: &str = "rbac.authorization.k8s.io/v1";
const READ: &[&str] = &["get", "list", "watch"];
const SEVEN: &[&str] = &["get", "list", "watch", "create", "update", "patch", "delete"];
const EIGHT: &[&str] = &["get", "list", "watch", "create", "update", "patch", "delete", "deletecollection"];
const ROLES: &[&str] = &["roles.rbac.authorization.k8s.io", "rolebindings.rbac.authorization.k8s.io"];
const DEV: &[&str] = &["pods", "services", "configmaps", "deployments.apps"];

/// All checks of the model.
pub fn checks() -> Vec<Check<Platform>> {
    vec![
        three_kinds_of_subject(),
        groups_outlive_members(),
        unknown_identity_is_kept_out(),
        nothing_by_default(),
        verbs_are_granted_one_by_one(),
        subresources_are_apart(),
        role_is_for_one_namespace(),
        cluster_role_is_for_all(),
        dev_role(),
        deployer_stays_in_its_namespace(),
        viewer_of_the_whole_cluster(),
        root_may_everything(),
        edit_leaves_roles_alone(),
        admin_manages_roles(),
        view_reads_but_no_secrets(),
        cluster_admin_is_everything(),
        aggregation_reaches_view(),
    ]
}

pub(super) fn lab() -> Shared {
    let mut objects = manifests!("lab.yaml");
    for verb in EIGHT {
        let name = format!("only-{verb}");
        objects.push(json!({
            "apiVersion": GROUP, "kind": "Role", "metadata": {"name": name, "namespace": A},
            "rules": [{"apiGroups": [""], "resources": ["configmaps"], "verbs": [verb]}],
        }));
        objects.push(json!({
            "apiVersion": GROUP, "kind": "RoleBinding", "metadata": {"name": name, "namespace": A},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": name},
            "subjects": [subject("User", &format!("shakedown-{name}"), None)],
        }));
    }
    shared("rbac-lab", objects).shown_by(reviews(vec![
        review_of("shakedown-only-deletecollection", &[], "deletecollection configmaps in shakedown-rbac-a"),
        review_of("shakedown-root", &[], "list nodes"),
    ]))
}

fn user(name: &str) -> Identity {
    Identity::user(name)
}

fn text(questions: &[String]) -> Vec<&str> {
    questions.iter().map(String::as_str).collect()
}

/// One more binding, shown by what it lets somebody do.
fn also(role: &str, namespace: Option<&str>, who: &str, shown_by: &str) -> Change {
    let binding = bound(&format!("shakedown-also-{role}"), role, namespace, &subject("User", who, None));
    binding.shown_by(review_of(who, &[], shown_by))
}

fn three_kinds_of_subject() -> Check<Platform> {
    const PODS: &str = "list pods in shakedown-rbac-a";
    let member = user("shakedown-somebody").in_groups(&["shakedown-team"]);
    let rights = || granted([PODS]);
    check("rbac.three-kinds-of-subject")
        .asserts(["RBAC-005"])
        .observe(may_each(vec![
            may(user("shakedown-user"), [PODS]),
            may(member, [PODS]),
            may(Identity::service_account(A, "deployer"), [PODS]),
            may(Identity::service_account(A, "unbound"), [PODS]),
        ]))
        .with(fixture(lab()))
        .expect(each_of(vec![rights(), rights(), rights(), forbidden([PODS])]))
        .sabotage(
            patched("the binding names no group", ObjectRef::namespaced(GROUP, "RoleBinding", A, "reads-pods"), json!({
                "subjects": [subject("User", "shakedown-user", None), subject("ServiceAccount", "deployer", Some(A))],
            }))
            .shown_by(review_of("x", &["shakedown-team"], PODS)),
            finds("right-missing"),
        )
        .remedy("name each subject with its kind: User, Group or ServiceAccount")
}

fn groups_outlive_members() -> Check<Platform> {
    const PODS: &str = "list pods in shakedown-rbac-a";
    let member = |name| may(user(name).in_groups(&["shakedown-team"]), [PODS]);
    check("rbac.a-group-outlives-its-members")
        .asserts(["RBAC-061"])
        .observe(may_each(vec![
            member("shakedown-first"),
            member("shakedown-second"),
            may(user("shakedown-first"), [PODS]),
        ]))
        .with(fixture(lab()))
        .expect(each_of(vec![granted([PODS]), granted([PODS]), forbidden([PODS])]))
        .sabotage(
            patched(
                "the binding names the first member",
                ObjectRef::namespaced(GROUP, "RoleBinding", A, "reads-pods"),
                json!({
                    "subjects": [subject("User", "shakedown-first", None)],
                }),
            )
            .shown_by(review_of("shakedown-second", &["shakedown-team"], PODS)),
            finds("right-missing"),
        )
        .remedy("bind groups, not users")
}

fn unknown_identity_is_kept_out() -> Check<Platform> {
    const PODS: &str = "list pods in shakedown-rbac-a";
    check("rbac.unknown-identity-is-kept-out")
        .asserts(["RBAC-003"])
        .observe(may_each(vec![
            may(Identity::service_account(A, "deployer"), [PODS]),
            may(Identity::Bearer("made-up".into()), [PODS]),
            may(Identity::Anonymous, [PODS]),
        ]))
        .with(fixture(lab()))
        .expect(each_of(vec![
            granted([PODS]).known_as("system:serviceaccount:shakedown-rbac-a:deployer"),
            forbidden([PODS]).known_as(""),
            forbidden([PODS]),
        ]))
        .sabotage_input(
            "the made-up token is a real one",
            may_each(vec![
                may(Identity::service_account(A, "deployer"), [PODS]),
                may(Identity::service_account(A, "deployer"), [PODS]),
                may(Identity::Anonymous, [PODS]),
            ]),
            finds("right-too-many"),
        )
        .remedy("look at the apiserver's authentication flags")
}

fn nothing_by_default() -> Check<Platform> {
    let asked = [every(SEVEN, DEV, IN_A), every(READ, &["nodes", "secrets"], "")].concat();
    check("rbac.nothing-by-default")
        .asserts(["RBAC-004", "RBAC-055"])
        .observe(may(Identity::service_account(A, "unbound"), text(&asked)))
        .with(fixture(lab()))
        .expect(forbidden(asked))
        .sabotage(
            added(
                "every service account may view",
                json!({
                    "apiVersion": GROUP, "kind": "ClusterRoleBinding", "metadata": {"name": "shakedown-all-view"},
                    "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "view"},
                    "subjects": [subject("Group", "system:serviceaccounts", None)],
                }),
            )
            .shown_by(review_of("x", &["system:serviceaccounts"], "list pods in shakedown-rbac-a")),
            finds("right-too-many"),
        )
        .remedy("take bindings of system:authenticated and system:serviceaccounts away")
}

fn verbs_are_granted_one_by_one() -> Check<Platform> {
    let asked = every(EIGHT, &["configmaps"], IN_A);
    let rows = EIGHT.iter().map(|verb| may(user(&format!("shakedown-only-{verb}")), text(&asked))).collect();
    let expected = EIGHT.iter().map(|verb| {
        let (own, others): (Vec<_>, Vec<_>) = asked.iter().cloned().partition(|q| q.starts_with(&format!("{verb} ")));
        granted(own).forbidden(others)
    });
    check("rbac.verbs-are-granted-one-by-one")
        .asserts(["RBAC-006"])
        .observe(may_each(rows))
        .with(fixture(lab()))
        .expect(each_of(expected.collect()))
        .sabotage(
            rule_added(A, "only-get", &[""], &["configmaps"], &["*"]).shown_by(review_of(
                "shakedown-only-get",
                &[],
                "list configmaps in shakedown-rbac-a",
            )),
            finds("right-too-many"),
        )
        .remedy("list verbs one by one, never *")
}

fn subresources_are_apart() -> Check<Platform> {
    let refused = ["create pods/exec in shakedown-rbac-a", "create pods/portforward in shakedown-rbac-a"];
    const LOG: &str = "get pods/log in shakedown-rbac-a";
    check("rbac.subresources-are-apart")
        .asserts(["RBAC-007"])
        .observe(may_each(vec![
            may(user("shakedown-user"), ["get pods in shakedown-rbac-a", LOG, refused[0], refused[1]]),
            may(user("shakedown-logs"), ["get pods in shakedown-rbac-a", LOG, refused[0], refused[1]]),
        ]))
        .with(fixture(lab()))
        .expect(each_of(vec![
            granted(["get pods in shakedown-rbac-a"]).forbidden([LOG]).forbidden(refused),
            granted(["get pods in shakedown-rbac-a", LOG]).forbidden(refused),
        ]))
        .sabotage(
            rule_added(A, "reads-pods", &[""], &["pods/*", "pods/exec"], &["get", "create"]).shown_by(review_of(
                "shakedown-user",
                &[],
                refused[0],
            )),
            finds("right-too-many"),
        )
        .remedy("name subresources one by one: pods/log, pods/exec, pods/portforward")
}

fn role_is_for_one_namespace() -> Check<Platform> {
    check("rbac.role-is-for-one-namespace")
        .asserts(["RBAC-008"])
        .observe(may(
            user("shakedown-user"),
            ["list pods in shakedown-rbac-a", "list pods in shakedown-rbac-b", "list pods"],
        ))
        .with(fixture(lab()))
        .expect(granted(["list pods in shakedown-rbac-a"]).forbidden(["list pods in shakedown-rbac-b", "list pods"]))
        .sabotage(
            also("shakedown-rbac-reads-nodes", None, "shakedown-user", "list pods in shakedown-rbac-b"),
            finds("right-too-many"),
        )
        .remedy("bind by RoleBinding")
}

fn cluster_role_is_for_all() -> Check<Platform> {
    let questions =
        ["list pods in shakedown-rbac-a", "list pods in shakedown-rbac-b", "list pods", "list nodes", "get nodes"];
    check("rbac.cluster-role-is-for-all")
        .asserts(["RBAC-009"])
        .observe(may(user("shakedown-nodes"), questions))
        .with(fixture(lab()))
        .expect(granted(questions))
        .sabotage(
            shakedown_words::change::deleted(
                "the binding is for one namespace only",
                ObjectRef::cluster(GROUP, "ClusterRoleBinding", "shakedown-rbac-reads-nodes"),
            )
            .and(bound(
                "shakedown-nodes-in-a",
                "shakedown-rbac-reads-nodes",
                Some(A),
                &subject("User", "shakedown-nodes", None),
            ))
            .shown_by(review_of("shakedown-nodes", &[], "list nodes")),
            finds("right-missing"),
        )
        .remedy("bind by ClusterRoleBinding")
}

fn dev_role() -> Check<Platform> {
    let yes = every(SEVEN, DEV, IN_A);
    let mut no = every(&["deletecollection"], DEV, IN_A);
    no.extend(every(SEVEN, &["secrets", ROLES[0]], IN_A));
    no.extend(every(&["list", "create"], DEV, IN_B));
    check("rbac.dev-role")
        .asserts(["RBAC-010"])
        .observe(may(user("shakedown-dev"), text(&[yes.clone(), no.clone()].concat())))
        .with(fixture(lab()))
        .expect(granted(yes).forbidden(no))
        .sabotage(
            rule_added(A, "dev", &[""], &["secrets"], &["get"]).shown_by(review_of(
                "shakedown-dev",
                &[],
                "get secrets in shakedown-rbac-a",
            )),
            finds("right-too-many"),
        )
        .remedy("the documented Role dev: seven verbs on pods, services, configmaps and deployments")
}

fn deployer_stays_in_its_namespace() -> Check<Platform> {
    let yes = every(&["create", "update", "patch"], &["deployments.apps"], IN_A);
    let no = every(&["create", "update", "patch", "delete"], DEV, IN_B);
    let who = "system:serviceaccount:shakedown-rbac-a:deployer";
    check("rbac.deployer-stays-in-its-namespace")
        .asserts(["RBAC-012"])
        .observe(may(Identity::service_account(A, "deployer"), text(&[yes.clone(), no.clone()].concat())))
        .with(fixture(lab()))
        .expect(granted(yes).forbidden(no).known_as(who))
        .sabotage(
            bound("shakedown-deployer-all", "edit", None, &subject("ServiceAccount", "deployer", Some(A)))
                .shown_by(review_of(who, &[], "create deployments.apps in shakedown-rbac-b")),
            finds("right-too-many"),
        )
        .remedy("bind a pipeline's account by RoleBinding in its target namespace")
}

fn viewer_of_the_whole_cluster() -> Check<Platform> {
    let yes = ["list pods in shakedown-rbac-a", "list pods in shakedown-rbac-b", "list pods"];
    let no = [
        "create pods in shakedown-rbac-a",
        "create pods in shakedown-rbac-b",
        "list secrets",
        "list secrets in shakedown-rbac-a",
    ];
    check("rbac.viewer-of-the-whole-cluster")
        .asserts(["RBAC-011"])
        .observe(may(user("shakedown-viewer"), [&yes[..], &no[..]].concat()))
        .with(fixture(lab()))
        .expect(granted(yes).forbidden(no))
        .sabotage(also("edit", None, "shakedown-viewer", "create pods in shakedown-rbac-b"), finds("right-too-many"))
        .remedy("bind view, not edit")
}

fn root_may_everything() -> Check<Platform> {
    let yes = [
        "list secrets in kube-system",
        "update clusterrolebindings.rbac.authorization.k8s.io",
        "delete nodes",
        "create pods in default",
    ];
    check("rbac.cluster-admin-is-root")
        .asserts(["RBAC-013"])
        .observe(may(user("shakedown-root"), yes))
        .with(fixture(lab()))
        .expect(granted(yes))
        .sabotage(
            shakedown_words::change::deleted(
                "cluster-admin is bound in one namespace only",
                ObjectRef::cluster(GROUP, "ClusterRoleBinding", "shakedown-rbac-root"),
            )
            .and(bound("shakedown-root-in-a", "cluster-admin", Some(A), &subject("User", "shakedown-root", None)))
            .shown_by(review_of("shakedown-root", &[], "delete nodes")),
            finds("right-missing"),
        )
        .remedy("a cluster administrator is bound by ClusterRoleBinding")
}

fn edit_leaves_roles_alone() -> Check<Platform> {
    let no = every(&["create", "update", "delete"], ROLES, IN_A);
    let yes = ["create deployments.apps in shakedown-rbac-a"];
    check("rbac.edit-leaves-roles-alone")
        .asserts(["RBAC-016"])
        .observe(may(user("shakedown-editor"), [&yes[..], &text(&no)[..]].concat()))
        .with(fixture(lab()))
        .expect(granted(yes).forbidden(no))
        .sabotage(
            also("admin", Some(A), "shakedown-editor", "create roles.rbac.authorization.k8s.io in shakedown-rbac-a"),
            finds("right-too-many"),
        )
        .remedy("bind edit, not admin")
}

fn admin_manages_roles() -> Check<Platform> {
    let yes = [
        every(&["create", "update", "delete"], ROLES, IN_A),
        every(&["create", "update"], &["secrets", "deployments.apps"], IN_A),
    ]
    .concat();
    check("rbac.admin-manages-roles")
        .contradicts(["RBAC-015"])
        .observe(may(user("shakedown-admin"), text(&yes)))
        .with(fixture(lab()))
        .expect(granted(yes))
        .sabotage(
            patched_subject("is-admin", "somebody-else").shown_by(review_of(
                "shakedown-admin",
                &[],
                "create secrets in shakedown-rbac-a",
            )),
            finds("right-missing"),
        )
        .remedy("who may manage Roles in a namespace is admin there: bind edit to the others")
}

/// The binding is somebody else's.
fn patched_subject(binding: &str, who: &str) -> Change {
    let object = ObjectRef::namespaced(GROUP, "RoleBinding", A, binding);
    patched(format!("RoleBinding {binding} names {who}"), object, json!({"subjects": [subject("User", who, None)]}))
}

fn view_reads_but_no_secrets() -> Check<Platform> {
    let yes =
        every(READ, &["pods", "configmaps", "networkpolicies.networking.k8s.io", "ingresses.networking.k8s.io"], IN_A);
    let no = [
        every(READ, &["secrets"], IN_A),
        every(&["create", "delete"], &["pods", "configmaps"], IN_A),
        every(&["list"], &["pods"], IN_B),
    ]
    .concat();
    check("rbac.view-reads-but-no-secrets")
        .asserts(["RBAC-017", "RBAC-027", "RBAC-028"])
        .observe(may(user("shakedown-reader"), text(&[yes.clone(), no.clone()].concat())))
        .with(fixture(lab()))
        .expect(granted(yes).forbidden(no))
        .sabotage(
            aggregated("view", json!({"apiGroups": [""], "resources": ["secrets"], "verbs": ["get", "list"]}))
                .shown_by(review_of("shakedown-reader", &[], "list secrets in shakedown-rbac-a")),
            finds("right-too-many"),
        )
        .remedy("look for ClusterRoles that are aggregated into view")
}

/// A ClusterRole that a controller adds to a built-in one.
fn aggregated(into: &str, rule: Value) -> Change {
    added(
        format!("a ClusterRole is aggregated into {into}"),
        json!({
            "apiVersion": GROUP, "kind": "ClusterRole",
            "metadata": {
                "name": "shakedown-aggregated",
                "labels": {format!("rbac.authorization.k8s.io/aggregate-to-{into}"): "true"},
            },
            "rules": [rule],
        }),
    )
}

fn cluster_admin_is_everything() -> Check<Platform> {
    check("rbac.cluster-admin-covers-everything")
        .asserts(["RBAC-014"])
        .observe(fields::of(ObjectRef::cluster(GROUP, "ClusterRole", "cluster-admin"), &["/rules"]))
        .expect(fields::are(vec![(
            "/rules",
            json!([
                {"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]},
                {"nonResourceURLs": ["*"], "verbs": ["*"]},
            ]),
        )]))
        .sabotage_input(
            "the role of another name",
            fields::of(ObjectRef::cluster(GROUP, "ClusterRole", "admin"), &["/rules"]),
            finds("field-differs"),
        )
        .remedy("an apiserver's restart writes the built-in roles again")
}

fn aggregation_reaches_view() -> Check<Platform> {
    let selector =
        |into: &str| json!([{"matchLabels": {format!("rbac.authorization.k8s.io/aggregate-to-{into}"): "true"}}]);
    let role = |name: &str| {
        fields::of(ObjectRef::cluster(GROUP, "ClusterRole", name), &["/aggregationRule/clusterRoleSelectors"])
    };
    check("rbac.view-is-aggregated")
        .asserts(["RBAC-056"])
        .observe(role("view"))
        .expect(fields::are(vec![("/aggregationRule/clusterRoleSelectors", selector("view"))]))
        .sabotage_input("a role without aggregation", role("cluster-admin"), finds("field-differs"))
        .remedy("an apiserver's restart writes the built-in roles again")
}
