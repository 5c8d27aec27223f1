//! The attach self-test without its I/O: a test frame, sent the way that replies go, must arrive.
//!
//! The frame is for nobody: no device has its destination, and its EtherType is one for experiments, so the pod's stack
//! drops it. The veth's counters at the node end show that it arrived: they count what the pod end has taken. Other
//! traffic to the pod at the same moment could be mistaken for it. So several frames of an unusual length are sent, and
//! exactly as many frames and bytes must be counted.

use super::link_counters::Transmitted;
use crate::dataplane::HookKind;
use crate::event::Link;
use arp_common::Reason;
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

/// How many frames a test sends.
pub(crate) const FRAMES: u32 = 3;
/// Their length in bytes: longer than ARP frames and other small packets.
const LEN: usize = 251;
/// Their length in bytes after a failure: it fits the smallest MTU that IPv4 allows, 68.
const SHORT_LEN: usize = 82;
/// How long the frames may take to arrive.
const PATIENCE: Duration = Duration::from_millis(2);
/// How long after the sending the counters are trusted: later, they may have counted other traffic.
const LATEST: Duration = Duration::from_millis(10);
/// Pause between two readings of the counters.
const STEP: Duration = Duration::from_micros(500);
/// Pause before a failed test is repeated the first time; it doubles with each failure.
const FIRST_RETRY: Duration = Duration::from_millis(10);
const LAST_RETRY: Duration = Duration::from_secs(60);

/// The Ethernet header: locally administered addresses that nobody has, EtherType 0x88b5 (local experiments, IEEE 802).
const HEADER: [u8; 14] = [2, 0xa7, 0x9f, 0x0b, 0x0e, 0xfe, 2, 0xa7, 0x9f, 0x0b, 0x0e, 0xff, 0x88, 0xb5];

/// The frame of a test, `len` bytes long.
pub(crate) fn frame(len: usize) -> Vec<u8> {
    let mut frame = vec![0; len];
    frame[..HEADER.len()].copy_from_slice(&HEADER);
    frame
}

/// What the caller does next for an interface; it then reports the result.
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SelfTestAction {
    /// Nothing: [`SelfTests::blocked`] says what is known.
    Nothing,
    /// Read the counters, then send [`FRAMES`] frames of this length, then call [`SelfTests::sent`].
    Send {
        /// Their length in bytes.
        len: usize,
    },
    /// Read the counters, then call [`SelfTests::counted`].
    ReadCounters,
}

/// What is known of the interfaces' reply paths. Nothing here waits: the caller asks again when a test's next step is
/// due.
#[derive(Debug, Default)]
pub(crate) struct SelfTests {
    by_ifindex: BTreeMap<u32, SelfTest>,
    /// The interfaces whose test goes on at a set time.
    pending: BTreeSet<u32>,
}

#[derive(Debug)]
struct SelfTest {
    how: HookKind,
    /// IFLA_CARRIER_CHANGES at the test: if it changes, the result no longer counts.
    carrier_changes: u32,
    /// Whether the other end took XDP frames at the test.
    takes_xdp: bool,
    state: TestState,
}

/// The state of an interface's test.
#[derive(Clone, Copy, Debug, PartialEq)]
enum TestState {
    /// Replies arrive.
    Proven,
    /// Replies cannot arrive as the interface is; there is nothing to test.
    Blocked(Reason),
    /// The caller is about to send frames; how often the test has failed before.
    Sending { failures: u32 },
    /// Frames are under way.
    Sent(Sent),
    /// The frames did not arrive: when to test again, and how often the test has failed.
    Failed { again: Instant, failures: u32 },
}

/// Frames that were sent.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Sent {
    at: Instant,
    /// How long each is.
    len: usize,
    /// What the interface had transmitted before.
    before: Transmitted,
    failures: u32,
    /// When to read the counters next; `None` if they were not read yet.
    next: Option<Instant>,
}

/// What the counters say about the frames.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Arrival {
    Arrived,
    NotYet,
    /// The right amount was counted, but so late that it may be other traffic.
    Uncertain,
    Lost,
}

impl Sent {
    fn arrival(&self, counted: Transmitted, now: Instant) -> Arrival {
        let more = counted.frames.wrapping_sub(self.before.frames);
        let longer = counted.bytes.wrapping_sub(self.before.bytes);
        let are_counted = more >= u64::from(FRAMES) && longer >= u64::from(FRAMES) * self.len as u64;
        match now.saturating_duration_since(self.at) {
            since if are_counted && since <= LATEST => Arrival::Arrived,
            _ if are_counted => Arrival::Uncertain,
            since if since > PATIENCE => Arrival::Lost,
            _ => Arrival::NotYet,
        }
    }
}

impl TestState {
    fn blocked(&self) -> Option<Reason> {
        match *self {
            TestState::Proven => None,
            TestState::Blocked(reason) => Some(reason),
            TestState::Sending { .. } | TestState::Sent(_) | TestState::Failed { .. } => {
                Some(Reason::SELF_TEST_PENDING)
            }
        }
    }

    fn due(&self) -> Option<Instant> {
        match *self {
            TestState::Proven | TestState::Blocked(_) | TestState::Sending { .. } => None,
            TestState::Sent(Sent { at, next, .. }) => Some(next.unwrap_or(at)),
            TestState::Failed { again, .. } => Some(again),
        }
    }

    fn failures(&self) -> u32 {
        match *self {
            TestState::Proven | TestState::Blocked(_) => 0,
            TestState::Sending { failures }
            | TestState::Sent(Sent { failures, .. })
            | TestState::Failed { failures, .. } => failures,
        }
    }

    /// The state after another failure at `now`, with `failures` before it.
    fn failed(failures: u32, now: Instant) -> Self {
        let pause = FIRST_RETRY.saturating_mul(1 << failures.min(16)).min(LAST_RETRY);
        TestState::Failed { again: now + pause, failures: failures + 1 }
    }
}

impl SelfTests {
    /// Forgets an interface.
    pub(crate) fn forget(&mut self, ifindex: u32) {
        self.by_ifindex.remove(&ifindex);
        self.pending.remove(&ifindex);
    }

    /// What to do to learn whether replies arrive by this hook. An interface is tested if it never was, if its carrier
    /// or its other end has changed since, or if the last test failed long enough ago. `takes_xdp`: its other end takes
    /// XDP frames in driver mode.
    pub(crate) fn check(&mut self, link: &Link, how: HookKind, takes_xdp: bool, now: Instant) -> SelfTestAction {
        let Link { ifindex, carrier_changes, .. } = *link;
        if link.kind.as_deref() != Some("veth") {
            // There is no other end to be asked, and what is sent would be on somebody's wire.
            self.forget(ifindex);
            return SelfTestAction::Nothing;
        }
        let known = self
            .by_ifindex
            .get(&ifindex)
            .filter(|test| (test.how, test.carrier_changes, test.takes_xdp) == (how, carrier_changes, takes_xdp));
        let state = match known.map(|test| test.state) {
            Some(state) if state.due().is_none_or(|due| now < due) => return SelfTestAction::Nothing,
            Some(TestState::Sent(_)) => return SelfTestAction::ReadCounters,
            Some(state) => TestState::Sending { failures: state.failures() },
            None if !link.carrier => TestState::Blocked(Reason::SELF_TEST_PENDING),
            None if how == HookKind::XdpVeth && !takes_xdp => TestState::Blocked(Reason::PEER_DROPS_XDP),
            None => TestState::Sending { failures: 0 },
        };
        self.by_ifindex.insert(ifindex, SelfTest { how, carrier_changes, takes_xdp, state });
        self.enter(ifindex, state)
    }

    /// Notes that the frames were sent. On most devices they have arrived by then.
    pub(crate) fn sent(&mut self, ifindex: u32, before: Transmitted, now: Instant) -> SelfTestAction {
        match self.state(ifindex) {
            Some(TestState::Sending { failures }) => {
                self.enter(ifindex, TestState::Sent(Sent { at: now, len: len(failures), before, failures, next: None }))
            }
            _ => SelfTestAction::Nothing,
        }
    }

    /// Notes what the interface has transmitted so far.
    pub(crate) fn counted(&mut self, ifindex: u32, counted: Transmitted, now: Instant) -> SelfTestAction {
        let Some(TestState::Sent(sent)) = self.state(ifindex) else { return SelfTestAction::Nothing };
        let state = match sent.arrival(counted, now) {
            Arrival::Arrived => TestState::Proven,
            Arrival::NotYet => TestState::Sent(Sent { next: Some(now + STEP), ..sent }),
            // The caller came late: once more. But not if it takes so long to read the counters.
            Arrival::Uncertain if sent.next.is_some() => TestState::Sending { failures: sent.failures },
            Arrival::Uncertain | Arrival::Lost => TestState::failed(sent.failures, now),
        };
        self.enter(ifindex, state)
    }

    /// Notes that the frames could not be sent, or the counters not be read.
    pub(crate) fn failed(&mut self, ifindex: u32, now: Instant) {
        if let Some(state) = self.state(ifindex) {
            let _ = self.enter(ifindex, TestState::failed(state.failures(), now));
        }
    }

    /// Why the interface must not answer by its hook, if its reply path is the reason.
    pub(crate) fn blocked(&self, ifindex: u32) -> Option<Reason> {
        self.state(ifindex)?.blocked()
    }

    /// How often in a row the test of an interface has failed.
    pub(crate) fn failures(&self, ifindex: u32) -> u32 {
        self.state(ifindex).map_or(0, |state| state.failures())
    }

    /// The interfaces whose next step is due at `now`.
    pub(crate) fn pending(&self, now: Instant) -> BTreeSet<u32> {
        let is_due = |ifindex: &u32| self.due_of(*ifindex).is_some_and(|due| due <= now);
        self.pending.iter().copied().filter(is_due).collect()
    }

    /// When the next step of any interface is due.
    pub(crate) fn due(&self) -> Option<Instant> {
        self.pending.iter().filter_map(|&ifindex| self.due_of(ifindex)).min()
    }

    fn state(&self, ifindex: u32) -> Option<TestState> {
        self.by_ifindex.get(&ifindex).map(|test| test.state)
    }

    fn due_of(&self, ifindex: u32) -> Option<Instant> {
        self.state(ifindex)?.due()
    }

    /// Sets the state, and gives what to do in it.
    fn enter(&mut self, ifindex: u32, state: TestState) -> SelfTestAction {
        if let Some(test) = self.by_ifindex.get_mut(&ifindex) {
            test.state = state;
        }
        if state.due().is_some() {
            self.pending.insert(ifindex);
        } else {
            self.pending.remove(&ifindex);
        }
        match state {
            TestState::Sending { failures } => SelfTestAction::Send { len: len(failures) },
            TestState::Sent(Sent { next: None, .. }) => SelfTestAction::ReadCounters,
            _ => SelfTestAction::Nothing,
        }
    }
}

/// The length of the frames after so many failures.
fn len(failures: u32) -> usize {
    if failures == 0 { LEN } else { SHORT_LEN }
}

#[cfg(test)]
mod tests {
    use super::*;

    const IFINDEX: u32 = 7;
    const BEFORE: Transmitted = Transmitted { frames: 5, bytes: 1_000 };

    /// What is counted when frames of this length have arrived.
    fn arrived(len: usize) -> Transmitted {
        Transmitted { frames: BEFORE.frames + 3, bytes: BEFORE.bytes + 3 * len as u64 }
    }

    fn veth() -> Link {
        Link { ifindex: IFINDEX, kind: Some("veth".into()), carrier: true, ..Link::default() }
    }

    fn check(tests: &mut SelfTests, now: Instant) -> SelfTestAction {
        tests.check(&veth(), HookKind::Tcx, false, now)
    }

    /// Frames are under way since this moment.
    fn sent(at: Instant) -> SelfTests {
        let mut tests = SelfTests::default();
        assert_eq!(check(&mut tests, at), SelfTestAction::Send { len: LEN });
        assert_eq!(tests.sent(IFINDEX, BEFORE, at), SelfTestAction::ReadCounters);
        tests
    }

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn frames_have_arrived_when_all_are_counted_in_time() {
        let at = Instant::now();
        let sent = Sent { at, len: LEN, before: BEFORE, failures: 0, next: None };
        let all = arrived(LEN);
        assert_eq!(sent.arrival(all, at), Arrival::Arrived);
        assert_eq!(sent.arrival(all, at + ms(10)), Arrival::Arrived);
        assert_eq!(sent.arrival(all, at + ms(11)), Arrival::Uncertain, "it may be other traffic");
        for some in [Transmitted { frames: all.frames - 1, ..all }, Transmitted { bytes: all.bytes - 1, ..all }] {
            assert_eq!(sent.arrival(some, at + ms(2)), Arrival::NotYet);
            assert_eq!(sent.arrival(some, at + ms(3)), Arrival::Lost);
        }
        let wrapping = Sent { before: Transmitted { frames: u64::MAX, bytes: u64::MAX }, ..sent };
        assert_eq!(wrapping.arrival(Transmitted { frames: 2, bytes: 3 * LEN as u64 }, at), Arrival::Arrived);
    }

    #[test]
    fn the_pause_after_a_failure_grows_up_to_a_bound() {
        let now = Instant::now();
        let pause = |failures| TestState::failed(failures, now).due().map(|due| due - now);
        assert_eq!(
            [0, 1, 2, 12, 13, 400].map(pause),
            [10, 20, 40, 40_960, 60_000, 60_000].map(|pause| Some(ms(pause)))
        );
    }

    #[test]
    fn a_veth_answers_once_its_frames_have_arrived() {
        let at = Instant::now();
        let mut tests = sent(at);
        assert_eq!(tests.blocked(IFINDEX), Some(Reason::SELF_TEST_PENDING));
        assert_eq!(tests.counted(IFINDEX, arrived(LEN), at), SelfTestAction::Nothing);
        assert_eq!((tests.blocked(IFINDEX), tests.due()), (None, None));
        assert_eq!(check(&mut tests, at + ms(1_000)), SelfTestAction::Nothing);
    }

    #[test]
    fn counters_are_read_again_until_the_frames_arrive() {
        let at = Instant::now();
        let mut tests = sent(at);
        assert_eq!(tests.counted(IFINDEX, BEFORE, at), SelfTestAction::Nothing);
        assert_eq!(tests.due(), Some(at + STEP));
        assert_eq!(check(&mut tests, at), SelfTestAction::Nothing, "too early");
        assert_eq!(tests.pending(at + STEP), BTreeSet::from([IFINDEX]));
        assert_eq!(check(&mut tests, at + STEP), SelfTestAction::ReadCounters);
        assert_eq!(tests.counted(IFINDEX, arrived(LEN), at + STEP), SelfTestAction::Nothing);
        assert_eq!((tests.blocked(IFINDEX), tests.pending(at + ms(9))), (None, BTreeSet::new()));
    }

    #[test]
    fn a_test_that_failed_is_repeated_with_short_frames() {
        let at = Instant::now();
        let mut tests = sent(at);
        assert_eq!(tests.counted(IFINDEX, BEFORE, at + ms(3)), SelfTestAction::Nothing);
        assert_eq!((tests.failures(IFINDEX), tests.blocked(IFINDEX)), (1, Some(Reason::SELF_TEST_PENDING)));
        assert_eq!(tests.due(), Some(at + ms(13)));
        assert_eq!(check(&mut tests, at + ms(13)), SelfTestAction::Send { len: SHORT_LEN });
        assert_eq!(tests.sent(IFINDEX, BEFORE, at + ms(13)), SelfTestAction::ReadCounters);
        assert_eq!(tests.counted(IFINDEX, arrived(SHORT_LEN), at + ms(13)), SelfTestAction::Nothing);
        assert_eq!((tests.failures(IFINDEX), tests.blocked(IFINDEX)), (0, None));
    }

    #[test]
    fn counters_that_are_read_too_late_prove_nothing() {
        let at = Instant::now();
        let mut tests = sent(at);
        assert_eq!(tests.counted(IFINDEX, BEFORE, at), SelfTestAction::Nothing);
        assert_eq!(check(&mut tests, at + ms(20)), SelfTestAction::ReadCounters);
        assert_eq!(tests.counted(IFINDEX, arrived(LEN), at + ms(20)), SelfTestAction::Send { len: LEN });
        assert_eq!(tests.sent(IFINDEX, BEFORE, at + ms(20)), SelfTestAction::ReadCounters);
        assert_eq!(
            tests.counted(IFINDEX, arrived(LEN), at + ms(40)),
            SelfTestAction::Nothing,
            "reading takes too long"
        );
        assert_eq!(tests.failures(IFINDEX), 1);
    }

    #[test]
    fn an_error_counts_as_a_failure() {
        let at = Instant::now();
        let mut tests = SelfTests::default();
        assert_eq!(check(&mut tests, at), SelfTestAction::Send { len: LEN });
        tests.failed(IFINDEX, at);
        assert_eq!((tests.failures(IFINDEX), tests.due()), (1, Some(at + FIRST_RETRY)));
        assert_eq!(check(&mut tests, at + FIRST_RETRY), SelfTestAction::Send { len: SHORT_LEN });
        tests.failed(IFINDEX, at);
        assert_eq!((tests.failures(IFINDEX), tests.due()), (2, Some(at + 2 * FIRST_RETRY)));
    }

    #[test]
    fn a_changed_carrier_peer_or_hook_is_tested_anew() {
        let at = Instant::now();
        let proven = || {
            let mut tests = sent(at);
            assert_eq!(tests.counted(IFINDEX, arrived(LEN), at), SelfTestAction::Nothing);
            tests
        };
        let send = SelfTestAction::Send { len: LEN };
        let flapped = Link { carrier_changes: 1, ..veth() };
        assert_eq!(proven().check(&flapped, HookKind::Tcx, false, at), send);
        assert_eq!(proven().check(&veth(), HookKind::Tcx, true, at), send);
        assert_eq!(proven().check(&veth(), HookKind::Clsact, false, at), send);
        let mut forgotten = proven();
        forgotten.forget(IFINDEX);
        assert_eq!(check(&mut forgotten, at), send);
    }

    #[test]
    fn what_cannot_be_tested_is_blocked_until_it_changes() {
        let at = Instant::now();
        let mut tests = SelfTests::default();
        let down = Link { carrier: false, ..veth() };
        assert_eq!(tests.check(&down, HookKind::Tcx, false, at), SelfTestAction::Nothing);
        assert_eq!((tests.blocked(IFINDEX), tests.due()), (Some(Reason::SELF_TEST_PENDING), None));
        let up = Link { carrier_changes: 1, ..veth() };
        assert_eq!(tests.check(&up, HookKind::XdpVeth, false, at), SelfTestAction::Nothing);
        assert_eq!((tests.blocked(IFINDEX), tests.due()), (Some(Reason::PEER_DROPS_XDP), None));
        assert_eq!(tests.check(&up, HookKind::XdpVeth, true, at), SelfTestAction::Send { len: LEN });
    }

    #[test]
    fn only_veths_are_tested() {
        let at = Instant::now();
        let mut tests = sent(at);
        let nic = Link { kind: None, ..veth() };
        assert_eq!(tests.check(&nic, HookKind::XdpDriver, false, at), SelfTestAction::Nothing);
        assert_eq!((tests.blocked(IFINDEX), tests.due()), (None, None), "what had the index before is forgotten");
    }
}
