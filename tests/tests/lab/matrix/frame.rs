//! §12.1: the frame itself. K025 and K027 to K030, about what could see it first, are in `first` and `devices`.

use lab::topology::NODE_MAC;
use lab::{Host, UNCOUNTED};

use super::Ask::{For, Raw, Unicast, With};
use super::Expect::{Fast, Kernel, Silent};
use super::{L, TAGGED, X, ask, rows, when};

/// Where the Ethernet source and `sha` are in a frame.
const SRC: usize = 6;
const SHA: usize = 22;

/// Hardware addresses that are nobody's.
const STRANGER: [u8; 6] = [2, 9, 9, 9, 9, 9];
const IPV4_GROUP: [u8; 6] = [1, 0, 0x5e, 0, 0, 1];
const IPV6_GROUP: [u8; 6] = [0x33, 0x33, 0, 0, 0, 1];
const ZERO: [u8; 6] = [0; 6];
const NODE: [u8; 6] = NODE_MAC.bytes();

fn sized(host: &Host, length: usize) -> Vec<u8> {
    let mut frame = host.who_has(L).to_vec();
    frame.resize(length, 0);
    frame
}

/// The base's request, with these bytes between the Ethernet addresses and the ARP header.
fn headed(host: &Host, header: &[u8]) -> Vec<u8> {
    let request = host.who_has(L);
    [&request[..12], header, &request[14..]].concat()
}

rows! {
    k001_a_local_target: [ask(For(L), Fast)];
    k002_a_proxied_target: [ask(For(X), Fast)];
    k003_a_target_that_only_the_default_route_covers: [ask(For([169, 254, 1, 1]), Fast)];
    k004_sent_to_the_address_of_the_interface: [ask(Unicast(L), Fast), ask(Unicast(X), Fast)];
    k005_sent_to_somebody_else_also_while_promiscuous: [
        ask(With(&[(0, &STRANGER)]), Silent("other_destination")),
        when(&["link set v0 promisc on"], With(&[(0, &STRANGER)]), Silent("other_destination")),
    ];
    k006_sent_to_a_group: [ask(With(&[(0, &IPV4_GROUP)]), Fast), ask(With(&[(0, &IPV6_GROUP)]), Fast)];
    k007_sent_to_zero: [ask(With(&[(0, &ZERO)]), Silent("other_destination"))];
    k008_htype_6_is_answered_with_1: [ask(With(&[(14, &[0, 6])]), Fast)];
    k009_htype_2: [ask(With(&[(14, &[0, 2])]), Silent("bad_header"))];
    k010_another_ptype: [ask(With(&[(16, &[0x86, 0xdd])]), Silent("bad_header"))];
    k011_other_lengths_of_addresses: [
        ask(With(&[(18, &[8])]), Silent("bad_header")),
        ask(With(&[(19, &[16])]), Silent("bad_header")),
    ];
    k012_other_operations: [
        ask(With(&[(20, &[0, 2])]), Silent("not_request")),
        ask(With(&[(20, &[0, 3])]), Silent("not_request")),
        ask(With(&[(20, &[0, 8])]), Silent("not_request")),
        ask(With(&[(20, &[1, 0])]), Silent("not_request")),
    ];
    k013_padded_to_60_bytes: [ask(Raw(|host| sized(host, 60)), Fast)];
    k014_1000_bytes: [ask(Raw(|host| sized(host, 1000)), Fast)];
    k015_41_and_30_bytes: [
        ask(Raw(|host| sized(host, 41)), Silent("too_short")),
        ask(Raw(|host| sized(host, 30)), Silent("too_short")),
    ];
    k016_tha_is_not_looked_at: [ask(With(&[(32, &[1, 2, 3, 4, 5, 6])]), Fast)];
    k017_another_ethernet_source: [ask(With(&[(SRC, &STRANGER)]), Fast)];
    k018_an_impossible_ethernet_source: [
        ask(With(&[(SRC, &ZERO)]), Fast),
        ask(With(&[(SRC, &IPV4_GROUP)]), Fast),
        ask(With(&[(SRC, &NODE)]), Fast),
    ];
    k019_another_sha_than_known: [ask(With(&[(SHA, &STRANGER)]), Kernel("neighbour_differs"))];
    k020_an_impossible_sha: [
        ask(With(&[(SHA, &ZERO)]), Kernel("neighbour_differs")),
        ask(With(&[(SHA, &[0xff; 6])]), Kernel("neighbour_differs")),
        ask(With(&[(SHA, &IPV4_GROUP)]), Kernel("neighbour_differs")),
        ask(With(&[(SHA, &NODE)]), Kernel("neighbour_differs")),
    ];
    k021_in_802_3_and_snap: [
        ask(Raw(|host| headed(host, &[0, 36, 0xaa, 0xaa, 3, 0, 0, 0, 8, 6])), Silent(UNCOUNTED)),
    ];
    k022_rarp: [ask(Raw(|host| headed(host, &[0x80, 0x35])), Silent(UNCOUNTED))];
    k023_priority_tags: [
        ask(Raw(|host| headed(host, &[0x81, 0, 0, 0, 8, 6])), Kernel(TAGGED)),
        ask(Raw(|host| headed(host, &[0x81, 0, 0xa0, 0, 8, 6])), Kernel(TAGGED)),
        ask(Raw(|host| headed(host, &[0x88, 0xa8, 0, 0, 8, 6])), Kernel(TAGGED)),
        // The inner one is still there then.
        ask(Raw(|host| headed(host, &[0x88, 0xa8, 0, 0, 0x81, 0, 0, 0, 8, 6])), Kernel(UNCOUNTED)),
    ];
    k024_a_tag_without_a_device_for_it: [
        ask(Raw(|host| headed(host, &[0x81, 0, 0, 100, 8, 6])), Silent(TAGGED)),
    ];
    k026_the_address_of_the_interface_has_changed: [
        // The kernel forgets the interface's neighbours with its address.
        when(&["link set v0 address 02:00:00:00:77:77"], For(X), Kernel("neighbour_unknown")),
        ask(For(X), Fast),
        ask(For(L), Fast),
        ask(Unicast(L), Silent("other_destination")),
    ];
    k027_the_interface_does_no_arp: [
        when(&["link set v0 arp off"], For(L), Silent("interface_noarp")),
        ask(super::Ask::Probe(L), Silent("interface_noarp")),
        // The kernel has forgotten the interface's neighbours.
        when(&["link set v0 arp on"], For(L), Kernel("neighbour_unknown")),
        ask(For(L), Fast),
    ];
}
