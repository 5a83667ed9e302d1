//! Rights in daily use: certificates and kubeconfigs, tokens and their ends, `can-i`, the rule that a refusal names, and
//! how somebody locks themselves out.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};
use shakedown_core::Capability::{ApiserverManifests, Containerd, Nodes3cp, NodesExec};
use shakedown_core::Finding;
use shakedown_engine::{Check, check, finds, fixture};
use shakedown_words::access::{every, may, may_each};
use shakedown_words::change::{added, deleted};
use shakedown_words::identity::Identity;
use shakedown_words::lockout::{author_deletes_own_binding, locked_out_and_rescued};
use shakedown_words::masters::{certificate_of, may_everything_without_a_binding};
use shakedown_words::missing_rule::{granting_what_is_missing, the_rule_was_all_that_was_missing};
use shakedown_words::node_command::{OnNodes, Ran, Which, each_node, says, shell};
use shakedown_words::pod_token::{bound_beside_endless, tokens};
use shakedown_words::rights::{each_of, granted, review_of, rule_added};
use shakedown_words::token_secrets::{none_came, of_a_new_account};
use shakedown_words::{ObjectRef, Platform};

use super::rbac::{NAMESPACE, ROLE, TOKEN, USER, readable, viewer};
use super::rbac_model::{A, lab};

/// All checks of daily use.
pub fn checks() -> Vec<Check<Platform>> {
    vec![
        author_is_locked_out(),
        cluster_roles(),
        components_have_their_own_names(),
        masters_need_no_binding(),
        no_token_secret_by_itself(),
        view_is_wider(),
        kubeconfig_works_at_once(),
        kubeconfig_has_its_namespace(),
        kubeconfig_stays_usable(),
        refusal_names_the_rule(),
        can_i_only_asks(),
        pipeline_stops_early(),
        accounts_are_not_shared(),
        mounted_token_ends_with_its_pod(),
    ]
}

fn on_first(text: &str) -> OnNodes {
    shell(Which::FirstControlPlane, text)
}

fn author_is_locked_out() -> Check<Platform> {
    check("rbac.who-deletes-their-own-binding-is-locked-out")
        .asserts(["RBAC-001"])
        .observe(author_deletes_own_binding(A))
        .with(fixture(lab()))
        .expect(locked_out_and_rescued())
        .sabotage_input(
            "the author has a second binding",
            author_deletes_own_binding(A).with_a_second_binding(),
            finds("not-locked-out"),
        )
        .remedy("keep a second credential with all rights apart (super-admin.conf) before changing your own")
}

fn cluster_roles() -> Check<Platform> {
    const FOR_USERS: &[&str] = &["view", "edit", "admin", "cluster-admin"];
    let complete = |node: &str, ran: &Ran| -> Vec<Finding> {
        if !ran.ok() {
            return vec![Finding::new("command-failed", node, ran.brief())];
        }
        let names: BTreeSet<&str> =
            ran.stdout.lines().filter_map(|line| line.rsplit_once('/')).map(|it| it.1).collect();
        let system = names.iter().filter(|name| name.starts_with("system:")).count();
        let missing = FOR_USERS.iter().filter(|name| !names.contains(**name));
        let mut found: Vec<Finding> =
            missing.map(|name| Finding::new("role-missing", *name, format!("{} ClusterRoles", names.len()))).collect();
        if system < FOR_USERS.len() {
            found.push(Finding::new("role-missing", "system:", format!("{system} of the components' own roles")));
        }
        found
    };
    check("rbac.cluster-roles-are-the-components-and-four-for-users")
        .asserts(["RBAC-002"])
        .needs([NodesExec])
        .observe(on_first("kubectl --kubeconfig /etc/kubernetes/admin.conf get clusterroles -o name"))
        .expect(each_node(1, complete))
        .sabotage(
            deleted(
                "ClusterRole view is gone",
                ObjectRef::cluster("rbac.authorization.k8s.io/v1", "ClusterRole", "view"),
            ),
            finds("role-missing"),
        )
        .remedy("restart an apiserver: it writes missing built-in roles anew")
}

/// Prints the subject of the certificate in each kubeconfig of a control plane, and where its user is bound.
const CERTIFICATES: &str = r#"K="kubectl --kubeconfig /etc/kubernetes/admin.conf"
of() { [ -f /etc/kubernetes/$2.conf ] || return 0
  echo "$1: $(sed -n 's/ *client-certificate-data: //p' /etc/kubernetes/$2.conf | base64 -d | openssl x509 -noout -subject -nameopt RFC2253)"; }
of admin admin; of super-admin super-admin; of controller-manager controller-manager; of scheduler SCHEDULER
for name in controller-manager scheduler; do
  echo "$name is bound: $($K get clusterrolebinding system:kube-$name -o jsonpath='{.roleRef.name} {.subjects[*].name}')"
done
$K get clusterrole system:node system:kube-scheduler system:kube-controller-manager -o name | sed 's/^/there is /'
"#;

fn components_have_their_own_names() -> Check<Platform> {
    const LINES: &[&str] = &[
        "admin: subject=CN=kubernetes-admin,O=kubeadm:cluster-admins",
        "controller-manager: subject=CN=system:kube-controller-manager",
        "scheduler: subject=CN=system:kube-scheduler",
        "controller-manager is bound: system:kube-controller-manager system:kube-controller-manager",
        "scheduler is bound: system:kube-scheduler system:kube-scheduler",
        "there is clusterrole.rbac.authorization.k8s.io/system:kube-controller-manager",
        "there is clusterrole.rbac.authorization.k8s.io/system:kube-scheduler",
        "there is clusterrole.rbac.authorization.k8s.io/system:node",
    ];
    let look = |scheduler| shell(Which::ControlPlanes, &CERTIFICATES.replace("SCHEDULER", scheduler));
    check("rbac.components-have-certificates-and-roles-of-their-own")
        .asserts(["RBAC-018"])
        .contradicts(["RBAC-020"])
        .needs([NodesExec, Nodes3cp])
        .observe(look("scheduler"))
        .expect(each_node(3, |node, ran| {
            let lines: BTreeSet<&str> = ran.stdout.lines().collect();
            let missing = LINES.iter().filter(|line| !lines.contains(**line));
            let mut found: Vec<Finding> = missing
                .map(|line| Finding::new("certificate", node, format!("`{line}` is not in: {}", ran.stdout)))
                .collect();
            let rescue = lines.iter().find(|line| line.starts_with("super-admin: "));
            if rescue.is_some_and(|line| !line.ends_with("O=system:masters")) {
                found.push(Finding::new("certificate", node, format!("{rescue:?}")));
            }
            found
        }))
        .sabotage_input("the scheduler's kubeconfig is the administrator's", look("admin"), finds("certificate"))
        .remedy("kubeadm init phase kubeconfig scheduler writes the component's own kubeconfig")
}

fn masters_need_no_binding() -> Check<Platform> {
    check("rbac.masters-may-everything-without-a-binding")
        .asserts(["RBAC-019"])
        .needs([NodesExec])
        .observe(certificate_of("system:masters"))
        .expect(may_everything_without_a_binding())
        .sabotage_input("the certificate is of another group", certificate_of("system:other"), finds("right-missing"))
        .remedy("sign no certificate with O=system:masters: nothing but a new CA takes it back")
}

fn no_token_secret_by_itself() -> Check<Platform> {
    check("rbac.no-token-secret-comes-by-itself")
        .asserts(["RBAC-022"])
        .observe(of_a_new_account(A))
        .with(fixture(lab()))
        .expect(none_came())
        .sabotage_input("one is made by hand", of_a_new_account(A).with_one_made_by_hand(), finds("token-secret"))
        .remedy("make the Secret by hand where a token without an end is wanted")
}

fn view_is_wider() -> Check<Platform> {
    const FURTHER: &[&str] = &["networkpolicies.networking.k8s.io", "ingresses.networking.k8s.io"];
    let also = |place| every(&["get", "list"], FURTHER, place);
    let in_a = || -> Vec<String> {
        let own = readable().iter().map(|question| question.replace(NAMESPACE, A)).collect::<Vec<_>>();
        own.into_iter().chain(also(" in shakedown-rbac-a")).collect()
    };
    let in_demo = || -> Vec<String> { readable().into_iter().chain(also(" in storage-demo")).collect() };
    check("rbac.view-is-wider-than-the-viewers-role")
        .asserts(["RBAC-029"])
        .observe(may_each(vec![
            may(Identity::user("shakedown-reader"), in_a().iter().map(String::as_str)),
            may(viewer(), in_demo().iter().map(String::as_str)),
        ]))
        .with(fixture(lab()))
        .expect(each_of(vec![granted(in_a()), granted(readable()).forbidden(also(" in storage-demo"))]))
        .sabotage(
            rule_added(NAMESPACE, ROLE, &["networking.k8s.io"], &["networkpolicies"], &["list"]).shown_by(review_of(
                USER,
                &[],
                "list networkpolicies.networking.k8s.io in storage-demo",
            )),
            finds("right-too-many"),
        )
        .remedy("a Role of one's own names just what is needed; view names more, and grows with the cluster")
}

/// The documented commands (C2) in an empty environment of their own, and what comes of the file.
const KUBECONFIG: &str = r#"K="kubectl --kubeconfig /etc/kubernetes/admin.conf"
d=$(mktemp -d); trap 'rm -rf $d' EXIT; cd $d
TOKEN=$($K get secret demo-viewer-token -n storage-demo -o jsonpath='{.data.token}' | base64 -d)
CA=$($K get secret demo-viewer-token -n storage-demo -o jsonpath='{.data.ca\.crt}')
APISERVER=$($K config view --minify -o jsonpath='{.clusters[0].cluster.server}')
HOOK
cat > viewer.kubeconfig <<EOF
apiVersion: v1
kind: Config
clusters:
- {name: bootcamp, cluster: {server: $APISERVER, certificate-authority-data: $CA}}
contexts:
- {name: viewer@bootcamp, context: {cluster: bootcamp, namespace: storage-demo, user: demo-viewer}}
current-context: viewer@bootcamp
users:
- {name: demo-viewer, user: {token: $TOKEN}}
EOF
EDIT
k() { env -i PATH=$PATH HOME=$d KUBECONFIG=viewer.kubeconfig kubectl "$@"; }
echo "user $(k auth whoami -o jsonpath='{.status.userInfo.username}')"
k get pods -o name >/dev/null && echo "lists pods"
v() { k config view --minify -o jsonpath="$1"; }
echo "context $(k config current-context) cluster $(v '{.clusters[0].name}') of user $(v '{.contexts[0].context.user}') in $(v '{.contexts[0].context.namespace}')"
[ "$(v '{.clusters[0].cluster.server}')" = "$($K config view --minify -o jsonpath='{.clusters[0].cluster.server}')" ] && echo "same server"
echo "$CA" | base64 -d 2>/dev/null | cmp -s - /etc/kubernetes/pki/ca.crt && echo "CA of the cluster"
echo "$TOKEN" | cut -d. -f2 | tr '_-' '/+' | base64 -d 2>/dev/null | grep -q '"exp"' || echo "without an end"
true
"#;

fn kubeconfig(hook: &str, edit: &str) -> OnNodes {
    on_first(&KUBECONFIG.replace("HOOK", hook).replace("EDIT", edit))
}

fn kubeconfig_works_at_once() -> Check<Platform> {
    check("rbac.viewers-kubeconfig-works-at-once")
        .asserts(["RBAC-031", "RBAC-032", "RBAC-034"])
        .needs([NodesExec])
        .observe(kubeconfig("", ""))
        .expect(says(
            1,
            "kubeconfig",
            &["user system:serviceaccount:storage-demo:demo-viewer", "lists pods", "same server", "CA of the cluster"],
        ))
        .sabotage_input(
            "certificate-authority-data holds the decoded PEM",
            kubeconfig("CA=$(echo \"$CA\" | base64 -d)", ""),
            finds("kubeconfig"),
        )
        .remedy("take ca.crt from the Secret as it is, base64: certificate-authority-data wants it so")
}

fn kubeconfig_has_its_namespace() -> Check<Platform> {
    check("rbac.viewers-kubeconfig-goes-to-its-namespace")
        .asserts(["RBAC-033"])
        .needs([NodesExec])
        .observe(kubeconfig("", ""))
        .expect(says(
            1,
            "context",
            &["context viewer@bootcamp cluster bootcamp of user demo-viewer in storage-demo", "lists pods"],
        ))
        .sabotage_input(
            "the context names no namespace",
            kubeconfig("", "sed -i 's/ namespace: storage-demo,//' viewer.kubeconfig"),
            finds("context"),
        )
        .remedy("name namespace storage-demo in the context: the viewer may read nowhere else")
}

fn kubeconfig_stays_usable() -> Check<Platform> {
    check("rbac.viewers-kubeconfig-stays-usable")
        .asserts(["RBAC-063"])
        .needs([NodesExec])
        .observe(kubeconfig("", ""))
        .expect(says(1, "ends", &["without an end", "lists pods"]))
        .sabotage_input(
            "the token is one of the TokenRequest API",
            kubeconfig("TOKEN=$($K create token demo-viewer -n storage-demo --duration=10m)", ""),
            finds("ends"),
        )
        .remedy("keep Secret demo-viewer-token: deleting it is what ends the kubeconfigs made from it")
}

fn refusal_names_the_rule() -> Check<Platform> {
    const ASKED: &[&str] = &["list configmaps in shakedown-rbac-a", "create deployments.apps in shakedown-rbac-a"];
    check("rbac.a-refusal-names-the-rule-that-is-missing")
        .asserts(["RBAC-044"])
        .observe(granting_what_is_missing(A, ASKED))
        .with(fixture(lab()))
        .expect(the_rule_was_all_that_was_missing())
        .sabotage_input(
            "the rule for deployments is of the core group",
            granting_what_is_missing(A, ASKED).in_the_core_group(),
            finds("still-refused"),
        )
        .remedy("take verb, resource and API group from the message; deployments are of group apps")
}

/// Asks as somebody new who may do everything, and prints what the audit log of the same control plane says of it.
const CAN_I: &str = r#"who=shakedown-asks-$(cat /proc/sys/kernel/random/uuid)
own=$(tr '\0' '\n' < /proc/$(pgrep -xo kube-apiserver)/cmdline | sed -n 's/^--advertise-address=//p')
kubectl --kubeconfig /etc/kubernetes/admin.conf --server=https://$own:6443 get --raw /readyz >/dev/null || exit 75
k() { kubectl --kubeconfig /etc/kubernetes/admin.conf --server=https://$own:6443 --as=$who --as-group=system:masters "$@"; }
echo "can-i says $(k auth can-i create deployments.apps -n default)"
HOOK
grep -hF $who /var/log/kubernetes/audit.log | sed -n 's/.*"verb":"\([a-z]*\)".*"objectRef":{"resource":"\([a-z]*\)".*/\1 \2/p' | sort | uniq -c | sed 's/^ */audited: /'
"#;

fn can_i_only_asks() -> Check<Platform> {
    let ask = |hook| shell(Which::ControlPlanes, &CAN_I.replace("HOOK", hook));
    check("rbac.can-i-asks-and-does-not-do")
        .contradicts(["RBAC-048"])
        .needs([ApiserverManifests, NodesExec])
        .observe(ask(""))
        .expect(each_node(1, |node, ran| {
            let mut found = vec![];
            for line in ["can-i says yes", "audited: 1 create selfsubjectaccessreviews"] {
                if !ran.stdout.lines().any(|said| said == line) {
                    found.push(Finding::new("not-asked", node, format!("`{line}` is not in: {}", ran.stdout)));
                }
            }
            if let Some(line) = ran.stdout.lines().find(|line| line.ends_with(" deployments")) {
                found.push(Finding::new("done", node, line.to_owned()));
            }
            found
        }))
        .sabotage_input(
            "the Deployment is really created (as a dry run)",
            ask("k create deployment asked --image=none -n default --dry-run=server -o name"),
            finds("done"),
        )
        .remedy("kubectl auth can-i sends a review for oneself; with --as it is reviewed as that identity")
}

/// A pipeline with a question in front, as the viewer, for what it may not and what it may do.
const PIPELINE: &str = r#"may() { kubectl --kubeconfig /etc/kubernetes/admin.conf --as system:serviceaccount:storage-demo:demo-viewer auth can-i "$@" -n storage-demo -q; }
pipeline() { (set -e; may "$@" IGNORED; echo "deploys: $*"); echo "ended with $?: $*"; }
pipeline create deployments.apps
pipeline list pods
"#;

fn pipeline_stops_early() -> Check<Platform> {
    let run = |ignored| on_first(&PIPELINE.replace("IGNORED", ignored));
    check("rbac.a-pipeline-stops-where-can-i-says-no")
        .asserts(["RBAC-050"])
        .needs([NodesExec])
        .observe(run(""))
        .expect(each_node(1, |node, ran| {
            let lines: Vec<&str> = ran.stdout.lines().collect();
            let wanted = ["ended with 1: create deployments.apps", "deploys: list pods", "ended with 0: list pods"];
            if lines == wanted { vec![] } else { vec![Finding::new("goes-on", node, ran.stdout.clone())] }
        }))
        .sabotage_input("the exit status is ignored", run("|| true"), finds("goes-on"))
        .remedy("set -e, and kubectl auth can-i before the first change")
}

/// Workloads with their namespaces and service accounts.
const WORKLOADS: &str = r#"kubectl --kubeconfig /etc/kubernetes/admin.conf get deployments,daemonsets,statefulsets -A -o \
  jsonpath='{range .items[*]}{.metadata.namespace} {.spec.template.spec.serviceAccountName} {.kind}/{.metadata.name}{"\n"}{end}'"#;

fn accounts_are_not_shared() -> Check<Platform> {
    let paused = |name: &str| -> Value {
        json!({
            "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name, "namespace": "kube-public"},
            "spec": {"replicas": 0, "selector": {"matchLabels": {"app": name}}, "template": {
                "metadata": {"labels": {"app": name}}, "spec": {"containers": [{"name": "c", "image": "none"}]},
            }},
        })
    };
    check("rbac.no-two-workloads-share-a-service-account")
        .asserts(["RBAC-057"])
        .needs([NodesExec])
        .observe(on_first(WORKLOADS))
        .expect(each_node(1, |node, ran| {
            let mut users: BTreeMap<(&str, &str), Vec<&str>> = BTreeMap::new();
            for line in ran.stdout.lines() {
                // What checks put up and take down is theirs.
                if let [namespace, account, workload] = line.split(' ').collect::<Vec<_>>()[..]
                    && !namespace.starts_with("shakedown-")
                {
                    let account = if account.is_empty() { "default" } else { account };
                    users.entry((namespace, account)).or_default().push(workload);
                }
            }
            if users.is_empty() {
                return vec![Finding::new("no-workload", node, ran.brief())];
            }
            let shared = users.iter().filter(|(_, workloads)| workloads.len() > 1);
            shared
                .map(|((namespace, account), workloads)| {
                    Finding::new("shared", format!("{namespace}/{account}"), workloads.join(", "))
                })
                .collect()
        }))
        .sabotage(
            added("two Deployments of kube-public use its default account", paused("shakedown-one"))
                .and(added("", paused("shakedown-two"))),
            finds("shared"),
        )
        .remedy("give each workload a service account of its own")
}

fn mounted_token_ends_with_its_pod() -> Check<Platform> {
    let both = || tokens(A, "deployer", (NAMESPACE, TOKEN));
    check("rbac.a-mounted-token-ends-with-its-pod")
        .asserts(["RBAC-059"])
        .contradicts(["RBAC-058"])
        .needs([NodesExec, Containerd])
        .within(std::time::Duration::from_secs(180))
        .observe(both())
        .with(fixture(lab()))
        .expect(bound_beside_endless())
        .sabotage_input("both tokens are the Secret's", both().both_from_the_secret(), finds("no-end"))
        .remedy("mount tokens; make token Secrets only for what lives outside of the cluster")
}
