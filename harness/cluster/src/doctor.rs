//! Judging what a host can carry, from facts alone.

use serde::{Deserialize, Serialize};
use shakedown_node::cgroup::Version;
use shakedown_node::probe::{CAP_BPF, CAP_MKNOD, CAP_NET_ADMIN, CAP_SYS_ADMIN, CAP_SYS_RESOURCE, Probes};

use crate::error::{ClusterError, Result};

/// How much a finding matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Level {
    /// As wanted.
    Ok,
    /// A cluster comes up, with something less.
    Less,
    /// No cluster can come up.
    Refused,
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Item {
    /// What.
    pub what: String,
    /// How it stands.
    pub level: Level,
    /// What was seen.
    pub seen: String,
    /// What its lack costs: checks, components, a workaround that is applied.
    pub costs: String,
    /// What to do about it.
    pub hint: String,
}

const GIB: u64 = 1 << 30;

/// Judges a host.
#[must_use]
pub fn judge(probes: &Probes) -> Vec<Item> {
    let mut items = Vec::new();
    let mut add = |what: &str, level: Level, seen: String, costs: &str, hint: &str| {
        let (costs, hint) = if level == Level::Ok { ("", "") } else { (costs, hint) };
        items.push(Item { what: what.into(), level, seen, costs: costs.into(), hint: hint.into() });
    };
    let need = |ok: bool| if ok { Level::Ok } else { Level::Refused };
    let want = |ok: bool| if ok { Level::Ok } else { Level::Less };
    let all = "no cluster";
    add("root", need(probes.uid == 0), format!("uid {}", probes.uid), all, "call it with sudo");
    for (name, bit) in [("CAP_SYS_ADMIN", CAP_SYS_ADMIN), ("CAP_NET_ADMIN", CAP_NET_ADMIN), ("CAP_MKNOD", CAP_MKNOD)] {
        let have = probes.has_capability(bit);
        add(name, need(have), yes(have), all, "run on a machine or in a container that has it");
    }
    let resource = probes.has_capability(CAP_SYS_RESOURCE);
    add(
        "CAP_SYS_RESOURCE",
        want(resource),
        yes(resource),
        "containers' OOM scores are not lowered (restrict_oom_score_adj), Cilium runs privileged",
        "nothing to do: the workaround is applied",
    );
    let bpf = probes.has_capability(CAP_BPF) || probes.has_capability(CAP_SYS_ADMIN);
    add("CAP_BPF", want(bpf), yes(bpf), "no Cilium", "run on a machine that has it");
    add(
        "control groups",
        need(probes.cgroup.is_some()),
        probes.cgroup.map_or("none".into(), |v| format!("{v:?}").to_lowercase()),
        all,
        "mount cgroup2 on /sys/fs/cgroup",
    );
    for controller in ["cpu", "cpuset", "memory", "pids"] {
        let have = probes.controllers.iter().any(|c| c == controller);
        add(&format!("controller {controller}"), need(have), yes(have), all, "switch it on (kernel parameter cgroup_enable)");
    }
    let freezer = probes.cgroup == Some(Version::V2) || probes.controllers.iter().any(|c| c == "freezer");
    add("freezer", want(freezer), yes(freezer), "no fault that lets a node hang", "mount the freezer hierarchy");
    kernel(probes, &mut add);
    let memory = probes.memory_available;
    let level = if memory < 2 * GIB { Level::Refused } else { want(memory >= 6 * GIB) };
    add("memory", level, gib(memory), "five nodes with the whole stack want 6 GiB, one node 2 GiB", "free some, or `up --control-planes 1 --workers 0`");
    let disk = probes.disk_available;
    let level = if disk < 2 * GIB { Level::Refused } else { want(disk >= 10 * GIB) };
    add("disk", level, gib(disk), "bundle and five nodes want 10 GiB", "free some");
    add("processors", want(probes.processors >= 2), probes.processors.to_string(), "everything takes longer", "use a machine with two or more");
    add("open files", want(probes.open_files >= 16_384), probes.open_files.to_string(), "many pods exhaust it", "raise the hard limit (ulimit -Hn)");
    let inotify = probes.inotify_instances;
    let level = want(inotify >= 1024 || probes.uid == 0);
    add("inotify", level, format!("{inotify} instances, {} watches", probes.inotify_watches), "too few for a cluster", "`up` raises it, as root");
    add("go", want(probes.tools.contains_key("go")), yes(probes.tools.contains_key("go")), "no bundle from source", "install Go, or unpack a packed bundle");
    items
}

fn kernel(probes: &Probes, add: &mut impl FnMut(&str, Level, String, &str, &str)) {
    let tried = |name: &str| probes.features.get(name).copied();
    let seen = |name: &str| tried(name).map_or("not tried".to_owned(), yes);
    // What could not be tried (no root) is no reason to refuse; the lack of root is.
    for name in ["veth", "bridge", "overlay"] {
        let level = if tried(name) == Some(false) { Level::Refused } else { Level::Ok };
        add(name, level, seen(name), "no cluster", "use a kernel that has it, or load its module");
    }
    let optional: [(&str, &str, &str); 14] = [
        ("bpf", "no Cilium, so no network between pods", "use a kernel with CONFIG_BPF_SYSCALL"),
        ("btf", "no Cilium", "use a kernel with CONFIG_DEBUG_INFO_BTF"),
        ("wireguard", "WireGuard runs in user space", "nothing to do; or load the module wireguard"),
        ("tun", "no WireGuard in user space", "load the module tun"),
        ("vxlan", "no tunnel between nodes", "load the module vxlan"),
        ("qdisc-netem", "delay, reordering and corruption are made in user space", "nothing to do; or load sch_netem"),
        ("qdisc-tbf", "no bandwidth limits", "load sch_tbf"),
        ("qdisc-clsact", "Cilium attaches by TCX only", "load sch_ingress"),
        ("ifb", "no shaping of incoming traffic", "load ifb"),
        ("nftables", "no packet loss, no partitions", "load nf_tables"),
        ("loop", "no full disks", "load loop"),
        ("fuse", "no file-system errors", "load fuse"),
        ("loadable-modules", "Cilium is built with a small replacement file", "nothing to do"),
        ("kvm", "virtual machines are emulated in software", "nothing to do"),
    ];
    for (name, costs, hint) in optional {
        let level = if tried(name) == Some(false) { Level::Less } else { Level::Ok };
        add(name, level, seen(name), costs, hint);
    }
}

fn yes(have: bool) -> String {
    if have { "yes" } else { "no" }.to_owned()
}

fn gib(bytes: u64) -> String {
    // Tenths are enough for a person.
    format!("{}.{} GiB", bytes / GIB, bytes % GIB * 10 / GIB)
}

/// Refuses a host that cannot carry a cluster.
///
/// # Errors
/// [`ClusterError::Refused`] with what is missing and what to do about each.
pub fn refuse(probes: &Probes) -> Result<()> {
    let missing: Vec<String> = judge(probes)
        .into_iter()
        .filter(|i| i.level == Level::Refused)
        .map(|i| format!("  {}: {} ({})", i.what, i.seen, i.hint))
        .collect();
    if missing.is_empty() { Ok(()) } else { Err(ClusterError::Refused(missing.join("\n"))) }
}
