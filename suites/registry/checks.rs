//! The registry over plain HTTP and how containerd comes to use it.

use std::time::Duration;

use shakedown_core::Capability::{Containerd, Nodes5, NodesExec, RegistryHttp};
use shakedown_engine::{Check, check, finds};
use shakedown_words::{Platform, image_pull, pull_failure};

/// An observation of the real platform, as it was recorded: good, or with the defect of the check's control.
macro_rules! recorded {
    ($name:literal) => {
        include_str!(concat!("../../fixtures/recorded/registry/registry.", $name, ".json"))
    };
}

/// The checks of this area.
pub fn checks() -> Vec<Check<Platform>> {
    vec![
        check("registry.every-node-pulls-over-http-with-hosts-toml-as-found")
            .asserts(["REG-037", "REG-038", "REG-039", "REG-042", "REG-043"])
            .needs([Containerd, RegistryHttp, NodesExec, Nodes5])
            .observe(image_pull::on_every_node())
            .expect(image_pull::pulled_over_http(5))
            .sabotage(image_pull::hosts_toml_missing(), finds("pull-refused"))
            .recorded("good", recorded!("every-node-pulls-over-http-with-hosts-toml-as-found.good"), None)
            .recorded(
                "pull-refused",
                recorded!("every-node-pulls-over-http-with-hosts-toml-as-found.pull-refused"),
                Some("pull-refused"),
            )
            .remedy(
                "write /etc/containerd/certs.d/HOST:PORT/hosts.toml on the node named; containerd needs no restart",
            ),
        check("registry.a-node-without-hosts-toml-fails-as-documented-and-recovers")
            .asserts(["REG-034", "REG-035", "REG-040", "REG-041"])
            .needs([Containerd, RegistryHttp, NodesExec])
            .within(Duration::from_secs(90))
            .observe(pull_failure::without_hosts_toml())
            .expect(pull_failure::fails_without_works_with())
            .sabotage_omitting(
                "hosts.toml is not taken away",
                pull_failure::with_hosts_toml_left(),
                finds("did-not-fail"),
            )
            .recorded("good", recorded!("a-node-without-hosts-toml-fails-as-documented-and-recovers.good"), None)
            .recorded(
                "did-not-fail",
                recorded!("a-node-without-hosts-toml-fails-as-documented-and-recovers.did-not-fail"),
                Some("did-not-fail"),
            )
            .remedy("set the CRI registry config_path to /etc/containerd/certs.d: without it hosts.toml is never read"),
        check("registry.containerd-speaks-tls-first-unless-told-otherwise")
            .asserts(["REG-036"])
            .needs([Containerd, NodesExec])
            .within(Duration::from_secs(90))
            .observe(pull_failure::first_bytes())
            .expect(pull_failure::client_hello_without_http_with())
            .sabotage_input(
                "hosts.toml is there from the start",
                pull_failure::first_bytes_with_hosts_from_the_start(),
                finds("not-a-client-hello"),
            )
            .recorded("good", recorded!("containerd-speaks-tls-first-unless-told-otherwise.good"), None)
            .recorded(
                "not-a-client-hello",
                recorded!("containerd-speaks-tls-first-unless-told-otherwise.not-a-client-hello"),
                Some("not-a-client-hello"),
            )
            .remedy("look for a hosts.toml in certs.d/_default, which would speak for every registry"),
    ]
}
