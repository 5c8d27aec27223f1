//! What the guard costs traffic that is not ARP: with the unresolved-budget, the only policy that looks at IP packets, while
//! the neighbour table is calm and while it fills; against the default, which answers and guards nothing.
//!
//! Two pairs of pods on one node; with each round the two cases change places.

use std::thread;
use std::time::Duration;

use anyhow::Result;
use lab::topology::{UPLINK_IP, calico};
use lab::{Agent, AgentOptions, Host, Lab, wait_until};

use super::FLOOR;
use super::attacks::{Attacker, SPOOFED_REQUESTS};
use super::results::{CALM_TABLE, DROPPED, FILLING_TABLE, GUARDED, LOADS, UNGUARDED};
use crate::context::Context;
use crate::findings::Findings;
use crate::loads::{Cores, Path};
use crate::programs::{LoadedPrograms, Tc};
use crate::samples::{Key, order};

/// More than a quarter of what the table has room for, from which on the budget is at work.
const ENTRIES: u16 = 300;
/// Floods of each kind in a round.
const FLOODS: usize = 4;
/// For how long it is at work after the last new entry.
const AT_WORK: Duration = Duration::from_secs(5);

pub(super) fn run(context: &Context, findings: &mut Findings) -> Result<()> {
    let (rounds, duration) = context.either((15, Duration::from_millis(250)), (2, Duration::from_millis(30)));
    let flood = context.either(Duration::from_millis(100), Duration::from_millis(20));
    let cores = Cores(context.core, context.cores[0]);
    let lab = calico(6)?;
    // A socket that nobody reads would take a copy of each frame.
    lab.hosts().for_each(|host| host.close_sockets());
    let mut floor = LoadedPrograms::load()?;
    floor.attach_tc("discard_arp_tc", lab.node(), "cali4", Tc::Tcx)?;
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
        let guarded = 2 * ((1 + round) % 2) as u8;
        for turn in order(round, FLOODS * 2) {
            context.check()?;
            let (name, pod) = if turn % 2 == 0 { (FLOOR, 4) } else { (GUARDED, guarded) };
            let namespace = lab.host(&format!("p{pod}")).namespace();
            let sent = Attacker { namespace, pod, core: cores.0 }.flood_for(flood, SPOOFED_REQUESTS, round)?;
            findings.push(Key::new(DROPPED, name), "/s", sent.count as f64 / sent.elapsed.as_secs_f64());
        }
        agents.iter_mut().try_for_each(|agent| agent.stop().map(drop))?;
        lab.node().ip("neigh flush all")?;
        if round + 1 < rounds {
            thread::sleep(Duration::from_millis(200));
        }
    }
    findings.note(format!(
        "What it costs: {rounds} rounds, {duration:?} each; of the floods that are dropped {FLOODS} in each round, {flood:?} \
         each, the two in turn, with nobody else."
    ));
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
