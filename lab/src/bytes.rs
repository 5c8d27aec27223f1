//! What is on the wire, written down byte by byte.

use std::fmt;

/// A link-layer address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mac(pub [u8; 6]);

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

/// The kernel's reply from an interface with the address `mac` to a request of `sha` and `spa` for `tpa`. Written
/// here byte by byte, and not with the code under test.
pub fn reply_bytes(mac: Mac, sha: Mac, spa: [u8; 4], tpa: [u8; 4]) -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.extend(sha.0); // Ethernet destination: the sender hardware address
    bytes.extend(mac.0); // Ethernet source
    bytes.extend([0x08, 0x06]); // EtherType ARP
    bytes.extend([0x00, 0x01]); // hardware type Ethernet
    bytes.extend([0x08, 0x00]); // protocol type IPv4
    bytes.extend([6, 4]); // address lengths
    bytes.extend([0x00, 0x02]); // reply
    bytes.extend(mac.0);
    bytes.extend(tpa);
    bytes.extend(sha.0);
    bytes.extend(spa);
    bytes
}
