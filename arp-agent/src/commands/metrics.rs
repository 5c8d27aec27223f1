//! `arp-agent metrics`: what `/metrics` serves, without a port.

use super::Exit;
use super::output::print;
use crate::cli;
use crate::commands::status::not_running;
use crate::control::client::{AgentAnswer, ask, silent};
use crate::control::{Request, Response};
use crate::metrics::{Scrape, text};
use anyhow::bail;

/// Prints the metrics of the running agent.
///
/// # Errors
/// What listens in the run directory is no agent of this version.
pub fn metrics(arguments: &cli::MetricsArgs) -> anyhow::Result<Exit> {
    let run_dir = &arguments.run_dir.path;
    let figures = match ask(run_dir, &Request::Figures)? {
        AgentAnswer::Response(Response::Figures(figures)) => Some(*figures),
        AgentAnswer::Response(Response::Error(error)) => bail!("the agent says: {error}"),
        AgentAnswer::Response(_) => bail!("the agent sent an unexpected answer"),
        AgentAnswer::Silent => {
            eprintln!("{}", silent(run_dir));
            None
        }
        AgentAnswer::NotRunning => {
            eprintln!("{}", not_running(run_dir));
            None
        }
    };
    print(text(&Scrape { figures, heartbeat_age: None })?)?;
    Ok(Exit::Ok)
}
