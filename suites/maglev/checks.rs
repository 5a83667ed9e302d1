//! Load balancing with Maglev: the table in the datapath, and what changes when a backend comes or goes.

use std::time::Duration;

use shakedown_core::Capability::{CiliumMaglev, Nodes5, NodesExec};
use shakedown_engine::{Check, check, finds};
use shakedown_words::{Platform, echo::echo, maglev, maglev_change, spread};

/// An observation of the real platform, as it was recorded: good, or with the defect of the check's control.
macro_rules! recorded {
    ($name:literal) => {
        include_str!(concat!("../../fixtures/recorded/maglev/maglev.", $name, ".json"))
    };
}

/// The checks of this area.
pub fn checks() -> Vec<Check<Platform>> {
    vec![
        check("maglev.every-node-has-the-table-of-the-published-algorithm")
            .asserts(["LB-026", "LB-032"])
            .needs([CiliumMaglev, NodesExec, Nodes5])
            .observe(maglev::tables())
            .with(echo())
            .expect(maglev::ours_on_every_node(5))
            .sabotage(maglev_change::table_of_another_seed(), finds("table-differs"))
            .recorded("good", recorded!("every-node-has-the-table-of-the-published-algorithm.good"), None)
            .recorded("table-differs", recorded!("every-node-has-the-table-of-the-published-algorithm.table-differs"), Some("table-differs"))
            .remedy(
                "give every agent the same bpf-lb-maglev-hash-seed and table size, and restart the one that differs",
            ),
        check("maglev.few-slots-move-when-a-backend-goes-or-comes")
            .asserts(["LB-027", "LB-029"])
            .needs([CiliumMaglev, NodesExec, Nodes5])
            .within(Duration::from_secs(90))
            .observe(maglev_change::a_backend_comes_and_goes())
            .with(echo())
            .expect(maglev::few_slots_move(5, 5.0))
            .sabotage(maglev_change::table_of_another_seed(), finds("too-many-moved"))
            .remedy("use a table of more than 100 times the number of backends, and one seed on all nodes"),
        check("maglev.connections-from-outside-spread-as-the-table-says")
            .asserts(["LB-031"])
            .needs([CiliumMaglev, NodesExec, Nodes5])
            .observe(spread::connections(600))
            .with(echo())
            .expect(spread::as_the_table_says())
            .sabotage(maglev_change::table_without_one_backend(), finds("spread"))
            .recorded("good", recorded!("connections-from-outside-spread-as-the-table-says.good"), None)
            .recorded("spread", recorded!("connections-from-outside-spread-as-the-table-says.spread"), Some("spread"))
            .remedy("compare `cilium-dbg bpf lb maglev list` on the node with the Service's endpoints, and restart its agent"),
    ]
}
