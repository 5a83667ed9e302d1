//! Fields of objects, and kinds that the API serves.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use shakedown_core::{Finding, Judgement, Observation, Resource, Touches};
use shakedown_engine::{Cx, Expect, ObserveError, Probe};

use crate::api::Ask;
use crate::change::Signal;
use crate::objects::{ObjectRef, version_path};
use crate::platform::Platform;

/// What the probe saw of one object.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fields {
    /// The object.
    pub object: String,
    /// Whether it exists.
    pub exists: bool,
    /// JSON pointer (RFC 6901) to the value there; null where there is none.
    pub values: BTreeMap<String, Value>,
}

impl Observation for Fields {
    const SCHEMA: &'static str = "fields/1";
}

/// Looks at fields of one object.
#[derive(Debug, Clone)]
pub struct FieldsOf {
    object: ObjectRef,
    pointers: &'static [&'static str],
}

/// Looks at these fields (JSON pointers) of one object. Not for Secrets: their values must not become evidence.
pub fn of(object: ObjectRef, pointers: &'static [&'static str]) -> FieldsOf {
    FieldsOf { object, pointers }
}

impl Probe<Platform> for FieldsOf {
    type Seen = Fields;

    fn touches(&self) -> Touches {
        match (&self.object.namespace, self.object.kind.as_str()) {
            (Some(namespace), _) => Touches::nothing().reads(Resource::Namespace(namespace.clone())),
            (None, "Namespace") => Touches::nothing().reads(Resource::Namespace(self.object.name.clone())),
            (None, _) => Touches::nothing().reads(Resource::Component("cluster-wide".to_owned())),
        }
    }

    async fn observe(&self, platform: &Platform, _: &Cx) -> Result<Fields, ObserveError> {
        if self.object.kind == "Secret" {
            return Err(ObserveError::harness(format!("{}: a Secret's fields are not evidence", self.object)));
        }
        let live = platform.get(&self.object).await.map_err(ObserveError::no_ground)?;
        let at = |pointer: &str| live.as_ref().and_then(|live| live.pointer(pointer)).cloned().unwrap_or_default();
        Ok(Fields {
            object: self.object.to_string(),
            exists: live.is_some(),
            values: self.pointers.iter().map(|&pointer| (pointer.to_owned(), at(pointer))).collect(),
        })
    }
}

/// Each field has exactly its value.
pub struct Are(Vec<(&'static str, Value)>);

/// Each field has exactly its value.
pub fn are(values: Vec<(&'static str, Value)>) -> Are {
    Are(values)
}

impl Expect<Fields> for Are {
    fn judge(&self, seen: &Fields) -> Judgement {
        if !seen.exists {
            return Judgement::fail("object-missing", &seen.object, "it does not exist");
        }
        let mut findings = vec![];
        for (pointer, expected) in &self.0 {
            match seen.values.get(*pointer) {
                None => return Judgement::Inconclusive(format!("{pointer} was not looked at")),
                Some(value) if value != expected => {
                    let message = format!("{pointer}: expected {expected}, is {value}");
                    findings.push(Finding::new("field-differs", &seen.object, message));
                }
                Some(_) => {}
            }
        }
        Judgement::from_findings(findings)
    }
}

/// The kinds that the API serves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kinds {
    /// `VERSION/KIND`, such as `apps/v1/Deployment`; subresources are left out.
    pub served: BTreeSet<String>,
}

impl Observation for Kinds {
    const SCHEMA: &'static str = "kinds/1";
}

/// Lists the kinds that the API serves.
#[derive(Debug, Clone, Copy)]
pub struct ServedKinds;

impl Probe<Platform> for ServedKinds {
    type Seen = Kinds;

    fn touches(&self) -> Touches {
        Touches::nothing().reads(Resource::Component("cluster-wide".to_owned()))
    }

    async fn observe(&self, platform: &Platform, _: &Cx) -> Result<Kinds, ObserveError> {
        let groups = Ask::get("/apis").send(platform.admin()).await.map_err(ObserveError::no_ground)?;
        let mut versions = vec!["v1".to_owned()];
        for group in groups.body["groups"].as_array().into_iter().flatten() {
            let all = group["versions"].as_array().into_iter().flatten();
            versions.extend(all.filter_map(|version| version["groupVersion"].as_str().map(str::to_owned)));
        }
        let mut served = BTreeSet::new();
        for version in versions {
            let list =
                Ask::get(&version_path(&version)).send(platform.admin()).await.map_err(ObserveError::no_ground)?;
            let resources = list.body["resources"].as_array().into_iter().flatten();
            served.extend(
                resources
                    .filter(|r| !r["name"].as_str().unwrap_or_default().contains('/'))
                    .filter_map(|r| Some(format!("{version}/{}", r["kind"].as_str()?))),
            );
        }
        Ok(Kinds { served })
    }
}

/// Whether every apiserver serves a version of an API group.
pub fn served_in(version: &str) -> Signal {
    let path = version_path(version);
    Box::new(move |_, client| {
        let path = path.clone();
        Box::pin(async move {
            let answer = Ask::get(&path).send(client).await.map_err(|e| e.to_string())?;
            Ok(answer.code.to_string())
        })
    })
}

/// These kinds are served, and nothing whose name contains one of those.
pub struct Serves {
    kinds: &'static [&'static str],
    nothing_like: &'static [&'static str],
}

/// These kinds are served (`apps/v1/Deployment`), and nothing whose `VERSION/KIND` contains one of those.
pub fn serves(kinds: &'static [&'static str], nothing_like: &'static [&'static str]) -> Serves {
    Serves { kinds, nothing_like }
}

impl Expect<Kinds> for Serves {
    fn judge(&self, seen: &Kinds) -> Judgement {
        let mut findings = vec![];
        for kind in self.kinds.iter().filter(|kind| !seen.served.contains(**kind)) {
            findings.push(Finding::new("kind-missing", *kind, "the API does not serve it"));
        }
        for kind in seen.served.iter().filter(|kind| self.nothing_like.iter().any(|part| kind.contains(part))) {
            findings.push(Finding::new("kind-served", kind, "the API serves it"));
        }
        Judgement::from_findings(findings)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn seen(value: Value) -> Fields {
        Fields { object: "Namespace n".into(), exists: true, values: BTreeMap::from([("/a".to_owned(), value)]) }
    }

    #[test]
    fn fields_are_compared() {
        assert_eq!(are(vec![("/a", json!("x"))]).judge(&seen(json!("x"))), Judgement::Pass);
        let Judgement::Fail(findings) = are(vec![("/a", json!("x"))]).judge(&seen(Value::Null)) else {
            panic!("a failure")
        };
        assert_eq!(findings[0].code, "field-differs");
        assert!(matches!(are(vec![("/b", json!(1))]).judge(&seen(json!(1))), Judgement::Inconclusive(_)));
        let gone = Fields { exists: false, ..seen(Value::Null) };
        assert!(matches!(are(vec![]).judge(&gone), Judgement::Fail(_)));
    }

    #[test]
    fn kinds_are_compared() {
        let seen = Kinds { served: BTreeSet::from(["v1/Pod".to_owned(), "x.io/v1/PodSecurityPolicy".to_owned()]) };
        assert_eq!(serves(&["v1/Pod"], &["NoSuch"]).judge(&seen), Judgement::Pass);
        assert!(matches!(serves(&["v1/Pod"], &["PodSecurityPolicy"]).judge(&seen), Judgement::Fail(_)));
        assert!(matches!(serves(&["v1/Node"], &[]).judge(&seen), Judgement::Fail(_)));
    }
}
