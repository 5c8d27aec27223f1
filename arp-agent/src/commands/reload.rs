//! `arp-agent reload`: the running agent reads its configuration again.

use super::Exit;
use super::output::{print, print_line};
use super::status::not_running;
use crate::cli;
use crate::control::client::{AgentAnswer, ask, silent};
use crate::control::{Request, Response};
use anyhow::bail;

/// Asks the agent, and prints what has changed.
///
/// # Errors
/// The agent keeps its old configuration, or does not answer.
pub fn reload(arguments: &cli::ReloadArgs) -> anyhow::Result<Exit> {
    let run_dir = &arguments.run_dir.path;
    match ask(run_dir, &Request::Reload)? {
        AgentAnswer::Response(Response::Reloaded(changes)) if changes.is_empty() => {
            print_line("nothing has changed")?;
        }
        AgentAnswer::Response(Response::Reloaded(changes)) => print(changes.join("\n") + "\n").map(drop)?,
        AgentAnswer::Response(Response::Error(error)) => bail!("the agent keeps its old configuration: {error}"),
        AgentAnswer::Response(_) => bail!("the agent sent an unexpected answer"),
        AgentAnswer::Silent => bail!(silent(run_dir)),
        AgentAnswer::NotRunning => {
            eprintln!("{}", not_running(run_dir));
            return Ok(Exit::NotRunning);
        }
    }
    Ok(Exit::Ok)
}
