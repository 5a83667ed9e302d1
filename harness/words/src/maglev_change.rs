//! Maglev under change: a backend that goes and comes back, and a node whose table is of another seed.

use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};
use shakedown_core::{Answer, Resource, Touches, UndoStep, wait_for};
use shakedown_engine::{Cx, ObserveError, PlantError, Prepared, Probe, Sabotage};

use crate::api::Patch;
use crate::echo::{self, EchoPod};
use crate::maglev::{ComeAndGo, Tables, read_tables, service_id};
use crate::maglev_table::{HashSeed, Table};
use crate::node_command::script;
use crate::objects::ObjectRef;
use crate::platform::Platform;
use crate::pod_command::ask_agents_json;
use crate::wire::node_address;

/// How long all nodes may take to have a new table.
const NEW_TABLE: Duration = Duration::from_secs(20);
/// How long a node's command may take.
const COMMAND: Duration = Duration::from_secs(20);
/// The pinned map of tables.
const OUTER: &str = "/sys/fs/bpf/tc/globals/cilium_lb4_maglev";
/// Where a table lies on the node while it is written.
const FILE: &str = "/run/shakedown-maglev-table";
/// A seed that no cluster uses.
const OTHER_SEED: [u8; 12] = *b"shakedown!!!";

/// Takes one backend out of the Service and puts it back.
pub struct TakeOut;

/// The tables before, without one backend, and with it again.
pub fn a_backend_comes_and_goes() -> TakeOut {
    TakeOut
}

async fn set_serving(platform: &Platform, pod: &EchoPod, serving: bool) -> Result<(), ObserveError> {
    let object = ObjectRef::namespaced("v1", "Pod", echo::NAMESPACE, &pod.name);
    let label = if serving { json!("yes") } else { Value::Null };
    let patch = json!({"metadata": {"labels": {echo::SERVES: label}}});
    platform.patch(&object, Patch::Merge, &patch).await.map(drop).map_err(ObserveError::no_ground)
}

/// Waits until every node's table holds exactly the backends that the API has, and there are so many.
async fn tables_with(platform: &Platform, cx: &Cx, backends: usize) -> Result<Tables, ObserveError> {
    wait_for(&format!("tables with {backends} backends"), NEW_TABLE.min(cx.budget), || async {
        match read_tables(platform).await {
            Ok(tables) => {
                let want = &tables.settings.backends;
                let late: Vec<_> =
                    tables.nodes.iter().filter(|(_, t)| t.backends != *want).map(|(n, _)| n.clone()).collect();
                if want.len() == backends && late.is_empty() && tables.nodes.len() == tables.cluster.len() {
                    return Answer::Ready(tables);
                }
                Answer::NotYet(format!("{} backends in the API, other ones on {late:?}", want.len()))
            }
            Err(e) => Answer::NotYet(e.to_string()),
        }
    })
    .await
    .map_err(ObserveError::no_ground)
}

impl Probe<Platform> for TakeOut {
    type Seen = ComeAndGo;

    fn touches(&self) -> Touches {
        Touches::nothing()
            .reads(Resource::Component("cilium".into()))
            .writes(Resource::Namespace(echo::NAMESPACE.into()))
    }

    async fn observe(&self, platform: &Platform, cx: &Cx) -> Result<ComeAndGo, ObserveError> {
        let before = read_tables(platform).await?;
        let running = echo::running(platform).await?;
        let pod = running.servers.into_values().next().ok_or_else(|| ObserveError::no_ground("no echo server"))?;
        let object = ObjectRef::namespaced("v1", "Pod", echo::NAMESPACE, &pod.name);
        let found = crate::undo::as_found(platform, &object).await.map_err(ObserveError::no_ground)?;
        cx.undo_afterwards(vec![found])?;
        let count = before.settings.backends.len();
        set_serving(platform, &pod, false).await?;
        let without = tables_with(platform, cx, count - 1).await;
        set_serving(platform, &pod, true).await?;
        let back = tables_with(platform, cx, count).await?;
        Ok(ComeAndGo { before, gone: format!("{}:{}", pod.ip, echo::HTTP), without: without?, back })
    }
}

/// Which table is put in the place of the agent's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Instead {
    OtherSeed,
    OneBackendLess,
}

/// The datapath of one node has another table than its agent computed.
pub struct OtherTable(Instead);

/// On the last node the table of the echo Service is the one that another seed gives.
pub fn table_of_another_seed() -> OtherTable {
    OtherTable(Instead::OtherSeed)
}

/// On the last node one backend of the echo Service has no slot in the table.
pub fn table_without_one_backend() -> OtherTable {
    OtherTable(Instead::OneBackendLess)
}

/// Where the table is, and what is needed to change a table in place.
pub struct Place {
    node: String,
    /// The command that finds the entry which leads to the table, and that entry.
    find: String,
    entry: String,
    /// The table's own map.
    map: u32,
    /// The table as it is, ids as 32 bit numbers in the machine's order.
    now: Vec<u8>,
    /// The table of another seed.
    other: Vec<u8>,
}

impl OtherTable {
    async fn place(&self, platform: &Platform) -> Result<Place, PlantError> {
        let tables = read_tables(platform).await.map_err(PlantError::new)?;
        let node = tables.nodes.keys().next_back().ok_or_else(|| PlantError::new("no node has a table"))?.clone();
        let (_, port) = echo::service(platform).await.map_err(PlantError::new)?;
        let address = node_address(platform, &node).await.map_err(PlantError::new)?;
        let ask = |args: &'static [&'static str]| async {
            let all = ask_agents_json(platform, args, COMMAND).await.map_err(PlantError::new)?;
            all.get(&node).cloned().ok_or_else(|| PlantError::new("the agent gave no answer"))
        };
        let services = ask(&["service", "list"]).await?;
        let id =
            service_id(&services, &address, port).ok_or_else(|| PlantError::new("the agent has no such frontend"))?;
        let dump = ask(&["bpf", "lb", "maglev", "list"]).await?;
        let numbers = dump[format!("[{id}]/v4")][0].as_str().unwrap_or_default();
        let numbers: Result<Vec<u32>, _> =
            numbers.trim_matches(['[', ']']).split_whitespace().map(str::parse).collect();
        let numbers = numbers.map_err(PlantError::new)?;
        let theirs = tables.nodes[&node].table().ok_or_else(|| PlantError::new("the table is damaged"))?;
        let settings = &tables.settings;
        let other = match self.0 {
            Instead::OtherSeed => Table::of_equals(settings.backends.clone(), settings.size, HashSeed::new(OTHER_SEED)),
            Instead::OneBackendLess => {
                Table::of_equals(settings.backends.iter().skip(1).cloned(), settings.size, settings.seed)
            }
        };
        let other = other.map_err(PlantError::new)?;
        // The id of a backend is the one that the table has in any of the backend's slots.
        let id_of =
            |name: &str| (0..numbers.len()).find(|slot| theirs.backend(*slot) == Some(name)).map(|slot| numbers[slot]);
        let ids: Option<Vec<u32>> = (0..other.slots.len()).map(|slot| other.backend(slot).and_then(id_of)).collect();
        let ids = ids.ok_or_else(|| PlantError::new("the table lacks a backend"))?;
        let bytes = |ids: &[u32]| ids.iter().flat_map(|id| id.to_ne_bytes()).collect::<Vec<u8>>();
        // The key is the service's id in network order; the value is the id of the table's own map.
        let key = u16::try_from(id).map_err(PlantError::new)?.to_be_bytes();
        let find = format!("bpftool -j map lookup pinned {OUTER} key hex {:02x} {:02x}", key[0], key[1]);
        let entry = script(platform, &node, &find, COMMAND).await.map_err(PlantError::new)?;
        let entry = String::from_utf8_lossy(&entry).trim().to_owned();
        let map = map_id(&entry).ok_or_else(|| PlantError::new(format!("{node} has no map of the table: {entry}")))?;
        Ok(Place { node, find, entry, map, now: bytes(&numbers), other: bytes(&ids) })
    }
}

/// The id of a table's own map in the entry that leads to it.
fn map_id(entry: &str) -> Option<u32> {
    let entry: Value = serde_json::from_str(entry).ok()?;
    let digits = entry["value"].as_array()?.iter().filter_map(Value::as_str);
    let bytes: Option<Vec<u8>> = digits.map(|d| u8::from_str_radix(d.trim_start_matches("0x"), 16).ok()).collect();
    Some(u32::from_ne_bytes(bytes?.try_into().ok()?))
}

/// A command that writes the file's bytes into the map.
fn write(map: u32) -> String {
    format!("bpftool map update id {map} key hex 00 00 00 00 value hex $(od -An -v -tx1 {FILE})")
}

impl Sabotage<Platform> for OtherTable {
    type Choice = Place;

    fn describe(&self) -> String {
        match self.0 {
            Instead::OtherSeed => "one node's datapath has the Maglev table of another seed".into(),
            Instead::OneBackendLess => "one backend has no slot in the Maglev table of one node".into(),
        }
    }

    fn touches(&self) -> Touches {
        Touches::nothing()
            .writes(Resource::Component("cilium".into()))
            .writes(Resource::Namespace(echo::NAMESPACE.into()))
    }

    async fn prepare(&self, platform: &Platform) -> Result<Prepared<Self::Choice>, PlantError> {
        let place = self.place(platform).await?;
        // Where the agent has made a new table since, there is nothing left to be put back.
        let text = format!("[ \"$({})\" = '{}' ] || exit 0; {}", place.find, place.entry, write(place.map));
        let argv = ["/bin/sh", "-ec", &text].map(str::to_owned).to_vec();
        let node = place.node.clone();
        let undo = vec![
            UndoStep::RemoveFile { node: node.clone(), path: FILE.to_owned() },
            UndoStep::RunOnNode { node: node.clone(), argv, tolerate_failure: false },
            UndoStep::RestoreFile {
                node,
                path: FILE.to_owned(),
                content: BASE64_STANDARD.encode(&place.now),
                mode: 0o600,
            },
        ];
        Ok(Prepared::new(place, undo))
    }

    async fn plant(&self, platform: &Platform, place: &Place) -> Result<(), PlantError> {
        let machine = platform.machine(&place.node).map_err(PlantError::new)?;
        machine.write(FILE, &place.other, 0o600).await.map_err(PlantError::new)?;
        let text = format!("{}; rm -f {FILE}", write(place.map));
        script(platform, &place.node, &text, COMMAND).await.map_err(PlantError::new)?;
        let landed = self.place(platform).await?;
        if landed.now == place.other {
            Ok(())
        } else {
            Err(PlantError::new("the table is not the one that was written"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_leads_to_its_map() {
        let entry = r#"{"key":["0x00","0x14"],"value":["0xbf","0x0f","0x00","0x00"]}"#;
        assert_eq!(map_id(entry), Some(4031));
        assert_eq!(map_id("{}"), None);
    }
}
