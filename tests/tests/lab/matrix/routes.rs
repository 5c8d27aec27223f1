//! 12.5: routes. K108, K113, K115 and K117 are also in `changes`.

use anyhow::Result;
use tests::needs_root;

use super::Ask::For;
use super::Expect::{Answered, Fast, Kernel, KernelForAnyReason, Passed, Silent, SilentForAnyReason};
use super::{X, check, when};

/// A target that only the default route covers at first.
const T: [u8; 4] = [10, 30, 0, 1];

#[test]
fn k102_to_k105_routes_that_do_not_forward() -> Result<()> {
    needs_root!();
    let unanswerable = Silent("unanswerable_route");
    check(&[
        when("K102 unreachable", &["route add unreachable 10.30.0.0/16"], &[], For(T), unanswerable),
        when("K102 blackhole", &["route replace blackhole 10.30.0.0/16"], &[], For(T), unanswerable),
        when(
            "K102 prohibit",
            &["route replace prohibit 10.30.0.0/16"],
            &["route del prohibit 10.30.0.0/16"],
            For(T),
            unanswerable,
        ),
        when(
            "K104 broadcast",
            &["route add broadcast 10.30.0.1 dev u0"],
            &["route del broadcast 10.30.0.1 dev u0"],
            For(T),
            SilentForAnyReason,
        ),
        when(
            "K104 multicast",
            &["route add multicast 10.30.0.1 dev u0"],
            &["route del multicast 10.30.0.1 dev u0"],
            For(T),
            SilentForAnyReason,
        ),
        when(
            "K104 anycast",
            &["route add anycast 10.30.0.1 dev u0"],
            &["route del anycast 10.30.0.1 dev u0"],
            For(T),
            SilentForAnyReason,
        ),
        when("K103 throw", &["route add throw 10.30.0.0/16"], &[], For(T), SilentForAnyReason),
        when(
            "K103 throw, a default in table default",
            &["route add default via 10.9.0.254 table default"],
            &["route del throw 10.30.0.0/16"],
            For(T),
            KernelForAnyReason,
        ),
        when(
            "K105 tos only",
            &["route del default", "route del default table default", "route add 10.30.0.0/16 tos 0x10 via 10.9.0.254"],
            &[],
            For(T),
            SilentForAnyReason,
        ),
    ])
}

#[test]
fn k106_and_k107_kinds_of_next_hop() -> Result<()> {
    needs_root!();
    check(&[
        when(
            "K106 onlink",
            &["route add 10.30.0.0/16 via 10.99.99.99 dev u0 onlink"],
            &["route del 10.30.0.0/16"],
            For(T),
            Fast,
        ),
        when("K106 by lo", &["route add 10.30.0.0/16 dev lo"], &["route del 10.30.0.0/16"], For(T), Fast),
        when(
            "K106 an IPv6 next hop",
            &["/net/ipv6/conf/u0/disable_ipv6=0", "route add 10.30.0.0/16 via inet6 fe80::1 dev u0"],
            &["route del 10.30.0.0/16"],
            For(T),
            Fast,
        ),
    ])
}

#[test]
fn k107_an_encapsulating_route() -> Result<()> {
    needs_root!();
    check(&[when(
        "K107",
        &["route add 10.30.0.0/16 encap ip id 1 dst 10.9.0.7 dev u0"],
        &[],
        For(T),
        Kernel("opaque_route"),
    )])
}

#[test]
fn k108_two_metrics() -> Result<()> {
    needs_root!();
    check(&[
        when(
            "K108 the lower one goes back",
            &["route add 10.30.0.0/16 dev v0 metric 5", "route add 10.30.0.0/16 dev u0 metric 6"],
            &[],
            For(T),
            Silent("pvlan_off"),
        ),
        when("K108 the other one", &["route del 10.30.0.0/16 dev v0 metric 5"], &[], For(T), Fast),
    ])
}

#[test]
fn k109_to_k113_the_uplink_s_state() -> Result<()> {
    needs_root!();
    check(&[
        when("K109 no carrier", &["unplug external"], &[], For(X), Answered),
        when("K111 ignored on v0 only", &["v0.ignore_routes_with_linkdown=1"], &[], For(X), Answered),
        when("K110 ignored on u0", &["u0.ignore_routes_with_linkdown=1"], &[], For(X), SilentForAnyReason),
        when(
            "K110 ignored on all",
            &["u0.ignore_routes_with_linkdown=0", "all.ignore_routes_with_linkdown=1"],
            &[],
            For(X),
            SilentForAnyReason,
        ),
        when(
            "K112 the next metric goes back",
            &["route add 10.30.0.0/16 dev u0 metric 10", "route add 10.30.0.0/16 dev v0 metric 20"],
            &["plug external", "route flush 10.30.0.0/16"],
            For(T),
            SilentForAnyReason,
        ),
        when("K113 down", &["link set u0 down"], &[], For(X), Silent("no_route")),
    ])
}

#[test]
fn k114_to_k116_multipath() -> Result<()> {
    needs_root!();
    const TWO_WAYS: &[&str] = &["route replace 10.30.0.0/16 nexthop dev v0 nexthop via 10.9.0.254 dev u0"];
    check(&[
        // The same seed on both nodes, so that their hashes agree. Before 6.11 the machine has one for all.
        when("seed", &["?/net/ipv4/fib_multipath_hash_seed=7"], &[], For(X), Fast),
        when(
            "K115 both legs by the uplink",
            &["route add 10.30.0.0/16 nexthop via 10.9.0.254 nexthop via 10.9.0.253"],
            &[],
            For(T),
            Answered,
        ),
        when("K114 the sender decides which way", TWO_WAYS, &[], For(T), Passed),
        when("K116 pvlan", &["v0.proxy_arp_pvlan=1"], &["v0.proxy_arp_pvlan=0"], For(T), Answered),
    ])
}

#[test]
fn k117_to_k119_nexthop_objects() -> Result<()> {
    needs_root!();
    check(&[
        when(
            "K117 single",
            &["nexthop add id 1 via 10.9.0.254 dev u0", "route add 10.30.0.0/16 nhid 1"],
            &[],
            For(T),
            Fast,
        ),
        when("K117 replaced", &["nexthop replace id 1 dev v0"], &[], For(T), Silent("pvlan_off")),
        when("K118 blackhole", &["nexthop replace id 1 blackhole"], &[], For(T), Silent("unanswerable_route")),
        when(
            "K118 group",
            &[
                "nexthop replace id 1 via 10.9.0.254 dev u0",
                "nexthop add id 2 via 10.9.0.253 dev u0",
                "nexthop add id 9 group 1/2",
                "route replace 10.30.0.0/16 nhid 9",
            ],
            &[],
            For(T),
            Answered,
        ),
        when("K119 carrier loss", &["route del default", "unplug external"], &[], For(T), SilentForAnyReason),
    ])
}
