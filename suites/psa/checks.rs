//! Pod Security Admission: the documented namespace and its three scenarios, modes, versions and limits. The table of
//! fields by level is in [`levels`](super::psa_levels).

use serde_json::{Value, json};
use shakedown_core::Capability::{ApiserverManifests, Containerd, NodesExec};
use shakedown_core::Judgement;
use shakedown_engine::{Check, Expect, check, expect_fn, finds, fixture};
use shakedown_words::admission::{Admission, create, dry_run};
use shakedown_words::admitted::{allowed, denied, each};
use shakedown_words::audit::{all_audited, audited, trail_of};
use shakedown_words::change::{Shared, added, patched, shared};
use shakedown_words::pods::{running, runs, stuck_for};
use shakedown_words::psa_survey::survey;
use shakedown_words::{ObjectRef, Platform, fields, manifest, manifests, psa, psa_survey};

/// The documented namespace (PSA-020).
pub(super) const RESTRICTED: &str = "psa-test";
/// Scenario 1 (PSA-024 to PSA-029): the documented texts, with the container that the API server names as well.
const BAD_PRIV: &[&str] = &[
    "privileged (container \"c\" must not set securityContext.privileged=true)",
    "allowPrivilegeEscalation != false (container \"c\" must set securityContext.allowPrivilegeEscalation=false)",
    "unrestricted capabilities (container \"c\" must set securityContext.capabilities.drop=[\"ALL\"])",
    "runAsNonRoot != true (pod or container \"c\" must set securityContext.runAsNonRoot=true)",
    "seccompProfile (pod or container \"c\" must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\")",
];
/// Scenario 2 (PSA-030): the heads that the document lists.
pub(super) const PLAIN: &[&str] =
    &["allowPrivilegeEscalation != false", "unrestricted capabilities", "runAsNonRoot != true", "seccompProfile"];

/// The heads of scenario 1.
const BAD_PRIV_HEADS: &[&str] = &[
    "privileged",
    "allowPrivilegeEscalation != false",
    "unrestricted capabilities",
    "runAsNonRoot != true",
    "seccompProfile",
];

/// Namespaces with modes of their own, shared by the checks of modes and versions.
const OPEN: &str = "shakedown-psa-open";
const WARNS: &str = "shakedown-psa-warns";
const WEEK5: &str = "shakedown-psa-week5";
const PINNED: &str = "shakedown-psa-pinned";
const LATEST: &str = "shakedown-psa-latest";
const AUDITS: &str = "shakedown-psa-audits";
const WEEK1: &str = "shakedown-psa-week1";

/// All checks of this area but the table of levels.
pub fn checks() -> Vec<Check<Platform>> {
    vec![
        only_the_hardened_are_labelled(),
        privileged_pod_is_refused(),
        default_pod_is_refused(),
        compliant_pod_runs(),
        root_image_does_not_start(),
        namespace_is_labelled(),
        label_alone_protects(),
        warn_mode_only_warns(),
        modes_combine(),
        version_is_pinned(),
        nothing_is_defaulted(),
        unknown_level_is_refused(),
        policy_kind_is_gone(),
        audit_mode_only_records(),
        week_one_warns_and_records(),
    ]
}

fn documented(index: usize) -> Value {
    manifests!("documented.yaml").into_iter().nth(index).unwrap_or_default()
}

fn modes() -> Shared {
    let restricted = |mode| (mode, "restricted");
    shared(
        "psa-modes",
        vec![
            psa::namespace(OPEN, &[]),
            psa::namespace(WARNS, &[restricted("warn")]),
            psa::namespace(WEEK5, &[("enforce", "baseline"), restricted("warn")]),
            psa::namespace(PINNED, &[restricted("enforce"), ("enforce-version", "v1.30")]),
            psa::namespace(LATEST, &[restricted("enforce")]),
            psa::namespace(AUDITS, &[restricted("audit")]),
            psa::namespace(WEEK1, &[restricted("warn"), restricted("audit")]),
        ],
    )
    .shown_by(psa::answers_in(&[OPEN, WARNS, WEEK5, PINNED, LATEST, AUDITS, WEEK1]))
}

fn only_the_hardened_are_labelled() -> Check<Platform> {
    check("psa.no-namespace-is-labelled-but-those-of-the-exercise")
        .asserts(["PSA-002"])
        .observe(survey(&[RESTRICTED, "psa-privileged"], OPEN))
        .with(fixture(modes()))
        .expect(psa_survey::only_the_hardened_are_labelled())
        .sabotage(psa::relabelled_silently("kube-public", "warn", Some("baseline")), finds("labelled"))
        .remedy("find out who labelled the namespace, and whether its workloads are meant to be held to that level")
}

fn privileged_pod_is_refused() -> Check<Platform> {
    check("psa.privileged-pod-is-refused")
        .asserts(["PSA-013", "PSA-023", "PSA-024", "PSA-025", "PSA-026", "PSA-027", "PSA-028", "PSA-029"])
        .observe(create(documented(0)).in_namespace(RESTRICTED))
        .expect(
            denied()
                .with_exactly_these_violations(BAD_PRIV)
                .by_policy("restricted:v1.30")
                .saying(&["pods \"bad-priv\" is forbidden", "violates PodSecurity \"restricted:v1.30\":"]),
        )
        .sabotage(psa::enforce_lowered_to(RESTRICTED, "baseline"), finds("violation-missing"))
        .remedy("label the namespace with pod-security.kubernetes.io/enforce=restricted")
}

fn default_pod_is_refused() -> Check<Platform> {
    check("psa.default-pod-is-refused")
        .asserts(["PSA-030", "PSA-054"])
        .observe(create(documented(1)).in_namespace(RESTRICTED))
        .expect(denied().with_exactly_these_violations(PLAIN).by_policy("restricted:v1.30"))
        .sabotage(psa::relabelled(RESTRICTED, "enforce", None), finds("not-refused"))
        .remedy("label the namespace with pod-security.kubernetes.io/enforce=restricted")
}

fn compliant_pod_runs() -> Check<Platform> {
    let mut without_seccomp = documented(2);
    without_seccomp["spec"]["securityContext"]["seccompProfile"] = Value::Null;
    check("psa.compliant-pod-runs")
        .asserts(["PSA-033", "PSA-034", "PSA-035"])
        .needs([Containerd])
        .observe(runs(documented(2), RESTRICTED))
        .expect(running().with_process(&[
            ("Uid", "65534"),
            ("Seccomp", "2"),
            ("NoNewPrivs", "1"),
            ("CapEff", "0000000000000000"),
            ("CapBnd", "0000000000000000"),
            ("Root", "ro"),
        ]))
        .sabotage_input("the Pod lacks seccompProfile", runs(without_seccomp, RESTRICTED), finds("refused"))
        .remedy(
            "look at `kubectl -n psa-test get events`: the Pod meets `restricted`, so the refusal names what changed",
        )
}

fn root_image_does_not_start() -> Check<Platform> {
    let root_image = manifests!("modes.yaml").into_iter().nth(1).unwrap_or_default();
    let mut with_user = root_image.clone();
    with_user["spec"]["securityContext"] = json!({"runAsUser": 65534});
    let mut peer = with_user.clone();
    peer["metadata"]["name"] = json!("as-nobody");
    check("psa.root-image-does-not-start")
        .asserts(["PSA-032"])
        .needs([Containerd])
        .observe(runs(root_image, RESTRICTED).beside(peer.clone()))
        .expect(stuck_for("image will run as root"))
        .sabotage_input("the Pod names a user", runs(with_user, RESTRICTED).beside(peer), finds("started"))
        .remedy("give the image a user other than root, or the Pod a runAsUser")
}

fn namespace_is_labelled() -> Check<Platform> {
    let labels = [
        ("/metadata/labels/pod-security.kubernetes.io~1enforce", json!("restricted")),
        ("/metadata/labels/pod-security.kubernetes.io~1enforce-version", json!("v1.30")),
        ("/metadata/labels/pod-security.kubernetes.io~1warn", json!("restricted")),
        ("/metadata/labels/pod-security.kubernetes.io~1audit", json!("restricted")),
    ];
    check("psa.namespace-is-labelled")
        .asserts(["PSA-020"])
        .observe(fields::of(
            ObjectRef::cluster("v1", "Namespace", RESTRICTED),
            &[
                "/metadata/labels/pod-security.kubernetes.io~1enforce",
                "/metadata/labels/pod-security.kubernetes.io~1enforce-version",
                "/metadata/labels/pod-security.kubernetes.io~1warn",
                "/metadata/labels/pod-security.kubernetes.io~1audit",
            ],
        ))
        .expect(fields::are(labels.to_vec()))
        .sabotage(psa::relabelled_silently(RESTRICTED, "audit", Some("baseline")), finds("field-differs"))
        .remedy("`shakedown converge` writes the four documented labels")
}

fn label_alone_protects() -> Check<Platform> {
    check("psa.label-alone-protects")
        .asserts(["PSA-018", "PSA-055"])
        .observe(dry_run(vec![documented(0)]).in_each_of(&[RESTRICTED, OPEN]))
        .with(fixture(modes()))
        .expect(each(vec![denied().for_case("bad-priv", RESTRICTED), allowed().for_case("bad-priv", OPEN)]))
        .sabotage(psa::relabelled(OPEN, "enforce", Some("baseline")), finds("refused"))
        .remedy("look for an admission configuration with defaults: a namespace without labels must admit everything")
}

fn warn_mode_only_warns() -> Check<Platform> {
    check("psa.warn-mode-only-warns")
        .asserts(["PSA-014"])
        .observe(create(documented(1)).in_namespace(WARNS))
        .with(fixture(modes()))
        .expect(allowed().warned_of(PLAIN).warned_by("restricted:latest"))
        .sabotage(psa::relabelled(WARNS, "warn", None), finds("warning-missing"))
        .remedy("label the namespace with pod-security.kubernetes.io/warn=restricted")
}

fn modes_combine() -> Check<Platform> {
    check("psa.modes-combine")
        .asserts(["PSA-016", "PSA-050"])
        .observe(dry_run(manifests!("documented.yaml")).in_namespace(WEEK5))
        .with(fixture(modes()))
        .expect(each(vec![
            denied().by_policy("baseline:latest").for_case("bad-priv", WEEK5),
            allowed().warned_of(PLAIN).for_case("plain-nginx", WEEK5),
            allowed().without_warning().for_case("good-compliant", WEEK5),
        ]))
        .sabotage(psa::relabelled(WEEK5, "enforce", Some("restricted")), finds("refused"))
        .remedy("week 5: enforce=baseline, warn=restricted")
}

fn version_is_pinned() -> Check<Platform> {
    let pods = || dry_run(vec![manifest!("modes.yaml"), documented(1)]);
    check("psa.version-is-pinned")
        .asserts(["PSA-017", "PSA-021"])
        .observe(pods().in_each_of(&[PINNED, LATEST]))
        .with(fixture(modes()))
        .expect(each(vec![
            allowed().for_case("probes-a-host", PINNED),
            denied().by_policy("restricted:v1.30").with_exactly_these_violations(PLAIN).for_case("plain-nginx", PINNED),
            denied().by_policy("restricted:latest").for_case("probes-a-host", LATEST),
            denied()
                .by_policy("restricted:latest")
                .with_exactly_these_violations(PLAIN)
                .for_case("plain-nginx", LATEST),
        ]))
        .sabotage(psa::relabelled(PINNED, "enforce-version", None), finds("refused"))
        .remedy("pin the rules: pod-security.kubernetes.io/enforce-version=v1.30")
}

/// Fields that PodSecurityPolicy used to fill in: none of them is in the stored Pod unless it was sent.
pub(super) fn untouched() -> impl Expect<Admission> {
    const DEFAULTED: &[&str] =
        &["runAsNonRoot", "seccompProfile", "capabilities", "allowPrivilegeEscalation", "readOnlyRootFilesystem"];
    expect_fn(|seen: &Admission| {
        let Some(stored) = seen.answers.first().filter(|answer| answer.admitted()).map(|answer| &answer.stored) else {
            return Judgement::Inconclusive("no Pod was admitted".to_owned());
        };
        let contexts = [&stored["spec"]["securityContext"], &stored["spec"]["containers"][0]["securityContext"]];
        match DEFAULTED.iter().find(|field| contexts.iter().any(|context| context.get(**field).is_some())) {
            Some(field) => Judgement::fail("field-added", *field, "the stored Pod has it, and it was not sent"),
            None => Judgement::Pass,
        }
    })
}

fn nothing_is_defaulted() -> Check<Platform> {
    let stored = |index| dry_run(vec![documented(index)]).in_namespace(WARNS).keeping_what_is_stored();
    check("psa.nothing-is-defaulted")
        .asserts(["PSA-019"])
        .observe(stored(1))
        .with(fixture(modes()))
        .expect(untouched())
        .sabotage_input("the Pod sends the fields itself", stored(2), finds("field-added"))
        .remedy("look for a mutating webhook or policy that adds security settings")
}

fn unknown_level_is_refused() -> Check<Platform> {
    let labelled = |level| dry_run(vec![psa::namespace("shakedown-psa-levels", &[("enforce", level)])]).called(level);
    let words = labelled("privileged").and(labelled("baseline")).and(labelled("restricted")).and(labelled("paranoid"));
    let misspelt = labelled("privileged").and(labelled("baseline")).and(labelled("restricted")).and(
        dry_run(vec![json!({
            "apiVersion": "v1", "kind": "Namespace",
            "metadata": {"name": "shakedown-psa-levels", "labels": {"enforce": "paranoid"}},
        })])
        .called("paranoid"),
    );
    check("psa.unknown-level-is-refused")
        .asserts(["PSA-004"])
        .observe(words)
        .expect(each(vec![
            allowed().for_case("privileged", ""),
            allowed().for_case("baseline", ""),
            allowed().for_case("restricted", ""),
            denied().saying(&["paranoid", "must be one of privileged, baseline, restricted"]).for_case("paranoid", ""),
        ]))
        .sabotage_input("the label's key lacks its prefix", misspelt, finds("not-refused"))
        .remedy("the levels are privileged, baseline and restricted")
}

fn policy_kind_is_gone() -> Check<Platform> {
    check("psa.policy-kind-is-gone")
        .asserts(["PSA-003", "PSA-052"])
        .observe(fields::ServedKinds)
        .expect(fields::serves(&["v1/Pod", "v1/Namespace"], &["PodSecurityPolicy", "pod-security.kubernetes.io"]))
        .sabotage(
            added("a definition serves a kind PodSecurityPolicy", manifest!("psp.yaml"))
                .shown_by(fields::served_in("policy.shakedown.test/v1")),
            finds("kind-served"),
        )
        .remedy("remove the definition: Pod Security Admission needs labels only")
}

fn audit_mode_only_records() -> Check<Platform> {
    // The two labels change in one write: that the client is warned shows that the other is in force as well.
    let defect = json!({"metadata": {"labels": {psa::label("audit"): null, psa::label("warn"): "restricted"}}});
    check("psa.audit-mode-only-records")
        .asserts(["PSA-015"])
        .needs([ApiserverManifests, NodesExec])
        .observe(trail_of(dry_run(vec![documented(1)]).in_namespace(AUDITS)))
        .with(fixture(modes()))
        .expect(all_audited(vec![audited(allowed().without_warning()).for_violations(PLAIN)]))
        .sabotage(
            patched("the audit label is a warn label", ObjectRef::cluster("v1", "Namespace", AUDITS), defect)
                .shown_by(psa::answers_in(&[AUDITS])),
            finds("annotation-missing"),
        )
        .remedy("label the namespace with pod-security.kubernetes.io/audit=restricted; audit on every control plane")
}

fn week_one_warns_and_records() -> Check<Platform> {
    let submitted = vec![documented(0), documented(1), manifest!("plain-deployment.yaml")];
    let row = |heads| audited(allowed().warned_of(heads)).for_violations(heads);
    check("psa.week-one-warns-and-records")
        .asserts(["PSA-022", "PSA-048"])
        .needs([ApiserverManifests, NodesExec])
        .observe(trail_of(dry_run(submitted).in_namespace(WEEK1)))
        .with(fixture(modes()))
        .expect(all_audited(vec![row(BAD_PRIV_HEADS), row(PLAIN), row(PLAIN)]))
        .sabotage(psa::relabelled(WEEK1, "enforce", Some("restricted")), finds("refused"))
        .remedy("week 1: warn=restricted and audit=restricted, and no enforce")
}
