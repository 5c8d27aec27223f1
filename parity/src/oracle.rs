//! The decision procedure of docs/kernel-arp.md (§10), reckoned here a second time: from what `ip` and procfs show of
//! the kernel alone, without the agent's code, its maps, or `decide`. Each request is walked through the rules and the
//! tables by itself; nothing is compiled beforehand. Coverage is measured against it.
//!
//! What it calls an answer is what the kernel surely answers (a silence there is an error) and what §10 must be able to
//! answer:
//! * `arp_ignore` 1 for an own address in a subnet of the ingress device counts as an answer (K061), 2 and 3 as passes;
//! * of a sender two things are known: that it is accepted whatever the target, and that it is where no rule names the
//!   target or the way that it leaves by (oracle/senders.rs);
//! * with `arp_filter` a sender must be routed by the ingress interface alone, and not by 0.0.0.0/0;
//! * routes with several next hops are passes on an interface that is one of some route's next hops;
//! * routes that share a nexthop object across types, or use a resilient group, are passes;
//! * a route that `suppress_ifgroup` suppresses is a pass, if its table has another one for the address;
//! * rules with a selector that is not known are passes where they matter.

mod lookup;
mod senders;

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use arp_common::Lladdr;
use lab::Neighbours;

use crate::pair::Frame;
use crate::state::{Interface, LOCAL, MAIN, NodeState, RouteType};
use lookup::{Flow, Known, LookupEnd};
use senders::effective;

/// What §10 says, and why not.
pub(crate) type Expectation = Result<(), &'static str>;

/// What §10 says of a frame that comes in on `ingress`.
pub(crate) fn verdict(state: &NodeState, neighbours: &Neighbours, ingress: u32, frame: &Frame) -> Expectation {
    let arp = frame.arp().ok_or("not ARP, or too short")?;
    let (dst, arp) = (arp.dst, arp.arp);
    ensure(matches!(arp.htype, [0, 1] | [0, 6]) && arp.ptype == [8, 0] && (arp.hlen, arp.plen) == (6, 4), "header")?;
    ensure(arp.oper == [0, 1], "not a request")?;
    let link = state.links.get(&ingress).ok_or("no interface")?;
    ensure(link.up && !link.noarp, "interface down or NOARP")?;
    let vrf = state.vrf(ingress);
    ensure((link.master.is_none() || vrf.is_some()) && !link.has_upper, "stacked interface")?;
    let to_us = Lladdr::new(dst).to_string() == link.mac;
    ensure(to_us || dst[0] & 1 == 1, "other destination")?;
    let (spa, tpa) = (Ipv4Addr::from(arp.spa), Ipv4Addr::from(arp.tpa));
    ensure(
        !tpa.is_multicast() && !tpa.is_loopback() && !tpa.is_unspecified() && !tpa.is_broadcast(),
        "special target",
    )?;
    if spa.is_unspecified() {
        let table = vrf.and_then(|vrf| vrf.vrf_table);
        ensure(is_local_in(state, table, tpa), "probe, not local")?;
        return local(state, link, tpa);
    }
    ensure(!spa.is_multicast() && !spa.is_loopback() && !spa.is_broadcast(), "special sender")?;
    ensure(spa != tpa, "announcement")?;
    let entry = neighbours.entries.get(&(ingress, spa)).ok_or("no neighbour")?;
    match entry.class() {
        lab::Class::Fixed => {}
        lab::Class::Valid if entry.lladdr == Some(Lladdr::new(arp.sha)) => {}
        lab::Class::Valid => return Err("neighbour differs"),
        lab::Class::Invalid => return Err("neighbour invalid"),
    }
    let flow = Flow {
        to: tpa,
        from: Known::Is(spa),
        iif: Known::Is(ingress),
        vrf: Known::Is(vrf.and_then(|vrf| vrf.vrf_table)),
    };
    let class = class(state, &flow)?;
    let legs = match &class {
        RequestClass::Unicast(legs) => legs.clone(),
        _ => BTreeSet::new(),
    };
    ensure(senders::is_accepted(state, ingress, spa, tpa, &legs), "sender's route")?;
    match class {
        RequestClass::Local => {
            // The filter looks for the address itself in table local.
            let known = effective(state, link, "arp_filter") == 0 || state.is_own(tpa) || is_local_in(state, None, tpa);
            ensure(known, "arp_filter, local in another table")?;
            local(state, link, tpa)
        }
        RequestClass::Unicast(legs) => forwarded(state, neighbours, ingress, link, tpa, &legs, to_us),
        RequestClass::Nothing => Err("no route"),
        RequestClass::Unanswerable => Err("route or rule that refuses"),
    }
}

fn local(state: &NodeState, link: &Interface, tpa: Ipv4Addr) -> Expectation {
    match effective(state, link, "arp_ignore") {
        1 => {
            let own = link.addresses.iter().any(|&(own, _, _)| own == tpa);
            let inside = link.addresses.iter().any(|&(_, subnet, len)| contains(subnet, len, tpa));
            ensure(own && inside, "arp_ignore 1, not an own address")
        }
        2 | 3 => Err("arp_ignore 2 or 3"),
        8 => Err("arp_ignore 8"),
        _ => Ok(()),
    }
}

fn forwarded(
    state: &NodeState,
    neighbours: &Neighbours,
    ingress: u32,
    link: &Interface,
    tpa: Ipv4Addr,
    legs: &BTreeSet<u32>,
    to_us: bool,
) -> Expectation {
    let effective = |key| state.setting("all", key) != 0 || state.setting(&link.name, key) != 0;
    ensure(state.setting(&link.name, "forwarding") != 0, "forwarding off")?;
    ensure(legs.len() == 1 || !is_next_hop(state, ingress), "several next hops, ingress is one somewhere")?;
    if legs.contains(&ingress) {
        ensure(effective("proxy_arp_pvlan"), "same interface, pvlan off")?;
    } else if ![ingress, 0].iter().any(|&ifindex| neighbours.proxies.contains(&(ifindex, tpa))) {
        ensure(effective("proxy_arp"), "proxy_arp off")?;
        let medium =
            |ifindex| state.links.get(ifindex).map_or(-1, |leg: &Interface| state.setting(&leg.name, "medium_id"));
        let (from, to) = (state.setting(&link.name, "medium_id"), legs.iter().map(medium).collect::<BTreeSet<i64>>());
        ensure(from == 0 || to.len() == 1, "several medium_ids")?;
        ensure(from == 0 || (from != -1 && !to.contains(&from) && !to.contains(&-1)), "medium_id")?;
    }
    ensure(to_us || state.setting(&link.name, "proxy_delay") == 0, "proxy_delay")
}

/// Whether any route leads to the interface and to others.
fn is_next_hop(state: &NodeState, ifindex: u32) -> bool {
    let mut several = state.routes.iter().map(crate::state::KernelRoute::interfaces).filter(|legs| legs.len() > 1);
    several.any(|legs| legs.contains(&ifindex))
}

/// Where a request goes.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum RequestClass {
    Local,
    /// By one of these interfaces.
    Unicast(BTreeSet<u32>),
    Unanswerable,
    Nothing,
}

/// Where the lookup leads, if that is certain.
fn class(state: &NodeState, flow: &Flow) -> Result<RequestClass, &'static str> {
    let classes = lookup::ends(state, flow).into_iter().map(|end| class_of(state, end));
    let mut classes: Vec<RequestClass> = classes.collect::<Result<_, _>>()?;
    classes.sort();
    classes.dedup();
    let class = classes.pop().ok_or("no end")?;
    ensure(classes.is_empty(), "rule that is not known")?;
    Ok(class)
}

fn class_of(state: &NodeState, end: LookupEnd) -> Result<RequestClass, &'static str> {
    let at = match end {
        LookupEnd::Nothing => return Ok(RequestClass::Nothing),
        LookupEnd::Refusal => return Ok(RequestClass::Unanswerable),
        LookupEnd::Unknown => return Err("rule that is not known"),
        LookupEnd::Route(at) => at,
    };
    let route = &state.routes[at];
    ensure(!route.object.is_some_and(|object| state.opaque_objects.contains(&object)), "nexthop object")?;
    Ok(match route.kind {
        RouteType::Local => RequestClass::Local,
        RouteType::Unicast => {
            let legs = route.interfaces();
            ensure(legs.iter().all(|&leg| state.does_ipv4(leg)), "next hop without IPv4 settings")?;
            RequestClass::Unicast(legs)
        }
        _ => RequestClass::Unanswerable,
    })
}

/// Whether table local, or the table of a VRF, alone says that the address is the node's.
fn is_local_in(state: &NodeState, vrf: Option<u32>, addr: Ipv4Addr) -> bool {
    let tables: &[u32] = if state.merged { &[LOCAL, MAIN] } else { &[LOCAL] };
    let end = match vrf {
        Some(table) => lookup::search(state, &[table], addr),
        None => lookup::search(state, tables, addr),
    };
    matches!(end, Some(LookupEnd::Route(at)) if state.routes[at].kind == RouteType::Local)
}

fn contains(subnet: Ipv4Addr, len: u8, addr: Ipv4Addr) -> bool {
    let mask = u32::MAX.checked_shl(32 - u32::from(len)).unwrap_or(0);
    (u32::from(subnet) ^ u32::from(addr)) & mask == 0
}

fn ensure(holds: bool, otherwise: &'static str) -> Expectation {
    if holds { Ok(()) } else { Err(otherwise) }
}

#[cfg(test)]
mod tests;
