//! Looks up very many prefixes, one after the other in their order: what lies around one is found once for all inside.

use super::outcome::RoutingTables;
use super::snapshot::Snapshot;
use crate::event::Route;
use crate::prefix::Prefix;
use std::collections::BTreeSet;
use std::iter::Peekable;

/// Some tables, at a prefix.
pub(super) struct Sweep<'a> {
    snapshot: &'a Snapshot,
    tables: Vec<SweepTable<'a>>,
}

struct SweepTable<'a> {
    id: u32,
    /// The first routes of prefixes that are still to come.
    rest: Peekable<Box<dyn Iterator<Item = &'a Route> + 'a>>,
    /// Those of the prefixes that the present one lies in, the longest last.
    around: Vec<&'a Route>,
}

impl<'a> Sweep<'a> {
    /// Before the first prefix.
    pub(super) fn new(snapshot: &'a Snapshot, ids: &BTreeSet<u32>) -> Self {
        let table = |&id: &u32| {
            let table = snapshot.routes.table(id)?;
            let firsts: Box<dyn Iterator<Item = &Route>> = Box::new(table.firsts());
            Some(SweepTable { id, rest: firsts.peekable(), around: Vec::new() })
        };
        Sweep { snapshot, tables: ids.iter().filter_map(table).collect() }
    }

    /// At the prefix, which is none before the present one.
    pub(super) fn to(&mut self, prefix: Prefix) -> &Self {
        for table in &mut self.tables {
            // Those outside come right before those inside.
            while let Some(route) = table.rest.next_if(|route| route.prefix <= prefix) {
                table.leave(route.prefix);
                table.around.push(route);
            }
            table.leave(prefix);
        }
        self
    }
}

impl SweepTable<'_> {
    /// Forgets what does not lie around the prefix.
    fn leave(&mut self, prefix: Prefix) {
        let is_around = |route: &Route| route.prefix.len <= prefix.len && route.prefix.contains(prefix.addr);
        while self.around.pop_if(|last| !is_around(last)).is_some() {}
    }
}

impl<'a> RoutingTables<'a> for Sweep<'a> {
    fn snapshot(&self) -> &'a Snapshot {
        self.snapshot
    }

    fn best(&self, table: u32, _: Prefix) -> Option<&'a Route> {
        self.tables.iter().find(|known| known.id == table)?.around.last().copied()
    }
}
