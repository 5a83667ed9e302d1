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
        add(
            &format!("controller {controller}"),
            need(have),
            yes(have),
            all,
            "switch it on (kernel parameter cgroup_enable)",
        );
    }
    let freezer = probes.cgroup == Some(Version::V2) || probes.controllers.iter().any(|c| c == "freezer");
    add("freezer", want(freezer), yes(freezer), "no fault that lets a node hang", "mount the freezer hierarchy");
    kernel(probes, &mut add);
    let memory = probes.memory_available;
    let level = if memory < 2 * GIB { Level::Refused } else { want(memory >= 6 * GIB) };
    add(
        "memory",
        level,
        gib(memory),
        "five nodes with the whole stack want 6 GiB, one node 2 GiB",
        "free some, or `up --control-planes 1 --workers 0`",
    );
    let disk = probes.disk_available;
    let level = if disk < 2 * GIB { Level::Refused } else { want(disk >= 10 * GIB) };
    add("disk", level, gib(disk), "bundle and five nodes want 10 GiB", "free some");
    add(
        "processors",
        want(probes.processors >= 2),
        probes.processors.to_string(),
        "everything takes longer",
        "use a machine with two or more",
    );
    add(
        "open files",
        want(probes.open_files >= 16_384),
        probes.open_files.to_string(),
        "many pods exhaust it",
        "raise the hard limit (ulimit -Hn)",
    );
    let inotify = probes.inotify_instances;
    let level = want(inotify >= 1024 || probes.uid == 0);
    add(
        "inotify",
        level,
        format!("{inotify} instances, {} watches", probes.inotify_watches),
        "too few for a cluster",
        "`up` raises it, as root",
    );
    add(
        "go",
        want(probes.tools.contains_key("go")),
        yes(probes.tools.contains_key("go")),
        "no bundle from source",
        "install Go, or unpack a packed bundle",
    );
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    /// As recorded on a two-core machine without loadable modules, WireGuard and netem.
    fn recorded() -> Probes {
        Probes {
            schema: 1,
            uid: 0,
            capabilities: 0x1ff_feff_ffff,
            kernel: "6.18.44".into(),
            cgroup: Some(Version::Hybrid),
            controllers: ["cpu", "cpuset", "freezer", "memory", "pids"].map(str::to_owned).to_vec(),
            filesystems: vec!["overlay".into()],
            features: BTreeMap::from(
                [("veth", true), ("bridge", true), ("overlay", true), ("wireguard", false), ("qdisc-netem", false)]
                    .map(|(n, v)| (n.to_owned(), v)),
            ),
            memory: 24 * GIB,
            memory_available: 20 * GIB,
            disk_available: 50 * GIB,
            processors: 2,
            open_files: 20_000,
            inotify_instances: 128,
            inotify_watches: 190_000,
            tools: BTreeMap::from([("go".to_owned(), "/usr/bin/go".to_owned())]),
        }
    }

    #[test]
    fn a_recorded_machine_is_judged() {
        let items = judge(&recorded());
        let less: Vec<_> = items.iter().filter(|i| i.level == Level::Less).map(|i| i.what.as_str()).collect();
        assert_eq!(less, ["CAP_SYS_RESOURCE", "wireguard", "qdisc-netem"]);
        assert!(items.iter().filter(|i| i.level != Level::Ok).all(|i| !i.costs.is_empty() && !i.hint.is_empty()));
        refuse(&recorded()).unwrap();
    }

    #[test]
    fn what_cannot_work_is_refused_early_with_all_reasons() {
        let mut probes = recorded();
        probes.uid = 1000;
        probes.cgroup = None;
        probes.features.insert("overlay".into(), false);
        probes.memory_available = GIB;
        let said = refuse(&probes).unwrap_err().to_string();
        for word in ["root", "control groups", "overlay", "memory", "hint:"] {
            assert!(said.contains(word), "{word}: {said}");
        }
    }

    #[test]
    fn what_could_not_be_tried_is_no_reason_to_refuse() {
        let mut probes = recorded();
        probes.features.clear();
        refuse(&probes).unwrap();
    }
}
