//! Pod Security Admission's table of fields by level (D5), and where the real table differs from the document's.

use shakedown_engine::{Check, check, finds, fixture};
use shakedown_words::admission::dry_run;
use shakedown_words::admitted::{Row, levels};
use shakedown_words::change::{Shared, shared};
use shakedown_words::{Platform, manifests, psa};

use super::psa::PLAIN;

const PRIVILEGED: &str = "shakedown-psa-privileged";
const BASELINE: &str = "shakedown-psa-baseline";
const STRICT: &str = "shakedown-psa-restricted";
const LEVELS: &[&str] = &[PRIVILEGED, BASELINE, STRICT];

const ESCALATION: &str = "allowPrivilegeEscalation != false";
const HOST: &[&str] = &["host namespaces"];
const CAPABILITIES: &[&str] = &["unrestricted capabilities"];
const NON_ROOT: &str = "runAsNonRoot != true";
const SECCOMP: &[&str] = &["seccompProfile"];

/// Case; admitted or refused at privileged, baseline, restricted; what each refusal names, and nothing besides.
const TABLE: &[Row] = &[
    ("compliant", "AAA", &[]),
    ("privileged", "ARR", &[&["privileged"], &["privileged", ESCALATION]]),
    ("host-network", "ARR", &[HOST, HOST]),
    ("host-pid", "ARR", &[HOST, HOST]),
    ("host-ipc", "ARR", &[HOST, HOST]),
    ("host-path", "ARR", &[&["hostPath volumes"], &["restricted volume types"]]),
    ("adds-net-admin", "ARR", &[&["non-default capabilities"], CAPABILITIES]),
    ("adds-chown", "AAR", &[CAPABILITIES]),
    ("adds-net-bind", "AAA", &[]),
    ("may-be-root", "AAR", &[&[NON_ROOT]]),
    ("is-root", "AAR", &[&[NON_ROOT, "runAsUser=0"]]),
    ("may-escalate", "AAR", &[&[ESCALATION]]),
    ("escalation-unset", "AAR", &[&[ESCALATION]]),
    ("writable-root", "AAA", &[]),
    ("readonly-root", "AAA", &[]),
    ("seccomp-unset", "AAR", &[SECCOMP]),
    ("seccomp-unconfined", "ARR", &[SECCOMP, SECCOMP]),
    ("seccomp-localhost", "AAA", &[]),
    ("drops-nothing", "AAR", &[CAPABILITIES]),
    ("bare", "AAR", &[PLAIN]),
];
/// Cases about the root file system: no level has a rule for it.
const ROOT: &[Row] = &[("compliant", "AAA", &[]), ("writable-root", "AAA", &[]), ("readonly-root", "AAA", &[])];

/// The checks of the table.
pub fn checks() -> Vec<Check<Platform>> {
    vec![table_of_levels(), writable_root_is_admitted()]
}

fn namespaces() -> Shared {
    shared(
        "psa-levels",
        vec![
            psa::namespace(PRIVILEGED, &[("enforce", "privileged")]),
            psa::namespace(BASELINE, &[("enforce", "baseline")]),
            psa::namespace(STRICT, &[("enforce", "restricted")]),
        ],
    )
    .shown_by(psa::answers_in(LEVELS))
}

fn table_of_levels() -> Check<Platform> {
    check("psa.table-of-levels")
        .asserts(["PSA-001", "PSA-005", "PSA-006", "PSA-007", "PSA-008", "PSA-009", "PSA-011", "PSA-012"])
        .asserts(["PSA-037", "PSA-038", "PSA-039", "PSA-040", "PSA-041", "PSA-042", "PSA-044", "PSA-045", "PSA-046"])
        .observe(dry_run(manifests!("levels.yaml")).in_each_of(LEVELS))
        .with(fixture(namespaces()))
        .expect(levels(LEVELS, TABLE))
        .sabotage(psa::enforce_lowered_to(BASELINE, "privileged"), finds("not-refused"))
        .remedy("compare the levels with the Pod Security Standards of this Kubernetes version")
}

fn writable_root_is_admitted() -> Check<Platform> {
    let about_root = || {
        manifests!("levels.yaml")
            .into_iter()
            .filter(|pod| ROOT.iter().any(|(case, ..)| pod["metadata"]["name"] == *case))
    };
    check("psa.writable-root-is-admitted")
        .contradicts(["PSA-010", "PSA-043", "PSA-056"])
        .observe(dry_run(about_root().collect()).in_each_of(LEVELS))
        .with(fixture(namespaces()))
        .expect(levels(LEVELS, ROOT))
        .sabotage(read_only_root_policy(), finds("refused"))
        .remedy("a read-only root needs a policy of its own (Kyverno): no level of Pod Security asks for it")
}

/// A rule as the document describes it, which the API server does not have: then the recorded answers differ.
fn read_only_root_policy() -> shakedown_words::change::Change {
    let [policy, binding] = <[_; 2]>::try_from(manifests!("read-only-root.yaml")).unwrap_or_default();
    shakedown_words::change::added("a policy demands readOnlyRootFilesystem in the restricted namespace", policy)
        .and(shakedown_words::change::added("", binding))
        .shown_by(psa::answers_in(&[STRICT]))
}
