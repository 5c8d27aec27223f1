//! The events of the last time, at a bounded rate: of one kind on one interface at most one a second, with the number of
//! those that it stands for.

use super::{EventKind, RaisedEvent};
use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

/// How many are kept.
const KEPT: usize = 512;
/// The least time between two events of one kind on one interface.
const PAUSE: Duration = Duration::from_secs(1);
/// The same for lines of the log.
const LOG_PAUSE: Duration = Duration::from_secs(10);

/// What happens of one kind on one interface (0: on none).
pub(crate) type EventKey = (u32, EventKind);

/// How often something has happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Times {
    /// Once more.
    Once,
    /// So often since the interface came: somebody else counts.
    Total(u64),
}

/// What is known of a key.
#[derive(Debug)]
struct Series {
    /// How often it has happened, and how many of these have been told.
    total: u64,
    told: u64,
    /// Until when the next ones only count, if so; and the last of them.
    until: Option<Instant>,
    last: RaisedEvent,
    /// When the log may have the next line, and how many it has not had.
    log_at: Instant,
    unlogged: u64,
}

/// Keeps events, and counts them.
#[derive(Debug, Default)]
pub(crate) struct Book {
    kept: VecDeque<RaisedEvent>,
    number: u64,
    series: BTreeMap<EventKey, Series>,
    counts: [u64; EventKind::ALL.len()],
}

/// What comes of it that something has happened.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Recorded {
    /// The event, if it is told now.
    pub event: Option<RaisedEvent>,
    /// A line for the log, if it is to have one.
    pub line: Option<String>,
}

impl Book {
    /// Something has happened. `event` needs no number, and no count.
    pub(crate) fn happened(&mut self, key: EventKey, event: RaisedEvent, times: Times, now: Instant) -> Recorded {
        let new = || Series { total: 0, told: 0, until: None, last: event.clone(), log_at: now, unlogged: 0 };
        let series = self.series.entry(key).or_insert_with(new);
        series.total = match times {
            Times::Once => series.total + 1,
            Times::Total(total) => total.max(series.total),
        };
        series.last = event;
        if series.until.is_some() {
            return Recorded::default();
        }
        self.tell(key, now)
    }

    /// When the next pause ends, if there is one.
    pub(crate) fn due(&self) -> Option<Instant> {
        self.series.values().filter_map(|series| series.until).min()
    }

    /// Tells what happened in the pauses that have ended. `total`: how often by now, where somebody else counts.
    pub(crate) fn tell_due(&mut self, now: Instant, total: impl Fn(EventKey) -> Option<u64>) -> Vec<Recorded> {
        let is_due = |series: &Series| series.until.is_some_and(|until| until <= now);
        let due: Vec<EventKey> = self.series.iter().filter(|(_, series)| is_due(series)).map(|(&key, _)| key).collect();
        let mut told = Vec::new();
        for key in due {
            let Some(series) = self.series.get_mut(&key) else { continue };
            series.until = None;
            series.total = total(key).unwrap_or_default().max(series.total);
            if series.total > series.told {
                told.push(self.tell(key, now));
            }
        }
        told
    }

    fn tell(&mut self, key: EventKey, now: Instant) -> Recorded {
        let Some(series) = self.series.get_mut(&key) else { return Recorded::default() };
        let count = (series.total - series.told).max(1);
        series.told = series.total;
        series.until = Some(now + PAUSE);
        self.number += 1;
        self.counts[key.1 as usize] += count;
        let event = RaisedEvent { number: self.number, count, ..series.last.clone() };
        series.unlogged += count;
        let line = (series.log_at <= now).then(|| {
            series.log_at = now + LOG_PAUSE;
            RaisedEvent { count: std::mem::take(&mut series.unlogged), ..event.clone() }.line()
        });
        if self.kept.len() == KEPT {
            self.kept.pop_front();
        }
        self.kept.push_back(event.clone());
        Recorded { event: Some(event), line }
    }

    /// An interface is gone: another one may get its index, whose counts begin anew.
    pub(crate) fn gone(&mut self, ifindex: u32) {
        self.series.retain(|(of, _), _| *of != ifindex);
    }

    /// The events of the last time, the oldest first.
    pub(crate) fn kept(&self) -> Vec<RaisedEvent> {
        self.kept.iter().cloned().collect()
    }

    /// How often each kind has happened.
    pub(crate) fn counts(&self) -> impl Iterator<Item = (EventKind, u64)> {
        EventKind::ALL.into_iter().map(|kind| (kind, self.counts[kind as usize]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: EventKey = (7, EventKind::Spoofed);

    fn named(text: &str) -> RaisedEvent {
        RaisedEvent { text: text.into(), ..RaisedEvent::default() }
    }

    fn told(book: &mut Book, now: Instant, total: Option<u64>) -> Vec<(u64, u64, String)> {
        let told = book.tell_due(now, |_| total);
        told.into_iter().filter_map(|told| told.event).map(|event| (event.number, event.count, event.text)).collect()
    }

    #[test]
    fn the_first_is_told_at_once_and_the_rest_of_a_second_together() {
        let (mut book, now) = (Book::default(), Instant::now());
        let first = book.happened(KEY, named("a"), Times::Once, now);
        assert_eq!(first.event.map(|event| (event.number, event.count)), Some((1, 1)));
        assert!(first.line.is_some());
        for text in ["b", "c"] {
            assert_eq!(book.happened(KEY, named(text), Times::Once, now), Recorded::default());
        }
        let other = book.happened((8, EventKind::Spoofed), named("d"), Times::Once, now);
        assert_eq!(other.event.map(|event| event.number), Some(2), "another interface has its own second");
        assert_eq!(book.due(), Some(now + PAUSE));
        assert_eq!(told(&mut book, now + PAUSE / 2, None), []);
        assert_eq!(told(&mut book, now + PAUSE, None), [(3, 2, "c".to_owned())]);
        assert_eq!(told(&mut book, now + 2 * PAUSE, None), [], "nothing more has happened");
        assert_eq!(book.due(), None, "at rest nothing is due");
        assert_eq!(book.kept().iter().map(|event| event.number).collect::<Vec<_>>(), [1, 2, 3]);
        assert_eq!(book.counts().find(|(kind, _)| *kind == EventKind::Spoofed), Some((EventKind::Spoofed, 4)));
    }

    #[test]
    fn what_somebody_else_counts_is_told_as_counted() {
        let (mut book, now) = (Book::default(), Instant::now());
        book.happened(KEY, named("a"), Times::Total(10), now);
        assert_eq!(told(&mut book, now + PAUSE, Some(1_000)), [(2, 990, "a".to_owned())]);
        assert_eq!(told(&mut book, now + 2 * PAUSE, Some(1_000)), []);
        book.happened(KEY, named("b"), Times::Total(1_001), now + 3 * PAUSE);
        assert_eq!(book.kept().last().map(|event| event.count), Some(1));
        book.gone(7);
        book.happened(KEY, named("c"), Times::Total(2), now + 9 * PAUSE);
        assert_eq!(book.kept().last().map(|event| event.count), Some(2), "another interface's counts begin anew");
    }

    #[test]
    fn the_log_has_a_line_in_ten_seconds_with_all_that_it_left_out() {
        let (mut book, mut now) = (Book::default(), Instant::now());
        let mut lines = Vec::new();
        for _ in 0..25 {
            lines.extend(book.happened(KEY, named("x"), Times::Once, now).line);
            now += PAUSE;
            lines.extend(book.tell_due(now, |_| None).into_iter().filter_map(|told| told.line));
        }
        assert_eq!(lines.len(), 3, "{lines:#?}");
        assert!(lines[1].contains("(10 since"), "{lines:#?}");
    }

    #[test]
    fn only_the_last_ones_are_kept() {
        let (mut book, mut now) = (Book::default(), Instant::now());
        for _ in 0..KEPT + 5 {
            book.happened(KEY, named("x"), Times::Once, now);
            now += PAUSE;
            book.tell_due(now, |_| None);
        }
        assert_eq!((book.kept().len(), book.kept()[0].number), (KEPT, 6));
    }
}
