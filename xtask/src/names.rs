//! One name for one type, in all crates: who reads of a `Verdict` need not look up whose.

use std::collections::BTreeMap;

use anyhow::Result;

use crate::rows;
use crate::syntax::{CRATES, Crate};

/// What each program has of its own: its command line; and the agent, which the lab runs.
const OF_EACH_PROGRAM: [&str; 4] = ["Agent", "Args", "Arguments", "Cli"];
/// A manner of the eBPF program, and what the agent does about it.
const OF_BOTH_SIDES: [&str; 1] = ["Shadow"];

/// Where each name of a type is defined, outside of tests.
fn types(sources: &[(String, String)]) -> Result<BTreeMap<String, Vec<String>>> {
    let mut places: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for root in CRATES {
        for (module, file) in Crate::read(sources, root)?.0 {
            for name in file.types {
                places.entry(name).or_default().push(format!("{root}: {}", module.join("::")));
            }
        }
    }
    Ok(places)
}

#[test]
fn no_two_types_share_a_name() -> Result<()> {
    let mut places = types(&rows::files(".rs")?)?;
    places.retain(|name, places| {
        places.len() > 1 && ![&OF_EACH_PROGRAM[..], &OF_BOTH_SIDES].concat().contains(&name.as_str())
    });
    assert!(places.is_empty(), "types of one name: {places:#?}");
    Ok(())
}

#[test]
fn types_are_found_by_their_definition() -> Result<()> {
    let source = "pub(crate) struct One;\nenum Two {\n}\n// struct Not\nfn f() { let structure = \"struct Nor\"; }\n\
                  trait Three {}\n#[cfg(test)]\nmod tests {\n struct Four; }";
    let found = types(&[("lab/src/lib.rs".to_owned(), source.to_owned())])?;
    assert_eq!(found.keys().collect::<Vec<_>>(), ["One", "Three", "Two"]);
    Ok(())
}
