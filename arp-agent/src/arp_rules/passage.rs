//! The way of an interface's frames through the chains.

use super::{ArpRules, Chain, ChainHook, ChainRule, ChainVerdict, Concern, Field, RulePlace, Step, Test, Values, What};
use crate::link::Link;
use std::collections::HashMap;

/// How deep chains may lead to others (`NFT_JUMP_STACK_SIZE`, include/net/netfilter/nf_tables.h; arptables knows no bound).
const DEEPEST: usize = 16;

/// What the beginning of each packet is: IPv4 over 6-byte addresses, a request that comes in (whose `htype` may be 1 or
/// 6), a reply that goes out.
const REQUEST: [u8; 6] = [8, 0, 6, 4, 0, 1];
const REPLY: [u8; 8] = [0, 1, 8, 0, 6, 4, 0, 2];

/// All frames of an interface that the fast path could answer, or those answers, on their way through a base chain.
pub(super) struct Passage<'a> {
    rules: &'a ArpRules,
    hook: ChainHook,
    /// The interface's name; `None` if its bytes are not known.
    name: Option<[u8; 16]>,
    index: [u8; 4],
    /// What is known of chains already: whether a frame may come back.
    known: HashMap<usize, bool>,
}

/// Where a frame may go.
#[derive(Clone, Copy)]
struct After {
    /// On, to what comes next.
    next: bool,
    /// Back from the chain.
    back: bool,
}

const NOWHERE: After = After { next: false, back: false };
const NEXT: After = After { next: true, back: false };

impl After {
    fn or(self, other: Self) -> Self {
        Self { next: self.next || other.next, back: self.back || other.back }
    }
}

impl<'a> Passage<'a> {
    pub(super) fn new(rules: &'a ArpRules, link: &Link, hook: ChainHook) -> Self {
        // Where bytes of a name are no text, the link has this character instead.
        let is_known = link.name.len() < 16 && !link.name.contains(char::REPLACEMENT_CHARACTER);
        let name = is_known.then(|| {
            let mut name = [0; 16];
            name[..link.name.len()].copy_from_slice(link.name.as_bytes());
            name
        });
        Self { rules, hook, name, index: link.ifindex.to_ne_bytes(), known: HashMap::new() }
    }

    /// Whether a frame may come back from the chain; an error if something may be done to one.
    pub(super) fn chain(&mut self, at: usize, depth: usize) -> Result<bool, Concern<'a>> {
        if let Some(&known) = self.known.get(&at) {
            return Ok(known);
        }
        let Some(chain) = self.rules.chains.get(at).filter(|_| depth < DEEPEST) else {
            return Err(Concern { place: RulePlace::Nowhere, what: What::TooDeep });
        };
        let mut here = NEXT;
        for rule in &chain.rules {
            let after = self.rule(chain, rule, depth)?;
            here = After { next: after.next, back: here.back || after.back };
            if !here.next {
                break;
            }
        }
        let back = here.next || here.back;
        self.known.insert(at, back);
        Ok(back)
    }

    /// Where a frame may go after a rule.
    fn rule(&mut self, chain: &'a Chain, rule: &'a ChainRule, depth: usize) -> Result<After, Concern<'a>> {
        // What a frame may do that some step does not hold for, or that has been given a verdict.
        let mut so_far = NOWHERE;
        for step in &rule.steps {
            let verdicts: Vec<&ChainVerdict> = match step {
                Step::If(test) => match self.holds(test) {
                    Some(true) => continue,
                    Some(false) => return Ok(so_far.or(NEXT)),
                    None => {
                        so_far.next = true;
                        continue;
                    }
                },
                Step::Perhaps => {
                    so_far.next = true;
                    continue;
                }
                Step::Unknown(name) => {
                    return Err(Concern { place: RulePlace::Rule(chain, rule), what: What::Unknown(name) });
                }
                Step::Verdict(verdict) => vec![verdict],
                Step::OneOf(verdicts) => {
                    so_far.next = true;
                    verdicts.iter().collect()
                }
                Step::Map { of, verdicts } => match self.value(*of) {
                    Some(value) => match verdicts.get(value) {
                        Some(verdict) => vec![verdict],
                        None => return Ok(so_far.or(NEXT)),
                    },
                    None => {
                        so_far.next = true;
                        let may_be = |(key, _): &(&Vec<u8>, _)| !self.cannot_be(*of, key.iter().copied());
                        verdicts.iter().filter(may_be).map(|(_, verdict)| verdict).collect()
                    }
                },
            };
            for &verdict in &verdicts {
                so_far = so_far.or(self.verdict(chain, rule, verdict, depth)?);
            }
            if !verdicts.contains(&&ChainVerdict::Continue) {
                return Ok(so_far);
            }
        }
        Ok(so_far.or(NEXT))
    }

    /// Where a frame goes for which a rule has this verdict.
    fn verdict(
        &mut self,
        chain: &'a Chain,
        rule: &'a ChainRule,
        verdict: &ChainVerdict,
        depth: usize,
    ) -> Result<After, Concern<'a>> {
        let concern = |what| Err(Concern { place: RulePlace::Rule(chain, rule), what });
        match verdict {
            ChainVerdict::Accept | ChainVerdict::Continue => Ok(NOWHERE),
            ChainVerdict::Return => Ok(After { next: false, back: true }),
            ChainVerdict::Jump(to) => Ok(After { next: self.chain(*to, depth + 1)?, back: false }),
            ChainVerdict::Goto(to) => Ok(After { next: false, back: self.chain(*to, depth + 1)? }),
            // What is dropped is accounted for elsewhere, and not all frames are.
            ChainVerdict::Drop if self.hook == ChainHook::Output && rule.holds_back().is_some() => Ok(NEXT),
            ChainVerdict::Drop => concern(What::Drops),
            ChainVerdict::Unknown => concern(What::Unknown("verdict")),
        }
    }

    /// Whether the comparison holds for every frame, or for none; `None` if that is not known.
    fn holds(&self, test: &Test) -> Option<bool> {
        let Some(value) = self.value(test.field) else {
            let cannot_be = match &test.with {
                Values::Set(set) => set.iter().all(|key| self.cannot_be(test.field, key.iter().copied())),
                Values::Masked { value, mask } => {
                    self.cannot_be(test.field, value.iter().zip(mask).map(|(value, mask)| value & mask))
                }
            };
            return (cannot_be && !test.inverted).then_some(false);
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

    /// Whether a field is of the interface that frames here do not have, and so certainly is not this. nft says an
    /// empty name or the index 0 of no interface, or leaves the rule (`nft_meta_get_eval`, net/netfilter/nft_meta.c);
    /// arptables an empty name.
    fn cannot_be(&self, field: Field, mut bytes: impl Iterator<Item = u8>) -> bool {
        let has_none = match field {
            Field::InName | Field::InIndex => self.hook == ChainHook::Output,
            Field::OutName | Field::OutIndex => self.hook == ChainHook::Input,
            Field::Packet { .. } => false,
        };
        has_none && bytes.any(|byte| byte != 0)
    }

    /// What a field is in every frame, if that is known.
    fn value(&self, field: Field) -> Option<&[u8]> {
        match (field, self.hook) {
            (Field::InName, ChainHook::Input) | (Field::OutName, ChainHook::Output) => {
                self.name.as_ref().map(<[u8; 16]>::as_slice)
            }
            (Field::InIndex, ChainHook::Input) | (Field::OutIndex, ChainHook::Output) => Some(&self.index),
            (Field::Packet { offset, len }, ChainHook::Input) => {
                offset.checked_sub(2).and_then(|at| part(&REQUEST, at, len))
            }
            (Field::Packet { offset, len }, ChainHook::Output) => part(&REPLY, offset, len),
            _ => None,
        }
    }
}

fn part(bytes: &'static [u8], at: usize, len: usize) -> Option<&'static [u8]> {
    bytes.get(at..at.checked_add(len)?)
}
