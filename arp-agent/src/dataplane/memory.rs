//! Mapped BPF arrays: the agent's stores reach the program without a system call.

use super::trie::Entries;
use anyhow::Context as _;
use arp_common::fib::{CHUNK_NODES, Entry};
use arp_common::maps::FibNode;
use aya::maps::{ArrayOfMaps, MapData};
use aya_obj::generated::bpf_map_type::BPF_MAP_TYPE_ARRAY;
use memmap2::{MmapOptions, MmapRaw};
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// `BPF_F_MMAPABLE` (include/uapi/linux/bpf.h).
const MMAPABLE: u32 = 1 << 10;

/// The elements of an mmapable array, as machine words.
#[derive(Debug)]
pub(super) struct Words {
    map: MmapRaw,
    /// The mapping keeps the map alive, but only this makes it visible to tools as the agent's.
    _map: MapData,
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
        Ok(Words { map: mapped.context("mapping a BPF array into memory failed")?, _map: map })
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

/// The FIB's entries: the root, and the chunks of nodes made so far.
#[derive(Debug)]
pub(super) struct MappedFib {
    root: Words,
    chunks: Vec<Words>,
    outer: ArrayOfMaps<MapData>,
}

impl MappedFib {
    /// The FIB in these maps, which are new.
    ///
    /// # Errors
    /// The kernel refuses a mapping.
    pub(super) fn new(root: MapData, outer: ArrayOfMaps<MapData>) -> anyhow::Result<Self> {
        Ok(MappedFib { root: Words::new(root, size_of::<FibNode>())?, chunks: Vec::new(), outer })
    }
}

impl Entries for MappedFib {
    fn root(&self, index: u32) -> Entry {
        Entry::from_raw(self.root.word(index as usize).load(Ordering::Relaxed))
    }

    fn set_root(&mut self, index: u32, entry: Entry) {
        self.root.word(index as usize).store(entry.raw(), Ordering::Relaxed);
    }

    fn node(&self, node: u32, index: u32) -> Entry {
        match self.chunks.get((node / CHUNK_NODES) as usize) {
            Some(chunk) => Entry::from_raw(chunk.word(word_of(node, index)).load(Ordering::Relaxed)),
            None => Entry::OPAQUE,
        }
    }

    fn set_node(&mut self, node: u32, index: u32, entry: Entry) {
        let chunk = &self.chunks[(node / CHUNK_NODES) as usize];
        chunk.word(word_of(node, index)).store(entry.raw(), Ordering::Relaxed);
    }

    fn grow(&mut self) -> anyhow::Result<()> {
        let (key, value) = (size_of::<u32>() as u32, size_of::<FibNode>() as u32);
        let shape = aya_obj::Map::new_from_params(BPF_MAP_TYPE_ARRAY as u32, key, value, CHUNK_NODES, MMAPABLE);
        let chunk = MapData::create(shape, "fib_chunk", None)
            .with_context(|| format!("no memory for another {CHUNK_NODES} FIB nodes"))?;
        self.outer.set(self.chunks.len() as u32, &chunk, 0).context("the FIB takes no more chunks")?;
        self.chunks.push(Words::new(chunk, size_of::<FibNode>())?);
        Ok(())
    }
}

fn word_of(node: u32, index: u32) -> usize {
    (node % CHUNK_NODES * 256 + index) as usize
}
