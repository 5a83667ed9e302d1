//! Whether a workload has been rolled out, judged from the object alone.

use serde_json::Value;
use shakedown_core::Answer;

/// Judges a Deployment, StatefulSet or DaemonSet: ready when its controller has seen the current specification and
/// every wanted Pod is of it and available. A Deployment whose own deadline has passed may still come: it says so.
pub fn rollout(object: &Value) -> Answer<()> {
    let number = |pointer: &str| object.pointer(pointer).and_then(Value::as_i64).unwrap_or(0);
    if number("/status/observedGeneration") < number("/metadata/generation") {
        return Answer::NotYet("its controller has not seen the change yet".into());
    }
    let kind = object.get("kind").and_then(Value::as_str).unwrap_or_default();
    let wanted_of = |pointer: &str| object.pointer(pointer).and_then(Value::as_i64).unwrap_or(1);
    let (wanted, updated, available) = match kind {
        "DaemonSet" => (
            number("/status/desiredNumberScheduled"),
            number("/status/updatedNumberScheduled"),
            number("/status/numberAvailable"),
        ),
        "StatefulSet" => {
            // `updatedReplicas` is left out of the status once the roll-out is complete.
            let same = object.pointer("/status/currentRevision") == object.pointer("/status/updateRevision");
            let updated = if same { number("/status/replicas") } else { number("/status/updatedReplicas") };
            (wanted_of("/spec/replicas"), updated, number("/status/availableReplicas"))
        }
        _ => {
            let surplus = number("/status/replicas") - number("/status/updatedReplicas");
            if surplus > 0 {
                return Answer::NotYet(format!("{surplus} old replicas are still there"));
            }
            (wanted_of("/spec/replicas"), number("/status/updatedReplicas"), number("/status/availableReplicas"))
        }
    };
    if kind == "DaemonSet" && wanted == 0 {
        return Answer::NotYet("no node was chosen for it yet".into());
    }
    if updated >= wanted && available >= wanted {
        Answer::Ready(())
    } else {
        let late = if deadline_passed(object) { ", its progress deadline has passed" } else { "" };
        Answer::NotYet(format!("{available} of {wanted} available, {updated} updated{late}"))
    }
}

fn deadline_passed(object: &Value) -> bool {
    object.pointer("/status/conditions").and_then(Value::as_array).is_some_and(|conditions| {
        conditions.iter().any(|c| c["type"] == "Progressing" && c["reason"] == "ProgressDeadlineExceeded")
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_daemonset_is_ready_on_all_its_nodes_only() {
        let of = |updated: i64, available: i64| {
            rollout(&json!({"kind": "DaemonSet", "metadata": {"generation": 2}, "status": {"observedGeneration": 2,
                "desiredNumberScheduled": 5, "updatedNumberScheduled": updated, "numberAvailable": available}}))
        };
        assert_eq!(of(5, 5), Answer::Ready(()));
        assert_eq!(of(5, 4), Answer::NotYet("4 of 5 available, 5 updated".into()));
        assert_eq!(of(4, 5), Answer::NotYet("5 of 5 available, 4 updated".into()));
        let none = json!({"kind": "DaemonSet", "metadata": {"generation": 1}, "status": {"observedGeneration": 1}});
        assert!(matches!(rollout(&none), Answer::NotYet(_)));
    }

    #[test]
    fn an_unseen_change_is_not_ready() {
        let old = json!({"kind": "Deployment", "metadata": {"generation": 3}, "spec": {"replicas": 1},
            "status": {"observedGeneration": 2, "replicas": 1, "updatedReplicas": 1, "availableReplicas": 1}});
        assert!(matches!(rollout(&old), Answer::NotYet(_)));
    }

    #[test]
    fn a_deployment_waits_for_old_pods_to_go_and_may_come_after_its_deadline() {
        let of = |replicas: i64, available: i64, reason: &str| {
            rollout(&json!({"kind": "Deployment", "metadata": {"generation": 1}, "spec": {"replicas": 2},
                "status": {"observedGeneration": 1, "replicas": replicas, "updatedReplicas": 2, "availableReplicas": available,
                    "conditions": [{"type": "Progressing", "reason": reason}]}}))
        };
        assert_eq!(of(2, 2, "NewReplicaSetAvailable"), Answer::Ready(()));
        assert!(matches!(of(3, 2, "ReplicaSetUpdated"), Answer::NotYet(_)));
        let late = Answer::NotYet("1 of 2 available, 2 updated, its progress deadline has passed".into());
        assert_eq!(of(2, 1, "ProgressDeadlineExceeded"), late);
        assert_eq!(of(2, 2, "ProgressDeadlineExceeded"), Answer::Ready(()));
    }

    #[test]
    fn a_complete_statefulset_needs_no_updated_count() {
        let set = json!({"kind": "StatefulSet", "metadata": {"generation": 1}, "spec": {"replicas": 1},
            "status": {"observedGeneration": 1, "replicas": 1, "availableReplicas": 1,
                "currentRevision": "a", "updateRevision": "a"}});
        assert_eq!(rollout(&set), Answer::Ready(()));
    }
}
