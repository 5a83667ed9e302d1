//! The desired state before and after an exclusive check: it must be the same.

use std::time::Duration;

use shakedown_core::{Answer, wait_for};

use crate::world::{Fingerprint, World};

/// What was changed may take this long until it is as it was: deletions end when their finalizers have.
const SETTLE: Duration = Duration::from_secs(60);

/// The state before; nothing for a check that is not exclusive.
pub(crate) struct Fingerprints(Option<Fingerprint>);

impl Fingerprints {
    /// Takes it, where it is wanted.
    pub async fn before<W: World>(world: &W, wanted: bool) -> Result<Self, String> {
        if !wanted {
            return Ok(Self(None));
        }
        world.fingerprint().await.map(|print| Self(Some(print))).map_err(|e| e.to_string())
    }

    /// Waits until the state is again as it was.
    pub async fn still_holds<W: World>(&self, world: &W) -> Result<(), String> {
        let Some(before) = &self.0 else { return Ok(()) };
        wait_for("the state as it was before", SETTLE, || async {
            match world.fingerprint().await {
                Ok(after) => match difference(before, &after) {
                    None => Answer::Ready(()),
                    Some(text) => Answer::NotYet(text),
                },
                Err(error) => Answer::NotYet(error.to_string()),
            }
        })
        .await
        .map_err(|e| e.to_string())
    }
}

/// At most five names that differ, as text.
fn difference(before: &Fingerprint, after: &Fingerprint) -> Option<String> {
    let gone = before.keys().filter(|name| !after.contains_key(*name)).map(|name| format!("{name} is gone"));
    let new = after.keys().filter(|name| !before.contains_key(*name)).map(|name| format!("{name} is new"));
    let changed = before
        .iter()
        .filter(|(name, hash)| after.get(*name).is_some_and(|now| now != *hash))
        .map(|(name, _)| format!("{name} has changed"));
    let all: Vec<String> = gone.chain(new).chain(changed).collect();
    match all.len() {
        0 => None,
        1..=5 => Some(all.join(", ")),
        more => Some(format!("{}, and {} more", all.iter().take(5).cloned().collect::<Vec<_>>().join(", "), more - 5)),
    }
}
