//! The trie against a search through all prefixes.

use super::*;
use crate::dataplane::fake::Fib;
use arp_common::fib::LeafKind;
use arp_common::maps::{Iface, IfaceAddr, Neighbour, Oif};
use arp_common::tables::lookup;
use proptest::prelude::*;
use std::collections::BTreeMap;

/// The longest prefix that covers an address, found by looking at each.
fn naive(prefixes: &BTreeMap<Prefix, Entry>, addr: u32) -> Entry {
    let covering = prefixes.iter().filter(|(prefix, _)| prefix.contains(addr));
    covering.max_by_key(|(prefix, _)| prefix.len).map_or(Entry::NONE, |(_, &entry)| entry)
}

/// Only the FIB behind the decision's lookup.
struct OnlyFib<'a>(&'a Fib);

impl arp_common::Tables for OnlyFib<'_> {
    fn sequence(&self) -> u64 {
        0
    }
    fn lease_is_valid(&self) -> bool {
        true
    }
    fn proxies_are_confirmed(&self) -> bool {
        unreachable!("a lookup asks for no proxies")
    }
    fn settings_are_read(&self) -> bool {
        unreachable!("only the FIB is read")
    }
    fn iface(&self, _: u32) -> Option<Iface> {
        None
    }
    fn neighbour(&self, _: IfaceAddr) -> Option<Neighbour> {
        None
    }
    fn proxied(&self, _: IfaceAddr) -> bool {
        false
    }
    fn owned(&self, _: IfaceAddr) -> bool {
        false
    }
    fn oif(&self, _: u16) -> Option<Oif> {
        None
    }
    fn fib_root(&self, view: u16, index: u8) -> Entry {
        self.0.root(view, u32::from(index))
    }
    fn fib_node(&self, node: u32, index: u8) -> Entry {
        self.0.node(node, u32::from(index))
    }
}

const VIEW: u16 = 3;

/// A trie beside the prefixes that it must show.
#[derive(Default)]
struct Pair {
    trie: Trie,
    memory: Fib,
    prefixes: BTreeMap<Prefix, Entry>,
}

impl Pair {
    fn insert(&mut self, prefix: Prefix, entry: Entry) {
        self.prefixes.insert(prefix, entry);
        self.trie.insert(&mut self.memory, VIEW, prefix, entry).unwrap();
    }

    fn remove(&mut self, prefix: Prefix) {
        self.prefixes.remove(&prefix);
        let shorter = (0..prefix.len).rev();
        let cover =
            shorter.map(|len| (len, prefix.shortened(len))).find(|(_, cover)| self.prefixes.contains_key(cover));
        let (entry, len) = cover.map_or((Entry::NONE, 0), |(len, cover)| (self.prefixes[&cover], len));
        self.trie.remove(&mut self.memory, VIEW, prefix, entry, len).unwrap();
    }

    fn check(&self, addr: u32) {
        let found = lookup(&OnlyFib(&self.memory), VIEW, addr.to_be_bytes());
        assert_eq!(found, naive(&self.prefixes, addr), "at {}", std::net::Ipv4Addr::from(addr));
    }

    /// Every prefix's edges, inside and outside: where an expansion that is off by one shows.
    fn check_edges(&self, prefixes: impl IntoIterator<Item = Prefix>) {
        for prefix in prefixes {
            for addr in [prefix.addr, prefix.last(), prefix.addr.wrapping_sub(1), prefix.last().wrapping_add(1)] {
                self.check(addr);
            }
        }
    }
}

fn prefix(text: &str) -> Prefix {
    let (addr, len) = text.split_once('/').unwrap();
    Prefix::new(addr.parse::<std::net::Ipv4Addr>().unwrap().octets(), len.parse().unwrap())
}

#[test]
fn a_host_inside_a_subnet_inside_a_default_route() {
    let mut pair = Pair::default();
    pair.insert(prefix("0.0.0.0/0"), Entry::unicast(1));
    pair.insert(prefix("10.1.0.0/16"), Entry::unicast(2));
    pair.insert(prefix("10.1.2.0/23"), Entry::unicast(3));
    pair.insert(prefix("10.1.2.3/32"), Entry::LOCAL);
    pair.check_edges(pair.prefixes.keys().copied().collect::<Vec<_>>());
    for gone in ["10.1.2.0/23", "0.0.0.0/0", "10.1.2.3/32", "10.1.0.0/16"] {
        pair.remove(prefix(gone));
        pair.check_edges(["10.1.2.3/32", "10.1.2.0/23", "10.1.0.0/16"].map(prefix));
    }
    assert_eq!(pair.trie.nodes(), 0, "an empty trie holds no nodes");
}

#[test]
fn nodes_are_used_again() {
    let mut pair = Pair::default();
    for round in 0..3 {
        for host in 0..5000u32 {
            pair.insert(Prefix { addr: host << 8, len: 32 }, Entry::unicast(round));
        }
        let above = 5000_u32.div_ceil(256) + 1;
        assert_eq!(pair.trie.nodes(), 5000 + above, "a node a /24, and one a /16 and a /8 above them");
        for host in 0..5000u32 {
            pair.remove(Prefix { addr: host << 8, len: 32 });
        }
        assert_eq!(pair.trie.nodes(), 0);
    }
    assert!(pair.trie.used <= 5021, "freed nodes were not used again: {}", pair.trie.used);
}

#[test]
fn a_view_that_is_forgotten_leaves_the_others_and_gives_back_its_nodes() {
    let (mut trie, mut memory) = (Trie::default(), Fib::default());
    for view in [VIEW, VIEW + 1] {
        for host in ["10.1.2.3/32", "10.1.2.0/24", "10.9.0.0/16", "0.0.0.0/0"] {
            trie.insert(&mut memory, view, prefix(host), Entry::unicast(view)).unwrap();
        }
    }
    let nodes = trie.nodes();
    trie.forget(&mut memory, VIEW);
    assert_eq!(trie.nodes(), nodes / 2);
    for addr in [[10, 1, 2, 3], [10, 1, 2, 4], [10, 9, 9, 9], [8, 8, 8, 8]] {
        assert_eq!(lookup(&OnlyFib(&memory), VIEW, addr), Entry::NONE);
        assert_eq!(lookup(&OnlyFib(&memory), VIEW + 1, addr), Entry::unicast(VIEW + 1));
    }
    // A shorter prefix written now covers everything: no length is left behind.
    trie.insert(&mut memory, VIEW, prefix("0.0.0.0/0"), Entry::LOCAL).unwrap();
    assert_eq!(lookup(&OnlyFib(&memory), VIEW, [10, 1, 2, 3]), Entry::LOCAL);
}

#[test]
fn a_pool_at_its_end_is_an_error_that_says_so() {
    struct Full(Fib);
    impl Entries for Full {
        fn root(&self, view: u16, index: u32) -> Entry {
            self.0.root(view, index)
        }
        fn set_root(&mut self, view: u16, index: u32, entry: Entry) {
            self.0.set_root(view, index, entry);
        }
        fn node(&self, node: u32, index: u32) -> Entry {
            self.0.node(node, index)
        }
        fn set_node(&mut self, node: u32, index: u32, entry: Entry) {
            self.0.set_node(node, index, entry);
        }
        fn room(&self) -> u32 {
            0
        }
        fn grow(&mut self) -> anyhow::Result<()> {
            bail!("no memory")
        }
    }
    let error =
        Trie::default().insert(&mut Full(Fib::default()), VIEW, prefix("10.0.0.1/32"), Entry::LOCAL).unwrap_err();
    assert!(error.to_string().contains("no memory"));
}

#[derive(Clone, Debug)]
enum Operation {
    Insert(Prefix, Entry),
    Remove(usize),
}

/// Few distinct addresses, so that prefixes nest, share nodes and replace each other.
fn prefixes() -> impl Strategy<Value = Prefix> {
    let octet = prop_oneof![Just(0u8), Just(1), Just(127), Just(255), any::<u8>()];
    ([Just(10u8).boxed(), octet.clone().boxed(), octet.clone().boxed(), octet.boxed()], 0..=32u8)
        .prop_map(|(addr, len)| Prefix::new(addr, len))
}

fn steps() -> impl Strategy<Value = Vec<Operation>> {
    let leaf = prop_oneof![
        any::<u16>().prop_map(Entry::unicast),
        Just(Entry::LOCAL),
        Just(Entry::OPAQUE),
        Just(Entry::UNANSWERABLE)
    ];
    let step = prop_oneof![
        3 => (prefixes(), leaf).prop_map(|(prefix, leaf)| Operation::Insert(prefix, leaf)),
        2 => any::<usize>().prop_map(Operation::Remove),
    ];
    proptest::collection::vec(step, 1..120)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn random_tables_look_up_as_a_search_does(steps in steps(), addrs in proptest::collection::vec(any::<u32>(), 50)) {
        let mut pair = Pair::default();
        let mut seen = Vec::new();
        for step in steps {
            match step {
                Operation::Insert(prefix, leaf) => {
                    seen.push(prefix);
                    pair.insert(prefix, leaf);
                }
                Operation::Remove(which) if !pair.prefixes.is_empty() => {
                    let prefix = *pair.prefixes.keys().nth(which % pair.prefixes.len()).unwrap();
                    pair.remove(prefix);
                }
                Operation::Remove(_) => {}
            }
        }
        pair.check_edges(seen);
        for addr in addrs {
            pair.check(addr);
        }
        for prefix in pair.prefixes.keys().copied().collect::<Vec<_>>() {
            pair.remove(prefix);
        }
        prop_assert_eq!(pair.trie.nodes(), 0);
    }
}

#[test]
fn an_entry_that_no_version_wrote_is_opaque() {
    assert_eq!(Entry::from_raw(0x7000_0000).kind(), LeafKind::Opaque);
    assert_eq!(Entry::node(3).node_index(), Some(3));
}
