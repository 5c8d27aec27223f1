//! Parse, dispatch, exit code.

use arp_agent::cli::{Cli, Command};
use arp_agent::config::sources::Sources;
use arp_agent::{commands, logging};
use clap::error::ErrorKind;
use clap::{CommandFactory as _, FromArgMatches as _};
use std::process::ExitCode;

fn main() -> ExitCode {
    // So that a wrong number is told as one, and not as an option that does not exist.
    let command = Cli::command().mut_subcommands(|command| command.allow_negative_numbers(true));
    let matches = command.try_get_matches().unwrap_or_else(|error| refuse(&error));
    let cli = Cli::from_arg_matches(&matches).unwrap_or_else(|error| refuse(&error));
    // There -v is about what is printed.
    logging::start(if matches!(cli.command, Command::Explain(_)) { 0 } else { cli.verbose });
    let sources = |config| {
        let (_, of_command) = matches.subcommand().expect("clap demands a command");
        Sources::of(of_command, config, cli.verbose)
    };
    let done = match &cli.command {
        Command::Run(arguments) => commands::run::run(sources(arguments.config.as_deref())),
        Command::Preflight(arguments) => commands::preflight::preflight(arguments),
        Command::CheckConfig(arguments) => {
            commands::check_config::check_config(&sources(arguments.run.config.as_deref()), arguments.json)
        }
        Command::Metrics(arguments) => commands::metrics::metrics(arguments),
        Command::Reload(arguments) => commands::reload::reload(arguments),
        Command::Status(arguments) => commands::status::status(arguments),
        Command::Explain(arguments) => commands::explain::explain(arguments, cli.verbose > 0),
        Command::Snapshot(arguments) => commands::snapshot::snapshot(arguments),
        Command::Stats(arguments) => commands::stats::stats(arguments),
        Command::Events(arguments) => commands::events::events(arguments),
        Command::Trace(arguments) => commands::trace::trace(arguments),
        Command::Top(arguments) => commands::top::top(arguments),
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

/// Prints what is wrong with the command line, and ends: a wrong value in one line, because it says all that there is to
/// say.
fn refuse(error: &clap::Error) -> ! {
    let text = error.to_string();
    if error.kind() == ErrorKind::InvalidUtf8 {
        let unreadable: Vec<_> = std::env::args_os().filter(|argument| argument.to_str().is_none()).collect();
        eprintln!(
            "arp-agent: {unreadable:?}: is not UTF-8, and no argument may be anything else; a pattern such as `cali?` matches \
             an interface whose name is not"
        );
        std::process::exit(error.exit_code());
    }
    if error.kind() != ErrorKind::ValueValidation {
        error.exit();
    }
    let first = text.lines().next().unwrap_or_default();
    eprintln!("arp-agent: {}", first.strip_prefix("error: ").unwrap_or(first));
    std::process::exit(error.exit_code())
}
