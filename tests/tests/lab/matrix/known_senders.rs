//! §12.2, §12.3 and §12.5: the rows about source validation, for senders that the node has neighbour entries for. Without an entry
//! the fast path passes, whatever the way back is.

use super::Ask::From;
use super::Expect::{Fast, Kernel, Silent};
use super::{Expect, L, UPLINK_IP as OWN, X, Y, each, rows, when};

/// Senders that the node routes by its uplink: one of the subnet, its broadcast address, one behind the router.
const BY_UPLINK: [u8; 4] = [10, 9, 0, 77];
const BROADCAST: [u8; 4] = [10, 9, 0, 255];
const FAR: [u8; 4] = [10, 44, 0, 1];

const KNOWN: [&str; 3] = [
    "neigh replace 10.9.0.77 lladdr 02:00:00:00:05:05 dev v0 nud permanent",
    "neigh replace 10.9.0.255 lladdr 02:00:00:00:05:05 dev v0 nud permanent",
    "neigh replace 10.44.0.1 lladdr 02:00:00:00:05:05 dev v0 nud permanent",
];
const OWN_ARE_KNOWN: [&str; 2] = [
    "neigh replace 10.9.0.1 lladdr 02:00:00:00:05:05 dev v0 nud permanent",
    "neigh replace 10.77.0.1 lladdr 02:00:00:00:05:05 dev v0 nud permanent",
];

const REFUSED: Expect = Silent("sender_route");
const DOUBTFUL: Expect = Kernel("sender_route");

rows! {
    k042_a_known_sender_of_net_zero: [
        when(&["neigh replace 0.1.2.3 lladdr 02:00:00:00:05:05 dev v0 nud stale"], From([0, 1, 2, 3], X), Fast),
    ];
    k052_and_k053_own_addresses_as_known_senders: [
        each(&OWN_ARE_KNOWN, &[(From(OWN, X), REFUSED), (From(OWN, L), REFUSED), (From(L, X), REFUSED)]),
        each(&["v0.accept_local=1"], &[(From(OWN, X), DOUBTFUL), (From(OWN, L), DOUBTFUL), (From(L, X), DOUBTFUL)]),
        each(&["v0.accept_local=0", "all.accept_local=1"], &[(From(OWN, X), DOUBTFUL), (From(L, X), DOUBTFUL)]),
        // Once there was a rule, an own address is looked up like any other.
        each(&["all.accept_local=0", "rule add to 1.2.3.4 lookup 99"], &[(From(OWN, X), REFUSED), (From(L, X), REFUSED)]),
    ];
    k074_and_k075_arp_filter_and_known_senders: [
        // It concerns local targets alone.
        each(&[KNOWN[0], KNOWN[2], "v0.arp_filter=1"], &[(From(BY_UPLINK, L), REFUSED), (From(BY_UPLINK, X), DOUBTFUL)]),
        when(&["v0.arp_filter=0", "all.arp_filter=1"], From(BY_UPLINK, L), REFUSED),
        when(&["route del default"], From(FAR, L), REFUSED),
        when(&["route add default dev v0"], From(FAR, L), DOUBTFUL),
        when(&["all.arp_filter=0"], From(FAR, L), Fast),
    ];
    k125_and_k130_strict_and_a_known_sender: [
        each(&[KNOWN[0], "v0.rp_filter=1"], &[(From(BY_UPLINK, L), REFUSED), (From(BY_UPLINK, X), REFUSED)]),
        when(&["v0.rp_filter=0", "all.rp_filter=1"], From(BY_UPLINK, L), REFUSED),
        each(&["all.rp_filter=0"], &[(From(BY_UPLINK, L), Fast), (From(BY_UPLINK, X), Fast)]),
    ];
    k126_k127_and_k128_loose_and_a_known_sender: [
        when(&[KNOWN[0], "v0.rp_filter=2"], From(BY_UPLINK, L), REFUSED),
        each(
            &["addr add 10.60.0.1/24 dev v0", KNOWN[2]],
            &[(From(BY_UPLINK, L), Fast), (From(BY_UPLINK, X), Fast), (From(FAR, L), Fast)],
        ),
        when(&["route del default"], From(FAR, L), REFUSED),
        when(&["v0.rp_filter=0"], From(FAR, L), Fast),
    ];
    k129_off_and_no_route_or_a_blackhole_and_a_known_sender: [
        when(&[KNOWN[2], "route del default"], From(FAR, L), Fast),
        when(&["route add blackhole 10.44.0.0/16"], From(FAR, L), Fast),
        when(&["route replace throw 10.44.0.0/16"], From(FAR, L), Fast),
        when(&["route add local 10.44.0.1 dev lo"], From(FAR, L), REFUSED),
    ];
    // Whether the kernel looks at the sender depends on what there once was.
    k131_and_k132_a_broadcast_address_as_a_known_sender: [
        each(&[KNOWN[1]], &[(From(BROADCAST, L), DOUBTFUL), (From(BROADCAST, X), DOUBTFUL)]),
        when(&["route add 10.89.0.0/24 dev u0 realm 5"], From(BROADCAST, L), REFUSED),
        when(&["route del 10.89.0.0/24"], From(BROADCAST, L), DOUBTFUL),
        when(&["route add local 10.88.0.0/24 dev lo"], From(BROADCAST, L), REFUSED),
        when(&["route del local 10.88.0.0/24 dev lo"], From(BROADCAST, L), REFUSED),
    ];
    k132_a_broadcast_address_as_a_known_sender_after_a_rule: [
        when(&[KNOWN[1], "rule add to 1.2.3.4 lookup 99"], From(BROADCAST, L), REFUSED),
        when(&["rule del to 1.2.3.4 lookup 99"], From(BROADCAST, L), REFUSED),
    ];
    k133_pvlan_and_a_broadcast_address_as_a_known_sender: [
        when(&[KNOWN[1], "v0.proxy_arp_pvlan=1"], From(BROADCAST, Y), REFUSED),
        when(&["all.send_redirects=0", "v0.send_redirects=0"], From(BROADCAST, Y), DOUBTFUL),
    ];
    k134_a_known_sender_behind_a_multipath_route: [
        when(
            &[KNOWN[2], "v0.rp_filter=1", "route add 10.44.0.0/16 nexthop dev v0 nexthop via 10.9.0.254 dev u0"],
            From(FAR, L),
            Fast,
        ),
        when(&["route replace 10.44.0.0/16 nexthop via 10.9.0.253 nexthop via 10.9.0.254"], From(FAR, L), REFUSED),
    ];
}
