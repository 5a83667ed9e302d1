//! The images of the bundle: names as the installers expect them, and what is in each.

use crate::debian::sets::LAYER_BASE;
use crate::layer::Owner;
use crate::manifest::hash_bytes;
use crate::select::Group;

/// Raised when the same inputs give another image.
const REVISION: &str = "1";

/// One thing in an image's own layer; paths are relative to the image's root.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Content {
    /// A program of a component.
    Bin { component: &'static str, name: &'static str, to: &'static str },
    /// A directory of a component.
    Tree { component: &'static str, from: &'static str, to: &'static str },
    /// A file of ours.
    Text { to: &'static str, mode: u32, text: &'static str },
    /// A symbolic link.
    Link { to: &'static str, target: &'static str },
    /// An empty directory.
    Dir { to: &'static str, mode: u32, owner: Owner },
}

/// How an image is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ImageSpec {
    /// The component's name in the store.
    pub component: &'static str,
    /// The name that people use for it.
    pub short: &'static str,
    /// The full reference under which nodes know it.
    pub reference: &'static str,
    pub group: Group,
    /// Package sets, each a layer, lowest first.
    pub layers: &'static [&'static str],
    pub contents: &'static [Content],
    pub user: &'static str,
    pub env: &'static [&'static str],
    pub entrypoint: &'static [&'static str],
    pub cmd: &'static [&'static str],
    pub workdir: &'static str,
}

impl ImageSpec {
    /// The components whose programs and directories are in it.
    pub fn components(&self) -> Vec<&'static str> {
        let mut names: Vec<_> = self
            .contents
            .iter()
            .filter_map(|content| match *content {
                Content::Bin { component, .. } | Content::Tree { component, .. } => Some(component),
                _ => None,
            })
            .collect();
        names.sort_unstable();
        names.dedup();
        names
    }

    /// The hash of what decides the image, given the keys of what it is made from.
    pub fn key(&self, keys: &[&str]) -> String {
        hash_bytes(format!("image {REVISION}\n{self:?}\n{}", keys.join("\n")).as_bytes())
    }
}

const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
const TMP: Content = Content::Dir { to: "tmp", mode: 0o1777, owner: (0, 0) };

const BASE: ImageSpec = ImageSpec {
    component: "",
    short: "",
    reference: "",
    group: Group::Core,
    layers: &[],
    contents: &[],
    user: "",
    env: &[PATH],
    entrypoint: &[],
    cmd: &[],
    workdir: "/",
};

const fn bin(component: &'static str, name: &'static str, to: &'static str) -> Content {
    Content::Bin { component, name, to }
}

const fn link(to: &'static str, target: &'static str) -> Content {
    Content::Link { to, target }
}

/// The image that containerd starts a pod's sandbox from; its configuration must name the same.
pub const SANDBOX_IMAGE: &str = "registry.k8s.io/pause:3.10.1";

const REGISTRY_CONFIG: &str = "\
version: 0.1
log:
  level: info
storage:
  filesystem:
    rootdirectory: /var/lib/registry
  delete:
    enabled: true
http:
  addr: :5000
";

const PASSWD_999: &str = "root:x:0:0:root:/root:/bin/bash\nargocd:x:999:999::/home/argocd:/usr/sbin/nologin\n";
const GROUP_999: &str = "root:x:0:\nargocd:x:999:\n";

/// All images, those that come up first in a cluster first.
pub(crate) const IMAGES: &[ImageSpec] = &[
    ImageSpec {
        component: "image-pause",
        short: "pause",
        reference: SANDBOX_IMAGE,
        contents: &[bin("workloads", "pause", "pause")],
        user: "65535:65535",
        entrypoint: &["/pause"],
        ..BASE
    },
    ImageSpec {
        component: "image-kube-apiserver",
        short: "kube-apiserver",
        reference: "registry.k8s.io/kube-apiserver:v1.34.4",
        contents: &[TMP, bin("kubernetes", "kube-apiserver", "usr/local/bin/kube-apiserver")],
        ..BASE
    },
    ImageSpec {
        component: "image-kube-controller-manager",
        short: "kube-controller-manager",
        reference: "registry.k8s.io/kube-controller-manager:v1.34.4",
        contents: &[TMP, bin("kubernetes", "kube-controller-manager", "usr/local/bin/kube-controller-manager")],
        ..BASE
    },
    ImageSpec {
        component: "image-kube-scheduler",
        short: "kube-scheduler",
        reference: "registry.k8s.io/kube-scheduler:v1.34.4",
        contents: &[TMP, bin("kubernetes", "kube-scheduler", "usr/local/bin/kube-scheduler")],
        ..BASE
    },
    ImageSpec {
        component: "image-etcd",
        short: "etcd",
        reference: "registry.k8s.io/etcd:3.6.5-0",
        contents: &[
            TMP,
            bin("etcd", "etcd", "usr/local/bin/etcd"),
            bin("etcd", "etcdctl", "usr/local/bin/etcdctl"),
            bin("etcd", "etcdutl", "usr/local/bin/etcdutl"),
        ],
        ..BASE
    },
    ImageSpec {
        component: "image-coredns",
        short: "coredns",
        reference: "registry.k8s.io/coredns/coredns:v1.12.4",
        contents: &[TMP, bin("coredns", "coredns", "coredns")],
        entrypoint: &["/coredns"],
        ..BASE
    },
    ImageSpec {
        component: "image-cilium",
        short: "cilium",
        reference: "quay.io/cilium/cilium:v1.16.5",
        layers: &[LAYER_BASE, "layer-network", "layer-clang", "layer-clang-driver", "layer-loopback"],
        contents: &[
            Content::Text {
                to: "cni-uninstall.sh",
                mode: 0o755,
                text: include_str!("../recipes/cilium/image/cni-uninstall.sh"),
            },
            Content::Text {
                to: "init-container.sh",
                mode: 0o755,
                text: include_str!("../recipes/cilium/image/init-container.sh"),
            },
            Content::Text {
                to: "install-plugin.sh",
                mode: 0o755,
                text: include_str!("../recipes/cilium/image/install-plugin.sh"),
            },
            Content::Dir { to: "home/cilium", mode: 0o755, owner: (0, 0) },
            bin("cilium", "cilium-cni", "opt/cni/bin/cilium-cni"),
            link("opt/cni/bin/loopback", "/usr/lib/cni/loopback"),
            link("usr/bin/cilium", "cilium-dbg"),
            bin("cilium", "cilium-agent", "usr/bin/cilium-agent"),
            bin("cilium", "cilium-dbg", "usr/bin/cilium-dbg"),
            bin("cilium", "cilium-health", "usr/bin/cilium-health"),
            bin("cilium", "cilium-health-responder", "usr/bin/cilium-health-responder"),
            bin("cilium", "cilium-mount", "usr/bin/cilium-mount"),
            bin("cilium", "cilium-sysctlfix", "usr/bin/cilium-sysctlfix"),
            bin("cilium", "hubble", "usr/bin/hubble"),
            Content::Tree { component: "cilium", from: "bpf", to: "var/lib/cilium/bpf" },
        ],
        env: &[PATH, "HUBBLE_SERVER=unix:///var/run/cilium/hubble.sock"],
        cmd: &["/usr/bin/cilium-dbg"],
        workdir: "/home/cilium",
        ..BASE
    },
    ImageSpec {
        component: "image-cilium-operator",
        short: "cilium-operator",
        reference: "quay.io/cilium/operator-generic:v1.16.5",
        contents: &[TMP, bin("cilium", "cilium-operator-generic", "usr/bin/cilium-operator-generic")],
        cmd: &["/usr/bin/cilium-operator-generic"],
        ..BASE
    },
    ImageSpec {
        component: "image-echo",
        short: "echo",
        reference: "shakedown.local/echo:1",
        contents: &[bin("workloads", "echo", "echo")],
        user: "65532:65532",
        entrypoint: &["/echo"],
        cmd: &["serve"],
        ..BASE
    },
    ImageSpec {
        component: "image-registry",
        short: "registry",
        reference: "docker.io/library/registry:3.0.0",
        contents: &[
            bin("distribution", "registry", "bin/registry"),
            Content::Text { to: "etc/distribution/config.yml", mode: 0o644, text: REGISTRY_CONFIG },
            TMP,
            Content::Dir { to: "var/lib/registry", mode: 0o777, owner: (0, 0) },
        ],
        entrypoint: &["/bin/registry"],
        cmd: &["serve", "/etc/distribution/config.yml"],
        ..BASE
    },
    ImageSpec {
        component: "image-git-server",
        short: "git-server",
        reference: "shakedown.local/git-server:1",
        layers: &[LAYER_BASE, "layer-git"],
        contents: &[
            Content::Dir { to: "srv/git", mode: 0o755, owner: (999, 999) },
            bin("workloads", "git-server", "usr/local/bin/git-server"),
        ],
        user: "999:999",
        entrypoint: &["/usr/local/bin/git-server"],
        cmd: &["serve"],
        ..BASE
    },
    ImageSpec {
        component: "image-redis",
        short: "redis",
        reference: "shakedown.local/redis:7",
        layers: &[LAYER_BASE, "layer-redis"],
        contents: &[Content::Dir { to: "data", mode: 0o755, owner: (999, 999) }],
        user: "999:999",
        entrypoint: &["redis-server"],
        workdir: "/data",
        ..BASE
    },
    ImageSpec {
        component: "image-argocd",
        short: "argocd",
        reference: "quay.io/argoproj/argocd:v3.2.5",
        layers: &[LAYER_BASE, "layer-git"],
        contents: &[
            Content::Dir { to: "app/config/gpg/keys", mode: 0o700, owner: (999, 999) },
            Content::Dir { to: "app/config/gpg/source", mode: 0o755, owner: (999, 999) },
            Content::Dir { to: "app/config/ssh", mode: 0o755, owner: (999, 999) },
            Content::Text { to: "app/config/ssh/ssh_known_hosts", mode: 0o644, text: "" },
            Content::Dir { to: "app/config/tls", mode: 0o755, owner: (999, 999) },
            Content::Text { to: "etc/group", mode: 0o644, text: GROUP_999 },
            Content::Text { to: "etc/passwd", mode: 0o644, text: PASSWD_999 },
            link("etc/ssh/ssh_known_hosts", "/app/config/ssh/ssh_known_hosts"),
            Content::Dir { to: "home/argocd", mode: 0o755, owner: (999, 999) },
            bin("argocd", "argocd", "usr/local/bin/argocd"),
            link("usr/local/bin/argocd-application-controller", "argocd"),
            link("usr/local/bin/argocd-applicationset-controller", "argocd"),
            link("usr/local/bin/argocd-cmp-server", "argocd"),
            link("usr/local/bin/argocd-commit-server", "argocd"),
            link("usr/local/bin/argocd-dex", "argocd"),
            link("usr/local/bin/argocd-k8s-auth", "argocd"),
            link("usr/local/bin/argocd-notifications", "argocd"),
            link("usr/local/bin/argocd-repo-server", "argocd"),
            link("usr/local/bin/argocd-server", "argocd"),
            bin("helm", "helm", "usr/local/bin/helm"),
            bin("kustomize", "kustomize", "usr/local/bin/kustomize"),
        ],
        user: "999",
        // There is no GnuPG in the image; commit signatures are not asked for.
        env: &[PATH, "ARGOCD_GPG_ENABLED=false", "ARGOCD_USER_ID=999", "HOME=/home/argocd", "USER=argocd"],
        workdir: "/home/argocd",
        ..BASE
    },
    kyverno(
        "image-kyverno",
        "kyverno",
        "ghcr.io/kyverno/kyverno:v1.13.4",
        &[TMP, bin("kyverno", "kyverno", "kyverno")],
        &["/kyverno"],
    ),
    kyverno(
        "image-kyverno-init",
        "kyverno-init",
        "ghcr.io/kyverno/kyvernopre:v1.13.4",
        &[TMP, bin("kyverno", "kyverno-init", "kyverno-init")],
        &["/kyverno-init"],
    ),
    kyverno(
        "image-kyverno-background-controller",
        "kyverno-background-controller",
        "ghcr.io/kyverno/background-controller:v1.13.4",
        &[TMP, bin("kyverno", "background-controller", "background-controller")],
        &["/background-controller"],
    ),
    kyverno(
        "image-kyverno-cleanup-controller",
        "kyverno-cleanup-controller",
        "ghcr.io/kyverno/cleanup-controller:v1.13.4",
        &[TMP, bin("kyverno", "cleanup-controller", "cleanup-controller")],
        &["/cleanup-controller"],
    ),
    kyverno(
        "image-kyverno-reports-controller",
        "kyverno-reports-controller",
        "ghcr.io/kyverno/reports-controller:v1.13.4",
        &[TMP, bin("kyverno", "reports-controller", "reports-controller")],
        &["/reports-controller"],
    ),
];

const fn kyverno(
    component: &'static str,
    short: &'static str,
    reference: &'static str,
    contents: &'static [Content],
    entrypoint: &'static [&'static str],
) -> ImageSpec {
    ImageSpec { component, short, reference, contents, user: "65534:65534", entrypoint, ..BASE }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::debian::sets::set;
    use crate::recipe::GO_RECIPES;

    #[test]
    fn every_program_and_layer_of_an_image_is_made_by_the_bundle() {
        for image in IMAGES {
            for content in image.contents {
                if let Content::Bin { component, name, .. } = *content {
                    let recipe = GO_RECIPES.iter().find(|recipe| recipe.name == component);
                    let made = recipe.is_some_and(|recipe| recipe.targets.iter().any(|target| target.name == name));
                    assert!(made, "{} of {component} in {}", name, image.component);
                }
            }
            for layer in image.layers {
                assert!(set(layer).is_some(), "{layer} in {}", image.component);
            }
        }
    }

    #[test]
    fn references_and_names_are_unique() {
        let unique = |mut names: Vec<&str>| {
            let count = names.len();
            names.sort_unstable();
            names.dedup();
            names.len() == count
        };
        assert!(unique(IMAGES.iter().map(|image| image.reference).collect()));
        assert!(unique(IMAGES.iter().map(|image| image.component).collect()));
        assert!(unique(IMAGES.iter().map(|image| image.short).collect()));
    }
}
