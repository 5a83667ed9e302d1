//! Where the encryption key has got to: repositories with all their history, what lies offsite, ConfigMaps and Secrets are
//! searched for it (ENC-063). The documented backup puts the configuration beside each of its snapshots, offsite too, because
//! without it none of their Secrets can be read again: these copies, by their names, are meant, every other is a leak.

use std::collections::BTreeMap;
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use shakedown_core::{Finding, Judgement, Observation, Resource, Touches, UndoStep};
use shakedown_engine::{Cx, Expect, ObserveError, PlantError, Prepared, Probe, Sabotage, expect_fn};

use crate::backup::{STORE, component, places};
use crate::encryption_config::FILE;
use crate::node_command::{first_control_plane, script};
use crate::platform::Platform;
use crate::rotation::keys_of;

const COMMAND: Duration = Duration::from_secs(60);
/// The copies that the backup makes.
const MEANT: (&str, &str) = ("etcd-", ".encryption-config.yaml");
/// Reads the key's texts, a line each; prints what was searched and where one of them was found. Objects of a repository are
/// compressed: git unpacks them.
const SEARCH: &str = r#"umask 077; t=$(mktemp); trap 'rm -f "$t"' EXIT; cat >"$t"
for head in $(find /var/lib/git-server /srv -maxdepth 4 -name HEAD -path '*.git/HEAD' 2>/dev/null); do
  repository=${head%/HEAD}; echo "searched repository $repository"
  if git -c safe.directory='*' --git-dir "$repository" cat-file --batch-all-objects --batch --unordered | grep -qaF -f "$t"; then
    echo "found repository $repository"; fi
done
[ -d STORE ] || exit 0
find STORE -type f | while read -r file; do
  echo "searched offsite $file"; if grep -qaF -f "$t" "$file"; then echo "found offsite $file"; fi
done
"#;

/// What was searched and found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Searched {
    /// Kind of place to how many were searched: `repository`, `offsite`, `ConfigMap`, `Secret`.
    pub searched: BTreeMap<String, usize>,
    /// Places that hold the key.
    pub found: Vec<String>,
}

impl Observation for Searched {
    const SCHEMA: &'static str = "key-search/1";
}

/// Searches.
#[derive(Debug, Clone)]
pub struct Searches;

/// Searches everywhere for the keys of the first control plane's configuration.
pub fn key_everywhere() -> Searches {
    Searches
}

/// Whether a value is or holds one of the texts, as it stands or in base64 once more.
fn holds(value: &[u8], texts: &[String]) -> bool {
    let text = String::from_utf8_lossy(value);
    texts.iter().any(|secret| {
        text.contains(secret.as_str())
            || text.contains(&BASE64_STANDARD.encode(secret))
            || BASE64_STANDARD.decode(secret).is_ok_and(|raw| raw == value)
    })
}

/// Whether an object's data holds one of them.
fn object_holds(object: &Value, texts: &[String]) -> bool {
    let of = |field: &str| object[field].as_object().into_iter().flatten().filter_map(|(_, value)| value.as_str());
    let encoded = |value: &str| holds(&BASE64_STANDARD.decode(value).unwrap_or_default(), texts);
    match object["kind"].as_str() {
        Some("Secret") => of("data").any(encoded),
        _ => of("data").any(|value| holds(value.as_bytes(), texts)) || of("binaryData").any(encoded),
    }
}

impl Probe<Platform> for Searches {
    type Seen = Searched;

    fn touches(&self) -> Touches {
        Touches::nothing().reads(component()).reads(Resource::Nodes)
    }

    async fn observe(&self, platform: &Platform, _: &Cx) -> Result<Searched, ObserveError> {
        let node = first_control_plane(platform).map_err(ObserveError::no_ground)?;
        let machine = platform.machine(&node).map_err(ObserveError::no_ground)?;
        let file = machine.read(FILE).await.map_err(ObserveError::no_ground)?;
        let file = file.ok_or_else(|| ObserveError::no_ground(format!("{node} has no {FILE}")))?;
        let texts: Vec<String> = keys_of(&file.content).into_iter().map(|(_, secret)| secret).collect();
        if texts.is_empty() || texts.iter().any(|text| text.len() < 16) {
            return Err(ObserveError::no_ground(format!("{FILE} of {node} has no key of aescbc to search for")));
        }
        let mut seen = Searched::default();
        let argv = ["/bin/sh", "-c", &SEARCH.replace("STORE", STORE)].map(str::to_owned);
        let stdin = texts.join("\n") + "\n";
        for (node, machine) in platform.machines() {
            let ran = machine.exec(&argv, stdin.as_bytes(), COMMAND).await.map_err(ObserveError::no_ground)?;
            if ran.code != 0 {
                return Err(ObserveError::no_ground(format!("{node}: the search ended with {}", ran.code)));
            }
            for line in ran.text().lines() {
                match line.splitn(3, ' ').collect::<Vec<_>>().as_slice() {
                    ["searched", kind, _] => *seen.searched.entry((*kind).to_owned()).or_default() += 1,
                    ["found", kind, place] => seen.found.push(format!("{kind} {node}:{place}")),
                    _ => {}
                }
            }
        }
        for kind in ["ConfigMap", "Secret"] {
            let all = platform.list("v1", kind, None, None).await.map_err(ObserveError::no_ground)?;
            seen.searched.insert(kind.to_owned(), all.len());
            for mut object in all {
                object["kind"] = kind.into();
                if object_holds(&object, &texts) {
                    let of = |field: &str| object["metadata"][field].as_str().unwrap_or_default().to_owned();
                    seen.found.push(format!("{kind} {}/{}", of("namespace"), of("name")));
                }
            }
        }
        Ok(seen)
    }
}

/// The copies beside the backup's own snapshots are meant; the key is found nowhere else. All four kinds of places were
/// searched, and the search can find: it found those copies.
pub fn only_beside_the_backups() -> impl Expect<Searched> {
    expect_fn(|seen: &Searched| {
        let meant = |place: &&String| {
            let name = place.rsplit('/').next().unwrap_or_default();
            place.starts_with("offsite ") && name.starts_with(MEANT.0) && name.ends_with(MEANT.1)
        };
        let missing = ["repository", "offsite", "ConfigMap", "Secret"]
            .into_iter()
            .find(|kind| seen.searched.get(*kind).is_none_or(|count| *count == 0));
        if let Some(kind) = missing {
            return Judgement::Inconclusive(format!("nothing of the kind {kind} was searched"));
        }
        if !seen.found.iter().any(|place| meant(&place)) {
            return Judgement::Inconclusive(
                "the copies beside the backups were not found: can it find at all?".to_owned(),
            );
        }
        let leaks = seen.found.iter().filter(|place| !meant(place));
        Judgement::from_findings(leaks.map(|place| Finding::new("key-found", place, "it holds the key")).collect())
    })
}

/// The configuration is in the bucket by mistake.
pub struct Mistaken;

/// The file is copied to where the backups are kept, under its own name.
pub fn copied_by_mistake() -> Mistaken {
    Mistaken
}

/// The copy.
fn copy() -> String {
    format!("{STORE}/my-backups/encryption-config.yaml")
}

impl Sabotage<Platform> for Mistaken {
    type Choice = String;

    fn describe(&self) -> String {
        "the encryption configuration is in the bucket under its own name".to_owned()
    }

    fn touches(&self) -> Touches {
        Touches::nothing().writes(component())
    }

    async fn prepare(&self, platform: &Platform) -> Result<Prepared<String>, PlantError> {
        let (_, store) = places(platform).map_err(PlantError::new)?;
        let undo = vec![UndoStep::RemoveFile { node: store.clone(), path: copy() }];
        Ok(Prepared::new(store, undo))
    }

    async fn plant(&self, platform: &Platform, store: &String) -> Result<(), PlantError> {
        let text = format!("[ ! -e {0} ]; install -m 600 {FILE} {0}", copy());
        script(platform, store, &text, COMMAND).await.map(drop).map_err(PlantError::new)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::codes;
    use serde_json::json;

    const KEY: &str = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=";

    #[test]
    fn the_key_is_found_as_text_in_base64_and_raw() {
        let texts = vec![KEY.to_owned()];
        let secret = |value: &[u8]| json!({"kind": "Secret", "data": {"x": BASE64_STANDARD.encode(value)}});
        assert!(object_holds(&secret(format!("secret: {KEY}\n").as_bytes()), &texts));
        assert!(object_holds(&secret(BASE64_STANDARD.encode(KEY).as_bytes()), &texts));
        assert!(object_holds(&secret(&BASE64_STANDARD.decode(KEY).unwrap()), &texts));
        assert!(object_holds(&json!({"kind": "ConfigMap", "data": {"x": format!("k {KEY}")}}), &texts));
        assert!(!object_holds(&secret(b"another"), &texts));
        assert!(!object_holds(&json!({"kind": "ConfigMap"}), &texts));
    }

    #[test]
    fn each_defect_has_its_code() {
        let copy =
            "offsite cp-3:/srv/offsite/data/my-backups/etcd/etcd-20260101-000000.encryption-config.yaml".to_owned();
        let kinds = ["repository", "offsite", "ConfigMap", "Secret"].map(|kind| (kind.to_owned(), 2));
        let good = Searched { searched: BTreeMap::from(kinds), found: vec![copy] };
        let judge = |seen: &Searched| codes(only_beside_the_backups().judge(seen));
        assert!(judge(&good).is_empty());
        for place in
            ["repository worker-1:/var/lib/git-server/a.git", "offsite cp-3:/x/encryption-config.yaml", "Secret a/b"]
        {
            let mut leaked = good.clone();
            leaked.found.push(place.to_owned());
            assert_eq!(judge(&leaked), ["key-found"]);
        }
        assert!(judge(&Searched { found: vec![], ..good.clone() })[0].starts_with("Inconclusive"));
        assert!(judge(&Searched { searched: BTreeMap::new(), ..good })[0].starts_with("Inconclusive"));
    }
}
