//! Expectations of Argo CD's observations.

use std::time::Duration;

use shakedown_core::{Finding, Judgement};
use shakedown_engine::Expect;

use crate::argo::{App, AppSeen};
use crate::argo_drift::Drifts;

/// The Application is Synced and Healthy, synced by itself at the revision that it is compared with.
pub struct SyncedAndHealthy;

/// The Application is Synced and Healthy, synced by itself at the revision that it is compared with.
pub fn synced_and_healthy() -> SyncedAndHealthy {
    SyncedAndHealthy
}

impl Expect<AppSeen> for SyncedAndHealthy {
    fn judge(&self, seen: &AppSeen) -> Judgement {
        let Some(app) = &seen.app else {
            return Judgement::fail("application-missing", &seen.name, "it does not exist");
        };
        // Argo CD reached the repository, and what is to be deployed is not in it: that is the Application's own fault.
        let not_there = app.conditions.iter().any(|said| said.contains("app path does not exist"));
        if app.sync == "Unknown" && !not_there {
            return Judgement::Inconclusive(format!("the Application could not be compared: {:?}", app.conditions));
        }
        let mut findings = vec![];
        let mut expect = |code: &str, holds: bool, message: String| {
            if !holds {
                findings.push(Finding::new(code, &seen.name, message));
            }
        };
        expect(
            "not-synced",
            app.sync == "Synced",
            format!("sync status is {}, conditions {:?}", app.sync, app.conditions),
        );
        expect("not-healthy", app.health == "Healthy", format!("health is {}", app.health));
        expect("not-synced", app.phase == "Succeeded", format!("last operation: {} {}", app.phase, app.message));
        let full = app.last_revision.len() == 40 && app.last_revision.bytes().all(|b| b.is_ascii_hexdigit());
        expect(
            "revision-differs",
            full && app.last_revision == app.revision,
            format!("history ends at `{}`, compared with `{}`", app.last_revision, app.revision),
        );
        let unsynced: Vec<_> = app.resources.iter().filter(|(_, status)| status != "Synced").collect();
        expect("not-synced", unsynced.is_empty(), format!("resources {unsynced:?}"));
        expect("no-resources", !app.resources.is_empty(), "it manages nothing".to_owned());
        Judgement::from_findings(findings)
    }
}

/// Automated sync and selfHeal are on.
pub fn self_healing(app: &App) -> bool {
    app.automated && app.self_heal
}

/// Every change was reverted.
pub struct Reverted {
    changes: &'static [&'static str],
    within: Duration,
}

/// Each of these kinds of change (`scale`, `edit`, `delete`) was reverted within a time, and the Application is Synced
/// again.
pub fn reverted(changes: &'static [&'static str], within: Duration) -> Reverted {
    Reverted { changes, within }
}

impl Expect<Drifts> for Reverted {
    fn judge(&self, seen: &Drifts) -> Judgement {
        let mut findings = vec![];
        for drift in &seen.drifts {
            let subject = format!("{} of {}", drift.change, drift.object);
            match drift.reverted_ms {
                None => {
                    let message = format!("not reverted within {} ms; last seen {}", drift.waited_ms, drift.last_seen);
                    findings.push(Finding::new("drift-stays", subject, message));
                }
                Some(ms) if Duration::from_millis(ms) > self.within => {
                    findings.push(Finding::new(
                        "slow-revert",
                        subject,
                        format!("took {ms} ms, allowed {:?}", self.within),
                    ));
                }
                Some(_) => {}
            }
        }
        if !findings.is_empty() {
            return if seen.silent { silence() } else { Judgement::Fail(findings) };
        }
        let made: Vec<&str> = seen.drifts.iter().map(|drift| drift.change.as_str()).collect();
        if made != self.changes {
            return Judgement::Inconclusive(format!("changes made: {made:?}, expected: {:?}", self.changes));
        }
        if seen.after.sync != "Synced" {
            return Judgement::fail("not-synced", "the Application", format!("is {} afterwards", seen.after.sync));
        }
        Judgement::Pass
    }
}

/// Without a controller that compares there is no ground.
fn silence() -> Judgement {
    Judgement::Inconclusive("the application controller does not answer a refresh".to_owned())
}

/// The change stayed, and the Application says so.
pub struct StaysAndShows;

/// The change stayed, and the Application shows it as OutOfSync.
pub fn stays_and_shows() -> StaysAndShows {
    StaysAndShows
}

impl Expect<Drifts> for StaysAndShows {
    fn judge(&self, seen: &Drifts) -> Judgement {
        let Some(drift) = seen.drifts.first() else {
            return Judgement::Inconclusive("no change was made".to_owned());
        };
        let subject = format!("{} of {}", drift.change, drift.object);
        if let Some(ms) = drift.reverted_ms {
            return Judgement::fail("drift-reverted", subject, format!("was reverted after {ms} ms"));
        }
        if seen.silent {
            return silence();
        }
        if !drift.out_of_sync || seen.after.sync != "OutOfSync" {
            return Judgement::fail("drift-hidden", subject, format!("the Application is {}", seen.after.sync));
        }
        Judgement::Pass
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::argo_drift::Drift;

    fn app() -> App {
        App {
            sync: "Synced".into(),
            health: "Healthy".into(),
            revision: "8088f4c0d970abb09e250248cc97e35623447cb5".into(),
            last_revision: "8088f4c0d970abb09e250248cc97e35623447cb5".into(),
            phase: "Succeeded".into(),
            resources: vec![("Service n/s".into(), "Synced".into())],
            ..App::default()
        }
    }

    fn drifts(reverted: Option<u64>, after: &str) -> Drifts {
        let drift = Drift { change: "scale".into(), reverted_ms: reverted, out_of_sync: true, ..Drift::default() };
        Drifts { before: app(), drifts: vec![drift], after: App { sync: after.into(), ..app() }, silent: false }
    }

    #[test]
    fn a_silent_controller_is_no_ground() {
        let silent = |seen: Drifts| Drifts { silent: true, ..seen };
        let minute = Duration::from_secs(60);
        assert_eq!(code(reverted(&["scale"], minute).judge(&silent(drifts(None, "Synced")))), "inconclusive");
        assert_eq!(code(stays_and_shows().judge(&silent(drifts(None, "Synced")))), "inconclusive");
        assert_eq!(code(stays_and_shows().judge(&silent(drifts(Some(9), "Synced")))), "drift-reverted");
    }

    fn code(judgement: Judgement) -> String {
        match judgement {
            Judgement::Fail(findings) => findings[0].code.clone(),
            Judgement::Pass => "pass".into(),
            Judgement::Inconclusive(_) => "inconclusive".into(),
        }
    }

    #[test]
    fn applications_are_judged() {
        let judge = |app: Option<App>| code(synced_and_healthy().judge(&AppSeen { name: "g".into(), app }));
        assert_eq!(judge(Some(app())), "pass");
        assert_eq!(judge(None), "application-missing");
        assert_eq!(judge(Some(App { sync: "OutOfSync".into(), ..app() })), "not-synced");
        assert_eq!(judge(Some(App { sync: "Unknown".into(), ..app() })), "inconclusive");
        let conditions = vec!["ComparisonError: app path does not exist".to_owned()];
        assert_eq!(judge(Some(App { sync: "Unknown".into(), conditions, ..app() })), "not-synced");
        assert_eq!(judge(Some(App { health: "Degraded".into(), ..app() })), "not-healthy");
        assert_eq!(judge(Some(App { last_revision: "main".into(), ..app() })), "revision-differs");
        assert_eq!(judge(Some(App { resources: vec![], ..app() })), "no-resources");
    }

    #[test]
    fn reverts_are_judged() {
        let minute = Duration::from_secs(60);
        assert_eq!(code(reverted(&["scale"], minute).judge(&drifts(Some(8000), "Synced"))), "pass");
        assert_eq!(code(reverted(&["scale"], minute).judge(&drifts(None, "OutOfSync"))), "drift-stays");
        assert_eq!(code(reverted(&["scale"], minute).judge(&drifts(Some(61_000), "Synced"))), "slow-revert");
        assert_eq!(code(reverted(&["scale"], minute).judge(&drifts(Some(8000), "OutOfSync"))), "not-synced");
        assert_eq!(code(reverted(&["scale", "edit"], minute).judge(&drifts(Some(8000), "Synced"))), "inconclusive");
    }

    #[test]
    fn drift_that_stays_is_judged() {
        assert_eq!(code(stays_and_shows().judge(&drifts(None, "OutOfSync"))), "pass");
        assert_eq!(code(stays_and_shows().judge(&drifts(Some(9000), "Synced"))), "drift-reverted");
        assert_eq!(code(stays_and_shows().judge(&drifts(None, "Synced"))), "drift-hidden");
    }
}
