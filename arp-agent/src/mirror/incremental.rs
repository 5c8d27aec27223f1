//! Whatever is told in whatever order: what is computed for the interfaces that it is about is what would be computed for
//! all of them.

use super::*;
use crate::arp_rules::{ArpRules, tests::dropping_from};
use crate::dataplane::Dataplane as _;
use crate::dataplane::fake::Fake;
use crate::event::{
    Address, ForeignTc, Link, LocalAndMain, NeighbourEntry, Placement, RouteKind, RoutingRule, RuleAction, Settings,
};
use arp_common::fib::LeafKind;
use arp_common::tables;
use arp_common::{ArpFrame, Reason, Verdict, decide};
use outcome::Outcome;
use proptest::collection::{btree_set, vec};
use proptest::option;
use proptest::prelude::*;
use slots::Legs;
use std::net::Ipv4Addr;
use std::num::NonZeroU32;

/// Few interfaces and addresses, so that events meet.
fn interface() -> impl Strategy<Value = u32> {
    1..6_u32
}

fn address() -> impl Strategy<Value = Ipv4Addr> {
    (0..4_u8).prop_map(|host| Ipv4Addr::new(10, 0, 0, host))
}

fn settings() -> impl Strategy<Value = Settings> {
    let validation = (0..3, prop_oneof![3 => Just(0), 1 => Just(1)]);
    (0..2, 0..2, 0..2, 0..2, 0..3, validation).prop_map(
        |(proxy_arp, proxy_arp_pvlan, arp_ignore, ignore_routes_with_linkdown, medium_id, (rp_filter, arp_filter))| {
            Settings {
                rp_filter,
                arp_filter,
                forwarding: 1,
                proxy_arp,
                proxy_arp_pvlan,
                arp_ignore,
                ignore_routes_with_linkdown,
                medium_id,
                ..Settings::default()
            }
        },
    )
}

fn link() -> impl Strategy<Value = Event> {
    let kind = prop_oneof![Just(None), Just(Some("veth")), Just(Some("macvlan")), Just(Some("vrf"))];
    let below = (option::weighted(0.2, interface()), option::of(0..2), option::weighted(0.2, interface()));
    let own = (0..3_u32, 0..2_u32);
    (interface(), own, kind, below, prop::bool::weighted(0.8), option::weighted(0.9, settings())).prop_map(
        |(ifindex, (name, group), kind, (link, link_netnsid, master), carrier, settings)| {
            Event::Link(Link {
                ifindex,
                name: format!("i{name}"),
                kind: kind.map(Into::into),
                vrf_table: (kind == Some("vrf")).then_some(100),
                group,
                master,
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

fn lookup(priority: u32, table: u32) -> RoutingRule {
    RoutingRule { priority, action: RuleAction::lookup(table), ..RoutingRule::default() }
}

fn prefix() -> impl Strategy<Value = Prefix> {
    (address(), prop_oneof![Just(32), Just(31), Just(24)]).prop_map(|(addr, len)| Prefix::new(addr.octets(), len))
}

/// A rule of any kind that requests can meet.
fn rule() -> impl Strategy<Value = RoutingRule> {
    let suppress = (option::weighted(0.2, 0..33_u8), option::weighted(0.2, 0..2_u32));
    let action = prop_oneof![
        4 => (prop_oneof![Just(100), Just(254), Just(253), Just(255)], suppress).prop_map(
            |(table, (suppress_prefixlen, suppress_ifgroup))| RuleAction::Lookup { table, suppress_prefixlen, suppress_ifgroup }
        ),
        1 => (0..4_u32).prop_map(|to| RuleAction::Goto(10 * to)),
        1 => Just(RuleAction::Refuse(7)),
    ];
    let selectors = (
        option::weighted(0.3, prefix()),
        option::weighted(0.4, prefix()),
        option::weighted(0.2, (0..3_u32).prop_map(|name| format!("i{name}"))),
        option::weighted(0.1, (0..2_u32, 0..2_u32)),
    );
    let flags = (prop::bool::weighted(0.2), prop::bool::weighted(0.1), prop::bool::weighted(0.1), any::<bool>());
    (0..4_u32, action, selectors, flags).prop_map(
        |(priority, action, (from, to, iif, mark), (inverted, unknown, l3mdev, iif_detached))| RoutingRule {
            priority: 10 * priority,
            action,
            inverted,
            from,
            to,
            iif,
            iif_detached,
            mark,
            l3mdev,
            unknown,
            ..RoutingRule::default()
        },
    )
}

/// The default ones, and mostly some more.
fn rules() -> impl Strategy<Value = Event> {
    (vec(rule(), 0..4), any::<bool>()).prop_map(|(mut rules, main)| {
        rules.sort_by_key(|rule| rule.priority);
        rules.insert(0, lookup(0, 255));
        rules.extend(main.then(|| lookup(32766, 254)));
        rules.push(lookup(32767, 253));
        Event::Rules(rules)
    })
}

fn route() -> impl Strategy<Value = Route> {
    let table = prop_oneof![3 => Just(254), 3 => Just(255), 1 => Just(253), 3 => Just(100)];
    let place = (table, address(), prop_oneof![Just(32), Just(31), Just(24), Just(0)]);
    let kind = prop_oneof![
        6 => Just(None),
        1 => Just(Some(RouteKind::Broadcast)),
        1 => Just(Some(RouteKind::Local)),
        1 => Just(Some(RouteKind::Throw)),
        1 => Just(Some(RouteKind::Unreachable)),
    ];
    // Objects of one next hop, of several, and such as are told by their number alone.
    let object = option::weighted(0.3, 1..3_u32);
    let hops = prop_oneof![4 => Just("one"), 2 => Just("several"), 1 => Just("untold")];
    (place, kind, interface(), object, hops).prop_map(|((table, addr, len), kind, oif, object, hops)| {
        let hops = if hops == "untold" && object.is_none() { "one" } else { hops };
        let natural = if table == 255 { RouteKind::Local } else { RouteKind::Unicast };
        Route {
            table,
            prefix: Prefix::new(addr.octets(), len),
            tos: 0,
            metric: 0,
            kind: kind.unwrap_or(natural),
            oif: (hops == "one").then_some(oif),
            gateway: None,
            nexthop: object.and_then(NonZeroU32::new),
            hops: if hops == "several" { [oif, oif % 5 + 1].into() } else { Box::default() },
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
        2 => rules(),
        1 => prop_oneof![Just(None), Just(Some(LocalAndMain::Merged)), Just(Some(LocalAndMain::Split))]
            .prop_map(Event::LocalAndMain),
        1 => (1..3_u32, any::<bool>()).prop_map(|(id, resilient)| Event::NexthopObject { id, resilient }),
        4 => (interface(), address()).prop_map(|(ifindex, addr)| {
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
        1 => (interface(), prop_oneof![Just(ForeignTc::None), Just(ForeignTc::Around), Just(ForeignTc::After)])
            .prop_map(|(ifindex, found)| Event::ForeignTc { ifindex, found }),
        1 => (interface(), any::<bool>()).prop_map(|(ifindex, queues)| Event::RootQdisc { ifindex, queues }),
    ]
}

/// What is told at once, and the interfaces that are attached to then.
fn step() -> impl Strategy<Value = (Vec<Event>, BTreeSet<u32>)> {
    (vec(event(), 1..4), prop_oneof![3 => Just(BTreeSet::from([1, 2, 3])), 1 => btree_set(interface(), 0..6)])
}

/// The leaves of a view.
type Leaves = BTreeMap<Prefix, Leaf>;

/// A leaf without a slot, with what the slot stands for: next hops, or another view.
#[derive(Debug, PartialEq)]
struct Leaf {
    entry: Entry,
    legs: Option<Legs>,
    tail: Leaves,
}

/// What a mirror holds, whatever the numbers of its views and slots.
#[derive(Debug, PartialEq)]
struct Picture {
    interface_tables: InterfaceTables,
    probes: BTreeMap<u32, Leaves>,
    neighbours: BTreeMap<IfaceAddr, (Neighbour, Leaves)>,
    oifs: BTreeMap<Legs, Oif>,
}

fn leaves(mirror: &Mirror, all: &BTreeMap<(u16, Prefix), Entry>, view: u16) -> Leaves {
    let of_view = all.iter().filter(|((number, _), _)| *number == view);
    let leaf = |(&(_, prefix), &entry): (&(u16, Prefix), &Entry)| {
        let slot = entry.slot();
        let without_slot = Entry::from_raw(entry.raw() >> 16 << 16);
        let leaf = match entry.kind() {
            LeafKind::Unicast => {
                Leaf { entry: without_slot, legs: mirror.slots.legs(slot).cloned(), tail: Leaves::new() }
            }
            LeafKind::Fall => Leaf { entry: without_slot, legs: None, tail: leaves(mirror, all, slot) },
            _ => Leaf { entry, legs: None, tail: Leaves::new() },
        };
        (prefix, leaf)
    };
    of_view.map(leaf).collect()
}

fn picture(mirror: &Mirror) -> Picture {
    let all = mirror.views.leaves();
    let leaves = |view| leaves(mirror, &all, view);
    let mut interface_tables = mirror.interface_tables.clone();
    interface_tables.ifaces.values_mut().for_each(|iface| iface.probe_view = 0);
    let neighbours = mirror.neighbours.iter().map(|(&key, neighbour)| {
        let own = Neighbour { flags: neighbour.flags & 0xf, ..*neighbour };
        (key, (own, leaves(neighbour.view())))
    });
    Picture {
        interface_tables,
        probes: mirror.probe_views.iter().map(|(&ifindex, &view)| (ifindex, leaves(view))).collect(),
        neighbours: neighbours.collect(),
        oifs: mirror.oifs.iter().map(|(&slot, &oif)| (mirror.slots.legs(slot).unwrap().clone(), oif)).collect(),
    }
}

/// What the tables say of every sender's every target.
fn verdicts(tables: &Fake, attached: &BTreeSet<u32>) -> Vec<Verdict> {
    let addresses = || (0..5).map(|host| [10, 0, 0, host]).chain([[9, 9, 9, 9], [0; 4]]);
    let asked = attached.iter().flat_map(|&ifindex| addresses().map(move |sender| (ifindex, sender)));
    let asked = asked.flat_map(|(ifindex, sender)| addresses().map(move |target| (ifindex, sender, target)));
    asked
        .map(|(ifindex, sender, target)| decide(&(&ArpFrame::request([2; 6], sender, target)).into(), ifindex, tables))
        .collect()
}

/// Rules that jump to others, and look up tables with enough routes for a view of their own.
fn jumps() -> impl Strategy<Value = Vec<Event>> {
    let action = prop_oneof![
        2 => prop_oneof![Just(100), Just(254)].prop_map(RuleAction::lookup),
        1 => (0..8_u32).prop_map(|to| RuleAction::Goto(10 * to)),
    ];
    let rule = (0..8_u32, action, option::weighted(0.6, prefix()), option::weighted(0.3, prefix())).prop_map(
        |(priority, action, to, from)| RoutingRule {
            priority: 10 * priority,
            action,
            to,
            from,
            ..RoutingRule::default()
        },
    );
    let routes = vec((route(), prop_oneof![Just(100), Just(254)]), 8..16);
    (vec(rule, 3..8), routes).prop_map(|(mut rules, routes)| {
        rules.sort_by_key(|rule| rule.priority);
        let routes = routes.into_iter().map(|(route, table)| Event::Route(Route { table, ..route }, Placement::Last));
        [Event::Rules(rules)].into_iter().chain(routes).collect()
    })
}

/// What the tables say of a target, as an outcome.
fn found(mirror: &Mirror, tables: &Fake, view: u16, target: [u8; 4]) -> Outcome {
    let leaf = tables::lookup(tables, view, target);
    match leaf.kind() {
        LeafKind::None => Outcome::NoRoute,
        LeafKind::Local => Outcome::Local { elsewhere: leaf.is_elsewhere() },
        LeafKind::Unicast => mirror.slots.legs(leaf.slot()).cloned().map_or(Outcome::Opaque, Outcome::Unicast),
        LeafKind::Unanswerable => Outcome::Unanswerable,
        LeafKind::Opaque => Outcome::Opaque,
        LeafKind::OpaqueRule => Outcome::OpaqueRule,
        LeafKind::Fall => Outcome::Fall(leaf.slot()),
    }
}

/// What the walk over all steps says of each sender's targets, and what the tables do.
fn walked_and_found(mirror: &Mirror, tables: &Fake) -> Vec<(IfaceAddr, [u8; 4], Outcome, Outcome)> {
    let snapshot = &mirror.snapshot;
    let mut both = Vec::new();
    for (&key, neighbour) in &mirror.neighbours {
        let ways = senders::ways(snapshot, &snapshot.links[&key.ifindex], u32::from_be_bytes(key.addr));
        for target in (0..5).map(|host| [10, 0, 0, host]).chain([[9, 9, 9, 9]]) {
            let mut outcomes = ways.iter().map(|steps| outcome::outcome(&snapshot, steps, Prefix::new(target, 32)));
            let first = outcomes.next().unwrap();
            let walked = if outcomes.all(|other| other == first) { first } else { Outcome::Opaque };
            both.push((key, target, walked, found(mirror, tables, neighbour.view(), target)));
        }
    }
    both
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]
    #[test]
    fn what_is_computed_in_steps_is_what_is_computed_at_once(steps in vec(step(), 1..40)) {
        let mut mirror = Mirror::default();
        let mut tables = Fake::default();
        tables.set_lease(1).unwrap();
        let default = Event::Rules(vec![lookup(0, 255), lookup(32766, 254), lookup(32767, 253)]);
        let first = mirror.apply(&BTreeSet::new(), [default, Event::AllSettings(Settings::default())]);
        tables.apply(&first.changes).unwrap();
        for (events, attached) in steps {
            let told = format!("{events:?}");
            tables.apply(&mirror.apply(&attached, events).changes).unwrap();
            for (key, target, walked, found) in walked_and_found(&mirror, &tables) {
                prop_assert_eq!(walked, found, "{:?} asks for {:?} after {}", key, target, told);
            }
            let mut fresh = Mirror { snapshot: mirror.snapshot.clone(), ..Mirror::default() };
            let mut fresh_tables = Fake::default();
            fresh_tables.set_lease(1).unwrap();
            fresh_tables.apply(&fresh.changes(&attached, Dirty { everything: true, ..Dirty::default() })).unwrap();
            prop_assert_eq!(picture(&mirror), picture(&fresh), "after {}", told);
            prop_assert_eq!(verdicts(&tables, &attached), verdicts(&fresh_tables, &attached), "after {}", told);
        }
    }

    #[test]
    fn views_that_go_on_in_others_say_what_the_walk_says(events in jumps()) {
        let known = (0..4).map(|host| {
            let addr = Ipv4Addr::new(10, 0, 0, host);
            Event::Neighbour(NeighbourEntry { ifindex: 1, addr, state: 2, lladdr: Some([2; 6]) })
        });
        let pod = Link { ifindex: 1, name: "i1".into(), mac: Some([2; 6]), hardware_type: 1, ..Link::default() };
        let events = events.into_iter().chain(known).chain([Event::Link(pod)]);
        let mut mirror = Mirror::default();
        let mut tables = Fake::default();
        tables.apply(&mirror.apply(&BTreeSet::from([1]), events).changes).unwrap();
        for (_, target, walked, found) in walked_and_found(&mirror, &tables) {
            prop_assert_eq!(walked, found, "{:?}", target);
        }
    }
}
