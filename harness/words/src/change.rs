//! Sabotages and fixtures made of changes to objects of the API: patched, deleted, added. Undone as found; shown to have
//! landed, and to be taken back, by a signal that every apiserver is asked for where one is given.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::Duration;

use futures::future::BoxFuture;
use kube::client::Client;
use serde_json::Value;
use shakedown_core::{Answer, Resource, Touches, UndoStep, wait_for};
use shakedown_engine::{Fixture, PlantError, Prepared, Sabotage, WorldError};

use crate::api::Patch;
use crate::objects::ObjectRef;
use crate::platform::Platform;
use crate::undo::{as_found, desired};

/// How long the apiservers (their caches follow by watch) or a controller may take to take in a change of an object.
const TAKEN_IN: Duration = Duration::from_secs(120);

/// What an apiserver says about something: one line that a change alters.
pub type Signal = Box<dyn for<'a> Fn(&'a Platform, &'a Client) -> BoxFuture<'a, Result<String, String>> + Send + Sync>;

/// One change of one object.
#[derive(Debug, Clone, PartialEq)]
pub enum Step {
    /// Patched.
    Patch(ObjectRef, Patch, Value),
    /// Deleted.
    Delete(ObjectRef),
    /// Created; it must not exist before.
    Add(Value),
}

impl Step {
    fn object(&self) -> Result<ObjectRef, PlantError> {
        match self {
            Step::Patch(object, ..) | Step::Delete(object) => Ok(object.clone()),
            Step::Add(manifest) => {
                ObjectRef::of(manifest).ok_or_else(|| PlantError::new("a manifest without kind or name"))
            }
        }
    }
}

/// Changes of objects that together are one defect, or one state that checks share.
pub struct Change {
    what: String,
    steps: Vec<Step>,
    signal: Option<Signal>,
    before: Mutex<BTreeMap<String, String>>,
}

/// A change that is described so.
fn change(what: impl Into<String>, step: Step) -> Change {
    Change { what: what.into(), steps: vec![step], signal: None, before: Mutex::default() }
}

/// Patches an object by RFC 7386.
pub fn patched(what: impl Into<String>, object: ObjectRef, patch: Value) -> Change {
    change(what, Step::Patch(object, Patch::Merge, patch))
}

/// Patches an object by RFC 6902.
pub fn json_patched(what: impl Into<String>, object: ObjectRef, patch: Value) -> Change {
    change(what, Step::Patch(object, Patch::Json, patch))
}

/// Deletes an object.
pub fn deleted(what: impl Into<String>, object: ObjectRef) -> Change {
    change(what, Step::Delete(object))
}

/// Adds an object.
pub fn added(what: impl Into<String>, manifest: Value) -> Change {
    change(what, Step::Add(manifest))
}

impl Change {
    /// Does this as well.
    #[must_use]
    pub fn and(mut self, other: Change) -> Self {
        self.steps.extend(other.steps);
        self
    }

    /// It has landed when this says something else on every apiserver, and is taken back when it says the same as before.
    #[must_use]
    pub fn shown_by(mut self, signal: Signal) -> Self {
        self.signal = Some(signal);
        self
    }

    /// What the signal says on every apiserver.
    async fn sample(&self, platform: &Platform, signal: &Signal) -> Result<BTreeMap<String, String>, String> {
        if platform.apiservers().is_empty() {
            return Ok(BTreeMap::from([("the API".to_owned(), signal(platform, platform.admin()).await?)]));
        }
        let mut all = BTreeMap::new();
        for (name, client) in platform.apiservers() {
            all.insert(name.clone(), signal(platform, client).await?);
        }
        Ok(all)
    }

    async fn signalled(&self, platform: &Platform, what: &str, fits: fn(&str, &str) -> bool) -> Result<(), PlantError> {
        let Some(signal) = &self.signal else { return Ok(()) };
        let before = self.before.lock().map(|before| before.clone()).unwrap_or_default();
        wait_for(what, TAKEN_IN, || async {
            match self.sample(platform, signal).await {
                Err(why) => Answer::NotYet(why),
                Ok(now) => match now.iter().find(|(name, says)| !before.get(*name).is_some_and(|b| fits(b, says))) {
                    None => Answer::Ready(()),
                    Some((name, says)) => Answer::NotYet(format!("{name}: {says}")),
                },
            }
        })
        .await
        .map_err(PlantError::new)
    }

    async fn undo_steps(&self, platform: &Platform) -> Result<Vec<UndoStep>, PlantError> {
        let mut steps = vec![];
        for step in &self.steps {
            let object = step.object()?;
            let undo = as_found(platform, &object).await.map_err(PlantError::new)?;
            match (step, &undo) {
                (Step::Add(_), UndoStep::RestoreObject { .. }) => {
                    return Err(PlantError::new(format!("{object} is there already: it is left alone")));
                }
                (Step::Patch(..) | Step::Delete(_), UndoStep::DeleteObject { .. }) => {
                    return Err(PlantError::new(format!("{object} does not exist: there is nothing to change")));
                }
                _ => steps.push(undo),
            }
        }
        Ok(steps)
    }

    async fn carry_out(&self, platform: &Platform) -> Result<(), PlantError> {
        if let Some(signal) = &self.signal {
            let now = self.sample(platform, signal).await.map_err(PlantError::new)?;
            if let Ok(mut before) = self.before.lock() {
                *before = now;
            }
        }
        for step in &self.steps {
            one(platform, step).await?;
        }
        self.signalled(platform, &format!("effect of: {}", self.what), |before, now| before != now).await
    }

    fn written(&self) -> Touches {
        self.steps.iter().filter_map(|step| step.object().ok()).fold(Touches::nothing(), |touches, object| {
            touches.writes(match (object.kind.as_str(), object.namespace) {
                ("Namespace", _) => Resource::Namespace(object.name),
                (_, Some(namespace)) => Resource::Namespace(namespace),
                // Cluster-wide roles, bindings, definitions: who may do what anywhere.
                (_, None) => Resource::Component("cluster-wide".to_owned()),
            })
        })
    }
}

/// Does one step and proves it by the object itself.
async fn one(platform: &Platform, step: &Step) -> Result<(), PlantError> {
    match step {
        Step::Patch(object, kind, patch) => {
            let before = platform.get(object).await.map_err(PlantError::new)?;
            let after = platform.patch(object, *kind, patch).await.map_err(PlantError::new)?;
            if before.is_some_and(|before| desired(&before) == desired(&after)) {
                return Err(PlantError::new(format!("{object} was like this before: the patch changed nothing")));
            }
            Ok(())
        }
        Step::Delete(object) => platform.delete_and_wait(object, TAKEN_IN).await.map_err(PlantError::new),
        Step::Add(manifest) => {
            let answer = platform.create(manifest).await.map_err(PlantError::new)?;
            if answer.is_ok() { Ok(()) } else { Err(PlantError::new(answer.message())) }
        }
    }
}

impl Sabotage<Platform> for Change {
    type Choice = ();

    fn describe(&self) -> String {
        self.what.clone()
    }

    fn touches(&self) -> Touches {
        self.written()
    }

    async fn prepare(&self, platform: &Platform) -> Result<Prepared<()>, PlantError> {
        Ok(Prepared::new((), self.undo_steps(platform).await?))
    }

    async fn plant(&self, platform: &Platform, (): &()) -> Result<(), PlantError> {
        self.carry_out(platform).await
    }

    async fn settled(&self, platform: &Platform) -> Result<(), PlantError> {
        self.signalled(platform, &format!("end of: {}", self.what), |before, now| before == now).await
    }
}

/// Name of the undo that takes objects down at once: a namespace takes seconds to go, and several go together.
pub const TAKEN_DOWN: &str = "objects-at-once";

/// Does all steps side by side.
pub fn take_down<'a>(platform: &'a Platform, data: &'a Value) -> BoxFuture<'a, Result<(), WorldError>> {
    Box::pin(async move {
        let steps: Vec<UndoStep> =
            serde_json::from_value(data.clone()).map_err(|e| WorldError(format!("journal: {e}")))?;
        futures::future::try_join_all(steps.iter().map(|step| crate::undo::undo(platform, step))).await.map(|_| ())
    })
}

/// A change that several checks share.
pub struct Shared {
    name: &'static str,
    change: Change,
}

/// Objects that several checks share.
pub fn shared(name: &'static str, manifests: Vec<Value>) -> Shared {
    let steps = manifests.into_iter().map(Step::Add).collect();
    Shared { name, change: Change { what: name.to_owned(), steps, signal: None, before: Mutex::default() } }
}

impl Shared {
    /// It is set up once this has changed on every apiserver.
    #[must_use]
    pub fn shown_by(mut self, signal: Signal) -> Self {
        self.change = self.change.shown_by(signal);
        self
    }
}

impl Fixture<Platform> for Shared {
    fn name(&self) -> &'static str {
        self.name
    }

    fn touches(&self) -> Touches {
        self.change.written()
    }

    async fn undo_plan(&self, platform: &Platform) -> Result<Vec<UndoStep>, PlantError> {
        // Each step alone proves that the object is not there yet; together they are taken down at once.
        let steps = self.change.undo_steps(platform).await?;
        let data = serde_json::to_value(steps).map_err(PlantError::new)?;
        Ok(vec![UndoStep::Custom { word: TAKEN_DOWN.to_owned(), data }])
    }

    async fn set_up(&self, platform: &Platform) -> Result<(), PlantError> {
        self.change.carry_out(platform).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::FakeApi;
    use serde_json::json;

    fn map(value: &str) -> Value {
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a", "namespace": "n"}, "data": {"k": value}})
    }

    fn a() -> ObjectRef {
        ObjectRef::namespaced("v1", "ConfigMap", "n", "a")
    }

    fn value_of_a() -> Signal {
        Box::new(|platform, _| {
            Box::pin(async move {
                let live = platform.get(&a()).await.map_err(|e| e.to_string())?;
                Ok(live.map_or_else(|| "gone".to_owned(), |live| live["data"]["k"].to_string()))
            })
        })
    }

    #[tokio::test]
    async fn a_patch_is_planted_proved_and_undone() {
        let platform = Platform::for_test(FakeApi::with([map("found")]).client(), vec![]);
        let change = patched("k is broken", a(), json!({"data": {"k": "broken", "new": "x"}})).shown_by(value_of_a());
        let undo = change.prepare(&platform).await.unwrap().undo;
        change.plant(&platform, &()).await.unwrap();
        assert_eq!(platform.get(&a()).await.unwrap().unwrap()["data"]["k"], "broken");
        for step in undo.iter().rev() {
            crate::undo::undo(&platform, step).await.unwrap();
        }
        change.settled(&platform).await.unwrap();
        assert_eq!(platform.get(&a()).await.unwrap().unwrap()["data"], json!({"k": "found"}));
    }

    #[tokio::test]
    async fn a_patch_that_changes_nothing_is_not_planted() {
        let platform = Platform::for_test(FakeApi::with([map("found")]).client(), vec![]);
        let change = patched("nothing", a(), json!({"data": {"k": "found"}}));
        assert!(change.plant(&platform, &()).await.unwrap_err().0.contains("changed nothing"));
    }

    #[tokio::test]
    async fn shared_objects_are_taken_down_together() {
        let platform = Platform::for_test(FakeApi::default().client(), vec![]);
        let both = shared(
            "two",
            vec![map("one"), json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "x"}})],
        );
        let undo = Fixture::undo_plan(&both, &platform).await.unwrap();
        both.set_up(&platform).await.unwrap();
        assert!(platform.get(&a()).await.unwrap().is_some());
        for _ in 0..2 {
            crate::undo::undo(&platform, &undo[0]).await.unwrap();
        }
        assert_eq!(platform.get(&a()).await.unwrap(), None);
        assert_eq!(platform.get(&ObjectRef::cluster("v1", "Namespace", "x")).await.unwrap(), None);
    }

    #[tokio::test]
    async fn what_is_there_already_is_left_alone() {
        let platform = Platform::for_test(FakeApi::with([map("found")]).client(), vec![]);
        assert!(added("again", map("other")).prepare(&platform).await.is_err());
        let absent = deleted("absent", ObjectRef::namespaced("v1", "ConfigMap", "n", "b"));
        assert!(absent.prepare(&platform).await.is_err());
    }
}
