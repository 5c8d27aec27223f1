//! The socket buffer of a tc program: to make its bytes readable, and to make it as that of a new frame.

use aya_ebpf::bindings::__sk_buff;
use aya_ebpf::helpers::generated::{bpf_set_hash_invalid, bpf_skb_change_type, bpf_skb_pull_data};
use aya_ebpf::programs::TcContext;

/// Nothing is said about the frame: the next program, the next filter, then the stack.
pub(crate) const TC_ACT_UNSPEC: i32 = -1;
/// Delivered to us, in `skb->pkt_type`.
pub(crate) const PACKET_HOST: u32 = 0;

/// Makes the frame's socket buffer as that of a reply that the kernel has just made (`arp_create`, net/ipv4/arp.c): what
/// programs and queueing disciplines on the way out look at. Of what a program can read, only `ingress_ifindex`,
/// `napi_id` and `hwtstamp` remain as they were.
#[inline(always)]
pub(crate) fn make_fresh(skb: *mut __sk_buff) {
    // SAFETY: the context is the one that the kernel called us with, and each field is one that a tc program may write.
    // One by one: the verifier knows no stores over several fields.
    unsafe {
        (&raw mut (*skb).mark).write_volatile(0);
        (&raw mut (*skb).priority).write_volatile(0);
        (&raw mut (*skb).queue_mapping).write_volatile(0);
        (&raw mut (*skb).tc_index).write_volatile(0);
        (&raw mut (*skb).tc_classid).write_volatile(0);
        (&raw mut (*skb).cb[0]).write_volatile(0);
        (&raw mut (*skb).cb[1]).write_volatile(0);
        (&raw mut (*skb).cb[2]).write_volatile(0);
        (&raw mut (*skb).cb[3]).write_volatile(0);
        (&raw mut (*skb).cb[4]).write_volatile(0);
        bpf_set_hash_invalid(skb);
        bpf_skb_change_type(skb, PACKET_HOST);
    }
}

/// Makes the first `len` bytes of the frame readable, or all of a shorter one.
#[inline(always)]
pub(crate) fn pull(ctx: &TcContext, len: usize) {
    if ctx.data() + len > ctx.data_end() && ctx.len() as usize > ctx.data_end() - ctx.data() {
        // SAFETY: the context is the one that the kernel called us with. It moves bytes, and changes none.
        unsafe { bpf_skb_pull_data(ctx.skb.skb, (len as u32).min(ctx.len())) };
    }
}
