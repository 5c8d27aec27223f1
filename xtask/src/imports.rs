//! No two files of a crate import from each other, directly or by way of others: each can be read after those that it
//! imports from. Nor do two rooms of the agent.
//!
//! A file imports from another if it names an item that is defined there, in a `use` or by a path. Re-exports are
//! followed to the definition, and are no imports themselves unless the file also uses the name. `mod` alone imports
//! nothing, and a file may use what a module above it defines: it is a part of that. Tests may import from anywhere.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, Result};

use crate::rows;
use crate::syntax::{CRATES, Crate, Path};

/// Which file imports from which, and the names.
type Imports = BTreeMap<(String, String), BTreeSet<String>>;

impl Crate {
    /// The module in which the item is defined that a path names in `module`. None: another crate's, or no item.
    fn definition(&self, module: &[String], path: &[String], depth: usize) -> Option<Vec<String>> {
        let (first, rest) = path.split_first()?;
        let child = [module, std::slice::from_ref(first)].concat();
        match first.as_str() {
            "crate" => self.walk(Vec::new(), rest, depth),
            "self" => self.walk(module.to_vec(), rest, depth),
            "super" => {
                let above = &module[..module.len().checked_sub(1)?];
                match rest.first() {
                    Some(next) if next == "super" => self.definition(above, rest, depth),
                    _ => self.walk(above.to_vec(), rest, depth),
                }
            }
            _ if self.0.contains_key(&child) => self.walk(child, rest, depth),
            name => {
                let used = self.named(module, name).filter(|used| used.segments != path)?;
                self.definition(module, &[&used.segments, rest].concat(), depth.checked_sub(1)?)
            }
        }
    }

    /// The `use` that brings a name into a module.
    fn named(&self, module: &[String], name: &str) -> Option<&Path> {
        let file = self.0.get(module)?;
        file.uses.iter().chain(&file.reexports).find(|used| used.name == name)
    }

    fn walk(&self, module: Vec<String>, path: &[String], depth: usize) -> Option<Vec<String>> {
        let (first, rest) = path.split_first()?;
        let child = [&module, std::slice::from_ref(first)].concat();
        if self.0.contains_key(&child) {
            return self.walk(child, rest, depth);
        }
        let file = self.0.get(&module)?;
        if !file.defines.contains(first) {
            if let Some(used) = self.named(&module, first) {
                return self.definition(&module, &[&used.segments, rest].concat(), depth.checked_sub(1)?);
            }
            for glob in file.reexports.iter().filter(|used| used.name == "*") {
                let inside = [&glob.segments[..glob.segments.len() - 1], path].concat();
                let found = self.definition(&module, &inside, depth.checked_sub(1)?);
                if found.as_ref().is_some_and(|found| self.0[found].defines.contains(first)) {
                    return found;
                }
            }
        }
        Some(module)
    }

    /// What each file imports, from which others.
    fn imports(&self) -> Imports {
        let mut imports = Imports::new();
        for (module, file) in &self.0 {
            let used = file.reexports.iter().filter(|path| file.words.contains(&path.name));
            for path in file.uses.iter().chain(&file.paths).chain(used) {
                if let Some(from) = self.definition(module, &path.segments, 8).filter(|from| !module.starts_with(from))
                {
                    let names = imports.entry((module.join("::"), from.join("::"))).or_default();
                    names.insert(path.segments[path.segments.len().min(8) - 1].clone());
                }
            }
        }
        imports
    }
}

/// The imports by which a file is imported that itself imports, by way of others, from the one that imports it.
fn cycles(imports: &Imports) -> impl Iterator<Item = (&(String, String), &BTreeSet<String>)> {
    imports.iter().filter(|((of, from), _)| {
        let (mut reached, mut next) = (BTreeSet::new(), vec![from]);
        while let Some(file) = next.pop() {
            if reached.insert(file) {
                next.extend(imports.keys().filter(|(importing, _)| importing == file).map(|(_, imported)| imported));
            }
        }
        reached.contains(of)
    })
}

#[test]
fn no_two_files_of_a_crate_import_each_other() -> Result<()> {
    let sources = rows::files(".rs")?;
    let mut found = Vec::new();
    for root in CRATES {
        let imports = Crate::read(&sources, root)?.imports();
        for ((of, from), names) in cycles(&imports) {
            found.push(format!("{root}: {of} <- {from}: {names:?}"));
        }
    }
    assert!(found.is_empty(), "these files import each other:\n{}", found.join("\n"));
    Ok(())
}

/// A room of the agent is a file or a folder directly below its `src`.
#[test]
fn no_two_rooms_of_the_agent_import_each_other() -> Result<()> {
    let room = |file: &str| file.split("::").next().unwrap_or_default().to_owned();
    let mut rooms = Imports::new();
    for ((of, from), names) in Crate::read(&rows::files(".rs")?, "arp-agent/src")?.imports() {
        let pair = (room(&of), room(&from));
        if pair.0 != pair.1 {
            rooms.entry(pair).or_default().extend(names);
        }
    }
    for (of, from) in [("agent", "mirror"), ("explain", "kernel")] {
        assert!(rooms.contains_key(&(of.to_owned(), from.to_owned())), "{rooms:?}");
    }
    let found: Vec<_> = cycles(&rooms).collect();
    assert!(found.is_empty(), "these rooms import each other: {found:#?}");
    Ok(())
}

#[test]
fn imports_are_followed_to_the_definition() -> Result<()> {
    let file = |path: &str, source: &str| (format!("lab/src/{path}"), source.to_owned());
    let sources = [
        file("lib.rs", "mod a; mod b; pub use a::A;"),
        file(
            "a/mod.rs",
            "mod deep; pub use deep::{Deep as A, other::{self}}; #[cfg(test)] mod tests { use crate::b; }",
        ),
        file("a/deep.rs", "// use crate::b::B;\npub struct Deep; fn f() -> &str { \"crate::b::B\" }"),
        file("b.rs", "use crate::A; fn g() { let x = super::a::A; }"),
    ];
    let imports = Crate::read(&sources, "lab/src")?.imports();
    let (pair, names) = imports.first_key_value().context("an import")?;
    assert_eq!((imports.len(), pair), (1, &("b".to_owned(), "a::deep".to_owned())), "{imports:?}");
    assert_eq!(*names, BTreeSet::from(["A".to_owned()]));
    Ok(())
}
