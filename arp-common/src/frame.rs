//! An ARP frame, field by field.

use network_types::arp::ArpHdr;

/// EtherType of ARP, in wire order (RFC 826; `ETH_P_ARP`).
pub const ETHERTYPE_ARP: [u8; 2] = [0x08, 0x06];
/// `htype` of Ethernet, the only one that the kernel puts into a reply on an Ethernet device.
pub const HTYPE_ETHERNET: [u8; 2] = [0, 1];
/// `ptype` of IPv4.
pub const PTYPE_IPV4: [u8; 2] = [0x08, 0x00];
/// `oper` of a request.
pub const OPER_REQUEST: [u8; 2] = [0, 1];

/// The first 42 bytes of an untagged Ethernet frame that carries ARP for IPv4: alignment 1, every field in wire
/// order, so that bytes can be looked at as they are. (The program looks at [`PackedArp`](crate::PackedArp).) The names
/// behind [`ArpFrame::arp`] are the usual ones (RFC 5227).
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct ArpFrame {
    /// Ethernet destination.
    pub dst: [u8; 6],
    /// Ethernet source. The kernel does not look at it: a reply goes to `sha`.
    pub src: [u8; 6],
    /// EtherType, in wire order.
    pub ethertype: [u8; 2],
    /// The ARP payload: `htype ptype hlen plen oper sha spa tha tpa`.
    pub arp: ArpHdr,
}

const _: () = assert!(size_of::<ArpFrame>() == ArpFrame::LEN && align_of::<ArpFrame>() == 1);

impl ArpFrame {
    /// Length of a request's meaningful part and of every reply, in bytes.
    pub const LEN: usize = 42;

    /// Whether the frame's EtherType is ARP.
    pub fn is_arp(&self) -> bool {
        self.ethertype == ETHERTYPE_ARP
    }

    /// The frame's bytes, as on the wire.
    pub fn to_bytes(&self) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        let ArpFrame { dst, src, ethertype, arp } = self;
        let fields: [&[u8]; 12] = [
            dst,
            src,
            ethertype,
            &arp.htype,
            &arp.ptype,
            &[arp.hlen],
            &[arp.plen],
            &arp.oper,
            &arp.sha,
            &arp.spa,
            &arp.tha,
            &arp.tpa,
        ];
        let mut at = 0;
        for field in fields {
            bytes[at..at + field.len()].copy_from_slice(field);
            at += field.len();
        }
        bytes
    }

    /// The frame in the first 42 of `bytes`; `None` if there are fewer. For userspace: the program looks at packet
    /// memory itself.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        fn take<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
            let mut field = [0; N];
            field.copy_from_slice(&bytes[at..at + N]);
            field
        }
        let bytes = bytes.get(..Self::LEN)?;
        Some(ArpFrame {
            dst: take(bytes, 0),
            src: take(bytes, 6),
            ethertype: take(bytes, 12),
            arp: ArpHdr {
                htype: take(bytes, 14),
                ptype: take(bytes, 16),
                hlen: bytes[18],
                plen: bytes[19],
                oper: take(bytes, 20),
                sha: take(bytes, 22),
                spa: take(bytes, 28),
                tha: take(bytes, 32),
                tpa: take(bytes, 38),
            },
        })
    }

    /// A broadcast request as a host's own stack sends it: who has `tpa`, tell `spa` at `sha`.
    pub fn request(sha: [u8; 6], spa: [u8; 4], tpa: [u8; 4]) -> Self {
        ArpFrame {
            dst: [0xff; 6],
            src: sha,
            ethertype: ETHERTYPE_ARP,
            arp: ArpHdr {
                htype: HTYPE_ETHERNET,
                ptype: PTYPE_IPV4,
                hlen: 6,
                plen: 4,
                oper: OPER_REQUEST,
                sha,
                spa,
                tha: [0; 6],
                tpa,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // Written out from RFC 826 and `arp_create` (net/ipv4/arp.c); the lab compares replies with the live kernel's.
    const REQUEST: [u8; 42] = [
        0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02, 0x00, 0x00, 0x00, 0x00, 0x02, 0x08, 0x06, 0x00, 0x01, 0x08, 0x00,
        0x06, 0x04, 0x00, 0x01, 0x02, 0x00, 0x00, 0x00, 0x00, 0x02, 10, 244, 235, 132, 0, 0, 0, 0, 0, 0, 169, 254, 1,
        1,
    ];
    #[test]
    fn bytes_survive_the_round_trip() {
        assert_eq!(ArpFrame::from_bytes(&REQUEST).unwrap().to_bytes(), REQUEST);
        assert!(ArpFrame::from_bytes(&REQUEST[..41]).is_none());
    }

    #[test]
    fn a_request_of_the_stack_is_what_request_builds() {
        let built = ArpFrame::request([2, 0, 0, 0, 0, 2], [10, 244, 235, 132], [169, 254, 1, 1]);
        assert_eq!(built.to_bytes(), REQUEST);
    }

    #[test]
    fn other_ethertypes_are_not_arp() {
        assert!(ArpFrame::from_bytes(&REQUEST).unwrap().is_arp());
        // IPv4, 802.1Q, RARP; and each byte alone.
        for ethertype in [[0x08, 0x00], [0x81, 0x00], [0x80, 0x35], [0x08, 0x07], [0x00, 0x06]] {
            let mut bytes = REQUEST;
            bytes[12..14].copy_from_slice(&ethertype);
            assert!(!ArpFrame::from_bytes(&bytes).unwrap().is_arp(), "{ethertype:02x?}");
        }
    }
}
