//! The tables on the terminal.

use bench::number;
use tabled::builder::Builder;
use tabled::settings::object::Columns;
use tabled::settings::{Alignment, Modify, Style};

use crate::report::{Bound, Goal, Measurement, Report, Spread};

/// All of a report.
pub(crate) fn print(report: &Report) {
    println!("{}\n", crate::machine::line(report));
    for ran in &report.benchmarks {
        println!("{}: {}", ran.name, ran.what);
        print_benchmark(report, &ran.name);
    }
    print_goals(report);
}

/// One benchmark's results, and its notes below.
pub(crate) fn print_benchmark(report: &Report, name: &str) {
    for (measure, results) in report.measures(name) {
        let mut table = Builder::default();
        table.push_record(head(measure, &results));
        results.iter().for_each(|result| table.push_record(cells(result)));
        let mut table = table.build();
        table.with(Style::rounded()).with(Modify::new(Columns::new(1..)).with(Alignment::right()));
        println!("{table}");
    }
    for ran in report.benchmarks.iter().filter(|ran| ran.name == name) {
        for note in &ran.notes {
            println!("  {note}");
        }
        if let Some(why) = &ran.failed {
            println!("  FAILED: {why}");
        }
        println!("  {} s\n", ran.seconds);
    }
    for skipped in report.skipped.iter().filter(|skipped| skipped.benchmark == name) {
        println!("  SKIPPED: {}: {}", skipped.case, skipped.why);
    }
}

/// What the columns of [`cells`] are: each table is of one measure.
pub(crate) fn head(measure: &str, results: &[&Measurement]) -> [String; 5] {
    let to = results.iter().find_map(|result| result.ratio.as_ref()).map(|ratio| format!("ratio to {}", ratio.to));
    let rounds = results.iter().map(|result| result.value.samples);
    let (least, most) = (rounds.clone().min().unwrap_or_default(), rounds.max().unwrap_or_default());
    let rounds = if least == most { most.to_string() } else { format!("{least}–{most}") };
    [
        measure.to_owned(),
        format!("median of {rounds}"),
        "quartiles".to_owned(),
        "lowest–highest".to_owned(),
        to.unwrap_or_else(|| "ratio".to_owned()),
    ]
}

/// A row of a table.
pub(crate) fn cells(result: &Measurement) -> [String; 5] {
    let (unit, [median, quartiles, extremes]) = scaled(&result.unit, &result.value);
    let at = result.at.as_ref().map(|at| format!(", {} {}", grouped(at.value), at.name)).unwrap_or_default();
    let ratio = result.ratio.as_ref().map(|ratio| {
        let Spread { median, spread, .. } = &ratio.value;
        format!("{} ({}–{})", number(*median), number(spread.lowest), number(spread.highest))
    });
    [format!("{}{at}", result.case), format!("{median} {unit}"), quartiles, extremes, ratio.unwrap_or_default()]
}

/// The goals that the benchmarks of this run judge.
pub(crate) fn print_goals(report: &Report) {
    let mut table = Builder::default();
    table.push_record(GOALS_HEAD);
    for goal in &report.goals {
        table.push_record(goal_cells(goal));
    }
    if table.count_records() > 1 {
        let mut table = table.build();
        table.with(Style::rounded()).with(Modify::new(Columns::new(2..)).with(Alignment::right()));
        println!("Goals (docs/performance.md):\n{table}");
    }
}

/// What the columns of [`goal_cells`] are.
pub(crate) const GOALS_HEAD: [&str; 5] = ["goal", "what", "bound", "median (lowest–highest)", "met"];

/// A row of the goals' table.
pub(crate) fn goal_cells(goal: &Goal) -> [String; 5] {
    let (sign, bound) = match goal.bound {
        Bound::AtMost(value) => ("≤", value),
        Bound::AtLeast(value) => ("≥", value),
    };
    let Spread { median, spread, samples } = &goal.value;
    let value = format!("{} {} ({}–{})", number(*median), goal.unit, number(spread.lowest), number(spread.highest));
    [
        goal.id.clone(),
        goal.what.clone(),
        format!("{sign} {bound} {}", goal.unit),
        if *samples == 0 { "not measured".to_owned() } else { value },
        if goal.met { "yes" } else { "NO" }.to_owned(),
    ]
}

/// Median, quartiles and extremes as text, in the unit that suits the median.
fn scaled(unit: &str, value: &Spread) -> (String, [String; 3]) {
    let (factor, unit) = match unit {
        "µs" if value.median >= 1e3 => (1e3, "ms"),
        "ns" if value.median >= 1e3 => (1e3, "µs"),
        other => (1.0, other),
    };
    let text = |value: f64| number(value / factor);
    let spread = &value.spread;
    let range = |low, high| format!("{}–{}", text(low), text(high));
    (unit.to_owned(), [text(value.median), range(spread.q1, spread.q3), range(spread.lowest, spread.highest)])
}

/// A whole number with a space between thousands.
pub(crate) fn grouped(value: u64) -> String {
    let digits = value.to_string();
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(' ');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thousands_are_set_apart() {
        assert_eq!([1, 100, 10_000, 1_000_000].map(grouped), ["1", "100", "10 000", "1 000 000"]);
    }

    #[test]
    fn a_unit_suits_its_value() {
        let (unit, texts) = scaled("µs", &Spread::of(&[480_000.0, 500_000.0, 520_000.0]));
        assert_eq!((unit.as_str(), texts[0].as_str(), texts[2].as_str()), ("ms", "500", "480–520"));
        assert_eq!(scaled("µs", &Spread::of(&[3.62])).0, "µs");
    }
}
