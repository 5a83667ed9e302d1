//! A change of Cilium's values: the ConfigMap changes, the agents do not.

use std::time::Duration;

use shakedown_core::Capability::Cilium;
use shakedown_engine::{Check, check, finds};
use shakedown_words::Platform;
use shakedown_words::helm::{cilium_values, does_not_roll};

/// Harmless where an agent happens to restart in between: which parts a debug log would speak of, with debug off.
const HARMLESS: &[&str] = &["debug.verbose=flow"];
/// The documents' own change (WG-014), the other way round: rendered only, the datapath stays encrypted.
const ENCRYPTION: &[&str] = &["encryption.enabled=false"];

/// All checks of this area.
pub fn checks() -> Vec<Check<Platform>> {
    vec![upgrade_does_not_roll(), encryption_is_config_only()]
}

fn upgrade_does_not_roll() -> Check<Platform> {
    check("cilium-values.upgrade-does-not-roll-the-agents")
        .asserts(["WG-017"])
        .needs([Cilium])
        .within(Duration::from_secs(120))
        .observe(cilium_values(HARMLESS))
        .expect(does_not_roll())
        .sabotage_input(
            "the values also set rollOutCiliumPods=true",
            cilium_values(&["debug.verbose=flow", "rollOutCiliumPods=true"]).rendered_only(),
            finds("template-changed"),
        )
        .remedy("after a change of values: kubectl -n kube-system rollout restart ds cilium")
}

fn encryption_is_config_only() -> Check<Platform> {
    check("cilium-values.encryption-is-in-the-config-only")
        .asserts(["WG-019"])
        .needs([Cilium])
        .observe(cilium_values(ENCRYPTION).rendered_only())
        .expect(does_not_roll())
        .sabotage_input(
            "the values also annotate the Pods",
            cilium_values(&["encryption.enabled=false", "podAnnotations.shakedown=yes"]).rendered_only(),
            finds("template-changed"),
        )
        .remedy("after a change of encryption values: kubectl -n kube-system rollout restart ds cilium")
}
