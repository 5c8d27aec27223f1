//! Tells the programs which policies answer on which interface.

use super::Agent;
use crate::dataplane::bpf::Bpf;
use crate::deviations::policies::{Held, Policies};
use crate::event::Link;
use crate::mirror::Change;
use arp_common::deviation::{Configured, Deviation, ROOM};
use std::collections::{BTreeMap, BTreeSet};

/// The policies that answer, and where they hold.
pub(super) struct Deviations {
    policies: Policies,
    interfaces: BTreeMap<u32, Held>,
}

impl Deviations {
    /// Writes the lists of gateways.
    ///
    /// # Errors
    /// The kernel has no room for them.
    pub(super) fn start(policies: Policies, bpf: &mut Bpf) -> anyhow::Result<Self> {
        for (list, address) in policies.gateways() {
            bpf.add_gateway(list, address)?;
        }
        Ok(Deviations { policies, interfaces: BTreeMap::new() })
    }

    /// Each policy that is on, on an interface.
    pub(super) fn in_words(&self, ifindex: u32) -> Vec<String> {
        self.interfaces.get(&ifindex).map(|held| held.words.clone()).unwrap_or_default()
    }

    /// Configures an interface that has an entry in the maps.
    fn configure(&mut self, bpf: &mut Bpf, link: &Link) {
        let held = self.policies.of(&link.name);
        if self.interfaces.get(&link.ifindex) == held.as_ref() {
            return;
        }
        let configured = held.as_ref().map_or(Configured::default(), |held| held.configured);
        if bpf.configure_deviations(link.ifindex, configured) {
            self.interfaces.remove(&link.ifindex);
            self.interfaces.extend(held.map(|held| (link.ifindex, held)));
        }
    }
}

impl Agent {
    /// Configures interfaces whose entry in the maps is new, and forgets those that have none any more.
    pub(super) fn deviate(&mut self, changes: &[Change]) {
        for change in changes {
            let Change::Iface(ifindex, iface) = change else { continue };
            match self.mirror.snapshot().links.get(ifindex).filter(|_| iface.is_some()) {
                Some(link) => self.deviations.configure(&mut self.bpf, link),
                None => drop(self.deviations.interfaces.remove(ifindex)),
            }
        }
    }

    /// The same for interfaces of which something was told that their entries do not hold: their name.
    pub(super) fn deviate_links(&mut self, links: &BTreeSet<u32>) {
        for ifindex in links.iter().filter(|&&ifindex| self.mirror.iface(ifindex).is_some()) {
            if let Some(link) = self.mirror.snapshot().links.get(ifindex) {
                self.deviations.configure(&mut self.bpf, link);
            }
        }
    }
}

/// Counts by the names of policies; only those that occurred.
pub(super) fn by_name(counts: &[u64; ROOM]) -> BTreeMap<String, u64> {
    let all = Deviation::ALL.iter().map(|&by| (by.name().to_owned(), counts[by as usize]));
    all.filter(|&(_, count)| count > 0).collect()
}
