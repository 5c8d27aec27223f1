//! `arp-agent reload`: the running agent reads its configuration again.

use super::Exit;
use super::status::not_running;
use crate::cli;
use crate::control::client::{Answer, ask, silent};
use crate::control::{Request, Response};
use anyhow::bail;

/// Asks the agent, and prints what has changed.
///
/// # Errors
/// The agent keeps its old configuration, or does not answer.
pub fn reload(arguments: &cli::Reload) -> anyhow::Result<Exit> {
    let run_dir = &arguments.run_dir.path;
    match ask(run_dir, &Request::Reload)? {
        Answer::Response(Response::Reloaded(changes)) if changes.is_empty() => println!("nothing has changed"),
        Answer::Response(Response::Reloaded(changes)) => changes.iter().for_each(|change| println!("{change}")),
        Answer::Response(Response::Error(error)) => bail!("the agent keeps its old configuration: {error}"),
        Answer::Response(_) => bail!("the agent sent an unexpected answer"),
        Answer::Silent => bail!(silent(run_dir)),
        Answer::NotRunning => {
            eprintln!("{}", not_running(run_dir));
            return Ok(Exit::NotRunning);
        }
    }
    Ok(Exit::Ok)
}
