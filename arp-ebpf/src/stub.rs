//! What is attached: a stub for each hook. It hands ARP frames, and those behind VLAN tags, to the main program by a
//! tail call through an array of one element that only the agent holds. When the agent ends, however it does, the kernel
//! closes its descriptors and empties the array (`map_release_uref`, kernel/bpf/arraymap.c): the stub stays behind where
//! a filter or a pinned link keeps it, and passes every frame from then on. Nothing may pin the arrays.
//!
//! An array for each hook: the kernel ties one to a type of program and to whether it takes frames in several buffers,
//! and empties elements one after the other, with a grace period for each.

use crate::packet::{FrameClass, classify, is_tag};
use crate::skb::TC_ACT_UNSPEC;
use arp_common::frame::ETHERTYPE_ARP;
use aya_ebpf::bindings::xdp_action;
use aya_ebpf::btf_maps::ProgramArray;
use aya_ebpf::macros::{btf_map, classifier, xdp};
use aya_ebpf::programs::{TcContext, XdpContext};

#[btf_map]
static JUMP_TC: ProgramArray<1> = ProgramArray::new();
#[btf_map]
static JUMP_XDP: ProgramArray<1> = ProgramArray::new();
#[btf_map]
static JUMP_XDP_FRAGS: ProgramArray<1> = ProgramArray::new();
#[btf_map]
static JUMP_XDP_VETH: ProgramArray<1> = ProgramArray::new();

/// `arp_tc` while there is an agent.
#[classifier]
pub(crate) fn arp_tc_stub(ctx: TcContext) -> i32 {
    // SAFETY: the context is the one that the kernel called us with.
    let protocol = unsafe { (*ctx.skb.skb).protocol };
    // The first tag is in the metadata; what comes after a second one may be ARP as well.
    if protocol == u32::from(u16::from_ne_bytes(ETHERTYPE_ARP)) || is_tag(protocol as u16) {
        // SAFETY: nothing here waits to be dropped. It comes back only if the array is empty.
        unsafe { JUMP_TC.tail_call(&ctx, 0) };
    }
    TC_ACT_UNSPEC
}

/// `arp_xdp` while there is an agent.
#[xdp]
pub(crate) fn arp_xdp_stub(ctx: XdpContext) -> u32 {
    jump(&ctx, &JUMP_XDP)
}

/// `arp_xdp_frags` while there is an agent.
#[xdp(frags)]
pub(crate) fn arp_xdpf_stub(ctx: XdpContext) -> u32 {
    jump(&ctx, &JUMP_XDP_FRAGS)
}

/// `arp_xdp_veth` while there is an agent.
#[xdp(frags)]
pub(crate) fn arp_xdpv_stub(ctx: XdpContext) -> u32 {
    jump(&ctx, &JUMP_XDP_VETH)
}

#[inline(always)]
fn jump(ctx: &XdpContext, to: &'static ProgramArray<1>) -> u32 {
    if !matches!(classify(ctx.data(), ctx.data_end()), FrameClass::Other) {
        // SAFETY: nothing here waits to be dropped. It comes back only if the array is empty.
        unsafe { to.tail_call(ctx, 0) };
    }
    xdp_action::XDP_PASS
}
