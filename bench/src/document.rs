//! The figures of docs/performance.md: what stands between its markers comes from the JSON, and from nowhere else.
//!
//! `<!-- bench NAME -->` opens a place that `<!-- end -->` closes. NAME is `machine`, `goals`, or a benchmark's name.
//!
//! A figure in a sentence stands between `<!-- figure BENCHMARK | MEASURE | CASE -->` and `<!-- /figure -->`: the median as
//! the benchmark's table has it. `| ratio` at the end takes the median of the ratio instead. In this page such figures are
//! filled in, too; in other documents a test compares them.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, bail};

use crate::report::Report;
use crate::{machine, plots, table};

const OPEN: &str = "<!-- bench ";
const CLOSE: &str = "<!-- end -->";
const FIGURE: &str = "<!-- figure ";
const FIGURE_END: &str = "<!-- /figure -->";

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
    with_figures(report, &out)
}

/// The text with its single figures as they were measured; those that this report has not stay as they are.
fn with_figures(report: &Report, text: &str) -> Result<String> {
    let mut parts = text.split(FIGURE);
    let mut out = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (name, rest) = part.split_once(" -->").context("a figure's marker is not closed by -->")?;
        let (now, rest) =
            rest.split_once(FIGURE_END).with_context(|| format!("{name:?} is not closed by {FIGURE_END}"))?;
        let figure = figure(report, name)?.unwrap_or_else(|| now.to_owned());
        write!(out, "{FIGURE}{name} -->{figure}{FIGURE_END}{rest}")?;
    }
    Ok(out)
}

/// The figure of that name; `None` if its benchmark did not run.
fn figure(report: &Report, name: &str) -> Result<Option<String>> {
    let parts: Vec<&str> = name.split(" | ").collect();
    let (benchmark, measure, case, is_ratio) = match parts[..] {
        [benchmark, measure, case] => (benchmark, measure, case, false),
        [benchmark, measure, case, "ratio"] => (benchmark, measure, case, true),
        _ => bail!("{name:?} is not BENCHMARK | MEASURE | CASE, or that and | ratio"),
    };
    if !report.benchmarks.iter().any(|ran| ran.name == benchmark) {
        return Ok(None);
    }
    let measures = report.measures(benchmark);
    let (_, results) =
        measures.iter().find(|(of, _)| *of == measure).with_context(|| format!("{name:?}: no such measure"))?;
    let mut rows = results.iter().map(|result| table::cells(result));
    let [_, median, .., ratio] = rows.find(|row| row[0] == case).with_context(|| format!("{name:?}: no such case"))?;
    Ok(Some(if is_ratio { ratio.split(" (").next().unwrap_or_default().to_owned() } else { median }))
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

    /// Figures in the sentences of all documents are those of docs/performance.json.
    #[test]
    fn figures_in_prose_are_those_that_were_measured() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let report = Report::read(&root.join("docs/performance.json")).unwrap();
        let mut documents = vec![root.join("README.md"), root.join("ARCHITECTURE.md"), root.join("CONTRIBUTING.md")];
        for folder in ["docs", "docs/adr"] {
            let entries = fs::read_dir(root.join(folder)).unwrap().map(|entry| entry.unwrap().path());
            documents.extend(entries.filter(|path| path.extension().is_some_and(|extension| extension == "md")));
        }
        let mut figures = 0;
        for path in documents {
            let text = fs::read_to_string(&path).unwrap();
            figures += text.matches(FIGURE).count();
            let measured = with_figures(&report, &text).unwrap();
            for (is, must) in text.lines().zip(measured.lines()) {
                assert_eq!(is, must, "{}", path.display());
            }
        }
        assert!(figures > 5, "{figures} figures are marked");
    }

    #[test]
    fn a_figure_in_a_sentence_is_the_table_s() {
        let text = "It takes <!-- figure noise | p50 | fast path -->9 ns<!-- /figure -->, or \
                    <!-- figure noise | p50 | fast path | ratio -->9<!-- /figure --> of it; <!-- figure decide | a | b -->7<!-- /figure -->.";
        let once = with_figures(&report(), text).unwrap();
        assert!(once.contains("-->1.50 µs<!--") && once.contains("-->0.500<!--"), "{once}");
        assert!(once.contains("-->7<!--"), "what was not measured stays: {once}");
        for bad in
            ["<!-- figure noise | p50 | nobody -->", "<!-- figure noise | p50 -->", "<!-- figure noise | p9 | it -->"]
        {
            assert!(with_figures(&report(), &format!("{bad}1{FIGURE_END}")).is_err(), "{bad}");
        }
        assert!(with_figures(&report(), "<!-- figure noise | p50 | fast path -->1").is_err());
    }

    #[test]
    fn a_marker_that_is_open_or_unknown_is_refused() {
        assert!(filled(&report(), "<!-- bench noise -->\n", None).is_err());
        assert!(filled(&report(), "<!-- bench nothing -->\n<!-- end -->", None).is_err());
    }
}
