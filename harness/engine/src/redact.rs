//! The last guard before anything is written: no key, token or Secret value enters evidence.
//!
//! Probes keep raw bytes as prefix, length and hash. This pass does not repair what a probe did wrong; it refuses to
//! write it, because evidence that has been cut silently could be judged differently.

use serde_json::Value;

/// What was recognised, and where. Never carries the thing itself.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the evidence holds what looks like {what} at {place}; it was not written")]
pub struct Leak {
    /// `a private key`, `a bearer token`, `the values of a Secret`.
    pub what: &'static str,
    /// JSON pointer, or the name of a file.
    pub place: String,
}

const TOKEN: &str = "a bearer token";
const KEY: &str = "a private key";
const SECRET: &str = "the values of a Secret";

/// A PEM header, in clear or in base64 at each of the three alignments that its text can have there: the common part of
/// `PRIVATE KEY-----`.
const KEY_MARKS: &[&[u8]] =
    &[b"PRIVATE KEY-----", b"UFJJVkFURSBLRVktLS0tL", b"BSSVZBVEUgS0VZLS0tLS", b"QUklWQVRFIEtFWS0tLS0"];

/// Looks through an observation.
///
/// # Errors
/// The first leak.
pub fn inspect(value: &Value) -> Result<(), Leak> {
    let mut place = String::new();
    walk(value, &mut place)
}

/// Looks through the bytes of an attachment.
///
/// # Errors
/// The first leak.
pub fn inspect_bytes(name: &str, bytes: &[u8]) -> Result<(), Leak> {
    match recognise(bytes) {
        Some(what) => Err(Leak { what, place: name.to_owned() }),
        None => Ok(()),
    }
}

/// A sentence for people with everything secret taken out of it: for reasons and errors, which are never judged.
pub fn redacted(text: &str) -> String {
    if recognise(text.as_bytes()).is_none() {
        return text.to_owned();
    }
    text.split_inclusive(char::is_whitespace)
        .map(|word| if recognise(word.as_bytes()).is_some() || word.len() > 200 { "[redacted] " } else { word })
        .collect::<String>()
        // A key's header is several words: cut what follows it.
        .split("-----BEGIN")
        .next()
        .unwrap_or_default()
        .to_owned()
}

fn walk(value: &Value, place: &mut String) -> Result<(), Leak> {
    let length = place.len();
    match value {
        Value::String(text) => inspect_bytes(place, text.as_bytes()),
        Value::Array(items) => {
            for (at, item) in items.iter().enumerate() {
                place.push_str(&format!("/{at}"));
                walk(item, place)?;
                place.truncate(length);
            }
            Ok(())
        }
        Value::Object(fields) => {
            if fields.get("kind").and_then(Value::as_str) == Some("Secret") && holds_values(fields) {
                return Err(Leak { what: SECRET, place: place.clone() });
            }
            for (name, field) in fields {
                inspect_bytes(place, name.as_bytes())?;
                place.push('/');
                place.push_str(name);
                walk(field, place)?;
                place.truncate(length);
            }
            Ok(())
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => Ok(()),
    }
}

fn holds_values(secret: &serde_json::Map<String, Value>) -> bool {
    ["data", "stringData"].iter().any(|part| {
        secret
            .get(*part)
            .and_then(Value::as_object)
            .is_some_and(|values| values.values().any(|v| v.as_str().is_some_and(|text| !text.is_empty())))
    })
}

fn recognise(bytes: &[u8]) -> Option<&'static str> {
    if KEY_MARKS.iter().any(|mark| contains(bytes, mark)) {
        return Some(KEY);
    }
    holds_jwt(bytes).then_some(TOKEN)
}

fn contains(hay: &[u8], needle: &[u8]) -> bool {
    let Some(first) = needle.first() else { return true };
    let mut rest = hay;
    while let Some(at) = rest.iter().position(|b| b == first) {
        let Some(here) = rest.get(at..) else { return false };
        if here.starts_with(needle) {
            return true;
        }
        rest = here.get(1..).unwrap_or_default();
    }
    false
}

/// A JSON web token: `eyJ...` `.eyJ...` `.` signature, all base64url.
fn holds_jwt(bytes: &[u8]) -> bool {
    let base64url = |b: &u8| b.is_ascii_alphanumeric() || *b == b'-' || *b == b'_';
    let mut rest = bytes;
    while let Some(at) = rest.windows(3).position(|w| w == b"eyJ") {
        let Some(here) = rest.get(at..) else { return false };
        let mut parts = here
            .split(|b| !base64url(b) && *b != b'.')
            .next()
            .unwrap_or_default()
            .split(|b| *b == b'.')
            .map(|part| (part.len(), part.starts_with(b"eyJ")));
        let header = parts.next().is_some_and(|(length, json)| json && length >= 10);
        let claims = parts.next().is_some_and(|(length, json)| json && length >= 10);
        let signature = parts.next().is_some_and(|(length, _)| length >= 16);
        if header && claims && signature {
            return true;
        }
        rest = here.get(3..).unwrap_or_default();
    }
    false
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// Put together here so that no scanner of repositories takes it for a real one.
    fn jwt() -> String {
        ["eyJhbGciOiJSUzI1NiJ9", "eyJzdWIiOiJ0ZXN0In0x", "c2lnbmF0dXJlLW9mLXRlc3Q"].join(".")
    }

    #[test]
    fn keys_tokens_and_secret_values_are_recognised_with_their_place() {
        let pem = ["-----BEGIN RSA PRIVATE", "KEY-----\nMII"].join(" ");
        for (value, what, place) in [
            (json!({"a": [1, {"log": format!("token is {}.", jwt())}]}), TOKEN, "/a/1/log"),
            (json!({"file": pem}), KEY, "/file"),
            (json!([{"kind": "Secret", "data": {"k": "dg=="}}]), SECRET, "/0"),
            (json!({"kind": "Secret", "stringData": {"k": "v"}}), SECRET, ""),
        ] {
            assert_eq!(inspect(&value), Err(Leak { what, place: place.into() }));
        }
    }

    #[test]
    fn a_key_in_base64_is_recognised_at_every_alignment() {
        // "-----BEGIN PRIVATE KEY-----", with nothing, one and two bytes before it.
        for text in [
            "LS0tLS1CRUdJTiBQUklWQVRFIEtFWS0tLS0t",
            "IC0tLS0tQkVHSU4gUFJJVkFURSBLRVktLS0tLQ==",
            "ICAtLS0tLUJFR0lOIFBSSVZBVEUgS0VZLS0tLS0=",
        ] {
            assert!(inspect(&json!(text)).is_err(), "{text}");
        }
    }

    #[test]
    fn what_evidence_normally_holds_is_let_through() {
        let fine = json!({
            "prefix": "k8s:enc:aescbc:v1:key1:", "sha256": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
            "certificate": "-----BEGIN CERTIFICATE-----", "secret": {"kind": "Secret", "data": {"k": ""}},
            "public": "eyJ is how JSON begins in base64", "digest": "sha256:e3b0c442.eyJ.x",
        });
        assert_eq!(inspect(&fine), Ok(()));
    }

    #[test]
    fn sentences_lose_the_secret_and_keep_the_rest() {
        let text = redacted(&format!("the server said no to {} twice", jwt()));
        assert!(!text.contains("eyJ") && text.contains("the server said no to") && text.contains("twice"), "{text}");
        assert_eq!(redacted("plain words"), "plain words");
    }
}
