//! The oracle on a node with `v0` (pods), `v1` and `v2` (uplinks), against answers that kernels gave
//! (docs/kernel-arp/rows.md).

use lab::NeighbourState;

use super::*;
use crate::state::{DEFAULT, KernelRoute, KernelRule, Leg, RuleEffect};
use arp_common::ArpFrame;

const LO: u32 = 1;
const V0: u32 = 101;
const V1: u32 = 102;
const V2: u32 = 103;

const SENDER: [u8; 4] = [10, 5, 0, 5];
const OUTSIDE: [u8; 4] = [10, 20, 0, 1];
const OWN: [u8; 4] = [10, 9, 0, 1];

/// A pod at 10.5.0.5 behind `v0`, a default route by `v1`, whose address is 10.9.0.1/24; `proxy_arp` on `v0`.
fn node() -> NodeState {
    let mut state = NodeState::default();
    for (ifindex, name) in [(LO, "lo"), (V0, "v0"), (V1, "v1"), (V2, "v2")] {
        state.links.insert(ifindex, Interface { name: name.to_owned(), up: true, ..Interface::default() });
        state.set(name, "forwarding", 1);
    }
    state.set("v0", "proxy_arp", 1);
    state.links.get_mut(&V1).unwrap().addresses.push((OWN.into(), OWN.into(), 24));
    state.rules = vec![lookup(0, LOCAL), lookup(32766, MAIN), lookup(32767, DEFAULT)];
    route(&mut state, LOCAL, "10.9.0.1/32", RouteType::Local, &[V1]);
    route(&mut state, MAIN, "10.9.0.0/24", RouteType::Unicast, &[V1]);
    route(&mut state, MAIN, "10.5.0.5/32", RouteType::Unicast, &[V0]);
    route(&mut state, MAIN, "0.0.0.0/0", RouteType::Unicast, &[V1]);
    state
}

fn route(state: &mut NodeState, table: u32, prefix: &str, kind: RouteType, legs: &[u32]) {
    let (prefix, len) = prefix.split_once('/').unwrap();
    let legs = legs.iter().map(|&ifindex| Leg { ifindex, dead: false, linkdown: false }).collect();
    let (prefix, len) = (prefix.parse().unwrap(), len.parse().unwrap());
    state.routes.push(KernelRoute { table, prefix, len, tos: false, kind, legs, object: None });
}

fn lookup(priority: u32, table: u32) -> KernelRule {
    let action = RuleEffect::Lookup { table: Some(table), suppressed_len: None, suppressed_group: None };
    KernelRule { priority, inverted: false, from: None, to: None, iif: None, l3mdev: false, others: Some(true), action }
}

/// Adds a rule between those of local and main.
fn rule(state: &mut NodeState, rule: KernelRule) {
    let at = state.rules.iter().position(|other| other.priority > rule.priority).unwrap_or(state.rules.len());
    state.rules.insert(at, rule);
}

fn asked(state: &NodeState, ingress: u32, spa: [u8; 4], tpa: [u8; 4]) -> Expectation {
    let sha = [2, 0, 0, 0, 0, 9];
    let mut neighbours = Neighbours::default();
    let known = NeighbourState { state: libc::NUD_PERMANENT, lladdr: Some(Lladdr::new(sha)) };
    neighbours.entries.insert((ingress, spa.into()), known);
    let bytes = ArpFrame::request(sha, spa, tpa).to_bytes().to_vec();
    verdict(state, &neighbours, ingress, &Frame { port: 0, bytes })
}

#[test]
fn default_rules_answer_for_what_is_behind_another_interface() {
    let state = node();
    assert_eq!(asked(&state, V0, SENDER, OUTSIDE), Ok(()));
    assert_eq!(asked(&state, V0, SENDER, OWN), Ok(()));
    assert_eq!(asked(&state, V0, [0; 4], OWN), Ok(()));
    assert_eq!(asked(&state, V0, [0; 4], OUTSIDE), Err("probe, not local"));
    assert_eq!(asked(&state, V1, [10, 9, 0, 7], [10, 9, 0, 8]), Err("same interface, pvlan off"));
}

#[test]
fn suppressed_routes_are_no_answer_and_hide_shorter_ones() {
    let mut state = node();
    let action = RuleEffect::Lookup { table: Some(MAIN), suppressed_len: Some(16), suppressed_group: None };
    rule(&mut state, KernelRule { action, ..lookup(100, MAIN) });
    rule(&mut state, KernelRule { action: RuleEffect::End, ..lookup(101, 0) });
    assert_eq!(asked(&state, V0, SENDER, OUTSIDE), Err("route or rule that refuses"));
    // 10.20.1.0/24 is long enough.
    route(&mut state, MAIN, "10.20.1.0/24", RouteType::Unicast, &[V2]);
    assert_eq!(asked(&state, V0, SENDER, [10, 20, 1, 1]), Ok(()));
}

#[test]
fn throw_goes_on_and_an_error_ends() {
    let mut state = node();
    rule(&mut state, lookup(100, 100));
    route(&mut state, 100, "0.0.0.0/0", RouteType::Error, &[]);
    assert_eq!(asked(&state, V0, SENDER, OUTSIDE), Err("route or rule that refuses"));
    route(&mut state, 100, "10.20.0.0/16", RouteType::Throw, &[]);
    assert_eq!(asked(&state, V0, SENDER, OUTSIDE), Ok(()));
}

#[test]
fn not_inverts_from_and_to_as_well() {
    let mut state = node();
    let to = Some((OUTSIDE.into(), 32));
    rule(&mut state, KernelRule { to, inverted: true, action: RuleEffect::End, ..lookup(100, 0) });
    assert_eq!(asked(&state, V0, SENDER, OUTSIDE), Ok(()));
    assert_eq!(asked(&state, V0, SENDER, [10, 21, 0, 1]), Err("route or rule that refuses"));
}

#[test]
fn goto_leads_to_the_first_rule_of_a_priority() {
    let mut state = node();
    rule(&mut state, KernelRule { action: RuleEffect::Goto(200), ..lookup(100, 0) });
    rule(&mut state, KernelRule { action: RuleEffect::End, ..lookup(150, 0) });
    assert_eq!(asked(&state, V0, SENDER, OUTSIDE), Err("route or rule that refuses"), "K175");
    rule(&mut state, KernelRule { others: Some(false), ..lookup(200, MAIN) });
    assert_eq!(asked(&state, V0, SENDER, OUTSIDE), Ok(()), "K176");
}

/// K211 to K214: the way back for Z goes by a rule that names Z.
#[test]
fn the_way_back_is_validated_by_rp_filter() {
    let mut state = node();
    rule(&mut state, KernelRule { from: Some((OUTSIDE.into(), 32)), ..lookup(100, 100) });
    route(&mut state, 100, "0.0.0.0/0", RouteType::Unicast, &[V2]);
    let answers = |state: &NodeState| [OUTSIDE, [10, 20, 0, 2]].map(|target| asked(state, V0, SENDER, target).is_ok());
    assert_eq!(answers(&state), [true, true], "K211");
    state.set("v0", "rp_filter", 1);
    assert_eq!(answers(&state), [false, true], "K212");
    state.set("v0", "rp_filter", 2);
    assert_eq!(answers(&state), [false, true], "K213");
    let numbers = ([10, 66, 0, 1].into(), [10, 66, 0, 1].into(), 32);
    state.links.get_mut(&V0).unwrap().addresses.push(numbers);
    assert_eq!(answers(&state), [true, true], "K214");
    state.set("v0", "arp_filter", 1);
    assert_eq!(answers(&state), [false, true]);
}

/// K170: the way back to a target of the node's own comes in by `lo`, K171: and else by where it leaves.
#[test]
fn the_way_back_comes_in_by_the_outgoing_interface() {
    let mut state = node();
    state.set("v0", "rp_filter", 1);
    rule(&mut state, KernelRule { iif: Some(("lo".to_owned(), false)), ..lookup(100, 100) });
    route(&mut state, 100, "0.0.0.0/0", RouteType::Error, &[]);
    let answers = |state: &NodeState| [OUTSIDE, OWN].map(|target| asked(state, V0, SENDER, target).is_ok());
    assert_eq!(answers(&state), [true, false], "K170");
    state.rules[1].iif = Some(("v1".to_owned(), false));
    assert_eq!(answers(&state), [false, true], "K171");
    state.rules[1].iif = Some(("v1".to_owned(), true));
    assert_eq!(answers(&state), [true, true], "nobody has the name");
    state.rules[1].iif = Some(("x".to_owned(), false));
    assert_eq!(answers(&state), [false, false], "a name that is not known");
}

#[test]
fn several_next_hops_must_agree() {
    let mut state = node();
    route(&mut state, MAIN, "10.30.0.0/16", RouteType::Unicast, &[V1, V2]);
    assert_eq!(asked(&state, V0, SENDER, [10, 30, 0, 1]), Ok(()), "K230");
    for (name, medium) in [("v0", 1), ("v1", 2), ("v2", 3)] {
        state.set(name, "medium_id", medium);
    }
    assert!(asked(&state, V0, SENDER, [10, 30, 0, 1]).is_err(), "K231");
    let mut state = node();
    route(&mut state, MAIN, "10.31.0.0/16", RouteType::Unicast, &[V1, V0]);
    assert!(asked(&state, V0, SENDER, [10, 31, 0, 1]).is_err(), "K232");
}

#[test]
fn what_is_not_known_of_a_rule_matters_only_where_it_would_change_something() {
    let mut state = node();
    rule(
        &mut state,
        KernelRule { others: None, to: Some((OUTSIDE.into(), 32)), action: RuleEffect::End, ..lookup(100, 0) },
    );
    assert_eq!(asked(&state, V0, SENDER, OUTSIDE), Err("rule that is not known"));
    assert_eq!(asked(&state, V0, SENDER, [10, 20, 0, 2]), Ok(()));
    state.rules[1].action = RuleEffect::Nothing;
    assert_eq!(asked(&state, V0, SENDER, OUTSIDE), Ok(()));
}

/// K208, K209: table local is not what made it the node's.
#[test]
fn local_routes_of_other_tables_answer_requests_but_no_probes() {
    let mut state = node();
    rule(&mut state, lookup(100, 100));
    route(&mut state, 100, "10.99.0.1/32", RouteType::Local, &[LO]);
    assert_eq!(asked(&state, V0, SENDER, [10, 99, 0, 1]), Ok(()));
    assert_eq!(asked(&state, V0, [0; 4], [10, 99, 0, 1]), Err("probe, not local"));
    state.set("v0", "arp_filter", 1);
    assert_eq!(asked(&state, V0, SENDER, [10, 99, 0, 1]), Err("arp_filter, local in another table"));
    assert_eq!(asked(&state, V0, SENDER, OWN), Ok(()));
}

/// K272, K273, K282: a port of a VRF looks up its table, then main.
#[test]
fn ports_of_a_vrf_look_up_its_table() {
    let mut state = node();
    state.links.insert(9, Interface { name: "red".to_owned(), vrf_table: Some(10), ..Interface::default() });
    state.links.get_mut(&V0).unwrap().master = Some("red".to_owned());
    let action = RuleEffect::Lookup { table: None, suppressed_len: None, suppressed_group: None };
    rule(&mut state, KernelRule { l3mdev: true, action, ..lookup(1000, 0) });
    assert_eq!(asked(&state, V0, SENDER, OUTSIDE), Ok(()), "K271");
    assert_eq!(asked(&state, V0, SENDER, OWN), Ok(()), "K273");
    assert_eq!(asked(&state, V0, [0; 4], OWN), Err("probe, not local"), "K273");
    state.set("v0", "rp_filter", 1);
    assert_eq!(asked(&state, V0, SENDER, OUTSIDE), Ok(()), "K282");
    route(&mut state, 10, "0.0.0.0/0", RouteType::Error, &[]);
    assert!(asked(&state, V0, SENDER, OUTSIDE).is_err(), "K272");
    assert_eq!(asked(&state, V0, SENDER, OWN), Err("sender's route"), "K283");
}
