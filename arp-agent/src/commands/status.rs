//! `arp-agent status`: where the agent answers, and why not elsewhere.

use super::Exit;
use crate::cli;
use crate::control::client::{Answer, ask, silent};
use crate::control::{InterfaceStatus, Request, Response, Status};
use anyhow::bail;
use std::collections::BTreeMap;
use std::path::Path;
use tabled::builder::Builder;
use tabled::settings::Style;

/// Prints the agent's status.
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
    Ok(exit(&status))
}

/// The outcome of asking for the status.
pub enum Fetched {
    /// The agent's status.
    Status(Box<Status>),
    /// No agent runs ([`Answer::NotRunning`]).
    NotRunning,
    /// The agent does not answer ([`Answer::Silent`]).
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
        Answer::Response(Response::Explanation(_)) => bail!("the agent sent an unexpected answer"),
    }
}

/// What to tell people when no agent runs.
pub fn not_running(run_dir: &Path) -> String {
    format!("no agent runs with run directory {} (--run-dir names another)", run_dir.display())
}

fn exit(status: &Status) -> Exit {
    let mut interfaces = status.interfaces.iter();
    match status.ready {
        false => Exit::No,
        true if status.interfaces.is_empty() || interfaces.any(is_answering) => Exit::Ok,
        true => Exit::NoneAnswers,
    }
}

fn is_answering(interface: &InterfaceStatus) -> bool {
    interface.state == "answering"
}

/// One line: on how many interfaces requests are answered, and the state of the others.
fn summary(status: &Status) -> String {
    match &status.not_ready_because {
        None if status.ready => {}
        None => return "not ready, every frame passes: the lease has run out".to_owned(),
        Some(why) => return format!("not ready: {why}"),
    }
    let (answering, all) = (status.interfaces.iter().filter(|of| is_answering(of)).count(), status.interfaces.len());
    let mut others: BTreeMap<(&str, Option<&str>), usize> = BTreeMap::new();
    for interface in status.interfaces.iter().filter(|of| !is_answering(of)) {
        *others.entry((&interface.state, interface.reason_id.as_deref())).or_default() += 1;
    }
    let others: Vec<String> = others
        .into_iter()
        .map(|((state, reason), count)| {
            let does = match (state, count) {
                ("passing", 1) => "passes".to_owned(),
                ("passing", _) => "pass".to_owned(),
                (state, 1) => format!("is {state}"),
                (state, _) => format!("are {state}"),
            };
            let reason = reason.map(|reason| format!(" ({reason})")).unwrap_or_default();
            format!("{count} {does}{reason}")
        })
        .collect();
    let interfaces = if all == 1 { "interface" } else { "interfaces" };
    let others = if others.is_empty() { String::new() } else { format!(": {}", others.join(", ")) };
    format!("answering on {answering} of {all} {interfaces}{others}")
}

fn render(status: &Status) -> String {
    let mut text = format!(
        "{}\narp-agent {}, process {}\nanswered {}, passed {}; routes {}, neighbours {} mirrored; resyncs {}, overruns {}\n",
        summary(status),
        status.agent_version,
        status.pid,
        status.answered,
        status.passed.values().sum::<u64>(),
        status.routes,
        status.neighbours,
        status.resyncs,
        status.overruns
    );
    text += &match status.sysctl_hook.as_str() {
        "attached" => "settings: writes are noticed before they take effect\n".to_owned(),
        hook if hook.starts_with("attached") => {
            format!("settings: writes are noticed before they take effect; {hook}\n")
        }
        why => format!(
            "settings: polled every {} ms, because the sysctl hook is not active: {why}\n",
            status.reread_interval_ms
        ),
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
    let id = interface.reason_id.as_deref().map(|id| format!(" ({id})")).unwrap_or_default();
    let reason = interface.reason.as_deref().map(|reason| format!(": {reason}")).unwrap_or_default();
    let state = format!("{}{id}{reason}", interface.state);
    [
        interface.name.clone(),
        format!("{} {}", interface.hook, interface.mode),
        state,
        interface.answered.to_string(),
        interface.passed.values().sum::<u64>().to_string(),
        peer.unwrap_or_default(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::claims;

    fn with(states: &[(&str, Option<&str>)]) -> Status {
        let status = claims::status();
        let interface = |&(state, reason): &(&str, Option<&str>)| InterfaceStatus {
            state: state.to_owned(),
            reason_id: reason.map(str::to_owned),
            ..status.interfaces[0].clone()
        };
        Status { not_ready_because: None, interfaces: states.iter().map(interface).collect(), ..status.clone() }
    }

    #[test]
    fn the_first_line_says_how_many_answer_and_what_the_others_do() {
        let (answering, rules) = (("answering", None), ("passing", Some("arp_netfilter")));
        let detached = ("detached", None);
        let cases = [
            (with(&[answering, answering]), "answering on 2 of 2 interfaces", Exit::Ok),
            (
                with(&[answering, rules, answering]),
                "answering on 2 of 3 interfaces: 1 passes (arp_netfilter)",
                Exit::Ok,
            ),
            (with(&[rules, rules]), "answering on 0 of 2 interfaces: 2 pass (arp_netfilter)", Exit::NoneAnswers),
            (with(&[detached]), "answering on 0 of 1 interface: 1 is detached", Exit::NoneAnswers),
            (with(&[]), "answering on 0 of 0 interfaces", Exit::Ok),
            (
                Status { ready: false, not_ready_because: Some("x".into()), ..with(&[answering]) },
                "not ready: x",
                Exit::No,
            ),
        ];
        for (status, line, code) in cases {
            assert_eq!(render(&status).lines().next(), Some(line));
            assert_eq!(exit(&status), code, "{line}");
        }
    }
}
