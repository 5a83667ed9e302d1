//! What is changed on the control planes for real, and put back byte for byte: one roll of the three manifests and one
//! broken manifest.
//!
//! Not in the table of checks yet: each passed with its control, but not yet often enough beside all others.

use std::time::Duration;

use shakedown_core::Capability::{ApiserverManifests, Nodes3cp, NodesExec};
use shakedown_engine::{Check, Tag, check, finds};
use shakedown_words::Platform;
use shakedown_words::broken_manifest::{stays_away_and_recovers, with_the_argument};
use shakedown_words::rolling::{all_at_once, never_without_an_apiserver, one_then_the_others};

/// How long a change of the three apiservers and the way back may take.
const ROLL: Duration = Duration::from_secs(1500);

/// The checks that restart apiservers.
pub fn checks() -> Vec<Check<Platform>> {
    vec![broken_manifest(), rolling_change()]
}

fn broken_manifest() -> Check<Platform> {
    check("encryption.a-broken-manifest-costs-one-apiserver-and-is-recovered")
        .asserts(["ENC-046"])
        .needs([NodesExec, ApiserverManifests, Nodes3cp])
        .tag(Tag::Exclusive)
        .tag(Tag::Slow)
        .within(ROLL)
        .observe(with_the_argument("--no-such-flag=1"))
        .expect(stays_away_and_recovers("unknown flag: --no-such-flag"))
        .sabotage_input("the manifest is a good one", with_the_argument("--event-ttl=1h0m0s"), finds("came-back"))
        .remedy("change one control plane, look at its apiserver, and only then the next; the old file brings it back")
}

fn rolling_change() -> Check<Platform> {
    check("encryption.a-rolling-change-of-the-manifests-loses-nothing")
        .asserts(["ENC-001", "ENC-043", "ENC-044", "ENC-045", "ENC-069"])
        .needs([NodesExec, ApiserverManifests, Nodes3cp])
        .tag(Tag::Exclusive)
        .tag(Tag::Slow)
        .within(ROLL)
        .observe(one_then_the_others())
        .expect(never_without_an_apiserver(3))
        .sabotage_input("all three manifests are changed at once", all_at_once(), finds("all-down"))
        .remedy("the first control plane alone, then the others: there is an apiserver at every moment")
}
