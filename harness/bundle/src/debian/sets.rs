//! Which packages go where.

use crate::select::Group;

/// A tree of files unpacked from packages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PackageSet {
    pub name: &'static str,
    pub group: Group,
    /// The packages that are wanted for their own sake.
    pub packages: &'static [&'static str],
    /// The set whose packages are below this one already: only what it lacks is unpacked.
    pub on_top_of: Option<&'static str>,
    /// Only these paths, when there are any; else everything.
    pub only: &'static [&'static str],
    /// These packages, without what they depend on.
    pub without_dependencies: bool,
}

const BASE: PackageSet =
    PackageSet { name: "", group: Group::Core, packages: &[], on_top_of: None, only: &[], without_dependencies: false };

/// The lowest layer of images that need more than one static binary.
pub(crate) const LAYER_BASE: &str = "layer-base";

/// All sets. One that others stand on comes before them.
pub(crate) const SETS: &[PackageSet] = &[
    PackageSet {
        name: "node-root",
        packages: &[
            "base-files",
            "base-passwd",
            "bash",
            "bind9-dnsutils",
            "bpftool",
            "busybox-static",
            "ca-certificates",
            "conntrack",
            "containerd",
            "containernetworking-plugins",
            "coreutils",
            "curl",
            "dash",
            "debianutils",
            "diffutils",
            "e2fsprogs",
            "ethtool",
            "findutils",
            "gawk",
            "git",
            "grep",
            "gzip",
            "haproxy",
            "hostname",
            "iproute2",
            "ipset",
            "iptables",
            "iputils-ping",
            "kmod",
            "less",
            "libc-bin",
            "login",
            "mount",
            "ncurses-base",
            "netbase",
            "nftables",
            "openssl",
            "procps",
            "psmisc",
            "redis-server",
            "runc",
            "sed",
            "socat",
            "strace",
            "tar",
            "tcpdump",
            "util-linux",
            "wireguard-tools",
            "xz-utils",
            "zstd",
        ],
        ..BASE
    },
    PackageSet {
        name: LAYER_BASE,
        packages: &[
            "base-files",
            "base-passwd",
            "bash",
            "ca-certificates",
            "coreutils",
            "dash",
            "findutils",
            "grep",
            "libc-bin",
            "mawk",
            "sed",
            "tar",
        ],
        ..BASE
    },
    PackageSet {
        name: "layer-network",
        packages: &["bpftool", "iproute2", "ipset", "iptables", "kmod", "mount", "procps", "util-linux"],
        on_top_of: Some(LAYER_BASE),
        ..BASE
    },
    PackageSet {
        // The compiler of Cilium's datapath: it finds its own headers, so the C library's are not needed.
        name: "layer-clang",
        packages: &["libclang-cpp16", "libllvm16"],
        on_top_of: Some("layer-network"),
        ..BASE
    },
    PackageSet {
        name: "layer-clang-driver",
        packages: &["clang-16"],
        only: &["usr/bin/clang-16", "usr/lib/llvm-16/bin/clang", "usr/lib/llvm-16/bin/clang-16"],
        without_dependencies: true,
        ..BASE
    },
    PackageSet {
        name: "layer-loopback",
        packages: &["containernetworking-plugins"],
        only: &["usr/lib/cni/loopback"],
        without_dependencies: true,
        ..BASE
    },
    PackageSet { name: "layer-git", packages: &["git"], on_top_of: Some(LAYER_BASE), ..BASE },
    PackageSet { name: "layer-redis", packages: &["redis-server"], on_top_of: Some(LAYER_BASE), ..BASE },
    PackageSet {
        name: "vm-tools",
        group: Group::Vm,
        packages: &["qemu-system-x86", "qemu-utils", "seabios", "e2fsprogs", "cpio", "busybox-static"],
        ..BASE
    },
    PackageSet {
        // The meta package names the current kernel; the kernel's own package is what it depends on.
        name: "vm-kernel",
        group: Group::Vm,
        packages: &["linux-image-cloud-amd64"],
        ..BASE
    },
    PackageSet {
        // A host with nothing on it that nodes could lean on: what they need has to come with them.
        name: "vm-root",
        group: Group::Vm,
        packages: &[
            "base-files",
            "base-passwd",
            "bash",
            "bpftool",
            "coreutils",
            "dash",
            "findutils",
            "kmod",
            "libc-bin",
            "mount",
            "sed",
            "systemd",
            "systemd-sysv",
            "udev",
            "util-linux",
        ],
        ..BASE
    },
];

/// The set of that name.
pub(crate) fn set(name: &str) -> Option<&'static PackageSet> {
    SETS.iter().find(|set| set.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_stands_on_an_earlier_one() {
        for (at, set) in SETS.iter().enumerate() {
            if let Some(below) = set.on_top_of {
                assert!(SETS[..at].iter().any(|other| other.name == below), "{} on {below}", set.name);
            }
        }
    }
}
