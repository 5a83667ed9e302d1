//! The closure of a list of packages under their dependencies.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::debian::PinnedDeb;
use crate::debian::index::{Index, Package};
use crate::debian::version::Relation;
use crate::error::BundleError;

/// Packages that others depend on only for their maintainer scripts, or for a part that the trees do not use. They are
/// left out together with what only they need.
pub(crate) const LEFT_OUT: &[&str] = &[
    "adduser",
    "debconf",
    "debconf-2.0",
    "dpkg",
    "init-system-helpers",
    "initramfs-tools",
    "liberror-perl",
    "linux-base",
    "lsb-base",
    "openssh-client",
    "perl",
    "perl-base",
    "python3",
    "sensible-utils",
    "sysvinit-utils",
    "tzdata",
    "ucf",
];

/// Resolves what `wanted` needs, without Recommends. Versions are the newest of the index; conflicts are not looked at,
/// since nothing is installed. `left_out` names are taken for present.
pub(crate) fn resolve(
    tree: &str,
    index: &Index,
    wanted: &[&str],
    left_out: &[&str],
) -> Result<Vec<PinnedDeb>, BundleError> {
    let mut chosen: BTreeMap<String, &Package> = BTreeMap::new();
    let mut missing = Vec::new();
    let mut queue: VecDeque<(String, String)> = VecDeque::new();
    for name in wanted {
        queue.push_back(((*name).to_string(), "the list".to_string()));
    }
    // What was asked for by name counts when a choice among alternatives is made, wherever it stands in the queue.
    let asked: BTreeSet<&str> = wanted.iter().copied().collect();
    while let Some((name, because)) = queue.pop_front() {
        if chosen.contains_key(&name) {
            continue;
        }
        let Some(package) = index.packages.get(&name) else {
            missing.push(format!("{name}, wanted by {because}, does not exist"));
            continue;
        };
        chosen.insert(name.clone(), package);
        for clause in package.depends.split(',').map(str::trim).filter(|clause| !clause.is_empty()) {
            let alternatives: Vec<Relation> = clause.split('|').filter_map(Relation::parse).collect();
            if alternatives.iter().any(|relation| left_out.contains(&relation.name.as_str())) {
                continue;
            }
            match choose(index, &chosen, &asked, &alternatives) {
                Some(found) => queue.push_back((found, name.clone())),
                None => missing.push(format!("{clause}, wanted by {name}, cannot be had")),
            }
        }
    }
    if missing.is_empty() {
        Ok(chosen.into_values().map(pin).collect())
    } else {
        Err(BundleError::Unresolvable { tree: tree.to_string(), missing })
    }
}

fn choose(
    index: &Index,
    chosen: &BTreeMap<String, &Package>,
    asked: &BTreeSet<&str>,
    alternatives: &[Relation],
) -> Option<String> {
    let candidates = || alternatives.iter().flat_map(|relation| satisfying(index, relation));
    candidates()
        .find(|name| chosen.contains_key(*name) || asked.contains(name))
        .or_else(|| candidates().next())
        .map(str::to_string)
}

/// The packages that satisfy one relation: the one of that name, then those that provide it.
fn satisfying<'a>(index: &'a Index, relation: &'a Relation) -> Vec<&'a str> {
    let real = index.packages.get(&relation.name).filter(|package| relation.admits(&package.version));
    let providers = index.providers.get(&relation.name).into_iter().flatten();
    let virtual_ones = providers.filter(|(name, version)| {
        let admitted = match version {
            Some(version) => relation.admits(version),
            None => relation.limit.is_none(),
        };
        admitted && index.packages.contains_key(name)
    });
    real.map(|package| package.name.as_str()).into_iter().chain(virtual_ones.map(|(name, _)| name.as_str())).collect()
}

fn pin(package: &Package) -> PinnedDeb {
    PinnedDeb {
        name: package.name.clone(),
        version: package.version.clone(),
        archive: package.archive.clone(),
        path: package.path.clone(),
        size: package.size,
        sha256: package.sha256.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn index(packages: &[(&str, &str, &str, &str)]) -> Index {
        let mut index = Index::default();
        for (name, version, depends, provides) in packages {
            let digest = "0".repeat(64);
            let text = format!(
                "Package: {name}\nVersion: {version}\nDepends: {depends}\nProvides: {provides}\nFilename: pool/{name}.deb\nSize: 1\nSHA256: {digest}\n"
            );
            index.add("debian", &text).unwrap();
        }
        index
    }

    fn names(index: &Index, wanted: &[&str]) -> Result<String, String> {
        let found = resolve("test", index, wanted, &["dpkg"]).map_err(|error| error.to_string())?;
        Ok(found.iter().map(|deb| deb.name.as_str()).collect::<Vec<_>>().join(" "))
    }

    #[test]
    fn the_closure_follows_depends_and_stops_at_what_is_left_out() {
        let index = index(&[
            ("git", "2", "libc6 (>= 2), perl-thing | dpkg (>= 1)", ""),
            ("libc6", "2.36", "gcc-base", ""),
            ("gcc-base", "12", "libc6", ""),
            ("unrelated", "1", "", ""),
        ]);
        assert_eq!(names(&index, &["git"]).unwrap(), "gcc-base git libc6");
    }

    #[test]
    fn what_is_chosen_or_asked_for_satisfies_an_alternative() {
        let packages = [
            ("a", "1", "awk", ""),
            ("gawk", "5", "", "awk"),
            ("mawk", "1", "", "awk"),
            ("b", "1", "x | gawk", ""),
            ("x", "1", "", ""),
        ];
        assert_eq!(names(&index(&packages), &["a"]).unwrap(), "a gawk");
        assert_eq!(names(&index(&packages), &["a", "mawk"]).unwrap(), "a mawk");
        assert_eq!(names(&index(&packages), &["b"]).unwrap(), "b x");
        assert_eq!(names(&index(&packages), &["gawk", "b"]).unwrap(), "b gawk");
    }

    #[test]
    fn versions_limit_real_and_provided_packages() {
        let packages = [
            ("a", "1", "lib (>= 2) | other", ""),
            ("lib", "1", "", ""),
            ("other", "1", "", ""),
            ("c", "1", "api (>= 3)", ""),
            ("old", "1", "", "api (= 2)"),
            ("new", "1", "", "api (= 3)"),
        ];
        assert_eq!(names(&index(&packages), &["a"]).unwrap(), "a other");
        assert_eq!(names(&index(&packages), &["c"]).unwrap(), "c new");
    }

    #[test]
    fn everything_that_is_missing_is_named_with_who_wants_it() {
        let index = index(&[("a", "1", "gone (>= 1), b", ""), ("b", "1", "lost", "")]);
        let error = names(&index, &["a", "nowhere"]).unwrap_err();
        for part in ["gone (>= 1), wanted by a", "lost, wanted by b", "nowhere, wanted by the list"] {
            assert!(error.contains(part), "{error}");
        }
    }
}
