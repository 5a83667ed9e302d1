//! Maglev's table in the datapath of every node, slot by slot, against a table of our own.
//!
//! Every agent computes the table for itself. Ours is made of the same backends by the published algorithm
//! ([`crate::maglev_table`]); any slot that differs is a finding that names its node.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use shakedown_core::{Finding, Judgement, Observation, Resource, Touches};
use shakedown_engine::{Cx, Expect, ObserveError, Probe, expect_fn};

use crate::echo;
use crate::maglev_table::{DEFAULT_SEED, DEFAULT_SIZE, Disruption, HashSeed, Table};
use crate::objects::ObjectRef;
use crate::platform::Platform;
use crate::pod_command::{SYSTEM, ask_agents_json};
use crate::wire::node_address;

/// How long the agents may take for one answer.
const COMMAND: Duration = Duration::from_secs(20);
/// One character a slot: the place of its backend in the sorted list.
const DIGITS: &[u8] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// The table of one node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeTable {
    /// The frontend whose table it is: the node's own address and the node port.
    pub frontend: String,
    /// Backends that stand in the table, sorted.
    pub backends: Vec<String>,
    /// A character a slot: the place of its backend in the list (0-9, A-Z, a-z).
    pub slots: String,
}

impl NodeTable {
    /// From the backend of each slot.
    ///
    /// # Errors
    /// More backends than characters.
    pub fn new(frontend: String, slots: &[String]) -> Result<Self, String> {
        let backends: Vec<String> = slots.iter().cloned().collect::<BTreeSet<_>>().into_iter().collect();
        if backends.len() > DIGITS.len() {
            return Err(format!("{} backends are too many for this form", backends.len()));
        }
        let digit = |name: &String| backends.binary_search(name).map_or('?', |at| char::from(DIGITS[at]));
        let slots = slots.iter().map(digit).collect();
        Ok(Self { frontend, backends, slots })
    }

    /// As a table that can be compared; `None` where it is damaged.
    pub fn table(&self) -> Option<Table> {
        let place = |c: u8| DIGITS.iter().position(|digit| *digit == c).filter(|at| *at < self.backends.len());
        let slots: Option<Vec<u16>> = self.slots.bytes().map(|c| place(c).map(|at| at as u16)).collect();
        Some(Table { backends: self.backends.clone(), slots: slots? })
    }
}

/// What the API and the agents' settings say that the tables should be made of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// `bpf-lb-algorithm`.
    pub algorithm: String,
    /// Slots.
    pub size: u32,
    /// The seed.
    pub seed: HashSeed,
    /// Ready backends of the Service, `ADDRESS:PORT`, sorted.
    pub backends: Vec<String>,
}

/// The tables of all nodes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tables {
    /// What they should be made of.
    pub settings: Settings,
    /// Node to its table; a node without one has no entry.
    pub nodes: BTreeMap<String, NodeTable>,
    /// All nodes.
    pub cluster: Vec<String>,
}

impl Observation for Tables {
    const SCHEMA: &'static str = "maglev-tables/1";
}

/// Reads the tables of the echo Service on every node.
pub struct ReadTables;

/// The echo Service's Maglev table in the datapath of every node.
pub fn tables() -> ReadTables {
    ReadTables
}

impl Probe<Platform> for ReadTables {
    type Seen = Tables;

    fn touches(&self) -> Touches {
        Touches::nothing()
            .reads(Resource::Component("cilium".into()))
            .reads(Resource::Namespace(echo::NAMESPACE.into()))
    }

    async fn observe(&self, platform: &Platform, _cx: &Cx) -> Result<Tables, ObserveError> {
        read_tables(platform).await
    }
}

/// Reads the tables.
///
/// # Errors
/// The Service or the agents are not there.
pub async fn read_tables(platform: &Platform) -> Result<Tables, ObserveError> {
    let (_, port) = echo::service(platform).await?;
    let settings = settings(platform).await?;
    let (services, tables, backends) = futures::join!(
        ask_agents_json(platform, &["service", "list"], COMMAND),
        ask_agents_json(platform, &["bpf", "lb", "maglev", "list"], COMMAND),
        ask_agents_json(platform, &["bpf", "lb", "list", "--backends"], COMMAND),
    );
    let (services, tables, backends) = (services?, tables?, backends?);
    let mut nodes = BTreeMap::new();
    for (node, services) in &services {
        let address = node_address(platform, node).await?;
        let Some(id) = service_id(services, &address, port) else { continue };
        let slots = slots(&tables[node], id, &backends[node], &addresses(services, id));
        let Some(slots) = slots.filter(|slots| !slots.is_empty()) else { continue };
        let table = NodeTable::new(format!("{address}:{port}"), &slots).map_err(ObserveError::harness)?;
        nodes.insert(node.clone(), table);
    }
    let cluster = platform.list("v1", "Node", None, None).await.map_err(ObserveError::no_ground)?;
    let cluster = cluster.iter().filter_map(|node| node["metadata"]["name"].as_str().map(str::to_owned)).collect();
    Ok(Tables { settings, nodes, cluster })
}

async fn settings(platform: &Platform) -> Result<Settings, ObserveError> {
    let object = ObjectRef::namespaced("v1", "ConfigMap", SYSTEM, "cilium-config");
    let config = platform.get(&object).await.map_err(ObserveError::no_ground)?.unwrap_or_default();
    let value = |key: &str| config["data"][key].as_str().filter(|text| !text.is_empty()).map(str::to_owned);
    let size = value("bpf-lb-maglev-table-size").map_or(Ok(DEFAULT_SIZE), |text| text.parse());
    let seed = value("bpf-lb-maglev-hash-seed").unwrap_or_else(|| DEFAULT_SEED.to_owned()).parse();
    let selector = format!("kubernetes.io/service-name={}", echo::NAME);
    let slices = platform
        .list("discovery.k8s.io/v1", "EndpointSlice", Some(echo::NAMESPACE), Some(&selector))
        .await
        .map_err(ObserveError::no_ground)?;
    let mut backends = BTreeSet::new();
    for slice in &slices {
        let port = slice["ports"][0]["port"].as_u64().unwrap_or_default();
        let endpoints = slice["endpoints"].as_array().into_iter().flatten();
        let ready = endpoints.filter(|endpoint| endpoint["conditions"]["ready"] != false);
        backends.extend(ready.filter_map(|e| e["addresses"][0].as_str()).map(|ip| format!("{ip}:{port}")));
    }
    Ok(Settings {
        algorithm: value("bpf-lb-algorithm").unwrap_or_default(),
        size: size.map_err(|e| ObserveError::no_ground(format!("table size: {e}")))?,
        seed: seed.map_err(ObserveError::no_ground)?,
        backends: backends.into_iter().collect(),
    })
}

/// The id of the frontend `ADDRESS:PORT` in an agent's list of services.
pub(crate) fn service_id(services: &Value, address: &str, port: u16) -> Option<u64> {
    let of = |service: &Value| {
        let frontend = &service["spec"]["frontend-address"];
        (frontend["ip"] == address && frontend["port"] == port).then(|| service["spec"]["id"].as_u64()).flatten()
    };
    services.as_array()?.iter().find_map(of)
}

/// The backends of a service in the agent's own list: address to `ADDRESS:PORT`.
fn addresses(services: &Value, id: u64) -> BTreeMap<String, String> {
    let service = services.as_array().into_iter().flatten().find(|service| service["spec"]["id"] == id);
    let backends = service.and_then(|service| service["spec"]["backend-addresses"].as_array()).into_iter().flatten();
    let named = backends.filter_map(|b| Some((b["ip"].as_str()?, b["port"].as_u64()?)));
    named.map(|(ip, port)| (ip.to_owned(), format!("{ip}:{port}"))).collect()
}

/// The backend of each slot. The table holds ids, which mean something on their own node only; the map of backends says
/// which address an id is, and the service which port.
fn slots(tables: &Value, id: u64, backends: &Value, named: &BTreeMap<String, String>) -> Option<Vec<String>> {
    let numbers = tables[format!("[{id}]/v4")][0].as_str()?;
    let name = |number: &str| {
        let address = backends[number][0].as_str().unwrap_or_default();
        let address = address.rsplit("://").next().unwrap_or(address);
        named.get(address).cloned().unwrap_or_else(|| format!("unknown backend {number}"))
    };
    Some(numbers.trim_matches(['[', ']']).split_whitespace().map(name).collect())
}

/// On at least `count` nodes the algorithm is Maglev and the table is ours, slot by slot; shares differ by one slot at most.
pub fn ours_on_every_node(count: usize) -> impl Expect<Tables> {
    expect_fn(move |seen: &Tables| {
        let settings = &seen.settings;
        if seen.cluster.len() < count || settings.backends.is_empty() {
            let message = format!("{} nodes, {} ready backends", seen.cluster.len(), settings.backends.len());
            return Judgement::Inconclusive(message);
        }
        if settings.algorithm != "maglev" {
            return Judgement::fail(
                "not-maglev",
                "cilium-config",
                format!("bpf-lb-algorithm is `{}`", settings.algorithm),
            );
        }
        let ours = match Table::of_equals(settings.backends.clone(), settings.size, settings.seed) {
            Ok(table) => table,
            Err(e) => return Judgement::fail("no-table", "cilium-config", e.to_string()),
        };
        let found = seen.cluster.iter().filter_map(|node| differs(node, seen.nodes.get(node)?, &ours));
        let missing = seen.cluster.iter().filter(|node| !seen.nodes.contains_key(*node));
        let missing = missing.map(|node| Finding::new("no-table", node, "the datapath has no table for the node port"));
        Judgement::from_findings(found.chain(missing).collect())
    })
}

fn differs(node: &str, table: &NodeTable, ours: &Table) -> Option<Finding> {
    let Some(theirs) = table.table() else {
        return Some(Finding::new("table-differs", node, "a slot has a backend that is unknown"));
    };
    if theirs.slots.len() != ours.slots.len() {
        let message = format!("{} slots, {} expected", theirs.slots.len(), ours.slots.len());
        return Some(Finding::new("table-size", node, message));
    }
    let other = (0..ours.slots.len()).filter(|slot| theirs.backend(*slot) != ours.backend(*slot)).count();
    (other > 0).then(|| {
        Finding::new(
            "table-differs",
            node,
            format!("{other} of {} slots differ from the published algorithm", ours.slots.len()),
        )
    })
}

/// Tables before a backend went, without it, and after it came back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ComeAndGo {
    /// With all backends.
    pub before: Tables,
    /// The backend that went.
    pub gone: String,
    /// Without it.
    pub without: Tables,
    /// With it again.
    pub back: Tables,
}

impl Observation for ComeAndGo {
    const SCHEMA: &'static str = "maglev-disruption/1";
}

/// On at least `count` nodes: when a backend goes or comes, at most `percent` per cent of the survivors' slots move from
/// one of them to another, the slots that it had go to all the others, and the table with it is the one of before.
pub fn few_slots_move(count: usize, percent: f64) -> impl Expect<ComeAndGo> {
    expect_fn(move |seen: &ComeAndGo| {
        if seen.before.nodes.len() < count {
            return Judgement::Inconclusive(format!("tables of {} nodes, {count} expected", seen.before.nodes.len()));
        }
        Judgement::from_findings(seen.before.nodes.keys().flat_map(|node| moves(node, seen, percent)).collect())
    })
}

fn moves(node: &str, seen: &ComeAndGo, percent: f64) -> Vec<Finding> {
    let of = |tables: &Tables| tables.nodes.get(node).and_then(NodeTable::table);
    let (Some(before), Some(without), Some(back)) = (of(&seen.before), of(&seen.without), of(&seen.back)) else {
        return vec![Finding::new("no-table", node, "a table is missing")];
    };
    let mut found = vec![];
    if without.backends.contains(&seen.gone) {
        found.push(Finding::new("still-there", node, format!("{} still has slots", seen.gone)));
    }
    for (way, one, other) in [("goes", &before, &without), ("comes", &without, &back)] {
        let moved = Disruption::between(one, other);
        if moved.share() * 100.0 > percent {
            let message =
                format!("{} of {} slots of the survivors moved when a backend {way}", moved.moved, moved.held);
            found.push(Finding::new("too-many-moved", node, message));
        }
    }
    let freed = (0..before.slots.len()).filter(|slot| before.backend(*slot) == Some(seen.gone.as_str()));
    let heirs: BTreeSet<&str> = freed.filter_map(|slot| without.backend(slot)).collect();
    if heirs.len() != without.backends.len() {
        found.push(Finding::new("one-heir", node, format!("its slots went to {heirs:?} only")));
    }
    if back != before {
        found.push(Finding::new("not-as-before", node, "the table with the backend is another one than before"));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::codes;
    use serde_json::json;

    fn names(count: usize) -> Vec<String> {
        (1..=count).map(|n| format!("10.0.0.{n}:8080")).collect()
    }

    fn tables_of(backends: Vec<String>, seed: &str) -> Tables {
        let seed: HashSeed = seed.parse().unwrap();
        let table = Table::of_equals(backends.clone(), 251, seed).unwrap();
        let slots: Vec<String> = (0..251).map(|slot| table.backend(slot).unwrap().to_owned()).collect();
        let node = NodeTable::new("10.9.0.1:31940".into(), &slots).unwrap();
        let cluster = vec!["a".to_owned(), "b".to_owned()];
        let settings = Settings { algorithm: "maglev".into(), size: 251, seed, backends };
        Tables { settings, nodes: cluster.iter().map(|name| (name.clone(), node.clone())).collect(), cluster }
    }

    #[test]
    fn one_slot_is_enough_to_be_found() {
        let good = tables_of(names(4), DEFAULT_SEED);
        assert!(codes(ours_on_every_node(2).judge(&good)).is_empty());
        let mut bad = good.clone();
        let slots = &mut bad.nodes.get_mut("b").unwrap().slots;
        let first = if slots.starts_with('0') { "1" } else { "0" };
        slots.replace_range(0..1, first);
        assert_eq!(codes(ours_on_every_node(2).judge(&bad)), ["table-differs"]);
        let mut seeded = good.clone();
        seeded.nodes.insert("b".into(), tables_of(names(4), "AAECAwQFBgcICQoL").nodes["b"].clone());
        assert_eq!(codes(ours_on_every_node(2).judge(&seeded)), ["table-differs"]);
        let mut missing = good.clone();
        missing.nodes.remove("a");
        assert_eq!(codes(ours_on_every_node(2).judge(&missing)), ["no-table"]);
        let mut random = good;
        random.settings.algorithm = "random".into();
        assert_eq!(codes(ours_on_every_node(2).judge(&random)), ["not-maglev"]);
    }

    #[test]
    fn coming_and_going_is_judged() {
        let all = tables_of(names(4), DEFAULT_SEED);
        let rest: Vec<String> = names(4).into_iter().skip(1).collect();
        let seen = ComeAndGo {
            before: all.clone(),
            gone: names(1)[0].clone(),
            without: tables_of(rest.clone(), DEFAULT_SEED),
            back: all.clone(),
        };
        assert!(codes(few_slots_move(2, 10.0).judge(&seen)).is_empty());
        let reseeded = ComeAndGo { without: tables_of(rest, "AAECAwQFBgcICQoL"), ..seen.clone() };
        assert!(codes(few_slots_move(2, 10.0).judge(&reseeded)).contains(&"too-many-moved".to_owned()));
        let stayed = ComeAndGo { without: all, ..seen };
        assert!(codes(few_slots_move(2, 10.0).judge(&stayed)).contains(&"still-there".to_owned()));
    }

    #[test]
    fn an_agents_answers_are_understood() {
        let backend = |ip: &str| json!({"ip": ip, "port": 8080});
        let services = json!([{"spec": {"id": 7, "frontend-address": {"ip": "10.9.0.1", "port": 31940},
            "backend-addresses": [backend("10.0.0.1"), backend("10.0.0.2")]}}]);
        assert_eq!(service_id(&services, "10.9.0.1", 31940), Some(7));
        assert_eq!(service_id(&services, "10.9.0.2", 31940), None);
        let tables = json!({"[7]/v4": ["[3 4 3]"]});
        let backends = json!({"3": ["ANY://10.0.0.1"], "4": ["ANY://10.0.0.2"]});
        let named = addresses(&services, 7);
        assert_eq!(slots(&tables, 7, &backends, &named).unwrap(), ["10.0.0.1:8080", "10.0.0.2:8080", "10.0.0.1:8080"]);
    }
}
