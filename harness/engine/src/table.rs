//! Rules that hold for a whole table of checks, whatever they look at. Run as a test where tables are made.

use std::collections::BTreeSet;

use crate::check::{Check, Defect};
use crate::look::{Looked, judged};
use shakedown_core::Judgement;

/// Everything that is wrong with a table, a sentence each. Empty: nothing.
///
/// Ids are unique and can stand in paths, every check asserts something and gives advice, and its judge gives the
/// declared word on each recorded observation.
pub fn faults<W: Send + Sync + 'static>(table: &[Check<W>]) -> Vec<String> {
    let mut seen = BTreeSet::new();
    table.iter().flat_map(|check| check_faults(check, seen.insert(check.id))).collect()
}

fn check_faults<W: Send + Sync + 'static>(check: &Check<W>, is_new: bool) -> Vec<String> {
    let id = check.id;
    let mut faults = Vec::new();
    let mut rule = |holds: bool, text: String| {
        if !holds {
            faults.push(format!("{id}: {text}"));
        }
    };
    let in_path = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '.';
    rule(is_new, "two checks have this id".to_owned());
    rule(id.chars().all(in_path) && id.contains('.') && !id.contains(".."), "an id is area.what-holds".to_owned());
    rule(!check.statements.is_empty(), "asserts no statement".to_owned());
    rule(!check.remedy.is_empty(), "has no remedy".to_owned());
    rule(!check.control.finds.is_empty(), "its control names no finding code".to_owned());
    let from_control = match &check.control.defect {
        Defect::Recorded(name, text) => Some((*name, *text, Some(check.control.finds))),
        Defect::Plant(_) | Defect::Input(..) | Defect::OmitStep(..) => None,
    };
    for (name, text, code) in check.recorded.iter().copied().chain(from_control) {
        let word =
            serde_json::from_str(text).map_or_else(|e| Looked::Harness(e.to_string()), |v| judged(&check.judge, &v));
        let holds = match (&word, code) {
            (Looked::Judged(Judgement::Pass), None) => true,
            (Looked::Judged(Judgement::Fail(found)), Some(code)) => found.iter().any(|f| f.code == code),
            _ => false,
        };
        rule(
            holds,
            format!("recorded observation {name}: expected {}, the judge says {word:?}", code.unwrap_or("pass")),
        );
    }
    faults
}
