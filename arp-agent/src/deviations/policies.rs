//! What the policies that answer say of an interface, by its name: the settings put together, and refused where they
//! contradict each other.

use super::options::{DeviationOptions, Gateways};
use crate::protection::options::For;
use crate::protection::patterns::{Fault, Patterns, contradictions};
use arp_common::deviation::{Configured, MAX_GATEWAYS, Mode};

/// The policies that were asked for.
#[derive(Debug)]
pub struct Policies {
    options: DeviationOptions,
    patterns: Patterns,
}

/// What holds for an interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    /// For the dataplane.
    pub configured: Configured,
    /// Each policy that is on, in words.
    pub words: Vec<String>,
}

impl Policies {
    /// Puts the settings together. `interfaces`: the patterns of the interfaces that the agent attaches to.
    ///
    /// # Errors
    /// A pattern is not a glob, matches no interface of the agent's, or two values contradict each other: each fault.
    pub fn new(options: &DeviationOptions, interfaces: &[String]) -> Result<Self, Vec<Fault>> {
        let (mut patterns, mut faults) = (Patterns::default(), Vec::new());
        let DeviationOptions { gateway, no_delay } = options;
        let with_gateways = || gateway.iter().map(|of| &of.glob);
        let without_delay = || no_delay.iter().map(|of| &of.glob);
        patterns.add("gateway", with_gateways(), interfaces, &mut faults);
        patterns.add("no-delay", without_delay(), interfaces, &mut faults);
        contradictions("gateway", with_gateways(), &mut faults);
        contradictions("no-delay", without_delay(), &mut faults);
        let addresses: usize = gateway.iter().map(|of| of.value.addresses.len()).sum();
        if addresses > MAX_GATEWAYS as usize {
            let why = format!("has {addresses} addresses, and there is room for {MAX_GATEWAYS}");
            faults.push(Fault { setting: "gateway", why });
        }
        if faults.is_empty() { Ok(Policies { options: options.clone(), patterns }) } else { Err(faults) }
    }

    /// Whether none is asked for: then the programs are those that answer as the kernel.
    pub fn are_off(&self) -> bool {
        let DeviationOptions { gateway, no_delay } = &self.options;
        gateway.iter().all(|of| of.value.mode == Mode::Off) && no_delay.iter().all(|of| of.value.0 == Mode::Off)
    }

    /// The addresses of each list of gateways, with the list's number.
    pub fn gateways(&self) -> impl Iterator<Item = (u32, [u8; 4])> {
        let lists = (1..).zip(&self.options.gateway);
        lists.flat_map(|(list, of)| of.value.addresses.iter().map(move |address| (list, address.octets())))
    }

    /// What holds for an interface; `None` if nothing does.
    pub fn of(&self, name: &str) -> Option<Held> {
        let gateways = self.last(&self.options.gateway, name).filter(|(_, of)| of.mode != Mode::Off);
        let no_delay = self.last(&self.options.no_delay, name).map_or(Mode::Off, |(_, of)| of.0);
        let (gateway, list) = gateways.map_or((Mode::Off, 0), |(list, of)| (of.mode, list));
        let mut words = Vec::new();
        words.extend(gateways.map(|(_, Gateways { mode, addresses })| {
            let addresses: Vec<String> = addresses.iter().map(ToString::to_string).collect();
            format!("gateway: {} {}", in_words(*mode), addresses.join(" "))
        }));
        words.extend((no_delay != Mode::Off).then(|| format!("no-delay: {}", in_words(no_delay))));
        (!words.is_empty()).then(|| Held { configured: Configured::new(gateway, no_delay, list), words })
    }

    /// The last value that is given for the interface, and its place, from 1 on.
    fn last<'a, T>(&self, values: &'a [For<T>], name: &str) -> Option<(u32, &'a T)> {
        let matching = (1..).zip(values).filter(|(_, of)| self.patterns.match_name(&of.glob, name));
        matching.last().map(|(place, of)| (place, &of.value))
    }
}

fn in_words(mode: Mode) -> &'static str {
    match mode {
        Mode::Off => "off",
        Mode::Count => "count",
        Mode::Answer => "answer",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        options: DeviationOptions,
    }

    fn policies(line: &str) -> Result<Policies, Vec<Fault>> {
        let line = Line::parse_from(["run"].into_iter().chain(line.split_whitespace()));
        Policies::new(&line.options, &["cali*".to_owned(), "eth0".to_owned()])
    }

    #[test]
    fn the_last_pattern_that_matches_counts() {
        let line =
            "--gateway cali*=169.254.1.1 cali7=count:10.0.0.1,10.0.0.2 cali8=off --no-delay cali*=count cali7=answer";
        let policies = policies(line).unwrap();
        let of = |name: &str| policies.of(name).unwrap();
        assert_eq!(of("cali1").configured, Configured::new(Mode::Answer, Mode::Count, 1));
        assert_eq!(of("cali1").words, ["gateway: answer 169.254.1.1", "no-delay: count"]);
        assert_eq!(of("cali7").configured, Configured::new(Mode::Count, Mode::Answer, 2));
        assert_eq!(of("cali7").words, ["gateway: count 10.0.0.1 10.0.0.2", "no-delay: answer"]);
        assert_eq!(of("cali8").configured, Configured::new(Mode::Off, Mode::Count, 0));
        assert_eq!(policies.of("eth0"), None);
        let gateways: Vec<_> = policies.gateways().collect();
        assert_eq!(gateways, [(1, [169, 254, 1, 1]), (2, [10, 0, 0, 1]), (2, [10, 0, 0, 2])]);
        assert!(!policies.are_off());
    }

    #[test]
    fn off_is_as_if_nothing_was_said() {
        let off = policies("--gateway cali*=off --no-delay cali*=off").unwrap();
        assert!(off.are_off() && off.of("cali1").is_none());
        assert!(policies("").unwrap().are_off());
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        let refused = |line: &str| {
            let faults = policies(line).unwrap_err();
            assert_eq!(faults.len(), 1, "{line}: {faults:?}");
            faults[0].to_string()
        };
        assert!(refused("--gateway eth9=10.0.0.1").contains("gateway eth9: `interface` names no such"));
        assert!(refused("--gateway cali*=10.0.0.1 cali*=10.0.0.2").contains("twice"));
        assert!(refused("--no-delay cali7=answer cali*=count").contains("no-delay cali7: never counts"));
        let addresses: Vec<String> = (0..5_000_u32).map(|at| format!("10.1.{}.{}", at / 256, at % 256)).collect();
        assert!(
            refused(&format!("--gateway cali*={}", addresses.join(","))).contains("5000 addresses, and there is room")
        );
    }
}
