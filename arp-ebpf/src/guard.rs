//! The guard: a tc program before all others, which drops what policies refuse (docs/adr/0015-protection.md). It is loaded
//! only where there are policies.

use crate::packet_access::read;
use crate::skb::{TC_ACT_UNSPEC, pull};
use crate::tables::{Maps, fetch_add_one, global_word};
use crate::time::now;
use crate::{binding, notices};
use arp_common::binding::ClaimFate;
use arp_common::fib::{Entry, LeafKind};
use arp_common::frame::ETHERTYPE_ARP;
use arp_common::guard::{
    BudgetClass, DropReason, GRACE_FRAMES, Guard, GuardMemory, ListedPrefix, MAX_ALLOWED, MAX_GUARDS,
    NOTED as NOTED_LEN, Policy, Rate, SETTLED_AFTER, judge, take,
};
use arp_common::maps::IfaceAddr;
use arp_common::notice::{EventCode, Notice};
use arp_common::tables::lookup;
use arp_common::{ArpFrame, Lladdr, PackedArp, Tables as _};
use aya_ebpf::btf_maps::lpm_trie::Key;
use aya_ebpf::btf_maps::{Array, LpmTrie};
use aya_ebpf::macros::{btf_map, classifier};
use aya_ebpf::programs::TcContext;
use core::arch::asm;
use core::cell::Cell;

/// The frame is dropped, and no further program sees it.
pub(crate) const TC_ACT_SHOT: i32 = 2;
/// For another host, in `skb->pkt_type`: ARP takes no notice of it (`arp_rcv`, net/ipv4/arp.c).
const PACKET_OTHERHOST: u32 = 3;
const _: () = assert!(NOTED_LEN == 1 << 12, "the upper bits of a hash are a place");
/// How often a budget is tried while other CPUs take from it, too.
const TRIES: usize = 3;

const MMAPABLE: usize = aya_ebpf::bindings::BPF_F_MMAPABLE as usize;

#[btf_map]
pub(crate) static GUARDS: Array<Guard, { MAX_GUARDS as usize }, MMAPABLE> = Array::new();
#[btf_map]
static NOTED: Array<u64, { NOTED_LEN as usize }> = Array::new();
#[btf_map]
static ALLOWED: LpmTrie<ListedPrefix, u64, { MAX_ALLOWED as usize }> = LpmTrie::new();

/// Drops the ARP frames that a policy of their interface refuses, and says nothing about all others.
#[classifier]
pub(crate) fn arp_guard(ctx: TcContext) -> i32 {
    guard(&ctx)
}

#[inline(always)]
pub(crate) fn guard(ctx: &TcContext) -> i32 {
    let skb = ctx.skb.skb;
    // SAFETY: the context is the one that the kernel called us with.
    let protocol = unsafe { (*skb).protocol };
    if protocol != u32::from(u16::from_ne_bytes(ETHERTYPE_ARP)) {
        return TC_ACT_UNSPEC;
    }
    // SAFETY: as above.
    let (ingress, tagged, kind) = unsafe { ((*skb).ifindex, (*skb).vlan_present, (*skb).pkt_type) };
    if tagged != 0 || kind == PACKET_OTHERHOST {
        return TC_ACT_UNSPEC;
    }
    judged(ctx, ingress).unwrap_or(TC_ACT_UNSPEC)
}

#[inline(always)]
fn judged(ctx: &TcContext, ingress: u32) -> Option<i32> {
    let maps = Maps::of_strangers(ingress)?;
    let entry = maps.entry()?;
    let guard = GUARDS.get_ptr_mut(entry.counters)?;
    pull(ctx, ArpFrame::LEN);
    let frame = read(ctx.data(), ctx.data_end())?;
    // SAFETY: an element of an array map lives as long as the program. The agent writes whole words of it through its own
    // mapping, and each word is good for itself.
    let policy = unsafe { &(*guard).policy };
    let (asks, would_drop, route) = (Cell::new(0), Cell::new(NOTHING), Cell::new(Entry::OPAQUE));
    let remembered = GuardRecord { maps: &maps, guard, asks, would_drop, route };
    let verdict = judge(&frame, ingress, &entry.iface, policy, &maps, &remembered);
    let (kind, reason) = match verdict {
        Some(reason) => {
            // First: who hears of it finds it counted.
            maps.count(reason.dropped());
            (Notice::DROPPED, reason as u32)
        }
        None => (Notice::WOULD_DROP, remembered.would_drop.get()),
    };
    if reason != NOTHING {
        let code = code_of(reason, &frame, &maps, remembered.route.get());
        notices::event(entry.counters, ingress, kind, code, &frame);
    }
    verdict?;
    match remembered.asks.get() {
        0 => Some(TC_ACT_SHOT),
        owner => {
            let owner = Lladdr::of_word(owner);
            binding::ask(ctx, ingress, &frame, entry.iface.lladdr(), owner).or(Some(TC_ACT_SHOT))
        }
    }
}

/// No reason's number.
const NOTHING: u32 = u32::MAX;

/// What the event is that a policy refuses a frame. A batch that is being written may make it the wrong one; it changes
/// nothing but words.
#[inline(always)]
fn code_of(reason: u32, frame: &PackedArp, maps: &Maps, route: Entry) -> u16 {
    if reason == DropReason::SenderElsewhere as u32 {
        let addr = frame.spa();
        match route.kind() {
            LeafKind::Local => return EventCode::ClaimsNode.number(),
            LeafKind::Unicast => {
                // There is no neighbour on 0, nor on what stands for several interfaces.
                let ifindex = maps.oif(route.slot()).map_or(0, |oif| oif.ifindex);
                if maps.neighbour(IfaceAddr { ifindex, addr }).is_some() {
                    return EventCode::ClaimsNeighbour.number();
                }
            }
            _ => {}
        }
    }
    reason as u16
}

/// What is remembered of the interface.
struct GuardRecord<'a> {
    maps: &'a Maps,
    guard: *mut Guard,
    /// The owner of the address that the frame claims, if it is to be asked; else 0. Not an `Option`, see `Maps`.
    asks: Cell<u64>,
    /// The first reason for which a policy that only counts would have dropped the frame, or [`NOTHING`].
    would_drop: Cell<u32>,
    /// What was found of the sender's route.
    route: Cell<Entry>,
}

impl GuardMemory for GuardRecord<'_> {
    #[inline(always)]
    fn route(&self, addr: [u8; 4]) -> Entry {
        // SAFETY: it is a field of a live element; nothing is read or written here.
        let number = global_word(|global| unsafe { &raw mut (*global).common_view });
        // None of that number is looked up as what the mirror does not follow.
        let route = lookup(self.maps, (number as u16).wrapping_sub(1), addr);
        self.route.set(route);
        route
    }

    #[inline(always)]
    fn allowed(&self, list: u32, spa: [u8; 4]) -> Option<u64> {
        ALLOWED.get(&Key::new(64, ListedPrefix { list: list.to_be_bytes(), addr: spa })).copied()
    }

    #[inline(always)]
    fn take(&self, class: BudgetClass, rate: &Rate) -> bool {
        // SAFETY: aligned words of an array's element, which lives as long as the program.
        let word = unsafe {
            match class {
                BudgetClass::Learn => &raw mut (*self.guard).state.learn,
                BudgetClass::Other => &raw mut (*self.guard).state.other,
                BudgetClass::Doubt => &raw mut (*self.guard).state.doubt,
            }
        };
        let now = now();
        for _ in 0..TRIES {
            // SAFETY: as above. Other CPUs change it at the same time, hence volatile.
            let before = unsafe { word.read_volatile() };
            let Some(after) = take(before, now, rate) else { return false };
            // SAFETY: as above.
            if unsafe { exchange(word, before, after) } == before {
                return true;
            }
        }
        true
    }

    #[inline(always)]
    fn has_grace(&self, policy: &Policy) -> bool {
        if policy.grace_until == 0 || now() >= policy.grace_until {
            return false;
        }
        // SAFETY: as in `take`.
        let graced = unsafe { fetch_add_one(&raw mut (*self.guard).state.graced) };
        graced.wrapping_sub(policy.graced_before) < GRACE_FRAMES
    }

    #[inline(always)]
    fn let_up(&self) -> u64 {
        // SAFETY: as in `take`.
        unsafe { (&raw const (*self.guard).state.let_up).read_volatile() }
    }

    #[inline(always)]
    fn note(&self, spa: [u8; 4], policy: &Policy) {
        const ODD: u64 = 0x9e37_79b9_7f4a_7c15;
        let key = u64::from(u32::from_ne_bytes(spa)) << 32 | u64::from(self.maps.ingress());
        let sender = (key ^ key >> 32).wrapping_mul(ODD);
        let who = (sender ^ policy.settled).wrapping_mul(ODD) | 1;
        let Some(noted) = NOTED.get_ptr_mut((sender >> 52) as u32) else { return };
        // SAFETY: as in `take`. Of two CPUs that write it at once either may be the last; then one is counted twice.
        unsafe {
            if noted.read_volatile() == who {
                return;
            }
            noted.write_volatile(who);
            let (now, state) = (now(), &raw mut (*self.guard).state);
            if now.wrapping_sub((&raw const (*state).let_up_at).read_volatile()) > SETTLED_AFTER {
                (&raw mut (*state).let_up_before).write_volatile((&raw const (*state).let_up).read_volatile());
            }
            (&raw mut (*state).let_up_at).write_volatile(now);
            fetch_add_one(&raw mut (*state).let_up);
        }
    }

    #[inline(always)]
    fn saw_owner(&self, of: IfaceAddr) {
        binding::saw_owner(of);
    }

    #[inline(always)]
    fn may_move(&self, of: IfaceAddr, owner: Lladdr) -> bool {
        match binding::next(of) {
            ClaimFate::Cede => true,
            ClaimFate::Refuse => false,
            ClaimFate::Ask => {
                self.asks.set(owner.word());
                false
            }
        }
    }

    #[inline(always)]
    fn would_drop(&self, reason: DropReason) {
        self.maps.count(reason.would_drop());
        if self.would_drop.get() == NOTHING {
            self.would_drop.set(reason as u32);
        }
    }
}

/// Puts `after` into a word that holds `before`. Gives what it held.
///
/// # Safety
/// The word is one of a map's, and aligned.
#[inline(always)]
pub(crate) unsafe fn exchange(word: *mut u64, before: u64, after: u64) -> u64 {
    let mut held = before;
    // SAFETY: as the caller says; `core` has no name for it on this target.
    unsafe {
        asm!(
            "r0 = cmpxchg_64({word} + 0, r0, {after})",
            inout("r0") held,
            word = in(reg) word,
            after = in(reg) after,
        );
    }
    held
}
