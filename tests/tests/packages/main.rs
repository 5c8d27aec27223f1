//! The packages as an operator meets them: installed, changed and removed in a clean Debian with systemd, looked at by the
//! distribution's own checkers, run as a container with what the manifests grant. `cargo xtask test packages` makes them
//! and fetches what these tests run.

mod contents;
mod image;
mod life;
mod machine;
mod manifests;

use std::env;
use std::path::PathBuf;
use std::process::{Command, Output};

use anyhow::{Context as _, Result, bail};

/// This version's, as packages name it.
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// A folder that the runner names, or `None`, and the test is skipped.
fn folder(variable: &str) -> Option<PathBuf> {
    let folder = env::var_os(variable).map(PathBuf::from);
    if folder.is_none() {
        lab::skip(&format!("{variable} names no folder: `cargo xtask test packages` makes what this test needs"));
    }
    folder
}

/// The folder with the packages of this tree, and `last` in it with those to upgrade from.
fn packages() -> Option<PathBuf> {
    folder("ARP_PACKAGES")
}

/// This machine's processor, as Debian and OCI call it.
fn debian_arch() -> &'static str {
    match env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// The repository.
fn repository() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

/// Runs a command to its end.
fn run(command: &mut Command) -> Result<Output> {
    command.output().with_context(|| format!("starting {command:?}"))
}

/// What a command prints; fails with all that it said.
fn output(command: &mut Command) -> Result<String> {
    let output = run(command)?;
    if !output.status.success() {
        let [out, err] = [&output.stdout, &output.stderr].map(|said| String::from_utf8_lossy(said));
        bail!("{command:?}: {}\n{out}{err}", output.status);
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
