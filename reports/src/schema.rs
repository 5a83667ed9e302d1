//! `report.json`: what a run came to, in a form that is versioned and read again later.

use serde::{Deserialize, Serialize};
use shakedown_core::{CheckRecord, ControlVerdict, Here, RunInfo, Verdict};

/// Name and version of the form. The number changes when a field changes its meaning; new fields do not change it.
pub const SCHEMA: &str = "shakedown-report/1";

/// A run's report.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// [`SCHEMA`].
    pub schema: String,
    /// Head of the run.
    pub run: RunInfo,
    /// In numbers.
    pub summary: Summary,
    /// Every check that was chosen, sorted by id.
    pub checks: Vec<CheckRecord>,
    /// Every documented statement.
    pub statements: Statements,
}

/// A run in numbers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// Checks that passed.
    pub pass: usize,
    /// Checks that failed.
    pub fail: usize,
    /// Checks of which nothing can be said.
    pub inconclusive: usize,
    /// Checks whose capability is missing.
    pub skip: usize,
    /// Checks that the harness itself could not carry out.
    pub error: usize,
    /// Controls that were due: their baseline passed and they were asked for.
    pub controls_due: usize,
    /// Controls that found their defect.
    pub controls_found: usize,
    /// Controls found over controls due; `null` when none was due. The goal is 1.
    pub kill_rate: Option<f64>,
    /// The same over controls that ran against the cluster, without recorded observations.
    pub kill_rate_live: Option<f64>,
}

impl Summary {
    /// Counts the checks of a run.
    pub fn of(checks: &[CheckRecord]) -> Self {
        let count = |verdict| checks.iter().filter(|check| check.verdict == verdict).count();
        let (due, found) = controls(checks, |_| true);
        let (live_due, live_found) = controls(checks, |check| check.control.kind.is_live());
        Self {
            pass: count(Verdict::Pass),
            fail: count(Verdict::Fail),
            inconclusive: count(Verdict::Inconclusive),
            skip: count(Verdict::Skip),
            error: count(Verdict::Error),
            controls_due: due,
            controls_found: found,
            kill_rate: rate(found, due),
            kill_rate_live: rate(live_found, live_due),
        }
    }

    /// All checks.
    pub fn total(&self) -> usize {
        self.pass + self.fail + self.inconclusive + self.skip + self.error
    }
}

/// How many controls were due and how many of those found their defect.
fn controls(checks: &[CheckRecord], of: impl Fn(&CheckRecord) -> bool) -> (usize, usize) {
    let due = checks.iter().filter(|check| check.control.due && of(check));
    due.fold((0, 0), |(due, found), check| {
        (due + 1, found + usize::from(check.control.verdict == ControlVerdict::Found))
    })
}

fn rate(found: usize, due: usize) -> Option<f64> {
    (due > 0).then(|| found as f64 / due as f64)
}

/// What the run says of the documents.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Statements {
    /// Documented statements.
    pub total: usize,
    /// Those that a check of this run answered: upheld, refuted or partial.
    pub checked: usize,
    /// Every statement, in the catalogue's order.
    pub items: Vec<StatementItem>,
}

/// What the run says of one statement.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatementItem {
    /// Its id.
    pub id: String,
    /// What became of it.
    pub status: StatementStatus,
}

/// What became of a statement.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StatementStatus {
    /// Every check that asserts it passed, and together they answer it wholly.
    Upheld,
    /// A check that asserts it failed, or passed by showing that the document is wrong.
    Refuted,
    /// Something of it was seen to hold; the rest was not, or cannot be, looked at here.
    Partial,
    /// No check of this run answered it.
    Untested,
}

impl StatementStatus {
    /// All of them, in the order of reports.
    pub const ALL: [Self; 4] = [Self::Upheld, Self::Refuted, Self::Partial, Self::Untested];

    /// The name in files and on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Upheld => "upheld",
            Self::Refuted => "refuted",
            Self::Partial => "partial",
            Self::Untested => "untested",
        }
    }

    /// From one answer for each check that asserts the statement; `None` for a check that was not chosen.
    ///
    /// A check that contradicts the statement answers `fail` by passing ([`answer`] sees to that).
    pub fn of(here: Here, answers: impl IntoIterator<Item = Option<Verdict>>) -> Self {
        let (mut upheld, mut refuted, mut open) = (false, false, false);
        for answer in answers {
            match answer {
                Some(Verdict::Pass) => upheld = true,
                Some(Verdict::Fail) => refuted = true,
                Some(Verdict::Inconclusive | Verdict::Skip | Verdict::Error) | None => open = true,
            }
        }
        match (refuted, upheld, open || here == Here::Partly) {
            (true, _, _) => Self::Refuted,
            (false, true, false) => Self::Upheld,
            (false, true, true) => Self::Partial,
            (false, false, _) => Self::Untested,
        }
    }
}

/// What a check says of a statement that it asserts: its verdict, except that a pass which contradicts the document
/// refutes it.
pub fn answer(check: &CheckRecord, statement: &str) -> Verdict {
    let contradicted = check.contradicts.iter().any(|id| id == statement);
    if check.verdict == Verdict::Pass && contradicted { Verdict::Fail } else { check.verdict }
}

/// A verdict's name in files and reports.
pub const fn verdict_name(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Pass => "pass",
        Verdict::Fail => "fail",
        Verdict::Inconclusive => "inconclusive",
        Verdict::Skip => "skip",
        Verdict::Error => "error",
    }
}

/// A control verdict's name in files and reports.
pub const fn control_name(verdict: ControlVerdict) -> &'static str {
    match verdict {
        ControlVerdict::Found => "found",
        ControlVerdict::Missed => "missed",
        ControlVerdict::NotPlanted => "not-planted",
        ControlVerdict::NotRun => "not-run",
        ControlVerdict::UndoFailed => "undo-failed",
    }
}

impl Report {
    /// The command that repeats one check of this run.
    pub fn repeat(&self, check: &CheckRecord) -> String {
        format!("shakedown run --name {} --seed {} --check {}", self.run.cluster, self.run.seed, check.id)
    }

    /// Checks in the order in which a reader wants them: what needs attention first.
    pub fn by_urgency(&self) -> Vec<&CheckRecord> {
        let mut checks: Vec<&CheckRecord> = self.checks.iter().collect();
        checks.sort_by_key(|check| {
            let rank = match check.verdict {
                Verdict::Fail => 0,
                Verdict::Error => 1,
                Verdict::Inconclusive => 2,
                Verdict::Skip => 3,
                Verdict::Pass => 4,
            };
            (rank, check.id.as_str())
        });
        checks
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use shakedown_core::ControlKind;

    use super::*;
    use crate::samples;

    const VERDICTS: [Verdict; 5] = [Verdict::Pass, Verdict::Fail, Verdict::Inconclusive, Verdict::Skip, Verdict::Error];

    fn any_check() -> impl Strategy<Value = CheckRecord> {
        let controls = [
            ControlVerdict::Found,
            ControlVerdict::Missed,
            ControlVerdict::NotPlanted,
            ControlVerdict::NotRun,
            ControlVerdict::UndoFailed,
        ];
        let kinds = [ControlKind::Plant, ControlKind::Input, ControlKind::OmitStep, ControlKind::Recorded];
        (0..VERDICTS.len(), 0..controls.len(), 0..kinds.len(), any::<bool>()).prop_map(move |(v, c, k, due)| {
            let mut check = samples::check("a.b", VERDICTS[v]);
            check.control.verdict = controls[c];
            check.control.kind = kinds[k];
            check.control.due = due;
            check
        })
    }

    proptest! {
        #[test]
        fn every_check_is_counted_once(checks in proptest::collection::vec(any_check(), 0..40)) {
            prop_assert_eq!(Summary::of(&checks).total(), checks.len());
        }

        #[test]
        fn the_kill_rate_is_a_share_and_null_only_when_nothing_was_due(
            checks in proptest::collection::vec(any_check(), 0..40)
        ) {
            let summary = Summary::of(&checks);
            let due = checks.iter().any(|check| check.control.due);
            prop_assert_eq!(summary.kill_rate.is_some(), due);
            for rate in [summary.kill_rate, summary.kill_rate_live].into_iter().flatten() {
                prop_assert!((0.0..=1.0).contains(&rate));
            }
            let all_found = checks.iter().filter(|c| c.control.due).all(|c| c.control.verdict == ControlVerdict::Found);
            prop_assert_eq!(summary.kill_rate == Some(1.0), due && all_found);
        }

        #[test]
        fn recorded_controls_never_move_the_live_rate(checks in proptest::collection::vec(any_check(), 0..40)) {
            let live: Vec<_> = checks.iter().filter(|c| c.control.kind.is_live()).cloned().collect();
            prop_assert_eq!(Summary::of(&checks).kill_rate_live, Summary::of(&live).kill_rate_live);
        }

        #[test]
        fn no_statement_is_upheld_while_any_answer_is_missing(answers in proptest::collection::vec(0..6_usize, 0..6)) {
            let answers: Vec<_> = answers.into_iter().map(|at| VERDICTS.get(at).copied()).collect();
            let status = StatementStatus::of(Here::Yes, answers.clone());
            let all_pass = !answers.is_empty() && answers.iter().all(|a| *a == Some(Verdict::Pass));
            prop_assert_eq!(status == StatementStatus::Upheld, all_pass);
            prop_assert_eq!(status == StatementStatus::Refuted, answers.contains(&Some(Verdict::Fail)));
            prop_assert_ne!(StatementStatus::of(Here::Partly, answers), StatementStatus::Upheld);
        }
    }

    #[test]
    fn a_pass_that_contradicts_the_document_refutes_it() {
        let mut check = samples::check("a.b", Verdict::Pass);
        check.contradicts = vec!["X-001".to_owned()];
        assert_eq!(answer(&check, "X-001"), Verdict::Fail);
        assert_eq!(answer(&check, "X-002"), Verdict::Pass);
        check.verdict = Verdict::Inconclusive;
        assert_eq!(answer(&check, "X-001"), Verdict::Inconclusive);
    }

    #[test]
    fn names_are_those_of_the_serialised_form() {
        for verdict in VERDICTS {
            assert_eq!(serde_json::to_value(verdict).unwrap(), verdict_name(verdict));
        }
        for status in StatementStatus::ALL {
            assert_eq!(serde_json::to_value(status).unwrap(), status.name());
        }
        let controls = [ControlVerdict::Found, ControlVerdict::NotPlanted, ControlVerdict::UndoFailed];
        for control in controls {
            assert_eq!(serde_json::to_value(control).unwrap(), control_name(control));
        }
    }
}
