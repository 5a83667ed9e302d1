//! Cilium instead of kube-proxy.

use shakedown_core::Capability::{CiliumKpr, Nodes5, NodesExec};
use shakedown_engine::{Check, check, finds};
use shakedown_words::{Platform, echo::echo, node_port, replacement};

/// An observation of the real platform, as it was recorded: good, or with the defect of the check's control.
macro_rules! recorded {
    ($name:literal) => {
        include_str!(concat!("../../fixtures/recorded/kube-proxy-replacement/kube-proxy-replacement.", $name, ".json"))
    };
}

/// The checks of this area.
pub fn checks() -> Vec<Check<Platform>> {
    vec![
        check("kube-proxy-replacement.is-on-and-nothing-of-kube-proxy-is-left")
            .asserts(["KPR-006", "KPR-026", "KPR-027", "KPR-028", "KPR-029", "KPR-044"])
            .needs([CiliumKpr, NodesExec, Nodes5])
            .observe(replacement::replacement())
            .expect(replacement::replaced_everywhere(5))
            .sabotage(replacement::a_service_chain(), finds("service-rule"))
            .recorded("good", recorded!("is-on-and-nothing-of-kube-proxy-is-left.good"), None)
            .recorded(
                "service-rule",
                recorded!("is-on-and-nothing-of-kube-proxy-is-left.service-rule"),
                Some("service-rule"),
            )
            .remedy("remove kube-proxy and its chains, and set kubeProxyReplacement=true"),
        check("kube-proxy-replacement.a-node-port-answers-on-every-node-in-every-way")
            .asserts(["KPR-041", "KPR-045", "KPR-046", "KPR-047", "KPR-048", "LB-019"])
            .contradicts(["KPR-041"])
            .needs([CiliumKpr, NodesExec, Nodes5])
            .observe(node_port::every_way())
            .with(echo())
            .expect(node_port::answered_everywhere(5))
            .sabotage(node_port::service_entry_removed(), finds("no-answer"))
            .recorded("good", recorded!("a-node-port-answers-on-every-node-in-every-way.good"), None)
            .recorded(
                "no-answer",
                recorded!("a-node-port-answers-on-every-node-in-every-way.no-answer"),
                Some("no-answer"),
            )
            .remedy("look at `cilium-dbg service list` on the node that does not answer, and restart its agent"),
    ]
}
