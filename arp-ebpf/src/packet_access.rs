//! The one door to packet memory: a frame in whole words. The benchmark's programs go through it, too.
//!
//! Packet memory is aligned to 2 bytes at most, and the compiler would fetch it byte by byte: the kernel allows the whole
//! word wherever the CPU does (`check_pkt_ptr_alignment`, kernel/bpf/verifier.c).

use arp_common::{ArpFrame, PackedArp};
use core::arch::asm;

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

/// The frame's first 42 bytes, if there are as many from `start` to `end`, which must be the context's `data` and
/// `data_end` as they are now: trimming a frame invalidates what was known of it.
#[inline(always)]
pub(crate) fn read(start: usize, end: usize) -> Option<PackedArp> {
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
        Some(PackedArp { words, rest: load!("u16", start, "40") as u16 })
    }
}

/// Puts a frame in the place of the one that is there; says whether there was room for it.
#[inline(always)]
#[must_use]
pub(crate) fn write(start: usize, end: usize, frame: &PackedArp) -> bool {
    if start + ArpFrame::LEN > end {
        return false;
    }
    let [a, b, c, d, e] = frame.words;
    // SAFETY: as in `read`.
    unsafe {
        store!("u64", start, "0", a);
        store!("u64", start, "8", b);
        store!("u64", start, "16", c);
        store!("u64", start, "24", d);
        store!("u64", start, "32", e);
        store!("u16", start, "40", u64::from(frame.rest));
    }
    true
}
