//! Manifests beside the checks: YAML of one or several documents, read when the table of checks is made.

use serde::Deserialize as _;
use serde_json::Value;

/// The documents of a YAML text, in order; empty ones are left out.
///
/// # Errors
/// A document is not YAML; its number, from 1.
pub fn documents(text: &str) -> Result<Vec<Value>, String> {
    let mut all = vec![];
    for (index, document) in serde_yaml_ng::Deserializer::from_str(text).enumerate() {
        let value = Value::deserialize(document).map_err(|e| format!("document {}: {e}", index + 1))?;
        if !value.is_null() {
            all.push(value);
        }
    }
    Ok(all)
}

/// Manifests of a check's own, part of the program: where they cannot be read, the list holds what is wrong as a
/// string, which every use of them reports and a unit test of the suites refuses.
pub fn own(text: &str) -> Vec<Value> {
    documents(text).unwrap_or_else(|why| vec![Value::String(format!("manifest of a check: {why}"))])
}

/// The first document of [`own`].
pub fn first(text: &str) -> Value {
    own(text).into_iter().next().unwrap_or_default()
}

/// Includes a YAML file of the area, as its documents.
#[macro_export]
macro_rules! manifests {
    ($file:literal) => {
        $crate::manifest::own(include_str!($file))
    };
}

/// Includes a YAML file of the area, as its first document.
#[macro_export]
macro_rules! manifest {
    ($file:literal) => {
        $crate::manifest::first(include_str!($file))
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_are_told_apart() {
        let all = documents("a: 1\n---\n# nothing\n---\nb: 2\n").unwrap();
        assert_eq!(all, vec![serde_json::json!({"a": 1}), serde_json::json!({"b": 2})]);
        assert!(documents("a: [").unwrap_err().starts_with("document 1"));
        assert!(first("a: [").is_string());
    }
}
