//! Fills docs/performance.md: everything between its markers comes from the JSON.
//!
//! `<!-- bench NAME -->` opens a place that `<!-- end -->` closes. NAME is `machine`, `goals` (of all benchmarks but one,
//! which has a page of its own), or a benchmark's name.
//!
//! `<!-- figure BENCHMARK | MEASURE | CASE -->` opens a figure in a sentence, `<!-- /figure -->` closes it. The figure
//! is the value as in the page's tables; with `| ratio` at the end, it is the ratio.
//!
//! Plots that the document links to are drawn anew.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, bail};

use crate::benchmarks::BENCHMARKS;
use crate::layout::Table;
use crate::report::{Goal, Report};
use bench::units;

use crate::{plots, table};

/// The benchmark whose goals stand before its own tables, because it has a page of its own.
const APART: &str = "protection";
const OPEN: &str = "<!-- bench ";
const CLOSE: &str = "<!-- end -->";
const FIGURE: &str = "<!-- figure ";
const FIGURE_END: &str = "<!-- /figure -->";

/// Fills the file's places and figures, and draws its plots. What this run did not measure stays as it is.
pub(crate) fn rewrite(report: &Report, path: &Path) -> Result<()> {
    let text = filled(report, &fs::read_to_string(path)?)?;
    // Links are relative to the document.
    let folder = path.parent().unwrap_or(Path::new(""));
    let shown = plots_of(&text);
    for plot in &shown {
        let (plot, name) = (Path::new(plot), plot.rsplit('/').next().unwrap_or_default());
        let into = folder.join(plot.parent().unwrap_or(Path::new("")));
        plots::draw_some(report, &into, |file| file == name)?;
    }
    fs::write(path, text)?;
    Ok(())
}

/// The plots that a document shows, as it links to them.
fn plots_of(text: &str) -> Vec<&str> {
    let links = text.split("](").skip(1).filter_map(|rest| rest.split_once(')'));
    links.map(|(link, _)| link).filter(|link| link.ends_with(".svg")).collect()
}

fn filled(report: &Report, text: &str) -> Result<String> {
    let mut out = String::new();
    let mut rest = text;
    while let Some(start) = rest.find(OPEN) {
        let (before, place) = rest.split_at(start);
        let name = place.strip_prefix(OPEN).and_then(|rest| rest.split_once(" -->")).map(|(name, _)| name);
        let name = name.context("a marker is not closed by -->")?;
        let end = place.find(CLOSE).with_context(|| format!("the place {name:?} is not closed by {CLOSE}"))?;
        out.push_str(before);
        match content(report, name)? {
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

/// The figure of that name; `None` if this run did not measure it.
fn figure(report: &Report, name: &str) -> Result<Option<String>> {
    let parts: Vec<&str> = name.split(" | ").collect();
    let (benchmark, measure, case, is_ratio) = match parts[..] {
        [benchmark, measure, case] => (benchmark, measure, case, false),
        [benchmark, measure, case, "ratio"] => (benchmark, measure, case, true),
        _ => bail!("{name:?} is not BENCHMARK | MEASURE | CASE, or that and | ratio"),
    };
    let Some(ran) = report.benchmarks.iter().find(|ran| ran.name == benchmark) else { return Ok(None) };
    let mut results = report.results.iter().filter(|it| it.benchmark == benchmark && it.measure == measure);
    let Some(result) = results.find(|result| table::label(result) == case) else {
        let is_skipped = report.skipped.iter().any(|it| it.benchmark == benchmark && it.case.starts_with(case));
        return if is_skipped || ran.failed.is_some() { Ok(None) } else { bail!("{name:?}: no such measure or case") };
    };
    Ok(Some(if is_ratio {
        let ratio = result.ratio.as_ref().with_context(|| format!("{name:?} is compared with nothing"))?;
        units::number(ratio.value.median)
    } else {
        units::typical(&result.unit, &result.value)
    }))
}

/// What belongs into a place; `None` if this report has nothing for it.
fn content(report: &Report, name: &str) -> Result<Option<String>> {
    match name {
        "machine" => Ok(Some(format!("{}; `{}`.\n", report.headline(), report.command))),
        "goals" => Ok(goals(report, |benchmark| benchmark != APART)),
        name => {
            let known = BENCHMARKS.iter().find(|benchmark| benchmark.name == name);
            let known = known.with_context(|| format!("no benchmark is called {name:?}"))?;
            let ran = report.benchmarks.iter().any(|ran| ran.name == name);
            Ok(ran.then(|| benchmark(report, name, known.tables)))
        }
    }
}

/// The goals of some benchmarks; `None` if there are none.
fn goals(report: &Report, is_of: impl Fn(&str) -> bool) -> Option<String> {
    let goals: Vec<Goal> = report.goals.iter().filter(|goal| is_of(&goal.benchmark)).cloned().collect();
    if goals.is_empty() {
        return None;
    }
    let rows = table::goal_rows(&goals);
    let met = rows.iter().filter(|row| row.last().is_some_and(|met| met == "yes")).count();
    let head = markdown_row(&table::GOALS_HEAD) + &markdown_row(&table::GOALS_HEAD.map(|_| "---"));
    let rows: Vec<String> = rows.iter().map(|row| markdown_row(row)).collect();
    Some(format!("{met} of {} bounds are met.\n\n{head}{}", rows.len(), rows.concat()))
}

fn benchmark(report: &Report, name: &str, tables: &[Table]) -> String {
    let goals = if name == APART { goals(report, |benchmark| benchmark == name) } else { None };
    let mut text = goals.map_or_else(String::new, |goals| goals + "\n");
    for rows in tables.iter().map(|table| table.rows(report, name)) {
        let Some((head, rows)) = rows.split_first() else { continue };
        text += &(markdown_row(head) + &markdown_row(&vec!["---"; head.len()]));
        rows.iter().for_each(|row| text += &markdown_row(row));
        text.push('\n');
    }
    for ran in report.benchmarks.iter().filter(|ran| ran.name == name) {
        if !ran.notes.is_empty() {
            text += &format!("{}\n", ran.notes.join(" "));
        }
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
    use std::collections::BTreeSet;
    use std::path::PathBuf;

    use super::*;
    use crate::findings::Findings;
    use crate::report::{GoalBound, Ran};
    use crate::samples::Key;

    fn report() -> Report {
        let mut findings = Findings::new("noise");
        let one_run = "one run of the program";
        for value in [2.0, 3.0, 4.0] {
            findings.push(Key::new(one_run, "it"), "µs", value);
            findings.push(Key::new(one_run, "itself"), "µs", value / 2.0);
        }
        findings.compare(one_run, "it");
        findings.skip("another", "there is none");
        findings.goal("P3", ["p50", "itself"], GoalBound::AtMost(0.87), "×", &[0.5]);
        findings.beside("it", &[1.0]);
        findings.note("core 1");
        let ran = Ran { name: "noise".to_owned(), what: String::new(), seconds: 0.0, failed: None, notes: Vec::new() };
        let mut report = Report::begin(false).unwrap();
        findings.report(ran, &mut report);
        report
    }

    #[test]
    fn figures_go_between_the_markers_and_nothing_else_changes() {
        let text =
            "Prose.\n<!-- bench noise -->\nold\n<!-- end -->\nMore.\n<!-- bench decide -->\nkept\n<!-- end -->\n";
        let once = filled(&report(), text).unwrap();
        let table = "| median of 3; in brackets × it | it | itself |\n| --- | --- | --- |\n\
                     | one run of the program | 3.00 µs | 1.50 µs (0.500) |\n";
        assert!(once.starts_with(&format!("Prose.\n<!-- bench noise -->\n{table}")), "{once}");
        assert!(once.contains("\ncore 1\n- **Not measured**: another: there is none\n<!-- end -->\nMore.\n<!-- bench decide -->\nkept\n<!-- end -->\n"), "{once}");
        assert_eq!(filled(&report(), &once).unwrap(), once);
        let goals = filled(&report(), "<!-- bench goals --><!-- end -->").unwrap();
        assert!(goals.contains("1 of 1 bounds are met"), "{goals}");
        assert!(goals.contains("| P3 | p50 | itself | ≤ 0.87 × | 0.500 × | it: 1.00 | yes |\n"), "{goals}");
    }

    fn docs() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs")
    }

    /// Where the benchmarks' places are: those that are about one subject are on its page.
    const PAGES: [&str; 4] = ["performance.md", "protection.md", "compatibility.md", "operations.md"];

    /// The pages are what docs/performance.json makes of them, figures and plots.
    #[test]
    fn the_documents_say_what_was_measured() {
        let report = Report::read(&docs().join("performance.json")).unwrap();
        let texts = PAGES.map(|page| fs::read_to_string(docs().join(page)).unwrap());
        for name in crate::benchmarks::names() {
            let place = format!("{OPEN}{name} -->");
            assert!(texts.iter().any(|text| text.contains(&place)), "there is no place for {name}");
        }
        for (page, text) in PAGES.iter().zip(&texts) {
            let must = filled(&report, text).unwrap();
            for (is, must) in text.lines().zip(must.lines()) {
                assert_eq!(is, must, "docs/{page}");
            }
            assert_eq!(text.len(), must.len(), "docs/{page}");
        }
        assert!(texts[0].lines().count() <= 300, "docs/performance.md has {} lines", texts[0].lines().count());
    }

    /// The plots that docs/performance.md shows are in docs/plots, as docs/performance.json draws them, and no others.
    #[test]
    fn the_plots_show_what_was_measured() {
        let report = Report::read(&docs().join("performance.json")).unwrap();
        let text = fs::read_to_string(docs().join("performance.md")).unwrap();
        let shown: BTreeSet<String> = plots_of(&text).into_iter().map(str::to_owned).collect();
        let files = fs::read_dir(docs().join("plots")).unwrap().map(|entry| entry.unwrap().file_name());
        let files: BTreeSet<String> = files.map(|file| format!("plots/{}", file.to_str().unwrap())).collect();
        assert_eq!(shown, files, "what the page shows, and what docs/plots has");
        assert!(shown.len() <= 8, "{} plots", shown.len());

        let scratch = tempfile::tempdir().unwrap();
        let drawn = plots::draw(&report, scratch.path()).unwrap();
        for plot in shown {
            let name = plot.strip_prefix("plots/").unwrap();
            let now = drawn.iter().find(|path| path.ends_with(name)).unwrap_or_else(|| panic!("nothing draws {plot}"));
            assert!(fs::read(now).unwrap() == fs::read(docs().join(&plot)).unwrap(), "{plot} shows other figures");
        }
    }

    /// Figures in the sentences of all documents are those of docs/performance.json.
    #[test]
    fn figures_in_prose_are_those_that_were_measured() {
        let root = docs().join("..");
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
    fn a_figure_in_a_sentence_is_of_the_table() {
        let mark = |name: &str, is: &str| format!("{FIGURE}{name} -->{is}{FIGURE_END}");
        let figure = |name: &str| with_figures(&report(), &mark(name, "7"));
        for (name, is) in [
            ("noise | one run of the program | itself", "1.50 µs"),
            ("noise | one run of the program | itself | ratio", "0.500"),
            // What was not measured, or was skipped, stays.
            ("decide | a | b", "7"),
            ("noise | p50 | another", "7"),
        ] {
            assert_eq!(figure(name).unwrap(), mark(name, is));
        }
        for bad in
            ["noise | p50 | nobody", "noise | p50", "noise | p9 | it", "noise | one run of the program | it | ratio"]
        {
            assert!(figure(bad).is_err(), "{bad}");
        }
        assert!(with_figures(&report(), "<!-- figure noise | one run of the program | it -->1").is_err());
    }

    #[test]
    fn a_marker_that_is_open_or_unknown_is_refused() {
        assert!(filled(&report(), "<!-- bench noise -->\n").is_err());
        assert!(filled(&report(), "<!-- bench nothing -->\n<!-- end -->").is_err());
    }
}
