//! Several Pods, each run and judged for itself.

use serde::{Deserialize, Serialize};
use shakedown_core::{Finding, Judgement, Observation, Touches};
use shakedown_engine::{Cx, Expect, ObserveError, Probe};

use crate::platform::Platform;
use crate::pods::{Outcome, PodRun, Runs};

/// What they came to, in order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodRuns {
    /// In the order of running.
    pub runs: Vec<PodRun>,
}

impl Observation for PodRuns {
    const SCHEMA: &'static str = "pod-runs/1";
}

/// Runs Pods one after the other.
#[derive(Debug, Clone)]
pub struct RunsEach(Vec<Runs>);

/// Runs these Pods one after the other; each has its share of the budget.
pub fn runs_each(runs: Vec<Runs>) -> RunsEach {
    RunsEach(runs)
}

impl Probe<Platform> for RunsEach {
    type Seen = PodRuns;

    fn touches(&self) -> Touches {
        self.0.iter().fold(Touches::nothing(), |touches, one| touches.union(&Probe::touches(one)))
    }

    async fn observe(&self, platform: &Platform, cx: &Cx) -> Result<PodRuns, ObserveError> {
        let mut share = cx.clone();
        share.budget = cx.budget / u32::try_from(self.0.len().max(1)).unwrap_or(1);
        let mut runs = vec![];
        for one in &self.0 {
            runs.push(one.observe(platform, &share).await?);
        }
        Ok(PodRuns { runs })
    }
}

/// Each came to this, in order.
pub struct EachOutcome(Vec<Outcome>);

/// Each came to this, in order.
pub fn each_outcome(outcomes: Vec<Outcome>) -> EachOutcome {
    EachOutcome(outcomes)
}

impl Expect<PodRuns> for EachOutcome {
    fn judge(&self, seen: &PodRuns) -> Judgement {
        if seen.runs.len() != self.0.len() {
            return Judgement::Inconclusive(format!("{} Pods, {} expected", seen.runs.len(), self.0.len()));
        }
        let mut found: Vec<Finding> = vec![];
        for (outcome, run) in self.0.iter().zip(&seen.runs) {
            match outcome.judge(run) {
                Judgement::Pass => {}
                Judgement::Fail(findings) => found.extend(findings),
                inconclusive @ Judgement::Inconclusive(_) => return inconclusive,
            }
        }
        Judgement::from_findings(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pods::{running, stuck_for};
    use crate::testing::codes;

    #[test]
    fn each_is_judged_for_itself() {
        let run = |ready| PodRun { code: 201, ready, ..PodRun::default() };
        let both = || each_outcome(vec![running(), stuck_for("x")]);
        let judged = codes(both().judge(&PodRuns { runs: vec![run(false), run(true)] }));
        assert_eq!(judged, ["not-running", "started"]);
        assert!(codes(both().judge(&PodRuns { runs: vec![] }))[0].starts_with("Inconclusive"));
    }
}
