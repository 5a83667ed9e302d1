//! What an encryption configuration does, shown on a [scratch pair](crate::scratch_pair) in seconds, without touching the
//! cluster.
//!
//! A scenario is a list of phases. Each starts the apiserver with a configuration, takes steps, and then looks at all
//! objects written so far: can the API read them, and what does etcd hold.

use std::collections::BTreeMap;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use shakedown_core::{Observation, Resource, Touches};
use shakedown_engine::{Cx, ObserveError, Probe};

use crate::platform::Platform;
use crate::raw_bytes::RawValue;
pub use crate::scratch_judges::{Is, at_the_end, refuses_to_start};
use crate::scratch_pair::{Place, configuration, made_up_hex};
pub use crate::scratch_pair::{With, key_of, keys};

/// What is done in a phase.
#[derive(Debug, Clone)]
enum Step {
    Write(&'static str),
    Rewrite(&'static str),
    Flip(&'static str),
    Reconfigure(Vec<With>, u32),
    Compact,
    Dump,
    Open(&'static str, &'static str),
}

#[derive(Debug, Clone, Default)]
struct Phase {
    providers: Vec<With>,
    restored: bool,
    reloads: bool,
    without_file: bool,
    steps: Vec<Step>,
}

/// A scenario.
#[derive(Debug, Clone)]
pub struct Scenario {
    resources: Vec<&'static str>,
    texts: Vec<&'static str>,
    phases: Vec<Phase>,
}

/// An empty scenario about Secrets.
pub fn scenario() -> Scenario {
    Scenario { resources: vec!["secrets"], texts: vec![], phases: vec![] }
}

impl Scenario {
    /// The configuration names these resources.
    #[must_use]
    pub fn of_resources(mut self, resources: &[&'static str]) -> Self {
        self.resources = resources.to_vec();
        self
    }

    /// Every Secret holds these pairs of key and value as well, and they are looked for in what etcd holds. They are part
    /// of the evidence: only what is documented anyway.
    #[must_use]
    pub fn holding(mut self, texts: &[&'static str]) -> Self {
        self.texts = texts.to_vec();
        self
    }

    /// A phase: the apiserver runs with these providers; none: without a configuration.
    #[must_use]
    pub fn phase(mut self, providers: impl IntoIterator<Item = With>) -> Self {
        self.phases.push(Phase { providers: providers.into_iter().collect(), ..Phase::default() });
        self
    }

    fn last(mut self, change: impl FnOnce(&mut Phase)) -> Self {
        if let Some(phase) = self.phases.last_mut() {
            change(phase);
        }
        self
    }

    /// Before it etcd is replaced by a member that is restored from the last snapshot.
    #[must_use]
    pub fn restored(self) -> Self {
        self.last(|phase| phase.restored = true)
    }

    /// In it the apiserver is to read its configuration again whenever it changes.
    #[must_use]
    pub fn reloading(self) -> Self {
        self.last(|phase| phase.reloads = true)
    }

    /// In it the file that the apiserver's flag names does not exist.
    #[must_use]
    pub fn without_the_file(self) -> Self {
        self.last(|phase| phase.without_file = true)
    }

    fn step(self, step: Step) -> Self {
        self.last(|phase| phase.steps.push(step))
    }

    /// In it an object is written: a Secret of this name, or `RESOURCE/NAME` of another kind.
    #[must_use]
    pub fn writes(self, name: &'static str) -> Self {
        self.step(Step::Write(name))
    }

    /// In it an object that is there is replaced by itself.
    #[must_use]
    pub fn rewrites(self, name: &'static str) -> Self {
        self.step(Step::Rewrite(name))
    }

    /// In it the last bit of an object's value in etcd is flipped.
    #[must_use]
    pub fn flips_a_bit_of(self, name: &'static str) -> Self {
        self.step(Step::Flip(name))
    }

    /// In it the configuration file changes while the apiserver runs; `seconds` are waited.
    #[must_use]
    pub fn reconfigures(self, providers: impl IntoIterator<Item = With>, seconds: u32) -> Self {
        let providers = providers.into_iter().collect();
        self.step(Step::Reconfigure(providers, seconds))
    }

    /// In it etcd forgets old revisions and gives their space back.
    #[must_use]
    pub fn compacts(self) -> Self {
        self.step(Step::Compact)
    }

    /// In it a snapshot is saved, and it and the member's own database file are searched for every object's text.
    #[must_use]
    pub fn dumps(self) -> Self {
        self.step(Step::Dump)
    }

    /// In it an object's value in etcd is decrypted offline, as `aescbc` with this key.
    #[must_use]
    pub fn opens(self, name: &'static str, key: &'static str) -> Self {
        self.step(Step::Open(name, key))
    }
}

/// An object at the end of a phase.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SecretSeen {
    /// HTTP status code of reading it.
    pub code: u16,
    /// The API returned what was written.
    pub same: bool,
    /// What etcd holds; `clear` names `marker` where its text can be read, `base64` where its base64 form can.
    pub raw: RawValue,
}

/// A value that was decrypted without any apiserver.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Opened {
    /// `NAME with KEY`.
    pub what: String,
    /// The key fits: CBC's padding is whole and the text begins as an object does.
    pub opened: bool,
    /// The object's text is in it.
    pub marker: bool,
    /// Bytes behind the prefix that are neither the initial vector nor padded text: an authentication tag would be.
    pub left_over: i64,
}

/// A phase.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct PhaseSeen {
    /// Providers, first to last; empty: no configuration.
    pub providers: Vec<String>,
    /// The apiserver came to life (`/livez`).
    pub ready: bool,
    /// The last lines of an apiserver that did not.
    pub log: String,
    /// Every object written so far.
    pub secrets: BTreeMap<String, SecretSeen>,
    /// Object to how often its text is found in the snapshot and in the database file.
    pub dumped: BTreeMap<String, (u32, u32)>,
    /// What was decrypted offline.
    pub opened: Vec<Opened>,
}

/// A scenario as it went.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Scratch {
    /// Phases in order.
    pub phases: Vec<PhaseSeen>,
}

impl Observation for Scratch {
    const SCHEMA: &'static str = "scratch/2";
}

impl Probe<Platform> for Scenario {
    type Seen = Scratch;

    fn touches(&self) -> Touches {
        // Its programs are those of a living control plane.
        Touches::nothing().reads(Resource::Apiserver)
    }

    async fn observe(&self, platform: &Platform, cx: &Cx) -> Result<Scratch, ObserveError> {
        let place = Place::of(platform, cx)?;
        let went = self.go(platform, &place).await;
        place.clean_up(platform).await?;
        went
    }
}

impl Scenario {
    async fn go(&self, platform: &Platform, place: &Place) -> Result<Scratch, ObserveError> {
        place.start(platform).await?;
        let mut phases = vec![];
        let mut written: Vec<&str> = vec![];
        for phase in &self.phases {
            let files = phase.steps.iter().filter_map(|step| match step {
                Step::Reconfigure(providers, _) => Some(providers),
                _ => None,
            });
            for (number, providers) in std::iter::once(&phase.providers).chain(files).enumerate() {
                let config = configuration(&[(self.resources.clone(), providers)]);
                place.write(platform, &format!("encryption-{number}.yaml"), &config).await?;
            }
            let text = self.script(place, phase, &mut written);
            let out = place.run(platform, &text).await?;
            phases.push(self.understand(&out, phase, &place.marker)?);
        }
        Ok(Scratch { phases })
    }

    fn texts_of(&self, marker: &str, name: &str) -> (String, String) {
        let own = format!("{marker}-{}", name.replace('/', "-"));
        let encoded = BASE64_STANDARD.encode(&own);
        (own, encoded)
    }

    fn object(&self, marker: &str, name: &str) -> Value {
        let (own, encoded) = self.texts_of(marker, name);
        let Some((resource, name)) = name.split_once('/') else {
            let mut data = serde_json::Map::from_iter([("marker".to_owned(), json!(encoded))]);
            for pair in self.texts.chunks_exact(2) {
                data.insert(pair[0].to_owned(), json!(BASE64_STANDARD.encode(pair[1])));
            }
            return json!({"metadata": {"name": name}, "type": "Opaque", "data": data});
        };
        let mut object = json!({"metadata": {"name": name, "annotations": {"marker": own}}});
        if resource == "persistentvolumeclaims" {
            object["spec"] = json!({"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Mi"}}});
        }
        object
    }

    /// Starts the apiserver, takes the steps, prints every object as `object NAME CODE BODY RAW` (the last two in base64),
    /// and ends it.
    fn script<'a>(&self, place: &Place, phase: &Phase, written: &mut Vec<&'a str>) -> String
    where
        'static: 'a,
    {
        let folder = &place.folder;
        let mut text = String::new();
        if phase.restored {
            text.push_str(&place.end_etcd());
            text.push_str(&place.functions());
            text.push_str("rm -rf data restored; u snapshot restore snapshot.db --data-dir restored >/dev/null 2>&1; mv restored data\n");
            text.push_str(&place.start_etcd("data"));
        }
        let mut flags = match (phase.providers.is_empty(), phase.without_file) {
            (_, true) => format!("--encryption-provider-config={folder}/absent.yaml"),
            (true, _) => String::new(),
            (false, _) => format!("--encryption-provider-config={folder}/encryption.yaml"),
        };
        if phase.reloads {
            flags.push_str(" --encryption-provider-config-automatic-reload=true");
        }
        text.push_str("cp encryption-0.yaml encryption.yaml\n");
        text.push_str(&place.start_apiserver(&flags));
        let mut file = 0;
        for step in &phase.steps {
            if let Step::Write(name) = step {
                written.push(name);
            }
            text.push_str(&self.step_script(place, step, written, &mut file));
        }
        for name in written.iter() {
            text.push_str(&format!(
                "code=$(c -o body -w '%{{http_code}}' {url}); echo \"object {name} $code $(base64 -w0 body) $(e get {key} --print-value-only | head -c -1 | base64 -w0)\"\n",
                url = url_of(place, name),
                key = key_of_object(name),
            ));
        }
        text.push_str(&place.end_apiserver());
        text
    }

    fn step_script(&self, place: &Place, step: &Step, written: &[&str], file: &mut usize) -> String {
        match step {
            Step::Write(name) => {
                let url = url_of(place, name);
                let (collection, _) = url.rsplit_once('/').unwrap_or_default();
                format!("c -X POST -d '{}' {collection} >/dev/null\n", self.object(&place.marker, name))
            }
            Step::Rewrite(name) => {
                let url = url_of(place, name);
                format!("c {url} | c -X PUT --data-binary @- {url} >/dev/null\n")
            }
            // The last byte's last bit: the last line of the dump is the rest of the value.
            Step::Flip(name) => format!(
                "e get {key} --print-value-only | head -c -1 > whole; n=$(od -An -v -tu1 whole | tr -s ' \\n' '  ' | awk '{{print $NF}}'); \
                 head -c -1 whole > bent; printf \"\\\\$(printf '%03o' $((n ^ 1)))\" >> bent; e put {key} < bent >/dev/null\n",
                key = key_of_object(name),
            ),
            Step::Reconfigure(_, seconds) => {
                *file += 1;
                // A rename, as an editor or a configuration system does it.
                format!("cp encryption-{file}.yaml new.yaml; mv new.yaml encryption.yaml; sleep {seconds}\n")
            }
            Step::Compact => "r=$(e get / --limit=1 -w json | sed 's/.*\"revision\":\\([0-9]*\\).*/\\1/'); \
                              e compact --physical $r >/dev/null; e defrag >/dev/null\n"
                .to_owned(),
            Step::Dump => {
                let mut text = "e snapshot save snapshot.db >/dev/null 2>&1\n".to_owned();
                for name in written {
                    let (own, _) = self.texts_of(&place.marker, name);
                    text.push_str(&format!(
                        "echo \"dump {name} $(grep -aoF {own} snapshot.db | wc -l) $(grep -aoF {own} data/member/snap/db | wc -l)\"\n"
                    ));
                }
                text
            }
            Step::Open(name, key) => format!(
                "e get {etcd} --print-value-only | head -c -1 > whole; tail -c +$((1 + $(printf %s 'k8s:enc:aescbc:v1:{key}:' | wc -c))) whole > body; \
                 iv=$(head -c 16 body | od -An -v -tx1 | tr -d ' \\n'); \
                 if tail -c +17 body | openssl enc -d -aes-256-cbc -K {hex} -iv $iv > text 2>/dev/null && [ \"$(head -c 3 text)\" = k8s ]; then o=true; else o=false; fi; \
                 echo \"opened {name} {key} $o $(grep -acF {own} text || true) $(wc -c < body) $(wc -c < text)\"\n",
                etcd = key_of_object(name),
                hex = made_up_hex(key),
                own = self.texts_of(&place.marker, name).0,
            ),
        }
    }

    fn understand(&self, text: &str, phase: &Phase, marker: &str) -> Result<PhaseSeen, ObserveError> {
        let mut lines = text.lines();
        let mut seen = PhaseSeen {
            providers: phase.providers.iter().map(ToString::to_string).collect(),
            ready: lines.next() == Some("ready"),
            ..PhaseSeen::default()
        };
        if !seen.ready {
            seen.log = lines.collect::<Vec<_>>().join("\n").chars().take(2000).collect();
            return Ok(seen);
        }
        for line in lines {
            let words: Vec<&str> = line.split(' ').collect();
            let number = |word: &str| word.parse::<u32>().map_err(|e| ObserveError::harness(format!("`{line}`: {e}")));
            match words.as_slice() {
                ["object", name, code, body, raw] => {
                    let object = self.object_seen(marker, name, code, body, raw)?;
                    seen.secrets.insert((*name).to_owned(), object);
                }
                ["dump", name, snapshot, database] => {
                    seen.dumped.insert((*name).to_owned(), (number(snapshot)?, number(database)?));
                }
                ["opened", name, key, opened, markers, body, text] => seen.opened.push(Opened {
                    what: format!("{name} with {key}"),
                    opened: *opened == "true",
                    marker: number(markers)? > 0,
                    left_over: left_over(number(body)?.into(), number(text)?.into()),
                }),
                _ => {}
            }
        }
        Ok(seen)
    }

    fn object_seen(
        &self,
        marker: &str,
        name: &str,
        code: &str,
        body: &str,
        raw: &str,
    ) -> Result<SecretSeen, ObserveError> {
        let decode = |what: &str, text: &str| {
            BASE64_STANDARD.decode(text).map_err(|e| ObserveError::harness(format!("{what} of {name}: {e}")))
        };
        let (own, encoded) = self.texts_of(marker, name);
        let labelled = [(own.as_str(), "marker"), (encoded.as_str(), "base64"), ("Opaque", "Opaque")];
        let labelled: Vec<(&str, &str)> =
            labelled.into_iter().chain(self.texts.iter().map(|text| (*text, *text))).collect();
        let texts: Vec<&str> = labelled.iter().map(|(text, _)| *text).collect();
        let mut raw = RawValue::of(&decode("raw value", raw)?, 0, &texts);
        let found = |text: &&(&str, &str)| raw.clear.iter().any(|clear| clear == text.0);
        raw.clear = labelled.iter().filter(found).map(|(_, label)| (*label).to_owned()).collect();
        let body: Value = serde_json::from_slice(&decode("body", body)?).unwrap_or_default();
        let same =
            body["data"]["marker"] == encoded.as_str() || body["metadata"]["annotations"]["marker"] == own.as_str();
        Ok(SecretSeen { code: code.parse().unwrap_or_default(), same, raw })
    }
}

/// What is left of the bytes behind the prefix without the initial vector, the text, and its padding to whole blocks.
fn left_over(body: i64, text: i64) -> i64 {
    const BLOCK: i64 = 16;
    body - BLOCK - (text / BLOCK + 1) * BLOCK
}

/// Resource and name of an object as a scenario spells it.
fn spelled(name: &str) -> (&str, &str) {
    name.split_once('/').unwrap_or(("secrets", name))
}

fn url_of(place: &Place, name: &str) -> String {
    let (resource, name) = spelled(name);
    format!("{}/api/v1/namespaces/default/{resource}/{name}", place.url())
}

fn key_of_object(name: &str) -> String {
    let (resource, name) = spelled(name);
    format!("/registry/{resource}/default/{name}")
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn line(name: &str, code: u16, marker: &str, raw: &[u8]) -> String {
        let body = json!({"data": {"marker": BASE64_STANDARD.encode(marker)}}).to_string();
        format!("object {name} {code} {} {}\n", BASE64_STANDARD.encode(body), BASE64_STANDARD.encode(raw))
    }

    pub(crate) fn phase(text: &str) -> Scratch {
        let scenario = scenario().phase([keys("aescbc", &["key1"])]);
        Scratch { phases: vec![scenario.understand(text, &scenario.phases[0], "the-marker").unwrap()] }
    }

    #[test]
    fn what_the_script_prints_is_understood() {
        let seen = phase(&format!(
            "ready\ndump a 1 2\nopened a key1 true 1 64 40\n{}",
            line("a", 200, "the-marker-a", b"k8s\0..the-marker-a..Opaque")
        ));
        let phase = &seen.phases[0];
        assert!(phase.ready && phase.secrets["a"].same);
        assert_eq!(phase.secrets["a"].raw.clear, ["marker", "Opaque"]);
        assert_eq!(phase.dumped["a"], (1, 2));
        assert_eq!(phase.opened[0].left_over, 0);
    }

    #[test]
    fn a_tag_behind_the_text_is_left_over() {
        assert_eq!(left_over(16 + 48, 40), 0);
        assert_eq!(left_over(16 + 48, 32), 0);
        assert_eq!(left_over(16 + 48 + 32, 40), 32);
    }

    #[test]
    fn an_object_of_another_kind_has_its_own_place() {
        assert_eq!(key_of_object("configmaps/a"), "/registry/configmaps/default/a");
        assert_eq!(key_of_object("a"), "/registry/secrets/default/a");
        let documented = scenario().holding(&["password", "p"]).object("m", "a");
        assert_eq!(documented["data"]["password"], BASE64_STANDARD.encode("p"));
        assert_eq!(scenario().object("m", "configmaps/a")["metadata"]["annotations"]["marker"], "m-configmaps-a");
    }
}
