//! The project's own commands, `cargo xtask VERB`. This file parses and dispatches.

mod arch;
mod build;
mod docs;
#[cfg(test)]
mod faults;
#[cfg(test)]
mod imports;
mod lint;
mod machine;
#[cfg(test)]
mod names;
mod package;
mod paths;
mod process;
#[cfg(test)]
mod rows;
mod setup;
#[cfg(test)]
mod syntax;
mod test;
mod tool;
mod vm;
mod workspace;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use tool::Tool;

/// Build, run, test and lint the ARP fast path.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Install what the build and the lab need, where it is missing
    Setup,
    /// Build the agent, with the eBPF program inside it
    Build(build::Args),
    /// Show the fast path at work on a lab of its own
    Run(tool::Args),
    /// Run the tests that this machine can run, and list those that it cannot
    Test(test::Args),
    /// Run the tests that need root on other kernels of Debian's, in qemu
    Vm(vm::Args),
    /// Random configurations and frames: the kernel alone against the kernel with the fast path
    Parity(tool::Args),
    /// Measure: cost of a decision, latency, storms, what others pay …; against the kernel and against everyone else
    Bench(tool::Args),
    /// Write the documents that are made of the code
    Docs,
    /// Make deb, rpm, tar.gz and OCI image of the agent, in target/package
    Package(package::Args),
    /// Formatting, clippy on the host and on the BPF target, documentation, dependencies
    Lint(lint::Args),
}

fn main() -> ExitCode {
    let done = match Cli::parse().verb {
        Verb::Setup => setup::run(),
        Verb::Build(args) => build::run(&args),
        Verb::Run(args) => tool::run(Tool::Demo, &args),
        Verb::Test(args) => test::run(&args),
        Verb::Vm(args) => vm::run(&args),
        Verb::Parity(args) => tool::run(Tool::Parity, &args),
        Verb::Bench(args) => tool::run(Tool::Bench, &args),
        Verb::Docs => docs::run(),
        Verb::Package(args) => package::run(&args),
        Verb::Lint(args) => lint::run(&args),
    };
    done.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}
