//! §12.2: special addresses.

use super::Ask::{For, From, Probe};
use super::Expect::{Fast, Kernel, Silent};
use super::{L, UPLINK_IP as OWN, X, ask, rows, when};

const BROADCAST: [u8; 4] = [10, 9, 0, 255];
const LOOPBACK_SENDER: [u8; 4] = [127, 0, 0, 5];

rows! {
    k031_a_multicast_target: [ask(For([224, 0, 0, 1]), Silent("special_target"))];
    k032_a_loopback_target: [ask(For([127, 0, 0, 1]), Silent("special_target"))];
    k033_a_loopback_target_with_route_localnet: [
        when(&["v0.route_localnet=1"], For([127, 0, 0, 1]), Kernel("special_target")),
        ask(For([127, 1, 2, 3]), Kernel("special_target")),
    ];
    k034_zero_and_all_ones: [
        ask(For([0; 4]), Silent("special_target")),
        ask(For([255; 4]), Silent("special_target")),
    ];
    k035_the_broadcast_address_of_the_uplink: [ask(For(BROADCAST), Silent("unanswerable_route"))];
    k036_the_same_with_bc_forwarding: [
        when(&["all.bc_forwarding=1", "v0.bc_forwarding=1"], For(BROADCAST), Silent("unanswerable_route")),
    ];
    k037_the_lowest_address_of_the_uplink_subnet: [ask(For([10, 9, 0, 0]), Fast)];
    k038_addresses_that_nobody_uses: [ask(For([0, 1, 2, 3]), Fast), ask(For([240, 0, 0, 1]), Fast)];
    k039_a_multicast_or_broadcast_sender: [
        ask(From([224, 0, 0, 5], L), Silent("special_sender")),
        ask(From([255; 4], X), Silent("special_sender")),
    ];
    k040_a_loopback_sender: [
        ask(From(LOOPBACK_SENDER, L), Silent("special_sender")),
        ask(From(LOOPBACK_SENDER, X), Silent("special_sender")),
    ];
    k041_a_loopback_sender_with_route_localnet: [
        when(&["v0.route_localnet=1"], From(LOOPBACK_SENDER, L), Kernel("special_sender")),
    ];
    k042_a_sender_of_net_zero: [ask(From([0, 1, 2, 3], X), Kernel("neighbour_unknown"))];
    k043_a_probe_for_a_local_address: [ask(Probe(L), Fast)];
    k044_a_probe_for_a_proxied_address: [ask(Probe(X), Silent("probe_not_local"))];
    k045_a_probe_for_a_static_proxy: [
        when(&["neigh add proxy 10.9.0.9 dev v0"], Probe(X), Silent("probe_not_local")),
    ];
    k046_a_probe_for_zero: [ask(Probe([0; 4]), Silent("special_target"))];
    k047_settings_that_do_not_concern_probes: [
        when(&["v0.rp_filter=1"], Probe(L), Fast),
        when(&["v0.rp_filter=0", "v0.arp_filter=1"], Probe(L), Fast),
        when(&["v0.arp_filter=0", "v0.drop_gratuitous_arp=1"], Probe(L), Fast),
    ];
    k048_a_probe_and_arp_ignore_8: [when(&["v0.arp_ignore=8"], Probe(L), Silent("arp_ignore"))];
    k049_an_announcement_of_a_proxied_address: [ask(From(X, X), Kernel("announcement"))];
    k050_announcements_that_are_dropped: [
        when(&["v0.drop_gratuitous_arp=1"], From(X, X), Silent("announcement")),
        when(&["v0.drop_gratuitous_arp=0", "all.drop_gratuitous_arp=1"], From(X, X), Silent("announcement")),
    ];
    k051_an_announcement_of_a_local_address: [ask(From(L, L), Silent("announcement"))];
    k052_own_addresses_as_senders: [
        ask(From(OWN, X), Silent("neighbour_unknown")),
        ask(From(OWN, L), Silent("neighbour_unknown")),
        ask(From(L, X), Silent("neighbour_unknown")),
    ];
    k053_own_addresses_as_senders_with_accept_local: [
        when(&["v0.accept_local=1"], From(OWN, X), Kernel("neighbour_unknown")),
        ask(From(OWN, L), Kernel("sender_route")),
        when(&["v0.accept_local=0", "all.accept_local=1"], From(OWN, X), Kernel("sender_route")),
        ask(From(L, X), Kernel("neighbour_unknown")),
    ];
}
