//! What is odd about an interface that answers for others, or about the node: what people look for after they have asked in
//! vain.

use super::kernel::settings::Setting;
use super::words::interface;
use crate::event::{Address, Link, RouteKind};
use crate::kernel::TableSize;
use crate::mirror::snapshot::{Snapshot, TABLE_MAIN};
use crate::prefix::Prefix;
use arp_common::settings as names;
use std::collections::BTreeMap;
use std::net::Ipv4Addr;

/// A prefix shorter than this is no pod's or guest's own.
const HOST: u8 = 32;

/// What is odd; nothing is changed, and nothing of it needs to be wrong.
pub fn oddities(snapshot: &Snapshot, ifindex: u32, arp_accept: Option<i32>, size: Option<TableSize>) -> Vec<String> {
    let Some(link) = snapshot.links.get(&ifindex) else { return Vec::new() };
    let mut odd = Vec::new();
    let is_on = |key| Setting::of(snapshot, link, key).is_on();
    let proxies = is_on(names::PROXY_ARP) || is_on(names::PROXY_ARP_PVLAN);
    let name = &link.name;
    if proxies && !is_on(names::RP_FILTER) {
        odd.push(format!(
            "rp_filter is 0 on {name}, which answers for others: whoever forges a sender is answered, and learnt"
        ));
    }
    if proxies && arp_accept.is_some_and(|value| value != 0) {
        odd.push(format!(
            "arp_accept is on for {name}, which answers for others: announcements fill the neighbour table"
        ));
    }
    odd.extend(size.and_then(|size| fullness(snapshot, size)));
    odd.extend(hidden(snapshot, link));
    odd.extend(flux(snapshot, link));
    odd.extend(wide_routes(snapshot, link));
    if is_on(names::PROXY_ARP) && !Setting::of(snapshot, link, names::FORWARDING).is_on() {
        odd.push(format!("proxy_arp is on for {name} without effect: forwarding is off there"));
    }
    if !link.carrier && link.flags & 1 != 0 {
        odd.push(format!(
            "{name} has no carrier: static proxy entries on it are lost when it goes down, and do not come back"
        ));
    }
    odd
}

/// A neighbour table that is more than half full: one table, for all namespaces of the machine.
fn fullness(snapshot: &Snapshot, size: TableSize) -> Option<String> {
    if size.entries <= size.most / 2 {
        return None;
    }
    let mut by_interface: BTreeMap<u32, usize> = BTreeMap::new();
    snapshot.neighbours.keys().for_each(|key| *by_interface.entry(key.ifindex).or_default() += 1);
    let mut here: Vec<(usize, u32)> = by_interface.into_iter().map(|(ifindex, count)| (count, ifindex)).collect();
    here.sort_unstable_by(|one, other| other.cmp(one));
    let here = here.into_iter().take(3).map(|(count, ifindex)| format!("{} {count}", interface(snapshot, ifindex)));
    let here = here.collect::<Vec<_>>().join(", ");
    Some(format!(
        "the neighbour table of the machine has {} of at most {} entries (in this namespace: {here}): when it is full, new \
         senders get no answer for own addresses",
        size.entries, size.most
    ))
}

/// Addresses that `arp_ignore` keeps to the interfaces that hold them.
fn hidden(snapshot: &Snapshot, link: &Link) -> Option<String> {
    let ignore = Setting::of(snapshot, link, names::ARP_IGNORE);
    if !matches!(ignore.value(), 1 | 2) {
        return None;
    }
    let elsewhere = |address: &&Address| address.ifindex != link.ifindex && !address.local.is_loopback();
    let hidden: Vec<String> = snapshot
        .addresses
        .iter()
        .filter(elsewhere)
        .map(|address| format!("{} on {}", address.local, interface(snapshot, address.ifindex)))
        .take(4)
        .collect();
    if hidden.is_empty() {
        return None;
    }
    Some(format!("arp_ignore is {}: {} does not answer for {}", ignore.value(), link.name, hidden.join(", ")))
}

/// Another interface with an address in the same subnet.
fn flux(snapshot: &Snapshot, link: &Link) -> Option<String> {
    let subnet = |address: &Address| Prefix::new(address.peer.octets(), address.prefix_len);
    let wide = || snapshot.addresses.iter().filter(|address| address.prefix_len < 31 && address.prefix_len > 0);
    let own: Vec<Prefix> = wide().filter(|address| address.ifindex == link.ifindex).map(subnet).collect();
    let other = wide().find(|address| address.ifindex != link.ifindex && own.contains(&subnet(address)))?;
    Some(format!(
        "{} and {} have addresses in one subnet: if they are in one segment, each answers for the other's address (ARP flux; \
         arp_ignore 1 or arp_filter 1 ends that)",
        link.name,
        interface(snapshot, other.ifindex)
    ))
}

/// A prefix that is routed to the interface as a whole, beside host routes inside it that lead elsewhere.
fn wide_routes(snapshot: &Snapshot, link: &Link) -> Option<String> {
    let proxies = Setting::of(snapshot, link, names::PROXY_ARP).is_on();
    let table = snapshot.routes.table(TABLE_MAIN).filter(|_| proxies)?;
    let wide = table.all().filter(|route| route.kind == RouteKind::Unicast && (8..HOST).contains(&route.prefix.len));
    for route in wide.filter(|route| !route.legs().contains(&link.ifindex)) {
        let inside = table.all().filter(|host| {
            host.prefix.len == HOST && route.prefix.contains(host.prefix.addr) && host.kind == RouteKind::Unicast
        });
        let hosts: Vec<_> = inside.collect();
        if hosts.iter().any(|host| host.legs().contains(&link.ifindex)) {
            return Some(format!(
                "{}/{} is routed elsewhere as a whole, and only hosts in it to {}: it answers for unused addresses in \
                 there, too",
                Ipv4Addr::from(route.prefix.addr),
                route.prefix.len,
                link.name
            ));
        }
    }
    None
}
