//! Pods of the scenes' own namespace.

use serde_json::Value;
use shakedown_words::kyverno::within;

use super::kyverno_common::{SCENES, compliant};

/// A Pod that keeps the documented rules, in the namespace of scenes.
pub(super) fn in_scenes(name: &str) -> Value {
    within(SCENES, compliant(name))
}

/// The manifest with another value at a field of its metadata.
pub(super) fn labelled(mut manifest: Value, key: &str, value: &str) -> Value {
    manifest["metadata"]["labels"][key] = value.into();
    manifest
}
