//! `arp-agent explain`: one decision, step by step.

use super::Exit;
use super::status::not_running;
use crate::cli;
use crate::control::client::{Answer, ask, silent};
use crate::control::{Request, Response};
use crate::event::{Event, NeighbourEntry};
use crate::explain::checks::Check;
use crate::explain::kernel_view::KernelView;
use crate::explain::{Explanation, Fact, Question, TablesFrom};
use crate::hooks::clsact::filters_of_others;
use crate::hooks::owners::Programs;
use crate::kernel::Reader;
use anyhow::{anyhow, bail};
use arp_common::{Lladdr, Reason};
use std::net::Ipv4Addr;
use tabled::builder::Builder;
use tabled::settings::Style;

/// Prints how one request is decided and why: from the running agent's maps or, if no agent runs, from the kernel's
/// present state.
///
/// # Errors
/// No such interface, no sender to assume, a kernel that does not answer, or a program that decides otherwise.
pub fn explain(arguments: &cli::Explain) -> anyhow::Result<Exit> {
    let dump = Reader::new()?.everything()?;
    let question = question(arguments, &dump)?;
    let request = Request::Explain { question: question.clone(), run_program: arguments.kernel };
    let run_dir = &arguments.run_dir.path;
    let xdp = dump.iter().find_map(|event| match event {
        Event::Link(link) if link.ifindex == question.ifindex => link.xdp_program,
        _ => None,
    });
    let mut other = Programs::default().foreign(question.ifindex, xdp);
    if other.is_none() {
        // An agent's own filter is no foreign one.
        other = filters_of_others(question.ifindex, "")?.into_iter().find(|name| !name.contains("arp-agent"));
    }
    let mut world = KernelView::new(dump, question.ifindex)?;
    let mut explanation = match ask(run_dir, &request)? {
        Answer::Response(Response::Explanation(explanation)) => *explanation,
        Answer::Response(Response::Error(error)) => bail!("{error}"),
        Answer::Response(_) => bail!("the agent sent an unexpected answer"),
        Answer::Silent => bail!(silent(run_dir)),
        Answer::NotRunning if arguments.kernel => {
            bail!("--kernel runs the loaded program: {}", not_running(run_dir))
        }
        Answer::NotRunning => world.explain(&question),
    };
    explanation.kernel_state = world.facts(&question);
    // What holds an interface back by its hook is the agent's finding, and no setting of the kernel's changes it.
    if explanation.reply_mac.is_none() && world.explain(&question).reply_mac.is_none() {
        explanation.would_answer_if = world.would_answer_if(&question)?;
    }
    let agents = explanation.reason.as_deref().filter(|_| explanation.tables == TablesFrom::Agent);
    let agents = agents.and_then(Reason::from_name);
    explanation.kernel = Some(world.kernel_answer(&question, agents, other.as_deref())?);
    if arguments.json {
        println!("{}", serde_json::to_string_pretty(&explanation)?);
    } else {
        print!("{}", render(&explanation));
    }
    Ok(if explanation.verdict == "reply" { Exit::Ok } else { Exit::No })
}

/// The request to explain. What the arguments leave open is taken from the kernel's state.
fn question(arguments: &cli::Explain, dump: &[Event]) -> anyhow::Result<Question> {
    let interface = &arguments.interface;
    let ifindex = dump.iter().find_map(|event| match event {
        Event::Link(link) if link.name == *interface => Some(link.ifindex),
        _ => None,
    });
    let ifindex = ifindex.ok_or_else(|| anyhow!("{interface}: no such interface in this network namespace"))?;
    let neighbours: Vec<&NeighbourEntry> = dump
        .iter()
        .filter_map(|event| match event {
            Event::Neighbour(entry) if entry.ifindex == ifindex && entry.lladdr.is_some() => Some(entry),
            _ => None,
        })
        .collect();
    let sender = match arguments.sender {
        Some(sender) => sender,
        None => neighbours.first().map(|entry| entry.addr).or_else(|| host_behind(dump, ifindex)).ok_or_else(|| {
            anyhow!("{interface}: it has no neighbour to take as the sender; give one with --sender IP")
        })?,
    };
    let known = neighbours.iter().find(|entry| entry.addr == sender).and_then(|entry| entry.lladdr);
    let sender_mac = arguments.sender_mac.or(known.map(Lladdr::new)).unwrap_or(Lladdr::new([2, 0, 0, 0, 0, 1]));
    Ok(Question { interface: interface.clone(), ifindex, target: arguments.target, sender, sender_mac })
}

/// The address of a host that has a route of its own out of this interface, such as a pod.
fn host_behind(dump: &[Event], ifindex: u32) -> Option<Ipv4Addr> {
    dump.iter().find_map(|event| match event {
        Event::Route(route, _) if route.oif == Some(ifindex) && route.prefix.len == 32 && route.table == 254 => {
            Some(Ipv4Addr::from(route.prefix.addr))
        }
        _ => None,
    })
}

fn render(explanation: &Explanation) -> String {
    let Question { interface, target, sender, sender_mac, .. } = &explanation.question;
    let from = match explanation.tables {
        TablesFrom::Agent => "the running agent's maps",
        TablesFrom::Kernel => "the kernel's state as it is now (no agent runs)",
    };
    let verdict = match (&explanation.reply_mac, &explanation.reason) {
        (Some(mac), _) => format!("reply: {target} is at {mac}"),
        (None, Some(reason)) => format!("pass ({reason})"),
        (None, None) => explanation.verdict.clone(),
    };
    let mut text = format!(
        "on {interface}: who-has {target} tell {sender} ({sender_mac})\n\nthe kernel says:\n{}\n\n{from}, in the order of the \
         decision:\n{}\n\nchecked:\n{}\n\n{verdict}: {}\n",
        rows(&explanation.kernel_state),
        rows(&explanation.inputs),
        checks(&explanation.checks),
        explanation.why
    );
    if let Some(kernel) = &explanation.kernel {
        text += &format!("{}\n", kernel.why);
    }
    for change in &explanation.would_answer_if {
        text += &format!("would be answered if {change}\n");
    }
    if let Some(program) = &explanation.program {
        text += &format!("loaded program: {program}\n");
    }
    text
}

fn checks(checks: &[Check]) -> String {
    let lines = checks.iter().map(|check| match check.holds {
        true => format!(" yes  {}", check.check),
        false => format!(" NO   {} ({})", check.check, check.otherwise),
    });
    lines.collect::<Vec<_>>().join("\n")
}

fn rows(facts: &[Fact]) -> String {
    let mut table = Builder::default();
    for fact in facts {
        table.push_record([&fact.what, &fact.found]);
    }
    let table = table.build().with(Style::blank()).to_string();
    table.lines().map(str::trim_end).collect::<Vec<_>>().join("\n")
}
