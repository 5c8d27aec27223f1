//! The ring of a trace, and the programs that fill it ([`arp_common::trace`]).

use super::Bpf;
use crate::dataplane::memory::Words;
use anyhow::Context as _;
use arp_common::trace::{RING_LEN, Told, TraceControl};
use aya::maps::{ArrayOfMaps, Map, MapData, RingBuf};
use aya_obj::generated::bpf_map_type::BPF_MAP_TYPE_RINGBUF;
use std::mem::offset_of;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use zerocopy::FromBytes as _;

const MASK: usize = offset_of!(TraceControl, mask) / size_of::<u64>();
const LOST: usize = offset_of!(TraceControl, lost) / size_of::<u64>();

/// The maps of a trace.
pub(super) struct TraceMaps {
    control: Arc<Words>,
    rings: ArrayOfMaps<MapData>,
}

impl TraceMaps {
    /// In these maps, which are new.
    ///
    /// # Errors
    /// The kernel refuses the mapping.
    pub(super) fn new(control: MapData, rings: ArrayOfMaps<MapData>) -> anyhow::Result<Self> {
        let control = Arc::new(Words::new(control, size_of::<TraceControl>())?);
        Ok(TraceMaps { control, rings })
    }

    /// Puts a new ring of this size into place.
    fn place(&mut self, len: u32) -> anyhow::Result<MapData> {
        let shape = aya_obj::Map::new_from_params(BPF_MAP_TYPE_RINGBUF as u32, 0, 0, len, 0);
        let ring = MapData::create(shape, "arp_trace", None).context("no memory for the ring of the trace")?;
        self.rings.set(0, &ring, 0).context("the ring of the trace cannot be put in place")?;
        Ok(ring)
    }
}

/// What comes of a trace. It may be read by another thread.
pub struct TraceReader {
    ring: RingBuf<MapData>,
    control: Arc<Words>,
}

/// The frames that are there by now.
impl Iterator for TraceReader {
    type Item = Told;

    fn next(&mut self) -> Option<Told> {
        let record = self.ring.next()?;
        Told::read_from_bytes(&record).ok()
    }
}

impl TraceReader {
    /// How many frames have found no room since the agent started.
    pub fn lost(&self) -> u64 {
        self.control.long(LOST).load(Ordering::Relaxed)
    }
}

impl Bpf {
    /// Has all frames told whose bit is in `mask` ([`TraceControl::mask`]), by programs that take the place of the others.
    ///
    /// # Errors
    /// The verifier refuses one of them, or the kernel has no memory for the ring. Then nothing has changed.
    pub fn start_trace(&mut self, mask: u64) -> anyhow::Result<TraceReader> {
        let ring = self.trace.place(RING_LEN)?;
        let ring = RingBuf::try_from(Map::RingBuf(ring))?;
        self.set_trace_mask(mask);
        if let Err(error) = self.set_traced(true) {
            self.stop_trace();
            return Err(error);
        }
        Ok(TraceReader { ring, control: Arc::clone(&self.trace.control) })
    }

    /// Tells frames by other bits than before.
    pub fn set_trace_mask(&self, mask: u64) {
        self.trace.control.long(MASK).store(mask, Ordering::Relaxed);
    }

    /// Puts the programs back that tell nothing, and unloads the others.
    pub fn stop_trace(&mut self) {
        self.set_trace_mask(0);
        if let Err(error) = self.set_traced(false) {
            // They tell nothing, and decide as the others do.
            log::warn!("the programs of the trace stay in place, because the others cannot be put back: {error:#}");
        }
        // No element of the array can be emptied: the smallest ring takes the place of the large one.
        if let Err(error) = self.trace.place(SMALLEST) {
            log::debug!("the ring of the trace stays: {error:#}");
        }
    }

    /// How many frames of traces have found no room in the ring.
    pub fn trace_lost(&self) -> u64 {
        self.trace.control.long(LOST).load(Ordering::Relaxed)
    }
}

/// A page of any machine.
const SMALLEST: u32 = 1 << 16;
