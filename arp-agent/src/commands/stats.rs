//! `arp-agent stats`: requests answered, and frames passed by reason; once, or again and again with rates.

use super::Exit;
use super::output::print_line;
use super::turns::{Turns, rate};
use crate::cli;
use crate::control::Status;
use anyhow::bail;
use arp_common::Reason;
use arp_common::deviation::Deviation;
use arp_common::guard::DropReason;
use serde::Serialize;
use std::collections::BTreeMap;
use std::time::Duration;
use tabled::builder::Builder;
use tabled::settings::Style;

/// Prints the counters of one interface, or of all together; with `--watch` again after each pause, until the agent ends.
///
/// # Errors
/// The agent does not serve that interface, or what listens in the run directory is no agent of this version.
pub fn stats(arguments: &cli::StatsArgs) -> anyhow::Result<Exit> {
    let pause = arguments.watch.map(Duration::from_secs);
    let mut turns = Turns::new(&arguments.run_dir.path, arguments.json, pause, arguments.count);
    let mut is_first = true;
    loop {
        let turn = match turns.next()? {
            Ok(turn) => turn,
            Err(exit) => return Ok(exit),
        };
        let of = |status: &Status| document(status, arguments.interface.as_deref());
        let mut document = of(&turn.now)?;
        // An interface that was not there then has no rate yet.
        if let Some((passed, before)) = &turn.before
            && let Ok(before) = of(before)
        {
            document.rate(&before, *passed);
        }
        let is_over = match (arguments.json, arguments.watch) {
            (true, Some(_)) => print_line(serde_json::to_string(&document)?),
            (true, None) => print_line(serde_json::to_string_pretty(&document)?),
            // A blank line between two turns, so that the output of a pipe can be read, too.
            (false, _) => print_line(format_args!("{}{}", if is_first { "" } else { "\n" }, render(&document))),
        };
        if is_over? {
            return Ok(Exit::Ok);
        }
        is_first = false;
    }
}

/// What `stats --json` prints.
///
/// # Errors
/// The agent is not attached to that interface.
pub fn document(status: &Status, interface: Option<&str>) -> anyhow::Result<Stats> {
    let (answered, passed, dropped, would_drop, by_policy, would_answer) = match interface {
        None => {
            let Status { answered, passed, dropped, would_drop, answered_by_policy, would_answer, .. } = status;
            (*answered, passed, dropped, would_drop, answered_by_policy, would_answer)
        }
        Some(name) => match status.interfaces.iter().find(|interface| interface.name == name) {
            Some(of) => {
                (of.answered, &of.passed, &of.dropped, &of.would_drop, &of.answered_by_policy, &of.would_answer)
            }
            None => bail!("{name}: the agent is not attached to such an interface (`arp-agent status` lists them)"),
        },
    };
    Ok(Stats {
        version: status.version,
        running: status.running,
        interface: interface.map(str::to_owned),
        answered,
        passed: passed.clone(),
        dropped: dropped.clone(),
        would_drop: would_drop.clone(),
        answered_by_policy: by_policy.clone(),
        would_answer: would_answer.clone(),
        answered_per_second: None,
        passed_per_second: None,
    })
}

/// What `stats --json` prints.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Stats {
    /// [`crate::DOCUMENT_VERSION`].
    pub version: u32,
    /// True; false if no agent runs.
    pub running: bool,
    /// The interface; `null` for all of them together.
    pub interface: Option<String>,
    /// Requests answered.
    pub answered: u64,
    /// ARP frames passed, by reason.
    pub passed: BTreeMap<String, u64>,
    /// ARP frames that policies have dropped, by reason.
    pub dropped: BTreeMap<String, u64>,
    /// ARP frames that policies which only count would have dropped, by reason.
    pub would_drop: BTreeMap<String, u64>,
    /// Requests that policies have answered although the kernel would not have, or not at once, by policy.
    pub answered_by_policy: BTreeMap<String, u64>,
    /// Requests that policies which only count would have answered so, by policy.
    pub would_answer: BTreeMap<String, u64>,
    /// Requests answered a second since the last turn of `--watch`; `null` in the first one.
    pub answered_per_second: Option<f64>,
    /// ARP frames passed a second since then, by reason.
    pub passed_per_second: Option<BTreeMap<String, f64>>,
}

impl Stats {
    /// Fills in the rates since an earlier document. The counters of an interface that came again begin anew: then there
    /// are none.
    pub fn rate(&mut self, before: &Stats, passed: Duration) {
        let rate = |now, before| rate(now, before, passed);
        let of_reasons = self.passed.iter().map(|(reason, &count)| {
            let before = before.passed.get(reason).copied().unwrap_or_default();
            Some((reason.clone(), rate(count, before)?))
        });
        self.passed_per_second = of_reasons.collect();
        self.answered_per_second = rate(self.answered, before.answered).filter(|_| self.passed_per_second.is_some());
        if self.answered_per_second.is_none() {
            self.passed_per_second = None;
        }
    }
}

fn render(stats: &Stats) -> String {
    let mut table = Builder::default();
    let rated = |rate: Option<f64>| rate.map_or_else(String::new, |rate| format!("{rate:.1}/s"));
    let rates = stats.answered_per_second.is_some();
    let mut push = |name: String, count: u64, rate: Option<f64>, why: &str| {
        let mut row = vec![name, count.to_string()];
        row.extend(rates.then(|| rated(rate)));
        row.push(why.to_owned());
        table.push_record(row);
    };
    push("answered".to_owned(), stats.answered, stats.answered_per_second, "");
    for (reason, &count) in &stats.passed {
        let rate = stats.passed_per_second.as_ref().and_then(|rates| rates.get(reason).copied());
        push(format!("passed: {reason}"), count, rate, Reason::from_name(reason).map_or("", Reason::why));
    }
    for (what, counts) in [("answered by policy", &stats.answered_by_policy), ("would answer", &stats.would_answer)] {
        for (policy, count) in counts {
            let why = Deviation::from_name(policy).map_or("", Deviation::why);
            push(format!("{what}: {policy}"), *count, None, why);
        }
    }
    for (what, counts) in [("dropped", &stats.dropped), ("would drop", &stats.would_drop)] {
        for (reason, count) in counts {
            let why = DropReason::from_name(reason).map_or("", DropReason::why);
            push(format!("{what}: {reason}"), *count, None, why);
        }
    }
    let table = table.build().with(Style::blank()).to_string();
    table.lines().map(str::trim_end).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counted(answered: u64, unknown: u64) -> Stats {
        Stats {
            version: 1,
            running: true,
            interface: None,
            answered,
            passed: [("neighbour_unknown".to_owned(), unknown)].into(),
            answered_per_second: None,
            passed_per_second: None,
            dropped: BTreeMap::new(),
            would_drop: BTreeMap::new(),
            answered_by_policy: BTreeMap::new(),
            would_answer: BTreeMap::new(),
        }
    }

    #[test]
    fn rates_are_differences_by_time() {
        let mut now = counted(100, 7);
        now.rate(&counted(50, 7), Duration::from_secs(2));
        assert_eq!(now.answered_per_second, Some(25.0));
        assert_eq!(now.passed_per_second, Some([("neighbour_unknown".to_owned(), 0.0)].into()));
        let table = render(&now);
        assert!(table.lines().next().is_some_and(|line| line.contains("100") && line.contains("25.0/s")), "{table}");
    }

    #[test]
    fn counters_that_began_anew_have_no_rate() {
        for before in [counted(101, 7), counted(100, 8)] {
            let mut now = counted(100, 7);
            now.rate(&before, Duration::from_secs(1));
            assert_eq!(now, counted(100, 7));
        }
    }

    #[test]
    fn a_reason_that_was_not_there_before_began_at_0() {
        let mut now = counted(0, 3);
        now.rate(&Stats { passed: BTreeMap::new(), ..counted(0, 0) }, Duration::from_secs(1));
        assert_eq!(now.passed_per_second, Some([("neighbour_unknown".to_owned(), 3.0)].into()));
    }
}
