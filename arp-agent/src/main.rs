//! Parse, dispatch, exit code.

use arp_agent::cli::{self, Cli, Command};
use arp_agent::commands;
use clap::{CommandFactory as _, FromArgMatches as _};
use std::process::ExitCode;

fn main() -> ExitCode {
    let matches = Cli::command().get_matches();
    let cli = Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    let level = match cli.verbose {
        0 => log::LevelFilter::Info,
        1 => log::LevelFilter::Debug,
        _ => log::LevelFilter::Trace,
    };
    env_logger::Builder::new().filter_module("arp_", level).filter_level(log::LevelFilter::Warn).init();
    let done = match &cli.command {
        Command::Run(arguments) => commands::run::run(arguments, |name| cli::gives(&matches, name), cli.verbose),
        Command::Preflight(arguments) => commands::preflight::preflight(arguments),
        Command::Status(arguments) => commands::status::status(arguments),
        Command::Explain(arguments) => commands::explain::explain(arguments),
        Command::Stats(arguments) => commands::stats::stats(arguments),
        Command::Detach(arguments) => commands::detach::detach(arguments),
    };
    match done {
        Ok(exit) => ExitCode::from(exit as u8),
        Err(error) => {
            eprintln!("arp-agent: {error:#}");
            ExitCode::FAILURE
        }
    }
}
