//! §12.9: routes of several next hops. The rows of nexthop groups are in `nexthop_groups`.

use super::Ask::{For, From};
use super::Expect::{Fast, Kernel, Passed, Silent, SomeAnswered};
use super::{DEAD, L, NO_DEFAULT, U, U1, Z, each, rows, when, with_uplinks};

/// The same on both nodes, so that their hashes agree. Before 6.11 the machine has one for all.
pub(super) const SEED: &str = "?/net/ipv4/fib_multipath_hash_seed=7";
const BOTH_UPLINKS: &str = "route replace default nexthop via 10.9.0.254 dev u0 nexthop via 10.8.0.254 dev u1";
const OUT_AND_BACK: &str = "route replace default nexthop via 10.9.0.254 dev u0 nexthop dev v0";
/// A gateway that has not answered.
pub(super) const FAILED: [&str; 2] =
    ["/net/ipv4/fib_multipath_use_neigh=1", "neigh change 10.8.0.254 dev u1 nud failed"];

/// A sender with a route by `v0` and `u1`.
const OTHER: [u8; 4] = [10, 6, 0, 6];
const BY_V0_AND_U1: &str = "route add 10.6.0.0/24 nexthop dev v0 nexthop via 10.8.0.254 dev u1";
const OTHER_IS_KNOWN: &str = "neigh replace 10.6.0.6 lladdr 02:00:00:00:05:05 dev v0 nud permanent";

rows! {
    on with_uplinks;
    k230_both_uplinks: [when(&[SEED, BOTH_UPLINKS], For(Z), Fast).by_many()];
    k231_and_k231b_medium_ids_of_the_next_hops: [
        when(
            &[SEED, BOTH_UPLINKS, "v0.medium_id=1", "u0.medium_id=2", "u1.medium_id=3"],
            For(Z),
            Kernel("medium_id"),
        ).by_many(),
        when(&["u1.medium_id=1"], For(Z), SomeAnswered("medium_id")).by_many(),
    ];
    k232_k233_and_k234_out_and_back: [
        when(&[SEED, OUT_AND_BACK], For(Z), SomeAnswered("opaque_route")).by_many(),
        when(&["v0.proxy_arp_pvlan=1"], For(Z), Kernel("opaque_route")).by_many(),
        when(&["v0.proxy_arp_pvlan=0", "v0.proxy_arp=0"], For(Z), Silent("opaque_route")).by_many(),
    ];
    k235_two_gateways_by_one_uplink: [
        when(
            &[SEED, "route replace default nexthop via 10.9.0.254 dev u0 nexthop via 10.9.0.253 dev u0"],
            For(Z),
            Fast,
        ).by_many(),
    ];
    k236_two_gateways_behind_the_pods_interface: [
        when(
            &[
                SEED,
                "route add 10.20.0.0/16 nexthop via 10.5.0.8 dev v0 onlink nexthop via 10.5.0.9 dev v0 onlink",
            ],
            For(Z),
            Silent("pvlan_off"),
        ).by_many(),
    ];
    k237_and_k238_uplinks_that_are_down: [
        when(&[SEED, BOTH_UPLINKS, "link set u1 down"], For(Z), Fast).by_many(),
        when(&["link set u0 down"], For(Z), Silent("no_route")),
    ];
    k239_a_gateway_that_failed: [when(&[SEED, BOTH_UPLINKS, FAILED[0], FAILED[1]], For(Z), Fast).by_many()];
    k240_other_hash_policies: [
        when(&[SEED, BOTH_UPLINKS, "/net/ipv4/fib_multipath_hash_policy=1"], For(Z), Fast).by_many(),
        when(&["/net/ipv4/fib_multipath_hash_policy=2"], For(Z), Fast).by_many(),
        when(&["/net/ipv4/fib_multipath_hash_policy=3"], For(Z), Fast).by_many(),
    ];
    k241_a_sender_with_two_ways_back: [
        when(&[SEED, BY_V0_AND_U1, "v0.rp_filter=1", OTHER_IS_KNOWN], From(OTHER, Z), Fast).by_many(),
    ];
    // The hash of an output route decides, and, since 6.16, of whose next hop the target is the preferred source.
    k242_arp_filter_and_a_sender_with_two_ways_back: [
        each(
            &[SEED, BY_V0_AND_U1, "v0.arp_filter=1", OTHER_IS_KNOWN],
            &[
                (From(OTHER, L), Passed("sender_route")),
                (From(OTHER, U), Passed("sender_route")),
                (From(OTHER, U1), Passed("sender_route")),
            ],
        ),
    ];
    k243_both_uplinks_in_a_table_of_a_rule: [
        when(
            &[
                SEED,
                NO_DEFAULT,
                "route add default table 100 nexthop via 10.9.0.254 dev u0 nexthop via 10.8.0.254 dev u1",
                "rule add from 10.5.0.0/24 lookup 100",
            ],
            For(Z),
            Fast,
        ).by_many(),
    ];
    // The way back is looked up as if it came in on the uplink that was chosen.
    k244_and_k245_a_rule_for_one_of_the_uplinks: [
        when(
            &[SEED, BOTH_UPLINKS, DEAD, "rule add iif u1 lookup 100", "v0.rp_filter=1"],
            For(Z),
            SomeAnswered("sender_route"),
        ).by_many(),
        when(&["v0.rp_filter=0"], For(Z), Fast).by_many(),
    ];
    // The first next hop's group counts.
    k246_and_k247_the_group_of_one_uplink_is_suppressed: [
        when(
            &[
                SEED,
                BOTH_UPLINKS,
                "link set u1 group 5",
                "rule add prio 10 lookup main suppress_ifgroup 5",
                "rule add prio 11 unreachable",
            ],
            For(Z),
            Fast,
        ).by_many(),
        when(&["link set u1 group 0", "link set u0 group 5"], For(Z), Silent("unanswerable_route")).by_many(),
    ];
}
