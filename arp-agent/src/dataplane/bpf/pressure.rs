//! The neighbour table's pressure as the eBPF program sees it, and the node's budget ([`arp_common::unresolved`]).

use super::Bpf;
use crate::dataplane::refusal;
use anyhow::{Context as _, anyhow};
use arp_common::guard::Rate;
use arp_common::unresolved::{Pressure, names};
use aya::programs::RawTracePoint;
use std::mem::offset_of;
use std::sync::atomic::Ordering;

/// The kernel's tracepoint that tells of each new entry (include/trace/events/neigh.h; Linux 5.2).
const TRACEPOINT: &str = "neigh_create";

/// The words of [`Pressure`].
const JUDGED_UNTIL: usize = offset_of!(Pressure, judged_until) / 8;
const ENTRIES: usize = offset_of!(Pressure, entries) / 8;
const MOST: usize = offset_of!(Pressure, most) / 8;
const BUDGET: usize = offset_of!(Pressure, budget) / 8;
const DROPPING: usize = offset_of!(Pressure, dropping) / 8;
const COUNTING: usize = offset_of!(Pressure, counting) / 8;

/// How full the neighbour table of the machine was when the last entry was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SeenPressure {
    /// Entries that count.
    pub entries: u64,
    /// How many there may be (`gc_thresh3`).
    pub most: u64,
    /// CLOCK_MONOTONIC in ns until which packets are judged; 0 while none is.
    pub judged_until: u64,
}

impl Bpf {
    /// Watches the neighbour table from here on, and gives all interfaces together this budget.
    ///
    /// # Errors
    /// The kernel does not say how its table is laid out, or refuses the program.
    pub fn watch_pressure(&mut self, budget: Rate) -> anyhow::Result<()> {
        const WITHOUT: &str = "run without it";
        if let Some(why) = &self.cannot_watch {
            anyhow::bail!(
                "unresolved-budget needs the kernel's types, to see the neighbour table fill: {why}; {WITHOUT}"
            );
        }
        self.set_budget_of_the_node(budget);
        let name = names::PRESSURE_PROGRAM;
        let program: &mut RawTracePoint = self.program(name)?.try_into()?;
        program
            .load()
            .map_err(|error| anyhow!("unresolved-budget: {}; {WITHOUT}", refusal::of_program(name, &error)))?;
        // The link goes with the program.
        program.attach(TRACEPOINT).map(drop).with_context(|| {
            format!("unresolved-budget: the kernel refuses to tell of new neighbour entries ({TRACEPOINT}); {WITHOUT}")
        })
    }

    /// Gives all interfaces with an unresolved-budget together this budget. It begins whole.
    pub fn set_budget_of_the_node(&mut self, budget: Rate) {
        let set = |word, value| self.pressure.long(word).store(value, Ordering::Release);
        let depth = BUDGET + offset_of!(Rate, depth) / 8;
        // Nothing is dropped by values that are half written.
        set(depth, u64::MAX);
        set(BUDGET + offset_of!(Rate, interval) / 8, budget.interval);
        [DROPPING, COUNTING].into_iter().for_each(|word| set(word, 0));
        set(depth, budget.depth);
    }

    /// What was seen of the table; `None` before the first entry, and where it is not watched.
    pub fn pressure(&self) -> Option<SeenPressure> {
        let [entries, most, judged_until] =
            [ENTRIES, MOST, JUDGED_UNTIL].map(|word| self.pressure.long(word).load(Ordering::Relaxed));
        (most != 0).then_some(SeenPressure { entries, most, judged_until })
    }

    /// Says that the table has so many entries: for tests of the program, and for those who measure it.
    pub fn pretend_pressure(&mut self, seen: SeenPressure) {
        let words = [(ENTRIES, seen.entries), (MOST, seen.most), (JUDGED_UNTIL, seen.judged_until)];
        words.into_iter().for_each(|(word, value)| self.pressure.long(word).store(value, Ordering::Relaxed));
    }
}
