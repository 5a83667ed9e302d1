//! Why a node needs `hosts.toml`: without it the pull fails in the documented words, with it it works, and containerd is
//! not restarted in between. And what containerd says first on the wire, with and without the file.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use shakedown_core::{Answer, Finding, Judgement, Observation, Resource, Touches, wait_for};
use shakedown_engine::{Cx, Expect, ObserveError, Probe, expect_fn};

use crate::node_command::{Which, script};
use crate::platform::Platform;
use crate::registry::{self, Pull, REPOSITORY, TAG, documented_hosts, hosts_file};
use crate::undo::file_as_found;
use crate::wire::node_address;

/// How long a node's command may take.
const COMMAND: Duration = Duration::from_secs(15);
/// Where the recorder listens.
const RECORDER: u16 = 39872;

/// The file as found, taken away, and put back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WithAndWithout {
    /// Node.
    pub node: String,
    /// `ADDRESS:PORT`.
    pub registry: String,
    /// The pull without the file.
    pub without: Pull,
    /// The pull once it is back.
    pub with: Pull,
    /// containerd's process at the beginning and at the end.
    pub containerd: (String, String),
}

impl Observation for WithAndWithout {
    const SCHEMA: &'static str = "pull-with-and-without/1";
}

/// Takes the file away and puts it back.
pub struct TakeHostsAway {
    take_away: bool,
}

/// Pulls on one worker without `hosts.toml`, puts it back as it was, and pulls again.
pub fn without_hosts_toml() -> TakeHostsAway {
    TakeHostsAway { take_away: true }
}

/// The same with the file left in place: the pull that is to fail does not.
pub fn with_hosts_toml_left() -> TakeHostsAway {
    TakeHostsAway { take_away: false }
}

/// The last node: a worker where there is one.
fn node(platform: &Platform) -> Result<String, ObserveError> {
    Which::All.on(platform).pop().ok_or_else(|| ObserveError::no_ground("there is no node"))
}

impl Probe<Platform> for TakeHostsAway {
    type Seen = WithAndWithout;

    fn touches(&self) -> Touches {
        Touches::nothing().writes(Resource::Nodes).reads(Resource::Component("registry".into()))
    }

    async fn observe(&self, platform: &Platform, cx: &Cx) -> Result<WithAndWithout, ObserveError> {
        let (node, registry) = (node(platform)?, registry::address(platform).await?);
        let (path, image) = (hosts_file(&registry), format!("{registry}/{REPOSITORY}:{TAG}"));
        let machine = platform.machine(&node).map_err(ObserveError::no_ground)?;
        let found = machine.read(&path).await.map_err(ObserveError::no_ground)?;
        let found = found.ok_or_else(|| ObserveError::no_ground(format!("{node} has no {path} to begin with")))?;
        registry::reached_from(platform, &node, &registry).await?;
        let before = registry::containerd(platform, &node).await?;
        if self.take_away {
            cx.undo_afterwards(vec![file_as_found(platform, &node, &path).await.map_err(ObserveError::no_ground)?])?;
            machine.remove(&path).await.map_err(ObserveError::no_ground)?;
        }
        let without = registry::pull(platform, cx, &node, "without", &image).await;
        if self.take_away {
            machine.write(&path, &found.content, found.mode).await.map_err(ObserveError::harness)?;
        }
        let without = without?;
        let with = registry::pull(platform, cx, &node, "with", &image).await?;
        let after = registry::containerd(platform, &node).await?;
        Ok(WithAndWithout { node, registry, without, with, containerd: (before, after) })
    }
}

/// Without the file the pull ends in `ErrImagePull` and the documented message; with it, it works; containerd's process
/// is the same.
pub fn fails_without_works_with() -> impl Expect<WithAndWithout> {
    expect_fn(|seen: &WithAndWithout| {
        let mut found = vec![];
        let mut fault = |bad: bool, code: &str, message: String| {
            if bad {
                found.push(Finding::new(code, &seen.node, message));
            }
        };
        let refused = ["ErrImagePull", "ImagePullBackOff"].contains(&seen.without.state.as_str());
        fault(!refused, "did-not-fail", format!("without the file: {}", seen.without.state));
        if refused {
            let said = seen.without.events.get("Failed").cloned().unwrap_or_default();
            let head = format!("failed to do request: Head \"https://{}/v2/", seen.registry);
            let tail = "http: server gave HTTP response to HTTPS client";
            fault(!said.contains(&head) || !said.contains(tail), "other-message", said);
        }
        let said = seen.with.events.get("Failed").cloned().unwrap_or_default();
        fault(seen.with.state != "Running", "did-not-recover", format!("with the file: {}: {said}", seen.with.state));
        let (before, after) = &seen.containerd;
        fault(before != after || before.is_empty(), "containerd-restarted", format!("process {before}, then {after}"));
        Judgement::from_findings(found)
    })
}

/// What containerd says first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FirstBytes {
    /// Node.
    pub node: String,
    /// First bytes without a `hosts.toml` for the address.
    pub without: Vec<u8>,
    /// First bytes with one that says `http://`.
    pub with: Vec<u8>,
}

impl Observation for FirstBytes {
    const SCHEMA: &'static str = "first-bytes/1";
}

/// Records what containerd says first.
pub struct Record {
    hosts_first: bool,
}

/// Records the first bytes of a pull from an address without `hosts.toml`, and then with one.
pub fn first_bytes() -> Record {
    Record { hosts_first: false }
}

/// The same with the file written before the first pull too.
pub fn first_bytes_with_hosts_from_the_start() -> Record {
    Record { hosts_first: true }
}

impl Probe<Platform> for Record {
    type Seen = FirstBytes;

    fn touches(&self) -> Touches {
        Touches::nothing().writes(Resource::Nodes)
    }

    async fn observe(&self, platform: &Platform, cx: &Cx) -> Result<FirstBytes, ObserveError> {
        let node = node(platform)?;
        let address = format!("{}:{RECORDER}", node_address(platform, &node).await?);
        let folder = format!("{}/{address}", registry::CERTS_D);
        let remove = shakedown_core::UndoStep::RemoveFile { node: node.clone(), path: folder.clone() };
        cx.undo_afterwards(vec![remove])?;
        let machine = platform.machine(&node).map_err(ObserveError::no_ground)?;
        machine.remove(&folder).await.map_err(ObserveError::no_ground)?;
        let hosts = documented_hosts(&address);
        if self.hosts_first {
            machine.write(&hosts_file(&address), hosts.as_bytes(), 0o644).await.map_err(ObserveError::no_ground)?;
        }
        let without = record(platform, cx, &node, &address, "before").await?;
        machine.write(&hosts_file(&address), hosts.as_bytes(), 0o644).await.map_err(ObserveError::no_ground)?;
        let with = record(platform, cx, &node, &address, "after").await?;
        machine.remove(&folder).await.map_err(ObserveError::no_ground)?;
        Ok(FirstBytes { node, without, with })
    }
}

/// Lets a Pod pull from a port that only records.
async fn record(platform: &Platform, cx: &Cx, node: &str, address: &str, stem: &str) -> Result<Vec<u8>, ObserveError> {
    // A reader that has its bytes ends, and the connection with it: the runtime is not kept waiting for an answer.
    let file = format!("/run/{}", cx.name("first-bytes"));
    let listen = format!(
        "trap 'rm -f {file}' EXIT; timeout --foreground 20 socat -t 0.2 TCP4-LISTEN:{RECORDER},reuseaddr SYSTEM:'head -c 8 >{file}' \
         2>/dev/null || true; cat {file}"
    );
    let recorder = async { script(platform, node, &listen, COMMAND * 2).await.map_err(ObserveError::no_ground) };
    let pulling = async {
        wait_for("the recorder", COMMAND, || async {
            let look = format!("ss -tlnH 'sport = :{RECORDER}'");
            match script(platform, node, &look, COMMAND).await {
                Ok(out) if !out.is_empty() => Answer::Ready(()),
                Ok(_) => Answer::NotYet("it does not listen yet".into()),
                Err(e) => Answer::NotYet(e.to_string()),
            }
        })
        .await
        .map_err(ObserveError::no_ground)?;
        registry::pull(platform, cx, node, stem, &format!("{address}/first/bytes:v1")).await
    };
    let (bytes, pulled) = futures::join!(recorder, pulling);
    pulled?;
    bytes
}

/// Without the file the first bytes are a TLS ClientHello (22, 3, ...); with it, an HTTP request in clear.
pub fn client_hello_without_http_with() -> impl Expect<FirstBytes> {
    expect_fn(|seen: &FirstBytes| {
        let mut found = vec![];
        if !seen.without.starts_with(&[0x16, 0x03]) {
            let message = format!("without hosts.toml: {}", seen.without.escape_ascii());
            found.push(Finding::new("not-a-client-hello", &seen.node, message));
        }
        if ![b"HEAD ".as_slice(), b"GET "].iter().any(|start| seen.with.starts_with(start)) {
            let message = format!("with hosts.toml: {}", seen.with.escape_ascii());
            found.push(Finding::new("not-http", &seen.node, message));
        }
        Judgement::from_findings(found)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::codes;

    #[test]
    fn the_documented_message_is_asked_for() {
        let said = "Failed to pull image: failed to do request: Head \"https://10.0.0.1:30002/v2/bootcamp/nginx/manifests/\
                    1.27-alpine\": http: server gave HTTP response to HTTPS client";
        let good = WithAndWithout {
            node: "w".into(),
            registry: "10.0.0.1:30002".into(),
            without: Pull {
                state: "ErrImagePull".into(),
                events: [("Failed".to_owned(), said.to_owned())].into(),
                ..Pull::default()
            },
            with: Pull { state: "Running".into(), ..Pull::default() },
            containerd: ("7 1".into(), "7 1".into()),
        };
        let judge = |seen: &WithAndWithout| codes(fails_without_works_with().judge(seen));
        assert!(judge(&good).is_empty());
        let mut worked = good.clone();
        worked.without = good.with.clone();
        assert_eq!(judge(&worked), ["did-not-fail"]);
        let mut other = good.clone();
        other.without.events.insert("Failed".into(), "connect: connection refused".into());
        assert_eq!(judge(&other), ["other-message"]);
        let mut stuck = good.clone();
        stuck.with = good.without.clone();
        assert_eq!(judge(&stuck), ["did-not-recover"]);
        let mut restarted = good;
        restarted.containerd.1 = "9 5".into();
        assert_eq!(judge(&restarted), ["containerd-restarted"]);
    }

    #[test]
    fn first_bytes_are_told_apart() {
        let judge = |without: &[u8], with: &[u8]| {
            let seen = FirstBytes { node: "w".into(), without: without.to_vec(), with: with.to_vec() };
            codes(client_hello_without_http_with().judge(&seen))
        };
        assert!(judge(&[0x16, 3, 1, 0, 0xf1], b"HEAD /v2").is_empty());
        assert_eq!(judge(b"HEAD /v2", b"HEAD /v2"), ["not-a-client-hello"]);
        assert_eq!(judge(&[0x16, 3, 1], &[0x16, 3, 1]), ["not-http"]);
        assert_eq!(judge(&[], b""), ["not-a-client-hello", "not-http"]);
    }
}
