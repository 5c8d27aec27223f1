//! The plots: one SVG file for each measure. Cases with a size are drawn as lines over it, others as bars.

use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, anyhow};
use plotters::coord::ranged1d::{KeyPointHint, NoDefaultFormatting, Ranged, ValueFormatter};
use plotters::coord::types::RangedCoordf64;
use plotters::prelude::*;

use crate::report::{Measurement, Report};
use bench::units::{number, typical};

/// The palette of Okabe and Ito, which colour-blind people can tell apart too.
const COLOURS: [RGBColor; 8] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(86, 180, 233),
    RGBColor(230, 159, 0),
    RGBColor(90, 90, 90),
    RGBColor(150, 130, 0),
];
/// Where the values of a plot are further apart than this, its axis is logarithmic.
const LOGARITHMIC: f64 = 20.0;
const WIDTH: u32 = 900;
const FONT: &str = "sans-serif";

/// Draws every measure of the report that has something to show into a file of its own in `folder`.
pub(crate) fn draw(report: &Report, folder: &Path) -> Result<Vec<PathBuf>> {
    fs::create_dir_all(folder).with_context(|| format!("creating {}", folder.display()))?;
    draw_some(report, folder, |_| true)
}

/// The same for the pictures whose file names are wanted. Gives the paths that were written.
pub(crate) fn draw_some(report: &Report, folder: &Path, is_wanted: impl Fn(&str) -> bool) -> Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    for ran in &report.benchmarks {
        for (measure, results) in report.measures(&ran.name) {
            for picture in pictures(&ran.name, measure, &results) {
                if !is_wanted(&picture.file) {
                    continue;
                }
                let path = folder.join(&picture.file);
                let quick = if report.quick { " (quick: not to be quoted)" } else { "" };
                let title = format!("{}: {measure}{quick}", ran.name);
                let drawn = if results.iter().any(|result| result.at.is_some()) {
                    lines(&path, &title, &picture.results)
                } else {
                    bars(&path, &title, &picture.results)
                };
                drawn.map_err(|error| anyhow!("drawing {}: {error}", path.display()))?;
                paths.push(path);
            }
        }
    }
    Ok(paths)
}

/// A file, and what it shows.
struct Picture<'a> {
    file: String,
    results: Vec<&'a Measurement>,
}

/// The pictures of a measure. A single bar makes no picture. If one case is so far from the others that the axis is
/// logarithmic, a second picture shows those near the case that all are compared with.
fn pictures<'a>(benchmark: &str, measure: &str, results: &[&'a Measurement]) -> Vec<Picture<'a>> {
    if results.len() < 2 || results.iter().any(|result| !result.value.median.is_finite()) {
        return Vec::new();
    }
    let mut pictures = vec![Picture { file: file_name(benchmark, measure), results: results.to_vec() }];
    let base = results.iter().find_map(|result| result.ratio.as_ref()).and_then(|ratio| {
        results.iter().find(|result| result.case == ratio.to && result.at.is_none()).map(|base| base.value.median)
    });
    if let (Some(base), true) = (base, Axis::of(results).logarithmic) {
        let is_near = |result: &&Measurement| (base / 5.0..base * 5.0).contains(&result.value.median);
        let near: Vec<&Measurement> = results.iter().copied().filter(is_near).collect();
        if (2..results.len()).contains(&near.len()) {
            pictures.push(Picture { file: file_name(benchmark, &format!("{measure} near")), results: near });
        }
    }
    pictures
}

fn file_name(benchmark: &str, measure: &str) -> String {
    let slug: String =
        measure.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' }).collect();
    let words: Vec<&str> = slug.split('-').filter(|word| !word.is_empty()).collect();
    format!("{benchmark}-{}.svg", words.join("-"))
}

type Drawn = Result<(), Box<dyn std::error::Error>>;

/// An axis of values: from 0, or logarithmic where the values are far apart.
#[derive(Clone)]
struct Axis {
    range: Range<f64>,
    logarithmic: bool,
}

impl Axis {
    fn of(results: &[&Measurement]) -> Self {
        let lowest = results.iter().map(|r| r.value.spread.lowest).fold(f64::INFINITY, f64::min);
        let medians = results.iter().map(|r| r.value.median);
        let highest = results.iter().map(|r| r.value.spread.highest).fold(f64::NEG_INFINITY, f64::max);
        let smallest = medians.fold(f64::INFINITY, f64::min);
        if lowest > 0.0 && highest / smallest > LOGARITHMIC {
            Axis { range: lowest / 1.5..highest * 1.5, logarithmic: true }
        } else {
            Axis { range: lowest.min(0.0)..highest.max(f64::MIN_POSITIVE) * 1.08, logarithmic: false }
        }
    }

    /// Where bars begin.
    fn foot(&self) -> f64 {
        if self.logarithmic { self.range.start } else { 0.0 }
    }

    fn place(&self, value: f64) -> f64 {
        let Range { start, end } = self.range;
        if self.logarithmic {
            (value.max(start) / start).ln() / (end / start).ln()
        } else {
            (value - start) / (end - start)
        }
    }
}

impl Ranged for Axis {
    type FormatOption = NoDefaultFormatting;
    type ValueType = f64;

    fn map(&self, value: &f64, limit: (i32, i32)) -> i32 {
        limit.0 + (self.place(*value) * f64::from(limit.1 - limit.0)).round() as i32
    }

    fn key_points<Hint: KeyPointHint>(&self, hint: Hint) -> Vec<f64> {
        let Range { start, end } = self.range;
        if !self.logarithmic {
            return RangedCoordf64::from(start..end).key_points(hint);
        }
        let decades = start.log10().floor() as i32..=end.log10().ceil() as i32;
        let steps: &[f64] = if end / start > 1e3 { &[1.0] } else { &[1.0, 2.0, 5.0] };
        let points = decades.flat_map(|decade| steps.iter().map(move |step| step * 10f64.powi(decade)));
        points.filter(|point| (start..=end).contains(point)).collect()
    }

    fn range(&self) -> Range<f64> {
        self.range.clone()
    }
}

impl ValueFormatter<f64> for Axis {
    fn format_ext(&self, value: &f64) -> String {
        number(*value)
    }
}

/// Horizontal bars, a case each, from the lowest to the highest value as a thin line.
fn bars(path: &Path, title: &str, results: &[&Measurement]) -> Drawn {
    let height = 110 + 34 * results.len() as u32;
    let root = SVGBackend::new(path, (WIDTH, height)).into_drawing_area();
    root.fill(&WHITE)?;
    let axis = Axis::of(results);
    let rows = results.len();
    let mut chart = ChartBuilder::on(&root)
        .caption(title, (FONT, 20))
        .margin(12)
        .margin_right(110)
        .set_label_area_size(LabelAreaPosition::Left, 300)
        .set_label_area_size(LabelAreaPosition::Bottom, 44)
        .build_cartesian_2d(axis.clone(), (0..rows).into_segmented())?;
    let names: Vec<String> = results.iter().map(|result| result.case.clone()).collect();
    chart
        .configure_mesh()
        .disable_y_mesh()
        .y_labels(rows)
        .x_labels(8)
        .y_label_formatter(&|segment| match segment {
            SegmentValue::CenterOf(row) | SegmentValue::Exact(row) => {
                rows.checked_sub(row + 1).and_then(|row| names.get(row)).cloned().unwrap_or_default()
            }
            SegmentValue::Last => String::new(),
        })
        .x_label_formatter(&|value| number(*value))
        .x_desc(axis_name(results[0], axis.logarithmic))
        .label_style((FONT, 14))
        .axis_desc_style((FONT, 15))
        .draw()?;
    for (index, result) in results.iter().enumerate() {
        let row = rows - 1 - index;
        let (value, colour) = (&result.value, COLOURS[index % COLOURS.len()]);
        let mut bar = Rectangle::new(
            [(axis.foot(), SegmentValue::Exact(row)), (value.median, SegmentValue::Exact(row + 1))],
            colour.mix(0.75).filled(),
        );
        bar.set_margin(6, 6, 0, 0);
        chart.draw_series([bar])?;
        let middle = SegmentValue::CenterOf(row);
        let (lowest, highest) = (value.spread.lowest, value.spread.highest);
        chart.draw_series([PathElement::new(
            [(lowest, middle.clone()), (highest, middle.clone())],
            BLACK.stroke_width(1),
        )])?;
        chart.draw_series([lowest, highest].map(|end| {
            EmptyElement::at((end, middle.clone())) + PathElement::new([(0, -4), (0, 4)], BLACK.stroke_width(1))
        }))?;
        let text = typical(&result.unit, value);
        chart.draw_series([
            EmptyElement::at((highest.max(value.median), middle)) + Text::new(text, (8, -7), (FONT, 14))
        ])?;
    }
    root.present()?;
    Ok(())
}

/// Lines over the size, a case each, with its quartiles as a thin line at each point.
fn lines(path: &Path, title: &str, results: &[&Measurement]) -> Drawn {
    let results: Vec<&Measurement> = results.iter().copied().filter(|result| result.at.is_some()).collect();
    let size = |result: &Measurement| result.at.as_ref().map_or(1.0, |at| at.value.max(1) as f64);
    let root = SVGBackend::new(path, (WIDTH, 560)).into_drawing_area();
    root.fill(&WHITE)?;
    let axis = Axis::of(&results);
    let smallest = results.iter().map(|r| size(r)).fold(f64::INFINITY, f64::min);
    let largest = results.iter().map(|r| size(r)).fold(1.0, f64::max);
    let sizes = Axis { range: smallest / 1.3..largest * 1.3, logarithmic: true };
    let mut chart = ChartBuilder::on(&root)
        .caption(title, (FONT, 20))
        .margin(12)
        .set_label_area_size(LabelAreaPosition::Left, 70)
        .set_label_area_size(LabelAreaPosition::Bottom, 44)
        .build_cartesian_2d(sizes, axis.clone())?;
    let of = results[0].at.as_ref().map_or("", |at| at.name.as_str());
    chart
        .configure_mesh()
        .x_label_formatter(&|value| number(*value))
        .y_label_formatter(&|value| number(*value))
        .x_desc(format!("{of} (logarithmic)"))
        .y_desc(axis_name(results[0], axis.logarithmic))
        .label_style((FONT, 14))
        .axis_desc_style((FONT, 15))
        .draw()?;
    let mut cases: Vec<&str> = Vec::new();
    for result in &results {
        if !cases.contains(&result.case.as_str()) {
            cases.push(&result.case);
        }
    }
    for (index, case) in cases.into_iter().enumerate() {
        let colour = COLOURS[index % COLOURS.len()];
        let points: Vec<&&Measurement> = results.iter().filter(|result| result.case == case).collect();
        let line = points.iter().map(|result| (size(result), result.value.median));
        // After the eighth the colours come again, with open circles.
        let style = if index < COLOURS.len() { colour.filled() } else { colour.stroke_width(2) };
        chart
            .draw_series(LineSeries::new(line.clone(), colour.stroke_width(2)))?
            .label(case)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 20, y)], colour.stroke_width(3)));
        chart.draw_series(line.map(|point| Circle::new(point, 4, style)))?;
        chart.draw_series(points.iter().map(|result| {
            let spread = &result.value.spread;
            PathElement::new([(size(result), spread.q1), (size(result), spread.q3)], colour.stroke_width(1))
        }))?;
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperLeft)
        .background_style(WHITE.mix(0.85))
        .border_style(BLACK.mix(0.3))
        .label_font((FONT, 13))
        .draw()?;
    root.present()?;
    Ok(())
}

fn axis_name(result: &Measurement, logarithmic: bool) -> String {
    format!("{}{}", result.unit, if logarithmic { " (logarithmic)" } else { "" })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::Report;
    use crate::samples::Key;
    use crate::{findings::Findings, report::Ran};

    #[test]
    fn a_file_is_named_after_what_it_shows() {
        assert_eq!(
            file_name("storm", "host cost per reply, over the floor"),
            "storm-host-cost-per-reply-over-the-floor.svg"
        );
    }

    #[test]
    fn every_case_and_unit_stands_in_the_picture() {
        let mut findings = Findings::new("decide");
        for (routes, kernel) in [(1, 50.0), (1_000_000, 1900.0)] {
            findings.push(Key::new("per frame", "LPM").at("routes", routes), "ns", kernel);
            findings.push(Key::new("per frame", "trie").at("routes", routes), "ns", 60.0);
        }
        findings.push(Key::new("p50", "kernel, delayed"), "µs", 480_000.0);
        findings.push(Key::new("p50", "kernel"), "µs", 3.62);
        findings.push(Key::new("p50", "fast path"), "µs", 3.1);
        findings.compare("p50", "kernel");
        let mut report = Report::begin(true).unwrap();
        let (name, what) = ("decide".to_owned(), String::new());
        findings.report(Ran { name, what, seconds: 0.0, failed: None, notes: Vec::new() }, &mut report);
        let folder = std::env::temp_dir().join(format!("arp-plots-{}", std::process::id()));
        let paths = draw(&report, &folder).unwrap();
        let pictures: Vec<String> = paths.iter().map(|path| fs::read_to_string(path).unwrap()).collect();
        fs::remove_dir_all(&folder).unwrap();
        assert_eq!(pictures.len(), 3);
        for text in ["LPM", "trie", "routes (logarithmic)", "ns (logarithmic)", "1,000,000"] {
            assert!(pictures[0].contains(text), "{text}");
        }
        assert!(paths[2].ends_with("decide-p50-near.svg") && !pictures[2].contains("kernel, delayed"));
        for text in ["kernel, delayed", "3.62 µs", "µs (logarithmic)", "quick"] {
            assert!(pictures[1].contains(text), "{text}");
        }
    }
}
