//! What the programs tell of single frames ([`arp_common::notice`]), and how much of it they may.

use super::Bpf;
use crate::dataplane::memory::Words;
use anyhow::Context as _;
use arp_common::notice::{EventCode, Marks, Notice, NoticeControl, RING_LEN};
use aya::maps::{ArrayOfMaps, Map, MapData, RingBuf};
use aya_obj::generated::bpf_map_type::BPF_MAP_TYPE_RINGBUF;
use std::future::pending;
use std::mem::offset_of;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::io::{Interest, unix::AsyncFd};
use zerocopy::FromBytes as _;

/// The programs tell no two events of one kind and interface within this time.
const PAUSE: Duration = Duration::from_millis(100);

/// The maps of notices.
pub(super) struct NoticeMaps {
    control: Words,
    marks: Words,
    /// How many interfaces have marks; 1, which no interface has, where nothing is guarded.
    len: u32,
    rings: ArrayOfMaps<MapData>,
    /// The ring, once it is wanted.
    ring: Option<AsyncFd<RingBuf<MapData>>>,
}

impl NoticeMaps {
    /// In these maps, which are new.
    ///
    /// # Errors
    /// The kernel refuses a mapping.
    pub(super) fn new(control: MapData, marks: MapData, len: u32, rings: ArrayOfMaps<MapData>) -> anyhow::Result<Self> {
        let control = Words::new(control, size_of::<NoticeControl>())?;
        Ok(NoticeMaps { control, marks: Words::new(marks, size_of::<Marks>())?, len, rings, ring: None })
    }

    /// Forgets what is remembered of a place.
    pub(super) fn clear(&self, index: u32) {
        if index < self.len {
            let words = size_of::<Marks>() / size_of::<u64>();
            (0..words).for_each(|word| self.marks.long(index as usize * words + word).store(0, Ordering::Relaxed));
        }
    }

    fn word(&self, offset: usize) -> &std::sync::atomic::AtomicU64 {
        self.control.long(offset / size_of::<u64>())
    }

    /// Makes the ring, unless it is there.
    fn open(&mut self) -> anyhow::Result<()> {
        if self.ring.is_some() {
            return Ok(());
        }
        let shape = aya_obj::Map::new_from_params(BPF_MAP_TYPE_RINGBUF as u32, 0, 0, RING_LEN, 0);
        let ring = MapData::create(shape, "arp_notices", None).context("no memory for the ring of notices")?;
        self.rings.set(0, &ring, 0).context("the ring of notices cannot be put in place")?;
        let ring = RingBuf::try_from(Map::RingBuf(ring))?;
        // SAFETY: the ring buffer owns its map's descriptor, and neither replaces nor closes it while it lives.
        self.ring = Some(unsafe { AsyncFd::register_with_interest(ring, Interest::READABLE) }?);
        Ok(())
    }
}

impl Bpf {
    /// Lets the guard tell of events. To be called inside the tokio runtime.
    ///
    /// # Errors
    /// The kernel has no memory for the ring.
    pub fn want_events(&mut self) -> anyhow::Result<()> {
        self.notices.open()?;
        let pause = (PAUSE.as_nanos() as u64).div_ceil(self.tick_ns);
        self.notices.word(offset_of!(NoticeControl, pause)).store(pause, Ordering::Relaxed);
        Ok(())
    }

    /// Waits until a program has told something; for ever while nothing is to be told. May be dropped while it waits.
    pub async fn noticed(&self) {
        let Some(ring) = &self.notices.ring else { return pending().await };
        match ring.readable().await {
            // Before the reading: what comes after this wakes up again.
            Ok(mut ready) => ready.clear_ready(),
            Err(error) => {
                log::warn!("waiting for notices of the programs failed: {error}");
                pending().await
            }
        }
    }

    /// The next notice, if there is one.
    pub fn notice(&mut self) -> Option<Notice> {
        let ring = self.notices.ring.as_mut()?.get_mut();
        let record = ring.next()?;
        Notice::read_from_bytes(&record).ok()
    }

    /// How many frames of an interface have come to this event.
    pub fn events_of(&self, ifindex: u32, code: EventCode) -> u64 {
        let claims = |code: EventCode| match (self.counters.index(ifindex), Marks::claim_of(code.number())) {
            (Some(index), Some(claim)) if index < self.notices.len => {
                let words = size_of::<Marks>() / size_of::<u64>();
                let at = index as usize * words + offset_of!(Marks, claims) / size_of::<u64>() + claim;
                self.notices.marks.long(at).load(Ordering::Relaxed)
            }
            _ => 0,
        };
        match code {
            EventCode::Refused(reason) => {
                let counters = self.counters(ifindex);
                let all = counters[reason.dropped()] + counters[reason.would_drop()];
                let of_guard = reason == arp_common::guard::DropReason::SenderElsewhere;
                // Those have a code of their own.
                let others =
                    if of_guard { claims(EventCode::ClaimsNode) + claims(EventCode::ClaimsNeighbour) } else { 0 };
                all.saturating_sub(others)
            }
            claim => claims(claim),
        }
    }

    /// How many events found no room in the ring.
    pub fn events_lost(&self) -> u64 {
        self.notices.word(offset_of!(NoticeControl, events_lost)).load(Ordering::Relaxed)
    }
}
