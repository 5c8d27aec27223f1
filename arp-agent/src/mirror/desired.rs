//! What the maps must hold for a snapshot. Where the snapshot does not say for certain what the kernel would do, the
//! answer is a reason to pass, or an opaque leaf.

use super::followed::{followed, is_usable};
use super::outcome::{Outcome, outcome};
use super::slots::{Legs, Slots};
use super::snapshot::{IFF_UP, Snapshot};
use super::{InterfaceTables, about, senders};
use crate::event::{Address, ForeignTc, Link, NDO_XMIT, Settings};
use crate::prefix::Prefix;
use arp_common::Reason;
use arp_common::fib::LAST_VIEW;
use arp_common::maps::{Iface, IfaceAddr, Neighbour, Oif};
use nix::libc;
use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

const IFF_NOARP: u32 = libc::IFF_NOARP as u32;

/// `__neigh_update` leaves them alone.
const NUD_FIXED: u16 = libc::NUD_PERMANENT | libc::NUD_NOARP;
/// The kernel's own (include/net/neighbour.h).
const NUD_VALID: u16 = NUD_FIXED | libc::NUD_REACHABLE | libc::NUD_PROBE | libc::NUD_STALE | libc::NUD_DELAY;

/// Kinds that may carry tunnel metadata: their replies would take another way.
const TUNNELS: [&str; 8] = ["vxlan", "geneve", "gretap", "ip6gretap", "erspan", "ip6erspan", "bareudp", "gtp"];

/// Everything but neighbours and leaves, as far as it is about these interfaces; 0 stands for what is about any.
pub(crate) fn interface_tables(
    snapshot: &Snapshot,
    attached: &BTreeSet<u32>,
    slots: &Slots,
    probe_views: &BTreeMap<u32, u16>,
    interfaces: impl IntoIterator<Item = u32>,
) -> InterfaceTables {
    let mut interface_tables = InterfaceTables::default();
    for ifindex in interfaces {
        let link = snapshot.links.get(&ifindex).filter(|_| attached.contains(&ifindex));
        if let Some(link) = link {
            let mut iface = iface(snapshot, link, slots);
            iface.probe_view = probe_views.get(&ifindex).copied().unwrap_or(LAST_VIEW);
            if iface.has(Iface::LOCAL_OWN) {
                interface_tables.own_addresses.extend(own_addresses(snapshot, ifindex));
            }
            interface_tables.ifaces.insert(ifindex, iface);
        }
        if link.is_some() || ifindex == 0 {
            interface_tables.proxies.extend(snapshot.proxies.range(about(ifindex)));
        }
    }
    interface_tables
}

fn iface(snapshot: &Snapshot, link: &Link, slots: &Slots) -> Iface {
    let reason = blocked(snapshot, link);
    let (Some(own), Some(all)) = (link.settings, snapshot.all) else {
        return Iface { blocked: number(Reason::INTERFACE_UNREAD), ..Iface::default() };
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
        (Iface::ARP_FILTER, either(|settings| settings.arp_filter)),
        (Iface::NEXT_HOP, slots.is_among_several(link.ifindex)),
        (Iface::MARKS_MATTER, snapshot.rules.ask_for_marks()),
    ];
    Iface {
        mac: link.mac.unwrap_or_default(),
        flags: flags.into_iter().filter(|&(_, set)| set).fold(0, |flags, (flag, _)| flags | flag),
        blocked: reason.map_or(0, number),
        probe_view: LAST_VIEW,
        medium_id: own.medium_id,
    }
}

/// The reason's number, which an interface's counters bound.
fn number(reason: Reason) -> u16 {
    reason.counter() as u16
}

/// Whether a tc program may put replies right into the other end's input: there must be one, in another network
/// namespace, or the kernel drops them (`skb_do_redirect`, net/core/filter.c). An XDP program there would not see them:
/// while there may be one, or the kernel does not tell, replies go the long way. So they do past the tc programs of
/// others, and through a queueing discipline: either may hold a reply back, or change it.
fn may_reply_to_peer(snapshot: &Snapshot, link: &Link) -> bool {
    link.kind.as_deref() == Some("veth")
        && !link.queues
        && !snapshot.foreign_tc.contains_key(&link.ifindex)
        && link.link_netnsid.is_some()
        && snapshot.xdp_features.get(&link.ifindex).is_some_and(|features| features & NDO_XMIT == 0)
}

/// Whether there are static proxy entries for this interface; for 0, for any.
fn has_proxies(snapshot: &Snapshot, ifindex: u32) -> bool {
    snapshot.proxies.range(about(ifindex)).next().is_some()
}

/// Why nothing on the interface may be answered, if so.
fn blocked(snapshot: &Snapshot, link: &Link) -> Option<Reason> {
    let kind = link.kind.as_deref();
    let reasons = [
        (Reason::INTERFACE_NOT_ETHERNET, link.hardware_type != libc::ARPHRD_ETHER || link.mac.is_none()),
        (Reason::INTERFACE_DOWN, link.flags & IFF_UP == 0),
        (Reason::INTERFACE_NOARP, link.flags & IFF_NOARP != 0),
        (Reason::INTERFACE_HAS_MASTER, link.master.is_some() && senders::vrf(snapshot, link).is_none()),
        // Before devices on top: the addresses that a VXLAN device has learnt look like those of devices of other namespaces
        // (NTF_SELF for both), and nobody who looked for these would find any.
        (Reason::INTERFACE_TUNNEL, kind.is_some_and(|kind| TUNNELS.contains(&kind))),
        (
            Reason::INTERFACE_HAS_UPPER,
            snapshot.is_below(link.ifindex) || snapshot.uppers_elsewhere.contains(&link.ifindex),
        ),
        (Reason::ARP_NETFILTER, snapshot.arp_netfilter.concern(link).is_some() || may_be_held_back(snapshot, link)),
        (Reason::INGRESS_HOOK, is_hooked(snapshot, link.ifindex)),
        (Reason::ARP_LISTENER, [0, link.ifindex].iter().any(|ifindex| snapshot.arp_listeners.contains(ifindex))),
    ];
    let reason = reasons.into_iter().find(|&(_, holds)| holds).map(|(reason, _)| reason);
    let stale = snapshot.stale.contains(&link.ifindex).then_some(Reason::INTERFACE_UNREAD);
    let flapping = snapshot.flapping.contains(&link.ifindex).then_some(Reason::INTERFACE_FLAPPING);
    reason.or(flapping).or_else(|| snapshot.blocked.get(&link.ifindex).copied()).or(stale)
}

/// Whether a program or chain of others may see the interface's frames after ours.
pub(crate) fn is_hooked(snapshot: &Snapshot, ifindex: u32) -> bool {
    snapshot.ingress_hooks.contains(&ifindex) || snapshot.foreign_tc.get(&ifindex) == Some(&ForeignTc::After)
}

/// Whether netfilter may drop a reply that the kernel would send on the interface. Nobody replies for an address that
/// is routed back to the interface, or nowhere.
fn may_be_held_back(snapshot: &Snapshot, link: &Link) -> bool {
    let Some(held_back) = snapshot.held_back.get(&link.name) else { return false };
    let pvlan = [link.settings, snapshot.all].iter().any(|s| s.is_none_or(|settings| settings.proxy_arp_pvlan != 0));
    // Where the targets of one sender are routed otherwise than those of another, nobody looks.
    let Some(ways) = senders::common_ways(snapshot) else { return true };
    let probes = senders::probe_ways(snapshot, link);
    let is_never_given = |&addr: &Ipv4Addr| {
        let prefix = Prefix::new(addr.octets(), 32);
        let answers_probe = |steps: &Vec<_>| matches!(outcome(&snapshot, steps, prefix), Outcome::Local { .. });
        if probes.iter().any(answers_probe) {
            return false;
        }
        ways.iter().all(|steps| match outcome(&snapshot, steps, prefix) {
            Outcome::Unicast(Legs::One(oif)) => oif == link.ifindex && !pvlan,
            Outcome::NoRoute | Outcome::Unanswerable => true,
            Outcome::Unicast(_) | Outcome::Local { .. } | Outcome::Opaque | Outcome::OpaqueRule | Outcome::Fall(_) => {
                false
            }
        })
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

/// What is in the slot of a route's next hops; index 0 while the kernel may skip routes by them, may have removed some, or
/// answers for none of them: a device without IPv4 settings keeps its routes, but no request is forwarded to it
/// (`__mkroute_input`, net/ipv4/route.c, 6.18).
pub(super) fn oif(snapshot: &Snapshot, legs: &Legs) -> Oif {
    let mediums = legs.interfaces().iter().map(|&ifindex| followed(snapshot, ifindex).map(|own| own.medium_id));
    let Some(mediums) = mediums.collect::<Option<Vec<i32>>>() else { return Oif::default() };
    // The kernel may choose a next hop that is dead, as long as another one is not.
    if !legs.interfaces().iter().any(|&ifindex| is_usable(snapshot, ifindex)) {
        return Oif::default();
    }
    let medium_id = mediums.first().copied().unwrap_or_default();
    let ifindex = match legs {
        Legs::One(ifindex) => *ifindex,
        Legs::Several(_) if mediums.iter().all(|&other| other == medium_id) => Oif::SEVERAL,
        Legs::Several(_) => Oif::MIXED,
    };
    Oif { ifindex, medium_id }
}

/// The neighbour entry, if the kernel would leave it as it is; without what is decided about the sender.
pub(crate) fn neighbour(snapshot: &Snapshot, key: &IfaceAddr) -> Option<Neighbour> {
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
