//! What the facts of a scene must be like.

use serde_json::Value;
use shakedown_core::{Finding, Judgement};
use shakedown_engine::Expect;

use crate::kyverno_scene::{Fact, SceneSeen};

/// What one fact must be like.
#[derive(Debug, Clone)]
pub enum Want {
    /// The request is admitted.
    Admitted,
    /// The request is refused by a policy (or by whoever), with all of these in the message.
    Refused(&'static [&'static str]),
    /// Nobody answered the apiserver's question: a server error with all of these in the message.
    CallFailed(&'static [&'static str]),
    /// The object that was read does not exist.
    Absent,
    /// What was waited for came.
    Comes,
    /// What was waited for did not come.
    StaysAway,
    /// The field, or the kept field of a stored object, has this value.
    Value(Value),
    /// It took at least and at most so long, milliseconds.
    Took(u64, u64),
    /// The same value as in another fact.
    SameAs(&'static str),
}

/// Admitted.
pub fn admitted() -> Want {
    Want::Admitted
}

/// Refused, and the message contains all of these; where lines break in it does not matter.
pub fn refused(parts: &'static [&'static str]) -> Want {
    Want::Refused(parts)
}

/// Facts by name, and what each must be like.
pub struct Facts(Vec<(&'static str, Want)>);

/// Each of these facts is like this; a fact may be named several times.
pub fn facts(rows: Vec<(&'static str, Want)>) -> Facts {
    Facts(rows)
}

impl Expect<SceneSeen> for Facts {
    fn judge(&self, seen: &SceneSeen) -> Judgement {
        let mut findings = vec![];
        for (case, want) in &self.0 {
            match seen.facts.get(*case) {
                None => return Judgement::Inconclusive(format!("{case} was not looked at")),
                Some(fact) => findings.extend(finding(case, want, fact, seen)),
            }
        }
        if self.0.is_empty() {
            return Judgement::Inconclusive("nothing was expected".to_owned());
        }
        Judgement::from_findings(findings)
    }
}

fn finding(case: &str, want: &Want, fact: &Fact, seen: &SceneSeen) -> Option<Finding> {
    let said = |code: &str, message: String| Some(Finding::new(code, case, message));
    let server_error = || {
        let what = if fact.code >= 500 { "call-failed" } else { "no-answer" };
        said(what, format!("{}: {}", fact.code, fact.message))
    };
    let is_ok = (200..300).contains(&fact.code);
    let is_refused = (400..500).contains(&fact.code);
    match want {
        Want::Admitted if is_ok => None,
        Want::Admitted if is_refused => said("refused", format!("was to be admitted: {}", fact.message)),
        Want::Admitted => server_error(),
        Want::Refused(parts) if is_refused => missing(parts, &fact.message)
            .and_then(|part| said("message-differs", format!("`{part}` is not in: {}", fact.message))),
        Want::Refused(_) if is_ok => said("not-refused", "was to be refused, was admitted".to_owned()),
        Want::Refused(_) => server_error(),
        Want::CallFailed(parts) if fact.code >= 500 => missing(parts, &fact.message)
            .and_then(|part| said("message-differs", format!("`{part}` is not in: {}", fact.message))),
        Want::CallFailed(_) => said("answered", format!("the webhook was to fail: {} {}", fact.code, fact.message)),
        Want::Absent if fact.code == 404 => None,
        Want::Absent => said("exists-afterwards", "it exists".to_owned()),
        Want::Comes if fact.came == Some(true) => None,
        Want::Comes => said("missing", format!("did not come in {} ms, last seen: {}", fact.took_ms, fact.value)),
        Want::StaysAway if fact.came == Some(false) => None,
        Want::StaysAway => said("appeared", format!("came after {} ms", fact.took_ms)),
        Want::Value(value) if fact.value == *value => None,
        Want::Value(value) => said("value-differs", format!("expected {value}, is {}", fact.value)),
        Want::Took(least, most) if (*least..=*most).contains(&fact.took_ms) => None,
        Want::Took(least, most) => {
            said("duration-differs", format!("took {} ms, expected {least} to {most}", fact.took_ms))
        }
        Want::SameAs(other) => match seen.facts.get(*other) {
            Some(before) if before.value == fact.value && !fact.value.is_null() => None,
            before => said("value-differs", format!("{other} was {:?}, is {}", before.map(|b| &b.value), fact.value)),
        },
    }
}

/// The first part that a text lacks, however its lines are broken.
fn missing(parts: &[&'static str], text: &str) -> Option<&'static str> {
    let flat = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    let text = flat(text);
    parts.iter().copied().find(|part| !text.contains(&flat(part)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::codes;
    use serde_json::json;
    use std::collections::BTreeMap;

    fn judged(want: Want, fact: Fact) -> Vec<String> {
        let before = Fact { value: json!("uid"), ..Fact::default() };
        let facts_seen = BTreeMap::from([("case".to_owned(), fact), ("before".to_owned(), before)]);
        codes(facts(vec![("case", want)]).judge(&SceneSeen { facts: facts_seen }))
    }

    fn answer(code: u16, message: &str) -> Fact {
        Fact { code, message: message.to_owned(), ..Fact::default() }
    }

    #[test]
    fn requests_are_judged() {
        assert!(judged(admitted(), answer(201, "")).is_empty());
        assert_eq!(judged(admitted(), answer(400, "no")), ["refused"]);
        assert_eq!(judged(admitted(), answer(500, "failed calling webhook")), ["call-failed"]);
        assert!(
            judged(refused(&["requests.cpu / memory"]), answer(400, "requests.cpu /\n    memory. rule")).is_empty()
        );
        assert_eq!(judged(refused(&["cpu"]), answer(400, "memory")), ["message-differs"]);
        assert_eq!(judged(refused(&[]), answer(201, "")), ["not-refused"]);
        assert_eq!(judged(refused(&[]), answer(500, "dead")), ["call-failed"]);
        assert!(judged(Want::CallFailed(&["deadline"]), answer(500, "context deadline exceeded")).is_empty());
        assert_eq!(judged(Want::CallFailed(&[]), answer(400, "no")), ["answered"]);
        assert!(judged(Want::Absent, answer(404, "")).is_empty());
        assert_eq!(judged(Want::Absent, answer(200, "")), ["exists-afterwards"]);
    }

    #[test]
    fn waits_and_fields_are_judged() {
        let came = |came| Fact { came: Some(came), took_ms: 500, value: json!("uid"), ..Fact::default() };
        assert!(judged(Want::Comes, came(true)).is_empty() && judged(Want::StaysAway, came(false)).is_empty());
        assert_eq!(judged(Want::Comes, came(false)), ["missing"]);
        assert_eq!(judged(Want::StaysAway, came(true)), ["appeared"]);
        assert_eq!(judged(Want::Took(0, 100), came(true)), ["duration-differs"]);
        assert_eq!(judged(Want::Value(json!("x")), came(true)), ["value-differs"]);
        assert!(judged(Want::SameAs("before"), came(true)).is_empty());
        assert_eq!(judged(Want::SameAs("before"), Fact::default()), ["value-differs"]);
    }

    #[test]
    fn what_was_not_looked_at_is_in_doubt() {
        let none = SceneSeen::default();
        assert!(matches!(facts(vec![("x", admitted())]).judge(&none), Judgement::Inconclusive(_)));
        assert!(matches!(facts(vec![]).judge(&none), Judgement::Inconclusive(_)));
    }
}
