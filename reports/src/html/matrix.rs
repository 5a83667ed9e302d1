//! Who may do what: a table for each identity whose rights a check has looked at.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use serde::Deserialize;

use super::escape::esc;
use super::{Page, observation};

/// The schema of the observations that tell rights.
const SCHEMA: &str = "access/1";

/// The part of such an observation that is shown.
#[derive(Debug, Deserialize)]
struct Rights {
    identity: String,
    answers: Vec<Answer>,
}

/// One question such as `list pods in default`, and whether the request was let through.
#[derive(Debug, Deserialize)]
struct Answer {
    question: String,
    let_through: bool,
}

/// Identity, to what it was asked about, to verb, to whether it may.
type Matrix = BTreeMap<String, BTreeMap<String, BTreeMap<String, bool>>>;

/// The section of all tables; nothing where no check looked at rights.
pub fn section(out: &mut String, page: &Page<'_>) {
    let matrix = gather(page);
    if matrix.is_empty() {
        return;
    }
    out.push_str("<section id=\"rights\">\n<h2>Who may do what</h2>\n");
    for (identity, rows) in &matrix {
        let verbs: BTreeSet<&String> = rows.values().flat_map(BTreeMap::keys).collect();
        let _ = write!(out, "<h3>{}</h3>\n<div class=\"scroll\"><table>\n<tr><th></th>", esc(identity));
        for verb in &verbs {
            let _ = write!(out, "<th scope=\"col\">{}</th>", esc(verb));
        }
        out.push_str("</tr>\n");
        for (object, answers) in rows {
            let _ = write!(out, "<tr><th scope=\"row\">{}</th>", esc(object));
            for verb in &verbs {
                out.push_str(match answers.get(*verb) {
                    Some(true) => "<td class=\"may\">yes</td>",
                    Some(false) => "<td class=\"may-not\">no</td>",
                    None => "<td></td>",
                });
            }
            out.push_str("</tr>\n");
        }
        out.push_str("</table></div>\n");
    }
    out.push_str("</section>\n");
}

fn gather(page: &Page<'_>) -> Matrix {
    let mut matrix = Matrix::new();
    // With a defect in place the answers are other ones, on purpose: only the platform as found counts.
    let baselines = page.report.checks.iter().flat_map(|check| &check.evidence).filter(|item| item.kind == "baseline");
    for seen in baselines.filter_map(|item| observation(page, item)).filter(|evidence| evidence.schema == SCHEMA) {
        let Ok(rights) = serde_json::from_value::<Rights>(seen.seen) else { continue };
        let rows = matrix.entry(rights.identity).or_default();
        for answer in rights.answers {
            if let Some((verb, object)) = answer.question.split_once(' ') {
                rows.entry(object.to_owned()).or_default().insert(verb.to_owned(), answer.let_through);
            }
        }
    }
    matrix
}
