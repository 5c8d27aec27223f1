//! What the policies say of an interface, by its name: the options put together, and refused where they contradict each
//! other.

use super::lists::NumberedLists;
use super::options::{Allowed, For, ProtectionOptions};
use super::patterns::{Fault, Patterns, contradictions};
use crate::dataplane::bpf::guards::GuardConfig;
use crate::prefix::Prefix;
use arp_common::guard::{DropMode, MAX_ALLOWED, Policy, Rate};
use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::time::Duration;

/// The policies that were asked for.
#[derive(Debug)]
pub(crate) struct Policies {
    options: ProtectionOptions,
    patterns: Patterns,
    /// The lists of allowed senders that interfaces have.
    lists: NumberedLists<Allowed>,
}

/// What holds for an interface.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct InterfaceProtection {
    /// For the dataplane.
    pub configured: GuardConfig,
    /// Each policy that is on, in words.
    pub words: Vec<String>,
    /// The sender-guard drops.
    pub drops_senders: bool,
}

impl Policies {
    /// Puts the settings together. `interfaces`: the patterns of the interfaces that the agent attaches to.
    ///
    /// # Errors
    /// A pattern is not a glob, matches no interface of the agent's, or two values contradict each other: each fault.
    pub(crate) fn new(options: &ProtectionOptions, interfaces: &[String]) -> Result<Self, Vec<Fault>> {
        let (mut patterns, mut faults) = (Patterns::default(), Vec::new());
        let ProtectionOptions { sender_guard, sender_allow, entry_limit, budget, binding, unresolved_budget, .. } =
            options;
        let guarded = || sender_guard.iter().map(|of| &of.glob);
        let limited = || entry_limit.iter().map(|of| &of.glob);
        let rated = || budget.iter().map(|of| &of.glob);
        let bound = || binding.iter().map(|of| &of.glob);
        let charged = || unresolved_budget.iter().map(|of| &of.glob);
        patterns.add("sender-guard", guarded(), interfaces, &mut faults);
        patterns.add("sender-allow", sender_allow.iter().map(|of| &of.glob), interfaces, &mut faults);
        patterns.add("entry-limit", limited(), interfaces, &mut faults);
        patterns.add("budget", rated(), interfaces, &mut faults);
        patterns.add("binding", bound(), interfaces, &mut faults);
        patterns.add("unresolved-budget", charged(), interfaces, &mut faults);
        contradictions("sender-guard", guarded(), &mut faults);
        contradictions("entry-limit", limited(), &mut faults);
        contradictions("budget", rated(), &mut faults);
        contradictions("binding", bound(), &mut faults);
        contradictions("unresolved-budget", charged(), &mut faults);
        let is_of_use = sender_guard.iter().any(|of| of.value.0 != DropMode::Off)
            || binding.iter().any(|of| of.value.mode != DropMode::Off);
        if !sender_allow.is_empty() && !is_of_use {
            let why =
                "stands there without sender-guard and binding: there is nothing to allow; add sender-guard GLOB=count";
            faults.push(Fault { setting: "sender-allow", why: why.to_owned() });
        }
        let mut known = BTreeMap::new();
        for For { glob, value: Allowed { prefix, lladdr } } in sender_allow {
            if known.insert((glob, prefix), lladdr).is_some_and(|before| before != lladdr) {
                let Prefix { addr, len } = *prefix;
                let prefix = format!("{}/{len}", Ipv4Addr::from(addr));
                let why =
                    format!("{glob}: {prefix} is given with two link-layer addresses; a prefix takes one, or any");
                faults.push(Fault { setting: "sender-allow", why });
            }
        }
        if sender_allow.len() > MAX_ALLOWED as usize {
            let why = format!("has {} prefixes, and there is room for {MAX_ALLOWED}", sender_allow.len());
            faults.push(Fault { setting: "sender-allow", why });
        }
        if !faults.is_empty() {
            return Err(faults);
        }
        Ok(Policies { options: options.clone(), patterns, lists: NumberedLists::default() })
    }

    /// Whether none is asked for: then nothing is loaded, nor attached.
    pub(crate) fn are_off(&self) -> bool {
        self.on().is_empty()
    }

    /// The names of those that are on somewhere.
    pub(crate) fn on(&self) -> Vec<&'static str> {
        let ProtectionOptions { sender_guard, entry_limit, budget, binding, unresolved_budget, .. } = &self.options;
        let each = [
            ("sender-guard", sender_guard.iter().any(|of| of.value.0 != DropMode::Off)),
            ("entry-limit", entry_limit.iter().any(|of| of.value.mode != DropMode::Off)),
            ("budget", budget.iter().any(|of| of.value.mode != DropMode::Off)),
            ("binding", binding.iter().any(|of| of.value.mode != DropMode::Off)),
            ("unresolved-budget", unresolved_budget.iter().any(|of| of.value.mode != DropMode::Off)),
        ];
        each.into_iter().filter(|(_, is_on)| *is_on).map(|(name, _)| name).collect()
    }

    /// Whether an unresolved-budget is on: the only policy that looks at IP packets.
    pub(crate) fn judge_ip(&self) -> bool {
        self.on().contains(&"unresolved-budget")
    }

    /// What all interfaces with an unresolved-budget may have together.
    pub(crate) fn unresolved_of_the_node(&self) -> Rate {
        self.options.unresolved_node
    }

    /// How long the grace is.
    pub(crate) fn grace(&self) -> Duration {
        self.options.sender_grace.duration()
    }

    /// What holds for the interface of that name; `None` if no policy is on.
    pub(crate) fn of(&mut self, name: &str) -> Option<InterfaceProtection> {
        let sender = self.last(&self.options.sender_guard, name).map_or(DropMode::Off, |value| value.0);
        let limit = self.last(&self.options.entry_limit, name).filter(|limit| limit.mode != DropMode::Off);
        let budgets = self.last(&self.options.budget, name).filter(|budgets| budgets.mode != DropMode::Off);
        let unresolved = self.last(&self.options.unresolved_budget, name).filter(|of| of.mode != DropMode::Off);
        let binding = self.last(&self.options.binding, name).filter(|of| of.mode != DropMode::Off);
        let modes = [
            ("sender-guard", sender),
            ("entry-limit", limit.map_or(DropMode::Off, |limit| limit.mode)),
            ("budget", budgets.map_or(DropMode::Off, |budgets| budgets.mode)),
            ("binding", binding.map_or(DropMode::Off, |of| of.mode)),
            ("unresolved-budget", unresolved.map_or(DropMode::Off, |of| of.mode)),
        ];
        let words = modes.iter().filter(|(_, mode)| *mode != DropMode::Off).map(|(policy, mode)| match mode {
            DropMode::Drop => format!("{policy}: drop"),
            _ => format!("{policy}: count"),
        });
        let words: Vec<String> = words.collect();
        if words.is_empty() {
            return None;
        }
        let [(_, sender), (_, entries), (_, budget), (_, bound), (_, of_unresolved)] = modes;
        let modes = Policy::with_unresolved(Policy::modes_of(sender, entries, budget), of_unresolved);
        let kind = binding.map(|of| of.kind).unwrap_or_default();
        let configured = GuardConfig {
            modes: Policy::with_binding(modes, bound, kind),
            list: if sender == DropMode::Off && bound == DropMode::Off { 0 } else { self.list(name) },
            limit: limit.map_or(0, |limit| limit.entries),
            learn: budgets.map(|budgets| budgets.learn).unwrap_or_default(),
            other: budgets.map(|budgets| budgets.other).unwrap_or_default(),
            unresolved: unresolved.map(|of| of.budget).unwrap_or_default(),
        };
        Some(InterfaceProtection { configured, words, drops_senders: sender == DropMode::Drop })
    }

    /// The lists of allowed senders.
    pub(crate) fn lists(&mut self) -> &mut NumberedLists<Allowed> {
        &mut self.lists
    }

    /// Lets equal lists have the numbers that they had in these policies. To be called before [`Policies::of`].
    pub(crate) fn keep_lists_of(&mut self, before: &Policies) {
        self.lists = before.lists.clone();
    }

    /// The list of all that the patterns that match allow; 0 if that is nothing.
    fn list(&mut self, name: &str) -> u32 {
        let matching = self.options.sender_allow.iter().filter(|of| self.matches(&of.glob, name));
        let senders = matching.map(|of| of.value).collect();
        self.lists.number(senders)
    }

    /// The last value that is given for the interface.
    fn last<T: Copy>(&self, values: &[For<T>], name: &str) -> Option<T> {
        values.iter().rev().find(|of| self.matches(&of.glob, name)).map(|of| of.value)
    }

    fn matches(&self, glob: &str, name: &str) -> bool {
        self.patterns.match_name(glob, name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arp_common::guard::DropMode::{Count, Drop, Off};
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        options: ProtectionOptions,
    }

    fn policies(line: &str) -> Result<Policies, Vec<Fault>> {
        let line = Line::parse_from(["run"].into_iter().chain(line.split_whitespace()));
        Policies::new(&line.options, &["cali*".to_owned(), "eth0".to_owned()])
    }

    #[test]
    fn the_last_pattern_that_matches_counts() {
        let mut policies =
            policies("--sender-guard cali*=count --sender-guard cali7=drop --entry-limit cali*=drop:9").unwrap();
        let modes = |policies: &mut Policies, name| policies.of(name).map(|held| held.configured.modes);
        assert_eq!(modes(&mut policies, "cali1"), Some(Policy::modes_of(Count, Drop, Off)));
        assert_eq!(modes(&mut policies, "cali7"), Some(Policy::modes_of(Drop, Drop, Off)));
        assert_eq!(modes(&mut policies, "eth0"), None);
        assert_eq!(policies.of("cali7").unwrap().words, ["sender-guard: drop", "entry-limit: drop"]);
        assert_eq!(policies.of("cali7").unwrap().configured.limit, 9);
        assert!(!policies.are_off());
    }

    #[test]
    fn off_is_as_if_nothing_was_said() {
        let mut off = policies("--sender-guard cali*=off --entry-limit cali*=off --budget cali*=off").unwrap();
        assert!(off.are_off() && off.of("cali1").is_none());
        assert!(policies("--binding eth0=off").unwrap().are_off());
        assert!(!policies("--binding eth0=count").unwrap().are_off());
        assert!(policies("").unwrap().are_off());
    }

    #[test]
    fn the_unresolved_budget_alone_is_a_policy_that_looks_at_packets() {
        let mut policies = policies("--unresolved-budget cali*=drop --unresolved-budget cali7=off").unwrap();
        assert!(!policies.are_off() && policies.judge_ip());
        let held = policies.of("cali1").unwrap();
        assert_eq!(held.words, ["unresolved-budget: drop"]);
        assert_eq!(held.configured.modes, Policy::with_unresolved(0, Drop));
        assert_eq!(policies.of("cali7"), None);
        let off = self::policies("--sender-guard cali*=drop --unresolved-budget cali*=off").unwrap();
        assert!(!off.judge_ip());
    }

    #[test]
    fn interfaces_with_equal_lists_share_one() {
        let line = "--sender-guard cali*=drop --sender-allow cali*=10.8.0.0/24 --sender-allow cali7=10.9.0.0/24";
        let mut policies = policies(line).unwrap();
        let mut list = |name| policies.of(name).unwrap().configured.list;
        let lists = ["cali1", "cali2", "cali7"].map(&mut list);
        assert_eq!(lists, [1, 1, 2]);
        assert_eq!(policies.lists().after(0).len(), 3);
        assert_eq!(policies.lists().after(1).len(), 2);
    }

    #[test]
    fn the_binding_alone_has_the_list_of_senders_too() {
        let mut policies = policies("--binding eth0=drop --sender-allow eth0=10.8.0.7").unwrap();
        assert_eq!(policies.of("eth0").unwrap().configured.list, 1);
        assert_eq!(policies.lists().after(0).len(), 1);
    }

    #[test]
    fn lists_keep_their_numbers_when_the_policies_change() {
        let guard = "--sender-guard cali*=drop";
        let mut before =
            policies(&format!("{guard} --sender-allow cali1=10.8.0.0/24 --sender-allow cali2=10.9.0.0/24")).unwrap();
        let of = |policies: &mut Policies| ["cali1", "cali2"].map(|name| policies.of(name).unwrap().configured.list);
        assert_eq!(of(&mut before), [1, 2]);
        let mut after =
            policies(&format!("{guard} --sender-allow cali1=10.7.0.0/24 --sender-allow cali2=10.9.0.0/24")).unwrap();
        after.keep_lists_of(&before);
        assert_eq!(of(&mut after), [3, 2]);
    }

    #[test]
    fn what_contradicts_itself_or_protects_nothing_is_refused() {
        let refused = |line: &str| {
            let faults = policies(line).unwrap_err();
            assert_eq!(faults.len(), 1, "{line}: {faults:?}");
            faults[0].to_string()
        };
        assert!(refused("--sender-guard cali*=drop --sender-guard cali*=count").contains("twice"));
        assert!(refused("--budget cali7=drop cali*=count").contains("budget cali7: never counts"));
        assert!(refused("--sender-guard eth9=drop").contains("`interface` names no such"));
        assert!(refused("--sender-guard [=drop").contains("not a glob"));
        assert!(refused("--sender-allow cali*=10.8.0.0/24").contains("without sender-guard and binding"));
        let twice = "--sender-guard cali*=drop --sender-allow cali*=10.8.0.7=02:00:00:00:00:01 \
                     cali*=10.8.0.7=02:00:00:00:00:02";
        assert!(refused(twice).contains("two link-layer addresses"));
        let both = policies("--entry-limit eth9=drop --budget eth8=drop").unwrap_err();
        assert_eq!(both.len(), 2, "each one is told: {both:?}");
    }
}
