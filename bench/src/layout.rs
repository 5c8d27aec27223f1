//! The tables of docs/performance.md: which of a benchmark's results they show, and how. All other results are in the
//! JSON document only.

use crate::report::{Measurement, Report};
use bench::units;

/// A table of some measures of one benchmark.
pub(crate) struct Table {
    pub(crate) columns: Columns,
    /// Measures, and what they are called in the table.
    pub(crate) measures: &'static [(&'static str, &'static str)],
    /// The cases that it shows; empty for all.
    pub(crate) cases: &'static [&'static str],
}

/// What the columns of a table are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Columns {
    /// The measures; a row is a case.
    Measures,
    /// The sizes; a row is a measure, or a case of it.
    Sizes,
    /// The cases; a row is a measure.
    Cases,
}

/// A result with the row and the column that it belongs to.
struct Placed<'a> {
    row: String,
    column: String,
    result: &'a Measurement,
}

impl Table {
    /// The rows, the first of them the head. Empty if the report has nothing for them.
    pub(crate) fn rows(&self, report: &Report, benchmark: &str) -> Vec<Vec<String>> {
        let placed = self.placed(report, benchmark);
        let Some(first) = placed.first() else { return Vec::new() };
        let columns = self.in_order(&placed);
        let mut names: Vec<&str> = Vec::new();
        placed.iter().for_each(|it| {
            if !names.contains(&it.row.as_str()) {
                names.push(&it.row)
            }
        });

        let whole = rounds(placed.iter());
        let mut corner: Vec<String> = Vec::new();
        if let (Columns::Sizes, Some(at)) = (self.columns, &first.result.at) {
            corner.push(at.name.clone());
        }
        corner.extend(whole.clone());
        let base = placed.iter().find_map(|it| it.result.ratio.as_ref()).map(|ratio| &ratio.to);
        corner.extend(base.map(|to| format!("in brackets × {to}")));
        let mut rows = vec![[corner.join("; ")].into_iter().chain(columns.iter().cloned()).collect::<Vec<_>>()];
        for name in names {
            let of_row = || placed.iter().filter(|it| it.row == name);
            let of = if whole.is_some() { None } else { rounds(of_row()) };
            let mut row = vec![of.map_or(name.to_owned(), |of| format!("{name} ({of})"))];
            row.extend(
                columns.iter().map(|column| of_row().find(|it| it.column == *column).map(cell).unwrap_or_default()),
            );
            rows.push(row);
        }
        rows
    }

    fn placed<'a>(&self, report: &'a Report, benchmark: &str) -> Vec<Placed<'a>> {
        let mut placed = Vec::new();
        for (measure, called) in self.measures {
            let is_shown = |result: &&Measurement| {
                result.benchmark == benchmark
                    && result.measure == *measure
                    && (self.cases.is_empty() || self.cases.contains(&result.case.as_str()))
            };
            let results: Vec<&Measurement> = report.results.iter().filter(is_shown).collect();
            let has_cases = results.iter().any(|result| result.case != results[0].case);
            for result in results {
                let size = result.at.as_ref().map(|at| units::grouped(at.value)).unwrap_or_default();
                let (row, column) = match self.columns {
                    Columns::Measures => (result.case.clone(), (*called).to_owned()),
                    Columns::Sizes if self.measures.len() == 1 => (result.case.clone(), size),
                    Columns::Sizes if has_cases => (format!("{called}, {}", result.case), size),
                    Columns::Sizes => ((*called).to_owned(), size),
                    Columns::Cases => ((*called).to_owned(), result.case.clone()),
                };
                placed.push(Placed { row, column, result });
            }
        }
        placed
    }

    /// The columns: measures as they are listed, sizes by size, cases as they came.
    fn in_order(&self, placed: &[Placed<'_>]) -> Vec<String> {
        let mut columns: Vec<(u64, &str)> = Vec::new();
        for it in placed {
            if !columns.iter().any(|(_, name)| *name == it.column) {
                let size = it.result.at.as_ref().filter(|_| self.columns == Columns::Sizes);
                columns.push((size.map_or(0, |at| at.value), &it.column));
            }
        }
        columns.sort_by_key(|(size, _)| *size);
        columns.into_iter().map(|(_, name)| name.to_owned()).collect()
    }
}

fn cell(placed: &Placed<'_>) -> String {
    let result = placed.result;
    let ratio = result.ratio.as_ref().map(|ratio| format!(" ({})", units::number(ratio.value.median)));
    units::typical(&result.unit, &result.value) + &ratio.unwrap_or_default()
}

/// How many rounds these are of; `None` if that is not the same kind of value for all.
fn rounds<'a>(placed: impl Iterator<Item = &'a Placed<'a>>) -> Option<String> {
    let (mut least, mut most) = (usize::MAX, 0);
    for it in placed {
        least = least.min(it.result.value.samples);
        most = most.max(it.result.value.samples);
    }
    (least == most || least > 2).then(|| units::rounds(least, most))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::findings::Findings;
    use crate::report::Ran;
    use crate::samples::Key;

    fn report() -> Report {
        let mut findings = Findings::new("noise");
        for value in [2.0, 3.0, 4.0] {
            for measure in ["p50", "p99"] {
                findings.push(Key::new(measure, "kernel"), "µs", value);
                findings.push(Key::new(measure, "fast path"), "µs", value / 2.0);
            }
            for size in [1000, 10] {
                findings.push(Key::new("up", "p50").at("interfaces", size), "ms", value);
                findings.push(Key::new("up", "p99").at("interfaces", size), "ms", 2.0 * value);
            }
        }
        findings.push(Key::new("start", "agent").at("interfaces", 1000), "ms", 1191.0);
        findings.compare("p50", "kernel");
        let ran = Ran { name: "noise".to_owned(), what: String::new(), seconds: 0.0, failed: None, notes: Vec::new() };
        let mut report = Report::begin(false).unwrap();
        findings.report(ran, &mut report);
        report
    }

    fn rows(columns: Columns, measures: &'static [(&str, &str)], cases: &'static [&str]) -> Vec<String> {
        let table = Table { columns, measures, cases };
        table.rows(&report(), "noise").iter().map(|row| row.join("|")).collect()
    }

    #[test]
    fn cases_stand_below_one_another() {
        assert_eq!(
            rows(Columns::Measures, &[("p99", "p99"), ("p50", "median")], &[]),
            [
                "median of 3; in brackets × kernel|p99|median",
                "kernel|3.00 µs|3.00 µs",
                "fast path|1.50 µs|1.50 µs (0.500)"
            ]
        );
        assert_eq!(
            rows(Columns::Measures, &[("p99", "p99")], &["fast path"]),
            ["median of 3|p99", "fast path|1.50 µs"]
        );
        assert_eq!(rows(Columns::Measures, &[("p10", "p10")], &[]), [""; 0]);
    }

    #[test]
    fn sizes_and_cases_are_columns_too() {
        assert_eq!(
            rows(Columns::Sizes, &[("start", "first start"), ("up", "link up")], &[]),
            [
                "interfaces|10|1,000",
                "first start (one run)||1,190 ms",
                "link up, p50 (median of 3)|3.00 ms|3.00 ms",
                "link up, p99 (median of 3)|6.00 ms|6.00 ms"
            ]
        );
        assert_eq!(
            rows(Columns::Sizes, &[("up", "link up")], &["p50"]),
            ["interfaces; median of 3|10|1,000", "p50|3.00 ms|3.00 ms"]
        );
        assert_eq!(rows(Columns::Cases, &[("p50", "p50 of it")], &[])[1..], ["p50 of it|3.00 µs|1.50 µs (0.500)"]);
    }
}
