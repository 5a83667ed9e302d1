//! The bundle: binaries, OCI images, charts, manifests and the node root that a cluster is made of.
//!
//! Everything is made from pinned sources: Go modules (checked by a `go.sum` of ours) and Debian packages (checked by
//! digest), kept in a content-addressed store in the caller's cache directory. [`build`] makes what is missing,
//! [`Bundle::open`] finds a finished one in well under a second, [`verify`] reads every byte of it.

mod build;
mod bundle;
mod cache;
mod command;
mod debian;
mod error;
mod excerpt;
mod golang;
mod image;
mod images;
mod layer;
mod lock;
mod manifest;
mod plan;
mod progress;
mod recipe;
mod record;
mod seed;
mod select;
mod store;
mod vm;

pub use build::{BuildOptions, build, build_with};
pub use bundle::{Bundle, ImageRef};
pub use cache::CacheDir;
pub use debian::PinnedDeb;
pub use error::BundleError;
pub use excerpt::excerpt;
pub use images::SANDBOX_IMAGE;
pub use lock::{Lock, LockedBinary, LockedImage, LockedModule, LockedPackage};
pub use manifest::{Damage, Problem};
pub use progress::{Lines, Progress, Silent};
pub use record::{Listed, PruneOptions, Verification, discard, list, lock_text, prune, verify, write_lock};
pub use select::{Group, Selection};
pub use vm::VmParts;
