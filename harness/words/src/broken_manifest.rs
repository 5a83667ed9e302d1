//! A mistake in one control plane's manifest: its apiserver stays away, the API stays there, and the file put back is all
//! that is needed (ENC-046).

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use shakedown_core::{Answer, Finding, Judgement, Observation, Resource, Touches, wait_for};
use shakedown_engine::{Cx, Expect, ObserveError, Probe, expect_fn};

use crate::api::Ask;
use crate::encryption_config::MANIFEST;
use crate::node_command::{first_control_plane, script};
use crate::platform::Platform;
use crate::roll::{back, fallen_silent, lives, manifest, process, with_argument};
use crate::settled::{as_found, settled};

/// How long the apiserver may take to come back, or to be known not to.
const KNOWN: Duration = Duration::from_secs(240);
/// So many times the API is asked while one apiserver is away.
const ASKED: u32 = 20;
const COMMAND: Duration = Duration::from_secs(20);

/// How it went.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BrokenManifest {
    /// The control plane.
    pub node: String,
    /// The argument that its manifest got.
    pub argument: String,
    /// Its apiserver came back with it.
    pub came_back: bool,
    /// What it said before it ended.
    pub said: String,
    /// Requests through the documented endpoint meanwhile.
    pub asked: u32,
    /// Of these the ones that got no good answer, after one retry either.
    pub unanswered: u32,
    /// With the manifest put back it is there again.
    pub recovered: bool,
    /// Milliseconds from putting it back until then.
    pub recovered_ms: u64,
}

impl Observation for BrokenManifest {
    const SCHEMA: &'static str = "broken-manifest/1";
}

/// Breaks the first control plane's manifest, and puts it back.
#[derive(Debug, Clone)]
pub struct Breaks(&'static str);

/// The first control plane's apiserver gets this argument.
pub fn with_the_argument(argument: &'static str) -> Breaks {
    Breaks(argument)
}

impl Probe<Platform> for Breaks {
    type Seen = BrokenManifest;

    fn touches(&self) -> Touches {
        Touches::nothing().writes(Resource::Apiserver).writes(Resource::Nodes)
    }

    async fn observe(&self, platform: &Platform, cx: &Cx) -> Result<BrokenManifest, ObserveError> {
        let working = as_found(platform).await?;
        let node = first_control_plane(platform).map_err(ObserveError::no_ground)?;
        let (found, undo) = manifest(platform, &node).await?;
        cx.undo_afterwards(vec![undo])?;
        let before = process(platform, &node).await.map_err(ObserveError::no_ground)?;
        let text = with_argument(&String::from_utf8_lossy(&found.content), self.0).map_err(ObserveError::no_ground)?;
        let machine = platform.machine(&node).map_err(ObserveError::no_ground)?;
        machine.write(MANIFEST, text.as_bytes(), found.mode).await.map_err(ObserveError::no_ground)?;
        let went = self.away(platform, cx, &node, &before).await;
        let began = Instant::now();
        let recovered = back(platform, &node, &found).await;
        let recovered_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
        cx.waiting("all that lives off the apiservers", "");
        settled(platform, Some(&working)).await?;
        let (came_back, said, unanswered) = went?;
        Ok(BrokenManifest {
            node,
            argument: self.0.to_owned(),
            came_back,
            said,
            asked: ASKED,
            unanswered,
            recovered: recovered.is_ok(),
            recovered_ms,
        })
    }
}

impl Breaks {
    async fn away(
        &self,
        platform: &Platform,
        cx: &Cx,
        node: &str,
        before: &str,
    ) -> Result<(bool, String, u32), ObserveError> {
        cx.waiting(format!("the apiserver of {node} to be replaced"), "");
        fallen_silent(platform, node, before).await?;
        let said = "grep -rhoE 'unknown flag: [^ ]*' /var/log/pods/kube-system_kube-apiserver-*/ 2>/dev/null | tail -n 1 || true";
        let (came_back, words) = wait_for("the apiserver, or its last words", KNOWN, || async {
            let now = process(platform, node).await.unwrap_or_default();
            if !now.is_empty() && now != before && lives(platform, node).await {
                return Answer::Ready((true, String::new()));
            }
            match script(platform, node, said, COMMAND).await {
                Ok(out) if !out.is_empty() => Answer::Ready((false, String::from_utf8_lossy(&out).trim().to_owned())),
                Ok(_) => Answer::NotYet("it neither answers nor says why not".to_owned()),
                Err(e) => Answer::NotYet(e.to_string()),
            }
        })
        .await
        .map_err(ObserveError::no_ground)?;
        let mut unanswered = 0;
        for _ in 0..ASKED {
            let ask = || async {
                let answer = tokio::time::timeout(
                    Duration::from_secs(10),
                    Ask::get("/api/v1/namespaces?limit=1").send(platform.admin()),
                );
                matches!(answer.await, Ok(Ok(answer)) if answer.is_ok())
            };
            if !ask().await && !ask().await {
                unanswered += 1;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        Ok((came_back, words, unanswered))
    }
}

/// Its apiserver says what it does not know and stays away; the API answers all the while; put back, it comes back.
pub fn stays_away_and_recovers(words: &'static str) -> impl Expect<BrokenManifest> {
    expect_fn(move |seen: &BrokenManifest| {
        let mut found = vec![];
        if seen.came_back {
            found.push(Finding::new("came-back", &seen.node, format!("it runs with {}", seen.argument)));
        } else if !seen.said.contains(words) {
            found.push(Finding::new("other-words", &seen.node, seen.said.clone()));
        }
        if seen.unanswered > 0 {
            let said = format!("{} of {} requests got no answer", seen.unanswered, seen.asked);
            found.push(Finding::new("api-gone", "the documented endpoint", said));
        }
        if !seen.recovered {
            found.push(Finding::new("not-recovered", &seen.node, "with the manifest put back it does not come back"));
        }
        Judgement::from_findings(found)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::codes;

    #[test]
    fn each_defect_has_its_code() {
        let good = BrokenManifest {
            node: "cp-1".into(),
            argument: "--x".into(),
            came_back: false,
            said: "unknown flag: --x".into(),
            asked: 20,
            unanswered: 0,
            recovered: true,
            recovered_ms: 1,
        };
        let judge = |seen: &BrokenManifest| codes(stays_away_and_recovers("unknown flag").judge(seen));
        assert!(judge(&good).is_empty());
        assert_eq!(judge(&BrokenManifest { came_back: true, ..good.clone() }), ["came-back"]);
        assert_eq!(judge(&BrokenManifest { said: "panic".into(), ..good.clone() }), ["other-words"]);
        assert_eq!(judge(&BrokenManifest { unanswered: 2, ..good.clone() }), ["api-gone"]);
        assert_eq!(judge(&BrokenManifest { recovered: false, ..good }), ["not-recovered"]);
    }
}
