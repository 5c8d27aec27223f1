//! Routes, next hops and rules.

use super::ELSEWHERE as T;
use crate::matrix::Ask::For;
use crate::matrix::Expect::{Fast, Passed, Silent, SilentForOneOf};
use crate::matrix::{Expect, UPLINK_IP, X, ask, rows, when};

const BACK: Expect = Silent("pvlan_off");
const NEVER: Expect = Silent("unanswerable_route");
const NO_ROUTE: Expect = Silent("no_route");

rows! {
    a_route_is_followed_when_added_replaced_and_removed: [
        when(&["route add 10.30.0.0/16 dev v0"], For(T), BACK),
        when(&["route add 10.30.0.1/32 via 10.9.0.254"], For(T), Fast),
        when(&["route replace unreachable 10.30.0.1/32"], For(T), NEVER),
        when(&["route replace 10.30.0.1/32 dev u0"], For(T), Fast),
        when(&["route replace blackhole 10.30.0.1/32"], For(T), NEVER),
        when(&["route del 10.30.0.1/32"], For(T), BACK),
        when(&["route replace 10.30.0.0/16 dev u0"], For(T), Fast),
        when(&["route del 10.30.0.0/16"], For(T), Fast),
        when(&["route del default"], For(T), NO_ROUTE),
        when(&["route add default via 10.9.0.254"], For(T), Fast),
    ];
    // Both legs give the same verdict, so that the kernel's choice cannot differ between the labs.
    a_multipath_route_is_followed: [
        when(&["route add 10.30.0.0/16 nexthop via 10.9.0.254 nexthop via 10.9.0.253"], For(T), Fast),
        when(&["route replace 10.30.0.0/16 nexthop via 10.9.0.254 nexthop dev v0"], For(T), Passed("opaque_route")),
        when(&["route del 10.30.0.0/16"], For(T), Fast),
    ];
    a_nexthop_object_is_followed_when_replaced_and_deleted: [
        when(&["nexthop add id 7 via 10.9.0.254 dev u0", "route add 10.30.0.0/16 nhid 7"], For(T), Fast),
        when(&["nexthop replace id 7 dev v0"], For(T), BACK),
        when(&["nexthop replace id 7 blackhole"], For(T), NEVER),
        when(&["nexthop replace id 7 dev u0"], For(T), Fast),
        // Its routes go with it, unnoticed; the default route answers then.
        when(&["nexthop del id 7"], For(T), Fast),
        when(&["route del default"], For(T), NO_ROUTE),
    ];
    a_rule_and_the_table_that_it_names_are_followed: [
        when(&["rule add from 10.5.0.5 lookup 100"], For(X), Fast),
        when(&["route add unreachable 10.9.0.9 table 100"], For(X), Silent("unanswerable_route")),
        when(&["rule del from 10.5.0.5 lookup 100"], For(X), Fast),
    ];
    // Its address stays the node's; the connected route comes back, the default route does not.
    an_uplink_down_takes_its_routes_along: [
        ask(For(X), Fast),
        when(&["link set u0 down"], For(X), NO_ROUTE), ask(For(UPLINK_IP), Fast),
        when(&["link set u0 up"], For(X), Fast), ask(For(T), NO_ROUTE),
    ];
    // K109, K110.
    an_uplink_without_carrier_counts_unless_ignored: [
        when(&["unplug external"], For(X), Fast),
        when(&["u0.ignore_routes_with_linkdown=1"], For(X), SilentForOneOf(&["opaque_route", "no_route"])),
        when(&["plug external"], For(X), Fast),
    ];
}
