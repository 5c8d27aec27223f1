//! `cargo xtask build`: the agent, with the eBPF program inside it.

use std::process::ExitCode;

use anyhow::Result;

use crate::setup::{self, Need};
use crate::{process, workspace};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// With optimisations
    #[arg(long)]
    release: bool,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    setup::ensure(&[Need::Build])?;
    let mut cargo = workspace::cargo();
    cargo.arg("build");
    if args.release {
        cargo.arg("--release");
    }
    process::run(&mut cargo)?;
    Ok(ExitCode::SUCCESS)
}
