//! Expectations of [`Admission`]: who is refused, for exactly which violations, who is admitted, and who is warned.

use std::collections::BTreeSet;

use shakedown_core::{Finding, Judgement};
use shakedown_engine::Expect;

use crate::admission::{Admission, Answered, PodSecurity, by_case};

/// What one answer must be like.
#[derive(Debug, Clone, Default)]
pub struct Expected {
    admitted: bool,
    violations: Option<&'static [&'static str]>,
    policy: Option<&'static str>,
    message: &'static [&'static str],
    warned: Option<Option<&'static [&'static str]>>,
    warns_of: Option<&'static str>,
}

/// Refused, and no object exists afterwards.
pub fn denied() -> Expected {
    Expected::default()
}

/// Admitted (and, where it was real, the object exists afterwards).
pub fn allowed() -> Expected {
    Expected { admitted: true, ..Expected::default() }
}

impl Expected {
    /// Refused by Pod Security for exactly these: each is a violation's head, or head and detail as in the message.
    #[must_use]
    pub fn with_exactly_these_violations(mut self, heads: &'static [&'static str]) -> Self {
        self.violations = Some(heads);
        self
    }

    /// By this level and version.
    #[must_use]
    pub fn by_policy(mut self, policy: &'static str) -> Self {
        self.policy = Some(policy);
        self
    }

    /// The message contains all of these.
    #[must_use]
    pub fn saying(mut self, parts: &'static [&'static str]) -> Self {
        self.message = parts;
        self
    }

    /// The client is warned of exactly these violations.
    #[must_use]
    pub fn warned_of(mut self, heads: &'static [&'static str]) -> Self {
        self.warned = Some(Some(heads));
        self
    }

    /// The client is warned by this level and version.
    #[must_use]
    pub fn warned_by(mut self, policy: &'static str) -> Self {
        self.warns_of = Some(policy);
        self
    }

    /// No warning of Pod Security comes.
    #[must_use]
    pub fn without_warning(mut self) -> Self {
        self.warned = Some(None);
        self
    }

    /// This for one case, in one namespace, of several.
    pub fn for_case(self, case: &'static str, namespace: &'static str) -> (&'static str, &'static str, Expected) {
        (case, namespace, self)
    }

    pub(crate) fn findings(&self, seen: &Answered) -> Vec<Finding> {
        let subject = format!("{} in {}", seen.case, seen.namespace);
        let finding = |code: &str, message: String| Finding::new(code, subject.clone(), message);
        let mut findings = vec![];
        match (self.admitted, seen.admitted()) {
            (true, false) => {
                findings.push(finding("refused", format!("was to be admitted, was refused: {}", seen.message)));
                return findings;
            }
            (false, true) => {
                findings.push(finding("not-refused", "was to be refused, was admitted".to_owned()));
                return findings;
            }
            (true, true) if !seen.dry_run && !seen.exists_afterwards => {
                findings.push(finding("not-created", "was admitted, but does not exist".to_owned()));
            }
            (false, false) if seen.exists_afterwards => {
                findings.push(finding("exists-afterwards", "was refused, but exists".to_owned()));
            }
            _ => {}
        }
        for part in self.message {
            if !seen.message.contains(part) {
                findings.push(finding("message-differs", format!("`{part}` is not in: {}", seen.message)));
            }
        }
        if let Some(expected) = self.violations {
            compare(expected, self.policy, seen.refused_for.as_ref(), "violation", &finding, &mut findings);
        }
        match (self.warned, seen.warned_for()) {
            (Some(Some(expected)), warned) => {
                compare(expected, self.warns_of, warned.as_ref(), "warning", &finding, &mut findings);
            }
            (Some(None), Some(warned)) => {
                findings.push(finding("warning-unexpected", format!("warned by {}", warned.policy)));
            }
            _ => {}
        }
        findings
    }
}

/// Compares lists of violations as sets, and the policy that named them.
fn compare(
    expected: &[&str],
    policy: Option<&str>,
    seen: Option<&PodSecurity>,
    what: &str,
    finding: &dyn Fn(&str, String) -> Finding,
    findings: &mut Vec<Finding>,
) {
    let Some(seen) = seen else {
        findings.push(finding(&format!("{what}-missing"), format!("no {what} of Pod Security: expected {expected:?}")));
        return;
    };
    if let Some(policy) = policy.filter(|policy| *policy != seen.policy) {
        findings.push(finding("other-policy", format!("expected {policy}, seen {}", seen.policy)));
    }
    let mut unmatched: BTreeSet<usize> = (0..seen.violations.len()).collect();
    for wanted in expected {
        let hit = unmatched.iter().copied().find(|&index| {
            let violation = &seen.violations[index];
            violation.head == *wanted || format!("{} ({})", violation.head, violation.detail) == *wanted
        });
        match hit {
            Some(index) => {
                unmatched.remove(&index);
            }
            None => findings.push(finding(&format!("{what}-missing"), format!("`{wanted}` is not among them"))),
        }
    }
    for index in unmatched {
        let extra = &seen.violations[index];
        findings.push(finding(&format!("{what}-unexpected"), format!("{} ({})", extra.head, extra.detail)));
    }
}

/// Every answer is like this.
impl Expect<Admission> for Expected {
    fn judge(&self, seen: &Admission) -> Judgement {
        if seen.answers.is_empty() {
            return Judgement::Inconclusive("nothing was submitted".to_owned());
        }
        Judgement::from_findings(seen.answers.iter().flat_map(|answer| self.findings(answer)).collect())
    }
}

/// A table of cases, all of which must have been seen, and none besides.
pub struct Table(Vec<(&'static str, &'static str, Expected)>);

/// Each case of a table is like this.
pub fn each(rows: Vec<(&'static str, &'static str, Expected)>) -> Table {
    Table(rows)
}

impl Expect<Admission> for Table {
    fn judge(&self, seen: &Admission) -> Judgement {
        let answers = by_case(seen);
        let mut findings = vec![];
        for (case, namespace, expected) in &self.0 {
            match answers.get(&(*case, *namespace)) {
                Some(answer) => findings.extend(expected.findings(answer)),
                None => return Judgement::Inconclusive(format!("{case} was not submitted to {namespace}")),
            }
        }
        if answers.len() > self.0.len() {
            return Judgement::Inconclusive(format!("{} answers for {} expectations", answers.len(), self.0.len()));
        }
        Judgement::from_findings(findings)
    }
}

/// The answers of several levels: `A` admitted, `R` refused, one letter for each namespace.
///
/// A row is a case, its letters, and the violations that the refusals must name exactly, in the order of the namespaces
/// that refuse.
pub struct Levels {
    namespaces: &'static [&'static str],
    rows: &'static [Row],
}

/// One row of [`Levels`]: case, verdict letters, violations of each refusal.
pub type Row = (&'static str, &'static str, &'static [&'static [&'static str]]);

/// A table of fields by level.
pub fn levels(namespaces: &'static [&'static str], rows: &'static [Row]) -> Levels {
    Levels { namespaces, rows }
}

impl Expect<Admission> for Levels {
    fn judge(&self, seen: &Admission) -> Judgement {
        let mut rows = vec![];
        for (case, letters, violations) in self.rows {
            let mut refusals = violations.iter();
            for (namespace, letter) in self.namespaces.iter().zip(letters.chars()) {
                let expected = match (letter, refusals.as_slice().first()) {
                    ('A', _) => allowed(),
                    (_, Some(heads)) => {
                        refusals.next();
                        denied().with_exactly_these_violations(heads)
                    }
                    (_, None) => denied(),
                };
                rows.push(expected.for_case(case, namespace));
            }
        }
        each(rows).judge(seen)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admission::pod_security;
    use serde_json::Value;

    fn answer(case: &str, namespace: &str, message: &str, warning: &str) -> Answered {
        let refused = !message.is_empty();
        Answered {
            case: case.to_owned(),
            namespace: namespace.to_owned(),
            dry_run: true,
            code: if refused { 403 } else { 201 },
            reason: String::new(),
            refused_for: pod_security(message),
            message: message.to_owned(),
            warnings: vec![warning.to_owned()],
            exists_afterwards: false,
            stored: Value::Null,
        }
    }

    fn codes(judgement: Judgement) -> Vec<String> {
        match judgement {
            Judgement::Fail(findings) => findings.into_iter().map(|f| f.code).collect(),
            Judgement::Pass => vec![],
            Judgement::Inconclusive(why) => vec![format!("inconclusive: {why}")],
        }
    }

    const TWO: &str = "x violates PodSecurity \"restricted:v1.30\": privileged (c), seccompProfile (d)";

    #[test]
    fn violations_are_compared_as_sets() {
        let seen = Admission { answers: vec![answer("p", "n", TWO, "")] };
        let exactly = denied().with_exactly_these_violations(&["seccompProfile", "privileged (c)"]);
        assert_eq!(codes(exactly.by_policy("restricted:v1.30").judge(&seen)), Vec::<String>::new());
        let more = denied().with_exactly_these_violations(&["privileged", "seccompProfile", "runAsNonRoot != true"]);
        assert_eq!(codes(more.judge(&seen)), ["violation-missing"]);
        let fewer = denied().with_exactly_these_violations(&["privileged"]);
        assert_eq!(codes(fewer.judge(&seen)), ["violation-unexpected"]);
        let other =
            denied().with_exactly_these_violations(&["privileged", "seccompProfile"]).by_policy("baseline:latest");
        assert_eq!(codes(other.judge(&seen)), ["other-policy"]);
        assert_eq!(codes(allowed().judge(&seen)), ["refused"]);
        assert_eq!(codes(denied().saying(&["quota"]).judge(&seen)), ["message-differs"]);
    }

    #[test]
    fn a_refusal_by_something_else_lacks_its_violations() {
        let seen = Admission { answers: vec![answer("p", "n", "exceeded quota", "")] };
        assert_eq!(codes(denied().with_exactly_these_violations(&["privileged"]).judge(&seen)), ["violation-missing"]);
    }

    #[test]
    fn warnings_are_judged_apart() {
        let warning = "would violate PodSecurity \"restricted:latest\": seccompProfile (d)";
        let seen = Admission { answers: vec![answer("p", "n", "", warning)] };
        assert_eq!(codes(allowed().warned_of(&["seccompProfile"]).judge(&seen)), Vec::<String>::new());
        assert_eq!(codes(allowed().warned_of(&["privileged"]).judge(&seen)), ["warning-missing", "warning-unexpected"]);
        assert_eq!(codes(allowed().without_warning().judge(&seen)), ["warning-unexpected"]);
        let silent = Admission { answers: vec![answer("p", "n", "", "")] };
        assert_eq!(codes(allowed().warned_of(&["privileged"]).judge(&silent)), ["warning-missing"]);
    }

    #[test]
    fn levels_are_a_table() {
        let seen = Admission { answers: vec![answer("p", "open", "", ""), answer("p", "strict", TWO, "")] };
        let rows: &'static [Row] = &[("p", "AR", &[&["privileged", "seccompProfile"]])];
        assert_eq!(codes(levels(&["open", "strict"], rows).judge(&seen)), Vec::<String>::new());
        let rows: &'static [Row] = &[("p", "RR", &[])];
        assert_eq!(codes(levels(&["open", "strict"], rows).judge(&seen)), ["not-refused"]);
        let rows: &'static [Row] = &[("q", "AR", &[])];
        assert!(codes(levels(&["open", "strict"], rows).judge(&seen))[0].starts_with("inconclusive"));
        assert!(matches!(allowed().judge(&Admission { answers: vec![] }), Judgement::Inconclusive(_)));
    }
}
