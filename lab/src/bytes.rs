//! Frames written out byte by byte.

use arp_common::Lladdr;

/// The kernel's reply from an interface with the address `mac` to a request of `sha` and `spa` for `tpa`. Written
/// here byte by byte, and not with the code under test.
pub fn reply_bytes(mac: Lladdr, sha: Lladdr, spa: [u8; 4], tpa: [u8; 4]) -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.extend(sha.bytes()); // Ethernet destination: the sender hardware address
    bytes.extend(mac.bytes()); // Ethernet source
    bytes.extend([0x08, 0x06]); // EtherType ARP
    bytes.extend([0x00, 0x01]); // hardware type Ethernet
    bytes.extend([0x08, 0x00]); // protocol type IPv4
    bytes.extend([6, 4]); // address lengths
    bytes.extend([0x00, 0x02]); // reply
    bytes.extend(mac.bytes());
    bytes.extend(tpa);
    bytes.extend(sha.bytes());
    bytes.extend(spa);
    bytes
}
