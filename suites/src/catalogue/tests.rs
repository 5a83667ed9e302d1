//! Tests of the catalogue: the one that the binary carries, and small broken ones.

use std::collections::BTreeMap;
use std::path::Path;

use shakedown_core::Here;

use super::*;

const GOOD: &str = r#"
[[statement]]
id = "PSA-001"
source = "a document"
where = "a chapter"
kind = "pitfall"
system = "kubernetes"
says = "A privileged pod is refused."
exact = ["privileged"]
check = "Create one."
sabotage = "Lower the label."
needs = ["nodes-exec"]
here = "yes"
why = ""
"#;

fn parse(statements: &'static str, pending: &'static str) -> Result<Catalogue, Malformed> {
    Catalogue::parse(&[AreaSource { name: "psa", prefixes: &["PSA"], statements, pending }])
}

/// The good statement with one line replaced.
fn with(line: &str, by: &str) -> &'static str {
    assert!(GOOD.contains(line), "{line}");
    GOOD.replacen(line, by, 1).leak()
}

fn mistakes(statements: &'static str, pending: &'static str) -> Vec<String> {
    parse(statements, pending).unwrap_err().0.iter().map(ToString::to_string).collect()
}

#[test]
fn the_embedded_catalogue_is_valid_and_whole() {
    let catalogue = Catalogue::embedded().unwrap();
    assert_eq!(catalogue.statements().count(), 1118);
    let names: Vec<_> = catalogue.areas().iter().map(|area| area.name).collect();
    assert!(names.is_sorted(), "{names:?}");
    let (area, statement) = catalogue.statement("PSA-023").unwrap();
    assert_eq!((area.name, statement.id.as_str()), ("psa", "PSA-023"));
    assert!(catalogue.statement("PSA-999").is_none());
    assert!(catalogue.area("rbac").is_some() && catalogue.area("nonsense").is_none());
}

#[test]
fn a_good_statement_is_read() {
    let catalogue = parse(GOOD, "").unwrap();
    let (_, statement) = catalogue.statement("PSA-001").unwrap();
    assert_eq!((statement.here, statement.exact.as_slice()), (Here::Yes, &["privileged".to_owned()][..]));
}

#[test]
fn every_mistake_is_named_with_its_line() {
    let file = "suites/psa/statements.toml";
    let cases = [
        (with("id = \"PSA-001\"", "id = \"PSA-1\""), format!("{file}:3: `PSA-1` is no statement id: PREFIX-NNN")),
        (
            with("id = \"PSA-001\"", "id = \"RBAC-001\""),
            format!("{file}:3: `RBAC-001` does not belong here: ids of this folder begin with PSA-"),
        ),
        (with("says = \"A privileged pod is refused.\"", "says = \" \""), format!("{file}:8: `PSA-001` says nothing")),
        (with("system = \"kubernetes\"", "system = \"k9s\""), format!("{file}:7: `k9s` is no known system")),
        (
            with("here = \"yes\"", "here = \"no\""),
            format!("{file}:14: `PSA-001` cannot wholly be checked here and does not say why"),
        ),
        (with("needs = [\"nodes-exec\"]", "needs = [\"magic\"]"), format!("{file}:12: unknown capability `magic`")),
    ];
    for (text, expected) in cases {
        assert_eq!(mistakes(text, ""), [expected]);
    }
}

#[test]
fn malformed_toml_is_named_with_its_line() {
    let cases = [
        (with("kind = \"pitfall\"", "kind = \"pit"), 6),
        (with("kind = \"pitfall\"", "kind = \"trap\""), 6),
        (with("kind = \"pitfall\"", "kind = 7"), 6),
        (with("kind = \"pitfall\"", "knid = \"pitfall\""), 6),
        // A missing field is told at its entry.
        (with("kind = \"pitfall\"\n", ""), 2),
    ];
    for (text, line) in cases {
        let told = mistakes(text, "");
        assert!(told[0].starts_with(&format!("suites/psa/statements.toml:{line}: ")), "{told:?}");
    }
}

#[test]
fn an_id_twice_is_found_across_areas_and_all_mistakes_are_told_at_once() {
    let twice: &'static str = format!("{GOOD}{GOOD}").leak();
    assert_eq!(mistakes(twice, ""), ["suites/psa/statements.toml:17: `PSA-001` stands in the catalogue twice"]);
    let areas = ["a", "b"].map(|name| AreaSource { name, prefixes: &["PSA"], statements: GOOD, pending: "" });
    assert_eq!(Catalogue::parse(&areas).unwrap_err().0.len(), 1);
    let both = with("system = \"kubernetes\"\nsays = \"A privileged pod is refused.\"", "system = \"x\"\nsays = \"\"");
    assert_eq!(mistakes(both, "").len(), 2);
}

#[test]
fn pending_lists_are_validated() {
    let list = |ids: &str, reason: &str| -> &'static str {
        format!("# head\n[[pending]]\nids = [{ids}]\nreason = \"{reason}\"\n").leak()
    };
    let good = parse(GOOD, list("\"PSA-001..PSA-001\"", "later")).unwrap();
    assert_eq!(good.areas()[0].pending["PSA-001"], "later");
    let file = "suites/psa/pending.toml";
    let cases = [
        (list("\"PSA-002\"", "later"), format!("{file}:3: `PSA-002` is not a statement of this folder")),
        (list("\"PSA-001\", \"PSA-001\"", "later"), format!("{file}:3: `PSA-001` is listed twice")),
        (
            list("\"PSA-002..PSA-001\"", "later"),
            format!("{file}:3: `PSA-002..PSA-001` is neither an id nor a range such as A-001..A-009"),
        ),
        (list("\"PSA-001\"", " "), format!("{file}:4: a statement that is not checked needs a reason")),
    ];
    for (text, expected) in cases {
        assert_eq!(mistakes(GOOD, text), [expected]);
    }
}

#[test]
fn the_accounting_finds_neither_both_and_undocumented() {
    let asserted = |ids: &[&str]| -> BTreeMap<String, Vec<String>> {
        ids.iter().map(|id| ((*id).to_owned(), vec!["psa.x".to_owned()])).collect()
    };
    let pending = "[[pending]]\nids = [\"PSA-001\"]\nreason = \"later\"\n";
    let listed = parse(GOOD, pending).unwrap();
    let unlisted = parse(GOOD, "").unwrap();
    assert!(listed.account(&asserted(&[])).is_empty());
    assert!(unlisted.account(&asserted(&["PSA-001"])).is_empty());
    assert!(unlisted.account(&asserted(&[]))[0].contains("neither"));
    assert!(listed.account(&asserted(&["PSA-001"]))[0].contains("still listed"));
    assert!(listed.account(&asserted(&["PSA-777"]))[0].contains("not in the catalogue"));
}

/// The catalogue as it was handed over, where it lies beside the checkout: nothing of it is lost or changed.
#[test]
fn nothing_of_the_original_catalogue_is_lost() {
    #[derive(serde::Deserialize)]
    struct Original {
        statement: Vec<Statement>,
    }
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/catalogue");
    let Ok(entries) = std::fs::read_dir(&folder) else { return };
    let catalogue = Catalogue::embedded().unwrap();
    let mut count = 0;
    for entry in entries {
        let text = std::fs::read_to_string(entry.unwrap().path()).unwrap();
        for original in toml::from_str::<Original>(&text).unwrap().statement {
            let ours = catalogue.statement(&original.id).unwrap_or_else(|| panic!("{} is lost", original.id)).1;
            assert_eq!(ours.exact, original.exact, "{}", original.id);
            assert_eq!(*ours, original);
            count += 1;
        }
    }
    assert_eq!(count, catalogue.statements().count());
}
