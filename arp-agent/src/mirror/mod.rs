//! From what the kernel says to what the maps must hold. Pure: no sockets, no maps, no clock.
//!
//! Events are folded into a `snapshot`; `desired`, `senders` and `views` say what the maps must hold for it; the
//! difference to what they hold comes out as [`Change`]s, for the dataplane to apply as one batch.

pub(crate) mod desired;
mod followed;
pub(crate) mod objects;
mod outcome;
pub(crate) mod routes;
pub(crate) mod rules;
mod senders;
pub(crate) mod slots;
pub(crate) mod snapshot;
mod sweep;
mod views;
pub(crate) mod walk;

use crate::event::{Event, IfSet, Link, Route};
use crate::prefix::Prefix;
use arp_common::fib::{Entry, LAST_VIEW};
use arp_common::maps::{Iface, IfaceAddr, Neighbour, Oif};
use slots::Slots;
use snapshot::{Dirty, Snapshot};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::{Bound, RangeInclusive};
use views::{Views, Ways};

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
    /// What is in a slot of what routes leave by.
    Oif(u16, Oif),
    /// A prefix's leaf in a view.
    Insert(u16, Prefix, Entry),
    /// A prefix is gone from a view: its addresses fall to the next shorter one.
    Remove {
        /// The view.
        view: u16,
        /// The prefix that is gone.
        prefix: Prefix,
        /// The leaf of the longest prefix that covers it; [`Entry::NONE`] if none does.
        cover: Entry,
        /// That prefix's length; 0 if none does.
        cover_len: u8,
    },
    /// A view is gone, with all its leaves.
    Forget(u16),
    /// The view that all senders share, if there is one.
    CommonView(Option<u16>),
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
}

/// The mirror: what the kernel said, and what the maps hold of it.
#[derive(Debug, Default)]
pub struct Mirror {
    snapshot: Snapshot,
    attached: BTreeSet<u32>,
    slots: Slots,
    views: Views,
    interface_tables: InterfaceTables,
    /// `OIFS`, the slots in use.
    oifs: BTreeMap<u16, Oif>,
    /// The view of probes on each attached interface.
    probe_views: BTreeMap<u32, u16>,
    neighbours: BTreeMap<IfaceAddr, Neighbour>,
    /// The interfaces of `neighbours`, by address.
    asked_from: BTreeMap<[u8; 4], BTreeSet<u32>>,
    /// Those of `neighbours` about which it matters what state other interfaces are in.
    dependent: BTreeSet<IfaceAddr>,
    /// The interfaces from whose targets the way back to a sender may be another.
    differing: BTreeSet<u32>,
    /// Whether probes are looked up in another way than senders' requests.
    probes_differ: bool,
    /// Whether the view that all senders share is wanted, also for senders that nobody knows yet.
    wants_common_view: bool,
    common_view: Option<u16>,
}

impl Mirror {
    /// From now on [`Change::CommonView`] says which view all senders share.
    pub fn want_common_view(&mut self) {
        self.wants_common_view = true;
    }

    /// The view that all senders share, if it is wanted and there is one.
    pub fn common_view(&self) -> Option<u16> {
        self.common_view
    }

    /// What the kernel said so far.
    pub fn snapshot(&self) -> &Snapshot {
        &self.snapshot
    }

    /// How many prefixes the views hold.
    pub fn prefixes(&self) -> usize {
        self.views.prefixes()
    }

    /// How many views there are.
    pub fn views(&self) -> usize {
        self.views.len()
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
        came_or_went.iter().for_each(|&ifindex| dirty.interfaces.add(ifindex));
        if self.snapshot.rules.ask_for_marks() {
            let mut links = attached.iter().filter_map(|ifindex| self.snapshot.links.get(ifindex));
            let may_be_marked = links.any(|link| senders::ingress(&self.snapshot, link).may_be_marked);
            dirty.rules |= self.snapshot.rules.set_marks(may_be_marked);
        }
        let differing = self.differing_interfaces();
        dirty.rules |= differing != self.differing;
        self.differing = differing;
        dirty.rules |= self.views.sort_tables(&self.snapshot, &dirty);
        if dirty.everything || dirty.all_routes || dirty.rules {
            dirty.interfaces = IfSet::All;
        }

        let mut changes = Vec::new();
        self.sender_changes(&mut dirty, &mut changes);
        let mut fib_changes = Vec::new();
        self.views.changes(&self.snapshot, &self.differing, &mut self.slots, &dirty, &mut fib_changes);
        // After the leaves: they may have taken slots, or given them back.
        self.oif_changes(&dirty.interfaces, &mut changes);
        self.slots.regrouped().into_iter().for_each(|ifindex| dirty.interfaces.add(ifindex));
        self.interface_changes(dirty.interfaces, &mut changes);
        changes.append(&mut fib_changes);
        changes
    }

    /// The interfaces that rules name in `iif`, with their ports if they are VRFs; and VRFs and their ports where a rule asks
    /// for them.
    fn differing_interfaces(&self) -> BTreeSet<u32> {
        let Snapshot { rules, links, .. } = &self.snapshot;
        let named = rules.named(links);
        let l3mdev = rules.l3mdev();
        let differs = |link: &Link| {
            let is_vrf = |link: &Link| link.vrf_table.is_some();
            let master = link.master.and_then(|master| links.get(&master)).filter(|master| is_vrf(master));
            named.contains(&link.ifindex)
                || master.is_some_and(|master| l3mdev || named.contains(&master.ifindex))
                || l3mdev && is_vrf(link)
        };
        if named.is_empty() && !l3mdev {
            return BTreeSet::new();
        }
        links.values().filter(|link| differs(link)).map(|link| link.ifindex).collect()
    }

    fn interface_changes(&mut self, which: IfSet, changes: &mut Vec<Change>) {
        let (current, interfaces) = match which {
            IfSet::None => return,
            IfSet::These(these) => (self.interface_tables.split_off(&these), these),
            IfSet::All => {
                let all = self.attached.iter().copied().chain([0]);
                (std::mem::take(&mut self.interface_tables), all.collect())
            }
        };
        let wanted =
            desired::interface_tables(&self.snapshot, &self.attached, &self.slots, &self.probe_views, interfaces);
        small_changes(&current, &wanted, changes);
        self.interface_tables.append(wanted);
    }

    fn oif_changes(&mut self, interfaces: &IfSet, changes: &mut Vec<Change>) {
        let mut slots = self.slots.touched();
        match interfaces {
            IfSet::None => {}
            IfSet::These(these) => slots.extend(these.iter().flat_map(|&ifindex| self.slots.of_interface(ifindex))),
            IfSet::All => slots.extend(self.slots.all()),
        }
        for slot in slots {
            let wanted = self.slots.legs(slot).map(|legs| desired::oif(&self.snapshot, legs));
            if self.oifs.get(&slot) != wanted.as_ref() {
                match wanted {
                    Some(oif) => self.oifs.insert(slot, oif),
                    None => self.oifs.remove(&slot),
                };
                changes.push(Change::Oif(slot, wanted.unwrap_or_default()));
            }
        }
    }

    /// Decides anew about the senders that what was touched concerns, and about probes.
    fn sender_changes(&mut self, dirty: &mut Dirty, changes: &mut Vec<Change>) {
        let common = senders::common_ways(&self.snapshot);
        let snapshot = &self.snapshot;
        let probes_differ = snapshot.routes.probes_differ();
        let is_all = dirty.everything || dirty.rules || dirty.all_routes || probes_differ != self.probes_differ;
        self.probes_differ = probes_differ;
        // First all are given back, so that a view that nobody has any more can become another.
        let mut wanted = Vec::new();
        for key in self.senders_touched(dirty) {
            let link = snapshot.links.get(&key.ifindex).filter(|_| self.attached.contains(&key.ifindex));
            let decided = link.and_then(|link| {
                let mut neighbour = desired::neighbour(snapshot, &key)?;
                let sender = u32::from_be_bytes(key.addr);
                let acceptance = senders::acceptance(snapshot, link, sender);
                neighbour.flags |= acceptance.flags;
                let ways = common.clone().unwrap_or_else(|| senders::ways(snapshot, link, sender));
                Some((neighbour, ways, acceptance.depends))
            });
            let before = self.neighbours.get(&key).copied();
            before.into_iter().for_each(|before| self.views.release(before.view()));
            wanted.push((key, before, decided));
        }
        let probed: BTreeSet<u32> = match &dirty.interfaces {
            IfSet::None if !is_all => BTreeSet::new(),
            IfSet::These(these) if !is_all => these.clone(),
            _ => self.probe_views.keys().chain(&self.attached).copied().collect(),
        };
        let mut probes = Vec::new();
        for ifindex in probed {
            self.probe_views.get(&ifindex).into_iter().for_each(|&before| self.views.release(before));
            let link = snapshot.links.get(&ifindex).filter(|_| self.attached.contains(&ifindex));
            probes.push((ifindex, link.map(|link| senders::probe_ways(snapshot, link))));
        }
        if is_all && self.wants_common_view {
            self.common_view.into_iter().for_each(|before| self.views.release(before));
            let view = common.as_ref().map(|ways| self.views.take(snapshot, ways));
            if view != self.common_view {
                changes.push(Change::CommonView(view));
            }
            self.common_view = view;
        }
        // Those that there are stay what they are.
        let is_new = |ways: Option<&Ways>| ways.is_some_and(|ways| !self.views.has(snapshot, ways));
        wanted.sort_by_key(|(_, _, decided)| is_new(decided.as_ref().map(|(_, ways, _)| ways)));
        probes.sort_by_key(|(_, ways)| is_new(ways.as_ref()));
        for (ifindex, ways) in probes {
            let view = ways.map(|ways| self.views.take(&self.snapshot, &ways));
            if self.probe_views.get(&ifindex).copied() != view {
                dirty.interfaces.add(ifindex);
            }
            match view {
                Some(view) => self.probe_views.insert(ifindex, view),
                None => self.probe_views.remove(&ifindex),
            };
        }
        for (key, before, decided) in wanted {
            let now = decided.map(|(mut neighbour, ways, depends)| {
                neighbour.flags |= self.views.take(&self.snapshot, &ways) << Neighbour::VIEW_SHIFT;
                (neighbour, depends)
            });
            if now.is_some_and(|(_, depends)| depends) {
                self.dependent.insert(key);
            } else {
                self.dependent.remove(&key);
            }
            let now = now.map(|(neighbour, _)| neighbour);
            if now != before {
                self.remember(key, now);
                changes.push(Change::Neighbour(key, now));
            }
        }
    }

    fn remember(&mut self, key: IfaceAddr, neighbour: Option<Neighbour>) {
        if let Some(neighbour) = neighbour {
            self.neighbours.insert(key, neighbour);
            self.asked_from.entry(key.addr).or_default().insert(key.ifindex);
            return;
        }
        self.neighbours.remove(&key);
        if let Some(interfaces) = self.asked_from.get_mut(&key.addr) {
            interfaces.remove(&key.ifindex);
            if interfaces.is_empty() {
                self.asked_from.remove(&key.addr);
            }
        }
    }

    /// The senders about whom something else may have to be decided.
    fn senders_touched(&self, dirty: &Dirty) -> BTreeSet<IfaceAddr> {
        let known = || self.snapshot.neighbours.keys().chain(self.neighbours.keys()).copied();
        if dirty.everything || dirty.rules || dirty.all_routes || dirty.interfaces == IfSet::All {
            return known().collect();
        }
        let mut touched = dirty.neighbours.clone();
        if self.views.are_too_many() {
            // There may be room for those that had found none.
            let without = self.neighbours.iter().filter(|(_, neighbour)| neighbour.view() == LAST_VIEW);
            touched.extend(without.map(|(&key, _)| key));
        }
        if let IfSet::These(these) = &dirty.interfaces {
            for &ifindex in these {
                touched.extend(self.snapshot.neighbours.range(about(ifindex)).map(|(&key, _)| key));
                touched.extend(self.neighbours.range(about(ifindex)).map(|(&key, _)| key));
            }
            touched.extend(&self.dependent);
        }
        let hosts = dirty.own.iter().map(|&addr| Prefix::new(addr, 32));
        for prefix in dirty.routes.iter().map(|&(_, prefix)| prefix).chain(hosts) {
            let (first, last) = (prefix.addr.to_be_bytes(), prefix.last().to_be_bytes());
            let senders = self.asked_from.range(first..=last);
            touched.extend(senders.flat_map(|(&addr, of)| of.iter().map(move |&ifindex| IfaceAddr { ifindex, addr })));
        }
        touched
    }
}

impl InterfaceTables {
    /// What is about these interfaces; it is no longer in here then.
    fn split_off(&mut self, interfaces: &BTreeSet<u32>) -> InterfaceTables {
        let mut split = InterfaceTables::default();
        for &ifindex in interfaces {
            split.ifaces.extend(self.ifaces.remove_entry(&ifindex));
            for (from, to) in
                [(&mut self.proxies, &mut split.proxies), (&mut self.own_addresses, &mut split.own_addresses)]
            {
                to.extend(from.extract_if(about(ifindex), |_| true));
            }
        }
        split
    }

    /// Adds what is about other interfaces.
    fn append(&mut self, mut other: InterfaceTables) {
        self.ifaces.append(&mut other.ifaces);
        self.proxies.append(&mut other.proxies);
        self.own_addresses.append(&mut other.own_addresses);
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
