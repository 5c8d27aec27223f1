//! §12.5: source validation.

use super::Ask::{For, From};
use super::Expect::{Fast, Kernel, Silent};
use super::{L, X, Y, ask, rows, when};

/// Senders that the node routes by its uplink: one of the subnet, its broadcast address, one behind the router.
const BY_UPLINK: [u8; 4] = [10, 9, 0, 77];
const BROADCAST: [u8; 4] = [10, 9, 0, 255];
const FAR: [u8; 4] = [10, 44, 0, 1];

// The kernel has no neighbour entry for any of them, and makes none for one that it refuses.
const REFUSED: super::Expect = Silent("neighbour_unknown");
const LEARNT: super::Expect = Kernel("neighbour_unknown");

rows! {
    k124_any_rp_filter_accepts_a_sender_routed_back: [
        when(&["v0.rp_filter=1"], For(L), Fast),
        ask(For(X), Fast),
        when(&["v0.rp_filter=2"], For(L), Fast),
        ask(For(X), Fast),
    ];
    k125_strict_and_the_sender_is_routed_elsewhere: [when(&["v0.rp_filter=1"], From(BY_UPLINK, L), REFUSED)];
    k126_loose_without_an_address: [when(&["v0.rp_filter=2"], From(BY_UPLINK, L), REFUSED)];
    k127_loose_with_an_address: [
        when(&["v0.rp_filter=2", "addr add 10.60.0.1/24 dev v0"], From(BY_UPLINK, L), LEARNT),
    ];
    k128_loose_with_an_address_and_no_route: [
        when(&["v0.rp_filter=2", "addr add 10.60.0.1/24 dev v0", "route del default"], From(FAR, L), REFUSED),
    ];
    k129_off_and_no_route_or_a_blackhole: [
        when(&["route del default"], From(FAR, L), LEARNT),
        when(&["route add blackhole 10.44.0.0/16"], From(FAR, L), Fast),
    ];
    k130_strict_for_all: [when(&["all.rp_filter=1"], From(BY_UPLINK, L), REFUSED)];
    k131_a_broadcast_address_as_sender: [ask(From(BROADCAST, L), LEARNT)];
    k132_a_broadcast_sender_after_a_local_route: [
        when(&["route add local 10.88.0.0/24 dev lo"], From(BROADCAST, L), REFUSED),
        when(&["route del local 10.88.0.0/24 dev lo"], From(BROADCAST, L), REFUSED),
    ];
    k132_a_broadcast_sender_after_a_rule: [
        when(&["rule add to 1.2.3.4 lookup 99"], From(BROADCAST, L), REFUSED),
        when(&["rule del to 1.2.3.4 lookup 99"], From(BROADCAST, L), REFUSED),
    ];
    k132_a_broadcast_sender_while_there_is_a_realm: [
        when(&["route add 10.89.0.0/24 dev u0 realm 5"], From(BROADCAST, L), REFUSED),
        when(&["route del 10.89.0.0/24"], From(BROADCAST, L), LEARNT),
    ];
    k133_pvlan_looks_at_the_sender_while_redirects_are_sent: [
        when(&["v0.proxy_arp_pvlan=1"], From(BROADCAST, Y), REFUSED),
        when(&["all.send_redirects=0", "v0.send_redirects=0"], From(BROADCAST, Y), LEARNT),
    ];
    k134_a_sender_behind_a_multipath_route: [
        when(
            &["v0.rp_filter=1", "route add 10.44.0.0/16 nexthop dev v0 nexthop via 10.9.0.254 dev u0"],
            From(FAR, L),
            LEARNT,
        ),
    ];
}
