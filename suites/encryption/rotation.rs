//! One rotation of the key on the cluster, there and back.
//!
//! Not in the table of checks yet: it takes minutes, and has not passed often enough beside all others.

use std::time::Duration;

use shakedown_core::Capability::{ApiserverManifests, EtcdAccess, Nodes3cp, NodesExec};
use shakedown_engine::{Check, Tag, check, finds};
use shakedown_words::Platform;
use shakedown_words::rotation::{readable_throughout, rotation, rotation_that_writes_too_early};

/// How long the rotation and the way back may take: ten restarts of apiservers.
const ROTATION: Duration = Duration::from_secs(1500);

/// The check that rotates.
pub fn checks() -> Vec<Check<Platform>> {
    vec![rotated_key()]
}

fn rotated_key() -> Check<Platform> {
    check("encryption.a-key-is-rotated-while-every-secret-stays-readable")
        .contradicts(["ENC-064"])
        .needs([NodesExec, ApiserverManifests, EtcdAccess, Nodes3cp])
        .tag(Tag::Exclusive)
        .tag(Tag::Slow)
        .within(ROTATION)
        .observe(rotation())
        .expect(readable_throughout())
        .sabotage_omitting(
            "the new key writes before all know it",
            rotation_that_writes_too_early(),
            finds("unreadable"),
        )
        .remedy("make the new key known everywhere (second in the list) before it comes first anywhere")
}
