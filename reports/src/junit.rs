//! `junit.xml`, for systems that show test results: a suite per area, a case per check.

use std::time::Duration;

use quick_junit::{NonSuccessKind, Report as Junit, TestCase, TestCaseStatus, TestSuite};
use shakedown_core::{CheckRecord, Verdict};
use thiserror::Error;

use crate::schema::{Report, control_name, verdict_name};

/// The XML could not be written.
#[derive(Debug, Error)]
#[error("cannot render junit.xml: {0}")]
pub struct JunitError(#[from] quick_junit::SerializeError);

/// The report as JUnit XML. `inconclusive` and `error` become `<error>`, `skip` becomes `<skipped>`: a reader that
/// knows only three answers must not take doubt for success.
///
/// # Errors
/// When a text cannot be written as XML.
pub fn render(report: &Report) -> Result<String, JunitError> {
    let mut junit = Junit::new(format!("shakedown {}", report.run.id));
    let mut areas: Vec<&str> = report.checks.iter().map(|check| check.area.as_str()).collect();
    areas.sort_unstable();
    areas.dedup();
    for area in areas {
        let mut suite = TestSuite::new(area);
        let checks = report.checks.iter().filter(|check| check.area == area);
        suite.add_test_cases(checks.map(|check| case(report, check)));
        junit.add_test_suite(suite);
    }
    Ok(junit.to_string()?)
}

fn case(report: &Report, check: &CheckRecord) -> TestCase {
    let kind = match check.verdict {
        Verdict::Pass | Verdict::Skip => None,
        Verdict::Fail => Some(NonSuccessKind::Failure),
        Verdict::Inconclusive | Verdict::Error => Some(NonSuccessKind::Error),
    };
    let mut status = match (kind, check.verdict) {
        (Some(kind), _) => TestCaseStatus::non_success(kind),
        (None, Verdict::Skip) => TestCaseStatus::skipped(),
        (None, _) => TestCaseStatus::success(),
    };
    if check.verdict != Verdict::Pass {
        status.set_message(check.reason.clone());
        status.set_type(verdict_name(check.verdict));
    }
    if kind.is_some() {
        status.set_description(description(report, check));
    }
    let mut case = TestCase::new(check.id.clone(), status);
    case.set_classname(format!("shakedown.{}", check.area));
    case.set_time(Duration::from_millis(check.duration_ms + check.control.duration_ms));
    case.add_property(("statements", check.statements.join(" ").as_str()));
    case.add_property(("control", control_name(check.control.verdict)));
    case.add_property(("proven", if check.proven { "true" } else { "false" }));
    case
}

fn description(report: &Report, check: &CheckRecord) -> String {
    let mut lines = vec![check.reason.clone()];
    lines.extend(check.findings.iter().map(|f| format!("{} [{}]: {}", f.code, f.subject, f.message)));
    lines.push(format!("remedy: {}", check.remedy));
    lines.push(format!("repeat: {}", report.repeat(check)));
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::samples;

    #[test]
    fn a_run_as_junit() {
        insta::assert_snapshot!(render(&samples::report()).unwrap());
    }

    #[test]
    fn doubt_is_an_error_and_never_a_success() {
        let xml = render(&samples::report()).unwrap();
        assert!(
            xml.contains("<testsuites name=\"shakedown 20260102T030405Z-42\" tests=\"7\" failures=\"1\" errors=\"2\"")
        );
        assert_eq!(xml.matches("<skipped").count(), 1);
    }
}
