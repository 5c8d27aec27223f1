//! What chains of the ARP family (nft, arptables) do to frames, as plain data, and which interfaces that concerns.
//!
//! A rule is evaluated as the kernel does it (`nft_do_chain`, net/netfilter/nf_tables_core.c; `arpt_do_table`,
//! net/ipv4/netfilter/arp_tables.c; Linux 6.18), for all frames at once that the fast path could answer on an
//! interface: what is not known of them may hold or not.

pub mod frame;
mod passage;
#[cfg(test)]
pub(crate) mod tests;

use crate::link::Link;
use passage::Passage;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Display, Formatter};
use std::net::Ipv4Addr;

/// Where `spa` is in an ARP packet, and how long.
const SPA: Field = Field::Packet { offset: 14, len: 4 };

/// All chains of the ARP family, and what is in them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ArpRules {
    /// The chains that netfilter begins with. A frame must get through all of them.
    pub bases: Vec<Base>,
    /// Every chain; others refer to it by its place here.
    pub chains: Vec<Chain>,
    /// Why there may be others, about which nothing is known.
    pub unread: Option<String>,
}

/// A chain that netfilter begins with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Base {
    /// Where it is.
    pub hook: ChainHook,
    /// Its place among the chains.
    pub chain: usize,
    /// Whether its policy is to accept.
    pub accepts: bool,
}

/// Where a chain sees frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ChainHook {
    /// A request, before it is looked at (`arp_rcv`, net/ipv4/arp.c).
    Input,
    /// A reply, before it is sent (`arp_xmit`).
    Output,
    /// It is not known what it sees.
    Other,
}

/// A chain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Chain {
    /// Who made it.
    pub tool: ChainTool,
    /// As its tool names it: `arp t c`, `INPUT`.
    pub name: String,
    /// In order.
    pub rules: Vec<ChainRule>,
}

/// By which tool chains are listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ChainTool {
    /// nft; a rule's number is its handle.
    Nft,
    /// arptables; a rule's number is its place in the chain, from 1.
    Arptables,
}

/// A rule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChainRule {
    /// Which one it is, see [`ChainTool`].
    pub number: u64,
    /// What it does, one after another. What changes nothing (counters, comments) is left out.
    pub steps: Vec<Step>,
}

/// A step of a rule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Step {
    /// On only if this holds.
    If(Test),
    /// On only if something else holds, which is not known here.
    Perhaps,
    /// This becomes of the frame.
    Verdict(ChainVerdict),
    /// The verdict that a map has; on to the next rule if it has none.
    Map {
        /// For what it has verdicts.
        of: Field,
        /// All of them.
        #[serde(with = "pairs")]
        verdicts: BTreeMap<Vec<u8>, ChainVerdict>,
    },
    /// One of these verdicts, or on to the next rule.
    OneOf(Vec<ChainVerdict>),
    /// Something of this name, which may do anything.
    Unknown(String),
}

/// A comparison.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Test {
    /// What is compared.
    pub field: Field,
    /// With what.
    pub with: Values,
    /// Whether it holds if they are different.
    pub inverted: bool,
}

/// What is compared with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Values {
    /// As many bytes as there are here must be so, as far as the mask has bits.
    Masked {
        /// The bytes.
        value: Vec<u8>,
        /// As long.
        mask: Vec<u8>,
    },
    /// It must be one of these.
    Set(BTreeSet<Vec<u8>>),
}

/// What can be compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Field {
    /// The name of the interface that the frame came in by: 16 bytes, filled up with zeros.
    InName,
    /// Of that it leaves by.
    OutName,
    /// The index of the interface that it came in by, in the machine's byte order.
    InIndex,
    /// Of that it leaves by.
    OutIndex,
    /// Bytes of the ARP packet.
    Packet {
        /// From here on.
        offset: usize,
        /// How many.
        len: usize,
    },
}

/// What becomes of a frame.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ChainVerdict {
    /// It has got through this base chain and all that it leads to.
    Accept,
    /// It is gone.
    Drop,
    /// On with the rule.
    Continue,
    /// Back to where the chain was jumped to; in a base chain, its policy.
    Return,
    /// To another chain, and back.
    Jump(usize),
    /// To another chain, from which it does not come back here.
    Goto(usize),
    /// Anything.
    Unknown,
}

/// The rule, or the policy, that may do something to frames of an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Concern<'a> {
    place: RulePlace<'a>,
    what: What<'a>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum RulePlace<'a> {
    Nowhere,
    Chain(&'a Chain),
    Rule(&'a Chain, &'a ChainRule),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum What<'a> {
    Unread(&'a str),
    Policy,
    Drops,
    Unknown(&'a str),
    TooDeep,
}

impl ArpRules {
    /// Rules that may do anything to any frame.
    pub fn unread(why: impl Into<String>) -> Self {
        Self { unread: Some(why.into()), ..Self::default() }
    }

    /// These as well.
    pub fn append(&mut self, other: Self) {
        let by = self.chains.len();
        let moved = |mut verdict: ChainVerdict| {
            if let ChainVerdict::Jump(to) | ChainVerdict::Goto(to) = &mut verdict {
                *to += by;
            }
            verdict
        };
        let steps = |step| match step {
            Step::Verdict(verdict) => Step::Verdict(moved(verdict)),
            Step::OneOf(verdicts) => Step::OneOf(verdicts.into_iter().map(moved).collect()),
            Step::Map { of, verdicts } => {
                Step::Map { of, verdicts: verdicts.into_iter().map(|(key, verdict)| (key, moved(verdict))).collect() }
            }
            step => step,
        };
        let rules = |rule: ChainRule| ChainRule { steps: rule.steps.into_iter().map(steps).collect(), ..rule };
        let chains = other.chains.into_iter();
        self.chains.extend(chains.map(|chain| Chain { rules: chain.rules.into_iter().map(rules).collect(), ..chain }));
        self.bases.extend(other.bases.into_iter().map(|base| Base { chain: base.chain + by, ..base }));
        self.unread = self.unread.take().or(other.unread);
    }

    /// What may do something to a request that comes in by the interface, or to the reply to it, which leaves by the
    /// same interface; but for what [`ArpRules::held_back`] says.
    pub fn concern(&self, link: &Link) -> Option<Concern<'_>> {
        if let Some(why) = &self.unread {
            return Some(Concern { place: RulePlace::Nowhere, what: What::Unread(why) });
        }
        self.bases.iter().find_map(|base| match Passage::new(self, link, base.hook).chain(base.chain, 0) {
            Ok(comes_back) if comes_back && !base.accepts => {
                let place = self.chains.get(base.chain).map_or(RulePlace::Nowhere, RulePlace::Chain);
                Some(Concern { place, what: What::Policy })
            }
            Ok(_) => None,
            Err(concern) => Some(concern),
        })
    }

    /// The replies that rules drop, and that is all they do: the name of the interface, and `spa`.
    pub fn held_back(&self) -> Vec<(String, Ipv4Addr)> {
        let rules = self.chains.iter().flat_map(|chain| &chain.rules);
        let mut held_back: Vec<_> = rules.filter_map(ChainRule::holds_back).collect();
        held_back.sort_unstable();
        held_back.dedup();
        held_back
    }
}

impl ChainRule {
    /// If all that the rule can do is to drop frames that leave by one interface and have one address as `spa`: these.
    fn holds_back(&self) -> Option<(String, Ipv4Addr)> {
        let (Step::Verdict(ChainVerdict::Drop), before) = self.steps.split_last()? else { return None };
        let (mut interface, mut address) = (None, None);
        for step in before {
            match step {
                Step::If(Test { field, with: Values::Masked { value, mask }, inverted: false }) => {
                    let whole = mask.iter().all(|&byte| byte == 0xff);
                    // nft compares all bytes of a name, arptables of nft those up to the first 0.
                    if *field == Field::OutName && whole && value.ends_with(&[0]) {
                        let name = value.split(|&byte| byte == 0).next().unwrap_or_default();
                        interface = Some(String::from_utf8_lossy(name).into_owned());
                    }
                    if *field == SPA && whole {
                        address = <[u8; 4]>::try_from(value.as_slice()).ok().map(Ipv4Addr::from).or(address);
                    }
                }
                Step::If(_) | Step::Perhaps => {}
                _ => return None,
            }
        }
        interface.zip(address)
    }
}

impl Display for RulePlace<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            RulePlace::Nowhere => Ok(()),
            RulePlace::Chain(Chain { tool: ChainTool::Nft, name, .. }) => write!(f, "nft chain {name}"),
            RulePlace::Chain(Chain { tool: ChainTool::Arptables, name, .. }) => write!(f, "arptables chain {name}"),
            RulePlace::Rule(Chain { tool: ChainTool::Nft, name, .. }, rule) => {
                write!(f, "nft rule {name} handle {}", rule.number)
            }
            RulePlace::Rule(Chain { tool: ChainTool::Arptables, name, .. }, rule) => {
                write!(f, "arptables chain {name}, rule {}", rule.number)
            }
        }
    }
}

impl Display for Concern<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        if !matches!(self.place, RulePlace::Nowhere) {
            write!(f, "{}: ", self.place)?;
        }
        match self.what {
            What::Unread(why) => write!(f, "{why}"),
            What::Policy => write!(f, "its policy may drop frames"),
            What::Drops => write!(f, "it may drop frames"),
            What::Unknown(name) => write!(f, "`{name}` may do anything"),
            What::TooDeep => write!(f, "chains lead too deep into others, or nowhere"),
        }
    }
}

/// A map whose keys are no text, as a list of pairs: JSON has no other.
mod pairs {
    use super::ChainVerdict;
    use serde::{Deserialize as _, Deserializer, Serializer};
    use std::collections::BTreeMap;

    pub(super) fn serialize<S: Serializer>(map: &BTreeMap<Vec<u8>, ChainVerdict>, to: S) -> Result<S::Ok, S::Error> {
        to.collect_seq(map)
    }

    pub(super) fn deserialize<'a, D: Deserializer<'a>>(from: D) -> Result<BTreeMap<Vec<u8>, ChainVerdict>, D::Error> {
        Ok(Vec::<(Vec<u8>, ChainVerdict)>::deserialize(from)?.into_iter().collect())
    }
}
