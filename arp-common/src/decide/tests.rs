//! Each exit of the decision, on a Calico-like node: the tables of two cases differ in the one thing that a case names.
//! Expectations are those of the kernel (docs/semantics.md), as measured on Linux 6.18.

use super::*;
use crate::ArpFrame;
use crate::fib::Entry;
use crate::maps::Neighbour;
use std::collections::{BTreeMap, BTreeSet};
use std::vec::Vec;

const CALI: u32 = 7;
const UPLINK: u32 = 3;
const CALI_MAC: [u8; 6] = [0xee; 6];
const POD_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];
const POD: [u8; 4] = [10, 5, 0, 5];
const GATEWAY: [u8; 4] = [169, 254, 1, 1];
const LOCAL: [u8; 4] = [10, 77, 0, 1];
const NEXT_POD: [u8; 4] = [10, 5, 0, 6];

/// Slots, by what leaves there.
const TO_CALI: u16 = 0;
const TO_UPLINK: u16 = 1;

/// The view of the pod, and that of table local.
const VIEW: u16 = 3;
const LOCAL_VIEW: u16 = 2;
const ACCEPTED: u16 = Neighbour::ALWAYS | VIEW << Neighbour::VIEW_SHIFT;

struct TestTables {
    sequence: core::cell::RefCell<Vec<u64>>,
    lease: bool,
    settings_read: bool,
    proxies_confirmed: bool,
    iface: Option<Iface>,
    neighbours: BTreeMap<IfaceAddr, Neighbour>,
    proxies: BTreeSet<IfaceAddr>,
    owned: BTreeSet<IfaceAddr>,
    oifs: [Oif; 2],
    /// Hosts, by view; everything else is behind the uplink by the default route.
    hosts: BTreeMap<(u16, [u8; 4]), Entry>,
    default: Entry,
}

impl Tables for TestTables {
    fn sequence(&self) -> u64 {
        self.sequence.borrow_mut().pop().unwrap_or(2)
    }
    fn lease_is_valid(&self) -> bool {
        self.lease
    }
    fn settings_are_read(&self) -> bool {
        self.settings_read
    }
    fn iface(&self, ifindex: u32) -> Option<Iface> {
        self.iface.filter(|_| ifindex == CALI)
    }
    fn neighbour(&self, key: IfaceAddr) -> Option<Neighbour> {
        self.neighbours.get(&key).copied()
    }
    fn proxied(&self, key: IfaceAddr) -> bool {
        self.proxies.contains(&key)
    }
    fn proxies_are_confirmed(&self) -> bool {
        self.proxies_confirmed
    }
    fn owned(&self, key: IfaceAddr) -> bool {
        self.owned.contains(&key)
    }
    fn oif(&self, slot: u16) -> Option<Oif> {
        self.oifs.get(usize::from(slot)).copied()
    }
    // Every address has nodes of its own: a node's index holds how many bytes of the address were read, the view, and the
    // last two of those bytes. The first of the three is left out: no two hosts differ in it alone.
    fn fib_root(&self, view: u16, index: u8) -> Entry {
        Entry::node(1 << 24 | u32::from(view) << 16 | u32::from(index))
    }
    fn fib_node(&self, node: u32, index: u8) -> Entry {
        let [read, view, a, b] = node.to_be_bytes();
        if read < 3 {
            return Entry::node(u32::from_be_bytes([read + 1, view, b, index]));
        }
        let host = |&&(of, [_, x, y, z]): &&(u16, [u8; 4])| (of, [x, y, z]) == (view.into(), [a, b, index]);
        self.hosts.keys().find(host).map_or(self.default, |key| self.hosts[key])
    }
}

fn world() -> TestTables {
    let flags = Iface::PROXY_ARP | Iface::FORWARDING | Iface::LOCAL_ALWAYS;
    TestTables {
        sequence: Vec::new().into(),
        lease: true,
        settings_read: true,
        proxies_confirmed: true,
        iface: Some(Iface { mac: CALI_MAC, flags, probe_view: LOCAL_VIEW, ..Iface::default() }),
        neighbours: BTreeMap::from([(at(CALI, POD), Neighbour { lladdr: POD_MAC, flags: ACCEPTED })]),
        proxies: BTreeSet::new(),
        owned: BTreeSet::new(),
        oifs: [Oif { ifindex: CALI, medium_id: 0 }, Oif { ifindex: UPLINK, medium_id: 0 }],
        hosts: BTreeMap::from([
            ((VIEW, POD), Entry::unicast(TO_CALI)),
            ((VIEW, NEXT_POD), Entry::unicast(TO_CALI)),
            ((VIEW, LOCAL), Entry::LOCAL),
            ((LOCAL_VIEW, LOCAL), Entry::LOCAL),
        ]),
        default: Entry::unicast(TO_UPLINK),
    }
}

fn at(ifindex: u32, addr: [u8; 4]) -> IfaceAddr {
    IfaceAddr { ifindex, addr }
}

fn without(world: &mut TestTables, flag: u16) {
    world.iface.as_mut().unwrap().flags &= !flag;
}

fn with(world: &mut TestTables, flag: u16) {
    world.iface.as_mut().unwrap().flags |= flag;
}

const REPLY: Verdict = Verdict::Reply(Lladdr::new(CALI_MAC));

fn ask(tpa: [u8; 4]) -> ArpFrame {
    ArpFrame::request(POD_MAC, POD, tpa)
}

fn verdict(world: &TestTables, frame: &ArpFrame) -> Verdict {
    decide(&frame.into(), CALI, world)
}

/// The verdict on the pod asking for `tpa` in a world that differs in one thing.
fn when(tpa: [u8; 4], differ: impl FnOnce(&mut TestTables)) -> Verdict {
    let mut world = world();
    differ(&mut world);
    verdict(&world, &ask(tpa))
}

/// The verdict on a frame that differs in one thing.
fn of(tpa: [u8; 4], differ: impl FnOnce(&mut ArpFrame)) -> Verdict {
    let mut frame = ask(tpa);
    differ(&mut frame);
    verdict(&world(), &frame)
}

#[test]
fn the_gateway_and_a_local_address_are_answered() {
    assert_eq!(when(GATEWAY, |_| {}), REPLY);
    assert_eq!(when(LOCAL, |_| {}), REPLY);
}

#[test]
fn the_agent_must_be_alive_and_at_rest() {
    assert_eq!(when(GATEWAY, |world| world.lease = false), Verdict::Pass(Reason::LEASE_EXPIRED));
    assert_eq!(when(GATEWAY, |world| world.settings_read = false), Verdict::Pass(Reason::SETTING_WRITTEN));
    assert_eq!(when(GATEWAY, |world| world.sequence = Vec::from([3]).into()), Verdict::Pass(Reason::UPDATING));
    // The second look at the sequence differs from the first (popped from the end).
    assert_eq!(when(GATEWAY, |world| world.sequence = Vec::from([4, 2]).into()), Verdict::Pass(Reason::UPDATING));
}

#[test]
fn the_interface_must_be_known_and_not_blocked() {
    assert_eq!(when(GATEWAY, |world| world.iface = None), Verdict::Pass(Reason::INTERFACE_UNKNOWN));
    let blocked = |world: &mut TestTables| {
        world.iface.as_mut().unwrap().blocked = u16::try_from(Reason::ARP_NETFILTER.raw()).unwrap()
    };
    assert_eq!(when(GATEWAY, blocked), Verdict::Pass(Reason::ARP_NETFILTER));
}

#[test]
fn headers_and_operations() {
    assert_eq!(of(GATEWAY, |frame| frame.arp.htype = [0, 2]), Verdict::Pass(Reason::BAD_HEADER));
    assert_eq!(of(GATEWAY, |frame| frame.arp.htype = [0, 6]), REPLY);
    assert_eq!(of(GATEWAY, |frame| frame.arp.oper = [0, 2]), Verdict::Pass(Reason::NOT_REQUEST));
    assert_eq!(of(GATEWAY, |frame| frame.arp.oper = [1, 0]), Verdict::Pass(Reason::NOT_REQUEST));
}

#[test]
fn destinations() {
    assert_eq!(of(GATEWAY, |frame| frame.dst = CALI_MAC), REPLY);
    assert_eq!(of(GATEWAY, |frame| frame.dst = [1, 0, 0x5e, 0, 0, 1]), REPLY);
    assert_eq!(of(GATEWAY, |frame| frame.dst = [0; 6]), Verdict::Pass(Reason::OTHER_DESTINATION));
    assert_eq!(of(GATEWAY, |frame| frame.dst = POD_MAC), Verdict::Pass(Reason::OTHER_DESTINATION));
}

#[test]
fn the_ethernet_source_and_tha_do_not_matter() {
    assert_eq!(of(GATEWAY, |frame| (frame.src, frame.arp.tha) = ([9; 6], [9; 6])), REPLY);
}

#[test]
fn special_addresses() {
    for tpa in [[0; 4], [255; 4], [224, 0, 0, 1], [239, 1, 1, 1], [127, 0, 0, 1]] {
        assert_eq!(when(tpa, |_| {}), Verdict::Pass(Reason::SPECIAL_TARGET), "{tpa:?}");
    }
    for spa in [[255; 4], [224, 0, 0, 1], [127, 0, 0, 5]] {
        assert_eq!(of(GATEWAY, |frame| frame.arp.spa = spa), Verdict::Pass(Reason::SPECIAL_SENDER), "{spa:?}");
    }
    for tpa in [[240, 0, 0, 1], [0, 1, 2, 3]] {
        assert_eq!(when(tpa, |_| {}), REPLY, "{tpa:?} is routed like any other");
    }
}

#[test]
fn a_probe_is_answered_for_local_addresses_only() {
    assert_eq!(of(LOCAL, |frame| (frame.arp.spa, frame.arp.sha) = ([0; 4], [9; 6])), REPLY);
    assert_eq!(of(GATEWAY, |frame| frame.arp.spa = [0; 4]), Verdict::Pass(Reason::PROBE_NOT_LOCAL));
}

#[test]
fn an_announcement_is_never_consumed() {
    assert_eq!(of(GATEWAY, |frame| frame.arp.spa = GATEWAY), Verdict::Pass(Reason::ANNOUNCEMENT));
}

#[test]
fn a_probe_asks_the_view_of_its_interface() {
    let elsewhere = when(LOCAL, |world| _ = world.hosts.remove(&(LOCAL_VIEW, LOCAL)));
    assert_eq!(elsewhere, REPLY, "no probe");
    let mut without = world();
    without.hosts.remove(&(LOCAL_VIEW, LOCAL));
    let mut probe = ask(LOCAL);
    probe.arp.spa = [0; 4];
    assert_eq!(verdict(&without, &probe), Verdict::Pass(Reason::PROBE_NOT_LOCAL));
    without.hosts.insert((LOCAL_VIEW, LOCAL), Entry::LOCAL_ELSEWHERE);
    assert_eq!(verdict(&without, &probe), Verdict::Pass(Reason::PROBE_NOT_LOCAL));
}

#[test]
fn source_validation_must_be_sure_to_accept_the_sender() {
    let flagged = |flags: u16, tpa, differs: bool| {
        when(tpa, |world| {
            world.neighbours.get_mut(&at(CALI, POD)).unwrap().flags = VIEW << Neighbour::VIEW_SHIFT | flags;
            if differs {
                world.default = world.default.with_difference();
            }
        })
    };
    let (always, plain) = (Neighbour::ALWAYS, Neighbour::PLAIN);
    for (flags, differs, expected) in [
        (0, false, Verdict::Pass(Reason::SENDER_ROUTE)),
        (0, true, Verdict::Pass(Reason::SENDER_ROUTE)),
        (plain, false, REPLY),
        (plain, true, Verdict::Pass(Reason::SENDER_ROUTE)),
        (always, false, REPLY),
        (always, true, REPLY),
        (Neighbour::FIXED, false, Verdict::Pass(Reason::SENDER_ROUTE)),
    ] {
        assert_eq!(flagged(flags, GATEWAY, differs), expected, "flags {flags}, differs {differs}");
    }
}

#[test]
fn the_view_of_the_sender_decides() {
    let other = when(LOCAL, |world| {
        world.neighbours.get_mut(&at(CALI, POD)).unwrap().flags = Neighbour::ALWAYS | 5 << Neighbour::VIEW_SHIFT;
        world.hosts.insert((5, LOCAL), Entry::OPAQUE_RULE);
    });
    assert_eq!(other, Verdict::Pass(Reason::OPAQUE_RULE));
}

#[test]
fn a_local_route_outside_table_local_is_none_for_arp_filter() {
    let elsewhere = |world: &mut TestTables| _ = world.hosts.insert((VIEW, LOCAL), Entry::LOCAL_ELSEWHERE);
    assert_eq!(when(LOCAL, elsewhere), REPLY);
    let filtered = when(LOCAL, |world| {
        elsewhere(world);
        with(world, Iface::ARP_FILTER);
    });
    assert_eq!(filtered, Verdict::Pass(Reason::ARP_FILTER));
    assert_eq!(when(LOCAL, |world| with(world, Iface::ARP_FILTER)), REPLY, "table local");
}

#[test]
fn several_next_hops_are_answered_where_it_does_not_matter_which() {
    let several = |ifindex, ingress_medium: i32, out: i32| {
        move |world: &mut TestTables| {
            world.oifs[usize::from(TO_UPLINK)] = Oif { ifindex, medium_id: out };
            world.iface.as_mut().unwrap().medium_id = ingress_medium;
        }
    };
    assert_eq!(when(GATEWAY, several(Oif::SEVERAL, 0, 0)), REPLY);
    assert_eq!(when(GATEWAY, several(Oif::SEVERAL, 1, 2)), REPLY);
    assert_eq!(when(GATEWAY, several(Oif::SEVERAL, 1, 1)), Verdict::Pass(Reason::MEDIUM_ID));
    assert_eq!(when(GATEWAY, several(Oif::MIXED, 0, 0)), REPLY);
    assert_eq!(when(GATEWAY, several(Oif::MIXED, 1, 0)), Verdict::Pass(Reason::MEDIUM_ID));
    let among = when(GATEWAY, |world| {
        several(Oif::SEVERAL, 0, 0)(world);
        with(world, Iface::NEXT_HOP);
    });
    assert_eq!(among, Verdict::Pass(Reason::OPAQUE_ROUTE));
    assert_eq!(when(GATEWAY, |world| with(world, Iface::NEXT_HOP)), REPLY, "a route with one next hop");
}

#[test]
fn the_neighbour_entry_must_stay_as_it_is() {
    assert_eq!(when(GATEWAY, |world| world.neighbours.clear()), Verdict::Pass(Reason::NEIGHBOUR_UNKNOWN));
    assert_eq!(of(GATEWAY, |frame| frame.arp.sha = [9; 6]), Verdict::Pass(Reason::NEIGHBOUR_DIFFERS));
    let flagged =
        |flags| move |world: &mut TestTables| world.neighbours.get_mut(&at(CALI, POD)).unwrap().flags |= flags;
    assert_eq!(when(GATEWAY, flagged(Neighbour::DOUBTED)), Verdict::Pass(Reason::NEIGHBOUR_DOUBTED));
    assert_eq!(when(GATEWAY, flagged(Neighbour::DOUBTED | Neighbour::FIXED)), REPLY, "no frame changes it");
    let mut permanent = world();
    flagged(Neighbour::FIXED)(&mut permanent);
    let mut frame = ask(GATEWAY);
    frame.arp.sha = [9; 6];
    assert_eq!(verdict(&permanent, &frame), REPLY, "a permanent entry is never changed");
}

#[test]
fn routes_that_are_not_answered() {
    let target = |entry| move |world: &mut TestTables| _ = world.hosts.insert((VIEW, GATEWAY), entry);
    assert_eq!(when(GATEWAY, target(Entry::NONE)), Verdict::Pass(Reason::NO_ROUTE));
    assert_eq!(when(GATEWAY, target(Entry::UNANSWERABLE)), Verdict::Pass(Reason::UNANSWERABLE_ROUTE));
    assert_eq!(when(GATEWAY, target(Entry::OPAQUE)), Verdict::Pass(Reason::OPAQUE_ROUTE));
    assert_eq!(when(GATEWAY, target(Entry::unicast(9))), Verdict::Pass(Reason::OPAQUE_ROUTE), "no such slot");
    let dead = |world: &mut TestTables| world.oifs[usize::from(TO_UPLINK)] = Oif::default();
    assert_eq!(when(GATEWAY, dead), Verdict::Pass(Reason::OPAQUE_ROUTE));
}

#[test]
fn proxying_needs_forwarding_and_its_flag() {
    assert_eq!(when(GATEWAY, |world| without(world, Iface::FORWARDING)), Verdict::Pass(Reason::FORWARDING_OFF));
    assert_eq!(when(GATEWAY, |world| without(world, Iface::PROXY_ARP)), Verdict::Pass(Reason::PROXY_ARP_OFF));
    assert_eq!(when(LOCAL, |world| without(world, Iface::FORWARDING | Iface::PROXY_ARP)), REPLY);
}

#[test]
fn targets_behind_the_same_interface_need_pvlan_alone() {
    assert_eq!(when(NEXT_POD, |_| {}), Verdict::Pass(Reason::PVLAN_OFF));
    let pvlan_alone = |world: &mut TestTables| {
        with(world, Iface::PVLAN);
        without(world, Iface::PROXY_ARP);
    };
    assert_eq!(when(NEXT_POD, pvlan_alone), REPLY);
    assert_eq!(when(GATEWAY, pvlan_alone), Verdict::Pass(Reason::PROXY_ARP_OFF));
    assert_eq!(when(NEXT_POD, |world| with(world, Iface::HAS_PROXIES)), Verdict::Pass(Reason::PVLAN_OFF));
}

#[test]
fn static_proxies_need_neither_proxy_arp_nor_medium_id() {
    for ifindex in [CALI, 0] {
        let verdict = when(GATEWAY, |world| {
            without(world, Iface::PROXY_ARP);
            with(world, Iface::HAS_PROXIES);
            world.iface.as_mut().unwrap().medium_id = -1;
            world.proxies.insert(at(ifindex, GATEWAY));
        });
        assert_eq!(verdict, REPLY, "entry on {ifindex}");
    }
    let elsewhere = when(GATEWAY, |world| {
        without(world, Iface::PROXY_ARP);
        with(world, Iface::HAS_PROXIES);
        world.proxies.insert(at(UPLINK, GATEWAY));
    });
    assert_eq!(elsewhere, Verdict::Pass(Reason::PROXY_ARP_OFF));
}

#[test]
fn a_static_proxy_that_was_not_read_again_decides_nothing() {
    let unconfirmed = |change: fn(&mut TestTables)| {
        when(GATEWAY, |world| {
            with(world, Iface::HAS_PROXIES);
            world.proxies.insert(at(CALI, GATEWAY));
            world.proxies_confirmed = false;
            change(world);
        })
    };
    assert_eq!(unconfirmed(|_| {}), REPLY, "proxy_arp allows it without the entry");
    assert_eq!(unconfirmed(|world| without(world, Iface::PROXY_ARP)), Verdict::Pass(Reason::PROXY_UNCONFIRMED));
    let other_medium = |world: &mut TestTables| world.iface.as_mut().unwrap().medium_id = -1;
    assert_eq!(unconfirmed(other_medium), Verdict::Pass(Reason::PROXY_UNCONFIRMED));
}

#[test]
fn medium_ids() {
    // Measured on Linux 6.18: (ingress, out, answered).
    let table = [
        (0, -1, true),
        (0, 0, true),
        (0, 1, true),
        (0, 2, true),
        (-1, -1, false),
        (-1, 0, false),
        (-1, 1, false),
        (-1, 2, false),
        (1, -1, false),
        (1, 0, true),
        (1, 1, false),
        (1, 2, true),
        (2, -1, false),
        (2, 0, true),
        (2, 1, true),
        (2, 2, false),
    ];
    for (ingress, out, answered) in table {
        let verdict = when(GATEWAY, |world| {
            world.iface.as_mut().unwrap().medium_id = ingress;
            world.oifs[usize::from(TO_UPLINK)].medium_id = out;
        });
        let expected = if answered { REPLY } else { Verdict::Pass(Reason::MEDIUM_ID) };
        assert_eq!(verdict, expected, "ingress {ingress}, out {out}");
    }
}

#[test]
fn a_proxy_delay_holds_back_all_but_unicast_and_local() {
    assert_eq!(when(GATEWAY, |world| with(world, Iface::DELAYED)), Verdict::Pass(Reason::PROXY_DELAY));
    assert_eq!(when(LOCAL, |world| with(world, Iface::DELAYED)), REPLY);
    let mut delayed = world();
    with(&mut delayed, Iface::DELAYED);
    let mut frame = ask(GATEWAY);
    frame.dst = CALI_MAC;
    assert_eq!(verdict(&delayed, &frame), REPLY);
}

#[test]
fn arp_ignore() {
    assert_eq!(when(LOCAL, |world| without(world, Iface::LOCAL_ALWAYS)), Verdict::Pass(Reason::ARP_IGNORE));
    let own = |listed: bool| {
        when(LOCAL, |world| {
            without(world, Iface::LOCAL_ALWAYS);
            with(world, Iface::LOCAL_OWN);
            if listed {
                world.owned.insert(at(CALI, LOCAL));
            }
        })
    };
    assert_eq!(own(true), REPLY);
    assert_eq!(own(false), Verdict::Pass(Reason::ARP_IGNORE));
    assert_eq!(when(GATEWAY, |world| without(world, Iface::LOCAL_ALWAYS)), REPLY, "proxying is not asked");
}
