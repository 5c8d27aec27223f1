//! docs/configuration.md and packaging/arp-agent.toml: made of the options, and compared with what is committed.
//! `cargo xtask docs` writes them.

use super::Options;
use super::reload::LIVE;
use super::sources::{FILE, PREFIX, name, takes_several, variable};
use clap::{Arg, CommandFactory as _};
use std::fmt::Write as _;

const INTRODUCTION: &str = "# Configuration

<!-- `cargo xtask docs` writes this file from the options of `arp-agent run`. -->

Each setting of `arp-agent run` has one name. It is an option of the command line (`--lease 1s`), an environment
variable (`ARP_AGENT_LEASE=1s`), and a key of the configuration file (`lease = \"1s\"`). The command line overrides the
environment, the environment overrides the file, and the file overrides the default.

The file is TOML. By default the agent reads /etc/arp-agent/arp-agent.toml, if it is there; `--config FILE` or
`ARP_AGENT_CONFIG` names another, which must exist. packaging/arp-agent.toml is a sample with every setting.

A time is a number with its unit (`250ms`, `1s`); a bare number means milliseconds. Where several values may stand, they
are one text with spaces between them, or a list: `interface = [\"cali*\", \"eth0\"]`. The values of policies begin with
the interfaces that they hold for: `sender-guard = [\"cali*=drop\", \"cali7=count\"]` (docs/protection.md).

## Check and reload
`arp-agent check-config` reads the settings as `run` would, and prints each with its value and its source. It needs no
root. If something is wrong, it names the file, the line, the key and, for a misspelt name, the nearest one:

```
arp-agent: /etc/arp-agent/arp-agent.toml:2: there is no setting `interfaces`; did you mean `interface`?
/etc/arp-agent/arp-agent.toml:3: lease = 1: must be between 50 ms and 60 s
```

`arp-agent reload` or SIGHUP lets the running agent read its settings again. Either all of them come into force, or the
agent keeps the old ones: if one is wrong, or if one has changed that cannot change while the agent runs (\"restart\" in
the table). `arp-agent reload` then says why and ends with exit code 1; the log has the same line. Policies change by a
reload if the programs that they need were loaded at the start (docs/protection.md, *Change policies*).

## Settings
";

/// A setting, as the documents tell it.
struct Told {
    name: String,
    several: bool,
    /// How each value is written, where that is more than a word.
    form: Option<String>,
    default: String,
    help: String,
    /// What may stand there, with its meaning.
    values: Vec<(String, String)>,
}

fn all() -> Vec<Told> {
    Options::command().get_arguments().filter(|argument| name(argument) != "help").map(told).collect()
}

fn told(argument: &Arg) -> Told {
    let default = argument.get_default_values().iter().map(|value| value.to_string_lossy().into_owned());
    let values = argument
        .get_possible_values()
        .into_iter()
        .map(|value| (value.get_name().to_owned(), value.get_help().map(ToString::to_string).unwrap_or_default()));
    Told {
        name: name(argument).to_owned(),
        several: takes_several(argument),
        form: argument
            .get_value_names()
            .and_then(|names| names.first())
            .map(ToString::to_string)
            .filter(|form| form.contains('=')),
        default: default.collect::<Vec<_>>().join(" "),
        help: argument.get_help().map(ToString::to_string).unwrap_or_default(),
        values: values.collect(),
    }
}

fn no_default(name: &str) -> String {
    if name == "interface" { "none; it must be given" } else { "none" }.to_owned()
}

fn with_full_stop(text: &str) -> String {
    if text.ends_with('.') { text.to_owned() } else { format!("{text}.") }
}

fn markdown() -> String {
    let mut text = INTRODUCTION.to_owned();
    text.push_str("\n| setting | environment | default | changes by |\n|---|---|---|---|\n");
    for Told { name, default, .. } in all() {
        let default = if default.is_empty() { no_default(&name) } else { format!("`{default}`") };
        let by = if LIVE.contains(&name.as_str()) { "reload" } else { "restart" };
        writeln!(text, "| `{name}` | `{}` | {default} | {by} |", variable(&name)).unwrap();
    }
    for Told { name, help, values, form, .. } in all() {
        writeln!(text, "\n### `{name}`\n{}", wrapped(&with_full_stop(&help), "")).unwrap();
        if let Some(form) = form {
            writeln!(text, "\nEach value: `{form}`.").unwrap();
        }
        if !values.is_empty() {
            text.push('\n');
        }
        for (value, help) in values {
            writeln!(text, "{}", wrapped(&format!("- `{value}`: {}", with_full_stop(&help)), "  ")).unwrap();
        }
    }
    text
}

fn sample() -> String {
    let mut text = format!(
        "# Configuration of arp-agent: {FILE}\n#\n# Each line shows a setting with its default. \
         `arp-agent check-config` checks this file,\n# `arp-agent reload` (systemctl reload arp-agent) brings it into \
         force.\n# Environment variables ({PREFIX}LEASE for lease) and options of the command line override it.\n"
    );
    for Told { name, several, default, help, values, form } in all() {
        text.push('\n');
        let mut about = vec![with_full_stop(&help)];
        about.extend(form.map(|form| format!("Each value: {form}")));
        about.extend(values.iter().map(|(value, help)| format!("- {value}: {}", with_full_stop(help))));
        for line in about.iter().flat_map(|line| wrapped(line, "  ").lines().map(str::to_owned).collect::<Vec<_>>()) {
            writeln!(text, "# {line}").unwrap();
        }
        match several {
            true => writeln!(text, "#{name} = {}", if name == "interface" { "[\"cali*\"]" } else { "[]" }).unwrap(),
            false => writeln!(text, "#{name} = \"{default}\"").unwrap(),
        }
    }
    text
}

/// Lines of 116 columns at the most; those after the first are indented.
fn wrapped(text: &str, indent: &str) -> String {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        let line = lines.last_mut().unwrap();
        if line.chars().count() + word.chars().count() >= 116 {
            lines.push(format!("{indent}{word}"));
        } else {
            let gap = if line.is_empty() { "" } else { " " };
            line.push_str(&format!("{gap}{word}"));
        }
    }
    lines.join("\n")
}

#[test]
fn the_settings_are_documented_as_they_are() {
    crate::claims::assert_generated("docs/configuration.md", &markdown());
}

#[test]
fn the_sample_file_has_every_setting_with_its_default() {
    crate::claims::assert_generated("packaging/arp-agent.toml", &sample());
    // With its defaults switched on, it is what the agent takes without a file.
    let on: String = sample()
        .lines()
        .filter_map(|line| line.strip_prefix('#').filter(|line| !line.starts_with(' ')))
        .fold(String::new(), |text, line| text + line + "\n");
    let entries = super::file::parse(&on).unwrap();
    let values: Vec<(String, String)> =
        entries.into_iter().map(|entry| (entry.name, entry.values.unwrap().join(" "))).collect();
    let is: Vec<(String, String)> = all()
        .into_iter()
        .map(|told| {
            let value = if told.name == "interface" { "cali*".to_owned() } else { told.default };
            (told.name, value)
        })
        .collect();
    assert_eq!(values, is);
}

#[test]
fn what_a_reload_may_change_are_settings() {
    let all: Vec<String> = all().into_iter().map(|told| told.name).collect();
    assert!(LIVE.iter().all(|name| all.iter().any(|all| all == name)), "{all:?}");
}
