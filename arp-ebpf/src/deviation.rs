//! The policies that answer where the kernel would not, or not at once. They are in programs of their own
//! ([`ByPolicy`](crate::manner::ByPolicy)), which are loaded only where there is such a policy.

use crate::packet::Decided;
use crate::tables::{Maps, fetch_add_one, global_word};
use arp_common::deviation::{AnswerMode, Deviation, InterfaceDeviations, Lists, MAX_GATEWAYS, deviation};
use arp_common::guard::MAX_GUARDS;
use arp_common::maps::IfaceAddr;
use arp_common::{PackedArp, Reason, Tables as _};
use aya_ebpf::btf_maps::{Array, HashMap};
use aya_ebpf::macros::btf_map;

const MMAPABLE: usize = aya_ebpf::bindings::BPF_F_MMAPABLE as usize;

#[btf_map]
static DEVIATIONS: Array<InterfaceDeviations, { MAX_GUARDS as usize }, MMAPABLE> = Array::new();
#[btf_map]
static GATEWAYS: HashMap<IfaceAddr, u32, { MAX_GATEWAYS as usize }> = HashMap::new();

/// Decides as the kernel would; a frame that it would not answer, or not at once, a policy may answer: 1 more than its
/// number.
#[inline(always)]
pub(crate) fn decide(frame: &PackedArp, maps: &Maps) -> (Decided, u32) {
    let sequence = maps.sequence();
    let mut decided = Decided::new(arp_common::decide(frame, maps.ingress(), maps));
    if decided.reason == 0 {
        return (decided, 0);
    }
    let Some(of) = DEVIATIONS.get_ptr_mut(maps.counters()) else { return (decided, 0) };
    // SAFETY: an element of an array map lives as long as the program. The agent writes this word whole.
    let configured = unsafe { (&raw const (*of).configured).read_volatile() };
    if configured.modes == 0 {
        return (decided, 0);
    }
    let reason = Reason::from_raw(decided.reason);
    let Some(found) = deviation(frame, maps.ingress(), reason, &configured, maps, &GatewayLists) else {
        return (decided, 0);
    };
    let Some(iface) = maps.iface(maps.ingress()) else { return (decided, 0) };
    // Half of a batch may have been seen.
    if sequence & 1 != 0 || maps.sequence_after() != sequence {
        return (decided, 0);
    }
    match configured.mode(found) {
        AnswerMode::Answer => {
            decided.reason = 0;
            decided.mac = iface.lladdr();
            return (decided, found as u32 + 1);
        }
        // SAFETY: as above; an aligned word, and the number is below the room.
        _ => unsafe {
            fetch_add_one(word(&raw mut (*of).would_answer, found));
        },
    }
    (decided, 0)
}

/// Counts an answer by the policy of this number less 1.
#[inline(always)]
pub(crate) fn count_answer(policy: u32, maps: &Maps) {
    let Some(of) = DEVIATIONS.get_ptr_mut(maps.counters()) else { return };
    let by = if policy == Deviation::Gateway as u32 + 1 { Deviation::Gateway } else { Deviation::NoDelay };
    // SAFETY: as in `decide`.
    unsafe {
        fetch_add_one(word(&raw mut (*of).answered, by));
    }
}

/// The count of a policy.
#[inline(always)]
fn word(counts: *mut [u64; arp_common::deviation::ROOM], by: Deviation) -> *mut u64 {
    match by {
        Deviation::Gateway => counts.cast::<u64>(),
        Deviation::NoDelay => counts.cast::<u64>().wrapping_add(1),
    }
}

struct GatewayLists;

impl Lists for GatewayLists {
    #[inline(always)]
    fn common_view(&self) -> u16 {
        // SAFETY: it is a field of a live element; nothing is read or written here.
        let number = global_word(|global| unsafe { &raw mut (*global).common_view });
        // None of that number is looked up as what the mirror does not follow.
        (number as u16).wrapping_sub(1)
    }

    #[inline(always)]
    fn is_gateway(&self, key: IfaceAddr) -> bool {
        GATEWAYS.get_ptr(key).is_some()
    }
}
