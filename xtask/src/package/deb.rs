//! The Debian package.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result};

use super::Package;
use super::files::{File, gzip, source};
use crate::arch::Arch;
use crate::process;

const SCRIPTS: [&str; 3] = ["postinst", "prerm", "postrm"];

pub(super) fn build(arch: Arch, package: &Package, files: &[File]) -> Result<PathBuf> {
    let version = format!("{}-1", package.version);
    let stage = package.stage(&format!("deb-{}", arch.debian()))?;
    let mut all = files.to_vec();
    let document = |name: &str, bytes: Vec<u8>| File::new(format!("usr/share/doc/arp-agent/{name}"), bytes);
    all.push(document("copyright", source("packaging/deb/copyright")?));
    all.push(document("changelog.gz", gzip(&source("CHANGELOG.md")?)?));
    all.push(document("changelog.Debian.gz", gzip(changelog(&version, package)?.as_bytes())?));
    all.push(File::new("usr/share/lintian/overrides/arp-agent", source("packaging/deb/lintian-overrides")?));
    Package::write_tree(&all, &stage)?;

    let size = all.iter().map(|file| file.bytes.len().div_ceil(1024)).sum::<usize>();
    let control = format!(
        "Package: arp-agent\nVersion: {version}\nArchitecture: {}\nMaintainer: {}\nInstalled-Size: {size}\nSection: net\n\
         Priority: optional\n{}",
        arch.debian(),
        package.maintainer,
        String::from_utf8(source("packaging/deb/description")?)?,
    );
    let configs: String = all.iter().filter(|file| file.is_config).map(|file| format!("/{}\n", file.path)).collect();
    File::new("DEBIAN/control", control).write_below(&stage)?;
    File::new("DEBIAN/conffiles", configs).write_below(&stage)?;
    let paths: Vec<&str> = all.iter().filter(|file| !file.is_config).map(|file| file.path.as_str()).collect();
    let sums = process::output(Command::new("md5sum").args(&paths).current_dir(&stage))?;
    File::new("DEBIAN/md5sums", sums).write_below(&stage)?;
    for script in SCRIPTS {
        let text = source(&format!("packaging/deb/{script}"))?;
        File { mode: 0o755, ..File::new(format!("DEBIAN/{script}"), text) }.write_below(&stage)?;
    }

    let path = package.out.join(format!("arp-agent_{version}_{}.deb", arch.debian()));
    let mut dpkg = Command::new("dpkg-deb");
    dpkg.args(["--root-owner-group", "-Zxz", "--build"]).arg(&stage).arg(&path);
    process::output(dpkg.env("SOURCE_DATE_EPOCH", package.epoch.to_string()))?;
    fs::remove_dir_all(&stage).with_context(|| format!("cannot clear {}", stage.display()))?;
    Ok(path)
}

/// Debian's own list of changes: of the package alone, and what has changed in the agent stands in the other.
fn changelog(version: &str, package: &Package) -> Result<String> {
    let mut date = Command::new("date");
    date.args(["-u", "-R", "-d", &format!("@{}", package.epoch)]).env("LC_ALL", "C");
    let date = process::output(&mut date)?;
    Ok(format!(
        "arp-agent ({version}) unstable; urgency=medium\n\n  * Release {}; changelog.gz says what has changed.\n\n -- {}  {}",
        package.version, package.maintainer, date
    ))
}
