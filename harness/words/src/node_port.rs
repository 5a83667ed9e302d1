//! A NodePort Service asked in every documented way: on the loopback address, on each node's address, on the ClusterIP,
//! and from outside the nodes.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use futures::future::join_all;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use shakedown_core::{Finding, Judgement, Observation, Resource, Touches, UndoStep};
use shakedown_engine::{Cx, Expect, ObserveError, PlantError, Prepared, Probe, Sabotage, expect_fn};

use crate::echo::{self, EchoPod};
use crate::http_get::get;
use crate::node_command::{Which, run, script};
use crate::platform::Platform;
use crate::wire::node_address;

/// How long one request may take.
const REQUEST: Duration = Duration::from_secs(2);
/// How long a node's command may take.
const COMMAND: Duration = Duration::from_secs(15);
/// The ways that must be answered.
const WAYS: [&str; 4] = ["loopback", "node-ip", "cluster-ip", "outside"];
/// The pinned map of services.
const SERVICES: &str = "/sys/fs/bpf/tc/globals/cilium_lb4_services_v2";

/// The answer to one request: which backend gave it, or why none came.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Answered {
    /// Name of the Pod that answered with 200.
    By(String),
    /// What came instead.
    Not(String),
}

/// What one node's ways answered.
pub type Ways = BTreeMap<String, Answered>;

/// All ways on all nodes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodePortAnswers {
    /// Its ClusterIP.
    pub cluster_ip: String,
    /// Its node port.
    pub node_port: u16,
    /// Its backends: Pods.
    pub backends: Vec<String>,
    /// Node to way (`loopback`, `node-ip`, `cluster-ip`, `outside`, `cluster-ip:node-port`) to answer.
    pub nodes: BTreeMap<String, Ways>,
    /// Nodes on which a process listens on the node port.
    pub listening: Vec<String>,
    /// Nodes where a way had no answer, and the backends that they do not reach at their own addresses either.
    #[serde(default)]
    pub unreachable: BTreeMap<String, Vec<String>>,
}

impl Observation for NodePortAnswers {
    const SCHEMA: &'static str = "node-port/1";
}

/// Asks the echo Service in every way.
pub struct AskEveryWay;

/// Asks the echo Service on every node in every documented way.
pub fn every_way() -> AskEveryWay {
    AskEveryWay
}

impl Probe<Platform> for AskEveryWay {
    type Seen = NodePortAnswers;

    fn touches(&self) -> Touches {
        Touches::nothing()
            .reads(Resource::Component("cilium".into()))
            .reads(Resource::Namespace(echo::NAMESPACE.into()))
            .reads(Resource::Nodes)
    }

    async fn observe(&self, platform: &Platform, _cx: &Cx) -> Result<NodePortAnswers, ObserveError> {
        let (cluster_ip, node_port) = echo::service(platform).await?;
        let running = echo::running(platform).await?;
        let names = Which::All.on(platform);
        let asks = names.iter().map(|node| ask_node(platform, node, &cluster_ip, node_port));
        let mut nodes = BTreeMap::new();
        let mut listening = vec![];
        for (node, asked) in names.iter().zip(join_all(asks).await) {
            let (ways, listens) = asked?;
            nodes.insert(node.clone(), ways);
            if listens {
                listening.push(node.clone());
            }
        }
        let servers: Vec<EchoPod> = running.servers.into_values().collect();
        let mut unreachable = BTreeMap::new();
        for (node, _) in nodes.iter().filter(|(_, ways)| WAYS.iter().any(|way| !answered(ways, way))) {
            let lost = unreached(platform, node, &servers).await?;
            if !lost.is_empty() {
                unreachable.insert(node.clone(), lost);
            }
        }
        let backends = servers.into_iter().map(|pod| pod.name).collect();
        Ok(NodePortAnswers { cluster_ip, node_port, backends, nodes, listening, unreachable })
    }
}

fn answered(ways: &Ways, way: &str) -> bool {
    matches!(ways.get(way), Some(Answered::By(_)))
}

/// The backends that a node does not reach at their own addresses, past every Service.
async fn unreached(platform: &Platform, node: &str, servers: &[EchoPod]) -> Result<Vec<String>, ObserveError> {
    let asks = servers.iter().map(|pod| async move {
        let url = format!("http://{}:{}/", pod.ip, echo::HTTP);
        let argv = ["curl", "-sS", "-m", "2", "--noproxy", "*", &url].map(str::to_owned);
        run(platform, node, &argv, COMMAND).await.map(|ran| (!ran.ok()).then(|| pod.name.clone()))
    });
    let asked = join_all(asks).await.into_iter().collect::<Result<Vec<_>, _>>().map_err(ObserveError::no_ground)?;
    Ok(asked.into_iter().flatten().collect())
}

async fn ask_node(platform: &Platform, node: &str, cluster_ip: &str, port: u16) -> Result<(Ways, bool), ObserveError> {
    let address = node_address(platform, node).await?;
    let urls = [
        ("loopback", format!("http://127.0.0.1:{port}/")),
        ("node-ip", format!("http://{address}:{port}/")),
        ("cluster-ip", format!("http://{cluster_ip}:80/")),
        ("cluster-ip:node-port", format!("http://{cluster_ip}:{port}/")),
    ];
    let asks = urls.iter().map(|(_, url)| async move {
        let argv = ["curl", "-sS", "-m", "2", "--noproxy", "*", url].map(str::to_owned);
        run(platform, node, &argv, COMMAND).await
    });
    let ip: Ipv4Addr = address.parse().map_err(|e| ObserveError::no_ground(format!("{address}: {e}")))?;
    let listen = ["ss", "-tlnH"].map(str::to_owned);
    let (asked, outside, listen) = futures::join!(
        join_all(asks),
        get(SocketAddr::from((ip, port)), "/", REQUEST),
        run(platform, node, &listen, COMMAND)
    );
    let mut ways = Ways::new();
    for ((way, _), ran) in urls.iter().zip(asked) {
        let ran = ran.map_err(ObserveError::no_ground)?;
        let answer = if ran.ok() { understand(&ran.stdout) } else { Answered::Not(ran.brief()) };
        ways.insert((*way).to_owned(), answer);
    }
    let outside = match outside {
        got if got.code == 200 => understand(&got.body),
        got => Answered::Not(got.error.unwrap_or_else(|| format!("code {}", got.code))),
    };
    ways.insert("outside".to_owned(), outside);
    let listen = listen.map_err(ObserveError::no_ground)?.stdout;
    let own = format!(":{port}");
    let listens = listen.lines().filter_map(|line| line.split_whitespace().nth(3)).any(|local| local.ends_with(&own));
    Ok((ways, listens))
}

fn understand(body: &str) -> Answered {
    let answer: Value = serde_json::from_str(body).unwrap_or_default();
    match answer["pod"].as_str() {
        Some(pod) => Answered::By(pod.to_owned()),
        None => Answered::Not(format!("not the echo workload: {}", body.chars().take(80).collect::<String>())),
    }
}

/// Every way is answered on at least `count` nodes by a backend, the ClusterIP does not answer on the node port, and no
/// process listens on it.
pub fn answered_everywhere(count: usize) -> impl Expect<NodePortAnswers> {
    expect_fn(move |seen: &NodePortAnswers| {
        if seen.nodes.len() < count || seen.backends.is_empty() {
            let message = format!("{} nodes, {} backends", seen.nodes.len(), seen.backends.len());
            return Judgement::Inconclusive(message);
        }
        let mut found: Vec<Finding> = seen
            .listening
            .iter()
            .map(|node| Finding::new("listener", node, "a process listens on the node port"))
            .collect();
        for (node, ways) in &seen.nodes {
            for way in WAYS {
                match ways.get(way) {
                    Some(Answered::By(pod)) if seen.backends.contains(pod) => {}
                    Some(Answered::Not(_)) if seen.unreachable.contains_key(node) => {}
                    other => found.push(Finding::new("no-answer", format!("{node} {way}"), format!("{other:?}"))),
                }
            }
            if let Some(Answered::By(pod)) = ways.get("cluster-ip:node-port") {
                let message = format!("the ClusterIP answers on the node port: {pod}");
                found.push(Finding::new("cluster-ip-node-port", node, message));
            }
        }
        if found.is_empty() && !seen.unreachable.is_empty() {
            let message = format!("backends that nodes do not reach at their own addresses: {:?}", seen.unreachable);
            return Judgement::Inconclusive(message);
        }
        Judgement::from_findings(found)
    })
}

/// The datapath of one node has no entry for the Service's node port.
pub struct EntryRemoved;

/// One node's datapath has lost the entries of the echo Service's node port.
pub fn service_entry_removed() -> EntryRemoved {
    EntryRemoved
}

impl EntryRemoved {
    /// The node, and the entries (key, value; hex bytes) that lead to the backends.
    async fn entries(&self, platform: &Platform) -> Result<(String, Vec<(String, String)>), PlantError> {
        let (_, port) = echo::service(platform).await.map_err(PlantError::new)?;
        let node = Which::All.on(platform).pop().ok_or_else(|| PlantError::new("there is no node"))?;
        let dump = script(platform, &node, &format!("bpftool -j map dump pinned {SERVICES}"), COMMAND).await;
        let dump: Value = serde_json::from_slice(&dump.map_err(PlantError::new)?).map_err(PlantError::new)?;
        let mut entries = vec![];
        for entry in dump.as_array().into_iter().flatten() {
            let (key, value) = (bytes(&entry["key"]), bytes(&entry["value"]));
            // Address (4), port (2, network order), slot (2): slot 0 is the entry that a packet meets first.
            if key.len() >= 8 && key[4..6] == port.to_be_bytes() && key[6..8] == [0, 0] {
                entries.push((hex(&key), hex(&value)));
            }
        }
        if entries.is_empty() {
            Err(PlantError::new(format!("{node} has no entry for port {port}")))
        } else {
            Ok((node, entries))
        }
    }
}

fn bytes(value: &Value) -> Vec<u8> {
    let digits = value.as_array().into_iter().flatten().filter_map(Value::as_str);
    digits.filter_map(|text| u8::from_str_radix(text.trim_start_matches("0x"), 16).ok()).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(" ")
}

impl Sabotage<Platform> for EntryRemoved {
    type Choice = (String, Vec<(String, String)>);

    fn describe(&self) -> String {
        "one node's datapath has lost its entries for the node port".into()
    }

    fn touches(&self) -> Touches {
        Touches::nothing().writes(Resource::Component("cilium".into()))
    }

    async fn prepare(&self, platform: &Platform) -> Result<Prepared<Self::Choice>, PlantError> {
        let (node, entries) = self.entries(platform).await?;
        let lines = entries
            .iter()
            .map(|(key, value)| format!("bpftool map update pinned {SERVICES} key hex {key} value hex {value}"));
        let text = lines.collect::<Vec<_>>().join("\n");
        let argv = ["/bin/sh", "-ec", &text].map(str::to_owned).to_vec();
        let undo = vec![UndoStep::RunOnNode { node: node.clone(), argv, tolerate_failure: false }];
        Ok(Prepared::new((node, entries), undo))
    }

    async fn plant(&self, platform: &Platform, (node, entries): &Self::Choice) -> Result<(), PlantError> {
        let lines = entries.iter().map(|(key, _)| format!("bpftool map delete pinned {SERVICES} key hex {key}"));
        script(platform, node, &lines.collect::<Vec<_>>().join("\n"), COMMAND).await.map_err(PlantError::new)?;
        match self.entries(platform).await {
            Err(_) => Ok(()),
            Ok((_, left)) => Err(PlantError::new(format!("{} entries are still there", left.len()))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> NodePortAnswers {
        let mut ways: Ways = ["loopback", "node-ip", "cluster-ip", "outside"]
            .map(|way| (way.to_owned(), Answered::By("echo-1".into())))
            .into();
        ways.insert("cluster-ip:node-port".into(), Answered::Not("timeout".into()));
        NodePortAnswers {
            cluster_ip: "10.96.0.9".into(),
            node_port: 31940,
            backends: vec!["echo-1".into()],
            nodes: ["a", "b"].map(|node| (node.to_owned(), ways.clone())).into(),
            listening: vec![],
            unreachable: BTreeMap::new(),
        }
    }

    fn codes(seen: &NodePortAnswers) -> Vec<String> {
        crate::testing::codes(answered_everywhere(2).judge(seen))
    }

    #[test]
    fn each_defect_has_its_code() {
        assert!(codes(&good()).is_empty());
        let mut silent = good();
        silent.nodes.get_mut("b").unwrap().insert("loopback".into(), Answered::Not("refused".into()));
        assert_eq!(codes(&silent), ["no-answer"]);
        silent.unreachable.insert("b".into(), vec!["echo-1".into()]);
        assert!(matches!(answered_everywhere(2).judge(&silent), Judgement::Inconclusive(_)));
        let mut stranger = good();
        stranger.nodes.get_mut("b").unwrap().insert("outside".into(), Answered::By("other".into()));
        assert_eq!(codes(&stranger), ["no-answer"]);
        let mut listener = good();
        listener.listening.push("a".into());
        assert_eq!(codes(&listener), ["listener"]);
        let mut literal = good();
        literal.nodes.get_mut("a").unwrap().insert("cluster-ip:node-port".into(), Answered::By("echo-1".into()));
        assert_eq!(codes(&literal), ["cluster-ip-node-port"]);
    }

    #[test]
    fn a_map_entry_is_understood() {
        let entry = serde_json::json!({"key": ["0x0a", "0x00"], "value": ["0xff"]});
        assert_eq!((hex(&bytes(&entry["key"])), hex(&bytes(&entry["value"]))), ("0a 00".into(), "ff".into()));
    }
}
