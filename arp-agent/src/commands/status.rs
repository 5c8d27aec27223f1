//! `arp-agent status`.

use super::Exit;
use crate::cli;
use crate::control::{Answer, InterfaceStatus, Request, Response, Status, ask, silent};
use anyhow::bail;
use std::path::Path;
use tabled::builder::Builder;
use tabled::settings::Style;

/// Prints what the agent says of itself.
///
/// # Errors
/// What listens in the run directory is no agent of this version.
pub fn status(arguments: &cli::Status) -> anyhow::Result<Exit> {
    let run_dir = &arguments.run_dir.path;
    let status = match fetch(run_dir)? {
        Fetched::Status(status) => status,
        Fetched::NotRunning => {
            eprintln!("{}", not_running(run_dir));
            return Ok(Exit::NotRunning);
        }
        Fetched::Silent => {
            eprintln!("{}", silent(run_dir));
            return Ok(Exit::No);
        }
    };
    if arguments.json {
        println!("{}", serde_json::to_string_pretty(&status)?);
    } else {
        print!("{}", render(&status));
    }
    Ok(if status.ready { Exit::Ok } else { Exit::No })
}

/// What came of asking for a status.
pub enum Fetched {
    /// It.
    Status(Box<Status>),
    /// As [`Answer::NotRunning`].
    NotRunning,
    /// As [`Answer::Silent`].
    Silent,
}

/// Asks for the agent's status.
///
/// # Errors
/// What listens in the run directory is no agent of this version.
pub fn fetch(run_dir: &Path) -> anyhow::Result<Fetched> {
    match ask(run_dir, &Request::Status)? {
        Answer::NotRunning => Ok(Fetched::NotRunning),
        Answer::Silent => Ok(Fetched::Silent),
        Answer::Response(Response::Status(status)) => Ok(Fetched::Status(status)),
        Answer::Response(Response::Error(error)) => bail!("the agent says: {error}"),
        Answer::Response(Response::Explanation(_)) => bail!("the agent answered another question"),
    }
}

/// What to tell people when no agent runs.
pub fn not_running(run_dir: &Path) -> String {
    format!("no agent runs with run directory {} (--run-dir names another)", run_dir.display())
}

fn render(status: &Status) -> String {
    let state = match &status.not_ready_because {
        None if status.ready => "ready".into(),
        None => "not ready: the lease has run out".into(),
        Some(why) => format!("not ready: {why}"),
    };
    let mut text = format!(
        "agent {} is {state}\nanswered {}, passed {}; routes {}, neighbours {} mirrored; resyncs {}, overruns {}\n",
        status.pid,
        status.answered,
        status.passed.values().sum::<u64>(),
        status.routes,
        status.neighbours,
        status.resyncs,
        status.overruns
    );
    text += &match status.sysctl_hook.as_str() {
        "attached" => "settings: frames pass from before one is written until it is read\n".to_owned(),
        hook if hook.starts_with("attached") => {
            format!("settings: frames pass from before one is written until it is read; {hook}\n")
        }
        why => format!("settings: read every {} ms; no hook on their writes: {why}\n", status.reread_interval_ms),
    };
    for (pattern, _) in status.patterns.iter().filter(|(_, matches)| **matches == 0) {
        text += &format!("no interface matches `{pattern}` yet\n");
    }
    if !status.interfaces.is_empty() {
        let mut table = Builder::default();
        table.push_record(["interface", "hook", "state", "answered", "passed", "pod end"]);
        for interface in &status.interfaces {
            table.push_record(row(interface));
        }
        text += &format!("{}\n", table.build().with(Style::blank()));
    }
    text
}

fn row(interface: &InterfaceStatus) -> [String; 6] {
    let peer = interface.peer.as_ref().map(|peer| {
        let namespace = match (&peer.netns, peer.netnsid) {
            (Some(name), _) => format!(" in {name}"),
            (None, Some(id)) => format!(" in namespace id {id}"),
            (None, None) => String::new(),
        };
        format!("ifindex {}{namespace}", peer.ifindex)
    });
    let state = match &interface.reason {
        Some(reason) => format!("{}: {reason}", interface.state),
        None => interface.state.clone(),
    };
    [
        interface.name.clone(),
        format!("{} {}", interface.hook, interface.mode),
        state,
        interface.answered.to_string(),
        interface.passed.values().sum::<u64>().to_string(),
        peer.unwrap_or_default(),
    ]
}
