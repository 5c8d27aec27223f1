//! The counters that the program adds to, by interface.

use super::memory::Chunks;
use arp_common::maps::{CHUNK_COUNTERS, Counters, MAX_COUNTER_CHUNKS, UNKNOWN_INGRESS};
use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

/// Counters in mapped memory, handed out to interfaces and taken back.
#[derive(Debug)]
pub(super) struct CounterPool {
    chunks: Chunks,
    /// The counters of each interface.
    of: BTreeMap<u32, u32>,
    free: Vec<u32>,
    used: u32,
    /// What was counted on interfaces that are gone.
    gone: Counters,
}

impl CounterPool {
    /// No interface has counters yet; only those for unknown interfaces are there.
    ///
    /// # Errors
    /// The kernel has no memory for them.
    pub(super) fn new(mut chunks: Chunks) -> anyhow::Result<Self> {
        const { assert!(UNKNOWN_INGRESS == 0) };
        chunks.grow()?;
        Ok(CounterPool { chunks, of: BTreeMap::new(), free: Vec::new(), used: 1, gone: zeros() })
    }

    /// The number of the interface's counters; assigns some if it has none.
    ///
    /// # Errors
    /// All counters are in use, or the kernel has no memory for more.
    pub(super) fn take(&mut self, ifindex: u32) -> anyhow::Result<u32> {
        if let Some(&counters) = self.of.get(&ifindex) {
            return Ok(counters);
        }
        let counters = match self.free.pop() {
            Some(counters) => counters,
            None => {
                if self.used == self.chunks.elements() {
                    self.chunks.grow()?;
                }
                self.used += 1;
                self.used - 1
            }
        };
        self.of.insert(ifindex, counters);
        Ok(counters)
    }

    /// The number of the interface's counters, if it has some.
    pub(super) fn index(&self, ifindex: u32) -> Option<u32> {
        self.of.get(&ifindex).copied()
    }

    /// How many are in use, those of unknown interfaces included, and how many there may be.
    pub(super) fn size(&self) -> (u32, u32) {
        (1 + self.of.len() as u32, MAX_COUNTER_CHUNKS * CHUNK_COUNTERS)
    }

    /// The numbers of all that interfaces have.
    pub(super) fn indexes(&self) -> impl Iterator<Item = u32> {
        self.of.values().copied()
    }

    /// Takes back the counters of an interface that is gone; what they counted stays in the total.
    pub(super) fn give_back(&mut self, ifindex: u32) {
        let Some(counters) = self.of.remove(&ifindex) else { return };
        let counted = self.read(counters);
        add(&mut self.gone, &counted);
        for counter in 0..zeros().len() {
            self.word(counters, counter, |word| word.store(0, Ordering::Relaxed));
        }
        self.free.push(counters);
    }

    /// The counts of an interface; zeros if it has no counters.
    pub(super) fn on(&self, ifindex: u32) -> Counters {
        self.of.get(&ifindex).map_or(zeros(), |&counters| self.read(counters))
    }

    /// The counts of frames on interfaces that have no counters of their own.
    pub(super) fn on_unknown(&self) -> Counters {
        self.read(UNKNOWN_INGRESS)
    }

    /// The counts of all interfaces together, including those that are gone.
    pub(super) fn total(&self) -> Counters {
        let mut total = self.gone;
        for counters in self.of.values().copied().chain([UNKNOWN_INGRESS]) {
            add(&mut total, &self.read(counters));
        }
        total
    }

    fn read(&self, counters: u32) -> Counters {
        std::array::from_fn(|counter| self.word(counters, counter, |word| word.load(Ordering::Relaxed)))
    }

    fn word<T>(&self, counters: u32, counter: usize, with: impl FnOnce(&std::sync::atomic::AtomicU64) -> T) -> T {
        let chunk = self.chunks.get(counters / CHUNK_COUNTERS).expect("counters are handed out only once they exist");
        with(chunk.long((counters % CHUNK_COUNTERS) as usize * zeros().len() + counter))
    }
}

const fn zeros() -> Counters {
    [0; arp_common::reason::COUNTERS]
}

fn add(total: &mut Counters, counters: &Counters) {
    for (total, count) in total.iter_mut().zip(counters) {
        *total += count;
    }
}
