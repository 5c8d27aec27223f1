//! Mapped BPF arrays: the agent's stores reach the program without a system call.

use super::trie::Entries;
use crate::descriptors;
use anyhow::Context as _;
use arp_common::fib::{CHUNK_NODES, Entry, MAX_VIEWS};
use arp_common::maps::FibNode;
use aya::maps::{ArrayOfMaps, MapData};
use aya_obj::generated::BPF_F_MMAPABLE;
use aya_obj::generated::bpf_map_type::BPF_MAP_TYPE_ARRAY;
use memmap2::{MmapOptions, MmapRaw};
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// The elements of an mmapable array, as machine words.
#[derive(Debug)]
pub(super) struct Words {
    map: MmapRaw,
    /// The mapping keeps the map alive, but only this makes it visible to tools as the agent's. Left out where descriptors
    /// are few.
    _map: Option<MapData>,
}

impl Words {
    /// Maps all of `map`, which has elements of `element` bytes, a multiple of 8.
    ///
    /// # Errors
    /// The kernel refuses the mapping.
    pub(super) fn new(map: MapData, element: usize) -> anyhow::Result<Self> {
        let info = map.info().context("asking for a BPF array's size failed")?;
        let len = info.max_entries() as usize * element;
        let mapped = MmapOptions::new().len(len).map_raw(map.fd().as_fd().as_raw_fd());
        let map = Some(map).filter(|_| descriptors::too_few().is_none());
        Ok(Words { map: mapped.context("mapping a BPF array into memory failed")?, _map: map })
    }

    /// Plain memory of `len` bytes, for tests.
    #[cfg(test)]
    pub(super) fn anonymous(len: usize) -> anyhow::Result<Self> {
        Ok(Words { map: MmapOptions::new().len(len).map_anon()?.into(), _map: None })
    }

    /// The 4-byte word at `index`.
    pub(super) fn word(&self, index: usize) -> &AtomicU32 {
        assert!((index + 1) * size_of::<u32>() <= self.map.len(), "word {index} lies outside the mapped array");
        // SAFETY: inside the mapping, which lives as long as `self`, and aligned, as it starts at a page; every access
        // of this process to it is atomic.
        unsafe { AtomicU32::from_ptr(self.map.as_mut_ptr().cast::<u32>().add(index)) }
    }

    /// The 8-byte word at `index`.
    pub(super) fn long(&self, index: usize) -> &AtomicU64 {
        assert!((index + 1) * size_of::<u64>() <= self.map.len(), "word {index} lies outside the mapped array");
        // SAFETY: as in `word`.
        unsafe { AtomicU64::from_ptr(self.map.as_mut_ptr().cast::<u64>().add(index)) }
    }
}

/// An array of arrays that is added to in chunks: memory grows with what is stored, and nothing is reloaded (ADR 1).
#[derive(Debug)]
pub(super) struct Chunks {
    /// What the elements are, for people.
    what: &'static str,
    /// Elements in one chunk.
    elements: u32,
    /// Size of an element in bytes.
    size: u32,
    made: Vec<Words>,
    outer: ArrayOfMaps<MapData>,
}

impl Chunks {
    /// Chunks of `elements` elements of `size` bytes, in `outer`, which is new.
    pub(super) fn new(what: &'static str, outer: ArrayOfMaps<MapData>, elements: u32, size: usize) -> Self {
        Chunks { what, elements, size: size as u32, made: Vec::new(), outer }
    }

    /// The words of chunk `index`, if it has been made.
    pub(super) fn get(&self, index: u32) -> Option<&Words> {
        self.made.get(index as usize)
    }

    /// Elements that there is memory for.
    pub(super) fn elements(&self) -> u32 {
        self.made.len() as u32 * self.elements
    }

    /// Makes another chunk.
    ///
    /// # Errors
    /// The kernel has no memory for it, or all places are taken.
    pub(super) fn grow(&mut self) -> anyhow::Result<()> {
        let Chunks { what, elements, size, .. } = *self;
        let key = size_of::<u32>() as u32;
        let shape = aya_obj::Map::new_from_params(BPF_MAP_TYPE_ARRAY as u32, key, size, elements, BPF_F_MMAPABLE);
        let chunk = MapData::create(shape, "arp_chunk", None)
            .with_context(|| format!("no memory for another {elements} {what}"))?;
        self.outer
            .set(self.made.len() as u32, &chunk, 0)
            .with_context(|| format!("no room for more {what} than {}", self.elements()))?;
        self.made.push(Words::new(chunk, size as usize)?);
        Ok(())
    }
}

/// The FIB's entries: the roots of views, and the nodes.
#[derive(Debug)]
pub(super) struct MappedFib {
    roots: Words,
    nodes: Chunks,
}

impl MappedFib {
    /// The FIB in these maps, which are new.
    ///
    /// # Errors
    /// The kernel refuses a mapping, or has no memory for the first nodes.
    pub(super) fn new(roots: MapData, outer: ArrayOfMaps<MapData>) -> anyhow::Result<Self> {
        let mut nodes = Chunks::new("FIB nodes", outer, CHUNK_NODES, size_of::<FibNode>());
        // Every node with a route needs them, and a frame is passed while they are made.
        nodes.grow()?;
        Ok(MappedFib { roots: Words::new(roots, size_of::<FibNode>())?, nodes })
    }
}

impl Entries for MappedFib {
    fn root(&self, view: u16, index: u32) -> Entry {
        if view >= MAX_VIEWS {
            return Entry::OPAQUE;
        }
        Entry::from_raw(self.roots.word(usize::from(view) * 256 + index as usize).load(Ordering::Relaxed))
    }

    fn set_root(&mut self, view: u16, index: u32, entry: Entry) {
        self.roots.word(usize::from(view) * 256 + index as usize).store(entry.raw(), Ordering::Relaxed);
    }

    fn node(&self, node: u32, index: u32) -> Entry {
        match self.nodes.get(node / CHUNK_NODES) {
            Some(chunk) => Entry::from_raw(chunk.word(word_of(node, index)).load(Ordering::Relaxed)),
            None => Entry::OPAQUE,
        }
    }

    fn set_node(&mut self, node: u32, index: u32, entry: Entry) {
        let chunk = self.nodes.get(node / CHUNK_NODES).expect("a node is written only after its chunk was made");
        chunk.word(word_of(node, index)).store(entry.raw(), Ordering::Relaxed);
    }

    fn room(&self) -> u32 {
        self.nodes.elements()
    }

    fn grow(&mut self) -> anyhow::Result<()> {
        self.nodes.grow()
    }
}

fn word_of(node: u32, index: u32) -> usize {
    (node % CHUNK_NODES * 256 + index) as usize
}
