//! The package index: `InRelease`, its signature, and the `Packages` file that it vouches for.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::Path;
use std::process::Command;

use crate::cache::CacheDir;
use crate::command;
use crate::debian::fetch::Mirror;
use crate::error::{BundleError, malformed};
use crate::manifest::hash_bytes;
use crate::progress::Progress;

/// Debian's release that all trees come from.
pub(crate) const RELEASE: &str = "bookworm";

const KEYRINGS: &[&str] =
    &["/usr/share/keyrings/debian-archive-keyring.gpg", "/usr/share/keyrings/debian-archive-bookworm-stable.gpg"];

/// One stanza of a `Packages` file, as far as it matters here.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Package {
    pub name: String,
    pub version: String,
    pub archive: String,
    pub depends: String,
    pub provides: String,
    pub path: String,
    pub size: u64,
    pub sha256: String,
}

/// All packages of all suites, the newest version of each.
#[derive(Debug, Clone, Default)]
pub(crate) struct Index {
    pub packages: BTreeMap<String, Package>,
    /// Real names behind a virtual one, with the version that is provided.
    pub providers: BTreeMap<String, Vec<(String, Option<String>)>>,
}

impl Index {
    /// Downloads and checks the index of the three suites.
    pub fn fetch(cache: &CacheDir, mirror: &Mirror, progress: &dyn Progress) -> Result<Self, BundleError> {
        let mut index = Self::default();
        let suites = [
            ("debian", RELEASE.to_string()),
            ("debian", format!("{RELEASE}-updates")),
            ("debian-security", format!("{RELEASE}-security")),
        ];
        for (archive, suite) in &suites {
            progress.step("debian", &format!("index of {suite}"));
            let release = mirror.get(archive, &format!("dists/{suite}/InRelease"))?;
            verify_signature(cache, suite, &release, progress)?;
            let name = "main/binary-amd64/Packages.xz";
            let expected = digest_in_release(&String::from_utf8_lossy(&release), name)
                .ok_or_else(|| malformed(format!("InRelease of {suite}"), format!("it does not list {name}")))?;
            let packed = mirror.get(archive, &format!("dists/{suite}/{name}"))?;
            let found = hash_bytes(&packed);
            if found != expected {
                return Err(BundleError::Checksum { what: format!("{suite} {name}"), expected, found });
            }
            let mut text = String::new();
            liblzma::read::XzDecoder::new(packed.as_slice())
                .read_to_string(&mut text)
                .map_err(|error| malformed(format!("{suite} {name}"), error))?;
            index.add(archive, &text)?;
        }
        Ok(index)
    }

    /// Adds the stanzas of one `Packages` file.
    pub fn add(&mut self, archive: &str, text: &str) -> Result<(), BundleError> {
        for stanza in text.split("\n\n").filter(|stanza| !stanza.trim().is_empty()) {
            let package = parse_stanza(archive, stanza)?;
            for provided in package.provides.split(',').filter_map(super::version::Relation::parse) {
                let version = provided.limit.map(|(_, version)| version);
                let entry = self.providers.entry(provided.name).or_default();
                entry.retain(|(name, _)| *name != package.name);
                entry.push((package.name.clone(), version));
            }
            let newer = self
                .packages
                .get(&package.name)
                .is_none_or(|known| super::version::compare(&package.version, &known.version).is_gt());
            if newer {
                self.packages.insert(package.name.clone(), package);
            }
        }
        Ok(())
    }
}

fn parse_stanza(archive: &str, stanza: &str) -> Result<Package, BundleError> {
    let mut package = Package { archive: archive.to_string(), ..Package::default() };
    for line in stanza.lines().filter(|line| !line.starts_with([' ', '\t'])) {
        let Some((field, value)) = line.split_once(':') else { continue };
        let value = value.trim();
        match field {
            "Package" => package.name = value.to_string(),
            "Version" => package.version = value.to_string(),
            "Pre-Depends" | "Depends" if package.depends.is_empty() => package.depends = value.to_string(),
            "Pre-Depends" | "Depends" => package.depends = format!("{}, {value}", package.depends),
            "Provides" => package.provides = value.to_string(),
            "Filename" => package.path = value.to_string(),
            "Size" => package.size = value.parse().map_err(|error| malformed("a package's size", error))?,
            "SHA256" => package.sha256 = value.to_string(),
            _ => {}
        }
    }
    let missing = [
        ("Package", package.name.is_empty()),
        ("Version", package.version.is_empty()),
        ("Filename", package.path.is_empty()),
        ("SHA256", package.sha256.len() != 64),
    ];
    match missing.iter().find(|(_, absent)| *absent) {
        Some((field, _)) => {
            Err(malformed(format!("the index entry of {:?}", package.name), format!("no valid {field}")))
        }
        None => Ok(package),
    }
}

fn digest_in_release(release: &str, name: &str) -> Option<String> {
    let listed = release.lines().skip_while(|line| line.trim_end() != "SHA256:").skip(1);
    listed.take_while(|line| line.starts_with(' ')).find_map(|line| {
        let mut fields = line.split_whitespace();
        let digest = fields.next()?;
        (fields.nth(1) == Some(name)).then(|| digest.to_string())
    })
}

fn verify_signature(cache: &CacheDir, suite: &str, release: &[u8], progress: &dyn Progress) -> Result<(), BundleError> {
    let Some(keyring) = KEYRINGS.iter().find(|path| Path::new(path).exists()) else {
        progress.note(&format!(
            "signature of {suite} NOT checked: no Debian keyring here (package debian-archive-keyring)"
        ));
        return Ok(());
    };
    let path = cache.debs().join(format!(".InRelease-{suite}"));
    crate::store::replace_file(&path, release)?;
    let mut gpgv = Command::new("gpgv");
    gpgv.arg("--keyring").arg(keyring).arg(&path);
    let log = cache.logs().join(format!("gpgv-{suite}.log"));
    let checked = command::run(&mut gpgv, "gpgv", &log, "", &|_| ());
    crate::store::remove_tree(&path)?;
    match checked {
        Ok(()) => Ok(()),
        Err(BundleError::MissingTool { .. }) => {
            progress.note(&format!("signature of {suite} NOT checked: gpgv is not installed"));
            Ok(())
        }
        Err(BundleError::Command { tail, .. }) => {
            Err(BundleError::Signature { what: format!("Debian's {suite} index"), reason: tail })
        }
        Err(other) => Err(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIGEST: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    #[test]
    fn the_newest_version_of_all_suites_wins() {
        let mut index = Index::default();
        let stanza = |version: &str| {
            format!(
                "Package: a\nVersion: {version}\nFilename: pool/a\nSize: 3\nSHA256: {DIGEST}\nDescription: x\n more: y\n"
            )
        };
        index.add("debian", &stanza("1.0-1")).unwrap();
        index.add("debian-security", &stanza("1.0-1+deb12u1")).unwrap();
        index.add("debian", &stanza("0.9-9")).unwrap();
        assert_eq!(index.packages["a"].version, "1.0-1+deb12u1");
        assert_eq!(index.packages["a"].archive, "debian-security");
    }

    #[test]
    fn an_entry_without_a_digest_is_refused() {
        let error = Index::default().add("debian", "Package: a\nVersion: 1\nFilename: x\n").unwrap_err().to_string();
        assert!(error.contains("\"a\"") && error.contains("no valid SHA256"), "{error}");
    }

    #[test]
    fn the_digest_is_taken_from_the_sha256_section() {
        let release = format!("MD5Sum:\n aaaa 3 main/x\nSHA256:\n {DIGEST} 3 main/x\n ffff 3 main/y\nEnd: z\n");
        assert_eq!(digest_in_release(&release, "main/x").as_deref(), Some(DIGEST));
        assert_eq!(digest_in_release(&release, "main/z"), None);
    }
}
