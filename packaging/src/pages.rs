//! The man pages: options and values from the command line's types, and what those do not say.

use crate::worked;
use anyhow::Result;
use arp_agent::cli::Cli;
use clap::{Arg, Command, CommandFactory as _};
use clap_mangen::Man;
use clap_mangen::roff::{Roff, bold, italic, roman};

const FILE: &str = "/etc/arp-agent/arp-agent.toml";

/// Exit codes that mean the same for each verb.
const CODES: [(&str, &str); 3] =
    [("0", "Success."), ("1", "The command failed; standard error says why."), ("2", "Wrong usage.")];

/// What a verb's page says besides its options.
struct More {
    verb: &'static str,
    /// Further exit codes.
    codes: &'static [(&'static str, &'static str)],
    /// A command, and what it does.
    examples: &'static [(&'static str, &'static str)],
}

const MORE: [More; 9] = [
    More {
        verb: "run",
        codes: &[],
        examples: &[
            (
                "arp-agent run --interface 'cali*'",
                "Answer on the interfaces of all Calico pods, those of later pods too.",
            ),
            ("arp-agent run --config ./test.toml", "Take the settings from this file."),
        ],
    },
    More {
        verb: "preflight",
        codes: &[("3", "Some frames would pass, or no interface matches.")],
        examples: &[(
            "arp-agent preflight --interface 'cali*'",
            "Say what would be answered on this node, and why not.",
        )],
    },
    More {
        verb: "status",
        codes: &[
            ("3", "An agent runs, but is not ready, or does not respond."),
            ("4", "No agent runs."),
            ("5", "The agent is ready, but no matching interface answers."),
        ],
        examples: &[("arp-agent status --json | jq .interfaces", "All that is known of each interface.")],
    },
    More {
        verb: "stats",
        codes: &[("3", "The agent does not respond."), ("4", "No agent runs.")],
        examples: &[("arp-agent stats --watch 5", "Counters and rates, every 5 seconds.")],
    },
    More {
        verb: "top",
        codes: &[("3", "The agent does not respond."), ("4", "No agent runs, or it has ended.")],
        examples: &[("arp-agent top --sort drops", "Where policies drop most, or would.")],
    },
    More {
        verb: "events",
        codes: &[("3", "The agent does not respond."), ("4", "No agent runs, or it has ended.")],
        examples: &[("arp-agent events --follow", "The events of the last time, and those to come.")],
    },
    More {
        verb: "trace",
        codes: &[("3", "The agent does not respond."), ("4", "No agent runs, or it has ended.")],
        examples: &[
            ("arp-agent trace --interface cali0 --verdict passed", "Why requests of a pod are left to the kernel."),
            ("arp-agent trace --pcapng - | wireshark -k -i -", "Frames, verdicts and replies, live."),
        ],
    },
    More { verb: "explain", codes: &[("3", "The fast path passes the frame to the kernel.")], examples: &[] },
    More {
        verb: "detach",
        codes: &[("3", "An agent still runs; its programs stay.")],
        examples: &[("arp-agent detach --dry-run", "Only print what agents have left on interfaces.")],
    },
];

/// Each page: its path in the folder, and its text.
///
/// # Errors
/// A page cannot be written into memory.
pub(crate) fn pages() -> Result<Vec<(String, Vec<u8>)>> {
    let mut root = Cli::command();
    root.build();
    let verbs: Vec<Command> = root.get_subcommands().filter(|verb| is_documented(verb)).cloned().collect();
    let mut pages = vec![("man8/arp-agent.8".to_owned(), root_page(&root, &verbs)?)];
    for verb in &verbs {
        pages.push((format!("man8/arp-agent-{}.8", verb.get_name()), verb_page(verb)?));
    }
    if let Some(run) = verbs.iter().find(|verb| verb.get_name() == "run") {
        pages.push(("man5/arp-agent.toml.5".to_owned(), file_page(run)));
    }
    Ok(pages)
}

fn is_documented(verb: &Command) -> bool {
    verb.get_name() != "help" && !verb.is_hide_set()
}

fn source() -> String {
    format!("arp-agent {}", env!("CARGO_PKG_VERSION"))
}

fn man(command: &Command, title: &str) -> Man {
    Man::new(command.clone().disable_help_subcommand(true))
        .title(title)
        .section("8")
        .manual("ARP fast path")
        .source(source())
}

fn root_page(root: &Command, verbs: &[Command]) -> Result<Vec<u8>> {
    let man = man(root, "ARP-AGENT");
    let mut text = Vec::new();
    man.render_title(&mut text)?;
    man.render_name_section(&mut text)?;
    man.render_synopsis_section(&mut text)?;
    man.render_description_section(&mut text)?;
    man.render_options_section(&mut text)?;
    let mut roff = Roff::new();
    roff.control("SH", ["COMMANDS"]);
    for verb in verbs {
        roff.control("TP", []);
        roff.text([bold(format!("arp-agent-{}", verb.get_name())), roman("(8)")]);
        roff.text([roman(verb.get_about().map(ToString::to_string).unwrap_or_default())]);
    }
    roff.control("SH", ["FILES"]);
    for (file, meaning) in [
        (FILE, "The settings; arp-agent.toml(5)."),
        ("/run/arp-agent", "The control socket and the lock of the running agent."),
        ("/sys/fs/bpf/arp-agent", "The pins that keep programs in place while the agent restarts."),
    ] {
        roff.control("TP", []);
        roff.text([italic(file)]);
        roff.text([roman(meaning)]);
    }
    codes(&mut roff, &[]);
    roff.control("SH", ["SEE ALSO"]);
    roff.text([
        bold("arp-agent.toml"),
        roman("(5), "),
        bold("arp"),
        roman("(7), "),
        bold("ip-neighbour"),
        roman("(8)"),
    ]);
    roff.to_writer(&mut text)?;
    Ok(text)
}

fn verb_page(verb: &Command) -> Result<Vec<u8>> {
    let man = man(verb, &format!("ARP-AGENT-{}", verb.get_name().to_uppercase()));
    let mut text = Vec::new();
    man.render_title(&mut text)?;
    man.render_name_section(&mut text)?;
    man.render_synopsis_section(&mut text)?;
    man.render_description_section(&mut text)?;
    man.render_options_section(&mut text)?;
    let more = MORE.iter().find(|more| more.verb == verb.get_name());
    let mut roff = Roff::new();
    codes(&mut roff, more.map_or(&[], |more| more.codes));
    let examples = more.map_or(&[][..], |more| more.examples);
    if !examples.is_empty() {
        roff.control("SH", ["EXAMPLES"]);
        for (command, does) in examples {
            roff.control("TP", []);
            roff.text([bold(*command)]);
            roff.text([roman(*does)]);
        }
    }
    if verb.get_name() == "explain" {
        worked::examples(&mut roff);
    }
    roff.control("SH", ["SEE ALSO"]);
    roff.text([bold("arp-agent"), roman("(8), "), bold("arp-agent.toml"), roman("(5)")]);
    roff.to_writer(&mut text)?;
    Ok(text)
}

fn codes(roff: &mut Roff, more: &[(&str, &str)]) {
    roff.control("SH", ["EXIT STATUS"]);
    for (code, meaning) in CODES.iter().chain(more) {
        roff.control("TP", []);
        roff.text([bold(*code)]);
        roff.text([roman(*meaning)]);
    }
}

/// The configuration file, whose keys are the options of `run`.
fn file_page(run: &Command) -> Vec<u8> {
    let mut roff = Roff::new();
    roff.control("TH", ["ARP-AGENT.TOML", "5", "", &source(), "ARP fast path"]);
    roff.control("SH", ["NAME"]);
    roff.text([roman("arp-agent.toml - settings of arp-agent")]);
    roff.control("SH", ["DESCRIPTION"]);
    roff.text([
        roman("A TOML file whose keys are the names of the options of "),
        bold("arp-agent-run"),
        roman("(8). "),
        roman("An option on the command line overrides the file."),
    ]);
    roff.control("SH", ["SETTINGS"]);
    let is_setting = |argument: &&Arg| !["help", "config", "verbose", "version"].contains(&argument.get_id().as_str());
    for argument in run.get_arguments().filter(is_setting) {
        let Some(name) = argument.get_long() else { continue };
        roff.control("TP", []);
        roff.text([bold(name)]);
        let defaults: Vec<_> = argument.get_default_values().iter().map(|value| value.to_string_lossy()).collect();
        let default = if defaults.is_empty() { String::new() } else { format!(" Default: {}.", defaults.join(" ")) };
        let help = argument.get_long_help().or(argument.get_help()).map(ToString::to_string).unwrap_or_default();
        roff.text([roman(format!("{}.{default}", help.trim_end_matches('.')))]);
        let values = argument.get_possible_values();
        for value in values.iter().filter(|value| !value.is_hide_set()) {
            let help = value.get_help().map(ToString::to_string).unwrap_or_default();
            roff.control("br", []);
            roff.text([italic(value.get_name()), roman(format!(": {help}"))]);
        }
    }
    roff.control("SH", ["EXAMPLE"]);
    roff.control("nf", []);
    roff.text([roman("interface = [\"cali*\", \"eth0\"]")]);
    roff.control("fi", []);
    roff.control("SH", ["SEE ALSO"]);
    roff.text([bold("arp-agent"), roman("(8), "), bold("arp-agent-run"), roman("(8)")]);
    roff.render().into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_verb_and_the_file_have_a_page() {
        let pages = pages().unwrap_or_default();
        let mut root = Cli::command();
        root.build();
        for verb in root.get_subcommands().filter(|verb| is_documented(verb)) {
            let path = format!("man8/arp-agent-{}.8", verb.get_name());
            let (_, text) = pages.iter().find(|(page, _)| *page == path).unwrap_or_else(|| panic!("no {path}"));
            let text = String::from_utf8_lossy(text);
            for section in ["NAME", "SYNOPSIS", "EXIT STATUS", "SEE ALSO"] {
                assert!(
                    text.contains(&format!(".SH {section}")) || text.contains(&format!(".SH \"{section}\"")),
                    "{path}"
                );
            }
        }
        assert!(pages.iter().any(|(page, _)| page == "man5/arp-agent.toml.5"));
    }

    #[test]
    fn what_is_said_of_verbs_is_said_of_ones_that_exist() {
        let root = Cli::command();
        for more in &MORE {
            assert!(root.find_subcommand(more.verb).is_some(), "{}", more.verb);
            for (command, _) in more.examples {
                let words = command.split(" | ").next().unwrap_or_default().replace('\'', "");
                let parsed = Cli::command().try_get_matches_from(words.split_whitespace());
                assert!(parsed.is_ok(), "{command}: {:?}", parsed.err());
            }
        }
    }
}
