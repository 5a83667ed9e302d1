//! Tests of the page as a whole.

use std::collections::BTreeSet;

use shakedown_core::{Kind, Statement};

use super::*;
use crate::samples;

fn statement(id: &str, source: &str, says: &str, here: shakedown_core::Here) -> Statement {
    Statement {
        id: id.to_owned(),
        source: source.to_owned(),
        place: "A chapter".to_owned(),
        kind: Kind::Outcome,
        system: "kubernetes".to_owned(),
        says: says.to_owned(),
        exact: Vec::new(),
        check: String::new(),
        sabotage: String::new(),
        needs: Vec::new(),
        here,
        why: "a stand-in <answers> it".to_owned(),
    }
}

/// The sample run as a page; `read` gives the evidence.
fn page_with(report: &Report, read: &dyn Fn(&EvidenceRecord) -> Option<Vec<u8>>) -> String {
    let statements: Vec<Statement> = samples::scopes()
        .into_iter()
        .map(|scope| {
            let source = if scope.statement.starts_with("PSA") { "policies.txt" } else { "platform.txt" };
            statement(&scope.statement, source, &format!("What {} <says> & means.", scope.statement), scope.here)
        })
        .collect();
    let statements: Vec<&Statement> = statements.iter().collect();
    render(&Page { report, statements: &statements, read })
}

fn rights() -> Vec<u8> {
    let evidence = serde_json::json!({
        "schema": "access/1", "check": "rbac.viewer", "phase": "baseline",
        "seen": {"identity": "viewer", "user": "u", "groups": [], "answers": [
            {"question": "list pods in app", "let_through": true},
            {"question": "delete pods in app", "let_through": false},
            {"question": "list nodes", "let_through": false},
        ]},
    });
    serde_json::to_vec(&evidence).unwrap()
}

/// The page of the sample run, with rights in one check's evidence and one file gone.
pub fn sample() -> String {
    page_with(&samples::report(), &|item| match item.path.as_str() {
        path if path.contains("rbac.viewer") => Some(rights()),
        path if path.contains("maglev") => None,
        _ => Some(b"{\"schema\": \"x/1\", \"seen\": \"<script>\"}".to_vec()),
    })
}

fn attributes<'a>(html: &'a str, name: &str) -> Vec<&'a str> {
    let start = format!(" {name}=\"");
    html.split(&start).skip(1).filter_map(|rest| rest.split('"').next()).collect()
}

#[test]
fn the_page_of_a_run() {
    insta::assert_snapshot!(sample().replace(STYLE, "(style)\n"));
}

#[test]
fn every_link_leads_somewhere_and_ids_are_unique() {
    let html = sample();
    let ids = attributes(&html, "id");
    let unique: BTreeSet<&str> = ids.iter().copied().collect();
    assert_eq!(unique.len(), ids.len());
    let links = attributes(&html, "href");
    assert!(links.len() > 10, "{links:?}");
    for link in links {
        assert!(link.strip_prefix('#').is_some_and(|target| unique.contains(target)), "{link}");
    }
}

#[test]
fn the_page_needs_nothing_from_elsewhere_and_runs_nothing() {
    let html = sample();
    for foreign in ["src=", "url(", "@import", "<script", "<link", "http-equiv", "javascript:"] {
        assert!(!html.contains(foreign), "{foreign}");
    }
    // The finding quotes a message that contains a scheme; nothing else may.
    assert!(!html.replace("http: server gave", "").contains("http:"));
}

#[test]
fn every_check_and_every_sentence_is_there_both_ways() {
    let html = sample();
    let report = samples::report();
    for check in &report.checks {
        assert!(html.contains(&format!("id=\"{}\"", checks::anchor(&check.id))), "{}", check.id);
        for statement in &check.statements {
            assert!(html.contains(&format!("<a href=\"#{}\">", documents::anchor(statement))), "{statement}");
        }
    }
    for item in &report.statements.items {
        assert!(html.contains(&format!("id=\"{}\"", documents::anchor(&item.id))), "{}", item.id);
    }
}

#[test]
fn rights_become_a_table_and_a_missing_file_is_told() {
    let html = sample();
    assert!(html.contains("<h3>viewer</h3>"));
    assert_eq!(html.matches("<td class=\"may\">").count(), 1);
    assert_eq!(html.matches("<td class=\"may-not\">").count(), 2);
    assert!(html.contains("(the file is gone)"));
}

#[test]
fn a_run_in_which_all_is_well_says_so_and_one_in_which_nothing_ran_does_not() {
    let well: Vec<_> = samples::checks().into_iter().filter(|c| c.verdict == Verdict::Pass).collect();
    let report = crate::fold::report_of(samples::run(), well, &samples::scopes());
    let html = page_with(&report, &|_| None);
    assert!(html.contains("<span class=\"badge pass\">passed</span>") && html.contains("Nothing: every check"));
    let report = crate::fold::report_of(samples::run(), [], &samples::scopes());
    assert!(page_with(&report, &|_| None).contains("in doubt"));
}
