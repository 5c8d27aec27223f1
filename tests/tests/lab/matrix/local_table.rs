//! §12.7: where table local stands among the rules, and what is local outside of it.

use super::Ask::{For, Probe};
use super::Expect::{Fast, Silent};
use super::{DEAD, L, U, X, Z, each, rows, when, with_uplinks};

/// Local in table 100.
const ELSEWHERE: [u8; 4] = [10, 99, 0, 1];
/// Inside of a local prefix, and of a longer one of main that leads back.
const TWICE: [u8; 4] = [10, 88, 1, 1];

const LOCAL_IN_100: [&str; 2] = ["route add local 10.99.0.0/24 dev lo table 100", "rule add lookup 100"];

rows! {
    on with_uplinks;
    k198_wide_local_prefixes_suppressed: [
        each(
            &[
                "route add local 10.88.0.0/16 dev lo table local",
                "rule add prio 1 lookup local suppress_prefixlength 31",
                "rule del prio 0",
            ],
            &[(For(L), Fast), (For([10, 88, 0, 1]), Fast)],
        ),
    ];
    k202b_and_k202_before_and_after_there_was_a_rule: [
        // Both tables are one, and the longer prefix counts.
        when(
            &["route add local 10.88.0.0/16 dev lo table local", "route add 10.88.1.0/24 dev v0"],
            For(TWICE),
            Silent("pvlan_off"),
        ),
        when(&["rule add fwmark 1 lookup 100"], For(TWICE), Fast),
    ];
    k203_local_behind_rules_for_marks: [
        each(
            &[
                DEAD,
                "rule add prio 9 fwmark 0x200/0xf00 lookup 100",
                "rule add prio 10 fwmark 0xa00/0xf00 lookup 100",
                "rule add prio 100 lookup local",
                "rule del prio 0",
            ],
            &[(For(L), Fast), (For(Z), Fast), (For(X), Fast)],
        ),
    ];
    k204_and_k205_an_own_address_routed_elsewhere_before_local: [
        each(
            &[
                "route add 10.77.0.1 via 10.8.0.254 table 100",
                "rule add prio 50 to 10.77.0.1 lookup 100",
                "rule add prio 100 lookup local",
                "rule del prio 0",
            ],
            &[(For(L), Fast), (For(U), Fast)],
        ),
        // It was proxied. A probe asks table local, whatever the rules are.
        each(&["v0.proxy_arp=0"], &[(For(L), Silent("proxy_arp_off")), (Probe(L), Fast)]),
    ];
    k206_and_k207_without_the_rule_of_local: [
        each(&["rule del prio 0"], &[(For(L), Fast), (For(U), Fast), (Probe(L), Fast)]),
        each(
            &["v0.proxy_arp=0"],
            &[(For(L), Silent("proxy_arp_off")), (For(U), Silent("proxy_arp_off")), (Probe(L), Fast)],
        ),
    ];
    k208_a_local_route_of_another_table: [
        each(
            &[LOCAL_IN_100[0], LOCAL_IN_100[1], "v0.proxy_arp=0", "v0.forwarding=0"],
            &[(For(ELSEWHERE), Fast), (Probe(ELSEWHERE), Silent("probe_not_local"))],
        ),
    ];
    // The filter looks for an address of the node.
    k209_a_local_route_of_another_table_and_arp_filter: [
        each(
            &[LOCAL_IN_100[0], LOCAL_IN_100[1], "v0.arp_filter=1"],
            &[(For(ELSEWHERE), Silent("arp_filter")), (For(L), Fast)],
        ),
    ];
    k210_a_local_route_of_another_table_and_arp_ignore: [
        when(&[LOCAL_IN_100[0], LOCAL_IN_100[1], "v0.arp_ignore=1"], For(ELSEWHERE), Silent("arp_ignore")),
    ];
    k304_which_changes_of_rules_split_local_and_main: [
        when(
            &["route add local 10.88.0.0/16 dev lo table local", "route add 10.88.1.0/24 dev v0"],
            For(TWICE),
            Silent("pvlan_off"),
        ),
        // There already; not there; a TOS that no packet has; backwards.
        when(&["refused rule add prio 32766 lookup main protocol kernel"], For(TWICE), Silent("pvlan_off")),
        when(&["refused rule del prio 5"], For(TWICE), Silent("pvlan_off")),
        when(
            &["refused rule add tos 0x03 lookup 100", "refused rule add goto 5 prio 10"],
            For(TWICE),
            Silent("pvlan_off"),
        ),
        when(&["rule add fwmark 1 lookup 100"], For(TWICE), Fast),
        when(&["rule del fwmark 1 lookup 100"], For(TWICE), Fast),
    ];
    k316_an_own_address_forbidden_before_local: [
        each(
            &["rule add prio 11 to 10.77.0.1 unreachable", "rule add prio 12 lookup local", "rule del prio 0"],
            &[(For(L), Silent("unanswerable_route")), (Probe(L), Fast)],
        ),
    ];
    k317_a_unicast_route_in_table_local: [
        each(
            &["route add 10.99.0.1 dev u1 table local", "rule add fwmark 1 lookup 100"],
            &[(For(ELSEWHERE), Fast), (Probe(ELSEWHERE), Silent("probe_not_local"))],
        ),
    ];
}
