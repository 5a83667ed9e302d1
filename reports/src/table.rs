//! The report on a terminal: what failed, why, its remedy and the command that repeats it, then the run in one line.

use std::fmt::Write as _;

use shakedown_core::{CheckRecord, ControlVerdict, Verdict};

use crate::schema::{Report, control_name, verdict_name};

/// How wide the reasons may become; longer ones are wrapped by the terminal, not cut: a cut reason helps nobody.
const RULE: usize = 100;

/// The report as plain text; `coloured` adds terminal colours.
pub fn render(report: &Report, coloured: bool) -> String {
    let mut out = String::new();
    let troubled: Vec<&CheckRecord> =
        report.by_urgency().into_iter().filter(|check| check.verdict != Verdict::Pass).collect();
    for check in &troubled {
        entry(&mut out, report, check, coloured);
    }
    if !troubled.is_empty() {
        let _ = writeln!(out, "{}", "-".repeat(RULE));
    }
    out.push_str(&summary(report));
    out
}

fn entry(out: &mut String, report: &Report, check: &CheckRecord, coloured: bool) {
    let name = format!("{:<12}", verdict_name(check.verdict).to_uppercase());
    let _ = writeln!(out, "{} {}", paint(&name, check.verdict, coloured), check.id);
    let mut field = |label: &str, text: &str| {
        for (at, line) in text.lines().filter(|line| !line.trim().is_empty()).enumerate() {
            let label = if at == 0 { label } else { "" };
            let _ = writeln!(out, "  {label:<10} {line}");
        }
    };
    field("why", &check.reason);
    for finding in &check.findings {
        field("finding", &format!("{} [{}]: {}", finding.code, finding.subject, finding.message));
    }
    if check.control.due && check.control.verdict != ControlVerdict::Found {
        field("control", &format!("{}: {}", control_name(check.control.verdict), check.control.note));
    }
    // A skipped check is not mended by doing something to the platform; its reason says who could prove it.
    if check.verdict != Verdict::Skip {
        field("remedy", &check.remedy);
        field("repeat", &report.repeat(check));
    }
    for evidence in &check.evidence {
        field("evidence", &evidence.path);
    }
}

fn summary(report: &Report) -> String {
    let s = &report.summary;
    let mut out = format!(
        "{} checks: {} pass, {} fail, {} inconclusive, {} error, {} skip\n",
        s.total(),
        s.pass,
        s.fail,
        s.inconclusive,
        s.error,
        s.skip
    );
    let _ = writeln!(
        out,
        "kill rate {} ({} of {} controls found their defect; live ones {})",
        share(s.kill_rate),
        s.controls_found,
        s.controls_due,
        share(s.kill_rate_live)
    );
    let unproven = report.checks.iter().filter(|check| check.verdict == Verdict::Pass && !check.proven).count();
    if unproven > 0 {
        let _ = writeln!(out, "{unproven} passed without their control (proven: false)");
    }
    let _ = writeln!(
        out,
        "statements: {} of {} answered in this run; seed {}, run {}",
        report.statements.checked, report.statements.total, report.run.seed, report.run.id
    );
    out
}

/// A rate for people; `-` when nothing was due.
pub fn share(rate: Option<f64>) -> String {
    rate.map_or_else(|| "-".to_owned(), |rate| format!("{rate:.2}"))
}

fn paint(text: &str, verdict: Verdict, coloured: bool) -> String {
    if !coloured {
        return text.to_owned();
    }
    let code = match verdict {
        Verdict::Pass => "32",
        Verdict::Fail => "31;1",
        Verdict::Inconclusive => "33",
        Verdict::Error => "35",
        Verdict::Skip => "2",
    };
    format!("\u{1b}[{code}m{text}\u{1b}[0m")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fold::report_of;
    use crate::samples;

    #[test]
    fn a_run_on_a_terminal() {
        insta::assert_snapshot!(render(&samples::report(), false));
    }

    #[test]
    fn colours_change_nothing_but_colours() {
        let coloured = render(&samples::report(), true);
        let plain = ["32", "31;1", "33", "35", "2", "0"]
            .iter()
            .fold(coloured.clone(), |text, code| text.replace(&format!("\u{1b}[{code}m"), ""));
        assert_ne!(coloured, plain);
        assert_eq!(plain, render(&samples::report(), false));
    }

    #[test]
    fn a_run_without_controls_has_no_rate() {
        let mut checks = samples::checks();
        for check in &mut checks {
            check.control.due = false;
        }
        let text = render(&report_of(samples::run(), checks, &samples::scopes()), false);
        assert!(text.contains("kill rate - (0 of 0"), "{text}");
    }
}
