//! The routing lookup: a 16-8-8 multibit trie in flat arrays, read by the program, by `explain` and by tests.
//!
//! An [`Entry`] is a node's index or a leaf. The root has one entry for each value of an address's upper 16 bits;
//! a node has 256, for the next 8. So a lookup reads at most three entries. The agent expands prefixes into entries
//! when it writes (arp-agent `dataplane::trie`); the longest prefix has already won when the program reads.

use crate::decide::Tables;

/// Entries of the root.
pub const ROOT_ENTRIES: u32 = 1 << 16;
/// Nodes in one chunk of the pool (1 MiB).
pub const CHUNK_NODES: u32 = 1024;
/// Most chunks: 2,097,152 nodes, 2 GiB: room for a million routes to hosts, each in a /24 of its own.
pub const MAX_CHUNKS: u32 = 2048;

/// One word of the trie: bit 31 says node, and the rest its index; else bits 28–30 are the leaf's [`Kind`], bit 27
/// says that the prefix is 0.0.0.0/0, and bits 0–15 are the oif's slot.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Entry(u32);

/// What a leaf says of the addresses under it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// No route.
    None,
    /// A local address.
    Local,
    /// A unicast route with a single path, by [`Entry::slot`].
    Unicast,
    /// A route whose type is never answered: broadcast, multicast, anycast, unreachable, blackhole, prohibit.
    Unanswerable,
    /// A route that the mirror does not follow: pass.
    Opaque,
}

impl Entry {
    const NODE: u32 = 1 << 31;
    const KIND_SHIFT: u32 = 28;
    const DEFAULT: u32 = 1 << 27;

    /// Addresses without a route: the word 0, which new maps hold everywhere.
    pub const NONE: Entry = Entry(0);
    /// A local address.
    pub const LOCAL: Entry = Entry(1 << Self::KIND_SHIFT);
    /// A route of a type that is never answered.
    pub const UNANSWERABLE: Entry = Entry(3 << Self::KIND_SHIFT);
    /// A route that the mirror does not follow.
    pub const OPAQUE: Entry = Entry(4 << Self::KIND_SHIFT);

    /// A unicast route by the interface in `slot`.
    pub const fn unicast(slot: u16) -> Self {
        Entry(2 << Self::KIND_SHIFT | slot as u32)
    }

    /// The same leaf, marked as that of 0.0.0.0/0.
    #[must_use]
    pub const fn of_default_route(self) -> Self {
        Entry(self.0 | Self::DEFAULT)
    }

    /// The node at `index`, below 2^31.
    pub const fn node(index: u32) -> Self {
        Entry(index | Self::NODE)
    }

    /// The word as it lies in a map.
    #[inline(always)]
    pub const fn raw(self) -> u32 {
        self.0
    }

    /// The entry that a map's word stands for.
    #[inline(always)]
    pub const fn from_raw(raw: u32) -> Self {
        Entry(raw)
    }

    /// The index of the node that the entry points to; `None` for a leaf.
    #[inline(always)]
    pub const fn node_index(self) -> Option<u32> {
        if self.0 & Self::NODE != 0 { Some(self.0 & !Self::NODE) } else { None }
    }

    /// The leaf's kind; anything that is not a leaf known to this version is opaque.
    #[inline(always)]
    pub const fn kind(self) -> Kind {
        match self.0 >> Self::KIND_SHIFT {
            0 => Kind::None,
            1 => Kind::Local,
            2 => Kind::Unicast,
            3 => Kind::Unanswerable,
            _ => Kind::Opaque,
        }
    }

    /// Whether the leaf belongs to 0.0.0.0/0.
    #[inline(always)]
    pub const fn is_default_route(self) -> bool {
        self.0 & Self::DEFAULT != 0
    }

    /// The slot of a unicast leaf's interface in `OIFS`.
    #[inline(always)]
    #[expect(clippy::cast_possible_truncation, reason = "the slot is the lower half")]
    pub const fn slot(self) -> u16 {
        self.0 as u16
    }
}

/// The leaf of the longest prefix that covers `addr` (wire order).
#[inline(always)]
pub fn lookup(tables: &impl Tables, addr: [u8; 4]) -> Entry {
    let entry = tables.fib_root(u16::from_be_bytes([addr[0], addr[1]]));
    let Some(node) = entry.node_index() else { return entry };
    let entry = tables.fib_node(node, addr[2]);
    let Some(node) = entry.node_index() else { return entry };
    // Should this be a node again, its kind is opaque.
    tables.fib_node(node, addr[3])
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The words are what the agent writes and the program reads: those of [`Entry`]'s description, written out.
    #[test]
    fn words_are_laid_out_as_described() {
        assert_eq!(Entry::NONE.raw(), 0);
        assert_eq!(Entry::LOCAL.raw(), 0x1000_0000);
        assert_eq!(Entry::unicast(0xabcd).raw(), 0x2000_abcd);
        assert_eq!(Entry::UNANSWERABLE.raw(), 0x3000_0000);
        assert_eq!(Entry::OPAQUE.raw(), 0x4000_0000);
        assert_eq!(Entry::unicast(0xabcd).of_default_route().raw(), 0x2800_abcd);
        assert_eq!(Entry::node(7).raw(), 0x8000_0007);
        assert_eq!(ROOT_ENTRIES, 0x1_0000, "one for each value of 16 bits");
    }

    #[test]
    fn a_leaf_is_no_node() {
        for leaf in [Entry::NONE, Entry::LOCAL, Entry::unicast(0xffff), Entry::UNANSWERABLE, Entry::OPAQUE] {
            assert_eq!(leaf.node_index(), None, "{leaf:?}");
            assert_eq!(leaf.of_default_route().node_index(), None, "{leaf:?}");
        }
        for index in [0, 7, 0x7fff_ffff] {
            assert_eq!(Entry::node(index).node_index(), Some(index));
        }
    }

    #[test]
    fn a_leaf_says_its_kind_whether_it_is_the_default_route_s_or_not() {
        let kinds = [Kind::None, Kind::Local, Kind::Unicast, Kind::Unanswerable, Kind::Opaque];
        for (number, kind) in (0..).zip(kinds) {
            let leaf = Entry::from_raw(number << 28 | 5);
            assert_eq!((leaf.kind(), leaf.slot(), leaf.is_default_route()), (kind, 5, false));
            let marked = leaf.of_default_route();
            assert_eq!((marked.kind(), marked.slot(), marked.is_default_route()), (kind, 5, true));
            assert_eq!(marked.of_default_route(), marked, "marked twice is marked");
        }
        for unknown in 5..16 {
            assert_eq!(Entry::from_raw(unknown << 28).kind(), Kind::Opaque, "kind {unknown}");
        }
    }
}
