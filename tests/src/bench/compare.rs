//! Responders side by side, on pods of one node that are alike but for who answers them.

use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::asker::{Asker, BURST};
use super::sample::quantile;
use crate::agent::{Agent, AgentOptions, Status};
use crate::host::{Host, allowed_cores};
use crate::lab::Lab;
use crate::topology::CALICO_GATEWAY;

/// Slices of the kernel without delay and of the fast path in a round, taking turns; the delayed kernel has one, which
/// takes far longer.
pub const TURNS: usize = 8;
/// Requests of a slice that are sent one at a time.
const SINGLE: usize = 2000;
/// How long a slice asks in bursts.
const BURSTS: Duration = Duration::from_millis(50);
/// How many requests the delayed kernel has in flight: all that its queue takes (`proxy_qlen`).
const IN_FLIGHT: u8 = 64;
/// How long it is kept busy: its longest delay.
const DELAYED_WINDOW: Duration = Duration::from_millis(800);

/// Who answers a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Responder {
    /// The kernel, which waits before it answers: `proxy_delay` as the kernel sets it.
    DelayedKernel,
    /// The kernel with `proxy_delay` 0.
    Kernel,
    /// The fast path, over a kernel with `proxy_delay` 0.
    FastPath,
}

impl Responder {
    /// All of them, in the order of a round.
    pub const ALL: [Responder; 3] = [Responder::DelayedKernel, Responder::Kernel, Responder::FastPath];
}

/// One responder's turn.
#[derive(Clone, Debug)]
pub struct Slice {
    /// Who answered.
    pub responder: Responder,
    /// Number of the round and of the turn within.
    pub turn: (usize, usize),
    /// Requests whose latency was measured.
    pub requests: usize,
    /// Latency of one request, in µs: the median.
    pub p50: f64,
    /// And the 99th percentile.
    pub p99: f64,
    /// Replies in a second: of the median burst, or of all the time that the delayed kernel was kept busy.
    pub rate: f64,
}

/// What [`compare`] measured, and under which conditions.
#[derive(Clone, Debug)]
pub struct Comparison {
    /// The turns, as they came.
    pub slices: Vec<Slice>,
    /// How many rounds there were.
    pub rounds: usize,
    /// The core that asked, and with it answered.
    pub core: usize,
    /// How many cores the measurement could have had.
    pub cores: usize,
    /// The kernel's default of `proxy_delay`, in units of 10 ms.
    pub default_delay: u32,
    /// Hook and mode of the fast path, as `status` names them.
    pub mode: String,
    /// Requests that the fast path answered by its own counter: as many as were sent in its turns.
    pub counted: u64,
}

impl Comparison {
    /// The turns of one responder.
    pub fn of(&self, responder: Responder) -> impl Iterator<Item = &Slice> {
        self.slices.iter().filter(move |slice| slice.responder == responder)
    }

    /// For each turn of `responder`, `value` over that of the kernel without delay in the same turn: what slows the
    /// machine for both goes.
    pub fn ratios(&self, responder: Responder, value: fn(&Slice) -> f64) -> Vec<f64> {
        let base = |turn| self.of(Responder::Kernel).find(|slice| slice.turn == turn).map(value);
        self.of(responder).filter_map(|slice| Some(value(slice) / base(slice.turn)?)).collect()
    }
}

/// Lets three pods of a Calico node (see [`topology::calico`](crate::topology::calico)) ask for their gateway, each
/// answered by another responder; with each round the roles move on to the next pod. `between` is called between
/// turns, and ends the measurement by an error.
///
/// An error also if a request gets no reply, or if the fast path's counters do not say that it answered its own
/// requests and no others. The node's neighbour entries for the pods become permanent, as Calico makes them.
pub fn compare(
    lab: &Lab,
    pods: [&str; 3],
    rounds: usize,
    mut between: impl FnMut(usize) -> Result<()>,
) -> Result<Comparison> {
    let cores = allowed_cores()?;
    let core = *cores.last().context("no core to run on")?;
    let pods = pods.map(|pod| lab.host(pod));
    for pod in pods {
        prepare(lab, pod)?;
    }
    let [a, b, c] = pods.map(|pod| Asker::on(pod, core));
    let askers = [a?, b?, c?];
    // Nothing in the lab has touched the setting of `lo`.
    let default_delay = lab.node().read_sysctl("net.ipv4.neigh.lo.proxy_delay")?;
    let default_delay = default_delay.parse().context("proxy_delay is not a number")?;

    let mut slices = Vec::new();
    let (mut mode, mut counted) = (String::new(), 0);
    for round in 0..rounds {
        let role = |responder| (responder as usize + round) % pods.len();
        for responder in Responder::ALL {
            let delay = if responder == Responder::DelayedKernel { default_delay } else { 0 };
            let key = format!("net.ipv4.neigh.{}.proxy_delay", pods[role(responder)].node_end());
            lab.node().sysctl(&key, delay)?;
        }
        let fast = pods[role(Responder::FastPath)].node_end();
        let mut agent = AgentOptions::new(&[fast]).default_reread().start(lab.node())?;
        mode = mode_of(&agent.status()?, fast)?;
        for (turn, responder) in turns() {
            between(round)?;
            let before = agent.status()?;
            let (slice, sent) = measure(&askers[role(responder)], responder, (round, turn))?;
            counted += check(&agent, &before, responder, sent)?;
            slices.push(slice);
        }
        let exit = agent.stop()?;
        ensure!(exit.success(), "the agent ended with {exit}; its log:\n{}", agent.log());
    }
    Ok(Comparison { slices, rounds, core, cores: cores.len(), default_delay, mode, counted })
}

/// The order within a round: the delayed kernel first, then the others, each first in every other turn.
fn turns() -> impl Iterator<Item = (usize, Responder)> {
    let pairs = [[Responder::Kernel, Responder::FastPath], [Responder::FastPath, Responder::Kernel]];
    let others = (0..TURNS).flat_map(move |turn| pairs[turn % 2].map(|responder| (turn, responder)));
    [(0, Responder::DelayedKernel)].into_iter().chain(others)
}

/// Nobody but the pod's asker listens, and nothing needs to be learned.
fn prepare(lab: &Lab, pod: &Host) -> Result<()> {
    pod.close_sockets();
    pod.namespace().ip("neigh flush all")?;
    let (ip, mac, node_end) = (Ipv4Addr::from(pod.ip()), pod.mac(), pod.node_end());
    lab.node().ip(&format!("neigh replace {ip} lladdr {mac} dev {node_end} nud permanent"))?;
    Ok(())
}

fn mode_of(status: &Status, interface: &str) -> Result<String> {
    let said = status.interface(interface);
    let text = |key: &str| said[key].as_str().unwrap_or("?").to_owned();
    ensure!(said["state"] == "answering", "the fast path does not answer on {interface}: {said}");
    Ok(format!("{} {}", text("hook"), text("mode")))
}

/// One turn; also how many requests were sent in all.
fn measure(asker: &Asker, responder: Responder, turn: (usize, usize)) -> Result<(Slice, u64)> {
    let micros = |times: &[Duration]| -> Vec<f64> { times.iter().map(|time| time.as_secs_f64() * 1e6).collect() };
    let (latencies, rate, sent) = if responder == Responder::DelayedKernel {
        // A target for each, to tell their replies apart.
        let targets: Vec<[u8; 4]> = (1..=IN_FLIGHT).map(|number| [10, 30, 0, number]).collect();
        let asked = asker.in_flight(&targets, DELAYED_WINDOW)?;
        let rate = asked.within as f64 / DELAYED_WINDOW.as_secs_f64();
        let sent = asked.latencies.len();
        (micros(&asked.latencies), rate, sent)
    } else {
        let latencies = asker.one_at_a_time(CALICO_GATEWAY, SINGLE)?;
        let bursts = asker.bursts(CALICO_GATEWAY, BURSTS)?;
        let rate = BURST as f64 * 1e6 / quantile(&micros(&bursts), 0.5);
        (micros(&latencies), rate, SINGLE + bursts.len() * BURST)
    };
    let (p50, p99) = (quantile(&latencies, 0.5), quantile(&latencies, 0.99));
    Ok((Slice { responder, turn, requests: latencies.len(), p50, p99, rate }, sent as u64))
}

/// How many requests the fast path answered since `before`: all that were sent in its turn, none in another's.
fn check(agent: &Agent, before: &Status, responder: Responder, sent: u64) -> Result<u64> {
    let total = |status: &Status| status.0["answered"].as_u64().context("status has no `answered`");
    let after = agent.status()?;
    let answered = total(&after)? - total(before)?;
    let expected = if responder == Responder::FastPath { sent } else { 0 };
    ensure!(
        answered == expected,
        "{responder:?}: of {sent} requests the fast path answered {answered} by its own counter, not {expected}: {}",
        after.0
    );
    Ok(answered)
}
