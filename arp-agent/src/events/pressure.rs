//! How full the neighbour table of the machine is, and when that is worth an event.

/// The marks, in percent of `gc_thresh3`. While the kernel collects by force the table stays some entries below its most:
/// from the last one on it is full.
const MARKS: [(u64, &str); 3] = [(50, "half full"), (75, "three quarters full"), (98, "full")];
/// How far below a mark, in percent, it must fall before the mark counts again.
const BACK: u64 = 10;

/// Remembers which marks have been passed.
#[derive(Debug, Default)]
pub(crate) struct Gauge {
    passed: usize,
}

impl Gauge {
    /// The table holds `entries` of `most`. Gives the highest mark that it has reached since, in words.
    pub(crate) fn reads(&mut self, entries: u64, most: u64) -> Option<&'static str> {
        if most == 0 {
            return None;
        }
        let share = entries * 100 / most;
        let reached = MARKS.iter().take_while(|(mark, _)| share >= *mark).count();
        if reached > self.passed {
            self.passed = reached;
            return Some(MARKS[reached - 1].1);
        }
        while self.passed > 0 && share + BACK < MARKS[self.passed - 1].0 {
            self.passed -= 1;
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_mark_is_told_once_until_the_table_has_emptied() {
        let mut gauge = Gauge::default();
        let told: Vec<_> = [100, 511, 512, 600, 520, 770, 1004, 1022, 1000, 500, 512, 400, 512]
            .map(|entries| gauge.reads(entries, 1024))
            .into();
        let (half, more, full) = (Some("half full"), Some("three quarters full"), Some("full"));
        assert_eq!(
            told,
            [None, None, half, None, None, more, full, None, None, None, None, None, half],
            "just below a mark it is not told again"
        );
        assert_eq!(gauge.reads(1, 0), None);
    }

    #[test]
    fn a_jump_is_one_event() {
        assert_eq!(Gauge::default().reads(1024, 1024), Some("full"));
    }
}
