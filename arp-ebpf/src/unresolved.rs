//! The unresolved-budget (docs/adr/0018-scans-and-owners.md): the guard's judgement of IP packets, and the program that
//! sees the neighbour table fill. Both are loaded only where the policy is on.

use crate::guard::{GUARDS, TC_ACT_SHOT, exchange, guard};
use crate::skb::TC_ACT_UNSPEC;
use crate::tables::Maps;
use crate::time::now;
use arp_common::guard::{DropReason, Guard, Rate, has_arp_of_its_own, take};
use arp_common::maps::IfaceAddr;
use arp_common::unresolved::{
    ADMITTED as ADMITTED_LEN, JUDGED_FOR, Pressure, TABLE_WAY, UnresolvedMemory, is_fresh, is_pressed,
    is_refused as judge, is_tight, place_of, stamp,
};
use aya_ebpf::Global;
use aya_ebpf::btf_maps::Array;
use aya_ebpf::helpers::bpf_probe_read_kernel;
use aya_ebpf::helpers::generated::{bpf_fib_lookup, bpf_skb_load_bytes};
use aya_ebpf::macros::{btf_map, classifier, raw_tracepoint};
use aya_ebpf::programs::{RawTracePointContext, TcContext};

/// For another host, in `skb->pkt_type`: the kernel routes it nowhere.
const PACKET_OTHERHOST: u32 = 3;
const AF_INET: u8 = 2;
const ETHERTYPE_IPV4: [u8; 2] = [0x08, 0x00];
const ETHERNET_HEADER: u32 = 14;
/// `BPF_FIB_LKUP_RET_NO_NEIGH`: the packet is routed, and its next hop has no valid neighbour entry.
const NO_NEIGH: i64 = 7;
/// How often a budget is tried while other CPUs take from it, too.
const TRIES: usize = 3;

const MMAPABLE: usize = aya_ebpf::bindings::BPF_F_MMAPABLE as usize;

#[btf_map]
static PRESSURE: Array<Pressure, 1, MMAPABLE> = Array::new();
#[btf_map]
static ADMITTED: Array<u64, { ADMITTED_LEN as usize }> = Array::new();

/// Where the members of [`TABLE_WAY`] lie in this kernel. The agent knows.
#[unsafe(no_mangle)]
static TABLE_OFFSETS: [Global<u32>; TABLE_WAY.len()] = [const { Global::new(0) }; TABLE_WAY.len()];

/// Sees each entry when it is made (`neigh_create`, include/trace/events/neigh.h), in whichever network namespace: if the
/// table is under pressure, IP packets are judged for a while. No notification would do: a scan fills the table before the
/// agent could hear of it, and of entries that wait for a reply nobody is notified.
#[raw_tracepoint]
pub(crate) fn arp_pressure(ctx: RawTracePointContext) -> i32 {
    let table: u64 = ctx.arg(0);
    let [family, entries, most] = &TABLE_OFFSETS;
    if at(table, family.load()) != Some(i32::from(AF_INET)) {
        return 0;
    }
    let (Some(entries), Some(most)) = (at(table, entries.load()), at(table, most.load())) else { return 0 };
    let Some(pressure) = PRESSURE.get_ptr_mut(0) else { return 0 };
    let (entries, most) = (entries.max(0) as u64, most.max(0) as u64);
    // SAFETY: aligned words of an array's element, which lives as long as the program. Whichever CPU is the last to write,
    // each word is good for itself.
    unsafe {
        (&raw mut (*pressure).entries).write_volatile(entries);
        (&raw mut (*pressure).most).write_volatile(most);
        if is_pressed(entries, most) {
            (&raw mut (*pressure).judged_until).write_volatile(now() + JUDGED_FOR);
        }
    }
    0
}

/// As [`arp_guard`](crate::guard::arp_guard), and drops the IP packets that the unresolved-budget refuses.
#[classifier]
pub(crate) fn arp_guard_ip(ctx: TcContext) -> i32 {
    // SAFETY: the context is the one that the kernel called us with.
    let protocol = unsafe { (*ctx.skb.skb).protocol };
    if protocol != u32::from(u16::from_ne_bytes(ETHERTYPE_IPV4)) {
        return guard(&ctx);
    }
    if is_refused(&ctx) { TC_ACT_SHOT } else { TC_ACT_UNSPEC }
}

/// An integer so many bytes after an address of the kernel's. `None` where nothing can be read.
#[inline(always)]
fn at(address: u64, offset: u32) -> Option<i32> {
    // SAFETY: the helper refuses what is no readable memory of the kernel's.
    unsafe { bpf_probe_read_kernel((address as *const u8).wrapping_add(offset as usize).cast::<i32>()) }.ok()
}

/// Whether an IP packet is to be dropped.
#[inline(always)]
fn is_refused(ctx: &TcContext) -> bool {
    let Some(pressure) = PRESSURE.get_ptr_mut(0) else { return false };
    // SAFETY: an aligned word of an array's element, which lives as long as the program.
    let until = unsafe { (&raw const (*pressure).judged_until).read_volatile() };
    if until == 0 {
        return false;
    }
    let now = now();
    if now >= until {
        // SAFETY: as above. Only if it is still that: whoever makes an entry may have begun again.
        unsafe { exchange(&raw mut (*pressure).judged_until, until, 0) };
        return false;
    }
    is_refused_under_pressure(ctx, pressure, now)
}

#[inline(always)]
fn is_refused_under_pressure(ctx: &TcContext, pressure: *mut Pressure, now: u64) -> bool {
    let skb = ctx.skb.skb;
    // SAFETY: the context is the one that the kernel called us with.
    let (ingress, tagged, kind) = unsafe { ((*skb).ifindex, (*skb).vlan_present, (*skb).pkt_type) };
    if tagged != 0 || kind == PACKET_OTHERHOST {
        return false;
    }
    let Some(maps) = Maps::new(ingress) else { return false };
    let Some(entry) = maps.entry() else { return false };
    let Some(guard) = GUARDS.get_ptr_mut(entry.counters) else { return false };
    // SAFETY: an element of an array map lives as long as the program. The agent writes whole words of it through its own
    // mapping, and each word is good for itself.
    let policy = unsafe { &(*guard).policy };
    let (is_on, drops) = policy.unresolved_mode();
    if !is_on || !has_arp_of_its_own(&entry.iface) {
        return false;
    }
    let Some(hop) = unresolved_hop(ctx, ingress) else { return false };
    if !judge(hop, &policy.unresolved, &BudgetRecord { pressure, guard, now, drops }) {
        return false;
    }
    let reason = DropReason::UnresolvedBudget;
    maps.count(if drops { reason.dropped() } else { reason.would_drop() });
    drops
}

/// `struct bpf_fib_lookup` (include/uapi/linux/bpf.h), as far as it concerns IPv4.
#[repr(C)]
struct FibLookup {
    family: u8,
    protocol: u8,
    ports: [u8; 4],
    total_length: u16,
    ifindex: u32,
    tos: u32,
    source: [u32; 4],
    destination: [u32; 4],
    tags: u32,
    addresses: [u32; 3],
}

const _: () = assert!(size_of::<FibLookup>() == 64);

/// The packet's next hop, if the kernel would route it to one that has no valid entry. The kernel looks it up itself, in
/// its own tables: no lease is needed.
#[inline(always)]
fn unresolved_hop(ctx: &TcContext, ingress: u32) -> Option<IfaceAddr> {
    const HEADER: u32 = 20;
    const TCP: u8 = 6;
    const UDP: u8 = 17;
    let skb = ctx.skb.skb;
    let mut header = [0_u32; HEADER as usize / 4];
    // SAFETY: the kernel's context, and a buffer with its length. It copies, wherever the bytes lie.
    let failed = unsafe { bpf_skb_load_bytes(skb.cast(), ETHERNET_HEADER, header.as_mut_ptr().cast(), HEADER) };
    let [first, second, third, source, destination] = header.map(u32::from_be);
    if failed != 0 || first >> 28 != 4 {
        return None;
    }
    let protocol = (third >> 16) as u8;
    let mut lookup = FibLookup {
        family: AF_INET,
        protocol,
        ports: [0; 4],
        total_length: 0,
        ifindex: ingress,
        tos: first >> 16 & 0xff,
        source: [source.to_be(), 0, 0, 0],
        destination: [destination.to_be(), 0, 0, 0],
        tags: 0,
        addresses: [0; 3],
    };
    // Routing rules may ask for ports; only the first fragment has them.
    if (protocol == TCP || protocol == UDP) && second & 0x1fff == 0 {
        let behind = ETHERNET_HEADER + (first >> 24 & 0xf) * 4;
        // SAFETY: as above. If it fails they are 0.
        unsafe { bpf_skb_load_bytes(skb.cast(), behind, lookup.ports.as_mut_ptr().cast(), 4) };
    }
    let len = size_of::<FibLookup>() as i32;
    // SAFETY: the kernel's context, and its structure with its length.
    let found = unsafe { bpf_fib_lookup(skb.cast(), (&raw mut lookup).cast(), len, 0) };
    // A next hop may be one of IPv6, which has another table.
    if found != NO_NEIGH || lookup.family != AF_INET {
        return None;
    }
    Some(IfaceAddr { ifindex: lookup.ifindex, addr: lookup.destination[0].to_ne_bytes() })
}

/// What is remembered of the interface, and of all of them.
struct BudgetRecord {
    pressure: *mut Pressure,
    guard: *mut Guard,
    now: u64,
    drops: bool,
}

impl UnresolvedMemory for BudgetRecord {
    #[inline(always)]
    fn is_admitted(&self, hop: IfaceAddr) -> bool {
        let (place, who) = place_of(hop);
        let Some(word) = ADMITTED.get_ptr(place) else { return false };
        // SAFETY: an aligned word of an array's element, which lives as long as the program.
        is_fresh(unsafe { word.read_volatile() }, who, self.now)
    }

    #[inline(always)]
    fn admit(&self, hop: IfaceAddr) {
        let (place, who) = place_of(hop);
        if let Some(word) = ADMITTED.get_ptr_mut(place) {
            // SAFETY: as above. Of two that share a place the last one stays: the other one is paid for again.
            unsafe { word.write_volatile(u64::from(who) << 32 | u64::from(stamp(self.now))) };
        }
    }

    #[inline(always)]
    fn take_own(&self, budget: &Rate) -> Option<u64> {
        // SAFETY: an aligned word of an array's element, which lives as long as the program.
        let whole_at = unsafe { take_from(&raw mut (*self.guard).state.unresolved, self.now, budget) }?;
        Some(whole_at - self.now)
    }

    #[inline(always)]
    fn take_shared(&self, halves: u64) -> bool {
        let pressure = self.pressure;
        // SAFETY: as above.
        unsafe {
            let interval = (&raw const (*pressure).budget.interval).read_volatile();
            let depth = (&raw const (*pressure).budget.depth).read_volatile();
            // What is only counted takes nothing from those whose packets are dropped.
            let word = if self.drops { &raw mut (*pressure).dropping } else { &raw mut (*pressure).counting };
            take_from(word, self.now, &Rate { interval, depth: (depth >> 1) * halves }).is_some()
        }
    }

    #[inline(always)]
    fn is_tight(&self) -> bool {
        // SAFETY: as above.
        let (entries, most) = unsafe {
            ((&raw const (*self.pressure).entries).read_volatile(), (&raw const (*self.pressure).most).read_volatile())
        };
        is_tight(entries, most)
    }
}

/// Takes a packet from the budget in a word: when it is whole again then.
///
/// # Safety
/// The word is one of a map's, and aligned.
#[inline(always)]
unsafe fn take_from(word: *mut u64, now: u64, budget: &Rate) -> Option<u64> {
    let mut whole_at = now;
    for _ in 0..TRIES {
        // SAFETY: as the caller says. Other CPUs change it at the same time, hence volatile.
        let before = unsafe { word.read_volatile() };
        whole_at = take(before, now, budget)?;
        // SAFETY: as above.
        if unsafe { exchange(word, before, whole_at) } == before {
            break;
        }
    }
    Some(whole_at)
}
