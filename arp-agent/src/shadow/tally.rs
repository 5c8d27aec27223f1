//! What came of the requests that were compared. No I/O.

use crate::control::figures::{ShadowFigures, VerdictFigures};
use crate::control::{ShadowStatus, ShadowVerdict};
use arp_common::Reason;
use arp_common::shadow::Sample;
use std::collections::BTreeMap;
use std::time::Duration;

/// How long the kernel may take: longer than its longest default delay (`proxy_delay`, 0.8 s).
pub(crate) const PATIENCE: Duration = Duration::from_secs(3);

/// What came of one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// It is not known yet.
    Waiting,
    /// The fast path would have done nothing that the kernel does not.
    Agreed,
    /// The fast path would have answered; the kernel has not, or otherwise.
    Disagreed(Disagreement),
}

/// In what they disagree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Disagreement {
    /// The kernel has not answered in [`PATIENCE`].
    Silent,
    /// The kernel's answer had other bytes.
    Otherwise,
}

impl Disagreement {
    /// In words: the kernel …
    pub(crate) fn in_words(self) -> &'static str {
        match self {
            Disagreement::Silent => "did not answer within 3 s",
            Disagreement::Otherwise => "answered with other bytes",
        }
    }
}

/// The counts of one verdict.
#[derive(Clone, Copy, Debug, Default)]
struct VerdictCounts {
    /// The kernel answered, as we would if we would.
    answered: u64,
    /// It answered with other bytes than we would.
    otherwise: u64,
    /// It did not.
    silent: u64,
    /// How long its answers took together, in ns.
    time: u64,
    /// And the longest.
    longest: u64,
}

/// The counts of all verdicts.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    /// By the reason for a pass; `None` is a reply.
    by_verdict: BTreeMap<Option<Reason>, VerdictCounts>,
}

impl Tally {
    /// Counts a request of which it is known at `now` (ns of CLOCK_MONOTONIC) what came of it.
    pub(crate) fn take(&mut self, sample: &Sample, now: u64) -> Fate {
        let is_answered = sample.answered_at != 0;
        if !is_answered && now.saturating_sub(sample.asked_at) < PATIENCE.as_nanos() as u64 {
            return Fate::Waiting;
        }
        let counts = self.by_verdict.entry(sample.passes()).or_default();
        if is_answered {
            let time = sample.answered_at.saturating_sub(sample.asked_at);
            counts.time += time;
            counts.longest = counts.longest.max(time);
        }
        let (count, fate) = match (is_answered, sample.differs != 0) {
            (true, false) => (&mut counts.answered, Fate::Agreed),
            (true, true) => (&mut counts.otherwise, Fate::Disagreed(Disagreement::Otherwise)),
            (false, _) if sample.passes().is_some() => (&mut counts.silent, Fate::Agreed),
            (false, _) => (&mut counts.silent, Fate::Disagreed(Disagreement::Silent)),
        };
        *count += 1;
        fate
    }

    /// All of it for metrics, every verdict from the start: a rate needs a 0 first.
    pub(crate) fn figures(&self, not_compared: u64, not_seen: usize) -> ShadowFigures {
        let verdicts = std::iter::once(None).chain(Reason::ALL.iter().copied().map(Some));
        let verdicts = verdicts.map(|verdict| {
            let counts = self.by_verdict.get(&verdict).copied().unwrap_or_default();
            VerdictFigures {
                verdict: verdict.map_or("answer", Reason::name).to_owned(),
                kernel_answered: counts.answered + counts.otherwise,
                kernel_silent: counts.silent,
                kernel_seconds: Duration::from_nanos(counts.time).as_secs_f64(),
            }
        });
        let of_answers = self.by_verdict.get(&None).copied().unwrap_or_default();
        ShadowFigures {
            would_have_answered: of_answers.answered,
            disagreements: of_answers.otherwise + of_answers.silent,
            not_compared,
            not_seen,
            verdicts: verdicts.collect(),
        }
    }

    /// All of it, for people and programs.
    pub(crate) fn status(
        &self,
        not_compared: u64,
        not_seen: Vec<String>,
        last_disagreement: Option<String>,
    ) -> ShadowStatus {
        let verdicts = self.by_verdict.iter().map(|(reason, counts)| {
            let answers = counts.answered + counts.otherwise;
            let us = |ns: u64| ns as f64 / 1000.0;
            ShadowVerdict {
                verdict: reason.map_or("answer", Reason::name).to_owned(),
                kernel_answered: answers,
                kernel_silent: counts.silent,
                disagreements: if reason.is_none() { counts.silent + counts.otherwise } else { 0 },
                mean_us: (answers > 0).then(|| us(counts.time / answers)),
                longest_us: (answers > 0).then(|| us(counts.longest)),
            }
        });
        let verdicts: Vec<ShadowVerdict> = verdicts.collect();
        ShadowStatus {
            compared: verdicts.iter().map(|of| of.kernel_answered + of.kernel_silent).sum(),
            kernel_answered: verdicts.iter().map(|of| of.kernel_answered).sum(),
            would_have_answered: self.by_verdict.get(&None).map_or(0, |counts| counts.answered),
            disagreements: verdicts.iter().map(|of| of.disagreements).sum(),
            not_compared,
            not_seen,
            last_disagreement,
            verdicts,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arp_common::Lladdr;

    const SECOND: u64 = 1_000_000_000;

    fn sample(reason: u32, answered_at: u64, differs: u32) -> Sample {
        Sample { answered_at, differs, ..Sample::new(SECOND, reason, Lladdr::of_word(0)) }
    }

    #[test]
    fn only_answers_that_the_kernel_does_not_give_are_disagreements() {
        let (mut tally, unknown) = (Tally::default(), Reason::NEIGHBOUR_UNKNOWN.raw());
        let late = SECOND + PATIENCE.as_nanos() as u64;
        for (sample, now, fate) in [
            (sample(0, 0, 0), late - 1, Fate::Waiting),
            (sample(unknown, 0, 0), late - 1, Fate::Waiting),
            (sample(0, SECOND + 3_000, 0), SECOND + 3_000, Fate::Agreed),
            (sample(0, SECOND + 5_000, 0), late, Fate::Agreed),
            (sample(0, SECOND + 1_000, 1), late, Fate::Disagreed(Disagreement::Otherwise)),
            (sample(0, 0, 0), late, Fate::Disagreed(Disagreement::Silent)),
            (sample(unknown, SECOND + 7_000, 0), late, Fate::Agreed),
            (sample(unknown, 0, 0), late, Fate::Agreed),
        ] {
            assert_eq!(tally.take(&sample, now), fate, "{sample:?}");
        }
        let status = tally.status(4, Vec::new(), None);
        assert_eq!((status.compared, status.kernel_answered, status.would_have_answered), (6, 4, 2));
        assert_eq!((status.disagreements, status.not_compared), (2, 4));
        let [reply, pass] = &status.verdicts[..] else { panic!("{status:?}") };
        assert_eq!((reply.verdict.as_str(), reply.mean_us, reply.longest_us), ("answer", Some(3.0), Some(5.0)));
        assert_eq!((reply.kernel_answered, reply.kernel_silent, reply.disagreements), (3, 1, 2));
        assert_eq!((pass.verdict.as_str(), pass.kernel_answered, pass.kernel_silent), ("neighbour_unknown", 1, 1));
        assert_eq!(pass.disagreements, 0, "a pass is never wrong");
        let figures = tally.figures(4, 1);
        assert_eq!((figures.would_have_answered, figures.disagreements), (2, 2));
        assert_eq!((figures.not_compared, figures.not_seen), (4, 1));
        assert_eq!(figures.verdicts.len(), 1 + Reason::ALL.len());
        let of = |name: &str| figures.verdicts.iter().find(|of| of.verdict == name).unwrap();
        let (reply, pass) = (of("answer"), of("neighbour_unknown"));
        assert_eq!((reply.kernel_answered, reply.kernel_silent, reply.kernel_seconds), (3, 1, 9e-6));
        assert_eq!((pass.kernel_answered, pass.kernel_silent, pass.kernel_seconds), (1, 1, 7e-6));
        assert_eq!((of("no_route").kernel_answered, of("no_route").kernel_silent), (0, 0));
    }
}
