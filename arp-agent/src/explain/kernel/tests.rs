//! The kernel's verdict over made-up states. What a live kernel does is in the lab's tests.

use super::*;
use crate::arp_rules::ArpRules;
use crate::event::{Address, Event, LocalAndMain, Placement, Route, RouteKind, RoutingRule};
use crate::explain::kernel_view::KernelView;
use crate::mirror::snapshot::Dirty;
use crate::mirror::tests::{CALI, POD, POD_MAC, cali, dump};

fn question(target: &str) -> Question {
    Question {
        interface: "cali0".into(),
        ifindex: CALI,
        target: target.parse().unwrap(),
        sender: POD,
        sender_mac: Lladdr::new(POD_MAC),
        destination: None,
    }
}

fn after(events: impl IntoIterator<Item = Event>) -> Snapshot {
    let view = KernelView::new(dump(), CALI).unwrap();
    let mut snapshot = view.snapshot().clone();
    events.into_iter().for_each(|event| snapshot.apply(event, &mut Dirty::default()));
    snapshot
}

fn verdict_with(
    beyond: &Beyond,
    lookup: &dyn KernelLookup,
    events: impl IntoIterator<Item = Event>,
    of: &Question,
) -> KernelVerdict {
    Kernel { snapshot: &after(events), beyond, lookup }.verdict(of)
}

fn verdict(events: impl IntoIterator<Item = Event>, of: &Question) -> KernelVerdict {
    verdict_with(&Beyond::default(), &(), events, of)
}

fn short(verdict: &KernelVerdict) -> (Answer, Option<&'static str>) {
    (verdict.answer, verdict.reason.map(Reason::name))
}

fn gone() -> Event {
    Event::NeighbourGone { ifindex: CALI, addr: POD }
}

#[test]
fn a_sender_that_is_not_learnt_changes_nothing() {
    let off = || cali(|_, settings| settings.proxy_arp = 0);
    let silent = verdict([gone(), off()], &question("8.8.8.8"));
    assert_eq!(short(&silent), (Answer::Silent, Some("proxy_arp_off")), "{silent:?}");
    let answers = verdict([gone()], &question("8.8.8.8"));
    assert_eq!(short(&answers), (Answer::Answers, None), "{answers:?}");
    assert!(answers.cause.what.starts_with("proxy_arp is 1 on cali0"), "{answers:?}");
}

#[test]
fn a_stranger_is_accepted_as_rp_filter_has_it() {
    let stranger = Question { sender: "9.9.9.9".parse().unwrap(), ..question("8.8.8.8") };
    assert_eq!(verdict([], &stranger).answer, Answer::Answers, "rp_filter is 0");
    let strict = verdict([cali(|_, settings| settings.rp_filter = 1)], &stranger);
    assert_eq!(short(&strict), (Answer::Silent, Some("sender_route")));
    assert!(strict.cause.what.starts_with("rp_filter is 1 on cali0"), "{strict:?}");
    // Only 1 is strict, and the kernel takes any number.
    let loose = || cali(|_, settings| settings.rp_filter = 3);
    let local = Ipv4Addr::new(10, 6, 0, 1);
    let numbered = Event::Address(Address { ifindex: CALI, local, peer: local, prefix_len: 24 });
    assert_eq!(verdict([loose()], &stranger).answer, Answer::Silent, "no address");
    assert_eq!(verdict([loose(), numbered], &stranger).answer, Answer::Answers);
}

/// Its local route is what the kernel looks at once there was a rule, and its address before: nobody can tell which it is.
#[test]
fn an_own_address_without_its_local_route_is_left_open_as_a_sender() {
    let own = Ipv4Addr::new(10, 77, 0, 1);
    let address = || Event::Address(Address { ifindex: 1, local: own, peer: own, prefix_len: 32 });
    let route = || {
        let other =
            after([]).routes.table(255).and_then(|table| table.all().find(|route| route.prefix.len == 32).cloned());
        Route { prefix: Prefix::new(own.octets(), 32), ..other.unwrap() }
    };
    let from_own = Question { sender: own, ..question("8.8.8.8") };
    let local = || Event::Route(route(), Placement::Last);
    assert_eq!(short(&verdict([address(), local()], &from_own)), (Answer::Silent, Some("sender_route")));
    let open = verdict([address(), local(), Event::RouteGone(route())], &from_own);
    assert_eq!(open.answer, Answer::Undecided, "{open:?}");
}

/// A kernel that says the same of every packet, and of no nexthop object.
struct Says(LookedUp);

impl KernelLookup for Says {
    fn input(&self, _: u32, _: Ipv4Addr, _: Ipv4Addr) -> Option<LookedUp> {
        Some(self.0.clone())
    }

    fn output(&self, _: Option<u32>, _: Ipv4Addr, _: Ipv4Addr) -> Option<LookedUp> {
        Some(self.0.clone())
    }

    fn next_hops(&self, _: u32) -> Option<Vec<u32>> {
        None
    }
}

/// A kernel that tells nothing but what a nexthop object leads to.
struct Leads(Vec<u32>);

impl KernelLookup for Leads {
    fn input(&self, _: u32, _: Ipv4Addr, _: Ipv4Addr) -> Option<LookedUp> {
        None
    }

    fn output(&self, _: Option<u32>, _: Ipv4Addr, _: Ipv4Addr) -> Option<LookedUp> {
        None
    }

    fn next_hops(&self, object: u32) -> Option<Vec<u32>> {
        (object == 4).then(|| self.0.clone())
    }
}

#[test]
fn where_the_mirror_ends_the_kernel_is_asked() {
    let unknown = || Event::Rules(vec![RoutingRule { priority: 7, unknown: true, ..RoutingRule::default() }]);
    let open = verdict([unknown()], &question("8.8.8.8"));
    assert_eq!(short(&open), (Answer::Undecided, Some("opaque_rule")), "a file has no kernel to ask");
    let route = after([]).routes.table(254).and_then(|table| table.all().find(|route| route.prefix.len == 0).cloned());
    let says = Says(LookedUp::Route(route.unwrap()));
    let answers = verdict_with(&Beyond::default(), &says, [unknown()], &question("8.8.8.8"));
    assert_eq!(answers.answer, Answer::Answers, "{answers:?}");
    let refused = Says(LookedUp::Refused("No route to host".into()));
    let silent = verdict_with(&Beyond::default(), &refused, [unknown()], &question("8.8.8.8"));
    assert_eq!(silent.answer, Answer::Silent);
    assert!(silent.cause.what.contains("No route to host"), "{silent:?}");
}

#[test]
fn a_chain_can_only_take_an_answer_away() {
    let chain = || Event::ArpNetfilter(ArpRules::unread("test"));
    assert_eq!(short(&verdict([chain()], &question("8.8.8.8"))), (Answer::Undecided, Some("arp_netfilter")));
    let off = cali(|_, settings| settings.forwarding = 0);
    assert_eq!(verdict([chain(), off], &question("8.8.8.8")).answer, Answer::Silent);
}

#[test]
fn a_program_of_others_can_do_anything_with_an_answer() {
    let beyond = Beyond { program: Some("program `x` (id 7)".into()), ..Beyond::default() };
    let open = verdict_with(&beyond, &(), [], &question("8.8.8.8"));
    assert_eq!(open.answer, Answer::Undecided);
    assert!(
        open.cause.what.contains("program `x`") && open.cause.what.contains("without that it would answer"),
        "{open:?}"
    );
    let off = cali(|_, settings| settings.proxy_arp = 0);
    assert_eq!(verdict_with(&beyond, &(), [off], &question("8.8.8.8")).answer, Answer::Silent);
}

#[test]
fn next_hops_that_differ_answer_some_of_the_time() {
    let route = |hops: &[u32]| {
        let other =
            after([]).routes.table(254).and_then(|table| table.all().find(|route| route.prefix.len == 0).cloned());
        let prefix = Prefix::new([8, 8, 8, 0], 24);
        Event::Route(Route { prefix, oif: None, gateway: None, hops: hops.into(), ..other.unwrap() }, Placement::Last)
    };
    const UPLINK: u32 = 3;
    let both = verdict([route(&[UPLINK, CALI])], &question("8.8.8.8"));
    assert_eq!(short(&both), (Answer::Sometimes, Some("opaque_route")));
    assert!(both.cause.what.contains("answered by eth0, silent by cali0"), "{both:?}");
    assert_eq!(verdict([route(&[UPLINK, UPLINK])], &question("8.8.8.8")).answer, Answer::Answers);
    assert_eq!(verdict([route(&[CALI, CALI])], &question("8.8.8.8")).answer, Answer::Silent);
}

/// With `nexthop_compat_mode` 0 a route has nothing but its object's number.
#[test]
fn next_hops_that_a_route_does_not_tell_are_those_of_its_object() {
    const UPLINK: u32 = 3;
    const GONE: u32 = 99;
    let route = || {
        let other =
            after([]).routes.table(254).and_then(|table| table.all().find(|route| route.prefix.len == 0).cloned());
        let prefix = Prefix::new([8, 8, 8, 0], 24);
        let nexthop = std::num::NonZeroU32::new(4);
        Event::Route(Route { prefix, oif: None, gateway: None, nexthop, ..other.unwrap() }, Placement::Last)
    };
    let of = |legs: &[u32]| verdict_with(&Beyond::default(), &Leads(legs.into()), [route()], &question("8.8.8.8"));
    let both = of(&[UPLINK, CALI]);
    assert_eq!(short(&both), (Answer::Sometimes, Some("opaque_route")));
    assert!(both.cause.what.contains("answered by eth0, silent by cali0"), "{both:?}");
    assert_eq!(of(&[UPLINK, UPLINK]).answer, Answer::Answers);
    assert_eq!(of(&[CALI]).answer, Answer::Silent);
    // The kernel skips a route none of whose next hops is up: what it finds then is its own to say.
    assert_eq!(short(&of(&[GONE])), (Answer::Undecided, Some("opaque_route")));
    assert_eq!(short(&of(&[])), (Answer::Undecided, Some("opaque_route")));
}

/// `fib_lookup` (include/net/ip_fib.h) looks at main, and then at default: while local is a part of main, there is no second
/// look at main.
#[test]
fn a_throw_route_of_table_local_ends_the_one_lookup_that_there_is() {
    let throw = || {
        let other =
            after([]).routes.table(254).and_then(|table| table.all().find(|route| route.prefix.len == 0).cloned());
        let prefix = Prefix::new([8, 8, 8, 0], 24);
        let route = Route { table: 255, prefix, oif: None, gateway: None, kind: RouteKind::Throw, ..other.unwrap() };
        Event::Route(route, Placement::Last)
    };
    let is = |state| Event::LocalAndMain(Some(state));
    let merged = verdict([is(LocalAndMain::Merged), throw()], &question("8.8.8.8"));
    assert_eq!(short(&merged), (Answer::Silent, Some("no_route")), "{merged:?}");
    let split = verdict([is(LocalAndMain::Split), throw()], &question("8.8.8.8"));
    assert_eq!(short(&split), (Answer::Answers, None), "{split:?}");
}

#[test]
fn a_port_is_as_its_master_lets_it() {
    const MASTER: u32 = 9;
    let master = |kind: &str, ports_differ| {
        let link = after([]).links[&CALI].clone();
        let (name, kind) = ("br0".to_owned(), Some(kind.to_owned()));
        Event::Link(Link { ifindex: MASTER, name, kind, ports_differ, ..link })
    };
    let port = |forwards| cali(|link, _| (link.master, link.forwards) = (Some(MASTER), forwards));
    let of = |kind, ports_differ, forwards| {
        let delays = Event::ProxyDelays(vec![(MASTER, 0), (CALI, 0)]);
        let verdict = verdict([master(kind, ports_differ), delays, port(forwards)], &question("8.8.8.8"));
        (verdict.answer, verdict.cause.what)
    };
    assert_eq!(of("bridge", false, Some(true)).0, Answer::Answers);
    let blocked = of("bridge", false, Some(false));
    assert!(blocked.0 == Answer::Silent && blocked.1.contains("it does not"), "{blocked:?}");
    assert_eq!(of("bridge", true, Some(true)).0, Answer::Undecided, "its VLAN filter is not followed");
    let backup = of("bond", false, Some(false));
    assert!(backup.0 == Answer::Silent && backup.1.contains("backup port of br0"), "{backup:?}");
    assert_eq!(of("bond", true, Some(false)).0, Answer::Answers, "all_slaves_active");
    assert_eq!(of("openvswitch", false, None).0, Answer::Undecided);
}

/// `eth_type_trans` (net/ethernet/eth.c) judges by the device that a frame comes in on; a bridge looks again.
#[test]
fn a_frame_to_the_port_itself_is_for_its_master_too() {
    const MASTER: u32 = 9;
    const MASTER_MAC: [u8; 6] = [2, 0, 0, 0, 0xbb, 1];
    let of = |kind: &str, to: [u8; 6]| {
        let link = after([]).links[&CALI].clone();
        let (name, kind) = ("br0".to_owned(), Some(kind.to_owned()));
        let master = Link { ifindex: MASTER, name, kind, mac: Some(MASTER_MAC), ..link };
        let port = cali(|link, _| (link.master, link.forwards) = (Some(MASTER), Some(true)));
        let delays = Event::ProxyDelays(vec![(MASTER, 0), (CALI, 0)]);
        let asked = Question { destination: Some(Lladdr::new(to)), ..question("8.8.8.8") };
        verdict([Event::Link(master), delays, port], &asked).answer
    };
    let port = after([]).links[&CALI].mac.unwrap();
    for kind in ["bridge", "bond"] {
        assert_eq!(of(kind, port), Answer::Answers, "{kind}");
        assert_eq!(of(kind, [2, 0, 0, 0, 0xcc, 1]), Answer::Silent, "{kind}");
    }
    assert_eq!(of("bridge", MASTER_MAC), Answer::Answers);
    assert_eq!(of("bond", MASTER_MAC), Answer::Silent);
}

/// `br_handle_frame` (net/bridge/br_input.c, 6.18) begins with that.
#[test]
fn a_bridge_takes_nothing_from_what_is_no_address_of_a_host() {
    const MASTER: u32 = 9;
    let of = |kind: &str, from: [u8; 6]| {
        let link = after([]).links[&CALI].clone();
        let (name, kind) = ("br0".to_owned(), Some(kind.to_owned()));
        let master = Link { ifindex: MASTER, name, kind, ..link };
        let port = cali(|link, _| (link.master, link.forwards) = (Some(MASTER), Some(true)));
        let delays = Event::ProxyDelays(vec![(MASTER, 0), (CALI, 0)]);
        let asked = Question { sender_mac: Lladdr::new(from), ..question("8.8.8.8") };
        verdict([Event::Link(master), delays, port], &asked).answer
    };
    for from in [[0; 6], [3, 0, 0, 0, 0, 1]] {
        assert_eq!((of("bridge", from), of("bond", from)), (Answer::Silent, Answer::Answers), "{from:?}");
    }
    assert_eq!(of("bridge", POD_MAC), Answer::Answers);
}

/// Tunnels and the like (`arp_process`, net/ipv4/arp.c: never for a device with IFF_NOARP).
#[test]
fn a_device_without_arp_is_silent_whatever_it_is() {
    let tunnel = cali(|link, _| (link.hardware_type, link.mac, link.flags) = (65534, None, link.flags | IFF_NOARP));
    assert_eq!(short(&verdict([tunnel], &question("8.8.8.8"))), (Answer::Silent, Some("interface_noarp")));
}

#[test]
fn a_state_in_which_two_devices_are_ports_of_each_other_has_an_end() {
    let mut other = after([]).links[&CALI].clone();
    (other.ifindex, other.master, other.kind) = (9, Some(CALI), Some("bridge".into()));
    let port = cali(|link, _| (link.master, link.kind) = (Some(9), Some("bridge".into())));
    assert_eq!(verdict([Event::Link(other), port], &question("8.8.8.8")).answer, Answer::Undecided);
}

#[test]
fn who_says_a_setting_is_named() {
    let snapshot = after([cali(|_, settings| {
        settings.rp_filter = 1;
        settings.proxy_arp = 0;
    })]);
    let link = &snapshot.links[&CALI];
    let cause = |key| InterfaceSetting::of(&snapshot, link, key).cause("");
    assert_eq!(cause(names::RP_FILTER).what, "rp_filter is 1 on cali0 (`all` has 0)");
    assert_eq!(cause(names::RP_FILTER).place.as_deref(), Some("/proc/sys/net/ipv4/conf/cali0/rp_filter"));
    assert_eq!(cause(names::PROXY_ARP).what, "proxy_arp is 0 on cali0 and in `all`");
    assert_eq!(cause(names::FORWARDING).what, "forwarding is 1 on cali0 (that of `all` does not count)");
}
