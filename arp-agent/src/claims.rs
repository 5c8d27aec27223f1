//! What the documents claim of the code, checked against the code.
//!
//! Each test names the document and what to change there. A claim that no test here checks can grow stale unseen, so
//! documents say as little as possible that the code can change.

use crate::capabilities::CAPABILITIES;
use crate::cli::Cli;
use crate::commands::check_config::{self, CheckedConfig};
use crate::commands::{stats, top};
use crate::config::{Hook, HookConfig, TcAttach, XdpMode};
use crate::control::{InterfaceStatus, Peer, ShadowStatus, ShadowVerdict, Status};
use crate::dataplane::HookKind;
use crate::event::Link;
use crate::events::{EventKind, RaisedEvent};
use crate::explain::checks::Check;
use crate::explain::{
    AgentIs, Answer, Cause, Explanation, Fact, KernelAnswer, PolicyAnswer, Question, Remedy, TablesFrom,
};
use crate::hooks::policy::{Surroundings, candidates};
use crate::preflight::interfaces::{Foreseen, Unanswered};
use crate::preflight::{Preflight, machine};
use arp_common::Reason;
use arp_common::guard::DropReason;
use clap::{Arg, CommandFactory as _, ValueEnum};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::Duration;

fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

fn document(name: &str) -> String {
    fs::read_to_string(root().join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// The text of a document from one heading, without it, to the next of its rank.
fn section(document: &str, heading: &str) -> String {
    let rank = heading.split(' ').next().unwrap_or_default();
    let lines = document.lines().skip_while(|line| *line != heading).skip(1);
    let text: Vec<&str> = lines.take_while(|line| line.split(' ').next() != Some(rank)).collect();
    assert!(!text.is_empty(), "there is no section `{heading}`");
    text.join("\n")
}

/// What stands between backticks.
fn quoted(text: &str) -> Vec<&str> {
    text.split('`').skip(1).step_by(2).collect()
}

/// The cells of the first table of a text, its head and rule left out.
fn table(text: &str) -> Vec<Vec<&str>> {
    let lines = text.lines().skip_while(|line| !line.starts_with('|')).take_while(|line| line.starts_with('|'));
    lines.skip(2).map(|line| line.trim_matches('|').split(" | ").map(str::trim).collect()).collect()
}

/// The files of the repository with one of these endings, relative to its root; not those that builds and tools write.
fn files(endings: &[&str]) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![root().to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap().map(Result::unwrap) {
            let (path, name) = (entry.path(), entry.file_name().into_string().unwrap());
            let kind = entry.file_type().unwrap();
            if kind.is_dir() && !name.starts_with('.') && name != "target" {
                folders.push(path);
            } else if kind.is_file() && endings.iter().any(|ending| name.ends_with(ending)) {
                found.push(path.strip_prefix(root()).unwrap().to_owned());
            }
        }
    }
    found.sort();
    found
}

fn set<T: Into<String>>(things: impl IntoIterator<Item = T>) -> BTreeSet<String> {
    things.into_iter().map(Into::into).collect()
}

fn assert_same(claimed: &BTreeSet<String>, is: &BTreeSet<String>, whose: &str) {
    let missing: Vec<&String> = is.difference(claimed).collect();
    let stale: Vec<&String> = claimed.difference(is).collect();
    assert!(missing.is_empty() && stale.is_empty(), "{whose}: it lacks {missing:?}, and wrongly names {stale:?}");
}

/// A file that the code makes is committed as the code makes it. With `ARP_WRITE_DOCS` set it is written instead.
pub(crate) fn assert_generated(name: &str, text: &str) {
    let path = root().join(name);
    if std::env::var_os("ARP_WRITE_DOCS").is_some() {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
    }
    assert!(fs::read_to_string(&path).is_ok_and(|is| is == text), "{name} is not up to date: run `cargo xtask docs`");
}

#[test]
fn architecture_lists_the_files_with_unsafe_code() {
    let starts = ["unsafe {", "unsafe fn", "unsafe impl", "unsafe extern"];
    let has_unsafe = |path: &PathBuf| {
        let text = fs::read_to_string(root().join(path)).unwrap();
        let code = |line: &str| line.split("//").next().unwrap_or_default().to_owned();
        // This file has the words, but no such code.
        !path.ends_with(file!().rsplit('/').next().unwrap())
            && text.lines().map(code).any(|line| starts.iter().any(|start| line.contains(start)))
    };
    let is = files(&[".rs"]).into_iter().filter(has_unsafe).map(|path| path.display().to_string());
    let text = section(&document("ARCHITECTURE.md"), "## Unsafe code");
    let listed = text.lines().filter_map(|line| line.strip_prefix("- "));
    let claimed = listed.map(|line| quoted(line).first().copied().unwrap_or_default());
    assert_same(&set(claimed), &set(is), "ARCHITECTURE.md, Unsafe code");
}

/// Of the three crates of the product, the map names each file of the top level. Of a folder it names all files or none
/// (`mod.rs` and tests apart). What it names exists.
#[test]
fn architecture_names_the_files_that_there_are() {
    let text = section(&document("ARCHITECTURE.md"), "## Where things are");
    let mut crates: BTreeMap<&str, String> = BTreeMap::new();
    let mut current = None;
    for line in text.lines().filter(|line| !line.starts_with("```")) {
        if !line.starts_with(' ') && !line.is_empty() {
            current = line.split('/').next();
        }
        if let Some(name) = current {
            *crates.entry(name).or_default() += &format!("{line}\n");
        }
    }
    let is_name = |word: &str| word.chars().all(|c| c.is_ascii_alphanumeric() || "_/.".contains(c));
    for name in ["arp-common", "arp-ebpf", "arp-agent"] {
        let map = &crates[name];
        let words = map.split([' ', ',', ';', ':', '\n', '(', ')']).filter(|word| is_name(word));
        let named: BTreeSet<&str> = words.filter(|word| word.ends_with(".rs")).collect();
        let sources = root().join(name).join("src");
        let mut by_folder: BTreeMap<PathBuf, Vec<String>> = BTreeMap::new();
        for path in files(&[".rs"]).into_iter().filter(|path| root().join(path).starts_with(&sources)) {
            let file = path.file_name().unwrap().to_str().unwrap().to_owned();
            by_folder.entry(path.parent().unwrap().to_owned()).or_default().push(file);
        }
        let all: BTreeSet<&str> = by_folder.values().flatten().map(String::as_str).collect();
        let gone: Vec<_> = named.difference(&all).collect();
        assert!(gone.is_empty(), "ARCHITECTURE.md, Where things are: {name} has no {gone:?}");
        let needs_no_name = |file: &str| ["lib.rs", "mod.rs", "tests.rs", "claims.rs"].contains(&file);
        for (folder, files) in &by_folder {
            let is_top = folder.ends_with("src");
            let part = match folder.file_name().and_then(|folder| folder.to_str()) {
                Some(folder) if !is_top => entry(map, folder),
                _ => map.clone(),
            };
            let named: BTreeSet<&str> = part.split([' ', ',', ';', ':', '\n', '(', ')']).collect();
            if !is_top && !files.iter().any(|file| named.contains(file.as_str())) {
                continue;
            }
            let lacks = files.iter().filter(|file| !named.contains(file.as_str()) && !needs_no_name(file));
            let lacks: Vec<&String> = lacks.collect();
            assert!(lacks.is_empty(), "ARCHITECTURE.md, Where things are: {} also has {lacks:?}", folder.display());
        }
    }
}

/// What the map says of a folder: the line that begins with its name, and those indented further.
fn entry(map: &str, folder: &str) -> String {
    let mut lines = map.lines().skip_while(|line| !line.starts_with(&format!("  {folder}/")));
    let first = lines.next().unwrap_or_default();
    lines.take_while(|line| line.starts_with("   ")).fold(first.to_owned(), |text, line| text + "\n" + line)
}

/// Links of Markdown, and what code and documents name under `docs/`.
#[test]
fn links_and_names_of_documents_lead_somewhere() {
    let mut astray = Vec::new();
    for path in files(&[".md", ".rs", ".toml"]) {
        let text = fs::read_to_string(root().join(&path)).unwrap();
        let mut check = |target: &str, folder: &Path| {
            let target = target.split('#').next().unwrap_or_default();
            let is_there = folder.join(target).exists()
                // `docs/adr/0007` stands for the file whose name begins so.
                || folder.join(target).parent().and_then(|parent| fs::read_dir(parent).ok()).is_some_and(|mut entries| {
                    let name = target.rsplit('/').next().unwrap_or_default();
                    target.contains("adr/") && entries.any(|entry| entry.is_ok_and(|entry| {
                        entry.file_name().to_string_lossy().starts_with(&format!("{name}-"))
                    }))
                });
            if !is_there {
                astray.push(format!("{}: {target}", path.display()));
            }
        };
        if path.extension().is_some_and(|extension| extension == "md") {
            for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
                if !link.contains("://") && !link.starts_with('#') {
                    check(link, root().join(&path).parent().unwrap());
                }
            }
        }
        for (at, _) in text.match_indices("docs/") {
            // `tests/docs/` or `../docs/` would be another place.
            let before = text[..at].chars().next_back();
            let rest = &text[at..];
            let is_part = |c: char| c.is_ascii_alphanumeric() || "_/.-".contains(c);
            let end = rest.find(|c: char| !is_part(c)).unwrap_or(rest.len());
            let name = rest[..end].trim_end_matches(['.', '-']);
            let goes_on = rest[end..].starts_with(['{', '*', '<', '$', '…']);
            if !before.is_some_and(is_part) && !goes_on && name != "docs/" {
                check(name, root());
            }
        }
    }
    assert!(astray.is_empty(), "{astray:#?}");
}

/// The paths of a JSON document's fields, `a.b` and `a[].b`. `maps`: objects whose keys are data.
fn fields(value: &Value, path: &str, maps: &[&str], into: &mut BTreeSet<String>) {
    match value {
        Value::Object(object) if !maps.iter().any(|map| path == *map || path.ends_with(&format!(".{map}"))) => {
            assert!(!object.is_empty(), "{path}: the sample has no such object");
            for (key, value) in object {
                let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                fields(value, &path, maps, into);
            }
        }
        Value::Array(values) if values.first().is_some_and(Value::is_object) => {
            values.iter().for_each(|value| fields(value, &format!("{path}[]"), maps, into));
        }
        Value::Array(values) => {
            assert!(!values.is_empty(), "{path}: the sample has no such value");
            into.insert(format!("{path}[]"));
        }
        _ => drop(into.insert(path.to_owned())),
    }
}

fn assert_fields_are_documented(sample: &Value, heading: &str) {
    let mut is = BTreeSet::new();
    let maps =
        ["patterns", "passed", "passed_per_second", "dropped", "would_drop", "answered_by_policy", "would_answer"];
    fields(sample, "", &maps, &mut is);
    let text = section(&document("docs/operations.md"), heading);
    let claimed =
        table(&text).into_iter().flat_map(|row| quoted(row[0]).into_iter().map(str::to_owned).collect::<Vec<_>>());
    assert_same(&set(claimed), &is, &format!("docs/operations.md, {heading}"));
}

/// A document with every field.
pub(crate) fn status() -> Status {
    Status {
        version: crate::DOCUMENT_VERSION,
        running: true,
        ready: true,
        not_ready_because: Some(String::new()),
        warnings: vec![String::new()],
        pid: 1,
        agent_version: String::new(),
        up_seconds: 0,
        patterns: BTreeMap::new(),
        interfaces: vec![InterfaceStatus {
            name: "cali0".into(),
            ifindex: 7,
            hook: "tc".into(),
            mode: "clsact".into(),
            hook_why: String::new(),
            state: "passing".into(),
            reason_id: Some(String::new()),
            reason: Some(String::new()),
            others: vec![String::new()],
            answered: 0,
            passed: BTreeMap::new(),
            answered_by_policy: BTreeMap::new(),
            would_answer: BTreeMap::new(),
            policies: vec![String::new()],
            guard: Some(String::new()),
            dropped: BTreeMap::new(),
            would_drop: BTreeMap::new(),
            peer: Some(Peer { ifindex: 2, netnsid: Some(0), netns: Some(String::new()) }),
            hosts: vec![Ipv4Addr::LOCALHOST],
        }],
        answered: 0,
        passed: BTreeMap::new(),
        answered_by_policy: BTreeMap::new(),
        would_answer: BTreeMap::new(),
        dropped: BTreeMap::new(),
        would_drop: BTreeMap::new(),
        shadow: Some(ShadowStatus {
            not_seen: vec![String::new()],
            last_disagreement: Some(String::new()),
            verdicts: vec![ShadowVerdict { mean_us: Some(1.0), longest_us: Some(1.0), ..ShadowVerdict::default() }],
            ..ShadowStatus::default()
        }),
        routes: 0,
        neighbours: 0,
        views: 0,
        fib_nodes: 0,
        refused_entries: 0,
        resyncs: 0,
        held_back: vec!["cali0".into()],
        times_held_back: 0,
        overruns: 0,
        sysctl_hook: String::new(),
        settings_written: 0,
        settings_written_elsewhere: 0,
        reread_interval_ms: 250,
        lease_ms: 1000,
    }
}

#[test]
fn every_field_of_status_is_documented() {
    assert_fields_are_documented(&serde_json::to_value(status()).unwrap(), "### Fields of `status --json`");
}

#[test]
fn every_field_of_check_config_is_documented() {
    let settings = crate::config::sources::tests::of_line(&["--interface=cali*"]);
    let document = CheckedConfig { file: Some(PathBuf::new()), ..check_config::document(settings) };
    assert_fields_are_documented(&serde_json::to_value(document).unwrap(), "### Fields of `check-config --json`");
}

#[test]
fn every_field_of_stats_is_documented() {
    let mut document = stats::document(&status(), Some("cali0")).unwrap();
    document.rate(&document.clone(), Duration::from_secs(1));
    let document = serde_json::to_value(document).unwrap();
    assert_fields_are_documented(&document, "### Fields of `stats --json`");
}

#[test]
fn every_field_and_every_kind_of_events_is_documented() {
    let event = RaisedEvent {
        interface: Some(String::new()),
        ifindex: Some(7),
        address: Some(Ipv4Addr::LOCALHOST),
        lladdr: Some(arp_common::Lladdr::new([0; 6])),
        reason: Some(String::new()),
        dropped: Some(true),
        ..RaisedEvent::default()
    };
    assert_fields_are_documented(&serde_json::to_value(event).unwrap(), "### Fields of `events --json`");
    let text = section(&document("docs/operations.md"), "## Events");
    let claimed: Vec<String> = table(&text).into_iter().map(|row| format!("| {} |", row.join(" | "))).collect();
    let is: Vec<String> = EventKind::ALL.iter().map(|kind| format!("| `{}` | {} |", kind.name(), kind.why())).collect();
    assert!(claimed == is, "docs/operations.md, Events: the rows must be\n{}", is.join("\n"));
}

#[test]
fn every_field_of_trace_is_documented() {
    let shown = crate::trace::tests::shown();
    assert_fields_are_documented(&serde_json::to_value(shown).unwrap(), "### Fields of `trace --json`");
}

#[test]
fn every_field_of_top_is_documented() {
    let document = serde_json::to_value(top::sample()).unwrap();
    assert_fields_are_documented(&document, "### Fields of `top --json`");
}

#[test]
fn every_field_of_preflight_is_documented() {
    let limit = Unanswered { reason_id: String::new(), reason: String::new(), passes: true };
    let interface = Foreseen {
        name: "cali0".into(),
        ifindex: 7,
        state: "answering".into(),
        hook: "tc".into(),
        mode: "tcx".into(),
        reason_id: Some(String::new()),
        reason: Some(String::new()),
        others: vec![String::new()],
        limits: vec![limit],
    };
    let preflight = Preflight {
        version: crate::DOCUMENT_VERSION,
        agent_version: String::new(),
        kernel: String::new(),
        can_run: true,
        checks: vec![machine::MachineCheck { check: String::new(), ok: true, needed: true, found: String::new() }],
        patterns: BTreeMap::new(),
        interfaces: vec![interface],
    };
    assert_fields_are_documented(&serde_json::to_value(preflight).unwrap(), "### Fields of `preflight --json`");
}

#[test]
fn every_field_of_explain_is_documented() {
    let fact = || vec![Fact { what: String::new(), found: String::new() }];
    let explanation = Explanation {
        version: crate::DOCUMENT_VERSION,
        question: Question {
            interface: "cali0".into(),
            ifindex: 7,
            target: Ipv4Addr::LOCALHOST,
            sender: Ipv4Addr::LOCALHOST,
            sender_mac: arp_common::Lladdr::new([0; 6]),
            destination: Some(arp_common::Lladdr::new([0; 6])),
        },
        tables: TablesFrom::Kernel,
        kernel_state: fact(),
        inputs: fact(),
        checks: vec![Check { check: String::new(), otherwise: String::new(), holds: true }],
        verdict: "pass".into(),
        reply_mac: Some(arp_common::Lladdr::new([0; 6])),
        reason: Some(String::new()),
        why: String::new(),
        kernel: Some(KernelAnswer {
            answer: Answer::Silent,
            reason: Some(String::new()),
            why: String::new(),
            mac: Some(arp_common::Lladdr::new([0; 6])),
            within_ms: Some(0),
            decided_by: Cause { place: Some(String::new()), ..Cause::default() },
        }),
        remedies: vec![Remedy { command: String::new(), then: Answer::Silent, also: Some(String::new()) }],
        listeners: vec![String::new()],
        oddities: vec![String::new()],
        not_seen: vec![String::new()],
        for_now: Some(String::new()),
        agent: AgentIs::None,
        would_answer_if: vec![String::new()],
        program: Some(String::new()),
        policy: Some(PolicyAnswer { name: String::new(), answers: true, why: String::new() }),
    };
    assert_fields_are_documented(&serde_json::to_value(explanation).unwrap(), "### Fields of `explain --json`");
}

#[test]
fn every_reason_is_documented_with_its_sentence() {
    let text = section(&document("docs/operations.md"), "### All reasons");
    let claimed: Vec<(String, String)> = table(&text)
        .into_iter()
        .map(|row| (quoted(row[0]).first().copied().unwrap_or_default().to_owned(), row[1].to_owned()))
        .collect();
    let is: Vec<(String, String)> =
        Reason::ALL.iter().map(|reason| (reason.name().to_owned(), reason.why().to_owned())).collect();
    let line = |(name, why): &(String, String)| format!("| `{name}` | {why} |");
    let lines: Vec<String> = is.iter().map(line).collect();
    assert!(claimed == is, "docs/operations.md, All reasons: the rows must be\n{}", lines.join("\n"));
    let semantics = document("docs/semantics.md");
    let absent: Vec<&str> = Reason::ALL
        .iter()
        .map(|reason| reason.name())
        .filter(|name| !semantics.contains(&format!("`{name}`")))
        .collect();
    assert!(absent.is_empty(), "docs/semantics.md does not name {absent:?}");
}

/// Reasons that documents name in tables of reasons exist.
#[test]
fn no_document_names_a_reason_that_is_none() {
    let is = set(Reason::ALL.iter().map(|reason| reason.name()));
    let semantics = section(&document("docs/semantics.md"), "## The decision, in order");
    let in_order: Vec<String> = table(&semantics).iter().flat_map(|row| quoted(row[3])).map(str::to_owned).collect();
    assert!(in_order.len() > 20, "the table is found: {in_order:?}");
    let none: Vec<&String> = in_order.iter().filter(|name| !is.contains(*name)).collect();
    assert!(none.is_empty(), "docs/semantics.md, The decision, in order: {none:?} are no reasons");
}

/// The hooks that an interface gets, as documents and `--help` name them.
fn tried(hook_config: HookConfig, kind: Option<&str>) -> Vec<String> {
    let link = Link { kind: kind.map(str::to_owned), ..Link::default() };
    let name = |how: HookKind| format!("{} {}", how.hook(), how.mode());
    let around = Surroundings { knows_tcx: true, ..Surroundings::default() };
    candidates(hook_config, &link, around).into_iter().map(|candidate| name(candidate.how)).collect()
}

fn help_of<T: ValueEnum>(value: &T) -> String {
    value.to_possible_value().and_then(|value| value.get_help().map(ToString::to_string)).unwrap_or_default()
}

#[test]
fn help_and_documents_name_the_hooks_that_auto_tries() {
    let text = section(&document("docs/operations.md"), "## Which hook");
    let rows = table(&text);
    for (kind, named) in [(Some("veth"), "veth"), (Some("tun"), "another virtual device"), (None, "NIC")] {
        let row = rows.iter().find(|row| row[0] == named).unwrap_or_else(|| panic!("no row of {named}"));
        let claimed: Vec<String> = quoted(row[1]).into_iter().map(str::to_owned).collect();
        assert_eq!(claimed, tried(HookConfig::default(), kind), "docs/operations.md, Which hook, {named}");
    }
    let help = help_of(&Hook::Auto);
    for (kind, named) in [(Some("veth"), "on a veth or another virtual device"), (None, "on a NIC")] {
        let says = format!("{named} {}", tried(HookConfig::default(), kind).join(", "));
        assert!(help.contains(&says), "--help, --hook auto: it must say `{says}`: {help}");
    }
    assert_eq!(
        tried(HookConfig::default(), Some("veth")),
        tried(HookConfig::default(), Some("tun")),
        "the help has one list for both"
    );
    let tc = HookConfig { hook: Hook::Tc, tc_attach: TcAttach::Auto, ..HookConfig::default() };
    let says = tried(tc, Some("veth")).join(", ").replace("tc ", "");
    let help = help_of(&TcAttach::Auto);
    assert!(help.contains(&says), "--help, --tc-attach auto: it must say `{says}`: {help}");
    let xdp =
        |kind| tried(HookConfig { hook: Hook::Xdp, ..HookConfig::default() }, kind).join(", ").replace("xdp ", "");
    let help = help_of(&XdpMode::Auto);
    for (kind, named) in [(Some("veth"), "on a virtual device"), (None, "on a NIC")] {
        let says = format!("{named} {}", xdp(kind));
        assert!(help.contains(&says), "--help, --xdp-mode auto: it must say `{says}`: {help}");
    }
}

/// Each policy's setting, and each reason to drop with its sentence, stands in docs/protection.md.
#[test]
fn policies_are_documented() {
    let text = document("docs/protection.md");
    let command = Cli::command();
    let run = command.find_subcommand("run").unwrap();
    let options = run.get_arguments().filter(|argument| argument.get_help_heading().is_some());
    let options: Vec<&str> = options.filter_map(Arg::get_long).collect();
    assert!(options.contains(&"sender-guard"), "{options:?}");
    for option in options {
        assert!(text.contains(&format!("| `{option}`: ")), "docs/protection.md does not describe {option}");
    }
    for reason in DropReason::ALL {
        let row = format!("| `{}` | {} |", reason.name(), reason.why());
        assert!(text.contains(&row), "docs/protection.md needs the row {row}");
    }
}

/// Each option that the user's documents name is one of `arp-agent`'s, or stands in a line about another program.
#[test]
fn options_in_documents_exist() {
    let mut command = Cli::command();
    command.build();
    let mut all: BTreeSet<String> = BTreeSet::new();
    for sub in command.get_subcommands() {
        all.extend(sub.get_arguments().filter_map(|argument| argument.get_long().map(|long| format!("--{long}"))));
    }
    // Options of other programs, by the word that their lines contain.
    let others = ["cargo", "ethtool", "setpriv", "bpftool", "systemctl", "unshare"];
    for name in ["README.md", "docs/operations.md", "docs/configuration.md", "docs/protection.md"] {
        for line in document(name).lines().filter(|line| !others.iter().any(|other| line.contains(other))) {
            for (at, _) in line.match_indices("--").filter(|&(at, _)| !line[..at].ends_with(['-', '|'])) {
                let option: String = line[at..].chars().take_while(|&c| c.is_ascii_lowercase() || c == '-').collect();
                let is_option = option.len() > 2 && !option.starts_with("---");
                assert!(!is_option || all.contains(&option), "{name}: arp-agent has no option {option}: {line}");
            }
        }
    }
}

/// Each verb is in the README, and each that the README and docs/operations.md name exists.
#[test]
fn commands_in_documents_exist() {
    let is = set(Cli::command().get_subcommands().map(|sub| sub.get_name().to_owned()));
    let mut claimed = BTreeSet::new();
    for name in ["README.md", "docs/operations.md"] {
        let text = document(name);
        let after = |rest: &str| rest.chars().take_while(|c| c.is_ascii_lowercase() || *c == '-').collect::<String>();
        let commands = text.split("arp-agent ").skip(1).map(after).filter(|verb| !verb.is_empty());
        let starts = ["`arp-agent ", "    arp-agent ", "/arp-agent "];
        let in_code = |verb: &String| starts.iter().any(|start| text.contains(&format!("{start}{verb}")));
        claimed.extend(commands.filter(in_code));
    }
    assert_same(&claimed, &is, "README.md and docs/operations.md, the commands of arp-agent");
}

#[test]
fn documents_and_errors_name_the_capabilities_that_are_asked_for() {
    let is = set(CAPABILITIES.map(|capability| capability.to_string()));
    let named = |text: &str| {
        let is_part = |c: char| c.is_ascii_uppercase() || c == '_';
        set(text.split(|c| !is_part(c)).filter(|word| word.starts_with("CAP_")))
    };
    let readme = section(&document("README.md"), "## Requirements");
    let requirements = readme.split("Tested").next().unwrap_or_default();
    assert_same(&named(requirements), &is, "README.md, Requirements");
    let (needs, unit) =
        (section(&document("docs/operations.md"), "## What it needs"), document("packaging/arp-agent.service"));
    let sentence = needs.split(" in the network namespace").next().unwrap_or_default();
    assert_same(&named(sentence), &is, "docs/operations.md, What it needs");
    let line = unit.lines().find(|line| line.starts_with("CapabilityBoundingSet=")).unwrap_or_default();
    assert_same(&named(line), &is, "packaging/arp-agent.service");
    let source = include_str!("commands/run.rs");
    let line = source.lines().find(|line| line.contains("AmbientCapabilities=")).unwrap_or_default();
    assert_same(&named(line), &is, "the error of arp-agent run");
}
