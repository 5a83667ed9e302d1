//! The document's table of Kyverno's pattern syntax, on a policy of its own about texts in ConfigMaps.

use std::time::Duration;

use serde_json::{Value, json};
use shakedown_core::Capability::Kyverno;
use shakedown_engine::{Check, check, finds, fixture};
use shakedown_words::Platform;
use shakedown_words::kyverno_await::Await;
use shakedown_words::kyverno_facts::{admitted, facts, refused};
use shakedown_words::kyverno_scene::{Scene, scene};

use super::kyverno_common::{SCENES, demands, own_policy, stage};

/// The checks of patterns.
pub fn checks() -> Vec<Check<Platform>> {
    vec![patterns_match_texts(), patterns_combine()]
}

/// A ConfigMap with a text, or without one.
fn text(name: &str, text: Option<&str>) -> Value {
    let data = text.map_or_else(|| json!({}), |text| json!({"text": text}));
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "namespace": SCENES}, "data": data})
}

/// A policy with a pattern for each prefix of a ConfigMap's name, in force.
fn with_patterns(policy: &'static str, patterns: &[(&str, &str)]) -> Scene {
    let mut made = own_policy(policy, "ConfigMap", "none", json!({}));
    let ground = format!("{policy}-ground");
    let rules = patterns.iter().copied().chain([(ground.as_str(), "?*")]).map(|(prefix, pattern)| {
        let mut rule = demands(&format!("{prefix} wants {pattern}"), json!({"data": {"text": pattern}}));
        rule["name"] = prefix.into();
        rule["match"] = json!({"any": [{"resources": {"kinds": ["ConfigMap"], "names": [format!("{prefix}-*")]}}]});
        rule
    });
    made["spec"]["rules"] = rules.collect();
    scene().making(made).once(Await::Refused(text(&format!("{ground}-x"), None), policy))
}

fn patterns_match_texts() -> Check<Platform> {
    let asked = |letters: &'static str| {
        with_patterns("shakedown-texts", &[("letters", letters), ("colon", "*:*"), ("not-latest", "!*:latest")])
            .trying("letter", text("letters-a", Some("x")))
            .trying("empty", text("letters-b", Some("")))
            .trying("missing", text("letters-c", None))
            .trying("colon-with", text("colon-a", Some("nginx:1")))
            .trying("colon-without", text("colon-b", Some("nginx")))
            .trying("latest", text("not-latest-a", Some("nginx:latest")))
            .trying("tagged", text("not-latest-b", Some("nginx:1")))
            .trying("untagged", text("not-latest-c", Some("nginx")))
    };
    check("kyverno.patterns-match-texts")
        .asserts(["KYV-029", "KYV-030", "KYV-031"])
        .needs([Kyverno])
        .within(Duration::from_secs(150))
        .observe(asked("?*"))
        .with(fixture(stage()))
        .expect(facts(vec![
            ("letter", admitted()),
            ("empty", refused(&["shakedown-texts"])),
            ("missing", refused(&["shakedown-texts"])),
            ("colon-with", admitted()),
            ("colon-without", refused(&["shakedown-texts"])),
            ("latest", refused(&["shakedown-texts"])),
            ("tagged", admitted()),
            ("untagged", admitted()),
        ]))
        .sabotage_input("the pattern is * in place of ?*", asked("*"), finds("not-refused"))
        .remedy("?* is at least one letter; * is any text, the empty one too")
}

fn patterns_combine() -> Check<Platform> {
    let asked = |both: &'static str| {
        with_patterns("shakedown-joined", &[("both", both), ("either", "nginx:* | redis:*")])
            .trying("both", text("both-a", Some("nginx:1")))
            .trying("latest", text("both-b", Some("nginx:latest")))
            .trying("untagged", text("both-c", Some("nginx")))
            .trying("one", text("either-a", Some("nginx:1")))
            .trying("other", text("either-b", Some("redis:7")))
            .trying("neither", text("either-c", Some("mysql:8")))
    };
    check("kyverno.patterns-combine")
        .asserts(["KYV-032", "KYV-033"])
        .needs([Kyverno])
        .within(Duration::from_secs(150))
        .observe(asked("!*:latest & *:*"))
        .with(fixture(stage()))
        .expect(facts(vec![
            ("both", admitted()),
            ("latest", refused(&["shakedown-joined"])),
            ("untagged", refused(&["shakedown-joined"])),
            ("one", admitted()),
            ("other", admitted()),
            ("neither", refused(&["shakedown-joined"])),
        ]))
        .sabotage_input("& is replaced by |", asked("!*:latest | *:*"), finds("not-refused"))
        .remedy("& is a logical and, | a logical or")
}
