//! Builds whatever of a selection is missing or damaged: programs on one thread, packages and downloads on another,
//! then images, then the seed.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::Bundle;
use crate::cache::CacheDir;
use crate::debian::fetch::{self, Mirror};
use crate::debian::index::Index;
use crate::debian::sets::{PackageSet, set};
use crate::debian::{PinnedDeb, resolve, tree};
use crate::error::{BundleError, io};
use crate::golang::Toolchain;
use crate::image::{self, Layer, Places};
use crate::images::ImageSpec;
use crate::layer::LayerWriter;
use crate::lock::Lock;
use crate::manifest::Manifest;
use crate::plan::{Kind, NODE_ROOT, Plan, Planned, is_layer};
use crate::progress::Progress;
use crate::recipe::GoRecipe;
use crate::seed;
use crate::select::Selection;
use crate::store;

/// How strict a build is.
#[derive(Debug, Clone, Copy, Default)]
pub struct BuildOptions {
    /// Refuse packages that are not the pinned ones, and results that are not the locked ones.
    pub locked: bool,
}

/// Builds what is missing of a selection, and opens the result. What an earlier build finished is kept, what it left
/// half-made is cleared; a damaged component is built again.
///
/// # Errors
/// See [`BundleError`]; finished components stay, so that the same command goes on where this one stopped.
pub fn build(cache: &CacheDir, want: &Selection, progress: &dyn Progress) -> Result<Bundle, BundleError> {
    build_with(cache, want, BuildOptions::default(), progress)
}

/// [`build`], with options.
///
/// # Errors
/// As [`build`]; with `locked` also [`BundleError::Drifted`].
pub fn build_with(
    cache: &CacheDir,
    want: &Selection,
    options: BuildOptions,
    progress: &dyn Progress,
) -> Result<Bundle, BundleError> {
    let plan = Plan::current(cache, want)?;
    if let Ok(bundle) = Bundle::from_plan(&plan) {
        return Ok(bundle);
    }
    let lock = cache.lock(progress)?;
    store::clear_leftovers(cache)?;
    let missing = missing(&plan, progress)?;
    check_means(cache, &missing)?;
    let builder = Builder { cache, plan: &plan, options, progress, stop: AtomicBool::new(false) };
    builder.run(&missing)?;
    store::clear_leftovers(cache)?;
    drop(lock);
    let bundle = Bundle::from_plan(&plan)?;
    let differences = plan.lock.differences(&crate::record::lock_of(&plan)?);
    for line in &differences {
        progress.note(&format!("differs from bundle.lock: {line}"));
    }
    Ok(bundle)
}

/// What has to be made; a damaged component is removed first.
fn missing<'a>(plan: &'a Plan, progress: &dyn Progress) -> Result<Vec<&'a Planned>, BundleError> {
    let mut missing = Vec::new();
    for component in &plan.components {
        if component.slot.dir().exists() {
            match component.slot.glance() {
                Ok(_) => continue,
                Err(problems) => {
                    for problem in problems.iter().take(3) {
                        progress.note(&format!("damaged, will be built again: {problem}"));
                    }
                    component.slot.remove()?;
                }
            }
        }
        missing.push(component);
    }
    Ok(missing)
}

/// Refuses before the first minute of work what would fail after many: no root, no Go, no room.
fn check_means(cache: &CacheDir, missing: &[&Planned]) -> Result<(), BundleError> {
    if let Some(component) = missing.iter().find(|component| component.needs_root())
        && !nix::unistd::geteuid().is_root()
    {
        return Err(BundleError::NotRoot { component: component.slot.name.clone() });
    }
    let recipes: Vec<&GoRecipe> = recipes(missing).collect();
    if !recipes.is_empty() {
        let go = Toolchain::find(cache)?;
        recipes.iter().try_for_each(|recipe| go.suffices(recipe))?;
    }
    let needed_mib: u64 = missing.iter().map(|component| component.needed_mib()).sum();
    let free_mib = store::free_space(cache.path())? >> 20;
    if free_mib < needed_mib {
        return Err(BundleError::NoSpace { path: cache.path().to_path_buf(), needed_mib, free_mib });
    }
    Ok(())
}

fn recipes<'a>(missing: &'a [&Planned]) -> impl Iterator<Item = &'static GoRecipe> + use<'a> {
    missing.iter().filter_map(|component| if let Kind::Go(recipe) = component.kind { Some(recipe) } else { None })
}

struct Builder<'a> {
    cache: &'a CacheDir,
    plan: &'a Plan,
    options: BuildOptions,
    progress: &'a dyn Progress,
    stop: AtomicBool,
}

impl Builder<'_> {
    fn run(&self, missing: &[&Planned]) -> Result<(), BundleError> {
        let of = |wanted: fn(&Kind) -> bool| missing.iter().filter(move |component| wanted(&component.kind));
        std::thread::scope(|scope| {
            let files = scope.spawn(|| {
                for component in of(|kind| matches!(kind, Kind::Set(_))) {
                    self.guarded(|| self.make(component))?;
                }
                self.prefetch(missing);
                Ok(())
            });
            let mut made = Ok(());
            for component in of(|kind| matches!(kind, Kind::Go(_))) {
                made = made.and_then(|()| self.guarded(|| self.make(component)));
            }
            let unpacked = files.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            made.and(unpacked)
        })?;
        for component in of(|kind| matches!(kind, Kind::Image(_) | Kind::Seed)) {
            self.make(component)?;
        }
        Ok(())
    }

    /// After an error on one thread the other one ends with its current component.
    fn guarded(&self, work: impl FnOnce() -> Result<(), BundleError>) -> Result<(), BundleError> {
        if self.stop.load(Ordering::Relaxed) {
            return Ok(());
        }
        work().inspect_err(|_| self.stop.store(true, Ordering::Relaxed))
    }

    /// Fetches modules while the compiler is busy with others. A failure here shows again, with its reason, at the build.
    fn prefetch(&self, missing: &[&Planned]) {
        let Ok(go) = Toolchain::find(self.cache) else { return };
        for component in missing.iter().filter(|component| !component.slot.dir().exists()) {
            if let Kind::Go(recipe) = component.kind
                && !self.stop.load(Ordering::Relaxed)
                && recipe.is_upstream()
            {
                let _ = go.prefetch(recipe);
            }
        }
    }

    fn make(&self, component: &Planned) -> Result<(), BundleError> {
        let start = Instant::now();
        let name = &component.slot.name;
        self.progress.step(name, "started");
        component.slot.make(|files| match component.kind {
            Kind::Go(recipe) => Toolchain::find(self.cache)?.build(recipe, files, self.progress),
            Kind::Set(set) => self.make_set(set, files),
            Kind::Image(spec) => self.make_image(spec, files),
            Kind::Seed => self.make_seed(files),
        })?;
        self.progress.done(name, start.elapsed());
        Ok(())
    }

    fn make_set(&self, set: &PackageSet, files: &Path) -> Result<BTreeMap<String, String>, BundleError> {
        let mut facts = BTreeMap::new();
        let debs = self.obtain(set, &mut facts)?;
        self.progress.step(set.name, &format!("unpacking {} packages", debs.len()));
        let pinned: Vec<String> = debs.iter().map(|deb| format!("{} {}", deb.name, deb.version)).collect();
        facts.insert("packages".into(), pinned.join("\n"));
        if is_layer(set) {
            let dir = tempfile::Builder::new()
                .prefix(".making-tree-")
                .tempdir_in(self.cache.store())
                .map_err(io("create a directory in", self.cache.store()))?;
            tree::build(self.cache, set, &debs, dir.path())?;
            let mut layer = LayerWriter::create(&files.join("layer.tar"))?;
            layer.tree(dir.path(), Path::new(""))?;
            layer.finish()?;
        } else {
            tree::build(self.cache, set, &debs, files)?;
        }
        Ok(facts)
    }

    /// The packages of a set, in the cache: the pinned ones, or the current ones where the mirror has moved on.
    fn obtain(&self, set: &PackageSet, facts: &mut BTreeMap<String, String>) -> Result<Vec<PinnedDeb>, BundleError> {
        let mirror = Mirror::from_env();
        let pinned = self.plan.lock.packages_of(set.name);
        let gone: Vec<String> = fetch::fetch_all(self.cache, &mirror, set.name, &pinned, self.progress)?
            .into_iter()
            .map(|deb| format!("{}={}", deb.name, deb.version))
            .collect();
        if gone.is_empty() && !pinned.is_empty() {
            return Ok(pinned);
        }
        if self.options.locked {
            let gone = if pinned.is_empty() { vec![format!("pinned versions for {}", set.name)] } else { gone };
            return Err(BundleError::Drifted { gone });
        }
        if !gone.is_empty() {
            self.progress.note(&format!(
                "drifted: the mirror no longer has {}; taking the current versions of the signed index for all of {}",
                gone.join(", "),
                set.name
            ));
            facts.insert("drifted".into(), gone.join(" "));
        }
        let index = Index::fetch(self.cache, &mirror, self.progress)?;
        let debs = resolve_set(&index, set)?;
        match fetch::fetch_all(self.cache, &mirror, set.name, &debs, self.progress)?.first() {
            None => Ok(debs),
            Some(deb) => Err(BundleError::Download {
                url: deb.path.clone(),
                reason: "the index names it, but it is not there".into(),
            }),
        }
    }

    fn make_image(&self, spec: &ImageSpec, files: &Path) -> Result<BTreeMap<String, String>, BundleError> {
        let places: Places = spec
            .components()
            .into_iter()
            .filter_map(|name| Some((name.to_string(), self.plan.find(name)?.slot.files())))
            .collect();
        let mut layers = Vec::new();
        for name in spec.layers {
            layers.push(self.layer_of(name)?);
        }
        let own = tempfile::Builder::new()
            .prefix(".making-layer-")
            .tempfile_in(self.cache.store())
            .map_err(io("create a file in", self.cache.store()))?;
        layers.push(image::own_layer(spec, &places, own.path())?);
        let digest = image::pack(spec, &layers, &files.join("image.tar"))?;
        Ok(BTreeMap::from([("reference".into(), spec.reference.into()), ("digest".into(), digest)]))
    }

    fn layer_of(&self, name: &str) -> Result<Layer, BundleError> {
        let incomplete = || BundleError::Incomplete { components: vec![name.to_string()] };
        let slot = &self.plan.find(name).ok_or_else(incomplete)?.slot;
        let manifest: Manifest = slot.manifest()?.ok_or_else(incomplete)?;
        let sha256 = manifest.sha256("layer.tar").ok_or_else(incomplete)?.to_string();
        Ok(Layer { path: slot.files().join("layer.tar"), sha256, size: manifest.size() })
    }

    fn make_seed(&self, files: &Path) -> Result<BTreeMap<String, String>, BundleError> {
        let images = self.plan.components.iter().filter(|component| matches!(component.kind, Kind::Image(_)));
        let archives: Vec<PathBuf> = images.map(|component| component.slot.files().join("image.tar")).collect();
        let root = self.plan.find(NODE_ROOT).map(|root| root.slot.files());
        let root = root.ok_or_else(|| BundleError::Incomplete { components: vec![NODE_ROOT.into()] })?;
        self.progress.step("containerd-seed", &format!("importing {} images", archives.len()));
        let alive = |elapsed: Duration| {
            self.progress.step("containerd-seed", &format!("still importing, {} s", elapsed.as_secs()));
        };
        seed::build(self.cache, &root, &archives, files, &alive)?;
        Ok(BTreeMap::from([("images".into(), archives.len().to_string())]))
    }
}

/// The packages of a set that the sets below it do not have, from an index.
pub(crate) fn resolve_set(index: &Index, wanted: &PackageSet) -> Result<Vec<PinnedDeb>, BundleError> {
    if wanted.without_dependencies {
        let only = |name: &&str| {
            let found = resolve::resolve(wanted.name, index, &[name], resolve::LEFT_OUT)?;
            Ok(found.into_iter().filter(|deb| deb.name == **name).collect::<Vec<_>>())
        };
        return wanted.packages.iter().map(only).collect::<Result<Vec<_>, _>>().map(|all| all.concat());
    }
    let mut names = wanted.packages.to_vec();
    let mut below = wanted.on_top_of.and_then(set);
    let lower = below.map(|lower| closure(index, lower)).transpose()?.unwrap_or_default();
    while let Some(lower) = below {
        names.extend(lower.packages);
        below = lower.on_top_of.and_then(set);
    }
    let all = resolve::resolve(wanted.name, index, &names, resolve::LEFT_OUT)?;
    Ok(all.into_iter().filter(|deb| !lower.contains(deb)).collect())
}

fn closure(index: &Index, wanted: &PackageSet) -> Result<Vec<PinnedDeb>, BundleError> {
    let mut names = wanted.packages.to_vec();
    let mut below = wanted.on_top_of.and_then(set);
    while let Some(lower) = below {
        names.extend(lower.packages);
        below = lower.on_top_of.and_then(set);
    }
    resolve::resolve(wanted.name, index, &names, resolve::LEFT_OUT)
}

/// Resolves all package sets anew, for `bundle lock`.
pub(crate) fn resolve_all(cache: &CacheDir, lock: &mut Lock, progress: &dyn Progress) -> Result<(), BundleError> {
    let index = Index::fetch(cache, &Mirror::from_env(), progress)?;
    let mut sets = BTreeMap::new();
    for set in crate::debian::sets::SETS {
        sets.insert(set.name.to_string(), resolve_set(&index, set)?);
    }
    lock.set_packages(&sets);
    Ok(())
}
