//! The JSON document, one object: [`Report`] with its fields by their names. `schema` changes with their meaning.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use bench::Spread;
use serde::{Deserialize, Serialize};

use crate::machine::{self, Machine};
use crate::samples::{At, Row};

/// The version of the document.
const SCHEMA: u32 = 2;
/// The beginning of the note on a benchmark that was measured in an earlier run.
const KEPT: &str = "Of an earlier run";

/// All that a run measured, and where.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct Report {
    pub(crate) schema: u32,
    /// The command as it was typed.
    pub(crate) command: String,
    /// When it began: RFC 3339, UTC.
    pub(crate) date: String,
    /// The commit that was measured, `+` behind it if there were changes on top.
    pub(crate) revision: String,
    /// Few rounds and small numbers: not to be quoted.
    pub(crate) quick: bool,
    pub(crate) machine: Machine,
    /// Release of the kernel.
    pub(crate) kernel: String,
    pub(crate) benchmarks: Vec<Ran>,
    pub(crate) results: Vec<Measurement>,
    pub(crate) goals: Vec<Goal>,
    pub(crate) skipped: Vec<Skipped>,
}

/// A benchmark that ran.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct Ran {
    pub(crate) name: String,
    pub(crate) what: String,
    /// How long it took.
    pub(crate) seconds: f64,
    /// Why it failed, if it did.
    pub(crate) failed: Option<String>,
    /// Under which conditions.
    pub(crate) notes: Vec<String>,
}

/// The values of one measure of one case, one a round.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct Measurement {
    pub(crate) benchmark: String,
    pub(crate) measure: String,
    pub(crate) case: String,
    pub(crate) at: Option<At>,
    pub(crate) unit: String,
    #[serde(flatten)]
    pub(crate) value: Spread,
    pub(crate) ratio: Option<Ratio>,
}

/// Ratios to another case, round by round.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct Ratio {
    /// Which case.
    pub(crate) to: String,
    #[serde(flatten)]
    pub(crate) value: Spread,
}

/// A goal of the project, and the value that was reached here.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct Goal {
    /// P1 to P14, V1 to V4, G1 to G7 (docs/kernel-arp.md, §13).
    pub(crate) id: String,
    pub(crate) benchmark: String,
    /// What is judged; goals of one `id`, `what` and `bound` are met together or not at all.
    pub(crate) what: String,
    /// Which case of it.
    pub(crate) case: String,
    pub(crate) bound: GoalBound,
    pub(crate) unit: String,
    #[serde(flatten)]
    pub(crate) value: Spread,
    /// Whether the median keeps the bound.
    pub(crate) met: bool,
    /// The same of another case, which is not judged.
    pub(crate) beside: Option<Beside>,
}

/// What stands beside a goal to be compared with it.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct Beside {
    /// Which case.
    pub(crate) case: String,
    #[serde(flatten)]
    pub(crate) value: Spread,
}

/// Which side of a value is good.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum GoalBound {
    AtMost(f64),
    AtLeast(f64),
}

/// A case that could not be measured.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct Skipped {
    pub(crate) benchmark: String,
    pub(crate) case: String,
    pub(crate) why: String,
}

impl Report {
    /// Takes over from an earlier document what was not measured now. `names`: of all benchmarks, in their order.
    ///
    /// # Errors
    /// One of the two is of a quick run, the other not.
    pub(crate) fn keep(&mut self, before: Report, names: impl IntoIterator<Item = &'static str>) -> Result<()> {
        ensure!(before.quick == self.quick, "a quick run and a whole one do not belong into one document");
        let now: Vec<String> = self.benchmarks.iter().map(|ran| ran.name.clone()).collect();
        let is_old = |name: &str| !now.iter().any(|other| other == name);
        let of_that_run = format!("{KEPT}: revision {}, {}.", before.revision, before.date);
        for mut ran in before.benchmarks.into_iter().filter(|ran| is_old(&ran.name)) {
            if !ran.notes.iter().any(|note| note.starts_with(KEPT)) {
                ran.notes.push(of_that_run.clone());
            }
            self.benchmarks.push(ran);
        }
        self.results.extend(before.results.into_iter().filter(|result| is_old(&result.benchmark)));
        self.goals.extend(before.goals.into_iter().filter(|goal| is_old(&goal.benchmark)));
        self.skipped.extend(before.skipped.into_iter().filter(|skipped| is_old(&skipped.benchmark)));
        let names: Vec<&str> = names.into_iter().collect();
        let place = |name: &str| names.iter().position(|&known| known == name);
        self.benchmarks.sort_by_key(|ran| place(&ran.name));
        self.goals.sort_by_key(|goal| place(&goal.benchmark));
        Ok(())
    }

    /// An empty report of this machine.
    pub(crate) fn begin(quick: bool) -> Result<Self> {
        Ok(Report {
            schema: SCHEMA,
            command: machine::command(),
            date: machine::date()?,
            revision: machine::revision(),
            quick,
            machine: Machine::this()?,
            kernel: machine::kernel()?,
            benchmarks: Vec::new(),
            results: Vec::new(),
            goals: Vec::new(),
            skipped: Vec::new(),
        })
    }

    pub(crate) fn read(path: &Path) -> Result<Self> {
        let text = fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
        let report: Report = serde_json::from_str(&text).with_context(|| format!("in {}", path.display()))?;
        ensure!(report.schema == SCHEMA, "{} has schema {}, not {SCHEMA}", path.display(), report.schema);
        Ok(report)
    }

    pub(crate) fn write(&self, path: &Path) -> Result<()> {
        let text = serde_json::to_string_pretty(self)? + "\n";
        fs::write(path, text).with_context(|| format!("writing {}", path.display()))
    }

    /// The machine in a line.
    pub(crate) fn headline(&self) -> String {
        let Report { machine, kernel, date, revision, quick, .. } = self;
        format!(
            "{}, {} cores{}, {} GiB; Linux {kernel}; load {:.1} at the start; {date}; revision {revision}{}",
            machine.cpu,
            machine.cores,
            if machine.virtual_machine { " of a virtual machine" } else { "" },
            (machine.memory_mib + 512) / 1024,
            machine.load,
            if *quick { "; QUICK: figures not to be quoted" } else { "" },
        )
    }

    pub(crate) fn has_failures(&self) -> bool {
        self.benchmarks.iter().any(|ran| ran.failed.is_some())
    }

    /// The results of one benchmark, grouped by measure in the order in which they came.
    pub(crate) fn measures(&self, benchmark: &str) -> Vec<(&str, Vec<&Measurement>)> {
        let mut groups: Vec<(&str, Vec<&Measurement>)> = Vec::new();
        for result in self.results.iter().filter(|result| result.benchmark == benchmark) {
            match groups.iter_mut().find(|(measure, _)| *measure == result.measure) {
                Some((_, group)) => group.push(result),
                None => groups.push((&result.measure, vec![result])),
            }
        }
        groups
    }
}

impl Measurement {
    /// The measurement of one row, with the case that it is compared with and the ratios to it.
    pub(crate) fn new(benchmark: &str, row: &Row, ratio: Option<(String, Spread)>) -> Self {
        Measurement {
            benchmark: benchmark.to_owned(),
            measure: row.key.measure.clone(),
            case: row.key.case.clone(),
            at: row.key.at.clone(),
            unit: row.unit.to_owned(),
            value: Spread::of(&row.values),
            ratio: ratio.map(|(to, value)| Ratio { to, value }),
        }
    }
}

impl Goal {
    /// A goal without a single value is not met.
    pub(crate) fn judge(
        benchmark: &str,
        id: &str,
        [what, case]: [&str; 2],
        bound: GoalBound,
        unit: &str,
        values: &[f64],
    ) -> Self {
        let value = Spread::of(values);
        let met = !values.is_empty()
            && match bound {
                GoalBound::AtMost(most) => value.median <= most,
                GoalBound::AtLeast(least) => value.median >= least,
            };
        Goal {
            id: id.to_owned(),
            benchmark: benchmark.to_owned(),
            what: what.to_owned(),
            case: case.to_owned(),
            bound,
            unit: unit.to_owned(),
            value,
            met,
            beside: None,
        }
    }

    /// How far the median is beyond its bound, as a factor; without a value, farther than any.
    pub(crate) fn excess(&self) -> f64 {
        match self.bound {
            _ if self.value.samples == 0 => f64::INFINITY,
            GoalBound::AtMost(most) => self.value.median / most,
            GoalBound::AtLeast(least) => least / self.value.median,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::findings::Findings;
    use crate::samples::Key;

    #[test]
    fn a_goal_is_judged_by_its_median() {
        let judge = |bound, values: &[f64]| Goal::judge("reply", "P3", ["p50", ""], bound, "×", values).met;
        assert!(judge(GoalBound::AtMost(0.87), &[0.86, 0.87, 2.0]));
        assert!(!judge(GoalBound::AtMost(0.87), &[0.1, 0.88, 0.9]));
        assert!(judge(GoalBound::AtLeast(1.3), &[1.3]));
        assert!(!judge(GoalBound::AtLeast(1.3), &[1.29, 1.2, 1.5]));
        assert!(!judge(GoalBound::AtMost(1.0), &[]));
        assert!(!judge(GoalBound::AtMost(1.0), &[f64::NAN]));
    }

    /// The documented fields, by the names that scripts rely on.
    #[test]
    fn the_document_has_the_documented_fields() {
        let mut findings = Findings::new("reply");
        for (kernel, fast) in [(4.0, 3.0), (2.0, 1.0), (8.0, 6.0)] {
            findings.push(Key::new("p50", "kernel").at("routes", 100), "µs", kernel);
            findings.push(Key::new("p50", "fast path").at("routes", 100), "µs", fast);
        }
        findings.compare("p50", "kernel");
        findings.goal("P3", ["p50 to the kernel's", "tcx"], GoalBound::AtMost(0.87), "×", &[0.75, 0.5, 0.75]);
        findings.beside("clsact", &[0.8]);
        findings.note("core 1");
        let ran =
            Ran { name: "reply".to_owned(), what: "latency".to_owned(), seconds: 1.0, failed: None, notes: Vec::new() };
        let mut report = Report::begin(true).unwrap();
        findings.report(ran, &mut report);

        let json: serde_json::Value = serde_json::from_str(&serde_json::to_string(&report).unwrap()).unwrap();
        for key in ["schema", "command", "date", "revision", "quick", "machine", "kernel", "skipped"] {
            assert!(!json[key].is_null(), "{key}: {json}");
        }
        assert!(json["machine"]["cpu"].is_string() && json["machine"]["cores"].as_u64() > Some(0));
        assert_eq!(json["benchmarks"][0]["notes"][0], "core 1");
        let fast = &json["results"][1];
        assert_eq!(
            (&fast["benchmark"], &fast["case"], &fast["unit"]),
            (&"reply".into(), &"fast path".into(), &"µs".into())
        );
        assert_eq!((&fast["samples"], &fast["median"]), (&3.into(), &3.0.into()));
        assert_eq!((&fast["spread"]["lowest"], &fast["spread"]["highest"]), (&1.0.into(), &6.0.into()));
        assert_eq!((&fast["ratio"]["to"], &fast["ratio"]["median"]), (&"kernel".into(), &0.75.into()));
        assert_eq!((&fast["at"]["name"], &fast["at"]["value"]), (&"routes".into(), &100.into()));
        assert!(json["results"][0]["ratio"].is_null());
        let goal = &json["goals"][0];
        assert_eq!((&goal["id"], &goal["bound"]["at_most"], &goal["met"]), (&"P3".into(), &0.87.into(), &true.into()));
        assert_eq!(
            (&goal["case"], &goal["median"], &goal["spread"]["lowest"]),
            (&"tcx".into(), &0.75.into(), &0.5.into())
        );
        assert_eq!((&goal["beside"]["case"], &goal["beside"]["median"]), (&"clsact".into(), &0.8.into()));
        assert!(serde_json::from_value::<Report>(json).unwrap().goals[0].beside.is_some());
    }
}
