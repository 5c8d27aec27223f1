//! docs/faults.md lists faults, each with its bound and its tests. The tests here check that the page has a row for each
//! fault, that each named test exists, and that each test of the tier stands in a row.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Result, ensure};

use crate::rows::{files, read, tests};

const PAGE: &str = "docs/faults.md";
const TIER: &str = "tests/tests/faults/";
/// This file, which names tests that do not exist.
const HERE: &str = "xtask/src/faults.rs";
/// Begins the last cell of a row without a test; what follows says why.
const WITHOUT: &str = "none:";
/// How many faults of each letter there are. None of them may lose its row.
const FAULTS: [(char, u32); 7] = [('A', 4), ('B', 3), ('C', 3), ('D', 4), ('E', 7), ('F', 15), ('O', 12)];

/// The rows of the page: id and names of tests, none where the row says why.
fn rows(page: &str) -> Result<BTreeMap<String, Vec<String>>> {
    let mut found = BTreeMap::new();
    for line in page.lines().filter(|line| line.starts_with('|')) {
        let cells: Vec<&str> = line.trim_matches('|').split(" | ").map(str::trim).collect();
        let [id, wrong, bound, tested] = cells[..] else {
            ensure!(line.starts_with("|---"), "{PAGE}: a row has four cells: {line}");
            continue;
        };
        if id == "id" {
            continue;
        }
        ensure!(!wrong.is_empty() && !bound.is_empty(), "{PAGE}: {id} does not say what was wrong, or has no bound");
        let names = match tested.strip_prefix(WITHOUT) {
            Some(why) => {
                ensure!(!why.trim().is_empty(), "{PAGE}: {id} does not say why it has no test");
                Vec::new()
            }
            None => tested.split(", ").map(|name| name.trim_matches('`').to_owned()).collect(),
        };
        ensure!(
            names.iter().all(|name| !name.is_empty()),
            "{PAGE}: {id} neither names a test nor says why it has none"
        );
        ensure!(found.insert(id.to_owned(), names).is_none(), "{PAGE}: {id} is there twice");
    }
    Ok(found)
}

/// The tests that a macro of the same file makes: what is called like a test between the braces of its use.
fn made_by_macros(source: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut macros = Vec::new();
    let mut lines = source.lines();
    while let Some(line) = lines.next() {
        if let Some(name) = line.strip_prefix("macro_rules! ").and_then(|rest| rest.strip_suffix(" {")) {
            let mut body = lines.by_ref().take_while(|line| *line != "}");
            if body.any(|line| line.trim_start().starts_with("#[test]")) {
                macros.push(name);
            }
        } else if line.strip_suffix("! {").is_some_and(|name| macros.contains(&name)) {
            let of_it = lines.by_ref().take_while(|line| *line != "}");
            let words = of_it.flat_map(|line| line.split(|c: char| !c.is_ascii_alphanumeric() && c != '_'));
            // Names of tests have several words, and begin with a small letter.
            let is_name = |word: &&str| word.contains('_') && word.starts_with(|c: char| c.is_ascii_lowercase());
            found.extend(words.filter(is_name).map(str::to_owned));
        }
    }
    found
}

#[test]
fn every_fault_has_a_test() -> Result<()> {
    let rows = rows(&read(PAGE)?)?;
    let wanted: BTreeSet<String> =
        FAULTS.iter().flat_map(|(letter, count)| (1..=*count).map(move |number| format!("{letter}{number}"))).collect();
    assert_eq!(rows.keys().cloned().collect::<BTreeSet<_>>(), wanted, "{PAGE}: its rows, and those that there must be");

    let (mut all, mut of_tier) = (BTreeSet::new(), BTreeSet::new());
    for (path, source) in files(".rs")?.into_iter().filter(|(path, _)| path != HERE) {
        let of_file: BTreeSet<String> =
            tests(&source).into_iter().filter(|name| !name.is_empty()).chain(made_by_macros(&source)).collect();
        if path.starts_with(TIER) {
            of_tier.extend(of_file.clone());
        }
        all.extend(of_file);
    }
    let named: BTreeSet<String> = rows.into_values().flatten().collect();
    let astray: Vec<_> = named.difference(&all).collect();
    assert!(astray.is_empty(), "{PAGE} names tests that there are not: {astray:?}");
    let left_out: Vec<_> = of_tier.difference(&named).collect();
    assert!(left_out.is_empty(), "{PAGE} has no row for these tests of {TIER}: {left_out:?}");
    Ok(())
}

#[test]
fn rows_of_faults_have_four_cells_and_a_test_or_a_reason() {
    let good =
        "| id | a | b | c |\n|---|---|---|---|\n| A1 | a | b | `one`, `two` |\n| A2 | a | b | none: it is read. |";
    let found = rows(good).unwrap();
    assert_eq!(found["A1"], ["one", "two"]);
    assert_eq!(found["A2"], [""; 0]);
    for bad in ["| A1 | a | b |", "| A1 | a |  | `one` |", "| A1 | a | b |  |", "| A1 | a | b | none: |"] {
        assert!(rows(bad).is_err(), "{bad}");
    }
    assert!(rows("| A1 | a | b | `one` |\n| A1 | a | b | `two` |").is_err(), "twice");
}

#[test]
fn tests_that_macros_make_are_found_by_name() {
    let source = "macro_rules! make {\n    ($name:ident) => {\n        #[test]\n        fn $name() {}\n    };\n}\n\n\
                  macro_rules! no_tests {\n    () => {};\n}\n\nno_tests! {\n    not_a_test;\n}\n\n\
                  make! {\n    CLSACT: a_few_of_them, long_all_of_them, false;\n}\nfn not_that() {}";
    assert_eq!(made_by_macros(source), ["a_few_of_them", "long_all_of_them"].map(str::to_owned).into());
}
