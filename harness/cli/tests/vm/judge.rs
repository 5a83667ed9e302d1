//! What must be seen on a host with cgroup v2, a WireGuard of the kernel's own and every capability: pure functions of
//! what the guest observed.

use serde_json::Value;

use crate::console::Observed;

/// What `doctor` must find as wanted on this host. On other machines some of it is missing, and worked around.
const CARRIED: [&str; 22] = [
    "root",
    "CAP_SYS_ADMIN",
    "CAP_NET_ADMIN",
    "CAP_MKNOD",
    "CAP_SYS_RESOURCE",
    "CAP_BPF",
    "controller cpu",
    "controller cpuset",
    "controller memory",
    "controller pids",
    "freezer",
    "overlay",
    "bpf",
    "btf",
    "wireguard",
    "tun",
    "vxlan",
    "qdisc-netem",
    "ifb",
    "nftables",
    "loop",
    "loadable-modules",
];

/// One expectation: the step that it reads, and what is wrong with what the step saw, if anything is.
type Expectation = (&'static str, fn(&str) -> Option<String>);

const EXPECTATIONS: [Expectation; 18] = [
    ("doctor", doctor),
    ("up", |_| None),
    ("cilium", converged),
    ("coredns", converged),
    ("cgroup-type", |seen| unless(seen.trim() == "cgroup2fs", || format!("/sys/fs/cgroup of the node is {seen}"))),
    ("cgroup-controllers", controllers),
    ("cgroup-pods", pods),
    ("cgroup-programs", |seen| {
        unless(attached(seen), || format!("no program of Cilium's is attached to the node's own group: {seen}"))
    }),
    ("host-programs", |seen| {
        unless(!attached(seen), || format!("Cilium attached to the host's group instead of the node's: {seen}"))
    }),
    ("kubelet", kubelet),
    ("oom-score", |seen| {
        unless(seen.trim() == "-997", || format!("kube-apiserver's OOM score is {seen}, not lowered"))
    }),
    ("agent", agent),
    ("wireguard-link", wireguard),
    ("modules", |seen| {
        unless(seen.lines().any(|line| line.starts_with("wireguard ")), || "the module wireguard is not loaded".into())
    }),
    ("cilium-status", status),
    ("down", |_| None),
    ("residue", |_| None),
    ("host-groups", |seen| unless(seen.trim().is_empty(), || format!("control groups were left: {seen}"))),
];

/// Everything that is not as it must be, a line each.
pub fn findings(observed: &Observed) -> Vec<String> {
    EXPECTATIONS
        .iter()
        .filter_map(|(step, expectation)| match observed.of(step) {
            Ok(seen) => expectation(seen).map(|wrong| format!("{step}: {wrong}")),
            Err(missing) => Some(missing),
        })
        .collect()
}

fn unless(right: bool, wrong: impl FnOnce() -> String) -> Option<String> {
    if right { None } else { Some(wrong()) }
}

fn json(seen: &str) -> Result<Value, String> {
    serde_json::from_str(seen).map_err(|error| format!("no JSON: {error}"))
}

fn doctor(seen: &str) -> Option<String> {
    let report = match json(seen) {
        Ok(report) => report,
        Err(wrong) => return Some(wrong),
    };
    let items = report.get("items").unwrap_or(&report).as_array().cloned().unwrap_or_default();
    let found = |what: &str| items.iter().find(|item| item["what"] == what);
    let version = found("control groups").map_or(Value::Null, |item| item["seen"].clone());
    let mut wrong: Vec<String> = CARRIED
        .iter()
        .filter_map(|what| match found(what) {
            None => Some(format!("{what} is not reported")),
            Some(item) => unless(item["level"] == "ok", || format!("{what}: {}", item["seen"])),
        })
        .collect();
    wrong.extend(unless(version == "v2", || format!("control groups are {version}, not v2")));
    unless(wrong.is_empty(), || wrong.join(", "))
}

fn converged(seen: &str) -> Option<String> {
    match json(seen) {
        Ok(report) => unless(report["converged"] == true, || format!("not converged: {}", report["steps"])),
        Err(wrong) => Some(wrong),
    }
}

fn controllers(seen: &str) -> Option<String> {
    let have: Vec<&str> = seen.split_whitespace().collect();
    let missing: Vec<&str> =
        ["cpu", "cpuset", "io", "memory", "pids"].into_iter().filter(|c| !have.contains(c)).collect();
    unless(missing.is_empty(), || format!("the node's children do not get {}", missing.join(", ")))
}

/// etcd, the three of the control plane, the agent and DNS: each container has a group of its own with a memory account,
/// and each sandbox.
fn pods(seen: &str) -> Option<String> {
    let count = seen.lines().count();
    unless(count >= 12, || format!("{count} containers have an account of their memory, at least 12 run"))
}

/// Whether socket programs hang on the group: the names of their kinds differ between versions of the tool.
fn attached(seen: &str) -> bool {
    let programs = json(seen).ok().and_then(|list| list.as_array().cloned()).unwrap_or_default();
    programs.iter().any(|program| {
        program["attach_type"]
            .as_str()
            .is_some_and(|kind| kind.ends_with("connect4") || kind.ends_with("inet4_connect"))
    })
}

fn kubelet(seen: &str) -> Option<String> {
    match json(seen) {
        Ok(seen) => {
            let driver = &seen["kubeletconfig"]["cgroupDriver"];
            unless(driver == "cgroupfs", || {
                format!("the kubelet's cgroup driver is {driver}, containerd's is cgroupfs")
            })
        }
        Err(wrong) => Some(wrong),
    }
}

fn agent(seen: &str) -> Option<String> {
    let set = match json(seen) {
        Ok(set) => set,
        Err(wrong) => return Some(wrong),
    };
    let containers = set["spec"]["template"]["spec"]["containers"].as_array().cloned().unwrap_or_default();
    let Some(agent) = containers.iter().find(|container| container["name"] == "cilium-agent") else {
        return Some("the DaemonSet has no cilium-agent".into());
    };
    let context = &agent["securityContext"];
    let added = context["capabilities"]["add"].as_array().cloned().unwrap_or_default();
    // The last two are asked for by name by the `bpftool` that the agent runs: nothing but the agent's start shows it.
    let has = |wanted: &str| added.iter().any(|name| name == wanted);
    unless(context["privileged"] != true && ["SYS_RESOURCE", "PERFMON", "BPF"].into_iter().all(has), || {
        format!("the agent is not confined to the capabilities that it needs: {context}")
    })
}

fn wireguard(seen: &str) -> Option<String> {
    match json(seen) {
        Ok(links) => {
            let kind = &links[0]["linkinfo"]["info_kind"];
            unless(kind == "wireguard", || format!("cilium_wg0 is of the kind {kind}, not the kernel's wireguard"))
        }
        Err(wrong) => Some(wrong),
    }
}

fn status(seen: &str) -> Option<String> {
    let says = |what: &str, wanted: &str| {
        let line = seen.lines().find(|line| line.starts_with(what));
        unless(line.is_some_and(|line| line.contains(wanted)), || format!("`{what}` is not {wanted}: {line:?}"))
    };
    let wrong: Vec<String> =
        [says("KubeProxyReplacement:", "True"), says("Encryption:", "Wireguard"), says("Cilium:", "Ok")]
            .into_iter()
            .flatten()
            .collect();
    unless(wrong.is_empty(), || wrong.join(", "))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde_json::json;

    use super::*;
    use crate::console::Step;

    /// What a host of this kind shows.
    fn good() -> BTreeMap<&'static str, String> {
        let items: Vec<Value> =
            CARRIED.iter().map(|what| json!({"what": what, "level": "ok", "seen": "yes"})).collect();
        let mut items = items;
        items.push(json!({"what": "control groups", "level": "ok", "seen": "v2"}));
        let added = json!(["SYS_RESOURCE", "PERFMON", "BPF"]);
        let agent = json!({"name": "cilium-agent", "securityContext": {"capabilities": {"add": added}}});
        BTreeMap::from([
            ("doctor", json!({ "items": items }).to_string()),
            ("up", "{}".into()),
            ("cilium", json!({"converged": true}).to_string()),
            ("coredns", json!({"converged": true}).to_string()),
            ("cgroup-type", "cgroup2fs\n".into()),
            ("cgroup-controllers", "cpuset cpu io memory pids\n".into()),
            ("cgroup-pods", "x\n".repeat(14)),
            ("cgroup-programs", json!([{"attach_type": "cgroup_inet4_connect"}]).to_string()),
            ("host-programs", json!([{"attach_type": "cgroup_device"}]).to_string()),
            ("kubelet", json!({"kubeletconfig": {"cgroupDriver": "cgroupfs"}}).to_string()),
            ("oom-score", "-997\n".into()),
            ("agent", json!({"spec": {"template": {"spec": {"containers": [agent]}}}}).to_string()),
            ("wireguard-link", json!([{"linkinfo": {"info_kind": "wireguard"}}]).to_string()),
            ("modules", "wireguard 94208 0 - Live 0x0\n".into()),
            (
                "cilium-status",
                "KubeProxyReplacement:  True [eth0]\nEncryption:  Wireguard [x]\nCilium:  Ok  1.16.5\n".into(),
            ),
            ("down", String::new()),
            ("residue", "[]".into()),
            ("host-groups", String::new()),
        ])
    }

    fn observed(seen: BTreeMap<&str, String>) -> Observed {
        let step = |(name, out): (&str, String)| (name.to_owned(), Step { code: 0, ms: 1, out });
        Observed(seen.into_iter().map(step).collect())
    }

    #[test]
    fn a_host_of_this_kind_has_no_findings() {
        assert_eq!(findings(&observed(good())), Vec::<String>::new());
    }

    #[test]
    fn every_step_that_never_ended_is_a_finding() {
        for (step, _) in EXPECTATIONS {
            let mut seen = good();
            seen.remove(step);
            assert_eq!(findings(&observed(seen)), [format!("step `{step}` never ended")]);
        }
    }

    #[test]
    fn another_kind_of_host_is_found_out() {
        let broken = [
            ("doctor", good()["doctor"].replace("\"v2\"", "\"hybrid\"")),
            ("doctor", good()["doctor"].replacen("\"level\":\"ok\"", "\"level\":\"less\"", 1)),
            ("doctor", "[]".into()),
            ("cilium", json!({"converged": false}).to_string()),
            ("cgroup-type", "tmpfs\n".into()),
            ("cgroup-controllers", "cpu pids\n".into()),
            ("cgroup-pods", String::new()),
            ("cgroup-programs", "[]".into()),
            ("host-programs", good()["cgroup-programs"].clone()),
            ("kubelet", json!({"kubeletconfig": {"cgroupDriver": "systemd"}}).to_string()),
            ("oom-score", "1000\n".into()),
            ("agent", good()["agent"].replace(",\"BPF\"", "")),
            ("agent", good()["agent"].replace("\"securityContext\":{", "\"securityContext\":{\"privileged\":true,")),
            ("wireguard-link", json!([{"linkinfo": {"info_kind": "tun"}}]).to_string()),
            ("modules", "tun 1\n".into()),
            ("cilium-status", "KubeProxyReplacement:  False\n".into()),
            ("host-groups", "/sys/fs/cgroup/shakedown\n".into()),
        ];
        for (step, out) in broken {
            let mut seen = good();
            seen.insert(step, out.clone());
            let found = findings(&observed(seen));
            assert!(found.len() == 1 && found[0].starts_with(step), "{step} {out}: {found:?}");
        }
    }
}
