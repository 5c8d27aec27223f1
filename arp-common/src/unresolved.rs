//! The unresolved-budget: which IP packets may make the node resolve a next hop while its neighbour table is under
//! pressure (docs/adr/0018-scans-and-owners.md). Whoever is resolved already is never asked.

use crate::guard::Rate;
use crate::maps::IfaceAddr;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, transmute};

/// Names of the programs and maps in the eBPF object.
pub mod names {
    /// `Array<Pressure>` with one element, mmapable.
    pub const PRESSURE: &str = "PRESSURE";
    /// `Array<u64>`: [`ADMITTED`](super::ADMITTED) places for next hops that were paid for.
    pub const ADMITTED: &str = "ADMITTED";
    /// The guard, where it judges IP packets, too.
    pub const GUARD_IP_PROGRAM: &str = "arp_guard_ip";
    /// The program that sees each entry of the neighbour table when it is made.
    pub const PRESSURE_PROGRAM: &str = "arp_pressure";
    /// `[u32; 3]`, which the agent sets before it loads the object: where the members of
    /// [`TABLE_WAY`](super::TABLE_WAY) lie.
    pub const TABLE_OFFSETS: &str = "TABLE_OFFSETS";
}

/// What is read of the kernel's neighbour table (include/net/neighbour.h): its family, its entries that can be collected,
/// and how many of these there may be.
pub const TABLE_WAY: [(&str, &str); 3] =
    [("neigh_table", "family"), ("neigh_table", "gc_entries"), ("neigh_table", "gc_thresh3")];

/// How long packets are judged after an entry was made in a table that is under pressure, in ns. Whoever makes the next one
/// starts it again, so nobody need end it.
pub const JUDGED_FOR: u64 = 5_000_000_000;
/// How long a next hop that was paid for is free, in ns: longer than the kernel tries to resolve it (three times, a second
/// each), so that no packet waits for it that has to be paid for again.
pub const ADMITTED_FOR: u64 = 5_000_000_000;
/// Places where it is remembered what was paid for.
pub const ADMITTED: u32 = 1 << 14;

/// The neighbour table of the machine, and what all interfaces share.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, Immutable, IntoBytes, KnownLayout)]
pub struct Pressure {
    /// CLOCK_MONOTONIC in ns until which packets are judged; 0 while none is. All that a packet costs then is the load of
    /// this word.
    pub judged_until: u64,
    /// How many entries there were when the last one was made.
    pub entries: u64,
    /// How many there may be (`gc_thresh3`).
    pub most: u64,
    /// 0: what follows is in a cache line of its own.
    pub unused: [u64; 5],
    /// The budget of the node. Written by the agent.
    pub budget: Rate,
    /// When that of packets that are dropped is whole again, in ns of CLOCK_MONOTONIC.
    pub dropping: u64,
    /// The same for packets that are only counted.
    pub counting: u64,
    /// 0.
    pub unused_too: [u64; 4],
}

const _: () = {
    assert!(size_of::<Pressure>() == 128);
    assert!(core::mem::offset_of!(Pressure, budget) == 64);
};

/// Whether a table of so many entries is under pressure: a quarter of it. Early, because a scan fills the rest in
/// milliseconds.
#[inline(always)]
pub const fn is_pressed(entries: u64, most: u64) -> bool {
    entries * 4 >= most
}

/// Whether there is no room to be had for those who have spent much: two fifths of the table are used.
#[inline(always)]
pub const fn is_tight(entries: u64, most: u64) -> bool {
    entries * 5 >= most * 2
}

/// What is remembered, and the clock.
pub trait UnresolvedMemory {
    /// Whether the next hop was paid for a moment ago.
    fn is_admitted(&self, hop: IfaceAddr) -> bool;
    /// Remembers that it was paid for.
    fn admit(&self, hop: IfaceAddr);
    /// Takes a packet from the interface's budget. Gives the ns of it that are used up then; `None` if there was none left.
    fn take_own(&self, budget: &Rate) -> Option<u64>;
    /// Takes a packet from the node's budget, of which so many parts of 2 may be used; says whether it was there.
    fn take_shared(&self, halves: u64) -> bool;
    /// [`is_tight`] when the last entry was made.
    fn is_tight(&self) -> bool;
}

/// Whether a packet whose next hop is not resolved is to be refused.
///
/// Who has used up half of its own budget is heavy: it gets nothing while the table is tight, and leaves half of the node's
/// budget to the others. So one interface that scans, or many, take from themselves first.
#[inline(always)]
pub fn is_refused(hop: IfaceAddr, budget: &Rate, memory: &impl UnresolvedMemory) -> bool {
    if memory.is_admitted(hop) {
        return false;
    }
    let Some(used) = memory.take_own(budget) else { return true };
    let is_heavy = used > budget.depth / 2;
    if is_heavy && memory.is_tight() || !memory.take_shared(if is_heavy { 1 } else { 2 }) {
        return true;
    }
    memory.admit(hop);
    false
}

/// Where it is remembered whether a next hop was paid for, and the upper half of the word there.
#[inline(always)]
pub fn place_of(hop: IfaceAddr) -> (u32, u32) {
    const ODD: u64 = 0x9e37_79b9_7f4a_7c15;
    let key: u64 = transmute!(hop);
    let mixed = (key ^ key >> 32).wrapping_mul(ODD);
    ((mixed >> 50) as u32, (mixed.wrapping_mul(ODD) >> 32) as u32 | 1)
}

const _: () = assert!(ADMITTED == 1 << 14, "the upper bits of a hash are a place");

/// The lower half of that word: the time in units of about a millisecond.
#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "it comes round after 52 days, as the subtraction of two does")]
pub const fn stamp(now: u64) -> u32 {
    (now >> 20) as u32
}

/// Whether a word of `ADMITTED` says that the next hop with this upper half was paid for a moment ago.
#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "the lower half of a word")]
pub const fn is_fresh(word: u64, who: u32, now: u64) -> bool {
    (word >> 32) as u32 == who && stamp(now).wrapping_sub(word as u32) < stamp(ADMITTED_FOR)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::guard::take;
    use core::cell::{Cell, RefCell};
    use std::collections::BTreeMap;
    use std::vec::Vec;

    const MS: u64 = 1_000_000;
    /// 10 packets a second, 8 at once.
    const OWN: Rate = Rate { interval: 100 * MS, depth: 800 * MS };
    /// 20 a second, 12 at once.
    const NODE: Rate = Rate { interval: 50 * MS, depth: 600 * MS };

    /// Several interfaces, and what they share.
    #[derive(Default)]
    struct Node {
        now: Cell<u64>,
        own: RefCell<BTreeMap<u32, u64>>,
        shared: Cell<u64>,
        admitted: RefCell<Vec<u64>>,
        is_tight: Cell<bool>,
    }

    struct Of<'a>(&'a Node, u32);

    impl UnresolvedMemory for Of<'_> {
        fn is_admitted(&self, hop: IfaceAddr) -> bool {
            let (place, who) = place_of(hop);
            let admitted = self.0.admitted.borrow();
            admitted.get(place as usize).is_some_and(|&word| is_fresh(word, who, self.0.now.get()))
        }
        fn admit(&self, hop: IfaceAddr) {
            let (place, who) = place_of(hop);
            let mut admitted = self.0.admitted.borrow_mut();
            admitted.resize(ADMITTED as usize, 0);
            admitted[place as usize] = u64::from(who) << 32 | u64::from(stamp(self.0.now.get()));
        }
        fn take_own(&self, budget: &Rate) -> Option<u64> {
            let (now, mut own) = (self.0.now.get(), self.0.own.borrow_mut());
            let word = own.entry(self.1).or_default();
            *word = take(*word, now, budget)?;
            Some(*word - now)
        }
        fn take_shared(&self, halves: u64) -> bool {
            let rate = Rate { depth: NODE.depth / 2 * halves, ..NODE };
            let taken = take(self.0.shared.get(), self.0.now.get(), &rate);
            self.0.shared.set(taken.unwrap_or(self.0.shared.get()));
            taken.is_some()
        }
        fn is_tight(&self) -> bool {
            self.0.is_tight.get()
        }
    }

    /// How many of these next hops may be resolved for an interface.
    fn passed(node: &Node, of: u32, hops: core::ops::Range<u32>) -> usize {
        let hop = |addr: u32| IfaceAddr { ifindex: 3, addr: addr.to_be_bytes() };
        hops.filter(|&addr| !is_refused(hop(addr), &OWN, &Of(node, of))).count()
    }

    #[test]
    fn one_that_scans_gets_its_budget_and_leaves_the_others_theirs() {
        let node = Node::default();
        node.now.set(1_000_000 * MS);
        // Four of its own half, then two more until half of the node's budget is used.
        assert_eq!(passed(&node, 1, 0..1_000), 6);
        assert_eq!(passed(&node, 2, 2_000..2_004), 4, "another one");
        for _ in 0..10 {
            node.now.set(node.now.get() + 1_000 * MS);
            let (heavy, light) = (passed(&node, 1, 5_000..6_000), passed(&node, 2, 7_000..7_004));
            assert!(heavy <= 10 && light == 4, "{heavy} and {light}");
            node.now.set(node.now.get() + ADMITTED_FOR);
        }
    }

    #[test]
    fn many_that_scan_leave_the_node_half_of_its_budget() {
        let node = Node::default();
        node.now.set(1_000_000 * MS);
        let first: usize = (0..20).map(|of| passed(&node, of, of * 1_000..of * 1_000 + 500)).sum();
        assert_eq!(first, 12, "the whole budget, before they are heavy");
        // A second later each of them is heavy, and has been refused all the time.
        for _ in 0..10 {
            node.now.set(node.now.get() + 100 * MS);
            for of in 0..20 {
                passed(&node, of, of * 1_000 + 500..of * 1_000 + 1_000);
            }
        }
        assert_eq!(passed(&node, 77, 90_000..90_004), 4, "somebody else");
    }

    #[test]
    fn in_a_tight_table_only_who_has_spent_little_gets_room() {
        let node = Node::default();
        node.now.set(1_000_000 * MS);
        node.is_tight.set(true);
        assert_eq!(passed(&node, 1, 0..1_000), 4, "half of its budget");
        assert_eq!(passed(&node, 2, 2_000..2_004), 4);
    }

    #[test]
    fn what_was_paid_for_is_free_until_it_must_be_resolved() {
        let node = Node::default();
        node.now.set(1_000_000 * MS);
        assert_eq!(passed(&node, 1, 0..4), 4);
        let spent = node.own.borrow()[&1];
        node.now.set(node.now.get() + ADMITTED_FOR - 10 * MS);
        assert_eq!(passed(&node, 1, 0..4), 4);
        assert_eq!(node.own.borrow()[&1], spent, "nothing was taken");
        node.now.set(node.now.get() + 20 * MS);
        assert_eq!(passed(&node, 1, 0..4), 4);
        assert!(node.own.borrow()[&1] > spent, "it was paid for again");
    }

    #[test]
    fn pressure_begins_at_a_quarter_and_room_ends_at_two_fifths() {
        assert!(!is_pressed(255, 1024) && is_pressed(256, 1024));
        assert!(!is_tight(409, 1024) && is_tight(410, 1024));
    }
}
