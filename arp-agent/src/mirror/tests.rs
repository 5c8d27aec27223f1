//! From events to decisions: what the kernel says goes in, who-has comes out, over tables in plain memory. The
//! kernel's side of each case is in the lab; here it is the mirror's bookkeeping that is tried.

use super::*;
use crate::arp_rules::ArpRules;
use crate::dataplane::Dataplane as _;
use crate::dataplane::fake::Fake;
use crate::event::{
    Address, ForeignTc, Link, LocalAndMain, NDO_XMIT, NeighbourEntry, Placement, RouteKind, RoutingRule, RuleAction,
    Settings,
};
use arp_common::fib::MAX_VIEWS;
use arp_common::maps::{Iface, MAX_OIFS};
use arp_common::{ArpFrame, Lladdr, Reason, Verdict, decide};
use std::net::Ipv4Addr;
use std::num::NonZeroU32;

pub(crate) const CALI: u32 = 7;
const UPLINK: u32 = 3;
const MAC: [u8; 6] = [0xee; 6];
pub(crate) const POD_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];
pub(crate) const POD: Ipv4Addr = Ipv4Addr::new(10, 5, 0, 5);
const REPLY: Verdict = Verdict::Reply(Lladdr::new(MAC));

/// IFF_UP | IFF_BROADCAST | IFF_RUNNING | IFF_MULTICAST | IFF_LOWER_UP.
const UP: u32 = 0x1_1043;

fn link(ifindex: u32, name: &str, change: impl FnOnce(&mut Link, &mut Settings)) -> Event {
    let mut settings = Settings { forwarding: 1, ..Settings::default() };
    let mut link = Link {
        ifindex,
        name: name.into(),
        mac: Some(MAC),
        hardware_type: 1,
        flags: UP,
        carrier: true,
        kind: Some("veth".into()),
        ..Link::default()
    };
    change(&mut link, &mut settings);
    link.settings = Some(settings);
    Event::Link(link)
}

pub(crate) fn cali(change: impl FnOnce(&mut Link, &mut Settings)) -> Event {
    link(CALI, "cali0", |link, settings| {
        settings.proxy_arp = 1;
        change(link, settings);
    })
}

fn uplink(change: impl FnOnce(&mut Link, &mut Settings)) -> Event {
    link(UPLINK, "eth0", change)
}

fn prefix(text: &str) -> Prefix {
    let (addr, len) = text.split_once('/').unwrap();
    Prefix::new(addr.parse::<Ipv4Addr>().unwrap().octets(), len.parse().unwrap())
}

fn route(table: u32, to: &str, kind: RouteKind, oif: Option<u32>) -> Route {
    Route {
        table,
        prefix: prefix(to),
        tos: 0,
        metric: 0,
        kind,
        oif,
        gateway: None,
        nexthop: None,
        hops: Box::default(),
        encap: false,
        rest: 0,
    }
}

fn unicast(to: &str, oif: u32) -> Route {
    route(254, to, RouteKind::Unicast, Some(oif))
}

fn local(to: &str) -> Route {
    route(255, to, RouteKind::Local, Some(1))
}

fn add(route: Route) -> Event {
    Event::Route(route, Placement::Last)
}

fn neighbour(state: u16) -> Event {
    Event::Neighbour(NeighbourEntry { ifindex: CALI, addr: POD, state, lladdr: Some(POD_MAC) })
}

fn default_rules() -> Event {
    Event::Rules(vec![lookup(0, 255), lookup(32766, 254), lookup(32767, 253)])
}

fn lookup(priority: u32, table: u32) -> RoutingRule {
    RoutingRule { priority, action: RuleAction::lookup(table), ..RoutingRule::default() }
}

/// The default rules, and these after the first.
fn with_rules(more: impl IntoIterator<Item = RoutingRule>) -> Event {
    let last = [lookup(32766, 254), lookup(32767, 253)];
    Event::Rules([lookup(0, 255)].into_iter().chain(more).chain(last).collect())
}

/// A mirror and the tables that its changes make.
struct TestNode {
    mirror: Mirror,
    tables: Fake,
    attached: BTreeSet<u32>,
}

impl TestNode {
    fn new() -> Self {
        let mut world =
            TestNode { mirror: Mirror::default(), tables: Fake::default(), attached: BTreeSet::from([CALI]) };
        world.tables.set_lease(1).unwrap();
        world.resync(dump());
        world
    }

    fn resync(&mut self, dump: impl IntoIterator<Item = Event>) {
        let changes = self.mirror.resync(&self.attached, dump);
        self.tables.apply(&changes).unwrap();
    }

    fn tell(&mut self, event: Event) -> &mut Self {
        let step = self.mirror.apply(&self.attached, [event]);
        self.tables.apply(&step.changes).unwrap();
        self
    }

    fn asks(&self, target: &str) -> Verdict {
        let target: Ipv4Addr = target.parse().unwrap();
        decide(&(&ArpFrame::request(POD_MAC, POD.octets(), target.octets())).into(), CALI, &self.tables)
    }
}

pub(crate) fn dump() -> Vec<Event> {
    vec![
        link(1, "lo", |link, _| (link.hardware_type, link.kind) = (772, None)),
        uplink(|_, _| {}),
        cali(|_, _| {}),
        Event::AllSettings(Settings::default()),
        Event::ProxyDelays(vec![(UPLINK, 800), (CALI, 0)]),
        default_rules(),
        add(local("10.77.0.1/32")),
        add(unicast("10.9.0.0/24", UPLINK)),
        add(unicast("0.0.0.0/0", UPLINK)),
        add(unicast("10.5.0.5/32", CALI)),
        add(unicast("10.5.0.6/32", CALI)),
        neighbour(0x04),
    ]
}

/// The verdict on a question after events.
fn after(events: impl IntoIterator<Item = Event>, target: &str) -> Verdict {
    let mut world = TestNode::new();
    for event in events {
        world.tell(event);
    }
    world.asks(target)
}

fn pass(reason: Reason) -> Verdict {
    Verdict::Pass(reason)
}

#[test]
fn a_calico_node() {
    let world = TestNode::new();
    assert_eq!(world.asks("169.254.1.1"), REPLY);
    assert_eq!(world.asks("10.77.0.1"), REPLY);
    assert_eq!(world.asks("10.5.0.6"), pass(Reason::PVLAN_OFF));
}

#[test]
fn flags_are_combined_with_those_of_all_as_the_kernel_does() {
    let all = |change: fn(&mut Settings)| {
        let mut settings = Settings::default();
        change(&mut settings);
        Event::AllSettings(settings)
    };
    let off = || cali(|_, settings| settings.proxy_arp = 0);
    assert_eq!(after([off()], "169.254.1.1"), pass(Reason::PROXY_ARP_OFF));
    assert_eq!(after([off(), all(|all| all.proxy_arp = 1)], "169.254.1.1"), REPLY);
    assert_eq!(after([all(|all| all.proxy_arp_pvlan = 1)], "10.5.0.6"), REPLY);
    assert_eq!(after([cali(|_, settings| settings.proxy_arp_pvlan = 1)], "10.5.0.6"), REPLY);
    let not_forwarding = cali(|_, settings| settings.forwarding = 0);
    assert_eq!(after([not_forwarding, all(|all| all.forwarding = 1)], "8.8.8.8"), pass(Reason::FORWARDING_OFF));
    assert_eq!(after([all(|all| all.medium_id = -1)], "8.8.8.8"), REPLY, "medium_id of all is not read");
    assert_eq!(after([cali(|_, settings| settings.medium_id = -1)], "8.8.8.8"), pass(Reason::MEDIUM_ID));
}

#[test]
fn arp_ignore_is_the_greater_of_the_two() {
    for (all, own, answered) in
        [(0, 0, true), (1, 0, false), (0, 2, false), (3, 4, true), (8, 4, false), (-1, -1, true)]
    {
        let events = [
            Event::AllSettings(Settings { arp_ignore: all, ..Settings::default() }),
            cali(|_, settings| settings.arp_ignore = own),
        ];
        let expected = if answered { REPLY } else { pass(Reason::ARP_IGNORE) };
        assert_eq!(after(events, "10.77.0.1"), expected, "all {all}, own {own}");
    }
}

#[test]
fn arp_ignore_1_lets_own_addresses_of_the_interface_be_answered() {
    let address = |local: &str, peer: &str, prefix_len| {
        Event::Address(Address {
            ifindex: CALI,
            local: local.parse().unwrap(),
            peer: peer.parse().unwrap(),
            prefix_len,
        })
    };
    let ignore = || cali(|_, settings| settings.arp_ignore = 1);
    let own = || add(local("10.6.0.1/32"));
    assert_eq!(after([ignore(), own(), address("10.6.0.1", "10.6.0.1", 24)], "10.6.0.1"), REPLY);
    assert_eq!(after([ignore(), own(), address("10.6.0.1", "10.6.0.1", 32)], "10.6.0.1"), REPLY);
    let to_peer = address("10.6.0.1", "10.6.9.9", 32);
    assert_eq!(after([ignore(), own(), to_peer.clone()], "10.6.0.1"), pass(Reason::ARP_IGNORE));
    let covering = address("10.6.0.2", "10.6.0.2", 24);
    assert_eq!(after([ignore(), own(), to_peer, covering], "10.6.0.1"), REPLY);
}

#[test]
fn what_could_see_the_frame_first_blocks_the_interface() {
    let blocked = |event| after([event], "169.254.1.1");
    assert_eq!(blocked(cali(|link, _| link.flags = 0x1002)), pass(Reason::INTERFACE_DOWN));
    assert_eq!(blocked(cali(|link, _| link.flags |= 0x80)), pass(Reason::INTERFACE_NOARP));
    assert_eq!(blocked(cali(|link, _| link.master = Some(9))), pass(Reason::INTERFACE_HAS_MASTER));
    assert_eq!(blocked(cali(|link, _| link.hardware_type = 772)), pass(Reason::INTERFACE_NOT_ETHERNET));
    assert_eq!(blocked(cali(|link, _| link.kind = Some("vxlan".into()))), pass(Reason::INTERFACE_TUNNEL));
    assert_eq!(blocked(Event::ArpNetfilter(ArpRules::unread("test"))), pass(Reason::ARP_NETFILTER));
    assert_eq!(blocked(Event::IngressHooks(vec![CALI])), pass(Reason::INGRESS_HOOK));
    assert_eq!(blocked(Event::IngressHooks(vec![UPLINK])), REPLY);
    assert_eq!(blocked(Event::ArpListeners(vec![CALI])), pass(Reason::ARP_LISTENER));
    assert_eq!(blocked(Event::ArpListeners(vec![0])), pass(Reason::ARP_LISTENER), "on no interface: on all");
    assert_eq!(blocked(Event::ArpListeners(vec![UPLINK])), REPLY);
    assert_eq!(blocked(Event::UppersElsewhere(vec![CALI])), pass(Reason::INTERFACE_HAS_UPPER));
    assert_eq!(blocked(Event::UppersElsewhere(vec![UPLINK])), REPLY);
    let vxlan = cali(|link, _| link.kind = Some("vxlan".into()));
    assert_eq!(
        after([vxlan, Event::UppersElsewhere(vec![CALI])], "169.254.1.1"),
        pass(Reason::INTERFACE_TUNNEL),
        "it has learnt an address"
    );
    let foreign = |ifindex, found| Event::ForeignTc { ifindex, found };
    assert_eq!(blocked(foreign(CALI, ForeignTc::After)), pass(Reason::INGRESS_HOOK));
    assert_eq!(blocked(foreign(CALI, ForeignTc::Around)), REPLY);
    assert_eq!(blocked(foreign(UPLINK, ForeignTc::After)), REPLY);
    assert_eq!(blocked(Event::FiltersTouched(CALI)), pass(Reason::INGRESS_HOOK), "until it is asked");
    let upper = |kind: &str, netnsid| {
        link(20, "upper", |link, _| {
            (link.kind, link.link, link.link_netnsid) = (Some(kind.into()), Some(CALI), netnsid);
        })
    };
    assert_eq!(blocked(upper("macvlan", None)), pass(Reason::INTERFACE_HAS_UPPER));
    assert_eq!(blocked(upper("veth", None)), REPLY, "the other end of a veth in the same namespace");
    assert_eq!(blocked(upper("macvlan", Some(3))), REPLY, "on an interface of that number elsewhere");
}

#[test]
fn rules_that_no_request_meets_change_nothing() {
    let marked = RoutingRule { mark: Some((1, 1)), ..lookup(100, 100) };
    let tcp = RoutingRule { never: vec!["ipproto 6".into()], ..lookup(100, 100) };
    let others = RoutingRule { users: Some((1000, 2000)), ..lookup(100, 100) };
    for rule in [marked, tcp, others] {
        let mut world = TestNode::new();
        world.tell(cali(|link, _| link.link_netnsid = Some(1)));
        world.tell(add(Route { table: 100, ..route(100, "0.0.0.0/0", RouteKind::Unreachable, None) }));
        world.tell(with_rules([rule.clone()]));
        assert_eq!(world.asks("8.8.8.8"), REPLY, "{rule:?}");
        world.tell(with_rules([RoutingRule { inverted: true, ..rule.clone() }]));
        assert_eq!(world.asks("8.8.8.8"), pass(Reason::UNANSWERABLE_ROUTE), "not {rule:?}");
    }
}

#[test]
fn a_rule_that_is_not_known_makes_opaque_what_it_could_change() {
    let unknown = RoutingRule { unknown: true, to: Some(prefix("8.8.0.0/16")), ..lookup(100, 100) };
    let mut world = TestNode::new();
    world.tell(add(Route { table: 100, ..unicast("0.0.0.0/0", CALI) })).tell(with_rules([unknown]));
    assert_eq!(world.asks("8.8.8.8"), pass(Reason::OPAQUE_RULE));
    assert_eq!(world.asks("9.9.9.9"), REPLY);
    // If it leads to the same, it does not matter.
    world.tell(Event::Route(Route { table: 100, ..unicast("0.0.0.0/0", UPLINK) }, Placement::Replace));
    assert_eq!(world.asks("8.8.8.8"), REPLY);
}

#[test]
fn senders_have_the_view_that_their_rules_lead_to() {
    let mut world = TestNode::new();
    let from = |addr: &str| RoutingRule { from: Some(prefix(addr)), ..lookup(100, 100) };
    world.tell(add(Route { table: 100, ..unicast("0.0.0.0/0", CALI) }));
    world.tell(with_rules([from("10.5.0.6/32")]));
    let views = world.mirror.views();
    assert_eq!(world.asks("8.8.8.8"), REPLY, "the rule is another pod's");
    world.tell(with_rules([from("10.5.0.5/32")]));
    assert_eq!(world.asks("8.8.8.8"), pass(Reason::PVLAN_OFF));
    assert_eq!(world.mirror.views(), views, "what nobody uses any more is gone");
    world.tell(default_rules());
    assert_eq!(world.asks("8.8.8.8"), REPLY);
}

#[test]
fn the_state_of_the_two_first_tables_decides_where_they_disagree() {
    let mut world = TestNode::new();
    world.tell(add(local("10.50.0.0/16"))).tell(add(unicast("10.50.1.0/24", CALI)));
    assert_eq!(world.asks("10.50.1.1"), pass(Reason::OPAQUE_ROUTE));
    world.tell(Event::LocalAndMain(Some(LocalAndMain::Merged)));
    assert_eq!(world.asks("10.50.1.1"), pass(Reason::PVLAN_OFF));
    world.tell(Event::LocalAndMain(Some(LocalAndMain::Split)));
    assert_eq!(world.asks("10.50.1.1"), REPLY);
    world.tell(Event::LocalAndMain(Some(LocalAndMain::Merged)));
    assert_eq!(world.asks("10.50.1.1"), REPLY, "they stay apart");
}

#[test]
fn several_next_hops_are_answered_if_they_are_all_of_one_kind() {
    let by = |hops: &[u32]| add(Route { hops: hops.into(), oif: None, ..unicast("8.8.8.0/24", 0) });
    let second = || link(9, "u1", |_, _| {});
    assert_eq!(after([second(), by(&[UPLINK, 9])], "8.8.8.8"), REPLY);
    assert_eq!(after([second(), by(&[UPLINK, UPLINK])], "8.8.8.8"), REPLY);
    assert_eq!(after([second(), by(&[CALI, CALI])], "8.8.8.8"), pass(Reason::PVLAN_OFF), "one way, named twice");
    assert_eq!(after([second(), by(&[UPLINK, CALI])], "8.8.8.8"), pass(Reason::OPAQUE_ROUTE));
    assert_eq!(after([by(&[UPLINK, 9])], "8.8.8.8"), pass(Reason::OPAQUE_ROUTE), "one of them is not there");
    let mut world = TestNode::new();
    world.tell(second()).tell(by(&[UPLINK, 9])).tell(link(9, "u1", |link, _| link.flags = 0x1002));
    assert_eq!(world.asks("8.8.8.8"), REPLY, "one of them is down");
    world.tell(uplink(|link, _| link.flags = 0x1002));
    assert_eq!(world.asks("8.8.8.8"), pass(Reason::OPAQUE_ROUTE));
}

#[test]
fn a_sender_that_is_routed_elsewhere_is_accepted_as_rp_filter_says() {
    let elsewhere = || [Event::RouteGone(unicast("10.5.0.5/32", CALI)), add(unicast("10.5.0.0/24", UPLINK))];
    let filter = |rp_filter| cali(move |_, settings| settings.rp_filter = rp_filter);
    let numbered = || {
        let local = "10.6.0.1".parse().unwrap();
        Event::Address(Address { ifindex: CALI, local, peer: local, prefix_len: 24 })
    };
    let asks =
        |rp_filter, more: Vec<Event>| after(elsewhere().into_iter().chain([filter(rp_filter)]).chain(more), "8.8.8.8");
    assert_eq!(asks(0, vec![]), REPLY);
    assert_eq!(asks(1, vec![]), pass(Reason::SENDER_ROUTE));
    assert_eq!(asks(2, vec![]), pass(Reason::SENDER_ROUTE), "no address");
    assert_eq!(asks(2, vec![numbered()]), REPLY);
    let is_down = || uplink(|link, _| link.flags = 0x1002);
    assert_eq!(asks(2, vec![numbered(), is_down()]), pass(Reason::SENDER_ROUTE));
    // By several next hops, one of which is dead.
    let several = |hops: &[u32]| add(Route { hops: hops.into(), oif: None, ..unicast("10.5.0.0/25", 0) });
    let second = |flags: u32| link(9, "u1", move |link, _| link.flags = flags);
    assert_eq!(asks(0, vec![second(0x1002), several(&[UPLINK, 9])]), REPLY);
    assert_eq!(asks(0, vec![second(0x1002), several(&[UPLINK, 9]), is_down()]), pass(Reason::SENDER_ROUTE));
    assert_eq!(asks(0, vec![several(&[UPLINK, 9])]), REPLY, "one of them is not there");
    let Event::Link(second_link) = second(UP) else { panic!("no link") };
    let without_ipv4 = Event::Link(Link { settings: None, ..second_link });
    assert_eq!(asks(0, vec![without_ipv4, several(&[UPLINK, 9])]), REPLY, "one of them has no IPv4 settings");
    assert_eq!(asks(0, vec![several(&[9, 10])]), pass(Reason::SENDER_ROUTE), "none of them is there");
    assert_eq!(asks(1, vec![several(&[UPLINK, 9])]), pass(Reason::SENDER_ROUTE));
    let filtered = cali(|_, settings| settings.arp_filter = 1);
    assert_eq!(after(elsewhere().into_iter().chain([filtered]), "8.8.8.8"), pass(Reason::SENDER_ROUTE));
    // By the default route out of the interface.
    let onlink = [Event::RouteGone(unicast("10.5.0.5/32", CALI)), Event::RouteGone(unicast("0.0.0.0/0", UPLINK))];
    let onlink = || onlink.iter().cloned().chain([add(unicast("0.0.0.0/0", CALI)), add(unicast("8.0.0.0/8", UPLINK))]);
    assert_eq!(after(onlink().chain([filter(1)]), "8.8.8.8"), REPLY);
}

#[test]
fn a_sender_may_be_accepted_for_some_targets_only() {
    // Source validation asks as the target: the rule is about it.
    let mut world = TestNode::new();
    world.tell(cali(|_, settings| settings.rp_filter = 1));
    world.tell(add(Route { table: 100, ..unicast("0.0.0.0/0", UPLINK) }));
    world.tell(with_rules([RoutingRule { from: Some(prefix("8.8.8.8/32")), ..lookup(100, 100) }]));
    assert_eq!(world.asks("8.8.8.8"), pass(Reason::SENDER_ROUTE));
    assert_eq!(world.asks("9.9.9.9"), REPLY);
    world.tell(with_rules([RoutingRule { iif: Some("eth0".into()), ..lookup(100, 100) }]));
    assert_eq!(world.asks("9.9.9.9"), pass(Reason::SENDER_ROUTE));
    assert_eq!(world.asks("10.77.0.1"), REPLY, "local");
    world.tell(link(UPLINK, "eth7", |_, _| {}));
    assert_eq!(world.asks("9.9.9.9"), REPLY, "the rule's interface has another name");
}

#[test]
fn a_route_that_is_passed_over_may_hide_one_that_refuses() {
    let suppressing = || RoutingRule {
        action: RuleAction::Lookup { table: 254, suppress_prefixlen: Some(0), suppress_ifgroup: None },
        ..lookup(99, 254)
    };
    let mut world = TestNode::new();
    world.tell(add(Route { table: 100, ..unicast("0.0.0.0/0", UPLINK) }));
    world.tell(with_rules([suppressing(), lookup(100, 100)]));
    assert_eq!(world.asks("8.8.8.8"), REPLY);
    // While the kernel skips the default route, because its interface is going down, it finds this one.
    let hidden = Route { metric: 9, ..route(254, "0.0.0.0/0", RouteKind::Unreachable, None) };
    world.tell(add(hidden.clone()));
    assert_eq!(world.asks("8.8.8.8"), pass(Reason::OPAQUE_ROUTE));
    world.tell(Event::RouteGone(hidden));
    assert_eq!(world.asks("8.8.8.8"), REPLY);
}

#[test]
fn the_way_back_from_behind_a_vrf_may_be_another() {
    let vrf = || link(40, "red", |link, _| (link.kind, link.vrf_table) = (Some("vrf".into()), Some(10)));
    let l3mdev = || RoutingRule { l3mdev: true, ..lookup(1000, 0) };
    let mut world = TestNode::new();
    world.tell(cali(|_, settings| settings.rp_filter = 1)).tell(vrf()).tell(with_rules([l3mdev()]));
    world.tell(add(unicast("10.31.0.0/16", 40)));
    assert_eq!(world.asks("10.31.0.1"), pass(Reason::SENDER_ROUTE), "routed by the VRF itself");
    assert_eq!(world.asks("8.8.8.8"), REPLY);
    world.tell(uplink(|link, _| link.master = Some(40)));
    assert_eq!(world.asks("8.8.8.8"), pass(Reason::SENDER_ROUTE), "routed by a port of it");
    // Without the rule for VRFs, one that names the VRF counts.
    world.tell(add(route(100, "10.5.0.5/32", RouteKind::Unreachable, None)));
    world.tell(with_rules([]));
    assert_eq!(world.asks("8.8.8.8"), REPLY);
    world.tell(with_rules([RoutingRule { iif: Some("red".into()), ..lookup(900, 100) }]));
    assert_eq!(world.asks("8.8.8.8"), pass(Reason::SENDER_ROUTE));
    assert_eq!(world.asks("10.77.0.1"), REPLY, "local");
    // Of a port of it the VRF's name may stand for every way back.
    world.tell(cali(|link, settings| (link.master, settings.rp_filter) = (Some(40), 1)));
    assert_eq!(world.asks("10.77.0.1"), pass(Reason::SENDER_ROUTE));
}

#[test]
fn an_alternative_name_stays_unknown() {
    let named = |detached| RoutingRule { iif: Some("other".into()), iif_detached: detached, ..lookup(100, 100) };
    let refusing = || add(route(100, "0.0.0.0/0", RouteKind::Unreachable, None));
    let with = |detached| {
        let mut world = TestNode::new();
        world.tell(refusing()).tell(with_rules([named(detached)]));
        let before = world.asks("8.8.8.8");
        world.tell(link(50, "other", |_, _| {}));
        (before, world.asks("8.8.8.8"))
    };
    assert_eq!(with(true), (REPLY, REPLY), "an interface of that name came, and it is not the pod's");
    assert_eq!(with(false), (pass(Reason::OPAQUE_RULE), pass(Reason::OPAQUE_RULE)));
}

#[test]
fn views_beyond_the_last_are_opaque_until_there_is_room() {
    let addr = |number: u32| Ipv4Addr::from(0x0a06_0000 + number);
    let from =
        |number: u32| RoutingRule { from: Some(Prefix::new(addr(number).octets(), 32)), ..lookup(100, 1000 + number) };
    let many = u32::from(MAX_VIEWS) + 20;
    let mut world = TestNode::new();
    world.tell(with_rules((0..many).map(from)));
    for number in 0..many {
        let lladdr = Some(POD_MAC);
        world.tell(Event::Neighbour(NeighbourEntry { ifindex: CALI, addr: addr(number), state: 4, lladdr }));
    }
    let asks = |world: &TestNode, number: u32| {
        let request = ArpFrame::request(POD_MAC, addr(number).octets(), [8, 8, 8, 8]);
        decide(&(&request).into(), CALI, &world.tables)
    };
    let count = |world: &TestNode, verdict| (0..many).filter(|&number| asks(world, number) == verdict).count();
    assert!(count(&world, pass(Reason::OPAQUE_RULE)) > 20);
    assert!(count(&world, REPLY) > 200);
    for number in 0..100 {
        world.tell(Event::NeighbourGone { ifindex: CALI, addr: addr(number) });
    }
    assert_eq!(count(&world, pass(Reason::OPAQUE_RULE)), 0);
}

#[test]
fn an_entry_without_an_address_counts_only_if_it_never_changes() {
    let without = |state| Event::Neighbour(NeighbourEntry { ifindex: CALI, addr: POD, state, lladdr: None });
    assert_eq!(after([without(0x40)], "8.8.8.8"), REPLY, "NOARP");
    assert_eq!(after([without(0x04)], "8.8.8.8"), pass(Reason::NEIGHBOUR_UNKNOWN), "STALE");
}

#[test]
fn proxy_entries_and_delays() {
    let off = || cali(|_, settings| settings.proxy_arp = 0);
    let entry = |ifindex| Event::Proxies(vec![(ifindex, "8.8.8.8".parse().unwrap())]);
    assert_eq!(after([off(), entry(CALI)], "8.8.8.8"), REPLY);
    assert_eq!(after([off(), entry(0)], "8.8.8.8"), REPLY);
    assert_eq!(after([off(), entry(UPLINK)], "8.8.8.8"), pass(Reason::PROXY_ARP_OFF));
    let mut world = TestNode::new();
    let looks_for_them = |world: &TestNode| world.mirror.iface(CALI).is_some_and(|iface| iface.has(Iface::HAS_PROXIES));
    assert!(!looks_for_them(&world), "two look-ups saved");
    assert!(!looks_for_them(world.tell(entry(UPLINK))));
    assert!(looks_for_them(world.tell(entry(0))));
    assert_eq!(after([Event::ProxyDelays(vec![(CALI, 800)])], "8.8.8.8"), pass(Reason::PROXY_DELAY));
    assert_eq!(after([Event::ProxyDelays(vec![])], "8.8.8.8"), pass(Reason::PROXY_DELAY), "unknown means delayed");
}

#[test]
fn route_types() {
    let to = |route: Route| after([add(route)], "8.8.8.8");
    for kind in [
        RouteKind::Broadcast,
        RouteKind::Anycast,
        RouteKind::Multicast,
        RouteKind::Blackhole,
        RouteKind::Unreachable,
        RouteKind::Prohibit,
    ] {
        assert_eq!(to(route(254, "8.8.8.0/24", kind, None)), pass(Reason::UNANSWERABLE_ROUTE), "{kind:?}");
    }
    assert_eq!(to(route(254, "8.8.8.0/24", RouteKind::Other, None)), pass(Reason::OPAQUE_ROUTE));
    assert_eq!(to(route(254, "8.8.8.0/24", RouteKind::Throw, None)), pass(Reason::NO_ROUTE));
    assert_eq!(to(route(254, "8.8.8.0/24", RouteKind::Local, Some(1))), REPLY);
    assert_eq!(to(route(255, "8.8.8.0/24", RouteKind::Unicast, Some(UPLINK))), REPLY);
    assert_eq!(to(Route { oif: None, ..unicast("8.8.8.0/24", 0) }), pass(Reason::OPAQUE_ROUTE));
    assert_eq!(to(Route { encap: true, ..unicast("8.8.8.0/24", UPLINK) }), REPLY);
    assert_eq!(to(Route { nexthop: NonZeroU32::new(1), ..unicast("8.8.8.0/24", UPLINK) }), REPLY);
    assert_eq!(
        to(Route { nexthop: NonZeroU32::new(1), oif: None, ..unicast("8.8.8.0/24", 0) }),
        pass(Reason::OPAQUE_ROUTE)
    );
    assert_eq!(to(Route { tos: 0x10, ..unicast("8.8.8.0/24", CALI) }), REPLY, "a route with a tos is not seen");
    assert_eq!(to(Route { table: 100, ..unicast("8.8.8.0/24", CALI) }), REPLY, "nor one of another table");
}

#[test]
fn a_route_inside_a_local_prefix_is_opaque_as_long_as_that_is_there() {
    let mut world = TestNode::new();
    world.tell(add(unicast("10.50.1.0/24", UPLINK)));
    world.tell(add(local("10.51.0.0/16")));
    assert_eq!(world.asks("10.50.1.1"), REPLY, "inside none of the local ones");
    world.tell(add(local("10.50.0.0/16")));
    assert_eq!(world.asks("10.50.1.1"), pass(Reason::OPAQUE_ROUTE));
    assert_eq!(world.asks("10.50.2.1"), REPLY, "local");
    world.tell(Event::RouteGone(local("10.50.0.0/16")));
    assert_eq!(world.asks("10.50.1.1"), REPLY);
    assert_eq!(world.asks("10.50.2.1"), REPLY, "by the default route");
}

#[test]
fn table_default_is_asked_last() {
    let mut world = TestNode::new();
    let default = |to: &str, oif| add(Route { table: 253, ..unicast(to, oif) });
    world.tell(default("8.8.0.0/16", CALI));
    assert_eq!(world.asks("8.8.8.8"), REPLY, "main's 0.0.0.0/0 comes first");
    world.tell(Event::RouteGone(unicast("0.0.0.0/0", UPLINK)));
    assert_eq!(world.asks("8.8.8.8"), pass(Reason::PVLAN_OFF));
    assert_eq!(world.asks("9.9.9.9"), pass(Reason::NO_ROUTE));
    world.tell(add(unicast("8.0.0.0/8", UPLINK)));
    assert_eq!(world.asks("8.8.8.8"), REPLY);
}

#[test]
fn routes_by_an_interface_that_is_down_are_opaque() {
    let mut world = TestNode::new();
    world.tell(uplink(|link, _| link.flags = 0x1002));
    assert_eq!(world.asks("8.8.8.8"), pass(Reason::OPAQUE_ROUTE));
    assert_eq!(world.asks("10.77.0.1"), REPLY);
    world.tell(uplink(|_, _| {}));
    assert_eq!(world.asks("8.8.8.8"), REPLY);
}

#[test]
fn interfaces_that_come_and_go_use_up_no_slots() {
    let mut world = TestNode::new();
    let used = world.mirror.slots.all().count();
    for number in 30..200 {
        world.tell(link(number, "eth1", |_, _| {})).tell(add(unicast("9.9.9.0/24", number)));
        assert_eq!(world.asks("9.9.9.9"), REPLY);
        world.tell(Event::LinkGone(number));
        assert_eq!(world.mirror.slots.all().count(), used);
        assert_eq!(world.asks("9.9.9.9"), REPLY, "by the default route");
    }
}

#[test]
fn a_slot_is_not_given_away_while_a_route_names_it() {
    let mut world = TestNode::new();
    // Told after its interface was gone.
    world.tell(link(9, "u1", |_, _| {})).tell(Event::LinkGone(9)).tell(add(unicast("7.7.7.0/24", 9)));
    world.tell(Event::LinkGone(8)).tell(link(30, "eth1", |_, _| {})).tell(add(unicast("9.9.9.0/24", 30)));
    assert_eq!(world.asks("9.9.9.9"), REPLY);
    assert_eq!(world.asks("7.7.7.7"), pass(Reason::OPAQUE_ROUTE), "its route left by what is gone");
}

#[test]
fn interfaces_beyond_the_slots_are_not_followed_until_some_are_free() {
    // The dump's own two have slots, and here is one interface more than there are others.
    let link = |ifindex| link(ifindex, "many", |_, _| {});
    let prefix = |number: u32| format!("20.{}.{}.0/24", number >> 8, number & 255);
    let many = (0..MAX_OIFS - 1).flat_map(|number| [link(1000 + number), add(unicast(&prefix(number), 1000 + number))]);
    let mut world = TestNode::new();
    world.resync(dump().into_iter().chain(many));
    let followed = |world: &TestNode, number: u32| world.asks(&format!("20.{}.{}.9", number >> 8, number & 255));
    let opaque: Vec<u32> =
        (0..MAX_OIFS - 1).filter(|&number| followed(&world, number) == pass(Reason::OPAQUE_ROUTE)).collect();
    assert_eq!(opaque.len(), 1, "{opaque:?}");
    assert_eq!(followed(&world, opaque[0] ^ 1), REPLY);
    // They are gone, and others come.
    let others = (0..3).flat_map(|number| [link(50_000 + number), add(unicast(&prefix(number), 50_000 + number))]);
    world.resync(dump().into_iter().chain(others));
    assert_eq!([0, 1, 2].map(|number| followed(&world, number)), [REPLY; 3]);
    assert_eq!(world.mirror.slots.all().count(), 5);
}

#[test]
fn of_routes_that_differ_in_what_does_not_decide_the_right_one_is_removed() {
    let by = |rest, oif| Route { rest, ..unicast("8.8.8.0/24", oif) };
    let mut world = TestNode::new();
    world.tell(add(by(1, UPLINK))).tell(add(by(2, UPLINK))).tell(Event::RouteGone(by(1, UPLINK)));
    world.tell(Event::RouteGone(unicast("0.0.0.0/0", UPLINK)));
    assert_eq!(world.asks("8.8.8.8"), REPLY, "the other one is still there");
}

#[test]
fn an_interface_that_is_gone_leaves_nothing() {
    let mut world = TestNode::new();
    world.tell(Event::LinkGone(CALI));
    assert_eq!(world.asks("8.8.8.8"), pass(Reason::INTERFACE_UNKNOWN));
    assert_eq!(world.mirror.neighbours(), 0);
}

#[test]
fn what_is_stacked_on_an_interface_blocks_it_until_it_moves_or_goes() {
    let upper = |ifindex, below| {
        link(ifindex, "upper", |link, _| (link.kind, link.link) = (Some("macvlan".into()), Some(below)))
    };
    let mut world = TestNode::new();
    let mut then = |event| world.tell(event).asks("8.8.8.8");
    assert_eq!(then(upper(20, CALI)), pass(Reason::INTERFACE_HAS_UPPER));
    assert_eq!(then(upper(20, UPLINK)), REPLY);
    assert_eq!(then(upper(20, CALI)), pass(Reason::INTERFACE_HAS_UPPER));
    assert_eq!(then(upper(21, CALI)), pass(Reason::INTERFACE_HAS_UPPER));
    assert_eq!(then(Event::LinkGone(20)), pass(Reason::INTERFACE_HAS_UPPER), "there is another");
    assert_eq!(then(Event::LinkGone(21)), REPLY);
}

#[test]
fn an_own_address_is_not_accepted_as_a_sender_while_some_interface_has_it() {
    let own = |ifindex| Address { ifindex, local: POD, peer: POD, prefix_len: 32 };
    let mut world = TestNode::new();
    world.tell(link(20, "other", |_, _| {}));
    world.tell(Event::Address(own(20))).tell(Event::Address(own(UPLINK)));
    assert_eq!(world.asks("8.8.8.8"), pass(Reason::SENDER_ROUTE));
    world.tell(Event::LinkGone(20));
    assert_eq!(world.asks("8.8.8.8"), pass(Reason::SENDER_ROUTE), "the other one has it still");
    world.tell(Event::AddressGone(own(UPLINK)));
    assert_eq!(world.asks("8.8.8.8"), REPLY);
}

#[test]
fn settings_that_were_not_read_block() {
    let stale = |link: &mut Link| link.settings = None;
    let Event::Link(mut link) = cali(|_, _| {}) else { unreachable!() };
    stale(&mut link);
    assert_eq!(after([Event::Link(link)], "8.8.8.8"), pass(Reason::INTERFACE_UNREAD));
}

#[test]
fn a_removal_that_does_not_fit_asks_for_the_routes_again() {
    let mut world = TestNode::new();
    let step = world.mirror.apply(&world.attached, [Event::RouteGone(unicast("0.0.0.0/0", CALI))]);
    assert!(step.routes_in_doubt);
    let step = world.mirror.apply(&world.attached, [Event::RouteGone(unicast("77.0.0.0/8", CALI))]);
    assert!(!step.routes_in_doubt, "a route that is unknown altogether was replayed");
}

#[test]
fn replies_that_netfilter_drops_concern_the_interface_that_could_give_them() {
    let mut world = TestNode::new();
    let held_back = |interface: &str, addr| Event::DroppedReplies(vec![(interface.into(), addr)]);
    let netfilter = pass(Reason::ARP_NETFILTER);
    world.tell(held_back("cali0", POD));
    assert_eq!(world.asks("8.8.8.8"), REPLY, "the pod's address is routed back to it");

    // Somebody else there could be told about the pod now.
    world.tell(cali(|_, settings| settings.proxy_arp_pvlan = 1));
    assert_eq!(world.asks("8.8.8.8"), netfilter);
    world.tell(cali(|_, _| {}));
    assert_eq!(world.asks("8.8.8.8"), REPLY);
    // So it could if the route led elsewhere, as while a pod moves to another node; or if the address were the node's.
    let other = Ipv4Addr::new(10, 5, 0, 66);
    world.tell(held_back("cali0", other));
    assert_eq!(world.asks("8.8.8.8"), netfilter, "only the default route covers it");
    world.tell(add(unicast("10.5.0.66/32", CALI)));
    assert_eq!(world.asks("8.8.8.8"), REPLY);
    world.tell(Event::RouteGone(unicast("10.5.0.66/32", CALI)));
    world.tell(add(unicast("10.5.0.66/32", UPLINK)));
    assert_eq!(world.asks("8.8.8.8"), netfilter);
    world.tell(Event::RouteGone(unicast("10.5.0.66/32", UPLINK)));
    world.tell(add(unicast("10.5.0.66/32", CALI)));
    world.tell(add(local("10.5.0.66/32")));
    assert_eq!(world.asks("8.8.8.8"), netfilter);

    world.tell(Event::RouteGone(local("10.5.0.66/32")));
    world.tell(Event::RouteGone(unicast("10.5.0.66/32", CALI)));
    world.tell(add(Route { nexthop: NonZeroU32::new(1), ..unicast("10.5.0.66/32", CALI) }));
    assert_eq!(world.asks("8.8.8.8"), REPLY);
    world.tell(Event::NexthopObject { id: 1, resilient: true });
    assert_eq!(world.asks("8.8.8.8"), netfilter, "nobody knows where such a route leads");

    world.tell(held_back("cali1", other));
    assert_eq!(world.asks("8.8.8.8"), REPLY, "another interface's");
    world.tell(held_back("cali0", other));
    assert_eq!(world.asks("8.8.8.8"), netfilter);
    world.tell(Event::DroppedReplies(Vec::new()));
    assert_eq!(world.asks("8.8.8.8"), REPLY);
}

#[test]
fn a_resync_after_any_history_leaves_the_same_tables() {
    let mut world = TestNode::new();
    for event in [
        add(local("10.50.0.0/16")),
        add(unicast("10.50.1.0/24", UPLINK)),
        Event::ArpNetfilter(ArpRules::unread("test")),
        Event::Proxies(vec![(0, POD)]),
        Event::LinkGone(UPLINK),
        neighbour(0x20),
    ] {
        world.tell(event);
    }
    let changes = world.mirror.resync(&world.attached, dump());
    world.tables.apply(&changes).unwrap();
    assert_eq!(world.asks("169.254.1.1"), REPLY);
    assert_eq!(world.asks("10.50.1.1"), REPLY);
    assert_eq!(world.mirror.interface_tables.proxies.len(), 0);
    assert_eq!(world.mirror.resync(&world.attached, dump()), [], "a second one changes nothing");
}

#[test]
fn an_interface_that_nobody_attached_to_is_not_in_the_tables() {
    let mut world = TestNode::new();
    world.attached.clear();
    world.tell(Event::ArpNetfilter(ArpRules::default()));
    assert_eq!(world.asks("8.8.8.8"), pass(Reason::INTERFACE_UNKNOWN));
    assert_eq!(world.mirror.neighbours(), 0);
    world.attached.insert(CALI);
    world.tell(Event::ArpNetfilter(ArpRules::default()));
    assert_eq!(world.asks("8.8.8.8"), REPLY);
}

#[test]
fn no_request_is_forwarded_to_a_device_without_ipv4_settings() {
    let mut world = TestNode::new();
    let bare = |known: bool| {
        let Event::Link(link) = uplink(|_, _| {}) else { unreachable!() };
        Event::Link(Link { settings: link.settings.filter(|_| known), ..link })
    };
    world.tell(bare(false));
    assert_eq!(world.asks("8.8.8.8"), pass(Reason::OPAQUE_ROUTE));
    assert_eq!(world.asks("10.77.0.1"), REPLY, "a local address is nobody's to forward");
    world.tell(bare(true));
    assert_eq!(world.asks("8.8.8.8"), REPLY);
}

#[test]
fn a_nexthop_object_that_routes_of_different_types_share_is_opaque() {
    let object = |id, route: Route| Route { nexthop: NonZeroU32::new(id), ..route };
    let opaque = pass(Reason::OPAQUE_ROUTE);
    let mut world = TestNode::new();
    world.tell(add(object(7, unicast("10.98.0.1/32", UPLINK))));
    world.tell(add(object(7, unicast("10.98.0.2/32", UPLINK))));
    assert_eq!(world.asks("10.98.0.1"), REPLY, "of one type");

    // Each of these makes the others' leaves opaque, and its going mends them.
    let by_uplink = |kind, to| route(if kind == RouteKind::Unicast { 254 } else { 255 }, to, kind, Some(UPLINK));
    for kind in [RouteKind::Local, RouteKind::Broadcast] {
        let other = object(7, by_uplink(kind, "10.99.0.1/32"));
        world.tell(add(other.clone()));
        assert_eq!(world.asks("10.98.0.1"), opaque, "{kind:?}");
        assert_eq!(world.asks("10.98.0.2"), opaque, "{kind:?}");
        if kind == RouteKind::Local {
            assert_eq!(world.asks("10.99.0.1"), opaque);
        }
        assert_eq!(world.asks("8.8.8.8"), REPLY, "a route without an object");
        world.tell(Event::RouteGone(other));
        assert_eq!(world.asks("10.98.0.1"), REPLY, "{kind:?}");
    }
    // By another next hop it is another object.
    let alone = object(8, local("10.99.0.1/32"));
    world.tell(add(alone.clone()));
    assert_eq!([world.asks("10.98.0.1"), world.asks("10.99.0.1")], [REPLY; 2]);
    // A group: any object may be among its members.
    let group = object(9, Route { oif: None, hops: [UPLINK, 9].into(), ..unicast("10.97.0.0/16", UPLINK) });
    world.tell(add(group.clone()));
    assert_eq!([world.asks("10.98.0.1"), world.asks("10.99.0.1")], [REPLY, opaque]);
    world.tell(Event::RouteGone(group));
    assert_eq!([world.asks("10.98.0.1"), world.asks("10.99.0.1")], [REPLY; 2]);
    // With nexthop_compat_mode 0 a route has nothing but its object's number.
    let untold = object(7, Route { oif: None, ..local("10.99.0.2/32") });
    world.tell(add(untold.clone()));
    assert_eq!([world.asks("10.98.0.1"), world.asks("10.99.0.2")], [opaque; 2]);
    world.tell(Event::RouteGone(untold));
    assert_eq!(world.asks("10.98.0.1"), REPLY);
    // Routes of an error's type keep nothing in it.
    world.tell(add(object(7, Route { kind: RouteKind::Blackhole, ..unicast("10.99.0.3/32", UPLINK) })));
    assert_eq!(world.asks("10.98.0.1"), REPLY);
}

#[test]
fn routes_by_an_interface_that_was_down_are_not_trusted_until_a_dump() {
    let mut world = TestNode::new();
    world.tell(uplink(|link, _| link.flags &= !1)).tell(Event::RoutesDoubted { ifindex: UPLINK, carrier: false });
    assert_eq!(world.asks("8.8.8.8"), pass(Reason::OPAQUE_ROUTE));
    world.tell(uplink(|_, _| {}));
    assert_eq!(world.asks("8.8.8.8"), pass(Reason::OPAQUE_ROUTE), "its routes may be gone");
    assert_eq!(world.asks("10.77.0.1"), REPLY, "others are not concerned");
    let attached = world.attached.clone();
    let dump = vec![local("10.77.0.1/32"), unicast("0.0.0.0/0", UPLINK), unicast("10.5.0.5/32", CALI)];
    let changes = world.mirror.replace_routes(&attached, dump);
    world.tables.apply(&changes).unwrap();
    assert_eq!(world.asks("8.8.8.8"), REPLY);
}

#[test]
fn a_lost_carrier_leaves_plain_routes_alone() {
    let lost = |ifindex| Event::RoutesDoubted { ifindex, carrier: true };
    assert_eq!(after([lost(UPLINK), lost(CALI)], "8.8.8.8"), REPLY);
    // With a nexthop object go its routes.
    let object =
        || Event::Route(Route { nexthop: NonZeroU32::new(5), ..unicast("8.8.8.0/24", UPLINK) }, Placement::First);
    assert_eq!(after([object(), lost(9)], "8.8.8.8"), REPLY);
    assert_eq!(after([object(), lost(UPLINK)], "8.8.8.8"), pass(Reason::OPAQUE_ROUTE));
    let mut world = TestNode::new();
    let local = Route { nexthop: NonZeroU32::new(5), oif: Some(UPLINK), ..local("8.8.8.8/32") };
    world.tell(add(local));
    let doubt = world.mirror.apply(&BTreeSet::from([CALI]), [lost(UPLINK)]);
    assert!(doubt.routes_in_doubt, "no slot stands for a local route");
}

#[test]
fn with_an_interface_go_its_routes_and_no_others() {
    let mut world = TestNode::new();
    world.tell(link(9, "u1", |_, _| {}));
    world.tell(add(unicast("8.8.8.8/32", 9))).tell(add(Route { metric: 7, ..unicast("8.8.8.8/32", UPLINK) }));
    world.tell(add(Route { nexthop: NonZeroU32::new(3), ..unicast("9.9.9.9/32", 9) }));
    let prefixes = world.mirror.prefixes();
    world.tell(Event::RoutesDoubted { ifindex: 9, carrier: false }).tell(Event::LinkGone(9));
    assert!(world.mirror.snapshot().doubted.is_empty(), "nothing is left to doubt");
    assert!(world.mirror.slots.of_interface(9).next().is_none());
    assert_eq!(world.mirror.prefixes(), prefixes - 1, "9.9.9.9 is gone");
    assert_eq!(world.asks("8.8.8.8"), REPLY, "by the uplink");
    // Another of the same index has none of them.
    world.tell(link(9, "u1", |link, _| link.link = None));
    assert!(world.mirror.slots.of_interface(9).next().is_none());
    // Of several next hops the mirror does not know which are gone.
    world.tell(add(Route { hops: [UPLINK, 9].into(), oif: None, ..unicast("7.7.7.7/32", 0) })).tell(Event::LinkGone(9));
    assert_eq!(world.asks("7.7.7.7"), pass(Reason::OPAQUE_ROUTE));
    assert!(world.mirror.snapshot().doubted.contains(&9));
}

#[test]
fn an_interface_that_is_to_be_read_again_blocks_itself_alone() {
    let stale = |ifindex, stale| Event::StaleSettings { ifindex, stale };
    assert_eq!(after([stale(CALI, true)], "8.8.8.8"), pass(Reason::INTERFACE_UNREAD));
    assert_eq!(after([stale(UPLINK, true)], "8.8.8.8"), pass(Reason::OPAQUE_ROUTE));
    assert_eq!(after([stale(UPLINK, true)], "10.77.0.1"), REPLY);
    assert_eq!(after([stale(9, true), stale(CALI, true), stale(CALI, false)], "8.8.8.8"), REPLY);
}

#[test]
fn an_interface_is_held_until_its_way_out_is_proved() {
    let held = |reason| Event::Blocked { ifindex: CALI, reason };
    assert_eq!(after([held(Some(Reason::SELF_TEST_PENDING))], "8.8.8.8"), pass(Reason::SELF_TEST_PENDING));
    assert_eq!(after([held(Some(Reason::PEER_DROPS_XDP)), held(None)], "8.8.8.8"), REPLY);
    let hooked = Event::ForeignTc { ifindex: CALI, found: ForeignTc::After };
    assert_eq!(
        after([held(Some(Reason::PEER_DROPS_XDP)), hooked], "8.8.8.8"),
        pass(Reason::INGRESS_HOOK),
        "what is seen first"
    );
    let another = [Event::LinkGone(CALI), cali(|_, _| {}), add(unicast("10.5.0.5/32", CALI))];
    let again = [held(Some(Reason::PEER_DROPS_XDP))].into_iter().chain(another);
    assert_eq!(after(again, "10.77.0.1"), pass(Reason::NEIGHBOUR_UNKNOWN), "another of that index is not");
}

#[test]
fn replies_go_right_to_the_peer_where_the_kernel_takes_them_and_no_program_misses_them() {
    let to_peer = |events: &[Event]| {
        let mut world = TestNode::new();
        for event in events {
            world.tell(event.clone());
        }
        world.mirror.iface(CALI).is_some_and(|iface| iface.has(Iface::TO_PEER))
    };
    let features = |features| Event::XdpFeatures { ifindex: CALI, features };
    let pod = || cali(|link, _| link.link_netnsid = Some(0));
    assert!(to_peer(&[pod(), features(Some(3))]));
    assert!(!to_peer(&[features(Some(3))]), "the other end is in this namespace");
    assert!(!to_peer(&[pod()]), "the kernel does not tell");
    assert!(!to_peer(&[pod(), features(Some(3 | NDO_XMIT))]), "the other end may have a program");
    assert!(!to_peer(&[pod(), features(Some(3)), features(None)]));
    let foreign = |found| Event::ForeignTc { ifindex: CALI, found };
    assert!(!to_peer(&[pod(), features(Some(3)), foreign(ForeignTc::Around)]), "it would miss the reply");
    assert!(to_peer(&[pod(), features(Some(3)), foreign(ForeignTc::Around), foreign(ForeignTc::None)]));
    let queue = |queues| Event::RootQdisc { ifindex: CALI, queues };
    assert!(!to_peer(&[pod(), features(Some(3)), queue(true)]), "the reply would not wait in it");
    assert!(to_peer(&[pod(), features(Some(3)), queue(true), queue(false)]));
    let nic = cali(|link, _| (link.kind, link.link_netnsid) = (None, Some(0)));
    assert!(!to_peer(&[nic, features(Some(3))]));
}

#[test]
fn views_that_have_grown_until_there_is_no_room_are_given_up() {
    const OTHER: [u8; 4] = [10, 5, 0, 6];
    let mut node = TestNode::new();
    let asks = |node: &TestNode, sender: [u8; 4]| {
        decide(&(&ArpFrame::request(POD_MAC, sender, [10, 9, 0, 7])).into(), CALI, &node.tables)
    };
    node.tell(Event::Neighbour(NeighbourEntry { ifindex: CALI, addr: OTHER.into(), state: 4, lladdr: Some(POD_MAC) }));
    let from = |sender: [u8; 4], table| RoutingRule { from: Some(Prefix::new(sender, 32)), ..lookup(100, table) };
    node.tell(with_rules([from(POD.octets(), 100), from(OTHER, 101)]));
    node.mirror.views.most = 40;
    let grow = |node: &mut TestNode, table, routes: std::ops::Range<u8>| {
        for number in routes {
            node.tell(add(route(table, &format!("10.{number}.0.0/16"), RouteKind::Unicast, Some(UPLINK))));
        }
    };
    grow(&mut node, 100, 9..19);
    grow(&mut node, 101, 9..12);
    assert_eq!([asks(&node, POD.octets()), asks(&node, OTHER)], [REPLY; 2], "there is room for both");
    grow(&mut node, 101, 12..39);
    let both = [asks(&node, POD.octets()), asks(&node, OTHER)];
    assert!(both.contains(&REPLY) && both.contains(&pass(Reason::OPAQUE_RULE)), "{both:?}");
    assert!(node.mirror.views.prefixes() <= 40, "{}", node.mirror.views.prefixes());
}
