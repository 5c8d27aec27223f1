//! The requests that are being compared, in the kernel ([`arp_common::shadow`]).

use super::Bpf;
use crate::dataplane::memory::Words;
use crate::dataplane::refusal;
use anyhow::Context as _;
use arp_common::shadow::{Sample, ShadowRequest, asked, names};
use arp_common::{ArpFrame, PackedArp};
use aya::maps::{HashMap, Map, MapData};
use aya::programs::SchedClassifier;
use std::sync::atomic::Ordering;
use zerocopy::transmute;

/// The maps of the comparison.
pub(super) struct ShadowMaps {
    samples: HashMap<MapData, [u8; size_of::<ShadowRequest>()], [u8; size_of::<Sample>()]>,
    not_sampled: Words,
}

impl ShadowMaps {
    /// In these maps, which are new.
    ///
    /// # Errors
    /// The kernel refuses the mapping.
    pub(super) fn new(samples: Map, not_sampled: MapData) -> anyhow::Result<Self> {
        Ok(ShadowMaps { samples: HashMap::try_from(samples)?, not_sampled: Words::new(not_sampled, size_of::<u64>())? })
    }
}

impl Bpf {
    /// The program that sees what the kernel sends.
    ///
    /// # Errors
    /// The verifier refuses.
    pub fn tap(&mut self) -> anyhow::Result<&mut SchedClassifier> {
        let program: &mut SchedClassifier = self.program(names::TAP_PROGRAM)?.try_into()?;
        if program.fd().is_err() {
            program.load().map_err(|error| refusal::of_program(names::TAP_PROGRAM, &error))?;
        }
        Ok(program)
    }

    /// The requests that are being compared.
    ///
    /// # Errors
    /// The kernel does not tell.
    pub fn samples(&self) -> anyhow::Result<Vec<(ShadowRequest, Sample)>> {
        let each = |entry| {
            let (asked, sample): ([u8; 20], [u8; 32]) = entry?;
            Ok((transmute!(asked), transmute!(sample)))
        };
        self.shadow
            .samples
            .iter()
            .map(each)
            .collect::<Result<_, aya::maps::MapError>>()
            .context("reading samples failed")
    }

    /// Compares a request no more.
    pub fn forget_sample(&mut self, asked: ShadowRequest) {
        // It may have gone already.
        let _ = self.shadow.samples.remove(&transmute!(asked));
    }

    /// The same for a request that came in on an interface.
    pub fn forget_request(&mut self, ifindex: u32, frame: &ArpFrame) {
        if let Some(asked) = asked(&PackedArp::from(frame), ifindex) {
            self.forget_sample(asked);
        }
    }

    /// How many requests found no room, or were there already.
    pub fn not_sampled(&self) -> u64 {
        self.shadow.not_sampled.long(0).load(Ordering::Relaxed)
    }
}
