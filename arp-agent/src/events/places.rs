//! Where each neighbour was last: on which interface, with which link-layer address.

use arp_common::Lladdr;
use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

/// So many moves in so long are too many: an address is with two hosts, or somebody takes it again and again (the default
/// of EVPN's duplicate detection, RFC 7432 §15.1).
const FLAPS: u32 = 5;
const FLAP_TIME: Duration = Duration::from_secs(180);
/// How many addresses are remembered; of one more nothing is.
const MOST: usize = 65_536;
/// How often those that are gone are looked for at most: it takes a look at each.
const KEEP_PAUSE: Duration = Duration::from_secs(10);

/// Where an address is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// The interface.
    pub ifindex: u32,
    /// The link-layer address.
    pub lladdr: Lladdr,
}

#[derive(Debug)]
struct SeenAt {
    place: Place,
    moves: u32,
    since: Instant,
}

/// A move.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Move {
    /// Where it was.
    pub from: Place,
    /// It has moved too often of late, and that was not told before.
    pub flaps: bool,
}

/// Where the neighbours are.
#[derive(Debug, Default)]
pub(crate) struct NeighbourPlaces {
    seen: HashMap<Ipv4Addr, SeenAt>,
    /// When those that are gone were looked for last.
    kept_at: Option<Instant>,
}

impl NeighbourPlaces {
    /// A neighbour is there now. Says whether it was elsewhere before. `is_still`: whether an entry elsewhere is valid still:
    /// one address may be in use on two interfaces.
    pub(crate) fn is(
        &mut self,
        addr: Ipv4Addr,
        place: Place,
        now: Instant,
        is_still: impl Fn(Place) -> bool,
    ) -> Option<Move> {
        let Some(seen) = self.seen.get_mut(&addr) else {
            if self.seen.len() < MOST {
                self.seen.insert(addr, SeenAt { place, moves: 0, since: now });
            }
            return None;
        };
        let from = seen.place;
        if from == place || from.ifindex != place.ifindex && is_still(from) {
            return None;
        }
        seen.place = place;
        if now.saturating_duration_since(seen.since) > FLAP_TIME {
            (seen.moves, seen.since) = (0, now);
        }
        seen.moves += 1;
        Some(Move { from, flaps: seen.moves == FLAPS })
    }

    /// Where an address is, as far as is known.
    pub(crate) fn of(&self, addr: Ipv4Addr) -> Option<Place> {
        self.seen.get(&addr).map(|seen| seen.place)
    }

    /// How many addresses are remembered.
    pub(crate) fn len(&self) -> usize {
        self.seen.len()
    }

    /// Forgets those that are not there any more, and did not move of late; not if that was done a moment ago.
    pub(crate) fn keep(&mut self, now: Instant, is_there: impl Fn(Ipv4Addr, Place) -> bool) {
        if self.kept_at.is_some_and(|kept_at| now < kept_at + KEEP_PAUSE) {
            return;
        }
        self.kept_at = Some(now);
        self.seen
            .retain(|&addr, seen| now.saturating_duration_since(seen.since) <= FLAP_TIME || is_there(addr, seen.place));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ADDR: Ipv4Addr = Ipv4Addr::new(10, 5, 0, 5);

    fn place(ifindex: u32, last: u8) -> Place {
        Place { ifindex, lladdr: Lladdr::new([2, 0, 0, 0, 0, last]) }
    }

    #[test]
    fn another_address_or_another_interface_is_a_move() {
        let (mut places, now) = (NeighbourPlaces::default(), Instant::now());
        let moved = |from| Some(Move { from, flaps: false });
        assert_eq!(places.is(ADDR, place(7, 1), now, |_| false), None);
        assert_eq!(places.is(ADDR, place(7, 1), now, |_| false), None);
        assert_eq!(places.is(ADDR, place(7, 2), now, |_| true), moved(place(7, 1)));
        assert_eq!(places.is(ADDR, place(8, 2), now, |_| true), None, "it is on 7 still");
        assert_eq!(places.is(ADDR, place(8, 2), now, |_| false), moved(place(7, 2)));
    }

    #[test]
    fn five_moves_in_three_minutes_are_flapping_and_told_once() {
        let (mut places, now) = (NeighbourPlaces::default(), Instant::now());
        let mut flaps = |times: u8, at: Instant| -> Vec<bool> {
            (0..times)
                .filter_map(|n| places.is(ADDR, place(7, n % 2), at, |_| false))
                .map(|moved| moved.flaps)
                .collect()
        };
        assert_eq!(flaps(8, now), [false, false, false, false, true, false, false]);
        let later = now + FLAP_TIME + Duration::from_secs(1);
        assert_eq!(flaps(4, later), [false; 4], "a new time begins");
        assert_eq!(flaps(2, later), [true, false]);
    }

    #[test]
    fn who_is_gone_for_long_is_forgotten() {
        let (mut places, now) = (NeighbourPlaces::default(), Instant::now());
        places.is(ADDR, place(7, 1), now, |_| false);
        places.keep(now, |_, _| false);
        assert_eq!(places.len(), 1);
        let late = now + FLAP_TIME * 2;
        places.keep(late, |_, _| true);
        assert_eq!(places.len(), 1);
        places.keep(late + KEEP_PAUSE / 2, |_, _| {
            panic!("a flood of new neighbours would have each looked at each time")
        });
        places.keep(late + KEEP_PAUSE, |_, _| false);
        assert_eq!(places.len(), 0);
    }
}
