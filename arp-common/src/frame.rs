//! An ARP request as it lies in the packet, and its reply, in place.

use network_types::arp::ArpHdr;

/// EtherType of ARP, in wire order (RFC 826; `ETH_P_ARP`).
pub const ETHERTYPE_ARP: [u8; 2] = [0x08, 0x06];
/// `htype` of Ethernet, the only one that the kernel puts into a reply on an Ethernet device.
pub const HTYPE_ETHERNET: [u8; 2] = [0, 1];
/// `htype` of IEEE 802 networks: the kernel takes it as Ethernet (`arp_process`, net/ipv4/arp.c).
pub const HTYPE_IEEE802: [u8; 2] = [0, 6];
/// `ptype` of IPv4.
pub const PTYPE_IPV4: [u8; 2] = [0x08, 0x00];
/// `oper` of a request.
pub const OPER_REQUEST: [u8; 2] = [0, 1];
/// `oper` of a reply.
pub const OPER_REPLY: [u8; 2] = [0, 2];

/// The first 42 bytes of an untagged Ethernet frame that carries ARP for IPv4: alignment 1, every field in wire
/// order, so that packet memory can be looked at as it is. The names behind [`ArpFrame::arp`] are those of RFC 826.
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
    /// How many whole 8-byte words that is; two bytes are left.
    pub const WORDS: usize = 5;

    /// Whether the frame's EtherType is ARP.
    #[inline(always)]
    pub fn is_arp(&self) -> bool {
        self.ethertype == ETHERTYPE_ARP
    }

    /// Whether the header is one that the kernel accepts on an Ethernet device: `htype` 1 or 6, `ptype` IPv4,
    /// `hlen` 6, `plen` 4 (`arp_rcv` and `arp_process`, net/ipv4/arp.c).
    #[inline(always)]
    pub fn is_ipv4_over_ethernet(&self) -> bool {
        let ArpHdr { htype, ptype, hlen, plen, .. } = self.arp;
        (htype == HTYPE_ETHERNET || htype == HTYPE_IEEE802) && ptype == PTYPE_IPV4 && hlen == 6 && plen == 4
    }

    /// Whether `oper` says request.
    #[inline(always)]
    pub fn is_request(&self) -> bool {
        self.arp.oper == OPER_REQUEST
    }

    /// Turns a request into the reply that the kernel would send from an interface whose address is `mac`
    /// (`arp_create`, net/ipv4/arp.c): to `sha`, not to the Ethernet source; `htype` 1 whatever the request said.
    #[inline(always)]
    pub fn make_reply(&mut self, mac: [u8; 6]) {
        let ArpHdr { sha, spa, tpa, .. } = self.arp;
        self.dst = sha;
        self.src = mac;
        self.arp.htype = HTYPE_ETHERNET;
        self.arp.oper = OPER_REPLY;
        self.arp.sha = mac;
        self.arp.spa = tpa;
        self.arp.tha = sha;
        self.arp.tpa = spa;
    }

    /// The frame whose bytes lie in these words, in the machine's order: a program reads and writes packet memory in
    /// as few steps as it can.
    #[inline(always)]
    pub const fn from_words(words: [u64; Self::WORDS], rest: u16) -> Self {
        let [a, b, c, d, e] = words;
        let [a, b, c, d, e] = [a.to_ne_bytes(), b.to_ne_bytes(), c.to_ne_bytes(), d.to_ne_bytes(), e.to_ne_bytes()];
        let rest = rest.to_ne_bytes();
        ArpFrame {
            dst: [a[0], a[1], a[2], a[3], a[4], a[5]],
            src: [a[6], a[7], b[0], b[1], b[2], b[3]],
            ethertype: [b[4], b[5]],
            arp: ArpHdr {
                htype: [b[6], b[7]],
                ptype: [c[0], c[1]],
                hlen: c[2],
                plen: c[3],
                oper: [c[4], c[5]],
                sha: [c[6], c[7], d[0], d[1], d[2], d[3]],
                spa: [d[4], d[5], d[6], d[7]],
                tha: [e[0], e[1], e[2], e[3], e[4], e[5]],
                tpa: [e[6], e[7], rest[0], rest[1]],
            },
        }
    }

    /// The inverse of [`ArpFrame::from_words`].
    #[inline(always)]
    pub const fn to_words(&self) -> ([u64; Self::WORDS], u16) {
        let ArpFrame { dst, src, ethertype, arp } = self;
        let ArpHdr { htype, ptype, hlen, plen, oper, sha, spa, tha, tpa } = arp;
        let words = [
            [dst[0], dst[1], dst[2], dst[3], dst[4], dst[5], src[0], src[1]],
            [src[2], src[3], src[4], src[5], ethertype[0], ethertype[1], htype[0], htype[1]],
            [ptype[0], ptype[1], *hlen, *plen, oper[0], oper[1], sha[0], sha[1]],
            [sha[2], sha[3], sha[4], sha[5], spa[0], spa[1], spa[2], spa[3]],
            [tha[0], tha[1], tha[2], tha[3], tha[4], tha[5], tpa[0], tpa[1]],
        ];
        let [a, b, c, d, e] = words;
        let words = [
            u64::from_ne_bytes(a),
            u64::from_ne_bytes(b),
            u64::from_ne_bytes(c),
            u64::from_ne_bytes(d),
            u64::from_ne_bytes(e),
        ];
        (words, u16::from_ne_bytes([tpa[2], tpa[3]]))
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
    const REPLY: [u8; 42] = [
        0x02, 0x00, 0x00, 0x00, 0x00, 0x02, 0xee, 0xee, 0xee, 0xee, 0xee, 0xee, 0x08, 0x06, 0x00, 0x01, 0x08, 0x00,
        0x06, 0x04, 0x00, 0x02, 0xee, 0xee, 0xee, 0xee, 0xee, 0xee, 169, 254, 1, 1, 0x02, 0x00, 0x00, 0x00, 0x00, 0x02,
        10, 244, 235, 132,
    ];

    #[test]
    fn words_hold_the_bytes_in_their_order() {
        let mut bytes = [0; ArpFrame::LEN];
        for (number, byte) in bytes.iter_mut().enumerate() {
            *byte = 100 + number as u8;
        }
        let word = |at: usize| u64::from_ne_bytes(bytes[at..at + 8].try_into().unwrap());
        let words = [word(0), word(8), word(16), word(24), word(32)];
        let rest = u16::from_ne_bytes([bytes[40], bytes[41]]);
        let frame = ArpFrame::from_words(words, rest);
        assert_eq!(frame.to_bytes(), bytes);
        assert_eq!(frame.to_words(), (words, rest));
    }

    #[test]
    fn bytes_survive_the_round_trip() {
        assert_eq!(ArpFrame::from_bytes(&REQUEST).unwrap().to_bytes(), REQUEST);
        assert!(ArpFrame::from_bytes(&REQUEST[..41]).is_none());
    }

    #[test]
    fn a_stack_s_request_is_what_request_builds() {
        let built = ArpFrame::request([2, 0, 0, 0, 0, 2], [10, 244, 235, 132], [169, 254, 1, 1]);
        assert_eq!(built.to_bytes(), REQUEST);
    }

    #[test]
    fn the_reply_is_the_kernel_s() {
        let mut frame = ArpFrame::from_bytes(&REQUEST).unwrap();
        frame.make_reply([0xee; 6]);
        assert_eq!(frame.to_bytes(), REPLY);
    }

    #[test]
    fn the_reply_goes_to_sha_and_says_ethernet_whatever_the_request_said() {
        let mut frame = ArpFrame::from_bytes(&REQUEST).unwrap();
        frame.src = [9; 6];
        frame.arp.htype = HTYPE_IEEE802;
        frame.arp.tha = [7; 6];
        frame.make_reply([0xee; 6]);
        assert_eq!(frame.to_bytes(), REPLY);
    }

    #[test]
    fn other_ethertypes_are_not_arp() {
        // IPv4, 802.1Q, RARP; and each byte alone.
        for ethertype in [[0x08, 0x00], [0x81, 0x00], [0x80, 0x35], [0x08, 0x07], [0x00, 0x06]] {
            let mut bytes = REQUEST;
            bytes[12..14].copy_from_slice(&ethertype);
            assert!(!ArpFrame::from_bytes(&bytes).unwrap().is_arp(), "{ethertype:02x?}");
        }
    }

    #[test]
    fn headers_that_the_kernel_refuses() {
        let good = ArpFrame::from_bytes(&REQUEST).unwrap();
        assert!(good.is_arp() && good.is_ipv4_over_ethernet() && good.is_request());
        for (at, value) in [(14, 1), (15, 2), (16, 9), (17, 1), (18, 8), (19, 16)] {
            let mut bytes = REQUEST;
            bytes[at] = value;
            assert!(!ArpFrame::from_bytes(&bytes).unwrap().is_ipv4_over_ethernet(), "byte {at} = {value}");
        }
    }
}
