//! Residue is found: one of each kind is planted, found, taken away, and not found any more.
#![allow(clippy::unwrap_used, clippy::expect_used)] // a test fails by panicking

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::process::{Command, Stdio};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use shakedown_cluster::host::HostJournal;
use shakedown_cluster::residue::{Kind, find};
use shakedown_cluster::{Store, names, state};
use shakedown_node::boot::OWNER;
use shakedown_node::cgroup::{Group, Layout};
use shakedown_node::netlink::Netlink;
use shakedown_node::{nft, process, sys};

const NAME: &str = "planted";

/// Kinds found that belong to the planted cluster (or, where a thing cannot tell, to nobody).
fn kinds(store: &Store) -> BTreeSet<Kind> {
    let ours = |what: &str, cluster: Option<&str>| {
        cluster == Some(NAME)
            || what.contains(&names::host_link(NAME))
            || what.contains("shakedown-planted")
            || what.starts_with("kernel/")
    };
    find(store).unwrap().into_iter().filter(|r| ours(&r.what, r.cluster.as_deref())).map(|r| r.kind).collect()
}

#[test]
fn component_every_kind_of_residue_is_found() {
    let directory = tempfile::tempdir().unwrap();
    // A store of its own: clusters that run on this machine meanwhile are not this test's.
    let store = Store::at(directory.path());
    assert_eq!(kinds(&store), BTreeSet::new());

    let state_directory = store.directory(NAME);
    fs::create_dir(&state_directory).unwrap();
    let image = state_directory.join("disk");
    File::create(&image).unwrap().set_len(1 << 20).unwrap();
    let device = sys::attach(&image).unwrap();
    let mounted = state_directory.join("mounted");
    fs::create_dir(&mounted).unwrap();
    mount(Some("tmpfs"), &mounted, Some("tmpfs"), MsFlags::empty(), None::<&str>).unwrap();
    let pin = std::path::Path::new(names::PINS).join(NAME).join("fabric");
    fs::create_dir_all(pin.parent().unwrap()).unwrap();
    File::create(&pin).unwrap();
    mount(Some("/proc/self/ns/net"), &pin, None::<&str>, MsFlags::MS_BIND, None::<&str>).unwrap();
    let netlink = Netlink::open().unwrap();
    netlink.add_veth(&names::host_link(NAME), "shkpeer", None, None).unwrap();
    let table = nft::Table { family: 1, name: "shakedown-planted".into() };
    nft::add(&table).unwrap();
    let group = Group::cluster(Layout::detect().unwrap(), NAME);
    group.create().unwrap();
    let mut child =
        Command::new("sleep").arg("600").env(OWNER, format!("{NAME}/cp-1")).stdin(Stdio::null()).spawn().unwrap();
    // A setting that is recorded with another value than it has; the setting itself is left alone.
    let before = BTreeMap::from([("kernel/panic".to_owned(), "12345".to_owned())]);
    let journal = store.root().join(".host.json");
    state::write(&journal, &HostJournal { boot_id: process::boot_id().unwrap(), before }).unwrap();

    let found = kinds(&store);

    let _ = child.kill();
    child.wait().unwrap();
    group.remove(std::time::Duration::from_secs(2)).unwrap();
    nft::delete(&table).unwrap();
    netlink.delete_link(&names::host_link(NAME)).unwrap();
    umount2(&pin, MntFlags::MNT_DETACH).unwrap();
    fs::remove_dir_all(pin.parent().unwrap()).unwrap();
    umount2(&mounted, MntFlags::MNT_DETACH).unwrap();
    sys::detach(&device.device).unwrap();
    fs::remove_dir_all(&state_directory).unwrap();
    fs::remove_file(&journal).unwrap();
    // The top groups and directories stay if clusters run here; otherwise they were made by this test.
    let _ = fs::remove_dir(names::PINS);
    for top in Group::new(Layout::detect().unwrap(), shakedown_node::cgroup::TOP).directories() {
        let _ = fs::remove_dir(top);
    }

    let wanted = [
        Kind::Process,
        Kind::Namespace,
        Kind::Link,
        Kind::Mount,
        Kind::Cgroup,
        Kind::Firewall,
        Kind::Setting,
        Kind::Loop,
        Kind::Directory,
    ];
    assert_eq!(found, BTreeSet::from(wanted));
    assert_eq!(kinds(&store), BTreeSet::new());
}
