//! One name for one type, in all crates: who reads of a `Verdict` need not look up whose.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Result;

use crate::rows;

/// What each program has of its own: its command line; and the agent, which the lab runs.
const OF_EACH_PROGRAM: [&str; 4] = ["Agent", "Args", "Arguments", "Cli"];
/// A manner of the eBPF program, and what the agent does about it.
const OF_BOTH_SIDES: [&str; 1] = ["Shadow"];

/// The types that a file defines outside of its tests.
fn types(source: &str) -> BTreeSet<&str> {
    let code = source.split("#[cfg(test)]\nmod ").next().unwrap_or_default();
    let defined = code.lines().filter_map(|line| {
        let mut words = line.split_whitespace().skip_while(|word| word.starts_with("pub"));
        let is_type = ["struct", "enum", "trait", "union"].contains(&words.next()?);
        words.next().filter(|_| is_type)?.split(|c: char| !c.is_alphanumeric()).next()
    });
    defined.collect()
}

#[test]
fn no_two_types_share_a_name() -> Result<()> {
    let of_tests = ["tests.rs", "sessions.rs", "incremental.rs", "order.rs", "stack.rs", "imports.rs", "document.rs"];
    let mut places: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    let sources = rows::files(".rs")?;
    let is_of_tests = |path: &str| !path.contains("/src/") || of_tests.iter().any(|end| path.ends_with(end));
    for (path, source) in sources.iter().filter(|(path, _)| !is_of_tests(path)) {
        types(source).into_iter().for_each(|name| places.entry(name).or_default().push(path));
    }
    places.retain(|name, places| places.len() > 1 && !OF_EACH_PROGRAM.contains(name) && !OF_BOTH_SIDES.contains(name));
    assert!(places.is_empty(), "types of one name: {places:#?}");
    Ok(())
}

#[test]
fn types_are_found_by_their_definition() {
    let source = "pub(crate) struct One;\nenum Two {\n}\n// struct Not\nfn f() { let structure = 1; }\n    trait Three {}\n#[cfg(test)]\nmod tests {\n struct Four;";
    assert_eq!(types(source), BTreeSet::from(["One", "Two", "Three"]));
}
