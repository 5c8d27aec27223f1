//! Trace: each frame that is answered or passed is told, with what became of it. Each program here is made of the same
//! code as one that tells nothing, and is in its place only while somebody listens (docs/adr/0020-trace.md).

use crate::manner::{AsTheKernel, ByPolicy, ProgramManner, Shadow};
use crate::packet::Decided;
use crate::tables::{Maps, fetch_add_one};
use crate::tc;
use crate::time::now;
use crate::xdp::{self, ReplyExit, whole_len, whole_of_one};
use arp_common::trace::{Told, TraceControl};
use arp_common::{Lladdr, PackedArp, Reason};
use aya_ebpf::bindings::BPF_RB_NO_WAKEUP;
use aya_ebpf::btf_maps::{Array, ArrayOfMaps, RingBuf};
use aya_ebpf::macros::{btf_map, classifier, xdp};
use aya_ebpf::programs::{TcContext, XdpContext};
use core::marker::PhantomData;

const MMAPABLE: usize = aya_ebpf::bindings::BPF_F_MMAPABLE as usize;
/// Of the ring that the kernel takes as the pattern for the agent's: no smaller than a page of any machine.
const PATTERN_LEN: usize = 1 << 16;

#[btf_map]
static TRACES: ArrayOfMaps<RingBuf<Told, PATTERN_LEN>, 1> = ArrayOfMaps::new();
#[btf_map]
static TRACE_CONTROL: Array<TraceControl, 1, MMAPABLE> = Array::new();

/// As another manner, and tells what becomes of each frame.
struct Traced<M>(PhantomData<M>);

impl<M: ProgramManner> ProgramManner for Traced<M> {
    type By = M::By;

    #[inline(always)]
    fn decide(frame: &PackedArp, maps: &Maps) -> (Decided, M::By) {
        M::decide(frame, maps)
    }

    #[inline(always)]
    fn settle(frame: &PackedArp, maps: &Maps, decided: Decided) -> Decided {
        M::settle(frame, maps, decided)
    }

    #[inline(always)]
    fn count_answer(by: M::By, maps: &Maps) {
        M::count_answer(by, maps);
    }

    #[inline(always)]
    fn policy(by: M::By) -> u32 {
        M::policy(by)
    }

    #[inline(always)]
    fn tell_answer(frame: &PackedArp, maps: &Maps, by: M::By, mac: Lladdr) {
        tell(frame, maps, 0, M::policy(by), mac);
    }

    #[inline(always)]
    fn tell_pass(frame: &PackedArp, maps: &Maps, _: M::By, reason: Reason, mac: Lladdr) {
        tell(frame, maps, reason.raw(), 0, mac);
    }
}

/// Puts a frame into the ring, if it is wanted. Nobody is woken up: whoever reads looks again in a moment.
#[inline(always)]
fn tell(frame: &PackedArp, maps: &Maps, reason: u32, policy: u32, mac: Lladdr) {
    let Some(control) = TRACE_CONTROL.get_ptr_mut(0) else { return };
    // SAFETY: an aligned word of an array's element, which lives as long as the program. The agent writes it through its
    // own mapping, hence volatile.
    if !TraceControl::is_told(unsafe { (&raw const (*control).mask).read_volatile() }, reason) {
        return;
    }
    let Some(ring) = TRACES.get(0) else { return };
    let Some(mut entry) = ring.reserve(0) else {
        // SAFETY: as before.
        unsafe { fetch_add_one(&raw mut (*control).lost) };
        return;
    };
    // The verdict is known, so it is the only clock that is read: one costs as much as the ring.
    let time = now();
    let (ifindex, reason, policy) = (maps.ingress(), reason as u16, policy as u16);
    entry.write(Told { time, ifindex, reason, policy, frame: Told::pack(frame, mac) });
    entry.submit(u64::from(BPF_RB_NO_WAKEUP));
}

/// [`tc::arp_tc`], and tells.
#[classifier]
pub(crate) fn arp_tc_trace(ctx: TcContext) -> i32 {
    tc::answer::<Traced<AsTheKernel>>(&ctx)
}

/// [`tc::arp_tc_policy`], and tells.
#[classifier]
pub(crate) fn arp_tc_ptrace(ctx: TcContext) -> i32 {
    tc::answer::<Traced<ByPolicy>>(&ctx)
}

/// [`tc::arp_tc_shadow`], and tells.
#[classifier]
pub(crate) fn arp_tc_strace(ctx: TcContext) -> i32 {
    tc::answer::<Traced<Shadow>>(&ctx)
}

/// [`xdp::arp_xdp`], and tells.
#[xdp]
pub(crate) fn arp_xdp_trace(ctx: XdpContext) -> u32 {
    xdp::answer::<Traced<AsTheKernel>>(&ctx, ReplyExit::Bounce, whole_of_one)
}

/// [`xdp::arp_xdp_frags`], and tells.
#[xdp(frags)]
pub(crate) fn arp_xdpf_trace(ctx: XdpContext) -> u32 {
    xdp::answer::<Traced<AsTheKernel>>(&ctx, ReplyExit::Bounce, whole_len)
}

/// [`xdp::arp_xdp_veth`], and tells.
#[xdp(frags)]
pub(crate) fn arp_xdpv_trace(ctx: XdpContext) -> u32 {
    xdp::answer::<Traced<AsTheKernel>>(&ctx, ReplyExit::Redirect, whole_len)
}

/// [`xdp::arp_xdp_policy`], and tells.
#[xdp]
pub(crate) fn arp_xdp_ptrace(ctx: XdpContext) -> u32 {
    xdp::answer::<Traced<ByPolicy>>(&ctx, ReplyExit::Bounce, whole_of_one)
}

/// [`xdp::arp_xdpf_policy`], and tells.
#[xdp(frags)]
pub(crate) fn arp_xdpf_ptrace(ctx: XdpContext) -> u32 {
    xdp::answer::<Traced<ByPolicy>>(&ctx, ReplyExit::Bounce, whole_len)
}

/// [`xdp::arp_xdpv_policy`], and tells.
#[xdp(frags)]
pub(crate) fn arp_xdpv_ptrace(ctx: XdpContext) -> u32 {
    xdp::answer::<Traced<ByPolicy>>(&ctx, ReplyExit::Redirect, whole_len)
}

/// [`xdp::arp_xdp_shadow`], and tells.
#[xdp]
pub(crate) fn arp_xdp_strace(ctx: XdpContext) -> u32 {
    xdp::answer::<Traced<Shadow>>(&ctx, ReplyExit::Bounce, whole_of_one)
}

/// [`xdp::arp_xdpf_shadow`], and tells.
#[xdp(frags)]
pub(crate) fn arp_xdpf_strace(ctx: XdpContext) -> u32 {
    xdp::answer::<Traced<Shadow>>(&ctx, ReplyExit::Bounce, whole_len)
}

/// [`xdp::arp_xdpv_shadow`], and tells.
#[xdp(frags)]
pub(crate) fn arp_xdpv_strace(ctx: XdpContext) -> u32 {
    xdp::answer::<Traced<Shadow>>(&ctx, ReplyExit::Redirect, whole_len)
}
