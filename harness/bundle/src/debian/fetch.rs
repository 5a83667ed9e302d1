//! Downloads: packages into a cache by digest, several at a time, and small files into memory.

use std::env;
use std::fs::{self, File};
use std::io::{Read, Write as _};
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use sha2::{Digest as _, Sha256};

use crate::cache::CacheDir;
use crate::debian::PinnedDeb;
use crate::error::{BundleError, io};
use crate::manifest::hex;
use crate::progress::Progress;

const DEFAULT_MIRROR: &str = "http://deb.debian.org";
const AT_ONCE: usize = 6;
const INDEX_LIMIT: u64 = 64 << 20;

/// Where packages come from. Plain HTTP is fine: every byte is checked against a digest that was signed or pinned.
#[derive(Debug, Clone)]
pub(crate) struct Mirror {
    base: String,
    agent: ureq::Agent,
}

impl Mirror {
    /// `SHAKEDOWN_DEBIAN_MIRROR`, or Debian's own; it must have the directories `debian` and `debian-security`.
    pub fn from_env() -> Self {
        Self::at(&env::var("SHAKEDOWN_DEBIAN_MIRROR").unwrap_or_else(|_| DEFAULT_MIRROR.into()))
    }

    /// A mirror of the caller's choice.
    pub fn at(base: &str) -> Self {
        let config = ureq::Agent::config_builder()
            .timeout_connect(Some(Duration::from_secs(20)))
            .timeout_recv_response(Some(Duration::from_secs(30)))
            .timeout_recv_body(Some(Duration::from_secs(600)))
            .build();
        Self { base: base.trim_end_matches('/').to_string(), agent: config.into() }
    }

    fn url(&self, archive: &str, path: &str) -> String {
        format!("{}/{archive}/{path}", self.base)
    }

    fn open(&self, archive: &str, path: &str) -> Result<Option<impl Read + use<>>, BundleError> {
        let url = self.url(archive, path);
        match self.agent.get(&url).call() {
            Ok(response) => Ok(Some(response.into_body().into_with_config().limit(u64::MAX).reader())),
            Err(ureq::Error::StatusCode(404 | 410)) => Ok(None),
            Err(error) => Err(BundleError::Download { url, reason: error.to_string() }),
        }
    }

    /// Gets a file into memory.
    pub fn get(&self, archive: &str, path: &str) -> Result<Vec<u8>, BundleError> {
        let url = self.url(archive, path);
        let reader = self
            .open(archive, path)?
            .ok_or_else(|| BundleError::Download { url: url.clone(), reason: "it is not there (404)".into() })?;
        let mut bytes = Vec::new();
        reader
            .take(INDEX_LIMIT)
            .read_to_end(&mut bytes)
            .map_err(|error| BundleError::Download { url, reason: error.to_string() })?;
        Ok(bytes)
    }

    /// Gets a package into the cache. `Ok(None)`: the mirror no longer has this version.
    fn package(&self, cache: &CacheDir, deb: &PinnedDeb) -> Result<Option<PathBuf>, BundleError> {
        let path = cached(cache, deb);
        if path.metadata().is_ok_and(|meta| meta.len() == deb.size) {
            return Ok(Some(path));
        }
        let Some(mut reader) = self.open(&deb.archive, &deb.path)? else { return Ok(None) };
        let url = self.url(&deb.archive, &deb.path);
        let mut file = tempfile::Builder::new()
            .prefix(".fetching-")
            .tempfile_in(cache.debs())
            .map_err(io("create a file in", cache.debs()))?;
        let mut hasher = Sha256::new();
        let mut buffer = vec![0; 1 << 16];
        loop {
            let read = reader
                .read(&mut buffer)
                .map_err(|error| BundleError::Download { url: url.clone(), reason: error.to_string() })?;
            if read == 0 {
                break;
            }
            hasher.update(&buffer[..read]);
            file.write_all(&buffer[..read]).map_err(io("write", file.path()))?;
        }
        let found = hex(&hasher.finalize());
        if found != deb.sha256 {
            return Err(BundleError::Checksum { what: url, expected: deb.sha256.clone(), found });
        }
        file.persist(&path).map_err(|error| io("rename", &path)(error.error))?;
        Ok(Some(path))
    }
}

fn cached(cache: &CacheDir, deb: &PinnedDeb) -> PathBuf {
    cache.debs().join(format!("{}-{}.deb", deb.name, deb.sha256.get(..16).unwrap_or(&deb.sha256)))
}

/// Opens a package from the cache, checking its digest: what was downloaded long ago may have been damaged since.
pub(crate) fn open_cached(cache: &CacheDir, deb: &PinnedDeb) -> Result<File, BundleError> {
    let path = cached(cache, deb);
    let found = crate::manifest::hash_file(&path)?;
    if found != deb.sha256 {
        crate::store::remove_tree(&path)?;
        let what = path.display().to_string();
        return Err(BundleError::Checksum { what, expected: deb.sha256.clone(), found });
    }
    File::open(&path).map_err(io("open", &path))
}

/// Fetches all packages, several at a time; gives those that the mirror no longer has.
pub(crate) fn fetch_all<'a>(
    cache: &CacheDir,
    mirror: &Mirror,
    tree: &str,
    debs: &'a [PinnedDeb],
    progress: &dyn Progress,
) -> Result<Vec<&'a PinnedDeb>, BundleError> {
    fs::create_dir_all(cache.debs()).map_err(io("create", cache.debs()))?;
    let missing: Vec<&PinnedDeb> =
        debs.iter().filter(|deb| cached(cache, deb).metadata().map_or(true, |meta| meta.len() != deb.size)).collect();
    if !missing.is_empty() {
        let bytes: u64 = missing.iter().map(|deb| deb.size).sum();
        progress.step(tree, &format!("downloading {} packages, {} MiB", missing.len(), bytes >> 20));
    }
    let next = AtomicUsize::new(0);
    let gone = Mutex::new(Vec::new());
    let failed = Mutex::new(None);
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                while let Some(deb) = missing.get(next.fetch_add(1, Ordering::Relaxed)) {
                    match mirror.package(cache, deb) {
                        Ok(Some(_)) => {}
                        Ok(None) => lock(&gone).push(*deb),
                        Err(error) => {
                            lock(&failed).get_or_insert(error);
                            return;
                        }
                    }
                }
            });
        }
    });
    match failed.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner) {
        Some(error) => Err(error),
        None => Ok(gone.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner)),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::progress::Silent;
    use std::io::{BufRead as _, BufReader};
    use std::net::TcpListener;

    const BODY: &[u8] = b"a package";

    /// A mirror on loopback that has `pool/there` and answers the given number of requests.
    fn mirror(requests: usize) -> (Mirror, std::thread::JoinHandle<Vec<String>>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let served = std::thread::spawn(move || {
            let mut paths = Vec::new();
            for _ in 0..requests {
                let (stream, _) = listener.accept().unwrap();
                let mut lines = BufReader::new(stream.try_clone().unwrap()).lines().map(Result::unwrap);
                let request = lines.next().unwrap();
                lines.find(String::is_empty);
                let there = request.contains("/debian/pool/there");
                let (status, body) = if there { ("200 OK", BODY) } else { ("404 Not Found", &b""[..]) };
                let mut stream = stream;
                let head = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
                stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body)).unwrap();
                paths.push(request);
            }
            paths
        });
        (Mirror::at(&format!("http://{address}/")), served)
    }

    fn deb(path: &str, sha256: String) -> PinnedDeb {
        PinnedDeb {
            name: "thing".into(),
            version: "1".into(),
            archive: "debian".into(),
            path: path.into(),
            size: BODY.len() as u64,
            sha256,
        }
    }

    #[test]
    fn a_package_is_fetched_once_and_then_taken_from_the_cache() {
        let dir = tempfile::tempdir().unwrap();
        let cache = CacheDir::at(dir.path());
        let (mirror, served) = mirror(1);
        let debs = [deb("pool/there", crate::manifest::hash_bytes(BODY))];
        for _ in 0..2 {
            assert!(fetch_all(&cache, &mirror, "t", &debs, &Silent).unwrap().is_empty());
        }
        assert_eq!(served.join().unwrap().len(), 1);
        assert!(open_cached(&cache, &debs[0]).is_ok());
    }

    #[test]
    fn a_version_that_the_mirror_dropped_is_given_back_and_not_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let (mirror, served) = mirror(1);
        let debs = [deb("pool/gone", crate::manifest::hash_bytes(BODY))];
        let gone = fetch_all(&CacheDir::at(dir.path()), &mirror, "t", &debs, &Silent).unwrap();
        assert_eq!(gone, [&debs[0]]);
        served.join().unwrap();
    }

    #[test]
    fn other_bytes_than_pinned_are_refused_and_not_kept() {
        let dir = tempfile::tempdir().unwrap();
        let cache = CacheDir::at(dir.path());
        let (mirror, served) = mirror(1);
        let debs = [deb("pool/there", "0".repeat(64))];
        let error = fetch_all(&cache, &mirror, "t", &debs, &Silent).unwrap_err().to_string();
        assert!(error.contains("expected 000000") && error.contains("was not used"), "{error}");
        served.join().unwrap();
        assert!(crate::store::children(&cache.debs()).unwrap().is_empty());
    }

    #[test]
    fn a_package_that_was_damaged_in_the_cache_is_removed_and_named() {
        let dir = tempfile::tempdir().unwrap();
        let cache = CacheDir::at(dir.path());
        let pinned = deb("pool/there", crate::manifest::hash_bytes(BODY));
        fs::create_dir_all(cache.debs()).unwrap();
        fs::write(cached(&cache, &pinned), b"a pacKage").unwrap();
        assert!(matches!(open_cached(&cache, &pinned), Err(BundleError::Checksum { .. })));
        assert!(!cached(&cache, &pinned).exists());
    }

    #[test]
    fn a_mirror_that_does_not_answer_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        drop(listener);
        let debs = [deb("pool/there", "0".repeat(64))];
        let mirror = Mirror::at(&format!("http://{address}"));
        let error = fetch_all(&CacheDir::at(dir.path()), &mirror, "t", &debs, &Silent).unwrap_err().to_string();
        assert!(error.contains(&address.to_string()) && error.contains("SHAKEDOWN_DEBIAN_MIRROR"), "{error}");
    }
}
