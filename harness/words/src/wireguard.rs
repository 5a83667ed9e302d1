//! WireGuard between the nodes as each agent, each node's interfaces and sockets, and the API tell it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use futures::future::join_all;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use shakedown_core::{Finding, Judgement, Observation, Resource, Touches, UndoStep};
use shakedown_engine::{Cx, Expect, ObserveError, PlantError, Prepared, Probe, Sabotage, expect_fn};

use crate::machine::MachineError;
use crate::node_command::{Ran, Which, run, script};
use crate::platform::Platform;
use crate::pod_command::{ask_agents, ask_agents_json};
use crate::wire::{WIREGUARD_DEVICE, WIREGUARD_PORT};

/// How long a node's command may take.
const COMMAND: Duration = Duration::from_secs(15);

/// A peer as an agent has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Peer {
    /// Its public key, base64.
    pub public_key: String,
    /// `ADDRESS:PORT`.
    pub endpoint: String,
    /// What is sent to it.
    pub allowed: Vec<String>,
}

/// One node.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WireguardNode {
    /// Its InternalIP.
    pub address: String,
    /// `Wireguard`, `Disabled`; what the agent's status says.
    pub mode: String,
    /// Whether traffic of the nodes themselves is encrypted.
    pub node_encryption: String,
    /// Its own public key.
    pub public_key: String,
    /// The port that it listens on.
    pub port: u64,
    /// The number of peers that it tells.
    pub peer_count: u64,
    /// Its peers.
    pub peers: Vec<Peer>,
    /// What the documented `encrypt status` prints.
    pub printed: String,
    /// `ip -br addr show cilium_wg0`.
    pub interface: Ran,
    /// Local addresses of the UDP sockets on the port.
    pub sockets: Vec<String>,
}

/// All nodes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WireguardMesh {
    /// Node to what is known of it; a node without an agent has an empty entry.
    pub nodes: BTreeMap<String, WireguardNode>,
}

impl Observation for WireguardMesh {
    const SCHEMA: &'static str = "wireguard-mesh/1";
}

/// Looks at every node's WireGuard.
pub struct LookAtMesh;

/// Every agent's peers and every node's interface and socket.
pub fn mesh() -> LookAtMesh {
    LookAtMesh
}

impl Probe<Platform> for LookAtMesh {
    type Seen = WireguardMesh;

    fn touches(&self) -> Touches {
        Touches::nothing().reads(Resource::Component("cilium".into())).reads(Resource::Nodes)
    }

    async fn observe(&self, platform: &Platform, cx: &Cx) -> Result<WireguardMesh, ObserveError> {
        let budget = cx.budget.min(COMMAND);
        let list = platform.list("v1", "Node", None, None).await.map_err(ObserveError::no_ground)?;
        let (status, printed) = futures::join!(
            ask_agents_json(platform, &["status"], budget),
            ask_agents(platform, &["encrypt", "status"], budget)
        );
        let (status, printed) = (status?, printed?);
        let mut nodes = BTreeMap::new();
        for object in &list {
            let Some(name) = object["metadata"]["name"].as_str() else { continue };
            let mut node = status.get(name).map(understand).unwrap_or_default();
            node.address = internal_ip(object);
            node.printed = printed.get(name).map(|ran| ran.stdout.clone()).unwrap_or_default();
            nodes.insert(name.to_owned(), node);
        }
        let looks = join_all(nodes.keys().map(|name| on_node(platform, name))).await;
        for (node, look) in nodes.values_mut().zip(looks) {
            (node.interface, node.sockets, node.peers) = look?;
        }
        Ok(WireguardMesh { nodes })
    }
}

fn internal_ip(node: &Value) -> String {
    let addresses = node["status"]["addresses"].as_array().into_iter().flatten();
    let mut internal = addresses.filter(|a| a["type"] == "InternalIP").filter_map(|a| a["address"].as_str());
    internal.next().unwrap_or_default().to_owned()
}

/// Prints the device's peers without any key that is secret: through the agent's socket where WireGuard runs in user
/// space, with `wg` otherwise.
const PEERS: &str = "s=/proc/$(pgrep -xo cilium-agent)/root/var/run/wireguard/cilium_wg0.sock\n\
    if [ -S \"$s\" ]; then printf 'get=1\\n\\n' | socat -t 5 - UNIX-CONNECT:\"$s\" | grep -E '^(public_key|endpoint|allowed_ip)='\n\
    else wg show cilium_wg0 endpoints | sed 's/^/endpoint /'; wg show cilium_wg0 allowed-ips | sed 's/^/allowed /'; fi || true";

async fn device_peers(platform: &Platform, node: &str) -> Result<Vec<Peer>, MachineError> {
    let argv = ["/bin/sh", "-c", PEERS].map(str::to_owned);
    Ok(understand_peers(&run(platform, node, &argv, COMMAND).await?.stdout))
}

/// Understands both forms of the device's peers.
fn understand_peers(text: &str) -> Vec<Peer> {
    let mut peers: Vec<Peer> = vec![];
    for line in text.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        match (line.split_once('='), words.as_slice()) {
            (_, ["endpoint", key, at]) => {
                peers.push(Peer { public_key: (*key).to_owned(), endpoint: (*at).to_owned(), allowed: vec![] });
            }
            (_, ["allowed", key, nets @ ..]) => {
                if let Some(peer) = peers.iter_mut().find(|peer| peer.public_key == *key) {
                    peer.allowed = nets.iter().map(|net| (*net).to_owned()).collect();
                }
            }
            (Some(("public_key", hex)), _) => {
                let bytes =
                    (0..hex.len() / 2).filter_map(|at| u8::from_str_radix(hex.get(at * 2..at * 2 + 2)?, 16).ok());
                let public_key = BASE64_STANDARD.encode(bytes.collect::<Vec<u8>>());
                peers.push(Peer { public_key, endpoint: String::new(), allowed: vec![] });
            }
            (Some((field, value)), _) => match (field, peers.last_mut()) {
                ("endpoint", Some(peer)) => value.clone_into(&mut peer.endpoint),
                ("allowed_ip", Some(peer)) => peer.allowed.push(value.to_owned()),
                _ => {}
            },
            _ => {}
        }
    }
    // WireGuard in user space lists them in an order of its own at every look; observations compare line by line.
    peers.sort_by(|a, b| a.public_key.cmp(&b.public_key));
    peers
}

async fn on_node(platform: &Platform, node: &str) -> Result<(Ran, Vec<String>, Vec<Peer>), ObserveError> {
    let show = ["ip", "-br", "addr", "show", WIREGUARD_DEVICE].map(str::to_owned);
    let listen = ["ss", "-ulnH"].map(str::to_owned);
    let (interface, sockets, peers) = futures::join!(
        run(platform, node, &show, COMMAND),
        run(platform, node, &listen, COMMAND),
        device_peers(platform, node)
    );
    let sockets = sockets.map_err(ObserveError::no_ground)?;
    let local = sockets.stdout.lines().filter_map(|line| line.split_whitespace().nth(3));
    let suffix = format!(":{WIREGUARD_PORT}");
    let local = local.filter(|address| address.ends_with(&suffix)).map(str::to_owned).collect();
    Ok((interface.map_err(ObserveError::no_ground)?, local, peers.map_err(ObserveError::no_ground)?))
}

/// Understands the encryption part of an agent's `status -o json`.
fn understand(status: &Value) -> WireguardNode {
    let encryption = &status["encryption"];
    let wireguard = &encryption["wireguard"];
    let interface = &wireguard["interfaces"][0];
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    WireguardNode {
        mode: text(&encryption["mode"]),
        node_encryption: text(&wireguard["node-encryption"]),
        public_key: text(&interface["public-key"]),
        port: interface["listen-port"].as_u64().unwrap_or_default(),
        peer_count: interface["peer-count"].as_u64().unwrap_or_default(),
        ..WireguardNode::default()
    }
}

/// At least `count` nodes; on each the mode is WireGuard, the interface and the socket are there, its key is its own, and
/// its peers are exactly the other nodes, each with its own key, at its own address.
pub fn full_mesh(count: usize) -> impl Expect<WireguardMesh> {
    expect_fn(move |seen: &WireguardMesh| {
        if seen.nodes.len() < count {
            return Judgement::Inconclusive(format!("{} nodes, {count} expected", seen.nodes.len()));
        }
        let mut found: Vec<Finding> = seen.nodes.iter().flat_map(|(name, node)| alone(name, node)).collect();
        for (name, node) in &seen.nodes {
            found.extend(peers(seen, name, node));
        }
        let mut keys: BTreeMap<&str, &str> = BTreeMap::new();
        for (name, node) in seen.nodes.iter().filter(|(_, node)| !node.public_key.is_empty()) {
            if let Some(other) = keys.insert(&node.public_key, name) {
                found.push(Finding::new("same-key", name, format!("its key is also that of {other}")));
            }
        }
        Judgement::from_findings(found)
    })
}

/// What can be said of a node without the others.
fn alone(name: &str, node: &WireguardNode) -> Vec<Finding> {
    let mut found = vec![];
    if node.mode != "Wireguard" || !node.printed.contains("Encryption: Wireguard") {
        found.push(Finding::new("encryption-off", name, format!("mode `{}`, printed: {}", node.mode, node.printed)));
        return found;
    }
    let up = |line: &str| line.starts_with(WIREGUARD_DEVICE) && line.split_whitespace().nth(1) == Some("UNKNOWN");
    if !node.interface.ok() || !node.interface.stdout.lines().any(up) {
        found.push(Finding::new("interface-missing", name, node.interface.brief()));
    }
    let everywhere = [format!("0.0.0.0:{WIREGUARD_PORT}"), format!("*:{WIREGUARD_PORT}")];
    if node.port != u64::from(WIREGUARD_PORT) || !node.sockets.iter().any(|address| everywhere.contains(address)) {
        let message = format!("port {}, sockets: {}", node.port, node.sockets.join(", "));
        found.push(Finding::new("socket-missing", name, message));
    }
    if BASE64_STANDARD.decode(&node.public_key).map_or(0, |key| key.len()) != 32 {
        found.push(Finding::new("no-key", name, format!("`{}` is no public key", node.public_key)));
    }
    found
}

/// The node's peers against the other nodes.
fn peers(seen: &WireguardMesh, name: &str, node: &WireguardNode) -> Vec<Finding> {
    let wanted: BTreeSet<(String, String)> = seen
        .nodes
        .iter()
        .filter(|(other, _)| *other != name)
        .map(|(_, other)| (other.public_key.clone(), format!("{}:{WIREGUARD_PORT}", other.address)))
        .collect();
    let have: BTreeSet<(String, String)> =
        node.peers.iter().map(|peer| (peer.public_key.clone(), peer.endpoint.clone())).collect();
    let mut found: Vec<Finding> = wanted
        .difference(&have)
        .map(|(key, at)| Finding::new("peer-missing", name, format!("no peer {key} at {at}")))
        .collect();
    let strangers = have.difference(&wanted);
    found.extend(
        strangers.map(|(key, at)| Finding::new("peer-unknown", name, format!("{key} at {at} is no other node"))),
    );
    let printed = format!("Number of peers: {}", wanted.len());
    if node.peer_count != wanted.len() as u64 || !node.printed.contains(&printed) {
        let message = format!("{} peers told, {} nodes beside it", node.peer_count, wanted.len());
        found.push(Finding::new("peer-count", name, message));
    }
    found
}

/// The last worker has lost one of its peers.
pub struct PeerRemoved;

/// One node forgets one of its peers.
pub fn a_peer_removed() -> PeerRemoved {
    PeerRemoved
}

/// Speaks to the device: through the agent's socket where WireGuard runs in user space, with `wg` otherwise.
fn set_device(peer: &Peer, present: bool) -> Result<String, PlantError> {
    let key = BASE64_STANDARD.decode(&peer.public_key).map_err(|e| PlantError::new(format!("peer key: {e}")))?;
    let hex: String = key.iter().map(|byte| format!("{byte:02x}")).collect();
    let (lines, words) = if present {
        let allowed: String = peer.allowed.iter().map(|net| format!("allowed_ip={net}\\n")).collect();
        (
            format!("set=1\\npublic_key={hex}\\nendpoint={}\\nreplace_allowed_ips=true\\n{allowed}\\n", peer.endpoint),
            format!("peer {} endpoint {} allowed-ips {}", peer.public_key, peer.endpoint, peer.allowed.join(",")),
        )
    } else {
        (format!("set=1\\npublic_key={hex}\\nremove=true\\n\\n"), format!("peer {} remove", peer.public_key))
    };
    Ok(format!(
        "s=/proc/$(pgrep -xo cilium-agent)/root/var/run/wireguard/{WIREGUARD_DEVICE}.sock\n\
         if [ -S \"$s\" ]; then printf '{lines}' | socat -t 5 - UNIX-CONNECT:\"$s\" | grep -q '^errno=0$'\n\
         else wg set {WIREGUARD_DEVICE} {words}; fi"
    ))
}

impl PeerRemoved {
    async fn choice(&self, platform: &Platform) -> Result<(String, Peer), PlantError> {
        let node = Which::All.on(platform).pop().ok_or_else(|| PlantError::new("there is no node"))?;
        match device_peers(platform, &node).await.map_err(PlantError::new)?.into_iter().next() {
            Some(peer) => Ok((node, peer)),
            None => Err(PlantError::new(format!("{node} has no peer that could be removed"))),
        }
    }
}

impl Sabotage<Platform> for PeerRemoved {
    type Choice = (String, Peer);

    fn describe(&self) -> String {
        "one node has lost one of its WireGuard peers".into()
    }

    fn touches(&self) -> Touches {
        Touches::nothing().writes(Resource::Component("cilium".into()))
    }

    async fn prepare(&self, platform: &Platform) -> Result<Prepared<Self::Choice>, PlantError> {
        let (node, peer) = self.choice(platform).await?;
        let argv = vec!["/bin/sh".to_owned(), "-ec".to_owned(), set_device(&peer, true)?];
        let undo = vec![UndoStep::RunOnNode { node: node.clone(), argv, tolerate_failure: false }];
        Ok(Prepared::new((node, peer), undo))
    }

    async fn plant(&self, platform: &Platform, (node, peer): &Self::Choice) -> Result<(), PlantError> {
        script(platform, node, &set_device(peer, false)?, COMMAND).await.map_err(PlantError::new)?;
        let left = device_peers(platform, node).await.map_err(PlantError::new)?;
        if left.iter().any(|other| other.public_key == peer.public_key) {
            return Err(PlantError::new(format!("{node} still has the peer at {}", peer.endpoint)));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(n: u8) -> String {
        BASE64_STANDARD.encode([n; 32])
    }

    fn good() -> WireguardMesh {
        let node = |me: u8| WireguardNode {
            address: format!("10.0.0.{me}"),
            mode: "Wireguard".into(),
            node_encryption: "Disabled".into(),
            public_key: key(me),
            port: 51871,
            peer_count: 2,
            peers: (1..=3)
                .filter(|other| *other != me)
                .map(|other| Peer {
                    public_key: key(other),
                    endpoint: format!("10.0.0.{other}:51871"),
                    allowed: vec![],
                })
                .collect(),
            printed: "Encryption: Wireguard\nInterface: cilium_wg0\n\tNumber of peers: 2".into(),
            interface: Ran { code: 0, stdout: "cilium_wg0       UNKNOWN        ".into(), stderr: String::new() },
            sockets: vec!["0.0.0.0:51871".into(), "[::]:51871".into()],
        };
        WireguardMesh { nodes: (1..=3).map(|n| (format!("n{n}"), node(n))).collect() }
    }

    fn codes(seen: &WireguardMesh) -> BTreeSet<String> {
        match full_mesh(3).judge(seen) {
            Judgement::Fail(found) => found.into_iter().map(|f| f.code).collect(),
            other => [format!("{other:?}")].into(),
        }
    }

    #[test]
    fn a_full_mesh_passes_and_each_defect_is_named() {
        assert_eq!(full_mesh(3).judge(&good()), Judgement::Pass);
        type Break = fn(&mut WireguardNode);
        let cases: &[(&[&str], Break)] = &[
            (&["peer-missing"], |n| drop(n.peers.pop())),
            (&["peer-count"], |n| n.peer_count = 1),
            (&["interface-missing"], |n| n.interface = Ran { code: 1, ..Ran::default() }),
            (&["interface-missing"], |n| n.interface.stdout = "cilium_wg0  DOWN".into()),
            (&["socket-missing"], |n| n.sockets.clear()),
            (&["encryption-off"], |n| n.mode = "Disabled".into()),
            (&["peer-missing", "peer-unknown"], |n| n.peers[0].endpoint = "10.0.0.9:51871".into()),
            (&["peer-missing", "peer-unknown", "same-key"], |n| n.public_key = key(1)),
        ];
        for (want, breaks) in cases {
            let mut seen = good();
            breaks(seen.nodes.get_mut("n2").unwrap());
            assert_eq!(codes(&seen), want.iter().map(|c| (*c).to_owned()).collect(), "{want:?}");
        }
    }

    #[test]
    fn peers_are_understood_in_both_forms() {
        let hex: String = "07".repeat(32);
        let socket =
            format!("public_key={hex}\nendpoint=10.0.0.7:51871\nallowed_ip=10.244.1.0/24\nallowed_ip=10.0.0.7/32\n");
        let tool = format!("endpoint {0}\t10.0.0.7:51871\nallowed {0}\t10.244.1.0/24 10.0.0.7/32\n", key(7));
        let want = Peer {
            public_key: key(7),
            endpoint: "10.0.0.7:51871".into(),
            allowed: vec!["10.244.1.0/24".into(), "10.0.0.7/32".into()],
        };
        assert_eq!(understand_peers(&socket), std::slice::from_ref(&want));
        assert_eq!(understand_peers(&tool), [want]);
    }

    #[test]
    fn too_few_nodes_are_no_answer() {
        assert!(matches!(full_mesh(5).judge(&good()), Judgement::Inconclusive(_)));
    }
}
