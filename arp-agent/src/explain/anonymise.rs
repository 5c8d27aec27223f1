//! Addresses replaced by others, the same by the same, so that prefixes stay prefixes: two addresses have as many bits in
//! common afterwards as before. The first byte stays, since what an address is (loopback, multicast) depends on it.

use crate::arp_rules::{ArpRules, Field, Step, Test, Values};
use crate::event::{Event, Route, RoutingRule};
use crate::prefix::Prefix;
use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::net::{IpAddr, Ipv4Addr};

/// Link-local addresses: those that are well known, such as 169.254.1.1, say nothing about anybody.
const LINK_LOCAL: u32 = 0xa9fe_0000;
/// Bits that stay.
const KEPT: u32 = 8;

/// One way to replace addresses.
pub(crate) struct Anonymiser {
    key: u64,
    addresses: BTreeMap<Ipv4Addr, Ipv4Addr>,
}

impl Anonymiser {
    /// By a key: another key is another way.
    pub(crate) fn new(key: u64) -> Self {
        Anonymiser { key, addresses: BTreeMap::new() }
    }

    /// The addresses that were replaced so far, and by which.
    pub(crate) fn known(self) -> BTreeMap<Ipv4Addr, Ipv4Addr> {
        self.addresses
    }

    /// Another address for this one.
    pub(crate) fn address(&mut self, addr: Ipv4Addr) -> Ipv4Addr {
        let other = Ipv4Addr::from(self.bits(addr.into(), 32));
        self.addresses.insert(addr, other);
        other
    }

    /// Each bit is turned or not, depending on those before it.
    fn bits(&self, addr: u32, len: u32) -> u32 {
        let first = (addr >> 24) as u8;
        let is_special = first == 0 || first == 127 || first >= 224 || addr & 0xffff_0000 == LINK_LOCAL;
        if is_special {
            return addr;
        }
        let mut other = addr;
        for bit in KEPT..len {
            let before = addr >> (32 - bit);
            let mut hash = DefaultHasher::new();
            (self.key, bit, before).hash(&mut hash);
            if hash.finish() & 1 != 0 {
                other ^= 1 << (31 - bit);
            }
        }
        other
    }

    fn prefix(&mut self, prefix: Prefix) -> Prefix {
        if prefix.len == 32 {
            self.address(prefix.addr.into());
        }
        Prefix { addr: self.bits(prefix.addr, prefix.len.into()), len: prefix.len }
    }

    /// The first three bytes say who made the device, the others which it is.
    fn lladdr(&self, lladdr: [u8; 6]) -> [u8; 6] {
        let mut hash = DefaultHasher::new();
        (self.key, lladdr).hash(&mut hash);
        let [a, b, c, d, e, ..] = hash.finish().to_ne_bytes();
        // All ones and all zeros are no device's.
        if lladdr == [0; 6] || lladdr == [0xff; 6] { lladdr } else { [lladdr[0] & 0x03 | 0x02, a, b, c, d, e] }
    }

    fn route(&mut self, route: &mut Route) {
        route.prefix = self.prefix(route.prefix);
        if let Some(IpAddr::V4(gateway)) = route.gateway {
            route.gateway = Some(self.address(gateway).into());
        }
    }

    fn rule(&mut self, rule: &mut RoutingRule) {
        rule.from = rule.from.map(|prefix| self.prefix(prefix));
        rule.to = rule.to.map(|prefix| self.prefix(prefix));
    }

    /// Replaces the addresses in what the kernel said.
    pub(crate) fn event(&mut self, event: &mut Event) {
        match event {
            Event::Link(link) => link.mac = link.mac.map(|mac| self.lladdr(mac)),
            Event::Address(address) | Event::AddressGone(address) => {
                address.local = self.address(address.local);
                address.peer = self.address(address.peer);
            }
            Event::Route(route, _) | Event::RouteGone(route) => self.route(route),
            Event::Rules(rules) => rules.iter_mut().for_each(|rule| self.rule(rule)),
            Event::Neighbour(entry) => {
                entry.addr = self.address(entry.addr);
                entry.lladdr = entry.lladdr.map(|lladdr| self.lladdr(lladdr));
            }
            Event::NeighbourGone { addr, .. } | Event::NeighbourFlapping { addr, .. } => *addr = self.address(*addr),
            Event::Proxies(entries) => entries.iter_mut().for_each(|(_, addr)| *addr = self.address(*addr)),
            Event::DroppedReplies(replies) => replies.iter_mut().for_each(|(_, addr)| *addr = self.address(*addr)),
            Event::ArpNetfilter(rules) => self.arp_rules(rules),
            _ => {}
        }
    }

    fn arp_rules(&mut self, rules: &mut ArpRules) {
        let steps = rules.chains.iter_mut().flat_map(|chain| &mut chain.rules).flat_map(|rule| &mut rule.steps);
        for step in steps {
            match step {
                Step::If(Test { field, with: Values::Masked { value, mask }, .. }) => {
                    let len = mask.iter().map(|byte| byte.count_ones()).sum::<u32>();
                    if let Some(other) = self.field(*field, value, len) {
                        *value = other;
                    }
                }
                Step::If(Test { field, with: Values::Set(set), .. }) => {
                    let others = set.iter().map(|value| self.field(*field, value, 32).unwrap_or_else(|| value.clone()));
                    *set = others.collect::<BTreeSet<_>>();
                }
                Step::Map { of, verdicts } => {
                    let others = verdicts.iter().map(|(value, verdict)| {
                        (self.field(*of, value, 32).unwrap_or_else(|| value.clone()), verdict.clone())
                    });
                    *verdicts = others.collect();
                }
                _ => {}
            }
        }
    }

    /// Another value for one that is an address, of so many bits.
    fn field(&self, field: Field, value: &[u8], len: u32) -> Option<Vec<u8>> {
        /// Where the addresses are in an ARP packet: `sha`, `spa`, `tha`, `tpa`.
        const IP: [usize; 2] = [14, 24];
        const LINK: [usize; 2] = [8, 18];
        let Field::Packet { offset, .. } = field else { return None };
        if IP.contains(&offset) {
            let addr = u32::from_be_bytes(value.try_into().ok()?);
            return Some(self.bits(addr, len).to_be_bytes().to_vec());
        }
        if LINK.contains(&offset) {
            return Some(self.lladdr(value.try_into().ok()?).to_vec());
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_stay_prefixes() {
        let mut anonymiser = Anonymiser::new(7);
        let [one, other, far] =
            [[10, 1, 2, 3], [10, 1, 2, 77], [10, 200, 2, 3]].map(|addr| u32::from(anonymiser.address(addr.into())));
        let inside = anonymiser.prefix(Prefix::new([10, 1, 2, 0], 24));
        assert!(inside.contains(one) && inside.contains(other) && !inside.contains(far));
        assert_eq!((one ^ other).leading_zeros(), (3u32 ^ 77).leading_zeros(), "as many bits in common");
        assert_ne!(one, u32::from_be_bytes([10, 1, 2, 3]));
        assert_eq!(one >> 24, 10);
    }

    #[test]
    fn what_an_address_is_stays() {
        let mut anonymiser = Anonymiser::new(7);
        for addr in [[127, 0, 0, 1], [224, 0, 0, 1], [0, 0, 0, 0], [255, 255, 255, 255], [169, 254, 1, 1]] {
            assert_eq!(anonymiser.address(addr.into()).octets(), addr);
        }
    }
}
