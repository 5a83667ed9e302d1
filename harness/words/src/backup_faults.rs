//! What can be wrong with the backup: sabotages. Each works on the folder that it breaks and keeps the whole of it, as
//! found, beside it.

use std::time::Duration;

use shakedown_core::{Touches, UndoStep};
use shakedown_engine::{PlantError, Prepared, Sabotage};

use crate::backup::{CRONTAB, FOLDER, PREFIX, STORE, component, places};
use crate::node_command::script;
use crate::platform::Platform;
use crate::undo::file_as_found;

/// How long copying the backups may take.
const COMMAND: Duration = Duration::from_secs(60);
/// The newest snapshot in the folder that a script is in.
const NEWEST: &str = "n=$(ls etcd-*.db | tail -n 1); [ -n \"$n\" ]";

/// Something in a folder of backups is broken.
pub struct Broken {
    what: &'static str,
    offsite: bool,
    /// Done in the folder of the backups; must end with 0 and have had its effect.
    how: String,
}

fn broken(what: &'static str, how: &str) -> Broken {
    Broken { what, offsite: false, how: format!("{NEWEST}; {how}") }
}

/// The newest snapshot ends in its middle.
pub fn truncated() -> Broken {
    broken("the newest snapshot is cut off in its middle", "truncate -s $(($(stat -c %s $n) / 2)) $n")
}

/// Nothing was backed up for nine hours.
pub fn stopped() -> Broken {
    broken(
        "the last backup was nine hours ago",
        "old=etcd-$(date -d '9 hours ago' +%Y%m%d-%H%M%S); mv $n $old.db; mv ${n%.db}.encryption-config.yaml \
         $old.encryption-config.yaml; ls etcd-* | grep -v \"^$old\" | xargs -r rm; [ $(ls etcd-*.db | wc -l) = 1 ]",
    )
}

/// The newest set lacks the encryption configuration.
pub fn without_config() -> Broken {
    broken("the newest set has no encryption configuration", "rm ${n%.db}.encryption-config.yaml")
}

/// The newest copy offsite is empty.
pub fn empty_copy() -> Broken {
    Broken { offsite: true, ..broken("the newest copy offsite is empty", ": >$n; [ ! -s $n ]") }
}

impl Broken {
    fn folder(&self) -> String {
        if self.offsite { format!("{STORE}/{PREFIX}") } else { FOLDER.to_owned() }
    }

    fn node(&self, platform: &Platform) -> Result<String, PlantError> {
        let (producer, store) = places(platform).map_err(PlantError::new)?;
        Ok(if self.offsite { store } else { producer })
    }
}

impl Sabotage<Platform> for Broken {
    type Choice = String;

    fn describe(&self) -> String {
        self.what.to_owned()
    }

    fn touches(&self) -> Touches {
        Touches::nothing().writes(component())
    }

    async fn prepare(&self, platform: &Platform) -> Result<Prepared<String>, PlantError> {
        let (node, folder) = (self.node(platform)?, self.folder());
        let back = format!("[ ! -d {folder}.as-found ] || {{ rm -rf {folder} && mv {folder}.as-found {folder}; }}");
        let argv = ["/bin/sh", "-c", &back].map(str::to_owned).to_vec();
        let undo = vec![UndoStep::RunOnNode { node: node.clone(), argv, tolerate_failure: false }];
        Ok(Prepared::new(node, undo))
    }

    async fn plant(&self, platform: &Platform, node: &String) -> Result<(), PlantError> {
        let folder = self.folder();
        // The copy has its name only when it is complete: an undo that comes too early finds nothing to put back.
        let text = format!(
            "rm -rf {folder}.part; cp -a {folder} {folder}.part; mv -T {folder}.part {folder}.as-found; cd {folder}; {}",
            self.how
        );
        script(platform, node, &text, COMMAND).await.map(drop).map_err(PlantError::new)
    }
}

/// The line of the crontab has no user.
pub struct UserMissing;

/// The line is as a user's own crontab has it: without the field that names the user.
pub fn without_user() -> UserMissing {
    UserMissing
}

impl Sabotage<Platform> for UserMissing {
    type Choice = String;

    fn describe(&self) -> String {
        "the line of the system crontab has no user".to_owned()
    }

    fn touches(&self) -> Touches {
        Touches::nothing().writes(component())
    }

    async fn prepare(&self, platform: &Platform) -> Result<Prepared<String>, PlantError> {
        let (producer, _) = places(platform).map_err(PlantError::new)?;
        let undo = file_as_found(platform, &producer, CRONTAB).await.map_err(PlantError::new)?;
        Ok(Prepared::new(producer, vec![undo]))
    }

    async fn plant(&self, platform: &Platform, producer: &String) -> Result<(), PlantError> {
        let text = format!("sed -i 's/ root / /' {CRONTAB}; ! grep -q root {CRONTAB}");
        script(platform, producer, &text, COMMAND).await.map(drop).map_err(PlantError::new)
    }
}
