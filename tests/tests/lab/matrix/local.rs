//! §12.3: local targets. K072 is in `flood`; K054, K066 and K070 are also in `devices`, on a dummy.

use super::Ask::{For, From, Probe};
use super::Expect::{Fast, Kernel, Silent};
use super::{L, UPLINK_IP, ask, rows, when};

/// A sender that the node routes by its uplink, and one that only the default route covers.
const BY_UPLINK: [u8; 4] = [10, 9, 0, 77];
const FAR: [u8; 4] = [10, 44, 0, 1];
/// Has scope host in K066 and K067.
const HOST_SCOPE: [u8; 4] = [10, 62, 0, 1];
/// Inside of both prefixes in K059 and K060.
const TWICE: [u8; 4] = [10, 50, 1, 1];

rows! {
    k054_an_address_of_another_interface: [ask(For(UPLINK_IP), Fast)];
    k055_on_an_interface_without_carrier: [
        when(&["unplug external"], For(UPLINK_IP), Fast),
        when(&["u0.ignore_routes_with_linkdown=1"], For(UPLINK_IP), Fast),
    ];
    k056_on_an_interface_that_is_down: [when(&["link set u0 down"], For(UPLINK_IP), Fast)];
    k057_deprecated_and_secondary_addresses: [
        when(&["addr add 10.91.0.1/24 dev u0 preferred_lft 0"], For([10, 91, 0, 1]), Fast),
        when(&["addr add 10.9.0.2/24 dev u0"], For([10, 9, 0, 2]), Fast),
    ];
    k058_a_local_prefix: [
        when(&["route add local 10.88.0.0/24 dev lo"], For([10, 88, 0, 7]), Fast),
        ask(Probe([10, 88, 0, 7]), Fast),
    ];
    k059_a_longer_prefix_of_main_inside_a_local_one: [
        when(
            &["route add local 10.50.0.0/16 dev lo", "route add 10.50.1.0/24 via 10.9.0.254"],
            Probe(TWICE),
            Silent("probe_not_local"),
        ),
        ask(For(TWICE), Fast),
        when(&["v0.proxy_arp=0"], For(TWICE), Silent("proxy_arp_off")),
    ];
    k060_the_same_once_there_was_a_rule: [
        when(
            &[
                "route add local 10.50.0.0/16 dev lo",
                "route add 10.50.1.0/24 via 10.9.0.254",
                "rule add to 1.2.3.4 lookup 99",
            ],
            Probe(TWICE),
            Fast,
        ),
        when(&["rule del to 1.2.3.4 lookup 99"], Probe(TWICE), Fast),
        when(&["v0.proxy_arp=0"], For(TWICE), Fast),
        ask(Probe([10, 50, 2, 1]), Fast),
    ];
    k061_arp_ignore_1_an_address_of_the_interface: [
        when(&["v0.arp_ignore=1", "addr add 10.60.0.1/24 dev v0"], For([10, 60, 0, 1]), Fast),
        when(&["addr add 10.60.9.1/32 dev v0"], For([10, 60, 9, 1]), Fast),
        ask(Probe([10, 60, 9, 1]), Fast),
    ];
    k062_arp_ignore_1_an_address_of_another_interface: [when(&["v0.arp_ignore=1"], For(L), Silent("arp_ignore"))];
    k063_arp_ignore_1_an_address_with_a_peer: [
        when(
            &["v0.arp_ignore=1", "addr add 10.61.0.1 peer 10.61.0.2/32 dev v0"],
            For([10, 61, 0, 1]),
            Silent("arp_ignore"),
        ),
    ];
    k064_arp_ignore_1_the_same_covered_by_another_address: [
        when(
            &["v0.arp_ignore=1", "addr add 10.61.0.1 peer 10.61.0.2/32 dev v0", "addr add 10.61.0.5/24 dev v0"],
            For([10, 61, 0, 1]),
            Fast,
        ),
    ];
    k065_arp_ignore_2_sender_in_the_subnet_or_not: [
        when(&["v0.arp_ignore=2", "addr add 10.5.0.1/24 dev v0"], For([10, 5, 0, 1]), Kernel("arp_ignore")),
        when(&["addr add 10.60.0.1/24 dev v0"], For([10, 60, 0, 1]), Silent("arp_ignore")),
    ];
    k066_arp_ignore_3_scope_host_and_global: [
        when(
            &["v0.arp_ignore=3", "addr add 10.62.0.1/32 dev lo scope host"],
            For(HOST_SCOPE),
            Silent("arp_ignore"),
        ),
        ask(For(L), Kernel("arp_ignore")),
    ];
    k067_arp_ignore_3_scope_host_with_route_localnet: [
        when(
            &["v0.arp_ignore=3", "addr add 10.62.0.1/32 dev lo scope host", "lo.route_localnet=1"],
            For(HOST_SCOPE),
            Kernel("arp_ignore"),
        ),
    ];
    k068_arp_ignore_4_to_7_above_8_and_negative: [
        when(&["v0.arp_ignore=4"], For(L), Fast),
        when(&["v0.arp_ignore=5"], For(L), Fast),
        when(&["v0.arp_ignore=6"], For(L), Fast),
        when(&["v0.arp_ignore=7"], For(L), Fast),
        when(&["v0.arp_ignore=9"], For(L), Fast),
        when(&["v0.arp_ignore=100"], For(L), Fast),
        when(&["v0.arp_ignore=-1"], For(L), Fast),
    ];
    k069_arp_ignore_8: [
        when(&["v0.arp_ignore=8"], For(L), Silent("arp_ignore")),
        when(&["v0.arp_ignore=0", "all.arp_ignore=8"], For(L), Silent("arp_ignore")),
    ];
    k070_arp_ignore_1_for_all: [when(&["all.arp_ignore=1"], For(L), Silent("arp_ignore"))];
    k071_arp_ignore_8_leaves_the_neighbour_as_it_is: [
        when(
            &["v0.arp_ignore=8", "neigh replace 10.5.0.5 lladdr 02:00:00:00:05:99 dev v0 nud stale"],
            For(L),
            Silent("neighbour_differs"),
        ),
    ];
    k073_arp_filter_a_sender_that_is_routed_back: [when(&["v0.arp_filter=1"], For(L), Fast)];
    k074_arp_filter_other_senders: [
        when(&["v0.arp_filter=1"], From(BY_UPLINK, L), Silent("neighbour_unknown")),
        ask(From(UPLINK_IP, L), Silent("neighbour_unknown")),
        when(&["route del default"], From(FAR, L), Silent("neighbour_unknown")),
    ];
    k075_arp_filter_for_all: [
        when(&["all.arp_filter=1"], From(BY_UPLINK, L), Silent("neighbour_unknown")),
        ask(From(UPLINK_IP, L), Silent("neighbour_unknown")),
        ask(For(L), Fast),
        when(&["route del default"], From(FAR, L), Silent("neighbour_unknown")),
    ];
    k076_a_local_target_needs_no_forwarding: [when(&["v0.forwarding=0"], For(L), Fast)];
}
