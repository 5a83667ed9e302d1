//! The eBPF replacement of kube-proxy as each agent tells it, and the absence of what it replaces: rules, processes,
//! DaemonSet.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::future::join_all;
use serde::{Deserialize, Serialize};
use shakedown_core::{Finding, Judgement, Observation, Resource, Touches, UndoStep};
use shakedown_engine::{Cx, Expect, ObserveError, PlantError, Prepared, Probe, Sabotage, expect_fn};

use crate::node_command::{Which, run, script};
use crate::objects::ObjectRef;
use crate::platform::Platform;
use crate::pod_command::{SYSTEM, ask_agents};

/// How long a node's command may take.
const COMMAND: Duration = Duration::from_secs(20);
/// What kube-proxy's chains of services begin with (KPR-043).
const CHAINS: &str = "KUBE-SVC";

/// Prints, for every variant of `iptables-save` on the node, its exit code, its number of lines and the lines of services.
const SAVE: &str = r#"for v in iptables-nft-save iptables-legacy-save ip6tables-nft-save ip6tables-legacy-save; do
c=$(command -v $v || command -v /usr/sbin/$v) || continue
out=$($c 2>/dev/null); code=$?
echo "$v $code $(printf '%s\n' "$out" | grep -c '^[:*-]')"
printf '%s\n' "$out" | grep KUBE-SVC | sed 's/^/= /'
done; true"#;

/// One variant of `iptables-save` on a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Saved {
    /// `iptables-nft-save`, ...
    pub variant: String,
    /// Exit code.
    pub code: i32,
    /// Tables, chains and rules printed.
    pub lines: u64,
    /// Those that speak of a service chain.
    pub service_lines: Vec<String>,
}

/// One node.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplacedNode {
    /// The agent's `KubeProxyReplacement:` line, without its name.
    pub status: String,
    /// Rows of the verbose status's section `KubeProxyReplacement Details`, by name.
    pub details: BTreeMap<String, String>,
    /// The node's interfaces and their addresses (`ip -br addr`).
    pub interfaces: Vec<String>,
    /// Packet filter rules.
    pub saved: Vec<Saved>,
    /// Processes called kube-proxy.
    pub kube_proxies: Vec<String>,
}

/// All nodes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Replaced {
    /// The API has a DaemonSet or ConfigMap called kube-proxy.
    pub objects: Vec<String>,
    /// Node to what was seen.
    pub nodes: BTreeMap<String, ReplacedNode>,
}

impl Observation for Replaced {
    const SCHEMA: &'static str = "kube-proxy-replacement/1";
}

/// Looks at every node's replacement.
pub struct LookAtReplacement;

/// Every agent's status, every node's rules and processes.
pub fn replacement() -> LookAtReplacement {
    LookAtReplacement
}

impl Probe<Platform> for LookAtReplacement {
    type Seen = Replaced;

    fn touches(&self) -> Touches {
        Touches::nothing().reads(Resource::Component("cilium".into())).reads(Resource::Nodes)
    }

    async fn observe(&self, platform: &Platform, cx: &Cx) -> Result<Replaced, ObserveError> {
        let status = ask_agents(platform, &["status", "--verbose"], cx.budget.min(COMMAND)).await?;
        let names = Which::All.on(platform);
        let looks = join_all(names.iter().map(|node| on_node(platform, node))).await;
        let mut nodes = BTreeMap::new();
        for (name, look) in names.into_iter().zip(looks) {
            let mut node = look?;
            if let Some(ran) = status.get(&name) {
                node.status = short_line(&ran.stdout);
                node.details = details(&ran.stdout);
            }
            nodes.insert(name, node);
        }
        let mut objects = vec![];
        for (version, kind) in [("apps/v1", "DaemonSet"), ("v1", "ConfigMap")] {
            let object = ObjectRef::namespaced(version, kind, SYSTEM, "kube-proxy");
            if platform.get(&object).await.map_err(ObserveError::no_ground)?.is_some() {
                objects.push(object.to_string());
            }
        }
        Ok(Replaced { objects, nodes })
    }
}

async fn on_node(platform: &Platform, node: &str) -> Result<ReplacedNode, ObserveError> {
    let argv = |text: &str| ["/bin/sh", "-c", text].map(str::to_owned);
    let (save, processes, links) = (argv(SAVE), argv("pgrep -ax kube-proxy || true"), argv("ip -br addr"));
    let (saved, processes, links) = futures::join!(
        run(platform, node, &save, COMMAND),
        run(platform, node, &processes, COMMAND),
        run(platform, node, &links, COMMAND),
    );
    let lines = |ran: Result<_, _>| -> Result<Vec<String>, ObserveError> {
        let ran: crate::node_command::Ran =
            ran.map_err(|e: crate::machine::MachineError| ObserveError::no_ground(e))?;
        Ok(ran.stdout.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect())
    };
    let saved = saved.map_err(ObserveError::no_ground)?;
    Ok(ReplacedNode {
        saved: understand_saved(&saved.stdout),
        kube_proxies: lines(processes)?,
        interfaces: lines(links)?,
        ..ReplacedNode::default()
    })
}

fn understand_saved(text: &str) -> Vec<Saved> {
    let mut all: Vec<Saved> = vec![];
    for line in text.lines() {
        if let (Some(rule), Some(last)) = (line.strip_prefix("= "), all.last_mut()) {
            last.service_lines.push(rule.to_owned());
            continue;
        }
        let mut words = line.split_whitespace();
        if let (Some(variant), Some(Ok(code)), Some(Ok(lines))) =
            (words.next(), words.next().map(str::parse), words.next().map(str::parse))
        {
            all.push(Saved { variant: variant.to_owned(), code, lines, service_lines: vec![] });
        }
    }
    all
}

/// The value of `KubeProxyReplacement:` in a status.
fn short_line(status: &str) -> String {
    let line = status.lines().find_map(|line| line.strip_prefix("KubeProxyReplacement:"));
    line.unwrap_or_default().split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The rows of the section `KubeProxyReplacement Details:`: indented, name and value apart by a colon. Rows of the list
/// of services (`- ClusterIP: Enabled`) keep their name without the dash.
fn details(status: &str) -> BTreeMap<String, String> {
    let section = status.lines().skip_while(|line| !line.starts_with("KubeProxyReplacement Details:")).skip(1);
    section
        .take_while(|line| line.starts_with([' ', '\t']))
        .filter_map(|line| line.trim().trim_start_matches("- ").split_once(':'))
        .map(|(name, value)| (name.trim().to_owned(), value.trim().to_owned()))
        .collect()
}

/// The devices of the short line's brackets: name, and whether it carries the mark of direct routing.
pub fn devices(status: &str) -> Vec<(String, bool)> {
    let inside = status.split_once('[').and_then(|(_, rest)| rest.rsplit_once(']')).map_or("", |(inside, _)| inside);
    let parts = inside.split(',').filter(|part| !part.trim().is_empty());
    parts
        .map(|part| {
            let name = part.split_whitespace().next().unwrap_or_default().to_owned();
            (name, part.contains("(Direct Routing)"))
        })
        .collect()
}

/// On at least `count` nodes the replacement is on with a direct routing device of the node, the verbose status agrees,
/// and nothing of kube-proxy is left: no rule, no process, no object.
pub fn replaced_everywhere(count: usize) -> impl Expect<Replaced> {
    expect_fn(move |seen: &Replaced| {
        if seen.nodes.len() < count {
            return Judgement::Inconclusive(format!("{} nodes, {count} expected", seen.nodes.len()));
        }
        let mut found: Vec<Finding> = seen
            .objects
            .iter()
            .map(|object| Finding::new("kube-proxy-object", object, "the API still has it".to_owned()))
            .collect();
        found.extend(seen.nodes.iter().flat_map(|(name, node)| of_node(name, node)));
        Judgement::from_findings(found)
    })
}

fn of_node(name: &str, node: &ReplacedNode) -> Vec<Finding> {
    let mut found = vec![];
    let on = node.status.split_whitespace().next() == Some("True");
    let verbose = node.details.get("Status").map(String::as_str);
    if !on || verbose != Some("True") {
        let message = format!("status `{}`, verbose status {verbose:?}", node.status);
        found.push(Finding::new("replacement-off", name, message));
    }
    let devices = devices(&node.status);
    let there = |device: &String| node.interfaces.iter().any(|line| line.split([' ', '@']).next() == Some(device));
    if on && (devices.iter().filter(|(_, direct)| *direct).count() != 1 || !devices.iter().all(|(name, _)| there(name)))
    {
        found.push(Finding::new("devices", name, format!("`{}` with interfaces {:?}", node.status, node.interfaces)));
    }
    if on && node.details.get("Socket LB").map(String::as_str) != Some("Enabled") {
        found.push(Finding::new("socket-lb-off", name, format!("{:?}", node.details.get("Socket LB"))));
    }
    // A search that cannot find anything proves nothing: some variant must have printed rules.
    if !node.saved.iter().any(|saved| saved.code == 0 && saved.lines > 0) {
        found.push(Finding::new("rules-unseen", name, format!("no variant printed a rule: {:?}", node.saved)));
    }
    let lines = node.saved.iter().flat_map(|saved| saved.service_lines.iter().map(move |line| (saved, line)));
    found.extend(lines.map(|(saved, line)| Finding::new("service-rule", name, format!("{}: {line}", saved.variant))));
    found.extend(node.kube_proxies.iter().map(|process| Finding::new("kube-proxy-process", name, process.clone())));
    found
}

/// A chain as kube-proxy makes them, on one node.
pub struct ServiceChain;

/// The last node has a chain called like those of kube-proxy.
pub fn a_service_chain() -> ServiceChain {
    ServiceChain
}

impl ServiceChain {
    fn node(&self, platform: &Platform) -> Result<String, PlantError> {
        Which::All.on(platform).pop().ok_or_else(|| PlantError::new("there is no node"))
    }
}

impl Sabotage<Platform> for ServiceChain {
    type Choice = String;

    fn describe(&self) -> String {
        format!("one node has a chain {CHAINS}-SHAKEDOWN in its packet filter")
    }

    fn touches(&self) -> Touches {
        Touches::nothing().writes(Resource::Nodes)
    }

    async fn prepare(&self, platform: &Platform) -> Result<Prepared<Self::Choice>, PlantError> {
        let node = self.node(platform)?;
        let found = script(platform, &node, SAVE, COMMAND).await.map_err(PlantError::new)?;
        if String::from_utf8_lossy(&found).contains(&format!("{CHAINS}-SHAKEDOWN")) {
            return Err(PlantError::new(format!("node {node} has the chain already")));
        }
        let text = format!(
            "iptables -t nat -S {CHAINS}-SHAKEDOWN >/dev/null 2>&1 || exit 0; iptables -t nat -X {CHAINS}-SHAKEDOWN"
        );
        let argv = ["/bin/sh", "-c", &text].map(str::to_owned).to_vec();
        let undo = vec![UndoStep::RunOnNode { node: node.clone(), argv, tolerate_failure: false }];
        Ok(Prepared::new(node, undo))
    }

    async fn plant(&self, platform: &Platform, node: &String) -> Result<(), PlantError> {
        let text =
            format!("iptables -w 5 -t nat -N {CHAINS}-SHAKEDOWN && iptables-save -t nat | grep -q {CHAINS}-SHAKEDOWN");
        script(platform, node, &text, COMMAND).await.map(drop).map_err(PlantError::new)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const VERBOSE: &str = "KVStore:                 Disabled\nKubeProxyReplacement:    True   [eth0  10.0.0.11 (Direct Routing)]\n\
        KubeProxyReplacement Details:\n  Status:                 True\n  Socket LB:              Enabled\n  Mode:                   SNAT\n\
        \x20 Services:\n  - ClusterIP:      Enabled\n  - NodePort:       Enabled (Range: 30000-32767)\nBPF Maps:   dynamic sizing\n";

    fn good() -> ReplacedNode {
        ReplacedNode {
            status: short_line(VERBOSE),
            details: details(VERBOSE),
            interfaces: vec!["lo UNKNOWN 127.0.0.1/8".into(), "eth0@if7 UP 10.0.0.11/24".into()],
            saved: understand_saved("iptables-nft-save 0 31\nip6tables-nft-save 0 12\n"),
            kube_proxies: vec![],
        }
    }

    fn codes(node: ReplacedNode) -> Vec<String> {
        let seen = Replaced { objects: vec![], nodes: [("n1".to_owned(), node)].into() };
        crate::testing::codes(replaced_everywhere(1).judge(&seen))
    }

    #[test]
    fn a_status_is_understood() {
        assert_eq!(short_line(VERBOSE), "True [eth0 10.0.0.11 (Direct Routing)]");
        assert_eq!(details(VERBOSE)["NodePort"], "Enabled (Range: 30000-32767)");
        assert_eq!(
            devices("True [eth0 10.0.0.1 (Direct Routing), eth1]"),
            [("eth0".into(), true), ("eth1".into(), false)]
        );
        assert_eq!(details("Status: True\n"), BTreeMap::new(), "a status without the section has no details");
    }

    #[test]
    fn each_defect_has_its_code() {
        assert_eq!(codes(good()), Vec::<String>::new());
        type Break = fn(&mut ReplacedNode);
        let cases: &[(&str, Break)] = &[
            ("service-rule", |n| n.saved = understand_saved("iptables-nft-save 0 3\n= :KUBE-SVC-X - [0:0]\n")),
            ("rules-unseen", |n| n.saved = understand_saved("iptables-nft-save 127 0\n")),
            ("rules-unseen", |n| n.saved.clear()),
            ("replacement-off", |n| n.details.clear()),
            ("replacement-off", |n| n.status = "False".into()),
            ("socket-lb-off", |n| drop(n.details.insert("Socket LB".into(), "Disabled".into()))),
            ("devices", |n| n.interfaces.clear()),
            ("kube-proxy-process", |n| n.kube_proxies.push("41 kube-proxy".into())),
        ];
        for (code, breaks) in cases {
            let mut node = good();
            breaks(&mut node);
            assert_eq!(codes(node).first().map(String::as_str), Some(*code));
        }
    }
}
