//! A scratch apiserver and etcd of their own, on one control plane's loopback address: what an encryption configuration
//! does is shown there in seconds, without touching the cluster.
//!
//! A scenario is a list of phases. Each starts the apiserver with a configuration, writes Secrets, and then looks at all
//! Secrets written so far: can the API read them, and what does etcd hold. Programs and data are gone afterwards, and the
//! programs end by themselves where nobody ends them.

use std::collections::BTreeMap;
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use shakedown_core::{Finding, Judgement, Observation, Touches, UndoStep};
use shakedown_engine::{Cx, Expect, ObserveError, Probe, expect_fn};

use crate::node_command::{Which, script};
use crate::platform::Platform;
use crate::raw_bytes::RawValue;

/// Seconds after which the programs end by themselves.
const LIFE: u32 = 180;
/// Turns of a quarter of a second that the apiserver may take to be ready.
const TURNS: u32 = 240;
/// How long one phase may take.
const PHASE: Duration = Duration::from_secs(100);

/// A provider of an encryption configuration, with keys made for the scenario.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum With {
    /// Provider, and its keys: name and bytes.
    Keys(&'static str, Vec<(&'static str, u8)>),
    /// `identity`.
    Identity,
}

/// A provider with 32-byte keys of these names.
pub fn keys(provider: &'static str, names: &[&'static str]) -> With {
    With::Keys(provider, names.iter().map(|name| (*name, 32)).collect())
}

/// A provider with one key of so many bytes.
pub fn key_of(provider: &'static str, name: &'static str, bytes: u8) -> With {
    With::Keys(provider, vec![(name, bytes)])
}

#[derive(Debug, Clone)]
struct Phase {
    providers: Vec<With>,
    writes: Vec<&'static str>,
    rewrites: Vec<&'static str>,
}

/// A scenario.
#[derive(Debug, Clone, Default)]
pub struct Scenario {
    phases: Vec<Phase>,
}

/// An empty scenario.
pub fn scenario() -> Scenario {
    Scenario::default()
}

impl Scenario {
    /// A phase: the apiserver runs with these providers for Secrets; none: without a configuration.
    #[must_use]
    pub fn phase(mut self, providers: impl IntoIterator<Item = With>) -> Self {
        self.phases.push(Phase { providers: providers.into_iter().collect(), writes: vec![], rewrites: vec![] });
        self
    }

    /// In it a Secret of this name is written.
    #[must_use]
    pub fn writes(mut self, name: &'static str) -> Self {
        self.phases.iter_mut().last().into_iter().for_each(|phase| phase.writes.push(name));
        self
    }

    /// In it a Secret that is there is replaced by itself.
    #[must_use]
    pub fn rewrites(mut self, name: &'static str) -> Self {
        self.phases.iter_mut().last().into_iter().for_each(|phase| phase.rewrites.push(name));
        self
    }
}

/// A Secret at the end of a phase.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SecretSeen {
    /// HTTP status code of reading it.
    pub code: u16,
    /// The API returned what was written.
    pub same: bool,
    /// What etcd holds; `clear` names `marker` where the text can be read, `base64` where its base64 form can.
    pub raw: RawValue,
}

/// A phase.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PhaseSeen {
    /// Providers, first to last; empty: no configuration.
    pub providers: Vec<String>,
    /// The apiserver came to life (`/livez`).
    pub ready: bool,
    /// The last lines of an apiserver that did not.
    pub log: String,
    /// Every Secret written so far.
    pub secrets: BTreeMap<String, SecretSeen>,
}

/// A scenario as it went.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Scratch {
    /// Phases in order.
    pub phases: Vec<PhaseSeen>,
}

impl Observation for Scratch {
    const SCHEMA: &'static str = "scratch/1";
}

/// What a scenario needs to know of its place.
struct Place {
    node: String,
    folder: String,
    etcd: u16,
    api: u16,
    marker: String,
}

impl Probe<Platform> for Scenario {
    type Seen = Scratch;

    fn touches(&self) -> Touches {
        Touches::nothing()
    }

    async fn observe(&self, platform: &Platform, cx: &Cx) -> Result<Scratch, ObserveError> {
        let node = Which::ControlPlanes.on(platform).pop();
        let node = node.ok_or_else(|| ObserveError::no_ground("there is no control plane to borrow programs from"))?;
        // Ports of its own for every check and phase: several pairs may run side by side.
        let number = cx.seed.derive(&format!("{}/{}/scratch", cx.check, cx.phase)).0;
        let port = 20_000 + (number % 4_000) as u16 * 3;
        let marker = format!("shakedown-{}", cx.name("marker"));
        let folder = format!("/tmp/{}", cx.name("scratch"));
        let place = Place { node, folder, etcd: port, api: port + 2, marker };
        let end = stop(&place);
        let argv = ["/bin/sh", "-c", &end].map(str::to_owned).to_vec();
        cx.undo_afterwards(vec![UndoStep::RunOnNode { node: place.node.clone(), argv, tolerate_failure: false }])?;
        let went = self.go(platform, &place).await;
        script(platform, &place.node, &end, PHASE).await.map_err(ObserveError::harness)?;
        went
    }
}

impl Scenario {
    async fn go(&self, platform: &Platform, place: &Place) -> Result<Scratch, ObserveError> {
        let (folder, etcd) = (&place.folder, place.etcd);
        let start = format!(
            "rm -rf {folder}; mkdir -m 700 {folder}; cd {folder}; openssl genrsa -out sa.key 2048 2>/dev/null; echo '{marker},admin,1' > tokens.csv\n\
             cp -L /proc/$(pgrep -xo kube-apiserver)/exe apiserver; cp -L /proc/$(pgrep -xo etcd)/exe etcd\n\
             setsid timeout {LIFE} ./etcd --data-dir=data --listen-client-urls=http://127.0.0.1:{etcd} \
             --advertise-client-urls=http://127.0.0.1:{etcd} --listen-peer-urls=http://127.0.0.1:{peer} --unsafe-no-fsync \
             >etcd.log 2>&1 </dev/null &",
            peer = etcd + 1,
            marker = place.marker
        );
        script(platform, &place.node, &start, PHASE).await.map_err(ObserveError::no_ground)?;
        let mut phases = vec![];
        let mut written: Vec<&str> = vec![];
        for phase in &self.phases {
            written.extend(&phase.writes);
            let config = configuration(&phase.providers);
            if let Some(config) = &config {
                let machine = platform.machine(&place.node).map_err(ObserveError::no_ground)?;
                let path = format!("{folder}/encryption.yaml");
                machine.write(&path, config.to_string().as_bytes(), 0o600).await.map_err(ObserveError::harness)?;
            }
            let text = phase_script(place, phase, &written, config.is_some());
            let out = script(platform, &place.node, &text, PHASE).await.map_err(ObserveError::no_ground)?;
            phases.push(understand(&String::from_utf8_lossy(&out), phase, &place.marker)?);
        }
        Ok(Scratch { phases })
    }
}

/// Ends the programs and removes the data.
fn stop(place: &Place) -> String {
    let folder = &place.folder;
    format!(
        "for p in $(pgrep -f '^{folder}/|^\\./etcd --data-dir=data --listen-client-urls=http://127.0.0.1:{}' || true); do kill -9 $p 2>/dev/null || true; done; rm -rf {folder}",
        place.etcd
    )
}

/// An encryption configuration as JSON, which is YAML too; none for no provider.
fn configuration(providers: &[With]) -> Option<Value> {
    let list: Vec<Value> = providers
        .iter()
        .map(|provider| match provider {
            With::Identity => json!({"identity": {}}),
            With::Keys(name, keys) => {
                let keys = keys.iter().map(|(key, bytes)| json!({"name": key, "secret": made_up(key, *bytes)}));
                json!({*name: {"keys": keys.collect::<Vec<_>>()}})
            }
        })
        .collect();
    (!list.is_empty()).then(|| {
        json!({
            "apiVersion": "apiserver.config.k8s.io/v1", "kind": "EncryptionConfiguration",
            "resources": [{"resources": ["secrets"], "providers": list}],
        })
    })
}

/// A key that protects nothing but the scenario: the same name has the same bytes in every phase.
fn made_up(name: &str, bytes: u8) -> String {
    BASE64_STANDARD.encode(name.bytes().cycle().zip(0..bytes).map(|(c, n)| c ^ n.wrapping_mul(37)).collect::<Vec<u8>>())
}

/// Starts the apiserver, writes, prints every Secret as `NAME CODE BODY RAW` (the last two in base64), and ends it.
fn phase_script(place: &Place, phase: &Phase, written: &[&str], configured: bool) -> String {
    let Place { folder, etcd, api, marker, .. } = place;
    let flag =
        if configured { format!("--encryption-provider-config={folder}/encryption.yaml") } else { String::new() };
    let url = format!("https://127.0.0.1:{api}/api/v1/namespaces/default/secrets");
    let mut text = format!(
        "cd {folder}; a=$(ip -4 -o addr show scope global | awk '{{print $4; exit}}' | cut -d/ -f1)\n\
         setsid timeout {LIFE} {folder}/apiserver --etcd-servers=http://127.0.0.1:{etcd} --secure-port={api} --bind-address=127.0.0.1 \
         --advertise-address=$a --cert-dir={folder}/certs --service-account-key-file={folder}/sa.key \
         --service-account-signing-key-file={folder}/sa.key --service-account-issuer=https://scratch.invalid \
         --authorization-mode=AlwaysAllow --token-auth-file={folder}/tokens.csv --service-cluster-ip-range=10.99.0.0/24 --endpoint-reconciler-type=none \
         --disable-admission-plugins=ServiceAccount --enable-priority-and-fairness=false --watch-cache=false {flag} \
         >apiserver.log 2>&1 </dev/null & p=$!\n\
         c() {{ curl -sk -m 10 --noproxy '*' -H 'Authorization: Bearer {marker}' \"$@\"; }}\n\
         n=0; until [ \"$(c https://127.0.0.1:{api}/livez)\" = ok ]; do n=$((n+1)); \
         if [ $n -gt {TURNS} ] || ! kill -0 $p 2>/dev/null; then echo 'down'; tail -n 5 apiserver.log; exit 0; fi; sleep 0.25; done\n\
         echo ready; c -X POST -H 'Content-Type: application/json' -d '{{\"metadata\":{{\"name\":\"default\"}}}}' \
         https://127.0.0.1:{api}/api/v1/namespaces >/dev/null\n"
    );
    // `livez` and not `readyz`: an apiserver that cannot decrypt one Secret is never ready, and its answers are wanted.
    let data = BASE64_STANDARD.encode(marker);
    for name in &phase.writes {
        let secret = json!({"metadata": {"name": name}, "data": {"marker": data}});
        text.push_str(&format!("c -X POST -H 'Content-Type: application/json' -d '{secret}' {url} >/dev/null\n"));
    }
    for name in &phase.rewrites {
        text.push_str(&format!(
            "c {url}/{name} | c -X PUT -H 'Content-Type: application/json' --data-binary @- {url}/{name} >/dev/null\n"
        ));
    }
    for name in written {
        text.push_str(&format!(
            "code=$(c -o body -w '%{{http_code}}' {url}/{name}); echo \"{name} $code $(base64 -w0 body) \
             $(ETCDCTL_API=3 $(command -v etcdctl || echo /proc/$(pgrep -xo etcd)/root/usr/local/bin/etcdctl) \
             --endpoints=http://127.0.0.1:{etcd} get /registry/secrets/default/{name} --print-value-only | head -c -1 | base64 -w0)\"\n"
        ));
    }
    // Nothing is asked of it any more and etcd has all that it wrote: there is nothing to wait for.
    text.push_str(&format!("kill -9 $(pgrep -f '^{folder}/apiserver') 2>/dev/null; wait $p || true\n"));
    text
}

fn understand(text: &str, phase: &Phase, marker: &str) -> Result<PhaseSeen, ObserveError> {
    let describe = |provider: &With| match provider {
        With::Identity => "identity".to_owned(),
        With::Keys(name, keys) => {
            format!(
                "{name}({})",
                keys.iter().map(|(key, bytes)| format!("{key}:{bytes}")).collect::<Vec<_>>().join(", ")
            )
        }
    };
    let mut lines = text.lines();
    let ready = lines.next() == Some("ready");
    let mut seen = PhaseSeen {
        providers: phase.providers.iter().map(describe).collect(),
        ready,
        log: String::new(),
        secrets: BTreeMap::new(),
    };
    if !ready {
        seen.log = lines.collect::<Vec<_>>().join("\n").chars().take(2000).collect();
        return Ok(seen);
    }
    let encoded = BASE64_STANDARD.encode(marker);
    for line in lines {
        let mut words = line.split(' ');
        let (Some(name), Some(Ok(code))) = (words.next(), words.next().map(str::parse)) else { continue };
        let mut decode = || BASE64_STANDARD.decode(words.next().unwrap_or_default());
        let body = decode().map_err(|e| ObserveError::harness(format!("body of {name}: {e}")))?;
        let raw = decode().map_err(|e| ObserveError::harness(format!("raw value of {name}: {e}")))?;
        let mut raw = RawValue::of(&raw, 0, &[marker, &encoded]);
        let names = [(marker, "marker"), (encoded.as_str(), "base64")];
        raw.clear = names
            .iter()
            .filter(|(text, _)| raw.clear.iter().any(|c| c == text))
            .map(|(_, n)| (*n).to_owned())
            .collect();
        let body: Value = serde_json::from_slice(&body).unwrap_or_default();
        seen.secrets
            .insert(name.to_owned(), SecretSeen { code, same: body["data"]["marker"] == encoded.as_str(), raw });
    }
    Ok(seen)
}

/// What a Secret is to be at the end of the last phase.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Is {
    /// Readable through the API, and in clear in etcd.
    Clear,
    /// Readable through the API, and in etcd behind this prefix, not in clear.
    Behind(&'static str),
}

/// The apiserver lived in every phase, and at the end each of these Secrets is readable and stored as said.
pub fn at_the_end(secrets: &'static [(&'static str, Is)]) -> impl Expect<Scratch> {
    expect_fn(move |seen: &Scratch| {
        let Some(last) = seen.phases.last() else { return Judgement::Inconclusive("no phase".to_owned()) };
        let mut found: Vec<Finding> = vec![];
        for phase in seen.phases.iter().filter(|phase| !phase.ready) {
            found.push(Finding::new("not-ready", phase.providers.join(", "), phase.log.clone()));
        }
        for (name, is) in secrets {
            let Some(secret) = last.secrets.get(*name) else {
                found.push(Finding::new("not-there", *name, "it was not looked at"));
                continue;
            };
            if secret.code != 200 || !secret.same {
                found.push(Finding::new("unreadable", *name, format!("the API answers {}", secret.code)));
            }
            let in_clear = secret.raw.clear.iter().any(|text| text == "marker");
            match is {
                Is::Clear if !in_clear || secret.raw.is_encrypted() => {
                    found.push(Finding::new("not-in-clear", *name, format!("begins with {}", secret.raw.prefix)));
                }
                Is::Clear if secret.raw.clear.iter().any(|text| text == "base64") => {
                    found.push(Finding::new("as-base64", *name, "etcd holds the base64 form".to_owned()));
                }
                Is::Behind(prefix) if in_clear || secret.raw.prefix != *prefix => {
                    found.push(Finding::new("other-prefix", *name, format!("begins with {}", secret.raw.prefix)));
                }
                _ => {}
            }
        }
        Judgement::from_findings(found)
    })
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
    use crate::testing::codes;

    fn line(name: &str, code: u16, marker: &str, raw: &[u8]) -> String {
        let body = json!({"data": {"marker": BASE64_STANDARD.encode(marker)}}).to_string();
        format!("{name} {code} {} {}\n", BASE64_STANDARD.encode(body), BASE64_STANDARD.encode(raw))
    }

    fn phase(text: &str) -> Scratch {
        let phase = Phase { providers: vec![keys("aescbc", &["key1"])], writes: vec![], rewrites: vec![] };
        Scratch { phases: vec![understand(text, &phase, "the-marker").unwrap()] }
    }

    #[test]
    fn each_defect_has_its_code() {
        let clear = at_the_end(&[("a", Is::Clear)]);
        let behind = at_the_end(&[("a", Is::Behind("k8s:enc:aescbc:v1:key1:"))]);
        let plain = phase(&format!("ready\n{}", line("a", 200, "the-marker", b"k8s\0..the-marker..")));
        let cipher = phase(&format!("ready\n{}", line("a", 200, "the-marker", b"k8s:enc:aescbc:v1:key1:\x01\x02")));
        assert!(codes(clear.judge(&plain)).is_empty() && codes(behind.judge(&cipher)).is_empty());
        assert_eq!(codes(clear.judge(&cipher)), ["not-in-clear"]);
        assert_eq!(codes(behind.judge(&plain)), ["other-prefix"]);
        let lost = phase(&format!("ready\n{}", line("a", 500, "other", b"k8s:enc:aescbc:v1:key1:\x01\x02")));
        assert_eq!(codes(behind.judge(&lost)), ["unreadable"]);
        assert_eq!(codes(behind.judge(&phase("ready\n"))), ["not-there"]);
        let down = phase("down\nerror: key length is 20 bytes\n");
        assert_eq!(codes(behind.judge(&down)), ["not-ready", "not-there"]);
        assert!(codes(refuses_to_start("key length").judge(&down)).is_empty());
        assert_eq!(codes(refuses_to_start("other").judge(&down)), ["other-words"]);
        assert_eq!(codes(refuses_to_start("key length").judge(&plain)), ["did-start"]);
    }

    #[test]
    fn a_key_has_the_length_that_was_asked_for() {
        let bytes = |text: &str| BASE64_STANDARD.decode(text).unwrap().len();
        assert_eq!((bytes(&made_up("key1", 32)), bytes(&made_up("key1", 20))), (32, 20));
        assert_ne!(made_up("key1", 32), made_up("key2", 32));
        assert_eq!(configuration(&[]), None);
    }
}
