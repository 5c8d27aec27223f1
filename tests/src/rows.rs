//! No row of the exactness matrix may get lost: each has a test that is named after it.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

/// Adds the numbers of the tests `k001_…` in a source file: the word begins its line, as a row of `rows!` or after `fn`.
fn numbers(source: &str, found: &mut BTreeSet<u32>) {
    for line in source.lines() {
        let name = line.trim_start();
        let name = name.strip_prefix("fn ").unwrap_or(name);
        // A test for several rows names them all: k054_k066_and_k070_….
        let end = name.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(name.len());
        if !matches!(name.as_bytes().get(end), Some(b':' | b'(')) || !name.starts_with('k') {
            continue;
        }
        let number = |word: &str| word.strip_prefix('k').filter(|digits| digits.len() == 3)?.parse::<u32>().ok();
        found.extend(name[..end].split('_').filter_map(number));
    }
}

fn search(directory: &Path, found: &mut BTreeSet<u32>) -> Result<()> {
    for entry in fs::read_dir(directory).with_context(|| format!("reading {}", directory.display()))? {
        let path = entry?.path();
        if path.is_dir() {
            search(&path, found)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            numbers(&fs::read_to_string(&path)?, found);
        }
    }
    Ok(())
}

#[test]
fn every_row_has_a_test() -> Result<()> {
    let mut found = BTreeSet::new();
    search(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/lab"), &mut found)?;
    let rows: BTreeSet<u32> = (1..=152).chain(305..=309).collect();
    let missing: Vec<u32> = rows.difference(&found).copied().collect();
    assert_eq!(missing, [0; 0], "rows without a test");
    let more: Vec<u32> = found.difference(&rows).copied().collect();
    assert_eq!(more, [0; 0], "rows that the matrix does not have");
    Ok(())
}

#[test]
fn rows_are_found_by_name() {
    let mut found = BTreeSet::new();
    numbers(
        "    k001_a: [ask(For(L), Fast)];\nfn k054_and_k066_b() -> Result<()> {\n// k002_c: no\nk12_d: [",
        &mut found,
    );
    assert_eq!(found, BTreeSet::from([1, 54, 66]));
}
