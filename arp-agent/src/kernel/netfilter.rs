//! The ARP family of nftables: its chains, rules and sets as the kernel dumps them, put together to [`ArpRules`].

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result};
use nix::libc;

use super::{
    ingress::{CHAIN_HOOK, CHAIN_NAME, CHAIN_TABLE, FAMILY_ARP, GET_CHAIN, NFGEN_LEN, nftables},
    nft_rule::{self, Expression, Named, SetContents, number},
};
use crate::arp_rules::{ArpRules, Base, Chain, ChainHook, ChainRule, ChainTool};
use crate::netlink::wire::{self, Message, NetlinkRequest};

const GET_RULE: u16 = nftables(libc::NFT_MSG_GETRULE);
const GET_SET: u16 = nftables(libc::NFT_MSG_GETSET);
const GET_SET_ELEMENTS: u16 = nftables(libc::NFT_MSG_GETSETELEM);
const GET_GENERATION: u16 = nftables(libc::NFT_MSG_GETGEN);

// NFTA_*, include/uapi/linux/netfilter/nf_tables.h: no crate has them.
const CHAIN_POLICY: u16 = 5;
const HOOK_NUMBER: u16 = 1;
const RULE_TABLE: u16 = 1;
const RULE_CHAIN: u16 = 2;
const RULE_HANDLE: u16 = 3;
const RULE_EXPRESSIONS: u16 = 4;
const RULE_COMPAT: u16 = 5;
const SET_TABLE: u16 = 1;
const SET_NAME: u16 = 2;
const SET_FLAGS: u16 = 3;
const SET_KEY_LEN: u16 = 5;
const SET_EXPRESSION: u16 = 17;
const SET_EXPRESSIONS: u16 = 18;
const ELEMENTS_TABLE: u16 = 1;
const ELEMENTS_SET: u16 = 2;
const ELEMENTS: u16 = 3;
const ELEMENT_KEY: u16 = 1;
const ELEMENT_DATA: u16 = 2;
const ELEMENT_FLAGS: u16 = 3;
const ELEMENT_USERDATA: u16 = 6;
const ELEMENT_EXPRESSION: u16 = 7;
const ELEMENT_PAD: u16 = 8;
const ELEMENT_EXPRESSIONS: u16 = 11;
const GENERATION_ID: u16 = 1;

/// Flags of sets whose elements are just what is listed: NFT_SET_ANONYMOUS, CONSTANT, MAP. Packets add none, none
/// expires, and none stands for others.
const PLAIN: u32 = 0x1 | 0x2 | 0x8;
/// NFT_SET_EVAL and NFT_SET_EXPR: packets, or expressions in it, change the set.
const CHANGES: u32 = 0x20 | 0x100;

/// A chain of the ARP family.
#[derive(Debug)]
pub(super) struct NftChain {
    pub(super) name: Named,
    /// The number of the hook where it is bound, if it is a base chain.
    hook: Option<u32>,
    accepts: bool,
}

/// A rule of the ARP family.
#[derive(Debug)]
pub(super) struct NftRule {
    chain: Named,
    handle: u64,
    expressions: Vec<Expression>,
}

/// A set or a map, without its elements.
#[derive(Debug)]
pub(super) struct NftSet {
    pub(super) name: Named,
    flags: u32,
    key_len: usize,
    has_expressions: bool,
}

/// An element of a set or a map.
#[derive(Debug)]
pub(super) struct Element {
    key: Vec<u8>,
    verdict: Option<nft_rule::NftVerdict>,
    /// It stands for just its key.
    is_plain: bool,
    has_expressions: bool,
}

/// What was dumped.
#[derive(Debug, Default)]
pub(super) struct Dumped {
    pub(super) chains: Vec<NftChain>,
    pub(super) rules: Vec<NftRule>,
    /// Those of [`Dumped::sets_asked`] that there are.
    pub(super) sets: BTreeMap<Named, SetContents>,
}

/// Asks about all chains of the family.
pub(super) fn ask_chains() -> NetlinkRequest {
    NetlinkRequest::new(GET_CHAIN, &[FAMILY_ARP, 0, 0, 0])
}

/// Asks about all rules of the family.
pub(super) fn ask_rules() -> NetlinkRequest {
    NetlinkRequest::new(GET_RULE, &[FAMILY_ARP, 0, 0, 0])
}

/// Asks about all sets and maps of the family.
pub(super) fn ask_sets() -> NetlinkRequest {
    NetlinkRequest::new(GET_SET, &[FAMILY_ARP, 0, 0, 0])
}

/// Asks about the elements of a set or a map.
pub(super) fn ask_elements(set: &Named) -> NetlinkRequest {
    NetlinkRequest::new(GET_SET_ELEMENTS, &[FAMILY_ARP, 0, 0, 0])
        .with_text(ELEMENTS_TABLE, &set.table)
        .with_text(ELEMENTS_SET, &set.name)
}

/// Asks which generation of all rules the present one is. Not a dump.
pub(super) fn ask_generation() -> NetlinkRequest {
    NetlinkRequest::new(GET_GENERATION, &[0; NFGEN_LEN])
}

impl Dumped {
    /// Whether any chain is bound to a hook: without, nothing sees ARP.
    pub(super) fn is_any_bound(&self) -> bool {
        self.chains.iter().any(|chain| chain.hook.is_some())
    }

    /// The sets and maps that rules look into.
    pub(super) fn sets_asked(&self) -> BTreeSet<Named> {
        self.named(Expression::set)
    }

    /// The sets and maps that rules change.
    fn sets_updated(&self) -> BTreeSet<Named> {
        self.named(|expression| match expression {
            Expression::Update { set } => Some(set),
            _ => None,
        })
    }

    fn named(&self, by: impl Fn(&Expression) -> Option<&str>) -> BTreeSet<Named> {
        let of_rule = |rule: &NftRule| {
            rule.expressions.iter().filter_map(&by).map(|name| rule.chain.beside(name)).collect::<Vec<_>>()
        };
        self.rules.iter().flat_map(of_rule).collect()
    }

    /// Puts it together.
    pub(super) fn rules(&self) -> ArpRules {
        let mut chains: Vec<Chain> = Vec::new();
        let mut places = BTreeMap::new();
        let updated = self.sets_updated();
        for NftChain { name, .. } in &self.chains {
            places.insert(name.clone(), chains.len());
            let name = format!("arp {} {}", name.table, name.name);
            chains.push(Chain { tool: ChainTool::Nft, name, rules: Vec::new() });
        }
        for NftRule { chain, handle, expressions } in &self.rules {
            let Some(&at) = places.get(chain) else { continue };
            let place = |name: &str| places.get(&chain.beside(name)).copied();
            let set = |name: &str| {
                let set = chain.beside(name);
                // One that packets change is as if it were not there: not known.
                self.sets.get(&set).filter(|_| !updated.contains(&set))
            };
            chains[at].rules.push(ChainRule { number: *handle, steps: nft_rule::steps(expressions, place, set) });
        }
        let bases = self.chains.iter().enumerate().filter_map(|(chain, NftChain { hook, accepts, .. })| {
            let hook = match i32::try_from((*hook)?) {
                Ok(libc::NF_ARP_IN) => ChainHook::Input,
                Ok(libc::NF_ARP_OUT) => ChainHook::Output,
                _ => ChainHook::Other,
            };
            Some(Base { hook, chain, accepts: *accepts })
        });
        ArpRules { bases: bases.collect(), chains, unread: None }
    }
}

impl NftSet {
    /// The set with its elements, which came in several parts.
    pub(super) fn with(&self, elements: Vec<Vec<Element>>) -> SetContents {
        let elements: Vec<Element> = elements.into_iter().flatten().collect();
        let is_plain = |element: &Element| element.is_plain && element.key.len() == self.key_len;
        SetContents {
            key_len: self.key_len,
            is_plain: self.flags & !PLAIN == 0 && elements.iter().all(is_plain),
            changes: self.flags & CHANGES != 0
                || self.has_expressions
                || elements.iter().any(|element| element.has_expressions),
            elements: elements.into_iter().map(|element| (element.key, element.verdict)).collect(),
        }
    }
}

/// Decodes a chain.
pub(super) fn chain(message: &Message<'_>) -> Result<Option<NftChain>> {
    let Some(attributes) = of_family(message)? else { return Ok(None) };
    let hook = match wire::attribute(attributes, CHAIN_HOOK)? {
        // A hook without its number is at none that is known here.
        Some(hook) => Some(number(hook, HOOK_NUMBER)?.unwrap_or(u32::MAX)),
        None => None,
    };
    let accepts = number(attributes, CHAIN_POLICY)? == Some(libc::NF_ACCEPT as u32);
    Ok(Some(NftChain { name: named(attributes, CHAIN_TABLE, CHAIN_NAME)?, hook, accepts }))
}

/// Decodes a rule.
pub(super) fn rule(message: &Message<'_>) -> Result<Option<NftRule>> {
    let Some(attributes) = of_family(message)? else { return Ok(None) };
    let mut expressions = Vec::new();
    // What of it iptables' own extensions are told.
    if wire::attribute(attributes, RULE_COMPAT)?.is_some() {
        expressions.push(Expression::Unknown("compat".to_owned()));
    }
    for element in wire::attributes(wire::attribute(attributes, RULE_EXPRESSIONS)?.unwrap_or_default()) {
        let (_, element) = element.context("NFTA_RULE_EXPRESSIONS")?;
        expressions.push(nft_rule::expression(element)?);
    }
    let handle = wire::attribute(attributes, RULE_HANDLE)?.map(wire::bytes).transpose()?;
    Ok(Some(NftRule {
        chain: named(attributes, RULE_TABLE, RULE_CHAIN)?,
        handle: handle.map(u64::from_be_bytes).unwrap_or_default(),
        expressions,
    }))
}

/// Decodes a set.
pub(super) fn set(message: &Message<'_>) -> Result<Option<NftSet>> {
    let Some(attributes) = of_family(message)? else { return Ok(None) };
    let mut has_expressions = false;
    for kind in [SET_EXPRESSION, SET_EXPRESSIONS] {
        has_expressions |= wire::attribute(attributes, kind)?.is_some();
    }
    Ok(Some(NftSet {
        name: named(attributes, SET_TABLE, SET_NAME)?,
        flags: number(attributes, SET_FLAGS)?.unwrap_or_default(),
        key_len: number(attributes, SET_KEY_LEN)?.unwrap_or_default() as usize,
        has_expressions,
    }))
}

/// Decodes elements of a set.
pub(super) fn elements(message: &Message<'_>) -> Result<Option<Vec<Element>>> {
    let Some(attributes) = of_family(message)? else { return Ok(None) };
    let mut elements = Vec::new();
    for element in wire::attributes(wire::attribute(attributes, ELEMENTS)?.unwrap_or_default()) {
        let (_, element) = element.context("NFTA_SET_ELEM_LIST_ELEMENTS")?;
        elements.push(self::element(element)?);
    }
    Ok(Some(elements))
}

fn element(attributes: &[u8]) -> Result<Element> {
    let mut element = Element { key: Vec::new(), verdict: None, is_plain: true, has_expressions: false };
    for attribute in wire::attributes(attributes) {
        match attribute.context("NFTA_LIST_ELEM")? {
            (ELEMENT_KEY, data) => element.key = nft_rule::value(data)?.unwrap_or_default().to_vec(),
            (ELEMENT_DATA, data) => element.verdict = nft_rule::verdict(data)?,
            (ELEMENT_EXPRESSION | ELEMENT_EXPRESSIONS, _) => element.has_expressions = true,
            (ELEMENT_USERDATA | ELEMENT_PAD, _) => {}
            // The end of an interval, one that stands for all others.
            (ELEMENT_FLAGS, flags) => element.is_plain &= flags.iter().all(|&byte| byte == 0),
            _ => element.is_plain = false,
        }
    }
    Ok(element)
}

/// Decodes a generation.
pub(super) fn generation(message: &Message<'_>) -> Result<Option<u32>> {
    let (_, attributes) = message.split::<NFGEN_LEN>()?;
    number(attributes, GENERATION_ID)
}

fn named(attributes: &[u8], table: u16, name: u16) -> Result<Named> {
    let text = |kind| Ok::<_, anyhow::Error>(wire::attribute(attributes, kind)?.map(wire::text).unwrap_or_default());
    Ok(Named { table: text(table)?, name: text(name)? })
}

/// The attributes of a message of the ARP family.
fn of_family<'a>(message: &Message<'a>) -> Result<Option<&'a [u8]>> {
    let (header, attributes) = message.split::<NFGEN_LEN>()?;
    Ok((header[0] == FAMILY_ARP).then_some(attributes))
}

#[cfg(test)]
mod tests {
    use super::super::captured_arp::{ARPTABLES_NFT_CHAIN, ARPTABLES_NFT_RULES, CHAINS, ELEMENTS, RULES, SETS};
    use super::super::tests::{bytes, message};
    use super::*;
    use crate::event::Link;

    fn decoded<T>(messages: &[&str], decode: impl Fn(&Message<'_>) -> Result<Option<T>>) -> Vec<T> {
        messages.iter().map(|hex| decode(&message(0, &bytes(hex))).unwrap().unwrap()).collect()
    }

    /// What was captured, but of the rules only those at these places.
    fn dumped(only: &[usize]) -> Dumped {
        let of_set =
            |message: &Message<'_>| named(of_family(message)?.unwrap(), ELEMENTS_TABLE, ELEMENTS_SET).map(Some);
        let elements = std::iter::zip(decoded(&ELEMENTS, of_set), decoded(&ELEMENTS, elements));
        let mut parts: BTreeMap<Named, Vec<Vec<Element>>> = BTreeMap::new();
        elements.for_each(|(set, part)| parts.entry(set).or_default().push(part));
        let sets = decoded(&SETS, set).into_iter();
        let sets = sets.map(|set| (set.name.clone(), set.with(parts.remove(&set.name).unwrap_or_default()))).collect();
        let rules = decoded(&RULES, rule).into_iter().enumerate();
        let rules = rules.filter(|(at, _)| only.contains(at)).map(|(_, rule)| rule).collect();
        Dumped { chains: decoded(&CHAINS, chain), rules, sets }
    }

    const INTERFACES: [(u32, &str); 9] =
        [(1, "lo"), (2, "eth0"), (3, "eth1"), (4, "cali1"), (5, "a"), (6, "b"), (7, "q"), (8, "r"), (9, "x1")];

    /// The interfaces that it concerns.
    fn concerned(dumped: &Dumped) -> Vec<&'static str> {
        let rules = dumped.rules();
        let link = |ifindex, name: &str| Link { ifindex, name: name.to_owned(), ..Link::default() };
        let concerned = |(ifindex, name): &(u32, &'static str)| rules.concern(&link(*ifindex, name)).is_some();
        INTERFACES.into_iter().filter(concerned).map(|(_, name)| name).collect()
    }

    #[test]
    fn each_rule_concerns_the_interfaces_that_it_can_match() {
        let all = INTERFACES.map(|(_, name)| name).to_vec();
        let expected = [
            vec!["eth0"],
            vec![],
            vec!["lo"],
            vec!["a", "b"],
            vec!["lo", "cali1", "a", "b", "q", "r", "x1"],
            // Intervals of names.
            all.clone(),
            vec!["cali1"],
            vec![],
            // A name and an address together.
            all.clone(),
            all.clone(),
            all.clone(),
            all.clone(),
            all.clone(),
            all.clone(),
            all.clone(),
            vec![],
            all.clone(),
            // Its elements count.
            all.clone(),
            vec!["a", "b"],
        ];
        assert_eq!(expected.len(), RULES.len());
        for (at, expected) in expected.into_iter().enumerate() {
            assert_eq!(concerned(&dumped(&[at])), expected, "rule {at}");
        }
    }

    #[test]
    fn rules_before_others() {
        assert_eq!(concerned(&dumped(&[1, 12])), ["eth0", "eth1"], "the others are accepted before their mark is set");
        assert_eq!(concerned(&dumped(&[7, 12])), ["lo", "eth0", "eth1", "cali1", "a", "b", "x1"]);
        assert_eq!(concerned(&dumped(&[])), [""; 0]);
    }

    #[test]
    fn sets_that_are_not_known() {
        let mut dumped = dumped(&[3]);
        assert_eq!(dumped.sets_asked().iter().map(|set| &*set.name).collect::<Vec<_>>(), ["__set0"]);
        assert_eq!(concerned(&dumped), ["a", "b"]);
        let name = dumped.rules[0].chain.beside("__set0");
        dumped.sets.get_mut(&name).unwrap().is_plain = false;
        assert_eq!(concerned(&dumped).len(), INTERFACES.len());
        dumped.sets.remove(&name);
        assert_eq!(concerned(&dumped).len(), INTERFACES.len(), "gone, or not there yet");
    }

    #[test]
    fn a_set_that_packets_change() {
        let mut dumped = dumped(&[3]);
        let chain = dumped.rules[0].chain.clone();
        let update = Expression::Update { set: "__set0".to_owned() };
        dumped.rules.push(NftRule { chain: chain.beside("j"), handle: 99, expressions: vec![update.clone()] });
        assert_eq!(concerned(&dumped).len(), INTERFACES.len());
        dumped.rules[1].chain.table = "other".to_owned();
        assert_eq!(concerned(&dumped), ["a", "b"], "of the same name, in another table");
    }

    #[test]
    fn the_rule_is_named() {
        let rules = dumped(&[0]).rules();
        let eth0 = Link { name: "eth0".to_owned(), ..Link::default() };
        assert_eq!(rules.concern(&eth0).unwrap().to_string(), "nft rule arp t in handle 8: it may drop frames");
        let rules = dumped(&[12]).rules();
        assert_eq!(rules.concern(&eth0).unwrap().to_string(), "nft rule arp t in handle 24: `meta` may do anything");
    }

    #[test]
    fn arptables_by_nf_tables() {
        let chains = || decoded(&[ARPTABLES_NFT_CHAIN], chain);
        let rules = || decoded(&ARPTABLES_NFT_RULES, rule);
        let drop = Dumped { chains: chains(), rules: rules(), ..Dumped::default() };
        assert_eq!(concerned(&drop), ["eth1"]);
        let mut accept = Dumped { chains: chains(), rules: rules(), ..Dumped::default() };
        accept.rules.remove(0);
        accept.chains[0].accepts = false;
        assert_eq!(concerned(&accept).len(), INTERFACES.len(), "a request's htype may be 6");
    }

    #[test]
    fn iptables_extensions_may_do_anything() {
        let mut payload = bytes(RULES[0]);
        payload.extend([4, 0, RULE_COMPAT as u8, 0]);
        let rule = rule(&message(0, &payload)).unwrap().unwrap();
        assert_eq!(concerned(&Dumped { rules: vec![rule], ..dumped(&[]) }).len(), INTERFACES.len());
    }
}
