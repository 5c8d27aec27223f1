//! What ARP-family chains of nftables may do to a frame. Two things are known to be harmless, or harmless but for some
//! replies; whatever is not understood is foreign.
//!
//! - A base chain without rules whose policy is to accept.
//! - The table `calico-arp` as Felix writes it (`endpoint_mgr.go`, `updateWorkloadARPChains`): an output chain that jumps to a
//!   verdict map by the outgoing interface, which leads to a chain for each workload, whose rules drop ARP replies on
//!   that interface in which the workload's own address is the sender's. Counters in between change nothing.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
};

use anyhow::{Context, Result};
use nix::libc;

use super::ingress::{CHAIN_HOOK, FAMILY_ARP, GET_CHAIN, NFGEN_LEN, nftables};
use crate::netlink::wire::{self, Message, NetlinkRequest};

const GET_RULE: u16 = nftables(libc::NFT_MSG_GETRULE);
const GET_SET_ELEMENTS: u16 = nftables(libc::NFT_MSG_GETSETELEM);

// NFTA_*, include/uapi/linux/netfilter/nf_tables.h: no crate has them.
const CHAIN_TABLE: u16 = 1;
const CHAIN_NAME: u16 = 3;
const CHAIN_POLICY: u16 = 5;
const HOOK_NUMBER: u16 = 1;
const RULE_TABLE: u16 = 1;
const RULE_CHAIN: u16 = 2;
const RULE_EXPRESSIONS: u16 = 4;
const RULE_COMPAT: u16 = 5;
const EXPRESSION_NAME: u16 = 1;
const EXPRESSION_DATA: u16 = 2;
const META_DESTINATION: u16 = 1;
const META_KEY: u16 = 2;
const COMPARE_SOURCE: u16 = 1;
const COMPARE_OPERATION: u16 = 2;
const COMPARE_DATA: u16 = 3;
const PAYLOAD_DESTINATION: u16 = 1;
const PAYLOAD_BASE: u16 = 2;
const PAYLOAD_OFFSET: u16 = 3;
const PAYLOAD_LENGTH: u16 = 4;
const IMMEDIATE_DESTINATION: u16 = 1;
const IMMEDIATE_DATA: u16 = 2;
const LOOKUP_SET: u16 = 1;
const LOOKUP_SOURCE: u16 = 2;
const LOOKUP_DESTINATION: u16 = 3;
const LOOKUP_FLAGS: u16 = 5;
const DATA_VALUE: u16 = 1;
const DATA_VERDICT: u16 = 2;
const VERDICT_CODE: u16 = 1;
const SET_ELEMENTS_TABLE: u16 = 1;
const SET_ELEMENTS_SET: u16 = 2;
const SET_ELEMENTS: u16 = 3;
const SET_ELEMENT_DATA: u16 = 2;

const NF_DROP: u32 = libc::NF_DROP as u32;
const JUMPS: [u32; 2] = [libc::NFT_JUMP as u32, libc::NFT_GOTO as u32];

/// Where `oper` and `spa` are in an ARP packet, and how long.
const OPER: (u32, u32) = (6, 2);
const SPA: (u32, u32) = (14, 4);
const REPLY: [u8; 2] = [0, 2];

const CALICO: &str = "calico-arp";

/// What there is.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct ArpChains {
    /// Something that may do anything to any frame.
    pub(super) foreign: bool,
    /// Replies that are dropped: the interface's name, and the address that they are about.
    pub(super) held_back: Vec<(String, Ipv4Addr)>,
}

/// A chain of the ARP family.
#[derive(Debug)]
pub(super) struct Chain {
    table: String,
    name: String,
    /// Where it is bound, if it is a base chain.
    hook: Option<u32>,
    accepts: bool,
}

/// A rule of the ARP family.
#[derive(Debug)]
pub(super) struct NftRule {
    table: String,
    chain: String,
    effect: Effect,
}

/// What a rule does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Effect {
    /// On to another chain of the same table.
    Jump,
    /// What the verdict map of this name says for the outgoing interface.
    Dispatch(String),
    /// Replies about this address are dropped on the interface of this name.
    HoldBack(String, Ipv4Addr),
    /// Anything else.
    NotUnderstood,
}

/// Asks about all chains of the family.
pub(super) fn ask_chains() -> NetlinkRequest {
    NetlinkRequest::new(GET_CHAIN, &[FAMILY_ARP, 0, 0, 0])
}

/// Asks about all rules of the family.
pub(super) fn ask_rules() -> NetlinkRequest {
    NetlinkRequest::new(GET_RULE, &[FAMILY_ARP, 0, 0, 0])
}

/// Asks about the elements of a map in Calico's table.
pub(super) fn ask_elements(map: &str) -> NetlinkRequest {
    NetlinkRequest::new(GET_SET_ELEMENTS, &[FAMILY_ARP, 0, 0, 0])
        .with_text(SET_ELEMENTS_TABLE, CALICO)
        .with_text(SET_ELEMENTS_SET, map)
}

/// Whether any chain is bound to a hook: without, nothing sees ARP.
pub(super) fn any_bound(chains: &[Chain]) -> bool {
    chains.iter().any(|chain| chain.hook.is_some())
}

/// The maps of Calico's table that its rules ask.
pub(super) fn maps(rules: &[NftRule]) -> BTreeSet<String> {
    let of_calico = rules.iter().filter(|rule| rule.table == CALICO);
    let maps = of_calico.filter_map(|rule| match &rule.effect {
        Effect::Dispatch(map) => Some(map.clone()),
        _ => None,
    });
    maps.collect()
}

/// Puts it together. `only_jumps` says of each of [`maps`] whether all its verdicts lead to other chains.
pub(super) fn judge(chains: &[Chain], rules: &[NftRule], only_jumps: &BTreeMap<String, bool>) -> ArpChains {
    let is_understood = |rule: &NftRule| match &rule.effect {
        Effect::Jump | Effect::HoldBack(..) => true,
        Effect::Dispatch(map) => only_jumps.get(map) == Some(&true),
        Effect::NotUnderstood => false,
    };
    // Whatever leads where in it: no rule of the table does more than hold back some replies.
    let calico_is_understood = rules.iter().filter(|rule| rule.table == CALICO).all(is_understood);
    let is_foreign = |chain: &Chain| {
        let empty = || !rules.iter().any(|rule| rule.table == chain.table && rule.chain == chain.name);
        let calico = || chain.table == CALICO && chain.hook == Some(libc::NF_ARP_OUT as u32) && calico_is_understood;
        chain.hook.is_some() && !(chain.accepts && (empty() || calico()))
    };
    let mut held_back: Vec<(String, Ipv4Addr)> = rules
        .iter()
        .filter(|rule| rule.table == CALICO)
        .filter_map(|rule| match &rule.effect {
            Effect::HoldBack(interface, address) => Some((interface.clone(), *address)),
            _ => None,
        })
        .collect();
    held_back.sort_unstable();
    held_back.dedup();
    ArpChains { foreign: chains.iter().any(is_foreign), held_back }
}

/// Decodes a chain.
pub(super) fn chain(message: &Message<'_>) -> Result<Option<Chain>> {
    let Some(attributes) = of_family(message)? else { return Ok(None) };
    let text = |kind| Ok::<_, anyhow::Error>(wire::attribute(attributes, kind)?.map(wire::text).unwrap_or_default());
    let hook = match wire::attribute(attributes, CHAIN_HOOK)? {
        // A hook without its number is at none that is known here.
        Some(hook) => Some(number(hook, HOOK_NUMBER)?.unwrap_or(u32::MAX)),
        None => None,
    };
    let accepts = number(attributes, CHAIN_POLICY)? == Some(libc::NF_ACCEPT as u32);
    Ok(Some(Chain { table: text(CHAIN_TABLE)?, name: text(CHAIN_NAME)?, hook, accepts }))
}

/// Decodes a rule.
pub(super) fn rule(message: &Message<'_>) -> Result<Option<NftRule>> {
    let Some(attributes) = of_family(message)? else { return Ok(None) };
    let text = |kind| Ok::<_, anyhow::Error>(wire::attribute(attributes, kind)?.map(wire::text).unwrap_or_default());
    let mut expressions = Vec::new();
    for element in wire::attributes(wire::attribute(attributes, RULE_EXPRESSIONS)?.unwrap_or_default()) {
        let (_, element) = element.context("NFTA_RULE_EXPRESSIONS")?;
        let name = wire::attribute(element, EXPRESSION_NAME)?.map(wire::text).unwrap_or_default();
        let data = wire::attribute(element, EXPRESSION_DATA)?.unwrap_or_default();
        expressions.push(expression(&name, data)?);
    }
    let compat = wire::attribute(attributes, RULE_COMPAT)?.is_some();
    let effect = if compat { Effect::NotUnderstood } else { effect(&expressions) };
    Ok(Some(NftRule { table: text(RULE_TABLE)?, chain: text(RULE_CHAIN)?, effect }))
}

/// Whether all elements of a verdict map lead to other chains.
pub(super) fn leads_elsewhere(message: &Message<'_>) -> Result<Option<bool>> {
    let Some(attributes) = of_family(message)? else { return Ok(None) };
    let mut all = true;
    for element in wire::attributes(wire::attribute(attributes, SET_ELEMENTS)?.unwrap_or_default()) {
        let (_, element) = element.context("NFTA_SET_ELEM_LIST_ELEMENTS")?;
        let verdict = match wire::attribute(element, SET_ELEMENT_DATA)? {
            Some(data) => verdict(data)?,
            None => None,
        };
        all &= verdict.is_some_and(|code| JUMPS.contains(&code));
    }
    Ok(Some(all))
}

/// One expression of a rule, as far as it is known here.
#[derive(Clone, Debug, PartialEq)]
enum Expression {
    /// Counts, and changes nothing.
    Counter,
    /// The outgoing interface's name goes to a register.
    LoadInterface {
        to: u32,
    },
    /// Bytes of the ARP packet go to a register.
    LoadPacket {
        to: u32,
        at: (u32, u32),
    },
    /// On only if a register holds just this.
    Equal {
        from: u32,
        value: Vec<u8>,
    },
    /// A verdict.
    Verdict(u32),
    /// A register decides by a map.
    Map {
        from: u32,
        name: String,
    },
    Unknown,
}

fn expression(name: &str, data: &[u8]) -> Result<Expression> {
    let number = |kind| number(data, kind);
    let known = match name {
        "counter" => Some(Expression::Counter),
        "meta" if number(META_KEY)? == Some(libc::NFT_META_OIFNAME as u32) => {
            number(META_DESTINATION)?.map(|to| Expression::LoadInterface { to })
        }
        "payload" if number(PAYLOAD_BASE)? == Some(libc::NFT_PAYLOAD_NETWORK_HEADER as u32) => {
            match (number(PAYLOAD_DESTINATION)?, number(PAYLOAD_OFFSET)?, number(PAYLOAD_LENGTH)?) {
                (Some(to), Some(offset), Some(length)) => Some(Expression::LoadPacket { to, at: (offset, length) }),
                _ => None,
            }
        }
        "cmp" if number(COMPARE_OPERATION)? == Some(libc::NFT_CMP_EQ as u32) => {
            let value =
                wire::attribute(data, COMPARE_DATA)?.map(|data| wire::attribute(data, DATA_VALUE)).transpose()?;
            match (number(COMPARE_SOURCE)?, value.flatten()) {
                (Some(from), Some(value)) => Some(Expression::Equal { from, value: value.to_vec() }),
                _ => None,
            }
        }
        "immediate" if number(IMMEDIATE_DESTINATION)? == Some(libc::NFT_REG_VERDICT as u32) => {
            let data = wire::attribute(data, IMMEDIATE_DATA)?.map(verdict).transpose()?;
            data.flatten().map(Expression::Verdict)
        }
        // NFT_LOOKUP_F_INV: on if it is not in the set.
        "lookup"
            if number(LOOKUP_FLAGS)?.unwrap_or(0) == 0
                && number(LOOKUP_DESTINATION)? == Some(libc::NFT_REG_VERDICT as u32) =>
        {
            match (number(LOOKUP_SOURCE)?, wire::attribute(data, LOOKUP_SET)?) {
                (Some(from), Some(name)) => Some(Expression::Map { from, name: wire::text(name) }),
                _ => None,
            }
        }
        _ => None,
    };
    Ok(known.unwrap_or(Expression::Unknown))
}

/// What these expressions do, one after another.
fn effect(expressions: &[Expression]) -> Effect {
    use Expression::{Equal, LoadInterface, LoadPacket, Map, Verdict};
    let matter: Vec<&Expression> = expressions.iter().filter(|&one| *one != Expression::Counter).collect();
    match matter.as_slice() {
        [Verdict(code)] if JUMPS.contains(code) => Effect::Jump,
        [LoadInterface { to }, Map { from, name }] if to == from => Effect::Dispatch(name.clone()),
        [
            LoadInterface { to: interface },
            Equal { from: as_interface, value: name },
            LoadPacket { to: oper, at: OPER },
            Equal { from: as_oper, value: reply },
            LoadPacket { to: spa, at: SPA },
            Equal { from: as_spa, value: address },
            Verdict(NF_DROP),
        ] if interface == as_interface && oper == as_oper && spa == as_spa && reply == &REPLY => {
            match (whole_name(name), <[u8; 4]>::try_from(address.as_slice())) {
                (Some(name), Ok(address)) => Effect::HoldBack(name, address.into()),
                _ => Effect::NotUnderstood,
            }
        }
        _ => Effect::NotUnderstood,
    }
}

/// The name that an interface's 16 bytes are compared with; `None` for the beginning of one.
fn whole_name(value: &[u8]) -> Option<String> {
    (value.len() == libc::IF_NAMESIZE && value.ends_with(&[0])).then(|| wire::text(value))
}

/// The verdict in `struct nft_data`, if it is one.
fn verdict(data: &[u8]) -> Result<Option<u32>> {
    match wire::attribute(data, DATA_VERDICT)? {
        Some(verdict) => number(verdict, VERDICT_CODE),
        None => Ok(None),
    }
}

/// The attributes of a message of the ARP family.
fn of_family<'a>(message: &Message<'a>) -> Result<Option<&'a [u8]>> {
    let (header, attributes) = message.split::<NFGEN_LEN>()?;
    Ok((header[0] == FAMILY_ARP).then_some(attributes))
}

/// nftables numbers are big-endian.
fn number(attributes: &[u8], kind: u16) -> Result<Option<u32>> {
    wire::attribute(attributes, kind)?.map(|value| wire::bytes(value).map(u32::from_be_bytes)).transpose()
}

#[cfg(test)]
mod tests {
    use super::*;

    const OIFNAME: Expression = Expression::LoadInterface { to: 1 };

    fn named(value: &[u8]) -> Expression {
        let mut value = value.to_vec();
        value.resize(16, 0);
        Expression::Equal { from: 1, value }
    }

    fn loaded(at: (u32, u32)) -> Expression {
        Expression::LoadPacket { to: 1, at }
    }

    fn equal(value: &[u8]) -> Expression {
        Expression::Equal { from: 1, value: value.to_vec() }
    }

    /// As Felix writes it.
    fn hold_back() -> Vec<Expression> {
        let address = equal(&[10, 0, 0, 1]);
        let drop = Expression::Verdict(NF_DROP);
        vec![OIFNAME, named(b"cali0"), loaded(OPER), equal(&REPLY), loaded(SPA), address, Expression::Counter, drop]
    }

    fn in_table(table: &str, chain: &str, effect: Effect) -> NftRule {
        NftRule { table: table.into(), chain: chain.into(), effect }
    }

    fn bound(table: &str, name: &str, hook: u32, accepts: bool) -> Chain {
        Chain { table: table.into(), name: name.into(), hook: Some(hook), accepts }
    }

    #[test]
    fn felix_s_rules_are_understood_exactly() {
        let held_back = Effect::HoldBack("cali0".into(), Ipv4Addr::new(10, 0, 0, 1));
        assert_eq!(effect(&hold_back()), held_back);
        let mut without_counter = hold_back();
        without_counter.remove(6);
        assert_eq!(effect(&without_counter), held_back);
        let others: [(usize, Expression); 8] = [
            (0, Expression::LoadInterface { to: 2 }),
            (1, Expression::Equal { from: 1, value: b"cali".to_vec() }),
            (2, loaded((24, 4))),
            (3, equal(&[0, 1])),
            (4, loaded((24, 4))),
            (5, equal(&[10, 0, 0])),
            (6, Expression::Unknown),
            (7, Expression::Verdict(libc::NF_ACCEPT as u32)),
        ];
        for (at, other) in others {
            let mut rule = hold_back();
            rule[at] = other.clone();
            assert_eq!(effect(&rule), Effect::NotUnderstood, "{at}: {other:?}");
            rule = hold_back();
            rule.remove(at);
            assert!(at == 6 || effect(&rule) == Effect::NotUnderstood, "without {at}");
        }
    }

    #[test]
    fn jumps_and_dispatches() {
        let map = |from| Expression::Map { from, name: "m".into() };
        assert_eq!(effect(&[Expression::Counter, Expression::Verdict(JUMPS[0])]), Effect::Jump);
        assert_eq!(effect(&[Expression::Verdict(JUMPS[1])]), Effect::Jump);
        assert_eq!(effect(&[Expression::Verdict(NF_DROP)]), Effect::NotUnderstood);
        assert_eq!(effect(&[OIFNAME, map(1)]), Effect::Dispatch("m".into()));
        assert_eq!(effect(&[OIFNAME, map(2)]), Effect::NotUnderstood);
        assert_eq!(effect(&[]), Effect::NotUnderstood);
    }

    #[test]
    fn the_table_as_a_whole() {
        let cali0 = Ipv4Addr::new(10, 0, 0, 1);
        let chains = || vec![bound(CALICO, "filter-OUTPUT", libc::NF_ARP_OUT as u32, true)];
        let rules = || {
            vec![
                in_table(CALICO, "filter-OUTPUT", Effect::Jump),
                in_table(CALICO, "dispatch", Effect::Dispatch("m".into())),
                in_table(CALICO, "cali0", Effect::HoldBack("cali0".into(), cali0)),
            ]
        };
        let jumps = |yes| BTreeMap::from([("m".to_owned(), yes)]);
        let found = judge(&chains(), &rules(), &jumps(true));
        assert_eq!(found, ArpChains { foreign: false, held_back: vec![("cali0".into(), cali0)] });

        assert!(judge(&chains(), &rules(), &jumps(false)).foreign, "the map drops by itself");
        assert!(judge(&chains(), &rules(), &BTreeMap::new()).foreign, "the map is not known");
        let with = |rule| rules().into_iter().chain([rule]).collect::<Vec<_>>();
        let more = with(in_table(CALICO, "cali0", Effect::NotUnderstood));
        assert!(judge(&chains(), &more, &jumps(true)).foreign, "one rule more");
        assert!(
            judge(&[bound(CALICO, "filter-OUTPUT", libc::NF_ARP_OUT as u32, false)], &rules(), &jumps(true)).foreign,
            "policy"
        );
        assert!(judge(&[bound(CALICO, "filter-OUTPUT", 0, true)], &rules(), &jumps(true)).foreign, "input");
        let other = [bound("other", "filter-OUTPUT", libc::NF_ARP_OUT as u32, true)];
        let named_otherwise = [in_table("other", "filter-OUTPUT", Effect::Jump)];
        assert!(judge(&other, &named_otherwise, &jumps(true)).foreign, "another table");
    }

    #[test]
    fn an_empty_chain_that_accepts_is_harmless() {
        assert!(!judge(&[bound("t", "c", 0, true)], &[], &BTreeMap::new()).foreign);
        assert!(judge(&[bound("t", "c", 0, false)], &[], &BTreeMap::new()).foreign);
        let rules = [in_table("t", "c", Effect::Jump)];
        assert!(judge(&[bound("t", "c", 0, true)], &rules, &BTreeMap::new()).foreign);
        let elsewhere = [in_table("t", "other", Effect::Jump), in_table("u", "c", Effect::NotUnderstood)];
        assert!(!judge(&[bound("t", "c", 0, true)], &elsewhere, &BTreeMap::new()).foreign, "nothing leads there");
    }
}
