//! What can be wrong with etcd: sabotages.

use std::time::Duration;

use shakedown_core::{Answer, Resource, Touches, UndoStep, wait_for};
use shakedown_engine::{PlantError, Prepared, Sabotage};

use crate::etcd::{ask, understand_status};
use crate::node_command::{Which, script};
use crate::platform::Platform;

/// How long a node's command may take.
const COMMAND: Duration = Duration::from_secs(10);
/// How long the member may take to be heard again.
const BACK: Duration = Duration::from_secs(30);

/// A member whose process is stopped.
pub struct FollowerStopped;

/// One member that is not the leader stops where it is, and keeps its connections.
pub fn a_follower_stopped() -> FollowerStopped {
    FollowerStopped
}

impl FollowerStopped {
    /// The last member that follows another: stopping the leader would be an election as well.
    async fn choice(&self, platform: &Platform) -> Result<String, PlantError> {
        for node in Which::ControlPlanes.on(platform).into_iter().rev() {
            let ran = ask(platform, &node, &["endpoint", "status", "-w", "json"]).await.map_err(PlantError::new)?;
            if understand_status(&ran.stdout).is_ok_and(|status| status.id != status.leader) {
                return Ok(node);
            }
        }
        Err(PlantError::new("no member follows another"))
    }
}

impl Sabotage<Platform> for FollowerStopped {
    type Choice = String;

    fn describe(&self) -> String {
        "one etcd member that follows is stopped".into()
    }

    fn touches(&self) -> Touches {
        Touches::nothing().writes(Resource::Etcd)
    }

    async fn prepare(&self, platform: &Platform) -> Result<Prepared<Self::Choice>, PlantError> {
        let node = self.choice(platform).await?;
        let argv = ["pkill", "-CONT", "-x", "etcd"].map(str::to_owned).to_vec();
        let undo = vec![UndoStep::RunOnNode { node: node.clone(), argv, tolerate_failure: true }];
        Ok(Prepared::new(node, undo))
    }

    async fn plant(&self, platform: &Platform, node: &String) -> Result<(), PlantError> {
        // A signal is on its way when pkill returns: the kernel's word is awaited, within the command's budget.
        let stop = "pkill -STOP -x etcd; for p in $(pgrep -x etcd); do \
                    until grep -q '^State:.T' /proc/$p/status; do sleep 0.01; done; done";
        script(platform, node, stop, COMMAND).await.map(drop).map_err(PlantError::new)
    }

    async fn settled(&self, platform: &Platform) -> Result<(), PlantError> {
        for node in Which::ControlPlanes.on(platform) {
            wait_for(&format!("etcd on {node}"), BACK, || async {
                match ask(platform, &node, &["endpoint", "health"]).await {
                    Ok(ran) if ran.ok() => Answer::Ready(()),
                    Ok(ran) => Answer::NotYet(ran.brief()),
                    Err(e) => Answer::NotYet(e.to_string()),
                }
            })
            .await
            .map_err(PlantError::new)?;
        }
        Ok(())
    }
}
