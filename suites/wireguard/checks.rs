//! Transparent encryption between nodes.

use shakedown_core::Capability::{Cilium, CiliumWireguard, Nodes5, NodesExec};
use shakedown_engine::{Check, check, finds};
use shakedown_words::{Platform, echo::echo, wire, wireguard};

/// An observation of the real platform, as it was recorded: good, or with the defect of the check's control.
macro_rules! recorded {
    ($name:literal) => {
        include_str!(concat!("../../fixtures/recorded/wireguard/wireguard.", $name, ".json"))
    };
}

/// The checks of this area.
pub fn checks() -> Vec<Check<Platform>> {
    vec![
        check("wireguard.every-node-has-every-other-as-its-peer")
            .asserts(["WG-023", "WG-024", "WG-025", "WG-026", "WG-027"])
            .needs([Cilium, CiliumWireguard, NodesExec, Nodes5])
            .observe(wireguard::mesh())
            .expect(wireguard::full_mesh(5))
            .sabotage(wireguard::a_peer_removed(), finds("peer-missing"))
            .recorded("good", recorded!("every-node-has-every-other-as-its-peer.good"), None)
            .recorded("peer-missing", recorded!("every-node-has-every-other-as-its-peer.peer-missing"), Some("peer-missing"))
            .remedy("restart the agent of the node that lacks the peer: kubectl -n kube-system delete pod -l k8s-app=cilium --field-selector spec.nodeName=NODE"),
        check("wireguard.pods-on-different-nodes-talk-encrypted")
            .asserts(["WG-009", "WG-028", "WG-029", "WG-030", "WG-031", "WG-033", "WG-036", "WG-049", "ENC-006"])
            .needs([Cilium, CiliumWireguard, NodesExec, Nodes5])
            .observe(wire::markers())
            .with(echo())
            .expect(wire::encrypted_between_nodes())
            .sabotage(wire::tunnel_past_wireguard(), finds("marker-in-clear"))
            .recorded("good", recorded!("pods-on-different-nodes-talk-encrypted.good"), None)
            .recorded("marker-in-clear", recorded!("pods-on-different-nodes-talk-encrypted.marker-in-clear"), Some("marker-in-clear"))
            .remedy("set encryption.enabled=true and encryption.type=wireguard, and restart all agents"),
    ]
}
