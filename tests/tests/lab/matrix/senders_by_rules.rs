//! §12.8: source validation where rules decide about the way back.

use super::Ask::{For, From};
use super::Expect::{Fast, Kernel, Silent};
use super::{BY_U1, DEAD, Expect, L, U, X, Y, Z, each, rows, when, with_uplinks};

/// Beside Z: another host of its net.
const Z2: [u8; 4] = [10, 20, 0, 2];
/// A sender that table 100 alone has a route for.
const OTHER: [u8; 4] = [10, 6, 0, 6];
const OTHER_IS_KNOWN: &str = "neigh replace 10.6.0.6 lladdr 02:00:00:00:05:05 dev v0 nud stale";

const REFUSED: Expect = Silent("sender_route");

/// The way back from Z to the sender: a broadcast route of table 100.
const BROADCAST: [&str; 2] = ["route add broadcast 10.5.0.5 dev u1 table 100", "rule add from 10.20.0.1 lookup 100"];

rows! {
    on with_uplinks;
    k211_k212_k213_and_k214_the_way_back_is_another_by_rp_filter: [
        each(&[BY_U1, "rule add from 10.20.0.1 lookup 100"], &[(For(Z), Fast), (For(X), Fast)]),
        each(&["v0.rp_filter=1"], &[(For(Z), REFUSED), (For(Z2), Fast), (For(L), Fast)]),
        when(&["v0.rp_filter=2"], For(Z), REFUSED),
        when(&["addr add 10.66.0.1/32 dev v0"], For(Z), Fast),
    ];
    k215_and_k226_the_way_back_is_a_broadcast_route: [
        each(&BROADCAST, &[(For(Z), REFUSED), (For(Z2), Fast)]),
        // The kernel does not look at it.
        when(&["v0.accept_local=1"], For(Z), Kernel("sender_route")),
    ];
    k216_the_way_back_is_unreachable: [
        when(&["route add unreachable 10.5.0.5 table 100", "rule add from 10.20.0.1 lookup 100"], For(Z), Fast),
    ];
    k217_and_k217b_a_rule_forbids_the_way_back: [
        when(&["rule add from 10.20.0.1 unreachable"], For(Z), Fast),
        each(&["v0.rp_filter=1"], &[(For(Z), REFUSED), (For(Z2), Fast)]),
    ];
    k218_and_k219_a_rule_for_the_sender: [
        each(
            &["route add 10.5.0.5 via 10.8.0.254 table 100", "rule add to 10.5.0.5 lookup 100"],
            &[(For(Z), Fast), (For(L), Fast)],
        ),
        each(&["v0.rp_filter=1"], &[(For(Z), REFUSED), (For(L), REFUSED)]),
    ];
    k220b_k220_and_k220c_a_rule_for_an_own_address: [
        each(
            &[BY_U1, "rule add from 10.9.0.1 lookup 100"],
            &[(For(U), Fast), (For(L), Fast), (For(Z), Fast), (For(X), Fast)],
        ),
        each(&["v0.rp_filter=1"], &[(For(U), REFUSED), (For(L), Fast), (For(Z), Fast), (For(X), Fast)]),
        each(&["route add 10.5.0.5 dev v0 table 100"], &[(For(U), Fast), (For(L), Fast)]),
    ];
    k221_pods_thrown_out_of_a_table_for_unmarked_traffic: [
        each(
            &[
                "route add throw 10.5.0.0/24 table 1",
                "route add 10.20.0.0/16 dev u2 table 1",
                "rule add prio 99 not fwmark 0x100000/0x100000 lookup 1",
                "v0.rp_filter=1",
            ],
            &[(For(Z), Fast), (For(L), Fast), (For(Y), Silent("pvlan_off"))],
        ),
    ];
    k222_an_own_address_as_sender_routed_back: [
        when(
            &[
                "route add 10.9.0.1 dev v0 table 100",
                "rule add prio 50 to 10.9.0.1 lookup 100",
                "rule add prio 100 lookup local",
                "rule del prio 0",
                "v0.rp_filter=1",
                "neigh replace 10.9.0.1 lladdr 02:00:00:00:05:05 dev v0 nud stale",
            ],
            From(U, Z),
            Fast,
        ),
    ];
    k223_arp_filter_and_a_rule_for_an_own_address: [
        each(
            &[BY_U1, "rule add from 10.9.0.1 lookup 100", "v0.arp_filter=1"],
            &[(For(U), REFUSED), (For(L), Fast), (For(Z), Fast)],
        ),
    ];
    k224_arp_filter_and_a_rule_for_lo: [
        each(&[DEAD, "rule add iif lo lookup 100", "v0.arp_filter=1"], &[(For(L), REFUSED), (For(Z), Fast)]),
    ];
    k225_pvlan_and_a_rule_for_the_target: [
        when(&[BY_U1, "rule add from 10.5.0.6 lookup 100", "v0.proxy_arp_pvlan=1", "v0.rp_filter=1"], For(Y), REFUSED),
    ];
    k227_the_mark_of_the_request_that_has_none: [
        each(
            &[DEAD, "rule add fwmark 1 lookup 100", "v0.src_valid_mark=1", "v0.rp_filter=1"],
            &[(For(Z), Fast), (For(L), Fast)],
        ),
    ];
    k228_and_k228b_a_sender_of_a_table_for_the_own_interface: [
        when(
            &[
                "route add 10.6.0.6 dev v0 table 100",
                "route add default via 10.9.0.254 table 100",
                "rule add iif v0 lookup 100",
                "v0.rp_filter=1",
                OTHER_IS_KNOWN,
            ],
            From(OTHER, Z),
            REFUSED,
        ),
        when(&["v0.rp_filter=0", OTHER_IS_KNOWN], From(OTHER, Z), Fast),
    ];
}
