//! Pod Security on a living cluster: what plain images meet, and how a namespace comes to enforce `restricted` with and
//! without breaking what runs in it.

use std::time::Duration;

use serde_json::{Value, json};
use shakedown_core::Capability::{Containerd, Kyverno, NodesExec};
use shakedown_core::Finding;
use shakedown_engine::{Check, check, finds, fixture};
use shakedown_words::admission::dry_run;
use shakedown_words::admitted::denied;
use shakedown_words::change::shared;
use shakedown_words::enforced_late::{
    everything_comes_back, set_at_once, step_by_step, step_by_step_without_the_fix, the_next_pod_is_refused,
};
use shakedown_words::node_command::{Which, each_node, shell};
use shakedown_words::pod_runs::{each_outcome, runs_each};
use shakedown_words::pods::{running, runs, stuck_for};
use shakedown_words::{Platform, manifests, psa};

use super::psa::{PLAIN, RESTRICTED, untouched};

/// A namespace that only has baseline's rules, and one with a label of a mode that there is not.
const BASELINE: &str = "shakedown-psa-ready-made";
const MUTATES: &str = "shakedown-psa-mutates";

/// The checks of roll-outs.
pub fn checks() -> Vec<Check<Platform>> {
    vec![
        ready_made_images_are_refused(),
        writing_needs_a_volume(),
        enforcing_at_once_stops_the_next(),
        fixed_workloads_come_back(),
        there_is_no_mutate_mode(),
        namespaces_are_left_behind(),
    ]
}

fn ready_made_images_are_refused() -> Check<Platform> {
    let pods = || -> Vec<Value> {
        let image = |name: &str| {
            json!({
                "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
                "spec": {"containers": [{"name": "c", "image": name}]},
            })
        };
        ["nginx", "redis", "mysql", "postgres"].map(image).to_vec()
    };
    let namespaces = || {
        shared("psa-ready-made", vec![psa::namespace(BASELINE, &[("enforce", "baseline")])])
            .shown_by(psa::answers_in(&[BASELINE]))
    };
    check("psa.ready-made-images-are-refused")
        .asserts(["PSA-031"])
        .observe(dry_run(pods()).in_namespace(RESTRICTED))
        .with(fixture(namespaces()))
        .expect(denied().with_exactly_these_violations(PLAIN))
        .sabotage_input("the namespace enforces baseline", dry_run(pods()).in_namespace(BASELINE), finds("not-refused"))
        .remedy("give each container the four settings that the refusal names")
}

fn writing_needs_a_volume() -> Check<Platform> {
    // etcd stands in for nginx: it writes to a path of its image. What it says last is kept where it ends.
    let pod = |name: &str, read_only: bool, volume: bool| {
        let mut pod = manifests!("modes.yaml").into_iter().nth(1).unwrap_or_default();
        pod["metadata"]["name"] = json!(name);
        pod["spec"]["restartPolicy"] = json!("Never");
        pod["spec"]["securityContext"] = json!({"runAsUser": 65534});
        let container = &mut pod["spec"]["containers"][0];
        // Without a probe it would count as ready in the moment before it ends.
        container["command"] = json!([
            "etcd",
            "--data-dir=/tmp/etcd",
            "--listen-client-urls=http://0.0.0.0:2379",
            "--advertise-client-urls=http://127.0.0.1:2379",
        ]);
        container["readinessProbe"] = json!({"httpGet": {"path": "/health", "port": 2379}, "periodSeconds": 1});
        container["terminationMessagePolicy"] = json!("FallbackToLogsOnError");
        container["securityContext"]["readOnlyRootFilesystem"] = json!(read_only);
        if volume {
            container["volumeMounts"] = json!([{"name": "tmp", "mountPath": "/tmp"}]);
            pod["spec"]["volumes"] = json!([{"name": "tmp", "emptyDir": {}}]);
        }
        runs(pod, RESTRICTED)
    };
    let both = |read_only| {
        runs_each(vec![pod("writes-to-its-image", read_only, false), pod("writes-to-a-volume", read_only, true)])
    };
    check("psa.a-read-only-root-needs-a-volume-to-write-to")
        .asserts(["PSA-036"])
        .needs([Containerd])
        .within(Duration::from_secs(120))
        .observe(both(true))
        .expect(each_outcome(vec![stuck_for("read-only file system"), running()]))
        .sabotage_input("the root can be written", both(false), finds("started"))
        .remedy("mount an emptyDir where the program writes")
}

fn enforcing_at_once_stops_the_next() -> Check<Platform> {
    check("psa.enforcing-at-once-stops-the-next-roll-out")
        .asserts(["PSA-047"])
        .needs([Containerd])
        .within(Duration::from_secs(200))
        .observe(set_at_once("enforce"))
        .expect(the_next_pod_is_refused())
        .sabotage_input("the mode is warn", set_at_once("warn"), finds("new-pod"))
        .remedy("warn and audit first, fix what is named, and enforce last")
}

fn fixed_workloads_come_back() -> Check<Platform> {
    check("psa.fixed-workloads-come-back-under-enforcement")
        .asserts(["PSA-049", "PSA-051"])
        .needs([Containerd])
        .within(Duration::from_secs(300))
        .observe(step_by_step())
        .expect(everything_comes_back())
        .sabotage_omitting("one workload is not fixed", step_by_step_without_the_fix(), finds("still-warned"))
        .remedy("kubectl label --dry-run=server namespace NAME pod-security.kubernetes.io/enforce=restricted names what is left")
}

fn there_is_no_mutate_mode() -> Check<Platform> {
    let namespaces = || {
        shared("psa-mutates", vec![psa::namespace(MUTATES, &[("mutate", "restricted")])])
            .shown_by(psa::answers_in(&[MUTATES]))
    };
    let stored = |index| {
        let pod = manifests!("documented.yaml").into_iter().nth(index).unwrap_or_default();
        dry_run(vec![pod]).in_namespace(MUTATES).keeping_what_is_stored()
    };
    check("psa.there-is-no-mode-that-changes-a-pod")
        .asserts(["PSA-053"])
        .observe(stored(1))
        .with(fixture(namespaces()))
        .expect(untouched())
        .sabotage_input("the Pod has the fields already", stored(2), finds("field-added"))
        .remedy("the modes are enforce, warn and audit; changing Pods is a policy engine's work")
}

fn namespaces_are_left_behind() -> Check<Platform> {
    const LOOK: &str = r##"K="kubectl --kubeconfig /etc/kubernetes/admin.conf"
$K get namespaces storage-demo cilium-demo psa-test kyverno -o jsonpath='{range .items[*]}{.metadata.name} {.status.phase}{"\n"}{end}'
$K get namespace psa-test -o jsonpath='{.metadata.labels}' | tr ',{}' '\n\n\n' | sed -n 's,"pod-security.kubernetes.io/\(.*\)":"\(.*\)",\1=\2,p'
"##;
    const LINES: &[&str] = &[
        "storage-demo Active",
        "cilium-demo Active",
        "psa-test Active",
        "kyverno Active",
        "enforce=restricted",
        "enforce-version=v1.30",
        "warn=restricted",
        "audit=restricted",
    ];
    check("psa.the-documented-namespaces-are-there")
        .asserts(["PSA-057"])
        .needs([NodesExec, Kyverno])
        .observe(shell(Which::FirstControlPlane, LOOK))
        .expect(each_node(1, |_, ran| {
            let missing = LINES.iter().filter(|line| !ran.stdout.lines().any(|said| said == **line));
            missing.map(|line| Finding::new("missing", *line, ran.stdout.clone())).collect()
        }))
        .sabotage(psa::relabelled_silently(RESTRICTED, "warn", Some("baseline")), finds("missing"))
        .remedy("`shakedown converge` makes the documented namespaces")
}
