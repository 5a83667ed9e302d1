//! A registry of a scene's own, with images that are signed as cosign does it and images that are not. Nothing is pushed:
//! its store is a ConfigMap, laid out as CNCF Distribution keeps it, and it is gone with the scene.
//!
//! The bytes are always the same, and so are their digests: a signature is made once, kept as a constant, and needs no
//! key here. cosign keeps a signature beside its image, as an image of its own with the tag `sha256-DIGEST.sig`.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::kyverno::{pod, requests, within};

/// The registry's program, which every node has (REG-021).
const PROGRAM: &str = "docker.io/library/registry:3.0.0";
/// Name of its Pod, its Service and its store.
const NAME: &str = "registry";
/// Its port.
const PORT: u16 = 5000;
/// The only repository.
const REPOSITORY: &str = "app";
/// Where its store is mounted, with its settings.
const MOUNT: &str = "/registry";
const SETTINGS: &str = "config.yml";
/// The folder in which CNCF Distribution keeps everything.
const STORE: &str = "docker/registry/v2";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const PAYLOAD: &str = "application/vnd.dev.cosign.simplesigning.v1+json";

/// An image without layers: nobody runs it.
#[derive(Debug, Clone, Copy)]
pub struct Image {
    /// Its tag.
    pub tag: &'static str,
    /// Signature of [`signed_text`] (ECDSA over SHA-256, in base64), where it has one.
    pub signature: Option<&'static str>,
}

/// `HOST:PORT/REPOSITORY:TAG` of an image in the registry of a namespace.
pub fn reference(namespace: &str, tag: &str) -> String {
    format!("{}:{tag}", repository(namespace))
}

fn repository(namespace: &str) -> String {
    format!("{NAME}.{namespace}:{PORT}/{REPOSITORY}")
}

/// What a signature of an image is about, in the form that cosign gives it.
pub fn signed_text(namespace: &str, tag: &str) -> String {
    let digest = Store::default().image(tag);
    format!(
        r#"{{"critical":{{"identity":{{"docker-reference":"{}"}},"image":{{"docker-manifest-digest":"{digest}"}},"type":"cosign container image signature"}},"optional":null}}"#,
        repository(namespace)
    )
}

/// The registry's store, its Service and its Pod.
pub fn registry(namespace: &str, images: &[Image]) -> [Value; 3] {
    let mut store = Store::default();
    store.0.insert(SETTINGS.to_owned(), settings());
    for image in images {
        let digest = store.image(image.tag);
        if let Some(signature) = image.signature {
            store.signature(&digest, &signed_text(namespace, image.tag), signature);
        }
    }
    let (data, items) = store.mounted();
    let mut server = pod(NAME, PROGRAM, requests());
    server["metadata"]["labels"] = json!({"app": NAME});
    server["spec"]["volumes"] = json!([{"name": "store", "configMap": {"name": NAME, "items": items}}]);
    let container = &mut server["spec"]["containers"][0];
    container["args"] = json!(["serve", format!("{MOUNT}/{SETTINGS}")]);
    container["env"] = json!([{"name": "OTEL_TRACES_EXPORTER", "value": "none"}]);
    container["readinessProbe"] = json!({"httpGet": {"path": "/v2/", "port": PORT}, "periodSeconds": 1});
    container["volumeMounts"] = json!([{"name": "store", "mountPath": MOUNT, "readOnly": true}]);
    let metadata = json!({"name": NAME});
    [
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data}),
        json!({
            "apiVersion": "v1", "kind": "Service", "metadata": metadata,
            "spec": {"selector": {"app": NAME}, "ports": [{"port": PORT}]},
        }),
        server,
    ]
    .map(|object| within(namespace, object))
}

fn settings() -> String {
    let settings = json!({
        "version": 0.1,
        "storage": {"filesystem": {"rootdirectory": MOUNT}, "maintenance": {"readonly": {"enabled": true}}},
        "http": {"addr": format!(":{PORT}")},
    });
    settings.to_string()
}

/// Files by path.
#[derive(Debug, Default)]
struct Store(BTreeMap<String, String>);

impl Store {
    /// Keeps a text by its digest, in a folder of the repository (`_layers`, `_manifests/revisions`).
    fn keep(&mut self, folder: &str, text: &str) -> String {
        let hex: String = Sha256::digest(text).iter().map(|byte| format!("{byte:02x}")).collect();
        let digest = format!("sha256:{hex}");
        self.0.insert(format!("{STORE}/blobs/sha256/{}/{hex}/data", &hex[..2]), text.to_owned());
        self.0.insert(format!("{STORE}/repositories/{REPOSITORY}/{folder}/sha256/{hex}/link"), digest.clone());
        digest
    }

    fn manifest(&mut self, tag: &str, config: &str, layers: &str) -> String {
        let (size, config) = (config.len(), self.keep("_layers", config));
        let manifest = format!(
            r#"{{"schemaVersion":2,"mediaType":"{MANIFEST}","config":{{"mediaType":"{CONFIG}","digest":"{config}","size":{size}}},"layers":[{layers}]}}"#
        );
        let digest = self.keep("_manifests/revisions", &manifest);
        self.0.insert(format!("{STORE}/repositories/{REPOSITORY}/_manifests/tags/{tag}/current/link"), digest.clone());
        digest
    }

    /// Keeps an image; its digest.
    fn image(&mut self, tag: &str) -> String {
        let config = format!(
            r#"{{"architecture":"amd64","os":"linux","config":{{"Labels":{{"shakedown":"{tag}"}}}},"rootfs":{{"type":"layers","diff_ids":[]}}}}"#
        );
        self.manifest(tag, &config, "")
    }

    /// Keeps a signature beside the image of this digest.
    fn signature(&mut self, image: &str, text: &str, signature: &str) {
        let digest = self.keep("_layers", text);
        let config = format!(r#"{{"architecture":"","os":"","rootfs":{{"type":"layers","diff_ids":["{digest}"]}}}}"#);
        let layer = format!(
            r#"{{"mediaType":"{PAYLOAD}","digest":"{digest}","size":{},"annotations":{{"dev.cosignproject.cosign/signature":"{signature}"}}}}"#,
            text.len()
        );
        self.manifest(&format!("{}.sig", image.replace(':', "-")), &config, &layer);
    }

    /// A ConfigMap's data, and where each entry is mounted.
    fn mounted(self) -> (BTreeMap<String, String>, Vec<Value>) {
        let files = self.0.into_iter().enumerate().map(|(at, (path, text))| (format!("{at:02}"), path, text));
        let mut data = BTreeMap::new();
        let items = files.map(|(key, path, text)| {
            let item = json!({"key": key, "path": path});
            data.insert(key, text);
            item
        });
        let items = items.collect();
        (data, items)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every signature ever made is about these bytes.
    #[test]
    fn an_image_has_always_the_same_digest() {
        let digest = Store::default().image("signed");
        assert_eq!(digest, "sha256:3d3d42930e31511ddc7914221156d0a9639f9508aa8e2c2f5144eec25de03dc1");
        assert!(signed_text("n", "signed").contains(&digest));
        assert_eq!(reference("n", "signed"), "registry.n:5000/app:signed");
    }

    #[test]
    fn whatever_a_manifest_names_is_in_the_store() {
        let mut store = Store::default();
        let image = store.image("a");
        store.signature(&image, "text", "c2lnbmF0dXJl");
        let tag = format!("tags/{}.sig/current/link", image.replace(':', "-"));
        assert!(store.0.keys().any(|path| path.ends_with(&tag)), "{:?}", store.0.keys());
        for text in store.0.values().filter(|text| text.starts_with(r#"{"schemaVersion""#)) {
            let manifest: Value = serde_json::from_str(text).unwrap();
            let layers = manifest["layers"].as_array().unwrap();
            for named in layers.iter().chain([&manifest["config"]]) {
                let hex = named["digest"].as_str().unwrap().trim_start_matches("sha256:");
                let kept = &store.0[&format!("{STORE}/blobs/sha256/{}/{hex}/data", &hex[..2])];
                assert_eq!(named["size"], kept.len());
            }
        }
    }

    #[test]
    fn a_registry_is_three_objects_of_its_namespace() {
        let objects = registry("n", &[Image { tag: "a", signature: None }]);
        assert!(objects.iter().all(|object| object["metadata"]["namespace"] == "n"));
        let data = objects[0]["data"].as_object().unwrap();
        let items = objects[2]["spec"]["volumes"][0]["configMap"]["items"].as_array().unwrap();
        assert_eq!(items.len(), data.len());
    }
}
