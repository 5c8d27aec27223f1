//! What the agent and the eBPF object in it are made of: CycloneDX documents.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use super::Package;
use super::binary::SOURCE;
use crate::arch::Arch;
use crate::{paths, process, setup};

/// Stands in a document's name until it is where it belongs.
const NAME: &str = "package-sbom";

pub(super) fn build(package: &Package, archs: &[Arch]) -> Result<Vec<PathBuf>> {
    let tool = setup::cyclonedx()?;
    let mut made = Vec::new();
    for &arch in archs {
        let documents = Documents::write(&tool, &arch.static_target(), package.epoch)?;
        made.push(documents.take("arp-agent", &["aya", "clap", "tokio"], package, arch.machine())?);
        if made.len() == 1 {
            // The same for all: the program is for the kernel's own machine.
            made.push(documents.take("arp-ebpf", &["aya-ebpf", "aya-ebpf-bindings"], package, "ebpf")?);
        }
    }
    Ok(made)
}

/// The tool writes a document beside each Cargo.toml of the workspace; they are gone with this.
struct Documents;

impl Documents {
    fn write(tool: &Path, target: &str, epoch: u64) -> Result<Self> {
        let manifest = paths::root().join("arp-agent/Cargo.toml");
        let mut command = Command::new(tool);
        command.args(["cyclonedx", "--format", "json", "--spec-version", "1.5", "--override-filename", NAME]);
        command.args(["--target", target, "--no-build-deps", "--quiet", "--manifest-path"]).arg(manifest);
        let documents = Documents;
        process::output(command.env("SOURCE_DATE_EPOCH", epoch.to_string()))?;
        Ok(documents)
    }

    /// Puts a crate's document among the packages. `parts`: some that it cannot lack.
    fn take(&self, name: &str, parts: &[&str], package: &Package, of: &str) -> Result<PathBuf> {
        let from = paths::root().join(name).join(format!("{NAME}.json"));
        let text = fs::read_to_string(&from).with_context(|| format!("cargo-cyclonedx made no {}", from.display()))?;
        let text = without_paths(&text, &paths::root());
        check(&text, parts).with_context(|| format!("what cargo-cyclonedx says of {name}"))?;
        let path = package.out.join(format!("arp-agent-{}-{of}.cdx.json", package.version));
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(path)
    }
}

impl Drop for Documents {
    fn drop(&mut self) {
        for folder in fs::read_dir(paths::root()).into_iter().flatten().flatten() {
            let _ = fs::remove_file(folder.path().join(format!("{NAME}.json")));
        }
    }
}

/// Fails unless a document says of each component its version, its licence and where it is from, and names these parts.
fn check(text: &str, parts: &[&str]) -> Result<()> {
    let document: Value = serde_json::from_str(text)?;
    ensure!(document["bomFormat"] == "CycloneDX", "no CycloneDX document");
    let components = document["components"].as_array().context("no components")?;
    for component in components {
        let has_url = component["purl"].as_str().is_some_and(|url| url.starts_with("pkg:cargo/"));
        ensure!(has_url && component["version"].is_string() && component["licenses"].is_array(), "{component}");
    }
    for part in parts {
        ensure!(components.iter().any(|component| component["name"] == *part), "{part} is not among the components");
    }
    Ok(())
}

/// The workspace's own crates are named by where they are: here as in the binary.
fn without_paths(text: &str, root: &Path) -> String {
    text.replace(&*root.to_string_lossy(), SOURCE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_document_must_say_what_each_part_is() {
        let of = |more: &str| {
            format!(
                r#"{{"bomFormat":"CycloneDX","components":[{{"name":"aya","version":"1","purl":"pkg:cargo/aya@1"{more}}}]}}"#
            )
        };
        assert!(check(&of(r#","licenses":[]"#), &["aya"]).is_ok());
        assert!(check(&of(""), &["aya"]).is_err(), "no licence");
        assert!(check(&of(r#","licenses":[]"#), &["tokio"]).is_err(), "a part is missing");
        assert!(check("{}", &[]).is_err());
    }

    #[test]
    fn a_document_names_no_path_of_this_machine() {
        let text = r#"{"bom-ref":"path+file:///home/me/arp/arp-agent#0.2.0"}"#;
        let expected = r#"{"bom-ref":"path+file:///usr/src/arp-agent/arp-agent#0.2.0"}"#;
        assert_eq!(without_paths(text, Path::new("/home/me/arp")), expected);
    }
}
