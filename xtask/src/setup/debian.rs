//! A clean Debian with systemd, in which packages are installed.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context as _, Result};

use super::apt::PATIENCE;
use crate::{paths, process};

const RELEASE: &str = "bookworm";
/// Besides what every Debian has. `rpm` is there to try the other package.
const PACKAGES: &str = "systemd,systemd-sysv,dbus,iproute2,rpm";

/// The folder with it, which is made once.
pub(crate) fn debian() -> Result<PathBuf> {
    let root = paths::tools().join("debian");
    let (made, wanted) = (paths::tools().join("debian.made"), format!("{RELEASE} {PACKAGES}"));
    if fs::read_to_string(&made).is_ok_and(|text| text == wanted) {
        return Ok(root);
    }
    if root.exists() {
        fs::remove_dir_all(&root).with_context(|| format!("cannot clear {}", root.display()))?;
    }
    let mut command = process::program("mmdebstrap")?;
    command.args(["--variant=minbase", &format!("--include={PACKAGES}"), RELEASE]).arg(&root);
    process::long("making a Debian in .tools/debian", "mmdebstrap", PATIENCE, &mut command)?;
    fs::write(&made, wanted).with_context(|| format!("cannot write {}", made.display()))?;
    Ok(root)
}
