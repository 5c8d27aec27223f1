//! Programs of the attach self-test: they send the frame that they are run on, the way that replies go. Neither is ever
//! attached; the agent runs them on frames of its own.

use aya_ebpf::helpers::generated::{bpf_clone_redirect, bpf_redirect};
use aya_ebpf::macros::{classifier, xdp};
use aya_ebpf::programs::{TcContext, XdpContext};

/// As `arp_xdp_veth` replies: out of the interface by redirect.
#[xdp(frags)]
pub(crate) fn arp_xdp_probe(ctx: XdpContext) -> u32 {
    // SAFETY: a helper without pointers; it only notes where to.
    unsafe { bpf_redirect(ctx.ingress_ifindex() as u32, 0) as u32 }
}

/// Out of the interface by plain transmission, which is what becomes of replies by tc and by XDP on socket buffers.
#[classifier]
pub(crate) fn arp_tc_probe(ctx: TcContext) -> i32 {
    // SAFETY: the context is the one that the kernel called us with.
    unsafe { bpf_clone_redirect(ctx.skb.skb, (*ctx.skb.skb).ifindex, 0) as i32 }
}
