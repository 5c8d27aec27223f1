//! The XDP entry points. They differ in whether frames may lie in several buffers, and in how a reply leaves.

use crate::manner::{AsTheKernel, ByPolicy, ProgramManner, Shadow};
use crate::packet::{FrameClass, behind_tags, classify};
use crate::packet_access::{read, write};
use crate::tables::Maps;
use arp_common::{ArpFrame, Lladdr, PackedArp, Reason};
use aya_ebpf::{
    bindings::xdp_action,
    helpers::generated::{bpf_redirect, bpf_xdp_adjust_tail, bpf_xdp_get_buff_len},
    macros::xdp,
    programs::XdpContext,
};

/// How a reply leaves.
#[derive(Clone, Copy)]
pub(crate) enum ReplyExit {
    /// By XDP_TX.
    Bounce,
    /// By redirect to the ingress interface. Out of a veth in driver mode it is the only way that also wakes a pod end
    /// without a program of its own (`veth_xdp_xmit`, drivers/net/veth.c).
    Redirect,
}

/// Answers the ARP requests that the kernel would answer, and passes everything else.
#[xdp]
pub(crate) fn arp_xdp(ctx: XdpContext) -> u32 {
    // The older helpers know nothing of frames in several buffers, and the kernel shows this program none.
    answer::<AsTheKernel>(&ctx, ReplyExit::Bounce, whole_of_one)
}

/// The same for Linux 5.18 and later: frames in several buffers need not be copied into one for it.
#[xdp(frags)]
pub(crate) fn arp_xdp_frags(ctx: XdpContext) -> u32 {
    answer::<AsTheKernel>(&ctx, ReplyExit::Bounce, whole_len)
}

/// The same for a veth in driver mode.
#[xdp(frags)]
pub(crate) fn arp_xdp_veth(ctx: XdpContext) -> u32 {
    answer::<AsTheKernel>(&ctx, ReplyExit::Redirect, whole_len)
}

/// [`arp_xdp`], which also answers what policies do.
#[xdp]
pub(crate) fn arp_xdp_policy(ctx: XdpContext) -> u32 {
    answer::<ByPolicy>(&ctx, ReplyExit::Bounce, whole_of_one)
}

/// The same of [`arp_xdp_frags`].
#[xdp(frags)]
pub(crate) fn arp_xdpf_policy(ctx: XdpContext) -> u32 {
    answer::<ByPolicy>(&ctx, ReplyExit::Bounce, whole_len)
}

/// The same of [`arp_xdp_veth`].
#[xdp(frags)]
pub(crate) fn arp_xdpv_policy(ctx: XdpContext) -> u32 {
    answer::<ByPolicy>(&ctx, ReplyExit::Redirect, whole_len)
}

/// [`arp_xdp`], which answers nothing, and notes what it would.
#[xdp]
pub(crate) fn arp_xdp_shadow(ctx: XdpContext) -> u32 {
    answer::<Shadow>(&ctx, ReplyExit::Bounce, whole_of_one)
}

/// The same of [`arp_xdp_frags`].
#[xdp(frags)]
pub(crate) fn arp_xdpf_shadow(ctx: XdpContext) -> u32 {
    answer::<Shadow>(&ctx, ReplyExit::Bounce, whole_len)
}

/// The same of [`arp_xdp_veth`].
#[xdp(frags)]
pub(crate) fn arp_xdpv_shadow(ctx: XdpContext) -> u32 {
    answer::<Shadow>(&ctx, ReplyExit::Redirect, whole_len)
}

/// The length of a frame that lies in one buffer.
#[inline(always)]
pub(crate) fn whole_of_one(ctx: &XdpContext) -> i32 {
    (ctx.data_end() - ctx.data()) as i32
}

/// The frame's length in all its buffers.
#[inline(always)]
pub(crate) fn whole_len(ctx: &XdpContext) -> i32 {
    let first = ctx.data_end() - ctx.data();
    if first == ArpFrame::LEN {
        // A request as every stack sends it needs no call: the first buffer is a page, and another one follows only
        // when it is full (`skb_pp_cow_data`, net/core/skbuff.c, for socket buffers and for veths).
        return first as i32;
    }
    // SAFETY: the context is the one that the kernel called us with.
    unsafe { bpf_xdp_get_buff_len(ctx.ctx) as i32 }
}

#[inline(always)]
pub(crate) fn answer<M: ProgramManner>(ctx: &XdpContext, exit: ReplyExit, len: impl Fn(&XdpContext) -> i32) -> u32 {
    let class = classify(ctx.data(), ctx.data_end());
    if matches!(class, FrameClass::Other) {
        return xdp_action::XDP_PASS;
    }
    let ingress = ctx.ingress_ifindex() as u32;
    let Some(maps) = Maps::new(ingress) else { return xdp_action::XDP_PASS };
    if matches!(class, FrameClass::Tagged) {
        behind_tags(ctx.data(), ctx.data_end(), |frame| maps.hand_up(frame));
        return xdp_action::XDP_PASS;
    }
    if matches!(class, FrameClass::TooShort) {
        return pass(&maps, Reason::TOO_SHORT);
    }
    let Some(frame) = read(ctx.data(), ctx.data_end()) else { return xdp_action::XDP_PASS };
    let (decided, by) = M::decide(&frame, &maps);
    let decided = M::settle(&frame, &maps, decided);
    match decided.reason {
        0 => reply::<M>(ctx, &maps, &frame, decided.mac, by, exit, len(ctx)),
        reason => {
            let reason = Reason::from_raw(reason);
            maps.hand_up(&frame);
            let action = pass(&maps, reason);
            M::tell_pass(&frame, &maps, by, reason, decided.mac);
            action
        }
    }
}

#[inline(always)]
fn pass(maps: &Maps, reason: Reason) -> u32 {
    maps.count_pass(reason);
    xdp_action::XDP_PASS
}

#[inline(always)]
fn reply<M: ProgramManner>(
    ctx: &XdpContext,
    maps: &Maps,
    frame: &PackedArp,
    mac: Lladdr,
    by: M::By,
    exit: ReplyExit,
    len: i32,
) -> u32 {
    let answer = frame.reply(mac);
    let excess = len - ArpFrame::LEN as i32;
    if excess > 0 {
        // SAFETY: the context is the one that the kernel called us with; the helper checks the length itself, and
        // leaves the frame as it is when it refuses.
        let refused = unsafe { bpf_xdp_adjust_tail(ctx.ctx, -excess) };
        if refused != 0 {
            let action = pass(maps, Reason::TRIM_FAILED);
            M::tell_pass(frame, maps, by, Reason::TRIM_FAILED, mac);
            return action;
        }
    }
    // Trimming invalidated what we knew of packet memory: look again.
    if !write(ctx.data(), ctx.data_end(), &answer) {
        return xdp_action::XDP_PASS;
    }
    M::count_answer(by, maps);
    M::tell_answer(frame, maps, by, mac);
    match exit {
        ReplyExit::Bounce => xdp_action::XDP_TX,
        // SAFETY: a helper without pointers; it only notes where to.
        ReplyExit::Redirect => unsafe { bpf_redirect(maps.ingress(), 0) as u32 },
    }
}
