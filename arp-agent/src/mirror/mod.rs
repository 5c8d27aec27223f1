//! From what the kernel says to what the maps must hold. Pure: no sockets, no maps, no clock.
//!
//! Events are folded into a [`snapshot`]; [`desired`] says what the maps must hold for it; the difference to what
//! they hold (`current`) comes out as [`Change`]s, for the dataplane to apply as one batch.

pub mod desired;
pub mod objects;
pub mod snapshot;

use crate::event::{Event, IfSet, Route};
use crate::prefix::Prefix;
use arp_common::fib::Entry;
use arp_common::maps::{Iface, IfaceAddr, Neighbour, Oif};
use desired::Slots;
use snapshot::{Dirty, Snapshot};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::{Bound, RangeInclusive};

/// One step for the maps. A batch of them is atomic to every frame: the dataplane brackets it by the sequence.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// An ingress interface's entry, or its removal.
    Iface(u32, Option<Iface>),
    /// A neighbour entry, or its removal.
    Neighbour(IfaceAddr, Option<Neighbour>),
    /// Whether there is such a static proxy entry.
    Proxy(IfaceAddr, bool),
    /// Whether there is such an own address.
    OwnAddress(IfaceAddr, bool),
    /// The interface in a slot.
    Oif(u16, Oif),
    /// A prefix's leaf.
    Insert(Prefix, Entry),
    /// A prefix is gone: its addresses fall to the next shorter one.
    Remove {
        /// The prefix that is gone.
        prefix: Prefix,
        /// The leaf of the longest prefix that covers it; [`Entry::NONE`] if none does.
        cover: Entry,
        /// That prefix's length; 0 if none does.
        cover_len: u8,
    },
}

/// What came of events.
#[derive(Debug, Default)]
pub struct Update {
    /// What to change.
    pub changes: Vec<Change>,
    /// The kernel removed a route that the mirror does not know so: the routes must be dumped again.
    pub routes_in_doubt: bool,
}

/// What the maps hold, or must hold, besides the FIB.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct InterfaceTables {
    /// `IFACES`.
    pub ifaces: BTreeMap<u32, Iface>,
    /// `PROXIES`.
    pub proxies: BTreeSet<IfaceAddr>,
    /// `OWN_ADDRESSES`.
    pub own_addresses: BTreeSet<IfaceAddr>,
    /// `OIFS`, the slots in use.
    pub oifs: BTreeMap<u16, Oif>,
}

/// The mirror: what the kernel said, and what the maps hold of it.
#[derive(Debug, Default)]
pub struct Mirror {
    snapshot: Snapshot,
    attached: BTreeSet<u32>,
    slots: Slots,
    interface_tables: InterfaceTables,
    neighbours: BTreeMap<IfaceAddr, Neighbour>,
    fib: BTreeMap<Prefix, Entry>,
}

impl Mirror {
    /// What the kernel said so far.
    pub fn snapshot(&self) -> &Snapshot {
        &self.snapshot
    }

    /// How many prefixes the FIB holds.
    pub fn prefixes(&self) -> usize {
        self.fib.len()
    }

    /// How many neighbour entries the maps hold.
    pub fn neighbours(&self) -> usize {
        self.neighbours.len()
    }

    /// The entry of an attached interface.
    pub fn iface(&self, ifindex: u32) -> Option<&Iface> {
        self.interface_tables.ifaces.get(&ifindex)
    }

    /// Folds events, and says what to change. `attached`: the interfaces that the program runs on.
    pub fn apply(&mut self, attached: &BTreeSet<u32>, events: impl IntoIterator<Item = Event>) -> Update {
        let mut dirty = Dirty::default();
        for event in events {
            self.snapshot.apply(event, &mut dirty);
        }
        let routes_in_doubt = dirty.routes_in_doubt;
        Update { changes: self.changes(attached, dirty), routes_in_doubt }
    }

    /// Puts a new dump of the routes in the place of what was known of them, and says what to change.
    pub fn replace_routes(&mut self, attached: &BTreeSet<u32>, routes: Vec<Route>) -> Vec<Change> {
        let mut dirty = Dirty::default();
        self.snapshot.replace_routes(routes, &mut dirty);
        self.changes(attached, dirty)
    }

    /// Forgets what the kernel said, folds a complete dump instead, and says what to change.
    pub fn resync(&mut self, attached: &BTreeSet<u32>, dump: impl IntoIterator<Item = Event>) -> Vec<Change> {
        self.snapshot = Snapshot::default();
        let mut dirty = Dirty { everything: true, ..Dirty::default() };
        for event in dump {
            self.snapshot.apply(event, &mut dirty);
        }
        self.changes(attached, dirty)
    }

    fn changes(&mut self, attached: &BTreeSet<u32>, mut dirty: Dirty) -> Vec<Change> {
        let came_or_went: Vec<u32> = attached.symmetric_difference(&self.attached).copied().collect();
        if !came_or_went.is_empty() {
            self.attached.clone_from(attached);
        }
        let mut changes = Vec::new();
        self.neighbour_changes(&came_or_went, &dirty, &mut changes);

        let mut fib_changes = Vec::new();
        if dirty.everything || dirty.all_routes {
            // Only when every leaf is computed anew: one that still names a slot must not see it given away.
            self.slots.forget_missing(&self.snapshot);
            dirty.interfaces = IfSet::All;
        }
        self.fib_changes(&dirty, &mut fib_changes);
        // After the leaves: they may have taken new slots.
        for ifindex in came_or_went.into_iter().chain(self.slots.news()) {
            dirty.interfaces.add(ifindex);
        }
        let gone: Vec<u32> = match &dirty.interfaces {
            IfSet::These(these) => these.iter().copied().filter(|ifindex| !self.knows_link(*ifindex)).collect(),
            IfSet::None => Vec::new(),
            IfSet::All => self.slots.interfaces().filter(|&ifindex| !self.knows_link(ifindex)).collect(),
        };
        self.interface_changes(dirty.interfaces, &mut changes);
        // What is gone has index 0 in its slot by now, as a slot has that stands for none.
        for slot in gone.into_iter().filter_map(|ifindex| self.slots.forget(&self.snapshot, ifindex)) {
            self.interface_tables.oifs.remove(&slot);
        }
        changes.append(&mut fib_changes);
        changes
    }

    fn knows_link(&self, ifindex: u32) -> bool {
        self.snapshot.links.contains_key(&ifindex)
    }

    fn interface_changes(&mut self, which: IfSet, changes: &mut Vec<Change>) {
        let (current, interfaces) = match which {
            IfSet::None => return,
            IfSet::These(these) => (self.interface_tables.split_off(&these, &self.slots), these),
            IfSet::All => {
                let all = self.attached.iter().copied().chain(self.slots.interfaces()).chain([0]);
                (std::mem::take(&mut self.interface_tables), all.collect())
            }
        };
        let wanted = desired::interface_tables(&self.snapshot, &self.attached, &self.slots, interfaces);
        small_changes(&current, &wanted, changes);
        self.interface_tables.append(wanted);
    }

    fn neighbour_changes(&mut self, came_or_went: &[u32], dirty: &Dirty, changes: &mut Vec<Change>) {
        let known = self.snapshot.neighbours.keys().chain(self.neighbours.keys());
        let keys: BTreeSet<IfaceAddr> = if dirty.everything {
            known.copied().collect()
        } else {
            let of = |&ifindex: &u32| {
                let entries = self.snapshot.neighbours.range(about(ifindex)).map(|(&key, _)| key);
                entries.chain(self.neighbours.range(about(ifindex)).map(|(&key, _)| key))
            };
            dirty.neighbours.iter().copied().chain(came_or_went.iter().flat_map(of)).collect()
        };
        for key in keys {
            let is_attached = self.attached.contains(&key.ifindex);
            let wanted = is_attached.then(|| desired::neighbour(&self.snapshot, &key)).flatten();
            if self.neighbours.get(&key).copied() == wanted {
                continue;
            }
            match wanted {
                Some(neighbour) => self.neighbours.insert(key, neighbour),
                None => self.neighbours.remove(&key),
            };
            changes.push(Change::Neighbour(key, wanted));
        }
    }

    fn fib_changes(&mut self, dirty: &Dirty, changes: &mut Vec<Change>) {
        let prefixes: BTreeSet<Prefix> = if dirty.everything {
            self.snapshot.prefixes().chain(self.fib.keys().copied()).collect()
        } else {
            self.snapshot.affected(dirty)
        };
        // Each cover is looked up in the FIB as it is at that step: the dataplane follows step by step.
        for prefix in prefixes.into_iter().rev() {
            let wanted = desired::leaf(&self.snapshot, &mut self.slots, prefix);
            if self.fib.get(&prefix).copied() == wanted {
                continue;
            }
            match wanted {
                Some(entry) => {
                    self.fib.insert(prefix, entry);
                    changes.push(Change::Insert(prefix, entry));
                }
                None => {
                    self.fib.remove(&prefix);
                    let (cover, cover_len) = self.cover(prefix);
                    changes.push(Change::Remove { prefix, cover, cover_len });
                }
            }
        }
    }

    /// The leaf of the longest prefix shorter than `prefix` that covers it, and its length.
    fn cover(&self, prefix: Prefix) -> (Entry, u8) {
        for len in (0..prefix.len).rev() {
            if let Some(&entry) = self.fib.get(&prefix.shortened(len)) {
                return (entry, len);
            }
        }
        (Entry::NONE, 0)
    }
}

impl InterfaceTables {
    /// What is about these interfaces; it is no longer in here then.
    fn split_off(&mut self, interfaces: &BTreeSet<u32>, slots: &Slots) -> InterfaceTables {
        let mut split = InterfaceTables::default();
        for &ifindex in interfaces {
            split.ifaces.extend(self.ifaces.remove_entry(&ifindex));
            for (from, to) in
                [(&mut self.proxies, &mut split.proxies), (&mut self.own_addresses, &mut split.own_addresses)]
            {
                to.extend(from.extract_if(about(ifindex), |_| true));
            }
            split.oifs.extend(slots.of(ifindex).and_then(|slot| self.oifs.remove_entry(&slot)));
        }
        split
    }

    /// Adds what is about other interfaces.
    fn append(&mut self, mut other: InterfaceTables) {
        self.ifaces.append(&mut other.ifaces);
        self.proxies.append(&mut other.proxies);
        self.own_addresses.append(&mut other.own_addresses);
        self.oifs.append(&mut other.oifs);
    }
}

/// Everything that a key of an interface can be.
fn about(ifindex: u32) -> RangeInclusive<IfaceAddr> {
    IfaceAddr { ifindex, addr: [0; 4] }..=IfaceAddr { ifindex, addr: [255; 4] }
}

/// Ends before begins: what is taken away comes first.
fn small_changes(current: &InterfaceTables, wanted: &InterfaceTables, changes: &mut Vec<Change>) {
    for &ifindex in current.ifaces.keys().filter(|ifindex| !wanted.ifaces.contains_key(ifindex)) {
        changes.push(Change::Iface(ifindex, None));
    }
    for &key in current.proxies.difference(&wanted.proxies) {
        changes.push(Change::Proxy(key, false));
    }
    for &key in current.own_addresses.difference(&wanted.own_addresses) {
        changes.push(Change::OwnAddress(key, false));
    }
    for &slot in current.oifs.keys().filter(|slot| !wanted.oifs.contains_key(slot)) {
        changes.push(Change::Oif(slot, Oif::default()));
    }
    for (&slot, &oif) in wanted.oifs.iter().filter(|(slot, oif)| current.oifs.get(slot) != Some(oif)) {
        changes.push(Change::Oif(slot, oif));
    }
    for &key in wanted.proxies.difference(&current.proxies) {
        changes.push(Change::Proxy(key, true));
    }
    for &key in wanted.own_addresses.difference(&current.own_addresses) {
        changes.push(Change::OwnAddress(key, true));
    }
    for (&ifindex, &iface) in wanted.ifaces.iter().filter(|(ifindex, iface)| current.ifaces.get(ifindex) != Some(iface))
    {
        changes.push(Change::Iface(ifindex, Some(iface)));
    }
}

/// The keys of `map` inside `prefix`, itself included.
fn inside<V>(map: &BTreeMap<Prefix, V>, prefix: Prefix) -> impl Iterator<Item = Prefix> {
    let last = Prefix { addr: prefix.last(), len: 32 };
    map.range((Bound::Included(prefix), Bound::Included(last))).map(|(&inner, _)| inner)
}

#[cfg(test)]
mod incremental;
#[cfg(test)]
pub(crate) mod tests;
