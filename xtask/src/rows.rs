//! Code, tests and documents refer to docs/kernel-arp.md: to sections (§5.3), rows (K043) and goals (P3). The tests
//! here check that each reference leads somewhere, and that rows and tests name each other.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

const PAGE: &str = "docs/kernel-arp.md";
const ROWS: &str = "docs/kernel-arp/rows.md";
/// This file, which names tests and references that do not exist.
const HERE: &str = "xtask/src/rows.rs";
/// Stands in a row instead of a test's name.
const NOT_YET: &str = "not yet a test";
/// The highest number of a row, and the numbers that no row ever had.
const LAST: u32 = 335;
const UNUSED: [u32; 23] =
    [153, 154, 155, 156, 157, 158, 159, 229, 248, 249, 262, 263, 264, 265, 266, 267, 268, 269, 296, 297, 298, 299, 319];
/// The rows that have tests. None of them may lose its test; one that gets its first test belongs here.
const TESTED: [RangeInclusive<u32>; 2] = [1..=152, 160..=335];

/// The rows about programs of others, which have tests, too.
const OF_OTHERS: RangeInclusive<u32> = 360..=378;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

pub(crate) fn read(path: &str) -> Result<String> {
    fs::read_to_string(root().join(path)).with_context(|| format!("reading {path}"))
}

/// The files of the repository with this ending, by their paths from its root; not those that builds and tools write.
pub(crate) fn files(ending: &str) -> Result<Vec<(String, String)>> {
    let mut found = Vec::new();
    let mut folders = vec![root()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).with_context(|| format!("reading {}", folder.display()))? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if entry.file_type()?.is_dir() {
                if !name.starts_with('.') && name != "target" {
                    folders.push(entry.path());
                }
            } else if name.ends_with(ending) {
                let path = entry.path();
                let shown = path.strip_prefix(root())?.display().to_string();
                found.push((shown, fs::read_to_string(path)?));
            }
        }
    }
    found.sort();
    Ok(found)
}

/// `K043`, `K151a`: three digits, and a letter for a variant.
fn is_row_id(word: &str) -> bool {
    let letter = |rest: &str| rest.is_empty() || (rest.len() == 1 && rest.as_bytes()[0].is_ascii_lowercase());
    word.strip_prefix('K').is_some_and(|rest| {
        rest.is_char_boundary(3)
            && rest.len() >= 3
            && rest[..3].bytes().all(|b| b.is_ascii_digit())
            && letter(&rest[3..])
    })
}

/// The rows of the tables: id and names of tests, none for a row that is not yet a test.
fn rows(page: &str) -> Result<BTreeMap<String, Vec<String>>> {
    let mut found = BTreeMap::new();
    for line in page.lines().filter(|line| line.starts_with("| K")) {
        let cells: Vec<&str> = line.trim_matches('|').split(" | ").map(str::trim).collect();
        let [id, _situation, _kernel, _fast_path, tests] = cells[..] else {
            anyhow::bail!("{ROWS}: a row has five cells: {line}");
        };
        ensure!(is_row_id(id), "{ROWS}: {id} has not the form K043");
        let names = match tests {
            NOT_YET => Vec::new(),
            names => names.split(", ").map(|name| name.trim_matches('`').to_owned()).collect(),
        };
        ensure!(names.iter().all(|name| !name.is_empty()), "{ROWS}: {id} neither names a test nor says {NOT_YET:?}");
        ensure!(found.insert(id.to_owned(), names).is_none(), "{ROWS}: {id} is there twice");
    }
    Ok(found)
}

/// The names of the tests in a source file: functions after `#[test]`, and the entries `k001_…: ` of macros such as `rows!`.
pub(crate) fn tests(source: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut marked = false;
    for line in source.lines().map(str::trim_start) {
        let name_of = |text: &str| {
            let end = text.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(text.len());
            (text[..end].to_owned(), text[end..].to_owned())
        };
        if line.starts_with("#[") || line.starts_with("//") {
            marked |= line.starts_with("#[test]");
        } else if let Some(rest) = line.strip_prefix("fn ").filter(|_| marked) {
            found.push(name_of(rest).0);
            marked = false;
        } else {
            marked = false;
            let (name, rest) = name_of(line);
            if rest.starts_with(": ") && ids(&name).next().is_some() {
                found.push(name);
            }
        }
    }
    found
}

/// The rows that a test's name names: `k054_k066_and_k070_…` has three.
fn ids(name: &str) -> impl Iterator<Item = String> {
    name.split('_').map(str::to_uppercase).filter_map(|word| {
        let id = format!("K{}", word.strip_prefix('K')?.to_lowercase());
        is_row_id(&id).then_some(id)
    })
}

/// What is wrong between rows and tests, a sentence for each.
fn differences(rows: &BTreeMap<String, Vec<String>>, tests: &BTreeSet<String>) -> Vec<String> {
    let mut wrong = Vec::new();
    for (id, names) in rows {
        for name in names {
            if !tests.contains(name) {
                wrong.push(format!("{ROWS}: {id} names {name}, and there is no such test"));
            } else if !ids(name).any(|other| other == *id) {
                wrong.push(format!("{ROWS}: {id} names {name}, which is not named after it"));
            }
        }
    }
    for name in tests {
        for id in ids(name) {
            match rows.get(&id) {
                None => wrong.push(format!("{name}: {ROWS} has no row {id}")),
                Some(names) if names.is_empty() => {
                    wrong.push(format!("{ROWS}: {id} says {NOT_YET:?}, and has the test {name}: name it there"));
                }
                Some(_) => {}
            }
        }
    }
    wrong
}

/// Where references lead.
struct References {
    sections: BTreeSet<String>,
    rows: BTreeSet<String>,
    goals: BTreeSet<String>,
}

impl References {
    fn read() -> Result<Self> {
        let (page, rows_page) = (read(PAGE)?, read(ROWS)?);
        let mut sections = BTreeSet::new();
        for line in page.lines().chain(rows_page.lines()).filter(|line| line.starts_with('#')) {
            if let Some(number) = line.split_once(" §").and_then(|(_, rest)| rest.split(' ').next()) {
                ensure!(sections.insert(number.to_owned()), "§{number} is there twice");
            }
        }
        let goals = goals(&page).into_keys().collect();
        Ok(References { sections, rows: rows(&rows_page)?.into_keys().collect(), goals })
    }

    /// The references of a text that lead nowhere. In Rust a goal is a whole string or stands in a comment, since `P1`
    /// may be a name in code.
    fn astray(&self, path: &str, text: &str) -> Vec<String> {
        let mut found = Vec::new();
        for (number, line) in text.lines().enumerate() {
            let mut miss = |what: &str| found.push(format!("{path}:{}: {what}", number + 1));
            for (at, _) in line.match_indices('§') {
                let rest = &line[at + '§'.len_utf8()..];
                let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
                let section = rest[..end].trim_end_matches('.');
                // Of another document: RFC 5227 §2.1.
                let of_rfc = line[..at].split_whitespace().rev().nth(1).is_some_and(|word| word.ends_with("RFC"));
                if !of_rfc && !self.sections.contains(section) {
                    miss(&format!("§{section}"));
                }
            }
            let is_rust = path.ends_with(".rs");
            let comment = line.split_once("//").map_or("", |(_, comment)| comment);
            let strings: Vec<&str> = line.split('"').skip(1).step_by(2).filter(|string| is_goal(string)).collect();
            let prose = if is_rust { comment } else { line };
            let goals = words(prose).filter(|word| is_goal(word)).chain(strings.into_iter().filter(|_| is_rust));
            goals.filter(|goal| !self.goals.contains(*goal)).for_each(&mut miss);
            let is_row = |word: &&str| {
                let digits = word.strip_prefix('K').unwrap_or_default();
                is_row_id(word) || (!digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()))
            };
            words(line).filter(is_row).filter(|row| !self.rows.contains(*row)).for_each(miss);
        }
        found
    }
}

fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').filter(|word| !word.is_empty())
}

fn is_goal(word: &str) -> bool {
    let digits = word.strip_prefix(['P', 'V', 'G']).unwrap_or_default();
    (1..=2).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_digit())
}

/// The goals of §13, by id; the row as it stands there.
fn goals(page: &str) -> BTreeMap<String, String> {
    let cells = page.lines().filter_map(|line| Some((line.strip_prefix("| ")?.split(' ').next()?, line)));
    cells.filter(|(id, _)| is_goal(id)).map(|(id, line)| (id.to_owned(), line.to_owned())).collect()
}

#[test]
fn every_row_has_a_test() -> Result<()> {
    let rows = rows(&read(ROWS)?)?;
    let numbers: BTreeSet<u32> = rows.keys().filter_map(|id| id[1..4].parse().ok()).collect();
    let wanted: BTreeSet<u32> = (1..=LAST).filter(|number| !UNUSED.contains(number)).chain(OF_OTHERS).collect();
    let lost: Vec<&u32> = wanted.difference(&numbers).collect();
    assert!(lost.is_empty(), "{ROWS} has lost rows: {lost:?}");
    assert!(UNUSED.iter().all(|number| !numbers.contains(number)), "{ROWS} uses an id that stands for nothing");
    let must = |id: &str| {
        id[1..4].parse().is_ok_and(|number| TESTED.iter().chain([&OF_OTHERS]).any(|range| range.contains(&number)))
    };
    let untested: Vec<&String> =
        rows.iter().filter(|(id, tests)| must(id) && tests.is_empty()).map(|(id, _)| id).collect();
    assert!(untested.is_empty(), "rows that must have a test: {untested:?}");

    let sources = files(".rs")?.into_iter().filter(|(path, _)| path != HERE);
    let tests: BTreeSet<String> = sources.flat_map(|(_, source)| tests(&source)).collect();
    let wrong = differences(&rows, &tests);
    assert!(wrong.is_empty(), "{wrong:#?}");
    Ok(())
}

#[test]
fn every_reference_leads_somewhere() -> Result<()> {
    let targets = References::read()?;
    let mut texts = files(".rs")?;
    texts.extend(files(".md")?);
    let read_in = |path: &str| texts.iter().any(|(other, _)| other == path);
    assert!(read_in("docs/semantics.md") && read_in("bench/src/benchmarks/decide.rs") && read_in(ROWS));
    let astray = texts.iter().filter(|(path, _)| path != HERE).flat_map(|(path, text)| targets.astray(path, text));
    let astray: Vec<String> = astray.collect();
    assert!(astray.is_empty(), "{PAGE} and {ROWS} have nothing for these (a row has three digits, K043): {astray:#?}");
    Ok(())
}

/// The bounds that the benchmark judged by are those that the page gives reasons for.
#[test]
fn goals_have_the_bounds_of_the_benchmark() -> Result<()> {
    let documented = goals(&read(PAGE)?);
    let report: serde_json::Value = serde_json::from_str(&read("docs/performance.json")?)?;
    let measured = report["goals"].as_array().context("docs/performance.json has no goals")?;
    let mut ids = BTreeSet::new();
    for goal in measured {
        let id = goal["id"].as_str().context("a goal without an id")?;
        let (sign, bound) = match (&goal["bound"]["at_most"], &goal["bound"]["at_least"]) {
            (serde_json::Value::Number(most), _) => ("≤", most),
            (_, least) => ("≥", least.as_number().context("a goal without a bound")?),
        };
        let bound = bound.as_f64().context("a bound that is no number")?;
        let bound = format!("{sign} {bound} {}", goal["unit"].as_str().unwrap_or_default());
        let row = documented.get(id).with_context(|| format!("{PAGE} has no goal {id}"))?;
        assert!(row.contains(&bound), "{PAGE}: {id} has not the bound {bound}: {row}");
        ids.insert(id.to_owned());
    }
    assert_eq!(ids, documented.into_keys().collect(), "goals in docs/performance.json, and in {PAGE}");
    Ok(())
}

#[test]
fn tests_are_found_by_name() {
    let source = "    k001_a: [ask(For(L), Fast)];\n#[test]\n/// Why.\n#[ignore]\nfn k054_and_k066_b() -> Result<()> {\n\
                  fn k003_no_test() {\n// k002_c: [\nk12_d: [\n#[test]\nfn other() {\nk151a_e: [";
    assert_eq!(tests(source), ["k001_a", "k054_and_k066_b", "other", "k151a_e"]);
    assert_eq!(ids("k054_k066_and_k151a_b").collect::<Vec<_>>(), ["K054", "K066", "K151a"]);
}

#[test]
fn rows_and_tests_are_compared_in_both_directions() {
    let page = "| K001 | a | b | c | `k001_a`, `k001_b` |\n| K002 | a | b | c | not yet a test |\n| K003 | a | b | c | `k001_a` |";
    let table = rows(page).unwrap();
    let tests = ["k001_a", "k002_a", "k004_a", "other"].map(str::to_owned).into();
    let wrong = differences(&table, &tests);
    assert_eq!(wrong.len(), 4, "{wrong:#?}");
    let about = |what: [&str; 2]| wrong.iter().any(|text| what.iter().all(|what| text.contains(what)));
    assert!(about(["K001", "k001_b"]), "named, but not there");
    assert!(about(["K003", "k001_a"]), "named after another row");
    assert!(about(["K002", "k002_a"]), "there, but not named");
    assert!(about(["K004", "k004_a"]), "no such row");
    for broken in ["| K1 | a | b | c | d |", "| K001 | a | b | c |", "| K001 | a | b | c |  |"] {
        assert!(rows(broken).is_err(), "{broken}");
    }
}

#[test]
fn references_that_lead_nowhere_are_found() {
    let set = |things: &[&str]| things.iter().map(|&thing| thing.to_owned()).collect();
    let targets = References { sections: set(&["5", "5.3"]), rows: set(&["K043", "K151a"]), goals: set(&["P3"]) };
    for good in ["§5.3. RFC 5227 §2.1, (RFC 826 §9)", "K043–K151a, K8s, KiB, 64 K", "P3, P1a, MP3, cali.P"] {
        assert_eq!(targets.astray("a.md", good), [""; 0], "{good}");
    }
    for bad in ["§5.4", "§ 5", "K43", "K44", "K044", "(K151b)", "K1–K043", "P4", "P12"] {
        assert_eq!(targets.astray("a.md", bad).len(), 1, "{bad}");
    }
    assert_eq!(targets.astray("a.rs", "const P1: u8 = 1; // P3"), [""; 0]);
    assert_eq!(targets.astray("a.rs", "goal(\"P1\") // P2, K999").len(), 3);
}
