//! Who reads every Secret through every apiserver while the key is rotated (ENC-064).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use kube::client::Client;
use serde_json::Value;
use shakedown_engine::ObserveError;
use tokio::task::JoinHandle;

use crate::api::Ask;
use crate::platform::Platform;

/// How long one request may take.
const REQUEST: Duration = Duration::from_secs(10);
/// Between two requests.
const PAUSE: Duration = Duration::from_millis(100);
/// What an apiserver says of a value that it lacks the key of.
const UNDECRYPTED: &str = "unable to transform key";

/// Readers in the background, one through each apiserver. That one is away while it is restarted is no finding: that it
/// answers and cannot decrypt is.
pub(crate) struct Readers {
    over: Arc<AtomicBool>,
    tasks: Vec<JoinHandle<(String, u32, BTreeSet<String>)>>,
}

/// Paths of all Secrets. Each has to be got by itself: that is answered from etcd, a list from the apiserver's own memory.
pub(crate) async fn secrets(platform: &Platform) -> Result<Vec<String>, String> {
    let all = platform.list("v1", "Secret", None, None).await.map_err(|e| e.to_string())?;
    let of = |secret: &Value| {
        let metadata = &secret["metadata"];
        let (namespace, name) = (metadata["namespace"].as_str()?, metadata["name"].as_str()?);
        Some(format!("/api/v1/namespaces/{namespace}/secrets/{name}"))
    };
    Ok(all.iter().filter_map(of).collect())
}

/// Whether one request was answered well, and what was said where the Secret could not be decrypted.
async fn once(client: &Client, node: &str, path: &str) -> (bool, Option<String>) {
    match tokio::time::timeout(REQUEST, Ask::get(path).send(client)).await {
        Ok(Ok(answer)) if answer.message().contains(UNDECRYPTED) => {
            (false, Some(format!("{node}: {}", answer.message())))
        }
        Ok(Ok(answer)) => (answer.is_ok(), None),
        _ => (false, None),
    }
}

/// Starts them; each gets these Secrets one after the other, and begins anew.
pub(crate) fn readers(platform: &Platform, paths: Vec<String>) -> Readers {
    let over = Arc::new(AtomicBool::new(false));
    let tasks = platform.apiservers().iter().map(|(node, client)| {
        let (node, client, over, paths) = (node.clone(), client.clone(), over.clone(), paths.clone());
        tokio::spawn(async move {
            let (mut good, mut words) = (0, BTreeSet::new());
            for path in paths.iter().cycle() {
                if over.load(Ordering::Relaxed) {
                    break;
                }
                let (well, said) = once(&client, &node, path).await;
                good += u32::from(well);
                words.extend(said);
                tokio::time::sleep(PAUSE).await;
            }
            (node, good, words)
        })
    });
    Readers { tasks: tasks.collect(), over }
}

impl Readers {
    /// Ends them: good answers of each apiserver, and what they said of Secrets that they could not decrypt.
    pub(crate) async fn end(self) -> Result<(BTreeMap<String, u32>, BTreeSet<String>), ObserveError> {
        self.over.store(true, Ordering::Relaxed);
        let (mut read, mut not_decrypted) = (BTreeMap::new(), BTreeSet::new());
        for task in self.tasks {
            let (node, good, words) = task.await.map_err(|e| ObserveError::harness(format!("a reader: {e}")))?;
            read.insert(node, good);
            not_decrypted.extend(words);
        }
        Ok((read, not_decrypted))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::FakeApi;
    use serde_json::json;

    #[tokio::test]
    async fn what_cannot_be_decrypted_is_told_apart_from_an_apiserver_that_is_away() {
        let api = FakeApi::default();
        let path = "/api/v1/namespaces/n/secrets/s".to_owned();
        let said =
            json!({"kind": "Status", "message": "Internal error occurred: unable to transform key \"/registry\""});
        api.script(&format!("GET {path}"), 500, said, &[]);
        api.script("GET /away", 503, json!({"kind": "Status", "message": "starting"}), &[]);
        let platform = Platform::for_test(api.client(), vec![]);
        let of_one = Readers { over: Arc::default(), tasks: vec![] };
        assert_eq!(of_one.end().await.unwrap(), (BTreeMap::new(), BTreeSet::new()));
        let (good, words) = once(platform.admin(), "a", &path).await;
        assert!(!good && words.unwrap().starts_with("a: Internal error"));
        assert_eq!(once(platform.admin(), "a", "/away").await, (false, None));
    }
}
