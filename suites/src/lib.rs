//! What the platform documents ([`catalogue`]), and the checks of it.

pub mod catalogue;

#[path = "../argocd/checks.rs"]
mod argocd;
#[path = "../cilium-values/checks.rs"]
mod cilium_values;
#[path = "../encryption/checks.rs"]
mod encryption;
#[path = "../encryption/mechanisms.rs"]
mod encryption_mechanisms;
#[path = "../encryption/rolls.rs"]
pub mod encryption_rolls;
#[path = "../encryption/rotation.rs"]
pub mod encryption_rotation;
#[path = "../etcd/checks.rs"]
mod etcd;
#[path = "../etcd/backup.rs"]
mod etcd_backup;
#[path = "../etcd/cluster.rs"]
mod etcd_cluster;
#[path = "../etcd/mechanisms.rs"]
mod etcd_mechanisms;
#[path = "../kube-proxy-replacement/checks.rs"]
mod kube_proxy_replacement;
#[path = "../kyverno/checks.rs"]
mod kyverno;
#[path = "../kyverno/abilities.rs"]
mod kyverno_abilities;
#[path = "../kyverno/common.rs"]
mod kyverno_common;
#[path = "../kyverno/installation.rs"]
mod kyverno_installation;
#[path = "../kyverno/outages.rs"]
mod kyverno_outages;
#[path = "../kyverno/patterns.rs"]
mod kyverno_patterns;
#[path = "../kyverno/reports.rs"]
mod kyverno_reports;
#[path = "../kyverno/scenes.rs"]
mod kyverno_scenes;
#[path = "../kyverno/signed.rs"]
mod kyverno_signed;
#[path = "../maglev/checks.rs"]
mod maglev;
#[path = "../psa/checks.rs"]
mod psa;
#[path = "../psa/levels.rs"]
mod psa_levels;
#[path = "../psa/rollout.rs"]
mod psa_rollout;
#[path = "../rbac/checks.rs"]
mod rbac;
#[path = "../rbac/model.rs"]
mod rbac_model;
#[path = "../rbac/operations.rs"]
mod rbac_operations;
#[path = "../registry/checks.rs"]
mod registry;
#[path = "../wireguard/checks.rs"]
mod wireguard;

use std::collections::BTreeMap;

use shakedown_engine::Check;
use shakedown_words::Platform;

/// Every check of every area, in the order of the areas; each area lists its own in an explicit table.
pub fn checks() -> Vec<Check<Platform>> {
    [
        argocd::checks(),
        cilium_values::checks(),
        psa::checks(),
        psa_levels::checks(),
        psa_rollout::checks(),
        rbac::checks(),
        rbac_model::checks(),
        rbac_operations::checks(),
        encryption::checks(),
        encryption_mechanisms::checks(),
        etcd::checks(),
        etcd_cluster::checks(),
        etcd_mechanisms::checks(),
        etcd_backup::checks(),
        kube_proxy_replacement::checks(),
        kyverno::checks(),
        kyverno_installation::checks(),
        kyverno_patterns::checks(),
        kyverno_outages::checks(),
        kyverno_signed::checks(),
        kyverno_reports::checks(),
        kyverno_abilities::checks(),
        maglev::checks(),
        registry::checks(),
        wireguard::checks(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// Statement to the ids of the checks that assert it.
pub fn asserted() -> BTreeMap<String, Vec<String>> {
    let mut asserted: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for check in checks() {
        for statement in &check.statements {
            asserted.entry((*statement).to_owned()).or_default().push(check.id.to_owned());
        }
    }
    asserted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_statement_is_accounted_for() {
        let wrong = catalogue::Catalogue::embedded().unwrap().account(&asserted());
        assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
    }

    /// `docs/findings.md` has a heading for each contradicted statement, and names the check that contradicts it.
    #[test]
    fn every_contradiction_is_a_recorded_finding() {
        let file = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/findings.md");
        let text = std::fs::read_to_string(file).unwrap();
        let mut recorded = BTreeMap::new();
        for entry in text.split("\n## ").skip(1) {
            let heading = entry.lines().next().unwrap().split(':').next().unwrap();
            for id in heading.split(", ") {
                assert!(recorded.insert(id, entry).is_none(), "{id} has two entries");
            }
        }
        for check in checks() {
            for id in &check.contradicts {
                let entry = recorded.remove(id).unwrap_or_else(|| panic!("{id}: no entry in docs/findings.md"));
                assert!(entry.contains(&format!("`{}`", check.id)), "{id}: its entry does not name {}", check.id);
            }
        }
        assert!(recorded.is_empty(), "no check contradicts {:?}", recorded.keys());
    }
}
