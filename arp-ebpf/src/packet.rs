//! Whatever the hook: what a frame is.

use crate::packet_access::read;
use arp_common::frame::ETHERTYPE_ARP;
use arp_common::{ArpFrame, Lladdr, PackedArp, Verdict};
use core::arch::asm;

/// What a frame is, before anything is decided.
pub(crate) enum FrameClass {
    /// Not ARP, or too short to say: none of our business, not counted.
    Other,
    /// A VLAN tag is in front of what it is.
    Tagged,
    /// EtherType ARP, but shorter than a request.
    TooShort,
    /// EtherType ARP and long enough.
    Arp,
}

/// Looks at the packet memory from `start` to `end`.
#[inline(always)]
pub(crate) fn classify(start: usize, end: usize) -> FrameClass {
    const ETHERNET_HEADER: usize = 14;
    if start + ETHERNET_HEADER > end {
        return FrameClass::Other;
    }
    // SAFETY: the two bytes lie inside the 14 that were just checked.
    let ethertype = unsafe { load!("u16", start, "12") as u16 };
    if is_tag(ethertype) {
        FrameClass::Tagged
    } else if ethertype != u16::from_ne_bytes(ETHERTYPE_ARP) {
        FrameClass::Other
    } else if start + ArpFrame::LEN > end {
        FrameClass::TooShort
    } else {
        FrameClass::Arp
    }
}

/// A verdict in two words that always both have a value. In `Verdict` the link-layer address exists only in a reply; kept
/// over a join it is stack that only one branch has written, which not every kernel lets a program read.
#[derive(Clone, Copy)]
pub(crate) struct Decided {
    /// The number of the reason for a pass; 0 is a reply.
    pub(crate) reason: u32,
    /// What a reply carries; of a pass 0.
    pub(crate) mac: Lladdr,
}

impl Decided {
    #[inline(always)]
    pub(crate) fn new(verdict: Verdict) -> Self {
        match verdict {
            Verdict::Reply(mac) => Decided { reason: 0, mac },
            Verdict::Pass(reason) => Decided { reason: reason.raw(), mac: Lladdr::of_word(0) },
        }
    }
}

/// Whether an EtherType, in wire order, is that of a VLAN tag: 802.1Q or 802.1ad.
#[inline(always)]
pub(crate) fn is_tag(ethertype: u16) -> bool {
    ethertype == u16::from_ne_bytes([0x81, 0x00]) || ethertype == u16::from_ne_bytes([0x88, 0xa8])
}

/// Hands over the ARP packet behind VLAN tags, with the tags in the place of the Ethernet header's beginning: the
/// kernel takes off tags of VLAN 0, and hands what is behind them to ARP like any other packet
/// (`__netif_receive_skb_core`, net/core/dev.c).
#[inline(always)]
pub(crate) fn behind_tags(start: usize, end: usize, arp: impl Fn(&PackedArp)) {
    const TAG: usize = 4;
    let mut start = start;
    // As many as anybody has a use for, twice.
    for _ in 0..4 {
        start += TAG;
        if start + ArpFrame::LEN > end {
            return;
        }
        // SAFETY: the two bytes lie inside the 42 that were just checked.
        let ethertype = unsafe { load!("u16", start, "12") as u16 };
        if ethertype == u16::from_ne_bytes(ETHERTYPE_ARP) {
            break;
        }
        if !is_tag(ethertype) {
            return;
        }
    }
    match read(start, end) {
        // There may be more tags than that.
        Some(frame) if (frame.words[1] >> 32) as u16 == u16::from_ne_bytes(ETHERTYPE_ARP) => arp(&frame),
        _ => {}
    }
}
