//! The figures of docs/performance.md: what stands between its markers comes from the JSON, and from nowhere else.
//!
//! `<!-- bench NAME -->` opens a place that `<!-- end -->` closes. NAME is `machine`, `goals`, or a benchmark's name.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, bail};

use crate::report::Report;
use crate::{machine, plots, table};

const OPEN: &str = "<!-- bench ";
const CLOSE: &str = "<!-- end -->";

/// Rewrites the file's places; those of benchmarks that did not run stay as they are.
pub(crate) fn rewrite(report: &Report, path: &Path, plots: Option<&Path>) -> Result<()> {
    let text = fs::read_to_string(path)?;
    // Links are relative to the document.
    let folder = path.parent().unwrap_or(Path::new(""));
    let plots = plots.map(|plots| plots.strip_prefix(folder).unwrap_or(plots));
    fs::write(path, filled(report, &text, plots)?)?;
    Ok(())
}

fn filled(report: &Report, text: &str, plots: Option<&Path>) -> Result<String> {
    let mut out = String::new();
    let mut rest = text;
    while let Some(start) = rest.find(OPEN) {
        let (before, place) = rest.split_at(start);
        let name = place.strip_prefix(OPEN).and_then(|rest| rest.split_once(" -->")).map(|(name, _)| name);
        let name = name.context("a marker is not closed by -->")?;
        let end = place.find(CLOSE).with_context(|| format!("the place {name:?} is not closed by {CLOSE}"))?;
        out.push_str(before);
        match content(report, name, plots)? {
            Some(content) => write!(out, "{OPEN}{name} -->\n{content}{CLOSE}")?,
            None => out.push_str(&place[..end + CLOSE.len()]),
        }
        rest = &place[end + CLOSE.len()..];
    }
    out.push_str(rest);
    Ok(out)
}

/// What belongs into a place; `None` if this report has nothing for it.
fn content(report: &Report, name: &str, plots: Option<&Path>) -> Result<Option<String>> {
    match name {
        "machine" => Ok(Some(format!("{}.\n\n`{}`\n", machine::line(report), report.command))),
        "goals" => Ok((!report.goals.is_empty()).then(|| goals(report))),
        name if crate::benchmarks::names().contains(&name) => {
            let ran = report.benchmarks.iter().any(|ran| ran.name == name);
            Ok(ran.then(|| benchmark(report, name, plots)))
        }
        other => bail!("no benchmark is called {other:?}"),
    }
}

fn goals(report: &Report) -> String {
    let mut text = markdown_row(&table::GOALS_HEAD) + &markdown_row(&table::GOALS_HEAD.map(|_| "---"));
    report.goals.iter().for_each(|goal| text += &markdown_row(&table::goal_cells(goal)));
    text
}

fn benchmark(report: &Report, name: &str, plots: Option<&Path>) -> String {
    let mut text = String::new();
    for (measure, results) in report.measures(name) {
        let head = table::head(measure, &results);
        text += &(markdown_row(&head) + &markdown_row(&head.clone().map(|_| "---".to_owned())));
        results.iter().for_each(|result| text += &markdown_row(&table::cells(result)));
        text.push('\n');
        for picture in plots::pictures(name, measure, &results) {
            if let Some(plots) = plots {
                text += &format!("![{name}: {measure}]({})\n\n", plots.join(picture.file).display());
            }
        }
    }
    for ran in report.benchmarks.iter().filter(|ran| ran.name == name) {
        ran.notes.iter().for_each(|note| text += &format!("- {note}\n"));
        if let Some(why) = &ran.failed {
            text += &format!("- **Did not come to its end**: {why}\n");
        }
    }
    for skipped in report.skipped.iter().filter(|skipped| skipped.benchmark == name) {
        text += &format!("- **Not measured**: {}: {}\n", skipped.case, skipped.why);
    }
    text
}

fn markdown_row(cells: &[impl AsRef<str>]) -> String {
    let cells: Vec<String> = cells.iter().map(|cell| cell.as_ref().replace('|', "\\|")).collect();
    format!("| {} |\n", cells.join(" | "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::findings::Findings;
    use crate::report::{Bound, Ran};
    use crate::samples::Key;

    fn report() -> Report {
        let mut findings = Findings::new("noise");
        for value in [2.0, 3.0, 4.0] {
            findings.push(Key::new("p50", "kernel"), "µs", value);
            findings.push(Key::new("p50", "fast path"), "µs", value / 2.0);
        }
        findings.compare("p50", "kernel");
        findings.goal("P3", "p50", Bound::AtMost(0.87), "×", &[0.5]);
        findings.note("core 1");
        let ran = Ran { name: "noise".to_owned(), what: String::new(), seconds: 0.0, failed: None, notes: Vec::new() };
        let mut report = Report::begin(false).unwrap();
        report.add(findings, ran);
        report
    }

    #[test]
    fn figures_go_between_the_markers_and_nothing_else_changes() {
        let text =
            "Prose.\n<!-- bench noise -->\nold\n<!-- end -->\nMore.\n<!-- bench decide -->\nkept\n<!-- end -->\n";
        let once = filled(&report(), text, None).unwrap();
        assert!(once.starts_with("Prose.\n<!-- bench noise -->\n| p50 |"), "{once}");
        assert!(once.contains("| fast path | 1.50 µs | 1.00–2.00 | 1.00–2.00 | 0.500 (0.500–0.500) |\n"), "{once}");
        assert!(once.contains("- core 1\n<!-- end -->\nMore.\n<!-- bench decide -->\nkept\n<!-- end -->\n"), "{once}");
        assert_eq!(filled(&report(), &once, None).unwrap(), once);
        let goals = filled(&report(), "<!-- bench goals --><!-- end -->", None).unwrap();
        assert!(goals.contains("| P3 | p50 | ≤ 0.87 × | 0.500 × (0.500–0.500) | yes |\n"), "{goals}");
    }

    /// The figures of docs/performance.md are those of docs/performance.json; without one, there are none.
    #[test]
    fn the_document_says_what_was_measured() {
        let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs");
        let text = fs::read_to_string(docs.join("performance.md")).unwrap();
        if docs.join("performance.json").exists() {
            let report = Report::read(&docs.join("performance.json")).unwrap();
            for ran in &report.benchmarks {
                assert!(text.contains(&format!("{OPEN}{} -->", ran.name)), "there is no place for {}", ran.name);
            }
            assert_eq!(filled(&report, &text, Some(Path::new("plots"))).unwrap(), text);
        } else {
            let places = text.matches(OPEN).count();
            assert_eq!(text.matches(" -->\nNot measured yet.\n<!-- end -->").count(), places);
        }
    }

    #[test]
    fn a_marker_that_is_open_or_unknown_is_refused() {
        assert!(filled(&report(), "<!-- bench noise -->\n", None).is_err());
        assert!(filled(&report(), "<!-- bench nothing -->\n<!-- end -->", None).is_err());
    }
}
