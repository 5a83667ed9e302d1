//! Every document with its sentences, what became of each, and the checks that answer it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use shakedown_core::{Here, Statement};

use super::Page;
use super::checks;
use super::escape::{esc, slug};
use crate::schema::StatementStatus;

/// The fragment of a statement.
pub fn anchor(id: &str) -> String {
    format!("s-{}", slug(id))
}

/// The section of all documents.
pub fn section(out: &mut String, page: &Page<'_>) {
    let statuses: BTreeMap<&str, StatementStatus> =
        page.report.statements.items.iter().map(|item| (item.id.as_str(), item.status)).collect();
    let mut answered: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for check in &page.report.checks {
        for id in &check.statements {
            answered.entry(id).or_default().push(&check.id);
        }
    }
    let mut documents: BTreeMap<&str, Vec<&Statement>> = BTreeMap::new();
    for statement in page.statements {
        documents.entry(&statement.source).or_default().push(statement);
    }
    out.push_str("<section id=\"documents\">\n<h2>Documents</h2>\n");
    for (source, statements) in documents {
        let status =
            |statement: &Statement| statuses.get(statement.id.as_str()).copied().unwrap_or(StatementStatus::Untested);
        let count = |wanted| statements.iter().filter(|statement| status(statement) == wanted).count();
        let counts: Vec<String> =
            StatementStatus::ALL.iter().map(|wanted| format!("{} {}", count(*wanted), wanted.name())).collect();
        let _ = writeln!(
            out,
            "<details class=\"document\"><summary>{} <b>{}</b> <span class=\"count\">{}</span></summary>\n<ol>",
            esc(source),
            esc(&prefixes(&statements)),
            counts.join(", ")
        );
        let mut place = "";
        for statement in &statements {
            if statement.place != place {
                place = &statement.place;
                let _ = writeln!(out, "<li class=\"place\">{}</li>", esc(place));
            }
            let checks = answered.get(statement.id.as_str()).map_or(&[][..], Vec::as_slice);
            sentence(out, statement, status(statement), checks);
        }
        out.push_str("</ol>\n</details>\n");
    }
    out.push_str("</section>\n");
}

/// What a document is about, by the prefixes of its statements: its file name alone tells a reader nothing.
fn prefixes(statements: &[&Statement]) -> String {
    let prefixes: BTreeSet<&str> = statements.iter().filter_map(|s| Some(s.id.split_once('-')?.0)).collect();
    prefixes.into_iter().collect::<Vec<_>>().join(" ")
}

fn sentence(out: &mut String, statement: &Statement, status: StatementStatus, answered_by: &[&str]) {
    let _ = write!(
        out,
        "<li id=\"{}\"><span class=\"badge {1}\">{1}</span> <code>{2}</code> {3}",
        anchor(&statement.id),
        status.name(),
        esc(&statement.id),
        esc(&statement.says)
    );
    for check in answered_by {
        let _ = write!(out, " <a href=\"#{}\">{}</a>", checks::anchor(check), esc(check));
    }
    if statement.here != Here::Yes && status != StatementStatus::Upheld {
        let _ = write!(out, " <span class=\"why\">{}</span>", esc(&statement.why));
    }
    out.push_str("</li>\n");
}
