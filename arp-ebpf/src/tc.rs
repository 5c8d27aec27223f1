//! The tc entry point, for tcx and clsact.
//!
//! It writes no packet memory itself: for a program that does, the kernel makes every cloned packet writable before
//! it runs (`tc_cls_act_prologue`, net/core/filter.c), also those that are not ARP. The reply goes in by a helper.

use crate::manner::{AsTheKernel, ByPolicy, ProgramManner, Shadow};
use crate::packet::{FrameClass, behind_tags, classify, is_tag};
use crate::packet_access::read;
use crate::skb::{PACKET_HOST, TC_ACT_UNSPEC, make_fresh, pull};
use crate::tables::Maps;
use arp_common::frame::ETHERTYPE_ARP;
use arp_common::maps::Iface;
use arp_common::{ArpFrame, Lladdr, PackedArp, Reason};
use aya_ebpf::bindings::__sk_buff;
use aya_ebpf::helpers::generated::{
    bpf_redirect, bpf_redirect_peer, bpf_skb_change_tail, bpf_skb_change_type, bpf_skb_pull_data, bpf_skb_store_bytes,
};
use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;

/// An ARP frame behind as many tags as are looked behind.
const BEHIND_TAGS: usize = ArpFrame::LEN + 4 * 4;
/// The last of the kinds of group addresses, in `skb->pkt_type`; they follow [`PACKET_HOST`].
const PACKET_MULTICAST: u32 = 2;

/// Answers the ARP requests that the kernel would answer, and passes everything else.
#[classifier]
pub(crate) fn arp_tc(ctx: TcContext) -> i32 {
    answer::<AsTheKernel>(&ctx)
}

/// Answers also what policies do.
#[classifier]
pub(crate) fn arp_tc_policy(ctx: TcContext) -> i32 {
    answer::<ByPolicy>(&ctx)
}

/// Answers nothing, and notes what it would.
#[classifier]
pub(crate) fn arp_tc_shadow(ctx: TcContext) -> i32 {
    answer::<Shadow>(&ctx)
}

#[inline(always)]
pub(crate) fn answer<M: ProgramManner>(ctx: &TcContext) -> i32 {
    let skb = ctx.skb.skb;
    // SAFETY: the context is the one that the kernel called us with.
    let (protocol, ingress, tagged) = unsafe { ((*skb).protocol, (*skb).ifindex, (*skb).vlan_present) };
    if protocol != u32::from(u16::from_ne_bytes(ETHERTYPE_ARP)) {
        if is_tag(protocol as u16) {
            // One tag more than the one in the metadata.
            pull(ctx, BEHIND_TAGS);
            if let Some(maps) = Maps::new(ingress) {
                behind_tags(ctx.data(), ctx.data_end(), |frame| maps.hand_up(frame));
            }
        }
        return TC_ACT_UNSPEC;
    }
    let Some(maps) = Maps::new(ingress) else { return TC_ACT_UNSPEC };
    // A driver may leave all but the Ethernet header in pages of their own.
    pull(ctx, ArpFrame::LEN);
    if tagged != 0 {
        if let Some(frame) = read(ctx.data(), ctx.data_end()) {
            maps.hand_up(&frame);
            M::tell_pass(&frame, &maps, M::By::default(), Reason::VLAN_TAG, Lladdr::of_word(0));
        }
        return pass(&maps, Reason::VLAN_TAG);
    }
    match classify(ctx.data(), ctx.data_end()) {
        FrameClass::Other | FrameClass::Tagged => return TC_ACT_UNSPEC,
        FrameClass::TooShort => return pass(&maps, Reason::TOO_SHORT),
        FrameClass::Arp => {}
    }
    let Some(frame) = read(ctx.data(), ctx.data_end()) else { return TC_ACT_UNSPEC };
    let (mut decided, by) = M::decide(&frame, &maps);
    // SAFETY: as above.
    if unsafe { (*skb).mark } != 0 && decided.reason == 0 && maps.has(Iface::MARKS_MATTER) {
        decided.reason = Reason::FRAME_MARKED.raw();
    }
    if decided.reason == 0 && !is_taken_by_arp(skb, &frame) {
        decided.reason = Reason::OTHER_DESTINATION.raw();
    }
    let decided = M::settle(&frame, &maps, decided);
    match decided.reason {
        0 => {
            // What comes in at the pod end from the wire is sorted by its destination; what is put there by
            // `bpf_redirect_peer` is not. Only to the very one that asked is it surely "to us".
            let to_asker = frame.src() == frame.sha() && !frame.src().is_group();
            let to_peer = to_asker && maps.has(Iface::TO_PEER);
            send::<M>(skb, &maps, &frame, decided.mac, by, to_peer)
        }
        reason => {
            let reason = Reason::from_raw(reason);
            maps.hand_up(&frame);
            let action = pass(&maps, reason);
            M::tell_pass(&frame, &maps, by, reason, decided.mac);
            action
        }
    }
}

/// Whether the kernel's ARP takes the frame for what its destination says. It goes by what was noted of the frame when it
/// came in (`arp_rcv`, net/ipv4/arp.c), and another program before this one may have changed either.
#[inline(always)]
fn is_taken_by_arp(skb: *mut __sk_buff, frame: &PackedArp) -> bool {
    // SAFETY: the context is the one that the kernel called us with.
    let noted = unsafe { (*skb).pkt_type };
    noted == PACKET_HOST || noted <= PACKET_MULTICAST && frame.dst().is_group()
}

#[inline(always)]
fn pass(maps: &Maps, reason: Reason) -> i32 {
    maps.count_pass(reason);
    TC_ACT_UNSPEC
}

/// Puts the reply in the frame's place and sends it back.
#[inline(always)]
fn send<M: ProgramManner>(
    skb: *mut __sk_buff,
    maps: &Maps,
    frame: &PackedArp,
    mac: Lladdr,
    by: M::By,
    to_peer: bool,
) -> i32 {
    const LEN: u32 = ArpFrame::LEN as u32;
    let reply = frame.reply(mac);
    let refused = || {
        let action = pass(maps, Reason::TRIM_FAILED);
        M::tell_pass(frame, maps, by, Reason::TRIM_FAILED, mac);
        action
    };
    // SAFETY: the context is the one that the kernel called us with, the reply is 42 bytes of our stack and more. A helper that
    // refuses leaves the frame as it is.
    unsafe {
        if (*skb).len != LEN {
            // Writable first: so that nothing can fail once the frame is trimmed.
            if bpf_skb_pull_data(skb, LEN) != 0 || bpf_skb_change_tail(skb, LEN, 0) != 0 {
                return refused();
            }
        }
        if bpf_skb_store_bytes(skb, 0, core::ptr::from_ref(&reply).cast(), LEN, 0) != 0 {
            return refused();
        }
        M::count_answer(by, maps);
        M::tell_answer(frame, maps, by, mac);
        if to_peer {
            bpf_skb_change_type(skb, PACKET_HOST);
            bpf_redirect_peer(maps.ingress(), 0) as i32
        } else {
            make_fresh(skb);
            bpf_redirect(maps.ingress(), 0) as i32
        }
    }
}
