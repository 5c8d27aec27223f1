//! What is told to the agent of single frames, through a ring buffer that is there only once the agent has made it
//! (docs/adr/0016-events-and-trace.md).

use crate::tables::fetch_add_one;
use crate::time::{jiffies, now};
use arp_common::PackedArp;
use arp_common::guard::MAX_GUARDS;
use arp_common::notice::{MAX_CODES, Marks, Notice, NoticeControl};
use aya_ebpf::btf_maps::{Array, ArrayOfMaps, RingBuf};
use aya_ebpf::macros::btf_map;

const MMAPABLE: usize = aya_ebpf::bindings::BPF_F_MMAPABLE as usize;
/// Of the ring that the kernel takes as the pattern for the agent's: no smaller than a page of any machine.
const PATTERN_LEN: usize = 1 << 16;

#[btf_map]
static NOTICES: ArrayOfMaps<RingBuf<Notice, PATTERN_LEN>, 1> = ArrayOfMaps::new();
#[btf_map]
static NOTICE_CONTROL: Array<NoticeControl, 1, MMAPABLE> = Array::new();
#[btf_map]
static EVENT_MARKS: Array<Marks, { MAX_GUARDS as usize }, MMAPABLE> = Array::new();

/// A policy has refused a frame of an interface, or would have (`kind`). It is told unless that was told of another one a
/// moment ago.
#[inline(always)]
pub(crate) fn event(counters: u32, ingress: u32, kind: u16, code: u16, frame: &PackedArp) {
    let (Some(control), Some(marks)) = (NOTICE_CONTROL.get_ptr_mut(0), EVENT_MARKS.get_ptr_mut(counters)) else {
        return;
    };
    if let Some(claim) = Marks::claim_of(code) {
        // SAFETY: an aligned word of an array's element, which lives as long as the program; the index is 0 or 1.
        unsafe { fetch_add_one((&raw mut (*marks).claims).cast::<u64>().add(claim & 1)) };
    }
    let now = jiffies();
    // SAFETY: as before, and the index is below 16. Of two CPUs that write it at once either may be the last; then two are
    // told.
    unsafe {
        let told_at = (&raw mut (*marks).told_at).cast::<u32>().add(usize::from(code) & (MAX_CODES - 1));
        let pause = (&raw const (*control).pause).read_volatile();
        if u64::from((now as u32).wrapping_sub(told_at.read_volatile())) < pause {
            return;
        }
        told_at.write_volatile(now as u32);
    }
    if !tell(ingress, kind, code, 0, frame) {
        // SAFETY: as before.
        unsafe { fetch_add_one(&raw mut (*control).events_lost) };
    }
}

/// Puts a notice into the ring, if there is one. Says whether it had room.
#[inline(always)]
fn tell(ingress: u32, kind: u16, code: u16, word: u64, frame: &PackedArp) -> bool {
    let Some(ring) = NOTICES.get(0) else { return true };
    let [a, b, c, d, e] = frame.words;
    let time = now();
    let frame = [a, b, c, d, e, u64::from(frame.rest)];
    ring.output(Notice { time, ifindex: ingress, kind, code, word, frame }, 0).is_ok()
}
