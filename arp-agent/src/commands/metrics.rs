//! `arp-agent metrics`: what `/metrics` serves, without a port.

use super::Exit;
use crate::cli;
use crate::commands::status::not_running;
use crate::control::client::{Answer, ask, silent};
use crate::control::{Request, Response};
use crate::metrics::{Scrape, text};
use anyhow::bail;

/// Prints the metrics of the running agent.
///
/// # Errors
/// What listens in the run directory is no agent of this version.
pub fn metrics(arguments: &cli::Metrics) -> anyhow::Result<Exit> {
    let run_dir = &arguments.run_dir.path;
    let figures = match ask(run_dir, &Request::Figures)? {
        Answer::Response(Response::Figures(figures)) => Some(*figures),
        Answer::Response(Response::Error(error)) => bail!("the agent says: {error}"),
        Answer::Response(_) => bail!("the agent sent an unexpected answer"),
        Answer::Silent => {
            eprintln!("{}", silent(run_dir));
            None
        }
        Answer::NotRunning => {
            eprintln!("{}", not_running(run_dir));
            None
        }
    };
    print!("{}", text(&Scrape { figures, heartbeat_age: None })?);
    Ok(Exit::Ok)
}
