//! Packet memory, whatever the hook: what a frame is, and the one door to its bytes.

use arp_common::frame::ETHERTYPE_ARP;
use arp_common::{ArpFrame, Verdict};
use aya_ebpf::EbpfContext;
use aya_log_ebpf::trace;
use core::arch::asm;

// Packet memory is aligned to 2 bytes at most, and the compiler would fetch it byte by byte: the kernel allows the whole
// word wherever the CPU does (`check_pkt_ptr_alignment`, kernel/bpf/verifier.c).
macro_rules! load {
    ($size:literal, $start:expr, $offset:literal) => {{
        let value: u64;
        asm!(
            concat!("{value} = *(", $size, " *)({start} + ", $offset, ")"),
            value = lateout(reg) value,
            start = in(reg) $start,
            options(readonly, nostack, preserves_flags),
        );
        value
    }};
}

macro_rules! store {
    ($size:literal, $start:expr, $offset:literal, $value:expr) => {
        asm!(
            concat!("*(", $size, " *)({start} + ", $offset, ") = {value}"),
            start = in(reg) $start,
            value = in(reg) $value,
            options(nostack, preserves_flags),
        )
    };
}

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
    // SAFETY: the two bytes lie inside the 14 that were just checked.
    let ethertype = unsafe { load!("u16", start, "12") as u16 };
    if ethertype != u16::from_ne_bytes(ETHERTYPE_ARP) {
        Class::Other
    } else if start + ArpFrame::LEN > end {
        Class::TooShort
    } else {
        Class::Arp
    }
}

/// The frame's first 42 bytes, if there are as many from `start` to `end`, which must be the context's `data` and
/// `data_end` as they are now: trimming a frame invalidates what was known of it.
#[inline(always)]
pub(crate) fn read(start: usize, end: usize) -> Option<ArpFrame> {
    if start + ArpFrame::LEN > end {
        return None;
    }
    // SAFETY: 42 bytes from `start` are packet memory, as just checked (and as the verifier checks again); the program
    // alone holds the packet while it runs.
    unsafe {
        let words = [
            load!("u64", start, "0"),
            load!("u64", start, "8"),
            load!("u64", start, "16"),
            load!("u64", start, "24"),
            load!("u64", start, "32"),
        ];
        Some(ArpFrame::from_words(words, load!("u16", start, "40") as u16))
    }
}

/// Puts a reply in the frame's place; says whether there was room for it.
#[inline(always)]
#[must_use]
pub(crate) fn write(start: usize, end: usize, frame: &ArpFrame) -> bool {
    if start + ArpFrame::LEN > end {
        return false;
    }
    let ([a, b, c, d, e], rest) = frame.to_words();
    // SAFETY: as in `read`.
    unsafe {
        store!("u64", start, "0", a);
        store!("u64", start, "8", b);
        store!("u64", start, "16", c);
        store!("u64", start, "24", d);
        store!("u64", start, "32", e);
        store!("u16", start, "40", u64::from(rest));
    }
    true
}

/// A line for each decision; the loader sets the level before the program is verified, so that while tracing is off
/// the verifier removes all of this. The frame is read again for it: one that had to be shown to the logger could not
/// stay in registers for anyone.
#[inline(always)]
pub(crate) fn log(ctx: &impl EbpfContext, ingress: u32, verdict: Verdict, frame: impl Fn() -> Option<ArpFrame>) {
    let code = match verdict {
        Verdict::Reply(_) => 0,
        Verdict::Pass(reason) => reason.raw(),
    };
    trace!(
        ctx,
        "ifindex {} who-has {:i} tell {:i} at {:mac}: code {}",
        ingress,
        frame().map_or(0, |frame| u32::from_be_bytes(frame.arp.tpa)),
        frame().map_or(0, |frame| u32::from_be_bytes(frame.arp.spa)),
        frame().map_or([0; 6], |frame| frame.arp.sha),
        code
    );
}
