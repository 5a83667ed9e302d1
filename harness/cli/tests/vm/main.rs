//! A user's kind of host in a virtual machine: cgroup v2 alone, a kernel with WireGuard and loadable modules, systemd, and
//! every capability. One control plane comes up there, Cilium is converged on it, and all of it goes away again.
//!
//! `cargo xtask test --full` (or `--tier vm`) runs it; it takes minutes, because the processors are emulated where the
//! machine has no hypervisor.

mod console;
mod disk;
mod judge;
mod machine;

use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use shakedown_bundle::{Bundle, CacheDir, Group, Selection, VmParts};

#[test]
fn vm_carries_a_cluster_on_cgroup_v2_with_kernel_wireguard() -> Result<()> {
    let began = Instant::now();
    // Minutes of emulation are nothing to sit through in silence; the tier runs with its output passed through.
    let say = |line: &str| eprintln!("vm [{:6.1} s] {line}", began.elapsed().as_secs_f64());
    let binary: PathBuf = std::env::var_os("SHAKEDOWN_BIN")
        .context("SHAKEDOWN_BIN names no binary to test\nhint: `cargo xtask test --tier vm` sets it")?
        .into();
    let cache = CacheDir::for_caller()?;
    let bundle = Bundle::open(&cache, &Selection::core().with(Group::Vm))?;
    let parts = VmParts::of(&bundle)?;
    let shop = disk::Workshop::open(&cache)?;
    say("making the disk");
    let disk = disk::make(&parts, &cache, &binary, &shop)?;
    let machine = machine::Machine { disk, console: shop.path("console.log") };
    let observed = machine::run(&machine, &parts, &say)?;
    let findings = judge::findings(&observed);
    ensure!(
        findings.is_empty(),
        "the guest is not as it must be:\n  {}\nits kernel's last lines:\n{}",
        findings.join("\n  "),
        machine.last_words()
    );
    say("every expectation was met");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::machine::{Accelerator, Machine};

    #[test]
    fn the_machine_has_no_way_out() {
        let machine = Machine { disk: "/d/disk.img".into(), console: "/d/console.log".into() };
        let line = machine.arguments(Accelerator::Tcg).join(" ");
        insta::assert_snapshot!(line);
        assert!(machine.arguments(Accelerator::Kvm).windows(2).any(|pair| pair == ["-accel", "kvm"]));
    }
}
