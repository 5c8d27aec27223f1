//! What a trace tells of single frames (docs/adr/0020-trace.md). The programs that tell are loaded only while somebody
//! listens.

use crate::lladdr::Lladdr;
use crate::packed::PackedArp;
use crate::reason::COUNTERS;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Names of the maps and programs in the eBPF object. A program for each hook and manner, in the place of the one that
/// tells nothing; at most 15 characters, which is what the kernel keeps of a name.
pub mod names {
    /// `ArrayOfMaps` of one `RingBuf<Told>`, which the agent makes for the first client.
    pub const TRACES: &str = "TRACES";
    /// `Array<TraceControl>` with one element, mmapable.
    pub const TRACE_CONTROL: &str = "TRACE_CONTROL";
    /// The tc program that answers as the kernel would.
    pub const TC: &str = "arp_tc_trace";
    /// The same for XDP.
    pub const XDP: &str = "arp_xdp_trace";
    /// The same for XDP and frames in several buffers.
    pub const XDP_FRAGS: &str = "arp_xdpf_trace";
    /// The same for a veth in driver mode.
    pub const XDP_VETH: &str = "arp_xdpv_trace";
    /// The tc program that also answers what policies do.
    pub const TC_POLICY: &str = "arp_tc_ptrace";
    /// The same for XDP.
    pub const XDP_POLICY: &str = "arp_xdp_ptrace";
    /// The same for XDP and frames in several buffers.
    pub const XDP_FRAGS_POLICY: &str = "arp_xdpf_ptrace";
    /// The same for a veth in driver mode.
    pub const XDP_VETH_POLICY: &str = "arp_xdpv_ptrace";
    /// The tc program of shadow.
    pub const TC_SHADOW: &str = "arp_tc_strace";
    /// The same for XDP.
    pub const XDP_SHADOW: &str = "arp_xdp_strace";
    /// The same for XDP and frames in several buffers.
    pub const XDP_FRAGS_SHADOW: &str = "arp_xdpf_strace";
    /// The same for a veth in driver mode.
    pub const XDP_VETH_SHADOW: &str = "arp_xdpv_strace";
}

/// The size of the ring, in bytes: some fourteen thousand frames, what comes in 20 ms at 700,000 a second.
pub const RING_LEN: u32 = 1 << 20;

/// A frame, and what became of it.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, Immutable, IntoBytes, KnownLayout)]
pub struct Told {
    /// When that was known, in ns of CLOCK_MONOTONIC.
    pub time: u64,
    /// The interface that the frame came in on.
    pub ifindex: u32,
    /// The number of the reason for which it was passed; 0 if it was answered.
    pub reason: u16,
    /// By which policy it was answered: 1 more than its number; 0 if the kernel would answer, too.
    pub policy: u16,
    /// Its first 40 bytes; then two more, and above them the link-layer address that the reply carries, or would.
    pub frame: [u64; 6],
}

impl Told {
    /// The words of a frame and of a reply's link-layer address.
    #[inline(always)]
    pub const fn pack(frame: &PackedArp, mac: Lladdr) -> [u64; 6] {
        let [a, b, c, d, e] = frame.words;
        [a, b, c, d, e, frame.rest as u64 | mac.word() << 16]
    }

    /// The frame.
    pub const fn frame(&self) -> PackedArp {
        let [a, b, c, d, e, rest] = self.frame;
        PackedArp { words: [a, b, c, d, e], rest: (rest & 0xffff) as u16 }
    }

    /// The link-layer address that the reply carries, or would; `None` if there would be none.
    pub fn mac(&self) -> Option<Lladdr> {
        Some(Lladdr::of_word(self.frame[5] >> 16)).filter(|mac| mac.word() != 0)
    }
}

/// What the agent tells the programs, and they it.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, Immutable, IntoBytes, KnownLayout)]
pub struct TraceControl {
    /// What is told: a bit for each counter of an interface, the lowest for answers.
    pub mask: u64,
    /// Frames that found no room in the ring.
    pub lost: u64,
}

impl TraceControl {
    /// Whether frames with this reason's number are told; 0 stands for answers.
    #[inline(always)]
    pub const fn is_told(mask: u64, reason: u32) -> bool {
        mask >> (reason as usize & (COUNTERS - 1)) & 1 != 0
    }
}

const _: () = {
    assert!(size_of::<Told>() == 64);
    assert!(size_of::<TraceControl>() == 16);
    assert!(COUNTERS == 64, "a mask has a bit for each counter");
};

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ArpFrame;

    #[test]
    fn frame_and_link_layer_address_come_back_from_the_words() {
        let frame = PackedArp::from(&ArpFrame::request([2, 0, 0, 0, 0, 2], [10, 5, 0, 5], [169, 254, 1, 201]));
        let mac = Lladdr::new([0xee, 0xed, 0xec, 0xeb, 0xea, 0xe9]);
        let told = |mac| Told { time: 1, ifindex: 7, reason: 0, policy: 0, frame: Told::pack(&frame, mac) };
        assert_eq!((told(mac).frame(), told(mac).mac()), (frame, Some(mac)));
        assert_eq!((told(Lladdr::of_word(0)).frame(), told(Lladdr::of_word(0)).mac()), (frame, None));
    }

    #[test]
    fn a_mask_has_answers_lowest_and_a_bit_for_each_reason() {
        assert!(TraceControl::is_told(1, 0) && !TraceControl::is_told(1, 1) && !TraceControl::is_told(!1, 0));
        assert!(TraceControl::is_told(1 << 45, 45) && TraceControl::is_told(1 << 63, 63));
    }
}
