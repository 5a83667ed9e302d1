//! Manifests of ours: templates with `${NAME}` places, and YAML streams as lists of objects.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

use crate::error::{Result, StackError};

/// What the places of a template stand for.
pub type Vars<'a> = BTreeMap<&'a str, String>;

/// Fills the `${NAME}` places (capitals, digits, `_`) of a template.
///
/// # Errors
/// [`StackError::Manifest`] where a place has no value: nothing is left half-filled.
pub fn fill(name: &str, template: &str, vars: &Vars<'_>) -> Result<String> {
    let mut out = String::with_capacity(template.len());
    let mut rest = template;
    while let Some(at) = rest.find("${") {
        let (before, after) = rest.split_at(at);
        out.push_str(before);
        let place = after[2..].split_once('}').map(|(place, _)| place).filter(|p| is_place(p));
        match place {
            Some(place) => {
                let value = vars.get(place).ok_or_else(|| StackError::Manifest {
                    name: name.to_owned(),
                    why: format!("no value for ${{{place}}}"),
                })?;
                out.push_str(value);
                rest = &after[place.len() + 3..];
            }
            None => {
                out.push_str("${");
                rest = &after[2..];
            }
        }
    }
    out.push_str(rest);
    Ok(out)
}

fn is_place(text: &str) -> bool {
    !text.is_empty() && text.chars().all(|c| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_')
}

/// The objects of a YAML stream, without empty documents.
///
/// # Errors
/// [`StackError::Manifest`] where a document is no YAML, or no object with `apiVersion`, `kind` and a name.
pub fn objects(name: &str, yaml: &str) -> Result<Vec<Value>> {
    let bad = |why: String| StackError::Manifest { name: name.to_owned(), why };
    let mut found = Vec::new();
    for document in serde_yaml_ng::Deserializer::from_str(yaml) {
        let value = Value::deserialize(document).map_err(|e| bad(e.to_string()))?;
        if value.is_null() {
            continue;
        }
        let text = |pointer: &str| value.pointer(pointer).and_then(Value::as_str).is_some_and(|s| !s.is_empty());
        if !(text("/apiVersion") && text("/kind") && text("/metadata/name")) {
            return Err(bad(format!("document {} has no apiVersion, kind or name", found.len() + 1)));
        }
        found.push(value);
    }
    Ok(found)
}

/// [`fill`], then [`objects`].
///
/// # Errors
/// As both.
pub fn filled(name: &str, template: &str, vars: &Vars<'_>) -> Result<Vec<Value>> {
    objects(name, &fill(name, template, vars)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_filled_and_shell_is_left_alone() {
        let vars = Vars::from([("IP", "10.0.0.1".to_owned())]);
        let text = fill("t", "a ${IP}:$PORT ${x} ${IP} $", &vars).unwrap();
        assert_eq!(text, "a 10.0.0.1:$PORT ${x} 10.0.0.1 $");
    }

    #[test]
    fn a_place_without_value_is_an_error() {
        let error = fill("t", "${GONE}", &Vars::new()).unwrap_err().to_string();
        assert!(error.contains("no value for ${GONE}"), "{error}");
    }

    #[test]
    fn streams_become_objects() {
        let yaml = "---\napiVersion: v1\nkind: A\nmetadata: {name: x}\n---\n# nothing\n---\napiVersion: v1\nkind: B\nmetadata: {name: y}\n";
        assert_eq!(objects("t", yaml).unwrap().len(), 2);
        assert!(objects("t", "kind: A\n").is_err());
        assert!(objects("t", "a: [").is_err());
    }
}
