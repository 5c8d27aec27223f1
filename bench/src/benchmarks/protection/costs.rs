//! What the guard costs traffic that is not ARP: with the unresolved-budget, the only policy that looks at IP packets, while
//! the neighbour table is calm and while it fills; against the default, which answers and guards nothing.
//!
//! Two pairs of pods on one node; with each round the two cases change places.

use std::thread;
use std::time::Duration;

use anyhow::Result;
use lab::topology::{UPLINK_IP, calico};
use lab::{Agent, AgentOptions, Host, Lab, wait_until};

use super::results::{CALM_TABLE, FILLING_TABLE, GUARDED, LOADS, UNGUARDED};
use crate::context::Context;
use crate::findings::Findings;
use crate::loads::{Cores, Path};
use crate::samples::{Key, order};

/// More than a quarter of what the table has room for, from which on the budget is at work.
const ENTRIES: u16 = 300;
/// For how long it is at work after the last new entry.
const AT_WORK: Duration = Duration::from_secs(5);

pub(super) fn run(context: &Context, findings: &mut Findings) -> Result<()> {
    let (rounds, duration) = context.either((15, Duration::from_millis(250)), (2, Duration::from_millis(30)));
    let cores = Cores(context.core, context.cores[0]);
    let lab = calico(4)?;
    for round in 0..rounds {
        let pods = |case: usize| {
            let first = 2 * ((case + round) % 2);
            [lab.host(&format!("p{first}")), lab.host(&format!("p{}", first + 1))]
        };
        let cases = [(UNGUARDED, pods(0), &[][..]), (GUARDED, pods(1), super::ALL_DROP)];
        let mut agents =
            cases.iter().map(|(_, pods, policies)| start(&lab, *pods, policies)).collect::<Result<Vec<_>>>()?;
        for (fills, table) in [(false, CALM_TABLE), (true, FILLING_TABLE)] {
            if fills {
                fill(&lab, round)?;
                wait_until(AT_WORK, || is_at_work(&agents[1]), || "the unresolved-budget is at work".to_owned())?;
            }
            for load in LOADS {
                for case in order(round, cases.len()) {
                    context.check()?;
                    let (name, [pod, _], _) = cases[case];
                    let path = Path { from: pod.namespace(), to: lab.node(), address: UPLINK_IP.into() };
                    let rate = match load {
                        _ if load == LOADS[0] => path.tcp_bulk(cores, duration),
                        _ => path.tcp_requests(cores, duration),
                    }?;
                    let unit = if load == LOADS[0] { "B/s" } else { "/s" };
                    findings.push(Key::new(&format!("{load}, {table}"), name), unit, rate);
                }
            }
        }
        agents.iter_mut().try_for_each(|agent| agent.stop().map(drop))?;
        lab.node().ip("neigh flush all")?;
        if round + 1 < rounds {
            thread::sleep(Duration::from_millis(200));
        }
    }
    findings.note(format!("What it costs: {rounds} rounds, {duration:?} each."));
    Ok(())
}

fn start(lab: &Lab, pods: [&Host; 2], policies: &[&str]) -> Result<Agent> {
    let ends = pods.map(Host::node_end);
    let agent = AgentOptions::new(&ends).default_reread().sysctl_hook().args(policies).start(lab.node())?;
    super::await_guard(&agent, &ends, policies)?;
    Ok(agent)
}

/// Makes entries, as a client does that contacts many hosts.
fn fill(lab: &Lab, round: usize) -> Result<()> {
    let entry = |number: u16| {
        let [high, low] = number.to_be_bytes();
        format!("neigh replace 10.9.{}.{low} lladdr 02:00:00:00:{high:02x}:{low:02x} dev eth0 nud stale\n", 4 + high)
    };
    let first = (round % 2) as u16 * ENTRIES;
    lab.node().ip_each(&(first..first + ENTRIES).map(entry).collect::<String>())
}

fn is_at_work(agent: &Agent) -> Result<bool> {
    Ok(agent.status()?.0["warnings"].to_string().contains("unresolved-budget judges"))
}
