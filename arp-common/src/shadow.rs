//! Shadow: nothing is answered, and what would be is compared with what the kernel sends (docs/adr/0017-policies-that-answer.md).
//! The program on ingress notes a request with its verdict, the one on egress what the kernel makes of it.

use crate::lladdr::Lladdr;
use crate::packed::PackedArp;
use crate::reason::Reason;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Names of the maps and programs in the eBPF object.
pub mod names {
    /// `HashMap<Asked, Sample>`: the requests that are being compared.
    pub const SAMPLES: &str = "SAMPLES";
    /// `Array<u64>` with one element, mmapable: requests that found no room there, or were there already.
    pub const NOT_SAMPLED: &str = "NOT_SAMPLED";
    /// What takes the place of the tc program.
    pub const TC_PROGRAM: &str = "arp_tc_shadow";
    /// The same for the XDP program.
    pub const XDP_PROGRAM: &str = "arp_xdp_shadow";
    /// The same for the XDP program that takes frames in several buffers.
    pub const XDP_FRAGS_PROGRAM: &str = "arp_xdpf_shadow";
    /// The same for the XDP program for veths in driver mode.
    pub const XDP_VETH_PROGRAM: &str = "arp_xdpv_shadow";
    /// The tc program that sees what the kernel sends.
    pub const TAP_PROGRAM: &str = "arp_tc_tap";
}

/// How many requests can be under comparison at once: what waits for the kernel, and for the agent to look.
pub const MAX_SAMPLES: u32 = 8_192;

/// A request, as its reply names it.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, FromBytes, Immutable, IntoBytes, KnownLayout)]
pub struct ShadowRequest {
    /// The interface that it came in on, and the reply leaves by.
    pub ifindex: u32,
    /// Who asks.
    pub spa: [u8; 4],
    /// For whom.
    pub tpa: [u8; 4],
    /// From which link-layer address.
    pub sha: [u8; 6],
    /// 0.
    pub unused: u16,
}

/// What became of a request.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, Immutable, IntoBytes, KnownLayout)]
pub struct Sample {
    /// When it came in, in ns of CLOCK_MONOTONIC.
    pub asked_at: u64,
    /// When the kernel's reply left; 0 while there is none.
    pub answered_at: u64,
    /// The link-layer address that our reply would carry, in a word; 0 for a pass.
    pub mac: u64,
    /// The reason for a pass; 0 for a reply.
    pub reason: u32,
    /// 1 if the kernel's reply has other bytes than ours would have.
    pub differs: u32,
}

const _: () = {
    assert!(size_of::<ShadowRequest>() == 20);
    assert!(size_of::<Sample>() == 32);
};

/// The request to compare; `None` for a frame that is none.
#[inline(always)]
pub fn asked(frame: &PackedArp, ingress: u32) -> Option<ShadowRequest> {
    if !frame.is_ipv4_over_ethernet() || !frame.is_request() {
        return None;
    }
    Some(ShadowRequest { ifindex: ingress, spa: frame.spa(), tpa: frame.tpa(), sha: frame.sha().bytes(), unused: 0 })
}

/// The request that a frame on its way out replies to; `None` if it is no reply.
#[inline(always)]
pub fn replied_to(frame: &PackedArp, egress: u32) -> Option<ShadowRequest> {
    if !frame.is_ipv4_over_ethernet() || !frame.is_request_or_reply() || frame.is_request() {
        return None;
    }
    let request = frame.turned();
    Some(ShadowRequest {
        ifindex: egress,
        spa: request.spa(),
        tpa: request.tpa(),
        sha: request.sha().bytes(),
        unused: 0,
    })
}

impl Sample {
    /// Of a request that has just come in.
    #[inline(always)]
    pub const fn new(now: u64, reason: u32, mac: Lladdr) -> Self {
        Sample { asked_at: now, answered_at: 0, mac: mac.word(), reason, differs: 0 }
    }

    /// Whether a reply of the kernel's is another than ours would be.
    #[inline(always)]
    pub fn is_other(&self, reply: &PackedArp) -> bool {
        *reply != reply.turned().reply(Lladdr::of_word(self.mac))
    }

    /// The reason for a pass; `None` for a reply.
    pub fn passes(&self) -> Option<Reason> {
        (self.reason != 0).then(|| Reason::from_raw(self.reason))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ArpFrame;

    const POD_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];
    const MAC: Lladdr = Lladdr::new([0xee, 0xed, 0xec, 0xeb, 0xea, 0xe9]);

    fn request() -> PackedArp {
        PackedArp::from(&ArpFrame::request(POD_MAC, [10, 5, 0, 5], [169, 254, 1, 1]))
    }

    #[test]
    fn a_reply_leads_to_its_request() {
        let asked_here = asked(&request(), 7);
        assert_eq!(
            asked_here.map(|asked| (asked.spa, asked.tpa, asked.sha)),
            Some(([10, 5, 0, 5], [169, 254, 1, 1], POD_MAC))
        );
        assert_eq!(replied_to(&request().reply(MAC), 7), asked_here);
        assert_eq!(asked(&request().reply(MAC), 7), None);
        assert_eq!(replied_to(&request(), 7), None);
    }

    #[test]
    fn other_bytes_are_another_reply() {
        let sample = Sample::new(1, 0, MAC);
        let reply = request().reply(MAC);
        assert!(!sample.is_other(&reply));
        assert!(sample.is_other(&request().reply(Lladdr::new([9; 6]))), "another link-layer address");
        let mut to_others = reply;
        to_others.words[0] ^= 1;
        assert!(sample.is_other(&to_others), "to another destination");
        let mut other_type = reply;
        other_type.words[1] ^= 7 << 56;
        assert!(sample.is_other(&other_type), "another htype");
    }
}
