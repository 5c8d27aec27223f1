//! What the sources of the workspace define and name, file by file, for the checks of names and imports.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, Result, anyhow};
use proc_macro2::{Delimiter, Spacing, TokenStream, TokenTree};

/// Where crates begin: the file without a module above it. Files that lie beside it are its modules.
pub(crate) const CRATES: [&str; 10] = [
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
pub(crate) struct Path {
    pub(crate) segments: Vec<String>,
    /// The name that it has in this file.
    pub(crate) name: String,
}

/// One file: what it defines, and what it names.
#[derive(Debug, Default)]
pub(crate) struct File {
    pub(crate) defines: BTreeSet<String>,
    /// Of these, the types.
    pub(crate) types: BTreeSet<String>,
    pub(crate) uses: Vec<Path>,
    pub(crate) reexports: Vec<Path>,
    pub(crate) paths: Vec<Path>,
    /// All words outside of `use`.
    pub(crate) words: BTreeSet<String>,
    /// Modules that only tests have.
    tests: BTreeSet<String>,
}

/// Words and punctuation, without comments and literals.
fn tokens(source: &str) -> Result<Vec<String>> {
    let stream: TokenStream = source.parse().map_err(|error| anyhow!("no Rust: {error}"))?;
    let mut found = Vec::new();
    flatten(stream, &mut found);
    Ok(found)
}

fn flatten(stream: TokenStream, into: &mut Vec<String>) {
    let mut colon = false;
    for tree in stream {
        let after_colon = std::mem::take(&mut colon);
        match tree {
            TokenTree::Group(group) => {
                let [open, close] = match group.delimiter() {
                    Delimiter::Brace => ["{", "}"],
                    Delimiter::Bracket => ["[", "]"],
                    Delimiter::Parenthesis | Delimiter::None => ["(", ")"],
                };
                into.push(open.to_owned());
                flatten(group.stream(), into);
                into.push(close.to_owned());
            }
            TokenTree::Punct(punct) if punct.as_char() == ':' && after_colon => {
                into.pop();
                into.push("::".to_owned());
            }
            TokenTree::Punct(punct) => {
                colon = punct.as_char() == ':' && punct.spacing() == Spacing::Joint;
                into.push(punct.to_string());
            }
            TokenTree::Ident(word) => into.push(word.to_string()),
            TokenTree::Literal(_) => {}
        }
    }
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

fn parse(source: &str) -> Result<File> {
    let (tokens, tests) = without_tests(&tokens(source)?);
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
            let name = tokens[at + 1..].iter().find(|t| is_word(t)).cloned();
            if ["struct", "enum", "trait"].contains(&token) {
                file.types.extend(name.clone());
            }
            file.defines.extend(name);
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
    Ok(file)
}

/// The files of one crate by their modules, such as `["fib", "layout"]`.
pub(crate) struct Crate(pub(crate) BTreeMap<Vec<String>, File>);

impl Crate {
    pub(crate) fn read(sources: &[(String, String)], root: &str) -> Result<Self> {
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
            let File { defines, types, uses, reexports, paths, words, tests } =
                parse(source).with_context(|| path.clone())?;
            let file: &mut File = files.entry(module).or_default();
            // A crate's `lib.rs` and `main.rs` are both its root.
            file.defines.extend(defines);
            file.types.extend(types);
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
        Ok(Self(files))
    }
}
