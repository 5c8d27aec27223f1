//! `cargo xtask run`, `parity` and `bench`: each builds the agent and a program of the workspace, and then becomes that
//! program.

use std::ffi::OsString;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, ExitCode};

use anyhow::{Context as _, Result, bail};

use crate::setup::{self, Need};
use crate::{machine, package, paths, process, workspace};

#[derive(clap::Args)]
#[command(disable_help_flag = true)]
pub(crate) struct Args {
    /// Handed to the program as they are; --help shows them all
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<OsString>,
}

/// A program that needs a lab.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tool {
    /// The demonstration.
    Demo,
    /// Random scenarios.
    Parity,
    /// The benchmarks.
    Bench,
}

impl Tool {
    /// Package, binary, and what it runs.
    fn parts(self) -> (&'static str, &'static str, Need) {
        match self {
            Tool::Demo => ("bench", "demo", Need::Demo),
            Tool::Parity => ("parity", "parity", Need::Scenarios),
            Tool::Bench => ("bench", "bench", Need::Scenarios),
        }
    }
}

pub(crate) fn run(tool: Tool, Args { arguments }: &Args) -> Result<ExitCode> {
    if let Some(obstacle) = machine::lab_obstacle() {
        bail!("cannot make the lab: {obstacle}");
    }
    let (package, binary, need) = tool.parts();
    setup::ensure(&[Need::Build, need])?;
    let made =
        workspace::build(&["--release", "-p", "arp-agent", "-p", package, "--bin", "arp-agent", "--bin", binary])?;
    let program = workspace::find_executable(&made, binary)?;
    let mut command = Command::new(&program);
    command.args(arguments).current_dir(paths::root()).env("PATH", process::lab_path());
    command.env("ARP_AGENT_BIN", workspace::find_executable(&made, "arp-agent")?);
    if tool == Tool::Bench && wants("scale", arguments) {
        command.env("ARP_BENCH_SHIPPED", package::binary_alone()?);
    }
    if tool == Tool::Bench && wants("peers", arguments) {
        match setup::unpack_peers() {
            Ok(folder) => drop(command.env("ARP_BENCH_PEERS", folder)),
            // The benchmark that wants them says what it could not measure.
            Err(error) => eprintln!("setup: {error:#}"),
        }
    }
    // Replaced by it, not its parent: signals reach it and its exit code leaves untouched.
    Err(command.exec()).with_context(|| format!("cannot start {}", program.display()))
}

/// Whether a benchmark is going to run: by name, or because none is named.
fn wants(name: &str, arguments: &[OsString]) -> bool {
    let words: Vec<_> = arguments.iter().filter_map(|word| word.to_str()).collect();
    // A bare word names a benchmark; a file has a dot or a slash.
    let names_one = words.iter().any(|word| !word.starts_with('-') && !word.contains(['.', '/']));
    let measures = !["--help", "-h", "--list", "--from"].iter().any(|option| words.contains(option));
    measures && (!names_one || words.contains(&name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_benchmark_needs_is_made_only_where_it_runs() {
        let wants = |line: &str| wants("peers", &line.split_whitespace().map(OsString::from).collect::<Vec<_>>());
        assert!(wants("") && wants("--quick --json out.json --plots docs/plots") && wants("decide peers"));
        assert!(!wants("decide --json out.json") && !wants("--list") && !wants("--from docs/performance.json"));
    }
}
