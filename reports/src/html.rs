//! `report.html`: a run for people, in one file that opens offline, without scripts.
//!
//! What needs attention comes first; then who may do what, every check by area, and every document with its sentences.
//! Checks and sentences link to each other both ways.

mod checks;
mod documents;
mod escape;
mod matrix;

use std::fmt::Write as _;

use jiff::Timestamp;
use shakedown_core::{Evidence, EvidenceRecord, Statement, Verdict};

use crate::schema::{Report, StatementStatus};
use crate::table::share;
use escape::esc;

/// Everything that a page is made of.
pub struct Page<'a> {
    /// The run.
    pub report: &'a Report,
    /// What is documented, in the catalogue's order.
    pub statements: &'a [&'a Statement],
    /// Reads a file of evidence of the run; `None` where it is gone.
    pub read: &'a dyn Fn(&EvidenceRecord) -> Option<Vec<u8>>,
}

const STYLE: &str = include_str!("html/style.css");

/// The page as HTML.
pub fn render(page: &Page<'_>) -> String {
    let report = page.report;
    let mut out = String::with_capacity(256 * 1024);
    let title = format!("shakedown {}", report.run.id);
    let _ = write!(
        out,
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n<title>{}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n",
        esc(&title)
    );
    header(&mut out, report);
    out.push_str("<main>\n");
    attention(&mut out, page);
    matrix::section(&mut out, page);
    checks::section(&mut out, page);
    documents::section(&mut out, page);
    out.push_str("</main>\n");
    footer(&mut out, report);
    out.push_str("</body>\n</html>\n");
    out
}

fn header(out: &mut String, report: &Report) {
    let run = &report.run;
    let s = &report.summary;
    let (word, class) = outcome(report);
    let _ = write!(
        out,
        "<header>\n<p class=\"name\">shakedown</p>\n<h1><span class=\"badge {class}\">{word}</span> cluster {}</h1>\n",
        esc(&run.cluster)
    );
    out.push_str("<div class=\"bar\" role=\"img\" aria-label=\"verdicts\">");
    let counts =
        [("pass", s.pass), ("fail", s.fail), ("inconclusive", s.inconclusive), ("error", s.error), ("skip", s.skip)];
    for (name, count) in counts.iter().filter(|(_, count)| *count > 0) {
        let _ = write!(out, "<span class=\"{name}\" style=\"flex:{count}\" title=\"{count} {name}\"></span>");
    }
    out.push_str("</div>\n<dl class=\"tiles\">\n");
    for (name, count) in counts {
        // A count of nothing is not worth its colour.
        tile(out, name, &count.to_string(), if count > 0 { name } else { "skip" }, "");
    }
    let rate = if s.kill_rate == Some(1.0) { "pass" } else { "inconclusive" };
    let found =
        format!("{} of {} planted defects found; live {}", s.controls_found, s.controls_due, share(s.kill_rate_live));
    tile(out, "kill rate", &share(s.kill_rate), if s.kill_rate.is_some() { rate } else { "skip" }, &found);
    let answered = format!("of {} documented sentences", report.statements.total);
    tile(out, "answered", &report.statements.checked.to_string(), "", &answered);
    out.push_str("</dl>\n<dl class=\"facts\">\n");
    fact(out, "run", &run.id);
    fact(out, "started", &run.started.strftime("%Y-%m-%d %H:%M:%S UTC").to_string());
    fact(out, "took", &run.finished.map_or_else(|| "not finished".to_owned(), |at| took(run.started, at)));
    fact(out, "provisioner", &run.provisioner);
    fact(out, "seed", &run.seed.to_string());
    let versions: Vec<String> = run.versions.iter().map(|(name, version)| format!("{name} {version}")).collect();
    fact(out, "versions", &versions.join(", "));
    fact(out, "repeat", &run.command);
    out.push_str(
        "</dl>\n<nav><a href=\"#attention\">attention</a> <a href=\"#checks\">checks</a> \
                  <a href=\"#documents\">documents</a></nav>\n</header>\n",
    );
}

/// The time between, in minutes and seconds.
fn took(from: Timestamp, to: Timestamp) -> String {
    let seconds = to.duration_since(from).as_secs();
    format!("{} min {} s", seconds / 60, seconds % 60)
}

/// The run in one word, as its exit code says it.
fn outcome(report: &Report) -> (&'static str, &'static str) {
    let s = &report.summary;
    if s.fail > 0 {
        ("failed", "fail")
    } else if s.inconclusive + s.error > 0 || s.pass == 0 {
        ("in doubt", "inconclusive")
    } else {
        ("passed", "pass")
    }
}

fn tile(out: &mut String, name: &str, value: &str, class: &str, note: &str) {
    let _ = write!(out, "<div class=\"tile {class}\"><dt>{name}</dt><dd>{}</dd>", esc(value));
    if !note.is_empty() {
        let _ = write!(out, "<dd class=\"note\">{}</dd>", esc(note));
    }
    out.push_str("</div>\n");
}

fn fact(out: &mut String, name: &str, value: &str) {
    if !value.is_empty() {
        let _ = writeln!(out, "<div><dt>{name}</dt><dd>{}</dd></div>", esc(value));
    }
}

fn attention(out: &mut String, page: &Page<'_>) {
    let troubled: Vec<_> = page
        .report
        .by_urgency()
        .into_iter()
        .filter(|check| matches!(check.verdict, Verdict::Fail | Verdict::Error | Verdict::Inconclusive))
        .collect();
    let refuted = page.report.statements.items.iter().filter(|item| item.status == StatementStatus::Refuted).count();
    out.push_str("<section id=\"attention\">\n<h2>What needs attention</h2>\n");
    if troubled.is_empty() {
        out.push_str("<p>Nothing: every check that could be carried out passed.</p>\n");
    } else {
        out.push_str("<ul class=\"attention\">\n");
        for check in troubled {
            let _ = writeln!(
                out,
                "<li>{} <a href=\"#{}\">{}</a> <span class=\"reason\">{}</span></li>",
                checks::badge(check.verdict),
                checks::anchor(&check.id),
                esc(&check.id),
                esc(&check.reason)
            );
        }
        out.push_str("</ul>\n");
    }
    if refuted > 0 {
        let _ = writeln!(
            out,
            "<p>{refuted} documented sentence(s) did not hold: see <a href=\"#documents\">the documents</a>.</p>"
        );
    }
    out.push_str("</section>\n");
}

fn footer(out: &mut String, report: &Report) {
    let _ = writeln!(
        out,
        "<footer><p>A check passes only when its control is not due or found its defect: the defect is planted, the check \
         must name it, the defect is undone, and the check must pass again. Kill rate: defects found over defects \
         planted.</p><p>schema {}</p></footer>",
        esc(&report.schema)
    );
}

/// The evidence of a check's phase, parsed; `None` where it is gone or is no observation.
fn observation(page: &Page<'_>, evidence: &EvidenceRecord) -> Option<Evidence> {
    serde_json::from_slice(&(page.read)(evidence)?).ok()
}

#[cfg(test)]
mod screens;
#[cfg(test)]
mod tests;
