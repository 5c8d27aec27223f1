//! §12.11: what goes without a report of its own: routes of every table, with an address or with a link.

use super::Ask::For;
use super::Expect::{Fast, Silent, SilentForOneOf};
use super::{NO_DEFAULT, Y, Z, each, rows, when, with_uplinks};

/// Behind `v0`, in table 100 alone; behind `u1`, in table 101 alone.
const IN_100: [u8; 4] = [10, 5, 0, 9];
const IN_101: [u8; 4] = [10, 31, 0, 1];

const PERMANENT: &str = "neigh replace 10.5.0.5 lladdr 02:00:00:00:05:05 dev v0 nud permanent";

rows! {
    on with_uplinks;
    // With pvlan alone a target is answered while its route leads back, and not by the default route.
    k313_the_last_address_of_an_interface: [
        each(
            &[
                "addr add 10.66.0.1/32 dev v0",
                "route add 10.5.0.9 dev v0 table 100",
                "rule add lookup 100",
                "v0.proxy_arp=0",
                "v0.proxy_arp_pvlan=1",
                PERMANENT,
            ],
            &[(For(IN_100), Fast), (For(Y), Fast)],
        ),
        // The permanent entry has gone too.
        when(&[PERMANENT, "addr del 10.66.0.1/32 dev v0"], For(IN_100), Silent("neighbour_unknown")),
        each(&[], &[(For(IN_100), Silent("proxy_arp_off")), (For(Y), Silent("proxy_arp_off"))]),
    ];
    k314_a_link_that_goes_down_and_one_that_is_deleted: [
        each(
            &[
                NO_DEFAULT,
                "route add 10.20.0.0/16 dev u2 table 100",
                "route add 10.31.0.0/16 dev u1 table 101",
                "rule add lookup 100",
                "rule add lookup 101",
            ],
            &[(For(Z), Fast), (For(IN_101), Fast)],
        ),
        each(&["link set u2 down"], &[(For(Z), SilentForOneOf(&["opaque_route", "no_route"])), (For(IN_101), Fast)]),
        when(&["link del u1"], For(IN_101), SilentForOneOf(&["opaque_route", "no_route"])),
        each(&["pause 400"], &[(For(Z), Silent("no_route")), (For(IN_101), Silent("no_route"))]),
    ];
}
