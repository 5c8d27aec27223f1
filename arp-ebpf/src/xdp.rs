//! The XDP entry point.

use crate::tables::Maps;
use arp_common::frame::ETHERTYPE_ARP;
use arp_common::{ArpFrame, Reason, Verdict, decide};
use aya_ebpf::{bindings::xdp_action, helpers::generated::bpf_xdp_adjust_tail, macros::xdp, programs::XdpContext};
use aya_log_ebpf::trace;

/// What a frame is, before anything is decided.
enum Class {
    /// Not ARP, or too short to say: none of our business, not counted.
    Other,
    /// EtherType ARP, but shorter than a request.
    TooShort,
    /// EtherType ARP and long enough.
    Arp,
}

/// Answers the ARP requests that the kernel would answer, and passes everything else.
#[xdp]
pub(crate) fn arp_xdp(ctx: XdpContext) -> u32 {
    let class = classify(&ctx);
    if matches!(class, Class::Other) {
        return xdp_action::XDP_PASS;
    }
    let ingress = ctx.ingress_ifindex() as u32;
    let maps = Maps::new(ingress);
    if matches!(class, Class::TooShort) {
        return pass(&maps, Reason::TOO_SHORT);
    }
    let Some(frame) = arp_frame(&ctx) else { return xdp_action::XDP_PASS };
    let verdict = decide(frame, ingress, &maps);
    log(&ctx, ingress, frame, verdict);
    match verdict {
        Verdict::Pass(reason) => pass(&maps, reason),
        Verdict::Reply(mac) => reply(&ctx, &maps, mac),
    }
}

#[inline(always)]
fn pass(maps: &Maps, reason: Reason) -> u32 {
    maps.count_pass(reason);
    xdp_action::XDP_PASS
}

#[inline(always)]
fn reply(ctx: &XdpContext, maps: &Maps, mac: [u8; 6]) -> u32 {
    let excess = (ctx.data_end() - ctx.data()) as i32 - ArpFrame::LEN as i32;
    if excess > 0 {
        // SAFETY: the context is the one that the kernel called us with; the helper checks the length itself, and
        // leaves the frame as it is when it refuses.
        let refused = unsafe { bpf_xdp_adjust_tail(ctx.ctx, -excess) };
        if refused != 0 {
            return pass(maps, Reason::TRIM_FAILED);
        }
    }
    // Trimming invalidated what we knew of packet memory: look again.
    let Some(frame) = arp_frame(ctx) else { return xdp_action::XDP_PASS };
    frame.make_reply(mac);
    maps.count_answer();
    xdp_action::XDP_TX
}

#[inline(always)]
fn classify(ctx: &XdpContext) -> Class {
    const ETHERNET_HEADER: usize = 14;
    let (start, end) = (ctx.data(), ctx.data_end());
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

/// The door to packet memory: the frame's first 42 bytes, if it has as many.
#[inline(always)]
#[expect(clippy::mut_from_ref, reason = "the context is a handle; packet memory is the program's alone")]
fn arp_frame(ctx: &XdpContext) -> Option<&mut ArpFrame> {
    let start = ctx.data();
    if start + ArpFrame::LEN > ctx.data_end() {
        return None;
    }
    // SAFETY: 42 bytes from `start` are packet memory, as just checked (and as the verifier checks again); the type
    // has alignment 1 and no invalid values; the program alone holds the packet while it runs.
    Some(unsafe { &mut *(start as *mut ArpFrame) })
}

/// A line for each decision; the loader sets the level before the program is verified, so that while tracing is off
/// the verifier removes all of this.
#[inline(always)]
fn log(ctx: &XdpContext, ingress: u32, frame: &ArpFrame, verdict: Verdict) {
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
