//! How often the agent tries again after a failure, and which failures it logs: pure, with the time as an argument.

use std::time::{Duration, Instant};

/// After reading everything, how long at least until the next time.
const SHORTEST: Duration = Duration::from_millis(500);
/// How long at most, while the kernel's state cannot be read.
const LONGEST: Duration = Duration::from_secs(30);
/// How often the same doubt is logged again.
const REMINDER: Duration = Duration::from_secs(600);

/// The last doubt, and when what casts it is tried again.
#[derive(Debug)]
pub(super) struct Doubts {
    last: Option<(String, Instant)>,
    unlogged: u32,
    pause: Duration,
    retry_at: Instant,
}

impl Doubts {
    /// None yet.
    pub(super) fn new(now: Instant) -> Self {
        Doubts { last: None, unlogged: 0, pause: SHORTEST, retry_at: now }
    }

    /// When to read everything again.
    pub(super) fn retry_at(&self) -> Instant {
        self.retry_at
    }

    /// The line to log for a doubt; `None` if the same one was logged not long ago.
    pub(super) fn line(&mut self, why: &str, now: Instant) -> Option<String> {
        if let Some((last, at)) = &self.last
            && last == why
            && now < *at + REMINDER
        {
            self.unlogged += 1;
            return None;
        }
        let again = match std::mem::take(&mut self.unlogged) {
            0 => String::new(),
            times => format!(" (the previous warning occurred {times} more times)"),
        };
        self.last = Some((why.to_owned(), now));
        Some(format!("not in sync with the kernel: {why}; every frame passes until everything is read again{again}"))
    }

    /// Whether the news that all is well again are worth a line: not if nobody was told of the doubt.
    pub(super) fn is_end_told(&self) -> bool {
        self.unlogged == 0
    }

    /// Everything was read, or could not be.
    pub(super) fn has_read(&mut self, could_be: bool, now: Instant) {
        self.pause = if could_be { SHORTEST } else { (2 * self.pause).min(LONGEST) };
        self.retry_at = now + self.pause;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_that_stays_is_tried_ever_less_often_and_logged_once() {
        let start = Instant::now();
        let mut doubts = Doubts::new(start);
        let (mut now, mut tries, mut lines) = (start, 0, 0);
        while now < start + Duration::from_secs(3600) {
            now = now.max(doubts.retry_at());
            tries += 1;
            lines += u32::from(doubts.line("arp_tables_names: Permission denied", now).is_some());
            doubts.has_read(false, now);
        }
        assert!(tries < 130, "{tries} tries in an hour");
        assert!(lines <= 7, "{lines} lines in an hour");
        doubts.has_read(true, now);
        assert_eq!(doubts.retry_at(), now + SHORTEST, "after a success at once again");
    }

    #[test]
    fn another_doubt_is_logged_at_once() {
        let (now, mut doubts) = (Instant::now(), Doubts::new(Instant::now()));
        assert!(doubts.line("one", now).is_some() && doubts.is_end_told());
        assert!(doubts.line("one", now).is_none() && !doubts.is_end_told());
        let line = doubts.line("other", now).unwrap();
        assert!(line.contains("other") && line.contains("occurred 1 more times"), "{line}");
    }
}
