//! XDP programs, from doing nothing to everything but the tables, and the one that feeds them.
//!
//! Those that [`feed`] goes on with take frames in several buffers, as the fast path's own program does: one map of
//! programs holds only programs that are alike in this (`bpf_prog_map_compatible`, kernel/bpf/core.c).

use crate::packet_access::{read, write};
use arp_common::{ArpFrame, Lladdr, PackedArp};
use aya_ebpf::bindings::xdp_action::{XDP_ABORTED, XDP_DROP, XDP_PASS, XDP_TX};
use aya_ebpf::btf_maps::lpm_trie::Key;
use aya_ebpf::btf_maps::{Array, LpmTrie, PerCpuArray, ProgramArray};
use aya_ebpf::helpers::generated::{bpf_redirect, bpf_redirect_peer, bpf_skb_change_type};
use aya_ebpf::macros::{btf_map, classifier, xdp};
use aya_ebpf::programs::{TcContext, XdpContext};

const MMAPABLE: usize = aya_ebpf::bindings::BPF_F_MMAPABLE as usize;
/// How many targets and senders there are to choose from; a power of two.
const CHOICES: u32 = 1 << 20;

/// The request that [`feed`] and [`generate`] write, but for its target; from byte 44 on, in the machine's order, the
/// mask that chooses among the targets: 0 for always the first.
#[btf_map]
static REQUEST: Array<[u32; 12], 1> = Array::new();
/// Targets as their bytes lie in a frame, one after the other; two in an element, which an array pads to 8 bytes.
#[btf_map]
static TARGETS: Array<[u32; 2], { CHOICES as usize / 2 }, MMAPABLE> = Array::new();
/// How many requests were written.
#[btf_map]
static WRITTEN: PerCpuArray<u64, 1> = PerCpuArray::new();
/// How many frames [`discard`] dropped.
#[btf_map]
static DISCARDED: PerCpuArray<u64, 1> = PerCpuArray::new();
/// In slot 0 the program that [`feed`] goes on with.
#[btf_map]
static NEXT: ProgramArray<1> = ProgramArray::new();
/// The routes of [`lpm`].
#[btf_map]
static ROUTES: LpmTrie<[u8; 4], u32, { CHOICES as usize }> = LpmTrie::new();

/// Memory for [`wall`] and [`dense_wall`], as large as the FIB's nodes of a million routes in a /8; [`feed`]'s owner
/// makes it smaller where nobody asks for that much.
#[btf_map]
static BLOCKS: Array<[u32; 256], 65536> = Array::new();

/// Any address: nobody looks at the frames.
const MAC: Lladdr = Lladdr::new([0xee; 6]);

/// Makes the frame a request again, for the next target, and goes on with the program in [`NEXT`]. BPF_PROG_TEST_RUN
/// gives a program that runs many times the same packet, so the second run would see the reply of the first.
#[xdp(frags)]
pub(crate) fn feed(ctx: XdpContext) -> u32 {
    if write_request(&ctx).is_none() {
        return XDP_ABORTED;
    }
    // SAFETY: nothing here needs to be dropped.
    unsafe { NEXT.tail_call(&ctx, 0) };
    XDP_ABORTED
}

/// Sends a request out of the interface that the frame seems to have come in on: a generator of live frames.
#[xdp]
pub(crate) fn generate(ctx: XdpContext) -> u32 {
    if write_request(&ctx).is_some() { XDP_TX } else { XDP_ABORTED }
}

/// Nothing at all.
#[xdp(frags)]
pub(crate) fn empty(_ctx: XdpContext) -> u32 {
    XDP_PASS
}

/// The same by tc.
#[classifier]
pub(crate) fn empty_tc(_ctx: TcContext) -> i32 {
    const TC_ACT_UNSPEC: i32 = -1;
    TC_ACT_UNSPEC
}

/// Swap and send: what any responder must do.
#[xdp(frags)]
pub(crate) fn null(ctx: XdpContext) -> u32 {
    let start = ctx.data();
    if start + ArpFrame::LEN > ctx.data_end() {
        return XDP_PASS;
    }
    // SAFETY: 42 bytes from `start` are packet memory, as just checked (and as the verifier checks again); the type
    // has alignment 1 and no invalid values; the program alone holds the packet while it runs.
    let frame = unsafe { &mut *(start as *mut ArpFrame) };
    core::mem::swap(&mut frame.dst, &mut frame.src);
    XDP_TX
}

/// A reply for every frame, as [`reflect`], of frames in several buffers, too. The kernel gives such a program a socket
/// buffer's copy in pages, and another one a linear copy, however long the frame (`netif_skb_check_for_xdp`, net/core/dev.c).
#[xdp(frags)]
pub(crate) fn reflect_frags(ctx: XdpContext) -> u32 {
    send_back(&ctx)
}

/// A reply for every frame, out of a veth, whose driver takes nothing back by XDP_TX that the other end takes without a
/// program of its own. A whole reply, unlike `null`: whoever gets it must not be busier with it than with others.
#[xdp]
pub(crate) fn reflect(ctx: XdpContext) -> u32 {
    send_back(&ctx)
}

/// The same for tc: the reply is put right into the pod end's input, as the one that asked must be sent it.
#[classifier]
pub(crate) fn reflect_tc(ctx: TcContext) -> i32 {
    const TC_ACT_UNSPEC: i32 = -1;
    const PACKET_HOST: u32 = 0;
    if !reply_to(ctx.data(), ctx.data_end()) {
        return TC_ACT_UNSPEC;
    }
    // SAFETY: the context is the one that the kernel called us with.
    unsafe {
        bpf_skb_change_type(ctx.skb.skb, PACKET_HOST);
        bpf_redirect_peer((*ctx.skb.skb).ifindex, 0) as i32
    }
}

/// All that a frame alone decides, and the whole reply; no table.
#[xdp(frags)]
pub(crate) fn parse(ctx: XdpContext) -> u32 {
    match request(&ctx) {
        Some(frame) => answer(&ctx, &frame),
        None => XDP_PASS,
    }
}

/// As `parse`, if the kernel's longest-prefix-match trie has a route to the target.
#[xdp(frags)]
pub(crate) fn lpm(ctx: XdpContext) -> u32 {
    let Some(frame) = request(&ctx) else { return XDP_PASS };
    if ROUTES.get(&Key::new(32, frame.tpa())).is_none() {
        return XDP_PASS;
    }
    answer(&ctx, &frame)
}

/// As `parse`, and one look into memory that the target chooses: what no lookup can do without whose table is larger
/// than the caches.
#[xdp(frags)]
pub(crate) fn wall(ctx: XdpContext) -> u32 {
    let Some(frame) = request(&ctx) else { return XDP_PASS };
    let [_, b, c, d] = frame.tpa();
    let Some(block) = BLOCKS.get(u32::from(b) << 8 | u32::from(c)) else { return XDP_PASS };
    // All of it is 0: the answer waits for the memory all the same.
    if block[usize::from(d)] != 0 {
        return XDP_PASS;
    }
    answer(&ctx, &frame)
}

/// The same into 4 MiB: what a table takes at least that has a cache line for each /24 of a /8.
#[xdp(frags)]
pub(crate) fn dense_wall(ctx: XdpContext) -> u32 {
    let Some(frame) = request(&ctx) else { return XDP_PASS };
    let [_, b, c, d] = frame.tpa();
    let Some(block) = BLOCKS.get(u32::from(b) << 4 | u32::from(c & 0xf)) else { return XDP_PASS };
    if block[usize::from(c & 0xf0) | usize::from(d >> 4)] != 0 {
        return XDP_PASS;
    }
    answer(&ctx, &frame)
}

/// Drops everything: the floor of a storm.
#[xdp]
pub(crate) fn discard(_ctx: XdpContext) -> u32 {
    if let Some(discarded) = DISCARDED.get_ptr_mut(0) {
        // SAFETY: the element is this CPU's own, and programs do not preempt each other on a CPU.
        unsafe { *discarded += 1 };
    }
    XDP_DROP
}

/// Drops all ARP: the floor of a guard.
#[classifier]
pub(crate) fn discard_arp_tc(ctx: TcContext) -> i32 {
    const TC_ACT_UNSPEC: i32 = -1;
    const TC_ACT_SHOT: i32 = 2;
    // SAFETY: the context is the one that the kernel called us with.
    let protocol = unsafe { (*ctx.skb.skb).protocol };
    if protocol == u32::from(u16::from_ne_bytes([0x08, 0x06])) { TC_ACT_SHOT } else { TC_ACT_UNSPEC }
}

#[inline(always)]
fn write_request(ctx: &XdpContext) -> Option<()> {
    let written = WRITTEN.get_ptr_mut(0)?;
    let request = REQUEST.get(0)?;
    // SAFETY: the element is this CPU's own, and programs do not preempt each other on a CPU.
    let number = unsafe { *written } as u32 & request[11] & (CHOICES - 1);
    let pair = TARGETS.get(number >> 1)?;
    let target = if number & 1 == 0 { pair[0] } else { pair[1] };
    // SAFETY: as above.
    unsafe { *written += 1 };
    let word = |at: usize| u64::from(request[at]) | u64::from(request[at + 1]) << 32;
    // The target is the last four of the 42 bytes.
    let last = word(8) & !0 >> 16 | u64::from(target) << 48;
    let words = [word(0), word(2), word(4), word(6), last];
    // By whole words. A load that spans several stores that are still on their way waits for the last of them, and whoever
    // reads a real frame does not: the sender's copy into it was long ago.
    write(ctx.data(), ctx.data_end(), &PackedArp { words, rest: (target >> 16) as u16 }).then_some(())
}

#[inline(always)]
fn send_back(ctx: &XdpContext) -> u32 {
    if !reply_to(ctx.data(), ctx.data_end()) {
        return XDP_PASS;
    }
    // SAFETY: a helper that only notes where the frame is to go.
    unsafe { bpf_redirect(ctx.ingress_ifindex() as u32, 0) as u32 }
}

#[inline(always)]
fn request(ctx: &XdpContext) -> Option<PackedArp> {
    // EtherType ARP.
    let is_arp = |frame: &PackedArp| (frame.words[1] >> 32) as u16 == 0x0608;
    read(ctx.data(), ctx.data_end())
        .filter(|frame| is_arp(frame) && frame.is_ipv4_over_ethernet() && frame.is_request())
}

#[inline(always)]
fn answer(ctx: &XdpContext, frame: &PackedArp) -> u32 {
    if write(ctx.data(), ctx.data_end(), &frame.reply(MAC)) { XDP_TX } else { XDP_PASS }
}

/// Makes a whole reply of whatever lies there; says whether it is long enough.
#[inline(always)]
fn reply_to(start: usize, end: usize) -> bool {
    read(start, end).is_some_and(|frame| write(start, end, &frame.reply(MAC)))
}
