//! Packet memory, whatever the hook: what a frame is, and the one door to its bytes.

use arp_common::frame::ETHERTYPE_ARP;
use arp_common::{ArpFrame, Verdict};
use aya_ebpf::EbpfContext;
use aya_log_ebpf::trace;

/// What a frame is, before anything is decided.
pub(crate) enum Class {
    /// Not ARP, or too short to say: none of our business, not counted.
    Other,
    /// EtherType ARP, but shorter than a request.
    TooShort,
    /// EtherType ARP and long enough.
    Arp,
}

/// Looks at the packet memory from `start` to `end`.
#[inline(always)]
pub(crate) fn classify(start: usize, end: usize) -> Class {
    const ETHERNET_HEADER: usize = 14;
    if start + ETHERNET_HEADER > end {
        return Class::Other;
    }
    // SAFETY: the two bytes lie inside the 14 that were just checked; byte arrays need no alignment.
    let ethertype = unsafe { *((start + 12) as *const [u8; 2]) };
    if ethertype != ETHERTYPE_ARP {
        Class::Other
    } else if start + ArpFrame::LEN > end {
        Class::TooShort
    } else {
        Class::Arp
    }
}

/// The door to packet memory: the frame's first 42 bytes, if there are as many from `start` to `end`, which must be
/// the context's `data` and `data_end` as they are now: trimming a frame invalidates what was known of it.
#[inline(always)]
pub(crate) fn arp_frame<'a>(start: usize, end: usize) -> Option<&'a mut ArpFrame> {
    if start + ArpFrame::LEN > end {
        return None;
    }
    // SAFETY: 42 bytes from `start` are packet memory, as just checked (and as the verifier checks again); the type
    // has alignment 1 and no invalid values; the program alone holds the packet while it runs.
    Some(unsafe { &mut *(start as *mut ArpFrame) })
}

/// A line for each decision; the loader sets the level before the program is verified, so that while tracing is off
/// the verifier removes all of this.
#[inline(always)]
pub(crate) fn log(ctx: &impl EbpfContext, ingress: u32, frame: &ArpFrame, verdict: Verdict) {
    let code = match verdict {
        Verdict::Reply(_) => 0,
        Verdict::Pass(reason) => reason.raw(),
    };
    trace!(
        ctx,
        "ifindex {} who-has {:i} tell {:i} at {:mac}: code {}",
        ingress,
        u32::from_be_bytes(frame.arp.tpa),
        u32::from_be_bytes(frame.arp.spa),
        frame.arp.sha,
        code
    );
}
