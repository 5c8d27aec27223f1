//! What became of each interface, told once for each change: pure, with the time as an argument.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// How long a change waits before it is logged: by then a new interface has been tested, and a change back cancels it.
const PAUSE: Duration = Duration::from_secs(1);
/// How many interfaces are told one by one; more are told in groups.
const ONE_BY_ONE: usize = 5;
/// How many names and how many groups are told at once.
const NAMED: usize = 3;
const GROUPS: usize = 5;

/// The states that were told last.
#[derive(Debug, Default)]
pub(super) struct States {
    told: BTreeMap<u32, (String, String)>,
    /// When something changed first since the last telling.
    touched_at: Option<Instant>,
}

impl States {
    /// Some interface's state may have changed.
    pub(super) fn touch(&mut self, now: Instant) {
        self.touched_at.get_or_insert(now);
    }

    /// Whether it is time to look for what has changed.
    pub(super) fn are_due(&self, now: Instant) -> bool {
        self.touched_at.is_some_and(|touched_at| now >= touched_at + PAUSE)
    }

    /// The lines for what has changed since the last telling. `states`: by index, each interface's name and its state in
    /// words. Interfaces that are gone are not told.
    pub(super) fn tell(&mut self, states: BTreeMap<u32, (String, String)>) -> Vec<String> {
        self.touched_at = None;
        let mut by_state: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for (ifindex, state) in &states {
            if self.told.get(ifindex) != Some(state) {
                by_state.entry(&state.1).or_default().push(&state.0);
            }
        }
        let changed: usize = by_state.values().map(Vec::len).sum();
        let mut lines = Vec::new();
        if changed <= ONE_BY_ONE {
            for (state, names) in by_state {
                lines.extend(names.into_iter().map(|name| format!("{name}: {state}")));
            }
        } else {
            let left: usize = by_state.values().skip(GROUPS).map(Vec::len).sum();
            for (state, names) in by_state.into_iter().take(GROUPS) {
                let named = names.iter().take(NAMED).copied().collect::<Vec<_>>().join(", ");
                let more = names.len().saturating_sub(NAMED);
                let more = if more > 0 { format!(" and {more} more interfaces") } else { String::new() };
                lines.push(format!("{named}{more}: {state}"));
            }
            if left > 0 {
                lines.push(format!("{left} more interfaces have changed: `arp-agent status` lists them"));
            }
        }
        self.told = states;
        lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn states(states: &[(u32, &str)]) -> BTreeMap<u32, (String, String)> {
        states.iter().map(|&(ifindex, state)| (ifindex, (format!("cali{ifindex}"), state.to_owned()))).collect()
    }

    #[test]
    fn each_change_is_told_once_with_the_name() {
        let (mut told, start) = (States::default(), Instant::now());
        assert!(!told.are_due(start + PAUSE), "nothing was touched");
        told.touch(start);
        assert!(!told.are_due(start + PAUSE / 2), "what changes back within the pause is not told");
        told.touch(start + PAUSE / 2);
        assert!(told.are_due(start + PAUSE), "however often it changes meanwhile");
        assert_eq!(told.tell(states(&[(1, "answering"), (2, "passing")])), ["cali1: answering", "cali2: passing"]);
        assert!(!told.are_due(start + 9 * PAUSE), "nothing was touched since");
        assert_eq!(told.tell(states(&[(1, "answering"), (2, "answering")])), ["cali2: answering"]);
        assert!(told.tell(states(&[(1, "answering")])).is_empty(), "a pod that ends is not told");
        assert_eq!(told.tell(states(&[(1, "answering"), (2, "answering")])), ["cali2: answering"]);
    }

    #[test]
    fn many_at_once_are_grouped() {
        let many: Vec<(u32, &str)> = (0..250).map(|n| (n, if n == 7 { "passing" } else { "answering" })).collect();
        let lines = States::default().tell(states(&many));
        assert_eq!(lines, ["cali0, cali1, cali2 and 246 more interfaces: answering", "cali7: passing"]);
        let reasons: Vec<String> = (0..40).map(|n| format!("detached: reason {n:02}")).collect();
        let each: Vec<(u32, &str)> = (0..40).map(|n| (n, reasons[n as usize].as_str())).collect();
        let lines = States::default().tell(states(&each));
        assert_eq!(lines.len(), GROUPS + 1, "{lines:?}");
        assert_eq!(lines[GROUPS], "35 more interfaces have changed: `arp-agent status` lists them");
    }
}
