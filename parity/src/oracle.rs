//! The decision procedure of docs/kernel-arp.md (§10), reckoned here a second time: from what `ip` and procfs show of
//! the kernel alone, without the agent's code, its maps, or `decide`. Coverage is measured against it.
//!
//! What it calls an answer is what §10 must be able to answer:
//! * `arp_ignore` 1 for an own address in a subnet of the ingress device counts as an answer (K061), 2 and 3 as passes;
//! * the route decides if it is one that §10 follows: type, single path, and no local prefix around a longer main one;
//! * an own address whose local route somebody removed is a pass, as a sender and as a target (counted apart);
//! * a route by an interface that the kernel may skip (`ignore_routes_with_linkdown`) is a pass.

use std::net::Ipv4Addr;

use arp_common::Lladdr;
use lab::Neighbours;

use crate::pair::Frame;
use crate::state::{KeyedRoutes, Link, Route, State};

/// What §10 says, and why not.
pub(crate) type Expectation = Result<(), &'static str>;

/// What §10 says of a frame that comes in on `ingress`.
pub(crate) fn verdict(state: &State, neighbours: &Neighbours, ingress: u32, frame: &Frame) -> Expectation {
    let arp = frame.arp().ok_or("not ARP, or too short")?;
    let (dst, arp) = (arp.dst, arp.arp);
    ensure(matches!(arp.htype, [0, 1] | [0, 6]) && arp.ptype == [8, 0] && (arp.hlen, arp.plen) == (6, 4), "header")?;
    ensure(arp.oper == [0, 1], "not a request")?;
    let link = state.links.get(&ingress).ok_or("no interface")?;
    ensure(link.up && !link.noarp, "interface down or NOARP")?;
    ensure(!link.has_master && !link.has_upper, "stacked interface")?;
    ensure(state.default_rules, "custom rules")?;
    let to_us = Lladdr::new(dst).to_string() == link.mac;
    ensure(to_us || dst[0] & 1 == 1, "other destination")?;
    let (spa, tpa) = (Ipv4Addr::from(arp.spa), Ipv4Addr::from(arp.tpa));
    ensure(
        !tpa.is_multicast() && !tpa.is_loopback() && !tpa.is_unspecified() && !tpa.is_broadcast(),
        "special target",
    )?;
    let class = best(state, tpa);
    if spa.is_unspecified() {
        return match class {
            Class::Local => local(state, link, tpa),
            _ => Err("probe, not local"),
        };
    }
    ensure(!spa.is_multicast() && !spa.is_loopback() && !spa.is_broadcast(), "special sender")?;
    ensure(spa != tpa, "announcement")?;
    match best(state, spa) {
        Class::Unicast(route) if route.dev.as_deref() == Some(&link.name) && route.len > 0 => {}
        _ => return Err("sender's route"),
    }
    ensure(!state.is_own(spa), "sender is an own address")?;
    let entry = neighbours.entries.get(&(ingress, spa)).ok_or("no neighbour")?;
    match entry.class() {
        lab::Class::Fixed => {}
        lab::Class::Valid if entry.lladdr == Some(Lladdr::new(arp.sha)) => {}
        lab::Class::Valid => return Err("neighbour differs"),
        lab::Class::Invalid => return Err("neighbour invalid"),
    }
    match class {
        Class::Local => local(state, link, tpa),
        Class::Unicast(route) => forwarded(state, neighbours, ingress, link, tpa, route, to_us),
        Class::Nothing => Err("no route"),
        Class::Unanswerable => Err("route of an unanswerable type"),
        Class::Unfollowed => Err("route that is not followed"),
        Class::UnroutedOwn => Err("own address without its local route"),
    }
}

fn local(state: &State, link: &Link, tpa: Ipv4Addr) -> Expectation {
    match state.setting("all", "arp_ignore").max(state.setting(&link.name, "arp_ignore")) {
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
    state: &State,
    neighbours: &Neighbours,
    ingress: u32,
    link: &Link,
    tpa: Ipv4Addr,
    route: &Route,
    to_us: bool,
) -> Expectation {
    let effective = |key| state.setting("all", key) != 0 || state.setting(&link.name, key) != 0;
    ensure(state.setting(&link.name, "forwarding") != 0, "forwarding off")?;
    let dev = route.dev.as_deref().unwrap_or_default();
    if dev == link.name {
        ensure(effective("proxy_arp_pvlan"), "same interface, pvlan off")?;
    } else if ![ingress, 0].iter().any(|&ifindex| neighbours.proxies.contains(&(ifindex, tpa))) {
        ensure(effective("proxy_arp"), "proxy_arp off")?;
        let (from, to) = (state.setting(&link.name, "medium_id"), state.setting(dev, "medium_id"));
        ensure(from == 0 || (from != -1 && to != from && to != -1), "medium_id")?;
    }
    ensure(to_us || state.setting(&link.name, "proxy_delay") == 0, "proxy_delay")
}

/// What the routes say of an address.
enum Class<'a> {
    Local,
    Unicast(&'a Route),
    Unanswerable,
    Unfollowed,
    /// An own address whose local route somebody removed.
    UnroutedOwn,
    Nothing,
}

/// The longest prefix of local and main together; local first among equals; table default if they have nothing.
fn best(state: &State, addr: Ipv4Addr) -> Class<'_> {
    let covering = |table: KeyedRoutes| {
        let routes = state.routes.iter().filter(move |route| route.table == table && !route.tos);
        // `ip` lists the routes of a prefix in the kernel's order.
        routes.filter(move |route| contains(route.prefix, route.len, addr))
    };
    let first =
        |table: KeyedRoutes| covering(table).reduce(|best, route| if route.len > best.len { route } else { best });
    let (local, main) = (first(KeyedRoutes::Local), first(KeyedRoutes::Main));
    let route = match (local, main) {
        // Whether the two tables are one depends on what was done to the namespace before.
        (Some(local), Some(main)) if main.len > local.len => return Class::Unfollowed,
        (Some(local), _) => local,
        (None, Some(main)) => main,
        (None, None) => match first(KeyedRoutes::Default) {
            Some(route) => route,
            None => return Class::Nothing,
        },
    };
    if state.is_own(addr) && (route.table, route.len) != (KeyedRoutes::Local, 32) {
        return Class::UnroutedOwn;
    }
    let skipped = route.dev.as_deref().is_some_and(|dev| may_be_skipped(state, dev));
    match (route.table, route.kind.as_str()) {
        (KeyedRoutes::Local, "local") => Class::Local,
        (_, "throw" | "local") => Class::Unfollowed,
        (KeyedRoutes::Local, "unicast") => Class::Unfollowed,
        (_, "unicast") if route.odd || skipped => Class::Unfollowed,
        (_, "unicast") => Class::Unicast(route),
        _ => Class::Unanswerable,
    }
}

/// Whether the kernel passes over routes by the interface, which has no carrier.
fn may_be_skipped(state: &State, dev: &str) -> bool {
    let ignored = |scope: &str| state.setting(scope, "ignore_routes_with_linkdown") != 0;
    state.link_named(dev).is_none_or(|link| !link.up || (!link.carrier && (ignored("all") || ignored(dev))))
}

fn contains(subnet: Ipv4Addr, len: u8, addr: Ipv4Addr) -> bool {
    let mask = u32::MAX.checked_shl(32 - u32::from(len)).unwrap_or(0);
    (u32::from(subnet) ^ u32::from(addr)) & mask == 0
}

fn ensure(holds: bool, otherwise: &'static str) -> Expectation {
    if holds { Ok(()) } else { Err(otherwise) }
}
