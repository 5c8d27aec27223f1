//! What a rule of nftables does: its expressions one after another, as steps.

use std::collections::BTreeMap;

use anyhow::Result;
use nix::libc;

use crate::arp_rules::{self, Field, Step, Test, Values};
use crate::netlink::wire;

// NFTA_*, include/uapi/linux/netfilter/nf_tables.h: no crate has them.
const EXPRESSION_NAME: u16 = 1;
const EXPRESSION_DATA: u16 = 2;
const META_DESTINATION: u16 = 1;
const META_KEY: u16 = 2;
const META_SOURCE: u16 = 3;
const COMPARE_SOURCE: u16 = 1;
const COMPARE_OPERATION: u16 = 2;
const COMPARE_DATA: u16 = 3;
const PAYLOAD_DESTINATION: u16 = 1;
const PAYLOAD_BASE: u16 = 2;
const PAYLOAD_OFFSET: u16 = 3;
const PAYLOAD_LENGTH: u16 = 4;
const PAYLOAD_SOURCE: u16 = 5;
const IMMEDIATE_DESTINATION: u16 = 1;
const IMMEDIATE_DATA: u16 = 2;
const LOOKUP_SET: u16 = 1;
const LOOKUP_SOURCE: u16 = 2;
const LOOKUP_DESTINATION: u16 = 3;
const LOOKUP_FLAGS: u16 = 5;
const UPDATE_SET: u16 = 1;
const LOG_GROUP: u16 = 1;
const OBJECT_TYPE: u16 = 1;
const DATA_VALUE: u16 = 1;
const DATA_VERDICT: u16 = 2;
const VERDICT_CODE: u16 = 1;
const VERDICT_CHAIN: u16 = 2;

/// NFT_LOOKUP_F_INV.
const INVERTED: u32 = 1;
/// NFT_OBJECT_COUNTER.
const COUNTER: u32 = 1;

const NF_DROP: i32 = libc::NF_DROP;
const NF_ACCEPT: i32 = libc::NF_ACCEPT;

/// How long `dev->name` and `dev->ifindex` are in registers.
const NAME_LEN: usize = libc::IF_NAMESIZE;
const INDEX_LEN: usize = 4;

/// A chain, a set or a map of the family.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Named {
    pub(super) table: String,
    pub(super) name: String,
}

impl Named {
    /// Another of the same table.
    pub(super) fn beside(&self, name: &str) -> Self {
        Self { table: self.table.clone(), name: name.to_owned() }
    }
}

/// A verdict: its code, and the chain that it names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct NftVerdict {
    code: i32,
    chain: Option<String>,
}

/// A set or a map with its elements.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SetContents {
    /// How long keys are.
    pub(super) key_len: usize,
    /// Keys, each with its verdict if it has one.
    pub(super) elements: BTreeMap<Vec<u8>, Option<NftVerdict>>,
    /// A key is in it if it is listed, and only then.
    pub(super) is_plain: bool,
    /// To look into it may change it.
    pub(super) changes: bool,
}

/// An expression, as far as it is known here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Expression {
    /// Changes nothing that decides about a frame.
    Nothing,
    /// Something is loaded into a register, or calculated in registers.
    Load {
        /// What, if it is of interest.
        field: Option<Field>,
        to: u32,
    },
    /// On only if a register is like this, or different.
    Compare {
        from: u32,
        value: Vec<u8>,
        inverted: bool,
    },
    /// On only if something in registers is so.
    Perhaps,
    Verdict(NftVerdict),
    /// On only if a register is in this set, or is not.
    In {
        from: u32,
        set: String,
        inverted: bool,
    },
    /// The verdict of a map for a register.
    Decide {
        from: u32,
        set: String,
    },
    /// Loads from a map, if it has something there.
    LoadFrom {
        from: u32,
        set: String,
    },
    /// Changes the elements of this set.
    Update {
        set: String,
    },
    /// May do anything.
    Unknown(String),
}

impl Expression {
    /// The set or map that it looks into.
    pub(super) fn set(&self) -> Option<&str> {
        match self {
            Self::In { set, .. } | Self::Decide { set, .. } | Self::LoadFrom { set, .. } => Some(set),
            _ => None,
        }
    }
}

/// Decodes an expression.
pub(super) fn expression(attributes: &[u8]) -> Result<Expression> {
    let name = wire::attribute(attributes, EXPRESSION_NAME)?.map(wire::text).unwrap_or_default();
    let data = wire::attribute(attributes, EXPRESSION_DATA)?.unwrap_or_default();
    Ok(known(&name, data)?.unwrap_or(Expression::Unknown(name)))
}

/// Whatever is not read, or writes to the frame or to anything that outlives it, is not known.
fn known(name: &str, data: &[u8]) -> Result<Option<Expression>> {
    let number = |kind| number(data, kind);
    Ok(match name {
        "counter" => Some(Expression::Nothing),
        // A counter with a name.
        "objref" => (number(OBJECT_TYPE)? == Some(COUNTER)).then_some(Expression::Nothing),
        // To the kernel's log. With a group, a process is told of the frame.
        "log" => wire::attribute(data, LOG_GROUP)?.is_none().then_some(Expression::Nothing),
        "meta" if number(META_SOURCE)?.is_none() => {
            number(META_DESTINATION)?.zip(number(META_KEY)?).map(|(to, key)| {
                let field = match i32::try_from(key) {
                    Ok(libc::NFT_META_IIFNAME) => Some(Field::InName),
                    Ok(libc::NFT_META_OIFNAME) => Some(Field::OutName),
                    Ok(libc::NFT_META_IIF) => Some(Field::InIndex),
                    Ok(libc::NFT_META_OIF) => Some(Field::OutIndex),
                    _ => None,
                };
                Expression::Load { field, to }
            })
        }
        "payload" if number(PAYLOAD_SOURCE)?.is_none() => {
            let field = match (number(PAYLOAD_BASE)?, number(PAYLOAD_OFFSET)?, number(PAYLOAD_LENGTH)?) {
                (Some(base), Some(offset), Some(len)) if base == libc::NFT_PAYLOAD_NETWORK_HEADER as u32 => {
                    Some(Field::Packet { offset: offset as usize, len: len as usize })
                }
                _ => None,
            };
            number(PAYLOAD_DESTINATION)?.map(|to| Expression::Load { field, to })
        }
        "cmp" => {
            let inverted = match number(COMPARE_OPERATION)?.map(i32::try_from) {
                Some(Ok(libc::NFT_CMP_EQ)) => false,
                Some(Ok(libc::NFT_CMP_NEQ)) => true,
                _ => return Ok(Some(Expression::Perhaps)),
            };
            match (number(COMPARE_SOURCE)?, wire::attribute(data, COMPARE_DATA)?.map(value).transpose()?.flatten()) {
                (Some(from), Some(value)) => Some(Expression::Compare { from, value: value.to_vec(), inverted }),
                _ => Some(Expression::Perhaps),
            }
        }
        "range" => Some(Expression::Perhaps),
        "bitwise" | "byteorder" => Some(Expression::Load { field: None, to: 0 }),
        "immediate" => match (number(IMMEDIATE_DESTINATION)?, wire::attribute(data, IMMEDIATE_DATA)?) {
            (Some(to), Some(data)) if to == libc::NFT_REG_VERDICT as u32 => verdict(data)?.map(Expression::Verdict),
            (Some(to), Some(_)) => Some(Expression::Load { field: None, to }),
            _ => None,
        },
        "lookup" => {
            let inverted = match number(LOOKUP_FLAGS)?.unwrap_or_default() {
                0 => false,
                INVERTED => true,
                _ => return Ok(None),
            };
            let destination = number(LOOKUP_DESTINATION)?;
            let set = wire::attribute(data, LOOKUP_SET)?.map(wire::text);
            set.zip(number(LOOKUP_SOURCE)?).and_then(|(set, from)| match destination {
                None => Some(Expression::In { from, set, inverted }),
                Some(_) if inverted => None,
                Some(to) if to == libc::NFT_REG_VERDICT as u32 => Some(Expression::Decide { from, set }),
                Some(_) => Some(Expression::LoadFrom { from, set }),
            })
        }
        "dynset" => wire::attribute(data, UPDATE_SET)?.map(|set| Expression::Update { set: wire::text(set) }),
        _ => None,
    })
}

/// The bytes in `struct nft_data`, if it has some.
pub(super) fn value(data: &[u8]) -> Result<Option<&[u8]>> {
    wire::attribute(data, DATA_VALUE)
}

/// The verdict in `struct nft_data`, if it is one.
pub(super) fn verdict(data: &[u8]) -> Result<Option<NftVerdict>> {
    let Some(verdict) = wire::attribute(data, DATA_VERDICT)? else { return Ok(None) };
    let chain = wire::attribute(verdict, VERDICT_CHAIN)?.map(wire::text);
    Ok(number(verdict, VERDICT_CODE)?.map(|code| NftVerdict { code: code.cast_signed(), chain }))
}

/// What the expressions do, one after another. `place` finds a chain of the rule's table, `set` a set.
pub(super) fn steps<'a>(
    expressions: &[Expression],
    place: impl Fn(&str) -> Option<usize>,
    set: impl Fn(&str) -> Option<&'a SetContents>,
) -> Vec<Step> {
    let verdict = |verdict: &NftVerdict| {
        let chain = || verdict.chain.as_deref().and_then(&place);
        match verdict.code {
            NF_ACCEPT => arp_rules::ChainVerdict::Accept,
            NF_DROP => arp_rules::ChainVerdict::Drop,
            libc::NFT_CONTINUE => arp_rules::ChainVerdict::Continue,
            libc::NFT_RETURN => arp_rules::ChainVerdict::Return,
            libc::NFT_JUMP => chain().map_or(arp_rules::ChainVerdict::Unknown, arp_rules::ChainVerdict::Jump),
            libc::NFT_GOTO => chain().map_or(arp_rules::ChainVerdict::Unknown, arp_rules::ChainVerdict::Goto),
            _ => arp_rules::ChainVerdict::Unknown,
        }
    };
    // What was loaded last, and to where: registers overlap, so nothing else is trusted.
    let mut loaded: Option<(u32, Field)> = None;
    let mut steps = Vec::new();
    for expression in expressions {
        let field = |from: u32| loaded.filter(|(to, _)| *to == register(from)).map(|(_, field)| field);
        let step = match expression {
            Expression::Nothing => continue,
            Expression::Load { field, to } => {
                loaded = field.map(|field| (register(*to), field));
                // It may fail, and then the rule ends: there must be something to compare with nothing.
                field.map_or(Step::Perhaps, |field| Step::If(Test { field, with: nothing(), inverted: false }))
            }
            Expression::Compare { from, value, inverted } => match field(*from) {
                Some(field) if value.len() <= len(field) => {
                    let with = Values::Masked { value: value.clone(), mask: vec![0xff; value.len()] };
                    Step::If(Test { field, with, inverted: *inverted })
                }
                _ => Step::Perhaps,
            },
            Expression::Perhaps => Step::Perhaps,
            Expression::Verdict(known) => Step::Verdict(verdict(known)),
            Expression::In { set: name, .. }
            | Expression::Decide { set: name, .. }
            | Expression::LoadFrom { set: name, .. }
                if set(name).is_none_or(|set| set.changes) =>
            {
                Step::Unknown(format!("lookup @{name}"))
            }
            Expression::In { from, set: name, .. } | Expression::LoadFrom { from, set: name } => {
                let inverted = matches!(expression, Expression::In { inverted: true, .. });
                let step = match (field(*from), set(name)) {
                    (Some(field), Some(set)) if set.is_plain && set.key_len == len(field) => {
                        let with = Values::Set(set.elements.keys().cloned().collect());
                        Step::If(Test { field, with, inverted })
                    }
                    _ => Step::Perhaps,
                };
                if matches!(expression, Expression::LoadFrom { .. }) {
                    loaded = None;
                }
                step
            }
            Expression::Decide { from, set: name } => {
                let Some(set) = set(name) else { continue };
                let of_map =
                    |known: &Option<NftVerdict>| known.as_ref().map_or(arp_rules::ChainVerdict::Unknown, verdict);
                match field(*from).filter(|field| set.is_plain && set.key_len == len(*field)) {
                    Some(of) => {
                        let verdicts: BTreeMap<_, _> =
                            set.elements.iter().map(|(key, known)| (key.clone(), of_map(known))).collect();
                        Step::Map { of, verdicts }
                    }
                    None => Step::OneOf(set.elements.values().map(of_map).collect()),
                }
            }
            Expression::Update { set } => Step::Unknown(format!("update @{set}")),
            Expression::Unknown(name) => Step::Unknown(name.clone()),
        };
        steps.push(step);
    }
    steps
}

/// What everything that is there is equal to.
fn nothing() -> Values {
    Values::Masked { value: Vec::new(), mask: Vec::new() }
}

/// A register's number in units of 4 bytes: NFT_REG_1 to 4 are 16 bytes each, NFT_REG32_00 and on 4 bytes.
fn register(number: u32) -> u32 {
    match number {
        1..=4 => (number - 1) * 4,
        _ => number.wrapping_sub(8),
    }
}

fn len(field: Field) -> usize {
    match field {
        Field::InName | Field::OutName => NAME_LEN,
        Field::InIndex | Field::OutIndex => INDEX_LEN,
        Field::Packet { len, .. } => len,
    }
}

/// nftables numbers are big-endian.
pub(super) fn number(attributes: &[u8], kind: u16) -> Result<Option<u32>> {
    wire::attribute(attributes, kind)?.map(|value| wire::bytes(value).map(u32::from_be_bytes)).transpose()
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn load(field: Option<Field>, to: u32) -> Expression {
        Expression::Load { field, to }
    }

    const NAME: Option<Field> = Some(Field::InName);

    fn compare(from: u32, len: usize) -> Expression {
        Expression::Compare { from, value: vec![b'a'; len], inverted: false }
    }

    /// Whether the last step is a comparison of the name.
    fn compares(expressions: &[Expression], set: Option<&SetContents>) -> bool {
        let steps = steps(expressions, |_| None, |_| set);
        matches!(steps.last(), Some(Step::If(Test { field: Field::InName, with, .. })) if *with != nothing())
    }

    #[test]
    fn only_what_was_loaded_last_is_compared() {
        assert!(compares(&[load(NAME, 1), compare(1, 16)], None));
        assert!(compares(&[load(NAME, 1), compare(8, 3)], None), "the same register by its other name");
        assert!(!compares(&[load(NAME, 1), compare(2, 16)], None), "another register");
        assert!(!compares(&[load(NAME, 1), compare(9, 3)], None), "its second part");
        assert!(!compares(&[load(NAME, 1), load(None, 1), compare(1, 16)], None), "overwritten");
        assert!(!compares(&[load(NAME, 1), load(None, 9), compare(1, 16)], None), "partly overwritten");
        assert!(!compares(&[compare(1, 16)], None), "never loaded");
        assert!(!compares(&[load(NAME, 1), compare(1, 17)], None), "more than a name");
    }

    #[test]
    fn only_sets_of_names_are_looked_into() {
        let contents = |key_len, is_plain| SetContents { key_len, is_plain, elements: BTreeMap::new(), changes: false };
        let lookup = [load(NAME, 1), Expression::In { from: 1, set: "s".to_owned(), inverted: false }];
        assert!(compares(&lookup, Some(&contents(16, true))));
        assert!(!compares(&lookup, Some(&contents(20, true))), "of names and addresses");
        assert!(!compares(&lookup, Some(&contents(16, false))));
        let map = [load(NAME, 1), Expression::LoadFrom { from: 1, set: "m".to_owned() }];
        assert!(compares(&map, Some(&contents(16, true))), "on only if it is in there");
        assert!(!compares(&[&map[..], &[compare(1, 16)]].concat(), Some(&contents(16, true))), "overwritten");
        let steps = steps(&lookup, |_| None, |_| None);
        assert_eq!(steps.last(), Some(&Step::Unknown("lookup @s".to_owned())), "no such set");
    }
}
