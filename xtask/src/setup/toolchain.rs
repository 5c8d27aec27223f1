//! Which Rust builds the eBPF program: one that can build `core` for `bpfel-unknown-none` from source, which takes
//! `-Z build-std` and the standard library's source.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, bail};

use crate::{paths, process};

/// Names the toolchain, a rustup name or an absolute path; nothing else is tried then.
pub(super) const VARIABLE: &str = "ARP_BPF_TOOLCHAIN";
/// Debian's Rust, as `rustup run` takes it. The release channel does not matter: RUSTC_BOOTSTRAP opens it.
pub(super) const DISTRIBUTION: &str = "/usr";
/// The packages of Debian's newest Rust with the standard library's source.
pub(super) const DISTRIBUTION_PACKAGES: [&str; 3] = ["rustc-web", "cargo-web", "rust-web-src"];
/// The LLVM that these packages are on, for what must be installed with them.
pub(super) const DISTRIBUTION_LLVM: u32 = 22;
const NIGHTLY: &str = "nightly";
const DOWNLOAD: Duration = Duration::from_secs(120);

/// A toolchain that can build the eBPF program.
#[derive(Debug)]
pub(crate) struct Toolchain {
    /// As `rustup run` takes it.
    pub(crate) name: String,
    pub(crate) sysroot: PathBuf,
    pub(super) release: String,
    /// Major version.
    pub(super) llvm: u32,
}

impl Toolchain {
    /// Whether the distribution's packages can add to it.
    pub(crate) fn is_the_distributions(&self) -> bool {
        self.name == DISTRIBUTION
    }
}

/// A toolchain, or why each candidate was refused.
pub(super) struct Search {
    pub(super) toolchain: Option<Toolchain>,
    pub(super) refused: Vec<(&'static str, String)>,
}

/// Looks at what is installed. `refuses` says why no linker could serve an LLVM version, if none can.
pub(super) fn search(refuses: impl Fn(u32) -> Option<String>) -> Result<Search> {
    if process::find_rustup().is_none() {
        bail!(
            "`rustup` is neither in PATH nor beside cargo: the build runs the eBPF program's toolchain through it. Install rustup, then again"
        );
    }
    if let Some(name) = env::var_os(VARIABLE) {
        let name = name.to_string_lossy().into_owned();
        return match inspect(&name) {
            Ok(toolchain) => Ok(Search { toolchain: Some(toolchain), refused: Vec::new() }),
            Err(why) => bail!("{VARIABLE}={name} cannot build the eBPF program: {why}. Unset it, or name another"),
        };
    }
    let mut search = Search { toolchain: None, refused: Vec::new() };
    for name in [NIGHTLY, DISTRIBUTION] {
        search.consider(name, &refuses);
    }
    Ok(search)
}

impl Search {
    fn consider(&mut self, name: &'static str, refuses: impl Fn(u32) -> Option<String>) {
        if self.toolchain.is_some() {
            return;
        }
        let usable = inspect(name).and_then(|toolchain| match refuses(toolchain.llvm) {
            Some(why) => Err(why),
            None => Ok(toolchain),
        });
        match usable {
            Ok(toolchain) => self.toolchain = Some(toolchain),
            Err(why) => self.refused.push((name, why)),
        }
    }

    /// Gets nightly's source of the standard library, and nightly itself if it is not there.
    pub(super) fn add_rust_src(&mut self, refuses: impl Fn(u32) -> Option<String>) {
        if self.refused.iter().all(|(name, why)| *name != NIGHTLY || !(why == NO_SOURCE || why == NOT_INSTALLED)) {
            return;
        }
        // An installed nightly gets the missing component only: updating it is its owner's business.
        let mut command = if self.refused.iter().any(|(name, why)| *name == NIGHTLY && why == NO_SOURCE) {
            rustup(["component", "add", "rust-src", "--toolchain", NIGHTLY])
        } else {
            rustup(["toolchain", "install", NIGHTLY, "--profile", "minimal", "--component", "rust-src"])
        };
        // Whether it succeeds or not, this is no longer what there is to say about nightly.
        self.refused.retain(|(name, _)| *name != NIGHTLY);
        let what = "fetching Rust nightly with the standard library's source";
        match process::long(what, "rustup", DOWNLOAD, &mut command) {
            Ok(()) => {
                self.consider(NIGHTLY, refuses);
                if let Some((_, why)) = self.refused.iter().find(|(name, _)| *name == NIGHTLY) {
                    eprintln!("setup: nightly cannot be used: {why}");
                }
            }
            Err(error) => {
                eprintln!("setup: that failed; trying the distribution's Rust");
                self.refused
                    .push((NIGHTLY, format!("no rust-src (the standard library's source) here, and {error:#}")));
            }
        }
    }
}

const NO_SOURCE: &str = "it has no source of the standard library (rust-src)";
const NOT_INSTALLED: &str = "not installed";

/// Whether that toolchain can build the eBPF program; otherwise why not.
pub(super) fn inspect(name: &str) -> Result<Toolchain, String> {
    let rustc = |argument| process::output(&mut rustup(["run", name, "rustc", argument]));
    // rustup takes a path for a toolchain only if the programs are there; its own message is about something else.
    if name.starts_with('/') && !Path::new(name).join("bin/rustc").is_file() {
        return Err(NOT_INSTALLED.to_owned());
    }
    let version = rustc("-vV").map_err(|error| match format!("{error:#}") {
        why if why.contains("is not installed") => NOT_INSTALLED.to_owned(),
        why => why,
    })?;
    let sysroot = rustc("--print=sysroot").map_err(|error| format!("{error:#}"))?;
    let sysroot = PathBuf::from(sysroot.trim());
    if !sysroot.join("lib/rustlib/src/rust/library/core/src/lib.rs").is_file() {
        return Err(NO_SOURCE.to_owned());
    }
    if !sysroot.join("bin/cargo").is_file() {
        return Err("it has no cargo".to_owned());
    }
    let (release, llvm) = parse_version(&version).ok_or("its `rustc -vV` names no release or no LLVM version")?;
    let wanted = env!("CARGO_PKG_RUST_VERSION");
    if numbers(&release) < numbers(wanted) {
        return Err(format!("it is Rust {release}, this workspace wants {wanted}"));
    }
    Ok(Toolchain { name: name.to_owned(), sysroot, release, llvm })
}

/// The toolchain that setup chose, by the same rule as the agent's build script.
pub(super) fn chosen() -> Result<String> {
    if let Some(name) = env::var_os(VARIABLE) {
        return Ok(name.to_string_lossy().into_owned());
    }
    let recorded = fs::read_to_string(paths::tools().join("bpf-toolchain"));
    Ok(recorded.map_or_else(|_| NIGHTLY.to_owned(), |line| line.trim().to_owned()))
}

/// rustup, forbidden to download a toolchain that was merely asked about.
pub(super) fn rustup<const N: usize>(arguments: [&str; N]) -> Command {
    let mut command = Command::new(process::find_rustup().unwrap_or_else(|| "rustup".into()));
    command.args(arguments).env("RUSTUP_AUTO_INSTALL", "0").env("RUST_BACKTRACE", "0");
    command
}

/// Release and LLVM's major version, from `rustc -vV`.
fn parse_version(text: &str) -> Option<(String, u32)> {
    let value = |key: &str| text.lines().find_map(|line| line.strip_prefix(key)).map(str::trim);
    let llvm = value("LLVM version:")?.split('.').next()?.parse().ok()?;
    Some((value("release:")?.to_owned(), llvm))
}

/// Major and minor of a version, for comparing.
fn numbers(version: &str) -> Vec<u32> {
    version.split('.').take(2).map_while(|part| part.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NIGHTLY_97: &str = "rustc 1.97.0-nightly (e50aa6fba 2026-05-19)\nbinary: rustc\nhost: x86_64-unknown-linux-gnu\nrelease: 1.97.0-nightly\nLLVM version: 22.1.4\n";

    #[test]
    fn rustcs_version_gives_release_and_llvm_major() {
        assert_eq!(parse_version(NIGHTLY_97), Some(("1.97.0-nightly".to_owned(), 22)));
        assert_eq!(parse_version("rustc 1.97.0\n"), None);
    }

    #[test]
    fn versions_compare_by_number_not_by_text() {
        assert!(numbers("1.100.0") > numbers("1.95"));
        assert!(numbers("1.63.0") < numbers("1.95"));
        assert_eq!(numbers("1.97.0-nightly"), vec![1, 97]);
    }

    #[test]
    fn a_path_without_rustc_is_not_installed() {
        assert_eq!(inspect("/nowhere").unwrap_err(), NOT_INSTALLED);
    }
}
