//! Auditing and aescbc encryption on every apiserver: files and static manifests, rolled one at a time, then every
//! Secret rewritten, so that old ones are encrypted too (ENC-022 to ENC-058).

use std::io::Read as _;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{Api, ListParams, PostParams};
use serde::Deserialize;
use shakedown_cluster::cluster::ETCDCTL;
use shakedown_core::{Answer, Capability};
use shakedown_node::{Exec, Node, Process};

use crate::apply::is_away;
use crate::component::{Component, State};
use crate::error::{Result, StackError};
use crate::files::{self, KEY_LENGTH};
use crate::manifest_edit::EditError;
use crate::names;
use crate::site::Site;
use crate::web::get_request;

/// For one apiserver from the change of its manifest to its readiness: twice the documented 80 s (ENC-043), because two
/// cores may be busy with everything else.
const ROLL_BUDGET: Duration = Duration::from_secs(160);
/// For the rewrite of one Secret.
const REWRITE_BUDGET: Duration = Duration::from_secs(60);
/// For reading all Secrets raw.
const RAW_BUDGET: Duration = Duration::from_secs(30);
/// Signal that asks a process to end.
const SIGTERM: i32 = 15;
/// Signal that ends it.
const SIGKILL: i32 = 9;

/// The component.
pub struct ControlPlane;

impl Component for ControlPlane {
    fn name(&self) -> &'static str {
        "apiservers"
    }

    fn what(&self) -> &'static str {
        "audit log and aescbc encryption on every apiserver, rolled one at a time; every Secret rewritten"
    }

    fn needs(&self) -> &'static [&'static str] {
        &["secret"]
    }

    // While some apiservers have the key and some have not, a Secret written through one cannot be read through the
    // other: whoever writes Secrets goes before or after, never beside.
    fn after(&self) -> &'static [&'static str] {
        &["cilium", "coredns"]
    }

    fn gives(&self) -> &'static [Capability] {
        &[Capability::ApiserverManifests]
    }

    fn readiness(&self) -> &'static str {
        "every apiserver runs with both flags and is ready, every Secret's raw value is encrypted"
    }

    fn state<'a>(&'a self, site: &'a Site) -> BoxFuture<'a, Result<State>> {
        Box::pin(async move {
            let mut found = Vec::new();
            let mut keys = Vec::new();
            for node in site.control_planes() {
                let config = optional(node, names::ENCRYPTION_CONFIG).await?;
                let key = config.as_deref().and_then(files::key_of);
                if key.is_none() || config != key.map(|k| files::encryption_config(&k)) {
                    found.push(format!("{} on {} is not the documented one", names::ENCRYPTION_CONFIG, node.name()));
                }
                keys.push(key);
                if optional(node, names::AUDIT_POLICY).await?.as_deref() != Some(files::AUDIT_POLICY) {
                    found.push(format!("{} on {} is not ours", names::AUDIT_POLICY, node.name()));
                }
                let manifest = node.read_text(names::APISERVER_MANIFEST).await?;
                if !files::apiserver_additions().are_in(&manifest).map_err(|e| edit_error(node, e))? {
                    found.push(format!("the apiserver's manifest on {} lacks its additions", node.name()));
                } else if !runs_with_additions(node).await? {
                    found.push(format!("the apiserver on {} runs without its additions", node.name()));
                }
            }
            if keys.windows(2).any(|pair| pair[0] != pair[1]) {
                found.push("the control planes have different keys".into());
            }
            if found.is_empty() {
                found =
                    plain_secrets(site).await?.into_iter().map(|k| format!("{k} is not encrypted in etcd")).collect();
            }
            Ok(State::of(&found))
        })
    }

    fn install<'a>(&'a self, site: &'a Site) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            // The first control plane's file is written first, so after a kill its key is the one that may be in use.
            let mut key = None;
            for node in site.control_planes() {
                let there = optional(node, names::ENCRYPTION_CONFIG).await?.as_deref().and_then(files::key_of);
                key = key.or(there);
            }
            let key = match key {
                Some(key) => key,
                None => new_key()?,
            };
            let config = files::encryption_config(&key);
            for node in site.control_planes() {
                put(node, names::ENCRYPTION_CONFIG, &config, 0o600).await?;
                put(node, names::AUDIT_POLICY, files::AUDIT_POLICY, 0o600).await?;
            }
            for node in site.control_planes() {
                self.roll(site, node).await?;
            }
            self.rewrite_secrets(site).await
        })
    }

    fn ready<'a>(&'a self, site: &'a Site) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            site.wait(self.name(), "every Secret's raw value to be encrypted", RAW_BUDGET, || async {
                match plain_secrets(site).await {
                    Ok(plain) if plain.is_empty() => Answer::Ready(()),
                    Ok(plain) => Answer::NotYet(plain.join(", ")),
                    Err(error) => Answer::NotYet(error.to_string()),
                }
            })
            .await
        })
    }

    fn remove<'a>(&'a self, site: &'a Site) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            // Written plain first, read with the key still; only then do the flag and the key go.
            for node in site.control_planes() {
                let Some(config) = optional(node, names::ENCRYPTION_CONFIG).await? else { continue };
                if let Some(key) = files::key_of(&config) {
                    put(node, names::ENCRYPTION_CONFIG, &files::decryption_config(&key), 0o600).await?;
                    for apiserver in node.processes_called("kube-apiserver").await? {
                        node.kill(&apiserver, SIGTERM).await?;
                        self.answers(site, node, Some(apiserver.started)).await?;
                    }
                }
            }
            self.rewrite_secrets(site).await?;
            for node in site.control_planes() {
                let old = node.read_text(names::APISERVER_MANIFEST).await?;
                let new = files::apiserver_additions().remove(&old).map_err(|e| edit_error(node, e))?;
                if new != old {
                    let before = started(node).await?;
                    node.write_file(names::APISERVER_MANIFEST, new.as_bytes(), 0o600).await?;
                    self.answers(site, node, before).await?;
                }
                node.remove_file(names::ENCRYPTION_CONFIG).await?;
                node.remove_file(names::AUDIT_POLICY).await?;
            }
            Ok(())
        })
    }
}

impl ControlPlane {
    /// Gives one apiserver its additions and waits until it runs with them; puts the old manifest back where it does
    /// not come, so that a mistake stays on one control plane (ENC-046).
    async fn roll(&self, site: &Site, node: &Arc<dyn Node>) -> Result<()> {
        let old = node.read_text(names::APISERVER_MANIFEST).await?;
        let new = files::apiserver_additions().apply(&old).map_err(|e| edit_error(node, e))?;
        if new == old && runs_with_additions(node).await? {
            return self.answers(site, node, None).await;
        }
        let before = node.processes_called("kube-apiserver").await?;
        if new != old {
            node.write_file(names::APISERVER_MANIFEST, new.as_bytes(), 0o600).await?;
        }
        let what = format!("the apiserver on {} to run with its additions", node.name());
        let came = site
            .wait(self.name(), &what, ROLL_BUDGET, || async {
                match runs_with_additions(node).await {
                    Ok(true) => Answer::Ready(()),
                    Ok(false) => self.end_deaf(site, node, &before).await,
                    Err(error) => Answer::NotYet(error.to_string()),
                }
            })
            .await;
        let ready = match came {
            Ok(()) => self.answers(site, node, None).await,
            Err(error) => Err(error),
        };
        if ready.is_err() && new != old {
            node.write_file(names::APISERVER_MANIFEST, old.as_bytes(), 0o600).await?;
        }
        ready
    }

    /// An apiserver that was told to end closes its port at once and then holds its open watches for the whole grace
    /// period of its Pod, 30 s, answering nobody. Once it is deaf it is ended: it keeps no state.
    async fn end_deaf(&self, site: &Site, node: &Arc<dyn Node>, old: &[Process]) -> Answer<()> {
        let Some(member) = site.members.get(node.name()) else { return Answer::NotYet("no address is known".into()) };
        let asked = match get_request("/livez") {
            Ok(request) => member.request_text(request).await,
            Err(error) => return Answer::Never(error.to_string()),
        };
        if !matches!(asked, Err(kube::Error::Service(_) | kube::Error::HyperError(_))) {
            return Answer::NotYet("the old process still answers".into());
        }
        for process in old {
            // Gone by itself is as good.
            let _ = node.kill(process, SIGKILL).await;
        }
        Answer::NotYet("the old process is ending".into())
    }

    /// Waits until a node's own apiserver is ready, and is another process than the one that started at `not`.
    async fn answers(&self, site: &Site, node: &Arc<dyn Node>, not: Option<u64>) -> Result<()> {
        let member = site
            .members
            .get(node.name())
            .ok_or_else(|| StackError::Unfit(format!("no address is known for the apiserver of {}", node.name())))?;
        let what = format!("the apiserver on {} to be ready", node.name());
        site.wait(self.name(), &what, ROLL_BUDGET, || async {
            if not.is_some() && started(node).await.is_ok_and(|now| now.is_none() || now == not) {
                return Answer::NotYet("the process has not been replaced yet".into());
            }
            let request = match get_request("/readyz") {
                Ok(request) => request,
                Err(error) => return Answer::Never(error.to_string()),
            };
            match member.request_text(request).await {
                Ok(text) if text == "ok" => Answer::Ready(()),
                Ok(text) => Answer::NotYet(text),
                Err(kube::Error::Api(status)) => Answer::NotYet(status.message),
                Err(error) => Answer::NotYet(error.to_string()),
            }
        })
        .await
    }

    /// Reads every Secret and writes it back unchanged: the apiserver stores it with the first provider.
    async fn rewrite_secrets(&self, site: &Site) -> Result<()> {
        let client = site.applier.client();
        let all: Api<Secret> = Api::all(client.clone());
        let list = site
            .wait(self.name(), "the list of Secrets", REWRITE_BUDGET, || async {
                match all.list(&ListParams::default()).await {
                    Ok(list) => Answer::Ready(list),
                    Err(error) => Answer::NotYet(error.to_string()),
                }
            })
            .await?;
        for secret in list {
            let (Some(name), Some(namespace)) = (secret.metadata.name, secret.metadata.namespace) else { continue };
            let api: Api<Secret> = Api::namespaced(client.clone(), &namespace);
            let what = format!("Secret {namespace}/{name} to be rewritten");
            site.wait(self.name(), &what, REWRITE_BUDGET, || rewrite_one(&api, &name)).await?;
        }
        Ok(())
    }
}

async fn rewrite_one(api: &Api<Secret>, name: &str) -> Answer<()> {
    let secret = match api.get_opt(name).await {
        Ok(Some(secret)) => secret,
        // Deleted since: nothing to encrypt.
        Ok(None) => return Answer::Ready(()),
        Err(error) => return Answer::NotYet(error.to_string()),
    };
    match api.replace(name, &PostParams::default(), &secret).await {
        Ok(_) => Answer::Ready(()),
        // Someone else wrote it meanwhile, or it is gone: look again.
        Err(kube::Error::Api(status)) if status.is_conflict() || status.is_not_found() => {
            Answer::NotYet(status.message)
        }
        Err(error) if is_away(&error) => Answer::NotYet(error.to_string()),
        Err(error) => Answer::Never(error.to_string()),
    }
}

/// Keys of Secrets in etcd whose raw value does not begin as it should. Values are looked at in memory and dropped.
///
/// # Errors
/// etcd could not be asked.
pub async fn plain_secrets(site: &Site) -> Result<Vec<String>> {
    #[derive(Deserialize)]
    struct Answer {
        #[serde(default)]
        kvs: Vec<Kv>,
    }
    #[derive(Deserialize)]
    struct Kv {
        key: String,
        value: String,
    }
    let failed = |why: String| StackError::Program {
        program: "etcdctl".into(),
        why,
        hint: "`shakedown status` shows the etcd members".into(),
    };
    let Some(member) = site.control_planes().next() else { return Ok(Vec::new()) };
    let argv = ETCDCTL.iter().copied().chain(["--write-out=json", "get", "--prefix", "/registry/secrets/"]);
    let out = member.run(Exec::new(argv).timeout(RAW_BUDGET)).await?;
    let answer: Answer = serde_json::from_str(&out).map_err(|e| failed(e.to_string()))?;
    let text = |base64: &str| STANDARD.decode(base64).map_err(|e| failed(e.to_string()));
    let mut plain = Vec::new();
    for kv in &answer.kvs {
        if !text(&kv.value)?.starts_with(names::ENCRYPTED_PREFIX.as_bytes()) {
            plain.push(String::from_utf8_lossy(&text(&kv.key)?).into_owned());
        }
    }
    Ok(plain)
}

/// Whether the running apiserver of a node has every argument of ours.
async fn runs_with_additions(node: &Arc<dyn Node>) -> Result<bool> {
    let wanted = files::apiserver_additions().args;
    let processes = node.processes_called("kube-apiserver").await?;
    Ok(processes.len() == 1 && processes.iter().all(|p| wanted.iter().all(|arg| p.argv.contains(arg))))
}

/// When the node's apiserver was started, in ticks since boot.
async fn started(node: &Arc<dyn Node>) -> Result<Option<u64>> {
    Ok(node.processes_called("kube-apiserver").await?.first().map(|p| p.started))
}

pub(super) async fn optional(node: &Arc<dyn Node>, path: &str) -> Result<Option<String>> {
    match node.read_text(path).await {
        Ok(text) => Ok(Some(text)),
        Err(shakedown_node::NodeError::File { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
            Ok(None)
        }
        Err(error) => Err(error.into()),
    }
}

async fn put(node: &Arc<dyn Node>, path: &str, text: &str, mode: u32) -> Result<()> {
    if optional(node, path).await?.as_deref() != Some(text) {
        node.write_file(path, text.as_bytes(), mode).await?;
    }
    Ok(())
}

fn edit_error(node: &Arc<dyn Node>, source: EditError) -> StackError {
    StackError::Edit { node: node.name().to_owned(), path: names::APISERVER_MANIFEST.to_owned(), source }
}

fn new_key() -> Result<[u8; KEY_LENGTH]> {
    let mut key = [0u8; KEY_LENGTH];
    let source = "/dev/urandom";
    std::fs::File::open(source)
        .and_then(|mut file| file.read_exact(&mut key))
        .map_err(|e| StackError::file(format!("read {source}"), e))?;
    Ok(key)
}
