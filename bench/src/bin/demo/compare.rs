//! Responders side by side, on pods of one node that are alike but for who answers them.

use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use bench::{BURST, Requester, quantile};
use lab::topology::CALICO_GATEWAY;
use lab::{Agent, AgentOptions, Host, Lab, Status, allowed_cores};

/// How many times the responders without delay take turns in a round; the delayed kernel has one slice, which takes far
/// longer.
pub(crate) const TURNS: usize = 8;
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
pub(crate) enum Responder {
    /// The kernel, which waits before it answers: `proxy_delay` as the kernel sets it.
    DelayedKernel,
    /// The kernel with `proxy_delay` 0.
    Kernel,
    /// The fast path by XDP on socket buffers, over a kernel with `proxy_delay` 0.
    Xdp,
    /// The fast path by tc, over a kernel with `proxy_delay` 0.
    Tc,
}

impl Responder {
    /// All of them, in the order of a round.
    pub(crate) const ALL: [Responder; 4] = [Responder::DelayedKernel, Responder::Kernel, Responder::Xdp, Responder::Tc];

    /// The options of the agent that answers; `None` for the kernel.
    fn hook(self) -> Option<&'static [&'static str]> {
        match self {
            Responder::DelayedKernel | Responder::Kernel => None,
            Responder::Xdp => Some(&["--hook", "xdp", "--xdp-mode", "skb"]),
            Responder::Tc => Some(&["--hook", "tc"]),
        }
    }
}

/// One responder's turn.
#[derive(Clone, Debug)]
pub(crate) struct Slice {
    /// Who answered.
    pub(crate) responder: Responder,
    /// Number of the round and of the turn within.
    pub(crate) turn: (usize, usize),
    /// Requests whose latency was measured.
    pub(crate) requests: usize,
    /// Latency of one request, in µs: the median.
    pub(crate) p50: f64,
    /// And the 99th percentile.
    pub(crate) p99: f64,
    /// Replies in a second: of the median burst, or of all the time that the delayed kernel was kept busy.
    pub(crate) rate: f64,
}

/// What [`compare`] measured, and under which conditions.
#[derive(Clone, Debug)]
pub(crate) struct Comparison {
    /// The turns, as they came.
    pub(crate) slices: Vec<Slice>,
    /// How many rounds there were.
    pub(crate) rounds: usize,
    /// The core that asked, and with it answered.
    pub(crate) core: usize,
    /// How many cores the measurement could have had.
    pub(crate) cores: usize,
    /// The kernel's default of `proxy_delay`, in units of 10 ms.
    pub(crate) default_delay: u32,
    /// Hook and mode of each fast path, as `status` names them.
    pub(crate) modes: Vec<(Responder, String)>,
    /// Requests that the fast paths answered by their own counters: as many as were sent in their turns.
    pub(crate) counted: u64,
}

impl Comparison {
    /// The turns of one responder.
    pub(crate) fn of(&self, responder: Responder) -> impl Iterator<Item = &Slice> {
        self.slices.iter().filter(move |slice| slice.responder == responder)
    }

    /// For each turn of `responder`, `value` over that of the kernel without delay in the same turn: what slows the
    /// machine for both goes.
    pub(crate) fn ratios(&self, responder: Responder, value: fn(&Slice) -> f64) -> Vec<f64> {
        let base = |turn| self.of(Responder::Kernel).find(|slice| slice.turn == turn).map(value);
        self.of(responder).filter_map(|slice| Some(value(slice) / base(slice.turn)?)).collect()
    }
}

/// Lets four pods of a Calico node (see [`topology::calico`](crate::topology::calico)) ask for their gateway, each
/// answered by another responder; with each round the roles move on to the next pod. `between` is called between
/// turns, and ends the measurement by an error.
///
/// An error also if a request gets no reply, or if the counters of a fast path do not say that it answered its own
/// requests and no others. The node's neighbour entries for the pods become permanent, as Calico makes them.
pub(crate) fn compare(
    lab: &Lab,
    pods: [&str; 4],
    rounds: usize,
    mut between: impl FnMut(usize) -> Result<()>,
) -> Result<Comparison> {
    let cores = allowed_cores()?;
    let core = *cores.last().context("no core to run on")?;
    let pods = pods.map(|pod| lab.host(pod));
    for pod in pods {
        prepare(lab, pod)?;
    }
    let askers = pods.iter().map(|pod| Requester::on(pod, core)).collect::<Result<Vec<_>>>()?;
    // Nothing in the lab has touched the setting of `lo`.
    let default_delay = lab.node().read_sysctl("net.ipv4.neigh.lo.proxy_delay")?;
    let default_delay = default_delay.parse().context("proxy_delay is not a number")?;

    let mut slices = Vec::new();
    let (mut modes, mut counted) = (Vec::new(), 0);
    for round in 0..rounds {
        let role = |responder| (responder as usize + round) % pods.len();
        for responder in Responder::ALL {
            let delay = if responder == Responder::DelayedKernel { default_delay } else { 0 };
            let key = format!("net.ipv4.neigh.{}.proxy_delay", pods[role(responder)].node_end());
            lab.node().sysctl(&key, delay)?;
        }
        let mut fast_paths = Vec::new();
        modes.clear();
        for responder in Responder::ALL {
            let Some(hook) = responder.hook() else { continue };
            let interface = pods[role(responder)].node_end();
            let mut options = AgentOptions::new(&[interface]).default_reread();
            for argument in hook {
                options = options.arg(argument);
            }
            let agent = options.start(lab.node())?;
            modes.push((responder, mode_of(&agent.status()?, interface)?));
            fast_paths.push(FastPath { responder, agent });
        }
        for (turn, responder) in turns() {
            between(round)?;
            let before = fast_paths.iter().map(FastPath::answered).collect::<Result<Vec<_>>>()?;
            let (slice, sent) = measure(&askers[role(responder)], responder, (round, turn))?;
            for (fast_path, before) in fast_paths.iter().zip(before) {
                counted += fast_path.check(before, responder, sent)?;
            }
            slices.push(slice);
        }
        for FastPath { mut agent, .. } in fast_paths {
            let exit = agent.stop()?;
            ensure!(exit.success(), "the agent ended with {exit}; its log:\n{}", agent.log());
        }
    }
    Ok(Comparison { slices, rounds, core, cores: cores.len(), default_delay, modes, counted })
}

/// An agent that answers one pod in a round.
struct FastPath {
    responder: Responder,
    agent: Agent,
}

impl FastPath {
    /// Requests that it has answered, by its own counter.
    fn answered(&self) -> Result<u64> {
        self.agent.status()?.0["answered"].as_u64().context("status has no `answered`")
    }

    /// How many it answered in somebody's turn, since it had answered `before`: all that were sent in its own turn, none
    /// in another's.
    fn check(&self, before: u64, turn_of: Responder, sent: u64) -> Result<u64> {
        let answered = self.answered()? - before;
        let expected = if turn_of == self.responder { sent } else { 0 };
        ensure!(
            answered == expected,
            "{:?}, in the turn of {turn_of:?}: of {sent} requests it answered {answered} by its own counter, not \
             {expected}",
            self.responder
        );
        Ok(answered)
    }
}

/// The order within a round: the delayed kernel first, then the others, each first in every third turn.
fn turns() -> impl Iterator<Item = (usize, Responder)> {
    let [delayed, others @ ..] = Responder::ALL;
    let rotated = (0..TURNS).flat_map(move |turn| {
        let first = turn % others.len();
        (0..others.len()).map(move |next| (turn, others[(first + next) % others.len()]))
    });
    [(0, delayed)].into_iter().chain(rotated)
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
fn measure(requester: &Requester, responder: Responder, turn: (usize, usize)) -> Result<(Slice, u64)> {
    let micros = |times: &[Duration]| -> Vec<f64> { times.iter().map(|time| time.as_secs_f64() * 1e6).collect() };
    let (latencies, rate, sent) = if responder == Responder::DelayedKernel {
        // A target for each, to tell their replies apart.
        let targets: Vec<[u8; 4]> = (1..=IN_FLIGHT).map(|number| [10, 30, 0, number]).collect();
        let asked = requester.in_flight(&targets, DELAYED_WINDOW)?;
        let rate = asked.within as f64 / DELAYED_WINDOW.as_secs_f64();
        let sent = asked.latencies.len();
        (micros(&asked.latencies), rate, sent)
    } else {
        let latencies = requester.one_at_a_time(CALICO_GATEWAY, SINGLE)?;
        let bursts = requester.bursts(CALICO_GATEWAY, BURSTS)?;
        let rate = BURST as f64 * 1e6 / quantile(&micros(&bursts), 0.5);
        (micros(&latencies), rate, SINGLE + bursts.len() * BURST)
    };
    let (p50, p99) = (quantile(&latencies, 0.5), quantile(&latencies, 0.99));
    Ok((Slice { responder, turn, requests: latencies.len(), p50, p99, rate }, sent as u64))
}
