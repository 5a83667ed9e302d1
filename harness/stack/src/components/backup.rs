//! The documented backup of etcd: a system cron job on the first control plane that takes a snapshot every six hours,
//! with the encryption configuration beside it, keeps seven days and thirty days offsite (ETCD-014 to ETCD-021,
//! ETCD-048). Offsite is a directory of another control plane, behind TLS that asks for a certificate of etcd's CA.

use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use shakedown_cluster::nodes::{CRONTAB, OFFSITE};
use shakedown_core::Answer;
use shakedown_node::{Exec, Node};

use crate::component::{Component, State};
use crate::error::{Result, StackError};
use crate::names;
use crate::render::{Vars, fill};
use crate::site::Site;

/// For a daemon to be started by the node's first process.
const DAEMON: Duration = Duration::from_secs(60);
/// For one backup.
const BACKUP: Duration = Duration::from_secs(180);
/// The store's own certificate and key, as its front reads them.
const CERTIFICATE: &str = "/etc/offsite/server.pem";
/// Where the documented job and its stand-in for a client are told the store's address.
const ADDRESS: &str = "/etc/etcd-backup/offsite";
/// Says on standard output what is wanting of the newest set; nothing where it is fresh, and has the encryption
/// configuration that is in use beside it.
const NEWEST: &str = r#"n=$(ls /backup/etcd-*.db 2>/dev/null | tail -n 1)
if [ -z "$n" ]; then echo 'there is no backup'
elif [ -z "$(find "$n" -mmin -360)" ]; then echo 'the newest backup is older than six hours'
elif ! cmp -s "${n%.db}.encryption-config.yaml" /etc/kubernetes/encryption-config.yaml; then
  echo 'the newest backup has not the encryption configuration that is in use beside it'; fi"#;

/// The component.
pub struct Backup;

/// A file that the component keeps: path, text, mode.
type Wanted = (&'static str, String, u32);

impl Component for Backup {
    fn name(&self) -> &'static str {
        "etcd-backup"
    }

    fn what(&self) -> &'static str {
        "etcd's backup: a cron job on the first control plane every six hours, offsite copies on another control plane"
    }

    // The set holds the encryption configuration: it has to be there first.
    fn needs(&self) -> &'static [&'static str] {
        &["apiservers"]
    }

    fn readiness(&self) -> &'static str {
        "its files are in place, cron and the offsite store run, and there is a fresh backup"
    }

    fn state<'a>(&'a self, site: &'a Site) -> BoxFuture<'a, Result<State>> {
        Box::pin(async move {
            let Some((producer, store)) = places(site) else { return Ok(State::Wanting("no control plane".into())) };
            let mut found = vec![];
            for (node, (path, text, _)) in files(producer, store)? {
                if super::control_plane::optional(node, path).await?.as_deref() != Some(text.as_str()) {
                    found.push(format!("{path} on {} is not ours", node.name()));
                }
            }
            found.extend(wanting(producer, store).await?);
            Ok(State::of(&found))
        })
    }

    fn install<'a>(&'a self, site: &'a Site) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            let (producer, store) =
                places(site).ok_or_else(|| StackError::Unfit("there is no control plane to back up".into()))?;
            let pem = "umask 077; mkdir -p /etc/offsite; cat /etc/kubernetes/pki/etcd/server.crt \
                       /etc/kubernetes/pki/etcd/server.key >/etc/offsite/server.pem";
            shell(store, pem).await?;
            for (node, (path, text, mode)) in files(producer, store)? {
                node.write_file(path, text.as_bytes(), mode).await?;
            }
            // Whatever ran with the files as they were before is started again by the node's first process.
            shell(producer, "pkill -xf 'busybox crond .*' || true").await?;
            shell(store, "pkill -xf 'haproxy .*offsite.*' || true; pkill -xf 'busybox httpd .*' || true").await?;
            site.wait(self.name(), "the offsite store to answer", DAEMON, || async {
                match answers(producer).await {
                    Ok(None) => Answer::Ready(()),
                    Ok(Some(why)) => Answer::NotYet(why),
                    Err(error) => Answer::NotYet(error.to_string()),
                }
            })
            .await?;
            if !shell(producer, NEWEST).await?.trim().is_empty() {
                producer.run(Exec::new([names::BACKUP_SCRIPT]).timeout(BACKUP)).await?;
            }
            Ok(())
        })
    }

    fn ready<'a>(&'a self, site: &'a Site) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            let (producer, store) =
                places(site).ok_or_else(|| StackError::Unfit("there is no control plane to back up".into()))?;
            site.wait(self.name(), "cron, the offsite store and a fresh backup", DAEMON, || async {
                match wanting(producer, store).await {
                    Ok(found) if found.is_empty() => Answer::Ready(()),
                    Ok(found) => Answer::NotYet(found.join(", ")),
                    Err(error) => Answer::NotYet(error.to_string()),
                }
            })
            .await
        })
    }

    fn remove<'a>(&'a self, site: &'a Site) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            // What has been backed up stays where it is: nobody who stops a schedule wants its snapshots gone.
            let Some((producer, store)) = places(site) else { return Ok(()) };
            for (node, (path, ..)) in files(producer, store)? {
                node.remove_file(path).await?;
            }
            store.remove_file(CERTIFICATE).await?;
            shell(producer, "pkill -xf 'busybox crond .*' || true").await?;
            shell(store, "pkill -xf 'haproxy .*offsite.*' || true; pkill -xf 'busybox httpd .*' || true").await?;
            Ok(())
        })
    }
}

/// A node that has a part in the backup.
type Place<'a> = &'a Arc<dyn Node>;

/// The node that backs up, and the one that stands in for offsite: another one where there is another.
fn places(site: &Site) -> Option<(Place<'_>, Place<'_>)> {
    Some((site.control_planes().next()?, site.control_planes().last()?))
}

/// Every file, and the node that it belongs on.
fn files<'a>(producer: Place<'a>, store: Place<'a>) -> Result<Vec<(Place<'a>, Wanted)>> {
    let address = store.address().to_string();
    let front =
        fill("offsite", include_str!("../manifests/backup/haproxy.cfg"), &Vars::from([("ADDRESS", address.clone())]))?;
    let of = |text: &str| text.to_owned();
    Ok(vec![
        (store, (STORE, of(include_str!("../manifests/backup/store.sh")), 0o700)),
        (store, (OFFSITE, front, 0o600)),
        (producer, (ADDRESS, format!("OFFSITE=https://{address}:9443/cgi-bin/store\n"), 0o644)),
        (producer, (names::BACKUP_CLIENT, of(include_str!("../manifests/backup/aws.sh")), 0o755)),
        (producer, (names::BACKUP_SCRIPT, of(include_str!("../manifests/backup/etcd-backup.sh")), 0o755)),
        // Last: with it the schedule begins.
        (producer, (CRONTAB, format!("{} root {}\n", names::BACKUP_SCHEDULE, names::BACKUP_SCRIPT), 0o644)),
    ])
}

/// The store's program.
const STORE: &str = "/srv/offsite/www/cgi-bin/store";

/// What does not run, or is not fresh.
async fn wanting(producer: &Arc<dyn Node>, store: &Arc<dyn Node>) -> Result<Vec<String>> {
    let mut found = vec![];
    let cron = "pgrep -x 'cron|crond' >/dev/null || pgrep -xf 'busybox crond .*' >/dev/null || echo no";
    if !shell(producer, cron).await?.trim().is_empty() {
        found.push(format!("no cron daemon runs on {}", producer.name()));
    }
    if let Some(why) = answers(producer).await? {
        found.push(format!("the offsite store on {} does not answer: {why}", store.name()));
    }
    let newest = shell(producer, NEWEST).await?;
    found.extend(newest.lines().map(str::to_owned));
    Ok(found)
}

/// Why the store does not answer; none where it does.
async fn answers(producer: &Arc<dyn Node>) -> Result<Option<String>> {
    let output = producer.exec(Exec::new([names::BACKUP_CLIENT, "s3", "ls", "s3://my-backups/etcd/"])).await?;
    Ok((output.code != 0).then(|| output.error_text()))
}

async fn shell(node: &Arc<dyn Node>, script: &str) -> Result<String> {
    Ok(node.run(Exec::new(["/bin/sh", "-c", script])).await?)
}
