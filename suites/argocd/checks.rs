//! GitOps with Argo CD: the demo Application, and what becomes of changes made behind its back.

use std::time::Duration;

use serde_json::json;
use shakedown_core::Capability::{Argocd, GitHttp};
use shakedown_engine::{Check, check, finds};
use shakedown_words::argo::{application, compared_path_of, self_heal_off, status};
use shakedown_words::argo_drift::{ByHand, drift};
use shakedown_words::change::patched;
use shakedown_words::healed::{reverted, stays_and_shows, synced_and_healthy};
use shakedown_words::{ObjectRef, Platform};

/// The documented Application and where it deploys to (GIT-027).
const APP: &str = "guestbook";
const NAMESPACE: &str = "argocd-demo";
/// No document gives a budget for a revert; by hand 8 to 13 s were measured.
const BUDGET: Duration = Duration::from_secs(60);

/// All checks of this area.
pub fn checks() -> Vec<Check<Platform>> {
    vec![application_is_synced(), drift_is_reverted(), drift_is_shown()]
}

fn deployment() -> ObjectRef {
    ObjectRef::namespaced("apps/v1", "Deployment", NAMESPACE, "guestbook-ui")
}

fn service() -> ObjectRef {
    ObjectRef::namespaced("v1", "Service", NAMESPACE, "guestbook-ui")
}

fn application_is_synced() -> Check<Platform> {
    check("argocd.application-is-synced-and-healthy")
        .asserts(["GIT-027", "GIT-028", "GIT-037", "GIT-038", "ARGO-018"])
        .needs([Argocd, GitHttp])
        .observe(status(APP))
        .expect(synced_and_healthy())
        .sabotage(
            patched(
                "the Application's path is not in the repository",
                application(APP),
                json!({"spec": {"source": {"path": "no-such-folder"}}}),
            )
            .shown_by(compared_path_of(APP)),
            finds("not-synced"),
        )
        .remedy("`kubectl -n argocd get application guestbook -o yaml`: its conditions name what is wrong")
}

fn drift_is_reverted() -> Check<Platform> {
    let changes = vec![
        ByHand::Scale(deployment(), 2),
        ByHand::Edit(service(), "/spec/ports/0/targetPort", json!(81)),
        ByHand::Delete(service()),
    ];
    check("argocd.drift-is-reverted")
        .asserts(["GIT-029", "ARGO-009", "ARGO-013"])
        .needs([Argocd, GitHttp])
        .within(Duration::from_secs(200))
        .observe(drift(APP, NAMESPACE, changes))
        .expect(reverted(&["scale", "edit", "delete"], BUDGET))
        .sabotage(self_heal_off(APP), finds("drift-stays"))
        .remedy("set spec.syncPolicy.automated.selfHeal of Application guestbook to true")
}

fn drift_is_shown() -> Check<Platform> {
    let scaled = || drift(APP, NAMESPACE, vec![ByHand::Scale(deployment(), 2)]);
    check("argocd.drift-without-self-heal-is-shown")
        .asserts(["GIT-009"])
        .needs([Argocd, GitHttp])
        .within(Duration::from_secs(120))
        .observe(scaled().without_self_heal())
        .expect(stays_and_shows())
        .sabotage_omitting("selfHeal is left on", scaled(), finds("drift-reverted"))
        .remedy("look for ignoreDifferences in the Application: they hide drift")
}
