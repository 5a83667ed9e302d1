//! Assembles OCI images from layers, without a container engine, and packs each into one archive that `ctr`, `crane`
//! and Docker can read.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::error::{BundleError, io, malformed};
use crate::images::{Content, ImageSpec};
use crate::layer::LayerWriter;
use crate::manifest::hash_bytes;

const LAYER_TYPE: &str = "application/vnd.oci.image.layer.v1.tar";
const CONFIG_TYPE: &str = "application/vnd.oci.image.config.v1+json";
const MANIFEST_TYPE: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX_TYPE: &str = "application/vnd.oci.image.index.v1+json";

/// A layer in a file.
#[derive(Debug, Clone)]
pub(crate) struct Layer {
    pub path: PathBuf,
    pub sha256: String,
    pub size: u64,
}

/// Where the files of finished components are.
pub(crate) type Places = BTreeMap<String, PathBuf>;

/// Makes the image's own layer at `path`.
pub(crate) fn own_layer(spec: &ImageSpec, places: &Places, path: &Path) -> Result<Layer, BundleError> {
    let of = |component: &str| {
        places.get(component).cloned().ok_or_else(|| malformed(spec.component, format!("{component} is not built")))
    };
    let mut layer = LayerWriter::create(path)?;
    for content in spec.contents {
        match *content {
            Content::Bin { component, name, to } => {
                let from = of(component)?.join("bin").join(name);
                let file = File::open(&from).map_err(io("open", &from))?;
                let size = file.metadata().map_err(io("stat", &from))?.len();
                layer.file(Path::new(to), 0o755, size, (0, 0), file)?;
            }
            Content::Tree { component, from, to } => {
                layer.dir(Path::new(to), 0o755, (0, 0))?;
                layer.tree(&of(component)?.join(from), Path::new(to))?;
            }
            Content::Text { to, mode, text } => {
                layer.file(Path::new(to), mode, text.len() as u64, (0, 0), text.as_bytes())?;
            }
            Content::Link { to, target } => layer.link(Path::new(to), Path::new(target))?,
            Content::Dir { to, mode, owner } => layer.dir(Path::new(to), mode, owner)?,
        }
    }
    let (sha256, size) = layer.finish()?;
    Ok(Layer { path: path.to_path_buf(), sha256, size })
}

/// Writes the archive and gives the digest of the image's manifest, as in `sha256:...`.
pub(crate) fn pack(spec: &ImageSpec, layers: &[Layer], archive: &Path) -> Result<String, BundleError> {
    let config = to_bytes(&json!({
        "architecture": "amd64",
        "os": "linux",
        "config": {
            "User": spec.user,
            "Env": spec.env,
            "Entrypoint": spec.entrypoint,
            "Cmd": spec.cmd,
            "WorkingDir": spec.workdir,
            "Labels": {
                "org.opencontainers.image.title": spec.short,
                "org.opencontainers.image.vendor": "shakedown",
            },
        },
        "rootfs": {
            "type": "layers",
            "diff_ids": layers.iter().map(|layer| format!("sha256:{}", layer.sha256)).collect::<Vec<_>>(),
        },
        "history": layers.iter().map(|_| json!({ "created_by": "shakedown bundle" })).collect::<Vec<_>>(),
    }))?;
    let config_digest = hash_bytes(&config);
    let manifest = to_bytes(&json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST_TYPE,
        "config": descriptor(CONFIG_TYPE, &config_digest, config.len() as u64),
        "layers": layers.iter().map(|layer| descriptor(LAYER_TYPE, &layer.sha256, layer.size)).collect::<Vec<_>>(),
    }))?;
    let manifest_digest = hash_bytes(&manifest);
    let mut entry = descriptor(MANIFEST_TYPE, &manifest_digest, manifest.len() as u64);
    entry["platform"] = json!({ "architecture": "amd64", "os": "linux" });
    entry["annotations"] = json!({
        "io.containerd.image.name": spec.reference,
        "org.opencontainers.image.ref.name": tag_of(spec.reference),
    });
    let index = to_bytes(&json!({ "schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": [entry] }))?;
    // What `docker save` writes and `crane push` reads, beside the layout that everything else reads.
    let docker = to_bytes(&json!([{
        "Config": blob(&config_digest),
        "RepoTags": [spec.reference],
        "Layers": layers.iter().map(|layer| blob(&layer.sha256)).collect::<Vec<_>>(),
    }]))?;

    let mut tar = LayerWriter::create(archive)?;
    let mut add = |name: &str, bytes: &[u8]| tar.file(Path::new(name), 0o644, bytes.len() as u64, (0, 0), bytes);
    add("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)?;
    add("index.json", &index)?;
    add("manifest.json", &docker)?;
    add(&blob(&manifest_digest), &manifest)?;
    add(&blob(&config_digest), &config)?;
    for layer in layers {
        let file = File::open(&layer.path).map_err(io("open", &layer.path))?;
        tar.file(Path::new(&blob(&layer.sha256)), 0o644, layer.size, (0, 0), file)?;
    }
    tar.finish()?;
    Ok(format!("sha256:{manifest_digest}"))
}

fn descriptor(kind: &str, digest: &str, size: u64) -> Value {
    json!({ "mediaType": kind, "digest": format!("sha256:{digest}"), "size": size })
}

fn blob(digest: &str) -> String {
    format!("blobs/sha256/{digest}")
}

fn tag_of(reference: &str) -> &str {
    reference.rsplit_once(':').map_or("latest", |(_, tag)| tag)
}

fn to_bytes(value: &Value) -> Result<Vec<u8>, BundleError> {
    serde_json::to_vec(value).map_err(|error| malformed("an image description", error))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::images::IMAGES;
    use std::io::Read as _;

    #[test]
    fn an_archive_describes_its_own_contents_truthfully_and_is_reproducible() {
        let dir = tempfile::tempdir().unwrap();
        let spec = ImageSpec {
            contents: &[
                Content::Text { to: "etc/x", mode: 0o644, text: "x" },
                Content::Link { to: "etc/y", target: "x" },
            ],
            layers: &[],
            ..IMAGES[0]
        };
        let pack_as = |name: &str| {
            let layer = own_layer(&spec, &Places::new(), &dir.path().join(format!("{name}.layer"))).unwrap();
            let archive = dir.path().join(name);
            let digest = pack(&spec, &[layer], &archive).unwrap();
            (digest, std::fs::read(archive).unwrap())
        };
        let (digest, bytes) = pack_as("one");
        assert_eq!((digest.clone(), bytes.clone()), pack_as("two"));

        let mut files = BTreeMap::new();
        for entry in tar::Archive::new(bytes.as_slice()).entries().unwrap() {
            let mut entry = entry.unwrap();
            let name = entry.path().unwrap().display().to_string();
            let mut body = Vec::new();
            entry.read_to_end(&mut body).unwrap();
            files.insert(name, body);
        }
        for (name, body) in &files {
            if let Some(expected) = name.strip_prefix("blobs/sha256/") {
                assert_eq!(expected, hash_bytes(body), "{name}");
            }
        }
        let index: Value = serde_json::from_slice(&files["index.json"]).unwrap();
        assert_eq!(index["manifests"][0]["digest"], digest.as_str());
        let manifest: Value = serde_json::from_slice(&files[&digest.replace("sha256:", "blobs/sha256/")]).unwrap();
        for part in [&manifest["config"], &manifest["layers"][0]] {
            let name = part["digest"].as_str().unwrap().replace("sha256:", "blobs/sha256/");
            assert_eq!(part["size"].as_u64().unwrap() as usize, files[&name].len());
        }
    }
}
