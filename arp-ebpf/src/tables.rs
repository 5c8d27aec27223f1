//! The BPF maps, and [`Maps`], through which the decision reads them.

use arp_common::Reason;
use arp_common::decide::Tables;
use arp_common::fib::{CHUNK_NODES, Entry, MAX_CHUNKS};
use arp_common::maps::{
    Counters, FibNode, Global, Iface, IfaceAddr, MAX_IFACE_ADDRS, MAX_IFACES, MAX_OIFS, Neighbour, Oif, SettingWrite,
    UNKNOWN_INGRESS,
};
use arp_common::reason::ANSWERED;
use aya_ebpf::btf_maps::{Array, ArrayOfMaps, HashMap, PerCpuHashMap, RingBuf};
use aya_ebpf::helpers::generated::bpf_ktime_get_coarse_ns;
use aya_ebpf::macros::btf_map;
use core::sync::atomic::{Ordering, compiler_fence};

const NO_PREALLOC: usize = aya_ebpf::bindings::BPF_F_NO_PREALLOC as usize;
/// Bytes: some six hundred writes.
const SETTING_WRITES_LEN: usize = 1 << 16;
const MMAPABLE: usize = aya_ebpf::bindings::BPF_F_MMAPABLE as usize;

#[btf_map]
static GLOBAL: Array<Global, 1, MMAPABLE> = Array::new();
#[btf_map]
pub(crate) static SETTING_WRITES: RingBuf<SettingWrite, SETTING_WRITES_LEN> = RingBuf::new();
#[btf_map]
static IFACES: HashMap<u32, Iface, { MAX_IFACES as usize }, NO_PREALLOC> = HashMap::new();
#[btf_map]
static NEIGHBOURS: HashMap<IfaceAddr, Neighbour, { MAX_IFACE_ADDRS as usize }, NO_PREALLOC> = HashMap::new();
#[btf_map]
static PROXIES: HashMap<IfaceAddr, u32, { MAX_IFACE_ADDRS as usize }, NO_PREALLOC> = HashMap::new();
#[btf_map]
static OWN_ADDRESSES: HashMap<IfaceAddr, u32, { MAX_IFACE_ADDRS as usize }, NO_PREALLOC> = HashMap::new();
#[btf_map]
static OIFS: Array<Oif, { MAX_OIFS as usize }, MMAPABLE> = Array::new();
// Elements of an array are padded to 8 bytes: entries lie in blocks of 256, so that none is lost.
#[btf_map]
static FIB_ROOT: Array<FibNode, 256, MMAPABLE> = Array::new();
#[btf_map]
static FIB_NODES: ArrayOfMaps<Array<FibNode, { CHUNK_NODES as usize }, MMAPABLE>, { MAX_CHUNKS as usize }> =
    ArrayOfMaps::new();
#[btf_map]
static COUNTERS: PerCpuHashMap<u32, Counters, { MAX_IFACES as usize }, NO_PREALLOC> = PerCpuHashMap::new();

/// The maps, as a decision sees them.
pub(crate) struct Maps;

impl Tables for Maps {
    #[inline(always)]
    fn sequence(&self) -> u64 {
        let Some(global) = GLOBAL.get_ptr(0) else { return 1 };
        fence();
        // SAFETY: an element of an array map lives as long as the program. The agent writes the word through its own
        // mapping, hence volatile; an aligned 8-byte load is whole.
        let sequence = unsafe { (&raw const (*global).sequence).read_volatile() };
        fence();
        sequence
    }

    #[inline(always)]
    fn lease_is_valid(&self) -> bool {
        let Some(global) = GLOBAL.get_ptr(0) else { return false };
        // SAFETY: as in `sequence`.
        let until = unsafe { (&raw const (*global).lease_until).read_volatile() };
        // SAFETY: a helper without arguments. The coarse clock (5.11) is behind by a tick at most, and costs a load.
        until != 0 && unsafe { bpf_ktime_get_coarse_ns() } < until
    }

    #[inline(always)]
    fn settings_are_read(&self) -> bool {
        let Some(global) = GLOBAL.get_ptr(0) else { return false };
        // SAFETY: as in `sequence`. Only the sysctl hook moves the first, only the agent the second, and never past
        // the first: whichever is read first, if they are equal they were so at one moment.
        unsafe {
            (&raw const (*global).settings_read).read_volatile()
                == (&raw const (*global).settings_written).read_volatile()
        }
    }

    #[inline(always)]
    fn iface(&self, ifindex: u32) -> Option<Iface> {
        // SAFETY: the agent replaces elements of a hash map whole; the old one outlives this program run (RCU), or is
        // reused for a change that the sequence tells of.
        unsafe { IFACES.get(ifindex) }.copied()
    }

    #[inline(always)]
    fn neighbour(&self, key: IfaceAddr) -> Option<Neighbour> {
        // SAFETY: as in `iface`.
        unsafe { NEIGHBOURS.get(key) }.copied()
    }

    #[inline(always)]
    fn proxied(&self, key: IfaceAddr) -> bool {
        PROXIES.get_ptr(key).is_some()
    }

    #[inline(always)]
    fn owned(&self, key: IfaceAddr) -> bool {
        OWN_ADDRESSES.get_ptr(key).is_some()
    }

    #[inline(always)]
    fn oif(&self, slot: u16) -> Option<Oif> {
        OIFS.get(u32::from(slot)).copied()
    }

    #[inline(always)]
    fn fib_root(&self, index: u16) -> Entry {
        match FIB_ROOT.get(u32::from(index >> 8)) {
            Some(block) => Entry::from_raw(block[usize::from(index as u8)]),
            None => Entry::OPAQUE,
        }
    }

    #[inline(always)]
    fn fib_node(&self, node: u32, index: u8) -> Entry {
        match FIB_NODES.get_value(node / CHUNK_NODES, &(node % CHUNK_NODES)) {
            Some(entries) => Entry::from_raw(entries[usize::from(index)]),
            None => Entry::OPAQUE,
        }
    }
}

/// Keeps the reads of the tables between the two looks at the sequence. x86 does not reorder loads with loads, so it
/// is enough to hold the compiler; other CPUs need a read-modify-write, which BPF has, but `core` not for this target.
#[inline(always)]
fn fence() {
    compiler_fence(Ordering::SeqCst);
    #[cfg(not(bpf_target_arch = "x86_64"))]
    if let Some(global) = GLOBAL.get_ptr_mut(0) {
        // SAFETY: an aligned word that lives as long as the program; adding 0 changes nothing but the order.
        unsafe {
            core::arch::asm!(
                "{zero} = atomic_fetch_add((u64 *)({word} + 0), {zero})",
                zero = inout(reg) 0u64 => _,
                word = in(reg) &raw mut (*global).sequence,
            );
        }
    }
}

/// Counts in a word of [`Global`], whoever else counts in it at the same time, before all that follows.
#[inline(always)]
pub(crate) fn count_globally(word: impl FnOnce(*mut Global) -> *mut u64) {
    let Some(global) = GLOBAL.get_ptr_mut(0) else { return };
    // SAFETY: an aligned word of an array's element, which lives as long as the program. The form that fetches orders
    // everything around it on every CPU; `core` has it not for this target.
    unsafe {
        core::arch::asm!(
            "{one} = atomic_fetch_add((u64 *)({word} + 0), {one})",
            one = inout(reg) 1u64 => _,
            word = in(reg) word(global),
        );
    }
}

/// Counts an answer on `ingress`.
#[inline(always)]
pub(crate) fn count_answer(ingress: u32) {
    count(ingress, ANSWERED);
}

/// Counts a pass on `ingress`.
#[inline(always)]
pub(crate) fn count_pass(ingress: u32, reason: Reason) {
    count(ingress, reason.counter());
}

#[inline(always)]
fn count(ingress: u32, counter: usize) {
    let counters = COUNTERS.get_ptr_mut(ingress).or_else(|| COUNTERS.get_ptr_mut(UNKNOWN_INGRESS));
    if let Some(counters) = counters {
        // SAFETY: the element is this CPU's own, and programs do not preempt each other on a CPU.
        unsafe { (&raw mut (*counters)[counter]).write((&raw const (*counters)[counter]).read() + 1) };
    }
}
