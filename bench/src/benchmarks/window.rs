//! How long the fast path goes on answering by the old state after a change in the kernel: from the system call that
//! makes the change until the last request that is answered though the kernel no longer would.
//!
//! The kernel alone is measured in the same way, because the change lies somewhere in the system call, and requests
//! are under way: what the fast path adds is the difference.

use std::time::Duration;

use anyhow::{Context as _, Result};
use lab::netlink::{KernelChange, change, index};
use lab::stream::{Stream, until_fast};
use lab::topology::{self, LOCAL_TARGET, ROUTED_TARGET};
use lab::{Agent, AgentOptions, Lab, ioctl};

use crate::context::Context;
use crate::findings::Findings;
use crate::layout::{Columns, Table};
use crate::report::GoalBound;
use crate::samples::Key;

/// A target of a route of its own.
const TARGET: [u8; 4] = [10, 30, 0, 1];
/// How long is asked after a change: longer than the default interval of re-reading.
const AFTER: Duration = Duration::from_millis(350);

/// Who answers: an agent on the node, or nobody but the kernel.
const CASES: [&str; 3] = ["kernel alone", "fast path", "fast path without the sysctl hook"];

/// A change that makes the kernel silent about a target, and how to undo it. Run in the node's namespace.
struct Silencing {
    what: &'static str,
    tpa: [u8; 4],
    make: fn() -> Result<()>,
    undo: fn() -> Result<()>,
    /// Without the hook it is found by re-reading only.
    silent: bool,
    /// Before the turns and after them, if the kernel answers for another reason than a route.
    prepare: fn() -> Result<()>,
    finish: fn() -> Result<()>,
}

/// What most cases have.
const CASE: Silencing = Silencing {
    what: "",
    tpa: ROUTED_TARGET,
    make: || Ok(()),
    undo: || Ok(()),
    silent: false,
    prepare: || Ok(()),
    finish: || Ok(()),
};

const CHANGES: [Silencing; 6] = [
    Silencing {
        what: "route removed",
        tpa: TARGET,
        make: || change(KernelChange::delete_route(TARGET, index("u0")?)),
        undo: || change(KernelChange::add_route(TARGET, index("u0")?)),
        ..CASE
    },
    Silencing {
        what: "link down",
        make: || change(KernelChange::set_up(index("u0")?, false)),
        undo: || {
            change(KernelChange::set_up(index("u0")?, true))?;
            // The route went with the link.
            change(KernelChange::add_route(TARGET, index("u0")?))
        },
        ..CASE
    },
    Silencing { what: "proxy_arp written", make: || write("proxy_arp", "0"), undo: || write("proxy_arp", "1"), ..CASE },
    Silencing {
        what: "arp_ignore written",
        tpa: LOCAL_TARGET,
        make: || write("arp_ignore", "8"),
        undo: || write("arp_ignore", "0"),
        silent: true,
        ..CASE
    },
    Silencing {
        what: "RTM_SETLINK of arp_ignore",
        tpa: LOCAL_TARGET,
        make: || change(KernelChange::set_link_setting(index("v0")?, 19, 8)),
        undo: || change(KernelChange::set_link_setting(index("v0")?, 19, 0)),
        ..CASE
    },
    // Nobody is told; the agent reads the entries while requests need one.
    Silencing {
        what: "static proxy entry removed",
        make: || ioctl::unpublish(ROUTED_TARGET, [255; 4], "v0"),
        undo: || ioctl::publish(ROUTED_TARGET, "v0"),
        prepare: || {
            write("proxy_arp", "0")?;
            ioctl::publish(ROUTED_TARGET, "v0")
        },
        finish: || {
            ioctl::unpublish(ROUTED_TARGET, [255; 4], "v0")?;
            write("proxy_arp", "1")
        },
        ..CASE
    },
];

/// The one that has a goal.
const PROXY_P99: &str = "static proxy entry removed, p99";

pub(crate) const TABLES: &[Table] = &[Table {
    columns: Columns::Cases,
    measures: &[
        ("route removed, p99", "route removed"),
        ("link down, p99", "link down"),
        ("proxy_arp written, p99", "`proxy_arp` written"),
        ("arp_ignore written, p99", "`arp_ignore` written"),
        ("RTM_SETLINK of arp_ignore, p99", "RTM_SETLINK of `arp_ignore`"),
        (PROXY_P99, "static proxy entry removed"),
    ],
    cases: &[],
}];

fn write(name: &str, value: &str) -> Result<()> {
    Ok(std::fs::write(format!("/proc/sys/net/ipv4/conf/v0/{name}"), value)?)
}

pub(crate) fn run(context: &Context, findings: &mut Findings) -> Result<()> {
    let (rounds, turns) = context.either((2, 20), (1, 2));
    let mut nodes = Vec::new();
    for case in 0..CASES.len() {
        nodes.push(node(case)?);
    }
    for _ in 0..rounds {
        for change in &CHANGES {
            for (case, (agent, lab)) in CASES.iter().zip(&nodes) {
                context.check()?;
                let mut last = Vec::new();
                lab.node().run(change.prepare)??;
                for _ in 0..turns {
                    last.push(turn(agent.as_ref(), lab, change).with_context(|| format!("{}, {case}", change.what))?);
                }
                lab.node().run(change.finish)??;
                last.sort_by(f64::total_cmp);
                let at = |share: f64| last[((last.len() - 1) as f64 * share).ceil() as usize];
                for (name, share) in [("p50", 0.5), ("p99", 0.99), ("max", 1.0)] {
                    findings.push(Key::new(&format!("{}, {name}", change.what), case), "µs", at(share));
                }
            }
        }
    }
    for case in &CASES[1..] {
        let values =
            findings.samples.values(&Key::new(PROXY_P99, case)).iter().map(|micros| micros / 1e3).collect::<Vec<_>>();
        findings.goal("P13", [PROXY_P99, case], GoalBound::AtMost(20.0), "ms", &values);
    }
    let silent: Vec<&str> = CHANGES.iter().filter(|change| change.silent).map(|change| change.what).collect();
    findings.note(format!(
        "{turns} changes a round and case, one request after the other meanwhile: from before the system call until the \
         last request that was answered was sent; 0 if none was. Not notified: {}.",
        silent.join(", ")
    ));
    Ok(())
}

/// The agent ends before its node goes.
fn node(case: usize) -> Result<(Option<Agent>, Lab)> {
    let lab = topology::matrix()?;
    lab.node().ip("route del default")?;
    lab.node().run(|| change(KernelChange::add_route(TARGET, index("u0")?)))??;
    let options = AgentOptions::new(&["v0"]);
    let agent = match case {
        0 => None,
        1 => Some(options.sysctl_hook().start(lab.node())?),
        _ => Some(options.default_reread().start(lab.node())?),
    };
    Ok((agent, lab))
}

/// Makes a change and undoes it. Gives the microseconds until the last answer.
fn turn(agent: Option<&Agent>, lab: &Lab, change: &Silencing) -> Result<f64> {
    let p0 = lab.host("p0");
    match agent {
        Some(agent) => until_fast(agent, p0, change.tpa)?,
        None => drop(p0.ask(&p0.who_has(change.tpa))?),
    }
    let stream = Stream::around(p0, change.tpa, AFTER, || lab.node().run(change.make)?)?;
    lab.node().run(change.undo)??;
    let mut answered = stream.asked.iter().filter(|asked| asked.sent >= stream.before && asked.replies() > 0);
    let last = answered.next_back().map_or(Duration::ZERO, |asked| asked.sent - stream.before);
    Ok(last.as_secs_f64() * 1e6)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_change_stands_in_the_table() {
        let shown: Vec<&str> = TABLES[0].measures.iter().map(|(measure, _)| *measure).collect();
        assert_eq!(shown, CHANGES.map(|change| format!("{}, p99", change.what)));
    }
}
