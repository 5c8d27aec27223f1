//! The rpm package.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

use anyhow::{Context as _, Result};

use super::Package;
use super::files::{self, File, source};
use crate::arch::Arch;
use crate::process;

pub(super) fn build(arch: Arch, package: &Package, files: &[File]) -> Result<PathBuf> {
    let top = package.stage(&format!("rpm-{}", arch.debian()))?;
    let tree = top.join("tree");
    fs::create_dir_all(&tree).with_context(|| format!("cannot create {}", tree.display()))?;
    let mut all: Vec<File> = files
        .iter()
        .cloned()
        .map(|file| File { path: file.path.replace("zsh/vendor-completions", "zsh/site-functions"), ..file })
        .collect();
    all.extend(files::documents()?);
    Package::write_tree(&all, &tree)?;
    let spec = top.join("arp-agent.spec");
    fs::write(&spec, spec_of(package, &all)?).with_context(|| format!("cannot write {}", spec.display()))?;

    let mut rpmbuild = process::program("rpmbuild")?;
    rpmbuild.args(["-bb", "--quiet", "--target", &format!("{}-linux", arch.machine())]);
    for (name, value) in [
        ("_topdir", top.display().to_string()),
        ("tree", tree.display().to_string()),
        // The commit's time everywhere, and no name of this machine.
        ("use_source_date_epoch_as_buildtime", "1".to_owned()),
        ("clamp_mtime_to_source_date_epoch", "1".to_owned()),
        ("_buildhost", "localhost".to_owned()),
        ("_build_id_links", "none".to_owned()),
        ("__os_install_post", "%{nil}".to_owned()),
        ("debug_package", "%{nil}".to_owned()),
        ("_binary_payload", "w6.xzdio".to_owned()),
    ] {
        rpmbuild.args(["--define", &format!("{name} {value}")]);
    }
    process::output(rpmbuild.arg(&spec).env("SOURCE_DATE_EPOCH", package.epoch.to_string()))?;
    let name = format!("arp-agent-{}-1.{}.rpm", package.version, arch.machine());
    let (from, path) = (top.join("RPMS").join(arch.machine()).join(&name), package.out.join(&name));
    fs::copy(&from, &path).with_context(|| format!("rpmbuild made no {}", from.display()))?;
    fs::remove_dir_all(&top).with_context(|| format!("cannot clear {}", top.display()))?;
    Ok(path)
}

/// The spec: what is fixed of it stands in packaging/rpm.
fn spec_of(package: &Package, files: &[File]) -> Result<String> {
    let mut spec = String::from_utf8(source("packaging/rpm/arp-agent.spec")?)?.replace("@VERSION@", &package.version);
    spec += "\n%files\n";
    for folder in folders(files) {
        spec += &format!("%dir /{folder}\n");
    }
    for file in files {
        let kind = match file.path.as_str() {
            _ if file.is_config => "%config(noreplace) ",
            path if path.contains("/LICENSE-") => "%license ",
            path if path.starts_with("usr/share/doc/") => "%doc ",
            _ => "",
        };
        spec += &format!("%attr({:04o}, root, root) {kind}/{}\n", file.mode, file.path);
    }
    Ok(spec)
}

/// The folders that go with the package: its own ones, and those of shells that may not be there. (Several packages may
/// own a folder.)
fn folders(files: &[File]) -> BTreeSet<&str> {
    let parents = files.iter().flat_map(|file| file.path.match_indices('/').map(|(at, _)| &file.path[..at]));
    let is_ours = |folder: &&str| {
        let (_, name) = folder.rsplit_once('/').unwrap_or_default();
        name.starts_with("arp-agent")
            || ["usr/share/zsh", "usr/share/fish"].iter().any(|shell| folder.starts_with(shell))
    };
    parents.filter(is_ours).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_package_owns_its_folders_and_those_of_shells() {
        let files = ["etc/arp-agent/arp-agent.toml", "usr/share/fish/vendor_completions.d/x", "usr/sbin/arp-agent"];
        let files = files.map(|path| File::new(path, ""));
        let expected = ["etc/arp-agent", "usr/share/fish", "usr/share/fish/vendor_completions.d"];
        assert!(folders(&files).into_iter().eq(expected));
    }
}
