//! `arp-agent status`.

use super::Exit;
use crate::cli;
use crate::control::{InterfaceStatus, Request, Response, Status, ask};
use anyhow::bail;
use std::path::Path;
use tabled::builder::Builder;
use tabled::settings::Style;

/// Prints what the agent says of itself.
///
/// # Errors
/// The agent does not answer.
pub fn status(arguments: &cli::Status) -> anyhow::Result<Exit> {
    let Some(status) = fetch(&arguments.run_dir.path)? else {
        eprintln!("no agent runs with run directory {}", arguments.run_dir.path.display());
        return Ok(Exit::NotRunning);
    };
    if arguments.json {
        println!("{}", serde_json::to_string_pretty(&status)?);
    } else {
        print!("{}", render(&status));
    }
    Ok(if status.ready { Exit::Ok } else { Exit::No })
}

/// The agent's status; `None` if none runs.
///
/// # Errors
/// The agent does not answer.
pub fn fetch(run_dir: &Path) -> anyhow::Result<Option<Status>> {
    match ask(run_dir, &Request::Status)? {
        None => Ok(None),
        Some(Response::Status(status)) => Ok(Some(*status)),
        Some(Response::Error(error)) => bail!("the agent says: {error}"),
        Some(Response::Explanation(_)) => bail!("the agent answered another question"),
    }
}

fn render(status: &Status) -> String {
    let state = match &status.not_ready_because {
        None if status.ready => "ready".into(),
        None => "not ready: the lease has run out".into(),
        Some(why) => format!("not ready: {why}"),
    };
    let mut text = format!(
        "agent {} is {state}\n{} answered, {} passed; {} routes, {} neighbours mirrored; {} resyncs, {} overruns\n",
        status.pid,
        status.answered,
        status.passed.values().sum::<u64>(),
        status.routes,
        status.neighbours,
        status.resyncs,
        status.overruns
    );
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
