//! An admission controller that is killed: what a stream of requests meets meanwhile, and when its successor runs, is
//! ready and answers.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use shakedown_core::{Answer, Finding, Judgement, Observation, Resource, Touches, wait_for};
use shakedown_engine::{Cx, Expect, ObserveError, Probe};

use crate::api::Patch;
use crate::kyverno::{Controller, NAMESPACE, at_rest, dry_answer, is_ready};
use crate::objects::ObjectRef;
use crate::platform::Platform;
use crate::pod_command::ask_agents_json;
use crate::undo::as_found;

/// Between two requests of the stream.
const PACE: Duration = Duration::from_millis(150);
/// How long a new admission controller may take to serve.
const SERVING: Duration = Duration::from_secs(150);
/// How long an agent may take to list its services.
const COMMAND: Duration = Duration::from_secs(30);
/// The port at which apiservers call webhooks.
const WEBHOOKS: u16 = 443;
/// How long the stream goes on where nothing has to be waited for.
const STREAM: Duration = Duration::from_secs(6);

/// What the stream met.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Restart {
    /// Admission controllers before, and the nodes that they are on.
    pub replicas: u64,
    /// Nodes that carry one.
    pub nodes: Vec<String>,
    /// Whether one was killed.
    pub killed: bool,
    /// Requests of the stream.
    pub requests: u64,
    /// Requests that no admission controller answered.
    pub failed: u64,
    /// Those of them that failed once more a second later.
    pub failed_again: u64,
    /// What the first one said.
    pub said: String,
    /// From the kill to the successor's container running, milliseconds.
    pub running_ms: Option<u64>,
    /// From the kill to the successor being ready, milliseconds.
    pub ready_ms: Option<u64>,
    /// From the kill to the first refusal after the last failure, milliseconds.
    pub served_ms: Option<u64>,
    /// Requests that break a policy and were admitted.
    pub let_through: u64,
}

/// Restarts, one after the other.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Restarts {
    /// In order.
    pub rounds: Vec<Restart>,
}

impl Observation for Restarts {
    const SCHEMA: &'static str = "kyverno-restarts/1";
}

/// Kills admission controllers under a stream of requests.
#[derive(Debug, Clone)]
pub struct Killing {
    violating: Value,
    rounds: usize,
    kill: bool,
    replicas: Option<u32>,
}

/// Kills the admission controller so many times under a stream of requests that break a policy.
pub fn killed(violating: Value, rounds: usize) -> Killing {
    Killing { violating, rounds, kill: true, replicas: None }
}

impl Killing {
    /// Nobody is killed.
    #[must_use]
    pub fn undisturbed(mut self) -> Self {
        self.kill = false;
        self
    }

    /// With so many replicas.
    #[must_use]
    pub fn of(mut self, replicas: u32) -> Self {
        self.replicas = Some(replicas);
        self
    }
}

impl Probe<Platform> for Killing {
    type Seen = Restarts;

    fn touches(&self) -> Touches {
        Touches::nothing().writes(Controller::Admission.lock()).reads(Resource::Namespace(crate::kyverno::DEMO.into()))
    }

    async fn observe(&self, platform: &Platform, cx: &Cx) -> Result<Restarts, ObserveError> {
        let deployment = Controller::Admission.deployment();
        let found = platform.get(&deployment).await.map_err(ObserveError::no_ground)?.unwrap_or_default();
        let number = found["spec"]["replicas"].as_u64().and_then(|number| u32::try_from(number).ok());
        if let Some(replicas) = self.replicas {
            cx.undo_afterwards(vec![as_found(platform, &deployment).await.map_err(ObserveError::no_ground)?])?;
            scaled(platform, replicas).await?;
        }
        let mut seen = Restarts::default();
        for _ in 0..self.rounds {
            all_serve(platform, cx, self.replicas).await?;
            if let Some(replicas) = self.replicas {
                all_known(platform, cx, replicas).await?;
            }
            seen.rounds.push(self.round(platform, cx).await?);
        }
        // Whoever looks next finds as many as before, at rest, and not some that are about to go.
        if let (Some(_), Some(before)) = (self.replicas, number) {
            scaled(platform, before).await?;
        }
        all_serve(platform, cx, number).await?;
        Ok(seen)
    }
}

async fn scaled(platform: &Platform, replicas: u32) -> Result<(), ObserveError> {
    let patch = json!({"spec": {"replicas": replicas}});
    let patched = platform.patch(&Controller::Admission.deployment(), Patch::Merge, &patch).await;
    patched.map(|_| ()).map_err(ObserveError::no_ground)
}

/// All admission controllers are ready, as many as there are to be, and Kyverno is at rest.
async fn all_serve(platform: &Platform, cx: &Cx, replicas: Option<u32>) -> Result<(), ObserveError> {
    let what = "all admission controllers";
    wait_for(what, SERVING, || async {
        let last = match (at_rest(platform).await, pods(platform).await) {
            (Ok(Answer::Ready(())), Ok(pods)) => match replicas.filter(|wanted| pods.len() != *wanted as usize) {
                None => return Answer::Ready(()),
                Some(wanted) => format!("{} of {wanted}", pods.len()),
            },
            (Ok(Answer::NotYet(why) | Answer::Never(why)) | Err(why), _) | (_, Err(why)) => why,
        };
        cx.waiting(what, last.clone());
        Answer::NotYet(last)
    })
    .await
    .map_err(ObserveError::no_ground)
}

/// The load balancer of each node knows all admission controllers: one that knows only those that are about to go would
/// reach nobody.
async fn all_known(platform: &Platform, cx: &Cx, replicas: u32) -> Result<(), ObserveError> {
    let what = "every node to know all admission controllers";
    let service = ObjectRef::namespaced("v1", "Service", NAMESPACE, "kyverno-svc");
    let service = platform.get(&service).await.map_err(ObserveError::no_ground)?.unwrap_or_default();
    let address = service["spec"]["clusterIP"].as_str().unwrap_or_default();
    wait_for(what, SERVING, || async {
        let last = match ask_agents_json(platform, &["service", "list"], COMMAND).await {
            Err(why) => why.to_string(),
            Ok(agents) => {
                let lacking = agents.iter().map(|(node, services)| (node, backends(services, address)));
                match lacking.into_iter().find(|(_, number)| *number != replicas as usize) {
                    None => return Answer::Ready(()),
                    Some((node, number)) => format!("{node} knows {number} of {replicas}"),
                }
            }
        };
        cx.waiting(what, last.clone());
        Answer::NotYet(last)
    })
    .await
    .map_err(ObserveError::no_ground)
}

/// How many backends in use an agent's list has for an address at the port of webhooks.
fn backends(services: &Value, address: &str) -> usize {
    let service = services.as_array().into_iter().flatten().find(|service| {
        let frontend = &service["spec"]["frontend-address"];
        frontend["ip"] == address && frontend["port"] == WEBHOOKS
    });
    let all = service.and_then(|service| service["spec"]["backend-addresses"].as_array()).into_iter().flatten();
    all.filter(|backend| backend["state"].as_str().is_none_or(|state| state == "active")).count()
}

async fn pods(platform: &Platform) -> Result<Vec<Value>, String> {
    let selector = Controller::Admission.selector();
    platform.list("v1", "Pod", Some(NAMESPACE), Some(&selector)).await.map_err(|e| e.to_string())
}

fn name(pod: &Value) -> String {
    pod["metadata"]["name"].as_str().unwrap_or_default().to_owned()
}

impl Killing {
    async fn round(&self, platform: &Platform, cx: &Cx) -> Result<Restart, ObserveError> {
        let before = pods(platform).await.map_err(ObserveError::no_ground)?;
        let mut nodes: Vec<String> =
            before.iter().filter_map(|pod| pod["spec"]["nodeName"].as_str().map(str::to_owned)).collect();
        nodes.sort();
        nodes.dedup();
        let old: Vec<String> = before.iter().map(name).collect();
        let mut seen = Restart { replicas: old.len() as u64, nodes, killed: self.kill, ..Restart::default() };
        if let (true, Some(first)) = (self.kill, old.first()) {
            let victim = ObjectRef::namespaced("v1", "Pod", NAMESPACE, first);
            platform.delete(&victim).await.map_err(ObserveError::no_ground)?;
        }
        let began = Instant::now();
        let end = began + SERVING.min(cx.budget.mul_f32(0.7));
        loop {
            self.ask(platform, &mut seen, began).await?;
            if self.kill {
                self.follow(platform, &old, &mut seen, began).await?;
            }
            let calm = seen.failed == 0 || seen.served_ms.is_some();
            let over = calm && (!self.kill || seen.ready_ms.is_some()) && began.elapsed() >= STREAM;
            if over || Instant::now() >= end {
                break;
            }
            tokio::time::sleep(PACE).await;
        }
        Ok(seen)
    }

    /// One request of the stream; one that fails is sent once more.
    async fn ask(&self, platform: &Platform, seen: &mut Restart, began: Instant) -> Result<(), ObserveError> {
        let answer = dry_answer(platform, platform.admin(), &self.violating).await.map_err(ObserveError::no_ground)?;
        seen.requests += 1;
        if answer.code >= 500 {
            seen.failed += 1;
            seen.served_ms = None;
            if seen.said.is_empty() {
                answer.message().clone_into(&mut seen.said);
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
            let again =
                dry_answer(platform, platform.admin(), &self.violating).await.map_err(ObserveError::no_ground)?;
            seen.failed_again += u64::from(again.code >= 500);
            return Ok(());
        }
        if answer.is_ok() {
            // Not refused, so not served: no webhook is registered.
            seen.let_through += 1;
            seen.served_ms = None;
        } else if seen.failed > 0 && seen.served_ms.is_none() {
            seen.served_ms = Some(millis(began));
        }
        Ok(())
    }

    /// When the successor runs and is ready.
    async fn follow(
        &self,
        platform: &Platform,
        old: &[String],
        seen: &mut Restart,
        began: Instant,
    ) -> Result<(), ObserveError> {
        let now = pods(platform).await.map_err(ObserveError::no_ground)?;
        let Some(successor) = now.iter().find(|pod| !old.contains(&name(pod))) else { return Ok(()) };
        if seen.running_ms.is_none() && successor["status"]["phase"] == "Running" {
            seen.running_ms = Some(millis(began));
        }
        if seen.ready_ms.is_none() && is_ready(successor) {
            seen.ready_ms = Some(millis(began));
        }
        Ok(())
    }
}

fn millis(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX)
}

/// The only admission controller runs before it serves, requests fail meanwhile, and it serves within a time.
pub struct ServesLater(Duration);

/// See [`ServesLater`].
pub fn serves_after_it_runs_and_within(budget: Duration) -> ServesLater {
    ServesLater(budget)
}

impl Expect<Restarts> for ServesLater {
    fn judge(&self, seen: &Restarts) -> Judgement {
        let mut findings = vec![];
        for (round, restart) in seen.rounds.iter().enumerate() {
            let subject = format!("restart {}", round + 1);
            let mut found = |code: &str, message: String| findings.push(Finding::new(code, &subject, message));
            if restart.failed == 0 {
                found("no-gap", format!("none of {} requests failed", restart.requests));
                continue;
            }
            let (Some(running), Some(served)) = (restart.running_ms, restart.served_ms) else {
                found("never-served", format!("{restart:?}"));
                continue;
            };
            if served <= running {
                found("served-before-it-ran", format!("running after {running} ms, served after {served} ms"));
            } else if Duration::from_millis(served - running) > self.0 {
                found("served-late", format!("{} ms after it ran", served - running));
            }
        }
        if seen.rounds.is_empty() {
            return Judgement::Inconclusive("nothing was restarted".to_owned());
        }
        Judgement::from_findings(findings)
    }
}

/// One of several admission controllers was killed, and nobody noticed: no request failed twice, none was let through.
pub struct Unnoticed;

/// See [`Unnoticed`].
pub fn unnoticed() -> Unnoticed {
    Unnoticed
}

impl Expect<Restarts> for Unnoticed {
    fn judge(&self, seen: &Restarts) -> Judgement {
        let Some(restart) = seen.rounds.first().filter(|restart| restart.killed && restart.requests > 0) else {
            return Judgement::Inconclusive("nobody was killed under a stream".to_owned());
        };
        let mut findings = vec![];
        let mut expect = |code: &str, holds: bool| {
            if !holds {
                findings.push(Finding::new(code, "the stream", format!("{restart:?}")));
            }
        };
        expect("requests-failed", restart.failed_again == 0);
        expect("let-through", restart.let_through == 0);
        expect("on-one-node", restart.replicas < 2 || restart.nodes.len() >= 2);
        Judgement::from_findings(findings)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::codes;

    fn one(restart: Restart) -> Restarts {
        Restarts { rounds: vec![restart] }
    }

    fn gap(running: u64, served: u64) -> Restart {
        Restart {
            replicas: 1,
            nodes: vec!["a".into()],
            killed: true,
            requests: 9,
            failed: 4,
            failed_again: 3,
            running_ms: Some(running),
            ready_ms: Some(served),
            served_ms: Some(served),
            ..Restart::default()
        }
    }

    #[test]
    fn a_restart_is_judged() {
        let judged = |restart| codes(serves_after_it_runs_and_within(Duration::from_secs(60)).judge(&one(restart)));
        assert!(judged(gap(2_000, 9_000)).is_empty());
        assert_eq!(judged(gap(2_000, 63_000)), ["served-late"]);
        assert_eq!(judged(gap(9_000, 2_000)), ["served-before-it-ran"]);
        assert_eq!(judged(Restart { served_ms: None, ..gap(1, 2) }), ["never-served"]);
        assert_eq!(judged(Restart { failed: 0, ..gap(1, 2) }), ["no-gap"]);
    }

    #[test]
    fn backends_in_use_are_counted() {
        let backend = |state: &str| json!({"ip": "10.0.0.1", "port": 9443, "state": state});
        let frontend = |port: u16| json!({"ip": "10.96.0.9", "port": port});
        let services = json!([
            {"spec": {"frontend-address": frontend(8000), "backend-addresses": [backend("active")]}},
            {"spec": {"frontend-address": frontend(WEBHOOKS), "backend-addresses": [backend("active"), backend("terminating")]}},
        ]);
        assert_eq!((backends(&services, "10.96.0.9"), backends(&services, "10.96.0.8")), (1, 0));
    }

    #[test]
    fn a_kill_among_several_is_judged() {
        let three = Restart { replicas: 3, failed_again: 0, nodes: vec!["a".into(), "b".into()], ..gap(1, 2) };
        assert!(codes(unnoticed().judge(&one(three.clone()))).is_empty());
        assert_eq!(codes(unnoticed().judge(&one(gap(1, 2)))), ["requests-failed"]);
        assert_eq!(codes(unnoticed().judge(&one(Restart { nodes: vec!["a".into()], ..three }))), ["on-one-node"]);
        assert!(matches!(unnoticed().judge(&Restarts::default()), Judgement::Inconclusive(_)));
    }
}
