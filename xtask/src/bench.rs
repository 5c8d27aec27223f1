//! `cargo xtask bench`: the fast path measured against the kernel and against everyone else.

use std::ffi::OsString;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, ExitCode};

use anyhow::{Context as _, Result, bail};

use crate::setup::{self, Need};
use crate::{machine, workspace};

#[derive(clap::Args)]
#[command(disable_help_flag = true)]
pub(crate) struct Args {
    /// NAME…, --quick, --json FILE, --plots DIR …; --help shows them all
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<OsString>,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    if let Some(obstacle) = machine::lab_obstacle() {
        bail!("cannot measure: {obstacle}");
    }
    setup::ensure(&[Need::Build, Need::Lab])?;
    let made = workspace::build(&["--release", "-p", "arp-agent", "-p", "bench", "--bins"])?;
    let bench = workspace::find_executable(&made, "bench")?;
    let agent = workspace::find_executable(&made, "arp-agent")?;

    // Replaced by it, not its parent: signals reach it and its exit code leaves untouched.
    let mut command = Command::new(&bench);
    command.args(&args.arguments).current_dir(workspace::root()).env("ARP_AGENT_BIN", agent);
    Err(command.exec()).with_context(|| format!("cannot start {}", bench.display()))
}
