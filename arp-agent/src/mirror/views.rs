//! Views: what the routing rules leave of all tables for the frames of some senders (docs/adr/0012-views.md).
//!
//! For a sender on an interface the rules come down to a short list of [`LookupStep`]s ([`Rules::steps`](super::rules::Rules)).
//! Senders with equal lists share a view: a leaf for each prefix that any of its tables or conditions knows. An address in
//! such a prefix, and in no longer one, is treated like all others there, so that the longest prefix of a view says what the
//! walk over its steps would.

use super::Change;
use super::outcome::{Outcome, RoutingTables, outcome};
use super::routes::RouteTable;
use super::routes::{TABLE_LOCAL, TABLE_MAIN};
use super::rules::{Action, Condition, Holds, LookupStep, PrefixSet, TABLE_LOCAL_AND_MAIN};
use super::slots::Slots;
use super::snapshot::{Dirty, Snapshot};
use super::sweep::Sweep;
use crate::prefix::Prefix;
use arp_common::fib::{Entry, LAST_VIEW, MAX_FALLS};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::rc::Rc;

/// The steps that the kernel may take; it takes one of these lists, nobody knows which. What they do not agree on is opaque.
pub(super) type Ways = Rc<[Vec<LookupStep>]>;

/// `LOOPBACK_IFINDEX` (include/net/net_namespace.h): what a local target's route leaves by, for source validation.
const LO: u32 = 1;

/// About how many prefixes a view of these ways has.
fn size(snapshot: &Snapshot, ways: &Ways) -> usize {
    let prefixes = |step: &LookupStep| match step.action {
        Action::Lookup(lookup) => snapshot.routes.table(lookup.table).map_or(0, RouteTable::len),
        Action::Goto(_) | Action::Refuse | Action::Fall(_) | Action::Unknown => 0,
    };
    let named = snapshot.rules.from().map_or(0, PrefixSet::len);
    ways.iter().flatten().map(prefixes).sum::<usize>() + named
}

/// How many prefixes all views may have together, while there are several: most need a node of the FIB each, and there are
/// two million.
const MAX_PREFIXES: usize = 1_000_000;

/// How many prefixes a table has that several views do not repeat: what follows from its lookup on is a view of its own, at
/// which they go on. With fewer than half of them it is an ordinary table again; tests know no state between.
const LARGE: usize = if cfg!(test) { 4 } else { 4096 };
const SMALL: usize = if cfg!(test) { LARGE } else { LARGE / 2 };

/// All views in use.
#[derive(Debug)]
pub(super) struct Views {
    /// How many prefixes all may have together, while there are several.
    pub(super) most: usize,
    by_ways: BTreeMap<Ways, u16>,
    views: BTreeMap<u16, View>,
    /// The tables with very many prefixes.
    large: BTreeSet<u32>,
}

impl Default for Views {
    fn default() -> Self {
        Views { most: MAX_PREFIXES, by_ways: BTreeMap::new(), views: BTreeMap::new(), large: BTreeSet::new() }
    }
}

#[derive(Debug)]
struct View {
    /// `None` for the last one, of everything that found no other.
    ways: Option<Ways>,
    /// How many neighbours, interfaces and other views have it.
    users: usize,
    /// The view that goes on where its steps end.
    tail: Option<u16>,
    /// About how many prefixes it has.
    size: usize,
    /// What follows is that of other ways, or nothing.
    stale: bool,
    /// The tables that the ways look up.
    tables: BTreeSet<u32>,
    /// In which of them a route may also depend on shorter prefixes, and up to which length.
    dependent: BTreeMap<u32, u8>,
    /// The prefixes that there are leaves for whatever routes there are.
    named: BTreeSet<Prefix>,
    leaves: BTreeMap<Prefix, Entry>,
}

impl Views {
    /// The view of these ways, for one user more.
    pub(super) fn take(&mut self, snapshot: &Snapshot, ways: &Ways) -> u16 {
        self.take_cut(snapshot, ways, MAX_FALLS)
    }

    /// The same in at most `walks` views.
    fn take_cut(&mut self, snapshot: &Snapshot, ways: &Ways, walks: usize) -> u16 {
        let Some((head, rest)) = self.cut(snapshot, ways, walks) else { return self.take_whole(snapshot, ways, None) };
        let tail = self.take_cut(snapshot, &rest, walks - 1);
        if tail != LAST_VIEW {
            return self.take_whole(snapshot, &going_on(head, tail), Some(tail));
        }
        self.release(tail);
        self.take_whole(snapshot, ways, None)
    }

    fn take_whole(&mut self, snapshot: &Snapshot, ways: &Ways, tail: Option<u16>) -> u16 {
        let (number, is_new) = match self.by_ways.get(ways) {
            Some(&number) => (number, false),
            None => (self.find_room(ways, size(snapshot, ways)), true),
        };
        if let Some(view) = self.views.get_mut(&number) {
            view.users += 1;
            if is_new && number != LAST_VIEW {
                view.tail = tail;
                return number;
            }
        }
        // It has its tail already, or none.
        tail.into_iter().for_each(|tail| self.release(tail));
        number
    }

    /// The steps before the first lookup of a large table, and the ways from there on, if that is to be a view of its own.
    /// While all senders share a view, nothing would be stored twice.
    fn cut<'a>(&self, snapshot: &Snapshot, ways: &'a Ways, walks: usize) -> Option<(&'a [LookupStep], Ways)> {
        let [steps] = &ways[..] else { return None };
        if walks <= 1 || self.large.is_empty() || snapshot.rules.are_common() {
            return None;
        }
        let is_large =
            |step: &LookupStep| matches!(step.action, Action::Lookup(lookup) if self.large.contains(&lookup.table));
        let at = 1 + steps.get(1..)?.iter().position(is_large)?;
        let (head, rest) = steps.split_at(at);
        // What may or may not apply is compared with what comes after it, and a jump may lead past the cut.
        let stays = |step: &LookupStep| match step.action {
            Action::Goto(to) => to <= at,
            _ => true,
        };
        if !head.iter().all(|step| step.condition.is_certain() && stays(step)) {
            return None;
        }
        let mut rest = rest.to_vec();
        for step in &mut rest {
            if let Action::Goto(to) = &mut step.action {
                *to -= at;
            }
        }
        Some((head, [rest].into()))
    }

    /// Finds out which tables are large, and whether there is still room for all views, after these routes were touched.
    /// Says whether senders have to look for their views again.
    pub(super) fn sort_tables(&mut self, snapshot: &Snapshot, dirty: &Dirty) -> bool {
        if dirty.routes.is_empty() && !dirty.everything && !dirty.all_routes {
            return false;
        }
        let is_large = |(id, table): (u32, &RouteTable)| {
            let least = if self.large.contains(&id) { SMALL } else { LARGE };
            (table.len() >= least).then_some(id)
        };
        let large: BTreeSet<u32> = snapshot.routes.tables().filter_map(is_large).collect();
        let changes = large != self.large;
        self.large = large;
        self.make_room(snapshot) || changes
    }

    /// Gives up the last views that were made, if the tables have grown until there is no room for all. Their senders find
    /// no view of their own then.
    fn make_room(&mut self, snapshot: &Snapshot) -> bool {
        if self.large.is_empty() {
            return false;
        }
        for view in self.views.values_mut() {
            view.size = view.ways.as_ref().map_or(0, |ways| size(snapshot, ways));
        }
        let (mut used, before) = (self.used(), self.by_ways.len());
        for view in self.views.values().rev().filter(|view| view.users > 0) {
            if used <= self.most || used == view.size {
                break;
            }
            if view.ways.as_ref().and_then(|ways| self.by_ways.remove(ways)).is_some() {
                used -= view.size;
            }
        }
        self.by_ways.len() < before
    }

    /// How many prefixes the views have that are in use.
    fn used(&self) -> usize {
        self.views.values().filter(|view| view.users > 0).map(|view| view.size).sum()
    }

    /// One user less.
    pub(super) fn release(&mut self, number: u16) {
        if let Some(view) = self.views.get_mut(&number) {
            view.users -= 1;
        }
    }

    /// A view that nobody has any more, a new one, or the last.
    fn find_room(&mut self, ways: &Ways, size: usize) -> u16 {
        let used = self.used();
        let is_room = used == 0 || used + size <= self.most;
        let unused = self.views.iter().find(|(number, view)| view.users == 0 && **number != LAST_VIEW);
        let free = || (0..LAST_VIEW).find(|number| !self.views.contains_key(number));
        let number = unused.map(|(&number, _)| number).or_else(free).filter(|_| is_room);
        let Some(number) = number else {
            self.views.entry(LAST_VIEW).or_insert_with(View::new);
            return LAST_VIEW;
        };
        let view = self.views.entry(number).or_insert_with(View::new);
        view.stale = true;
        view.size = size;
        let tail = view.tail.take();
        if let Some(before) = view.ways.replace(ways.clone()) {
            self.by_ways.remove(&before);
        }
        self.by_ways.insert(ways.clone(), number);
        tail.into_iter().for_each(|tail| self.release(tail));
        number
    }

    /// Whether there is a view of these ways.
    pub(super) fn has(&self, snapshot: &Snapshot, ways: &Ways) -> bool {
        self.find(snapshot, ways, MAX_FALLS).is_some()
    }

    fn find(&self, snapshot: &Snapshot, ways: &Ways, walks: usize) -> Option<u16> {
        let found = match self.cut(snapshot, ways, walks) {
            Some((head, rest)) => self.by_ways.get(&going_on(head, self.find(snapshot, &rest, walks - 1)?)),
            None => self.by_ways.get(ways),
        };
        found.copied()
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.views.len()
    }

    /// Whether some senders have found no room for a view of their own.
    pub(super) fn are_too_many(&self) -> bool {
        self.views.contains_key(&LAST_VIEW)
    }

    /// Prefixes of all views.
    pub(super) fn prefixes(&self) -> usize {
        self.views.values().map(|view| view.leaves.len()).sum()
    }

    /// The leaves of a view.
    #[cfg(test)]
    pub(super) fn leaves(&self) -> BTreeMap<(u16, Prefix), Entry> {
        let leaves = self.views.iter().flat_map(|(&number, view)| view.leaves.iter().map(move |leaf| (number, leaf)));
        leaves.map(|(number, (&prefix, &entry))| ((number, prefix), entry)).collect()
    }

    /// What the views must hold after what was touched.
    pub(super) fn changes(
        &mut self,
        snapshot: &Snapshot,
        differing: &BTreeSet<u32>,
        slots: &mut Slots,
        dirty: &Dirty,
        changes: &mut Vec<Change>,
    ) {
        let unused =
            |views: &BTreeMap<u16, View>| views.iter().find(|(_, view)| view.users == 0).map(|(&number, _)| number);
        while let Some(number) = unused(&self.views) {
            let Some(view) = self.views.remove(&number) else { continue };
            view.tail.into_iter().for_each(|tail| self.release(tail));
            view.ways.iter().for_each(|ways| _ = self.by_ways.remove(ways));
            view.leaves.values().for_each(|&leaf| release(slots, leaf));
            changes.push(Change::Forget(number));
        }
        let of_objects = dirty.objects.then(|| snapshot.routes.of_objects()).into_iter().flatten();
        let touched: BTreeSet<(u32, Prefix)> = dirty.routes.iter().copied().chain(of_objects).collect();
        for (&number, view) in &mut self.views {
            if view.stale || dirty.everything || dirty.rules {
                view.learn_ways(snapshot);
            }
            let all = std::mem::take(&mut view.stale) || dirty.everything || dirty.all_routes || dirty.rules;
            let outcomes: Vec<(Prefix, Option<Outcome>)> = if all {
                let mut sweep = Sweep::new(snapshot, &view.tables);
                let outcome = |prefix| (prefix, view.outcome(sweep.to(prefix), prefix));
                view.prefixes(snapshot).into_iter().map(outcome).collect()
            } else {
                let affected = view.affected(snapshot, &touched, dirty).into_iter();
                affected.map(|prefix| (prefix, view.outcome(&snapshot, prefix))).collect()
            };
            // Each cover is looked up among the leaves as they are at that step: the dataplane follows step by step.
            for (prefix, outcome) in outcomes.into_iter().rev() {
                let wanted = outcome.map(|outcome| leaf(snapshot, differing, slots, prefix, outcome));
                let before = view.leaves.get(&prefix).copied();
                // Both have been counted: what stays is counted once.
                before.into_iter().for_each(|leaf| release(slots, leaf));
                if before == wanted {
                    continue;
                }
                match wanted {
                    Some(entry) => {
                        view.leaves.insert(prefix, entry);
                        changes.push(Change::Insert(number, prefix, entry));
                    }
                    None => {
                        view.leaves.remove(&prefix);
                        let (cover, cover_len) = view.cover(prefix);
                        changes.push(Change::Remove { view: number, prefix, cover, cover_len });
                    }
                }
            }
        }
    }
}

/// Steps that end in another view.
fn going_on(head: &[LookupStep], tail: u16) -> Ways {
    let last = LookupStep { condition: Condition::Any(Holds::Yes), action: Action::Fall(tail) };
    [head.iter().cloned().chain([last]).collect()].into()
}

/// The leaf for an outcome. One that names a slot is one more that does.
fn leaf(snapshot: &Snapshot, differing: &BTreeSet<u32>, slots: &mut Slots, prefix: Prefix, outcome: Outcome) -> Entry {
    let by = |ifindex| differing.contains(ifindex);
    let (leaf, by_named) = match outcome {
        Outcome::NoRoute => (Entry::NONE, false),
        Outcome::Unanswerable => (Entry::UNANSWERABLE, false),
        Outcome::Opaque => (Entry::OPAQUE, false),
        Outcome::OpaqueRule => (Entry::OPAQUE_RULE, false),
        Outcome::Fall(view) => (Entry::fall(view), false),
        Outcome::Local { elsewhere: false } => (Entry::LOCAL, by(&LO)),
        Outcome::Local { elsewhere: true } => (Entry::LOCAL_ELSEWHERE, by(&LO)),
        Outcome::Unicast(legs) => {
            (slots.take(&legs).map_or(Entry::OPAQUE, Entry::unicast), legs.interfaces().iter().any(by))
        }
    };
    let differs = by_named || snapshot.rules.from().is_some_and(|from| from.covers(prefix));
    if differs { leaf.with_difference() } else { leaf }
}

fn release(slots: &mut Slots, leaf: Entry) {
    if matches!(leaf.kind(), arp_common::fib::LeafKind::Unicast) {
        slots.release(leaf.slot());
    }
}

/// All addresses: each view has a leaf for them.
const ALL: Prefix = Prefix { addr: 0, len: 0 };

impl View {
    fn new() -> Self {
        View {
            ways: None,
            users: 0,
            tail: None,
            stale: true,
            tables: BTreeSet::new(),
            dependent: BTreeMap::new(),
            named: BTreeSet::new(),
            size: 0,
            leaves: BTreeMap::new(),
        }
    }

    /// Finds out which tables and prefixes the ways name.
    fn learn_ways(&mut self, snapshot: &Snapshot) {
        self.tables.clear();
        self.dependent.clear();
        self.named = BTreeSet::from([ALL]);
        let Some(ways) = &self.ways else { return };
        self.named.extend(snapshot.rules.from().into_iter().flat_map(PrefixSet::iter));
        for step in ways.iter().flatten() {
            match &step.condition {
                Condition::Any(_) => {}
                Condition::In(prefix, ..) => drop(self.named.insert(*prefix)),
                Condition::InOneOf(set) => self.named.extend(set.iter()),
            }
            let Action::Lookup(lookup) = step.action else { continue };
            let pair = [TABLE_LOCAL, TABLE_MAIN];
            let tables =
                if lookup.table == TABLE_LOCAL_AND_MAIN { &pair[..] } else { std::slice::from_ref(&lookup.table) };
            self.tables.extend(tables);
            if let Some(len) = lookup.suppress_ifgroup.map_or(lookup.suppress_prefixlen, |_| Some(32)) {
                for &table in tables {
                    let known = self.dependent.entry(table).or_default();
                    *known = len.max(*known);
                }
            }
        }
    }

    /// Everything that it has or must have a leaf for.
    fn prefixes(&self, snapshot: &Snapshot) -> Vec<Prefix> {
        let tables = self.tables.iter().filter_map(|&table| snapshot.routes.table(table));
        let routed = tables.flat_map(RouteTable::prefixes);
        let mut all: Vec<Prefix> =
            self.named.iter().copied().chain(self.leaves.keys().copied()).chain(routed).collect();
        // Runs that are sorted already: this sort merges them.
        all.sort();
        all.dedup();
        all
    }

    /// The prefixes whose leaf may change with what was touched. A table that has a route for exactly a prefix decides by
    /// it, whatever changes around; where it has none, what changed in a shorter one counts.
    fn affected(&self, snapshot: &Snapshot, touched: &BTreeSet<(u32, Prefix)>, dirty: &Dirty) -> BTreeSet<Prefix> {
        let mut affected = BTreeSet::new();
        for &(changed, prefix) in touched.iter().filter(|(table, _)| self.tables.contains(table)) {
            affected.insert(prefix);
            if prefix.len == 32 {
                continue;
            }
            for (other, table) in self.tables.iter().filter_map(|&id| Some((id, snapshot.routes.table(id)?))) {
                let up_to = if other == changed { self.dependent.get(&other).copied() } else { Some(32) };
                let Some(up_to) = up_to else { continue };
                affected.extend(table.inside(prefix).filter(|inner| inner.len <= up_to));
            }
            let last = Prefix { addr: prefix.last(), len: 32 };
            affected.extend(self.named.range((Bound::Included(prefix), Bound::Included(last))));
        }
        // A local route of a VRF's table may be that of an address.
        affected.extend(dirty.own.iter().map(|&addr| Prefix::new(addr, 32)));
        affected
    }

    /// What becomes of exactly `prefix`, or `None` if shorter ones decide there.
    fn outcome<'a>(&self, tables: &impl RoutingTables<'a>, prefix: Prefix) -> Option<Outcome> {
        let Some(ways) = &self.ways else { return (prefix == ALL).then_some(Outcome::OpaqueRule) };
        let is_routed = |&table: &u32| tables.best(table, prefix).is_some_and(|route| route.prefix == prefix);
        if !self.tables.iter().any(is_routed) && !self.named.contains(&prefix) {
            return None;
        }
        let mut outcomes = ways.iter().map(|steps| outcome(tables, steps, prefix));
        let first = outcomes.next().unwrap_or(Outcome::Opaque);
        Some(if outcomes.all(|other| other == first) { first } else { Outcome::Opaque })
    }

    /// The leaf of the longest prefix shorter than `prefix` that covers it, and its length.
    fn cover(&self, prefix: Prefix) -> (Entry, u8) {
        for len in (0..prefix.len).rev() {
            if let Some(&entry) = self.leaves.get(&prefix.shortened(len)) {
                return (entry, len);
            }
        }
        (Entry::NONE, 0)
    }
}
