//! No two files of a crate import from each other, directly or by way of others: each can be read after those that it
//! imports from. Nor do two rooms of the agent.
//!
//! A file imports from another if it names an item that is defined there, in a `use` or by a path. Re-exports are
//! followed to the definition, and are no imports themselves unless the file also uses the name. `mod` alone imports
//! nothing, and a file may use what a module above it defines: it is a part of that. Tests may import from anywhere.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, Result};

use crate::rows;

/// Where crates begin: the file without a module above it. Files that lie beside it are its modules.
const CRATES: [&str; 10] = [
    "arp-agent/src",
    "arp-common/src",
    "arp-ebpf/src",
    "bench-ebpf/src",
    "bench/src",
    "bench/src/bin/demo",
    "lab/src",
    "packaging/src",
    "parity/src",
    "xtask/src",
];

/// One name that a `use` brings, or a path in code.
#[derive(Clone, Debug, PartialEq)]
struct Path {
    segments: Vec<String>,
    /// The name that it has in this file.
    name: String,
}

/// One file: what it defines, and what it names.
#[derive(Debug, Default)]
struct File {
    defines: BTreeSet<String>,
    uses: Vec<Path>,
    reexports: Vec<Path>,
    paths: Vec<Path>,
    /// All words outside of `use`.
    words: BTreeSet<String>,
    tests: BTreeSet<String>,
}

/// Words and punctuation, without comments and the contents of literals.
fn tokens(source: &str) -> Vec<String> {
    let mut found = Vec::new();
    let chars: Vec<char> = source.chars().collect();
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let mut at = 0;
    while let Some(&c) = chars.get(at) {
        let ahead = |text: &str| text.chars().enumerate().all(|(i, c)| chars.get(at + i) == Some(&c));
        let find = |from: usize, text: &str| {
            let text: Vec<char> = text.chars().collect();
            (from..chars.len()).find(|&i| chars[i..].starts_with(&text)).map_or(chars.len(), |i| i + text.len())
        };
        if c.is_whitespace() {
            at += 1;
        } else if ahead("//") {
            at = find(at, "\n");
        } else if ahead("/*") {
            at = find(at, "*/");
        } else if ahead("r\"") {
            at = find(at + 2, "\"");
        } else if ahead("r#\"") {
            at = find(at + 3, "\"#");
        } else if c == '"' {
            at += 1;
            while chars.get(at).is_some_and(|c| *c != '"') {
                at += if chars[at] == '\\' { 2 } else { 1 };
            }
            at += 1;
        } else if c == '\'' && chars.get(at + 1) == Some(&'\\') {
            at = find(at + 3, "'");
        } else if c == '\'' && chars.get(at + 2) == Some(&'\'') {
            at += 3;
        } else if is_word(c) {
            let end = (at..chars.len()).find(|&i| !is_word(chars[i])).unwrap_or(chars.len());
            found.push(chars[at..end].iter().collect());
            at = end;
        } else if ahead("::") {
            found.push("::".to_owned());
            at += 2;
        } else {
            found.push(c.to_string());
            at += 1;
        }
    }
    found
}

/// Where the bracket that opens at `open` closes.
fn close(tokens: &[String], open: usize) -> usize {
    let mut depth = 0;
    for (at, token) in tokens.iter().enumerate().skip(open) {
        match token.as_str() {
            "{" | "[" | "(" => depth += 1,
            "}" | "]" | ")" => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return at;
        }
    }
    tokens.len()
}

/// Takes the items out that only tests have; the names of modules among them.
fn without_tests(tokens: &[String]) -> (Vec<String>, BTreeSet<String>) {
    let (mut kept, mut tests) = (Vec::new(), BTreeSet::new());
    let mut at = 0;
    while at < tokens.len() {
        let attribute = tokens[at] == "#" && tokens.get(at + 1).is_some_and(|next| next == "[");
        let end = if attribute { close(tokens, at + 1) } else { at };
        let only_tests = attribute && {
            let text = tokens[at + 2..end].concat();
            text.starts_with("cfg(test") || text.starts_with("cfg(all(test")
        };
        if !only_tests {
            kept.extend_from_slice(&tokens[at..=end.min(tokens.len() - 1)]);
            at = end + 1;
            continue;
        }
        at = end + 1;
        while let Some(token) = tokens.get(at) {
            if token == "mod" {
                tests.insert(tokens[at + 1].clone());
            }
            match token.as_str() {
                "{" | "(" | "[" => at = close(tokens, at),
                _ => {}
            }
            at += 1;
            if token == "{" || token == ";" || token == "," {
                break;
            }
        }
    }
    (kept, tests)
}

/// The paths of a `use`, from behind the word to its semicolon.
fn tree(tokens: &[String], before: &[String], into: &mut Vec<Path>) {
    let mut segments = before.to_vec();
    let mut at = 0;
    while let Some(token) = tokens.get(at) {
        match token.as_str() {
            "::" => {}
            "{" => {
                let end = close(tokens, at);
                let mut begin = at + 1;
                for comma in at + 1..=end {
                    let nested = tokens[begin..comma].iter().filter(|t| *t == "{").count()
                        > tokens[begin..comma].iter().filter(|t| *t == "}").count();
                    if (tokens[comma] == "," || comma == end) && !nested {
                        if begin < comma {
                            tree(&tokens[begin..comma], &segments, into);
                        }
                        begin = comma + 1;
                    }
                }
                return;
            }
            "as" => break,
            segment => segments.push(segment.to_owned()),
        }
        at += 1;
    }
    if segments.len() > 1 && segments.last().is_some_and(|last| last == "self") {
        segments.pop();
    }
    let own = segments.last().cloned().unwrap_or_default();
    let name = tokens.get(at + 1).filter(|_| tokens.get(at).is_some_and(|t| t == "as")).cloned().unwrap_or(own);
    into.push(Path { segments, name });
}

fn parse(source: &str) -> File {
    let (tokens, tests) = without_tests(&tokens(source));
    let mut file = File { tests, ..File::default() };
    let is_word = |token: &String| token.starts_with(|c: char| c.is_alphabetic() || c == '_');
    let mut at = 0;
    while at < tokens.len() {
        let token = tokens[at].as_str();
        if token == "use" && at.checked_sub(1).is_none_or(|i| ["}", ";", "]", ")", "pub", "{"].contains(&&*tokens[i])) {
            let end = (at..tokens.len()).find(|&i| tokens[i] == ";").unwrap_or(tokens.len());
            let public = at > 0 && (tokens[at - 1] == "pub" || (tokens[at - 1] == ")" && tokens[at - 4] == "pub"));
            tree(&tokens[at + 1..end], &[], if public { &mut file.reexports } else { &mut file.uses });
            at = end;
        } else if ["fn", "struct", "enum", "trait", "const", "static", "type", "macro_rules"].contains(&token) {
            file.defines.extend(tokens[at + 1..].iter().find(|t| is_word(t)).cloned());
        } else if is_word(&tokens[at]) {
            let mut segments = vec![tokens[at].clone()];
            while tokens.get(at + 1).is_some_and(|t| t == "::") && tokens.get(at + 2).is_some_and(is_word) {
                segments.push(tokens[at + 2].clone());
                at += 2;
            }
            file.words.insert(segments[0].clone());
            if segments.len() > 1 {
                file.paths.push(Path { name: segments[0].clone(), segments });
            }
        }
        at += 1;
    }
    file
}

/// Which file imports from which, and the names.
type Imports = BTreeMap<(String, String), BTreeSet<String>>;

/// The files of one crate by their modules, such as `["fib", "layout"]`.
struct Crate(BTreeMap<Vec<String>, File>);

impl Crate {
    fn read(sources: &[(String, String)], root: &str) -> Self {
        let mut files = BTreeMap::new();
        for (path, source) in sources {
            let Some(inside) = path.strip_prefix(root).and_then(|path| path.strip_prefix('/')) else { continue };
            if CRATES.iter().any(|other| other.len() > root.len() && path.starts_with(other) && other.starts_with(root))
            {
                continue;
            }
            let mut module: Vec<String> = inside.trim_end_matches(".rs").split('/').map(str::to_owned).collect();
            if ["mod", "lib", "main"].contains(&module[module.len() - 1].as_str()) {
                module.pop();
            }
            let File { defines, uses, reexports, paths, words, tests } = parse(source);
            let file: &mut File = files.entry(module).or_default();
            // A crate's `lib.rs` and `main.rs` are both its root.
            file.defines.extend(defines);
            file.uses.extend(uses);
            file.reexports.extend(reexports);
            file.paths.extend(paths);
            file.words.extend(words);
            file.tests.extend(tests);
        }
        let tests = |module: &[String]| {
            (0..module.len()).any(|end| {
                files.get(&module[..end]).is_some_and(|file| file.tests.contains(&module[end]))
                    || module[end] == "tests"
            })
        };
        let drop: Vec<Vec<String>> = files.keys().filter(|module| tests(module)).cloned().collect();
        files.retain(|module, _| !drop.contains(module));
        Self(files)
    }

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
        let imports = Crate::read(&sources, root).imports();
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
    for ((of, from), names) in Crate::read(&rows::files(".rs")?, "arp-agent/src").imports() {
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
    let imports = Crate::read(&sources, "lab/src").imports();
    let (pair, names) = imports.first_key_value().context("an import")?;
    assert_eq!((imports.len(), pair), (1, &("b".to_owned(), "a::deep".to_owned())), "{imports:?}");
    assert_eq!(*names, BTreeSet::from(["A".to_owned()]));
    Ok(())
}
