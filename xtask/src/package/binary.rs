//! The static binary, and the pages that are made of its command line.

use std::env;
use std::fs;
use std::path::PathBuf;

use anyhow::{Context as _, Result};

use super::{LARGEST_BINARY, Package, check_size};
use crate::arch::{self, Arch};
use crate::{paths, process, workspace};

/// Where the workspace lies, as far as what is made of it says.
pub(super) const SOURCE: &str = "/usr/src/arp-agent";

/// Builds the agent for a processor: static, stripped, without paths of this machine in it.
pub(super) fn build(arch: Arch, package: &Package) -> Result<Vec<u8>> {
    let path = compile(arch, package)?;
    fs::read(&path).with_context(|| format!("cannot read {}", path.display()))
}

/// The same, left where cargo puts it.
pub(super) fn compile(arch: Arch, package: &Package) -> Result<PathBuf> {
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
    let remaps = [(paths::root(), SOURCE), (cargo_home()?, "/usr/src/cargo")];
    let flags = remaps.map(|(from, to)| format!("--remap-path-prefix={}={to}", from.display())).join("\x1f");
    cargo.env("CARGO_ENCODED_RUSTFLAGS", flags).env("SOURCE_DATE_EPOCH", package.epoch.to_string());
    process::run(&mut cargo)?;
    Ok(workspace::target_directory(&workspace::metadata()?)?.join(target).join("dist/arp-agent"))
}

/// Fails unless a binary is for that processor, static, and small enough.
pub(super) fn check(arch: Arch, binary: &[u8]) -> Result<()> {
    let what = format!("the binary for {}", arch.machine());
    check_size(&what, binary.len() as u64, LARGEST_BINARY)?;
    // Of an ELF file: the processor's number (the ELF header's e_machine), and whether it names a loader of libraries.
    let (magic, machine) = (binary.get(..4), binary.get(18..20));
    let wanted = match arch {
        Arch::Amd64 => 62_u16,
        Arch::Arm64 => 183,
    };
    anyhow::ensure!(
        magic == Some(b"\x7fELF") && machine == Some(&wanted.to_le_bytes()),
        "{what} is for another processor"
    );
    anyhow::ensure!(
        !binary.windows(8).any(|bytes| bytes == b"/lib/ld-" || bytes == b"/lib64/l"),
        "{what} is not static"
    );
    Ok(())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_binary_must_be_for_its_processor_and_static() {
        // EI_MAG to EI_PAD, e_type, e_machine.
        let elf = |machine: u8| [b"\x7fELF\x02\x01\x01".as_slice(), &[0; 9], &[2, 0, machine, 0]].concat();
        assert!(check(Arch::Amd64, &elf(62)).is_ok() && check(Arch::Arm64, &elf(183)).is_ok());
        assert!(check(Arch::Amd64, &elf(183)).is_err() && check(Arch::Amd64, b"#!/bin/sh").is_err());
        let dynamic = [elf(62), b"/lib64/ld-linux-x86-64.so.2".to_vec()].concat();
        assert!(check(Arch::Amd64, &dynamic).unwrap_err().to_string().ends_with("is not static"));
    }
}
