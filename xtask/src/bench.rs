//! `cargo xtask bench`: the fast path measured against the kernel and against everyone else.

use std::ffi::OsString;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, ExitCode};

use anyhow::{Context as _, Result, bail};

use crate::setup::{self, Need};
use crate::{machine, process, workspace};

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
    setup::ensure(&[Need::Build, Need::Worlds])?;
    let made = workspace::build(&["--release", "-p", "arp-agent", "-p", "bench", "--bins"])?;
    let bench = workspace::find_executable(&made, "bench")?;
    let agent = workspace::find_executable(&made, "arp-agent")?;

    // Replaced by it, not its parent: signals reach it and its exit code leaves untouched.
    let mut command = Command::new(&bench);
    command.args(&args.arguments).current_dir(workspace::root()).env("ARP_AGENT_BIN", agent);
    command.env("PATH", process::lab_path());
    if wants_peers(&args.arguments) {
        match setup::unpack_peers() {
            Ok(folder) => drop(command.env("ARP_BENCH_PEERS", folder)),
            // The benchmark that wants them says what it could not measure.
            Err(error) => eprintln!("setup: {error:#}"),
        }
    }
    Err(command.exec()).with_context(|| format!("cannot start {}", bench.display()))
}

/// Whether the benchmark of the others' programs is going to run: by name, or because no benchmark is named.
fn wants_peers(arguments: &[OsString]) -> bool {
    let words: Vec<_> = arguments.iter().filter_map(|word| word.to_str()).collect();
    // A bare word names a benchmark; a file has a dot or a slash.
    let names_one = words.iter().any(|word| !word.starts_with('-') && !word.contains(['.', '/']));
    let measures = !["--help", "-h", "--list", "--from"].iter().any(|option| words.contains(option));
    measures && (!names_one || words.contains(&"peers"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_peers_are_fetched_only_where_they_are_measured() {
        let wants = |line: &str| wants_peers(&line.split_whitespace().map(OsString::from).collect::<Vec<_>>());
        assert!(wants("") && wants("--quick --json out.json --plots docs/plots") && wants("decide peers"));
        assert!(!wants("decide --json out.json") && !wants("--list") && !wants("--from docs/performance.json"));
    }
}
