//! The static binary, and the pages that are made of its command line.

use std::env;
use std::fs;
use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};

use super::{Arch, Package};
use crate::{process, workspace};

/// Builds the agent for a processor: static, stripped, without paths of this machine in it.
pub(super) fn build(arch: Arch, package: &Package) -> Result<Vec<u8>> {
    let target = format!("{}-unknown-linux-musl", arch.machine());
    add_target(&target)?;
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
    if arch == Arch::Arm64 {
        // The linker that comes with Rust: the machine's own is for its own processor.
        cargo.env("CARGO_TARGET_AARCH64_UNKNOWN_LINUX_MUSL_LINKER", "rust-lld");
    }
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

/// Makes sure that rustup's Rust has a target.
fn add_target(target: &str) -> Result<()> {
    let rustup = process::find_rustup();
    let has = |target: &str| -> Result<bool> {
        let mut list = workspace::rustc();
        list.args(["--print", "target-libdir", "--target", target]);
        Ok(PathBuf::from(process::output(&mut list)?.trim()).is_dir())
    };
    if has(target)? {
        return Ok(());
    }
    let Some(rustup) = rustup else {
        bail!("this Rust has no target {target}: install it, as with `rustup target add {target}`");
    };
    let mut add = std::process::Command::new(rustup);
    add.args(["target", "add", target]).current_dir(workspace::root());
    process::run(&mut add)?;
    anyhow::ensure!(has(target)?, "rustup added the target {target}, but to another toolchain than this one");
    Ok(())
}

fn cargo_home() -> Result<PathBuf> {
    let home = || Some(PathBuf::from(env::var_os("HOME")?).join(".cargo"));
    env::var_os("CARGO_HOME").map(PathBuf::from).or_else(home).context("neither CARGO_HOME nor HOME is set")
}
