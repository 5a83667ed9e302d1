//! From events to a report. The same events give the same report, in whatever order the checks finished.

use std::collections::BTreeMap;

use shakedown_core::{CheckRecord, ControlKind, ControlRecord, ControlVerdict, Event, Finding, Here, RunInfo, Verdict};

use crate::schema::{Report, SCHEMA, StatementItem, StatementStatus, Statements, Summary, answer};

/// A documented statement, and the checks that assert it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scope {
    /// Its id.
    pub statement: String,
    /// Whether a local cluster can answer it.
    pub here: Here,
    /// Ids of all checks that assert it, whether chosen for the run or not.
    pub checks: Vec<String>,
}

/// Gathers a run's events.
#[derive(Debug, Default)]
pub struct Fold {
    run: Option<RunInfo>,
    chosen: Vec<String>,
    checks: BTreeMap<String, CheckRecord>,
}

impl Fold {
    /// Nothing has happened yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the next event.
    pub fn take(&mut self, event: &Event) {
        match event {
            Event::RunStarted { run, checks } => {
                self.run = Some(run.clone());
                self.chosen.clone_from(checks);
            }
            Event::CheckFinished { record } => {
                self.checks.insert(record.id.clone(), CheckRecord::clone(record));
            }
            Event::RunFinished { run } => self.run = Some(run.clone()),
            // Progress: it says nothing that the record does not say again.
            Event::Fixture { .. }
            | Event::BaselineStarted { .. }
            | Event::BaselineFinished { .. }
            | Event::ControlStarted { .. }
            | Event::ControlFinished { .. }
            | Event::Waiting { .. } => {}
        }
    }

    /// The report, once the run is over or has been ended; `None` where it never began.
    ///
    /// A check that was chosen and never finished is an `error`: what is unknown never turns green.
    pub fn finish(self, scopes: &[Scope]) -> Option<Report> {
        let run = self.run?;
        let mut checks = self.checks;
        for id in self.chosen {
            checks.entry(id).or_insert_with_key(|id| never_finished(id, scopes));
        }
        Some(report(run, checks, scopes))
    }
}

/// A report from records that were judged again, under the head of the run that they come from.
pub fn report_of(run: RunInfo, records: impl IntoIterator<Item = CheckRecord>, scopes: &[Scope]) -> Report {
    report(run, records.into_iter().map(|record| (record.id.clone(), record)).collect(), scopes)
}

fn report(run: RunInfo, checks: BTreeMap<String, CheckRecord>, scopes: &[Scope]) -> Report {
    let items: Vec<StatementItem> = scopes.iter().map(|scope| item(scope, &checks)).collect();
    let checked = items.iter().filter(|item| item.status != StatementStatus::Untested).count();
    let checks: Vec<CheckRecord> = checks.into_values().collect();
    Report {
        schema: SCHEMA.to_owned(),
        run,
        summary: Summary::of(&checks),
        checks,
        statements: Statements { total: items.len(), checked, items },
    }
}

fn item(scope: &Scope, checks: &BTreeMap<String, CheckRecord>) -> StatementItem {
    let answers = scope.checks.iter().map(|id| checks.get(id).map(|check| answer(check, &scope.statement)));
    StatementItem { id: scope.statement.clone(), status: StatementStatus::of(scope.here, answers) }
}

fn never_finished(id: &str, scopes: &[Scope]) -> CheckRecord {
    let statements = scopes.iter().filter(|scope| scope.checks.iter().any(|check| check == id));
    CheckRecord {
        id: id.to_owned(),
        area: id.split('.').next().unwrap_or(id).to_owned(),
        statements: statements.map(|scope| scope.statement.clone()).collect(),
        contradicts: Vec::new(),
        verdict: Verdict::Error,
        reason: "the run ended before this check was done".to_owned(),
        findings: Vec::<Finding>::new(),
        duration_ms: 0,
        proven: false,
        control: ControlRecord {
            verdict: ControlVerdict::NotRun,
            kind: ControlKind::Plant,
            due: false,
            found: Vec::new(),
            note: String::new(),
            duration_ms: 0,
        },
        evidence: Vec::new(),
        remedy: "run it again; `shakedown recover` first where the run was cut off".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::samples;

    #[test]
    fn nothing_that_never_began_has_a_report() {
        assert!(Fold::new().finish(&samples::scopes()).is_none());
    }

    #[test]
    fn a_check_that_never_finished_is_an_error_and_its_statement_untested() {
        let mut fold = Fold::new();
        fold.take(&Event::RunStarted { run: samples::run(), checks: vec!["psa.privileged".into(), "rbac.x".into()] });
        fold.take(&Event::CheckFinished { record: Box::new(samples::check("psa.privileged", Verdict::Pass)) });
        let report = fold.finish(&samples::scopes()).unwrap();
        assert_eq!((report.summary.pass, report.summary.error), (1, 1));
        assert_eq!(report.checks[1].statements, ["RBAC-001"]);
        let status = |id: &str| report.statements.items.iter().find(|item| item.id == id).unwrap().status;
        assert_eq!(status("RBAC-001"), StatementStatus::Untested);
        assert_eq!(status("PSA-001"), StatementStatus::Upheld);
    }

    #[test]
    fn statements_count_as_checked_in_this_run_only() {
        let report = samples::report();
        assert_eq!(report.statements.total, samples::scopes().len());
        let tested = report.statements.items.iter().filter(|item| item.status != StatementStatus::Untested).count();
        assert_eq!(report.statements.checked, tested);
        assert!(tested > 0 && tested < report.statements.total);
    }

    proptest! {
        /// Checks finish in any order; the report is the same.
        #[test]
        fn the_order_of_events_does_not_matter(order in Just(samples::checks()).prop_shuffle()) {
            let mut fold = Fold::new();
            let chosen = samples::checks().into_iter().map(|check| check.id).collect();
            fold.take(&Event::RunStarted { run: samples::run(), checks: chosen });
            for record in order {
                fold.take(&Event::CheckFinished { record: Box::new(record) });
            }
            fold.take(&Event::RunFinished { run: samples::run() });
            prop_assert_eq!(fold.finish(&samples::scopes()).unwrap(), samples::report());
        }
    }
}
