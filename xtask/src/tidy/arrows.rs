//! Crate arrows go one way, as ARCHITECTURE.md draws them: every `Cargo.toml` is held against the table here.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::{Breach, files, read};

/// Crate, and the crates of the project that it may name. Suites name no provisioner, reports touch no cluster, and
/// the tasks stand apart: they call the binary.
const ALLOWED: &[(&str, &[&str])] = &[
    ("shakedown-core", &[]),
    ("shakedown-bundle", &["shakedown-core"]),
    ("shakedown-node", &["shakedown-core"]),
    ("shakedown-reports", &["shakedown-core"]),
    ("shakedown-engine", &["shakedown-core"]),
    ("shakedown-cluster", &["shakedown-core", "shakedown-bundle", "shakedown-node"]),
    ("shakedown-stack", &["shakedown-core", "shakedown-bundle", "shakedown-node", "shakedown-cluster"]),
    ("shakedown-fault", &["shakedown-core", "shakedown-node"]),
    (
        "shakedown-words",
        &[
            "shakedown-core",
            "shakedown-bundle",
            "shakedown-node",
            "shakedown-cluster",
            "shakedown-stack",
            "shakedown-fault",
            "shakedown-engine",
        ],
    ),
    ("shakedown-suites", &["shakedown-core", "shakedown-engine", "shakedown-words"]),
    (
        "shakedown",
        &[
            "shakedown-core",
            "shakedown-bundle",
            "shakedown-node",
            "shakedown-cluster",
            "shakedown-stack",
            "shakedown-fault",
            "shakedown-engine",
            "shakedown-words",
            "shakedown-suites",
            "shakedown-reports",
        ],
    ),
    ("xtask", &[]),
];

/// Breaches in all manifests under `root`.
///
/// # Errors
/// When a manifest cannot be read or is not TOML.
pub fn check(root: &Path) -> Result<Vec<Breach>> {
    let allowed: BTreeMap<&str, &[&str]> = ALLOWED.iter().copied().collect();
    let mut found = Vec::new();
    for file in files(root, "toml")?.into_iter().filter(|file| file.ends_with("Cargo.toml")) {
        let manifest: toml::Table =
            read(root, &file)?.parse().with_context(|| format!("{} is not TOML", file.display()))?;
        found.extend(check_one(&file, &manifest, &allowed));
    }
    Ok(found)
}

fn check_one(file: &Path, manifest: &toml::Table, allowed: &BTreeMap<&str, &[&str]>) -> Vec<Breach> {
    let breach = |what: String| Breach { file: PathBuf::from(file), line: 0, what };
    let name = manifest.get("package").and_then(|p| p.get("name")).and_then(toml::Value::as_str).unwrap_or("");
    let Some(may) = allowed.get(name) else {
        return vec![breach(format!(
            "crate `{name}` has no place among the arrows: add it to xtask/src/tidy/arrows.rs"
        ))];
    };
    let mut found = Vec::new();
    for section in ["dependencies", "dev-dependencies", "build-dependencies"] {
        let Some(table) = manifest.get(section).and_then(toml::Value::as_table) else { continue };
        for dependency in table.keys().filter(|key| allowed.contains_key(key.as_str())) {
            if !may.contains(&dependency.as_str()) {
                found.push(breach(format!("`{name}` may not name `{dependency}` ({section}): arrows go one way")));
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn breaches(text: &str) -> Vec<String> {
        let allowed = ALLOWED.iter().copied().collect();
        let manifest = text.parse().unwrap();
        check_one(Path::new("Cargo.toml"), &manifest, &allowed).into_iter().map(|b| b.what).collect()
    }

    #[test]
    fn an_edge_against_the_arrows_is_found_in_every_section() {
        for section in ["dependencies", "dev-dependencies", "build-dependencies"] {
            let text = format!("[package]\nname = \"shakedown-suites\"\n[{section}]\nshakedown-cluster = \"1\"\n");
            assert_eq!(breaches(&text).len(), 1, "{section}");
        }
        assert!(breaches("[package]\nname = \"shakedown-fault\"\n[dependencies]\nshakedown-node = \"1\"\n").is_empty());
    }

    #[test]
    fn a_new_crate_has_to_be_placed() {
        assert!(breaches("[package]\nname = \"shakedown-new\"\n")[0].contains("no place"));
    }

    #[test]
    fn the_table_itself_has_no_cycle() {
        let mut placed = BTreeSet::new();
        for _ in 0..ALLOWED.len() {
            for (name, may) in ALLOWED {
                if may.iter().all(|below| placed.contains(below)) {
                    placed.insert(*name);
                }
            }
        }
        assert_eq!(placed.len(), ALLOWED.len());
    }
}
