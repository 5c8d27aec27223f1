//! What the maps must hold for a snapshot. Where the snapshot does not say for certain what the kernel would do, the
//! answer is a reason to pass, or an opaque leaf.

use super::snapshot::{IFF_UP, Snapshot};
use super::{InterfaceTables, about};
use crate::event::{Address, Link, NDO_XMIT, Route, RouteKind, RoutingRule, Settings};
use crate::prefix::Prefix;
use arp_common::Reason;
use arp_common::fib::Entry;
use arp_common::maps::{Iface, IfaceAddr, MAX_OIFS, Neighbour, Oif};
use nix::libc;
use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

const IFF_NOARP: u32 = libc::IFF_NOARP as u32;
const IFF_RUNNING: u32 = libc::IFF_RUNNING as u32;

/// `__neigh_update` leaves them alone.
const NUD_FIXED: u16 = libc::NUD_PERMANENT | libc::NUD_NOARP;
/// The kernel's own (include/net/neighbour.h).
const NUD_VALID: u16 = NUD_FIXED | libc::NUD_REACHABLE | libc::NUD_PROBE | libc::NUD_STALE | libc::NUD_DELAY;

/// Kinds that may carry tunnel metadata: their replies would take another way.
const TUNNELS: [&str; 8] = ["vxlan", "geneve", "gretap", "ip6gretap", "erspan", "ip6erspan", "bareudp", "gtp"];

/// Which slot stands for which interface that routes leave by.
#[derive(Debug, Default)]
pub struct Slots {
    of: BTreeMap<u32, u16>,
    free: BTreeSet<u16>,
    /// Whose were taken last.
    news: Vec<u32>,
}

impl Slots {
    /// The interface's slot, taken now if it has none; `None` if all are taken.
    fn take(&mut self, ifindex: u32) -> Option<u16> {
        if let Some(&slot) = self.of.get(&ifindex) {
            return Some(slot);
        }
        let slot = match self.free.pop_first() {
            Some(slot) => slot,
            None => u16::try_from(self.of.len()).ok().filter(|&slot| u32::from(slot) < MAX_OIFS)?,
        };
        self.of.insert(ifindex, slot);
        self.news.push(ifindex);
        Some(slot)
    }

    /// The interfaces that have taken one since this was asked last.
    pub fn news(&mut self) -> Vec<u32> {
        std::mem::take(&mut self.news)
    }

    /// The interfaces that have one.
    pub fn interfaces(&self) -> impl Iterator<Item = u32> {
        self.of.keys().copied()
    }

    /// The interface's.
    pub fn of(&self, ifindex: u32) -> Option<u16> {
        self.of.get(&ifindex).copied()
    }

    /// Frees the slot of an interface that is gone and that no route names. Gives it.
    pub fn forget(&mut self, snapshot: &Snapshot, ifindex: u32) -> Option<u16> {
        if snapshot.links.contains_key(&ifindex) || snapshot.has_routes_by(ifindex) {
            return None;
        }
        let slot = self.of.remove(&ifindex)?;
        self.free.insert(slot);
        Some(slot)
    }

    /// Frees the slots of interfaces that are gone; every leaf must be computed anew afterwards.
    pub fn forget_missing(&mut self, snapshot: &Snapshot) {
        let free = &mut self.free;
        self.of.retain(|ifindex, slot| {
            let stays = snapshot.links.contains_key(ifindex);
            if !stays {
                free.insert(*slot);
            }
            stays
        });
    }
}

/// Everything but neighbours and leaves, as far as it is about these interfaces; 0 stands for what is about any.
pub fn interface_tables(
    snapshot: &Snapshot,
    attached: &BTreeSet<u32>,
    slots: &Slots,
    interfaces: impl IntoIterator<Item = u32>,
) -> InterfaceTables {
    let custom_rules = !are_default(&snapshot.rules);
    let mut interface_tables = InterfaceTables::default();
    for ifindex in interfaces {
        let link = snapshot.links.get(&ifindex).filter(|_| attached.contains(&ifindex));
        if let Some(link) = link {
            let iface = iface(snapshot, link, custom_rules);
            if iface.has(Iface::LOCAL_OWN) {
                interface_tables.own_addresses.extend(own_addresses(snapshot, ifindex));
            }
            interface_tables.ifaces.insert(ifindex, iface);
        }
        if link.is_some() || ifindex == 0 {
            interface_tables.proxies.extend(snapshot.proxies.range(about(ifindex)));
        }
        if let Some(slot) = slots.of(ifindex) {
            interface_tables.oifs.insert(slot, oif(snapshot, ifindex));
        }
    }
    interface_tables
}

/// The three rules that every namespace starts with (`fib_default_rules_init`, net/ipv4/fib_rules.c).
pub(crate) fn are_default(rules: &[RoutingRule]) -> bool {
    let defaults = [(0, 255), (32766, 254), (32767, 253)];
    rules.len() == defaults.len()
        && defaults
            .iter()
            .all(|&(priority, table)| rules.contains(&RoutingRule { priority, plain_lookup: Some(table) }))
}

fn iface(snapshot: &Snapshot, link: &Link, custom_rules: bool) -> Iface {
    let reason = blocked(snapshot, link, custom_rules);
    let (Some(own), Some(all)) = (link.settings, snapshot.all) else {
        return Iface { blocked: Reason::INTERFACE_UNREAD.raw(), ..Iface::default() };
    };
    let either = |setting: fn(&Settings) -> i32| setting(&all) != 0 || setting(&own) != 0;
    let has_proxies = [0, link.ifindex].into_iter().any(|ifindex| has_proxies(snapshot, ifindex));
    let arp_ignore = all.arp_ignore.max(own.arp_ignore);
    let flags = [
        (Iface::PROXY_ARP, either(|settings| settings.proxy_arp)),
        (Iface::PVLAN, either(|settings| settings.proxy_arp_pvlan)),
        (Iface::FORWARDING, own.forwarding != 0),
        // Not known means delayed.
        (Iface::DELAYED, snapshot.proxy_delays.get(&link.ifindex) != Some(&0)),
        (Iface::LOCAL_ALWAYS, !matches!(arp_ignore, 1..=3 | 8)),
        (Iface::LOCAL_OWN, arp_ignore == 1),
        (Iface::HAS_PROXIES, has_proxies),
        (Iface::TO_PEER, may_reply_to_peer(snapshot, link)),
    ];
    Iface {
        mac: link.mac.unwrap_or_default(),
        flags: flags.into_iter().filter(|&(_, set)| set).fold(0, |flags, (flag, _)| flags | flag),
        blocked: reason.map_or(0, Reason::raw),
        medium_id: own.medium_id,
    }
}

/// Whether a tc program may put replies right into the other end's input: there must be one, in another network
/// namespace, or the kernel drops them (`skb_do_redirect`, net/core/filter.c). An XDP program there would not see them:
/// while there may be one, or the kernel does not tell, replies go the long way.
fn may_reply_to_peer(snapshot: &Snapshot, link: &Link) -> bool {
    link.kind.as_deref() == Some("veth")
        && link.link_netnsid.is_some()
        && snapshot.xdp_features.get(&link.ifindex).is_some_and(|features| features & NDO_XMIT == 0)
}

/// Whether there are static proxy entries for this interface; for 0, for any.
fn has_proxies(snapshot: &Snapshot, ifindex: u32) -> bool {
    snapshot.proxies.range(about(ifindex)).next().is_some()
}

/// Why nothing on the interface may be answered, if so.
fn blocked(snapshot: &Snapshot, link: &Link, custom_rules: bool) -> Option<Reason> {
    let kind = link.kind.as_deref();
    let reasons = [
        (Reason::INTERFACE_NOT_ETHERNET, link.hardware_type != libc::ARPHRD_ETHER || link.mac.is_none()),
        (Reason::INTERFACE_DOWN, link.flags & IFF_UP == 0),
        (Reason::INTERFACE_NOARP, link.flags & IFF_NOARP != 0),
        (Reason::INTERFACE_HAS_MASTER, link.master.is_some()),
        (
            Reason::INTERFACE_HAS_UPPER,
            snapshot.is_below(link.ifindex) || snapshot.uppers_elsewhere.contains(&link.ifindex),
        ),
        (Reason::INTERFACE_TUNNEL, kind.is_some_and(|kind| TUNNELS.contains(&kind))),
        (Reason::CUSTOM_RULES, custom_rules),
        (Reason::ARP_NETFILTER, snapshot.arp_netfilter.concern(link).is_some() || may_be_held_back(snapshot, link)),
        (
            Reason::INGRESS_HOOK,
            [&snapshot.ingress_hooks, &snapshot.tcx].iter().any(|hooked| hooked.contains(&link.ifindex)),
        ),
        (Reason::ARP_LISTENER, [0, link.ifindex].iter().any(|ifindex| snapshot.arp_listeners.contains(ifindex))),
    ];
    let reason = reasons.into_iter().find(|&(_, holds)| holds).map(|(reason, _)| reason);
    let stale = snapshot.stale.contains(&link.ifindex).then_some(Reason::INTERFACE_UNREAD);
    let flapping = snapshot.flapping.contains(&link.ifindex).then_some(Reason::INTERFACE_FLAPPING);
    reason.or(flapping).or_else(|| snapshot.blocked.get(&link.ifindex).copied()).or(stale)
}

/// Whether netfilter may drop a reply that the kernel would send on the interface. Nobody replies for an address that
/// is routed back to the interface, or nowhere.
fn may_be_held_back(snapshot: &Snapshot, link: &Link) -> bool {
    let Some(held_back) = snapshot.held_back.get(&link.name) else { return false };
    let pvlan = [link.settings, snapshot.all].iter().any(|s| s.is_none_or(|settings| settings.proxy_arp_pvlan != 0));
    let is_never_given = |&addr: &Ipv4Addr| {
        let prefix = Prefix::new(addr.octets(), 32);
        snapshot.local.at(prefix).is_empty()
            && match verdict(snapshot, snapshot.main.at(prefix)) {
                Some(RouteVerdict::Unicast(oif)) => oif == link.ifindex && !pvlan,
                Some(RouteVerdict::Unanswerable | RouteVerdict::Opaque) => true,
                Some(RouteVerdict::Local) | None => false,
            }
    };
    !held_back.iter().all(is_never_given)
}

/// The targets that `arp_ignore` 1 answers: the interface's addresses that lie in one of its subnets
/// (`inet_confirm_addr` with scope host, net/ipv4/devinet.c).
fn own_addresses(snapshot: &Snapshot, ifindex: u32) -> Vec<IfaceAddr> {
    let first = Address { ifindex, local: Ipv4Addr::UNSPECIFIED, peer: Ipv4Addr::UNSPECIFIED, prefix_len: 0 };
    let own: Vec<_> = snapshot.addresses.range(first..).take_while(|address| address.ifindex == ifindex).collect();
    let subnets: Vec<Prefix> =
        own.iter().map(|address| Prefix::new(address.peer.octets(), address.prefix_len)).collect();
    let covered = own.iter().filter(|address| {
        let local = u32::from(address.local);
        subnets.iter().any(|subnet| subnet.contains(local))
    });
    covered.map(|address| IfaceAddr { ifindex, addr: address.local.octets() }).collect()
}

/// An interface that routes leave by; its index is 0 while the kernel may skip routes by it, may have
/// removed some, or answers for none of them:
/// a device without IPv4 settings keeps its routes, but no request is forwarded to it (`__mkroute_input`,
/// net/ipv4/route.c, 6.18).
fn oif(snapshot: &Snapshot, ifindex: u32) -> Oif {
    let (Some(link), Some(all)) = (snapshot.links.get(&ifindex), snapshot.all) else { return Oif::default() };
    let Some(own) = link.settings else { return Oif::default() };
    if [&snapshot.doubted, &snapshot.stale, &snapshot.flapping].iter().any(|untrusted| untrusted.contains(&ifindex)) {
        return Oif::default();
    }
    let ignores_linkdown = all.ignore_routes_with_linkdown != 0 || own.ignore_routes_with_linkdown != 0;
    let has_carrier = link.carrier && link.flags & IFF_RUNNING != 0;
    if link.flags & IFF_UP == 0 || (ignores_linkdown && !has_carrier) {
        return Oif::default();
    }
    Oif { ifindex, medium_id: own.medium_id }
}

/// The neighbour entry, if the kernel would leave it as it is.
pub fn neighbour(snapshot: &Snapshot, key: &IfaceAddr) -> Option<Neighbour> {
    let entry = snapshot.neighbours.get(key)?;
    if snapshot.flapping_neighbours.contains(key) {
        return None;
    }
    let fixed = entry.state & NUD_FIXED != 0;
    if entry.state & NUD_VALID == 0 || (entry.lladdr.is_none() && !fixed) {
        return None;
    }
    let flags = if fixed { Neighbour::FIXED } else { 0 };
    Some(Neighbour { lladdr: entry.lladdr.unwrap_or_default(), flags })
}

/// The leaf of exactly `prefix`, or `None` if shorter prefixes decide there.
///
/// Local and main are one trie until a rule is added for the first time. From then on the kernel always asks local
/// first, and sends no message about it (`fib_unmerge`, net/ipv4/fib_trie.c). What the two ways do not agree on is
/// opaque.
pub fn leaf(snapshot: &Snapshot, slots: &mut Slots, prefix: Prefix) -> Option<Entry> {
    let leaf = if let Some(verdict) = verdict(snapshot, snapshot.local.at(prefix)) {
        match verdict {
            RouteVerdict::Local => Entry::LOCAL,
            RouteVerdict::Unanswerable => Entry::UNANSWERABLE,
            RouteVerdict::Unicast(_) | RouteVerdict::Opaque => Entry::OPAQUE,
        }
    } else if is_unrouted_address(snapshot, prefix) {
        Entry::OPAQUE
    } else if let Some(verdict) = verdict(snapshot, snapshot.main.at(prefix)) {
        if snapshot.local.covers(prefix) { Entry::OPAQUE } else { forwarded(verdict, slots) }
    } else if snapshot.local.covers(prefix) || snapshot.main.covers(prefix) {
        // Table default is asked only where the others have nothing at all.
        return None;
    } else {
        forwarded(verdict(snapshot, snapshot.default.at(prefix))?, slots)
    };
    Some(if prefix.len == 0 { leaf.of_default_route() } else { leaf })
}

/// A configured address whose local route somebody removed: as a sender, source validation may know it all the same.
fn is_unrouted_address(snapshot: &Snapshot, prefix: Prefix) -> bool {
    prefix.len == 32 && snapshot.is_configured(prefix.addr)
}

/// What a table says of a prefix.
#[derive(Clone, Copy, PartialEq)]
enum RouteVerdict {
    Local,
    Unicast(u32),
    Unanswerable,
    Opaque,
}

fn forwarded(verdict: RouteVerdict, slots: &mut Slots) -> Entry {
    match verdict {
        RouteVerdict::Unicast(oif) => slots.take(oif).map_or(Entry::OPAQUE, Entry::unicast),
        RouteVerdict::Unanswerable => Entry::UNANSWERABLE,
        // A local route outside table local is none for a probe, which asks that table alone.
        RouteVerdict::Local | RouteVerdict::Opaque => Entry::OPAQUE,
    }
}

/// What the first route decides that ARP can match: routes with a tos never do. `None` if there is no such route.
fn verdict(snapshot: &Snapshot, routes: &[Route]) -> Option<RouteVerdict> {
    routes.iter().find(|route| route.tos == 0).map(|route| verdict_of(snapshot, route))
}

fn verdict_of(snapshot: &Snapshot, route: &Route) -> RouteVerdict {
    match route.kind {
        RouteKind::Local | RouteKind::Unicast if snapshot.objects.may_be_shared(route) => RouteVerdict::Opaque,
        RouteKind::Local => RouteVerdict::Local,
        RouteKind::Broadcast
        | RouteKind::Anycast
        | RouteKind::Multicast
        | RouteKind::Blackhole
        | RouteKind::Unreachable
        | RouteKind::Prohibit => RouteVerdict::Unanswerable,
        RouteKind::Throw | RouteKind::Other => RouteVerdict::Opaque,
        RouteKind::Unicast if route.multipath || route.encap => RouteVerdict::Opaque,
        RouteKind::Unicast => route.oif.map_or(RouteVerdict::Opaque, RouteVerdict::Unicast),
    }
}
