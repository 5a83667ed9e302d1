//! What is on the wire while Pods talk: the same marker sent between Pods on different nodes, between Pods on one node,
//! and between the nodes themselves, captured on the receiving node's interface and on the sender's tunnel device.
//!
//! The marker between the nodes travels in clear as long as node encryption is off: it proves in every observation that
//! the capture sees what is in clear.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use shakedown_core::{Finding, Judgement, Observation, Resource, Touches, UndoStep};
use shakedown_engine::{Cx, Expect, ObserveError, PlantError, Prepared, Probe, Sabotage, expect_fn};

use crate::capture::{Tap, during};
use crate::echo::{self, EchoPod};
use crate::node_command::{run, script};
use crate::pcap::Summary;
use crate::platform::Platform;

/// Cilium's WireGuard port.
pub const WIREGUARD_PORT: u16 = 51871;
/// Cilium's WireGuard device.
pub const WIREGUARD_DEVICE: &str = "cilium_wg0";
/// Cilium's VXLAN port.
const TUNNEL_PORT: u16 = 8472;
/// Where nobody listens: the marker between the nodes needs no answer.
const NOBODY: u16 = 39871;
/// How long a node's command may take.
const COMMAND: Duration = Duration::from_secs(15);

/// Names of the markers.
pub const BETWEEN_PODS: &str = "between-pods";
/// Between Pods on one node.
pub const SAME_NODE: &str = "same-node";
/// Between the nodes.
pub const BETWEEN_NODES: &str = "between-nodes";
/// The Pods' own addresses, as they stand beside each other in an IP header.
pub const INNER_ADDRESSES: &str = "inner-addresses";

/// One end of the conversation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct End {
    /// Node.
    pub node: String,
    /// Its address on the nodes' network.
    pub address: String,
    /// The Pod's address.
    pub pod_ip: String,
}

/// What was sent and what was on the wire.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wire {
    /// The sender.
    pub from: End,
    /// The receiver.
    pub to: End,
    /// The address that the receiving Pod saw as its peer.
    pub peer_seen: String,
    /// The receiver's answer, marker cut out, to the markers between Pods.
    pub answered: BTreeMap<String, bool>,
    /// Capture on the receiving node's own interface: traffic between the two nodes.
    pub network: Summary,
    /// Capture on the sender's WireGuard device; none where there is no such device.
    pub device: Option<Summary>,
}

impl Observation for Wire {
    const SCHEMA: &'static str = "wire/1";
}

/// Sends the markers and captures.
pub struct SendMarkers;

/// Sends markers between Pods of the echo workload and between their nodes, and captures what is on the wire.
pub fn markers() -> SendMarkers {
    SendMarkers
}

/// The pair that talks: the neighbour's node sends to the last other node.
async fn pair(platform: &Platform) -> Result<(EchoPod, EchoPod, EchoPod), ObserveError> {
    let running = echo::running(platform).await?;
    let near = running.servers.get(&running.neighbour.node).cloned();
    let far = running.servers.values().rev().find(|pod| pod.node != running.neighbour.node).cloned();
    match (near, far) {
        (Some(near), Some(far)) => Ok((running.neighbour, near, far)),
        _ => Err(ObserveError::no_ground("Pods on two nodes are needed")),
    }
}

/// A node's InternalIP.
///
/// # Errors
/// The node is not there.
pub async fn node_address(platform: &Platform, node: &str) -> Result<String, ObserveError> {
    let object = crate::objects::ObjectRef::cluster("v1", "Node", node);
    let found = platform.get(&object).await.map_err(ObserveError::no_ground)?.unwrap_or_default();
    let addresses = found["status"]["addresses"].as_array().cloned().unwrap_or_default();
    let internal = addresses.iter().find(|address| address["type"] == "InternalIP");
    internal
        .and_then(|address| address["address"].as_str().map(str::to_owned))
        .ok_or_else(|| ObserveError::no_ground(format!("node {node} has no InternalIP")))
}

impl Probe<Platform> for SendMarkers {
    type Seen = Wire;

    fn touches(&self) -> Touches {
        Touches::nothing()
            .reads(Resource::Component("cilium".into()))
            .reads(Resource::Namespace(echo::NAMESPACE.into()))
            .reads(Resource::Nodes)
    }

    async fn observe(&self, platform: &Platform, cx: &Cx) -> Result<Wire, ObserveError> {
        let (sender, near, far) = pair(platform).await?;
        let end = |pod: &EchoPod, address: String| End { node: pod.node.clone(), address, pod_ip: pod.ip.clone() };
        let from = end(&sender, node_address(platform, &sender.node).await?);
        let to = end(&far, node_address(platform, &far.node).await?);
        let texts = texts(cx, &from, &to)?;
        let taps = taps(platform, &from, &to).await?;
        let sending = send(platform, &from, &to, [&sender, &near, &far], &texts);
        let ((peer_seen, answered), mut seen) = during(platform, cx, &taps, &texts, BETWEEN_NODES, sending).await?;
        let network = seen.remove("network").ok_or_else(|| ObserveError::harness("no capture of the network"))?;
        Ok(Wire { from, to, peer_seen, answered, network, device: seen.remove("device") })
    }
}

/// The byte strings to look for: a marker of its own for each way, long enough not to come about by chance.
fn texts(cx: &Cx, from: &End, to: &End) -> Result<BTreeMap<String, Vec<u8>>, ObserveError> {
    let mut texts: BTreeMap<String, Vec<u8>> = [BETWEEN_PODS, SAME_NODE, BETWEEN_NODES]
        .map(|way| (way.to_owned(), format!("shakedown-{}", cx.name(way)).into_bytes()))
        .into();
    let address = |text: &str| {
        text.parse::<std::net::Ipv4Addr>()
            .map(|a| a.octets())
            .map_err(|e| ObserveError::no_ground(format!("{text}: {e}")))
    };
    let both = [address(&from.pod_ip)?, address(&to.pod_ip)?].concat();
    texts.insert(INNER_ADDRESSES.to_owned(), both);
    Ok(texts)
}

async fn taps(platform: &Platform, from: &End, to: &End) -> Result<Vec<Tap>, ObserveError> {
    let route = format!("ip -o route get {} | sed -n 's/.* dev \\([^ ]*\\) .*/\\1/p'", from.address);
    let interface = script(platform, &to.node, &route, COMMAND).await.map_err(ObserveError::no_ground)?;
    let mut taps = vec![Tap {
        name: "network".into(),
        node: to.node.clone(),
        interface: String::from_utf8_lossy(&interface).trim().to_owned(),
        filter: format!("host {} and host {}", from.address, to.address),
    }];
    let link = run(platform, &from.node, &["ip", "link", "show", WIREGUARD_DEVICE].map(str::to_owned), COMMAND).await;
    if link.map_err(ObserveError::no_ground)?.ok() {
        let device = WIREGUARD_DEVICE.to_owned();
        taps.push(Tap { name: "device".into(), node: from.node.clone(), interface: device, filter: String::new() });
    }
    Ok(taps)
}

async fn send(
    platform: &Platform,
    from: &End,
    to: &End,
    [sender, near, far]: [&EchoPod; 3],
    texts: &BTreeMap<String, Vec<u8>>,
) -> Result<(String, BTreeMap<String, bool>), ObserveError> {
    let text = |way: &str| String::from_utf8_lossy(texts.get(way).map_or(&[], Vec::as_slice)).into_owned();
    let mut answered = BTreeMap::new();
    for (way, receiver) in [(SAME_NODE, near), (BETWEEN_PODS, far)] {
        let address = format!("{}:{}", receiver.ip, echo::LINES);
        let ran = echo::client(platform, sender, &["raw", "-timeout", "2s", &address, &text(way)]).await?;
        answered.insert(way.to_owned(), ran.ok());
    }
    let url = format!("http://{}:{}/", far.ip, echo::HTTP);
    let who = echo::client(platform, sender, &["get", "-timeout", "2s", &url]).await?;
    let who: serde_json::Value = serde_json::from_str(&who.stdout).unwrap_or_default();
    let peer = who["answer"]["client"].as_str().unwrap_or_default();
    let peer = peer.rsplit_once(':').map_or(peer, |(ip, _)| ip).to_owned();
    let say = format!("printf %s '{}' | socat -u - UDP4-SENDTO:{}:{NOBODY}", text(BETWEEN_NODES), to.address);
    script(platform, &from.node, &say, COMMAND).await.map_err(ObserveError::no_ground)?;
    Ok((peer, answered))
}

/// Traffic between Pods on different nodes is in WireGuard and nowhere else: no marker, no inner address, no tunnel
/// packet and no IPsec in clear; the encrypted packets go to the receiving node's WireGuard port. The Pods notice nothing.
/// Same-node traffic never enters the device, and traffic between the nodes stays in clear (node encryption is off).
pub fn encrypted_between_nodes() -> impl Expect<Wire> {
    expect_fn(|seen: &Wire| {
        if seen.network.holding(BETWEEN_NODES) == 0 && seen.network.packets == 0 {
            return Judgement::Inconclusive("the capture holds no packet at all".to_owned());
        }
        let link = format!("{} to {}", seen.from.node, seen.to.node);
        let mut found = vec![];
        let mut fault = |bad: bool, code: &str, message: String| {
            if bad {
                found.push(Finding::new(code, &link, message));
            }
        };
        let (marker, inner) = (seen.network.holding(BETWEEN_PODS), seen.network.holding(INNER_ADDRESSES));
        fault(marker > 0, "marker-in-clear", format!("{marker} packets between the nodes hold the Pods' text"));
        fault(inner > 0, "addresses-in-clear", format!("{inner} packets between the nodes hold the Pods' addresses"));
        let there = seen.network.between(&seen.from.address, &seen.to.address);
        let back = seen.network.between(&seen.to.address, &seen.from.address);
        let wireguard = format!("udp/{WIREGUARD_PORT}");
        for (flows, way) in [(&there, "there"), (&back, "back")] {
            fault(
                !flows.contains_key(&wireguard),
                "no-wireguard-packet",
                format!("no UDP {WIREGUARD_PORT} on the way {way}"),
            );
            for bare in [format!("udp/{TUNNEL_PORT}"), "esp".into(), "ah".into(), "udp/500".into(), "udp/4500".into()] {
                let packets = flows.get(&bare).map_or(0, |flow| flow.packets);
                fault(packets > 0, "other-encapsulation", format!("{packets} packets of {bare} on the way {way}"));
            }
        }
        let data = seen.network.first_bytes.get(&format!("udp/{WIREGUARD_PORT} 04")).copied().unwrap_or_default();
        fault(data == 0, "no-wireguard-packet", "no WireGuard data message (type 4)".to_owned());
        for (way, ok) in &seen.answered {
            fault(!ok, "no-answer", format!("no answer to the text {way}"));
        }
        let peer = &seen.peer_seen;
        fault(
            *peer != seen.from.pod_ip,
            "peer-address",
            format!("the receiver saw `{peer}`, the sender is {}", seen.from.pod_ip),
        );
        match &seen.device {
            None => fault(true, "no-device", format!("{} has no {WIREGUARD_DEVICE}", seen.from.node)),
            Some(device) => {
                fault(
                    device.holding(BETWEEN_PODS) == 0,
                    "not-through-device",
                    "the text never entered the device".to_owned(),
                );
                fault(
                    device.holding(SAME_NODE) > 0,
                    "same-node-through-device",
                    "same-node traffic entered the device".to_owned(),
                );
            }
        }
        fault(
            seen.network.holding(BETWEEN_NODES) == 0,
            "node-traffic-hidden",
            "the text between the nodes cannot be read: node encryption is on, or the capture misses packets"
                .to_owned(),
        );
        Judgement::from_findings(found)
    })
}

/// Tunnel packets of one node go round WireGuard.
pub struct RoundWireguard;

/// On the sender's node the tunnel's packets are let past WireGuard, and taken in again by the receiver: Pods talk as
/// before, in clear.
pub fn tunnel_past_wireguard() -> RoundWireguard {
    RoundWireguard
}

/// The port that the packets are hidden under: WireGuard is applied to packets of the tunnel's own port only.
const DETOUR: u16 = 18472;
const RULES: &str = "shakedown_round_wireguard";

impl RoundWireguard {
    async fn rules(&self, platform: &Platform) -> Result<[(String, String); 2], PlantError> {
        let (sender, _, far) = pair(platform).await.map_err(PlantError::new)?;
        let from = node_address(platform, &sender.node).await.map_err(PlantError::new)?;
        let to = node_address(platform, &far.node).await.map_err(PlantError::new)?;
        let out = format!(
            "table ip {RULES} {{ chain out {{ type filter hook postrouting priority 300; \
             ip daddr {to} udp dport {TUNNEL_PORT} udp dport set {DETOUR}; }}; }}"
        );
        let back = format!(
            "table ip {RULES} {{ chain in {{ type filter hook prerouting priority -400; \
             ip saddr {from} udp dport {DETOUR} udp dport set {TUNNEL_PORT}; }}; }}"
        );
        Ok([(far.node, back), (sender.node, out)])
    }
}

impl Sabotage<Platform> for RoundWireguard {
    type Choice = [(String, String); 2];

    fn describe(&self) -> String {
        "a node's tunnel packets to another node go past WireGuard, in clear".into()
    }

    fn touches(&self) -> Touches {
        Touches::nothing().writes(Resource::Component("cilium".into()))
    }

    async fn prepare(&self, platform: &Platform) -> Result<Prepared<Self::Choice>, PlantError> {
        let remove = format!("nft list table ip {RULES} >/dev/null 2>&1 || exit 0; nft delete table ip {RULES}");
        let argv = vec!["/bin/sh".to_owned(), "-c".to_owned(), remove];
        let step = |node: String| UndoStep::RunOnNode { node, argv: argv.clone(), tolerate_failure: false };
        let rules = self.rules(platform).await?;
        let undo = rules.iter().map(|(node, _)| step(node.clone())).collect();
        Ok(Prepared::new(rules, undo))
    }

    async fn plant(&self, platform: &Platform, rules: &Self::Choice) -> Result<(), PlantError> {
        for (node, rules) in rules {
            let text = format!("nft '{rules}' && nft list table ip {RULES}");
            let listed = script(platform, node, &text, COMMAND).await.map_err(PlantError::new)?;
            if !String::from_utf8_lossy(&listed).contains("dport set") {
                return Err(PlantError::new(format!("node {node}: the rule is not in place")));
            }
        }
        Ok(())
    }
}
