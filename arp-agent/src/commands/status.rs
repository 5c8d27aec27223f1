//! `arp-agent status`: where the agent answers, and why not elsewhere.

use super::Exit;
use super::output::{print, print_line};
use crate::cli;
use crate::control::client::{AgentAnswer, ask, silent};
use crate::control::{InterfaceStatus, Request, Response, ShadowStatus, Status};
use anyhow::bail;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::Path;
use tabled::builder::Builder;
use tabled::settings::Style;

/// Prints the agent's status.
///
/// # Errors
/// What listens in the run directory is no agent of this version.
pub fn status(arguments: &cli::StatusArgs) -> anyhow::Result<Exit> {
    let run_dir = &arguments.run_dir.path;
    let status = match fetch(run_dir)? {
        Fetched::Status(status) => status,
        absent => return without(&absent, run_dir, arguments.json),
    };
    if arguments.json {
        print_line(serde_json::to_string_pretty(&status)?)?;
    } else {
        print(render(&status))?;
    }
    Ok(exit(&status))
}

/// The outcome of asking for the status.
pub enum Fetched {
    /// The agent's status.
    Status(Box<Status>),
    /// No agent runs (`AgentAnswer::NotRunning`).
    NotRunning,
    /// The agent does not answer (`AgentAnswer::Silent`).
    Silent,
}

/// Asks for the agent's status.
///
/// # Errors
/// What listens in the run directory is no agent of this version.
pub fn fetch(run_dir: &Path) -> anyhow::Result<Fetched> {
    match ask(run_dir, &Request::Status)? {
        AgentAnswer::NotRunning => Ok(Fetched::NotRunning),
        AgentAnswer::Silent => Ok(Fetched::Silent),
        AgentAnswer::Response(Response::Status(status)) => Ok(Fetched::Status(status)),
        AgentAnswer::Response(Response::Error(error)) => bail!("the agent says: {error}"),
        AgentAnswer::Response(_) => bail!("the agent sent an unexpected answer"),
    }
}

/// Says that there is no agent, or that it does not respond; with `json`, as a document on stdout, too.
///
/// # Errors
/// There is a status.
pub(super) fn without(fetched: &Fetched, run_dir: &Path, json: bool) -> anyhow::Result<Exit> {
    let (why, document, exit) = match fetched {
        Fetched::NotRunning => (not_running(run_dir), absent(None), Exit::NotRunning),
        Fetched::Silent => {
            let why = silent(run_dir);
            let document = absent(Some(&why));
            (why, document, Exit::No)
        }
        Fetched::Status(_) => bail!("there is a status"),
    };
    eprintln!("{why}");
    if json {
        print_line(document)?;
    }
    Ok(exit)
}

/// What `--json` prints in place of a status. `silent`: what to tell people of an agent that runs and does not respond.
pub fn absent(silent: Option<&str>) -> Value {
    match silent {
        None => json!({ "version": crate::DOCUMENT_VERSION, "running": false }),
        Some(why) => json!({
            "version": crate::DOCUMENT_VERSION, "running": true, "ready": false, "not_ready_because": why
        }),
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

/// The first line: who runs since when, and what comes of it.
pub(super) fn headline(status: &Status) -> String {
    let version = if status.agent_version.is_empty() { "(version not known)" } else { &status.agent_version };
    format!("arp-agent {version}, up {}, pid {}: {}", duration(status.up_seconds), status.pid, summary(status))
}

/// In the two largest units that are not 0.
fn duration(seconds: u64) -> String {
    let (minutes, hours, days) = (seconds / 60 % 60, seconds / 3600 % 24, seconds / 86400);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, _) => format!("{minutes} min"),
        (0, ..) if minutes == 0 => format!("{hours} h"),
        (0, ..) => format!("{hours} h {minutes} min"),
        _ if hours == 0 => format!("{days} d"),
        _ => format!("{days} d {hours} h"),
    }
}

/// On how many interfaces requests are answered, and the state of the others.
pub fn summary(status: &Status) -> String {
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
        "{}\nanswered {}, passed {}; routes {}, neighbours {} mirrored; resyncs {}, overruns {}\n",
        headline(status),
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
    text += &protected(status);
    text += &answered_by_policy(status);
    text += &status.shadow.as_ref().map(shadowed).unwrap_or_default();
    status
        .warnings
        .iter()
        .filter(|warning| !warning.is_empty())
        .for_each(|warning| text += &format!("warning: {warning}\n"));
    text
}

/// A line for each set of policies that is on, and one for what they did.
fn protected(status: &Status) -> String {
    let mut sets: BTreeMap<(String, &str), Vec<&str>> = BTreeMap::new();
    for interface in &status.interfaces {
        if let Some(guard) = &interface.guard {
            let dropping = interface.policies.iter().filter(|policy| !is_answering_policy(policy));
            let dropping: Vec<&str> = dropping.map(String::as_str).collect();
            sets.entry((dropping.join(", "), guard)).or_default().push(&interface.name);
        }
    }
    if sets.is_empty() {
        return String::new();
    }
    let mut text = String::new();
    for ((policies, guard), names) in sets {
        text += &format!("protected: {}: {policies}; guard {guard}\n", several(&names));
    }
    let sum = |counts: &BTreeMap<String, u64>| counts.values().sum::<u64>();
    text + &format!("dropped {}, would drop {}\n", sum(&status.dropped), sum(&status.would_drop))
}

/// A line for each set of policies that answer where the kernel would not, and one for what they did.
fn answered_by_policy(status: &Status) -> String {
    let mut sets: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    for interface in &status.interfaces {
        let answering = interface.policies.iter().filter(|policy| is_answering_policy(policy));
        let answering: Vec<&str> = answering.map(String::as_str).collect();
        if !answering.is_empty() {
            sets.entry(answering.join(", ")).or_default().push(&interface.name);
        }
    }
    if sets.is_empty() {
        return String::new();
    }
    let mut text = String::new();
    for (policies, names) in sets {
        text += &format!("beyond the kernel: {}: {policies}\n", several(&names));
    }
    let told = |counts: &BTreeMap<String, u64>| {
        let told: Vec<String> = counts.iter().map(|(policy, count)| format!("{policy} {count}")).collect();
        if told.is_empty() { "0".to_owned() } else { told.join(", ") }
    };
    let (answered, would) = (told(&status.answered_by_policy), told(&status.would_answer));
    text + &format!("answered by policy, not by the kernel: {answered}; would answer: {would}\n")
}

fn is_answering_policy(policy: &str) -> bool {
    ["gateway: ", "no-delay: "].iter().any(|name| policy.starts_with(name))
}

/// What the comparison has come to, and a line for each verdict.
fn shadowed(shadow: &ShadowStatus) -> String {
    let share = match shadow.kernel_answered {
        0 => "the kernel has answered nothing yet".to_owned(),
        all => format!("would have answered {:.1} %", shadow.would_have_answered as f64 / all as f64 * 100.0),
    };
    let mut text = format!(
        "shadow (nothing is answered): {share}, {} disagreements in {}; not compared {}\n",
        shadow.disagreements, shadow.compared, shadow.not_compared
    );
    let mut table = Builder::default();
    table.push_record(["verdict", "kernel answered", "mean", "longest", "kernel silent", "disagreements"]);
    let us = |us: Option<f64>| us.map_or_else(String::new, |us| format!("{us:.1} µs"));
    for of in &shadow.verdicts {
        let [answered, silent, wrong] = [of.kernel_answered, of.kernel_silent, of.disagreements].map(|n| n.to_string());
        table.push_record([of.verdict.clone(), answered, us(of.mean_us), us(of.longest_us), silent, wrong]);
    }
    if !shadow.verdicts.is_empty() {
        text += &format!("{}\n", table.build().with(Style::blank()));
    }
    shadow.not_seen.iter().for_each(|not_seen| text += &format!("shadow does not see {not_seen}\n"));
    shadow.last_disagreement.iter().for_each(|last| text += &format!("last disagreement: {last}\n"));
    text
}

/// Names of interfaces, or how many there are.
fn several(names: &[&str]) -> String {
    if names.len() > 3 { format!("{} interfaces", names.len()) } else { names.join(", ") }
}

fn row(interface: &InterfaceStatus) -> [String; 6] {
    let id = interface.reason_id.as_deref().map(|id| format!(" ({id})")).unwrap_or_default();
    let reason = interface.reason.as_deref().map(|reason| format!(": {reason}")).unwrap_or_default();
    let state = format!("{}{id}{reason}", interface.state);
    [
        interface.name.clone(),
        format!("{} {}", interface.hook, interface.mode),
        state,
        interface.answered.to_string(),
        interface.passed.values().sum::<u64>().to_string(),
        pod_end(interface),
    ]
}

/// Who is behind a veth: its addresses, as routes tell, and its namespace; where neither is known, the other end's index.
fn pod_end(interface: &InterfaceStatus) -> String {
    let Some(peer) = &interface.peer else { return String::new() };
    let hosts: Vec<String> = interface.hosts.iter().map(ToString::to_string).collect();
    let who = if hosts.is_empty() { format!("ifindex {}", peer.ifindex) } else { hosts.join(", ") };
    match (&peer.netns, peer.netnsid) {
        (Some(name), _) => format!("{who} in {name}"),
        (None, Some(id)) if hosts.is_empty() => format!("{who} in namespace id {id}"),
        _ => who,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::claims;
    use crate::control::Peer;
    use std::net::Ipv4Addr;

    fn with(states: &[(&str, Option<&str>)]) -> Status {
        let status = Status { agent_version: "9.8.7".into(), up_seconds: 3 * 3600, ..claims::status() };
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
            let first = format!("arp-agent 9.8.7, up 3 h, pid 1: {line}");
            assert_eq!(render(&status).lines().next(), Some(first.as_str()));
            assert_eq!(exit(&status), code, "{line}");
        }
    }

    #[test]
    fn durations_have_two_units() {
        let cases = [(0, "0 s"), (59, "59 s"), (60, "1 min"), (3599, "59 min"), (3600, "1 h"), (3720, "1 h 2 min")];
        for (seconds, said) in cases.into_iter().chain([(86_400, "1 d"), (2 * 86_400 + 3 * 3600 + 59, "2 d 3 h")]) {
            assert_eq!(duration(seconds), said);
        }
    }

    #[test]
    fn the_pod_end_is_named_by_what_people_know() {
        let of = |hosts: &[Ipv4Addr], netns: Option<&str>, netnsid| {
            let peer = Peer { ifindex: 2, netnsid, netns: netns.map(str::to_owned) };
            pod_end(&InterfaceStatus { peer: Some(peer), hosts: hosts.to_vec(), ..InterfaceStatus::default() })
        };
        let pod = [Ipv4Addr::new(10, 0, 0, 5)];
        assert_eq!(of(&pod, Some("p0"), Some(0)), "10.0.0.5 in p0");
        assert_eq!(of(&pod, None, Some(0)), "10.0.0.5");
        assert_eq!(of(&[], Some("p0"), Some(0)), "ifindex 2 in p0");
        assert_eq!(of(&[], None, Some(0)), "ifindex 2 in namespace id 0");
        assert_eq!(of(&[], None, None), "ifindex 2");
        assert_eq!(pod_end(&InterfaceStatus::default()), "");
    }

    /// Whatever an agent of another version does not send, and whatever more it sends.
    #[test]
    fn the_status_of_another_version_can_be_read() {
        let sent = serde_json::to_value(claims::status()).unwrap();
        for field in sent.as_object().unwrap().keys() {
            let mut less = sent.clone();
            less.as_object_mut().unwrap().remove(field);
            let read: Status = serde_json::from_value(less).unwrap_or_else(|error| panic!("without {field}: {error}"));
            assert!(read.running && !render(&read).is_empty());
        }
        for field in sent["interfaces"][0].as_object().unwrap().keys() {
            let mut less = sent.clone();
            less["interfaces"][0].as_object_mut().unwrap().remove(field);
            less["interfaces"][0]["new"] = json!(1);
            serde_json::from_value::<Status>(less).unwrap_or_else(|error| panic!("without {field}: {error}"));
        }
    }
}
