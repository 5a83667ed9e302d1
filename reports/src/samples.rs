//! A small run that has everything in it, for the tests of the renderers.

use std::collections::BTreeMap;

use shakedown_core::{
    CheckRecord, ControlKind, ControlRecord, ControlVerdict, EvidenceRecord, Finding, Here, RunInfo, Seed, Verdict,
};

use crate::fold::{Scope, report_of};
use crate::schema::Report;

/// A run's head.
pub fn run() -> RunInfo {
    RunInfo {
        id: "20260102T030405Z-42".to_owned(),
        seed: Seed(42),
        cluster: "shakedown".to_owned(),
        started: "2026-01-02T03:04:05Z".parse().unwrap(),
        finished: Some("2026-01-02T03:14:35Z".parse().unwrap()),
        provisioner: "local".to_owned(),
        versions: BTreeMap::from([
            ("kubernetes".to_owned(), "v1.34.4".to_owned()),
            ("cilium".to_owned(), "1.16.5".to_owned()),
        ]),
        command: "shakedown run --seed 42".to_owned(),
    }
}

/// A check of this verdict, with a live control to match.
pub fn check(id: &str, verdict: Verdict) -> CheckRecord {
    let passed = verdict == Verdict::Pass;
    CheckRecord {
        id: id.to_owned(),
        area: id.split('.').next().unwrap().to_owned(),
        statements: Vec::new(),
        contradicts: Vec::new(),
        verdict,
        reason: String::new(),
        findings: Vec::new(),
        duration_ms: 120,
        proven: passed,
        control: ControlRecord {
            verdict: if passed { ControlVerdict::Found } else { ControlVerdict::NotRun },
            kind: ControlKind::Plant,
            due: passed,
            found: if passed { vec![Finding::new("violation-missing", "namespace a", "admitted")] } else { vec![] },
            note: "enforce lowered to baseline".to_owned(),
            duration_ms: if passed { 340 } else { 0 },
        },
        evidence: vec![EvidenceRecord {
            kind: "baseline".to_owned(),
            path: format!("evidence/{id}.baseline.json"),
            sha256: "0f".repeat(32),
        }],
        remedy: "put it back as documented".to_owned(),
    }
}

/// One check of each verdict, and a few that are easy to render wrongly.
pub fn checks() -> Vec<CheckRecord> {
    let mut passed = check("psa.privileged", Verdict::Pass);
    passed.statements = vec!["PSA-001".into(), "PSA-002".into()];
    passed.contradicts = vec!["PSA-002".into()];
    let mut failed = check("registry.pull-over-http", Verdict::Fail);
    failed.statements = vec!["REG-001".into()];
    failed.reason = "1 of 5 nodes cannot pull".to_owned();
    failed.findings =
        vec![Finding::new("https-client", "node-3", "http: server gave HTTP response to HTTPS client <x> & \"y\"")];
    failed.remedy = "write /etc/containerd/certs.d/<registry>/hosts.toml on the node".to_owned();
    let mut doubtful = check("wireguard.peers", Verdict::Inconclusive);
    doubtful.reason = "the control missed its defect".to_owned();
    doubtful.control.due = true;
    doubtful.control.verdict = ControlVerdict::Missed;
    let mut skipped = check("maglev.ipv6", Verdict::Skip);
    skipped.reason = "needs nodes-5; a cluster of five nodes can prove it".to_owned();
    let mut broken = check("etcd.members", Verdict::Error);
    broken.reason = "cannot read the evidence back\nhint: is the disk full?".to_owned();
    let mut recorded = check("maglev.golden", Verdict::Pass);
    recorded.control.kind = ControlKind::Recorded;
    recorded.statements = vec!["LB-001".into()];
    let mut unproven = check("rbac.viewer", Verdict::Pass);
    unproven.proven = false;
    unproven.control.due = false;
    unproven.control.verdict = ControlVerdict::NotRun;
    unproven.control.found.clear();
    vec![passed, failed, doubtful, skipped, broken, recorded, unproven]
}

/// What is documented.
pub fn scopes() -> Vec<Scope> {
    let scope = |id: &str, here, checks: &[&str]| Scope {
        statement: id.to_owned(),
        here,
        checks: checks.iter().map(|check| (*check).to_owned()).collect(),
    };
    vec![
        scope("LB-001", Here::Partly, &["maglev.golden"]),
        scope("PSA-001", Here::Yes, &["psa.privileged"]),
        scope("PSA-002", Here::Yes, &["psa.privileged"]),
        scope("RBAC-001", Here::Yes, &["rbac.x"]),
        scope("REG-001", Here::Yes, &["registry.pull-over-http"]),
        scope("STO-001", Here::No, &[]),
    ]
}

/// The report of all that.
pub fn report() -> Report {
    report_of(run(), checks(), &scopes())
}
