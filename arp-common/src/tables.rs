//! The tables that a decision reads, and the routing lookup in them.

use crate::fib::{Entry, LeafKind, MAX_FALLS};
use crate::maps::{Iface, IfaceAddr, Neighbour, Oif};

/// The tables that a decision reads. The program has BPF maps behind it, `explain` the same maps through the agent,
/// tests plain memory.
pub trait Tables {
    /// The writers' sequence, before all other reads: odd while a batch is being written.
    fn sequence(&self) -> u64;
    /// The same after all other reads. Where it is what it was, and even, they saw no half of a batch (ADR 19).
    fn sequence_after(&self) -> u64 {
        self.sequence()
    }
    /// Whether the agent's lease has not run out.
    fn lease_is_valid(&self) -> bool;
    /// Whether every setting that was written is in the tables as it is now.
    fn settings_are_read(&self) -> bool;
    /// The ingress interface.
    fn iface(&self, ifindex: u32) -> Option<Iface>;
    /// The valid neighbour entry, if there is one, and whether it is in doubt.
    fn neighbour(&self, key: IfaceAddr) -> Option<Neighbour>;
    /// Whether there is a static proxy entry (pneigh).
    fn proxied(&self, key: IfaceAddr) -> bool;
    /// Whether the static proxy entries were read a moment ago: the kernel notifies nobody that one is removed.
    fn proxies_are_confirmed(&self) -> bool;
    /// Whether `arp_ignore` 1 lets the interface answer for the address.
    fn owned(&self, key: IfaceAddr) -> bool;
    /// What is in a slot of what routes leave by.
    fn oif(&self, slot: u16) -> Option<Oif>;
    /// An entry of a view's root; [`Entry::OPAQUE`] if there is no such view.
    fn fib_root(&self, view: u16, index: u8) -> Entry;
    /// An entry of a FIB node; [`Entry::OPAQUE`] if there is no such node.
    fn fib_node(&self, node: u32, index: u8) -> Entry;
}

/// What `view` says of `addr` (wire order), after at most [`MAX_FALLS`] walks; a leaf of kind [`LeafKind::Fall`] if that was not
/// enough, which nobody answers by.
#[inline(always)]
pub fn lookup(tables: &impl Tables, view: u16, addr: [u8; 4]) -> Entry {
    let mut leaf = lookup_in(tables, view, addr);
    for _ in 1..MAX_FALLS {
        if !matches!(leaf.kind(), LeafKind::Fall) {
            break;
        }
        leaf = lookup_in(tables, leaf.slot(), addr);
    }
    leaf
}

/// The leaf of the longest prefix of `view` that covers `addr` (wire order).
#[inline(always)]
pub fn lookup_in(tables: &impl Tables, view: u16, addr: [u8; 4]) -> Entry {
    let entry = tables.fib_root(view, addr[0]);
    let Some(node) = entry.node_index() else { return entry };
    let entry = tables.fib_node(node, addr[1]);
    let Some(node) = entry.node_index() else { return entry };
    let entry = tables.fib_node(node, addr[2]);
    let Some(node) = entry.node_index() else { return entry };
    // Should this be a node again, its kind is opaque.
    tables.fib_node(node, addr[3])
}
