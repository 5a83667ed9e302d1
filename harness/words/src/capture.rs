//! Packets as they pass an interface of a node: `tcpdump` runs there while something else happens.

use std::collections::BTreeMap;
use std::future::Future;
use std::time::Duration;

use futures::future::join_all;
use shakedown_core::{Answer, wait_for};
use shakedown_engine::{Cx, ObserveError};

use crate::node_command::script;
use crate::pcap::{self, Summary};
use crate::platform::Platform;

/// How long a capture may take to begin.
const START: Duration = Duration::from_secs(5);
/// How long the last packet may take to be written.
const LAST_PACKET: Duration = Duration::from_secs(3);
/// A capture ends by itself after this many turns of a twentieth of a second, also where nobody stops it.
const TURNS: u32 = 20 * 60;

/// Where to listen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tap {
    /// Name in the observation.
    pub name: String,
    /// Node.
    pub node: String,
    /// Interface in the node.
    pub interface: String,
    /// In the syntax of `pcap-filter(7)`; empty for everything.
    pub filter: String,
}

/// Captures on all taps while `meanwhile` runs, and reads the captures. `last` is a text that `meanwhile` sends at its
/// end: a capture is stopped once the tap named first has it, so that nothing sent before is missed.
///
/// # Errors
/// A capture could not be started or read, or `meanwhile` failed.
pub async fn during<T>(
    platform: &Platform,
    cx: &Cx,
    taps: &[Tap],
    texts: &BTreeMap<String, Vec<u8>>,
    last: &str,
    meanwhile: impl Future<Output = Result<T, ObserveError>>,
) -> Result<(T, BTreeMap<String, Summary>), ObserveError> {
    let folders: Vec<String> =
        taps.iter().map(|tap| format!("/run/{}", cx.name(&format!("capture-{}", tap.name)))).collect();
    let running = join_all(taps.iter().zip(&folders).map(|(tap, folder)| capture(platform, tap, folder)));
    let driving = async {
        let outcome = async {
            for (tap, folder) in taps.iter().zip(&folders) {
                started(platform, tap, folder).await?;
            }
            meanwhile.await
        }
        .await;
        if let (Ok(_), Some(tap), Some(folder), Some(text)) = (&outcome, taps.first(), folders.first(), texts.get(last))
        {
            written(platform, tap, folder, text).await;
        }
        for (tap, folder) in taps.iter().zip(&folders) {
            let stop = format!("{folder}/stop");
            platform
                .machine(&tap.node)
                .map_err(ObserveError::no_ground)?
                .write(&stop, b"", 0o600)
                .await
                .map_err(ObserveError::harness)?;
        }
        outcome
    };
    let (captures, outcome) = futures::join!(running, driving);
    let outcome = outcome?;
    let mut summaries = BTreeMap::new();
    for (tap, bytes) in taps.iter().zip(captures) {
        let bytes = bytes?;
        let summary = pcap::read(&bytes, texts)
            .map_err(|e| ObserveError::no_ground(format!("capture on {} of {}: {e}", tap.interface, tap.node)))?;
        let file = cx.scratch.join(format!("{}.pcap", tap.name));
        tokio::fs::write(&file, &bytes).await.map_err(|e| ObserveError::harness(format!("{}: {e}", file.display())))?;
        cx.attach("pcap", file);
        summaries.insert(tap.name.clone(), summary);
    }
    Ok((outcome, summaries))
}

async fn capture(platform: &Platform, tap: &Tap, folder: &str) -> Result<Vec<u8>, ObserveError> {
    let text = format!(
        "rm -rf {folder}; mkdir -m 700 {folder}; trap 'rm -rf {folder}' EXIT\n\
         tcpdump -i {interface} -n -U --immediate-mode -Z root -s 0 -w {folder}/packets '{filter}' 2>{folder}/log & p=$!\n\
         n=0; while [ ! -e {folder}/stop ] && [ $n -lt {TURNS} ] && kill -0 $p 2>/dev/null; do sleep 0.05; n=$((n+1)); done\n\
         kill -INT $p 2>/dev/null || {{ cat {folder}/log >&2; exit 1; }}\n\
         wait $p || true; cat {folder}/packets",
        interface = tap.interface,
        filter = tap.filter,
    );
    script(platform, &tap.node, &text, START + Duration::from_secs(u64::from(TURNS) / 20))
        .await
        .map_err(ObserveError::no_ground)
}

/// Waits until the capture is running: its file has a head, and its log says that it listens.
async fn started(platform: &Platform, tap: &Tap, folder: &str) -> Result<(), ObserveError> {
    let machine = platform.machine(&tap.node).map_err(ObserveError::no_ground)?;
    let log = format!("{folder}/log");
    wait_for(&format!("capture on {} of {}", tap.interface, tap.node), START, || async {
        match machine.read(&log).await {
            Ok(Some(found)) => {
                let said = String::from_utf8_lossy(&found.content).trim().to_owned();
                if said.contains("listening on") { Answer::Ready(()) } else { Answer::NotYet(said) }
            }
            Ok(None) => Answer::NotYet("it has not begun".to_owned()),
            Err(e) => Answer::NotYet(e.to_string()),
        }
    })
    .await
    .map_err(ObserveError::no_ground)
}

/// Waits until the text has been captured. Where it never is, the judge sees a capture without it.
async fn written(platform: &Platform, tap: &Tap, folder: &str, text: &[u8]) {
    let Ok(machine) = platform.machine(&tap.node) else { return };
    let file = format!("{folder}/packets");
    let _ = wait_for("the last packet", LAST_PACKET, || async {
        match machine.read(&file).await {
            Ok(Some(found)) if found.content.windows(text.len()).any(|part| part == text) => Answer::Ready(()),
            _ => Answer::NotYet("it is not in the file".to_owned()),
        }
    })
    .await;
}
