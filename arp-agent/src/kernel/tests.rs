//! Decoding of messages as Linux 6.18 sent them, and of messages that no kernel would send.

use std::net::Ipv4Addr;

use netlink_packet_core::{NLM_F_APPEND, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
use proptest::{collection::vec, prelude::*};

use super::{Batch, Reread, captured::*, ingress, link, neighbour, notifications, route};
use crate::event::{
    Event, IfSet, Link, LocalAndMain, NeighbourEntry, Placement, Route, RouteKind, RoutingRule, RuleAction, Settings,
};
use crate::netlink::{socket, wire::Message};
use crate::prefix::Prefix;

pub(super) fn bytes(hex: &str) -> Vec<u8> {
    let digits: Vec<u8> = hex.bytes().filter(|b| !b.is_ascii_whitespace()).collect();
    let byte = |pair: &[u8]| u8::from_str_radix(str::from_utf8(pair).unwrap(), 16).unwrap();
    digits.chunks(2).map(byte).collect()
}

pub(super) fn message(kind: u16, payload: &[u8]) -> Message<'_> {
    Message { kind, flags: 0, sequence: 0, port: 0, payload }
}

#[test]
fn a_veth() {
    let link = link::link(&message(16, &bytes(VETH))).unwrap().unwrap();
    let expected = Link {
        group: 0,
        vrf_table: None,
        // Its bridge was down.
        forwards: Some(false),
        locked: false,
        bridge_answers: false,
        ports_differ: false,
        ifindex: 3,
        name: "v0".into(),
        altnames: vec!["pod".into()],
        mac: Some([2, 0, 0, 0, 0, 7]),
        hardware_type: 1,
        flags: 0x11043,
        carrier: true,
        master: Some(4),
        link: Some(2),
        link_netnsid: None,
        kind: Some("veth".into()),
        xdp_program: None,
        xdp_multiple: false,
        queues: false,
        carrier_changes: 2,
        settings: Some(Settings {
            forwarding: 1,
            proxy_arp: 3,
            proxy_arp_pvlan: 4,
            medium_id: 5,
            arp_ignore: 6,
            arp_filter: 7,
            rp_filter: 2,
            accept_local: 9,
            route_localnet: 10,
            drop_gratuitous_arp: 11,
            ignore_routes_with_linkdown: 1,
        }),
    };
    assert_eq!(link, expected);
}

#[test]
fn a_link_message_about_something_else() {
    let mut payload = bytes(VETH);
    payload.extend([8, 0, 11, 0, 0, 0, 0, 0]); // IFLA_WIRELESS
    assert_eq!(link::link(&message(16, &payload)).unwrap(), None);
    let mut payload = bytes(VETH);
    payload[0] = 7; // AF_BRIDGE
    assert_eq!(link::link(&message(16, &payload)).unwrap(), None);
    assert_eq!(link::gone(&message(17, &payload)).unwrap(), None);
    assert_eq!(link::gone(&message(17, &bytes(VETH))).unwrap(), Some(3));
}

#[test]
fn programs_in_one_mode_and_in_several() {
    let program = |xdp: &str| {
        let nested = bytes(xdp);
        let mut payload = bytes(VETH);
        payload.extend(u16::try_from(nested.len() + 4).unwrap().to_ne_bytes());
        payload.extend([43, 0]);
        payload.extend(nested);
        let link = link::link(&message(16, &payload)).unwrap().unwrap();
        (link.xdp_program, link.xdp_multiple)
    };
    // XDP_ATTACHED_SKB with PROG_ID and SKB_PROG_ID.
    assert_eq!(program("0500020002000000 0800040063000000 0800060063000000"), (Some(99), false));
    // XDP_ATTACHED_MULTI with DRV_PROG_ID and SKB_PROG_ID.
    assert_eq!(program("0500020004000000 0800050063000000 0800060064000000"), (Some(99), true));
}

fn lookup(priority: u32, table: u32) -> RoutingRule {
    RoutingRule { priority, action: RuleAction::lookup(table), ..RoutingRule::default() }
}

#[test]
fn rules() {
    let rule = |hex| route::rule(&message(32, &bytes(hex))).unwrap().unwrap();
    assert_eq!(rule(RULES[0]), lookup(0, 255));
    assert_eq!(rule(RULES[1]), lookup(32766, 254));
    assert_eq!(rule(RULES[2]), lookup(32767, 253));
    let from = Some(Prefix::new([10, 0, 0, 0], 8));
    assert_eq!(rule(RULES[3]), RoutingRule { from, iif: Some("v0".into()), ..lookup(9, 77) });
}

/// The rule of table main with more attributes (type, value), and with other bytes in its header.
fn main_rule(header: &[(usize, u8)], attributes: &[(u8, &[u8])]) -> RoutingRule {
    let mut payload = bytes(RULES[1]);
    header.iter().for_each(|&(at, value)| payload[at] = value);
    for (kind, value) in attributes {
        payload.extend([value.len() as u8 + 4, 0, *kind, 0]);
        payload.extend(*value);
        payload.resize(payload.len().next_multiple_of(4), 0);
    }
    route::rule(&message(32, &payload)).unwrap().unwrap()
}

#[test]
fn what_a_rule_selects_is_decoded() {
    let main = || lookup(32766, 254);
    let to = Some(Prefix::new([10, 20, 0, 0], 16));
    assert_eq!(main_rule(&[(1, 16)], &[(1, &[10, 20, 0, 0])]), RoutingRule { to, ..main() });
    assert_eq!(main_rule(&[(8, 2)], &[]), RoutingRule { inverted: true, ..main() });
    assert_eq!(main_rule(&[(8, 9)], &[]), RoutingRule { iif_detached: true, ..main() }, "and PERMANENT");
    let mark = |mark, mask| RoutingRule { mark: Some((mark, mask)), ..main() };
    assert_eq!(main_rule(&[], &[(10, &[7, 0, 0, 0]), (16, &[15, 0, 0, 0])]), mark(7, 15));
    assert_eq!(main_rule(&[], &[(10, &[7, 0, 0, 0])]), mark(7, u32::MAX));
    assert_eq!(main_rule(&[], &[(10, &[0; 4]), (16, &[1, 0, 0, 0])]), mark(0, 1));
    assert_eq!(main_rule(&[], &[(10, &[0; 4]), (16, &[0; 4])]), main());
    let users = Some((1000, 2000));
    assert_eq!(main_rule(&[], &[(20, &[232, 3, 0, 0, 208, 7, 0, 0])]), RoutingRule { users, ..main() });
    assert!(main_rule(&[], &[(19, &[1])]).l3mdev);
    let action =
        |suppress_prefixlen, suppress_ifgroup| RuleAction::Lookup { table: 254, suppress_prefixlen, suppress_ifgroup };
    assert_eq!(main_rule(&[], &[(14, &[8, 0, 0, 0])]).action, action(Some(8), None));
    assert_eq!(main_rule(&[], &[(13, &[3, 0, 0, 0])]).action, action(None, Some(3)));
    assert_eq!(main_rule(&[(7, 2)], &[(4, &[100, 0, 0, 0])]).action, RuleAction::Goto(100));
    assert_eq!(main_rule(&[(7, 3)], &[]).action, RuleAction::Nop);
    for refusing in [0, 4, 5, 6, 7, 8, 9, 200] {
        assert_eq!(main_rule(&[(7, refusing)], &[]).action, RuleAction::Refuse(refusing));
    }
}

#[test]
fn what_no_request_meets_is_known_as_such() {
    let never = |header: &[(usize, u8)], attributes: &[(u8, &[u8])]| {
        let rule = main_rule(header, attributes);
        assert!(!rule.unknown, "{rule:?}");
        rule.never
    };
    assert_eq!(never(&[(3, 16)], &[]), ["tos 0x10"]);
    assert_eq!(never(&[], &[(17, b"u0\0")]), ["oif u0"]);
    assert_eq!(never(&[], &[(22, &[6])]), ["ipproto 6"]);
    assert_eq!(never(&[], &[(22, &[0])]), [""; 0]);
    // Ports since 6.15, with their masks.
    assert_eq!(never(&[], &[(23, &[7, 0, 7, 0]), (28, &[255, 255])]), ["sport 7"]);
    assert_eq!(never(&[], &[(24, &[7, 0, 9, 0]), (29, &[255, 255])]), ["dport 7-9"]);
    assert_eq!(never(&[], &[(12, &[0, 0, 0, 0, 0, 0, 0, 5])]), ["tun_id 5"]);
    assert_eq!(never(&[], &[(25, &[10])]), ["dscp 10"]);
    assert_eq!(never(&[], &[(25, &[16]), (30, &[15])]), [""; 0], "the bits that count are 0");
    assert_eq!(never(&[], &[(11, &[7, 0, 0, 0])]), [""; 0], "realms select nothing");
}

#[test]
fn what_is_not_known_of_a_rule_is_said() {
    for (at, value) in [(5, 1), (6, 1), (8, 32), (11, 1)] {
        assert!(main_rule(&[(at, value)], &[]).unknown, "byte {at} = {value}");
    }
    // Those that include/uapi/linux/fib_rules.h of 6.18 does not have, or does not use for IPv4.
    for kind in [5, 7, 8, 9, 26, 27, 31, 32, 40] {
        assert!(main_rule(&[], &[(kind, &[0; 4])]).unknown, "attribute {kind}");
    }
}

#[test]
fn routes() {
    let decode = |hex| route::route(&message(24, &bytes(hex))).unwrap();
    let expected = Route {
        table: 254,
        prefix: Prefix { addr: Ipv4Addr::new(10, 2, 0, 5).to_bits(), len: 32 },
        tos: 0,
        metric: 7,
        kind: RouteKind::Unicast,
        oif: Some(3),
        gateway: Some("fe80::7".parse().unwrap()),
        nexthop: None,
        hops: Box::default(),
        encap: false,
        rest: 0,
    };
    assert_eq!(decode(ROUTE_VIA).map(|route| Route { rest: 0, ..route }), Some(expected));
    let multipath = decode(ROUTE_MULTIPATH).unwrap();
    assert_eq!((multipath.legs(), multipath.oif, multipath.prefix.len), (&[3, 3][..], None, 24));

    let changed = |at: usize, value: u8| {
        let mut payload = bytes(ROUTE_VIA);
        payload[at] = value;
        route::route(&message(24, &payload))
    };
    let rest = |route: anyhow::Result<Option<Route>>| route.unwrap().unwrap().rest;
    assert_ne!(rest(changed(5, 99)), decode(ROUTE_VIA).unwrap().rest, "another protocol is another route");
    assert_eq!(rest(changed(8, 16)), decode(ROUTE_VIA).unwrap().rest, "RTNH_F_LINKDOWN comes and goes");
    let mut hops = bytes(ROUTE_MULTIPATH);
    let mut at = route::HEADER_LEN;
    while hops[at + 2..at + 4] != [9, 0] {
        at += usize::from(hops[at]).next_multiple_of(4);
    }
    // `struct rtnexthop` follows the attribute's four bytes: length, length, flags, weight.
    hops[at + 6] ^= 16;
    let flagged = route::route(&message(24, &hops)).unwrap().unwrap();
    assert_eq!(flagged, multipath, "a hop's flags come and go");
    hops[at + 7] ^= 1;
    assert_ne!(route::route(&message(24, &hops)).unwrap().unwrap(), multipath, "its weight does not");
    assert_eq!(changed(0, 10).unwrap(), None, "IPv6");
    assert_eq!(changed(9, 2).unwrap(), None, "RTM_F_CLONED");
    assert_eq!(changed(16, 100).unwrap().unwrap().table, 100);
    assert_eq!(changed(17, 1).unwrap().unwrap().table, 510, "RTA_TABLE, whose low byte is main's");
    assert!(changed(1, 33).is_err(), "33 bits");
    assert_eq!({ changed(1, 8).unwrap().unwrap().prefix.addr }, 10 << 24, "host bits");
    assert_eq!({ changed(1, 0).unwrap().unwrap().prefix.addr }, 0);
    for (rtn, kind) in [
        (2, RouteKind::Local),
        (3, RouteKind::Broadcast),
        (4, RouteKind::Anycast),
        (5, RouteKind::Multicast),
        (6, RouteKind::Blackhole),
        (7, RouteKind::Unreachable),
        (8, RouteKind::Prohibit),
        (9, RouteKind::Throw),
        (10, RouteKind::Other),
        (0, RouteKind::Other),
    ] {
        assert_eq!(changed(7, rtn).unwrap().unwrap().kind, kind, "RTN {rtn}");
    }
}

#[test]
fn placement_follows_the_flags() {
    let placement = |flags| {
        let mut batch = Batch::default();
        let payload = bytes(ROUTE_VIA);
        notifications::decode(&Message { flags, ..message(24, &payload) }, &mut batch).unwrap();
        let [Event::Route(_, placement)] = batch.events[..] else { panic!("{batch:?}") };
        placement
    };
    assert_eq!(placement(NLM_F_CREATE | NLM_F_EXCL), Placement::First);
    assert_eq!(placement(NLM_F_CREATE), Placement::First);
    assert_eq!(placement(NLM_F_CREATE | NLM_F_APPEND), Placement::Last);
    assert_eq!(placement(NLM_F_REPLACE), Placement::Replace);
}

#[test]
fn a_rule_takes_the_tables_apart_and_one_of_multicast_routing_does_not() {
    let told = |family| {
        let mut payload = bytes(RULES[3]);
        payload[0] = family;
        let mut batch = Batch::default();
        notifications::decode(&message(32, &payload), &mut batch).unwrap();
        (batch.reread.rules, batch.events)
    };
    assert_eq!(told(2), (true, vec![Event::LocalAndMain(Some(LocalAndMain::Split))]));
    assert_eq!(told(128), (false, vec![]), "RTNL_FAMILY_IPMR");
}

#[test]
fn settings_are_read_again_where_a_notified_link_tells_others_than_are_known() {
    let settings = |proxy_arp| Settings { proxy_arp, ..Settings::default() };
    let link =
        |proxy_arp| Link { ifindex: 3, name: "v0".into(), settings: Some(settings(proxy_arp)), ..Link::default() };
    let read = |known: Option<&Link>, events: Vec<Event>| {
        let reread = Reread { told_links: [3].into(), ..Reread::default() };
        let mut batch = Batch { events, reread, more: false };
        batch.check_settings(|ifindex| known.filter(|known| known.ifindex == ifindex));
        assert!(batch.reread.told_links.is_empty());
        batch.reread.links
    };
    let known = link(1);
    let up = Link { flags: 1, ..link(1) };
    let three = IfSet::These([3].into());
    assert_eq!(read(Some(&known), vec![Event::Link(up.clone())]), IfSet::None);
    assert_eq!(read(Some(&known), vec![Event::Link(link(0))]), three);
    assert_eq!(read(Some(&known), vec![Event::Link(link(0)), Event::Link(up.clone())]), three, "it was another");
    assert_eq!(read(Some(&known), vec![Event::Link(Link { name: "v1".into(), ..link(1) })]), three);
    assert_eq!(read(None, vec![Event::Link(up.clone())]), three, "a new one's settings may not be there yet");
    assert_eq!(read(Some(&known), vec![Event::LinkGone(3), Event::Link(up.clone())]), three, "another one's index");
    let unread = Link { settings: None, ..link(1) };
    assert_eq!(read(Some(&unread), vec![Event::Link(unread.clone())]), three, "they could not be read");
    let other = Event::Link(Link { ifindex: 4, ..link(0) });
    assert_eq!(read(Some(&known), vec![other, Event::Link(up)]), IfSet::None, "another interface");
}

#[test]
fn neighbours_addresses_and_proxies() {
    let payload = bytes(NEIGHBOUR);
    let addr = Ipv4Addr::new(10, 9, 0, 9);
    let entry = NeighbourEntry { ifindex: 3, addr, state: 0x80, lladdr: Some([2, 0, 0, 0, 0, 9]) };
    assert_eq!(neighbour::neighbour(&message(28, &payload)).unwrap(), Some(entry));
    assert_eq!(neighbour::proxy(&message(28, &payload)).unwrap(), None);
    let mut fdb = payload.clone();
    fdb[0] = 7;
    assert_eq!(neighbour::neighbour(&message(28, &fdb)).unwrap(), None);

    let payload = bytes(PROXY);
    assert_eq!(neighbour::neighbour(&message(28, &payload)).unwrap(), None);
    let proxy = (3, Ipv4Addr::new(10, 1, 2, 3));
    assert_eq!(neighbour::proxy(&message(28, &payload)).unwrap(), Some(proxy));

    let address = neighbour::address(&message(20, &bytes(ADDRESS))).unwrap().unwrap();
    assert_eq!((address.ifindex, address.prefix_len), (3, 24));
    assert_eq!((address.local, address.peer), (Ipv4Addr::new(10, 9, 0, 1), Ipv4Addr::new(10, 9, 0, 1)));

    let delay = neighbour::proxy_delay(&message(64, &bytes(NEIGHBOUR_PARAMETERS))).unwrap();
    assert_eq!(delay, Some((3, 800)));
}

#[test]
fn chains_and_qdiscs() {
    let chain = |hex: &str, family| {
        let bound = ingress::base_chain(&message(0xa03, &bytes(hex)), family).unwrap();
        bound.map(|devices| ["v0", "p0", "p01"].map(|name| devices.iter().any(|d| d.covers(name))))
    };
    assert_eq!(chain(BASE_CHAIN, 3), Some([false; 3]));
    assert_eq!(chain(BASE_CHAIN, 5), None);
    assert_eq!(chain(JUMPED_TO_CHAIN, 3), None);
    assert_eq!(chain(NETDEV_CHAIN, 5), Some([true, true, false]));
    // NFTA_DEVICE_NAME "p0\0" as NFTA_DEVICE_PREFIX "p0", and as a name without its NUL.
    for prefix in ["0600020070300000", "0600010070300000"] {
        let hex = NETDEV_CHAIN.replace(char::is_whitespace, "").replace("0700010070300000", prefix);
        assert_eq!(chain(&hex, 5), Some([true, true, true]));
    }
    assert_eq!(ingress::ingress_qdisc(&message(36, &bytes(CLSACT))).unwrap(), Some(3));
    assert_eq!(ingress::ingress_qdisc(&message(36, &bytes(NOQUEUE))).unwrap(), None);
    assert_eq!(ingress::root_qdisc(&message(36, &bytes(CLSACT))).unwrap(), None);
    let noqueue = bytes(NOQUEUE);
    let (comes, goes) = (message(36, &noqueue), message(37, &noqueue));
    let ifindex = ingress::root_qdisc(&comes).unwrap().unwrap().0;
    assert_eq!(ingress::root_qdisc(&comes).unwrap(), Some((ifindex, false)));
    assert_eq!(ingress::root_qdisc(&goes).unwrap(), Some((ifindex, true)), "what comes in its place is not told");
    assert!(ingress::queues(b"tbf\0") && !ingress::queues(b"noqueue\0"));
}

/// Everything that reads what the kernel sent.
fn decode_all(payload: &[u8]) {
    for kind in [16, 17, 20, 21, 24, 25, 28, 29, 32, 33, 36, 64, 80, 104, 0xa03] {
        let message = message(kind, payload);
        let mut batch = Batch::default();
        let _ = notifications::decode(&message, &mut batch);
        let _ = notifications::decode_netfilter(&message, &mut batch);
        let _ = neighbour::proxy(&message);
        let _ = neighbour::proxy_delay(&message);
        let _ = ingress::ingress_qdisc(&message);
        let _ = ingress::root_qdisc(&message);
        let _ = ingress::base_chain(&message, 5);
    }
    let _ = socket::collect(payload, 0);
}

#[test]
fn truncated_messages_do_not_panic() {
    for hex in [VETH, RULES[3], ROUTE_VIA, ROUTE_MULTIPATH, NEIGHBOUR, PROXY, ADDRESS, NEIGHBOUR_PARAMETERS]
        .into_iter()
        .chain([CLSACT, NOQUEUE, BASE_CHAIN, JUMPED_TO_CHAIN, NETDEV_CHAIN])
    {
        let payload = bytes(hex);
        for len in 0..payload.len() {
            decode_all(&payload[..len]);
        }
    }
}

#[test]
fn a_message_with_a_broken_attribute_is_an_error() {
    let mut payload = bytes(ROUTE_VIA);
    payload[12] = 3; // shorter than its own header
    assert!(route::route(&message(24, &payload)).is_err());
    payload[12] = 255; // longer than the message
    assert!(route::route(&message(24, &payload)).is_err());
    payload[12] = 7; // three bytes of a table
    assert!(route::route(&message(24, &payload)).is_err());
}

proptest! {
    #[test]
    fn random_bytes_do_not_panic(payload in vec(any::<u8>(), 0..256)) {
        decode_all(&payload);
    }

    #[test]
    fn changed_bytes_do_not_panic(changes in vec((any::<prop::sample::Index>(), any::<u8>()), 1..8)) {
        for hex in [VETH, RULES[3], ROUTE_VIA, NEIGHBOUR, NEIGHBOUR_PARAMETERS, NETDEV_CHAIN] {
            let mut payload = bytes(hex);
            for (at, value) in &changes {
                let at = at.index(payload.len());
                payload[at] = *value;
            }
            decode_all(&payload);
        }
    }
}
