//! The static binary, and the pages that are made of its command line.

use std::env;
use std::fs;
use std::path::PathBuf;

use anyhow::{Context as _, Result};

use super::Package;
use crate::arch::{self, Arch};
use crate::{process, workspace};

/// Builds the agent for a processor: static, stripped, without paths of this machine in it.
pub(super) fn build(arch: Arch, package: &Package) -> Result<Vec<u8>> {
    let target = arch.static_target();
    arch::add_target(&target)?;
    let mut cargo = workspace::cargo();
    cargo.args([
        "build",
        "--locked",
        "--profile",
        "dist",
        "-p",
        "arp-agent",
        "--bin",
        "arp-agent",
        "--target",
        &target,
    ]);
    let remaps = [(workspace::root(), "/usr/src/arp-agent"), (cargo_home()?, "/usr/src/cargo")];
    let flags = remaps.map(|(from, to)| format!("--remap-path-prefix={}={to}", from.display())).join("\x1f");
    cargo.env("CARGO_ENCODED_RUSTFLAGS", flags).env("SOURCE_DATE_EPOCH", package.epoch.to_string());
    process::run(&mut cargo)?;
    let path = workspace::target_directory(&workspace::metadata()?)?.join(target).join("dist/arp-agent");
    fs::read(&path).with_context(|| format!("cannot read {}", path.display()))
}

/// Makes the man pages and completions; the folder.
pub(super) fn pages(package: &Package) -> Result<PathBuf> {
    let folder = package.stage("pages")?;
    let made = workspace::build(&["--locked", "-p", "packaging", "--bin", "packaging"])?;
    let program = workspace::find_executable(&made, "packaging")?;
    process::run(std::process::Command::new(program).arg(&folder))?;
    Ok(folder)
}

fn cargo_home() -> Result<PathBuf> {
    let home = || Some(PathBuf::from(env::var_os("HOME")?).join(".cargo"));
    env::var_os("CARGO_HOME").map(PathBuf::from).or_else(home).context("neither CARGO_HOME nor HOME is set")
}
