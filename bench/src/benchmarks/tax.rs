//! What attaching costs everybody else: traffic that is not ARP, with nothing attached and with each hook.
//!
//! Each case has a pair of pods on one node, alike but for what is attached to their node ends; with each round the
//! cases move on by one pair. Nothing attached is there twice: what those two differ by is noise.

use std::net::Ipv4Addr;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use bench::gro;
use lab::topology::{CALICO_MAC, UPLINK_IP, calico};
use lab::{Agent, Host, Lab};

use crate::context::Context;
use crate::findings::Findings;
use crate::layout::{Columns, Table};
use crate::loads::{Cores, Path};
use crate::process::started;
use crate::report::GoalBound;
use crate::samples::{Key, order};

const NOTHING: &str = "nothing attached";
const AGAIN: &str = "nothing attached, again";
const SKB: &str = "xdp skb";
const TCX: &str = "tcx (default)";
const CLSACT: &str = "clsact (fallback)";
const DRIVER: &str = "xdp driver";

/// What may be attached, and the agent's options for it.
const CASES: [(&str, &[&str]); 6] = [
    (NOTHING, &[]),
    (AGAIN, &[]),
    (TCX, &["--hook", "tc", "--tc-attach", "tcx"]),
    (CLSACT, &["--hook", "tc", "--tc-attach", "clsact"]),
    (SKB, &["--hook", "xdp", "--xdp-mode", "skb"]),
    (DRIVER, &["--hook", "xdp", "--xdp-mode", "driver"]),
];

/// How long an interface may take until it is answered on.
const PATIENCE: Duration = Duration::from_secs(5);

pub(crate) const TABLES: &[Table] = &[Table {
    columns: Columns::Measures,
    measures: &[
        (LOADS[0].0, LOADS[0].0),
        (LOADS[1].0, LOADS[1].0),
        (LOADS[2].0, LOADS[2].0),
        (LOADS[3].0, LOADS[3].0),
        (LOADS[4].0, LOADS[4].0),
        (LOADS[5].0, LOADS[5].0),
    ],
    cases: &[],
}];

type Load = fn(&Path<'_>, Cores, Duration) -> Result<f64>;

/// From where to where, in what unit.
const LOADS: [(&str, Way, &str, Load); 6] = [
    ("TCP bulk, pod → node", Way::PodToNode, "B/s", |path, cores, time| path.tcp_bulk(cores, time)),
    ("TCP bulk, node → pod", Way::NodeToPod, "B/s", |path, cores, time| path.tcp_bulk(cores, time)),
    ("TCP bulk, pod → pod", Way::PodToPod, "B/s", |path, cores, time| path.tcp_bulk(cores, time)),
    ("TCP requests, pod → node", Way::PodToNode, "/s", |path, cores, time| path.tcp_requests(cores, time)),
    ("TCP connections, pod → node", Way::PodToNode, "/s", |path, cores, time| path.tcp_connections(cores, time)),
    ("UDP of 64 bytes, pod → node", Way::PodToNode, "/s", |path, cores, time| path.udp_small(cores, time)),
];

/// So many of them, the first, are bulk: they vary by more from one time to the next than what is judged.
const BULKS: usize = 3;

#[derive(Clone, Copy, Debug)]
enum Way {
    PodToNode,
    NodeToPod,
    PodToPod,
}

pub(crate) fn run(context: &Context, findings: &mut Findings) -> Result<()> {
    let (rounds, duration) = context.either((21, Duration::from_millis(150)), (2, Duration::from_millis(30)));
    let times_of_bulk = context.either(3, 1);
    let cores = Cores(context.core, context.cores[0]);
    let lab = calico(2 * CASES.len() as u8)?;
    let pods: Vec<&Host> = (0..2 * CASES.len()).map(|pod| lab.host(&format!("p{pod}"))).collect();
    for pod in &pods {
        prepare(&lab, pod)?;
    }
    let cases = available(&lab, &pods, findings)?;
    for round in 0..rounds {
        context.check()?;
        let pair = |case: usize| {
            let first = 2 * ((case + round) % CASES.len());
            [pods[first], pods[first + 1]]
        };
        let agents: Vec<Option<Agent>> =
            cases.iter().map(|&case| attach(&lab, pair(case), case)).collect::<Result<_>>()?;
        for (number, (load, way, unit, run)) in LOADS.into_iter().enumerate() {
            let times = if number < BULKS { times_of_bulk } else { 1 };
            for place in (0..times).flat_map(|time| order(round + time, cases.len())) {
                context.check()?;
                let case = cases[place];
                let rate = run(&path(&lab, pair(case), way), cores, duration)
                    .with_context(|| format!("{load}, {}", CASES[case].0))?;
                findings.push(Key::new(load, CASES[case].0), unit, rate);
            }
        }
        for (&case, agent) in cases.iter().zip(agents) {
            if let Some(mut agent) = agent {
                agent.stop()?;
                set_gro(pair(case), case, false)?;
            }
        }
    }
    for (load, ..) in LOADS {
        findings.compare(load, NOTHING);
        let ratios = |findings: &Findings, case| {
            // Nothing to compare is a goal not met.
            findings.samples.ratios(&Key::new(load, case), &Key::new(load, NOTHING)).unwrap_or_default()
        };
        for case in [TCX, SKB] {
            let values = ratios(findings, case);
            findings.goal("P7", [&format!("{case} against {NOTHING}"), load], GoalBound::AtLeast(0.97), "×", &values);
            if case == TCX {
                let values = ratios(findings, CLSACT);
                findings.beside("clsact", &values);
            }
        }
    }
    findings.note(format!(
        "{rounds} rounds, of TCP bulk {times_of_bulk} times in each; {duration:?} each, after a warm-up, over new sockets. The sender, and with it what is attached, on core {}, \
         the receiver on core {}; requests and responses both on the sender's.",
        cores.0, cores.1
    ));
    Ok(())
}

/// Nothing needs to be learned, and nobody else listens.
fn prepare(lab: &Lab, pod: &Host) -> Result<()> {
    pod.close_sockets();
    let (ip, mac, node_end) = (Ipv4Addr::from(pod.ip()), pod.mac(), pod.node_end());
    lab.node().ip(&format!("neigh replace {ip} lladdr {mac} dev {node_end} nud permanent"))?;
    pod.namespace().ip(&format!("neigh replace 169.254.1.1 lladdr {CALICO_MAC} dev eth0 nud permanent"))?;
    Ok(())
}

/// The cases that this agent and this kernel can attach; the others are skipped, loudly.
fn available(lab: &Lab, pods: &[&Host], findings: &mut Findings) -> Result<Vec<usize>> {
    let mut cases = Vec::new();
    for (case, (name, _)) in CASES.into_iter().enumerate() {
        let pair = [pods[0], pods[1]];
        match attach(lab, pair, case) {
            Ok(agent) => {
                cases.push(case);
                if let Some(mut agent) = agent {
                    agent.stop()?;
                }
            }
            Err(error) => findings.skip(name, &format!("{error:#}").replace('\n', " ")),
        }
        set_gro(pair, case, false)?;
    }
    Ok(cases)
}

/// Starts the agent of a case on a pair's node ends; it must answer there.
fn attach(lab: &Lab, pair: [&Host; 2], case: usize) -> Result<Option<Agent>> {
    let (_, arguments) = CASES[case];
    if arguments.is_empty() {
        return Ok(None);
    }
    set_gro(pair, case, true)?;
    let ends = pair.map(Host::node_end);
    let (agent, _) = started(&ends, arguments, lab.node())?;
    // The self-test may end after the agent is ready.
    let begin = Instant::now();
    for end in ends {
        while agent.status()?.interface(end)["state"] != "answering" {
            let said = agent.status()?;
            ensure!(begin.elapsed() < PATIENCE, "{end} is not answered on: {}", said.interface(end));
            thread::sleep(Duration::from_millis(5));
        }
    }
    Ok(Some(agent))
}

/// Driver mode works only while the pod end takes XDP frames, as it does with GRO.
fn set_gro(pair: [&Host; 2], case: usize, on: bool) -> Result<()> {
    if CASES[case].0 == DRIVER {
        for pod in pair {
            gro(pod.namespace(), "eth0", on)?;
        }
    }
    Ok(())
}

fn path<'a>(lab: &'a Lab, [one, other]: [&'a Host; 2], way: Way) -> Path<'a> {
    let (one_ns, other_ns) = (one.namespace(), other.namespace());
    match way {
        Way::PodToNode => Path { from: one_ns, to: lab.node(), address: UPLINK_IP.into() },
        Way::NodeToPod => Path { from: lab.node(), to: one_ns, address: one.ip().into() },
        Way::PodToPod => Path { from: one_ns, to: other_ns, address: other.ip().into() },
    }
}
