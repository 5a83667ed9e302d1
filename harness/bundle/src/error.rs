//! What can go wrong with the bundle, each with what to do about it.

use std::fmt::Write as _;
use std::io;
use std::path::{Path, PathBuf};

/// An error of this crate. The text says what failed and why, and ends in a `hint:` line where there is something to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BundleError {
    /// A file operation failed. A full disk is told apart.
    #[error("cannot {what} {}: {source}{}", path.display(), io_hint(source))]
    Io {
        /// The verb, as in "write".
        what: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// There is less room than a build is known to need.
    #[error("{} has {free_mib} MiB free, {needed_mib} MiB are needed for what is still to be built\nhint: free some space, or point XDG_CACHE_HOME at a larger disk", path.display())]
    NoSpace {
        /// The cache directory.
        path: PathBuf,
        /// What the missing components take, in MiB.
        needed_mib: u64,
        /// What the file system has, in MiB.
        free_mib: u64,
    },
    /// A program that a build needs is not installed.
    #[error("cannot run `{tool}`: {reason}\nhint: {hint}")]
    MissingTool {
        /// The program.
        tool: String,
        /// Why it could not be started.
        reason: String,
        /// How to get it.
        hint: &'static str,
    },
    /// The Go toolchain is older than a recipe demands.
    #[error(
        "{component} needs Go {needed}, this is {found}\nhint: install a newer Go; toolchains are never fetched on their own"
    )]
    GoTooOld {
        /// The component.
        component: String,
        /// What its `go.mod` names.
        needed: String,
        /// What `go env GOVERSION` said.
        found: String,
    },
    /// A command ended with an error.
    #[error("{what} failed ({status})\n{tail}\nhint: the whole output is in {}", log.display())]
    Command {
        /// What it was for.
        what: String,
        /// Its exit status.
        status: String,
        /// The last lines it printed.
        tail: String,
        /// Where all of them are.
        log: PathBuf,
    },
    /// A command ended because there was no room left.
    #[error("{what} failed: the disk is full; the whole output is in {}\nhint: free some space, or point XDG_CACHE_HOME at a larger disk; finished components are kept", log.display())]
    DiskFull {
        /// What it was for.
        what: String,
        /// Where its output is.
        log: PathBuf,
    },
    /// A file could not be fetched.
    #[error(
        "cannot download {url}: {reason}\nhint: check the network and the proxy settings (http_proxy), or set SHAKEDOWN_DEBIAN_MIRROR to a mirror that answers"
    )]
    Download {
        /// Its address.
        url: String,
        /// The answer, or the lack of one.
        reason: String,
    },
    /// A file is not what its name promises.
    #[error(
        "{what} has sha256 {found}, expected {expected}\nhint: it was not used and has been removed; the same command fetches it again"
    )]
    Checksum {
        /// The file.
        what: String,
        /// The promised digest.
        expected: String,
        /// The digest it has.
        found: String,
    },
    /// Something that was read makes no sense.
    #[error("cannot read {what}: {reason}")]
    Malformed {
        /// The document.
        what: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A package index was not signed by the distribution.
    #[error(
        "the signature of {what} is not valid: {reason}\nhint: a mirror or proxy in between may alter files; try another mirror with SHAKEDOWN_DEBIAN_MIRROR"
    )]
    Signature {
        /// The index.
        what: String,
        /// What gpgv said.
        reason: String,
    },
    /// Packages that were asked for, or that they depend on, do not exist.
    #[error("cannot resolve the packages of {tree}: {}", missing.join("; "))]
    Unresolvable {
        /// The tree.
        tree: String,
        /// A line for each.
        missing: Vec<String>,
    },
    /// Pinned packages are gone from the mirror, and `--locked` forbids newer ones.
    #[error("the mirror no longer has {}\nhint: without --locked the current versions of the signed index are taken, and said", gone.join(", "))]
    Drifted {
        /// `name=version` of each.
        gone: Vec<String>,
    },
    /// The bundle has not been built, or not all of it.
    #[error("the bundle is not complete, missing: {}\nhint: run `shakedown bundle build`", some(components))]
    Incomplete {
        /// The components that are missing.
        components: Vec<String>,
    },
    /// Files of the bundle are not what was built.
    #[error(
        "{}hint: run `shakedown bundle verify --repair`; only the damaged components are built again",
        damage(problems)
    )]
    Damaged {
        /// One for each file.
        problems: Vec<crate::Problem>,
    },
    /// Only root can make trees that belong to root and start containerd on them.
    #[error(
        "building {component} needs root: it makes files that belong to root and starts containerd once on them\nhint: run the same command with sudo; the cache stays in your own cache directory"
    )]
    NotRoot {
        /// The component.
        component: String,
    },
    /// There is nowhere to put the cache.
    #[error("cannot tell where your cache directory is: {reason}\nhint: set XDG_CACHE_HOME or HOME")]
    NoCacheDir {
        /// Why.
        reason: String,
    },
    /// A group or component that does not exist.
    #[error("there is no component group named {name:?}\nhint: the groups are {known}")]
    UnknownGroup {
        /// What was asked for.
        name: String,
        /// What there is.
        known: String,
    },
}

/// Gives a closure that dresses an [`io::Error`]: `.map_err(io("write", path))`.
pub(crate) fn io(what: &'static str, path: impl AsRef<Path>) -> impl FnOnce(io::Error) -> BundleError {
    let path = path.as_ref().to_path_buf();
    move |source| BundleError::Io { what, path, source }
}

/// Shorthand for something that cannot be parsed.
pub(crate) fn malformed(what: impl Into<String>, reason: impl ToString) -> BundleError {
    BundleError::Malformed { what: what.into(), reason: reason.to_string() }
}

fn io_hint(source: &io::Error) -> &'static str {
    match source.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            "\nhint: the disk is full; free some space, or point XDG_CACHE_HOME at a larger disk; finished components are kept"
        }
        io::ErrorKind::PermissionDenied => "\nhint: an earlier run with sudo may own it; run this with sudo as well",
        _ => "",
    }
}

/// The first few names, and how many more there are.
fn some(names: &[String]) -> String {
    match names.get(..6) {
        Some(first) if names.len() > 7 => format!("{} and {} more", first.join(", "), names.len() - 6),
        _ => names.join(", "),
    }
}

fn damage(problems: &[crate::Problem]) -> String {
    let mut text = format!("{} files of the bundle are not what was built\n", problems.len());
    for problem in problems.iter().take(10) {
        let _ = writeln!(text, "  {problem}");
    }
    if problems.len() > 10 {
        let _ = writeln!(text, "  and {} more", problems.len() - 10);
    }
    text
}
