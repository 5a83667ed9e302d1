//! What the platform documents ([`catalogue`]), and the checks of it.

pub mod catalogue;

#[path = "../argocd/checks.rs"]
mod argocd;
#[path = "../psa/checks.rs"]
mod psa;
#[path = "../psa/levels.rs"]
mod psa_levels;
#[path = "../rbac/checks.rs"]
mod rbac;

use std::collections::BTreeMap;

use shakedown_engine::Check;
use shakedown_words::Platform;

/// Every check of every area, in the order of the areas; each area lists its own in an explicit table.
pub fn checks() -> Vec<Check<Platform>> {
    [argocd::checks(), psa::checks(), psa_levels::checks(), rbac::checks()].into_iter().flatten().collect()
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
}
