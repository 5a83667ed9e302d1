//! Kyverno: its parts by name, what it says to telltale requests, and ways to bend its policies and controllers.
//!
//! Kyverno is asked about labelled namespaces only, so nothing here disturbs another area. Within the area, whoever looks
//! reads the component [`ENGINE`] (or the controller it depends on), and whoever bends it writes it.

use http::Method;
use kube::client::Client;
use serde_json::{Value, json};
use shakedown_core::{Resource, Touches};
use shakedown_engine::{PlantError, Prepared, Probe, Sabotage};

use crate::api::Ask;
use crate::change::{Change, Signal, Step, patched};
use crate::objects::{ObjectRef, version_path};
use crate::platform::Platform;

/// Namespace of Kyverno (KYV-018).
pub const NAMESPACE: &str = "kyverno";
/// API version of its policies (KYV-024).
pub const POLICY: &str = "kyverno.io/v1";
/// The three documented policies (KYV-034).
pub const POLICIES: [&str; 3] = ["disallow-latest-tag", "require-app-label", "require-resources"];
/// Label of the namespaces whose requests Kyverno is asked about.
pub const LABEL: &str = "shakedown.test/policies";
/// The namespace of the converged platform that carries it.
pub const DEMO: &str = "kyverno-demo";
/// The lock of policies and webhooks.
pub const ENGINE: &str = "kyverno";
/// A sign of life is fresh for so long, seconds; it is given every ten, and missed after a hundred.
const FRESH: i64 = 60;

/// Kyverno's four controllers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Controller {
    /// Serves the webhooks.
    Admission,
    /// Generates, and mutates what exists.
    Background,
    /// Deletes what is due.
    Cleanup,
    /// Writes the reports.
    Reports,
}

impl Controller {
    /// All of them, in the document's order.
    pub const ALL: [Self; 4] = [Self::Admission, Self::Background, Self::Cleanup, Self::Reports];

    /// Value of its Pods' label `app.kubernetes.io/component`.
    pub fn component(self) -> &'static str {
        match self {
            Self::Admission => "admission-controller",
            Self::Background => "background-controller",
            Self::Cleanup => "cleanup-controller",
            Self::Reports => "reports-controller",
        }
    }

    /// Its Deployment.
    pub fn deployment(self) -> ObjectRef {
        ObjectRef::namespaced("apps/v1", "Deployment", NAMESPACE, &format!("kyverno-{}", self.component()))
    }

    /// Selects its Pods.
    pub fn selector(self) -> String {
        format!("app.kubernetes.io/component={},app.kubernetes.io/part-of=kyverno", self.component())
    }

    /// Its lock.
    pub fn lock(self) -> Resource {
        Resource::Component(if self == Self::Admission { ENGINE } else { self.component() }.to_owned())
    }
}

/// A documented policy.
pub fn policy(name: &str) -> ObjectRef {
    ObjectRef::cluster(POLICY, "ClusterPolicy", name)
}

/// A Pod of one container.
pub fn pod(name: &str, image: &str, requests: Value) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
        "spec": {
            "terminationGracePeriodSeconds": 0,
            "containers": [{"name": "c", "image": image, "imagePullPolicy": "IfNotPresent",
                "resources": {"requests": requests}}],
        },
    })
}

/// Requests that satisfy the documented policy.
pub fn requests() -> Value {
    json!({"cpu": "10m", "memory": "16Mi"})
}

/// The manifest in a namespace.
#[must_use]
pub fn within(namespace: &str, mut manifest: Value) -> Value {
    manifest["metadata"]["namespace"] = namespace.into();
    manifest
}

/// What an apiserver answers to a request that stores nothing.
///
/// # Errors
/// No answer, or the manifest names no kind that is served.
pub async fn dry_answer(
    platform: &Platform,
    client: &Client,
    manifest: &Value,
) -> Result<crate::api::ApiAnswer, String> {
    let object = ObjectRef::of(manifest).ok_or_else(|| format!("no manifest: {manifest}"))?;
    let served = platform.served(&object.api_version, &object.kind).await.map_err(|e| e.to_string())?;
    let folder = version_path(&object.api_version);
    let path = match object.namespace.filter(|_| served.namespaced) {
        Some(ns) => format!("{folder}/namespaces/{ns}/{}?dryRun=All", served.plural),
        None => format!("{folder}/{}?dryRun=All", served.plural),
    };
    Ask::new(Method::POST, &path).with(manifest).send(client).await.map_err(|e| e.to_string())
}

/// What an apiserver answers to telltale requests: the code, and the rules that a refusal names.
pub fn answers_to(telltales: Vec<Value>) -> Signal {
    Box::new(move |platform, client| {
        let telltales = telltales.clone();
        Box::pin(async move {
            let mut said = vec![];
            for telltale in &telltales {
                let answer = dry_answer(platform, client, telltale).await?;
                // A namespace that is just being made: its default service account is a controller's work to come.
                if answer.code >= 500 || answer.message().contains("error looking up service account") {
                    return Err(answer.message().to_owned());
                }
                said.push(format!("{} {}", answer.code, rules_in(answer.message()).join(" ")));
            }
            Ok(said.join(" | "))
        })
    })
}

/// The keys of a refusal's list: policies and their rules.
fn rules_in(message: &str) -> Vec<&str> {
    let keys = message.lines().filter_map(|line| line.split_once(':').map(|(key, _)| key.trim()));
    keys.filter(|key| !key.is_empty() && !key.contains(' ')).collect()
}

/// Both signals, one after the other.
pub fn both(one: Signal, other: Signal) -> Signal {
    let pair = std::sync::Arc::new((one, other));
    Box::new(move |platform, client| {
        let pair = pair.clone();
        Box::pin(
            async move { Ok(format!("{} / {}", (pair.0)(platform, client).await?, (pair.1)(platform, client).await?)) },
        )
    })
}

/// Whether a service account may do something anywhere: namespace, name, verb, group, resource.
pub fn right_of(
    account: (&'static str, &'static str),
    verb: &'static str,
    resource: (&'static str, &'static str),
) -> Signal {
    Box::new(move |_, client| {
        Box::pin(async move {
            let review = json!({
                "apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview",
                "spec": {
                    "user": format!("system:serviceaccount:{}:{}", account.0, account.1),
                    "resourceAttributes": {"verb": verb, "group": resource.0, "resource": resource.1},
                },
            });
            let path = "/apis/authorization.k8s.io/v1/subjectaccessreviews";
            let answer = Ask::new(Method::POST, path).with(&review).send(client).await.map_err(|e| e.to_string())?;
            Ok(answer.body["status"]["allowed"].to_string())
        })
    })
}

/// A field (JSON pointer) of an object, as the documented endpoint gives it.
pub fn field_of(object: ObjectRef, pointer: &'static str) -> Signal {
    Box::new(move |platform, _| {
        let object = object.clone();
        Box::pin(async move {
            let live = platform.get(&object).await.map_err(|e| e.to_string())?.unwrap_or_default();
            Ok(live.pointer(pointer).cloned().unwrap_or_default().to_string())
        })
    })
}

/// The names of Kyverno's webhooks for requests, as each apiserver gives them: they tell Fail from Ignore.
pub fn webhook_names() -> Signal {
    Box::new(move |_, client| {
        Box::pin(async move {
            let path = "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations/\
                        kyverno-resource-validating-webhook-cfg";
            let answer = Ask::get(path).send(client).await.map_err(|e| e.to_string())?;
            let webhooks = answer.body["webhooks"].as_array().cloned().unwrap_or_default();
            // Policies are taken over one after the other: between the first and the last there are both.
            match webhooks.as_slice() {
                [one] => Ok(one["name"].to_string()),
                several => Err(format!("{} webhooks", several.len())),
            }
        })
    })
}

/// How many Pods a controller has: `up` with a ready one, `down` without any; on its way otherwise.
pub fn pods_of(controller: Controller) -> Signal {
    Box::new(move |platform, _| Box::pin(async move { up_or_down(platform, controller).await }))
}

pub(crate) async fn up_or_down(platform: &Platform, controller: Controller) -> Result<String, String> {
    let pods = platform.list("v1", "Pod", Some(NAMESPACE), Some(&controller.selector())).await;
    let pods = pods.map_err(|e| e.to_string())?;
    let ready = pods.iter().filter(|pod| is_ready(pod)).count();
    match (pods.len(), ready) {
        (0, _) => Ok("down".to_owned()),
        (all, ready) if all == ready => Ok("up".to_owned()),
        (all, ready) => Err(format!("{ready} of {all} Pods are ready")),
    }
}

/// Whether a Pod is ready and not about to go.
pub(crate) fn is_ready(pod: &Value) -> bool {
    pod["metadata"]["deletionTimestamp"].is_null() && crate::pods::is_ready(pod)
}

/// A defect that holds locks of Kyverno's while it is planted.
pub struct Bent {
    change: Change,
    locks: Vec<Resource>,
}

impl Sabotage<Platform> for Bent {
    type Choice = ();

    fn describe(&self) -> String {
        self.change.describe()
    }

    fn touches(&self) -> Touches {
        self.locks.iter().fold(self.change.touches(), |touches, lock| touches.writes(lock.clone()))
    }

    async fn prepare(&self, platform: &Platform) -> Result<Prepared<()>, PlantError> {
        self.change.prepare(platform).await
    }

    async fn plant(&self, platform: &Platform, choice: &()) -> Result<(), PlantError> {
        self.change.plant(platform, choice).await
    }

    async fn settled(&self, platform: &Platform) -> Result<(), PlantError> {
        self.change.settled(platform).await
    }
}

/// A change that bends policies or webhooks.
pub fn bent(change: Change) -> Bent {
    Bent { change, locks: vec![Controller::Admission.lock()] }
}

/// A documented policy is patched (RFC 6902); shown by the answers to telltales.
pub fn policy_bent(what: &str, name: &str, patch: Value, telltales: Vec<Value>) -> Bent {
    bent(crate::change::json_patched(what, policy(name), patch).shown_by(answers_to(telltales)))
}

/// A documented policy only audits.
pub fn audited_only(name: &str, telltale: Value) -> Bent {
    let patch = json!([{"op": "replace", "path": "/spec/validationFailureAction", "value": "Audit"}]);
    policy_bent(&format!("ClusterPolicy {name} is in Audit"), name, patch, vec![telltale])
}

/// A controller is scaled to nothing.
pub fn scaled_to_zero(controller: Controller) -> Bent {
    let what = format!("the {} is scaled to 0", controller.component());
    let change = patched(what, controller.deployment(), json!({"spec": {"replicas": 0}}));
    Bent { change: change.shown_by(pods_of(controller)), locks: vec![controller.lock()] }
}

/// A patch of a controller's number, as a step of a larger change.
pub fn scale(controller: Controller, replicas: u32) -> Step {
    Step::Patch(controller.deployment(), crate::api::Patch::Merge, json!({"spec": {"replicas": replicas}}))
}

/// A probe that holds locks of Kyverno's while it looks.
pub struct Looking<P> {
    probe: P,
    reads: Vec<Resource>,
}

/// Looks at what Kyverno says: nobody bends it meanwhile.
pub fn looking<P: Probe<Platform>>(probe: P) -> Looking<P> {
    Looking { probe, reads: vec![Controller::Admission.lock()] }
}

impl<P> Looking<P> {
    /// Depends on this controller, too.
    #[must_use]
    pub fn and_at(mut self, controller: Controller) -> Self {
        self.reads.push(controller.lock());
        self
    }
}

impl<P: Probe<Platform>> Probe<Platform> for Looking<P> {
    type Seen = P::Seen;

    fn touches(&self) -> Touches {
        self.reads.iter().fold(self.probe.touches(), |touches, lock| touches.reads(lock.clone()))
    }

    async fn observe(
        &self,
        platform: &Platform,
        cx: &shakedown_engine::Cx,
    ) -> Result<Self::Seen, shakedown_engine::ObserveError> {
        self.probe.observe(platform, cx).await
    }
}

/// A policy of the network that lets nobody reach the admission controller from another node; what it sends itself,
/// and the probes of its own node, still pass. Stopping its process instead would cost it its leadership, and it ends.
pub fn cut_off() -> Value {
    json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": {"name": "shakedown-cut-off", "namespace": NAMESPACE},
        "spec": {
            "podSelector": {"matchLabels": {"app.kubernetes.io/component": Controller::Admission.component()}},
            "policyTypes": ["Ingress"],
        },
    })
}

/// Whether every apiserver is answered by the admission controller, or none is.
///
/// # Errors
/// An apiserver does not answer, or some are and some are not.
pub async fn is_cut_off(platform: &Platform) -> Result<bool, String> {
    // The webhooks for policies fail closed, whatever the policies say about an outage; an answer is one by any refusal.
    let rule = json!({
        "name": "none", "match": {"any": [{"resources": {"kinds": ["ConfigMap"], "names": ["none"]}}]},
        "validate": {"message": "none", "deny": {}},
    });
    let asked = json!({
        "apiVersion": "kyverno.io/v1", "kind": "ClusterPolicy", "metadata": {"name": "shakedown-cut-off"},
        "spec": {"rules": [rule]},
    });
    // Without a deadline of its own: the webhook's is told, and one of the request's may end the connection without a word.
    let path = "/apis/kyverno.io/v1/clusterpolicies?dryRun=All";
    let clients: Vec<&Client> = if platform.apiservers().is_empty() {
        vec![platform.admin()]
    } else {
        platform.apiservers().values().collect()
    };
    let asks = clients.into_iter().map(|client| Ask::new(Method::POST, path).with(&asked).send(client));
    let answers = futures::future::try_join_all(asks).await.map_err(|e| e.to_string())?;
    let silent = answers.iter().filter(|answer| answer.code >= 500).count();
    match silent {
        0 => Ok(false),
        all if all == answers.len() => Ok(true),
        some => Err(format!("{some} of {} apiservers are not answered", answers.len())),
    }
}

/// Whether Kyverno has come to rest: it [lives](lives), and its webhooks for requests are registered.
///
/// # Errors
/// The API does not answer.
pub async fn at_rest(platform: &Platform) -> Result<shakedown_core::Answer<()>, String> {
    use shakedown_core::Answer::{NotYet, Ready};
    match lives(platform).await? {
        Ready(()) => {}
        other => return Ok(other),
    }
    let name = "kyverno-resource-validating-webhook-cfg";
    let configuration = ObjectRef::cluster("admissionregistration.k8s.io/v1", "ValidatingWebhookConfiguration", name);
    let webhooks = platform.get(&configuration).await.map_err(|e| e.to_string())?.unwrap_or_default();
    if webhooks["webhooks"].as_array().is_none_or(Vec::is_empty) {
        return Ok(NotYet("no webhook for requests is registered".to_owned()));
    }
    Ok(Ready(()))
}

/// Whether its admission controllers are ready, one of them leads, and the sign of life by which the leader keeps the
/// webhooks registered is fresh. (Where it is older than 100 s, the leader takes the webhooks for requests away until the
/// next sign: everything is admitted meanwhile.)
///
/// # Errors
/// The API does not answer.
pub async fn lives(platform: &Platform) -> Result<shakedown_core::Answer<()>, String> {
    use shakedown_core::Answer::{NotYet, Ready};
    let pods = platform.list("v1", "Pod", Some(NAMESPACE), Some(&Controller::Admission.selector())).await;
    let pods = pods.map_err(|e| e.to_string())?;
    if pods.is_empty() || !pods.iter().all(is_ready) {
        return Ok(NotYet("not every admission controller is ready".to_owned()));
    }
    let lease = |name: &'static str| async move {
        let lease = ObjectRef::namespaced("coordination.k8s.io/v1", "Lease", NAMESPACE, name);
        platform.get(&lease).await.map(Option::unwrap_or_default).map_err(|e| e.to_string())
    };
    let (leader, health) = (lease("kyverno").await?, lease("kyverno-health").await?);
    if !pods.iter().any(|pod| pod["metadata"]["name"] == leader["spec"]["holderIdentity"]) {
        return Ok(NotYet(format!("{} leads, and is gone", leader["spec"]["holderIdentity"])));
    }
    let sign = &health["metadata"]["annotations"]["kyverno.io/last-request-time"];
    if seconds_between(sign, &leader["spec"]["renewTime"]).is_none_or(|age| age >= FRESH) {
        return Ok(NotYet(format!("the last sign of life is of {sign}")));
    }
    Ok(Ready(()))
}

fn seconds_between(earlier: &Value, later: &Value) -> Option<i64> {
    let read = |value: &Value| value.as_str().and_then(|text| text.parse::<k8s_openapi::jiff::Timestamp>().ok());
    Some(read(later)?.as_second() - read(earlier)?.as_second())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rules_of_a_refusal_are_read() {
        let message = "admission webhook \"validate.kyverno.svc-fail\" denied the request: \n\nresource Pod/n/p was \
                       blocked due to the following policies \n\ndisallow-latest-tag:\n  require-image-tag: 'validation \
                       error: Image tag must not be. rule x\n    failed'\n";
        assert_eq!(rules_in(message), ["disallow-latest-tag", "require-image-tag"]);
        assert!(rules_in("pods \"a\" is forbidden").is_empty());
    }

    #[test]
    fn a_pod_that_goes_is_not_ready() {
        let ready = json!({"status": {"conditions": [{"type": "Ready", "status": "True"}]}, "metadata": {}});
        assert!(is_ready(&ready));
        let mut going = ready;
        going["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        assert!(!is_ready(&going));
    }

    #[test]
    fn an_age_is_read_from_two_times() {
        let age = seconds_between(&json!("2026-11-21T15:56:01Z"), &json!("2026-11-21T15:56:10.488630Z"));
        assert_eq!(age, Some(9));
        assert_eq!(seconds_between(&json!(null), &json!("2026-11-21T15:56:10Z")), None);
    }

    #[test]
    fn controllers_have_locks_of_their_own() {
        let locks: std::collections::BTreeSet<_> = Controller::ALL.iter().map(|c| c.lock()).collect();
        assert_eq!(locks.len(), 4);
    }
}
