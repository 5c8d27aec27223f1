//! What chains do to one frame, every byte of which is known.

use super::passage::Passage;
use super::{ArpRules, Chain, ChainHook, ChainRule, ChainVerdict, Concern, Field, RulePlace, Step, Test, Values, What};
use crate::link::Link;

/// How many rules are followed at most.
const MOST: usize = 100_000;
/// How deep chains may lead to others (`NFT_JUMP_STACK_SIZE`, include/net/netfilter/nf_tables.h).
const DEEPEST: usize = 16;

/// What netfilter does to a frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ruling {
    /// It gets through.
    Accepts,
    /// It is dropped, by this rule or policy.
    Drops(String),
    /// It is not known, because of this rule.
    Unknown(String),
}

/// One frame on its way.
struct FrameWay<'a> {
    rules: &'a ArpRules,
    hook: ChainHook,
    name: Option<[u8; 16]>,
    index: [u8; 4],
    /// The ARP packet.
    packet: &'a [u8],
    left: usize,
}

/// Where a frame is: a chain, a rule, a step of it.
type Position = (usize, usize, usize);

impl ArpRules {
    /// What chains at the hook do to a frame on the interface whose ARP packet is `packet`: a request that comes in, or a
    /// reply that leaves.
    pub fn ruling(&self, hook: ChainHook, link: &Link, packet: &[u8]) -> Ruling {
        if let Some(why) = &self.unread {
            return Ruling::Unknown(Concern { place: RulePlace::Nowhere, what: What::Unread(why) }.to_string());
        }
        for base in &self.bases {
            if base.hook == ChainHook::Other {
                if let Err(concern) = Passage::new(self, link, base.hook).chain(base.chain, 0) {
                    return Ruling::Unknown(concern.to_string());
                }
                continue;
            }
            if base.hook != hook {
                continue;
            }
            let is_known = link.name.len() < 16 && !link.name.contains(char::REPLACEMENT_CHARACTER);
            let name = is_known.then(|| {
                let mut name = [0; 16];
                name[..link.name.len()].copy_from_slice(link.name.as_bytes());
                name
            });
            let index = link.ifindex.to_ne_bytes();
            let mut way = FrameWay { rules: self, hook, name, index, packet, left: MOST };
            match way.go((base.chain, 0, 0), Vec::new(), base.accepts) {
                Ruling::Accepts => {}
                ruling => return ruling,
            }
        }
        Ruling::Accepts
    }
}

impl<'a> FrameWay<'a> {
    fn go(&mut self, (mut chain, mut rule, mut step): Position, mut back: Vec<Position>, accepts: bool) -> Ruling {
        loop {
            self.left = self.left.saturating_sub(1);
            let too_deep = || Ruling::Unknown(Concern { place: RulePlace::Nowhere, what: What::TooDeep }.to_string());
            let Some(here) = self.rules.chains.get(chain).filter(|_| self.left > 0 && back.len() < DEEPEST) else {
                return too_deep();
            };
            let Some(now) = here.rules.get(rule) else {
                match back.pop() {
                    Some(at) => (chain, rule, step) = at,
                    None if accepts => return Ruling::Accepts,
                    None => return Ruling::Drops(format!("the policy of {}", RulePlace::Chain(here))),
                }
                continue;
            };
            let Some(doing) = now.steps.get(step) else {
                (rule, step) = (rule + 1, 0);
                continue;
            };
            let next_rule = (chain, rule + 1, 0);
            step += 1;
            let may_be = match doing {
                Step::If(test) => match self.holds(test) {
                    Some(true) => continue,
                    Some(false) => {
                        (rule, step) = (rule + 1, 0);
                        continue;
                    }
                    None => vec![ChainVerdict::Continue],
                },
                Step::Perhaps => vec![ChainVerdict::Continue],
                Step::Unknown(name) => return unknown(here, now, name),
                Step::OneOf(verdicts) => verdicts.clone(),
                Step::Verdict(verdict) => match self.verdict(here, now, verdict, (chain, rule, step), &mut back) {
                    Ok(at) => {
                        (chain, rule, step) = at;
                        continue;
                    }
                    Err(ruling) => return ruling,
                },
                Step::Map { of, verdicts } => match self.value(*of) {
                    Some(value) => match verdicts.get(value) {
                        None => {
                            (rule, step) = (rule + 1, 0);
                            continue;
                        }
                        Some(verdict) => match self.verdict(here, now, verdict, (chain, rule, step), &mut back) {
                            Ok(at) => {
                                (chain, rule, step) = at;
                                continue;
                            }
                            Err(ruling) => return ruling,
                        },
                    },
                    None => verdicts.values().cloned().collect(),
                },
            };
            // Any of these, or on to the next rule: it is known only if it makes no difference.
            let otherwise = self.go(next_rule, back.clone(), accepts);
            for verdict in &may_be {
                let mut stack = back.clone();
                let ruling = match self.verdict(here, now, verdict, (chain, rule, step), &mut stack) {
                    Ok(at) => self.go(at, stack, accepts),
                    Err(ruling) => ruling,
                };
                if std::mem::discriminant(&ruling) != std::mem::discriminant(&otherwise) {
                    return unknown(here, now, "a condition that is not followed");
                }
            }
            return otherwise;
        }
    }

    /// Where the frame goes with a verdict; or what becomes of it.
    fn verdict(
        &self,
        chain: &Chain,
        rule: &ChainRule,
        verdict: &ChainVerdict,
        (at, in_rule, step): Position,
        back: &mut Vec<Position>,
    ) -> Result<Position, Ruling> {
        match verdict {
            ChainVerdict::Continue => Ok((at, in_rule, step)),
            ChainVerdict::Accept => Err(Ruling::Accepts),
            ChainVerdict::Drop => Err(Ruling::Drops(RulePlace::Rule(chain, rule).to_string())),
            ChainVerdict::Unknown => Err(unknown(chain, rule, "verdict")),
            // As at the end of the chain.
            ChainVerdict::Return => Ok((at, chain.rules.len(), 0)),
            ChainVerdict::Jump(to) => {
                back.push((at, in_rule + 1, 0));
                Ok((*to, 0, 0))
            }
            ChainVerdict::Goto(to) => Ok((*to, 0, 0)),
        }
    }

    /// Whether the comparison holds; `None` if that is not known.
    fn holds(&self, test: &Test) -> Option<bool> {
        let Some(value) = self.value(test.field) else {
            // nft says an empty name of no interface, or leaves the rule.
            let is_no_name = |bytes: &[u8]| bytes.iter().any(|&byte| byte != 0);
            let cannot_be = matches!(test.field, Field::InName | Field::InIndex | Field::OutName | Field::OutIndex)
                && match &test.with {
                    Values::Set(set) => set.iter().all(|key| is_no_name(key)),
                    Values::Masked { value, mask } => value.iter().zip(mask).any(|(value, mask)| value & mask != 0),
                };
            return (cannot_be && !test.inverted && self.name.is_some()).then_some(false);
        };
        let equal = match &test.with {
            Values::Set(set) => set.contains(value),
            Values::Masked { value: other, mask } => {
                let value = value.get(..other.len())?;
                value.iter().zip(other).zip(mask).all(|((one, other), mask)| (one ^ other) & mask == 0)
            }
        };
        Some(equal != test.inverted)
    }

    fn value(&self, field: Field) -> Option<&[u8]> {
        match (field, self.hook) {
            (Field::InName, ChainHook::Input) | (Field::OutName, ChainHook::Output) => {
                self.name.as_ref().map(<[u8; 16]>::as_slice)
            }
            (Field::InIndex, ChainHook::Input) | (Field::OutIndex, ChainHook::Output) => Some(&self.index),
            (Field::Packet { offset, len }, _) => self.packet.get(offset..offset.checked_add(len)?),
            _ => None,
        }
    }
}

fn unknown(chain: &Chain, rule: &ChainRule, name: &str) -> Ruling {
    Ruling::Unknown(Concern { place: RulePlace::Rule(chain, rule), what: What::Unknown(name) }.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arp_rules::{Base, ChainTool};

    const TARGET: [u8; 4] = [10, 0, 0, 1];

    fn is_target(inverted: bool) -> Step {
        let with = Values::Masked { value: TARGET.to_vec(), mask: vec![0xff; 4] };
        Step::If(Test { field: Field::Packet { offset: 24, len: 4 }, with, inverted })
    }

    fn ruling(chains: Vec<Vec<Vec<Step>>>, accepts: bool, target: [u8; 4]) -> Ruling {
        let chain = |(at, rules): (usize, Vec<Vec<Step>>)| {
            let rules = rules.into_iter().enumerate();
            let rules = rules.map(|(number, steps)| ChainRule { number: number as u64 + 1, steps }).collect();
            Chain { tool: ChainTool::Nft, name: format!("arp t c{at}"), rules }
        };
        let rules = ArpRules {
            bases: vec![Base { hook: ChainHook::Input, chain: 0, accepts }],
            chains: chains.into_iter().enumerate().map(chain).collect(),
            unread: None,
        };
        let link = Link { name: "v0".into(), ..Link::default() };
        let mut packet = [0; 28];
        packet[24..].copy_from_slice(&target);
        rules.ruling(ChainHook::Input, &link, &packet)
    }

    #[test]
    fn one_target_is_dropped_and_no_other() {
        let rules = || vec![vec![vec![is_target(false), Step::Verdict(ChainVerdict::Drop)]]];
        assert_eq!(ruling(rules(), true, TARGET), Ruling::Drops("nft rule arp t c0 handle 1".into()));
        assert_eq!(ruling(rules(), true, [10, 0, 0, 2]), Ruling::Accepts);
        assert_eq!(ruling(rules(), false, [10, 0, 0, 2]), Ruling::Drops("the policy of nft chain arp t c0".into()));
    }

    #[test]
    fn a_condition_that_is_not_followed_is_known_where_it_makes_no_difference() {
        let rule = |verdict| vec![vec![vec![Step::Perhaps, Step::Verdict(verdict)]]];
        assert_eq!(ruling(rule(ChainVerdict::Accept), true, TARGET), Ruling::Accepts);
        assert!(matches!(ruling(rule(ChainVerdict::Drop), true, TARGET), Ruling::Unknown(_)));
        assert!(matches!(ruling(rule(ChainVerdict::Drop), false, TARGET), Ruling::Drops(_)));
    }

    #[test]
    fn chains_that_are_jumped_to_come_back() {
        let jumps = |verdict| {
            let base = vec![vec![Step::Verdict(ChainVerdict::Jump(1))], vec![Step::Verdict(ChainVerdict::Drop)]];
            vec![base, vec![vec![is_target(true), Step::Verdict(verdict)]]]
        };
        assert_eq!(ruling(jumps(ChainVerdict::Accept), true, [10, 0, 0, 2]), Ruling::Accepts);
        assert_eq!(
            ruling(jumps(ChainVerdict::Accept), true, TARGET),
            Ruling::Drops("nft rule arp t c0 handle 2".into())
        );
        assert!(matches!(ruling(jumps(ChainVerdict::Return), true, [10, 0, 0, 2]), Ruling::Drops(_)));
        let circle = vec![vec![vec![Step::Verdict(ChainVerdict::Jump(0))]]];
        assert!(matches!(ruling(circle, true, TARGET), Ruling::Unknown(_)));
    }
}
