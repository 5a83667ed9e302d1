//! Installers of the platform's components, a file each, and the graph that runs them.
//!
//! [`converge::converge`] brings a cluster to the documented platform; every [`component::Component`] looks at what is
//! really there first, so it is idempotent and goes on after having been killed at any point. [`apply`], [`rollout`]
//! and [`web`] are there for others, too.
//!
//! Invariants: names, paths and ports come from [`names`], as documented; no Secret's value leaves memory; files that
//! decide whether an apiserver starts are edited byte by byte and verified before they are written.

pub mod apply;
pub mod argocd_manifest;
pub mod component;
pub mod components;
pub mod converge;
pub mod error;
pub mod facts;
pub mod files;
pub mod graph;
pub mod manifest_edit;
pub mod names;
pub mod open;
pub mod probe;
pub mod probe_facts;
pub mod program;
pub mod render;
pub mod rollout;
pub mod site;
pub mod values;
pub mod web;

pub use error::{Result, StackError};
