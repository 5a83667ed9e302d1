//! A finished bundle: where its programs, trees, images, charts and manifests are.

use std::path::PathBuf;

use serde::Serialize;

use crate::cache::CacheDir;
use crate::error::BundleError;
use crate::images::IMAGES;
use crate::manifest::{Entry, Manifest};
use crate::plan::{NODE_ROOT, Plan, SEED};
use crate::select::Selection;

/// An image of the bundle.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ImageRef {
    /// The full reference under which nodes know it, as in `quay.io/cilium/cilium:v1.16.5`.
    pub name: String,
    /// An archive that `ctr images import`, `docker load` and `crane push` read.
    pub archive: PathBuf,
    /// The digest of its manifest, as in `sha256:...`.
    pub digest: String,
}

/// A bundle whose components are all there, with the sizes and times they were built with.
#[derive(Debug, Clone)]
pub struct Bundle {
    id: String,
    components: Vec<(PathBuf, Manifest)>,
}

impl Bundle {
    /// Opens a bundle that has been built; looks at names, sizes and times, not at contents (that is
    /// [`verify`](crate::verify)).
    ///
    /// # Errors
    /// [`BundleError::Incomplete`] when a component has not been built, [`BundleError::Damaged`] when a file is gone,
    /// truncated or changed.
    pub fn open(cache: &CacheDir, want: &Selection) -> Result<Self, BundleError> {
        Self::from_plan(&Plan::current(cache, want)?)
    }

    pub(crate) fn from_plan(plan: &Plan) -> Result<Self, BundleError> {
        let missing: Vec<String> = plan
            .components
            .iter()
            .filter(|component| !component.slot.dir().exists())
            .map(|component| component.slot.name.clone())
            .collect();
        if !missing.is_empty() {
            return Err(BundleError::Incomplete { components: missing });
        }
        let mut components = Vec::new();
        let mut damage = Vec::new();
        for component in &plan.components {
            match component.slot.glance() {
                Ok(manifest) => components.push((component.slot.files(), manifest)),
                Err(problems) => damage.extend(problems),
            }
        }
        if damage.is_empty() {
            Ok(Self { id: plan.id(), components })
        } else {
            Err(BundleError::Damaged { problems: damage })
        }
    }

    /// Names what the bundle is made of: the same inputs give the same id on every machine.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// A static program, as in `kubeadm`, `etcd` or `helm`. For a name that the bundle does not have, the path is one
    /// that does not exist; [`find_bin`](Self::find_bin) tells.
    pub fn bin(&self, name: &str) -> PathBuf {
        self.find_bin(name).unwrap_or_else(|| self.first().join("bin").join(name))
    }

    /// A static program, if the bundle has it.
    pub fn find_bin(&self, name: &str) -> Option<PathBuf> {
        self.find(&format!("bin/{name}"))
    }

    /// The names of all programs, sorted.
    pub fn bins(&self) -> Vec<String> {
        let mut names: Vec<String> = self
            .components
            .iter()
            .flat_map(|(_, manifest)| manifest.entries.keys())
            .filter_map(|path| path.strip_prefix("bin").ok())
            .filter(|name| name.components().count() == 1)
            .map(|name| name.display().to_string())
            .collect();
        names.sort();
        names
    }

    /// The Debian tree that is the lower layer of every node. Nobody may write into it.
    pub fn node_root(&self) -> PathBuf {
        self.place(NODE_ROOT)
    }

    /// Another tree of packages: `vm-tools`, `vm-kernel`, `vm-root`.
    pub fn tree(&self, name: &str) -> PathBuf {
        self.place(name)
    }

    /// containerd's directory with all images imported and unpacked with the overlayfs snapshotter in the namespace
    /// `k8s.io`. A node hard-links it; the `*.db` files must be copied for real.
    pub fn containerd_seed(&self) -> PathBuf {
        self.place(SEED)
    }

    /// All images.
    pub fn images(&self) -> Vec<ImageRef> {
        self.components
            .iter()
            .filter_map(|(files, manifest)| {
                Some(ImageRef {
                    name: manifest.facts.get("reference")?.clone(),
                    archive: files.join("image.tar"),
                    digest: manifest.facts.get("digest")?.clone(),
                })
            })
            .collect()
    }

    /// The image that people call by this short name, as in `cilium`, `argocd`, `redis` or `echo`.
    pub fn image(&self, short: &str) -> Option<ImageRef> {
        let reference = IMAGES.iter().find(|image| image.short == short)?.reference;
        self.images().into_iter().find(|image| image.name == reference)
    }

    /// A chart's directory, as in `cilium`.
    pub fn chart(&self, name: &str) -> PathBuf {
        let path = format!("charts/{name}");
        self.find(&path).unwrap_or_else(|| self.first().join(path))
    }

    /// A manifest, as in `argo-cd/core-install.yaml`.
    pub fn manifest(&self, name: &str) -> PathBuf {
        let path = format!("manifests/{name}");
        self.find(&path).unwrap_or_else(|| self.first().join(path))
    }

    /// The version that a component is made from, as in `v1.34.4` for `kubernetes`; modules only.
    pub fn version(&self, component: &str) -> Option<&str> {
        let (_, manifest) = self.components.iter().find(|(_, manifest)| manifest.name == component)?;
        manifest.facts.get("version").map(String::as_str)
    }

    fn find(&self, path: &str) -> Option<PathBuf> {
        self.components.iter().find_map(|(files, manifest)| {
            let entry = manifest.entries.get(std::path::Path::new(path))?;
            matches!(entry, Entry::File { .. } | Entry::Dir { .. }).then(|| files.join(path))
        })
    }

    fn place(&self, component: &str) -> PathBuf {
        let found = self.components.iter().find(|(_, manifest)| manifest.name == component);
        found.map_or_else(|| self.first().join(component), |(files, _)| files.clone())
    }

    fn first(&self) -> PathBuf {
        self.components.first().map(|(files, _)| files.clone()).unwrap_or_default()
    }
}
