//! The components of a selection, each with the key that its inputs give it. Making a plan reads no disk and needs no
//! network, so that a finished bundle is found in milliseconds.

use std::collections::BTreeMap;

use crate::cache::CacheDir;
use crate::debian::PinnedDeb;
use crate::debian::sets::{PackageSet, SETS};
use crate::debian::tree;
use crate::error::BundleError;
use crate::images::{IMAGES, ImageSpec};
use crate::lock::Lock;
use crate::manifest::hash_bytes;
use crate::recipe::{GO_RECIPES, GoRecipe};
use crate::seed;
use crate::select::Selection;
use crate::store::Slot;

/// The name of the seed's component.
pub(crate) const SEED: &str = "containerd-seed";
/// The name of the node root's component.
pub(crate) const NODE_ROOT: &str = "node-root";

/// What a component is made of.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Kind {
    /// Programs from a Go module.
    Go(&'static GoRecipe),
    /// A tree of packages, or an image's layer made from one.
    Set(&'static PackageSet),
    /// An image.
    Image(&'static ImageSpec),
    /// containerd's directory.
    Seed,
}

/// One component with its place in the store.
#[derive(Debug, Clone)]
pub(crate) struct Planned {
    pub kind: Kind,
    pub slot: Slot,
}

impl Planned {
    /// Whether making it takes root.
    pub fn needs_root(&self) -> bool {
        match self.kind {
            Kind::Go(_) | Kind::Image(_) => false,
            Kind::Set(set) => !is_layer(set),
            Kind::Seed => true,
        }
    }

    /// What it takes on disk while it is made, roughly, in MiB.
    pub fn needed_mib(&self) -> u64 {
        match self.kind {
            // Go's module and build caches are most of it.
            Kind::Go(recipe) if recipe.is_upstream() => 1000,
            Kind::Go(_) => 100,
            Kind::Set(_) => 400,
            Kind::Image(_) => 150,
            Kind::Seed => 3500,
        }
    }
}

/// All components of a selection, in the order in which they can be made.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub components: Vec<Planned>,
    pub lock: Lock,
}

impl Plan {
    pub fn new(cache: &CacheDir, want: &Selection, lock: Lock) -> Self {
        let mut keys: BTreeMap<&str, String> = BTreeMap::new();
        let mut components = Vec::new();
        let mut add = |kind, name: &'static str, key: String| {
            components.push(Planned { kind, slot: Slot::new(cache, name, &key) });
            keys.insert(name, key);
        };
        for recipe in GO_RECIPES.iter().filter(|recipe| want.has(recipe.group)) {
            add(Kind::Go(recipe), recipe.name, recipe.key());
        }
        for set in SETS.iter().filter(|set| want.has(set.group)) {
            add(Kind::Set(set), set.name, set_key(set, &lock.packages_of(set.name)));
        }
        let mut seed_parts: Vec<String> = keys.get(NODE_ROOT).into_iter().cloned().collect();
        for image in IMAGES.iter().filter(|image| want.has(image.group)) {
            let inputs: Vec<&str> = image.components().into_iter().chain(image.layers.iter().copied()).collect();
            let inputs: Vec<&str> = inputs.iter().filter_map(|name| keys.get(name)).map(String::as_str).collect();
            let key = image.key(&inputs);
            components.push(Planned { kind: Kind::Image(image), slot: Slot::new(cache, image.component, &key) });
            seed_parts.push(key);
        }
        let parts: Vec<&str> = seed_parts.iter().map(String::as_str).collect();
        components.push(Planned { kind: Kind::Seed, slot: Slot::new(cache, SEED, &seed::key(&parts)) });
        Self { components, lock }
    }

    /// For this version's lock file.
    pub fn current(cache: &CacheDir, want: &Selection) -> Result<Self, BundleError> {
        Ok(Self::new(cache, want, Lock::embedded()?))
    }

    /// The component of that name.
    pub fn find(&self, name: &str) -> Option<&Planned> {
        self.components.iter().find(|component| component.slot.name == name)
    }

    /// The content id: the same inputs give the same id on every machine.
    pub fn id(&self) -> String {
        let keys: Vec<&str> = self.components.iter().map(|component| component.slot.key.as_str()).collect();
        hash_bytes(keys.join("\n").as_bytes())[..16].to_string()
    }
}

/// Whether a set becomes a layer of images instead of a tree.
pub(crate) fn is_layer(set: &PackageSet) -> bool {
    set.name.starts_with("layer-")
}

fn set_key(set: &PackageSet, debs: &[PinnedDeb]) -> String {
    let pins: Vec<String> = debs.iter().map(|deb| format!("{} {} {}", deb.name, deb.version, deb.sha256)).collect();
    hash_bytes(format!("set {}\n{set:?}\n{}", tree::REVISION, pins.join("\n")).as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::select::Group;

    fn plan(want: &Selection, lock: Lock) -> Plan {
        Plan::new(&CacheDir::at("/nonexistent"), want, lock)
    }

    #[test]
    fn only_what_is_wanted_is_planned_and_everything_comes_after_what_it_is_made_from() {
        let core = plan(&Selection::core(), Lock::default());
        assert!(core.find("vm-root").is_none());
        assert!(core.find("kyverno").is_some() && core.find(SEED).is_some());
        let all = plan(&Selection::all(), Lock::default());
        let at = |name: &str| all.components.iter().position(|c| c.slot.name == name).unwrap();
        assert!(at("kyverno") < at("image-kyverno") && at("image-kyverno") < at(SEED));
    }

    #[test]
    fn another_package_version_gives_other_keys_to_what_holds_it_and_to_nothing_else() {
        let lock_with = |version: &str| {
            let deb = PinnedDeb {
                name: "redis-server".into(),
                version: version.into(),
                archive: "debian".into(),
                path: "pool/r".into(),
                size: 1,
                sha256: "00".into(),
            };
            let mut lock = Lock::default();
            lock.set_packages(&BTreeMap::from([("layer-redis".to_string(), vec![deb])]));
            lock
        };
        let (one, two) = (plan(&Selection::core(), lock_with("1")), plan(&Selection::core(), lock_with("2")));
        let changed: Vec<_> = one
            .components
            .iter()
            .zip(&two.components)
            .filter(|(a, b)| a.slot.key != b.slot.key)
            .map(|(a, _)| a.slot.name.as_str())
            .collect();
        assert_eq!(changed, ["layer-redis", "image-redis", SEED]);
        assert_ne!(one.id(), two.id());
        assert_ne!(one.id(), plan(&Selection::core().with(Group::Vm), lock_with("1")).id());
    }
}
