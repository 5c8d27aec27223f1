//! Writes prefixes into the entries of views: each prefix is expanded over the entries that it covers, so that the
//! reader ([`arp_common::tables::lookup`]) finds the longest one without searching.

use crate::prefix::Prefix;
use anyhow::bail;
use arp_common::fib::{CHUNK_NODES, Entry, MAX_CHUNKS, MAX_VIEWS};

/// The memory that holds the entries: the mapped BPF arrays, or plain vectors in tests.
pub(super) trait Entries {
    /// An entry of a view's root.
    fn root(&self, view: u16, index: u32) -> Entry;
    /// Sets it.
    fn set_root(&mut self, view: u16, index: u32, entry: Entry);
    /// An entry of a node.
    fn node(&self, node: u32, index: u32) -> Entry;
    /// Sets it.
    fn set_node(&mut self, node: u32, index: u32, entry: Entry);
    /// How many nodes there is room for.
    fn room(&self) -> u32;
    /// Makes room for another [`CHUNK_NODES`] nodes.
    fn grow(&mut self) -> anyhow::Result<()>;
}

/// Bits of an address that a root's or a node's entries stand for.
const BITS: u32 = 8;

/// What the entries do not say: the length of the prefix that each leaf came from.
#[derive(Debug)]
pub(super) struct Trie {
    roots: Vec<[u8; 256]>,
    nodes: Vec<[u8; 256]>,
    free: Vec<u32>,
    used: u32,
}

impl Default for Trie {
    fn default() -> Self {
        Trie { roots: vec![[0; 256]; MAX_VIEWS.into()], nodes: Vec::new(), free: Vec::new(), used: 0 }
    }
}

/// One place in the tries: the root of a view, or a node.
#[derive(Clone, Copy, PartialEq)]
enum TriePlace {
    Root(u16),
    Node(u32),
}

/// What to write over a prefix's range.
#[derive(Clone, Copy)]
enum NodeWrite {
    /// Where no longer prefix is.
    Insert,
    /// Where this prefix itself is, of the given length; what is written comes from a prefix of the second one.
    Remove { own: u8 },
}

impl Trie {
    /// Nodes in use.
    pub(super) fn nodes(&self) -> u32 {
        self.used - self.free.len() as u32
    }

    /// Writes a prefix's leaf in a view.
    ///
    /// # Errors
    /// No more nodes: the pool is at its end, or memory is. The prefix is then stored in part.
    pub(super) fn insert(
        &mut self,
        memory: &mut impl Entries,
        view: u16,
        prefix: Prefix,
        leaf: Entry,
    ) -> anyhow::Result<()> {
        self.write(memory, TriePlace::Root(view), 0, prefix, NodeWrite::Insert, leaf, prefix.len)
    }

    /// Takes all prefixes of a view away.
    pub(super) fn forget(&mut self, memory: &mut impl Entries, view: u16) {
        for index in 0..256 {
            if let Some(node) = memory.root(view, index).node_index() {
                self.free_below(memory, node);
            }
            memory.set_root(view, index, Entry::NONE);
        }
        self.roots[usize::from(view)] = [0; 256];
    }

    fn free_below(&mut self, memory: &impl Entries, node: u32) {
        for index in 0..256 {
            if let Some(child) = memory.node(node, index).node_index() {
                self.free_below(memory, child);
            }
        }
        self.free.push(node);
    }

    /// Takes a prefix away from a view: its addresses fall to `cover`, the leaf of a prefix of `cover_len` bits.
    ///
    /// # Errors
    /// As [`Trie::insert`].
    pub(super) fn remove(
        &mut self,
        memory: &mut impl Entries,
        view: u16,
        prefix: Prefix,
        cover: Entry,
        cover_len: u8,
    ) -> anyhow::Result<()> {
        self.write(memory, TriePlace::Root(view), 0, prefix, NodeWrite::Remove { own: prefix.len }, cover, cover_len)
    }

    /// Writes below `place`, whose entries stand for what follows the first `depth` bits of an address.
    #[expect(clippy::too_many_arguments, reason = "where, what range, what to write: the recursion's state")]
    fn write(
        &mut self,
        memory: &mut impl Entries,
        place: TriePlace,
        depth: u32,
        prefix: Prefix,
        write: NodeWrite,
        leaf: Entry,
        leaf_len: u8,
    ) -> anyhow::Result<()> {
        let end = depth + BITS;
        let len = u32::from(prefix.len);
        // The prefix's first entry here, and how many it covers.
        let first = if len <= depth { 0 } else { (prefix.addr << depth) >> (32 - BITS) };
        let count = if len >= end { 1 } else { 1 << (end - len.max(depth)) };

        if len > end {
            let child = match entry(memory, place, first).node_index() {
                Some(child) => child,
                None if matches!(write, NodeWrite::Remove { .. }) => return Ok(()),
                None => self.split(memory, place, first)?,
            };
            self.write(memory, TriePlace::Node(child), end, prefix, write, leaf, leaf_len)?;
            self.merge(memory, place, first, end, write);
            return Ok(());
        }
        for index in first..first + count {
            if let Some(child) = entry(memory, place, index).node_index() {
                self.write(memory, TriePlace::Node(child), end, prefix, write, leaf, leaf_len)?;
                self.merge(memory, place, index, end, write);
                continue;
            }
            let from = self.len_at(place, index);
            let writes = match write {
                NodeWrite::Insert => *from <= prefix.len,
                NodeWrite::Remove { own } => *from == own,
            };
            if writes {
                *from = leaf_len;
                set(memory, place, index, leaf);
            }
        }
        Ok(())
    }

    /// Puts a node in the place of a leaf, which all its entries then repeat.
    fn split(&mut self, memory: &mut impl Entries, place: TriePlace, index: u32) -> anyhow::Result<u32> {
        let leaf = entry(memory, place, index);
        let len = *self.len_at(place, index);
        let node = match self.free.pop() {
            Some(node) => node,
            None => {
                let capacity = CHUNK_NODES * MAX_CHUNKS;
                if self.used == capacity {
                    bail!("the FIB's node pool is exhausted: all {capacity} nodes are in use");
                }
                if self.used == memory.room() {
                    memory.grow()?;
                }
                self.nodes.push([0; 256]);
                self.used += 1;
                self.used - 1
            }
        };
        self.nodes[node as usize].fill(len);
        for below in 0..256 {
            memory.set_node(node, below, leaf);
        }
        set(memory, place, index, Entry::node(node));
        Ok(node)
    }

    /// Puts a leaf back in the place of a node none of whose entries needs more than the first `end` bits, after a
    /// removal: an insertion shortens none. The node is free at once: a program run that may still read it finds that
    /// the sequence has moved.
    fn merge(&mut self, memory: &mut impl Entries, place: TriePlace, index: u32, end: u32, write: NodeWrite) {
        if matches!(write, NodeWrite::Insert) {
            return;
        }
        let Some(node) = entry(memory, place, index).node_index() else { return };
        let lengths = &self.nodes[node as usize];
        if lengths.iter().any(|&len| u32::from(len) > end)
            || (0..256).any(|below| memory.node(node, below).node_index().is_some())
        {
            return;
        }
        let (leaf, len) = (memory.node(node, 0), lengths[0]);
        set(memory, place, index, leaf);
        *self.len_at(place, index) = len;
        self.free.push(node);
    }

    fn len_at(&mut self, place: TriePlace, index: u32) -> &mut u8 {
        match place {
            TriePlace::Root(view) => &mut self.roots[usize::from(view)][index as usize],
            TriePlace::Node(node) => &mut self.nodes[node as usize][index as usize],
        }
    }
}

fn entry(memory: &impl Entries, place: TriePlace, index: u32) -> Entry {
    match place {
        TriePlace::Root(view) => memory.root(view, index),
        TriePlace::Node(node) => memory.node(node, index),
    }
}

fn set(memory: &mut impl Entries, place: TriePlace, index: u32, entry: Entry) {
    match place {
        TriePlace::Root(view) => memory.set_root(view, index, entry),
        TriePlace::Node(node) => memory.set_node(node, index, entry),
    }
}

#[cfg(test)]
mod tests;
