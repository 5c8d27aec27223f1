//! What is odd about an interface that answers for others, or about the node: what people look for after they have asked in
//! vain.

use super::kernel::settings::InterfaceSetting;
use super::words::interface;
use crate::event::{Address, Link, Route, RouteKind};
use crate::kernel::TableSize;
use crate::mirror::routes::TABLE_MAIN;
use crate::mirror::snapshot::Snapshot;
use crate::prefix::Prefix;
use arp_common::settings as names;
use std::collections::BTreeMap;
use std::net::Ipv4Addr;

/// A prefix shorter than this is no pod's or guest's own.
const HOST: u8 = 32;

/// What is odd; nothing is changed, and nothing of it needs to be wrong.
pub(crate) fn oddities(
    snapshot: &Snapshot,
    ifindex: u32,
    arp_accept: Option<i32>,
    size: Option<TableSize>,
) -> Vec<String> {
    let Some(link) = snapshot.links.get(&ifindex) else { return Vec::new() };
    let mut odd = Vec::new();
    let is_on = |key| InterfaceSetting::of(snapshot, link, key).is_on();
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
    if is_on(names::PROXY_ARP) && !InterfaceSetting::of(snapshot, link, names::FORWARDING).is_on() {
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
    let ignore = InterfaceSetting::of(snapshot, link, names::ARP_IGNORE);
    if !matches!(ignore.value(), 1 | 2) {
        return None;
    }
    let holds = |local| snapshot.addresses.iter().any(|own| own.ifindex == link.ifindex && own.local == local);
    let elsewhere =
        |address: &&Address| address.ifindex != link.ifindex && !address.local.is_loopback() && !holds(address.local);
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

/// A prefix that is routed elsewhere as a whole, beside hosts inside it that are routed to the interface.
fn wide_routes(snapshot: &Snapshot, link: &Link) -> Option<String> {
    if !InterfaceSetting::of(snapshot, link, names::PROXY_ARP).is_on() {
        return None;
    }
    let elsewhere = |route: &&Route| route.kind == RouteKind::Unicast && !route.legs().contains(&link.ifindex);
    let around = |host: Ipv4Addr| {
        // From the longest on: there may be very many routes, and few are around one host.
        let wide = (8..HOST).rev().map(|len| Prefix::new(host.octets(), len));
        wide.into_iter().find_map(|prefix| snapshot.routes.at(TABLE_MAIN, prefix).iter().find(elsewhere))
    };
    let route = snapshot.routes.hosts_by(link.ifindex).find_map(around)?;
    Some(format!(
        "{}/{} is routed elsewhere as a whole, and only hosts in it to {}: it answers for unused addresses in there, too",
        Ipv4Addr::from(route.prefix.addr),
        route.prefix.len,
        link.name
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{Event, NeighbourEntry, Placement, Settings};
    use crate::explain::kernel_view::KernelView;
    use crate::mirror::snapshot::Dirty;
    use crate::mirror::tests::{CALI, cali, dump};

    const UPLINK: u32 = 3;

    fn snapshot(events: impl IntoIterator<Item = Event>) -> Snapshot {
        let mut snapshot = KernelView::new(dump(), CALI).unwrap().snapshot().clone();
        events.into_iter().for_each(|event| snapshot.apply(event, &mut Dirty::default()));
        snapshot
    }

    fn all(events: impl IntoIterator<Item = Event>) -> Vec<String> {
        oddities(&snapshot(events), CALI, None, None)
    }

    /// Events after which the interface is like any well-kept one.
    fn calm(change: impl FnOnce(&mut Link, &mut Settings)) -> Event {
        cali(|link, settings| {
            settings.rp_filter = 1;
            change(link, settings);
        })
    }

    fn address(ifindex: u32, local: [u8; 4], prefix_len: u8) -> Event {
        Event::Address(Address { ifindex, local: local.into(), peer: local.into(), prefix_len })
    }

    fn unicast(to: [u8; 4], len: u8, oif: u32) -> Event {
        let known = snapshot([]).routes.at(TABLE_MAIN, Prefix::new([0; 4], 0))[0].clone();
        Event::Route(Route { prefix: Prefix::new(to, len), oif: Some(oif), ..known }, Placement::Last)
    }

    #[test]
    fn nothing_is_odd_about_an_ordinary_interface() {
        assert_eq!(all([calm(|_, _| {})]), Vec::<String>::new());
        let passive = cali(|_, settings| settings.proxy_arp = 0);
        assert_eq!(all([passive]), Vec::<String>::new(), "rp_filter 0 matters where others are answered for");
    }

    #[test]
    fn an_address_that_the_interface_holds_too_is_not_hidden() {
        let strict = |more: Vec<Event>| {
            let ignoring = calm(|_, settings| settings.arp_ignore = 1);
            all([ignoring, address(UPLINK, [10, 9, 0, 1], 24)].into_iter().chain(more))
        };
        assert!(strict(vec![])[0].contains("does not answer for 10.9.0.1"), "{:?}", strict(vec![]));
        assert_eq!(strict(vec![address(CALI, [10, 9, 0, 1], 32)]), [""; 0]);
    }

    #[test]
    fn each_thing_that_is_odd_is_told_alone() {
        let one = |events: Vec<Event>, expected: &str| {
            let told = all(events);
            assert!(matches!(&told[..], [only] if only.contains(expected)), "{expected}: {told:?}");
        };
        one(vec![cali(|_, _| {})], "rp_filter is 0 on cali0");
        one(vec![calm(|_, settings| settings.forwarding = 0)], "forwarding is off");
        one(vec![calm(|link, _| link.carrier = false)], "has no carrier");
        one(
            vec![calm(|_, settings| settings.arp_ignore = 1), address(UPLINK, [10, 9, 0, 1], 24)],
            "arp_ignore is 1: cali0 does not answer for 10.9.0.1 on eth0",
        );
        one(
            vec![calm(|_, _| {}), address(UPLINK, [10, 9, 0, 1], 24), address(CALI, [10, 9, 0, 2], 24)],
            "cali0 and eth0 have addresses in one subnet",
        );
        one(vec![calm(|_, _| {}), unicast([10, 5, 0, 0], 16, UPLINK)], "10.5.0.0/16 is routed elsewhere as a whole");
    }

    #[test]
    fn a_wide_route_by_the_interface_itself_is_its_own() {
        assert_eq!(all([calm(|_, _| {}), unicast([10, 5, 0, 0], 16, CALI)]), Vec::<String>::new());
    }

    #[test]
    fn announcements_count_where_others_are_answered_for() {
        let told = |accept| oddities(&snapshot([calm(|_, _| {})]), CALI, Some(accept), None);
        assert!(told(1)[0].starts_with("arp_accept is on for cali0"));
        assert_eq!(told(0), Vec::<String>::new());
    }

    #[test]
    fn a_table_is_full_from_one_half_on() {
        let more = (0..3).map(|last| {
            let entry =
                NeighbourEntry { ifindex: UPLINK, addr: [10, 9, 0, last].into(), state: 4, lladdr: Some([2; 6]) };
            Event::Neighbour(entry)
        });
        let snapshot = snapshot([calm(|_, _| {})].into_iter().chain(more));
        let told = |entries| oddities(&snapshot, CALI, None, Some(TableSize { entries, most: 1024 }));
        assert_eq!(told(512), Vec::<String>::new());
        let full = told(513);
        assert!(full[0].contains("513 of at most 1024 entries (in this namespace: eth0 3, cali0 1)"), "{full:?}");
    }
}
