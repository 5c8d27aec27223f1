//! The container image, from scratch: the agent, its settings and nothing else. An archive of an OCI layout
//! (image-spec 1.1): `podman load`, `skopeo copy oci-archive:…` and registries' clients take it.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::files::{self, File};
use super::{Package, archive, hex};
use crate::arch::Arch;

const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

/// The paths that an image needs of a package.
const WANTED: [&str; 2] = ["usr/sbin/arp-agent", "etc/arp-agent/arp-agent.toml"];

/// Blobs by digest, as files of the archive.
#[derive(Default)]
struct Blobs(Vec<File>);

impl Blobs {
    /// Adds a blob; its descriptor.
    fn add(&mut self, media_type: &str, bytes: Vec<u8>) -> Value {
        let (digest, size) = (hex(&Sha256::digest(&bytes)), bytes.len());
        self.0.push(File::new(format!("blobs/sha256/{digest}"), bytes));
        json!({ "mediaType": media_type, "digest": format!("sha256:{digest}"), "size": size })
    }
}

pub(super) fn build(package: &Package, images: &[(Arch, Vec<File>)]) -> Result<PathBuf> {
    let mut blobs = Blobs::default();
    let mut manifests = Vec::new();
    for (arch, files) in images {
        let mut manifest = image(&mut blobs, *arch, package, files)?;
        manifest["platform"] = json!({ "architecture": arch.debian(), "os": "linux" });
        manifests.push(manifest);
    }
    let mut named = match manifests.as_slice() {
        [only] => only.clone(),
        _ => {
            let index = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": manifests });
            blobs.add(INDEX, serde_json::to_vec(&index)?)
        }
    };
    named["annotations"] = json!({ "org.opencontainers.image.ref.name": package.version });
    let index = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": [named] });
    let mut all = blobs.0;
    all.push(File::new("index.json", serde_json::to_vec(&index)?));
    all.push(File::new("oci-layout", r#"{"imageLayoutVersion":"1.0.0"}"#));
    let path = package.out.join(format!("arp-agent-{}-oci.tar", package.version));
    fs::write(&path, archive::tar(&all, package.epoch)?).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(path)
}

/// One image: a layer, its configuration, its manifest.
fn image(blobs: &mut Blobs, arch: Arch, package: &Package, files: &[File]) -> Result<Value> {
    let mut wanted: Vec<File> = files.iter().filter(|file| WANTED.contains(&file.path.as_str())).cloned().collect();
    wanted.extend(files::documents()?.into_iter().filter(|file| file.path.contains("LICENSE")));
    let layer = archive::tar(&wanted, package.epoch)?;
    let diff = format!("sha256:{}", hex(&Sha256::digest(&layer)));
    let layer = blobs.add(LAYER, files::gzip(&layer)?);
    let labels = json!({
        "org.opencontainers.image.title": "arp-agent",
        "org.opencontainers.image.version": package.version,
        "org.opencontainers.image.licenses": "MIT OR Apache-2.0",
    });
    let config = json!({
        "architecture": arch.debian(),
        "os": "linux",
        "config": {
            // The agent needs no shell, and root only for files that root alone may read.
            "User": "0:0",
            "Entrypoint": ["/usr/sbin/arp-agent"],
            "Cmd": ["run"],
            "Labels": labels,
        },
        "rootfs": { "type": "layers", "diff_ids": [diff] },
    });
    let config = blobs.add(CONFIG, serde_json::to_vec(&config)?);
    let manifest = json!({ "schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": [layer] });
    Ok(blobs.add(MANIFEST, serde_json::to_vec(&manifest)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_descriptor_says_the_digest_and_the_size_of_its_blob() {
        let mut blobs = Blobs::default();
        let descriptor = blobs.add(LAYER, b"abc".to_vec());
        // FIPS 180-2, appendix B.1.
        let digest = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(descriptor, json!({ "mediaType": LAYER, "digest": format!("sha256:{digest}"), "size": 3 }));
        assert_eq!(blobs.0[0].path, format!("blobs/sha256/{digest}"));
    }
}
