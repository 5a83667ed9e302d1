//! One change of all three apiservers' manifests under a stream of requests, in the documented order: the first control
//! plane alone, then the others together (ENC-001, ENC-043 to ENC-045, ENC-069).

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use serde_json::json;
use shakedown_core::{Finding, Judgement, Observation, Resource, Touches};
use shakedown_engine::{Cx, Expect, ObserveError, Probe, expect_fn};

use crate::node_command::Which;
use crate::objects::ObjectRef;
use crate::platform::Platform;
use crate::roll::{Rolled, Streamed, back, manifest, process, roll, stream, with_argument};
use crate::settled::{as_found, settled};

/// The argument that is added: its value is the default, so nothing but the process changes.
const ARGUMENT: &str = "--event-ttl=1h0m0s";
/// The documented time for one apiserver (ENC-043).
const DOCUMENTED: Duration = Duration::from_secs(80);
/// Between two requests of the stream.
const PAUSE: Duration = Duration::from_millis(150);
/// How long the namespace of the stream may take to go: only once a controller manager leads again.
const NAMESPACE: Duration = Duration::from_secs(300);

/// How it went.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rolling {
    /// The control planes in the order of the change.
    pub order: Vec<String>,
    /// Each of them.
    pub rolled: BTreeMap<String, Rolled>,
    /// Control planes whose apiserver was another process while only the first one's manifest was changed.
    pub restarted_besides: Vec<String>,
    /// The stream through the documented endpoint.
    pub stream: Streamed,
}

impl Observation for Rolling {
    const SCHEMA: &'static str = "rolling/1";
}

/// Changes the manifests and puts them back.
#[derive(Debug, Clone)]
pub struct Rolls {
    all_at_once: bool,
}

/// The first control plane, then the others.
pub fn one_then_the_others() -> Rolls {
    Rolls { all_at_once: false }
}

/// All of them together.
pub fn all_at_once() -> Rolls {
    Rolls { all_at_once: true }
}

/// Makes the namespace of a stream, removed afterwards.
pub(crate) async fn namespace(platform: &Platform, cx: &Cx) -> Result<(String, ObjectRef), ObserveError> {
    let name = cx.name("shakedown-stream");
    let object = ObjectRef::cluster("v1", "Namespace", &name);
    cx.undo_afterwards(vec![object.deletion()])?;
    let made = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
    let answer = platform.create(&made).await.map_err(ObserveError::no_ground)?;
    if answer.is_ok() { Ok((name, object)) } else { Err(ObserveError::no_ground(answer.message().to_owned())) }
}

impl Probe<Platform> for Rolls {
    type Seen = Rolling;

    fn touches(&self) -> Touches {
        Touches::nothing().writes(Resource::Apiserver).writes(Resource::Nodes)
    }

    async fn observe(&self, platform: &Platform, cx: &Cx) -> Result<Rolling, ObserveError> {
        let working = as_found(platform).await?;
        let order = Which::ControlPlanes.on(platform);
        let mut found = BTreeMap::new();
        for node in &order {
            let (file, undo) = manifest(platform, node).await?;
            cx.undo_afterwards(vec![undo])?;
            found.insert(node.clone(), file);
        }
        let (name, object) = namespace(platform, cx).await?;
        let streaming = stream(platform, &name, PAUSE);
        let went = self.change(platform, cx, &order, &found).await;
        let streamed = streaming.end().await;
        // Back in the same order, whatever came before: one apiserver is always there.
        for node in &order {
            cx.waiting(format!("the apiserver of {node} to run as found"), "");
            let file = found.get(node).ok_or_else(|| ObserveError::harness("a manifest was not kept"))?;
            back(platform, node, file).await?;
        }
        cx.waiting("all that lives off the apiservers", "");
        settled(platform, Some(&working)).await?;
        platform.delete_and_wait(&object, NAMESPACE).await.map_err(ObserveError::no_ground)?;
        let (rolled, restarted_besides) = went?;
        Ok(Rolling { order, rolled, restarted_besides, stream: streamed? })
    }
}

impl Rolls {
    async fn change(
        &self,
        platform: &Platform,
        cx: &Cx,
        order: &[String],
        found: &BTreeMap<String, crate::machine::FileFound>,
    ) -> Result<(BTreeMap<String, Rolled>, Vec<String>), ObserveError> {
        let since = Instant::now();
        let mut changed = BTreeMap::new();
        for (node, file) in found {
            let text =
                with_argument(&String::from_utf8_lossy(&file.content), ARGUMENT).map_err(ObserveError::no_ground)?;
            changed.insert(node.clone(), (text, file.mode));
        }
        let one = async |node: &String| -> Result<(String, Rolled), ObserveError> {
            let (text, mode) = changed.get(node).ok_or_else(|| ObserveError::harness("a manifest was not kept"))?;
            Ok((node.clone(), roll(platform, node, text.as_bytes(), *mode, since).await?))
        };
        let mut processes = vec![];
        for node in order {
            processes.push(process(platform, node).await.map_err(ObserveError::no_ground)?);
        }
        let mut rolled = BTreeMap::new();
        let mut besides = vec![];
        let mut rest = order;
        if let (false, Some((first, others))) = (self.all_at_once, order.split_first()) {
            cx.waiting(format!("the apiserver of {first} to be replaced"), "");
            rolled.extend([one(first).await?]);
            for (node, before) in others.iter().zip(&processes[1..]) {
                if process(platform, node).await.map_err(ObserveError::no_ground)? != *before {
                    besides.push(node.clone());
                }
            }
            rest = others;
        }
        cx.waiting("the other apiservers to be replaced", "");
        let many = futures::future::join_all(rest.iter().map(one)).await;
        for outcome in many {
            rolled.extend([outcome?]);
        }
        Ok((rolled, besides))
    }
}

/// One apiserver was always there: the first was ready before the others fell silent, each within the documented time; only
/// what was changed was restarted; the stream lost no acknowledged write, and nothing failed twice.
pub fn never_without_an_apiserver(count: usize) -> impl Expect<Rolling> {
    expect_fn(move |seen: &Rolling| {
        if seen.rolled.len() != count || seen.stream.acknowledged == 0 {
            let why = format!("{} apiservers, {} writes acknowledged", seen.rolled.len(), seen.stream.acknowledged);
            return Judgement::Inconclusive(why);
        }
        let mut found = vec![];
        let silent = seen.rolled.values().map(|it| it.silent_ms).max().unwrap_or_default();
        let ready = seen.rolled.values().map(|it| it.ready_ms).min().unwrap_or_default();
        if silent < ready {
            let said = format!("none answered for {} ms", ready - silent);
            found.push(Finding::new("all-down", "every apiserver", said));
        }
        for (node, it) in &seen.rolled {
            let took = Duration::from_millis(it.ready_ms - it.changed_ms);
            if took > DOCUMENTED {
                found.push(Finding::new("too-slow", node, format!("ready {} s after the change", took.as_secs())));
            }
            if !it.new_process {
                found.push(Finding::new("not-restarted", node, "it is the process of before"));
            }
        }
        for node in &seen.restarted_besides {
            found.push(Finding::new("restarted-besides", node, "its manifest was not changed yet"));
        }
        if !seen.stream.lost.is_empty() {
            let said =
                format!("of {} acknowledged writes these are gone: {:?}", seen.stream.acknowledged, seen.stream.lost);
            found.push(Finding::new("write-lost", "the stream", said));
        }
        if seen.stream.failed_twice > 0 && found.is_empty() {
            let said = format!("{} of {} requests", seen.stream.failed_twice, seen.stream.requests);
            found.push(Finding::new("failed-twice", "the stream", said));
        }
        Judgement::from_findings(found)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::codes;

    fn rolled(changed_ms: u64, silent_ms: u64, ready_ms: u64) -> Rolled {
        Rolled { changed_ms, silent_ms, ready_ms, new_process: true }
    }

    fn good() -> Rolling {
        let three = [("a", rolled(0, 1, 40)), ("b", rolled(50, 51, 60)), ("c", rolled(50, 52, 61))];
        Rolling {
            order: vec!["a".into(), "b".into(), "c".into()],
            rolled: three.into_iter().map(|(name, it)| (name.to_owned(), it)).collect(),
            restarted_besides: vec![],
            stream: Streamed { acknowledged: 9, requests: 18, failed_once: 1, ..Streamed::default() },
        }
    }

    #[test]
    fn each_defect_has_its_code() {
        type Break = fn(&mut Rolling);
        let cases: &[(&[&str], Break)] = &[
            (&[], |_| ()),
            (&["all-down"], |it| {
                it.rolled.insert("a".into(), rolled(50, 53, 60));
            }),
            (&["too-slow"], |it| {
                it.rolled.insert("c".into(), rolled(50, 52, 90_000));
            }),
            (&["restarted-besides"], |it| it.restarted_besides.push("b".into())),
            (&["write-lost"], |it| it.stream.lost.push(3)),
            (&["failed-twice"], |it| it.stream.failed_twice = 1),
        ];
        for (want, breaks) in cases {
            let mut it = good();
            breaks(&mut it);
            assert_eq!(codes(never_without_an_apiserver(3).judge(&it)), *want);
        }
        assert!(codes(never_without_an_apiserver(5).judge(&good()))[0].starts_with("Inconclusive"));
    }
}
