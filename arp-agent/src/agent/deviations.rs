//! Tells the programs which policies answer on which interface.

use super::Agent;
use crate::dataplane::bpf::Bpf;
use crate::dataplane::bpf::programs::Manner;
use crate::deviations::policies::{DeviationPolicies, InterfaceAnswers};
use crate::event::Link;
use crate::mirror::Change;
use anyhow::bail;
use arp_common::deviation::{Deviation, DeviationConfig, ROOM};
use std::collections::{BTreeMap, BTreeSet};

/// The policies that answer, and where they hold.
pub(super) struct Deviations {
    policies: DeviationPolicies,
    /// The number of the last list of gateways that the kernel has got.
    lists: u32,
    interfaces: BTreeMap<u32, InterfaceAnswers>,
}

impl Deviations {
    /// Writes the lists of gateways.
    ///
    /// # Errors
    /// The kernel has no room for them.
    pub(super) fn start(mut policies: DeviationPolicies, bpf: &mut Bpf) -> anyhow::Result<Self> {
        for (list, address) in policies.lists().after(0) {
            bpf.add_gateway(list, address.octets())?;
        }
        let lists = policies.lists().last();
        Ok(Deviations { policies, lists, interfaces: BTreeMap::new() })
    }

    /// Makes room for other policies. They hold from [`Deviations::change`] on.
    ///
    /// # Errors
    /// Their programs are not loaded, or the kernel has no room: then all is as before.
    pub(super) fn prepare(&self, mut policies: DeviationPolicies, bpf: &mut Bpf) -> anyhow::Result<DeviationPolicies> {
        if !policies.are_off() && bpf.manner() != Manner::ByPolicy {
            bail!(
                "{}: the programs that answer by policy are not loaded, because no policy that answers was on when the \
                 agent started; restart it (systemctl restart arp-agent)",
                policies.on().join(", ")
            );
        }
        policies.keep_lists_of(&self.policies);
        if bpf.manner() != Manner::ByPolicy {
            return Ok(policies);
        }
        for (list, address) in policies.lists().after(self.lists) {
            if let Err(error) = bpf.add_gateway(list, address.octets()) {
                self.discard(policies, bpf);
                return Err(error);
            }
        }
        Ok(policies)
    }

    /// Drops policies that were prepared.
    pub(super) fn discard(&self, mut policies: DeviationPolicies, bpf: &mut Bpf) {
        for (list, address) in policies.lists().after(self.lists) {
            bpf.remove_gateway(list, address.octets());
        }
    }

    /// From here on these policies hold on these interfaces, which are those with an entry in the maps.
    pub(super) fn change(&mut self, policies: DeviationPolicies, bpf: &mut Bpf, links: &[&Link]) {
        self.policies = policies;
        self.lists = self.policies.lists().last();
        links.iter().for_each(|link| self.configure(bpf, link));
        let used = self.policies.numbers().iter().copied().collect();
        for (list, address) in self.policies.lists().keep(&used) {
            bpf.remove_gateway(list, address.octets());
        }
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
        let configured = held.as_ref().map_or(DeviationConfig::default(), |held| held.configured);
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
