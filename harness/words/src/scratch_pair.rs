//! A scratch apiserver and etcd of their own, on one control plane's loopback address: the programs, how they are started
//! and ended, and the encryption configurations they are given. What is done with them: [`crate::scratch`].

use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};
use shakedown_core::UndoStep;
use shakedown_engine::{Cx, ObserveError};

use crate::node_command::{last_control_plane, script};
use crate::platform::Platform;

/// Seconds after which the programs end by themselves.
const LIFE: u32 = 600;
/// Turns of a quarter of a second that an apiserver may take to come to life.
const TURNS: u32 = 360;
/// How long one command on the node may take.
pub(crate) const PHASE: Duration = Duration::from_secs(180);

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

impl With {
    fn settings(&self) -> Value {
        match self {
            With::Identity => json!({"identity": {}}),
            With::Keys(name, keys) => {
                let keys = keys.iter().map(|(key, bytes)| json!({"name": key, "secret": made_up(key, *bytes)}));
                json!({*name: {"keys": keys.collect::<Vec<_>>()}})
            }
        }
    }
}

impl std::fmt::Display for With {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            With::Identity => f.write_str("identity"),
            With::Keys(name, keys) => {
                let keys: Vec<String> = keys.iter().map(|(key, bytes)| format!("{key}:{bytes}")).collect();
                write!(f, "{name}({})", keys.join(", "))
            }
        }
    }
}

/// An encryption configuration as JSON, which is YAML too: an entry for each list of resources and its providers.
pub(crate) fn configuration(entries: &[(Vec<&str>, &[With])]) -> Value {
    let entries = entries.iter().map(|(resources, providers)| {
        json!({"resources": resources, "providers": providers.iter().map(With::settings).collect::<Vec<_>>()})
    });
    json!({
        "apiVersion": "apiserver.config.k8s.io/v1", "kind": "EncryptionConfiguration",
        "resources": entries.collect::<Vec<_>>(),
    })
}

fn key_bytes(name: &str, bytes: u8) -> Vec<u8> {
    name.bytes().cycle().zip(0..bytes).map(|(letter, n)| letter ^ n.wrapping_mul(37)).collect()
}

/// A key that protects nothing but the scenario: the same name has the same bytes in every phase.
fn made_up(name: &str, bytes: u8) -> String {
    BASE64_STANDARD.encode(key_bytes(name, bytes))
}

/// A 32-byte key in hex, as openssl takes it.
pub(crate) fn made_up_hex(name: &str) -> String {
    key_bytes(name, 32).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Where a pair lives.
pub(crate) struct Place {
    /// The control plane that lends it its programs.
    pub node: String,
    /// Its folder there, removed afterwards.
    pub folder: String,
    /// Port of etcd; the next one is its peers', the one after it the apiserver's.
    pub etcd: u16,
    /// Text that is the administrator's token, and by which everything that is written can be found again.
    pub marker: String,
}

impl Place {
    /// Of this observation: ports and folder of its own, so that several pairs may run side by side. That it is removed
    /// is on disk before anything is made.
    pub fn of(platform: &Platform, cx: &Cx) -> Result<Self, ObserveError> {
        let node = last_control_plane(platform)
            .map_err(|none| ObserveError::no_ground(format!("{none} to borrow programs from")))?;
        let number = cx.seed.derive(&format!("{}/{}/scratch", cx.check, cx.phase)).0;
        let etcd = 20_000 + (number % 4_000) as u16 * 3;
        let marker = format!("shakedown-{}", cx.name("marker"));
        let place = Self { node, folder: format!("/tmp/{}", cx.name("scratch")), etcd, marker };
        let argv = ["/bin/sh", "-c", &place.stop()].map(str::to_owned).to_vec();
        cx.undo_afterwards(vec![UndoStep::RunOnNode { node: place.node.clone(), argv, tolerate_failure: false }])?;
        Ok(place)
    }

    /// The apiserver's address.
    pub fn url(&self) -> String {
        format!("https://127.0.0.1:{}", self.etcd + 2)
    }

    /// Runs a script in the folder.
    pub async fn run(&self, platform: &Platform, text: &str) -> Result<String, ObserveError> {
        let text = format!("cd {}\n{text}", self.folder);
        let out = script(platform, &self.node, &text, PHASE).await.map_err(ObserveError::no_ground)?;
        Ok(String::from_utf8_lossy(&out).into_owned())
    }

    /// Writes a file into the folder.
    pub async fn write(&self, platform: &Platform, name: &str, content: &Value) -> Result<(), ObserveError> {
        let machine = platform.machine(&self.node).map_err(ObserveError::no_ground)?;
        let path = format!("{}/{name}", self.folder);
        machine.write(&path, content.to_string().as_bytes(), 0o600).await.map_err(ObserveError::harness)
    }

    /// Makes the folder with the programs in it, and starts etcd.
    pub async fn start(&self, platform: &Platform) -> Result<(), ObserveError> {
        let text = format!(
            "rm -rf {folder}; mkdir -m 700 {folder}; cd {folder}; openssl genrsa -out sa.key 2048 2>/dev/null; \
             echo '{marker},admin,1' > tokens.csv\n\
             cp -L /proc/$(pgrep -xo kube-apiserver)/exe apiserver; cp -L /proc/$(pgrep -xo etcd)/exe etcd\n{etcd}",
            folder = self.folder,
            marker = self.marker,
            etcd = self.start_etcd("data"),
        );
        script(platform, &self.node, &text, PHASE).await.map(drop).map_err(ObserveError::no_ground)
    }

    /// Starts etcd on a data directory, and waits for its answer: an apiserver gives up on an etcd that is not there.
    pub fn start_etcd(&self, data: &str) -> String {
        format!(
            "setsid timeout {LIFE} {folder}/etcd --data-dir={data} --listen-client-urls=http://127.0.0.1:{client} \
             --advertise-client-urls=http://127.0.0.1:{client} --listen-peer-urls=http://127.0.0.1:{peer} \
             --initial-advertise-peer-urls=http://127.0.0.1:{peer} --initial-cluster=default=http://127.0.0.1:{peer} \
             --unsafe-no-fsync >etcd.log 2>&1 </dev/null & p=$!\n\
             n=0; until curl -s -m 5 --noproxy '*' http://127.0.0.1:{client}/health | grep -q true; do n=$((n+1)); \
             if [ $n -gt {TURNS} ] || ! kill -0 $p 2>/dev/null; then echo 'etcd does not answer' >&2; tail -n 5 etcd.log >&2; exit 1; fi; \
             sleep 0.25; done\n",
            folder = self.folder,
            client = self.etcd,
            peer = self.etcd + 1,
        )
    }

    /// Shell functions: `c` asks the apiserver, `e` asks etcd, `u` works on etcd's files.
    pub fn functions(&self) -> String {
        let tool =
            |name: &str| format!("$(command -v {name} || echo /proc/$(pgrep -xo etcd)/root/usr/local/bin/{name})");
        format!(
            "c() {{ curl -sk -m 10 --noproxy '*' -H 'Authorization: Bearer {marker}' -H 'Content-Type: application/json' \"$@\"; }}\n\
             e() {{ {etcdctl} --endpoints=http://127.0.0.1:{port} \"$@\"; }}\nu() {{ {etcdutl} \"$@\"; }}\n",
            marker = self.marker,
            etcdctl = tool("etcdctl"),
            etcdutl = tool("etcdutl"),
            port = self.etcd,
        )
    }

    /// Starts the apiserver with these flags besides, and prints `ready` when it lives, or `down` and the last lines it
    /// wrote, and ends the script. `livez` and not `readyz`: an apiserver that cannot decrypt one Secret is never ready.
    pub fn start_apiserver(&self, flags: &str) -> String {
        let Self { folder, etcd, .. } = self;
        format!(
            "{functions}a=$(ip -4 -o addr show scope global | awk '{{print $4; exit}}' | cut -d/ -f1)\n\
             setsid timeout {LIFE} {folder}/apiserver --etcd-servers=http://127.0.0.1:{etcd} --secure-port={api} --bind-address=127.0.0.1 \
             --advertise-address=$a --cert-dir={folder}/certs --service-account-key-file={folder}/sa.key \
             --service-account-signing-key-file={folder}/sa.key --service-account-issuer=https://scratch.invalid \
             --authorization-mode=AlwaysAllow --token-auth-file={folder}/tokens.csv --service-cluster-ip-range=10.99.0.0/24 --endpoint-reconciler-type=none \
             --disable-admission-plugins=ServiceAccount --enable-priority-and-fairness=false --watch-cache=false {flags} \
             >apiserver.log 2>&1 </dev/null & p=$!\n\
             n=0; until [ \"$(c {url}/livez)\" = ok ]; do n=$((n+1)); \
             if [ $n -gt {TURNS} ] || ! kill -0 $p 2>/dev/null; then echo 'down'; tail -n 5 apiserver.log; {end} exit 0; fi; sleep 0.25; done\n\
             echo ready; c -X POST -d '{{\"metadata\":{{\"name\":\"default\"}}}}' {url}/api/v1/namespaces >/dev/null\n",
            functions = self.functions(),
            api = etcd + 2,
            url = self.url(),
            end = self.end_apiserver(),
        )
    }

    /// Ends the apiserver. Nothing is asked of it any more and etcd has all that it wrote: there is nothing to wait for.
    pub fn end_apiserver(&self) -> String {
        format!("kill -9 $(pgrep -f '^{}/apiserver ') 2>/dev/null || true; wait $p || true;\n", self.folder)
    }

    /// Ends etcd, and waits for its end: its files are wanted.
    pub fn end_etcd(&self) -> String {
        let pattern = format!("^{}/etcd ", self.folder);
        format!(
            "kill -9 $(pgrep -f '{pattern}') 2>/dev/null || true; while pgrep -f '{pattern}' >/dev/null; do sleep 0.05; done\n"
        )
    }

    /// Ends the programs and removes the data.
    pub fn stop(&self) -> String {
        let folder = &self.folder;
        format!("for p in $(pgrep -f '^{folder}/' || true); do kill -9 $p 2>/dev/null || true; done; rm -rf {folder}")
    }

    /// Ends the programs and removes the data, at once.
    pub async fn clean_up(&self, platform: &Platform) -> Result<(), ObserveError> {
        script(platform, &self.node, &self.stop(), PHASE).await.map(drop).map_err(ObserveError::harness)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_has_the_length_that_was_asked_for() {
        let bytes = |text: &str| BASE64_STANDARD.decode(text).unwrap().len();
        assert_eq!((bytes(&made_up("key1", 32)), bytes(&made_up("key1", 20))), (32, 20));
        assert_ne!(made_up("key1", 32), made_up("key2", 32));
        assert_eq!(made_up_hex("key1").len(), 64);
    }

    #[test]
    fn a_configuration_keeps_its_order() {
        let made = configuration(&[(vec!["secrets"], &[keys("aescbc", &["key2", "key1"]), With::Identity])]);
        let providers = made["resources"][0]["providers"].as_array().unwrap();
        assert_eq!(providers[0]["aescbc"]["keys"][0]["name"], "key2");
        assert_eq!(providers[1], json!({"identity": {}}));
        assert_eq!(keys("aescbc", &["key2", "key1"]).to_string(), "aescbc(key2:32, key1:32)");
    }
}
