//! Where settings come from: the command line, the environment, the file, the default, in this order. All of them go
//! through clap's definition of the option, which alone knows names, values and defaults.

use super::{Options, ShadowOption, file};
use crate::deviations::policies::DeviationPolicies;
use crate::protection::policies::Policies;
use anyhow::{Context as _, bail};
use clap::parser::ValueSource;
use clap::{Arg, ArgMatches, Command, CommandFactory as _, FromArgMatches as _};
use globset::Glob;
use serde::Serialize;
use std::collections::BTreeMap;
use std::error::Error as _;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{ErrorKind, Read as _};
use std::path::{Path, PathBuf};

/// The file that is read if none is named, where there is one.
pub const FILE: &str = "/etc/arp-agent/arp-agent.toml";

/// How the environment variables of settings begin.
pub const PREFIX: &str = "ARP_AGENT_";

/// What is read for the settings at the start, and again at each reload.
#[derive(Clone, Debug)]
pub struct Sources {
    /// The settings of the command line, as `--name=value`.
    given: Vec<OsString>,
    /// The file that is named; `None`: the usual one, if it is there.
    file: Option<PathBuf>,
}

/// All settings, and where each one comes from.
#[derive(Clone, Debug)]
pub struct SourcedSettings {
    /// As the agent takes them.
    pub options: Options,
    /// The file that was read.
    pub file: Option<PathBuf>,
    /// Each one, in the order of `--help`.
    pub each: Vec<Setting>,
    /// What looks like a mistake, and is none for certain.
    pub warnings: Vec<String>,
}

/// One setting.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Setting {
    /// Its name, as in the file.
    pub name: String,
    /// Its value as text; of several values, separated by spaces.
    pub value: String,
    /// `command line`, `environment`, `default`, or the file with the line.
    pub from: String,
}

impl Setting {
    /// Its value, cut short where it is too long for people.
    pub fn in_short(&self) -> String {
        const MOST: usize = 200;
        if self.value.chars().count() <= MOST {
            return self.value.clone();
        }
        let beginning: String = self.value.chars().take(MOST).collect();
        let (beginning, _) = beginning.rsplit_once(' ').unwrap_or((&beginning, ""));
        format!("{beginning} … ({} values)", self.value.split(' ').count())
    }
}

/// Bytes of a file: lists of senders are long, and a device may have no end.
const LARGEST: u64 = 16 << 20;

/// The text of a file, or what it begins with, if it is too large.
fn text_of(path: &Path) -> std::io::Result<String> {
    let mut text = String::new();
    File::open(path)?.take(LARGEST + 1).read_to_string(&mut text)?;
    Ok(text)
}

impl Sources {
    /// From the arguments of a command that takes the [`Options`], and `config`. `verbose`: how often `-v` is given,
    /// which is a log level unless one is given by name.
    pub fn of(matches: &ArgMatches, config: Option<&Path>, verbose: u8) -> Self {
        let is_given = |id: &str| matches.value_source(id) == Some(ValueSource::CommandLine);
        let mut given = Vec::new();
        for argument in Options::command().get_arguments() {
            let id = argument.get_id().as_str();
            for value in matches.get_raw(id).filter(|_| is_given(id)).into_iter().flatten() {
                given.push(option(name(argument), value));
            }
        }
        if verbose > 0 && !is_given("log_level") {
            given.push(option("log-level", OsStr::new("debug")));
        }
        Sources { given, file: config.map(Path::to_owned) }
    }

    /// Reads all of them.
    ///
    /// # Errors
    /// The file cannot be read, a key or a value is wrong, or settings contradict each other: a line for each fault.
    pub fn read(&self) -> anyhow::Result<SourcedSettings> {
        let path = self.file.as_deref().unwrap_or(Path::new(FILE));
        let text = match text_of(path) {
            Ok(text) if text.len() as u64 > LARGEST => bail!(
                "configuration file {}: it is larger than {} MiB; is it the right file?",
                path.display(),
                LARGEST >> 20
            ),
            Ok(text) => Some(text),
            Err(error) if error.kind() == ErrorKind::NotFound && self.file.is_none() => None,
            Err(error) => {
                return Err(error).with_context(|| format!("configuration file {}: cannot be read", path.display()));
            }
        };
        let environment = std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value)));
        let environment = environment.filter(|(name, _)| name.starts_with(PREFIX)).collect();
        let file = text.as_deref().map(|text| (path, text));
        merge(&self.given, &environment, file).map_err(|faults| anyhow::anyhow!(faults.join("\n")))
    }
}

impl SourcedSettings {
    /// Whether interfaces to attach to are named.
    ///
    /// # Errors
    /// None is.
    pub fn need_interfaces(&self) -> anyhow::Result<()> {
        if self.options.interface.is_empty() {
            bail!(
                "no interface to attach to: give --interface 'cali*', {PREFIX}INTERFACE='cali*', or \
                 `interface = \"cali*\"` in the configuration file"
            );
        }
        Ok(())
    }
}

/// The environment variable of a setting.
pub fn variable(name: &str) -> String {
    format!("{PREFIX}{}", name.to_uppercase().replace('-', "_"))
}

/// The name of an option.
pub(super) fn name(argument: &Arg) -> &str {
    argument.get_long().unwrap_or_default()
}

fn option(name: &str, value: &OsStr) -> OsString {
    let mut option = OsString::from(format!("--{name}="));
    option.push(value);
    option
}

/// Puts the sources over each other. The environment and the file become clap's defaults, the environment last.
fn merge(
    given: &[OsString],
    environment: &BTreeMap<String, OsString>,
    file: Option<(&Path, &str)>,
) -> Result<SourcedSettings, Vec<String>> {
    let mut command = Options::command().no_binary_name(true);
    let known: Vec<String> =
        command.get_arguments().map(|argument| name(argument).to_owned()).filter(|name| name != "help").collect();
    let (mut faults, mut from) = (Vec::new(), BTreeMap::new());
    for FoundSetting { name, values, origin } in from_file(&command, &known, file, &mut faults) {
        from.insert(name.clone(), origin);
        command = command.mut_arg(id(&name), |argument| argument.default_values(values));
    }
    for known in &known {
        let variable = variable(known);
        let Some(value) = environment.get(&variable) else { continue };
        let argument = command.get_arguments().find(|argument| name(argument) == known);
        if let Some(why) = argument.and_then(|argument| fault(argument, value)) {
            faults.push(format!("environment variable {variable}={}: {why}", value.display()));
            continue;
        }
        from.insert(known.clone(), "environment".to_owned());
        command = command.mut_arg(id(known), |argument| argument.default_value(value.clone()));
    }
    if !faults.is_empty() {
        return Err(faults);
    }
    let matches = command.clone().try_get_matches_from(given).map_err(|error| vec![error.to_string()])?;
    let mut options = Options::from_arg_matches(&matches).map_err(|error| vec![error.to_string()])?;
    options.interface.retain(|pattern| !pattern.is_empty());
    let each: Vec<Setting> = known
        .iter()
        .map(|name| {
            let id = id(name);
            let values = matches.get_raw(&id).into_iter().flatten().map(|value| value.to_string_lossy());
            let is_given = matches.value_source(&id) == Some(ValueSource::CommandLine);
            let from = from.get(name).map_or("default", String::as_str);
            Setting {
                name: name.clone(),
                value: values.collect::<Vec<_>>().join(" "),
                from: if is_given { "command line" } else { from }.to_owned(),
            }
        })
        .collect();
    faults.extend(options.hook_config().contradiction().map(str::to_owned));
    let of_interface = each.iter().find(|setting| setting.name == "interface");
    for pattern in &options.interface {
        if let Err(error) = Glob::new(pattern) {
            let from = of_interface.map_or("", |setting| &setting.from);
            faults.push(format!(
                "{from}: interface {pattern}: not a glob (try a name, or a pattern such as `cali*`): {}",
                error.kind()
            ));
        }
    }
    if faults.is_empty() {
        let dropping = Policies::new(&options.protection, &options.interface).err();
        let answers = DeviationPolicies::new(&options.deviations, &options.interface);
        if options.shadow == ShadowOption::On && answers.as_ref().is_ok_and(|policies| !policies.are_off()) {
            let from = each.iter().find(|setting| setting.name == "shadow").map_or("", |setting| &setting.from);
            faults
                .push(format!("{from}: shadow answers nothing, so gateway and no-delay contradict it: leave out one"));
        }
        let answering = answers.err();
        for fault in [dropping, answering].into_iter().flatten().flatten() {
            let from = each.iter().find(|setting| setting.name == fault.setting).map_or("", |setting| &setting.from);
            faults.push(format!("{from}: {fault}"));
        }
    }
    let warnings = misspelt(environment, &known);
    let file = file.map(|(path, _)| path.to_owned());
    if faults.is_empty() { Ok(SourcedSettings { options, file, each, warnings }) } else { Err(faults) }
}

/// A setting in the file.
struct FoundSetting {
    name: String,
    values: Vec<OsString>,
    origin: String,
}

fn from_file(
    command: &Command,
    known: &[String],
    file: Option<(&Path, &str)>,
    faults: &mut Vec<String>,
) -> Vec<FoundSetting> {
    let Some((path, text)) = file else { return Vec::new() };
    let entries = match file::parse(text) {
        Ok(entries) => entries,
        Err((line, why)) => {
            faults.push(format!("{}:{line}: {why}", path.display()));
            return Vec::new();
        }
    };
    let mut found = Vec::new();
    for file::FileKey { line, name: key, values, is_list } in entries {
        let origin = format!("{}:{line}", path.display());
        let argument = command.get_arguments().find(|argument| name(argument) == key && known.contains(&key));
        let Some(argument) = argument else {
            let meant = nearest(&key, known).map_or_else(
                || format!("the settings are {}", known.join(", ")),
                |meant| format!("did you mean `{meant}`?"),
            );
            faults.push(format!("{origin}: there is no setting `{key}`; {meant}"));
            continue;
        };
        let checked = values.map_err(str::to_owned).and_then(|values| {
            if is_list && !takes_several(argument) {
                return Err("must be one value, not a list".to_owned());
            }
            match values.iter().find_map(|value| Some((value, fault(argument, OsStr::new(value))?))) {
                Some((value, why)) => Err(format!("{value}: {why}")),
                None => Ok(values),
            }
        });
        match checked {
            Ok(values) => {
                found.push(FoundSetting {
                    name: key,
                    values: values.into_iter().map(OsString::from).collect(),
                    origin,
                });
            }
            Err(why) => faults.push(format!("{origin}: {key} = {why}")),
        }
    }
    found
}

/// What is wrong with a value of an option, in plain words.
fn fault(argument: &Arg, value: &OsStr) -> Option<String> {
    let alone = Command::new("").no_binary_name(true).disable_help_flag(true).arg(argument.clone());
    let error = alone.try_get_matches_from([option(name(argument), value)]).err()?;
    let possible: Vec<String> =
        argument.get_possible_values().iter().map(|value| value.get_name().to_owned()).collect();
    Some(match error.source() {
        _ if !possible.is_empty() => {
            let meant = nearest(&value.to_string_lossy(), &possible);
            let meant = meant.map(|meant| format!("; did you mean `{meant}`?")).unwrap_or_default();
            format!("must be one of {}{meant}", possible.join(", "))
        }
        Some(why) => why.to_string(),
        None => "a value is missing".to_owned(),
    })
}

/// clap's name of an option: that of the field.
fn id(name: &str) -> String {
    name.replace('-', "_")
}

/// Whether an option may have more than one value.
pub(super) fn takes_several(argument: &Arg) -> bool {
    argument.get_num_args().is_some_and(|range| range.max_values() > 1)
}

/// The word that somebody may have meant.
fn nearest<'a>(word: &str, words: &'a [String]) -> Option<&'a String> {
    let distance = |other: &&String| strsim::damerau_levenshtein(word, other);
    let nearest = words.iter().min_by_key(distance)?;
    // A third of a word is mistaken at the most: other words are others.
    (distance(&nearest) * 3 <= word.chars().count().max(3)).then_some(nearest)
}

/// Variables that are nobody's, but nearly a setting's. Others may be somebody's: Kubernetes makes some of a service's
/// name.
fn misspelt(environment: &BTreeMap<String, OsString>, known: &[String]) -> Vec<String> {
    let variables: Vec<String> = known.iter().map(|name| variable(name)).chain([format!("{PREFIX}CONFIG")]).collect();
    let unknown = environment.keys().filter(|name| !variables.contains(name));
    let near = unknown.filter_map(|name| {
        let meant = variables.iter().find(|variable| strsim::damerau_levenshtein(name, variable) <= 2)?;
        Some(format!("environment variable {name} is no setting; did you mean {meant}?"))
    });
    near.collect()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::config::{Hook, LogLevel, XdpMode};
    use clap::Parser as _;

    fn read(given: &[&str], environment: &[(&str, &str)], file: Option<&str>) -> Result<SourcedSettings, Vec<String>> {
        let given: Vec<OsString> = given.iter().map(OsString::from).collect();
        let environment = environment.iter().map(|&(name, value)| (name.to_owned(), value.into())).collect();
        merge(&given, &environment, file.map(|text| (Path::new("/x.toml"), text)))
    }

    /// The settings of a command line alone.
    pub(crate) fn of_line(given: &[&str]) -> SourcedSettings {
        read(given, &[], None).unwrap()
    }

    fn from<'a>(settings: &'a SourcedSettings, name: &str) -> (&'a str, &'a str) {
        let setting = settings.each.iter().find(|setting| setting.name == name).unwrap();
        (&setting.value, &setting.from)
    }

    #[test]
    fn each_source_overrides_those_after_it() {
        let file = "interface = \"cali*\"\nlease = 100\nhook = \"tc\"\nreread-interval = \"1s\"\n";
        let environment = [("ARP_AGENT_LEASE", "200"), ("ARP_AGENT_HOOK", "xdp"), ("ARP_AGENT_XDP_MODE", "skb")];
        let settings = read(&["--lease=1000"], &environment, Some(file)).unwrap();
        assert_eq!(from(&settings, "lease"), ("1000", "command line"), "given, though it is the default");
        assert_eq!(from(&settings, "hook"), ("xdp", "environment"));
        assert_eq!(from(&settings, "reread-interval"), ("1s", "/x.toml:4"));
        assert_eq!(from(&settings, "bpffs"), ("/sys/fs/bpf", "default"));
        let options = settings.options;
        assert_eq!((options.lease.as_ms(), options.reread_interval.as_ms()), (1000, 1000));
        assert_eq!((options.hook, options.xdp_mode), (Hook::Xdp, XdpMode::Skb));
        assert_eq!(options.interface, ["cali*"]);
    }

    #[test]
    fn a_list_of_interfaces_is_replaced_as_a_whole() {
        let file = "interface = [\"cali*\", \"eth0\"]";
        assert_eq!(read(&[], &[], Some(file)).unwrap().options.interface, ["cali*", "eth0"]);
        let environment = [("ARP_AGENT_INTERFACE", " veth*  eth1 ")];
        assert_eq!(read(&[], &environment, Some(file)).unwrap().options.interface, ["veth*", "eth1"]);
        let given = ["--interface=a*", "--interface=b"];
        assert_eq!(read(&given, &environment, Some(file)).unwrap().options.interface, ["a*", "b"]);
        let none = read(&[], &[], None).unwrap();
        assert!(none.need_interfaces().is_err());
    }

    #[test]
    fn a_file_without_an_end_is_refused_by_name() {
        let sources = Sources { given: Vec::new(), file: Some("/dev/zero".into()) };
        let told = format!("{:#}", sources.read().unwrap_err());
        assert_eq!(told, "configuration file /dev/zero: it is larger than 16 MiB; is it the right file?");
        // A pipe and a device with an end are files as good as others.
        let sources = Sources { given: Vec::new(), file: Some("/dev/null".into()) };
        assert!(sources.read().is_ok());
    }

    #[test]
    fn faults_name_file_line_key_and_the_nearest_name() {
        for (text, fault) in [
            ("\ninterfaces = []", "/x.toml:2: there is no setting `interfaces`; did you mean `interface`?"),
            ("hook = \"xpd\"", "/x.toml:1: hook = xpd: must be one of auto, xdp, tc; did you mean `xdp`?"),
            ("hook = \"netkit\"", "/x.toml:1: hook = netkit: must be one of auto, xdp, tc"),
            ("lease = 1", "/x.toml:1: lease = 1: must be between 50 ms and 60 s"),
            ("lease = [100, 200]", "/x.toml:1: lease = must be one value, not a list"),
            ("[hook]\na = 1", "/x.toml:1: hook = must not be a table: this file has none"),
            ("config = \"/y\"", "/x.toml:1: there is no setting `config`"),
            ("help = true", "/x.toml:1: there is no setting `help`"),
            ("tc-attach = \"tcx\"\nhook = \"xdp\"", "--hook xdp and --tc-attach contradict each other"),
            ("interface = \"[\"", "/x.toml:1: interface [: not a glob"),
            ("hook = ", "/x.toml:1: "),
        ] {
            let faults = read(&[], &[], Some(text)).unwrap_err();
            assert!(faults.len() == 1 && faults[0].starts_with(fault), "{text}: {faults:?}");
        }
        let faults = read(&[], &[], Some("lease = 1\nhook = 2")).unwrap_err();
        assert_eq!(faults.len(), 2, "all of them are told: {faults:?}");
        for (variable, value, fault) in [
            ("ARP_AGENT_LEASE", "1h", "environment variable ARP_AGENT_LEASE=1h: is no time"),
            ("ARP_AGENT_HOOK", "", "environment variable ARP_AGENT_HOOK=: must be one of auto"),
        ] {
            let faults = read(&[], &[(variable, value)], None).unwrap_err();
            assert!(faults.len() == 1 && faults[0].starts_with(fault), "{faults:?}");
        }
    }

    #[test]
    fn policies_are_settings_like_the_others() {
        let file = "interface = \"cali*\"\nsender-guard = [\"cali*=drop\", \"cali7=count\"]\nbudget = \"cali*=drop\"\n";
        let settings =
            read(&["--budget=cali*=count"], &[("ARP_AGENT_ENTRY_LIMIT", "cali*=drop:9 cali7=off")], Some(file));
        let settings = settings.unwrap();
        assert_eq!(from(&settings, "sender-guard"), ("cali*=drop cali7=count", "/x.toml:2"));
        assert_eq!(from(&settings, "budget"), ("cali*=count", "command line"));
        assert_eq!(from(&settings, "entry-limit"), ("cali*=drop:9 cali7=off", "environment"));
        assert_eq!(from(&settings, "sender-grace"), ("2s", "default"));
        let protection = settings.options.protection;
        assert_eq!((protection.sender_guard.len(), protection.entry_limit.len(), protection.budget.len()), (2, 2, 1));
    }

    #[test]
    fn faults_of_policies_name_file_line_key_and_pattern() {
        for (policy, fault) in [
            ("sender-guard = \"cali*\"", "/x.toml:2: sender-guard = cali*: an interface's name or pattern and `=`"),
            ("sender-guard = \"cali*=on\"", "/x.toml:2: sender-guard = cali*=on: `on` is none of off, count and drop"),
            ("sender-guard = [\"eth9=drop\"]", "/x.toml:2: sender-guard eth9: `interface` names no such interface"),
            ("budget = [\"cali7=drop\", \"cali*=drop\"]", "/x.toml:2: budget cali7: never counts"),
            ("entry-limit = [\"cali*=drop\", \"cali*=off\"]", "/x.toml:2: entry-limit cali*: is given twice"),
            (
                "sender-allow = \"cali*=10.8.0.1/24\"",
                "/x.toml:2: sender-allow = cali*=10.8.0.1/24: 10.8.0.1/24 has host",
            ),
            ("sender-allow = \"cali*=10.8.0.0/24\"", "/x.toml:2: sender-allow stands there without sender-guard"),
            ("sender-grace = \"2m\"", "/x.toml:2: sender-grace = 2m: is no time"),
        ] {
            let faults = read(&[], &[], Some(&format!("interface = \"cali*\"\n{policy}\n"))).unwrap_err();
            assert!(faults.len() == 1 && faults[0].starts_with(fault), "{policy}: {faults:?}");
        }
        let faults = read(&["--interface=cali*", "--budget=eth*=drop"], &[], None).unwrap_err();
        assert!(faults.len() == 1 && faults[0].starts_with("command line: budget eth*: "), "{faults:?}");
    }

    #[test]
    fn shadow_is_a_flag_and_a_setting_and_contradicts_policies_that_answer() {
        let is_on = |given: &[&str], file| read(given, &[], file).unwrap().options.shadow == ShadowOption::On;
        assert!(is_on(&["--shadow"], None) && is_on(&["--shadow=on"], None) && is_on(&[], Some("shadow = \"on\"")));
        assert!(!is_on(&[], None) && !is_on(&["--shadow=off"], Some("shadow = \"on\"")));
        let file = "interface = \"cali*\"\nshadow = \"on\"\ngateway = \"cali*=169.254.1.1\"\n";
        let faults = read(&[], &[], Some(file)).unwrap_err();
        assert!(faults.len() == 1 && faults[0].starts_with("/x.toml:2: shadow answers nothing"), "{faults:?}");
    }

    #[test]
    fn ten_thousand_values_are_told_in_short() {
        let listed: Vec<String> =
            (0..10_000_u32).map(|number| format!("\"cali*=10.{}.{}.0/24\"", number / 256, number % 256)).collect();
        let file =
            format!("interface = \"cali*\"\nsender-guard = \"cali*=drop\"\nsender-allow = [{}]\n", listed.join(","));
        let settings = read(&[], &[], Some(&file)).unwrap();
        assert_eq!(settings.options.protection.sender_allow.len(), 10_000);
        let told = settings.each.iter().find(|setting| setting.name == "sender-allow").unwrap().in_short();
        assert!(told.len() < 250 && told.ends_with("… (10000 values)"), "{told}");
        let patterns: Vec<String> = (0..10_000).map(|number| format!("\"cali{number}=drop\"")).collect();
        let file = format!("interface = \"cali*\"\nbudget = [{}]\n", patterns.join(","));
        let faults = read(&[], &[], Some(&file)).unwrap_err();
        assert_eq!(faults, ["/x.toml:2: budget has 10000 patterns, and there is room for 1024: use wider ones"]);
    }

    #[test]
    fn variables_of_others_are_left_alone_and_misspelt_ones_told() {
        let environment =
            [("ARP_AGENT_SERVICE_HOST", "10.0.0.1"), ("ARP_AGENT_LEESE", "100"), ("ARP_AGENT_CONFIG", "/y")];
        let settings = read(&[], &environment, None).unwrap();
        let told = "environment variable ARP_AGENT_LEESE is no setting; did you mean ARP_AGENT_LEASE?";
        assert_eq!(settings.warnings, [told]);
    }

    #[test]
    fn a_command_line_is_taken_as_it_was_given() {
        let of = |line: &[&str], verbose| {
            let matches = crate::cli::Cli::command().get_matches_from([&["arp-agent", "run"], line].concat());
            Sources::of(matches.subcommand_matches("run").unwrap(), None, verbose).given
        };
        assert_eq!(
            of(&["--interface", "a", "b", "--lease", "1s"], 0),
            ["--interface=a", "--interface=b", "--lease=1s"]
        );
        assert_eq!(of(&[], 1), ["--log-level=debug"]);
        assert_eq!(of(&["--log-level", "warn"], 1), ["--log-level=warn"]);
        assert_eq!(Options::parse_from([""]).log_level, LogLevel::Info);
    }
}
