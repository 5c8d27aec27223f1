//! The routing lookup: 8-8-8-8 multibit tries in flat arrays, read by the program, by `explain` and by tests.
//!
//! There is a trie for each view: what the routing rules leave of all tables for some senders (docs/adr/0012-views.md).
//! An [`Entry`] is a node's index or a leaf. A view's root has 256 entries, one for each value of an address's first 8
//! bits; a node has as many, for the next 8. So a lookup reads at most four entries. The agent expands prefixes into
//! entries when it writes (arp-agent `dataplane::trie`); the longest prefix has already won when the program reads.

/// Most views, and so roots (256 KiB).
pub const MAX_VIEWS: u16 = 256;
/// The view of everything that finds no view of its own any more: all of it is [`LeafKind::OpaqueRule`].
pub const LAST_VIEW: u16 = MAX_VIEWS - 1;
/// Most views that one lookup goes through.
pub const MAX_FALLS: usize = 3;
/// Nodes in one chunk of the pool (1 MiB).
pub const CHUNK_NODES: u32 = 1024;
/// Most chunks: 2,097,152 nodes, 2 GiB: room for a million routes to hosts, each in a /24 of its own.
pub const MAX_CHUNKS: u32 = 2048;

/// One word of a trie: bit 31 says node, and the rest its index; else bits 28–30 are the leaf's [`LeafKind`], bit 27 is
/// [`Entry::differs`], and bits 0–15 are the slot of what a unicast route leaves by, the view at which the lookup goes on,
/// or 1 for a local route of another table than local that is not an address in a VRF.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Entry(u32);

/// What a leaf says of the addresses under it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeafKind {
    /// No route.
    None,
    /// A local route.
    Local,
    /// A unicast route, by [`Entry::slot`].
    Unicast,
    /// A route whose type is never answered: broadcast, multicast, anycast, unreachable, blackhole, prohibit.
    Unanswerable,
    /// A route that the mirror does not follow: pass.
    Opaque,
    /// A routing rule that may match or not, or do what is not known: pass.
    OpaqueRule,
    /// What the view of [`Entry::slot`] says: views that look up the same large tables last share one of those tables alone.
    Fall,
}

impl Entry {
    const NODE: u32 = 1 << 31;
    const KIND_SHIFT: u32 = 28;
    const DIFFERS: u32 = 1 << 27;

    /// Addresses without a route: the word 0, which new maps hold everywhere.
    pub const NONE: Entry = Entry(0);
    /// A local route of table local.
    pub const LOCAL: Entry = Entry(1 << Self::KIND_SHIFT);
    /// A local route of another table, and no address in a VRF.
    pub const LOCAL_ELSEWHERE: Entry = Entry(1 << Self::KIND_SHIFT | 1);
    /// A route of a type that is never answered.
    pub const UNANSWERABLE: Entry = Entry(3 << Self::KIND_SHIFT);
    /// A route that the mirror does not follow.
    pub const OPAQUE: Entry = Entry(4 << Self::KIND_SHIFT);
    /// A rule that the mirror does not follow.
    pub const OPAQUE_RULE: Entry = Entry(5 << Self::KIND_SHIFT);

    /// A unicast route by what is in `slot`.
    pub const fn unicast(slot: u16) -> Self {
        Entry(2 << Self::KIND_SHIFT | slot as u32)
    }

    /// What view `view` says.
    pub const fn fall(view: u16) -> Self {
        Entry(6 << Self::KIND_SHIFT | view as u32)
    }

    /// The same leaf, marked as one whose targets the way back to a sender may depend on.
    #[must_use]
    pub const fn with_difference(self) -> Self {
        Entry(self.0 | Self::DIFFERS)
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
    pub const fn kind(self) -> LeafKind {
        match self.0 >> Self::KIND_SHIFT {
            0 => LeafKind::None,
            1 => LeafKind::Local,
            2 => LeafKind::Unicast,
            3 => LeafKind::Unanswerable,
            5 => LeafKind::OpaqueRule,
            6 => LeafKind::Fall,
            _ => LeafKind::Opaque,
        }
    }

    /// Whether the way back from these targets to a sender may be another than from most: a rule asks for one of them in
    /// `from`, or for the device that the route leaves by in `iif` (source validation looks the sender up as if it were
    /// the target; `__fib_validate_source`, net/ipv4/fib_frontend.c, 6.18).
    #[inline(always)]
    pub const fn differs(self) -> bool {
        self.0 & Self::DIFFERS != 0
    }

    /// Whether a local leaf comes from another table than local, and is no address in a VRF: probes and `arp_filter` do not
    /// look there.
    #[inline(always)]
    pub const fn is_elsewhere(self) -> bool {
        self.slot() != 0
    }

    /// The slot of a unicast leaf in `OIFS`, or the view of one at which the lookup goes on.
    #[inline(always)]
    #[expect(clippy::cast_possible_truncation, reason = "the slot is the lower half")]
    pub const fn slot(self) -> u16 {
        self.0 as u16
    }
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
        assert_eq!(Entry::LOCAL_ELSEWHERE.raw(), 0x1000_0001);
        assert_eq!(Entry::OPAQUE_RULE.raw(), 0x5000_0000);
        assert_eq!(Entry::unicast(0xabcd).with_difference().raw(), 0x2800_abcd);
        assert_eq!(Entry::fall(0xfe).raw(), 0x6000_00fe);
        assert_eq!(Entry::node(7).raw(), 0x8000_0007);
    }

    #[test]
    fn a_leaf_is_no_node() {
        for leaf in [Entry::NONE, Entry::LOCAL, Entry::unicast(0xffff), Entry::UNANSWERABLE, Entry::OPAQUE_RULE] {
            assert_eq!(leaf.node_index(), None, "{leaf:?}");
            assert_eq!(leaf.with_difference().node_index(), None, "{leaf:?}");
        }
        for index in [0, 7, 0x7fff_ffff] {
            assert_eq!(Entry::node(index).node_index(), Some(index));
        }
    }

    #[test]
    fn a_leaf_says_its_kind_whether_its_targets_differ_or_not() {
        let kinds = [
            LeafKind::None,
            LeafKind::Local,
            LeafKind::Unicast,
            LeafKind::Unanswerable,
            LeafKind::Opaque,
            LeafKind::OpaqueRule,
            LeafKind::Fall,
        ];
        for (number, kind) in (0..).zip(kinds) {
            let leaf = Entry::from_raw(number << 28 | 5);
            assert_eq!((leaf.kind(), leaf.slot(), leaf.differs()), (kind, 5, false));
            let marked = leaf.with_difference();
            assert_eq!((marked.kind(), marked.slot(), marked.differs()), (kind, 5, true));
            assert_eq!(marked.with_difference(), marked, "marked twice is marked");
        }
        for unknown in 7..16 {
            assert_eq!(Entry::from_raw(unknown << 28).kind(), LeafKind::Opaque, "kind {unknown}");
        }
        assert!(Entry::LOCAL_ELSEWHERE.is_elsewhere() && !Entry::LOCAL.is_elsewhere());
    }
}
