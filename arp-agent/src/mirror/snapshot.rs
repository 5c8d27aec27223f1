//! What the kernel said, folded: the state that it would describe now.

use super::about;
use super::routes::Routes;
use super::rules::Rules;
use crate::arp_rules::ArpRules;
use crate::event::{
    Address, Event, ForeignTc, IfSet, Link, LocalAndMain, NDO_XMIT, NeighbourEntry, Placement, Route, Settings,
};
use crate::prefix::Prefix;
use arp_common::Reason;
use arp_common::maps::IfaceAddr;
use nix::libc;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::Ipv4Addr;

/// IFF_UP.
pub(crate) const IFF_UP: u32 = libc::IFF_UP as u32;

/// Kinds whose IFLA_LINK is their other end, not a device below them.
const PAIRS: [&str; 3] = ["veth", "netkit", "vxcan"];

/// What must be computed anew.
#[derive(Debug, Default)]
pub struct Dirty {
    /// All of it.
    pub everything: bool,
    /// What is kept for each interface: its entry, proxies, own addresses, slot.
    pub interfaces: IfSet,
    /// Neighbour entries.
    pub neighbours: BTreeSet<IfaceAddr>,
    /// Tables and prefixes in which a route changed.
    pub routes: BTreeSet<(u32, Prefix)>,
    /// Addresses of the node that came or went.
    pub own: BTreeSet<[u8; 4]>,
    /// Which nexthop objects are shared, or are resilient groups: all routes that have one.
    pub objects: bool,
    /// The rules, or what they name: every view, and what is decided about every sender.
    pub rules: bool,
    /// The routes were dumped again: everything that `rules` stands for.
    pub all_routes: bool,
    /// The routes are in doubt: they must be dumped again.
    pub routes_in_doubt: bool,
}

/// The kernel's state, as far as the mirror follows it.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// By ifindex.
    pub links: BTreeMap<u32, Link>,
    /// Addresses of all interfaces.
    pub addresses: BTreeSet<Address>,
    /// The routing rules.
    pub rules: Rules,
    /// How the kernel keeps the tables local and main; `None` while it is not known.
    pub local_and_main: Option<LocalAndMain>,
    /// Neighbour entries of all interfaces, whatever their state.
    pub neighbours: BTreeMap<IfaceAddr, NeighbourEntry>,
    /// How many of these have come on each interface since the last dump, with those that are gone.
    pub arrivals: HashMap<u32, u64>,
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
    /// Where the foreign tcx programs and tc filters of interfaces stand; without those that have none.
    pub foreign_tc: BTreeMap<u32, ForeignTc>,
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
    /// The routes of all tables.
    pub routes: Routes,
    /// The nexthop objects that are resilient groups.
    pub resilient: BTreeSet<u32>,
    /// All of `held_back`: a route to one of them decides whether its interface answers.
    held_back_prefixes: BTreeSet<Prefix>,
    /// How often each address is configured.
    own: HashMap<u32, usize>,
    /// How many devices of this namespace are stacked on each interface.
    stacked: HashMap<u32, usize>,
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
            Event::Rules(rules) => {
                let rules = Rules::new(rules, &self.links);
                if rules != self.rules {
                    dirty.rules = true;
                    self.rules = rules;
                }
                if !self.rules.are_default() {
                    self.keep_local_and_main(Some(LocalAndMain::Split), dirty);
                }
            }
            Event::LocalAndMain(state) => self.keep_local_and_main(state, dirty),
            Event::NexthopObject { id, resilient } => {
                let news = if resilient { self.resilient.insert(id) } else { self.resilient.remove(&id) };
                self.objects_changed(news, dirty);
            }
            Event::Neighbour(entry) => {
                let key = IfaceAddr { ifindex: entry.ifindex, addr: entry.addr.octets() };
                dirty.neighbours.insert(key);
                if self.neighbours.insert(key, entry).is_none() {
                    *self.arrivals.entry(key.ifindex).or_default() += 1;
                }
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
                self.foreign_tc.insert(ifindex, ForeignTc::After);
            }
            Event::ForeignTc { ifindex, found } => {
                dirty.interfaces.add(ifindex);
                put(&mut self.foreign_tc, ifindex, Some(found).filter(|&found| found != ForeignTc::None));
            }
            Event::RootQdisc { ifindex, queues } => {
                dirty.interfaces.add(ifindex);
                if let Some(link) = self.links.get_mut(&ifindex) {
                    link.queues = queues;
                }
            }
        }
    }

    /// Whether a veth's other end takes frames of XDP that are redirected to it.
    pub fn takes_xdp(&self, ifindex: u32) -> bool {
        self.xdp_features.get(&ifindex).is_some_and(|features| features & NDO_XMIT != 0)
    }

    /// Whether another device of this namespace is stacked on the interface.
    pub fn is_below(&self, ifindex: u32) -> bool {
        self.stacked.contains_key(&ifindex)
    }

    /// Whether the interface has an address.
    pub fn is_numbered(&self, ifindex: u32) -> bool {
        let first = Address { ifindex, local: Ipv4Addr::UNSPECIFIED, peer: Ipv4Addr::UNSPECIFIED, prefix_len: 0 };
        self.addresses.range(first..).next().is_some_and(|address| address.ifindex == ifindex)
    }

    /// Whether some interface has the address.
    pub fn is_configured(&self, addr: u32) -> bool {
        self.own.contains_key(&addr)
    }

    /// Puts a new dump of the routes in the place of what was known.
    pub fn replace_routes(&mut self, routes: Vec<Route>, dirty: &mut Dirty) {
        dirty.all_routes = true;
        self.routes = Routes::default();
        self.doubted.clear();
        if !self.held_back_prefixes.is_empty() {
            dirty.interfaces = IfSet::All;
        }
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
        if known.and_then(|known| known.vrf_table) != link.vrf_table {
            dirty.rules = true;
        }
        dirty.rules |= self.rules.link_changes(known, Some(&link));
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
        dirty.rules |= self.rules.link_changes(before.as_ref(), None);
        dirty.rules |= before.as_ref().is_some_and(|before| before.vrf_table.is_some());
        self.restack(before.as_ref().and_then(below), None, dirty);
        self.routes_gone_with(ifindex, dirty);
        self.stale.remove(&ifindex);
        self.foreign_tc.remove(&ifindex);
        self.uppers_elsewhere.remove(&ifindex);
        self.blocked.remove(&ifindex);
        self.xdp_features.remove(&ifindex);
        self.proxy_delays.remove(&ifindex);
        self.arrivals.remove(&ifindex);
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
        let doubtful = self.routes.doubtful(ifindex, carrier);
        dirty.routes_in_doubt |= doubtful.local;
        if doubtful.by_it && self.doubted.insert(ifindex) {
            dirty.interfaces.add(ifindex);
        }
    }

    /// An interface is gone, and with it each route that has no other next hop. What becomes of the others is not known
    /// here: while its link is missing they are opaque, and in doubt.
    fn routes_gone_with(&mut self, ifindex: u32, dirty: &mut Dirty) {
        for route in self.routes.only_by(ifindex) {
            self.route_gone(&route, dirty);
        }
        self.doubted.remove(&ifindex);
        if self.routes.may_be_among_several(ifindex) {
            self.doubted.insert(ifindex);
        }
    }

    /// A state that is known is never unknown again, and tables that are apart stay so.
    fn keep_local_and_main(&mut self, state: Option<LocalAndMain>, dirty: &mut Dirty) {
        let now = match (self.local_and_main, state) {
            (Some(LocalAndMain::Split), _) => Some(LocalAndMain::Split),
            (known, now) => now.or(known),
        };
        if now != self.local_and_main {
            self.local_and_main = now;
            dirty.rules = true;
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

    /// Whether a reply is held back may change with a route to its address.
    fn may_hold_back(&self, prefix: Prefix, dirty: &mut Dirty) {
        let last = Prefix { addr: prefix.last(), len: 32 };
        if self.held_back_prefixes.range(prefix..=last).next().is_some() {
            dirty.interfaces = IfSet::All;
        }
    }

    fn route(&mut self, route: Route, placement: Placement, dirty: &mut Dirty) {
        if route.tos != 0 {
            return;
        }
        self.may_hold_back(route.prefix, dirty);
        dirty.routes.insert((route.table, route.prefix));
        let objects = self.routes.insert(route, placement);
        self.objects_changed(objects, dirty);
    }

    fn route_gone(&mut self, route: &Route, dirty: &mut Dirty) {
        if route.tos != 0 {
            return;
        }
        self.may_hold_back(route.prefix, dirty);
        match self.routes.remove(route) {
            Some(objects) => {
                dirty.routes.insert((route.table, route.prefix));
                self.objects_changed(objects, dirty);
            }
            // Not the route that we know there: one of the two is wrong.
            None => dirty.routes_in_doubt |= self.routes.has_another_in_place_of(route),
        }
    }

    fn objects_changed(&self, changed: bool, dirty: &mut Dirty) {
        dirty.objects |= changed;
        if changed && !self.held_back_prefixes.is_empty() {
            // Whether a reply is held back may depend on a route of such an object.
            dirty.interfaces = IfSet::All;
        }
    }
}

impl Dirty {
    fn address(&mut self, address: &Address) {
        self.interfaces.add(address.ifindex);
        self.own.insert(address.local.octets());
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
