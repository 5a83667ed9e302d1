//! What there is and whether it is what was built: `verify`, `list`, `prune`, and the contents of the lock file.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::cache::CacheDir;
use crate::error::BundleError;
use crate::lock::{Lock, LockedBinary, LockedImage, LockedModule};
use crate::manifest::{Manifest, Problem};
use crate::plan::{Kind, Plan};
use crate::progress::Progress;
use crate::select::Selection;
use crate::store::{self, children};

/// What `verify` found.
#[derive(Debug, Clone, Serialize)]
pub struct Verification {
    /// Components that were checked, file by file.
    pub checked: Vec<String>,
    /// Components of the selection that have not been built.
    pub missing: Vec<String>,
    /// What is wrong with files.
    pub problems: Vec<Problem>,
    /// Where results differ from `bundle.lock`.
    pub differences: Vec<String>,
    /// Components whose packages are newer than the pinned ones.
    pub drifted: Vec<String>,
}

impl Verification {
    /// Whether every file is there and is what was built.
    pub fn is_sound(&self) -> bool {
        self.missing.is_empty() && self.problems.is_empty()
    }
}

/// Reads every file of a selection and compares it with what was recorded when it was built.
///
/// # Errors
/// Only when it cannot be read at all; damage is what it returns.
pub fn verify(cache: &CacheDir, want: &Selection, progress: &dyn Progress) -> Result<Verification, BundleError> {
    let plan = Plan::current(cache, want)?;
    let mut found = Verification {
        checked: Vec::new(),
        missing: Vec::new(),
        problems: Vec::new(),
        differences: Vec::new(),
        drifted: Vec::new(),
    };
    for component in &plan.components {
        let name = component.slot.name.clone();
        if !component.slot.dir().exists() {
            found.missing.push(name);
            continue;
        }
        progress.step(&name, "reading every file");
        found.problems.extend(component.slot.inspect()?);
        if let Ok(Some(manifest)) = component.slot.manifest()
            && let Some(drifted) = manifest.facts.get("drifted")
        {
            found.drifted.push(format!("{name}: {drifted}"));
        }
        found.checked.push(name);
    }
    found.differences = plan.lock.differences(&lock_of(&plan)?);
    Ok(found)
}

/// Removes what [`verify`] found damaged, so that the next build makes it again.
///
/// # Errors
/// When it cannot be removed.
pub fn discard(
    cache: &CacheDir,
    want: &Selection,
    found: &Verification,
    progress: &dyn Progress,
) -> Result<(), BundleError> {
    let _lock = cache.lock(progress)?;
    let plan = Plan::current(cache, want)?;
    let damaged: BTreeSet<&str> = found.problems.iter().map(|problem| problem.component.as_str()).collect();
    for name in damaged {
        if let Some(component) = plan.find(name) {
            component.slot.remove()?;
        }
    }
    Ok(())
}

/// One component in the store.
#[derive(Debug, Clone, Serialize)]
pub struct Listed {
    /// Its name.
    pub name: String,
    /// The key that its inputs gave it; the first 16 digits are in the directory's name.
    pub key: String,
    /// Whether this version of shakedown would use it, for the asked selection.
    pub wanted: bool,
    /// Its length on disk in bytes.
    pub size: u64,
    /// How many files it has.
    pub files: usize,
    /// How long it took to build, in seconds.
    pub seconds: f64,
    /// Version of what it was made from, where there is one.
    pub version: Option<String>,
    /// The directory.
    pub path: PathBuf,
}

/// Everything in the store, in the order of names.
///
/// # Errors
/// When the store cannot be read.
pub fn list(cache: &CacheDir, want: &Selection) -> Result<Vec<Listed>, BundleError> {
    let plan = Plan::current(cache, want)?;
    let mut listed = Vec::new();
    for dir in children(&cache.store())? {
        let Ok(manifest) = Manifest::read(&dir.join("manifest.json")) else { continue };
        let wanted = plan.components.iter().any(|component| component.slot.dir() == dir);
        listed.push(Listed {
            wanted,
            size: manifest.size(),
            files: manifest.entries.len(),
            seconds: manifest.seconds,
            version: manifest.facts.get("version").or_else(|| manifest.facts.get("reference")).cloned(),
            name: manifest.name,
            key: manifest.key,
            path: dir,
        });
    }
    Ok(listed)
}

/// What [`prune`] may remove besides components that no selection uses.
#[derive(Debug, Clone, Copy, Default)]
pub struct PruneOptions {
    /// Go's module and build caches and the downloaded packages, which only make building faster.
    pub caches: bool,
    /// Everything.
    pub all: bool,
    /// Only say what would go.
    pub dry_run: bool,
}

/// Removes components that no part of the kept selection of this version uses; gives the paths that went.
///
/// # Errors
/// When something cannot be removed.
pub fn prune(
    cache: &CacheDir,
    keep: &Selection,
    options: PruneOptions,
    progress: &dyn Progress,
) -> Result<Vec<PathBuf>, BundleError> {
    let _lock = cache.lock(progress)?;
    let mut kept: BTreeSet<PathBuf> = BTreeSet::new();
    for part in keep.parts() {
        let plan = Plan::current(cache, &part)?;
        kept.extend(plan.components.iter().map(|component| component.slot.dir().to_path_buf()));
    }
    let mut gone: Vec<PathBuf> =
        children(&cache.store())?.into_iter().filter(|path| options.all || !kept.contains(path)).collect();
    if options.caches || options.all {
        gone.extend([cache.go(), cache.debs(), cache.work(), cache.logs()].into_iter().filter(|path| path.exists()));
    }
    if !options.dry_run {
        for path in &gone {
            progress.step("prune", &format!("removing {}", path.display()));
            store::remove_tree(path)?;
        }
    }
    Ok(gone)
}

/// What a finished plan would write into the lock file; packages stay as they are pinned.
pub(crate) fn lock_of(plan: &Plan) -> Result<Lock, BundleError> {
    let mut lock = Lock { packages: plan.lock.packages.clone(), ..Lock::default() };
    for component in &plan.components {
        let Some(manifest) = component.slot.manifest()? else { continue };
        let fact = |name: &str| manifest.facts.get(name).cloned();
        match component.kind {
            Kind::Go(recipe) => {
                lock.toolchain = fact("toolchain").unwrap_or_default();
                if let (Some(name), Some(version), Some(h1)) = (fact("module"), fact("version"), fact("h1")) {
                    lock.modules.push(LockedModule { component: recipe.name.into(), name, version, h1 });
                }
                for target in recipe.targets {
                    if let Some(sha256) = manifest.sha256(&format!("bin/{}", target.name)) {
                        lock.binaries.push(LockedBinary {
                            component: recipe.name.into(),
                            name: target.name.into(),
                            sha256: sha256.into(),
                        });
                    }
                }
            }
            Kind::Image(spec) => {
                if let Some(digest) = fact("digest") {
                    lock.images.push(LockedImage { name: spec.reference.into(), digest });
                }
            }
            Kind::Set(_) | Kind::Seed => {}
        }
    }
    Ok(lock)
}

/// The text of `bundle.lock` for what has been built. With `update`, Debian packages are resolved anew from the signed
/// index; what was not built keeps its lines.
///
/// # Errors
/// When the index cannot be had.
pub fn lock_text(cache: &CacheDir, update: bool, progress: &dyn Progress) -> Result<String, BundleError> {
    let plan = Plan::current(cache, &Selection::all())?;
    let mut lock = lock_of(&plan)?;
    if update || lock.packages.is_empty() {
        crate::build::resolve_all(cache, &mut lock, progress)?;
    }
    let old = &plan.lock;
    let components: BTreeSet<String> = lock.binaries.iter().map(|binary| binary.component.clone()).collect();
    lock.modules.extend(old.modules.iter().filter(|module| !components.contains(&module.component)).cloned());
    lock.binaries.extend(old.binaries.iter().filter(|binary| !components.contains(&binary.component)).cloned());
    let images: BTreeSet<String> = lock.images.iter().map(|image| image.name.clone()).collect();
    lock.images.extend(old.images.iter().filter(|image| !images.contains(&image.name)).cloned());
    lock.modules.sort();
    lock.binaries.sort();
    lock.images.sort();
    lock.text()
}

/// Writes a lock file as a whole: a reader, or a crash, leaves the old one or the new one.
///
/// # Errors
/// When it cannot be written.
pub fn write_lock(path: &Path, text: &str) -> Result<(), BundleError> {
    store::replace_file(path, text.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::progress::Silent;
    use crate::select::Group;
    use std::fs;

    fn cache_with(names: &[&Path]) -> (tempfile::TempDir, CacheDir) {
        let dir = tempfile::tempdir().unwrap();
        let cache = CacheDir::at(dir.path());
        for name in names {
            fs::create_dir_all(cache.store().join(name)).unwrap();
        }
        (dir, cache)
    }

    fn seed_of(want: &Selection) -> PathBuf {
        let plan = Plan::current(&CacheDir::at("/"), want).unwrap();
        plan.find(crate::plan::SEED).unwrap().slot.dir().file_name().map(PathBuf::from).unwrap()
    }

    fn vm_root() -> PathBuf {
        let plan = Plan::current(&CacheDir::at("/"), &Selection::core().with(Group::Vm)).unwrap();
        plan.find("vm-root").unwrap().slot.dir().file_name().map(PathBuf::from).unwrap()
    }

    #[test]
    fn pruning_keeps_what_any_part_of_the_selection_uses() {
        let core = seed_of(&Selection::core());
        let vm = vm_root();
        let old = Path::new("etcd-0000000000000000");
        let (_dir, cache) = cache_with(&[&core, &vm, old]);
        let options = PruneOptions { dry_run: true, ..PruneOptions::default() };
        assert_eq!(prune(&cache, &Selection::all(), options, &Silent).unwrap(), [cache.store().join(old)]);
        assert!(cache.store().join(old).exists(), "a dry run removes nothing");
        let gone = prune(&cache, &Selection::core(), PruneOptions::default(), &Silent).unwrap();
        assert_eq!(gone, [cache.store().join(old), cache.store().join(&vm)]);
        assert!(!cache.store().join(old).exists() && cache.store().join(&core).exists());
    }

    #[test]
    fn what_has_not_been_built_is_missing_and_not_sound() {
        let (_dir, cache) = cache_with(&[]);
        let found = verify(&cache, &Selection::core(), &Silent).unwrap();
        assert!(!found.is_sound() && found.checked.is_empty());
        assert!(found.missing.iter().any(|name| name == "kubernetes"));
    }

    #[test]
    fn a_component_without_a_record_is_damaged_and_discarded() {
        let seed = seed_of(&Selection::core());
        let (_dir, cache) = cache_with(&[&seed]);
        let found = verify(&cache, &Selection::core(), &Silent).unwrap();
        assert_eq!(found.problems.len(), 1);
        discard(&cache, &Selection::core(), &found, &Silent).unwrap();
        assert!(!cache.store().join(&seed).exists());
    }
}
