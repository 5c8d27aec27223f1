//! The policies that answer in the kernel, by interface ([`arp_common::deviation`]).

use super::Bpf;
use crate::dataplane::memory::Words;
use anyhow::Context as _;
use arp_common::deviation::{AnswerMode, Deviation, DeviationConfig, InterfaceDeviations, Lists, ROOM, deviation};
use arp_common::maps::IfaceAddr;
use arp_common::{ArpFrame, Lladdr, PackedArp, Reason, Tables as _};
use aya::maps::{HashMap, Map, MapData};
use std::mem::offset_of;
use std::sync::atomic::{AtomicU64, Ordering};
use zerocopy::transmute;

/// How many frames policies have answered, by [`Deviation`], and how many they would have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PolicyReplies {
    /// By those that answer.
    pub answered: [u64; ROOM],
    /// By those that only count.
    pub would_answer: [u64; ROOM],
}

impl PolicyReplies {
    fn add(&mut self, other: &PolicyReplies) {
        for at in 0..ROOM {
            self.answered[at] += other.answered[at];
            self.would_answer[at] += other.would_answer[at];
        }
    }
}

/// The maps of the policies that answer.
pub(super) struct DeviationMaps {
    words: Words,
    /// How many interfaces there is room for; 1, which no interface has, where no policy answers.
    len: u32,
    gateways: HashMap<MapData, [u8; 8], [u8; 4]>,
    /// What was counted on interfaces that are gone.
    gone: PolicyReplies,
}

impl DeviationMaps {
    /// In these maps, which are new.
    ///
    /// # Errors
    /// The kernel refuses the mapping.
    pub(super) fn new(deviations: MapData, len: u32, gateways: Map) -> anyhow::Result<Self> {
        let words = Words::new(deviations, size_of::<InterfaceDeviations>())?;
        Ok(DeviationMaps { words, len, gateways: HashMap::try_from(gateways)?, gone: PolicyReplies::default() })
    }

    /// Forgets all of a place; what was counted there stays in the total.
    pub(super) fn clear(&mut self, index: u32) {
        let counted = self.counts(index);
        self.gone.add(&counted);
        for offset in (0..size_of::<InterfaceDeviations>()).step_by(size_of::<u64>()) {
            self.word(index, offset, |word| word.store(0, Ordering::Relaxed));
        }
    }

    /// One word of a place; nothing where there is no such place.
    fn word<T: Default>(&self, index: u32, offset: usize, with: impl FnOnce(&AtomicU64) -> T) -> T {
        if index >= self.len {
            return T::default();
        }
        with(self.words.long((index as usize * size_of::<InterfaceDeviations>() + offset) / size_of::<u64>()))
    }

    fn counts(&self, index: u32) -> PolicyReplies {
        let at = |first: usize, number: usize| {
            self.word(index, first + number * size_of::<u64>(), |word| word.load(Ordering::Relaxed))
        };
        PolicyReplies {
            answered: std::array::from_fn(|number| at(offset_of!(InterfaceDeviations, answered), number)),
            would_answer: std::array::from_fn(|number| at(offset_of!(InterfaceDeviations, would_answer), number)),
        }
    }
}

impl Bpf {
    /// Adds an address to a list of gateways.
    ///
    /// # Errors
    /// The kernel has no room for it.
    pub fn add_gateway(&mut self, list: u32, address: [u8; 4]) -> anyhow::Result<()> {
        let key: [u8; 8] = transmute!(IfaceAddr { ifindex: list, addr: address });
        let added = self.deviations.gateways.insert(key, [0; 4], 0);
        added.context("the kernel has no room for the addresses that gateway lists")
    }

    /// Removes an address from a list of gateways.
    pub fn remove_gateway(&mut self, list: u32, address: [u8; 4]) {
        let key: [u8; 8] = transmute!(IfaceAddr { ifindex: list, addr: address });
        if let Err(error) = self.deviations.gateways.remove(&key) {
            log::debug!("removing an address from a list of gateways failed: {error}");
        }
    }

    /// Sets the policies that answer on an interface that has an entry; says whether it has.
    pub fn configure_deviations(&mut self, ifindex: u32, configured: DeviationConfig) -> bool {
        let Some(index) = self.counters.index(ifindex) else { return false };
        let word: u64 = transmute!(configured);
        self.deviations
            .word(index, offset_of!(InterfaceDeviations, configured), |at| at.store(word, Ordering::Release));
        true
    }

    /// What policies have answered on an interface.
    pub fn answers_by_policy(&self, ifindex: u32) -> PolicyReplies {
        self.counters.index(ifindex).map(|index| self.deviations.counts(index)).unwrap_or_default()
    }

    /// The same on all interfaces, those that are gone included.
    pub fn all_answers_by_policy(&self) -> PolicyReplies {
        let mut total = self.deviations.gone;
        for index in self.counters.indexes() {
            total.add(&self.deviations.counts(index));
        }
        total
    }

    /// The policy that answers a frame which came in on an interface and would pass for this reason, and with which
    /// link-layer address. With [`AnswerMode::Count`] it only counts.
    pub fn deviates(&self, ifindex: u32, frame: &ArpFrame, reason: Reason) -> Option<(Deviation, AnswerMode, Lladdr)> {
        let index = self.counters.index(ifindex)?;
        let word =
            self.deviations.word(index, offset_of!(InterfaceDeviations, configured), |at| at.load(Ordering::Acquire));
        let configured: DeviationConfig = transmute!(word);
        let frame = PackedArp::from(frame);
        let found = deviation(&frame, ifindex, reason, &configured, self, self)?;
        Some((found, configured.mode(found), self.iface(ifindex)?.lladdr()))
    }
}

impl Lists for Bpf {
    fn common_view(&self) -> u16 {
        self.common_view_number().wrapping_sub(1)
    }

    fn is_gateway(&self, key: IfaceAddr) -> bool {
        self.deviations.gateways.get(&transmute!(key), 0).is_ok()
    }
}
