//! Which bindings of the cluster name a subject.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use shakedown_core::{Finding, Judgement, Observation, Resource, Touches};
use shakedown_engine::{Cx, Expect, ObserveError, Probe};

use crate::platform::Platform;

/// A binding that names the subject.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Binding {
    /// `RoleBinding NAMESPACE/NAME` or `ClusterRoleBinding NAME`.
    pub binding: String,
    /// `Role NAME` or `ClusterRole NAME`.
    pub role: String,
}

/// What the probe saw.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BindingsSeen {
    /// The subject: `KIND NAME`.
    pub subject: String,
    /// How many bindings there are in all.
    pub of: usize,
    /// Those that name it, ordered.
    pub found: Vec<Binding>,
}

impl Observation for BindingsSeen {
    const SCHEMA: &'static str = "bindings/1";
}

/// Searches all bindings for a subject.
#[derive(Debug, Clone)]
pub struct BindingsOf {
    kind: &'static str,
    name: &'static str,
    home: Option<&'static str>,
}

/// Searches all bindings for a subject of this kind and name. `home` is the namespace whose checks change its bindings.
pub fn bindings_of(kind: &'static str, name: &'static str, home: Option<&'static str>) -> BindingsOf {
    BindingsOf { kind, name, home }
}

impl Probe<Platform> for BindingsOf {
    type Seen = BindingsSeen;

    fn touches(&self) -> Touches {
        let cluster_wide = Touches::nothing().reads(Resource::Component("cluster-wide".to_owned()));
        match self.home {
            Some(home) => cluster_wide.reads(Resource::Namespace(home.to_owned())),
            None => cluster_wide,
        }
    }

    async fn observe(&self, platform: &Platform, _: &Cx) -> Result<BindingsSeen, ObserveError> {
        const GROUP: &str = "rbac.authorization.k8s.io/v1";
        let (mut of, mut found) = (0, vec![]);
        for kind in ["RoleBinding", "ClusterRoleBinding"] {
            let all = platform.list(GROUP, kind, None, None).await.map_err(ObserveError::no_ground)?;
            of += all.len();
            found.extend(all.iter().filter(|binding| self.is_named_in(binding)).map(|binding| read(kind, binding)));
        }
        found.sort();
        Ok(BindingsSeen { subject: format!("{} {}", self.kind, self.name), of, found })
    }
}

impl BindingsOf {
    fn is_named_in(&self, binding: &Value) -> bool {
        let mut subjects = binding["subjects"].as_array().into_iter().flatten();
        subjects.any(|subject| subject["kind"] == self.kind && subject["name"] == self.name)
    }
}

fn read(kind: &str, binding: &Value) -> Binding {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let name = text(&binding["metadata"]["name"]);
    let place = binding["metadata"]["namespace"].as_str().map(|namespace| format!("{namespace}/")).unwrap_or_default();
    Binding {
        binding: format!("{kind} {place}{name}"),
        role: format!("{} {}", text(&binding["roleRef"]["kind"]), text(&binding["roleRef"]["name"])),
    }
}

/// Exactly these bindings name the subject.
pub struct Only(&'static [(&'static str, &'static str)]);

/// Exactly these bindings name the subject, each with its role.
pub fn only(bindings: &'static [(&'static str, &'static str)]) -> Only {
    Only(bindings)
}

impl Expect<BindingsSeen> for Only {
    fn judge(&self, seen: &BindingsSeen) -> Judgement {
        if seen.of == 0 {
            return Judgement::Inconclusive("the cluster has no binding at all".to_owned());
        }
        let finding = |code: &str, binding: &str, role: &str| {
            Finding::new(code, &seen.subject, format!("{binding} grants it {role}"))
        };
        let expected = |it: &Binding| self.0.contains(&(it.binding.as_str(), it.role.as_str()));
        let there =
            |(binding, role): &(&str, &str)| seen.found.iter().any(|it| it.binding == *binding && it.role == *role);
        let extra = seen.found.iter().filter(|it| !expected(it));
        let missing = self.0.iter().filter(|it| !there(it));
        Judgement::from_findings(
            extra
                .map(|it| finding("binding-unexpected", &it.binding, &it.role))
                .chain(missing.map(|(binding, role)| finding("binding-missing", binding, role)))
                .collect(),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn seen(found: Vec<Binding>) -> BindingsSeen {
        BindingsSeen { subject: "Group g".into(), of: 9, found }
    }

    #[test]
    fn bindings_are_read_and_judged() {
        let raw = json!({
            "metadata": {"name": "b", "namespace": "n"}, "roleRef": {"kind": "Role", "name": "r"},
            "subjects": [{"kind": "Group", "name": "g"}],
        });
        assert!(bindings_of("Group", "g", None).is_named_in(&raw));
        assert!(!bindings_of("User", "g", None).is_named_in(&raw));
        let one = read("RoleBinding", &raw);
        let expected = only(&[("RoleBinding n/b", "Role r")]);
        assert_eq!(expected.judge(&seen(vec![one.clone()])), Judgement::Pass);
        let code = |judgement| match judgement {
            Judgement::Fail(findings) => findings[0].code.clone(),
            other => format!("{other:?}"),
        };
        assert_eq!(code(expected.judge(&seen(vec![]))), "binding-missing");
        assert_eq!(code(only(&[]).judge(&seen(vec![one]))), "binding-unexpected");
        assert!(matches!(expected.judge(&BindingsSeen { of: 0, ..seen(vec![]) }), Judgement::Inconclusive(_)));
    }
}
