//! When an interface that has come may be attached to.
//!
//! Attaching holds the RTNL lock for a grace period, some milliseconds. What the kernel does about carriers waits for that
//! lock, too, at most a second (`linkwatch`, net/core/link_watch.c); if it comes right after an interface was set up that has
//! no carrier yet, it drops the neighbour and proxy entries of that interface that are not permanent
//! (`neigh_carrier_down`, net/core/neighbour.c). Whoever starts a container adds such entries at that moment. So nobody is
//! held up then.

use crate::link::Link;
use crate::mirror::snapshot::IFF_UP;
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

/// Whoever makes an interface mostly sets it up sooner than this. Long enough for a few netlink messages one after the other;
/// short enough for the program to be there when a pod's interface comes up that is made in several steps (P11).
const MADE: Duration = Duration::from_micros(500);
/// By then the kernel has done what it does about a missing carrier.
const CARRIER_HANDLED: Duration = Duration::from_millis(1200);

/// The interfaces that wait.
#[derive(Debug, Default)]
pub(crate) struct Arrivals(BTreeMap<u32, NewLink>);

#[derive(Debug)]
struct NewLink {
    is_up: bool,
    /// Since when it is so.
    since: Instant,
}

impl NewLink {
    fn due(&self) -> Instant {
        self.since + if self.is_up { CARRIER_HANDLED } else { MADE }
    }
}

impl Arrivals {
    /// Whether an interface may be attached to: with its carrier at once, without one when it has been up or down for a time.
    /// If not, it waits until [`Arrivals::that_are_due`] gives it, or until it is asked again after a change.
    pub(crate) fn may_attach(&mut self, link: &Link, now: Instant) -> bool {
        let is_up = link.flags & IFF_UP != 0;
        let new = self.0.entry(link.ifindex).or_insert(NewLink { is_up, since: now });
        if new.is_up != is_up {
            *new = NewLink { is_up, since: now };
        }
        let may = is_up && link.carrier || new.due() <= now;
        if may {
            self.0.remove(&link.ifindex);
        }
        may
    }

    /// Forgets an interface that is gone, or no longer wanted.
    pub(crate) fn forget(&mut self, ifindex: u32) {
        self.0.remove(&ifindex);
    }

    /// When the next one is due.
    pub(crate) fn due(&self) -> Option<Instant> {
        self.0.values().map(NewLink::due).min()
    }

    /// Those that are due. They wait on until they are asked about.
    pub(crate) fn that_are_due(&self, now: Instant) -> BTreeSet<u32> {
        self.0.iter().filter(|(_, new)| new.due() <= now).map(|(&ifindex, _)| ifindex).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(flags: u32, carrier: bool) -> Link {
        Link { ifindex: 7, flags, carrier, ..Link::default() }
    }

    #[test]
    fn nobody_is_held_up_between_set_up_and_carrier() {
        let (mut arrivals, made) = (Arrivals::default(), Instant::now());
        assert!(!arrivals.may_attach(&link(0, false), made));
        let up = made + MADE / 2;
        assert!(!arrivals.may_attach(&link(IFF_UP, false), up));
        assert!(!arrivals.may_attach(&link(IFF_UP, false), up + MADE * 2), "told of again");
        assert_eq!(arrivals.due(), Some(up + CARRIER_HANDLED));
        assert!(arrivals.may_attach(&link(IFF_UP, true), up + MADE * 3));
        assert_eq!(arrivals.due(), None);
    }

    #[test]
    fn what_stays_down_or_without_carrier_is_attached_to_all_the_same() {
        for (flags, patience) in [(0, MADE), (IFF_UP, CARRIER_HANDLED)] {
            let (mut arrivals, come) = (Arrivals::default(), Instant::now());
            let link = link(flags, false);
            assert!(!arrivals.may_attach(&link, come));
            assert!(arrivals.that_are_due(come).is_empty());
            let due = arrivals.due().unwrap();
            assert_eq!(due, come + patience);
            assert_eq!(arrivals.that_are_due(due), [7].into());
            assert!(arrivals.may_attach(&link, due) && arrivals.due().is_none());
        }
    }

    #[test]
    fn an_interface_with_carrier_never_waits_and_one_that_is_gone_is_forgotten() {
        let (mut arrivals, now) = (Arrivals::default(), Instant::now());
        assert!(arrivals.may_attach(&link(IFF_UP, true), now));
        assert!(!arrivals.may_attach(&link(0, false), now));
        arrivals.forget(7);
        assert_eq!(arrivals.due(), None);
    }
}
