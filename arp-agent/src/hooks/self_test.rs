//! The attach self-test: a frame of our own, sent the way that replies go, must arrive.
//!
//! The frame is for nobody (no device has its destination, and its EtherType is one for experiments): the pod's stack drops
//! it as somebody else's. That it has arrived is seen from the veth's counters at the node end, which count what the
//! pod end has taken. Other traffic to the pod in the same moment could be mistaken for it, so a few frames of a length
//! of their own are sent, and as many frames and bytes must be counted.

use super::link_counters::LinkCounters;
use crate::dataplane::{HookKind, bpf::Bpf};
use crate::event::Link;
use arp_common::Reason;
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

/// How many frames a test sends.
const FRAMES: u32 = 3;
/// Their length: no ARP frame, and no small packet, is as long.
const LEN: usize = 251;
/// Their length after a failure: what the smallest MTU that IPv4 allows, 68, lets through.
const SHORT_LEN: usize = 82;
/// How long they may take.
const PATIENCE: Duration = Duration::from_millis(2);
/// How long after they were sent the counters may still be believed: later, other traffic may have been counted.
const LATEST: Duration = Duration::from_millis(10);
/// How long until the counters are looked at again.
const STEP: Duration = Duration::from_micros(500);
/// When a test that failed is repeated: after so long, then twice as long, and so on.
const FIRST_RETRY: Duration = Duration::from_millis(10);
const LAST_RETRY: Duration = Duration::from_secs(60);

/// To nobody (locally administered), from nobody, EtherType 0x88b5 (local experiments, IEEE 802).
const HEADER: [u8; 14] = [2, 0xa7, 0x9f, 0x0b, 0x0e, 0xfe, 2, 0xa7, 0x9f, 0x0b, 0x0e, 0xff, 0x88, 0xb5];

/// What is known of the interfaces' reply paths. Nobody waits for a test: what it says is asked for when it is due.
pub struct SelfTests {
    link_counters: LinkCounters,
    by_ifindex: BTreeMap<u32, SelfTest>,
    /// Those of them that something is to be done about at a time.
    pending: BTreeSet<u32>,
}

struct SelfTest {
    how: HookKind,
    /// IFLA_CARRIER_CHANGES when it was tested: after a change nothing is known.
    carrier_changes: u32,
    /// Whether the other end took frames of XDP then.
    takes_xdp: bool,
    state: State,
}

/// How far the test of an interface has come.
#[derive(Clone, Copy, Debug, PartialEq)]
enum State {
    /// Replies arrive.
    Proven,
    /// It cannot be tested as it is.
    Blocked(Reason),
    /// Frames are under way.
    Sent(Sent),
    /// They did not arrive; when to test again, and how often it has failed.
    Failed { again: Instant, failures: u32 },
}

/// Frames that were sent.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Sent {
    at: Instant,
    /// How long each is.
    len: usize,
    /// What the interface had counted before: frames and bytes.
    before: (u64, u64),
    failures: u32,
    /// When to look at the counters next.
    next: Instant,
}

/// What the counters say of them.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Arrival {
    Arrived,
    NotYet,
    /// As much was counted, but so late that it may be other traffic.
    Uncertain,
    Lost,
}

impl Sent {
    fn arrival(&self, (frames, bytes): (u64, u64), now: Instant) -> Arrival {
        let (more, longer) = (frames.wrapping_sub(self.before.0), bytes.wrapping_sub(self.before.1));
        let are_counted = more >= u64::from(FRAMES) && longer >= u64::from(FRAMES) * self.len as u64;
        match now.saturating_duration_since(self.at) {
            since if are_counted && since <= LATEST => Arrival::Arrived,
            _ if are_counted => Arrival::Uncertain,
            since if since > PATIENCE => Arrival::Lost,
            _ => Arrival::NotYet,
        }
    }
}

impl State {
    fn blocked(&self) -> Option<Reason> {
        match *self {
            State::Proven => None,
            State::Blocked(reason) => Some(reason),
            State::Sent(_) | State::Failed { .. } => Some(Reason::SELF_TEST_PENDING),
        }
    }

    fn due(&self) -> Option<Instant> {
        match *self {
            State::Proven | State::Blocked(_) => None,
            State::Sent(Sent { next, .. }) => Some(next),
            State::Failed { again, .. } => Some(again),
        }
    }

    /// The test has failed so often before, and once more at `now`.
    fn failed(failures: u32, now: Instant) -> Self {
        let pause = FIRST_RETRY.saturating_mul(1 << failures.min(16)).min(LAST_RETRY);
        State::Failed { again: now + pause, failures: failures + 1 }
    }
}

impl SelfTests {
    /// Nothing is known yet.
    ///
    /// # Errors
    /// There is no netlink socket to be had.
    pub fn new() -> anyhow::Result<Self> {
        Ok(SelfTests { link_counters: LinkCounters::new()?, by_ifindex: BTreeMap::new(), pending: BTreeSet::new() })
    }

    /// Forgets an interface.
    pub fn forget(&mut self, ifindex: u32) {
        self.by_ifindex.remove(&ifindex);
        self.pending.remove(&ifindex);
    }

    /// Why the interface must not answer by this hook, as far as its reply path is concerned. Tests it if it was never
    /// tested, if its carrier or its other end has changed since, or if the last test failed long enough ago; looks at what
    /// became of a test that has begun.
    /// `takes_xdp`: its other end takes frames of XDP in driver mode.
    pub fn check(
        &mut self,
        bpf: &mut Bpf,
        link: &Link,
        how: HookKind,
        takes_xdp: bool,
        now: Instant,
    ) -> Option<Reason> {
        let Link { ifindex, carrier_changes, .. } = *link;
        if link.kind.as_deref() != Some("veth") {
            // There is no other end to be asked, and what is sent would be on somebody's wire.
            return None;
        }
        let known = self
            .by_ifindex
            .get(&ifindex)
            .filter(|test| (test.how, test.carrier_changes, test.takes_xdp) == (how, carrier_changes, takes_xdp));
        let state = match known.map(|test| test.state) {
            Some(state) if state.due().is_none_or(|due| now < due) => return state.blocked(),
            Some(State::Sent(sent)) => self.look(bpf, link, how, sent),
            Some(State::Failed { failures, .. }) => self.test(bpf, link, how, failures),
            _ if !link.carrier => State::Blocked(Reason::SELF_TEST_PENDING),
            _ if how == HookKind::XdpVeth && !takes_xdp => State::Blocked(Reason::PEER_DROPS_XDP),
            _ => self.test(bpf, link, how, 0),
        };
        if matches!(state, State::Failed { failures: 1, .. }) {
            log::debug!("{}: no replies by {} {} for now", link.name, how.hook(), how.mode());
        }
        if state.due().is_some() {
            self.pending.insert(ifindex);
        } else {
            self.pending.remove(&ifindex);
        }
        self.by_ifindex.insert(ifindex, SelfTest { how, carrier_changes, takes_xdp, state });
        state.blocked()
    }

    /// The interfaces that something is to be done about at `now`.
    pub fn pending(&self, now: Instant) -> BTreeSet<u32> {
        let is_due = |ifindex: &u32| self.due_of(*ifindex).is_some_and(|due| due <= now);
        self.pending.iter().copied().filter(is_due).collect()
    }

    /// When something is to be done about an interface, if so.
    pub fn due(&self) -> Option<Instant> {
        self.pending.iter().filter_map(|&ifindex| self.due_of(ifindex)).min()
    }

    fn due_of(&self, ifindex: u32) -> Option<Instant> {
        self.by_ifindex.get(&ifindex)?.state.due()
    }

    /// Sends the frames. On most devices they have arrived when that returns.
    fn test(&mut self, bpf: &mut Bpf, link: &Link, how: HookKind, failures: u32) -> State {
        let len = if failures == 0 { LEN } else { SHORT_LEN };
        match self.send(bpf, link.ifindex, how, len, failures) {
            Ok(sent) => self.judge(link, sent).unwrap_or_else(|| State::failed(failures, Instant::now())),
            Err(error) => unable(link, &error, failures),
        }
    }

    /// Looks at what became of frames that were sent.
    fn look(&mut self, bpf: &mut Bpf, link: &Link, how: HookKind, sent: Sent) -> State {
        self.judge(link, sent).unwrap_or_else(|| self.test(bpf, link, how, sent.failures))
    }

    /// What the counters say; `None` if that is uncertain.
    fn judge(&mut self, link: &Link, sent: Sent) -> Option<State> {
        let counted = match self.link_counters.by(link.ifindex) {
            Ok(counted) => counted,
            Err(error) => return Some(unable(link, &error, sent.failures)),
        };
        let now = Instant::now();
        match sent.arrival(counted, now) {
            Arrival::Arrived => Some(State::Proven),
            Arrival::NotYet => Some(State::Sent(Sent { next: now + STEP, ..sent })),
            Arrival::Lost => Some(State::failed(sent.failures, now)),
            Arrival::Uncertain => None,
        }
    }

    fn send(&mut self, bpf: &mut Bpf, ifindex: u32, how: HookKind, len: usize, failures: u32) -> anyhow::Result<Sent> {
        let mut frame = vec![0; len];
        frame[..HEADER.len()].copy_from_slice(&HEADER);
        let before = self.link_counters.by(ifindex)?;
        bpf.send_probes(how, ifindex, &frame, FRAMES)?;
        // Afterwards: the first call loads the program, and the kernel sets up memory for live frames in each.
        let at = Instant::now();
        Ok(Sent { at, len, before, failures, next: at })
    }
}

fn unable(link: &Link, error: &anyhow::Error, failures: u32) -> State {
    if failures == 0 {
        log::warn!("{}: the self-test failed: {error:#}", link.name);
    }
    State::failed(failures, Instant::now())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_have_arrived_when_all_are_counted_in_time() {
        let at = Instant::now();
        let sent = Sent { at, len: LEN, before: (5, 1_000), failures: 0, next: at };
        let all = (8, 1_000 + 3 * LEN as u64);
        let after = |ms: u64| at + Duration::from_millis(ms);
        assert_eq!(sent.arrival(all, at), Arrival::Arrived);
        assert_eq!(sent.arrival(all, after(10)), Arrival::Arrived);
        assert_eq!(sent.arrival(all, after(11)), Arrival::Uncertain, "it may be other traffic");
        for some in [(7, all.1), (8, all.1 - 1)] {
            assert_eq!(sent.arrival(some, after(2)), Arrival::NotYet);
            assert_eq!(sent.arrival(some, after(3)), Arrival::Lost);
        }
        let wrapping = Sent { before: (u64::MAX, u64::MAX), ..sent };
        assert_eq!(wrapping.arrival((2, 3 * LEN as u64), at), Arrival::Arrived);
    }

    #[test]
    fn the_pause_after_a_failure_grows_up_to_a_bound() {
        let now = Instant::now();
        let pause = |failures| State::failed(failures, now).due().map(|due| due - now);
        assert_eq!(
            [0, 1, 2, 12, 13, 400].map(pause),
            [10, 20, 40, 40_960, 60_000, 60_000].map(|ms| Some(Duration::from_millis(ms)))
        );
        assert_eq!(State::failed(0, now).blocked(), Some(Reason::SELF_TEST_PENDING));
    }
}
