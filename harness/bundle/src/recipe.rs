//! The Go programs of the bundle: which module and version, which packages of it, what is stamped into them, and which
//! other files of the module are kept. Each has a `go.mod` and `go.sum` of ours under `recipes/`, compiled in, so that
//! the binary builds the bundle without its source tree.

use crate::manifest::hash_bytes;
use crate::select::Group;

/// Raised when the way of building changes so that earlier results must not be used any more.
const REVISION: &str = "1";

/// The flags that every build gets; `-trimpath` and no build date make the result reproducible.
pub(crate) const BUILD_FLAGS: &[&str] = &["-trimpath", "-mod=readonly", "-buildvcs=false", "-p=2"];

/// The environment that every build gets, on top of a cleaned one.
pub(crate) const BUILD_ENV: &[(&str, &str)] = &[
    ("CGO_ENABLED", "0"),
    ("GOOS", "linux"),
    ("GOARCH", "amd64"),
    ("GOAMD64", "v1"),
    ("GOFLAGS", ""),
    ("GOWORK", "off"),
    ("GOTOOLCHAIN", "local"),
    ("GO111MODULE", "on"),
    ("GOEXPERIMENT", ""),
];

/// One program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Target {
    /// Its package.
    pub package: &'static str,
    /// The name it gets under `bin/`.
    pub name: &'static str,
    /// Its build tags, comma separated.
    pub tags: &'static str,
}

/// A file of ours that takes the place of one of the module's, by Go's own `-overlay`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Overlay {
    /// The module's file, from the module's root.
    pub file: &'static str,
    /// Our text.
    pub text: &'static str,
}

/// A file or directory of the module that is kept beside the programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Extract {
    /// From the module's root.
    pub from: &'static str,
    /// From the component's root.
    pub to: &'static str,
}

/// How one component is built from a Go module.
#[derive(Debug, Clone, Copy)]
pub(crate) struct GoRecipe {
    pub name: &'static str,
    pub group: Group,
    /// The module, and the version that is stamped and shown; for our own workloads the module is ours.
    pub module: &'static str,
    pub version: &'static str,
    /// The files of the build directory: `go.mod`, `go.sum`, and the sources where they are ours.
    pub files: &'static [(&'static str, &'static str)],
    pub targets: &'static [Target],
    /// Variables set with the linker's `-X`.
    pub stamps: &'static [(&'static str, &'static str)],
    pub overlay: Option<Overlay>,
    pub extracts: &'static [Extract],
}

impl GoRecipe {
    /// The hash of everything that decides the result except the toolchain: a bundle stays usable on a machine that has
    /// no Go or another one, and the toolchain that was used is recorded with the result.
    pub fn key(&self) -> String {
        let mut text = format!("go {REVISION}\n{}\n{}\n{}\n", self.name, self.module, self.version);
        for (name, body) in self.files {
            text += &format!("file {name} {}\n", hash_bytes(body.as_bytes()));
        }
        if let Some(overlay) = self.overlay {
            text += &format!("overlay {} {}\n", overlay.file, hash_bytes(overlay.text.as_bytes()));
        }
        text += &format!("{:?}\n{:?}\n{:?}\n", self.targets, self.stamps, self.extracts);
        text += &format!("{BUILD_FLAGS:?}\n{BUILD_ENV:?}\n");
        hash_bytes(text.as_bytes())
    }

    /// The linker flags, quoted as `-ldflags` wants them.
    pub fn ldflags(&self) -> String {
        self.stamps.iter().fold("-s -w".to_string(), |flags, (name, value)| {
            if value.contains(' ') {
                format!("{flags} -X '{name}={value}'")
            } else {
                format!("{flags} -X {name}={value}")
            }
        })
    }

    /// Whether the module comes from outside.
    pub fn is_upstream(&self) -> bool {
        !self.module.starts_with("shakedown.local/")
    }
}

macro_rules! module_files {
    ($name:literal) => {
        &[
            ("go.mod", include_str!(concat!("../recipes/", $name, "/go.mod"))),
            ("go.sum", include_str!(concat!("../recipes/", $name, "/go.sum"))),
        ]
    };
}

macro_rules! workload_files {
    ($($name:literal),+ $(,)?) => {
        &[$(($name, include_str!(concat!("../../../fixtures/workloads/", $name)))),+]
    };
}

const fn target(package: &'static str, name: &'static str) -> Target {
    Target { package, name, tags: "" }
}

/// All of them, in the order in which a cold build makes them: what others wait for comes first.
pub(crate) const GO_RECIPES: &[GoRecipe] = &[
    GoRecipe {
        name: "workloads",
        group: Group::Core,
        module: "shakedown.local/workloads",
        version: "1",
        files: workload_files!("go.mod", "pause/main.go", "echo/main.go", "echo/client.go", "git-server/main.go"),
        targets: &[target("./pause", "pause"), target("./echo", "echo"), target("./git-server", "git-server")],
        stamps: &[],
        overlay: None,
        extracts: &[],
    },
    GoRecipe {
        name: "kubernetes",
        group: Group::Core,
        module: "k8s.io/kubernetes",
        version: "v1.34.4",
        files: module_files!("kubernetes"),
        targets: &[
            target("k8s.io/kubernetes/cmd/kube-apiserver", "kube-apiserver"),
            target("k8s.io/kubernetes/cmd/kube-controller-manager", "kube-controller-manager"),
            target("k8s.io/kubernetes/cmd/kube-scheduler", "kube-scheduler"),
            target("k8s.io/kubernetes/cmd/kubelet", "kubelet"),
            target("k8s.io/kubernetes/cmd/kubeadm", "kubeadm"),
            target("k8s.io/kubernetes/cmd/kubectl", "kubectl"),
        ],
        // The commit is not part of a Go module; "module" says where the sources came from.
        stamps: &[
            ("k8s.io/component-base/version.gitVersion", "v1.34.4"),
            ("k8s.io/component-base/version.gitMajor", "1"),
            ("k8s.io/component-base/version.gitMinor", "34"),
            ("k8s.io/component-base/version.gitTreeState", "clean"),
            ("k8s.io/component-base/version.gitCommit", "module"),
            ("k8s.io/client-go/pkg/version.gitVersion", "v1.34.4"),
            ("k8s.io/client-go/pkg/version.gitMajor", "1"),
            ("k8s.io/client-go/pkg/version.gitMinor", "34"),
            ("k8s.io/client-go/pkg/version.gitTreeState", "clean"),
            ("k8s.io/client-go/pkg/version.gitCommit", "module"),
        ],
        overlay: None,
        extracts: &[],
    },
    GoRecipe {
        name: "etcd",
        group: Group::Core,
        module: "go.etcd.io/etcd/server/v3",
        version: "v3.6.5",
        files: module_files!("etcd"),
        targets: &[
            target("go.etcd.io/etcd/server/v3", "etcd"),
            target("go.etcd.io/etcd/etcdctl/v3", "etcdctl"),
            target("go.etcd.io/etcd/etcdutl/v3", "etcdutl"),
        ],
        stamps: &[("go.etcd.io/etcd/api/v3/version.GitSHA", "module")],
        overlay: None,
        extracts: &[],
    },
    GoRecipe {
        name: "cilium",
        group: Group::Core,
        module: "github.com/cilium/cilium",
        version: "v1.16.5",
        files: module_files!("cilium"),
        targets: &[
            target("github.com/cilium/cilium/daemon", "cilium-agent"),
            target("github.com/cilium/cilium/plugins/cilium-cni", "cilium-cni"),
            target("github.com/cilium/cilium/cilium-dbg", "cilium-dbg"),
            target("github.com/cilium/cilium/cilium-health", "cilium-health"),
            target("github.com/cilium/cilium/cilium-health/responder", "cilium-health-responder"),
            target("github.com/cilium/cilium/tools/mount", "cilium-mount"),
            target("github.com/cilium/cilium/tools/sysctlfix", "cilium-sysctlfix"),
            target("github.com/cilium/cilium/hubble", "hubble"),
            Target {
                package: "github.com/cilium/cilium/operator",
                name: "cilium-operator-generic",
                tags: "ipam_provider_operator",
            },
        ],
        // Seven words, the first three are ours: anything else and the agent cannot read its own version.
        stamps: &[("github.com/cilium/cilium/pkg/version.ciliumVersion", "1.16.5 module 1970-01-01T00:00:00+00:00")],
        overlay: Some(Overlay {
            file: "pkg/datapath/linux/modules/modules_linux.go",
            text: include_str!("../recipes/cilium/overlay/modules_linux.go"),
        }),
        extracts: &[
            Extract { from: "install/kubernetes/cilium", to: "charts/cilium" },
            Extract { from: "bpf", to: "bpf" },
        ],
    },
    GoRecipe {
        name: "coredns",
        group: Group::Core,
        module: "github.com/coredns/coredns",
        version: "v1.12.4",
        files: module_files!("coredns"),
        targets: &[target("github.com/coredns/coredns", "coredns")],
        stamps: &[("github.com/coredns/coredns/coremain.GitCommit", "module")],
        overlay: None,
        extracts: &[],
    },
    GoRecipe {
        name: "distribution",
        group: Group::Core,
        module: "github.com/distribution/distribution/v3",
        version: "v3.0.0",
        files: module_files!("distribution"),
        targets: &[target("github.com/distribution/distribution/v3/cmd/registry", "registry")],
        stamps: &[
            ("github.com/distribution/distribution/v3/version.version", "v3.0.0"),
            ("github.com/distribution/distribution/v3/version.revision", "module"),
            ("github.com/distribution/distribution/v3/version.mainpkg", "github.com/distribution/distribution/v3"),
        ],
        overlay: None,
        extracts: &[],
    },
    GoRecipe {
        name: "helm",
        group: Group::Core,
        module: "helm.sh/helm/v3",
        version: "v3.20.0",
        files: module_files!("helm"),
        targets: &[target("helm.sh/helm/v3/cmd/helm", "helm")],
        stamps: &[
            ("helm.sh/helm/v3/internal/version.version", "v3.20.0"),
            ("helm.sh/helm/v3/internal/version.gitCommit", "module"),
            ("helm.sh/helm/v3/internal/version.gitTreeState", "clean"),
            ("helm.sh/helm/v3/pkg/lint/rules.k8sVersionMajor", "1"),
            ("helm.sh/helm/v3/pkg/lint/rules.k8sVersionMinor", "35"),
            ("helm.sh/helm/v3/pkg/chartutil.k8sVersionMajor", "1"),
            ("helm.sh/helm/v3/pkg/chartutil.k8sVersionMinor", "35"),
        ],
        overlay: None,
        extracts: &[],
    },
    GoRecipe {
        name: "kustomize",
        group: Group::Core,
        module: "sigs.k8s.io/kustomize/kustomize/v5",
        version: "v5.7.1",
        files: module_files!("kustomize"),
        targets: &[target("sigs.k8s.io/kustomize/kustomize/v5", "kustomize")],
        stamps: &[
            ("sigs.k8s.io/kustomize/api/provenance.version", "v5.7.1"),
            ("sigs.k8s.io/kustomize/api/provenance.buildDate", "1970-01-01T00:00:00Z"),
        ],
        overlay: None,
        extracts: &[],
    },
    GoRecipe {
        name: "crane",
        group: Group::Core,
        module: "github.com/google/go-containerregistry",
        version: "v0.20.6",
        files: module_files!("crane"),
        targets: &[target("github.com/google/go-containerregistry/cmd/crane", "crane")],
        stamps: &[("github.com/google/go-containerregistry/cmd/crane/cmd.Version", "v0.20.6")],
        overlay: None,
        extracts: &[],
    },
    GoRecipe {
        name: "argocd",
        group: Group::Core,
        module: "github.com/argoproj/argo-cd/v3",
        version: "v3.2.5",
        files: module_files!("argocd"),
        targets: &[target("github.com/argoproj/argo-cd/v3/cmd", "argocd")],
        stamps: &[
            ("github.com/argoproj/argo-cd/v3/common.version", "v3.2.5"),
            ("github.com/argoproj/argo-cd/v3/common.buildDate", "1970-01-01T00:00:00Z"),
            ("github.com/argoproj/argo-cd/v3/common.gitCommit", "module"),
            ("github.com/argoproj/argo-cd/v3/common.gitTreeState", "clean"),
            ("github.com/argoproj/argo-cd/v3/common.gitTag", "v3.2.5"),
            ("github.com/argoproj/argo-cd/v3/common.kubectlVersion", "v0.34.0"),
        ],
        overlay: None,
        extracts: &[
            Extract { from: "manifests/core-install.yaml", to: "manifests/argo-cd/core-install.yaml" },
            Extract { from: "manifests/install.yaml", to: "manifests/argo-cd/install.yaml" },
        ],
    },
    GoRecipe {
        name: "kyverno",
        group: Group::Core,
        module: "github.com/kyverno/kyverno",
        version: "v1.13.4",
        files: module_files!("kyverno"),
        targets: &[
            target("github.com/kyverno/kyverno/cmd/kyverno", "kyverno"),
            target("github.com/kyverno/kyverno/cmd/kyverno-init", "kyverno-init"),
            target("github.com/kyverno/kyverno/cmd/background-controller", "background-controller"),
            target("github.com/kyverno/kyverno/cmd/cleanup-controller", "cleanup-controller"),
            target("github.com/kyverno/kyverno/cmd/reports-controller", "reports-controller"),
        ],
        stamps: &[("github.com/kyverno/kyverno/pkg/version.BuildVersion", "v1.13.4")],
        overlay: None,
        extracts: &[Extract { from: "config/install-latest-testing.yaml", to: "manifests/kyverno/install.yaml" }],
    },
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_depends_on_every_input_and_on_nothing_else() {
        let recipe = GO_RECIPES[1];
        assert_eq!(recipe.key(), GO_RECIPES[1].key());
        let changed = [
            GoRecipe { version: "v1.34.5", ..recipe },
            GoRecipe { files: &[("go.mod", "module x"), ("go.sum", "")], ..recipe },
            GoRecipe { stamps: &[], ..recipe },
            GoRecipe { targets: &recipe.targets[1..], ..recipe },
            GoRecipe { overlay: Some(Overlay { file: "a.go", text: "package a" }), ..recipe },
            GoRecipe { extracts: &[Extract { from: "a", to: "b" }], ..recipe },
        ];
        for other in changed {
            assert_ne!(recipe.key(), other.key());
        }
    }

    #[test]
    fn the_module_file_pins_the_version_that_is_stamped() {
        for recipe in GO_RECIPES.iter().filter(|recipe| recipe.is_upstream()) {
            let go_mod = recipe.files[0].1;
            let pinned = format!("{} {}", recipe.module, recipe.version);
            assert!(go_mod.contains(&pinned), "{} is not in recipes/{}/go.mod", pinned, recipe.name);
            for target in recipe.targets {
                assert!(go_mod.contains(target.package), "{} is no tool of recipes/{}", target.package, recipe.name);
            }
        }
    }

    #[test]
    fn values_with_spaces_are_quoted() {
        let recipe = GoRecipe { stamps: &[("a.b", "1 2"), ("c.d", "3")], ..GO_RECIPES[0] };
        assert_eq!(recipe.ldflags(), "-s -w -X 'a.b=1 2' -X c.d=3");
    }
}
