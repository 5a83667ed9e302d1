//! CoreDNS: our own manifest, ready when the cluster's DNS address answers a question from every node.

use std::time::Duration;

use futures::future::BoxFuture;
use serde_json::Value;
use shakedown_core::Answer;
use shakedown_node::Exec;

use crate::component::{Component, State, not_rolled_out};
use crate::error::Result;
use crate::render::{Vars, filled};
use crate::site::Site;

/// Its Pods wait for the network first, so this holds the network's budget too.
const BUDGET: Duration = Duration::from_secs(960);
/// The name that is asked for. No label of ten letters: its length would be a line feed, at which bash ends a packet.
const QUESTION: &str = "kube-dns.kube-system.svc.cluster.local";
/// One question.
const QUESTION_BUDGET: Duration = Duration::from_secs(5);

/// The component.
pub struct CoreDns;

impl Component for CoreDns {
    fn name(&self) -> &'static str {
        "coredns"
    }

    fn what(&self) -> &'static str {
        "CoreDNS, two replicas behind kube-dns, without a way out"
    }

    // Not Cilium: its Pods are scheduled as soon as the first node has a network, while others still compile theirs.
    fn needs(&self) -> &'static [&'static str] {
        &["marker"]
    }

    fn version(&self, site: &Site) -> String {
        site.tools.tag("coredns").unwrap_or_else(|| "unknown".to_owned())
    }

    fn readiness(&self) -> &'static str {
        "both replicas are ready, and kube-dns.kube-system.svc.cluster.local is answered on the first node"
    }

    fn state<'a>(&'a self, site: &'a Site) -> BoxFuture<'a, Result<State>> {
        Box::pin(async move {
            let objects = objects(site)?;
            let mut found = site.applier.drift(&objects).await?;
            if found.is_empty() {
                found = not_rolled_out(site, &objects).await?;
            }
            Ok(State::of(&found))
        })
    }

    fn install<'a>(&'a self, site: &'a Site) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move { site.applier.apply(&objects(site)?).await })
    }

    fn ready<'a>(&'a self, site: &'a Site) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            site.rolled_out(self.name(), &objects(site)?, BUDGET).await?;
            let Some(node) = site.nodes.first() else { return Ok(()) };
            let script = question(&site.facts.dns_ip.to_string());
            site.wait(self.name(), "an answer of the cluster's DNS", BUDGET, || async {
                match node.exec(Exec::new(["/bin/bash", "-c", &script]).timeout(QUESTION_BUDGET)).await {
                    Ok(output) => judged(&output.stdout),
                    Err(error) => Answer::NotYet(error.to_string()),
                }
            })
            .await
        })
    }

    fn remove<'a>(&'a self, site: &'a Site) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move { site.applier.delete(&objects(site)?, BUDGET).await })
    }
}

fn objects(site: &Site) -> Result<Vec<Value>> {
    let vars = Vars::from([("DNS_IP", site.facts.dns_ip.to_string()), ("IMAGE", site.tools.image("coredns")?)]);
    filled("coredns", include_str!("../manifests/coredns.yaml"), &vars)
}

/// Asks for the A record of [`QUESTION`] with nothing but bash: a node brings no DNS tool along.
fn question(server: &str) -> String {
    let mut packet = String::new();
    // Identifier, recursion desired, one question (RFC 1035, 4.1.1).
    for byte in [0x5du8, 0x01, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0] {
        packet.push_str(&format!("\\x{byte:02x}"));
    }
    for label in QUESTION.split('.') {
        packet.push_str(&format!("\\x{:02x}{label}", label.len()));
    }
    // End of the name, type A, class IN.
    packet.push_str("\\x00\\x00\\x01\\x00\\x01");
    format!("exec 3<>/dev/udp/{server}/53 && printf '{packet}' >&3 && timeout 2 dd bs=512 count=1 <&3 2>/dev/null")
}

/// Ready when the answer is to our question, without error, and holds a record (RFC 1035, 4.1.1).
fn judged(answer: &[u8]) -> Answer<()> {
    match answer {
        [0x5d, 0x01, _, flags, _, _, high, low, ..] => {
            let (code, records) = (flags & 0x0f, u16::from_be_bytes([*high, *low]));
            if code == 0 && records > 0 {
                Answer::Ready(())
            } else {
                Answer::NotYet(format!("an answer with code {code} and {records} records"))
            }
        }
        [] => Answer::NotYet("no answer".into()),
        _ => Answer::NotYet("an answer to another question".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_record_without_error_counts() {
        let of = |code: u8, records: u8| judged(&[0x5d, 1, 0x84, code, 0, 1, 0, records, 0, 0, 0, 0]);
        assert_eq!(of(0, 1), Answer::Ready(()));
        assert_eq!(of(0, 0), Answer::NotYet("an answer with code 0 and 0 records".into()));
        assert_eq!(of(3, 1), Answer::NotYet("an answer with code 3 and 1 records".into()));
        assert!(matches!(judged(&[]), Answer::NotYet(_)));
        assert!(matches!(judged(&[1, 1, 0, 0, 0, 1, 0, 1]), Answer::NotYet(_)));
    }

    #[test]
    fn the_question_is_one_packet() {
        insta::assert_snapshot!(question("10.96.0.10"));
    }
}
