//! The processors that the agent is built for.

use std::env;
use std::path::PathBuf;

use anyhow::{Result, bail, ensure};
use clap::ValueEnum;

use crate::{paths, process, workspace};

/// A processor, by the name that Debian, Go and OCI give it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(crate) enum Arch {
    Amd64,
    Arm64,
}

impl Arch {
    /// This machine's, if it is one of them.
    pub(crate) fn own() -> Option<Arch> {
        [Arch::Amd64, Arch::Arm64].into_iter().find(|arch| arch.machine() == env::consts::ARCH)
    }

    /// As Debian, Go and OCI call it.
    pub(crate) fn debian(self) -> &'static str {
        match self {
            Arch::Amd64 => "amd64",
            Arch::Arm64 => "arm64",
        }
    }

    /// As the kernel, Rust and rpm call it.
    pub(crate) fn machine(self) -> &'static str {
        match self {
            Arch::Amd64 => "x86_64",
            Arch::Arm64 => "aarch64",
        }
    }

    /// Rust's target for programs that need no library. (Who links for which: .cargo/config.toml.)
    pub(crate) fn static_target(self) -> String {
        format!("{}-unknown-linux-musl", self.machine())
    }
}

/// Makes sure that rustup's Rust has a target.
pub(crate) fn add_target(target: &str) -> Result<()> {
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
    add.args(["target", "add", target]).current_dir(paths::root());
    process::run(&mut add)?;
    ensure!(has(target)?, "rustup added the target {target}, but to another toolchain than this one");
    Ok(())
}
