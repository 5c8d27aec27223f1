//! The BPF maps, and [`Maps`], through which the decision reads them.

use crate::time::{jiffies, now};
use arp_common::Reason;
use arp_common::buckets::choices;
use arp_common::fib::{CHUNK_NODES, Entry, MAX_CHUNKS, MAX_VIEWS};
use arp_common::maps::{
    CHUNK_COUNTERS, Counters, DOUBTED as DOUBTED_LEN, FibNode, Global, IFACE_BUCKETS, Iface, IfaceAddr, IfaceBucket,
    IfaceEntry, MAX_COUNTER_CHUNKS, MAX_IFACE_ADDRS, MAX_OIFS, NEIGHBOUR_BUCKETS, Neighbour, NeighbourBucket,
    OCCUPIED as OCCUPIED_LEN, Oif, STRANGERS as STRANGERS_LEN, SettingWrite, UNKNOWN_INGRESS,
};
use arp_common::reason::ANSWERED;
use arp_common::tables::Tables;
use arp_common::{Lladdr, PackedArp};
use aya_ebpf::btf_maps::{Array, ArrayOfMaps, HashMap, RingBuf};
use aya_ebpf::macros::btf_map;
use core::arch::asm;
use core::cell::Cell;
use core::sync::atomic::{Ordering, compiler_fence};
use zerocopy::transmute;

const NO_PREALLOC: usize = aya_ebpf::bindings::BPF_F_NO_PREALLOC as usize;
/// Bytes: some six hundred writes.
const SETTING_WRITES_LEN: usize = 1 << 16;
const MMAPABLE: usize = aya_ebpf::bindings::BPF_F_MMAPABLE as usize;

#[btf_map]
static GLOBAL: Array<Global, 1, MMAPABLE> = Array::new();
#[btf_map]
pub(crate) static SETTING_WRITES: RingBuf<SettingWrite, SETTING_WRITES_LEN> = RingBuf::new();
#[btf_map]
static IFACES: Array<IfaceBucket, { IFACE_BUCKETS as usize }, MMAPABLE> = Array::new();
#[btf_map]
static NEIGHBOURS: Array<NeighbourBucket, { NEIGHBOUR_BUCKETS as usize }, MMAPABLE> = Array::new();
#[btf_map]
static OCCUPIED: Array<u64, { OCCUPIED_LEN as usize }, MMAPABLE> = Array::new();
#[btf_map]
static DOUBTED: Array<u64, { DOUBTED_LEN as usize }, MMAPABLE> = Array::new();
#[btf_map]
static STRANGERS: Array<u64, { STRANGERS_LEN as usize }> = Array::new();
#[btf_map]
static PROXIES: HashMap<IfaceAddr, u32, { MAX_IFACE_ADDRS as usize }, NO_PREALLOC> = HashMap::new();
#[btf_map]
static OWN_ADDRESSES: HashMap<IfaceAddr, u32, { MAX_IFACE_ADDRS as usize }, NO_PREALLOC> = HashMap::new();
#[btf_map]
static OIFS: Array<Oif, { MAX_OIFS as usize }, MMAPABLE> = Array::new();
#[btf_map]
static FIB_ROOT: Array<FibNode, { MAX_VIEWS as usize }, MMAPABLE> = Array::new();
#[btf_map]
static FIB_NODES: ArrayOfMaps<Array<FibNode, { CHUNK_NODES as usize }, MMAPABLE>, { MAX_CHUNKS as usize }> =
    ArrayOfMaps::new();
#[btf_map]
static COUNTERS: ArrayOfMaps<Array<Counters, { CHUNK_COUNTERS as usize }, MMAPABLE>, { MAX_COUNTER_CHUNKS as usize }> =
    ArrayOfMaps::new();

/// No interface has these counters.
const NOT_READ: u32 = u32::MAX;

/// The maps, as the decision on a frame of one interface sees them.
pub(crate) struct Maps {
    ingress: u32,
    /// The one element of `GLOBAL`, looked up once.
    global: *const Global,
    /// The interface's counters and flags, once its entry has been read; before, [`NOT_READ`]. Not an `Option`: its
    /// value would be stack that only one branch has written, which not every kernel lets a program read.
    counters: Cell<u32>,
    flags: Cell<u16>,
    /// Most senders have no neighbour entry.
    expects_strangers: bool,
}

impl Tables for Maps {
    #[inline(always)]
    fn sequence(&self) -> u64 {
        let sequence = self.sequence_as_it_is();
        fence();
        sequence
    }

    #[inline(always)]
    fn sequence_after(&self) -> u64 {
        fence();
        self.sequence_as_it_is()
    }

    #[inline(always)]
    fn lease_is_valid(&self) -> bool {
        // SAFETY: as in `sequence_as_it_is`.
        let until = unsafe { (&raw const (*self.global).lease_until).read_volatile() };
        until != 0 && jiffies() < until
    }

    #[inline(always)]
    fn settings_are_read(&self) -> bool {
        // SAFETY: as in `sequence_as_it_is`. Only the sysctl hook moves the first, only the agent the second, and never
        // past the first: whichever is read first, if they are equal they were so at one moment.
        unsafe {
            (&raw const (*self.global).settings_read).read_volatile()
                == (&raw const (*self.global).settings_written).read_volatile()
        }
    }

    #[inline(always)]
    fn iface(&self, ifindex: u32) -> Option<Iface> {
        let entry = iface_entry(ifindex)?;
        self.counters.set(entry.counters);
        self.flags.set(entry.iface.flags);
        Some(entry.iface)
    }

    #[inline(always)]
    fn neighbour(&self, key: IfaceAddr) -> Option<Neighbour> {
        let key: u64 = transmute!(key);
        let [first, second] = choices(key, NEIGHBOUR_BUCKETS);
        if self.expects_strangers && !is_occupied(first) && !is_occupied(second) {
            return None;
        }
        match NEIGHBOURS.get(first)?.find(key) {
            Some(found) => Some(found),
            None => NEIGHBOURS.get(second)?.find(key),
        }
    }

    #[inline(always)]
    fn proxied(&self, key: IfaceAddr) -> bool {
        PROXIES.get_ptr(key).is_some()
    }

    #[inline(always)]
    fn proxies_are_confirmed(&self) -> bool {
        // Jiffies stand still while the CPU that counts them does, and a tick may be half of what is allowed.
        let now = now();
        // SAFETY: as in `sequence_as_it_is`. All CPUs write nearly the same time, so the last writer may win; the agent
        // only looks whether it moves.
        unsafe { (&raw mut (*self.global.cast_mut()).proxies_asked).write_volatile(now) };
        // SAFETY: as in `sequence_as_it_is`.
        now < unsafe { (&raw const (*self.global).proxies_until).read_volatile() }
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
    fn fib_root(&self, view: u16, index: u8) -> Entry {
        match FIB_ROOT.get(u32::from(view)) {
            Some(root) => entry(root, index),
            None => Entry::OPAQUE,
        }
    }

    #[inline(always)]
    fn fib_node(&self, node: u32, index: u8) -> Entry {
        match FIB_NODES.get_value(node / CHUNK_NODES, &(node % CHUNK_NODES)) {
            Some(entries) => entry(entries, index),
            None => Entry::OPAQUE,
        }
    }
}

/// An entry of a node. The compiler knows that the index is below 256 and would say so nowhere; an older verifier
/// (seen on 6.1) has lost it on the way through a byte swap and the stack. So it is said where nobody can leave it out.
#[inline(always)]
fn entry(node: &FibNode, index: u8) -> Entry {
    let mut index = u64::from(index);
    // SAFETY: arithmetic in a register.
    unsafe { asm!("{index} &= 255", index = inout(reg) index, options(pure, nomem, nostack)) };
    node.get(index as usize).map_or(Entry::OPAQUE, |&raw| Entry::from_raw(raw))
}

/// Keeps the reads of the tables between the two looks at the sequence. x86 does not reorder loads with loads, so it
/// is enough to hold the compiler. Other CPUs need a read-modify-write that fetches: of BPF's instructions of before 6.15
/// it alone orders loads. Which word it writes does not matter (ADR 19), so it is one of this program's own: a word that
/// all processors write would go from one to the next with each frame.
#[inline(always)]
fn fence() {
    compiler_fence(Ordering::SeqCst);
    #[cfg(not(bpf_target_arch = "x86_64"))]
    {
        let mut own = 0_u64;
        // SAFETY: an aligned word of the stack, which has been written.
        unsafe {
            asm!(
                "{zero} = atomic_fetch_add((u64 *)({word} + 0), {zero})",
                zero = inout(reg) 0_u64 => _,
                word = in(reg) &raw mut own,
            );
        }
    }
    compiler_fence(Ordering::SeqCst);
}

/// A word of [`Global`] that the agent writes, or the sysctl hook does when it is asked; 0 if there is none.
#[inline(always)]
pub(crate) fn global_word(word: impl FnOnce(*mut Global) -> *mut u64) -> u64 {
    // SAFETY: as in `sequence_as_it_is`.
    GLOBAL.get_ptr_mut(0).map_or(0, |global| unsafe { word(global).read_volatile() })
}

/// Leaves a word in [`Global`].
#[inline(always)]
pub(crate) fn set_global_word(word: impl FnOnce(*mut Global) -> *mut u64, value: u64) {
    if let Some(global) = GLOBAL.get_ptr_mut(0) {
        // SAFETY: an aligned word of an array's element, which lives as long as the program.
        unsafe { word(global).write_volatile(value) };
    }
}

/// Counts in a word of [`Global`], whoever else counts in it at the same time, before all that follows. Gives what it
/// was.
#[inline(always)]
pub(crate) fn count_globally(word: impl FnOnce(*mut Global) -> *mut u64) -> u64 {
    let Some(global) = GLOBAL.get_ptr_mut(0) else { return 0 };
    // SAFETY: an aligned word of an array's element, which lives as long as the program.
    unsafe { fetch_add_one(word(global)) }
}

/// Adds 1 to a word, whoever else does so at the same time, before all that follows. Gives what it was.
///
/// # Safety
/// The word is one of a map's, and aligned.
#[inline(always)]
pub(crate) unsafe fn fetch_add_one(word: *mut u64) -> u64 {
    let mut one = 1;
    // SAFETY: as the caller says. The form that fetches orders everything around it on every CPU; `core` has it not for
    // this target.
    unsafe {
        asm!(
            "{one} = atomic_fetch_add((u64 *)({word} + 0), {one})",
            one = inout(reg) one,
            word = in(reg) word,
        );
    }
    one
}

/// Whether a bucket of neighbours holds any.
#[inline(always)]
fn is_occupied(bucket: u32) -> bool {
    let Some(bits) = OCCUPIED.get_ptr(bucket / u64::BITS) else { return true };
    // SAFETY: an aligned word of an array's element, which lives as long as the program. The agent writes it through its own
    // mapping, hence volatile.
    unsafe { bits.read_volatile() >> (bucket % u64::BITS) & 1 != 0 }
}

/// Puts bucket `index` in doubt.
#[inline(always)]
fn put_in_doubt(index: u32) {
    let Some(bucket) = NEIGHBOURS.get_ptr_mut(index) else { return };
    // SAFETY: an aligned word of an array's element, which lives as long as the program.
    let before = unsafe { fetch_add_one(&raw mut (*bucket).doubts) };
    // SAFETY: as before. The agent writes it through its own mapping, hence volatile.
    let settled = unsafe { (&raw const (*bucket).settled).read_volatile() };
    if before != settled {
        // The agent knows that it is in doubt. It looks at the count again after it has said that it is not.
        return;
    }
    let number = count_globally(|global| {
        // SAFETY: the element of `GLOBAL`; only an address is made.
        unsafe { &raw mut (*global).doubted }
    });
    if let Some(noted) = DOUBTED.get_ptr_mut(number as u32 & (DOUBTED_LEN - 1)) {
        // SAFETY: as before. With its number, so that the agent can tell it from what was noted there before; never 0.
        unsafe { noted.write_volatile(number << 32 | u64::from(index + 1)) };
    }
}

/// Remembers who sent last for an address without a neighbour entry. Says whether it was somebody else before, or may
/// have been: then the entry that the kernel makes may be changed by this frame before the agent has heard of it.
#[inline(always)]
fn is_another_stranger(key: u64, sha: Lladdr) -> bool {
    const ODD: u64 = 0x9e37_79b9_7f4a_7c15;
    let place = (key ^ key >> 32).wrapping_mul(ODD) >> 52;
    let Some(slot) = STRANGERS.get_ptr_mut(place as u32) else { return true };
    let who = (key.wrapping_mul(ODD) ^ sha.word()).wrapping_mul(ODD) | 1;
    let mut before = who;
    // SAFETY: an aligned word of an array's element, which lives as long as the program.
    unsafe {
        asm!(
            "{who} = xchg_64({slot} + 0, {who})",
            who = inout(reg) before,
            slot = in(reg) slot,
        );
    }
    before != 0 && before != who
}

/// Leaves the time where the agent reads it.
#[inline(always)]
pub(crate) fn tell_time() {
    if let Some(global) = GLOBAL.get_ptr_mut(0) {
        // SAFETY: an aligned word of an array's element, which lives as long as the program; only the agent runs this.
        unsafe { (&raw mut (*global).clock).write_volatile(jiffies()) };
    }
}

impl Maps {
    /// For the decision on a frame that came in on `ingress`; there always is one, which the verifier does not know.
    #[inline(always)]
    pub(crate) fn new(ingress: u32) -> Option<Self> {
        let (counters, flags) = (Cell::new(NOT_READ), Cell::new(0));
        Some(Maps { ingress, global: GLOBAL.get_ptr(0)?, counters, flags, expects_strangers: false })
    }

    /// The same, quicker where most senders have no neighbour entry, and slower for others.
    #[inline(always)]
    pub(crate) fn of_strangers(ingress: u32) -> Option<Self> {
        Some(Maps { expects_strangers: true, ..Self::new(ingress)? })
    }

    /// The sequence, whatever is read around it.
    #[inline(always)]
    fn sequence_as_it_is(&self) -> u64 {
        compiler_fence(Ordering::SeqCst);
        // SAFETY: an element of an array map lives as long as the program. The agent writes the word through its own
        // mapping, hence volatile; an aligned 8-byte load is whole.
        let sequence = unsafe { (&raw const (*self.global).sequence).read_volatile() };
        compiler_fence(Ordering::SeqCst);
        sequence
    }

    /// The interface that the frame came in on.
    #[inline(always)]
    pub(crate) fn ingress(&self) -> u32 {
        self.ingress
    }

    /// Whether the interface, as the decision saw it, has a flag: how a reply leaves is among them.
    #[inline(always)]
    pub(crate) fn has(&self, flag: u16) -> bool {
        self.flags.get() & flag != 0
    }

    /// The index of the interface's counters, as the decision saw its entry; of one without an entry, no place in any map.
    #[inline(always)]
    pub(crate) fn counters(&self) -> u32 {
        self.counters.get()
    }

    /// Counts an answer.
    #[inline(always)]
    pub(crate) fn count_answer(&self) {
        self.count(ANSWERED);
    }

    /// Counts a pass.
    #[inline(always)]
    pub(crate) fn count_pass(&self, reason: Reason) {
        self.count(reason.counter());
    }

    /// To be called before the kernel gets an ARP frame, whatever the reason: if it may change a neighbour entry,
    /// that is not trusted from here on, until the agent has heard what came of it (docs/adr/0009-doubt.md).
    ///
    /// The kernel changes no other entry than that of `spa` on this interface, and none for `spa` 0.0.0.0
    /// (`arp_process`, net/ipv4/arp.c); one that is valid stays as it is if it has `sha`, one that is fixed in any
    /// case (`__neigh_update`, net/core/neighbour.c).
    #[inline(always)]
    pub(crate) fn hand_up(&self, frame: &PackedArp) {
        if !frame.is_ipv4_over_ethernet() || !frame.is_request_or_reply() || frame.spa() == [0; 4] {
            return;
        }
        let addr = IfaceAddr { ifindex: self.ingress, addr: frame.spa() };
        let key: u64 = transmute!(addr);
        let sequence = self.sequence();
        let found = self.neighbour(addr);
        // While the agent writes, an entry may be in neither of its buckets.
        if sequence & 1 == 0 && self.sequence_after() == sequence {
            match found {
                Some(neighbour) if neighbour.is_fixed() || neighbour.lladdr() == frame.sha() => return,
                Some(_) => {}
                None if is_another_stranger(key, frame.sha()) => {}
                None => return,
            }
        }
        let [first, second] = choices(key, NEIGHBOUR_BUCKETS);
        put_in_doubt(first);
        put_in_doubt(second);
    }

    /// The interface's entry, looked up once for what is counted, too.
    #[inline(always)]
    pub(crate) fn entry(&self) -> Option<IfaceEntry> {
        let entry = iface_entry(self.ingress)?;
        self.counters.set(entry.counters);
        Some(entry)
    }

    /// Counts in one of the interface's counters.
    #[inline(always)]
    pub(crate) fn count(&self, counter: usize) {
        // A frame that is passed before its interface's entry is read is counted there all the same.
        let counters = match self.counters.get() {
            NOT_READ => iface_entry(self.ingress).map_or(UNKNOWN_INGRESS, |entry| entry.counters),
            counters => counters,
        };
        let (chunk, index) = (counters / CHUNK_COUNTERS, counters % CHUNK_COUNTERS);
        let Some(counters) = COUNTERS.get_value_ptr_mut(chunk, &index) else { return };
        // SAFETY: an aligned word of an array's element, which lives as long as the program. Several CPUs may count for
        // an interface at once, hence the atomic addition, for which `core` has no name on this target.
        unsafe {
            asm!(
                "lock *(u64 *)({word} + 0) += {one}",
                word = in(reg) &raw mut (*counters)[counter],
                one = in(reg) 1u64,
            );
        }
    }
}

#[inline(always)]
fn iface_entry(ifindex: u32) -> Option<IfaceEntry> {
    let key = u64::from(ifindex);
    let [first, second] = choices(key, IFACE_BUCKETS);
    let found = match IFACES.get(first)?.find(key) {
        Some(found) => found,
        None => IFACES.get(second)?.find(key)?,
    };
    Some(transmute!(found))
}
