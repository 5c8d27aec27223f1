//! `cargo xtask run`: the fast path at work on a lab of its own.

use std::ffi::OsString;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, ExitCode};

use anyhow::{Context as _, Result, bail};

use crate::setup::{self, Need};
use crate::{machine, process, workspace};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Handed to the demonstration as they are
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<OsString>,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    if let Some(obstacle) = machine::lab_obstacle() {
        bail!("cannot make the lab: {obstacle}");
    }
    if !workspace::has_target(&workspace::metadata()?, "bench", "bin", "demo") {
        bail!("the package `bench` has no binary `demo` (bench/src/bin/demo/main.rs), which this verb runs");
    }
    setup::ensure(&[Need::Build, Need::Demo])?;
    let made =
        workspace::build(&["--release", "-p", "arp-agent", "-p", "bench", "--bin", "arp-agent", "--bin", "demo"])?;
    let demo = workspace::find_executable(&made, "demo")?;
    let agent = workspace::find_executable(&made, "arp-agent")?;

    // Replaced by the demonstration, not its parent: signals reach it and its exit code leaves untouched.
    let error =
        Command::new(&demo).args(&args.arguments).env("ARP_AGENT_BIN", agent).env("PATH", process::lab_path()).exec();
    Err(error).with_context(|| format!("cannot start {}", demo.display()))
}
