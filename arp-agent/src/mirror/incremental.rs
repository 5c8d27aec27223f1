//! Whatever is told in whatever order: what is computed for the interfaces that it is about is what would be computed for
//! all of them.

use super::*;
use crate::arp_rules::{ArpRules, tests::dropping_from};
use crate::event::{Address, Link, NeighbourEntry, Placement, RouteKind, RoutingRule, Settings};
use arp_common::Reason;
use proptest::collection::{btree_set, vec};
use proptest::option;
use proptest::prelude::*;
use std::net::Ipv4Addr;

/// Few interfaces and addresses, so that events meet.
fn interface() -> impl Strategy<Value = u32> {
    1..6_u32
}

fn address() -> impl Strategy<Value = Ipv4Addr> {
    (0..4_u8).prop_map(|host| Ipv4Addr::new(10, 0, 0, host))
}

fn settings() -> impl Strategy<Value = Settings> {
    (0..2, 0..2, 0..2, 0..2, 0..3).prop_map(
        |(proxy_arp, proxy_arp_pvlan, arp_ignore, ignore_routes_with_linkdown, medium_id)| Settings {
            forwarding: 1,
            proxy_arp,
            proxy_arp_pvlan,
            arp_ignore,
            ignore_routes_with_linkdown,
            medium_id,
            ..Settings::default()
        },
    )
}

fn link() -> impl Strategy<Value = Event> {
    let kind = prop_oneof![Just(None), Just(Some("veth")), Just(Some("macvlan"))];
    let below = (option::weighted(0.2, interface()), option::of(0..2));
    (interface(), 0..3_u32, kind, below, prop::bool::weighted(0.8), option::weighted(0.9, settings())).prop_map(
        |(ifindex, name, kind, (link, link_netnsid), carrier, settings)| {
            Event::Link(Link {
                ifindex,
                name: format!("i{name}"),
                kind: kind.map(Into::into),
                link,
                link_netnsid,
                carrier,
                settings,
                mac: Some([2; 6]),
                hardware_type: 1,
                flags: if carrier { 0x1_1043 } else { 0 },
                ..Link::default()
            })
        },
    )
}

/// The default ones, if main is looked up by one.
fn rules(main: Option<u32>) -> Event {
    let rule = |priority, plain_lookup| RoutingRule { priority, plain_lookup };
    Event::Rules(vec![rule(0, Some(255)), rule(32766, main), rule(32767, Some(253))])
}

fn route() -> impl Strategy<Value = Route> {
    let place =
        (prop_oneof![3 => Just(254), 3 => Just(255), 1 => Just(253)], address(), prop_oneof![Just(32), Just(24)]);
    let kind = prop_oneof![6 => Just(None), 1 => Just(Some(RouteKind::Broadcast)), 1 => Just(Some(RouteKind::Local))];
    // Objects of one next hop, of several, and such as are told by their number alone.
    let object =
        option::weighted(0.5, (1..3_u32, prop_oneof![4 => Just("one"), 1 => Just("several"), 1 => Just("untold")]));
    (place, kind, interface(), object).prop_map(|((table, addr, len), kind, oif, object)| {
        let hops = object.map_or("one", |(_, hops)| hops);
        let natural = if table == 255 { RouteKind::Local } else { RouteKind::Unicast };
        Route {
            table,
            prefix: Prefix::new(addr.octets(), len),
            tos: 0,
            metric: 0,
            kind: kind.unwrap_or(natural),
            oif: (hops == "one").then_some(oif),
            gateway: None,
            nexthop: object.map(|(id, _)| id),
            multipath: hops == "several",
            encap: false,
            rest: 0,
        }
    })
}

fn placement() -> impl Strategy<Value = Placement> {
    prop_oneof![4 => Just(Placement::Last), 1 => Just(Placement::First), 1 => Just(Placement::Replace)]
}

fn event() -> impl Strategy<Value = Event> {
    let owned = || (interface(), address(), prop_oneof![Just(32), Just(24)]);
    let owned =
        move || owned().prop_map(|(ifindex, local, prefix_len)| Address { ifindex, local, peer: local, prefix_len });
    prop_oneof![
        6 => link(),
        2 => interface().prop_map(Event::LinkGone),
        2 => owned().prop_map(Event::Address),
        1 => owned().prop_map(Event::AddressGone),
        5 => (route(), placement()).prop_map(|(route, placement)| Event::Route(route, placement)),
        2 => route().prop_map(Event::RouteGone),
        1 => prop_oneof![3 => Just(Some(254)), 1 => Just(None)].prop_map(rules),
        1 => (interface(), address()).prop_map(|(ifindex, addr)| {
            Event::Neighbour(NeighbourEntry { ifindex, addr, state: 2, lladdr: Some([2; 6]) })
        }),
        1 => (interface(), address()).prop_map(|(ifindex, addr)| Event::NeighbourGone { ifindex, addr }),
        1 => vec((0..6_u32, address()), 0..4).prop_map(Event::Proxies),
        1 => vec((interface(), 0..2_u64), 0..4).prop_map(Event::ProxyDelays),
        1 => (interface(), option::of(0..2_u64)).prop_map(|(ifindex, delay)| Event::ProxyDelay(ifindex, delay)),
        1 => settings().prop_map(Event::AllSettings),
        1 => prop_oneof![
            Just(ArpRules::default()),
            Just(ArpRules::unread("test")),
            (0..3_u32).prop_map(|name| dropping_from(&format!("i{name}"))),
        ].prop_map(Event::ArpNetfilter),
        2 => vec((0..3_u32, address()), 1..4).prop_map(|replies| {
            Event::DroppedReplies(replies.into_iter().map(|(name, addr)| (format!("i{name}"), addr)).collect())
        }),
        1 => vec(interface(), 0..3).prop_map(Event::IngressHooks),
        1 => vec(0..6_u32, 0..3).prop_map(Event::ArpListeners),
        1 => vec(interface(), 0..3).prop_map(Event::UppersElsewhere),
        1 => (interface(), option::of(0..8_u64)).prop_map(|(ifindex, features)| Event::XdpFeatures { ifindex, features }),
        1 => (interface(), option::of(Just(Reason::SELF_TEST_PENDING))).prop_map(|(ifindex, reason)| {
            Event::Blocked { ifindex, reason }
        }),
        1 => (interface(), any::<bool>())
            .prop_map(|(ifindex, carrier)| Event::RoutesDoubted { ifindex, carrier }),
        1 => (interface(), any::<bool>()).prop_map(|(ifindex, stale)| Event::StaleSettings { ifindex, stale }),
        1 => (interface(), any::<bool>()).prop_map(|(ifindex, flapping)| Event::Flapping { ifindex, flapping }),
        1 => (interface(), address(), any::<bool>())
            .prop_map(|(ifindex, addr, flapping)| Event::NeighbourFlapping { ifindex, addr, flapping }),
        1 => interface().prop_map(Event::FiltersTouched),
        1 => (interface(), any::<bool>()).prop_map(|(ifindex, present)| Event::Tcx { ifindex, present }),
    ]
}

/// What is told at once, and the interfaces that are attached to then.
fn step() -> impl Strategy<Value = (Vec<Event>, BTreeSet<u32>)> {
    (vec(event(), 1..4), prop_oneof![3 => Just(BTreeSet::from([1, 2, 3])), 1 => btree_set(interface(), 0..6)])
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3000))]
    #[test]
    fn what_is_computed_in_steps_is_what_is_computed_at_once(steps in vec(step(), 1..40)) {
        let mut mirror = Mirror::default();
        mirror.apply(&BTreeSet::new(), [rules(Some(254)), Event::AllSettings(Settings::default())]);
        for (events, attached) in steps {
            let told = format!("{events:?}");
            mirror.apply(&attached, events);
            let Mirror { snapshot, slots, .. } = &mut mirror;
            let interface_tables = desired::interface_tables(snapshot, &attached, slots, 0..6);
            let keys = snapshot.neighbours.keys().filter(|key| attached.contains(&key.ifindex));
            let neighbours: BTreeMap<_, _> =
                keys.filter_map(|key| Some((*key, desired::neighbour(snapshot, key)?))).collect();
            let prefixes: BTreeSet<Prefix> = snapshot.prefixes().collect();
            let fib: BTreeMap<_, _> =
                prefixes.into_iter().filter_map(|prefix| Some((prefix, desired::leaf(snapshot, slots, prefix)?))).collect();
            prop_assert_eq!(&mirror.interface_tables, &interface_tables, "after {}", told);
            prop_assert_eq!(&mirror.neighbours, &neighbours, "after {}", told);
            prop_assert_eq!(&mirror.fib, &fib, "after {}", told);
        }
    }
}
