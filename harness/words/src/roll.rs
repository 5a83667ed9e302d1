//! Changing the static manifest of an apiserver and seeing it through: when the old process fell silent, when the new one
//! was ready. And a stream of requests that runs meanwhile.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use http::Method;
use kube::client::Client;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use shakedown_core::{Answer, UndoStep, wait_for};
use shakedown_engine::ObserveError;

use crate::api::{ApiAnswer, Ask};
use crate::encryption_config::MANIFEST;
use crate::machine::FileFound;
use crate::node_command::script;
use crate::platform::Platform;
use crate::undo::file_as_found;

/// Every apiserver has this argument (ENC-049).
const ANCHOR: &str = "    - --tls-private-key-file=";
/// How long an apiserver may take from its manifest's change until it is ready: four times the documented 80 s.
const ROLLED: Duration = Duration::from_secs(320);
/// How long one request may take.
const REQUEST: Duration = Duration::from_secs(5);
const COMMAND: Duration = Duration::from_secs(20);
/// How the message of a request begins that took too long.
const SLOW: &str = "no answer within";

/// An apiserver's process: id and start, in ticks since the machine's; empty where there is none.
pub(crate) async fn process(platform: &Platform, node: &str) -> Result<String, String> {
    let text = "p=$(pgrep -xo kube-apiserver) || exit 0; echo $p $(cut -d' ' -f22 /proc/$p/stat)";
    let out = script(platform, node, text, COMMAND).await.map_err(|e| e.to_string())?;
    Ok(String::from_utf8_lossy(&out).trim().to_owned())
}

/// A manifest as it was found, and the step that puts it back.
pub(crate) async fn manifest(platform: &Platform, node: &str) -> Result<(FileFound, UndoStep), ObserveError> {
    let machine = platform.machine(node).map_err(ObserveError::no_ground)?;
    let file = machine.read(MANIFEST).await.map_err(ObserveError::no_ground)?;
    let file = file.ok_or_else(|| ObserveError::no_ground(format!("{node} has no {MANIFEST}")))?;
    let undo = file_as_found(platform, node, MANIFEST).await.map_err(ObserveError::no_ground)?;
    Ok((file, undo))
}

/// The manifest's text with one more argument behind the anchor.
pub(crate) fn with_argument(text: &str, argument: &str) -> Result<String, String> {
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    let at =
        lines.iter().position(|line| line.starts_with(ANCHOR)).ok_or("the manifest has no --tls-private-key-file")?;
    lines.insert(at + 1, format!("    - {argument}"));
    Ok(lines.join("\n") + "\n")
}

/// What an apiserver answers within a moment.
async fn asked(client: &Client, path: &str) -> Result<ApiAnswer, String> {
    match tokio::time::timeout(REQUEST, Ask::get(path).send(client)).await {
        Ok(answer) => answer.map_err(|e| e.to_string()),
        Err(_) => Err(format!("{SLOW} {REQUEST:?}")),
    }
}

/// Arguments of a manifest as kubeadm writes it.
fn arguments(text: &str) -> BTreeSet<&str> {
    text.lines().filter_map(|line| line.strip_prefix("    - ")).filter(|argument| argument.starts_with("--")).collect()
}

/// Whether the apiserver that runs is the manifest's: the kubelet may have restarted the old one once more.
async fn runs_as_told(platform: &Platform, node: &str, content: &[u8]) -> Result<bool, String> {
    let text = "p=$(pgrep -xo kube-apiserver) || exit 0; tr '\\0' '\\n' < /proc/$p/cmdline 2>/dev/null || true";
    let out = script(platform, node, text, COMMAND).await.map_err(|e| e.to_string())?;
    let running = String::from_utf8_lossy(&out).into_owned();
    let running: BTreeSet<&str> = running.lines().filter(|argument| argument.starts_with("--")).collect();
    Ok(running == arguments(&String::from_utf8_lossy(content)))
}

/// Whether an apiserver says that it lives.
pub(crate) async fn lives(platform: &Platform, node: &str) -> bool {
    match platform.apiservers().get(node) {
        Some(client) => asked(client, "/livez").await.is_ok_and(|answer| answer.is_ok()),
        None => false,
    }
}

/// One apiserver's roll.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rolled {
    /// Milliseconds since the stream began: its manifest was changed.
    pub changed_ms: u64,
    /// It was first heard no more.
    pub silent_ms: u64,
    /// It was ready again.
    pub ready_ms: u64,
    /// It is another process than before.
    pub new_process: bool,
}

/// Writes a manifest and waits until another process than before is ready. The old one is not given the whole grace period
/// of its Pod, 30 s in which it answers nobody and holds its watches: once it is silent it is ended. It keeps no state.
pub(crate) async fn roll(
    platform: &Platform,
    node: &str,
    content: &[u8],
    mode: u32,
    since: Instant,
) -> Result<Rolled, ObserveError> {
    let ms = || u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX);
    let client =
        platform.apiservers().get(node).ok_or_else(|| ObserveError::no_ground(format!("{node}: no apiserver")))?;
    let before = process(platform, node).await.map_err(ObserveError::no_ground)?;
    let machine = platform.machine(node).map_err(ObserveError::no_ground)?;
    machine.write(MANIFEST, content, mode).await.map_err(ObserveError::no_ground)?;
    let mut seen = Rolled { changed_ms: ms(), ..Rolled::default() };
    fallen_silent(platform, node, &before).await?;
    seen.silent_ms = ms();
    wait_for(&format!("the new apiserver of {node}"), ROLLED, || async {
        match process(platform, node).await {
            Ok(now) if now.is_empty() || now == before => return Answer::NotYet(format!("process `{now}`")),
            Err(why) => return Answer::NotYet(why),
            Ok(_) => {}
        }
        match runs_as_told(platform, node, content).await {
            Ok(true) => {}
            Ok(false) => return Answer::NotYet("it runs with other arguments than its manifest's".to_owned()),
            Err(why) => return Answer::NotYet(why),
        }
        match asked(client, "/readyz").await {
            Ok(answer) if answer.is_ok() => Answer::Ready(()),
            Ok(answer) => Answer::NotYet(format!("/readyz answers {}", answer.code)),
            Err(why) => Answer::NotYet(why),
        }
    })
    .await
    .map_err(ObserveError::no_ground)?;
    seen.ready_ms = ms();
    seen.new_process = true;
    Ok(seen)
}

/// Waits until the process is gone or answers nobody any more, and then ends it.
pub(crate) async fn fallen_silent(platform: &Platform, node: &str, before: &str) -> Result<(), ObserveError> {
    let client =
        platform.apiservers().get(node).ok_or_else(|| ObserveError::no_ground(format!("{node}: no apiserver")))?;
    wait_for(&format!("the old apiserver of {node} to fall silent"), ROLLED, || async {
        match process(platform, node).await {
            Ok(now) if now != before => return Answer::Ready(()),
            Err(why) => return Answer::NotYet(why),
            Ok(_) => {}
        }
        // Whatever it answers, it is there; no answer in time may be the machine's fault and is no silence.
        match asked(client, "/livez").await {
            Ok(answer) => return Answer::NotYet(format!("it answers {}", answer.code)),
            Err(why) if why.starts_with(SLOW) => return Answer::NotYet(why),
            Err(_) => {}
        }
        // Only this very process: its id may be another's by now.
        if let Some((pid, started)) = before.split_once(' ') {
            let end = format!("[ \"$(cut -d' ' -f22 /proc/{pid}/stat 2>/dev/null)\" != {started} ] || kill -9 {pid} 2>/dev/null || true");
            let _ = script(platform, node, &end, COMMAND).await;
        }
        Answer::Ready(())
    })
    .await
    .map_err(ObserveError::no_ground)
}

/// Puts a manifest back and waits until its apiserver is ready; nothing is done where it is as found and runs.
pub(crate) async fn back(platform: &Platform, node: &str, found: &FileFound) -> Result<(), ObserveError> {
    let (now, _) = manifest(platform, node).await?;
    if now.content == found.content && lives(platform, node).await {
        return Ok(());
    }
    roll(platform, node, &found.content, found.mode, Instant::now()).await.map(drop)
}

/// What the stream of requests through the documented endpoint came to.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Streamed {
    /// Writes that were acknowledged.
    pub acknowledged: u32,
    /// Of these the ones that are not there at the end.
    pub lost: Vec<u32>,
    /// Requests in all.
    pub requests: u32,
    /// Requests that failed at first.
    pub failed_once: u32,
    /// Requests that failed again after one retry.
    pub failed_twice: u32,
    /// Longest time between two answers, milliseconds.
    pub longest_gap_ms: u64,
}

/// A stream of requests in the background.
pub(crate) struct Stream {
    over: Arc<AtomicBool>,
    task: tokio::task::JoinHandle<Streamed>,
    namespace: String,
    client: Client,
}

/// A Secret of the stream.
fn secret(namespace: &str, number: u32) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": {"name": format!("n-{number}"), "namespace": namespace},
        "data": {"number": BASE64_STANDARD.encode(number.to_string())},
    })
}

/// Sends it, and once more where no good answer came: a connection that broke is made anew.
async fn twice(client: &Client, ask: Ask<'_>, seen: &mut Streamed) -> bool {
    // A write that was carried out and whose answer was lost says so the second time.
    let good = |answer: &ApiAnswer| answer.is_ok() || answer.code == 409;
    seen.requests += 1;
    for attempt in 0..2 {
        let answer = tokio::time::timeout(REQUEST, ask.clone().send(client)).await;
        if matches!(&answer, Ok(Ok(answer)) if good(answer)) {
            return true;
        }
        if attempt == 0 {
            seen.failed_once += 1;
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }
    seen.failed_twice += 1;
    false
}

/// Starts writing numbered Secrets, each read back, into a namespace that is there, through the administrator's client; so
/// long a pause between two.
pub(crate) fn stream(platform: &Platform, namespace: &str, pause: Duration) -> Stream {
    let over = Arc::new(AtomicBool::new(false));
    let (client, ns, end) = (platform.admin().clone(), namespace.to_owned(), over.clone());
    let task = tokio::spawn(async move {
        let mut seen = Streamed::default();
        let path = format!("/api/v1/namespaces/{ns}/secrets");
        let (mut number, mut last, mut written) = (0, Instant::now(), vec![]);
        while !end.load(Ordering::Relaxed) {
            number += 1;
            let body = secret(&ns, number);
            if twice(&client, Ask::new(Method::POST, &path).with(&body), &mut seen).await {
                written.push(number);
                seen.longest_gap_ms =
                    seen.longest_gap_ms.max(u64::try_from(last.elapsed().as_millis()).unwrap_or(u64::MAX));
                last = Instant::now();
            }
            let own = format!("{path}/n-{number}");
            if written.last() == Some(&number) {
                twice(&client, Ask::get(&own), &mut seen).await;
            }
            tokio::time::sleep(pause).await;
        }
        seen.acknowledged = u32::try_from(written.len()).unwrap_or(u32::MAX);
        seen.lost = written;
        seen
    });
    Stream { over, task, namespace: namespace.to_owned(), client: platform.admin().clone() }
}

impl Stream {
    /// Nothing more is written from now on.
    pub fn stop(&self) {
        self.over.store(true, Ordering::Relaxed);
    }

    /// Ends it, and looks which acknowledged writes are there.
    pub async fn end(self) -> Result<Streamed, ObserveError> {
        self.stop();
        let mut seen = self.task.await.map_err(|e| ObserveError::harness(format!("the stream of requests: {e}")))?;
        let path = format!("/api/v1/namespaces/{}/secrets", self.namespace);
        let list = wait_for("the Secrets of the stream", Duration::from_secs(60), || async {
            match asked(&self.client, &path).await {
                Ok(answer) if answer.is_ok() => Answer::Ready(answer.body),
                Ok(answer) => Answer::NotYet(format!("answered {}", answer.code)),
                Err(why) => Answer::NotYet(why),
            }
        })
        .await
        .map_err(ObserveError::no_ground)?;
        let items = list["items"].as_array().cloned().unwrap_or_default();
        let is_there = |number: &u32| {
            let wanted = secret(&self.namespace, *number);
            items
                .iter()
                .any(|item| item["metadata"]["name"] == wanted["metadata"]["name"] && item["data"] == wanted["data"])
        };
        seen.lost.retain(|number| !is_there(number));
        Ok(seen)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_argument_goes_behind_the_anchor() {
        let text = "    - --a=b\n    - --tls-private-key-file=k\n    image: x\n";
        let edited = with_argument(text, "--event-ttl=1h0m0s").unwrap();
        assert_eq!(edited, "    - --a=b\n    - --tls-private-key-file=k\n    - --event-ttl=1h0m0s\n    image: x\n");
        assert!(with_argument("    - --a=b\n", "--x").is_err());
    }

    #[test]
    fn arguments_are_those_of_the_command() {
        let text = "  - command:\n    - kube-apiserver\n    - --a=b\n    volumeMounts:\n    - mountPath: /x\n";
        assert_eq!(arguments(text), BTreeSet::from(["--a=b"]));
    }

    #[tokio::test]
    async fn a_lost_write_is_named() {
        let api = crate::testing::FakeApi::default();
        let platform = Platform::for_test(api.client(), vec![]);
        let list = json!({"items": [secret("n", 1)]});
        api.script("GET /api/v1/namespaces/n/secrets", 200, list, &[]);
        let seen = Streamed { lost: vec![1, 2], ..Streamed::default() };
        let task = tokio::spawn(async move { seen });
        let (over, client) = (Arc::new(AtomicBool::new(false)), platform.admin().clone());
        let seen = Stream { over, task, namespace: "n".into(), client }.end().await.unwrap();
        assert_eq!(seen.lost, [2]);
    }
}
