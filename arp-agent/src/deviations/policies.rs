//! What the policies that answer say of an interface, by its name: the settings put together, and refused where they
//! contradict each other.

use super::options::{DeviationOptions, Gateways};
use crate::protection::lists::NumberedLists;
use crate::protection::options::For;
use crate::protection::patterns::{Fault, Patterns, contradictions};
use arp_common::deviation::{AnswerMode, DeviationConfig, MAX_GATEWAYS};
use std::net::Ipv4Addr;

/// The policies that were asked for.
#[derive(Debug)]
pub(crate) struct DeviationPolicies {
    options: DeviationOptions,
    patterns: Patterns,
    lists: NumberedLists<Ipv4Addr>,
    /// The number of the list of each value of `gateway`.
    numbers: Vec<u32>,
}

/// What holds for an interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct InterfaceAnswers {
    /// For the dataplane.
    pub configured: DeviationConfig,
    /// Each policy that is on, in words.
    pub words: Vec<String>,
}

impl DeviationPolicies {
    /// Puts the settings together. `interfaces`: the patterns of the interfaces that the agent attaches to.
    ///
    /// # Errors
    /// A pattern is not a glob, matches no interface of the agent's, or two values contradict each other: each fault.
    pub(crate) fn new(options: &DeviationOptions, interfaces: &[String]) -> Result<Self, Vec<Fault>> {
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
        if !faults.is_empty() {
            return Err(faults);
        }
        let mut policies = DeviationPolicies {
            options: options.clone(),
            patterns,
            lists: NumberedLists::default(),
            numbers: Vec::new(),
        };
        policies.number_lists();
        Ok(policies)
    }

    /// Whether none is asked for: then the programs are those that answer as the kernel.
    pub(crate) fn are_off(&self) -> bool {
        self.on().is_empty()
    }

    /// The names of those that are on somewhere.
    pub(crate) fn on(&self) -> Vec<&'static str> {
        let DeviationOptions { gateway, no_delay } = &self.options;
        let each = [
            ("gateway", gateway.iter().any(|of| of.value.mode != AnswerMode::Off)),
            ("no-delay", no_delay.iter().any(|of| of.value.0 != AnswerMode::Off)),
        ];
        each.into_iter().filter(|(_, is_on)| *is_on).map(|(name, _)| name).collect()
    }

    /// The lists of gateways.
    pub(crate) fn lists(&mut self) -> &mut NumberedLists<Ipv4Addr> {
        &mut self.lists
    }

    /// The numbers of those that are given now.
    pub(crate) fn numbers(&self) -> &[u32] {
        &self.numbers
    }

    /// Lets equal lists have the numbers that they had in these policies.
    pub(crate) fn keep_lists_of(&mut self, before: &DeviationPolicies) {
        self.lists = before.lists.clone();
        self.number_lists();
    }

    fn number_lists(&mut self) {
        let lists = self.options.gateway.iter().map(|of| of.value.addresses.clone());
        self.numbers = lists.map(|addresses| self.lists.number(addresses)).collect();
    }

    /// What holds for an interface; `None` if nothing does.
    pub(crate) fn of(&self, name: &str) -> Option<InterfaceAnswers> {
        let gateways = self.last(&self.options.gateway, name).filter(|(_, of)| of.mode != AnswerMode::Off);
        let no_delay = self.last(&self.options.no_delay, name).map_or(AnswerMode::Off, |(_, of)| of.0);
        let (gateway, list) = gateways.map_or((AnswerMode::Off, 0), |(place, of)| (of.mode, self.numbers[place]));
        let mut words = Vec::new();
        words.extend(gateways.map(|(_, Gateways { mode, addresses })| {
            let addresses: Vec<String> = addresses.iter().map(ToString::to_string).collect();
            format!("gateway: {} {}", in_words(*mode), addresses.join(" "))
        }));
        words.extend((no_delay != AnswerMode::Off).then(|| format!("no-delay: {}", in_words(no_delay))));
        (!words.is_empty())
            .then(|| InterfaceAnswers { configured: DeviationConfig::new(gateway, no_delay, list), words })
    }

    /// The last value that is given for the interface, and its place.
    fn last<'a, T>(&self, values: &'a [For<T>], name: &str) -> Option<(usize, &'a T)> {
        let matching = values.iter().enumerate().filter(|(_, of)| self.patterns.match_name(&of.glob, name));
        matching.last().map(|(place, of)| (place, &of.value))
    }
}

fn in_words(mode: AnswerMode) -> &'static str {
    match mode {
        AnswerMode::Off => "off",
        AnswerMode::Count => "count",
        AnswerMode::Answer => "answer",
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

    fn policies(line: &str) -> Result<DeviationPolicies, Vec<Fault>> {
        let line = Line::parse_from(["run"].into_iter().chain(line.split_whitespace()));
        DeviationPolicies::new(&line.options, &["cali*".to_owned(), "eth0".to_owned()])
    }

    #[test]
    fn the_last_pattern_that_matches_counts() {
        let line =
            "--gateway cali*=169.254.1.1 cali7=count:10.0.0.1,10.0.0.2 cali8=off --no-delay cali*=count cali7=answer";
        let mut policies = policies(line).unwrap();
        let of = |name: &str| policies.of(name).unwrap();
        assert_eq!(of("cali1").configured, DeviationConfig::new(AnswerMode::Answer, AnswerMode::Count, 1));
        assert_eq!(of("cali1").words, ["gateway: answer 169.254.1.1", "no-delay: count"]);
        assert_eq!(of("cali7").configured, DeviationConfig::new(AnswerMode::Count, AnswerMode::Answer, 2));
        assert_eq!(of("cali7").words, ["gateway: count 10.0.0.1 10.0.0.2", "no-delay: answer"]);
        assert_eq!(of("cali8").configured, DeviationConfig::new(AnswerMode::Off, AnswerMode::Count, 0));
        assert_eq!(policies.of("eth0"), None);
        let gateways: Vec<_> =
            policies.lists().after(0).into_iter().map(|(list, address)| (list, address.octets())).collect();
        assert_eq!(gateways, [(1, [169, 254, 1, 1]), (2, [10, 0, 0, 1]), (2, [10, 0, 0, 2])]);
        assert!(!policies.are_off());
    }

    #[test]
    fn lists_keep_their_numbers_when_the_policies_change() {
        let before = policies("--gateway cali1=169.254.1.1 cali2=10.0.0.1").unwrap();
        let mut after = policies("--gateway cali0=10.0.0.2 cali1=count:169.254.1.1").unwrap();
        after.keep_lists_of(&before);
        assert_eq!(after.numbers(), [3, 1]);
        assert_eq!(after.of("cali1").unwrap().configured, DeviationConfig::new(AnswerMode::Count, AnswerMode::Off, 1));
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
