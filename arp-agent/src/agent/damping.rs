//! Who changes too fast to be followed, and for how long nobody looks. Pure: time comes in as an argument.

use arp_common::maps::IfaceAddr;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Who may be held back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Who {
    /// An interface.
    Interface(u32),
    /// A neighbour entry.
    Neighbour(IfaceAddr),
}

impl Who {
    /// The interface that it is, or is on.
    pub(super) fn ifindex(self) -> u32 {
        match self {
            Who::Interface(ifindex) | Who::Neighbour(IfaceAddr { ifindex, .. }) => ifindex,
        }
    }
}

/// Weight of a notification of an interface that changes nothing, and of one that changes its carrier or XDP features.
pub(super) const NOTICE: u32 = 10;
pub(super) const CHANGE: u32 = 40;
/// Weight of a change of a neighbour's link-layer address, which costs less to follow.
pub(super) const FLIP: u32 = 1;
/// The weight that may come at once: an interface that is being set up has about twenty notices and two changes.
const BURST: u32 = 1000;
/// So much at once is too much.
pub(super) const EVERYTHING: u32 = BURST + 1;
/// What may come each second, in the long run.
const PER_SECOND: u32 = 200;
/// For how long somebody is held back: so long, then twice as long, and so on.
const FIRST: Duration = Duration::from_secs(1);
const LAST: Duration = Duration::from_secs(60);
/// After so many pauses without being held back again, the next one is the first.
const CALM: u32 = 10;

/// Counts notices.
#[derive(Default)]
pub(super) struct Damper {
    watched: BTreeMap<Who, Watch>,
    times: u64,
}

struct Watch {
    level: u32,
    at: Instant,
    /// Until when it is held back, if so.
    until: Option<Instant>,
    /// How long it was held back last; zero: never.
    pause: Duration,
}

impl Watch {
    fn decay(&mut self, now: Instant) {
        let since = now.saturating_duration_since(self.at);
        let less = u32::try_from(since.as_millis() * u128::from(PER_SECOND) / 1000).unwrap_or(u32::MAX);
        if less > 0 {
            self.level = self.level.saturating_sub(less);
            self.at = now;
        }
    }

    fn is_calm(&self, now: Instant) -> bool {
        self.until.is_none() && now.saturating_duration_since(self.at) > (self.pause * CALM).max(LAST)
    }
}

impl Damper {
    /// Takes note of a notice. Says whether it is one too many: who it is about is held back from now on.
    pub(super) fn noticed(&mut self, who: Who, weight: u32, now: Instant) -> bool {
        let new = || Watch { level: 0, at: now, until: None, pause: Duration::ZERO };
        let watch = self.watched.entry(who).or_insert_with(new);
        if watch.until.is_some() {
            return false;
        }
        let quiet_for = now.saturating_duration_since(watch.at);
        watch.decay(now);
        watch.level += weight;
        if watch.level <= BURST {
            return false;
        }
        let is_calm = quiet_for > watch.pause * CALM;
        watch.pause = if watch.pause.is_zero() || is_calm { FIRST } else { (2 * watch.pause).min(LAST) };
        watch.until = Some(now + watch.pause);
        self.times += 1;
        true
    }

    /// An interface is gone: another may get its index, and is to be looked at soon.
    pub(super) fn gone(&mut self, ifindex: u32, now: Instant) {
        for (_, watch) in self.watched.iter_mut().filter(|(who, _)| who.ifindex() == ifindex) {
            watch.until = watch.until.map(|_| now);
        }
    }

    /// Who is held back.
    pub(super) fn held(&self) -> impl Iterator<Item = Who> {
        self.watched.iter().filter(|(_, watch)| watch.until.is_some()).map(|(&who, _)| who)
    }

    /// Whether it is held back.
    pub(super) fn holds(&self, who: Who) -> bool {
        self.watched.get(&who).is_some_and(|watch| watch.until.is_some())
    }

    /// How often somebody has been held back.
    pub(super) fn times(&self) -> u64 {
        self.times
    }

    /// When somebody is to be let go on.
    pub(super) fn due(&self) -> Option<Instant> {
        self.watched.values().filter_map(|watch| watch.until).min()
    }

    /// Ends every pause at `now`: somebody asks for what the kernel holds now.
    pub(super) fn end_pauses(&mut self, now: Instant) {
        for watch in self.watched.values_mut() {
            watch.until = watch.until.map(|_| now);
        }
    }

    /// Those whose pause has ended.
    pub(super) fn release(&mut self, now: Instant) -> Vec<Who> {
        self.watched.retain(|_, watch| !watch.is_calm(now));
        let mut released = Vec::new();
        for (&who, watch) in &mut self.watched {
            if watch.until.is_some_and(|until| until <= now) {
                (watch.until, watch.level, watch.at) = (None, 0, now);
                released.push(who);
            }
        }
        released
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WHO: Who = Who::Interface(7);

    /// Notices at equal distances, until one is too many: how many, and when that was.
    fn until_held(damper: &mut Damper, weight: u32, apart: Duration, mut now: Instant) -> Option<(u32, Instant)> {
        for number in 0..1000 {
            if damper.noticed(WHO, weight, now) {
                return Some((number, now));
            }
            now += apart;
        }
        None
    }

    #[test]
    fn a_few_changes_a_second_are_followed_and_a_burst_is() {
        let now = Instant::now();
        assert_eq!(until_held(&mut Damper::default(), CHANGE, Duration::from_millis(200), now), None);
        assert_eq!(until_held(&mut Damper::default(), NOTICE, Duration::from_millis(50), now), None);
        let fast = until_held(&mut Damper::default(), CHANGE, Duration::from_millis(1), now);
        assert_eq!(fast.map(|(number, _)| number), Some(25));
        assert_eq!(until_held(&mut Damper::default(), FLIP, Duration::from_millis(5), now), None);
    }

    #[test]
    fn pauses_grow_while_it_goes_on_and_begin_anew_when_it_was_calm() {
        let mut damper = Damper::default();
        let mut now = Instant::now();
        for seconds in [1, 2, 4, 8, 16, 32, 60, 60] {
            let (_, held) = until_held(&mut damper, CHANGE, Duration::from_micros(60), now).unwrap();
            assert!(damper.holds(WHO) && !damper.noticed(WHO, CHANGE, held), "what comes meanwhile does not count");
            let until = held + Duration::from_secs(seconds);
            assert_eq!(damper.due(), Some(until));
            assert_eq!(damper.release(until - Duration::from_millis(1)), []);
            assert_eq!(damper.release(until), [WHO]);
            assert_eq!(damper.due(), None);
            now = until;
        }
        assert_eq!(damper.times(), 8);
        now += LAST * CALM + Duration::from_secs(1);
        assert!(damper.release(now).is_empty() && damper.watched.is_empty(), "forgotten");
        let (_, held) = until_held(&mut damper, CHANGE, Duration::ZERO, now).unwrap();
        assert_eq!(damper.due(), Some(held + FIRST));
    }

    #[test]
    fn whoever_asks_for_all_ends_every_pause() {
        let mut damper = Damper::default();
        let now = Instant::now();
        let (_, held) = until_held(&mut damper, CHANGE, Duration::ZERO, now).unwrap();
        damper.end_pauses(held);
        assert_eq!(damper.release(held), [WHO]);
        let (_, again) = until_held(&mut damper, CHANGE, Duration::ZERO, held).unwrap();
        assert_eq!(damper.due(), Some(again + 2 * FIRST), "the next pause is longer all the same");
    }

    #[test]
    fn what_is_gone_is_forgotten_at_once() {
        let mut damper = Damper::default();
        let now = Instant::now();
        let neighbour = Who::Neighbour(IfaceAddr { ifindex: 7, addr: [10, 5, 0, 5] });
        for who in [WHO, neighbour, Who::Interface(8)] {
            assert!((0..26).any(|_| damper.noticed(who, CHANGE, now)));
        }
        damper.gone(7, now);
        assert_eq!(damper.release(now), [WHO, neighbour]);
        assert_eq!(damper.held().collect::<Vec<_>>(), [Who::Interface(8)]);
    }
}
