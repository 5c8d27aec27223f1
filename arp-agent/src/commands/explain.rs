//! `arp-agent explain`: who answers for an address on an interface, and why.

mod capture;

use super::Exit;
use super::output::{print, print_coloured, print_line};
use super::status::not_running;
use crate::cli;
use crate::control::client::{AgentAnswer, ask, silent};
use crate::control::{Request, Response};
use crate::explain::snapshot::SnapshotFile;
use crate::explain::state::{OnInterface, State, agent_is};
use crate::explain::{AgentIs, Explanation, Question, dot, interface, render};
use anyhow::{Context as _, Result, bail};
use nix::sched::{CloneFlags, setns};
use std::fs::File;
use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr};

/// Prints what the kernel and the fast path do with a request, and why: over the running agent's maps, or over the kernel's
/// present state where no agent serves the interface. Without a target, a table of what the interface answers for.
///
/// # Errors
/// No such interface, no sender to assume, a kernel that does not answer, or a program that decides otherwise.
pub fn explain(arguments: &cli::ExplainArgs, verbose: bool) -> Result<Exit> {
    if arguments.seconds.is_some() && arguments.listen.is_none() {
        bail!("--for says how long --listen listens, and there is no --listen IF");
    }
    if let Some(name) = &arguments.netns {
        enter(name)?;
    }
    if let Some(name) = &arguments.listen {
        return capture::listen(arguments, name);
    }
    let state = match &arguments.state {
        Some(file) => SnapshotFile::read(file)?.into_state(),
        None => State::read()?,
    };
    if let Some(file) = &arguments.pcap {
        return capture::file(arguments, &state, file);
    }
    let on = state.on(arguments.interface()?)?;
    let Some(target) = &arguments.target() else {
        if arguments.dot {
            bail!("--dot draws one decision: name a TARGET behind {}", on.link().name);
        }
        return table(arguments, &on);
    };
    let question = question(arguments, &on, ipv4(target)?)?;
    let explanation = explanation(arguments, on, &question)?;
    if arguments.json {
        print_line(serde_json::to_string_pretty(&explanation)?)?;
    } else if arguments.dot {
        print(dot::dot(&explanation))?;
    } else {
        print_coloured(render::text(&explanation, verbose))?;
    }
    Ok(if explanation.verdict == "reply" { Exit::Ok } else { Exit::No })
}

fn explanation(arguments: &cli::ExplainArgs, mut on: OnInterface<'_>, question: &Question) -> Result<Explanation> {
    let request = Request::Explain { question: question.clone(), run_program: arguments.kernel };
    let run_dir = &arguments.run_dir.path;
    let mut not_seen = None;
    // An agent of another namespace knows other interfaces, by the same numbers.
    let answer = match ask(run_dir, &request) {
        _ if arguments.state.is_some() || arguments.netns.is_some() && !arguments.kernel => AgentAnswer::NotRunning,
        Err(error) if !arguments.kernel && is_forbidden(&error) => {
            not_seen = Some("whether an agent runs".to_owned());
            AgentAnswer::NotRunning
        }
        answer => answer?,
    };
    let mut explanation = match answer {
        AgentAnswer::Response(Response::Explanation(of_agent)) => match agent_is(&of_agent) {
            AgentIs::Here => Explanation { agent: AgentIs::Here, ..*of_agent },
            _ if arguments.kernel => *of_agent,
            is => Explanation { agent: is, ..on.without_agent(question) },
        },
        AgentAnswer::Response(Response::Error(error)) => bail!("{error}"),
        AgentAnswer::Response(_) => bail!("the agent sent an unexpected answer"),
        AgentAnswer::Silent => bail!(silent(run_dir)),
        AgentAnswer::NotRunning if arguments.kernel => {
            bail!("--kernel runs the loaded program: {}", not_running(run_dir))
        }
        AgentAnswer::NotRunning => on.without_agent(question),
    };
    on.complete(question, &mut explanation)?;
    explanation.not_seen.extend(not_seen);
    Ok(explanation)
}

fn is_forbidden(error: &anyhow::Error) -> bool {
    let is_so = |cause: &(dyn std::error::Error + 'static)| {
        cause.downcast_ref::<std::io::Error>().is_some_and(|error| error.kind() == ErrorKind::PermissionDenied)
    };
    error.chain().any(is_so)
}

/// Enters a network namespace by its name, as `ip netns` does.
fn enter(name: &str) -> Result<()> {
    let path = format!("/var/run/netns/{name}");
    let namespace = match File::open(&path) {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            bail!("{name}: no such network namespace; `ip netns` lists them")
        }
        namespace => namespace.with_context(|| format!("opening {path} (needs root)"))?,
    };
    setns(namespace, CloneFlags::CLONE_NEWNET)
        .with_context(|| format!("entering the network namespace {name} (needs root)"))
}

/// The target as an IPv4 address.
fn ipv4(text: &str) -> Result<Ipv4Addr> {
    match text.parse() {
        Ok(IpAddr::V4(target)) => Ok(target),
        Ok(IpAddr::V6(target)) => bail!(
            "{target}: IPv6 has no ARP; neighbour discovery answers there (for own addresses, and for entries of `ip -6 neigh add \
             proxy` with proxy_ndp), and the fast path leaves all of it to the kernel"
        ),
        Err(_) => bail!("{text}: is no IPv4 address; give the address that the request asks for, such as 169.254.1.1"),
    }
}

/// The request to explain. What the arguments leave open is taken from the kernel's state.
fn question(arguments: &cli::ExplainArgs, on: &OnInterface<'_>, target: Ipv4Addr) -> Result<Question> {
    let link = on.link();
    let sender = sender(arguments).map_or_else(|| on.sender(), Ok)?;
    let sender_mac = arguments.sender_mac.unwrap_or_else(|| on.sender_mac(sender));
    let destination = link.mac.map(arp_common::Lladdr::new).filter(|_| arguments.unicast);
    Ok(Question { interface: link.name.clone(), ifindex: link.ifindex, target, sender, sender_mac, destination })
}

/// The sender that was given.
fn sender(arguments: &cli::ExplainArgs) -> Option<Ipv4Addr> {
    if arguments.probe { Some(Ipv4Addr::UNSPECIFIED) } else { arguments.sender }
}

fn table(arguments: &cli::ExplainArgs, on: &OnInterface<'_>) -> Result<Exit> {
    let table = interface::table(on, sender(arguments));
    if arguments.json {
        print_line(serde_json::to_string_pretty(&table)?)?;
    } else {
        print_coloured(table.text())?;
    }
    Ok(Exit::Ok)
}
