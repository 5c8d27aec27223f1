//! What makes the node easy to attack, as far as it is cheap to know (docs/protection.md).

use super::Agent;
use crate::clock::monotonic_ns;
use crate::dataplane::bpf::pressure::SeenPressure;
use crate::mirror::snapshot::Snapshot;
use std::collections::BTreeSet;
use std::fs;

/// From this share of the neighbour table on, in percent, it is worth a warning.
const FULL: u64 = 50;
/// How many interfaces are named.
const NAMED: usize = 3;

impl Agent {
    /// The warnings, for people.
    pub(super) fn warnings(&self) -> Vec<String> {
        let snapshot = self.mirror.snapshot();
        let is_open = |ifindex: &u32| !self.protection.drops_senders(*ifindex);
        let open: BTreeSet<u32> = self.attachments.attached().iter().copied().filter(is_open).collect();
        let pressure = TablePressure::read().map(|pressure| (pressure, snapshot.neighbours.len() as u64));
        let judged = self.bpf.pressure().and_then(|seen| judged(seen, monotonic_ns()));
        [unvalidated(snapshot, &open), pressure.and_then(|(pressure, own)| pressure.warning(own)), judged]
            .into_iter()
            .flatten()
            .collect()
    }
}

/// Of these interfaces, those on which the kernel accepts every sender.
fn unvalidated(snapshot: &Snapshot, interfaces: &BTreeSet<u32>) -> Option<String> {
    let all = snapshot.all?.rp_filter;
    let links = interfaces.iter().filter_map(|ifindex| snapshot.links.get(ifindex));
    let is_unvalidated = |own: i32| own.max(all) == 0;
    let names: Vec<&str> = links
        .filter(|link| link.settings.is_some_and(|own| is_unvalidated(own.rp_filter)))
        .map(|link| link.name.as_str())
        .collect();
    let named = names.iter().take(NAMED).copied().collect::<Vec<_>>().join(", ");
    let more = if names.len() > NAMED { format!(" and {} more", names.len() - NAMED) } else { String::new() };
    (!names.is_empty()).then(|| {
        format!(
            "rp_filter is 0 on {named}{more}: a client there can fill the neighbour table with made-up senders; set it to \
             1, or use --sender-guard"
        )
    })
}

/// Whether the unresolved-budget is at work.
fn judged(seen: SeenPressure, now: u64) -> Option<String> {
    let SeenPressure { entries, most, judged_until } = seen;
    (judged_until > now).then(|| {
        format!(
            "the neighbour table is filling ({entries} of at most {most} entries): the unresolved-budget judges IP packets to \
             addresses that must be resolved"
        )
    })
}

/// How full the neighbour table of the machine is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TablePressure {
    pub(super) entries: u64,
    pub(super) most: u64,
}

impl TablePressure {
    /// Both files exist in the initial network namespace alone.
    pub(super) fn read() -> Option<Self> {
        let statistics = fs::read_to_string("/proc/thread-self/net/stat/arp_cache").ok()?;
        let most = fs::read_to_string("/proc/sys/net/ipv4/neigh/default/gc_thresh3").ok()?;
        Self::parse(&statistics, &most)
    }

    /// The first column of each line is the number of entries, in hexadecimal.
    fn parse(statistics: &str, most: &str) -> Option<Self> {
        let entries = statistics.lines().nth(1)?.split_whitespace().next()?;
        Some(TablePressure { entries: u64::from_str_radix(entries, 16).ok()?, most: most.trim().parse().ok()? })
    }

    /// `own`: how many of the entries are in this network namespace.
    fn warning(self, own: u64) -> Option<String> {
        let TablePressure { entries, most } = self;
        (most > 0 && entries * 100 >= most * FULL).then(|| {
            format!(
                "the neighbour table holds {entries} of at most {most} entries (gc_thresh3), {} of them in other network \
                 namespaces: while it is full, nobody can resolve a new address",
                entries.saturating_sub(own)
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_that_is_half_full_is_worth_a_warning() {
        // As Linux 6.18 prints it, shortened.
        let statistics = "entries  allocs   destroys hash_grows\n00000201 00000300 00000010 00000002\n00000201 0 0 0\n";
        let pressure = TablePressure::parse(statistics, "1024\n").unwrap();
        assert_eq!(pressure, TablePressure { entries: 0x201, most: 1024 });
        let warning = pressure.warning(13).unwrap();
        assert!(warning.contains("513 of at most 1024") && warning.contains("500 of them in other"), "{warning}");
        assert_eq!(TablePressure { entries: 511, most: 1024 }.warning(0), None);
    }

    #[test]
    fn a_budget_at_work_is_told_until_it_rests() {
        let seen = SeenPressure { entries: 300, most: 1024, judged_until: 7 };
        assert!(judged(seen, 6).is_some_and(|told| told.contains("300 of at most 1024")));
        assert_eq!(judged(seen, 7), None);
    }
}
