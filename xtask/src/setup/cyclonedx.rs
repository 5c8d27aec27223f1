//! cargo-cyclonedx: writes what a program is made of, as a CycloneDX document.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::{paths, process, workspace};

const VERSION: &str = "0.5.9";
const BUILD: Duration = Duration::from_secs(30 * 60);

/// The program, which is built into `.tools` where it is not there.
pub(crate) fn cyclonedx() -> Result<PathBuf> {
    let program = paths::tools().join("bin/cargo-cyclonedx");
    let said = || process::output(Command::new(&program).args(["cyclonedx", "--version"])).unwrap_or_default();
    if said().contains(VERSION) {
        return Ok(program);
    }
    let mut cargo = workspace::cargo();
    // Without optimisations: it runs for a second, and to optimise it takes minutes.
    cargo.args(["install", "cargo-cyclonedx", "--version", VERSION, "--locked", "--force", "--debug", "--root"]);
    cargo.arg(paths::tools()).env_remove("CARGO_TARGET_DIR");
    process::long(&format!("building cargo-cyclonedx {VERSION} (a minute)"), "cargo-cyclonedx", BUILD, &mut cargo)
        .context("cannot build cargo-cyclonedx")?;
    anyhow::ensure!(said().contains(VERSION), "the cargo-cyclonedx that was just built does not work");
    Ok(program)
}
