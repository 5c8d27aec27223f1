//! The tables of docs/protection.md, and the goals.

use super::attacks::{ANNOUNCEMENTS, CALM, CHANGES, FLIPS, OWN_ROUTE, SCANS, SPOOFED};
use super::victim::{FIRST, FRESH, MANY, OWN};
use super::{FLOOR, KERNEL, POLICIES};
use crate::findings::Findings;
use crate::layout::{Columns, Table};
use crate::report::GoalBound;
use crate::samples::Key;

pub(super) const HANDLED: &str = "frames handled";
pub(super) const ENTRIES: &str = "entries of the attacker's interface";
pub(super) const UNRESOLVED: &str = "entries of the uplink without an address";
pub(super) const CHANGED: &str = "changes of entries notified";
pub(super) const AGENT: &str = "the agent's share of a core";

/// Of a flood of random senders, all of which are dropped.
pub(super) const DROPPED: &str = "frames dropped, and nobody else at work";

/// What the two loads are called, and the state of the neighbour table.
pub(super) const LOADS: [&str; 2] = ["TCP bulk, pod → node", "TCP requests, pod → node"];
pub(super) const CALM_TABLE: &str = "table calm";
pub(super) const FILLING_TABLE: &str = "table filling";
pub(super) const UNGUARDED: &str = "no policies";
pub(super) const GUARDED: &str = "all policies";

/// What the tables call a measure, and the measure: it ends with the name of the attack.
macro_rules! by_attack {
    ($what:literal: $($attack:literal),+) => {
        &[$((concat!($what, ": ", $attack), concat!($what, ": ", $attack))),+]
    };
}

/// A table with the cases as its columns.
const fn table(measures: &'static [(&'static str, &'static str)]) -> Table {
    Table { columns: Columns::Cases, measures, cases: &[] }
}

pub(crate) const TABLES: &[Table] = &[
    table(by_attack!("fresh connections lost": "calm", "random senders", "random senders and MACs",
        "announcements of random senders", "senders of a /20 of its own", "UDP scan, 10,000 a second",
        "UDP scan, as fast as it goes")),
    table(by_attack!("hosts contacted at once lost": "UDP scan, 10,000 a second", "UDP scan, as fast as it goes")),
    table(by_attack!("first requests of others, p99": "calm", "random senders", "random senders and MACs",
        "announcements of random senders", "senders of a /20 of its own", "its own address with random MACs")),
    table(by_attack!("frames handled": "random senders", "random senders and MACs", "announcements of random senders",
        "senders of a /20 of its own", "its own address with random MACs", "announcements of its own address")),
    table(by_attack!("entries of the attacker's interface": "random senders", "random senders and MACs",
        "announcements of random senders", "senders of a /20 of its own")),
    table(by_attack!("entries of the uplink without an address": "UDP scan, 10,000 a second",
        "UDP scan, as fast as it goes")),
    table(by_attack!("changes of entries notified": "its own address with random MACs",
        "announcements of its own address")),
    table(&[
        ("TCP bulk, pod → node, table calm", "TCP bulk, pod → node, table calm"),
        ("TCP bulk, pod → node, table filling", "TCP bulk, pod → node, table filling"),
        ("TCP requests, pod → node, table calm", "TCP requests, pod → node, table calm"),
        ("TCP requests, pod → node, table filling", "TCP requests, pod → node, table filling"),
        ("frames dropped, and nobody else at work", "frames dropped, and nobody else at work"),
    ]),
];

/// Frames a second that the guard is to drop.
const LEAST_HANDLED: f64 = 500_000.0;
/// The attacker's own entry.
const ITS_OWN: f64 = 1.0;
/// `--entry-limit`, by default.
const LIMIT: f64 = 64.0;
/// 45 % of `gc_thresh3`.
const UNRESOLVED_AT_MOST: f64 = 460.0;
/// The burst of `--budget`, and its rate for the two seconds that a window takes at most.
const CHANGED_AT_MOST: f64 = 512.0 + 2.0 * 50.0;

/// Judges what the policies reach (docs/kernel-arp.md, §13).
pub(super) fn judge(findings: &mut Findings) {
    let mut goal = |id: &str, measure: &str, attack: &str, bound: GoalBound, unit: &str| {
        let key = Key::new(&format!("{measure}: {attack}"), POLICIES);
        let [values, beside] = [&key, &key.clone().of(KERNEL)].map(|key| findings.samples.values(key).to_vec());
        findings.goal(id, [measure, attack], bound, unit, &values);
        findings.beside(KERNEL, &beside);
    };
    let floods = || SPOOFED.into_iter().chain([OWN_ROUTE]);
    for attack in floods().chain(CHANGES) {
        goal("G1", HANDLED, attack, GoalBound::AtLeast(LEAST_HANDLED), "/s");
    }
    for attack in SPOOFED {
        goal("G2", ENTRIES, attack, GoalBound::AtMost(ITS_OWN), "");
    }
    goal("G2", ENTRIES, OWN_ROUTE, GoalBound::AtMost(LIMIT), "");
    for lost in [FRESH, FIRST, OWN] {
        for attack in floods().chain(CHANGES).chain(SCANS) {
            goal("G3", &format!("{lost} lost"), attack, GoalBound::AtMost(0.0), "%");
        }
    }
    for attack in SCANS {
        goal("G3", &format!("{MANY} lost"), attack, GoalBound::AtMost(0.0), "%");
    }
    for attack in floods() {
        goal("G4", &format!("{FIRST}, p99"), attack, GoalBound::AtMost(1000.0), "µs");
    }
    for attack in SCANS {
        goal("G5", UNRESOLVED, attack, GoalBound::AtMost(UNRESOLVED_AT_MOST), "");
    }
    for attack in [FLIPS, ANNOUNCEMENTS] {
        goal("G6", CHANGED, attack, GoalBound::AtMost(CHANGED_AT_MOST), "");
        goal("G6", AGENT, attack, GoalBound::AtMost(2.0), "%");
    }
    // Round by round, because what slows the machine slows both.
    for attack in floods() {
        let p99 = |attack: &str| Key::new(&format!("{FIRST}, p99: {attack}"), POLICIES);
        let ratios = findings.samples.ratios(&p99(attack), &p99(CALM)).unwrap_or_default();
        findings.goal("G4", [&format!("{FIRST}, p99, against calm"), attack], GoalBound::AtMost(1.5), "×", &ratios);
    }
    findings.compare(DROPPED, FLOOR);
    let dropped = |case: &str| Key::new(DROPPED, case);
    let slower = findings.samples.ratios(&dropped(FLOOR), &dropped(GUARDED)).unwrap_or_default();
    findings.goal(
        "G7",
        ["a dropped frame, against a program that drops all ARP", SPOOFED[0]],
        GoalBound::AtMost(1.1),
        "×",
        &slower,
    );
    for (table, least) in [(CALM_TABLE, 0.99), (FILLING_TABLE, 0.95)] {
        for load in LOADS {
            let measure = format!("{load}, {table}");
            findings.compare(&measure, UNGUARDED);
            let key = |case: &str| Key::new(&measure, case);
            let ratios = findings.samples.ratios(&key(GUARDED), &key(UNGUARDED)).unwrap_or_default();
            findings.goal(
                "G7",
                [&format!("all policies against none, {table}"), load],
                GoalBound::AtLeast(least),
                "×",
                &ratios,
            );
        }
    }
}
