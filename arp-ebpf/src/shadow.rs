//! Shadow: a request is noted with its verdict, and looked for on its way out. The programs are loaded only with `--shadow`.

use crate::packet::Decided;
use crate::packet_access::read;
use crate::skb::{TC_ACT_UNSPEC, pull};
use crate::tables::{Maps, fetch_add_one};
use crate::time::now;
use arp_common::frame::ETHERTYPE_ARP;
use arp_common::shadow::{MAX_SAMPLES, Sample, ShadowRequest, asked, replied_to};
use arp_common::{ArpFrame, PackedArp, Reason};
use aya_ebpf::bindings::BPF_NOEXIST;
use aya_ebpf::btf_maps::{Array, HashMap};
use aya_ebpf::macros::{btf_map, classifier};
use aya_ebpf::programs::TcContext;

const MMAPABLE: usize = aya_ebpf::bindings::BPF_F_MMAPABLE as usize;

#[btf_map]
static SAMPLES: HashMap<ShadowRequest, Sample, { MAX_SAMPLES as usize }> = HashMap::new();
#[btf_map]
static NOT_SAMPLED: Array<u64, 1, MMAPABLE> = Array::new();

/// Notes what would be done with a frame, and has it passed.
#[inline(always)]
pub(crate) fn note(frame: &PackedArp, maps: &Maps, decided: Decided) -> Decided {
    if let Some(asked) = asked(frame, maps.ingress()) {
        let sample = Sample::new(now(), decided.reason, decided.mac);
        // One of the same kind waits already, or there is no room.
        if SAMPLES.insert(asked, sample, BPF_NOEXIST as u64).is_err()
            && let Some(count) = NOT_SAMPLED.get_ptr_mut(0)
        {
            // SAFETY: an aligned word of an array's element, which lives as long as the program.
            unsafe { fetch_add_one(count) };
        }
    }
    match decided.reason {
        0 => Decided { reason: Reason::SHADOW.raw(), ..decided },
        _ => decided,
    }
}

/// Sees what the kernel sends, and says nothing about it.
#[classifier]
pub(crate) fn arp_tc_tap(ctx: TcContext) -> i32 {
    // SAFETY: the context is the one that the kernel called us with.
    let (protocol, egress, tagged) =
        unsafe { ((*ctx.skb.skb).protocol, (*ctx.skb.skb).ifindex, (*ctx.skb.skb).vlan_present) };
    if protocol == u32::from(u16::from_ne_bytes(ETHERTYPE_ARP)) && tagged == 0 {
        pull(&ctx, ArpFrame::LEN);
        if let Some(frame) = read(ctx.data(), ctx.data_end()) {
            compare(&frame, egress);
        }
    }
    TC_ACT_UNSPEC
}

#[inline(always)]
fn compare(reply: &PackedArp, egress: u32) {
    let Some(asked) = replied_to(reply, egress) else { return };
    let Some(sample) = SAMPLES.get_ptr_mut(asked) else { return };
    // SAFETY: an element that the map keeps until no program looks at it; aligned words. Of two replies the first counts.
    unsafe {
        if (&raw const (*sample).answered_at).read_volatile() != 0 {
            return;
        }
        let differs = (*sample).reason == 0 && (*sample).is_other(reply);
        (&raw mut (*sample).differs).write_volatile(u32::from(differs));
        (&raw mut (*sample).answered_at).write_volatile(now());
    }
}
