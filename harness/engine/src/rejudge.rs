//! Judges a run's stored evidence again, with the judges of today and without a cluster.

use shakedown_core::{CheckRecord, ControlVerdict, EvidenceRecord, Judgement, Verdict};

use crate::baseline::sentence;
use crate::check::Check;
use crate::evidence::EvidenceStore;
use crate::look::{Looked, judged};
use crate::record::with_control;

/// The record as today's judge sees it. What was never observed stays as it was: a skip stays a skip.
pub fn rejudge<W: Send + Sync + 'static>(check: &Check<W>, old: &CheckRecord, store: &EvidenceStore) -> CheckRecord {
    let mut new = old.clone();
    let Some(baseline) = evidence_of(old, "baseline") else { return new };
    (new.verdict, new.reason, new.findings) = match word(check, baseline, store) {
        Looked::Judged(Judgement::Pass) => (Verdict::Pass, String::new(), vec![]),
        // An inconclusive fail was one because the API was dead; no judge can know that from the observation.
        Looked::Judged(Judgement::Fail(findings))
            if old.verdict == Verdict::Inconclusive && !old.findings.is_empty() =>
        {
            (Verdict::Inconclusive, old.reason.clone(), findings)
        }
        Looked::Judged(Judgement::Fail(findings)) => {
            (Verdict::Fail, findings.iter().map(sentence).collect::<Vec<_>>().join("; "), findings)
        }
        Looked::Judged(Judgement::Inconclusive(why)) | Looked::NoGround(why) => (Verdict::Inconclusive, why, vec![]),
        Looked::Harness(why) => (Verdict::Error, why, vec![]),
        Looked::Interrupted => (old.verdict, old.reason.clone(), old.findings.clone()),
    };
    if new.verdict == Verdict::Pass && old.control.due {
        rejudge_control(check, old, &mut new, store);
    }
    new.proven = new.verdict == Verdict::Pass && new.control.verdict == ControlVerdict::Found;
    new
}

fn rejudge_control<W: Send + Sync + 'static>(
    check: &Check<W>,
    old: &CheckRecord,
    new: &mut CheckRecord,
    store: &EvidenceStore,
) {
    let judgeable = matches!(old.control.verdict, ControlVerdict::Found | ControlVerdict::Missed);
    let mut harness = None;
    if let (true, Some(evidence)) = (judgeable, evidence_of(old, "control")) {
        (new.control.verdict, new.control.found) = match word(check, evidence, store) {
            Looked::Judged(Judgement::Fail(findings)) => {
                let named = findings.iter().any(|finding| finding.code == check.control.finds);
                let dead = old.control.verdict == ControlVerdict::Missed
                    && old.control.found.iter().any(|finding| finding.code == check.control.finds);
                (if named && !dead { ControlVerdict::Found } else { ControlVerdict::Missed }, findings)
            }
            Looked::Harness(why) => {
                harness = Some(why);
                (ControlVerdict::Missed, vec![])
            }
            Looked::Judged(Judgement::Pass | Judgement::Inconclusive(_))
            | Looked::NoGround(_)
            | Looked::Interrupted => (ControlVerdict::Missed, vec![]),
        };
    }
    if let Some(evidence) = evidence_of(old, "after")
        && !matches!(word(check, evidence, store), Looked::Judged(Judgement::Pass))
    {
        new.control.verdict = ControlVerdict::Missed;
        new.control.note.push_str("; today's judge does not pass what was seen after the undo");
    }
    (new.verdict, new.reason) = with_control(&new.control, harness, new.verdict, new.reason.clone());
}

fn evidence_of<'a>(record: &'a CheckRecord, phase: &str) -> Option<&'a EvidenceRecord> {
    record.evidence.iter().find(|evidence| evidence.kind == phase)
}

fn word<W: Send + Sync + 'static>(check: &Check<W>, record: &EvidenceRecord, store: &EvidenceStore) -> Looked {
    match store.read(record) {
        Err(error) => Looked::Harness(error.to_string()),
        Ok(evidence) if evidence.schema != check.probe.schema() => Looked::Judged(Judgement::Inconclusive(format!(
            "the evidence is {}, today's judge reads {}",
            evidence.schema,
            check.probe.schema()
        ))),
        Ok(evidence) => judged(&check.judge, &evidence.seen),
    }
}
