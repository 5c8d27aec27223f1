//! `cargo xtask parity`: random worlds, the kernel alone against the kernel with the fast path.

use std::ffi::OsString;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, ExitCode};

use anyhow::{Context as _, Result, bail};

use crate::setup::{self, Need};
use crate::{machine, process, workspace};

#[derive(clap::Args)]
#[command(disable_help_flag = true)]
pub(crate) struct Args {
    /// --seconds N, --seed S, --frames F …; --help shows them all
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<OsString>,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    if let Some(obstacle) = machine::lab_obstacle() {
        bail!("cannot make the lab: {obstacle}");
    }
    setup::ensure(&[Need::Build, Need::Worlds])?;
    let made = workspace::build(&["--release", "-p", "arp-agent", "-p", "parity", "--bins"])?;
    let parity = workspace::find_executable(&made, "parity")?;
    let agent = workspace::find_executable(&made, "arp-agent")?;

    // Replaced by it, not its parent: signals reach it and its exit code leaves untouched.
    let mut command = Command::new(&parity);
    command.args(&args.arguments).current_dir(workspace::root()).env("ARP_AGENT_BIN", agent);
    command.env("PATH", process::lab_path());
    Err(command.exec()).with_context(|| format!("cannot start {}", parity.display()))
}
