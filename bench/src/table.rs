//! The tables on the terminal.

use tabled::builder::Builder;
use tabled::settings::object::Columns;
use tabled::settings::{Alignment, Modify, Style};

use bench::Spread;

use crate::report::{Goal, GoalBound, Measurement, Report};
use bench::units::{self, grouped, number};

/// Prints a whole report.
pub(crate) fn print(report: &Report) {
    println!("{}\n", report.headline());
    for ran in &report.benchmarks {
        println!("{}: {}", ran.name, ran.what);
        print_benchmark(report, &ran.name);
    }
    print_goals(report);
}

/// Prints one benchmark's results, and its notes below.
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

/// The head for the rows of [`cells`]: each table shows one measure.
fn head(measure: &str, results: &[&Measurement]) -> [String; 5] {
    let to = results.iter().find_map(|result| result.ratio.as_ref()).map(|ratio| format!("ratio to {}", ratio.to));
    let rounds = results.iter().map(|result| result.value.samples);
    let (least, most) = (rounds.clone().min().unwrap_or_default(), rounds.max().unwrap_or_default());
    [
        measure.to_owned(),
        format!("median of {}", if least == most { least.to_string() } else { format!("{least}–{most}") }),
        "quartiles".to_owned(),
        "lowest–highest".to_owned(),
        to.unwrap_or_else(|| "ratio".to_owned()),
    ]
}

/// A row of a table.
fn cells(result: &Measurement) -> [String; 5] {
    let [median, quartiles, extremes] = units::spread(&result.unit, &result.value);
    let ratio = result.ratio.as_ref().map(|ratio| {
        let Spread { median, spread, .. } = &ratio.value;
        format!("{} ({})", number(*median), units::range(spread.lowest, spread.highest, 1.0))
    });
    [label(result), median, quartiles, extremes, ratio.unwrap_or_default()]
}

/// The case, and the size that it was measured at.
pub(crate) fn label(result: &Measurement) -> String {
    let Some(at) = &result.at else { return result.case.clone() };
    let name = if at.value == 1 { at.name.strip_suffix('s').unwrap_or(&at.name) } else { &at.name };
    format!("{}, {} {name}", result.case, grouped(at.value))
}

/// The goals that the benchmarks of this run judge.
pub(crate) fn print_goals(report: &Report) {
    let mut table = Builder::default();
    table.push_record(GOALS_HEAD);
    goal_rows(&report.goals).into_iter().for_each(|row| table.push_record(row));
    if table.count_records() > 1 {
        let mut table = table.build();
        table.with(Style::rounded()).with(Modify::new(Columns::new(3..)).with(Alignment::right()));
        println!("Goals (docs/performance.md):\n{table}");
    }
}

/// The head for the rows of [`goal_rows`].
pub(crate) const GOALS_HEAD: [&str; 7] =
    ["goal", "what", "decided by", "bound", "median (lowest–highest)", "beside it", "met"];

/// A row for all goals with the same bound for the same thing: the one that is farthest from it decides.
pub(crate) fn goal_rows(goals: &[Goal]) -> Vec<[String; 7]> {
    let mut groups: Vec<Vec<&Goal>> = Vec::new();
    for goal in goals {
        let is_like = |other: &Goal| (&other.id, &other.what, other.bound) == (&goal.id, &goal.what, goal.bound);
        match groups.iter_mut().find(|group| is_like(group[0])) {
            Some(group) => group.push(goal),
            None => groups.push(vec![goal]),
        }
    }
    // As numbers: P2 comes before P13.
    groups.sort_by_key(|group| {
        let (letter, number) = group[0].id.split_at(group[0].id.len().min(1));
        (letter.to_owned(), number.parse::<u32>().unwrap_or_default())
    });
    groups.iter().filter_map(|group| Some(goal_cells(worst(group)?, group.len()))).collect()
}

fn worst<'a>(group: &[&'a Goal]) -> Option<&'a Goal> {
    group.iter().copied().max_by(|one, other| one.excess().total_cmp(&other.excess()))
}

fn goal_cells(goal: &Goal, of: usize) -> [String; 7] {
    let (sign, bound) = match goal.bound {
        GoalBound::AtMost(value) => ("≤", value),
        GoalBound::AtLeast(value) => ("≥", value),
    };
    let bound = if bound >= 1000.0 { grouped(bound as u64) } else { bound.to_string() };
    let beside = goal.beside.as_ref().map(|it| format!("{}: {}", it.case, number(it.value.median)));
    [
        goal.id.clone(),
        goal.what.clone(),
        if of > 1 { format!("{} (1 of {of})", goal.case) } else { goal.case.clone() },
        format!("{sign} {bound} {}", goal.unit),
        reached(goal),
        beside.unwrap_or_default(),
        if goal.met { "yes" } else { "NO" }.to_owned(),
    ]
}

/// The median, in the unit of the bound; the extremes where there were several rounds.
fn reached(goal: &Goal) -> String {
    let Spread { median, spread, samples } = &goal.value;
    let median = units::with_unit(*median, &goal.unit);
    match samples {
        0 => "not measured".to_owned(),
        1 => median,
        _ => format!("{median} ({})", units::range(spread.lowest, spread.highest, 1.0)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_of_like_goals_decides() {
        let judge = |id, what, bound, values: &[f64]| Goal::judge("tax", id, what, bound, "×", values);
        let goals = [
            judge("P11", ["start", "1,000 veths"], GoalBound::AtMost(20_000.0), &[1191.0]),
            judge("P7", ["tcx", "UDP"], GoalBound::AtLeast(0.97), &[0.96, 0.95, 0.99]),
            judge("P7", ["tcx", "TCP"], GoalBound::AtLeast(0.97), &[1.0, 1.0]),
            judge("P7", ["xdp", "TCP"], GoalBound::AtLeast(0.97), &[]),
        ];
        let rows: Vec<String> = goal_rows(&goals).iter().map(|row| row.join("|")).collect();
        assert_eq!(
            rows,
            [
                "P7|tcx|UDP (1 of 2)|≥ 0.97 ×|0.960 × (0.950–0.990)||NO",
                "P7|xdp|TCP|≥ 0.97 ×|not measured||NO",
                "P11|start|1,000 veths|≤ 20,000 ×|1,190 ×||yes",
            ]
        );
    }
}
