//! §12.5: routes.

use super::Ask::For;
use super::Expect::{Fast, Kernel, Passed, Silent, SilentForOneOf};
use super::{X, ask, rows, when};

/// A target that only the default route covers at first.
const T: [u8; 4] = [10, 30, 0, 1];

const NEVER: super::Expect = Silent("unanswerable_route");
const TWO_WAYS: &str = "route replace 10.30.0.0/16 nexthop dev v0 nexthop via 10.9.0.254 dev u0";
/// The same on both nodes, so that their hashes agree. Before 6.11 the machine has one for all.
const SEED: &str = "?/net/ipv4/fib_multipath_hash_seed=7";

/// A device that may have an MTU below 68 bytes.
const OTHER_DEVICE: &str = "link add b0 type ifb";
/// A target of a unicast route with a nexthop object, and one of a local route with the same object.
const OF_OBJECT: [u8; 4] = [10, 98, 0, 1];
const LOCAL_BY_OBJECT: [u8; 4] = [10, 99, 0, 1];
const LOCAL_OF_OBJECT: &str = "route add local 10.99.0.1 nhid 7 table local";

rows! {
    k102_unreachable_blackhole_and_prohibit: [
        when(&["route add unreachable 10.30.0.0/16"], For(T), NEVER),
        when(&["route replace blackhole 10.30.0.0/16"], For(T), NEVER),
        when(&["route replace prohibit 10.30.0.0/16"], For(T), NEVER),
    ];
    k103_throw_and_a_default_route_in_the_next_table: [
        when(&["route add throw 10.30.0.0/16"], For(T), Silent("no_route")),
        when(&["route add default via 10.9.0.254 table default"], For(T), Fast),
    ];
    k104_broadcast_multicast_and_anycast_in_main: [
        when(&["route add broadcast 10.30.0.1 dev u0"], For(T), NEVER),
        when(&["route del broadcast 10.30.0.1 dev u0", "route add multicast 10.30.0.1 dev u0"], For(T), NEVER),
        when(&["route del multicast 10.30.0.1 dev u0", "route add anycast 10.30.0.1 dev u0"], For(T), NEVER),
    ];
    k105_only_a_route_with_a_tos: [
        when(&["route add 10.30.0.0/16 tos 0x10 via 10.9.0.254", "route del default"], For(T), Silent("no_route")),
    ];
    k106_unusual_next_hops: [
        when(&["route add 10.30.0.0/16 via 10.99.99.99 dev u0 onlink"], For(T), Fast),
        when(&["route replace 10.30.0.0/16 dev lo"], For(T), Fast),
        when(
            &["/net/ipv6/conf/u0/disable_ipv6=0", "route replace 10.30.0.0/16 via inet6 fe80::1 dev u0"],
            For(T),
            Fast,
        ),
    ];
    k107_an_encapsulating_route: [
        when(&["route add 10.30.0.0/16 encap ip id 1 dst 10.9.0.7 dev u0"], For(T), Fast),
    ];
    k108_only_the_lower_metric_goes_back: [
        when(
            &["route add 10.30.0.0/16 dev v0 metric 5", "route add 10.30.0.0/16 dev u0 metric 6"],
            For(T),
            Silent("pvlan_off"),
        ),
        when(&["route del 10.30.0.0/16 dev v0 metric 5"], For(T), Fast),
    ];
    k109_an_uplink_without_carrier: [when(&["unplug external"], For(X), Fast)];
    k110_such_routes_are_ignored: [
        when(&["unplug external", "u0.ignore_routes_with_linkdown=1"], For(X), Silent("opaque_route")),
        when(
            &["u0.ignore_routes_with_linkdown=0", "all.ignore_routes_with_linkdown=1"],
            For(X),
            Silent("opaque_route"),
        ),
    ];
    k111_such_routes_are_ignored_on_the_ingress_interface: [
        when(&["unplug external", "v0.ignore_routes_with_linkdown=1"], For(X), Fast),
    ];
    k112_an_ignored_route_and_the_next_metric_goes_back: [
        when(
            &[
                "route add 10.30.0.0/16 dev u0 metric 10",
                "route add 10.30.0.0/16 dev v0 metric 20",
                "unplug external",
                "all.ignore_routes_with_linkdown=1",
            ],
            For(T),
            Silent("opaque_route"),
        ),
    ];
    k113_an_uplink_that_is_down_takes_its_routes_along: [when(&["link set u0 down"], For(X), Silent("no_route"))];
    k114_multipath_back_and_forth: [when(&[SEED, TWO_WAYS], For(T), Passed("opaque_route"))];
    k115_multipath_by_the_uplink_alone: [
        when(
            &[SEED, "route add 10.30.0.0/16 nexthop via 10.9.0.254 nexthop via 10.9.0.253"],
            For(T),
            Fast,
        ),
    ];
    k116_multipath_back_and_forth_with_pvlan: [
        when(&[SEED, TWO_WAYS, "v0.proxy_arp_pvlan=1"], For(T), Kernel("opaque_route")),
    ];
    k117_a_nexthop_object_that_is_replaced: [
        when(&["nexthop add id 1 via 10.9.0.254 dev u0", "route add 10.30.0.0/16 nhid 1"], For(T), Fast),
        when(&["nexthop replace id 1 dev v0"], For(T), Silent("pvlan_off")),
    ];
    k118_a_blackhole_object_and_a_group: [
        when(&["nexthop add id 3 blackhole", "route add 10.30.0.0/16 nhid 3"], For(T), NEVER),
        when(
            &[
                SEED,
                "nexthop add id 1 dev v0",
                "nexthop add id 2 via 10.9.0.254 dev u0",
                "nexthop add id 9 group 1/2",
                "route replace 10.30.0.0/16 nhid 9",
            ],
            For(T),
            Passed("opaque_route"),
        ),
    ];
    k119_a_nexthop_object_goes_with_the_carrier: [
        when(
            &["route del default", "nexthop add id 1 via 10.9.0.254 dev u0", "route add 10.30.0.0/16 nhid 1"],
            For(T),
            Fast,
        ),
        // Until the routes have been read again, they are left to the kernel.
        when(&["unplug external"], For(T), SilentForOneOf(&["opaque_route", "no_route"])),
        when(&["plug external"], For(T), SilentForOneOf(&["opaque_route", "no_route"])),
        when(&["pause 400"], For(X), Fast),
    ];
    k305_a_route_by_a_device_without_ipv4_settings: [
        when(&[OTHER_DEVICE, "link set b0 up", "route add 10.30.0.0/16 dev b0"], For(T), Fast),
        // Below 68 bytes the device has no IPv4 any more; its routes stay.
        when(&["link set b0 mtu 60"], For(T), Silent("opaque_route")),
        when(&["v0.medium_id=2"], For(T), Silent("opaque_route")),
        when(&["v0.medium_id=0", "link set b0 mtu 1500"], For(T), Fast),
    ];
    k306_one_of_several_ways_is_by_such_a_device: [
        when(
            &[
                SEED,
                OTHER_DEVICE,
                "link set b0 up",
                "route add 10.30.0.0/16 nexthop via 10.9.0.254 dev u0 nexthop dev b0",
                "link set b0 mtu 60",
            ],
            For(T),
            Passed("opaque_route"),
        ),
    ];
    // What the kernel keeps of the first answer decides the later ones (proxy_arp is off).
    k307_an_object_of_local_and_unicast_routes: [
        when(
            &[
                "v0.proxy_arp=0",
                "nexthop add id 7 dev u0",
                "route add 10.98.0.1 nhid 7",
            ],
            For(OF_OBJECT),
            Silent("proxy_arp_off"),
        ),
        when(&[LOCAL_OF_OBJECT], For(OF_OBJECT), Silent("opaque_route")),
        ask(For(LOCAL_BY_OBJECT), Silent("opaque_route")),
        // A change of the routes clears what is kept.
        when(&["route add 10.97.0.1 dev u0"], For(LOCAL_BY_OBJECT), Kernel("opaque_route")),
        ask(For(OF_OBJECT), Kernel("opaque_route")),
        when(&["route del 10.98.0.1 nhid 7"], For(LOCAL_BY_OBJECT), Fast),
        when(&["nexthop add id 8 dev v0", "route add 10.98.0.1 nhid 8"], For(LOCAL_BY_OBJECT), Fast),
    ];
    k308_an_object_of_broadcast_and_unicast_routes: [
        when(&["nexthop add id 7 dev u0", "route add 10.98.0.1 nhid 7"], For(OF_OBJECT), Fast),
        when(&["route add broadcast 10.99.0.9 nhid 7 table local scope link"], For(OF_OBJECT), Passed("opaque_route")),
        when(&["route del broadcast 10.99.0.9 nhid 7 table local"], For(OF_OBJECT), Fast),
    ];
    k309_a_group_with_such_a_member: [
        when(
            &[
                SEED,
                "nexthop add id 7 dev u0",
                "nexthop add id 8 via 10.9.0.253 dev u0",
                "nexthop add id 9 group 7/8",
                LOCAL_OF_OBJECT,
                "route add 10.98.0.0/16 nhid 9",
            ],
            For(OF_OBJECT),
            Passed("opaque_route"),
        ),
        ask(For(LOCAL_BY_OBJECT), Passed("opaque_route")),
        // A group of one looks like its member.
        when(&["nexthop replace id 9 group 7"], For(LOCAL_BY_OBJECT), Passed("opaque_route")),
        ask(For(OF_OBJECT), Passed("opaque_route")),
        when(&["route del 10.98.0.0/16 nhid 9"], For(LOCAL_BY_OBJECT), Fast),
    ];
}
