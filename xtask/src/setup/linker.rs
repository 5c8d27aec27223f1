//! bpf-linker: turns LLVM bitcode into the eBPF object, so its LLVM must be able to read what rustc's LLVM wrote.

use std::env;
use std::fs;
use std::io::ErrorKind;
use std::ops::RangeInclusive;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use super::packages;
use crate::{paths, process, workspace};

const VERSION: &str = "0.13.0";
/// The LLVM versions that it can be built for (its features llvm-21 …).
const LLVMS: RangeInclusive<u32> = 21..=23;
const BUILD: Duration = Duration::from_secs(30 * 60);

/// Where `.cargo/config.toml` looks for it.
fn ours() -> PathBuf {
    paths::tools().join("bin/bpf-linker")
}

/// Describes the linker that is installed.
pub(super) fn describe() -> String {
    match examine(&ours()) {
        Ok(Some(llvm)) => format!("{VERSION}, LLVM {llvm}"),
        Ok(None) => format!("{VERSION}, LLVM built in"),
        Err(why) => why,
    }
}

/// Why there can be no linker for a rustc with this LLVM; `None` if there can be one.
pub(super) fn refuses(rustc: u32) -> Option<String> {
    if ready(rustc).is_some() || choose(rustc, |llvm| installed(llvm) || packages::exists(&dev_package(llvm))).is_some()
    {
        return None;
    }
    Some(format!(
        "it is on LLVM {rustc}, for which there is neither a bpf-linker {VERSION} in PATH nor an LLVM to build one with ({})",
        dev_package(rustc)
    ))
}

/// The packages that building the linker needs and this machine lacks.
pub(super) fn missing_packages(rustc: u32) -> Result<Vec<String>> {
    if ready(rustc).is_some() {
        return Ok(Vec::new());
    }
    let mut missing = Vec::new();
    if choose(rustc, installed).is_none() {
        let available = choose(rustc, |llvm| packages::exists(&dev_package(llvm)));
        missing.push(dev_package(available.unwrap_or(rustc)));
    }
    if !Path::new("/usr/include/zstd.h").exists() {
        missing.push("libzstd-dev".to_owned());
    }
    Ok(missing)
}

/// Puts a suitable linker in its place: links to the one in PATH, or builds it.
pub(super) fn ensure(rustc: u32) -> Result<()> {
    let ours = ours();
    match ready(rustc) {
        Some(found) if found == ours => return Ok(()),
        Some(found) => {
            eprintln!("setup: using {} as the eBPF program's linker", found.display());
            if let Err(error) = fs::remove_file(&ours)
                && error.kind() != ErrorKind::NotFound
            {
                return Err(error).with_context(|| format!("cannot replace {}", ours.display()));
            }
            let folder = paths::tools().join("bin");
            return fs::create_dir_all(&folder)
                .and_then(|()| symlink(&found, &ours))
                .with_context(|| format!("cannot link {} to {}", ours.display(), found.display()));
        }
        None => {}
    }
    let llvm = choose(rustc, installed).with_context(|| {
        format!("no LLVM to build bpf-linker with: {} has no libLLVM.so", llvm_prefix(rustc).display())
    })?;
    let prefix = llvm_prefix(llvm);
    let what = format!("building bpf-linker {VERSION} for LLVM {llvm} (a minute or two)");
    let mut cargo = workspace::cargo();
    cargo
        .args(["install", "bpf-linker", "--version", VERSION, "--locked", "--force", "--no-default-features"])
        .args(["--features", &format!("llvm-{llvm}"), "--root"])
        .arg(paths::tools())
        .env("LLVM_PREFIX", &prefix)
        .env(format!("LLVM_SYS_{llvm}1_PREFIX"), &prefix)
        // Its hundred dependencies are of no use to this workspace's own builds.
        .env_remove("CARGO_TARGET_DIR");
    process::long(&what, "bpf-linker", BUILD, &mut cargo)
        .context("cannot build bpf-linker; without a network, put a bpf-linker 0.13 into PATH and try again")?;
    match examine(&ours) {
        Ok(_) => Ok(()),
        Err(why) => bail!("the bpf-linker that was just built does not work: {why}"),
    }
}

/// A linker that is already here and can read what that rustc's LLVM writes: the project's own, or the one in PATH.
fn ready(rustc: u32) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let in_path = env::split_paths(&path).map(|folder| folder.join("bpf-linker"));
    let mut candidates = std::iter::once(ours()).chain(in_path).filter(|linker| linker.is_file());
    candidates.find(|linker| examine(linker).is_ok_and(|llvm| llvm.is_none_or(|llvm| llvm >= rustc)))
}

/// The LLVM of a linker of the right version; none when it is built in, which is how the newest is distributed.
fn examine(linker: &Path) -> Result<Option<u32>, String> {
    let version = process::output(Command::new(linker).arg("--version")).map_err(|error| format!("{error:#}"))?;
    if version.trim() != format!("bpf-linker {VERSION}") {
        return Err(format!("{} is `{}`, not {VERSION}", linker.display(), version.trim()));
    }
    let bytes = fs::read(linker).map_err(|error| format!("cannot read {}: {error}", linker.display()))?;
    Ok(shared_llvm(&bytes))
}

/// The major version in the name of the libLLVM that an executable loads.
fn shared_llvm(executable: &[u8]) -> Option<u32> {
    let name = b"libLLVM.so.";
    let start = executable.windows(name.len()).position(|window| window == name)? + name.len();
    let digits: String = executable[start..].iter().map(|&b| b as char).take_while(char::is_ascii_digit).collect();
    digits.parse().ok()
}

/// The LLVM to build the linker for: rustc's own or the next newer one, since LLVM reads what its elders wrote.
fn choose(rustc: u32, here: impl Fn(u32) -> bool) -> Option<u32> {
    LLVMS.filter(|&llvm| llvm >= rustc).find(|&llvm| here(llvm))
}

fn installed(llvm: u32) -> bool {
    llvm_prefix(llvm).join("lib/libLLVM.so").exists()
}

fn llvm_prefix(llvm: u32) -> PathBuf {
    PathBuf::from(format!("/usr/lib/llvm-{llvm}"))
}

fn dev_package(llvm: u32) -> String {
    format!("llvm-{llvm}-dev")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_linker_is_built_for_rustcs_llvm_or_newer() {
        assert_eq!(choose(22, |_| true), Some(22));
        assert_eq!(choose(22, |llvm| llvm == 23), Some(23));
        assert_eq!(choose(22, |llvm| llvm == 21), None, "an older LLVM cannot read newer bitcode");
        assert_eq!(choose(24, |_| true), None, "bpf-linker {VERSION} knows no LLVM 24");
        assert_eq!(choose(18, |_| true), Some(21));
    }

    #[test]
    fn the_llvm_of_a_linker_is_read_from_its_library() {
        assert_eq!(shared_llvm(b"\0\x7fELF libLLVM.so.22.1\0libc.so.6"), Some(22));
        assert_eq!(shared_llvm(b"\0\x7fELF libc.so.6"), None);
    }
}
