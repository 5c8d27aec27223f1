//! The Kubernetes manifests.

use std::process::Command;

use anyhow::{Result, ensure};

use crate::{output, packages, repository};

#[test]
fn each_overlay_is_right_for_each_version_of_kubernetes() -> Result<()> {
    if packages().is_none() {
        return Ok(());
    }
    let said = output(Command::new("tests/manifests.sh").current_dir(repository()))?;
    let right = said.lines().filter(|line| line.contains(" is right for Kubernetes ")).count();
    // The base and three overlays, for four versions.
    ensure!(right == 16, "{said}");
    Ok(())
}
