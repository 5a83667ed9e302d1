//! The vocabulary of checks: probes, expectations and sabotages, a word a file, over one [`Platform`].
//!
//! Invariants: no word names a provisioner; what a probe makes it removes again; an undo puts back what was found, not
//! what ought to have been there; no key, token or Secret value enters an observation.

pub mod access;
pub mod admission;
pub mod admitted;
pub mod api;
pub mod argo;
pub mod argo_drift;
pub mod audit;
pub mod backup;
pub mod backup_drill;
pub mod backup_faults;
pub mod bindings;
pub mod capabilities;
pub mod capture;
pub mod change;
pub mod echo;
pub mod encryption_config;
pub mod enforced_late;
pub mod etcd;
pub mod etcd_cluster;
pub mod etcd_faults;
pub mod etcd_keys;
pub mod etcd_lab;
pub mod etcd_lab_expect;
pub mod etcd_metrics;
pub mod etcd_outsider;
pub mod etcd_quota;
pub mod etcd_restored;
pub mod etcd_snapshot;
pub mod etcd_static_pod;
pub mod fields;
pub mod fingerprint;
pub mod healed;
pub mod helm;
pub mod http_get;
pub mod identity;
pub mod image_pull;
pub mod lockout;
pub mod machine;
pub mod maglev;
pub mod maglev_change;
pub mod maglev_table;
pub mod manifest;
pub mod masters;
pub mod missing_rule;
pub mod murmur3;
pub mod node_command;
pub mod node_port;
pub mod objects;
pub mod pcap;
pub mod platform;
pub mod pod_command;
pub mod pod_runs;
pub mod pod_token;
pub mod pods;
pub mod psa;
pub mod pull_failure;
pub mod raw_bytes;
pub mod registry;
pub mod replacement;
pub mod rights;
pub mod scratch;
pub mod scratch_judges;
pub mod scratch_pair;
pub mod secret_read;
pub mod spread;
pub mod token_secrets;
pub mod undo;
pub mod wire;
pub mod wireguard;

#[cfg(test)]
mod testing;

pub use machine::{FileFound, Machine, MachineError, Output};
pub use objects::ObjectRef;
pub use platform::{ConnectError, Platform};
