//! Expectations of [`Scratch`]: how objects are stored at the end, what a snapshot gives away, what a key opens.

use shakedown_core::{Finding, Judgement};
use shakedown_engine::{Expect, expect_fn};

use crate::scratch::{PhaseSeen, Scratch, SecretSeen};

/// What an object is to be at the end of the last phase.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Is {
    /// Readable through the API, and in clear in etcd.
    Clear,
    /// Readable through the API, and in clear in etcd with all of these texts.
    ClearWith(&'static [&'static str]),
    /// Readable through the API, and in etcd behind this prefix, not in clear.
    Behind(&'static str),
    /// In etcd behind this prefix, and the API cannot read it.
    Lost(&'static str),
}

/// What is expected of a scenario.
#[derive(Debug, Clone)]
pub struct Ends {
    objects: Vec<(&'static str, Is)>,
    earlier: Vec<(usize, &'static str, Is)>,
    dumps: Vec<(&'static str, bool)>,
    opens: Vec<(&'static str, bool)>,
}

/// The apiserver lived in every phase, and at the end each of these objects is stored and readable as said.
pub fn at_the_end(objects: &[(&'static str, Is)]) -> Ends {
    Ends { objects: objects.to_vec(), earlier: vec![], dumps: vec![], opens: vec![] }
}

impl Ends {
    /// After a phase, counted from 1, these objects were stored and readable as said.
    #[must_use]
    pub fn and_after_phase(mut self, phase: usize, objects: &[(&'static str, Is)]) -> Self {
        self.earlier.extend(objects.iter().map(|(name, is)| (phase - 1, *name, *is)));
        self
    }

    /// The last dump has the texts of these objects, in the snapshot and in the database file.
    #[must_use]
    pub fn and_a_dump_shows(mut self, names: &[&'static str]) -> Self {
        self.dumps.extend(names.iter().map(|name| (*name, true)));
        self
    }

    /// The last dump has the texts of none of these objects.
    #[must_use]
    pub fn and_a_dump_hides(mut self, names: &[&'static str]) -> Self {
        self.dumps.extend(names.iter().map(|name| (*name, false)));
        self
    }

    /// Decrypted offline, `NAME with KEY`, the value is the whole object and nothing else.
    #[must_use]
    pub fn and_opens(mut self, what: &'static str) -> Self {
        self.opens.push((what, true));
        self
    }

    /// Offline, `NAME with KEY` gives nothing.
    #[must_use]
    pub fn and_stays_shut(mut self, what: &'static str) -> Self {
        self.opens.push((what, false));
        self
    }
}

impl Expect<Scratch> for Ends {
    fn judge(&self, seen: &Scratch) -> Judgement {
        if seen.phases.is_empty() {
            return Judgement::Inconclusive("no phase".to_owned());
        }
        let mut found: Vec<Finding> = vec![];
        for phase in seen.phases.iter().filter(|phase| !phase.ready) {
            found.push(Finding::new("not-ready", phase.providers.join(", "), phase.log.clone()));
        }
        let at_last = self.objects.iter().map(|(name, is)| (seen.phases.len() - 1, name, is));
        for (phase, name, is) in self.earlier.iter().map(|(phase, name, is)| (*phase, name, is)).chain(at_last) {
            match seen.phases.get(phase).and_then(|phase| phase.secrets.get(*name)) {
                Some(object) => stored(name, *is, object, &mut found),
                None => found.push(Finding::new("not-there", *name, "it was not looked at")),
            }
        }
        dumped(&self.dumps, seen, &mut found);
        opened(&self.opens, seen, &mut found);
        Judgement::from_findings(found)
    }
}

fn stored(name: &str, is: Is, object: &SecretSeen, found: &mut Vec<Finding>) {
    let readable = object.code == 200 && object.same;
    if matches!(is, Is::Lost(_)) == readable {
        let code = if readable { "readable" } else { "unreadable" };
        found.push(Finding::new(code, name, format!("the API answers {}", object.code)));
    }
    let has = |text: &str| object.raw.clear.iter().any(|clear| clear == text);
    match is {
        Is::Clear | Is::ClearWith(_) if !has("marker") || object.raw.is_encrypted() => {
            found.push(Finding::new("not-in-clear", name, format!("begins with {}", object.raw.prefix)));
        }
        Is::Clear | Is::ClearWith(_) if has("base64") => {
            found.push(Finding::new("as-base64", name, "etcd holds the base64 form".to_owned()));
        }
        Is::ClearWith(texts) => {
            let missing = texts.iter().filter(|text| !has(text));
            found.extend(missing.map(|text| Finding::new("text-missing", name, format!("`{text}` is not in it"))));
        }
        Is::Behind(prefix) | Is::Lost(prefix) if has("marker") || object.raw.prefix != prefix => {
            found.push(Finding::new("other-prefix", name, format!("begins with {}", object.raw.prefix)));
        }
        _ => {}
    }
}

fn dumped(expected: &[(&'static str, bool)], seen: &Scratch, found: &mut Vec<Finding>) {
    let last = seen.phases.iter().rev().map(|phase: &PhaseSeen| &phase.dumped).find(|dump| !dump.is_empty());
    for (name, shown) in expected {
        let Some((snapshot, database)) = last.and_then(|dump| dump.get(*name)) else {
            found.push(Finding::new("not-dumped", *name, "no snapshot was searched for it"));
            continue;
        };
        let times = format!("found {snapshot} times in the snapshot, {database} times in the database file");
        match shown {
            true if *snapshot == 0 || *database == 0 => found.push(Finding::new("not-in-dump", *name, times)),
            false if snapshot + database > 0 => found.push(Finding::new("in-dump", *name, times)),
            _ => {}
        }
    }
}

fn opened(expected: &[(&'static str, bool)], seen: &Scratch, found: &mut Vec<Finding>) {
    for (what, opens) in expected {
        let Some(tried) = seen.phases.iter().flat_map(|phase| &phase.opened).find(|tried| tried.what == *what) else {
            found.push(Finding::new("not-tried", *what, "it was not decrypted"));
            continue;
        };
        let code = match (opens, tried.opened && tried.marker) {
            (true, false) => "stays-shut",
            (false, true) => "opened",
            (true, true) if tried.left_over != 0 => "left-over",
            _ => continue,
        };
        let said = format!("opened: {}, {} bytes left over", tried.opened, tried.left_over);
        found.push(Finding::new(code, *what, said));
    }
}

/// The apiserver does not come to life in the last phase, and says so in these words.
pub fn refuses_to_start(words: &'static str) -> impl Expect<Scratch> {
    expect_fn(move |seen: &Scratch| match seen.phases.last() {
        None => Judgement::Inconclusive("no phase".to_owned()),
        Some(last) if last.ready => {
            Judgement::fail("did-start", last.providers.join(", "), "the apiserver became ready")
        }
        Some(last) if last.log.contains(words) => Judgement::Pass,
        Some(last) => Judgement::fail("other-words", last.providers.join(", "), last.log.clone()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scratch::tests::{line, phase};
    use crate::testing::codes;

    const KEY1: &str = "k8s:enc:aescbc:v1:key1:";

    #[test]
    fn each_defect_has_its_code() {
        let clear = at_the_end(&[("a", Is::Clear)]);
        let behind = at_the_end(&[("a", Is::Behind(KEY1))]);
        let plain = phase(&format!("ready\n{}", line("a", 200, "the-marker-a", b"k8s\0..the-marker-a..")));
        let cipher = phase(&format!("ready\n{}", line("a", 200, "the-marker-a", b"k8s:enc:aescbc:v1:key1:\x01\x02")));
        assert!(codes(clear.judge(&plain)).is_empty() && codes(behind.judge(&cipher)).is_empty());
        assert_eq!(codes(clear.judge(&cipher)), ["not-in-clear"]);
        assert_eq!(codes(behind.judge(&plain)), ["other-prefix"]);
        assert_eq!(codes(at_the_end(&[("a", Is::ClearWith(&["x"]))]).judge(&plain)), ["text-missing"]);
        let lost = phase(&format!("ready\n{}", line("a", 500, "other", b"k8s:enc:aescbc:v1:key1:\x01\x02")));
        assert_eq!(codes(behind.judge(&lost)), ["unreadable"]);
        assert!(codes(at_the_end(&[("a", Is::Lost(KEY1))]).judge(&lost)).is_empty());
        assert_eq!(codes(at_the_end(&[("a", Is::Lost(KEY1))]).judge(&cipher)), ["readable"]);
        assert_eq!(codes(behind.judge(&phase("ready\n"))), ["not-there"]);
        let down = phase("down\nerror: key length is 20 bytes\n");
        assert_eq!(codes(behind.judge(&down)), ["not-ready", "not-there"]);
        assert!(codes(refuses_to_start("key length").judge(&down)).is_empty());
        assert_eq!(codes(refuses_to_start("other").judge(&down)), ["other-words"]);
        assert_eq!(codes(refuses_to_start("key length").judge(&plain)), ["did-start"]);
    }

    #[test]
    fn dumps_and_keys_are_judged() {
        let none = || at_the_end(&[]);
        let shown = phase("ready\ndump a 1 2\n");
        let hidden = phase("ready\ndump a 0 0\n");
        assert!(codes(none().and_a_dump_shows(&["a"]).judge(&shown)).is_empty());
        assert_eq!(codes(none().and_a_dump_hides(&["a"]).judge(&shown)), ["in-dump"]);
        assert_eq!(codes(none().and_a_dump_shows(&["a"]).judge(&hidden)), ["not-in-dump"]);
        assert_eq!(codes(none().and_a_dump_hides(&["b"]).judge(&hidden)), ["not-dumped"]);
        let opened =
            phase("ready\nopened a key1 true 1 64 40\nopened a key2 false 0 64 0\nopened b key1 true 1 96 40\n");
        assert!(codes(none().and_opens("a with key1").and_stays_shut("a with key2").judge(&opened)).is_empty());
        assert_eq!(codes(none().and_opens("a with key2").judge(&opened)), ["stays-shut"]);
        assert_eq!(codes(none().and_stays_shut("a with key1").judge(&opened)), ["opened"]);
        assert_eq!(codes(none().and_opens("b with key1").judge(&opened)), ["left-over"]);
        assert_eq!(codes(none().and_opens("c with key1").judge(&opened)), ["not-tried"]);
    }
}
