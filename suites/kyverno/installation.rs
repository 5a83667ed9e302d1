//! Kyverno's installation: what is there, how it was applied, and why it could not have been applied client-side.

use std::time::Duration;

use serde_json::{Value, json};
use shakedown_core::Capability::{Internet, Kyverno, NodesExec};
use shakedown_core::Finding;
use shakedown_engine::{Check, check, finds};
use shakedown_words::change::{added, patched};
use shakedown_words::fields;
use shakedown_words::kyverno::{Controller, NAMESPACE, bent, scaled_to_zero};
use shakedown_words::kyverno_inventory::{
    Installation, applied_server_side, definitions, endpoints_of, four_controllers, no_webhook_besides,
    webhooks_are_answered,
};
use shakedown_words::node_command::{Ran, Which, each_node, shell};
use shakedown_words::{ObjectRef, Platform, manifest};

/// The nine that the document lists (KYV-023).
const DEFINITIONS: &[&str] = &[
    "clusterpolicies",
    "policies",
    "cleanuppolicies",
    "clustercleanuppolicies",
    "policyexceptions",
    "updaterequests",
    "globalcontextentries",
    "clusterephemeralreports",
    "ephemeralreports",
];
/// The two of the reports, which the document uses without listing them.
const OF_REPORTS: &[&str] = &["policyreports", "clusterpolicyreports"];

/// The checks of the installation.
pub fn checks() -> Vec<Check<Platform>> {
    vec![
        four_controllers_run(),
        webhooks_are_served(),
        nine_definitions(),
        no_other_webhooks(),
        was_applied_server_side(),
        client_side_apply_is_too_long(),
        annotation_holds_what_was_applied(),
        the_projects_are_incubating_and_graduated(),
    ]
}

fn four_controllers_run() -> Check<Platform> {
    check("kyverno.four-controllers-run")
        .asserts(["KYV-018"])
        .needs([Kyverno])
        .observe(Installation)
        .expect(four_controllers())
        .sabotage(scaled_to_zero(Controller::Reports), finds("controller-down"))
        .remedy("`kubectl -n kyverno get pods`")
}

fn webhooks_are_served() -> Check<Platform> {
    let nobody = patched(
        "Service kyverno-svc selects nobody",
        ObjectRef::namespaced("v1", "Service", NAMESPACE, "kyverno-svc"),
        json!({"spec": {"selector": {"shakedown.test/nobody": "x"}}}),
    );
    check("kyverno.webhooks-are-served-by-the-admission-controller")
        .asserts(["KYV-019"])
        .needs([Kyverno])
        .observe(Installation)
        .expect(webhooks_are_answered())
        .sabotage(bent(nobody.shown_by(endpoints_of("kyverno-svc"))), finds("nobody-answers"))
        .remedy("`kubectl -n kyverno get endpointslices`, `kubectl get validatingwebhookconfigurations`")
}

fn nine_definitions() -> Check<Platform> {
    check("kyverno.definitions-are-the-documented-ones")
        .asserts(["KYV-023"])
        .needs([Kyverno])
        .observe(Installation)
        .expect(definitions(DEFINITIONS, OF_REPORTS))
        .sabotage(
            added("a tenth definition is there", manifest!("tenth.yaml")).shown_by(fields::served_in("kyverno.io/v9")),
            finds("definition-unexpected"),
        )
        .remedy("`shakedown converge` applies the install manifest")
}

fn no_other_webhooks() -> Check<Platform> {
    let stranger = json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingWebhookConfiguration",
        "metadata": {"name": "shakedown-stranger"},
        "webhooks": [{
            "name": "stranger.shakedown.test", "admissionReviewVersions": ["v1"], "sideEffects": "None",
            "failurePolicy": "Ignore",
            "clientConfig": {"service": {"namespace": "default", "name": "none"}},
            "rules": [{"apiGroups": ["shakedown.test"], "apiVersions": ["*"], "operations": ["CREATE"],
                "resources": ["strangers"]}],
        }],
    });
    check("kyverno.no-webhooks-besides-its-own")
        .asserts(["KYV-003"])
        .needs([Kyverno])
        .observe(Installation)
        .expect(no_webhook_besides(&["longhorn-webhook-validator", "longhorn-webhook-mutator"]))
        .sabotage(added("a webhook of nobody's is registered", stranger), finds("webhook-unexpected"))
        .remedy("find out who registered it: every request of its kinds depends on it")
}

fn was_applied_server_side() -> Check<Platform> {
    let annotated = patched(
        "a definition carries the annotation of a client-side apply",
        ObjectRef::cluster("apiextensions.k8s.io/v1", "CustomResourceDefinition", "updaterequests.kyverno.io"),
        json!({"metadata": {"annotations": {"kubectl.kubernetes.io/last-applied-configuration": "{}"}}}),
    );
    check("kyverno.definitions-were-applied-server-side")
        .asserts(["KYV-016"])
        .needs([Kyverno])
        .observe(Installation)
        .expect(applied_server_side())
        .sabotage(annotated, finds("annotated"))
        .remedy("`kubectl apply --server-side --force-conflicts`")
}

/// Runs `kubectl apply` of Kyverno's definitions as dry runs on the server, and of one of our own that is as large.
/// Each line is a case, the exit code, and what was said of annotations: today's apiserver says "may not be more than",
/// the document's said "must have at most".
const APPLIES: &str = r#"
export KUBECONFIG=/etc/kubernetes/admin.conf
dir=$(mktemp -d); trap 'rm -rf "$dir"' EXIT
say() { case=$1; shift; out=$("$@" 2>&1); code=$?; echo "$case $code $(echo "$out" | grep -o 'metadata.annotations: .*' | head -n 1)"; }
kubectl get customresourcedefinitions -o name | grep -E '(kyverno|wgpolicyk8s)\.io$' > "$dir/names"
echo "definitions $(wc -l < "$dir/names")"
kubectl get customresourcedefinition updaterequests.kyverno.io -o json > "$dir/small.json"
if [ LARGE = no ]; then say client-side kubectl apply --dry-run=server -f "$dir/small.json"; exit 0; fi
kubectl get $(cat "$dir/names") -o json > "$dir/all.json"
head -c 270000 /dev/zero | tr '\0' x > "$dir/filler"
cat > "$dir/large.yaml" <<MANIFEST
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: larges.shakedown.test}
spec:
  group: shakedown.test
  scope: Namespaced
  names: {plural: larges, singular: large, kind: Large}
  versions:
  - name: v1
    served: true
    storage: true
    schema: {openAPIV3Schema: {type: object, description: $(cat "$dir/filler")}}
MANIFEST
say client-side kubectl apply --dry-run=server -f "$dir/all.json"
say server-side kubectl apply --server-side --force-conflicts --dry-run=server -f "$dir/all.json"
say small-client-side kubectl apply --dry-run=server -f "$dir/small.json"
say large-client-side kubectl apply --dry-run=server -f "$dir/large.yaml"
say large-server-side kubectl apply --server-side --force-conflicts --dry-run=server -f "$dir/large.yaml"
"#;

fn too_long(node: &str, ran: &Ran) -> Vec<Finding> {
    const EXPECTED: &[(&str, &str, &str)] = &[
        ("definitions", "11", ""),
        ("client-side", "1", "metadata.annotations: Too long: may not be more than 262144 bytes"),
        ("server-side", "0", ""),
        ("small-client-side", "0", ""),
        ("large-client-side", "1", "metadata.annotations: Too long: may not be more than 262144 bytes"),
        ("large-server-side", "0", ""),
    ];
    let line = |case: &str| ran.stdout.lines().find(|line| line.split(' ').next() == Some(case));
    let wrong = EXPECTED.iter().filter_map(|(case, code, said)| match line(case) {
        None => Some(Finding::new("not-run", node, format!("{case}: {}", ran.brief()))),
        Some(line) if line.split(' ').nth(1) != Some(code) => {
            Some(Finding::new("outcome-differs", node, format!("expected {code}: {line}")))
        }
        Some(line) if !line.contains(said) => {
            Some(Finding::new("message-differs", node, format!("`{said}` is not in: {line}")))
        }
        Some(_) => None,
    });
    wrong.collect()
}

fn client_side_apply_is_too_long() -> Check<Platform> {
    let with = |large: &str| shell(Which::FirstControlPlane, &APPLIES.replace("LARGE", large));
    check("kyverno.definitions-do-not-fit-into-the-annotation")
        .asserts(["KYV-013", "KYV-015", "KYV-017"])
        .needs([Kyverno, NodesExec])
        .within(Duration::from_secs(300))
        .observe(with("yes"))
        .expect(each_node(1, too_long))
        .sabotage_input("only a small definition is applied", with("no"), finds("outcome-differs"))
        .remedy("`kubectl apply --server-side --force-conflicts`")
}

/// A small ConfigMap and one of 270 kB, client-side; whether the annotation holds the object.
const ANNOTATES: &str = r#"
export KUBECONFIG=/etc/kubernetes/admin.conf
dir=$(mktemp -d); trap 'rm -rf "$dir"' EXIT
made() { echo '{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"annotated","namespace":"default"},"data":{"k":"'"$1"'"}}'; }
made small > "$dir/small.json"
made "$(head -c 270000 /dev/zero | tr '\0' x)" > "$dir/large.json"
kubectl APPLY --dry-run=server -f "$dir/small.json" -o 'jsonpath={.metadata.annotations.kubectl\.kubernetes\.io/last-applied-configuration}'
echo
kubectl APPLY --dry-run=server -f "$dir/large.json" 2>&1 | cut -c 1-300
"#;

fn annotation_holds_what_was_applied() -> Check<Platform> {
    let with = |verb: &str| shell(Which::FirstControlPlane, &ANNOTATES.replace("APPLY", verb));
    let expected = each_node(1, |node, ran| {
        let mut lines = ran.stdout.lines().filter(|line| !line.trim().is_empty());
        let held: Value = lines.next().and_then(|line| serde_json::from_str(line).ok()).unwrap_or_default();
        let mut found = vec![];
        if held["data"]["k"] != "small" || held["kind"] != "ConfigMap" {
            found.push(Finding::new("annotation-missing", node, format!("the annotation holds {held}")));
        }
        let refused = lines.next().unwrap_or_default();
        if !refused.contains("metadata.annotations: Too long: may not be more than 262144 bytes") {
            found.push(Finding::new("not-refused", node, refused.to_owned()));
        }
        found
    });
    check("kyverno.client-side-apply-annotates-what-it-applied")
        .asserts(["KYV-014"])
        .needs([NodesExec])
        .within(Duration::from_secs(150))
        .observe(with("apply"))
        .expect(expected)
        .sabotage_input("kubectl create is used", with("create"), finds("annotation-missing"))
        .remedy("objects of more than 262144 bytes are applied server-side")
}

/// What the foundation's pages say: `PROJECT MATURITY` a line.
const PAGES: &str = r#"
for project in kyverno open-policy-agent-opa; do
  page=$(curl --silent --show-error --fail --max-time 20 "https://www.cncf.io/projects/$project/") || exit 1
  echo "$project $(echo "$page" | grep -oiE 'at the (sandbox|incubating|graduated) maturity' | head -n 1 | cut -d ' ' -f 3)"
done
"#;

fn the_projects_are_incubating_and_graduated() -> Check<Platform> {
    let expected = each_node(1, |node, ran| {
        if !ran.ok() {
            return vec![Finding::new("page-unread", node, ran.brief())];
        }
        let said = ran.stdout.to_lowercase();
        let wanted = ["kyverno incubating", "open-policy-agent-opa graduated"];
        let differs = wanted.iter().filter(|line| !said.lines().any(|found| found.trim() == **line));
        differs.map(|line| Finding::new("maturity-differs", node, format!("`{line}` is not in: {said}"))).collect()
    });
    check("kyverno.project-is-incubating-and-gatekeepers-graduated")
        .asserts(["KYV-009"])
        .needs([Internet, NodesExec])
        .observe(shell(Which::FirstControlPlane, PAGES))
        .expect(expected)
        .sabotage_recorded("pages with the two states swapped", include_str!("swapped.json"), finds("maturity-differs"))
        .remedy("the document's comparison has aged: read the projects' pages")
}
