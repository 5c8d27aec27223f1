//! The frame as the program holds it: in a few whole words, from which each field takes a shift or two. Byte arrays would
//! be taken apart and put together again byte by byte, which costs as much as all lookups of a decision.
#![expect(clippy::cast_possible_truncation, reason = "a field is the lower part of a shifted word")]

use crate::frame::ArpFrame;
use crate::lladdr::Lladdr;

const _: () = assert!(cfg!(target_endian = "little"), "the words below are those of a little-endian machine");

/// An [`ArpFrame`] in words: its bytes in their order, 8 to a word, and the last two.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PackedArp {
    /// The first 40 bytes.
    pub words: [u64; 5],
    /// The last two.
    pub rest: u16,
}

impl PackedArp {
    // Bytes 14 and 15: `htype`. Bytes 16 to 21: `ptype hlen plen oper`.
    const ETHERNET: u64 = 0x0100;
    const IEEE802: u64 = 0x0600;
    const IPV4_6_4: u32 = 0x0406_0008;
    const REQUEST: u16 = 0x0100;
    const REPLY: u64 = 0x0200;

    /// Ethernet destination.
    #[inline(always)]
    pub const fn dst(&self) -> Lladdr {
        Lladdr::of_word(self.words[0])
    }

    /// Ethernet source. The kernel does not look at it: a reply goes to `sha`.
    #[inline(always)]
    pub const fn src(&self) -> Lladdr {
        Lladdr::of_word(self.words[0] >> 48 | self.words[1] << 16)
    }

    /// Sender's link-layer address.
    #[inline(always)]
    pub const fn sha(&self) -> Lladdr {
        Lladdr::of_word(self.words[2] >> 48 | self.words[3] << 16)
    }

    /// Sender's address, in wire order.
    #[inline(always)]
    pub const fn spa(&self) -> [u8; 4] {
        ((self.words[3] >> 32) as u32).to_le_bytes()
    }

    /// Target's address, in wire order.
    #[inline(always)]
    pub const fn tpa(&self) -> [u8; 4] {
        ((self.words[4] >> 48) as u32 | (self.rest as u32) << 16).to_le_bytes()
    }

    /// Whether the header is one that the kernel accepts on an Ethernet device: `htype` 1 or 6, `ptype` IPv4,
    /// `hlen` 6, `plen` 4 (`arp_rcv` and `arp_process`, net/ipv4/arp.c).
    #[inline(always)]
    pub const fn is_ipv4_over_ethernet(&self) -> bool {
        let htype = self.words[1] >> 48;
        (htype == Self::ETHERNET || htype == Self::IEEE802) && self.words[2] as u32 == Self::IPV4_6_4
    }

    /// Whether `oper` says request.
    #[inline(always)]
    pub const fn is_request(&self) -> bool {
        (self.words[2] >> 32) as u16 == Self::REQUEST
    }

    /// Whether `oper` says request or reply: of others the kernel takes no notice (`arp_process`, net/ipv4/arp.c).
    #[inline(always)]
    pub const fn is_request_or_reply(&self) -> bool {
        let oper = (self.words[2] >> 32) as u16;
        oper == Self::REQUEST || oper == Self::REPLY as u16
    }

    /// The reply that the kernel would send from an interface whose address is `mac` (`arp_create`, net/ipv4/arp.c): to
    /// `sha`, not to the Ethernet source; `htype` 1 whatever the request said.
    #[inline(always)]
    #[must_use]
    pub const fn reply(&self, mac: Lladdr) -> Self {
        let (sha, mac) = (self.sha().word(), mac.word());
        let (spa, tpa) = (u32::from_le_bytes(self.spa()), u32::from_le_bytes(self.tpa()));
        const ETHERTYPE: u64 = 0x0608;
        PackedArp {
            words: [
                // dst, and two bytes of src
                sha | mac << 48,
                // the rest of src, the EtherType, htype
                mac >> 16 | ETHERTYPE << 32 | Self::ETHERNET << 48,
                // ptype hlen plen, oper, and two bytes of sha
                Self::IPV4_6_4 as u64 | Self::REPLY << 32 | mac << 48,
                // the rest of sha, spa
                mac >> 16 | (tpa as u64) << 32,
                // tha, and two bytes of tpa
                sha | (spa as u64) << 48,
            ],
            rest: (spa >> 16) as u16,
        }
    }

    /// Of a reply the request, as far as a reply is made of it: `sha`, `spa` and `tpa`.
    #[inline(always)]
    #[must_use]
    pub const fn turned(&self) -> Self {
        let tha = self.words[4] & 0xffff_ffff_ffff;
        let (spa, tpa) = (u32::from_le_bytes(self.spa()), u32::from_le_bytes(self.tpa()));
        PackedArp {
            words: [0, 0, tha << 48, tha >> 16 | (tpa as u64) << 32, (spa as u64) << 48],
            rest: (spa >> 16) as u16,
        }
    }

    /// What asks a sender's address of its owner alone: a probe (RFC 5227), from which nobody learns, from an interface
    /// whose address is `from`.
    #[inline(always)]
    #[must_use]
    pub const fn probe_of_sender(&self, from: Lladdr, owner: Lladdr) -> Self {
        let (from, owner) = (from.word(), owner.word());
        let spa = u32::from_le_bytes(self.spa());
        const ETHERTYPE: u64 = 0x0608;
        PackedArp {
            words: [
                // dst, and two bytes of src
                owner | from << 48,
                // the rest of src, the EtherType, htype
                from >> 16 | ETHERTYPE << 32 | Self::ETHERNET << 48,
                // ptype hlen plen, oper, and two bytes of sha
                Self::IPV4_6_4 as u64 | (Self::REQUEST as u64) << 32 | from << 48,
                // the rest of sha; spa is 0.0.0.0
                from >> 16,
                // tha is 0; two bytes of tpa
                (spa as u64) << 48,
            ],
            rest: (spa >> 16) as u16,
        }
    }

    /// The frame's bytes, as on the wire.
    pub fn to_bytes(&self) -> [u8; ArpFrame::LEN] {
        let mut bytes = [0; ArpFrame::LEN];
        let (words, rest) = bytes.split_at_mut(40);
        for (to, word) in words.chunks_exact_mut(8).zip(self.words) {
            to.copy_from_slice(&word.to_le_bytes());
        }
        rest.copy_from_slice(&self.rest.to_le_bytes());
        bytes
    }
}

impl From<&ArpFrame> for PackedArp {
    fn from(frame: &ArpFrame) -> Self {
        let bytes = frame.to_bytes();
        let (words, rest) = bytes.as_chunks();
        let [a, b, c, d, e] = [0, 1, 2, 3, 4].map(|at| u64::from_le_bytes(words[at]));
        PackedArp { words: [a, b, c, d, e], rest: u16::from_le_bytes([rest[0], rest[1]]) }
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
        0x02, 0x00, 0x00, 0x00, 0x00, 0x02, 0xee, 0xed, 0xec, 0xeb, 0xea, 0xe9, 0x08, 0x06, 0x00, 0x01, 0x08, 0x00,
        0x06, 0x04, 0x00, 0x02, 0xee, 0xed, 0xec, 0xeb, 0xea, 0xe9, 169, 254, 1, 1, 0x02, 0x00, 0x00, 0x00, 0x00, 0x02,
        10, 244, 235, 132,
    ];
    const MAC: Lladdr = Lladdr::new([0xee, 0xed, 0xec, 0xeb, 0xea, 0xe9]);

    // Written out from RFC 5227, section 2.1.1, but for the destination.
    const PROBE: [u8; 42] = [
        0x02, 0x00, 0x00, 0x00, 0x00, 0x07, 0xee, 0xed, 0xec, 0xeb, 0xea, 0xe9, 0x08, 0x06, 0x00, 0x01, 0x08, 0x00,
        0x06, 0x04, 0x00, 0x01, 0xee, 0xed, 0xec, 0xeb, 0xea, 0xe9, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 10, 244, 235, 132,
    ];

    #[test]
    fn an_owner_is_asked_by_a_probe_for_its_address() {
        let owner = Lladdr::new([0x02, 0, 0, 0, 0, 7]);
        assert_eq!(words(&REQUEST).probe_of_sender(MAC, owner).to_bytes(), PROBE);
    }

    fn words(bytes: &[u8; 42]) -> PackedArp {
        PackedArp::from(&ArpFrame::from_bytes(bytes).unwrap())
    }

    #[test]
    fn words_hold_the_bytes_in_their_order() {
        let bytes: [u8; 42] = core::array::from_fn(|number| 100 + number as u8);
        assert_eq!(words(&bytes).to_bytes(), bytes);
        let native = |at: usize| u64::from_ne_bytes(bytes[at..at + 8].try_into().unwrap());
        assert_eq!(words(&bytes).words, [native(0), native(8), native(16), native(24), native(32)]);
        assert_eq!(words(&bytes).rest, u16::from_ne_bytes([bytes[40], bytes[41]]));
    }

    #[test]
    fn fields_are_where_rfc_826_has_them() {
        let bytes: [u8; 42] = core::array::from_fn(|number| 100 + number as u8);
        let frame = words(&bytes);
        assert_eq!(frame.dst().bytes(), [100, 101, 102, 103, 104, 105]);
        assert_eq!(frame.src().bytes(), [106, 107, 108, 109, 110, 111]);
        assert_eq!(frame.sha().bytes(), [122, 123, 124, 125, 126, 127]);
        assert_eq!(frame.spa(), [128, 129, 130, 131]);
        assert_eq!(frame.tpa(), [138, 139, 140, 141]);
    }

    #[test]
    fn the_reply_is_the_kernel_s() {
        assert_eq!(words(&REQUEST).reply(MAC).to_bytes(), REPLY);
    }

    #[test]
    fn the_reply_goes_to_sha_and_says_ethernet_whatever_the_request_said() {
        let mut request = REQUEST;
        request[6..12].fill(9);
        request[15] = 6;
        request[32..38].fill(7);
        assert_eq!(words(&request).reply(MAC).to_bytes(), REPLY);
    }

    #[test]
    fn headers_that_the_kernel_refuses() {
        assert!(words(&REQUEST).is_ipv4_over_ethernet() && words(&REQUEST).is_request());
        for (at, value) in [(14, 1), (15, 2), (16, 9), (17, 1), (18, 8), (19, 16)] {
            let mut bytes = REQUEST;
            bytes[at] = value;
            assert!(!words(&bytes).is_ipv4_over_ethernet(), "byte {at} = {value}");
            assert!(words(&bytes).is_request(), "byte {at} = {value}");
        }
        for (at, value) in [(20, 1), (21, 2), (21, 0)] {
            let mut bytes = REQUEST;
            bytes[at] = value;
            assert!(words(&bytes).is_ipv4_over_ethernet(), "byte {at} = {value}");
            assert!(!words(&bytes).is_request(), "byte {at} = {value}");
        }
        let mut ieee802 = REQUEST;
        ieee802[15] = 6;
        assert!(words(&ieee802).is_ipv4_over_ethernet(), "the kernel takes it as Ethernet");
    }
}
