//! Which buckets of neighbours are in doubt, and when they may be trusted again (docs/adr/0009-doubt.md).
//!
//! The program puts a bucket in doubt when it passes a frame that may change an entry there. After a pause the frame
//! must have reached the neighbour table, and the kernel has notified the change, if it made one. Once the agent has
//! applied all notifications up to then, the entries are right again.

use std::collections::{BTreeMap, BTreeSet, btree_map::Entry};
use std::mem;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// How long a frame may be on its way from the program to the neighbour table: it is handed on in the same softirq,
/// or queued for another CPU (RPS), or waits there for as long as the kernel defers softirqs.
pub(super) const PAUSE: Duration = Duration::from_millis(5);
/// The longest pause for a bucket that comes into doubt again and again.
const LONGEST: Duration = Duration::from_secs(1);
/// A bucket that comes into doubt again so soon after it was trusted waits twice as long as the last time.
const SOON: Duration = Duration::from_secs(1);
/// How many buckets are remembered after they were trusted again.
const REMEMBERED: usize = 4096;

/// The two words of a bucket: the program's count of doubts, the agent's of those that are settled.
pub(super) type DoubtCounts<'a> = [&'a AtomicU64; 2];

/// The buckets in doubt that the agent knows of.
#[derive(Debug, Default)]
pub(super) struct DoubtedBuckets {
    waiting: BTreeMap<u32, DoubtedBucket>,
    /// The same by when they may be trusted.
    by_due: BTreeSet<(Instant, u32)>,
    /// The buckets that were trusted again: when, and after which pause.
    trusted: BTreeMap<u32, (Instant, Duration)>,
    /// When some of those were forgotten last.
    forgotten_at: Option<Instant>,
}

/// A bucket in doubt.
#[derive(Clone, Copy, Debug)]
struct DoubtedBucket {
    /// The program's count of doubts when the agent read it.
    doubts: u64,
    /// When the agent read it.
    since: Instant,
    /// How long to wait before the bucket is trusted again.
    pause: Duration,
}

impl DoubtedBucket {
    /// When it may be trusted.
    fn due(&self) -> Instant {
        self.since + self.pause
    }
}

impl DoubtedBuckets {
    /// Notes that a bucket is in doubt.
    pub(super) fn note(&mut self, bucket: u32, [doubts, settled]: DoubtCounts<'_>, now: Instant) {
        let Entry::Vacant(place) = self.waiting.entry(bucket) else { return };
        let doubts = doubts.load(Ordering::SeqCst);
        if doubts == settled.load(Ordering::SeqCst) {
            return;
        }
        let again = self.trusted.remove(&bucket).filter(|(trusted, _)| now.saturating_duration_since(*trusted) < SOON);
        let pause = again.map_or(PAUSE, |(_, pause)| longer(pause));
        let waiting = place.insert(DoubtedBucket { doubts, since: now, pause });
        self.by_due.insert((waiting.due(), bucket));
    }

    /// Trusts the buckets again that had been in doubt for their pause at the moment `since_drained`: everything that the
    /// kernel had notified by then has been applied. `at_least` takes the place of the buckets' own pauses.
    pub(super) fn settle<'a>(
        &mut self,
        since_drained: Instant,
        at_least: Option<Duration>,
        counts: impl Fn(u32) -> DoubtCounts<'a>,
    ) {
        let due = match at_least {
            // Under a flood very many wait, and nearly all of them for later.
            None => {
                let later = self.by_due.split_off(&(since_drained, u32::MAX));
                mem::replace(&mut self.by_due, later)
            }
            Some(pause) => {
                let is_due = |waiting: &DoubtedBucket| waiting.since + pause <= since_drained;
                self.by_due.extract_if(.., |(_, bucket)| self.waiting.get(bucket).is_some_and(is_due)).collect()
            }
        };
        for (_, bucket) in due {
            let Some(waiting) = self.waiting.get_mut(&bucket) else { continue };
            let [doubts, settled] = counts(bucket);
            if doubts.load(Ordering::SeqCst) == waiting.doubts {
                settled.store(waiting.doubts, Ordering::SeqCst);
            }
            // After the store: the program notes a bucket only if it has found it settled.
            let doubts = doubts.load(Ordering::SeqCst);
            if doubts == settled.load(Ordering::SeqCst) {
                self.trusted.insert(bucket, (since_drained, waiting.pause));
                self.waiting.remove(&bucket);
                continue;
            }
            *waiting = DoubtedBucket { doubts, since: Instant::now(), pause: longer(waiting.pause) };
            self.by_due.insert((waiting.due(), bucket));
        }
        self.forget_trusted(since_drained);
    }

    /// Forgets those that were trusted long ago, if there are many. Where all of them are recent, it is not tried again at
    /// once: that takes a look at each.
    fn forget_trusted(&mut self, now: Instant) {
        if self.trusted.len() > REMEMBERED && self.forgotten_at.is_none_or(|at| now >= at + SOON) {
            self.forgotten_at = Some(now);
            self.trusted.retain(|_, (trusted, _)| now.saturating_duration_since(*trusted) < SOON);
        }
    }

    /// When the next bucket may be trusted, if one is in doubt.
    pub(super) fn due(&self) -> Option<Instant> {
        self.by_due.first().map(|(due, _)| *due)
    }
}

fn longer(pause: Duration) -> Duration {
    (pause * 2).min(LONGEST)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BUCKET: u32 = 7;

    /// A bucket's words, and what the agent knows.
    struct TestBucket {
        doubts: AtomicU64,
        settled: AtomicU64,
        known: DoubtedBuckets,
        start: Instant,
    }

    impl TestBucket {
        fn new() -> Self {
            TestBucket {
                doubts: AtomicU64::new(0),
                settled: AtomicU64::new(0),
                known: DoubtedBuckets::default(),
                start: Instant::now(),
            }
        }

        fn doubt(&self) {
            self.doubts.fetch_add(1, Ordering::SeqCst);
        }

        fn note(&mut self, ms: u64) {
            let now = self.start + Duration::from_millis(ms);
            self.known.note(BUCKET, [&self.doubts, &self.settled], now);
        }

        fn is_trusted_at(&mut self, ms: u64) -> bool {
            let now = self.start + Duration::from_millis(ms);
            self.known.settle(now, None, |_| [&self.doubts, &self.settled]);
            self.doubts.load(Ordering::SeqCst) == self.settled.load(Ordering::SeqCst)
        }
    }

    #[test]
    fn a_bucket_is_trusted_when_the_frame_must_have_arrived() {
        let mut world = TestBucket::new();
        world.doubt();
        world.note(0);
        assert!(!world.is_trusted_at(4));
        assert!(world.is_trusted_at(5));
        assert_eq!(world.known.due(), None);
    }

    #[test]
    fn a_doubt_that_came_meanwhile_is_not_settled_with_the_others() {
        let mut world = TestBucket::new();
        world.doubt();
        world.note(0);
        world.doubt();
        assert!(!world.is_trusted_at(5));
        assert!(world.known.due().is_some(), "it is waited again, though the program notes nothing");
        assert_eq!(world.settled.load(Ordering::SeqCst), 0);
    }

    #[test]
    fn what_comes_into_doubt_again_and_again_waits_longer() {
        let mut world = TestBucket::new();
        let mut now = 0;
        let mut pauses = Vec::new();
        for _ in 0..10 {
            world.doubt();
            world.note(now);
            let due = world.known.due().unwrap();
            pauses.push((due - world.start).as_millis() as u64 - now);
            now = (due - world.start).as_millis() as u64;
            assert!(world.is_trusted_at(now));
        }
        assert_eq!(pauses, [5, 10, 20, 40, 80, 160, 320, 640, 1000, 1000]);
        world.doubt();
        world.note(now + 1_000);
        assert_eq!(world.known.due(), Some(world.start + Duration::from_millis(now + 1_005)), "after some rest");
    }

    #[test]
    fn whoever_asks_for_all_waits_for_each_only_as_long_as_is_said() {
        let mut world = TestBucket::new();
        for now in [0, 5] {
            world.doubt();
            world.note(now);
            assert!(now == 5 || world.is_trusted_at(5));
        }
        let at = |ms: u64| world.start + Duration::from_millis(ms);
        // Its own pause is 10 ms by now.
        world.known.settle(at(9), Some(PAUSE), |_| [&world.doubts, &world.settled]);
        assert_eq!(world.known.due(), Some(at(15)));
        world.known.settle(at(10), Some(PAUSE), |_| [&world.doubts, &world.settled]);
        assert_eq!(world.known.due(), None);
        assert_eq!(world.settled.load(Ordering::SeqCst), 2);
    }

    #[test]
    fn of_many_buckets_each_is_trusted_in_its_turn() {
        const MANY: u32 = 6_000;
        let counts: Vec<[AtomicU64; 2]> = (0..MANY).map(|_| [AtomicU64::new(1), AtomicU64::new(0)]).collect();
        let of = |bucket: u32| counts[bucket as usize].each_ref();
        let (mut known, start) = (DoubtedBuckets::default(), Instant::now());
        for bucket in 0..MANY {
            known.note(bucket, of(bucket), start + Duration::from_micros(bucket.into()));
        }
        assert_eq!(known.due(), Some(start + PAUSE));
        let settled = || counts.iter().filter(|[_, settled]| settled.load(Ordering::SeqCst) == 1).count();
        known.settle(start + PAUSE + Duration::from_micros(99), None, of);
        assert_eq!(settled(), 100);
        known.settle(start + 2 * PAUSE, None, of);
        assert_eq!(settled(), 5_001);
        known.settle(start + SOON, None, of);
        assert_eq!((settled(), known.due()), (6_000, None));
        assert_eq!(known.trusted.len(), 6_000, "they were looked at less than a second ago");
        known.settle(start + SOON * 3 / 2, None, of);
        assert_eq!(known.trusted.len(), 999, "the others were trusted more than a second ago");
    }

    #[test]
    fn what_is_not_in_doubt_is_not_waited_for() {
        let mut world = TestBucket::new();
        world.note(0);
        assert_eq!(world.known.due(), None);
    }
}
