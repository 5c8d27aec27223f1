//! What may be answered by a policy, on a node with a pod behind interface 7, an uplink, and no default route: the cases
//! differ in the one thing that each names. What the kernel does with the frame is in `decide`'s reason.

use super::*;
use crate::fib::Entry;
use crate::maps::{Neighbour, Oif};
use crate::{ArpFrame, Verdict, decide};
use core::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};

const CALI: u32 = 7;
const UPLINK: u32 = 3;
const POD_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];
const POD: [u8; 4] = [10, 5, 0, 5];
const NEW: [u8; 4] = [10, 5, 0, 6];
const BEHIND_UPLINK: [u8; 4] = [10, 5, 0, 9];
const NODE: [u8; 4] = [10, 77, 0, 1];
const GATEWAY: [u8; 4] = [169, 254, 1, 1];
const LIST: u32 = 4;
const VIEW: u16 = 3;
const ACCEPTED: u16 = Neighbour::ALWAYS | VIEW << Neighbour::VIEW_SHIFT;

struct DeviationTables {
    iface: Iface,
    neighbours: BTreeMap<[u8; 4], Neighbour>,
    routes: BTreeMap<[u8; 4], Entry>,
    common_view: u16,
    gateways: BTreeSet<IfaceAddr>,
    proxies_confirmed: bool,
    asked_for_proxies: Cell<bool>,
    configured: DeviationConfig,
}

impl Tables for DeviationTables {
    fn sequence(&self) -> u64 {
        2
    }
    fn lease_is_valid(&self) -> bool {
        true
    }
    fn settings_are_read(&self) -> bool {
        true
    }
    fn iface(&self, ifindex: u32) -> Option<Iface> {
        Some(self.iface).filter(|_| ifindex == CALI)
    }
    fn neighbour(&self, key: IfaceAddr) -> Option<Neighbour> {
        self.neighbours.get(&key.addr).copied()
    }
    fn proxied(&self, _: IfaceAddr) -> bool {
        false
    }
    fn proxies_are_confirmed(&self) -> bool {
        self.asked_for_proxies.set(true);
        self.proxies_confirmed
    }
    fn owned(&self, _: IfaceAddr) -> bool {
        false
    }
    fn oif(&self, slot: u16) -> Option<Oif> {
        let oifs = [Oif { ifindex: CALI, medium_id: 0 }, Oif { ifindex: UPLINK, medium_id: 0 }, Oif::default()];
        oifs.get(usize::from(slot)).copied()
    }
    // A node holds how many bytes of the address were read, and the last two of them.
    fn fib_root(&self, view: u16, index: u8) -> Entry {
        if view == VIEW { Entry::node(u32::from(index)) } else { Entry::OPAQUE }
    }
    fn fib_node(&self, node: u32, index: u8) -> Entry {
        let [_, read, a, b] = node.to_be_bytes();
        if read < 2 {
            return Entry::node(u32::from_be_bytes([0, read + 1, b, index]));
        }
        let host = |addr: &&[u8; 4]| addr[1..] == [a, b, index];
        self.routes.keys().find(host).map_or(Entry::NONE, |addr| self.routes[addr])
    }
}

impl Lists for DeviationTables {
    fn common_view(&self) -> u16 {
        self.common_view
    }
    fn is_gateway(&self, key: IfaceAddr) -> bool {
        self.gateways.contains(&key)
    }
}

fn world() -> DeviationTables {
    let flags = Iface::PROXY_ARP | Iface::FORWARDING | Iface::LOCAL_ALWAYS;
    DeviationTables {
        iface: Iface { mac: [0xee; 6], flags, ..Iface::default() },
        neighbours: BTreeMap::from([(POD, Neighbour { lladdr: POD_MAC, flags: ACCEPTED })]),
        routes: BTreeMap::from([
            (POD, Entry::unicast(0)),
            (NEW, Entry::unicast(0)),
            (BEHIND_UPLINK, Entry::unicast(1)),
            (NODE, Entry::LOCAL),
        ]),
        common_view: VIEW,
        gateways: BTreeSet::from([IfaceAddr { ifindex: LIST, addr: GATEWAY }]),
        proxies_confirmed: false,
        asked_for_proxies: Cell::new(false),
        configured: DeviationConfig::new(AnswerMode::Answer, AnswerMode::Answer, LIST),
    }
}

/// What `decide` says, and which policy may answer all the same.
fn asked_by(world: &DeviationTables, spa: [u8; 4], tpa: [u8; 4]) -> (Option<Reason>, Option<Deviation>) {
    let frame = PackedArp::from(&ArpFrame::request(POD_MAC, spa, tpa));
    match decide(&frame, CALI, world) {
        Verdict::Reply(_) => (None, None),
        Verdict::Pass(reason) => (Some(reason), deviation(&frame, CALI, reason, &world.configured, world, world)),
    }
}

fn asked(world: &DeviationTables, tpa: [u8; 4]) -> (Option<Reason>, Option<Deviation>) {
    asked_by(world, POD, tpa)
}

#[test]
fn a_listed_address_without_a_route_is_answered() {
    assert_eq!(asked(&world(), GATEWAY), (Some(Reason::NO_ROUTE), Some(Deviation::Gateway)));
}

#[test]
fn no_other_address_is_answered_and_no_other_list_counts() {
    assert_eq!(asked(&world(), [169, 254, 1, 2]), (Some(Reason::NO_ROUTE), None));
    let other = DeviationTables {
        configured: DeviationConfig::new(AnswerMode::Answer, AnswerMode::Answer, LIST + 1),
        ..world()
    };
    assert_eq!(asked(&other, GATEWAY), (Some(Reason::NO_ROUTE), None));
}

#[test]
fn where_there_is_a_route_the_kernel_decides() {
    let mut world = world();
    world.iface.flags &= !Iface::PROXY_ARP;
    for (route, reason) in [
        (Entry::unicast(1), Reason::PROXY_ARP_OFF),
        (Entry::unicast(0), Reason::PVLAN_OFF),
        (Entry::UNANSWERABLE, Reason::UNANSWERABLE_ROUTE),
        (Entry::OPAQUE, Reason::OPAQUE_ROUTE),
        (Entry::OPAQUE_RULE, Reason::OPAQUE_RULE),
    ] {
        world.routes.insert(GATEWAY, route);
        assert_eq!(asked(&world, GATEWAY), (Some(reason), None), "{route:?}");
        assert_eq!(asked_by(&world, NEW, GATEWAY), (Some(Reason::NEIGHBOUR_UNKNOWN), None), "{route:?}");
    }
}

#[test]
fn a_gateway_forwards() {
    let mut world = world();
    world.iface.flags &= !Iface::FORWARDING;
    assert_eq!(asked(&world, GATEWAY), (Some(Reason::NO_ROUTE), None));
}

#[test]
fn an_unknown_sender_is_answered_if_it_is_surely_routed_back() {
    let unknown = Some(Reason::NEIGHBOUR_UNKNOWN);
    assert_eq!(asked_by(&world(), NEW, GATEWAY), (unknown, Some(Deviation::Gateway)));
    for elsewhere in [BEHIND_UPLINK, NODE, [198, 18, 0, 1]] {
        assert_eq!(asked_by(&world(), elsewhere, GATEWAY), (unknown, None), "{elsewhere:?}");
    }
    let rules = DeviationTables { common_view: u16::MAX, ..world() };
    assert_eq!(asked_by(&rules, NEW, GATEWAY), (unknown, None), "nobody knows by which rules");
    let mut unfollowed = world();
    unfollowed.routes.insert(NEW, Entry::unicast(2));
    assert_eq!(asked_by(&unfollowed, NEW, GATEWAY), (unknown, None), "its route is not followed");
}

#[test]
fn senders_that_decide_does_not_take_are_not_answered() {
    let mut world = world();
    world.neighbours.insert(POD, Neighbour { lladdr: POD_MAC, flags: VIEW << Neighbour::VIEW_SHIFT });
    assert_eq!(asked(&world, GATEWAY), (Some(Reason::SENDER_ROUTE), None));
    world.neighbours.insert(POD, Neighbour { lladdr: [9; 6], flags: ACCEPTED });
    assert_eq!(asked(&world, GATEWAY), (Some(Reason::NEIGHBOUR_DIFFERS), None));
    assert_eq!(asked_by(&world, [0; 4], GATEWAY), (Some(Reason::PROBE_NOT_LOCAL), None));
    assert_eq!(asked_by(&world, GATEWAY, GATEWAY), (Some(Reason::ANNOUNCEMENT), None));
    world.iface.blocked = u16::try_from(Reason::SELF_TEST_PENDING.raw()).unwrap();
    assert_eq!(asked(&world, GATEWAY), (Some(Reason::SELF_TEST_PENDING), None));
}

#[test]
fn what_the_kernel_delays_is_answered_at_once() {
    let mut world = world();
    world.iface.flags |= Iface::DELAYED;
    assert_eq!(asked(&world, BEHIND_UPLINK), (Some(Reason::PROXY_DELAY), Some(Deviation::NoDelay)));
    assert!(!world.asked_for_proxies.get());
    world.iface.flags &= !Iface::PROXY_ARP;
    assert_eq!(asked(&world, BEHIND_UPLINK), (Some(Reason::PROXY_ARP_OFF), None), "the kernel would not answer at all");
}

#[test]
fn where_static_proxy_entries_may_allow_it_they_must_be_confirmed() {
    let mut world = world();
    world.iface.flags |= Iface::DELAYED | Iface::HAS_PROXIES;
    assert_eq!(asked(&world, BEHIND_UPLINK), (Some(Reason::PROXY_DELAY), None));
    world.proxies_confirmed = true;
    assert_eq!(asked(&world, BEHIND_UPLINK), (Some(Reason::PROXY_DELAY), Some(Deviation::NoDelay)));
}

#[test]
fn what_is_off_does_nothing() {
    let mut world = world();
    world.iface.flags |= Iface::DELAYED;
    for (gateway, no_delay) in [
        (AnswerMode::Off, AnswerMode::Off),
        (AnswerMode::Count, AnswerMode::Off),
        (AnswerMode::Off, AnswerMode::Answer),
    ] {
        world.configured = DeviationConfig::new(gateway, no_delay, LIST);
        assert_eq!(world.configured.mode(Deviation::Gateway), gateway);
        assert_eq!(world.configured.mode(Deviation::NoDelay), no_delay);
        assert_eq!(asked(&world, GATEWAY).1.is_some(), gateway != AnswerMode::Off);
        assert_eq!(asked(&world, BEHIND_UPLINK).1.is_some(), no_delay != AnswerMode::Off);
    }
}
