//! What tests with real machines share. They need root, the bundle and the `shakedown` executable beside them.
#![allow(dead_code)]

use std::process::{Command, Output};

use shakedown_bundle::{Bundle, CacheDir, Selection};
use shakedown_cluster::{Parts, Store, down};
use shakedown_node::helper;

/// The bundle's parts.
pub fn parts() -> Parts {
    let cache = CacheDir::for_caller().unwrap();
    Parts::of(&Bundle::open(&cache, &Selection::core()).expect("the bundle (`shakedown bundle build`)"))
}

/// The command with these arguments, for the cluster of that name.
pub fn shakedown(name: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(helper::executable().expect("the executable (`cargo build -p shakedown`)"));
    command.args(["--name", name, "--quiet"]).args(arguments);
    command
}

/// Runs it to its end.
pub fn run(name: &str, arguments: &[&str]) -> Output {
    shakedown(name, arguments).output().unwrap()
}

/// Runs it; it has to succeed. Its standard output.
pub fn must(name: &str, arguments: &[&str]) -> String {
    let output = run(name, arguments);
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "shakedown {arguments:?} ended with {:?}: {said}", output.status.code());
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A cluster's name that no other test has at the same time; removed at the end, also of a failed test.
pub struct Name(pub String);

impl Name {
    pub fn new(what: &str) -> Self {
        Self(format!("t-{what}-{}", std::process::id()))
    }
}

impl Drop for Name {
    fn drop(&mut self) {
        let name = self.0.clone();
        let removed = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(down::down(&Store::default(), &name))
        });
        let removed = removed.join();
        if !std::thread::panicking() {
            removed.unwrap().unwrap();
        }
    }
}

/// What is left on the host of one cluster.
pub fn left_of(name: &str) -> Vec<String> {
    let everything = shakedown_cluster::residue::everything(&Store::default()).unwrap();
    everything
        .into_iter()
        .filter(|r| r.cluster.as_deref() == Some(name))
        .map(|r| format!("{:?} {}", r.kind, r.what))
        .collect()
}
