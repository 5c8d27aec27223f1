//! Tables in plain memory: what the maps would hold, for tests, and for `explain` when no agent runs.

use super::Dataplane;
use super::trie::{Entries, Trie};
use crate::mirror::Change;
use arp_common::Tables;
use arp_common::fib::{CHUNK_NODES, Entry, MAX_VIEWS};
use arp_common::maps::{FibNode, Iface, IfaceAddr, Neighbour, Oif};
use std::collections::{BTreeMap, BTreeSet};

/// Tables in plain memory. Their clock stands still at 0: a lease is valid if it is not 0.
#[derive(Debug, Default)]
pub struct Fake {
    sequence: u64,
    lease_until: u64,
    ifaces: BTreeMap<u32, Iface>,
    neighbours: BTreeMap<IfaceAddr, Neighbour>,
    proxies: BTreeSet<IfaceAddr>,
    own_addresses: BTreeSet<IfaceAddr>,
    oifs: BTreeMap<u16, Oif>,
    common_view: Option<u16>,
    trie: Trie,
    fib: Fib,
}

/// FIB entries in vectors.
#[derive(Debug)]
pub struct Fib {
    roots: Vec<FibNode>,
    nodes: Vec<FibNode>,
}

impl Default for Fib {
    fn default() -> Self {
        Fib { roots: vec![[Entry::NONE.raw(); 256]; MAX_VIEWS.into()], nodes: Vec::new() }
    }
}

impl Entries for Fib {
    fn root(&self, view: u16, index: u32) -> Entry {
        self.roots.get(usize::from(view)).map_or(Entry::OPAQUE, |root| Entry::from_raw(root[index as usize]))
    }

    fn set_root(&mut self, view: u16, index: u32, entry: Entry) {
        self.roots[usize::from(view)][index as usize] = entry.raw();
    }

    fn node(&self, node: u32, index: u32) -> Entry {
        self.nodes.get(node as usize).map_or(Entry::OPAQUE, |entries| Entry::from_raw(entries[index as usize]))
    }

    fn set_node(&mut self, node: u32, index: u32, entry: Entry) {
        self.nodes[node as usize][index as usize] = entry.raw();
    }

    fn room(&self) -> u32 {
        self.nodes.len() as u32
    }

    fn grow(&mut self) -> anyhow::Result<()> {
        self.nodes.resize(self.nodes.len() + CHUNK_NODES as usize, [0; 256]);
        Ok(())
    }
}

impl Fake {
    /// The view that all senders share, if one is told.
    pub fn common_view(&self) -> Option<u16> {
        self.common_view
    }
}

impl Dataplane for Fake {
    fn apply(&mut self, changes: &[Change]) -> anyhow::Result<()> {
        self.sequence += 1;
        for change in changes {
            match *change {
                Change::Iface(ifindex, Some(iface)) => drop(self.ifaces.insert(ifindex, iface)),
                Change::Iface(ifindex, None) => drop(self.ifaces.remove(&ifindex)),
                Change::Neighbour(key, Some(neighbour)) => drop(self.neighbours.insert(key, neighbour)),
                Change::Neighbour(key, None) => drop(self.neighbours.remove(&key)),
                Change::Proxy(key, true) => drop(self.proxies.insert(key)),
                Change::Proxy(key, false) => drop(self.proxies.remove(&key)),
                Change::OwnAddress(key, true) => drop(self.own_addresses.insert(key)),
                Change::OwnAddress(key, false) => drop(self.own_addresses.remove(&key)),
                Change::Oif(slot, oif) => drop(self.oifs.insert(slot, oif)),
                Change::Insert(view, prefix, leaf) => self.trie.insert(&mut self.fib, view, prefix, leaf)?,
                Change::Remove { view, prefix, cover, cover_len } => {
                    self.trie.remove(&mut self.fib, view, prefix, cover, cover_len)?;
                }
                Change::Forget(view) => self.trie.forget(&mut self.fib, view),
                Change::CommonView(view) => self.common_view = view,
            }
        }
        self.sequence += 1;
        Ok(())
    }

    fn set_lease(&mut self, until: u64) -> anyhow::Result<()> {
        self.lease_until = until;
        Ok(())
    }

    fn withdraw_lease(&mut self) {
        self.lease_until = 0;
    }
}

impl Tables for Fake {
    fn sequence(&self) -> u64 {
        self.sequence
    }

    fn lease_is_valid(&self) -> bool {
        self.lease_until != 0
    }

    fn settings_are_read(&self) -> bool {
        true
    }

    fn iface(&self, ifindex: u32) -> Option<Iface> {
        self.ifaces.get(&ifindex).copied()
    }

    fn neighbour(&self, key: IfaceAddr) -> Option<Neighbour> {
        self.neighbours.get(&key).copied()
    }

    fn proxied(&self, key: IfaceAddr) -> bool {
        self.proxies.contains(&key)
    }

    fn proxies_are_confirmed(&self) -> bool {
        true
    }

    fn owned(&self, key: IfaceAddr) -> bool {
        self.own_addresses.contains(&key)
    }

    fn oif(&self, slot: u16) -> Option<Oif> {
        self.oifs.get(&slot).copied()
    }

    fn fib_root(&self, view: u16, index: u8) -> Entry {
        self.fib.root(view, u32::from(index))
    }

    fn fib_node(&self, node: u32, index: u8) -> Entry {
        self.fib.node(node, u32::from(index))
    }
}
