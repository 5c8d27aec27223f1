//! Responders side by side, on pods of one node that are alike but for who answers them.

use std::time::Duration;

use anyhow::{Context, Result};
use bench::{BURST, Responder, Stand, quantile, stands};
use lab::topology::CALICO_GATEWAY;
use lab::{Lab, allowed_cores};

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

/// One responder's turn.
#[derive(Clone, Debug)]
pub(crate) struct Slice {
    pub(crate) responder: Responder,
    /// Number of the round and of the turn within.
    turn: (usize, usize),
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
#[derive(Debug, Default)]
pub(crate) struct Comparison {
    /// The turns, as they came.
    slices: Vec<Slice>,
    pub(crate) rounds: usize,
    /// The core that asked, and with it answered.
    pub(crate) core: usize,
    /// How many cores the measurement could have had.
    pub(crate) cores: usize,
    /// Hook and mode of each fast path, as `status` names them.
    pub(crate) modes: Vec<(Responder, String)>,
    /// Requests that the fast paths answered by their own counters: as many as were sent in their turns.
    pub(crate) counted: u64,
}

/// Who is compared, in the order of a round.
pub(crate) fn responders() -> [Responder; 4] {
    [Responder::DelayedKernel, Responder::Kernel, Responder::Skb, Responder::default_tc()]
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

/// Lets the four pods of a Calico node ask for their gateway, each answered by another responder; with each round the roles
/// move on to the next pod. `between` is called between turns, and ends the measurement by an error.
///
/// An error also if a request gets no reply, or if the counters of a fast path do not say that it answered its own
/// requests and no others.
pub(crate) fn compare(lab: &Lab, rounds: usize, mut between: impl FnMut(usize) -> Result<()>) -> Result<Comparison> {
    let cores = allowed_cores()?;
    let core = *cores.last().context("no core to run on")?;
    let mut comparison = Comparison { rounds, core, cores: cores.len(), ..Comparison::default() };
    for round in 0..rounds {
        let mut missing = Ok(());
        let stands = stands(lab, &responders(), round, core, |who, why| {
            missing = Err(anyhow::anyhow!("{}: {why}", who.name()));
        });
        missing?;
        comparison.modes = stands.iter().map(|stand| Ok((stand.who, stand.mode()?))).collect::<Result<_>>()?;
        for (turn, index) in turns() {
            between(round)?;
            let before = stands.iter().map(Stand::answered).collect::<Result<Vec<_>>>()?;
            let stand = &stands[index];
            let (slice, sent) = measure(stand, (round, turn))?;
            for (other, before) in stands.iter().zip(before) {
                let expected = if other.who == stand.who { sent } else { 0 };
                other.check(before, expected)?;
            }
            comparison.counted += if stand.who.is_fast_path() { sent } else { 0 };
            comparison.slices.push(slice);
        }
        stands.into_iter().try_for_each(Stand::end)?;
    }
    Ok(comparison)
}

/// The order within a round, by place in [`responders`]: the delayed kernel first, then the others, each first in every
/// third turn.
fn turns() -> impl Iterator<Item = (usize, usize)> {
    [(0, 0)].into_iter().chain((0..TURNS).flat_map(|turn| (0..3).map(move |next| (turn, 1 + (turn + next) % 3))))
}

/// One turn; also how many requests were sent in all.
fn measure(stand: &Stand, turn: (usize, usize)) -> Result<(Slice, u64)> {
    let micros = |times: &[Duration]| -> Vec<f64> { times.iter().map(|time| time.as_secs_f64() * 1e6).collect() };
    let requester = stand.subject.requester()?;
    let (latencies, rate, sent) = if stand.who == Responder::DelayedKernel {
        // A target for each, to tell their replies apart.
        let targets: Vec<[u8; 4]> = (1..=IN_FLIGHT).map(|number| [10, 30, 0, number]).collect();
        let asked = requester.in_flight(&targets, DELAYED_WINDOW)?;
        let rate = asked.within as f64 / DELAYED_WINDOW.as_secs_f64();
        (micros(&asked.latencies), rate, asked.latencies.len())
    } else {
        let latencies = requester.one_at_a_time(CALICO_GATEWAY, SINGLE)?;
        let bursts = requester.bursts(CALICO_GATEWAY, BURSTS)?;
        let rate = BURST as f64 * 1e6 / quantile(&micros(&bursts), 0.5);
        (micros(&latencies), rate, SINGLE + bursts.len() * BURST)
    };
    let (p50, p99) = (quantile(&latencies, 0.5), quantile(&latencies, 0.99));
    Ok((Slice { responder: stand.who, turn, requests: latencies.len(), p50, p99, rate }, sent as u64))
}
