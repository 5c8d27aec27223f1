//! 12.1: the frame itself.

use anyhow::Result;
use tests::topology::NODE_MAC;
use tests::{Hook, Host, UNCOUNTED, needs_root};

use super::Ask::{For, Raw, Unicast, With};
use super::Expect::{Answered, Fast, Kernel, Silent};
use super::{L, X, check, row};

/// Where the Ethernet source, the EtherType and `sha` are in a frame.
const SRC: usize = 6;
const SHA: usize = 22;

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

#[test]
fn k01_to_k07_destinations() -> Result<()> {
    needs_root!();
    check(&[
        row("K01 a local target", For(L), Fast),
        row("K02 a proxied target", For(X), Fast),
        row("K03 a target that only the default route covers", For([169, 254, 1, 1]), Fast),
        row("K04 to the interface's own address, local target", Unicast(L), Fast),
        row("K04 to the interface's own address, proxied target", Unicast(X), Fast),
        row("K05 to somebody else", With(&[(0, &[2, 0, 0, 0, 0xab, 0xcd])]), Silent("other_destination")),
        row("K06 to an IPv4 group", With(&[(0, &[1, 0, 0x5e, 0, 0, 1])]), Fast),
        row("K06 to an IPv6 group", With(&[(0, &[0x33, 0x33, 0, 0, 0, 1])]), Fast),
        row("K07 to 00:00:00:00:00:00", With(&[(0, &[0; 6])]), Silent("other_destination")),
    ])
}

#[test]
fn k05_to_somebody_else_while_the_interface_is_promiscuous() -> Result<()> {
    needs_root!();
    check(&[super::when(
        "K05 promiscuous",
        &["link set v0 promisc on"],
        &["link set v0 promisc off"],
        With(&[(0, &[2, 0, 0, 0, 0xab, 0xcd])]),
        Silent("other_destination"),
    )])
}

#[test]
fn k08_to_k12_arp_header() -> Result<()> {
    needs_root!();
    check(&[
        row("K08 htype 6", With(&[(14, &[0, 6])]), Fast),
        row("K09 htype 2", With(&[(14, &[0, 2])]), Silent("bad_header")),
        row("K10 ptype", With(&[(16, &[0x86, 0xdd])]), Silent("bad_header")),
        row("K11 hlen", With(&[(18, &[8])]), Silent("bad_header")),
        row("K11 plen", With(&[(19, &[16])]), Silent("bad_header")),
        row("K12 a reply", With(&[(20, &[0, 2])]), Silent("not_request")),
        row("K12 oper 3", With(&[(20, &[0, 3])]), Silent("not_request")),
        row("K12 oper 8", With(&[(20, &[0, 8])]), Silent("not_request")),
        row("K12 oper 0x0100", With(&[(20, &[1, 0])]), Silent("not_request")),
        row("K16 tha", With(&[(32, &[1, 2, 3, 4, 5, 6])]), Fast),
    ])
}

#[test]
fn k13_to_k15_length() -> Result<()> {
    needs_root!();
    check(&[
        row("K13 60 bytes", Raw(|host| sized(host, 60)), Fast),
        row("K14 1000 bytes", Raw(|host| sized(host, 1000)), Answered),
        row("K15 41 bytes", Raw(|host| sized(host, 41)), Silent("too_short")),
        row("K15 30 bytes", Raw(|host| sized(host, 30)), Silent("too_short")),
    ])
}

#[test]
fn k17_to_k20_sender_hardware_addresses() -> Result<()> {
    needs_root!();
    check(&[
        row("K17 another Ethernet source", With(&[(SRC, &[2, 9, 9, 9, 9, 9])]), Fast),
        row("K18 Ethernet source zero", With(&[(SRC, &[0; 6])]), Answered),
        row("K18 Ethernet source multicast", With(&[(SRC, &[1, 0, 0x5e, 0, 0, 1])]), Answered),
        row("K18 Ethernet source the interface's own", With(&[(SRC, &NODE_MAC.0)]), Answered),
        row("K19 another sha than known", With(&[(SHA, &[2, 9, 9, 9, 9, 9])]), Kernel("neighbour_differs")),
        row("K20 sha zero", With(&[(SHA, &[0; 6])]), Kernel("neighbour_differs")),
        row("K20 sha broadcast", With(&[(SHA, &[0xff; 6])]), Kernel("neighbour_differs")),
        row("K20 sha multicast", With(&[(SHA, &[1, 0, 0x5e, 0, 0, 1])]), Kernel("neighbour_differs")),
        row("K20 sha the interface's own", With(&[(SHA, &NODE_MAC.0)]), Kernel("neighbour_differs")),
    ])
}

#[test]
fn k21_to_k24_encapsulation() -> Result<()> {
    needs_root!();
    let silent = Silent(UNCOUNTED);
    check(&[
        row("K21 802.3 and SNAP", Raw(|h| headed(h, &[0, 36, 0xaa, 0xaa, 3, 0, 0, 0, 8, 6])), silent),
        row("K22 RARP", Raw(|h| headed(h, &[0x80, 0x35])), silent),
    ])?;
    // The kernel takes an outer tag off before tc sees the frame, which knows it from the metadata.
    let tagged = if Hook::chosen()? == Hook::Tc { "vlan_tag" } else { UNCOUNTED };
    let (answered, silent) = (Kernel(tagged), Silent(tagged));
    check(&[
        row("K23 802.1Q id 0", Raw(|h| headed(h, &[0x81, 0, 0, 0, 8, 6])), answered),
        row("K23 802.1Q id 0, priority 5", Raw(|h| headed(h, &[0x81, 0, 0xa0, 0, 8, 6])), answered),
        row("K23 802.1ad id 0", Raw(|h| headed(h, &[0x88, 0xa8, 0, 0, 8, 6])), answered),
        // The inner one is still there then.
        row("K23 id 0 twice", Raw(|h| headed(h, &[0x88, 0xa8, 0, 0, 0x81, 0, 0, 0, 8, 6])), Kernel(UNCOUNTED)),
        row("K24 802.1Q id 100", Raw(|h| headed(h, &[0x81, 0, 0, 100, 8, 6])), silent),
    ])
}
