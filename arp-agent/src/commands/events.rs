//! `arp-agent events`: what has happened on the node, and what happens.

use super::Exit;
use super::output::is_over;
use super::status::{self, Fetched};
use crate::cli;
use crate::control::client::{AgentAnswer, Lines, NextLine, follow};
use crate::control::feed::LostLines;
use crate::control::{Request, Response};
use crate::events::RaisedEvent;
use anyhow::bail;
use jiff::Timestamp;
use std::io::{self, Write as _};
use std::path::Path;

/// Prints the events of the last time; with `--follow` also those that come, until the agent ends.
///
/// # Errors
/// What listens in the run directory is no agent that knows events.
pub fn events(arguments: &cli::EventsArgs) -> anyhow::Result<Exit> {
    let run_dir = &arguments.run_dir.path;
    let request = Request::Events { follow: arguments.follow };
    let (kept, lines) = match begin(run_dir, &request, "events", arguments.json)? {
        Begun::Response(Response::Events(kept), lines) => (kept, lines),
        Begun::Response(..) => bail!("the agent sent an unexpected answer"),
        Begun::Exit(exit) => return Ok(exit),
    };
    if kept.is_empty() && !arguments.follow && !arguments.json {
        eprintln!("nothing has happened since the agent started");
    }
    let mut out = io::stdout().lock();
    let mut print = |event: &RaisedEvent| -> io::Result<()> {
        if arguments.json {
            writeln!(out, "{}", serde_json::to_string(event)?)
        } else {
            writeln!(out, "{} {}", at(event.time), event.line())
        }
    };
    for event in &kept {
        if is_over(print(event))? {
            return Ok(Exit::Ok);
        }
    }
    let Some(mut lines) = lines.filter(|_| arguments.follow) else { return Ok(Exit::Ok) };
    let mut line = String::new();
    while lines.next(&mut line, None)? != NextLine::Ended {
        if let Ok(LostLines { lost }) = serde_json::from_str(&line) {
            eprintln!("{lost} events are left out: they came faster than they were read");
        } else if is_over(print(&serde_json::from_str(&line)?))? {
            return Ok(Exit::Ok);
        }
        line.clear();
    }
    eprintln!("the agent has ended");
    Ok(Exit::NotRunning)
}

/// How an answer begins.
pub(super) enum Begun {
    /// With this; lines may follow.
    Response(Response, Option<Lines>),
    /// Not at all: no agent runs, or it does not respond, and that has been said.
    Exit(Exit),
}

/// Asks for something that agents of older versions do not know. `what`: its name.
///
/// # Errors
/// The agent refuses it, or does not know it.
pub(super) fn begin(run_dir: &Path, request: &Request, what: &str, json: bool) -> anyhow::Result<Begun> {
    let (answer, lines) = follow(run_dir, request)?;
    match answer {
        AgentAnswer::NotRunning => Ok(Begun::Exit(status::without(&Fetched::NotRunning, run_dir, json)?)),
        AgentAnswer::Silent => Ok(Begun::Exit(status::without(&Fetched::Silent, run_dir, json)?)),
        AgentAnswer::Response(Response::Error(error)) if error.starts_with("not a request of this version") => {
            bail!(
                "the agent that runs is of an older version, which has no `{what}`: restart it (`arp-agent status` names its version)"
            )
        }
        AgentAnswer::Response(Response::Error(error)) => bail!("the agent says: {error}"),
        AgentAnswer::Response(response) => Ok(Begun::Response(response, lines)),
    }
}

/// A time as people read it, in UTC, to the millisecond.
pub(super) fn at(seconds: f64) -> String {
    let time = Timestamp::from_millisecond((seconds * 1000.0) as i64).unwrap_or_default();
    format!("{time:.3}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_milliseconds_and_their_zone() {
        assert_eq!(at(0.0), "1970-01-01T00:00:00.000Z");
        assert_eq!(at(1_795_000_000.25), "2026-11-18T11:06:40.250Z");
    }
}
