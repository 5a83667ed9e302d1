//! Builds the Go components with the user's Go, in a cleaned environment and with caches of our own.

use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde::Deserialize;

use crate::cache::CacheDir;
use crate::command;
use crate::error::{BundleError, io, malformed};
use crate::progress::Progress;
use crate::recipe::{BUILD_ENV, BUILD_FLAGS, Extract, GoRecipe, Target};

const HINT: &str = "install Go 1.25.5 or newer from https://go.dev/dl/ or your distribution and have it in PATH";

/// What the user's environment may say about fetching modules. Everything else that Go reads is set or left out.
const PASSED_ON: &[&str] = &[
    "PATH",
    "HOME",
    "USER",
    "TMPDIR",
    "GOPROXY",
    "GOSUMDB",
    "GONOSUMDB",
    "GONOPROXY",
    "GOPRIVATE",
    "GOINSECURE",
    "GOAUTH",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
    "http_proxy",
    "https_proxy",
    "no_proxy",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
];

/// The Go toolchain of this machine.
#[derive(Debug, Clone)]
pub(crate) struct Toolchain {
    cache: CacheDir,
    /// As in `go1.26.8`.
    pub version: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Downloaded {
    dir: PathBuf,
    sum: String,
}

impl Toolchain {
    /// Finds Go and asks for its version.
    pub fn find(cache: &CacheDir) -> Result<Self, BundleError> {
        let mut go = Self { cache: cache.clone(), version: String::new() };
        go.version = command::output(
            go.command(Path::new("/")).args(["env", "GOVERSION"]),
            "asking Go for its version",
            &cache.logs().join("go-version.log"),
            HINT,
        )?;
        Ok(go)
    }

    fn command(&self, dir: &Path) -> Command {
        let mut command = command::bound_to_us("go");
        command.current_dir(dir).env_clear();
        for name in PASSED_ON {
            if let Some(value) = env::var_os(name) {
                command.env(name, value);
            }
        }
        command.envs(BUILD_ENV.iter().copied());
        command.env("GOCACHE", self.cache.go().join("build")).env("GOMODCACHE", self.cache.go().join("mod"));
        command.env("GOPATH", self.cache.go().join("path")).env("GOENV", "off");
        command
    }

    /// Refuses a recipe that asks for a newer Go than this one, before Go itself says it less clearly.
    pub fn suffices(&self, recipe: &GoRecipe) -> Result<(), BundleError> {
        let go_mod = recipe.files.first().map_or("", |(_, text)| text);
        let needed = go_mod.lines().find_map(|line| line.strip_prefix("go ")).unwrap_or("1").trim();
        if numbers(&self.version) < numbers(needed) {
            return Err(BundleError::GoTooOld {
                component: recipe.name.into(),
                needed: needed.into(),
                found: self.version.clone(),
            });
        }
        Ok(())
    }

    /// Builds a component into `files` and gives the facts to be recorded with it.
    pub fn build(
        &self,
        recipe: &GoRecipe,
        files: &Path,
        progress: &dyn Progress,
    ) -> Result<BTreeMap<String, String>, BundleError> {
        self.suffices(recipe)?;
        let mut facts = BTreeMap::from([("toolchain".to_string(), self.version.clone())]);
        let dir = self.cache.work().join(recipe.name);
        crate::store::remove_tree(&dir)?;
        for (name, text) in recipe.files {
            write(&dir.join(name), text)?;
        }
        let mut extra = Vec::new();
        if recipe.is_upstream() {
            progress.step(recipe.name, &format!("fetching {} {}", recipe.module, recipe.version));
            let module = self.download(recipe, &dir)?;
            facts.insert("module".into(), recipe.module.into());
            facts.insert("version".into(), recipe.version.into());
            facts.insert("h1".into(), module.sum);
            for extract in recipe.extracts {
                extract_into(&module.dir, files, extract)?;
            }
            extra = self.prepare_overlay(recipe, &module.dir, &dir)?;
        }
        let out = files.join("bin");
        fs::create_dir_all(&out).map_err(io("create", &out))?;
        for (tags, targets) in by_tags(recipe.targets) {
            let names: Vec<_> = targets.iter().map(|target| target.name).collect();
            progress.step(recipe.name, &format!("compiling {}", names.join(", ")));
            let made = dir.join("out");
            let mut go = self.command(&dir);
            go.args(["build", "-v"]).args(BUILD_FLAGS).args(&extra).arg(format!("-tags={tags}"));
            go.arg(format!("-ldflags={}", recipe.ldflags())).arg("-o").arg(format!("{}/", made.display()));
            go.args(targets.iter().map(|target| target.package));
            let log = self.cache.logs().join(format!("{}.log", recipe.name));
            let alive = |elapsed: std::time::Duration| {
                let packages = fs::read_to_string(&log).map_or(0, |text| text.lines().count());
                let seconds = elapsed.as_secs();
                progress.step(recipe.name, &format!("still compiling, {packages} packages in {seconds} s"));
            };
            command::run(&mut go, &format!("building {}", recipe.name), &log, HINT, &alive)?;
            for target in targets {
                let from = made.join(go_name(target.package));
                let to = out.join(target.name);
                fs::rename(&from, &to).or_else(|_| fs::copy(&from, &to).map(|_| ())).map_err(io("place", &to))?;
            }
        }
        crate::store::remove_tree(&dir)?;
        Ok(facts)
    }

    fn download(&self, recipe: &GoRecipe, dir: &Path) -> Result<Downloaded, BundleError> {
        let log = self.cache.logs().join(format!("{}-download.log", recipe.name));
        let what = format!("fetching {}", recipe.module);
        let text =
            command::output(self.command(dir).args(["mod", "download", "-json", recipe.module]), &what, &log, HINT)?;
        serde_json::from_str(&text).map_err(|error| malformed(format!("what Go said when {what}"), error))
    }

    /// Downloads whatever a recipe needs, without compiling, so that the network and the compiler work side by side.
    pub fn prefetch(&self, recipe: &GoRecipe) -> Result<(), BundleError> {
        let dir = self.cache.work().join(format!("{}-prefetch", recipe.name));
        for (name, text) in recipe.files {
            write(&dir.join(name), text)?;
        }
        let mut go = self.command(&dir);
        go.args(["list", "-mod=readonly", "-deps", "-f", "{{.ImportPath}}"]);
        go.args(recipe.targets.iter().map(|target| target.package));
        let log = self.cache.logs().join(format!("{}-prefetch.log", recipe.name));
        command::output(&mut go, &format!("fetching the modules of {}", recipe.name), &log, HINT)?;
        crate::store::remove_tree(&dir)
    }

    /// Go refuses an overlay below its module cache, so the module (whose sum has just been checked) is copied beside
    /// our `go.mod`, which is pointed at the copy.
    fn prepare_overlay(&self, recipe: &GoRecipe, module: &Path, dir: &Path) -> Result<Vec<String>, BundleError> {
        let Some(overlay) = recipe.overlay else { return Ok(Vec::new()) };
        let upstream = dir.join("upstream");
        copy_tree(module, &upstream)?;
        let replaced = upstream.join(overlay.file);
        if !replaced.is_file() {
            return Err(malformed(
                format!("{} {}", recipe.module, recipe.version),
                format!("it has no {} that the overlay could replace", overlay.file),
            ));
        }
        let go_mod = dir.join("go.mod");
        let text = fs::read_to_string(&go_mod).map_err(io("read", &go_mod))?;
        write(&go_mod, &format!("{text}\nreplace {} => ./upstream\n", recipe.module))?;
        let ours = dir.join("overlay.go");
        write(&ours, overlay.text)?;
        let table = dir.join("overlay.json");
        write(&table, &serde_json::json!({ "Replace": { replaced.display().to_string(): ours } }).to_string())?;
        Ok(vec![format!("-overlay={}", table.display())])
    }
}

/// The name that `go build` gives to a program: the last word of its package that is not a version.
fn go_name(package: &str) -> &str {
    let is_version = |word: &str| {
        word.strip_prefix('v').is_some_and(|rest| !rest.is_empty() && rest.chars().all(|c| c.is_ascii_digit()))
    };
    package.rsplit('/').find(|word| !is_version(word)).unwrap_or(package)
}

/// Groups targets by their tags, keeping their order.
fn by_tags(targets: &[Target]) -> Vec<(&'static str, Vec<Target>)> {
    let mut groups: Vec<(&'static str, Vec<Target>)> = Vec::new();
    for target in targets {
        match groups.iter_mut().find(|(tags, _)| *tags == target.tags) {
            Some((_, group)) => group.push(*target),
            None => groups.push((target.tags, vec![*target])),
        }
    }
    groups
}

fn numbers(version: &str) -> Vec<u32> {
    version.trim_start_matches("go").split('.').map_while(|part| part.parse().ok()).collect()
}

fn extract_into(module: &Path, files: &Path, extract: &Extract) -> Result<(), BundleError> {
    copy_tree(&module.join(extract.from), &files.join(extract.to))
}

/// Copies a file or a directory; what is copied is writable by its owner, which Go's module cache is not.
pub(crate) fn copy_tree(from: &Path, to: &Path) -> Result<(), BundleError> {
    use std::os::unix::fs::PermissionsExt as _;
    for item in walkdir::WalkDir::new(from).sort_by_file_name() {
        let item = item.map_err(|error| io("walk", from)(error.into()))?;
        let rest = item.path().strip_prefix(from).unwrap_or(Path::new(""));
        let target = if rest.as_os_str().is_empty() { to.to_path_buf() } else { to.join(rest) };
        if item.file_type().is_dir() {
            fs::create_dir_all(&target).map_err(io("create", &target))?;
        } else if item.file_type().is_file() {
            if let Some(parent) = target.parent() {
                fs::create_dir_all(parent).map_err(io("create", parent))?;
            }
            fs::copy(item.path(), &target).map_err(io("copy to", &target))?;
            let meta = item.metadata().map_err(|error| io("stat", item.path())(error.into()))?;
            let mode = if meta.permissions().mode() & 0o111 == 0 { 0o644 } else { 0o755 };
            fs::set_permissions(&target, fs::Permissions::from_mode(mode)).map_err(io("change", &target))?;
        }
    }
    Ok(())
}

fn write(path: &Path, text: &str) -> Result<(), BundleError> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).map_err(io("create", parent))?;
    }
    fs::write(path, text).map_err(io("write", path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_named_as_go_names_them() {
        assert_eq!(go_name("go.etcd.io/etcd/server/v3"), "server");
        assert_eq!(go_name("k8s.io/kubernetes/cmd/kubelet"), "kubelet");
        assert_eq!(go_name("./pause"), "pause");
        assert_eq!(go_name("sigs.k8s.io/kustomize/kustomize/v5"), "kustomize");
    }

    #[test]
    fn an_old_go_is_refused_with_both_versions() {
        let go = Toolchain { cache: CacheDir::at("/nonexistent"), version: "go1.21.3".into() };
        let recipe = crate::recipe::GO_RECIPES[1];
        let error = go.suffices(&recipe).unwrap_err().to_string();
        assert!(error.contains("needs Go 1.24.0, this is go1.21.3"), "{error}");
        let newer = Toolchain { version: "go1.24".into(), ..go };
        assert!(newer.suffices(&recipe).is_err(), "1.24 is before 1.24.0, as Go has it");
        assert!(Toolchain { version: "go1.100.0".into(), ..newer }.suffices(&recipe).is_ok());
    }

    #[test]
    fn targets_with_the_same_tags_share_one_run() {
        let target = |name, tags| Target { package: name, name, tags };
        let groups = by_tags(&[target("a", ""), target("b", "x"), target("c", "")]);
        assert_eq!(groups.len(), 2);
        assert_eq!(groups[0].1.len(), 2);
    }
}
