//! §12.7: tables that rules lead to, and what a table says.

use super::Ask::For;
use super::Expect::{Fast, Silent};
use super::{BY_U1, Expect, L, NO_DEFAULT, X, Z, each, rows, when, with_uplinks};

/// Hosts of other nets than Z, which only the default route covers.
const FAR: [u8; 4] = [10, 21, 0, 1];
const FURTHER: [u8; 4] = [10, 22, 0, 1];
/// Inside of the longer prefix of K193.
const IN_24: [u8; 4] = [10, 20, 1, 1];

const NEVER: Expect = Silent("unanswerable_route");
const NO_ROUTE: Expect = Silent("no_route");

rows! {
    on with_uplinks;
    k183_tables_that_do_not_exist_or_are_empty: [
        each(&["rule add lookup 999", "rule add lookup 100"], &[(For(Z), Fast), (For(X), Fast)]),
    ];
    k184_a_table_with_one_prefix: [
        each(
            &["route add 10.20.0.0/16 via 10.8.0.254 table 100", "rule add lookup 100", NO_DEFAULT],
            &[(For(Z), Fast), (For(X), Fast)],
        ),
    ];
    k185_and_k186_throw: [
        each(
            &[BY_U1, "route add throw 10.20.0.0/16 table 100", "rule add lookup 100", NO_DEFAULT],
            &[(For(Z), NO_ROUTE), (For(FAR), Fast)],
        ),
        each(&["route add default via 10.9.0.254"], &[(For(Z), Fast), (For(FAR), Fast)]),
    ];
    k187_an_unreachable_prefix: [
        each(
            &["route add unreachable 10.20.0.0/16 table 100", "rule add lookup 100"],
            &[(For(Z), NEVER), (For(FAR), Fast)],
        ),
    ];
    k188_broadcast_multicast_and_anycast_routes: [
        each(
            &[
                "route add broadcast 10.20.0.1 dev u1 table 100",
                "route add multicast 10.21.0.1 dev u1 table 100",
                "route add anycast 10.22.0.1 dev u1 table 100",
                "rule add lookup 100",
            ],
            &[(For(Z), NEVER), (For(FAR), NEVER), (For(FURTHER), NEVER)],
        ),
    ];
    k189_a_route_with_a_tos: [
        when(&["route add unreachable 10.20.0.0/16 tos 0x10 table 100", "rule add lookup 100"], For(Z), Fast),
    ];
    k190_and_k191_a_table_that_leads_back: [
        when(&["route add default dev v0 table 100", "rule add lookup 100"], For(Z), Silent("pvlan_off")),
        when(&["v0.proxy_arp_pvlan=1"], For(Z), Fast),
    ];
    k192_main_without_its_default_route: [
        each(
            &[
                "route add default dev u2 table 51820",
                "rule add not fwmark 51820 lookup 51820",
                "rule add lookup main suppress_prefixlength 0",
            ],
            &[(For(Z), Fast), (For(X), Fast), (For(L), Fast)],
        ),
    ];
    k192b_main_without_its_default_route_before_a_dead_table: [
        each(
            &[
                "route add unreachable default table 51820",
                "rule add not fwmark 51820 lookup 51820",
                "rule add lookup main suppress_prefixlength 0",
            ],
            &[(For(Z), NEVER), (For(X), Fast)],
        ),
    ];
    // No shorter prefix of the table takes the place of one that is suppressed.
    k193_suppressed_up_to_16: [
        each(
            &[
                NO_DEFAULT,
                "route add 10.20.0.0/16 via 10.8.0.254 table 100",
                "route add 10.20.1.0/24 via 10.8.0.254 table 100",
                "rule add lookup 100 suppress_prefixlength 16",
            ],
            &[(For(Z), NO_ROUTE), (For(IN_24), Fast)],
        ),
    ];
    k194_suppressed_up_to_32: [
        when(
            &[
                NO_DEFAULT,
                "route add 10.20.0.1 via 10.8.0.254 table 100",
                "rule add lookup 100 suppress_prefixlength 32",
            ],
            For(Z),
            NO_ROUTE,
        ),
    ];
    k195_an_unreachable_default_is_not_suppressed: [
        each(
            &[
                "route add unreachable default table 100",
                "route add 10.9.0.0/24 dev u0 table 100",
                "rule add lookup 100 suppress_prefixlength 0",
            ],
            &[(For(Z), NEVER), (For(X), Fast)],
        ),
    ];
    k196_and_k197_the_group_of_the_interface_is_suppressed: [
        each(
            &[
                NO_DEFAULT,
                "link set u1 group 5",
                "route add 10.20.0.0/16 via 10.8.0.254 table 100",
                "route add 10.21.0.0/16 via 10.9.0.254 table 100",
                "rule add lookup 100 suppress_ifgroup 5",
            ],
            &[(For(Z), NO_ROUTE), (For(FAR), Fast)],
        ),
        when(&["link set u1 group 0"], For(Z), Fast),
        when(&["link set u1 group 5"], For(Z), NO_ROUTE),
    ];
    k199_and_k200_without_the_rule_of_main: [
        each(&["rule del prio 32766"], &[(For(Z), NO_ROUTE), (For(X), NO_ROUTE), (For(L), Fast)]),
        when(&["v0.rp_filter=1"], For(L), Silent("sender_route")),
    ];
    k201_a_default_route_in_table_default: [
        when(
            &[NO_DEFAULT, "route add default via 10.8.0.254 table default", "rule add fwmark 1 lookup 100"],
            For(Z),
            Fast,
        ),
    ];
    // The refusal of main is the last word, also while there was never a rule.
    k337_an_unreachable_prefix_of_main_and_a_route_in_table_default: [
        when(
            &["route add unreachable 10.20.0.0/16", "route add 10.20.0.0/24 via 10.8.0.254 table default"],
            For(Z),
            NEVER,
        ),
        when(&["rule add fwmark 1 lookup 100"], For(Z), NEVER),
    ];
}
