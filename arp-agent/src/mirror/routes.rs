//! The routing tables as the kernel told them, and which routes leave by which interface.
//!
//! What the kernel removes without a message (routes by an interface that goes down or loses its last address; what hangs on
//! a nexthop object) is not imitated here: it has exceptions that change from version to version. Routes by an interface that
//! may have lost some are not trusted until they are dumped again (`Snapshot::doubted`). An interface that is gone has no
//! routes: each next hop holds its device (`fib_nh_common.nhc_dev_tracker`, include/net/ip_fib.h).

use super::inside;
use super::objects::Objects;
use crate::event::{Placement, Route, RouteKind};
use crate::prefix::Prefix;
use nix::libc;
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::Ipv4Addr;

/// `RT_TABLE_LOCAL`.
pub(crate) const TABLE_LOCAL: u32 = libc::RT_TABLE_LOCAL as u32;
/// `RT_TABLE_MAIN`.
pub(crate) const TABLE_MAIN: u32 = libc::RT_TABLE_MAIN as u32;
/// `RT_TABLE_DEFAULT`.
pub(crate) const TABLE_DEFAULT: u32 = libc::RT_TABLE_DEFAULT as u32;

/// All routing tables.
#[derive(Clone, Debug, Default)]
pub struct Routes {
    tables: BTreeMap<u32, RouteTable>,
    /// Which types of routes use which nexthop objects.
    pub objects: Objects,
    /// How many routes have a nexthop object whose next hops are not told.
    untold: usize,
    /// How many routes of nexthop objects are of type local: no interface's slot stands for them.
    local_objects: usize,
    /// How many routes of type local are not in table local.
    local_elsewhere: usize,
    by_interface: HashMap<u32, ByInterface>,
}

/// The routes that have an interface among their next hops.
#[derive(Clone, Debug, Default)]
struct ByInterface {
    /// Where those with one next hop are: prefixes, by table.
    prefixes: BTreeMap<u32, BTreeSet<Prefix>>,
    /// How many with several.
    several: usize,
    /// How many are of type local.
    local: usize,
    /// How many have a nexthop object.
    objects: usize,
}

/// A routing table, without the routes that have a tos: ARP never matches them.
#[derive(Clone, Debug)]
pub struct RouteTable {
    /// Nearly all prefixes have one route, and there may be a million: no room is kept for more.
    routes: BTreeMap<Prefix, Box<[Route]>>,
    /// How many prefixes there are of each length.
    lengths: [u32; 33],
}

impl Default for RouteTable {
    fn default() -> Self {
        RouteTable { routes: BTreeMap::new(), lengths: [0; 33] }
    }
}

/// What an interface that is doubted makes doubtful.
pub(super) struct Doubtful {
    /// Routes that may be gone, and that no slot stands for: all must be dumped again before anything is answered.
    pub(super) local: bool,
    /// Routes by the interface.
    pub(super) by_it: bool,
}

impl Routes {
    /// A table; `None` if it has no routes.
    pub fn table(&self, id: u32) -> Option<&RouteTable> {
        self.tables.get(&id)
    }

    /// All tables that have routes.
    pub(super) fn tables(&self) -> impl Iterator<Item = (u32, &RouteTable)> {
        self.tables.iter().map(|(&id, table)| (id, table))
    }

    /// The routes of a prefix in a table: by metric, and within a metric in the kernel's order.
    pub fn at(&self, table: u32, prefix: Prefix) -> &[Route] {
        self.table(table).map_or(&[], |table| table.at(prefix))
    }

    /// Adds a route. Says what else may be decided otherwise now: whether routes of nexthop objects may be.
    pub(super) fn insert(&mut self, route: Route, placement: Placement) -> bool {
        let table = self.tables.entry(route.table).or_default();
        match table.insert(route.clone(), placement) {
            Inserted::Known => false,
            Inserted::New => self.account(&route, 1),
            Inserted::InPlaceOf(replaced) => self.account(&route, 1) | self.account(&replaced, -1),
        }
    }

    /// Takes a route away. `None` if it was not there; else as [`Routes::insert`].
    pub(super) fn remove(&mut self, route: &Route) -> Option<bool> {
        let table = self.tables.get_mut(&route.table)?;
        if !table.remove(route) {
            return None;
        }
        if table.routes.is_empty() {
            self.tables.remove(&route.table);
        }
        Some(self.account(route, -1))
    }

    /// Whether a route lies where this one would.
    pub(super) fn has_another_in_place_of(&self, route: &Route) -> bool {
        self.at(route.table, route.prefix).iter().any(|known| same_place(known, route))
    }

    /// The routes whose only next hop is by an interface.
    pub(super) fn only_by(&self, ifindex: u32) -> Vec<Route> {
        let tables = self.by_interface.get(&ifindex).into_iter().flat_map(|by| &by.prefixes);
        let places = tables.flat_map(|(&table, prefixes)| prefixes.iter().map(move |&prefix| (table, prefix)));
        let routes = places.flat_map(|(table, prefix)| self.at(table, prefix));
        routes.filter(|route| route.legs() == [ifindex]).cloned().collect()
    }

    /// The hosts that table main has a route of their own to, whose only next hop is by an interface.
    pub fn hosts_by(&self, ifindex: u32) -> impl Iterator<Item = Ipv4Addr> {
        let in_main = self.by_interface.get(&ifindex).and_then(|by| by.prefixes.get(&TABLE_MAIN));
        let hosts = in_main.into_iter().flatten().filter(|prefix| prefix.len == 32).copied();
        let is_unicast = move |prefix: &Prefix| {
            self.at(TABLE_MAIN, *prefix)
                .iter()
                .any(|route| route.kind == RouteKind::Unicast && route.legs() == [ifindex])
        };
        hosts.filter(is_unicast).map(|prefix| Ipv4Addr::from(prefix.addr))
    }

    /// Whether a route may have the interface among several next hops, told or not.
    pub(super) fn may_be_among_several(&self, ifindex: u32) -> bool {
        self.untold > 0 || self.by_interface.get(&ifindex).is_some_and(|by| by.several > 0)
    }

    /// What the kernel may have removed: routes by this interface, or, if it only lost its carrier, those of nexthop objects.
    pub(super) fn doubtful(&self, ifindex: u32, carrier: bool) -> Doubtful {
        let by_it = self.by_interface.get(&ifindex);
        if carrier {
            let objects = by_it.is_some_and(|by| by.objects > 0) || self.untold > 0;
            return Doubtful { local: self.local_objects > 0, by_it: objects };
        }
        let local = self.local_objects > 0 || by_it.is_some_and(|by| by.local > 0);
        Doubtful { local, by_it: by_it.is_some() || self.untold > 0 }
    }

    /// Whether a local route may be answered for otherwise than a probe for its address.
    pub(super) fn probes_differ(&self) -> bool {
        self.local_objects > 0 || self.local_elsewhere > 0
    }

    /// The places of all routes that have a nexthop object.
    pub(super) fn of_objects(&self) -> impl Iterator<Item = (u32, Prefix)> {
        let places = self.tables.iter().flat_map(|(&id, table)| table.routes.iter().map(move |at| (id, at)));
        let by_object = places.filter(|(_, (_, routes))| routes.iter().any(|route| route.nexthop.is_some()));
        by_object.map(|(id, (&prefix, _))| (id, prefix))
    }

    /// Counts a route that has come (1) or gone (-1).
    fn account(&mut self, route: &Route, by: isize) -> bool {
        let beside = self.at(route.table, route.prefix);
        let is_there = beside.iter().any(|known| known.hops.is_empty() && known.oif == route.oif);
        let more = |count: &mut usize, is_counted: bool| {
            if is_counted {
                *count = count.saturating_add_signed(by);
            }
        };
        let (is_local, has_object) = (route.kind == RouteKind::Local, route.nexthop.is_some());
        more(&mut self.local_objects, is_local && has_object);
        more(&mut self.local_elsewhere, is_local && route.table != TABLE_LOCAL);
        more(&mut self.untold, has_object && route.legs().is_empty());
        for &ifindex in route.legs() {
            let entry = self.by_interface.entry(ifindex).or_default();
            more(&mut entry.local, is_local);
            more(&mut entry.objects, has_object);
            if route.hops.is_empty() {
                let prefixes = entry.prefixes.entry(route.table).or_default();
                if is_there {
                    prefixes.insert(route.prefix);
                } else {
                    prefixes.remove(&route.prefix);
                }
                if prefixes.is_empty() {
                    entry.prefixes.remove(&route.table);
                }
            } else {
                more(&mut entry.several, true);
            }
            if entry.prefixes.is_empty() && entry.several == 0 {
                self.by_interface.remove(&ifindex);
            }
        }
        self.objects.account(route, by)
    }
}

enum Inserted {
    /// It was there already.
    Known,
    New,
    InPlaceOf(Route),
}

impl RouteTable {
    /// The routes of a prefix: by metric, and within a metric in the kernel's order.
    pub fn at(&self, prefix: Prefix) -> &[Route] {
        self.routes.get(&prefix).map_or(&[], |routes| &routes[..])
    }

    /// What the table says of the addresses that are in `prefix` and in no longer one: the first route of the longest prefix
    /// that covers it.
    pub fn best(&self, prefix: Prefix) -> Option<&Route> {
        let lengths = (0..=prefix.len).rev().filter(|&len| self.lengths[usize::from(len)] > 0);
        lengths.map(|len| self.at(prefix.shortened(len))).find_map(<[Route]>::first)
    }

    /// Its routes, by prefix.
    pub fn all(&self) -> impl Iterator<Item = &Route> {
        self.routes.values().flat_map(|routes| routes.iter())
    }

    /// The first route of each prefix, by prefix.
    pub(super) fn firsts(&self) -> impl Iterator<Item = &Route> {
        self.routes.values().filter_map(|routes| routes.first())
    }

    /// How many prefixes it has.
    pub(super) fn len(&self) -> usize {
        self.routes.len()
    }

    /// Its prefixes.
    pub(super) fn prefixes(&self) -> impl Iterator<Item = Prefix> {
        self.routes.keys().copied()
    }

    /// Its prefixes inside one, that one included.
    pub(super) fn inside(&self, prefix: Prefix) -> impl Iterator<Item = Prefix> {
        inside(&self.routes, prefix)
    }

    fn insert(&mut self, route: Route, placement: Placement) -> Inserted {
        let routes = match self.routes.entry(route.prefix) {
            Entry::Occupied(routes) => routes.into_mut(),
            Entry::Vacant(place) => {
                self.lengths[usize::from(route.prefix.len)] += 1;
                place.insert(Box::new([route]));
                return Inserted::New;
            }
        };
        // The kernel refuses doubles: the same route told again is a replay of what a dump had already shown.
        if routes.contains(&route) {
            return Inserted::Known;
        }
        let first = routes.partition_point(|known| place(known) < place(&route));
        match placement {
            Placement::Replace if routes.get(first).is_some_and(|known| same_place(known, &route)) => {
                return Inserted::InPlaceOf(std::mem::replace(&mut routes[first], route));
            }
            Placement::Replace | Placement::First => put(routes, first, route),
            Placement::Last => {
                let end = routes.partition_point(|known| place(known) <= place(&route));
                put(routes, end, route);
            }
        }
        Inserted::New
    }

    /// Whether the route was there.
    fn remove(&mut self, route: &Route) -> bool {
        let Some(routes) = self.routes.get_mut(&route.prefix) else { return false };
        let Some(at) = routes.iter().position(|known| known == route) else { return false };
        let mut fewer = std::mem::take(routes).into_vec();
        fewer.remove(at);
        *routes = fewer.into_boxed_slice();
        if routes.is_empty() {
            self.routes.remove(&route.prefix);
            self.lengths[usize::from(route.prefix.len)] -= 1;
        }
        true
    }
}

fn put(routes: &mut Box<[Route]>, at: usize, route: Route) {
    let mut more = std::mem::take(routes).into_vec();
    more.reserve_exact(1);
    more.insert(at, route);
    *routes = more.into_boxed_slice();
}

/// The kernel's order within a prefix (`fib_insert_alias`, net/ipv4/fib_trie.c): lower metric first. Of routes with a tos,
/// which come before, there are none here.
fn place(route: &Route) -> u32 {
    route.metric
}

fn same_place(one: &Route, other: &Route) -> bool {
    place(one) == place(other)
}
