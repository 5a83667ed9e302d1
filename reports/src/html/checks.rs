//! Every check by area, with its statements, findings, control, remedy and evidence.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use shakedown_core::{CheckRecord, Finding, Verdict};

use super::Page;
use super::documents;
use super::escape::{esc, slug};
use crate::schema::{control_name, verdict_name};

/// How much of a file of evidence stands in the page; the file itself has the rest.
const EVIDENCE: usize = 12 * 1024;

/// The fragment of a check.
pub fn anchor(id: &str) -> String {
    format!("c-{}", slug(id))
}

/// A verdict as a badge.
pub fn badge(verdict: Verdict) -> String {
    let name = verdict_name(verdict);
    format!("<span class=\"badge {name}\">{name}</span>")
}

/// The section of all checks.
pub fn section(out: &mut String, page: &Page<'_>) {
    out.push_str("<section id=\"checks\">\n<h2>Checks</h2>\n");
    let mut areas: BTreeMap<&str, Vec<&CheckRecord>> = BTreeMap::new();
    for check in &page.report.checks {
        areas.entry(check.area.as_str()).or_default().push(check);
    }
    for (area, checks) in areas {
        let passed = checks.iter().filter(|check| check.verdict == Verdict::Pass).count();
        let _ = writeln!(out, "<h3>{} <span class=\"count\">{passed} of {} pass</span></h3>", esc(area), checks.len());
        for check in checks {
            one(out, page, check);
        }
    }
    out.push_str("</section>\n");
}

fn one(out: &mut String, page: &Page<'_>, check: &CheckRecord) {
    let open = if matches!(check.verdict, Verdict::Pass | Verdict::Skip) { "" } else { " open" };
    let proven = match (check.verdict, check.proven) {
        (Verdict::Pass, true) => "<span class=\"proof\">proven</span>",
        (Verdict::Pass, false) => "<span class=\"proof\">not proven</span>",
        _ => "",
    };
    let _ = writeln!(
        out,
        "<details class=\"check\" id=\"{}\"{open}>\n<summary>{} <span class=\"id\">{}</span> {proven}</summary>\n<div class=\"body\">",
        anchor(&check.id),
        badge(check.verdict),
        esc(&check.id)
    );
    if !check.reason.is_empty() {
        let _ = writeln!(out, "<p class=\"reason\">{}</p>", esc(&check.reason));
    }
    findings(out, "Findings", &check.findings);
    statements(out, page, check);
    control(out, check);
    if !matches!(check.verdict, Verdict::Pass | Verdict::Skip) {
        let _ = writeln!(out, "<h4>Remedy</h4>\n<p>{}</p>", esc(&check.remedy));
    }
    let _ = writeln!(out, "<h4>Repeat</h4>\n<pre>{}</pre>", esc(&page.report.repeat(check)));
    evidence(out, page, check);
    out.push_str("</div>\n</details>\n");
}

fn findings(out: &mut String, title: &str, findings: &[Finding]) {
    if findings.is_empty() {
        return;
    }
    let _ = writeln!(out, "<h4>{title}</h4>\n<ul class=\"findings\">");
    for f in findings {
        let _ = writeln!(out, "<li><code>{}</code> <b>{}</b> {}</li>", esc(&f.code), esc(&f.subject), esc(&f.message));
    }
    out.push_str("</ul>\n");
}

fn statements(out: &mut String, page: &Page<'_>, check: &CheckRecord) {
    if check.statements.is_empty() {
        return;
    }
    out.push_str("<h4>Answers</h4>\n<ul class=\"says\">\n");
    for id in &check.statements {
        let says = page.statements.iter().find(|statement| statement.id == *id).map_or("", |statement| &statement.says);
        let against = if check.contradicts.contains(id) { " <b>(the document is wrong here)</b>" } else { "" };
        let _ = match says {
            "" => writeln!(out, "<li><code>{}</code>{against}</li>", esc(id)),
            says => writeln!(
                out,
                "<li><a href=\"#{}\"><code>{}</code></a> {}{against}</li>",
                documents::anchor(id),
                esc(id),
                esc(says)
            ),
        };
    }
    out.push_str("</ul>\n");
}

fn control(out: &mut String, check: &CheckRecord) {
    let control = &check.control;
    let kind = if control.kind.is_live() { "live" } else { "recorded" };
    let _ = writeln!(
        out,
        "<h4>Control</h4>\n<p><span class=\"control {0}\">{0}</span> ({kind}, {1} ms; observation {2} ms) {3}</p>",
        control_name(control.verdict),
        control.duration_ms,
        check.duration_ms,
        esc(&control.note)
    );
    findings(out, "Found with the defect in place", &control.found);
}

fn evidence(out: &mut String, page: &Page<'_>, check: &CheckRecord) {
    if check.evidence.is_empty() {
        return;
    }
    out.push_str("<h4>Evidence</h4>\n");
    for item in &check.evidence {
        let text = (page.read)(item).map(|bytes| shown(&bytes));
        let _ = writeln!(
            out,
            "<details class=\"evidence\"><summary>{} <code>{}</code></summary>\n<p class=\"hash\">sha256 {}</p>\n<pre>{}</pre>\n</details>",
            esc(&item.kind),
            esc(&item.path),
            esc(&item.sha256),
            text.as_deref().map_or_else(|| "(the file is gone)".to_owned(), esc)
        );
    }
}

/// Text of a file of evidence, cut where it is long; binary files are told, not shown.
fn shown(bytes: &[u8]) -> String {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return format!("({} bytes, not text)", bytes.len());
    };
    let pretty = serde_json::from_str::<serde_json::Value>(text)
        .ok()
        .and_then(|value| serde_json::to_string_pretty(&value).ok())
        .unwrap_or_else(|| text.to_owned());
    if pretty.len() <= EVIDENCE {
        return pretty;
    }
    let end = (0..=EVIDENCE).rev().find(|at| pretty.is_char_boundary(*at)).unwrap_or(0);
    format!("{}\n... cut; {} bytes in all", &pretty[..end], bytes.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_evidence_is_cut_at_a_character_and_says_so() {
        let text = format!("\"{}\"", "é".repeat(EVIDENCE));
        let cut = shown(text.as_bytes());
        assert!(cut.len() < EVIDENCE + 64 && cut.ends_with("bytes in all"));
        assert_eq!(shown(b"{\"a\":1}"), "{\n  \"a\": 1\n}");
        assert_eq!(shown(&[0xff, 0xfe]), "(2 bytes, not text)");
    }
}
