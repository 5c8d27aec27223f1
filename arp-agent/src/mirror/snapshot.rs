//! What the kernel said, folded: the state that it would describe now.

use super::objects::Objects;
use super::{about, inside};
use crate::arp_rules::ArpRules;
use crate::event::{
    Address, Event, IfSet, Link, NDO_XMIT, NeighbourEntry, Placement, Route, RouteKind, RoutingRule, Settings,
};
use crate::prefix::Prefix;
use arp_common::Reason;
use arp_common::maps::IfaceAddr;
use nix::libc;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::Ipv4Addr;

/// `RT_TABLE_LOCAL`.
pub const TABLE_LOCAL: u32 = libc::RT_TABLE_LOCAL as u32;
/// `RT_TABLE_MAIN`.
pub const TABLE_MAIN: u32 = libc::RT_TABLE_MAIN as u32;
/// `RT_TABLE_DEFAULT`.
pub const TABLE_DEFAULT: u32 = libc::RT_TABLE_DEFAULT as u32;

/// IFF_UP.
pub const IFF_UP: u32 = libc::IFF_UP as u32;

/// Kinds whose IFLA_LINK is their other end, not a device below them.
const PAIRS: [&str; 3] = ["veth", "netkit", "vxcan"];

// What the kernel removes without a message (routes by an interface that goes down or loses its last address; what
// hangs on a nexthop object) is not imitated here: it has exceptions that change from version to version. Routes by an
// interface that may have lost some are not trusted until they are dumped again (`doubted`). An interface that is gone
// has no routes: each next hop holds its device (`fib_nh_common.nhc_dev_tracker`, include/net/ip_fib.h).

/// What must be computed anew.
#[derive(Debug, Default)]
pub struct Dirty {
    /// All of it.
    pub everything: bool,
    /// What is kept for each interface: its entry, proxies, own addresses, slot.
    pub interfaces: IfSet,
    /// Neighbour entries.
    pub neighbours: BTreeSet<IfaceAddr>,
    /// Prefixes in which a route or an address changed.
    pub prefixes: BTreeSet<Prefix>,
    /// Those of them in which a route of table local changed.
    pub local_prefixes: BTreeSet<Prefix>,
    /// Which nexthop objects are shared: the prefixes of all routes that have one.
    pub objects: bool,
    /// The routes were dumped again: every leaf.
    pub all_routes: bool,
    /// The routes are in doubt: they must be dumped again.
    pub routes_in_doubt: bool,
}

/// The kernel's state, as far as the mirror follows it.
#[derive(Debug, Default)]
pub struct Snapshot {
    /// By ifindex.
    pub links: BTreeMap<u32, Link>,
    /// Addresses of all interfaces.
    pub addresses: BTreeSet<Address>,
    /// Routing rules; there may be several alike.
    pub rules: Vec<RoutingRule>,
    /// Neighbour entries of all interfaces, whatever their state.
    pub neighbours: BTreeMap<IfaceAddr, NeighbourEntry>,
    /// Static proxy entries; ifindex 0 stands for any.
    pub proxies: BTreeSet<IfaceAddr>,
    /// Milliseconds, by ifindex.
    pub proxy_delays: BTreeMap<u32, u64>,
    /// `net.ipv4.conf.all`; `None` until read.
    pub all: Option<Settings>,
    /// What netfilter does to ARP frames.
    pub arp_netfilter: ArpRules,
    /// The addresses about which netfilter drops replies, by the interface's name.
    pub held_back: BTreeMap<String, BTreeSet<Ipv4Addr>>,
    /// Interfaces with a foreign hook before ARP.
    pub ingress_hooks: BTreeSet<u32>,
    /// Interfaces with a packet socket for ARP; 0 stands for all.
    pub arp_listeners: BTreeSet<u32>,
    /// Interfaces on which a device of another network namespace is stacked.
    pub uppers_elsewhere: BTreeSet<u32>,
    /// Interfaces with a foreign tcx program, or with a foreign filter beside ours.
    pub tcx: BTreeSet<u32>,
    /// What devices offer to XDP, as far as the kernel tells.
    pub xdp_features: BTreeMap<u32, u64>,
    /// Interfaces that must not answer by the hook that they have.
    pub blocked: BTreeMap<u32, Reason>,
    /// Interfaces by which the kernel may have removed routes without saying so: none by them is trusted.
    pub doubted: BTreeSet<u32>,
    /// Interfaces that change too fast to be followed. Whoever says so says when it is over, also if it is another one.
    pub flapping: BTreeSet<u32>,
    /// Neighbour entries that do.
    pub flapping_neighbours: BTreeSet<IfaceAddr>,
    /// Interfaces that were notified, and have not been read since.
    pub stale: BTreeSet<u32>,
    /// Table local.
    pub local: RouteTable,
    /// Table main.
    pub main: RouteTable,
    /// Table default.
    pub default: RouteTable,
    /// Which types of routes use which nexthop objects.
    pub objects: Objects,
    /// All of `held_back`: a route to one of them decides whether its interface answers.
    held_back_prefixes: HashSet<Prefix>,
    /// How often each address is configured.
    own: HashMap<u32, usize>,
    /// How many routes have several next hops, or some that are not told.
    complex: usize,
    /// How many of those are of nexthop objects.
    complex_objects: usize,
    /// How many routes of nexthop objects are of type local: no interface's slot stands for them.
    local_objects: usize,
    /// What leaves by each interface, but for those.
    by_oif: HashMap<u32, ByOif>,
    /// How many devices of this namespace are stacked on each interface.
    stacked: HashMap<u32, usize>,
}

/// The routes with one next hop that leave by an interface.
#[derive(Debug, Default)]
struct ByOif {
    /// How many of each prefix.
    prefixes: BTreeMap<Prefix, usize>,
    /// How many are of type local.
    local: usize,
    /// How many have a nexthop object.
    objects: usize,
}

/// A routing table.
#[derive(Debug, Default)]
pub struct RouteTable {
    routes: BTreeMap<Prefix, Vec<Route>>,
    /// How many prefixes there are of each length below 32.
    lengths: [u32; 32],
}

impl Snapshot {
    /// Folds one event.
    pub fn apply(&mut self, event: Event, dirty: &mut Dirty) {
        match event {
            Event::Link(link) => self.link(link, dirty),
            Event::LinkGone(ifindex) => self.link_gone(ifindex, dirty),
            Event::Address(address) => {
                dirty.address(&address);
                let local = u32::from(address.local);
                if self.addresses.insert(address) {
                    count(&mut self.own, local, 1);
                }
            }
            Event::AddressGone(address) => {
                self.address_gone(&address, dirty);
            }
            Event::Route(route, placement) => self.route(route, placement, dirty),
            Event::RouteGone(route) => self.route_gone(&route, dirty),
            Event::Rules(rules) => dirty.set(&mut self.rules, rules),
            Event::Neighbour(entry) => {
                let key = IfaceAddr { ifindex: entry.ifindex, addr: entry.addr.octets() };
                dirty.neighbours.insert(key);
                self.neighbours.insert(key, entry);
            }
            Event::NeighbourGone { ifindex, addr } => {
                let key = IfaceAddr { ifindex, addr: addr.octets() };
                dirty.neighbours.insert(key);
                self.neighbours.remove(&key);
            }
            Event::Proxies(entries) => {
                let key = |(ifindex, addr): (u32, Ipv4Addr)| IfaceAddr { ifindex, addr: addr.octets() };
                dirty.set(&mut self.proxies, entries.into_iter().map(key).collect());
            }
            Event::ProxyDelays(delays) => dirty.set(&mut self.proxy_delays, delays.into_iter().collect()),
            Event::ProxyDelay(ifindex, delay) => {
                dirty.interfaces.add(ifindex);
                put(&mut self.proxy_delays, ifindex, delay);
            }
            Event::AllSettings(settings) => dirty.set(&mut self.all, Some(settings)),
            Event::ArpNetfilter(rules) => dirty.set(&mut self.arp_netfilter, rules),
            Event::DroppedReplies(replies) => {
                self.held_back_prefixes = replies.iter().map(|(_, addr)| Prefix::new(addr.octets(), 32)).collect();
                let mut held_back: BTreeMap<String, BTreeSet<Ipv4Addr>> = BTreeMap::new();
                for (interface, addr) in replies {
                    held_back.entry(interface).or_default().insert(addr);
                }
                dirty.set(&mut self.held_back, held_back);
            }
            Event::IngressHooks(ifindexes) => dirty.set(&mut self.ingress_hooks, ifindexes.into_iter().collect()),
            Event::ArpListeners(ifindexes) => dirty.set(&mut self.arp_listeners, ifindexes.into_iter().collect()),
            Event::UppersElsewhere(ifindexes) => {
                let now: BTreeSet<u32> = ifindexes.into_iter().collect();
                self.uppers_elsewhere.symmetric_difference(&now).for_each(|&ifindex| dirty.interfaces.add(ifindex));
                self.uppers_elsewhere = now;
            }
            Event::XdpFeatures { ifindex, features } => {
                dirty.interfaces.add(ifindex);
                put(&mut self.xdp_features, ifindex, features);
            }
            Event::Blocked { ifindex, reason } => {
                dirty.interfaces.add(ifindex);
                put(&mut self.blocked, ifindex, reason);
            }
            Event::RoutesDoubted { ifindex, carrier } => self.doubt(ifindex, carrier, dirty),
            Event::Flapping { ifindex, flapping } => {
                dirty.interfaces.add(ifindex);
                if flapping {
                    self.flapping.insert(ifindex)
                } else {
                    self.flapping.remove(&ifindex)
                };
            }
            Event::NeighbourFlapping { ifindex, addr, flapping } => {
                let key = IfaceAddr { ifindex, addr: addr.octets() };
                dirty.neighbours.insert(key);
                if flapping {
                    self.flapping_neighbours.insert(key)
                } else {
                    self.flapping_neighbours.remove(&key)
                };
            }
            Event::StaleSettings { ifindex, stale } => {
                dirty.interfaces.add(ifindex);
                if stale {
                    self.stale.insert(ifindex)
                } else {
                    self.stale.remove(&ifindex)
                };
            }
            Event::FiltersTouched(ifindex) => {
                dirty.interfaces.add(ifindex);
                self.tcx.insert(ifindex);
            }
            Event::Tcx { ifindex, present } => {
                dirty.interfaces.add(ifindex);
                if present {
                    self.tcx.insert(ifindex)
                } else {
                    self.tcx.remove(&ifindex)
                };
            }
        }
    }

    /// Whether a veth's other end takes frames of XDP that are redirected to it.
    pub fn takes_xdp(&self, ifindex: u32) -> bool {
        self.xdp_features.get(&ifindex).is_some_and(|features| features & NDO_XMIT != 0)
    }

    /// Every prefix about which there may be something to say.
    pub fn prefixes(&self) -> impl Iterator<Item = Prefix> {
        let tables = [&self.local, &self.main, &self.default];
        let routed = tables.into_iter().flat_map(|table| table.routes.keys().copied());
        routed.chain(self.addresses.iter().map(host_prefix))
    }

    /// The prefixes whose leaf may change with what was touched: themselves; routes of main inside a prefix of local,
    /// which is asked first once a rule has ever been added; routes of table default inside any; routes of nexthop
    /// objects, if it has changed which of them are shared.
    pub fn affected(&self, dirty: &Dirty) -> BTreeSet<Prefix> {
        let mut affected = dirty.prefixes.clone();
        if dirty.objects {
            for table in [&self.local, &self.main, &self.default] {
                let by_object =
                    |(_, routes): &(&Prefix, &Vec<Route>)| routes.iter().any(|route| route.nexthop.is_some());
                affected.extend(table.routes.iter().filter(by_object).map(|(&prefix, _)| prefix));
            }
        }
        for &prefix in &dirty.local_prefixes {
            affected.extend(inside(&self.main.routes, prefix));
        }
        if !self.default.routes.is_empty() {
            for &prefix in &dirty.prefixes {
                affected.extend(inside(&self.default.routes, prefix));
            }
        }
        affected
    }

    /// Whether another device of this namespace is stacked on the interface.
    pub fn is_below(&self, ifindex: u32) -> bool {
        self.stacked.contains_key(&ifindex)
    }

    /// Whether some interface has the address.
    pub fn is_configured(&self, addr: u32) -> bool {
        self.own.contains_key(&addr)
    }

    /// Whether routes with one next hop leave by the interface.
    pub fn has_routes_by(&self, ifindex: u32) -> bool {
        self.by_oif.contains_key(&ifindex)
    }

    /// Puts a new dump of the routes in the place of what was known.
    pub fn replace_routes(&mut self, routes: Vec<Route>, dirty: &mut Dirty) {
        dirty.all_routes = true;
        dirty.prefixes.extend(self.prefixes());
        dirty.local_prefixes.extend(self.local.routes.keys().copied());
        self.local = RouteTable::default();
        self.main = RouteTable::default();
        self.default = RouteTable::default();
        self.complex = 0;
        self.complex_objects = 0;
        self.local_objects = 0;
        self.doubted.clear();
        self.objects = Objects::default();
        self.by_oif.clear();
        for route in routes {
            self.route(route, Placement::Last, dirty);
        }
    }

    fn link(&mut self, link: Link, dirty: &mut Dirty) {
        let known = self.links.get(&link.ifindex);
        if known == Some(&link) {
            return;
        }
        let below = below(&link);
        dirty.interfaces.add(link.ifindex);
        let before = self.links.insert(link.ifindex, link);
        self.restack(before.as_ref().and_then(self::below), below, dirty);
    }

    /// A device that was stacked on one interface is now on the other.
    fn restack(&mut self, before: Option<u32>, now: Option<u32>, dirty: &mut Dirty) {
        if before == now {
            return;
        }
        if let Some(before) = before {
            count(&mut self.stacked, before, -1);
            dirty.interfaces.add(before);
        }
        if let Some(now) = now {
            count(&mut self.stacked, now, 1);
            dirty.interfaces.add(now);
        }
    }

    fn link_gone(&mut self, ifindex: u32, dirty: &mut Dirty) {
        dirty.interfaces.add(ifindex);
        let before = self.links.remove(&ifindex);
        self.restack(before.as_ref().and_then(below), None, dirty);
        self.routes_gone_with(ifindex, dirty);
        self.stale.remove(&ifindex);
        self.tcx.remove(&ifindex);
        self.uppers_elsewhere.remove(&ifindex);
        self.blocked.remove(&ifindex);
        self.xdp_features.remove(&ifindex);
        self.proxy_delays.remove(&ifindex);
        let addresses = self.addresses.iter().filter(|address| address.ifindex == ifindex);
        for address in addresses.cloned().collect::<Vec<_>>() {
            self.address_gone(&address, dirty);
        }
        let gone: Vec<IfaceAddr> = self.neighbours.range(about(ifindex)).map(|(&key, _)| key).collect();
        for key in gone {
            self.neighbours.remove(&key);
            dirty.neighbours.insert(key);
        }
    }

    /// The kernel may have removed routes by an interface. Where that would change an answer at once, because no slot
    /// stands for them, all routes are in doubt.
    fn doubt(&mut self, ifindex: u32, carrier: bool, dirty: &mut Dirty) {
        let by_oif = self.by_oif.get(&ifindex);
        let (local, may_lack) = if carrier {
            (self.local_objects > 0, by_oif.is_some_and(|by| by.objects > 0) || self.complex_objects > 0)
        } else {
            (self.local_objects > 0 || by_oif.is_some_and(|by| by.local > 0), by_oif.is_some() || self.complex > 0)
        };
        dirty.routes_in_doubt |= local;
        if may_lack && self.doubted.insert(ifindex) {
            dirty.interfaces.add(ifindex);
        }
    }

    /// An interface is gone, and with it each route that has it among its next hops. Which routes have lost a next hop
    /// because a group of nexthop objects did is not known here: they are opaque, and in doubt.
    fn routes_gone_with(&mut self, ifindex: u32, dirty: &mut Dirty) {
        let prefixes = self.by_oif.get(&ifindex).map(|by| by.prefixes.keys().copied().collect::<Vec<_>>());
        for prefix in prefixes.unwrap_or_default() {
            let tables = [&self.local, &self.main, &self.default];
            let by_it = |route: &&Route| route.oif == Some(ifindex) && !route.multipath;
            let gone: Vec<Route> =
                tables.into_iter().flat_map(|table| table.at(prefix).iter().filter(by_it)).cloned().collect();
            for route in gone {
                self.route_gone(&route, dirty);
            }
        }
        self.doubted.remove(&ifindex);
        if self.complex > 0 {
            self.doubted.insert(ifindex);
        }
    }

    fn address_gone(&mut self, address: &Address, dirty: &mut Dirty) {
        dirty.address(address);
        if !self.addresses.remove(address) {
            return;
        }
        let local = u32::from(address.local);
        count(&mut self.own, local, -1);
    }

    /// Whether a reply is held back may change with the route to its address.
    fn may_hold_back(&self, prefix: Prefix, dirty: &mut Dirty) {
        if self.held_back_prefixes.contains(&prefix) {
            dirty.interfaces = IfSet::All;
        }
    }

    fn route(&mut self, route: Route, placement: Placement, dirty: &mut Dirty) {
        self.may_hold_back(route.prefix, dirty);
        let Some(table) = self.table_mut(route.table) else { return };
        dirty.route(&route);
        match table.insert(route.clone(), placement) {
            Inserted::Known => {}
            Inserted::New => self.account(&route, 1, dirty),
            Inserted::InPlaceOf(replaced) => {
                self.account(&route, 1, dirty);
                self.account(&replaced, -1, dirty);
            }
        }
    }

    fn route_gone(&mut self, route: &Route, dirty: &mut Dirty) {
        self.may_hold_back(route.prefix, dirty);
        let Some(table) = self.table_mut(route.table) else { return };
        if table.remove(route) {
            dirty.route(route);
            self.account(route, -1, dirty);
        } else if table.at(route.prefix).iter().any(|known| same_place(known, route)) {
            // Not the route that we know there: one of the two is wrong.
            dirty.routes_in_doubt = true;
        }
    }

    fn account(&mut self, route: &Route, by: isize, dirty: &mut Dirty) {
        if self.objects.account(route, by) {
            dirty.objects = true;
            if !self.held_back_prefixes.is_empty() {
                // Whether a reply is held back may depend on a route of such an object.
                dirty.interfaces = IfSet::All;
            }
        }
        let more = |count: &mut usize, is_counted: bool| {
            if is_counted {
                *count = count.saturating_add_signed(by);
            }
        };
        let (is_local, has_object) = (route.kind == RouteKind::Local, route.nexthop.is_some());
        more(&mut self.local_objects, is_local && has_object);
        match route.oif.filter(|_| !route.multipath) {
            Some(oif) => {
                let entry = self.by_oif.entry(oif).or_default();
                more(&mut entry.local, is_local);
                more(&mut entry.objects, has_object);
                let prefix = entry.prefixes.entry(route.prefix).or_default();
                more(prefix, true);
                if *prefix == 0 {
                    entry.prefixes.remove(&route.prefix);
                }
                if entry.prefixes.is_empty() {
                    self.by_oif.remove(&oif);
                }
            }
            None => {
                more(&mut self.complex, route.multipath || has_object);
                more(&mut self.complex_objects, has_object);
            }
        }
    }

    fn table_mut(&mut self, table: u32) -> Option<&mut RouteTable> {
        match table {
            TABLE_LOCAL => Some(&mut self.local),
            TABLE_MAIN => Some(&mut self.main),
            TABLE_DEFAULT => Some(&mut self.default),
            _ => None,
        }
    }
}

impl Dirty {
    fn route(&mut self, route: &Route) {
        self.prefixes.insert(route.prefix);
        if route.table == TABLE_LOCAL && route.prefix.len < 32 {
            self.local_prefixes.insert(route.prefix);
        }
    }

    fn address(&mut self, address: &Address) {
        self.interfaces.add(address.ifindex);
        self.prefixes.insert(host_prefix(address));
    }

    /// Sets what every interface depends on; they are touched if it is news.
    fn set<T: PartialEq>(&mut self, known: &mut T, now: T) {
        if *known != now {
            *known = now;
            self.interfaces = IfSet::All;
        }
    }
}

/// The device of this namespace that another is stacked on.
fn below(link: &Link) -> Option<u32> {
    let is_pair = link.kind.as_deref().is_some_and(|kind| PAIRS.contains(&kind));
    link.link.filter(|&below| below != link.ifindex && link.link_netnsid.is_none() && !is_pair)
}

/// One more of a key, or one less; none is no entry.
fn count(counts: &mut HashMap<u32, usize>, key: u32, by: isize) {
    let count = counts.entry(key).or_default();
    *count = count.saturating_add_signed(by);
    if *count == 0 {
        counts.remove(&key);
    }
}

fn put<T>(known: &mut BTreeMap<u32, T>, ifindex: u32, now: Option<T>) {
    match now {
        Some(now) => known.insert(ifindex, now),
        None => known.remove(&ifindex),
    };
}

fn host_prefix(address: &Address) -> Prefix {
    Prefix::new(address.local.octets(), 32)
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
        self.routes.get(&prefix).map_or(&[], Vec::as_slice)
    }

    /// Whether a prefix shorter than `prefix`, and not loopback, covers it and holds a route that ARP can match.
    pub fn covers(&self, prefix: Prefix) -> bool {
        (0..prefix.len).any(|len| {
            self.lengths[usize::from(len)] > 0 && self.at(prefix.shortened(len)).iter().any(|route| route.tos == 0)
        })
    }

    fn insert(&mut self, route: Route, placement: Placement) -> Inserted {
        let routes = self.routes.entry(route.prefix).or_default();
        if routes.is_empty()
            && let Some(count) = self.lengths.get_mut(usize::from(route.prefix.len))
        {
            *count += 1;
        }
        // The kernel refuses doubles: the same route told again is a replay of what a dump had already shown.
        if routes.contains(&route) {
            return Inserted::Known;
        }
        let first = routes.partition_point(|known| place(known) < place(&route));
        match placement {
            Placement::Replace if routes.get(first).is_some_and(|known| same_place(known, &route)) => {
                return Inserted::InPlaceOf(std::mem::replace(&mut routes[first], route));
            }
            Placement::Replace | Placement::First => routes.insert(first, route),
            Placement::Last => {
                let end = routes.partition_point(|known| place(known) <= place(&route));
                routes.insert(end, route);
            }
        }
        Inserted::New
    }

    /// Whether the route was there.
    fn remove(&mut self, route: &Route) -> bool {
        let Some(routes) = self.routes.get_mut(&route.prefix) else { return false };
        let Some(at) = routes.iter().position(|known| known == route) else { return false };
        routes.remove(at);
        if routes.is_empty() {
            self.routes.remove(&route.prefix);
            if let Some(count) = self.lengths.get_mut(usize::from(route.prefix.len)) {
                *count -= 1;
            }
        }
        true
    }
}

/// The kernel's order within a prefix (`fib_insert_alias`, net/ipv4/fib_trie.c): higher tos, then lower metric, first.
fn place(route: &Route) -> (std::cmp::Reverse<u8>, u32) {
    (std::cmp::Reverse(route.tos), route.metric)
}

fn same_place(one: &Route, other: &Route) -> bool {
    place(one) == place(other)
}
