//! Which types of routes use which nexthop objects.
//!
//! The kernel keeps the input route that it made last in the next hop itself (`nhc_rth_input`, `ip_route_input_slow` and
//! `__mkroute_input`, net/ipv4/route.c, 6.18). Routes of one type may share it. If a local and a unicast route have one
//! nexthop object, then whichever was asked for first decides how both are answered, until the kernel clears what it keeps.

use crate::event::{Route, RouteKind};
use std::collections::HashMap;
use std::net::IpAddr;

/// The types of routes for which the kernel keeps an input route.
const TYPES: usize = 3;

/// A next hop as a route tells it: the interface, and the gateway if it has one. Two objects with the same next hop count as
/// one: of a group with one member only the group's number is told, and its member may be used alone as well.
type Hop = (u32, Option<IpAddr>);

/// Who uses which nexthop objects.
#[derive(Clone, Debug, Default)]
pub struct Objects {
    /// How many routes of each type have an object with that one next hop.
    by_hop: HashMap<Hop, [usize; TYPES]>,
    /// How many routes of each type have an object with several next hops, or with some that are not told
    /// (`nexthop_compat_mode` 0): any next hop may be among them.
    unknown: [usize; TYPES],
    /// How many routes of each type have an object.
    all: [usize; TYPES],
}

impl Objects {
    /// Counts a route that comes (1) or goes (-1). Says whether routes of other prefixes may be answered in another way now.
    pub(super) fn account(&mut self, route: &Route, by: isize) -> bool {
        let Some(kind) = used(route) else { return false };
        let before = self.mixed(route);
        let count = |counts: &mut [usize; TYPES]| counts[kind] = counts[kind].saturating_add_signed(by);
        let was_used = (self.unknown[kind] > 0, self.all[kind] > 0);
        count(&mut self.all);
        match hop(route) {
            Some(hop) => {
                let counts = self.by_hop.entry(hop).or_default();
                count(counts);
                if *counts == [0; TYPES] {
                    self.by_hop.remove(&hop);
                }
            }
            None => count(&mut self.unknown),
        }
        let is_used = (self.unknown[kind] > 0, self.all[kind] > 0);
        // What is not known concerns all of them.
        before != self.mixed(route) || (was_used != is_used && self.unknown != [0; TYPES]) || was_used.0 != is_used.0
    }

    /// Whether the route has a nexthop object that routes of another type use, or may use, too.
    pub fn may_be_shared(&self, route: &Route) -> bool {
        used(route).is_some() && self.mixed(route)
    }

    /// Whether routes of several types use the route's object, or may use it.
    fn mixed(&self, route: &Route) -> bool {
        let own = hop(route).map(|hop| self.by_hop.get(&hop).copied().unwrap_or_default());
        let types = (0..TYPES).filter(|&kind| match own {
            Some(own) => own[kind] > 0 || self.unknown[kind] > 0,
            None => self.all[kind] > 0,
        });
        types.count() > 1
    }
}

/// Which of [`TYPES`] the route is, if it has a nexthop object in which an input route of it may be kept.
fn used(route: &Route) -> Option<usize> {
    route.nexthop?;
    match route.kind {
        RouteKind::Unicast => Some(0),
        RouteKind::Local => Some(1),
        RouteKind::Broadcast => Some(2),
        _ => None,
    }
}

/// The one next hop of the route, if it is told.
fn hop(route: &Route) -> Option<Hop> {
    Some((route.oif?, route.gateway)).filter(|_| route.hops.is_empty())
}
