//! A check's record, made of its baseline and its control. No default arm turns the unknown green.

use shakedown_core::{CheckRecord, ControlRecord, ControlVerdict, Verdict};

use crate::baseline::Baseline;
use crate::check::Check;
use crate::control::{Controlled, not_run};

/// What there is to say of the control.
pub(crate) enum ControlPart {
    /// It ran.
    Ran(Controlled),
    /// The baseline did not pass, so there was nothing to shake.
    NothingToShake,
    /// It was not asked for, or not sampled.
    NotAsked,
    /// It was due and did not run; why.
    CutOff(String),
}

pub(crate) fn compose<W: Send + Sync + 'static>(
    check: &Check<W>,
    baseline: Baseline,
    control: ControlPart,
) -> CheckRecord {
    let mut evidence = baseline.evidence;
    let (mut verdict, mut reason) = (baseline.verdict, baseline.reason);
    let control = match control {
        ControlPart::Ran(ran) => {
            evidence.extend(ran.evidence);
            (verdict, reason) = with_control(&ran.record, ran.harness, verdict, reason);
            ran.record
        }
        ControlPart::NothingToShake => not_run(check, false, "the baseline did not pass"),
        ControlPart::NotAsked => not_run(check, false, "not asked for"),
        ControlPart::CutOff(why) => {
            verdict = Verdict::Inconclusive;
            reason = format!("its control was due and did not run: {why}");
            not_run(check, true, &why)
        }
    };
    let owned = |ids: &[&'static str]| ids.iter().map(|id| (*id).to_owned()).collect();
    CheckRecord {
        id: check.id.to_owned(),
        area: check.area().to_owned(),
        statements: owned(&check.statements),
        contradicts: owned(&check.contradicts),
        verdict,
        reason,
        findings: baseline.findings,
        duration_ms: baseline.duration_ms,
        proven: control.verdict == ControlVerdict::Found && verdict == Verdict::Pass,
        control,
        evidence,
        remedy: check.remedy.to_owned(),
    }
}

/// What a control that was due makes of a baseline's verdict.
pub(crate) fn with_control(
    control: &ControlRecord,
    harness: Option<String>,
    verdict: Verdict,
    reason: String,
) -> (Verdict, String) {
    match (control.verdict, harness) {
        (ControlVerdict::UndoFailed, _) => (Verdict::Error, format!("undo failed: {}", control.note)),
        (_, Some(why)) => (Verdict::Error, format!("its control: {why}")),
        (ControlVerdict::Found, None) => (verdict, reason),
        (ControlVerdict::Missed, None) => (Verdict::Inconclusive, format!("its control was missed: {}", control.note)),
        (ControlVerdict::NotPlanted, None) => {
            (Verdict::Inconclusive, format!("its control could not be planted: {}", control.note))
        }
        (ControlVerdict::NotRun, None) if control.due => {
            (Verdict::Inconclusive, format!("its control was due and did not run: {}", control.note))
        }
        (ControlVerdict::NotRun, None) => (verdict, reason),
    }
}
