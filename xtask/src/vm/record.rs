//! What guests said, kept in docs/kernels.json, and the tables of docs/kernels.md that are made of it.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result};
use serde_json::{Map, Value, json};

use super::guest;
use crate::arch::Arch;
use crate::test::Tier;
use crate::test::report::{Skip, TierOutcome};
use crate::{paths, process};

/// Tests about kinds of devices: each is a row of the second table. They are in these modules.
const DEVICES: [&str; 4] = ["matrix::cards::", "matrix::devices::", "matrix::kinds::", "matrix::vrf::"];

/// Where a table begins and ends in the page.
const MARKS: [[&str; 2]; 2] = [["<!-- runs -->", "<!-- /runs -->"], ["<!-- devices -->", "<!-- /devices -->"]];

/// One tier in one guest.
pub(super) struct TierRun<'a> {
    /// As it was asked for.
    pub(super) kernel: String,
    pub(super) arch: Arch,
    /// Name and version.
    pub(super) package: &'a str,
    pub(super) cpus: usize,
    pub(super) accel: &'a str,
    pub(super) tier: &'a str,
    pub(super) filters: &'a [String],
    pub(super) outcome: &'a TierOutcome,
    /// What it printed last, of random scenarios.
    pub(super) line: Option<&'a str>,
    /// The tests about devices, and what became of them.
    pub(super) devices: BTreeMap<String, String>,
}

/// What became of a tier's tests about devices.
pub(super) fn devices(output: &guest::GuestOutput, tier: Tier, skips: &[Skip]) -> BTreeMap<String, String> {
    words(guest::section(&output.tests, tier.name()), skips)
}

fn words<'a>(lines: impl Iterator<Item = &'a str>, skips: &[Skip]) -> BTreeMap<String, String> {
    let test = |line: &'a str| line.strip_prefix("test ")?.rsplit_once(" ... ");
    let of_devices = |(name, _): &(&str, &str)| DEVICES.iter().any(|module| name.starts_with(module));
    lines
        .filter_map(test)
        .filter(of_devices)
        .map(|(name, end)| {
            let skip = skips.iter().find(|skip| skip.name == name);
            let word = match skip {
                Some(skip) if !end.starts_with("FAILED") => format!("skipped: {}", skip.reason),
                None if end.starts_with("ok") => "passed".to_owned(),
                _ => "failed".to_owned(),
            };
            (name.to_owned(), word)
        })
        .collect()
}

impl TierRun<'_> {
    fn value(&self, commit: &str, date: &str) -> Value {
        let TierOutcome { counts, took, failures, skips, .. } = self.outcome;
        let mut skipped: Vec<String> = skips.iter().map(|skip| format!("{}: {}", skip.name, skip.reason)).collect();
        skipped.sort();
        json!({
            "kernel": self.kernel,
            "arch": self.arch.debian(),
            "package": self.package,
            "processors": self.cpus,
            "accel": self.accel,
            "tier": self.tier,
            "filters": self.filters,
            "commit": commit,
            "date": date,
            "passed": counts.passed,
            "failed": counts.failed,
            "skipped": counts.skipped,
            "seconds": took.as_secs(),
            "failures": failures,
            "skips": skipped,
            "line": self.line,
            "devices": self.devices,
        })
    }
}

/// What a run is known by: another of the same takes its place.
fn key(run: &Value) -> [String; 4] {
    ["kernel", "arch", "tier", "filters"].map(|part| run[part].to_string())
}

/// What is built now, by its commit.
pub(super) fn commit() -> Result<String> {
    let commit = git(&["log", "-1", "--format=%h"])?;
    // What an earlier run has written here is no change of the program.
    let changed = !git(&["status", "--porcelain", "--untracked-files=no", "--", ":!docs"])?.is_empty();
    Ok(if changed { format!("{commit} with changes") } else { commit })
}

/// Adds runs of what was built at `commit` to the file, and writes the page's tables anew.
pub(super) fn keep(runs: &[TierRun], commit: &str) -> Result<()> {
    let date = process::output(Command::new("date").args(["-u", "+%Y-%m-%d"]))?.trim().to_owned();
    let mut kept = kept()?;
    for run in runs {
        let run = run.value(commit, &date);
        kept.retain(|old| key(old) != key(&run));
        kept.push(run);
    }
    kept.sort_by_key(order);
    let text = serde_json::to_string_pretty(&kept)? + "\n";
    fs::write(file(), text).with_context(|| format!("cannot write {}", file().display()))?;
    write_page()
}

/// By kernel, processor and tier, the whole ones first.
fn order(run: &Value) -> (Vec<u32>, String, usize, String) {
    let text = |name: &str| run[name].as_str().unwrap_or_default().to_owned();
    let kernel = text("kernel").split('.').filter_map(|number| number.parse().ok()).collect();
    let tiers = ["program", "kernel", "lab", "lab-skb", "lab-driver", "faults", "parity"];
    let tier = tiers.iter().position(|tier| *tier == text("tier")).unwrap_or(tiers.len());
    (kernel, text("arch"), tier, run["filters"].to_string())
}

/// Writes the page's tables.
pub(crate) fn write_page() -> Result<()> {
    let text = fs::read_to_string(page()).with_context(|| format!("cannot read {}", page().display()))?;
    fs::write(page(), filled(&text, &kept()?)?).with_context(|| format!("cannot write {}", page().display()))
}

fn git(arguments: &[&str]) -> Result<String> {
    let said = process::output(Command::new("git").current_dir(paths::root()).args(arguments))?;
    Ok(said.trim().to_owned())
}

fn file() -> PathBuf {
    paths::root().join("docs/kernels.json")
}

fn page() -> PathBuf {
    paths::root().join("docs/kernels.md")
}

fn kept() -> Result<Vec<Value>> {
    let text = fs::read_to_string(file()).with_context(|| format!("cannot read {}", file().display()))?;
    serde_json::from_str(&text).with_context(|| format!("{} is not what `cargo xtask vm` writes", file().display()))
}

/// The page with its tables as the runs say.
fn filled(page: &str, runs: &[Value]) -> Result<String> {
    let mut page = page.to_owned();
    for ([begin, end], table) in MARKS.into_iter().zip([table_of_runs(runs), table_of_devices(runs)]) {
        let (before, rest) = page.split_once(begin).with_context(|| format!("docs/kernels.md has no line {begin}"))?;
        let (_, after) = rest.split_once(end).with_context(|| format!("docs/kernels.md has no line {end}"))?;
        page = format!("{before}{begin}\n{table}{end}{after}");
    }
    Ok(page)
}

/// The hook of a tier.
fn hook(tier: &str) -> &'static str {
    match tier {
        "program" => "all, by BPF_PROG_TEST_RUN",
        "kernel" => "none",
        "lab-skb" => "XDP, skb mode",
        "lab-driver" => "XDP, driver mode",
        _ => "default: tcx, before 6.6 clsact",
    }
}

fn table_of_runs(runs: &[Value]) -> String {
    let mut table =
        "| kernel | CPU | tier | hook | result | date | commit |\n|---|---|---|---|---|---|---|\n".to_owned();
    for run in runs {
        let text = |name: &str| run[name].as_str().unwrap_or_default();
        let tier = match run["filters"].as_array().map(Vec::as_slice).unwrap_or_default() {
            [] => text("tier").to_owned(),
            filters => format!("{}: {}", text("tier"), list(filters)),
        };
        let mut result = match text("line").strip_prefix("parity: ") {
            Some(line) => line.to_owned(),
            None => format!("{} passed", run["passed"]),
        };
        for (count, names, word) in [("failed", "failures", "failed"), ("skipped", "skips", "skipped")] {
            if run[count].as_u64().is_some_and(|count| count > 0) {
                let names = list(run[names].as_array().map(Vec::as_slice).unwrap_or_default());
                // Writing to a String cannot fail.
                let _ = write!(result, "; {} {word} ({names})", run[count]);
            }
        }
        let cpu = format!("{} \u{d7} {}", run["processors"], text("arch"));
        let hook = hook(text("tier"));
        let _ = writeln!(
            table,
            "| {} | {cpu} | {tier} | {hook} | {} | {} | {} |",
            text("kernel"),
            result.replace('|', "\\|"),
            text("date"),
            text("commit")
        );
    }
    table
}

fn list(words: &[Value]) -> String {
    words.iter().filter_map(Value::as_str).map(|word| format!("`{word}`")).collect::<Vec<_>>().join(", ")
}

/// Each test about a device, and what became of it on each kernel and processor.
fn table_of_devices(runs: &[Value]) -> String {
    let mut columns: Vec<(&Value, String)> = Vec::new();
    let mut rows: BTreeMap<&str, BTreeMap<usize, &str>> = BTreeMap::new();
    let empty = Map::new();
    for run in runs {
        let devices = run["devices"].as_object().unwrap_or(&empty);
        if devices.is_empty() {
            continue;
        }
        let text = |name: &str| run[name].as_str().unwrap_or_default();
        let mut title = format!("{} {}", text("kernel"), text("arch"));
        if text("tier") != "lab" {
            title += &format!(", {}", hook(text("tier")));
        }
        let column = columns.iter().position(|(_, there)| *there == title).unwrap_or(columns.len());
        if column == columns.len() {
            columns.push((run, title));
        }
        for (name, word) in devices {
            rows.entry(name).or_default().insert(column, word.as_str().unwrap_or_default());
        }
    }
    let titles: Vec<&str> = columns.iter().map(|(_, title)| title.as_str()).collect();
    let mut table = format!("| test | {} |\n|---|{}\n", titles.join(" | "), "---|".repeat(columns.len()));
    for (name, words) in rows {
        let short = DEVICES.iter().find_map(|module| name.strip_prefix(module)).unwrap_or(name);
        let words = (0..columns.len()).map(|column| words.get(&column).copied().unwrap_or("not run"));
        let _ = writeln!(table, "| `{short}` | {} |", words.collect::<Vec<_>>().join(" | "));
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_says_what_the_file_of_runs_says() {
        let text = fs::read_to_string(page()).unwrap();
        assert!(filled(&text, &kept().unwrap()).unwrap() == text, "run `cargo xtask docs`, or undo the change by hand");
    }

    #[test]
    fn runs_are_in_order_and_none_is_there_twice() {
        let kept = kept().unwrap();
        assert!(kept.is_sorted_by_key(order));
        let mut keys: Vec<_> = kept.iter().map(key).collect();
        keys.sort();
        keys.dedup();
        assert_eq!(keys.len(), kept.len());
    }

    #[test]
    fn a_device_is_a_row_and_a_kernel_a_column() {
        let run = |kernel, devices| json!({ "kernel": kernel, "arch": "arm64", "tier": "lab", "devices": devices });
        let runs = [
            run("6.1", json!({ "matrix::devices::k024_a_tag": "passed" })),
            run("6.12", json!({ "matrix::vrf::k030_a_vrf": "skipped: no vrf" })),
            run("6.18", json!({})),
        ];
        let expected = "| test | 6.1 arm64 | 6.12 arm64 |\n|---|---|---|\n| `k024_a_tag` | passed | not run |\n| `k030_a_vrf` | not run | skipped: no vrf |\n";
        assert_eq!(table_of_devices(&runs), expected);
    }

    #[test]
    fn a_device_test_passes_fails_or_is_skipped() {
        let lines = ["test matrix::devices::a ... ok", "test matrix::vrf::b ... FAILED", "test other::c ... ok"];
        let lines = lines.into_iter().chain(["test matrix::devices::d ... ok", "test result: ok. 1 passed"]);
        let lines = lines.chain(["test matrix::devices::e ... ignored, known exception"]);
        let skips = Skip::parse("matrix::devices::d\tno bond\nmatrix::devices::e\tknown exception\n");
        let words = words(lines, &skips);
        let expected = [
            ("matrix::devices::a", "passed"),
            ("matrix::devices::d", "skipped: no bond"),
            ("matrix::devices::e", "skipped: known exception"),
            ("matrix::vrf::b", "failed"),
        ];
        assert_eq!(words, expected.map(|(name, word)| (name.to_owned(), word.to_owned())).into());
    }

    #[test]
    fn a_run_is_a_row_with_what_failed_and_what_was_skipped() {
        let run = json!({
            "kernel": "6.12", "arch": "arm64", "processors": 2, "tier": "lab", "filters": ["vrf"], "date": "2026-11-30",
            "commit": "abc", "passed": 3, "failed": 1, "skipped": 1, "failures": ["a"], "skips": ["b: no vrf"],
        });
        let row = "| 6.12 | 2 \u{d7} arm64 | lab: `vrf` | default: tcx, before 6.6 clsact | 3 passed; 1 failed (`a`); 1 skipped (`b: no vrf`) | 2026-11-30 | abc |\n";
        assert!(table_of_runs(&[run]).ends_with(row));
    }
}
