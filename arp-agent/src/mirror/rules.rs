//! The routing rules, and what is left of them for the frames of one sender on one interface.
//!
//! An ARP request is looked up twice: its target, as a packet that came in by the ingress interface; and its sender, as a
//! packet that came in by the device that the route to the target leaves by (`ip_route_input_slow` and
//! `__fib_validate_source`, net/ipv4, 6.18). Both walk the rules with mark 0, tos 0 and no protocol, so most selectors are
//! decided once and for all; of those of the first lookup only `to` is left when ingress and sender are known.

use crate::event::{Link, RoutingRule, RuleAction};
use crate::prefix::Prefix;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

/// The tables local and main while the kernel keeps them in one trie. No table has this number.
pub(crate) const TABLE_LOCAL_AND_MAIN: u32 = 0;
/// What the kernel's user who owns a network namespace is, seen from inside.
const OWNER: u32 = 0;

/// Whether something holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Holds {
    No,
    Yes,
    /// It may or may not.
    Perhaps,
}

use Holds::{No, Perhaps, Yes};

impl Holds {
    fn of(holds: bool) -> Self {
        if holds { Yes } else { No }
    }

    fn and(self, other: Self) -> Self {
        match (self, other) {
            (No, _) | (_, No) => No,
            (Yes, Yes) => Yes,
            _ => Perhaps,
        }
    }

    fn inverted_if(self, inverted: bool) -> Self {
        match self {
            Yes if inverted => No,
            No if inverted => Yes,
            as_it_is => as_it_is,
        }
    }
}

/// Prefixes none of which lies in another. Equal are only those that are the same.
#[derive(Clone, Debug)]
pub(super) struct PrefixSet {
    /// Sorted.
    prefixes: Rc<[Prefix]>,
}

impl PrefixSet {
    fn new(prefixes: impl IntoIterator<Item = Prefix>) -> Self {
        let mut maximal: Vec<Prefix> = Vec::new();
        // Those outside come right before those inside.
        for prefix in prefixes.into_iter().collect::<BTreeSet<_>>() {
            if !maximal.last().is_some_and(|last| last.len <= prefix.len && last.contains(prefix.addr)) {
                maximal.push(prefix);
            }
        }
        PrefixSet { prefixes: maximal.into() }
    }

    /// Whether `prefix` lies in one of them.
    pub(super) fn covers(&self, prefix: Prefix) -> bool {
        let after = self.prefixes.partition_point(|known| *known <= prefix);
        let before = after.checked_sub(1).map(|at| self.prefixes[at]);
        before.is_some_and(|known| known.len <= prefix.len && known.contains(prefix.addr))
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = Prefix> {
        self.prefixes.iter().copied()
    }

    pub(super) fn len(&self) -> usize {
        self.prefixes.len()
    }

    fn address(&self) -> *const Prefix {
        self.prefixes.as_ptr()
    }
}

impl PartialEq for PrefixSet {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for PrefixSet {}

impl PartialOrd for PrefixSet {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for PrefixSet {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        // Sets of one place in the rules are shared, not copied: so addresses are compared, not contents.
        self.address().cmp(&other.address())
    }
}

/// When a step applies to a target.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Condition {
    /// Whatever the target.
    Any(Holds),
    /// One way for a target in the prefix, the other for one outside.
    In(Prefix, Holds, Holds),
    /// For targets in one of them.
    InOneOf(PrefixSet),
}

impl Condition {
    /// Whether it is known of every target whether it applies.
    pub(super) fn is_certain(&self) -> bool {
        match self {
            Condition::Any(holds) => *holds != Perhaps,
            Condition::In(_, inside, outside) => *inside != Perhaps && *outside != Perhaps,
            Condition::InOneOf(_) => true,
        }
    }

    /// Whether it applies to the addresses that are in `prefix`, and in none of the longer ones that a condition names.
    pub(super) fn at(&self, prefix: Prefix) -> Holds {
        match self {
            Condition::Any(holds) => *holds,
            Condition::In(named, inside, outside) => {
                if named.len <= prefix.len && named.contains(prefix.addr) {
                    *inside
                } else {
                    *outside
                }
            }
            Condition::InOneOf(set) => Holds::of(set.covers(prefix)),
        }
    }
}

/// What a step does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Action {
    /// Looks up a table.
    Lookup(Lookup),
    /// Goes on at another step, always a later one.
    Goto(usize),
    /// Ends without a route.
    Refuse,
    /// Goes on in another view, which holds the steps from here on.
    Fall(u16),
    /// Nobody knows.
    Unknown,
}

/// A lookup in a table, and which of its routes do not count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Lookup {
    /// Its number, or [`TABLE_LOCAL_AND_MAIN`].
    pub(super) table: u32,
    pub(super) suppress_prefixlen: Option<u8>,
    pub(super) suppress_ifgroup: Option<u32>,
    /// Only the route's type counts, as for a probe.
    pub(super) type_alone: bool,
}

impl Lookup {
    pub(super) const fn all_of(table: u32) -> Self {
        Lookup { table, suppress_prefixlen: None, suppress_ifgroup: None, type_alone: false }
    }
}

/// One of the steps in which the kernel looks for a route.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct LookupStep {
    pub(super) condition: Condition,
    pub(super) action: Action,
}

/// Where frames come in, as rules see it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ingress<'a> {
    pub(super) name: &'a str,
    /// The VRF that the interface is a port of: its name, and its table.
    pub(super) vrf: Option<(&'a str, u32)>,
    /// Whether there is any VRF.
    pub(super) vrfs: bool,
    /// Whether a frame may carry a mark.
    pub(super) may_be_marked: bool,
}

/// The routing rules, in the order in which they are asked.
#[derive(Clone, Debug, Default)]
pub struct Rules {
    rules: Vec<MirroredRule>,
    /// Those that a goto leads to.
    targets: BTreeSet<usize>,
    /// Runs of rules that are much alike, by the first of them.
    runs: BTreeMap<usize, RuleRun>,
    /// Whether frames of some attached interface may carry a mark.
    frames_may_be_marked: bool,
    /// What the `from` selectors name of rules that may apply.
    from: Option<PrefixSet>,
    /// Whether the steps are the same for all senders and interfaces.
    are_common: bool,
    /// Whether any rule looks up the tables of VRFs.
    l3mdev: bool,
    /// Whether a rule asks for marks.
    ask_for_marks: bool,
    /// Whether a rule is about interfaces.
    ask_for_links: bool,
}

/// Rules that follow each other and differ in one selector.
#[derive(Clone, Debug)]
enum RuleRun {
    /// In `to`; all do the same. They come to one step.
    To { count: usize, step: LookupStep },
    /// In `from`, and in what they look up.
    From { count: usize, lookups: Vec<Lookup>, by_sender: BySender },
}

/// Lookups by the senders that they are for.
#[derive(Clone, Debug, Default)]
struct BySender {
    /// With the place of each in the run.
    lookups: BTreeMap<Prefix, Vec<(usize, Lookup)>>,
    /// The lengths of the prefixes.
    lengths: BTreeSet<u8>,
}

impl BySender {
    fn insert(&mut self, at: usize, from: Prefix, lookup: Lookup) {
        self.lookups.entry(from).or_default().push((at, lookup));
        self.lengths.insert(from.len);
    }

    /// What is looked up for a sender, in order.
    fn of(&self, sender: u32) -> impl Iterator<Item = Lookup> {
        let sender = Prefix { addr: sender, len: 32 };
        let found = self.lengths.iter().filter_map(|&len| self.lookups.get(&sender.shortened(len)));
        let in_order: BTreeMap<usize, Lookup> = found.flatten().copied().collect();
        in_order.into_values()
    }
}

#[derive(Clone, Debug, PartialEq)]
struct MirroredRule {
    rule: RoutingRule,
    /// Whether an interface was once known by the name in `iif` since the kernel told the rule. One that was not, and
    /// that the kernel takes for attached, is an alternative name: what has it is not followed.
    known: bool,
    /// Of a goto, which rule it leads to.
    target: Option<usize>,
}

impl PartialEq for Rules {
    /// Whether they are the same rules; not what is known of interfaces besides.
    fn eq(&self, other: &Self) -> bool {
        self.list().eq(other.list())
    }
}

impl Rules {
    /// The rules as the kernel told them.
    pub(super) fn new(list: Vec<RoutingRule>, links: &BTreeMap<u32, Link>) -> Self {
        let is_known = |rule: &RoutingRule| links.values().any(|link| Some(&link.name) == rule.iif.as_ref());
        let targets: Vec<Option<usize>> = list
            .iter()
            .enumerate()
            .map(|(at, rule)| match rule.action {
                RuleAction::Goto(to) => {
                    list.iter().skip(at + 1).position(|rule| rule.priority == to).map(|n| at + 1 + n)
                }
                _ => None,
            })
            .collect();
        let rules: Vec<MirroredRule> = list
            .into_iter()
            .zip(targets)
            .map(|(rule, target)| MirroredRule { known: rule.iif.is_some() && is_known(&rule), rule, target })
            .collect();
        let mut rules = Rules {
            targets: rules.iter().filter_map(|rule| rule.target).collect(),
            rules,
            runs: BTreeMap::new(),
            frames_may_be_marked: true,
            from: None,
            are_common: false,
            l3mdev: false,
            ask_for_marks: false,
            ask_for_links: false,
        };
        rules.learn_what_counts();
        rules.find_runs();
        rules
    }

    /// Finds out what the rules depend on that may apply. There may be thousands, and each sender asks.
    fn learn_what_counts(&mut self) {
        let of_links = |rule: &RoutingRule| {
            let of_a_group = matches!(rule.action, RuleAction::Lookup { suppress_ifgroup: Some(_), .. });
            rule.iif.is_some() || rule.l3mdev || of_a_group
        };
        self.l3mdev = self.rules.iter().any(|rule| rule.rule.l3mdev);
        self.ask_for_links = self.rules.iter().any(|rule| of_links(&rule.rule));
        self.ask_for_marks = self.rules.iter().any(|rule| rule.rule.mark.is_some() && rule.may_apply(true));
        let depends =
            |rule: &RoutingRule| rule.from.is_some() || rule.iif.is_some() || rule.l3mdev || rule.mark.is_some();
        self.are_common = !self.rules.iter().any(|rule| rule.may_apply(true) && depends(&rule.rule));
        let live = self.rules.iter().filter(|rule| rule.may_apply(self.frames_may_be_marked));
        let from: Vec<Prefix> = live.filter_map(|rule| rule.rule.from).collect();
        self.from = Some(from).filter(|from| !from.is_empty()).map(PrefixSet::new);
    }

    /// Sets whether frames of some attached interface may carry a mark. Says whether anything depends on it.
    pub(super) fn set_marks(&mut self, frames_may_be_marked: bool) -> bool {
        let changes = self.frames_may_be_marked != frames_may_be_marked && self.ask_for_marks();
        self.frames_may_be_marked = frames_may_be_marked;
        if changes {
            self.learn_what_counts();
        }
        changes
    }

    /// Joins rules that follow each other and that differ in `to`, or in `from`, alone: of these there may be thousands.
    fn find_runs(&mut self) {
        let mut at = 0;
        while at < self.rules.len() {
            let action = self.rules[at].rule.action.clone();
            let joins = action.lookup_of().is_some() || matches!(action, RuleAction::Refuse(_));
            let to = self.run(at, |rule| joins && rule.to.is_some() && rule.action == action);
            let from = self.run(at, |rule| rule.from.is_some() && rule.action.lookup_of().is_some());
            let count = to.max(from).max(1);
            let rules = &self.rules[at..at + count];
            let run = if to > 1 {
                let prefixes = rules.iter().filter_map(|rule| rule.rule.to);
                let condition = Condition::InOneOf(PrefixSet::new(prefixes));
                let action = action.lookup_of().map_or(Action::Refuse, Action::Lookup);
                Some(RuleRun::To { count, step: LookupStep { condition, action } })
            } else if from > 1 {
                let lookups: BTreeSet<Lookup> = rules.iter().filter_map(|rule| rule.rule.action.lookup_of()).collect();
                let mut by_sender = BySender::default();
                for (at, rule) in rules.iter().enumerate() {
                    if let (Some(from), Some(lookup)) = (rule.rule.from, rule.rule.action.lookup_of()) {
                        by_sender.insert(at, from, lookup);
                    }
                }
                Some(RuleRun::From { count, lookups: lookups.into_iter().collect(), by_sender })
            } else {
                None
            };
            self.runs.extend(run.map(|run| (at, run)));
            at += count;
        }
    }

    /// How many rules from `at` on select by `from` or `to` alone, and are such as `selects` asks for. No goto leads to any
    /// but the first.
    fn run(&self, at: usize, selects: impl Fn(&RoutingRule) -> bool) -> usize {
        let is_alone = |rule: &RoutingRule| {
            let RoutingRule { priority, action, from, to, .. } = rule.clone();
            let alone = RoutingRule { priority, action, from, to, ..RoutingRule::default() };
            alone == *rule && from.is_none() != to.is_none() && selects(rule)
        };
        let rules = self.rules[at..].iter().enumerate();
        rules.take_while(|(n, rule)| is_alone(&rule.rule) && (*n == 0 || !self.targets.contains(&(at + n)))).count()
    }

    /// The rules as they were told.
    pub fn list(&self) -> impl ExactSizeIterator<Item = &RoutingRule> {
        self.rules.iter().map(|rule| &rule.rule)
    }

    /// The three rules that every namespace starts with (`fib_default_rules_init`, net/ipv4/fib_rules.c).
    pub fn are_default(&self) -> bool {
        let defaults = [(0, 255), (32766, 254), (32767, 253)];
        let default =
            |(priority, table)| RoutingRule { priority, action: RuleAction::lookup(table), ..RoutingRule::default() };
        self.list().eq(defaults.map(default).iter())
    }

    /// Whether a rule asks for the outgoing interface.
    pub fn ask_for_oif(&self) -> bool {
        self.list().any(|rule| rule.never.iter().any(|selector| selector.starts_with("oif ")))
    }

    /// Whether a rule asks for marks.
    pub(super) fn ask_for_marks(&self) -> bool {
        self.ask_for_marks
    }

    /// Whether the steps are the same for all senders and interfaces.
    pub(super) fn are_common(&self) -> bool {
        self.are_common
    }

    /// A link is now so, or gone. Says whether other interfaces' frames may be looked up otherwise because of that.
    pub(super) fn link_changes(&mut self, before: Option<&Link>, now: Option<&Link>) -> bool {
        if !self.ask_for_links {
            return false;
        }
        let (old, new) = (before.map(|link| link.name.as_str()), now.map(|link| link.name.as_str()));
        let (mut change, mut named) = (false, false);
        for rule in &mut self.rules {
            if let Some(iif) = rule.rule.iif.as_deref() {
                named |= old != new && [old, new].contains(&Some(iif));
                // One that the kernel took for attached when no interface had the name goes by another name of it.
                rule.known |= Some(iif) == new && rule.rule.iif_detached;
            }
            if let RuleAction::Lookup { suppress_ifgroup: Some(group), .. } = rule.rule.action {
                // Of an interface that is not known, neither is this.
                let is_in = |link: Option<&Link>| link.map(|link| link.group == group);
                change |= is_in(before) != is_in(now);
            }
            if rule.rule.l3mdev {
                let vrf = |link: Option<&Link>| link.map(|link| (link.master, link.vrf_table));
                change |= vrf(before) != vrf(now);
            }
        }
        if named {
            self.learn_what_counts();
        }
        change || named
    }

    /// The interfaces that the way back to a sender may depend on: those that rules name in `iif`.
    pub(super) fn named(&self, links: &BTreeMap<u32, Link>) -> BTreeSet<u32> {
        let live = self.rules.iter().filter(|rule| rule.may_apply(self.frames_may_be_marked));
        let names: BTreeSet<&str> = live.filter_map(|rule| rule.rule.iif.as_deref()).collect();
        if names.is_empty() {
            return BTreeSet::new();
        }
        links.values().filter(|link| names.contains(link.name.as_str())).map(|link| link.ifindex).collect()
    }

    /// The prefixes that `from` selectors name: from targets there, the way back to a sender may be another.
    pub(super) fn from(&self) -> Option<&PrefixSet> {
        self.from.as_ref()
    }

    /// Whether any rule looks up the tables of VRFs.
    pub(super) fn l3mdev(&self) -> bool {
        self.l3mdev
    }

    /// What is left of the rules for the targets of a sender on an interface.
    pub(super) fn steps(&self, ingress: &Ingress<'_>, sender: u32) -> Vec<LookupStep> {
        let mut steps = Vec::new();
        let mut gotos = Gotos::default();
        let mut at = 0;
        while let Some(rule) = self.rules.get(at) {
            gotos.rule_begins(self, at, steps.len());
            match self.runs.get(&at) {
                Some(RuleRun::To { count, step }) => {
                    steps.push(step.clone());
                    at += count;
                    continue;
                }
                Some(RuleRun::From { count, by_sender, .. }) => {
                    let lookups = by_sender.of(sender).map(Action::Lookup);
                    steps.extend(lookups.map(|action| LookupStep { condition: Condition::Any(Yes), action }));
                    at += count;
                    continue;
                }
                None => at += 1,
            }
            let Some(action) = rule.action(ingress) else { continue };
            let condition = rule.forward(ingress, sender);
            if matches!(condition, Condition::Any(No) | Condition::In(_, No, No)) {
                continue;
            }
            gotos.step(rule, steps.len());
            steps.push(LookupStep { condition, action });
        }
        for (goto, action) in gotos.actions(steps.len()) {
            steps[goto].action = action;
        }
        steps
    }

    /// A rule, when it applies to the targets of a sender on the interface, and what it does; `None` after the last.
    pub(super) fn step(
        &self,
        at: usize,
        ingress: &Ingress<'_>,
        sender: u32,
    ) -> Option<(&RoutingRule, Condition, Option<Action>)> {
        let rule = self.rules.get(at)?;
        Some((&rule.rule, rule.forward(ingress, sender), rule.action(ingress)))
    }

    /// The steps in which a sender is looked up. `others`: whether what depends on the target and on the device that its
    /// route leaves by may hold; else it does not.
    pub(super) fn steps_back(&self, ingress: &Ingress<'_>, sender: u32, others: bool) -> Vec<(Holds, Action)> {
        let mut steps = Vec::new();
        let mut gotos = Gotos::default();
        let mut at = 0;
        while let Some(rule) = self.rules.get(at) {
            gotos.rule_begins(self, at, steps.len());
            match self.runs.get(&at) {
                Some(RuleRun::To { count, step }) => {
                    steps.push((step.condition.at(Prefix { addr: sender, len: 32 }), step.action));
                    at += count;
                    continue;
                }
                Some(RuleRun::From { count, lookups, .. }) => {
                    // Any of them may apply, or none.
                    let may_apply = lookups.iter().filter(|_| others);
                    steps.extend(may_apply.map(|&lookup| (Perhaps, Action::Lookup(lookup))));
                    at += count;
                    continue;
                }
                None => at += 1,
            }
            let Some(action) = rule.action(ingress) else { continue };
            gotos.step(rule, steps.len());
            steps.push((rule.back(ingress, sender, others), action));
        }
        for (goto, action) in gotos.actions(steps.len()) {
            steps[goto].1 = action;
        }
        steps
    }
}

/// Gotos lead to rules, and of several rules there may be one step, or none: where they lead is known at the end.
#[derive(Default)]
struct Gotos {
    /// Where each rule that a goto leads to begins among the steps.
    begins: BTreeMap<usize, usize>,
    /// The steps that are gotos, and the rules that they lead to.
    gotos: Vec<(usize, usize)>,
}

impl Gotos {
    fn rule_begins(&mut self, rules: &Rules, rule: usize, step: usize) {
        if rules.targets.contains(&rule) {
            self.begins.insert(rule, step);
        }
    }

    fn step(&mut self, rule: &MirroredRule, step: usize) {
        self.gotos.extend(rule.target.map(|target| (step, target)));
    }

    /// What the steps that are gotos do, of `steps` in all.
    fn actions(self, steps: usize) -> impl Iterator<Item = (usize, Action)> {
        let Gotos { begins, gotos } = self;
        gotos.into_iter().map(move |(goto, target)| (goto, Action::Goto(begins.get(&target).copied().unwrap_or(steps))))
    }
}

impl RuleAction {
    /// The lookup, if it is one.
    fn lookup_of(&self) -> Option<Lookup> {
        match *self {
            RuleAction::Lookup { table, suppress_prefixlen, suppress_ifgroup } => {
                Some(Lookup { suppress_prefixlen, suppress_ifgroup, ..Lookup::all_of(table) })
            }
            RuleAction::Goto(_) | RuleAction::Nop | RuleAction::Refuse(_) => None,
        }
    }
}

impl MirroredRule {
    /// Whether its selectors may all hold for some frame. Where they cannot, nothing depends on any of them.
    fn may_apply(&self, frames_may_be_marked: bool) -> bool {
        let rule = &self.rule;
        let marked = rule.mark.is_none_or(|(mark, mask)| frames_may_be_marked || mark & mask == 0);
        let owner = rule.users.is_none_or(|(first, last)| (first..=last).contains(&OWNER));
        let attached = rule.iif.is_none() || self.attached() != No;
        rule.never.is_empty() && marked && owner && attached
    }

    /// What it does; `None` for nothing.
    fn action(&self, ingress: &Ingress<'_>) -> Option<Action> {
        Some(match self.rule.action {
            RuleAction::Lookup { suppress_prefixlen, suppress_ifgroup, table } => {
                let table = match (self.rule.l3mdev, ingress.vrf) {
                    (false, _) => table,
                    (true, Some((_, table))) => table,
                    // Inverted it applies, and looks up what nobody meant.
                    (true, None) => return Some(Action::Unknown),
                };
                Action::Lookup(Lookup { suppress_prefixlen, suppress_ifgroup, ..Lookup::all_of(table) })
            }
            RuleAction::Goto(_) => Action::Goto(self.target?),
            RuleAction::Nop => return None,
            RuleAction::Refuse(_) => Action::Refuse,
        })
    }

    /// Everything but `from`, `to`, `iif` and `l3mdev`.
    fn constant(&self, ingress: &Ingress<'_>) -> Holds {
        let rule = &self.rule;
        let marked = match rule.mark {
            None => Yes,
            Some(_) if ingress.may_be_marked => Perhaps,
            Some((mark, mask)) => Holds::of(mark & mask == 0),
        };
        let users = Holds::of(rule.users.is_none_or(|(first, last)| (first..=last).contains(&OWNER)));
        let known = if rule.unknown { Perhaps } else { Yes };
        Holds::of(rule.never.is_empty()).and(marked).and(users).and(known)
    }

    /// Whether an interface has the name in `iif`, if the rule asks for any. What the kernel takes for attached, though
    /// nothing has that name, nobody knows.
    fn attached(&self) -> Holds {
        if self.known {
            Yes
        } else if self.rule.iif_detached {
            No
        } else {
            Perhaps
        }
    }

    fn forward(&self, ingress: &Ingress<'_>, sender: u32) -> Condition {
        let rule = &self.rule;
        let iif = match &rule.iif {
            None => Yes,
            Some(iif) if iif == ingress.name => Yes,
            // Since 6.15 a VRF's name stands for its ports, too.
            Some(iif) if ingress.vrf.is_some_and(|(vrf, _)| iif == vrf) => Perhaps,
            Some(_) if self.known => No,
            Some(_) => self.attached(),
        };
        let from = Holds::of(rule.from.is_none_or(|from| from.contains(sender)));
        let l3mdev = Holds::of(!rule.l3mdev || ingress.vrf.is_some());
        let others = self.constant(ingress).and(iif).and(from).and(l3mdev);
        let inside = others.inverted_if(rule.inverted);
        match rule.to {
            None => Condition::Any(inside),
            Some(to) => Condition::In(to, inside, No.inverted_if(rule.inverted)),
        }
    }

    fn back(&self, ingress: &Ingress<'_>, sender: u32, others: bool) -> Holds {
        let rule = &self.rule;
        let other = |asked: bool| match (asked, others) {
            (false, _) => Yes,
            (true, true) => Perhaps,
            (true, false) => No,
        };
        let iif = match &rule.iif {
            None => Yes,
            // Since 6.15 a VRF's name stands for what comes in by its ports.
            Some(iif) if ingress.vrf.is_some_and(|(vrf, _)| iif == vrf) => Perhaps,
            Some(_) if self.known => other(true),
            Some(_) => self.attached(),
        };
        let to = Holds::of(rule.to.is_none_or(|to| to.contains(sender)));
        // Of a sender that is in no VRF, the VRF of the device that the target is behind.
        let l3mdev = match (rule.l3mdev, ingress.vrf) {
            (false, _) | (true, Some(_)) => Yes,
            (true, None) if ingress.vrfs => other(true),
            (true, None) => No,
        };
        let holds = self.constant(ingress).and(other(rule.from.is_some())).and(iif).and(to).and(l3mdev);
        holds.inverted_if(rule.inverted)
    }
}
