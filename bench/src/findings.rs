//! The results of one benchmark.

use anyhow::Result;
use bench::Spread;

use crate::report::{Beside, Goal, GoalBound, Measurement, Ran, Report, Skipped};
use crate::samples::{Key, Samples};

/// What a benchmark returns; it is kept even if the benchmark fails half-way.
pub(crate) struct Findings {
    benchmark: &'static str,
    /// The values, round by round.
    pub(crate) samples: Samples,
    /// Measure and the case that the others of that measure are compared with.
    bases: Vec<(String, String)>,
    goals: Vec<Goal>,
    skipped: Vec<Skipped>,
    notes: Vec<String>,
}

impl Findings {
    pub(crate) fn new(benchmark: &'static str) -> Self {
        Findings {
            benchmark,
            samples: Samples::default(),
            bases: Vec::new(),
            goals: Vec::new(),
            skipped: Vec::new(),
            notes: Vec::new(),
        }
    }

    /// Adds the value of a round.
    pub(crate) fn push(&mut self, key: Key, unit: &'static str, value: f64) {
        self.samples.push(key, unit, value);
    }

    /// Gives every other case of `measure` its ratio to `case`, of the same size if there are sizes.
    pub(crate) fn compare(&mut self, measure: &str, case: &str) {
        self.bases.push((measure.to_owned(), case.to_owned()));
    }

    /// Judges the median of `values`, one a round, by a goal of the project: `id` as in docs/performance.md, then what is
    /// judged and which case of it.
    pub(crate) fn goal(&mut self, id: &str, what: [&str; 2], bound: GoalBound, unit: &str, values: &[f64]) {
        self.goals.push(Goal::judge(self.benchmark, id, what, bound, unit, values));
    }

    /// Shows the same of another case beside the goal that was judged last.
    pub(crate) fn beside(&mut self, case: &str, values: &[f64]) {
        if let (Some(goal), false) = (self.goals.last_mut(), values.is_empty()) {
            goal.beside = Some(Beside { case: case.to_owned(), value: Spread::of(values) });
        }
    }

    /// Says that a case could not be measured here, at once and in the report.
    pub(crate) fn skip(&mut self, case: &str, why: &str) {
        // Once a case, and in one line.
        let why = why.split_whitespace().collect::<Vec<_>>().join(" ");
        if self.skipped.iter().any(|skipped| skipped.case == case) {
            return;
        }
        println!("  SKIPPED: {case}: {why}");
        self.skipped.push(Skipped { benchmark: self.benchmark.to_owned(), case: case.to_owned(), why: why.to_owned() });
    }

    /// A condition that the reader must know; it stands under the table.
    pub(crate) fn note(&mut self, note: impl Into<String>) {
        self.notes.push(note.into());
    }

    /// Puts them into the report of a run, as those of this benchmark.
    pub(crate) fn report(self, mut ran: Ran, report: &mut Report) {
        let results = self.samples.rows().iter().map(|row| {
            let base = self.bases.iter().find(|(measure, case)| *measure == row.key.measure && *case != row.key.case);
            // A base that was skipped, or measured in other rounds, gives no ratio.
            let ratio = base.and_then(|(_, case)| {
                let ratios: Result<Vec<f64>> = self.samples.ratios(&row.key, &row.key.clone().of(case));
                Some((case.clone(), Spread::of(&ratios.ok()?)))
            });
            Measurement::new(self.benchmark, row, ratio)
        });
        report.results.extend(results);
        report.goals.extend(self.goals);
        report.skipped.extend(self.skipped);
        ran.notes = self.notes;
        report.benchmarks.push(ran);
    }
}
