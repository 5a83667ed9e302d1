//! The baseline: the platform as found.

use std::collections::BTreeMap;

use shakedown_core::{Availability, Capability, Event, EvidenceRecord, Finding, Judgement, Verdict};

use crate::check::{Check, Tag};
use crate::fingerprint::Fingerprints;
use crate::look::{Bench, Looked};
use crate::world::World;

/// What a baseline came to.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Baseline {
    pub verdict: Verdict,
    pub reason: String,
    pub findings: Vec<Finding>,
    pub duration_ms: u64,
    pub evidence: Vec<EvidenceRecord>,
    /// Something was left changed: nothing may run after this.
    pub stop: Option<String>,
}

impl Baseline {
    pub fn without_look(verdict: Verdict, reason: impl Into<String>) -> Self {
        Self { verdict, reason: reason.into(), findings: vec![], duration_ms: 0, evidence: vec![], stop: None }
    }
}

/// Whether a check can be run at all: what it is instead, where it cannot.
///
/// What is certainly missing outweighs what is not known; and what is not known is never taken for either answer.
pub(crate) fn gate<W>(check: &Check<W>, offered: &BTreeMap<Capability, Availability>) -> Option<Baseline> {
    let mut unknown = None;
    for need in &check.needs {
        match offered.get(need) {
            Some(Availability::Present) => {}
            Some(Availability::Absent(why)) => {
                return Some(Baseline::without_look(Verdict::Skip, format!("needs {need}: {why}")));
            }
            Some(Availability::Unknown(why)) => {
                unknown.get_or_insert(format!("needs {need}, and it could not be found out: {why}"));
            }
            None => {
                unknown.get_or_insert(format!("needs {need}, and nothing says whether it is there"));
            }
        }
    }
    unknown.map(|reason| Baseline::without_look(Verdict::Inconclusive, reason))
}

impl<W: World> Bench<'_, W> {
    /// Observes the platform as found and judges it.
    pub async fn baseline(&self, check: &Check<W>) -> Baseline {
        self.events.emit(Event::BaselineStarted { check: check.id.to_owned() });
        let baseline = self.baseline_inner(check).await;
        self.events.emit(Event::BaselineFinished {
            check: check.id.to_owned(),
            verdict: baseline.verdict,
            duration_ms: baseline.duration_ms,
        });
        baseline
    }

    async fn baseline_inner(&self, check: &Check<W>) -> Baseline {
        let before = match Fingerprints::before(self.world, check.is(Tag::Exclusive)).await {
            Ok(before) => before,
            Err(why) => {
                return Baseline::without_look(
                    Verdict::Inconclusive,
                    format!("no fingerprint before the check: {why}"),
                );
            }
        };
        let look = self.look(check, "baseline", check.budget).await;
        let (verdict, reason, findings) = self.word_of(look.came_to).await;
        let mut baseline = Baseline {
            verdict,
            reason,
            findings,
            duration_ms: millis(look.took),
            evidence: look.evidence,
            stop: look.undo_failed.map(|why| format!("what its probe changed could not be put back: {why}")),
        };
        if baseline.stop.is_none()
            && let Err(why) = before.still_holds(self.world).await
        {
            baseline.stop = Some(format!("left the cluster changed: {why}"));
        }
        if let Some(stop) = &baseline.stop {
            baseline.verdict = Verdict::Error;
            baseline.reason = stop.clone();
        }
        baseline
    }

    async fn word_of(&self, look: Looked) -> (Verdict, String, Vec<Finding>) {
        match look {
            Looked::Judged(Judgement::Pass) => (Verdict::Pass, String::new(), vec![]),
            Looked::Judged(Judgement::Fail(findings)) => match self.dead().await {
                // A dead API is not a finding, and every judge would name one.
                Some(why) => (Verdict::Inconclusive, format!("the API is dead: {why}"), findings),
                None => {
                    let reason = findings.iter().map(sentence).collect::<Vec<_>>().join("; ");
                    (Verdict::Fail, reason, findings)
                }
            },
            Looked::Judged(Judgement::Inconclusive(why)) | Looked::NoGround(why) => {
                (Verdict::Inconclusive, why, vec![])
            }
            Looked::Harness(why) => (Verdict::Error, why, vec![]),
            Looked::Interrupted => (Verdict::Inconclusive, "interrupted before anything was seen".to_owned(), vec![]),
        }
    }
}

/// A finding as a sentence.
pub(crate) fn sentence(finding: &Finding) -> String {
    if finding.subject.is_empty() {
        format!("{}: {}", finding.code, finding.message)
    } else {
        format!("{} ({}): {}", finding.code, finding.subject, finding.message)
    }
}

pub(crate) fn millis(took: std::time::Duration) -> u64 {
    u64::try_from(took.as_millis()).unwrap_or(u64::MAX)
}
