//! `cargo xtask setup`; the other verbs run it first. It finds what the build and the lab need, installs what is
//! missing if it can, and otherwise says in one message what to type. It is fast if nothing is missing.

mod apt;
mod cyclonedx;
mod debian;
mod linker;
mod packages;
mod toolchain;

use std::collections::BTreeSet;
use std::env;
use std::fs;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

use anyhow::{Context as _, Result, anyhow, bail};

use crate::arch::Arch;
use crate::paths;
pub(crate) use apt::Apt;
pub(crate) use cyclonedx::cyclonedx;
pub(crate) use debian::debian;
pub(crate) use packages::qemu;
use toolchain::Search;
pub(crate) use toolchain::Toolchain;

/// What a verb is about to do.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Need {
    /// Build the eBPF program.
    Build,
    /// Run the demonstration, whose clients are the system's own.
    Demo,
    /// Run the lab's tests.
    Lab,
    /// Make random scenarios, or measure.
    Scenarios,
    /// Boot other kernels on a processor.
    Vm(Arch),
    /// Make a Debian package.
    Deb,
    /// Make an rpm package.
    Rpm,
    /// Try packages out.
    Packages,
}

pub(crate) fn run() -> Result<ExitCode> {
    ensure(&[Need::Build, Need::Demo, Need::Lab, Need::Scenarios])?;
    let toolchain = toolchain::inspect(&toolchain::chosen()?).map_err(anyhow::Error::msg)?;
    println!(
        "eBPF toolchain  {} (rustc {}, LLVM {})\nbpf-linker      .tools/bin/bpf-linker ({})\nlab clients     {}",
        toolchain.name,
        toolchain.release,
        toolchain.llvm,
        linker::describe(),
        packages::CLIENTS.map(|client| client.program).join(", "),
    );
    Ok(ExitCode::SUCCESS)
}

/// Makes sure that everything needed is there. If it is, this prints nothing and takes no time.
pub(crate) fn ensure(needs: &[Need]) -> Result<()> {
    let mut missing = BTreeSet::new();
    let mut search = None;
    if needs.contains(&Need::Build) {
        let found = find_toolchain()?;
        match found.toolchain {
            Some(ref toolchain) => missing.extend(linker::missing_packages(toolchain.llvm)?),
            None => {
                // It may be there, and only lack a linker.
                if toolchain::inspect(toolchain::DISTRIBUTION).is_err() {
                    missing.extend(toolchain::DISTRIBUTION_PACKAGES.map(str::to_owned));
                }
                missing.extend(linker::missing_packages(toolchain::DISTRIBUTION_LLVM)?);
            }
        }
        search = Some(found);
    }
    if !missing.is_empty() {
        let missing: Vec<&str> = missing.iter().map(String::as_str).collect();
        packages::install(&missing).map_err(|error| anyhow!("{}\n{error:#}", explain(search.as_ref(), &missing)))?;
    }
    for need in needs {
        packages::ensure_clients(match need {
            Need::Demo => &packages::DEMO,
            Need::Lab => &packages::TESTS,
            Need::Scenarios => &packages::SCENARIOS,
            Need::Vm(Arch::Amd64) => &packages::VM_AMD64,
            Need::Vm(Arch::Arm64) => &packages::VM_ARM64,
            Need::Deb => &packages::DEB,
            Need::Rpm => &packages::RPM,
            Need::Packages => &packages::TRIALS,
            Need::Build => &[],
        })?;
    }
    if needs.contains(&Need::Lab) {
        packages::unpack_tools();
    }
    if let Some(search) = search {
        finish_build_tools(search)?;
    }
    Ok(())
}

/// The toolchain for the eBPF program; if there is none, one is installed with rustup. `None`: only the distribution's
/// is left.
fn find_toolchain() -> Result<Search> {
    let mut search = toolchain::search(linker::refuses)?;
    if search.toolchain.is_none() {
        apt::refresh_if_never_done();
        search.add_rust_src(linker::refuses);
    }
    Ok(search)
}

/// After the packages are installed: builds the linker, and tells the agent's build script which toolchain to use.
fn finish_build_tools(search: Search) -> Result<()> {
    let toolchain = match search.toolchain {
        Some(toolchain) => toolchain,
        None => match toolchain::inspect(toolchain::DISTRIBUTION) {
            Ok(toolchain) => toolchain,
            Err(why) => bail!("the distribution's Rust was installed, but cannot build the eBPF program: {why}"),
        },
    };
    linker::ensure(toolchain.llvm)?;
    record(&toolchain)
}

/// Tells the agent's build script which toolchain to use.
fn record(toolchain: &Toolchain) -> Result<()> {
    if env::var_os(toolchain::VARIABLE).is_some() {
        // The build script reads the variable too; what is recorded stays for the time when it is gone.
        return Ok(());
    }
    let path = paths::tools().join("bpf-toolchain");
    let line = format!("{}\n", toolchain.name);
    // Written only when it changes: cargo rebuilds what depends on it by its time.
    if fs::read_to_string(&path).is_ok_and(|old| old == line) {
        return Ok(());
    }
    eprintln!("setup: the eBPF program is built with toolchain `{}`", toolchain.name);
    fs::create_dir_all(paths::tools())
        .and_then(|()| fs::write(&path, line))
        .with_context(|| format!("cannot write {}", path.display()))
}

/// Cargo of the toolchain that builds the eBPF program, for the BPF target.
pub(crate) fn bpf_cargo() -> Result<(Command, Toolchain)> {
    let toolchain = toolchain::inspect(&toolchain::chosen()?).map_err(anyhow::Error::msg)?;
    let mut cargo = toolchain::rustup(["run", &toolchain.name, "cargo"]);
    cargo.current_dir(paths::root()).env("RUSTC_BOOTSTRAP", "1");
    Ok((cargo, toolchain))
}

/// Installs the distribution's clippy for the distribution's Rust.
pub(crate) fn install_distribution_clippy() -> Result<()> {
    packages::install(&["rust-web-clippy"])
}

/// Unpacks the programs that `cargo xtask bench peers` measures into a folder of the project's: nothing is installed, and
/// no service starts. The folder.
pub(crate) fn unpack_peers() -> Result<PathBuf> {
    let folder = paths::tools().join("peers");
    Apt::OWN.unpack(&packages::PEERS, &folder)?;
    Ok(folder)
}

/// What is wrong, before the remedy.
fn explain(search: Option<&Search>, missing: &[&str]) -> String {
    let Some(Search { toolchain: None, refused }) = search else {
        return format!("this machine lacks {}.", missing.join(", "));
    };
    let mut text = "no Rust toolchain here can build the eBPF program (core for bpfel-unknown-none):".to_owned();
    for (name, why) in refused {
        text.push_str(&format!("\n  {name}: {why}"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_lists_each_toolchain_with_its_reason() {
        let search = Search { toolchain: None, refused: vec![("nightly", "no source".to_owned())] };
        assert!(explain(Some(&search), &["rust-web-src"]).ends_with("\n  nightly: no source"));
        assert_eq!(explain(None, &["ethtool", "nftables"]), "this machine lacks ethtool, nftables.");
    }
}
