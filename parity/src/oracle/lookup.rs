//! Routing lookups, walked rule by rule and prefix by prefix for one pair of addresses. What is not known of a lookup
//! gives several ends.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use crate::state::{DEFAULT, KernelRule, LOCAL, Leg, MAIN, NodeState, RouteType, RuleEffect};

use super::contains;

/// Where a lookup ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum LookupEnd {
    /// Behind the last rule.
    Nothing,
    /// At a rule or a route that refuses.
    Refusal,
    /// At something that is not known here.
    Unknown,
    /// At this one of the state's routes.
    Route(usize),
}

/// What is known of a selector's side of a lookup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Known<T> {
    Is(T),
    /// Nothing.
    Not,
    /// That no rule names it.
    Unnamed,
}

/// A lookup.
#[derive(Clone, Copy, Debug)]
pub(super) struct Flow {
    pub(super) to: Ipv4Addr,
    pub(super) from: Known<Ipv4Addr>,
    pub(super) iif: Known<u32>,
    /// The table of the VRF that it is made in, or that it is made in none.
    pub(super) vrf: Known<Option<u32>>,
}

/// All ends that the lookup may have.
pub(super) fn ends(state: &NodeState, flow: &Flow) -> BTreeSet<LookupEnd> {
    if state.merged {
        let end = search(state, &[LOCAL, MAIN], flow.to).or_else(|| search(state, &[DEFAULT], flow.to));
        return BTreeSet::from([end.unwrap_or(LookupEnd::Nothing)]);
    }
    // From the last rule to the first, so that what a `goto` leads to is known.
    let mut from: Vec<BTreeSet<LookupEnd>> = vec![BTreeSet::from([LookupEnd::Nothing])];
    let count = state.rules.len();
    for (at, rule) in state.rules.iter().enumerate().rev() {
        let next = &from[count - at - 1];
        let ends = match matches(state, rule, flow) {
            Some(false) => next.clone(),
            certain => {
                let mut ends = match rule.action {
                    RuleEffect::Nothing => next.clone(),
                    RuleEffect::End => BTreeSet::from([LookupEnd::Refusal]),
                    RuleEffect::Goto(priority) => {
                        match state.rules.iter().position(|rule| rule.priority == priority).filter(|&to| to > at) {
                            Some(to) => from[count - to].clone(),
                            None => next.clone(),
                        }
                    }
                    RuleEffect::Lookup { .. } => match in_table(state, rule, flow) {
                        Some(end) => BTreeSet::from([end]),
                        None => next.clone(),
                    },
                };
                if certain.is_none() {
                    ends.extend(next);
                }
                ends
            }
        };
        from.push(ends);
    }
    from.pop().unwrap_or_default()
}

/// Whether a rule matches; `None` if that is not known.
fn matches(state: &NodeState, rule: &KernelRule, flow: &Flow) -> Option<bool> {
    let from = rule.from.map_or(Some(true), |(prefix, len)| match flow.from {
        Known::Is(from) => Some(contains(prefix, len, from)),
        Known::Not => None,
        Known::Unnamed => Some(false),
    });
    let to = rule.to.is_none_or(|(prefix, len)| contains(prefix, len, flow.to));
    let iif = rule.iif.as_ref().map_or(Some(true), |(name, detached)| iif(state, name, *detached, flow.iif));
    let l3mdev = match flow.vrf {
        _ if !rule.l3mdev => Some(true),
        Known::Is(vrf) => Some(vrf.is_some()),
        Known::Not => None,
        Known::Unnamed => Some(false),
    };
    let parts = [from, Some(to), iif, l3mdev, rule.others];
    let all = if parts.contains(&Some(false)) {
        Some(false)
    } else if parts.contains(&None) {
        None
    } else {
        Some(true)
    };
    all.map(|all| all != rule.inverted)
}

/// Whether a rule's interface is that of the lookup.
fn iif(state: &NodeState, name: &str, detached: bool, iif: Known<u32>) -> Option<bool> {
    if detached {
        return Some(false);
    }
    match (state.ifindex(name), iif) {
        // An alternative name: of whom it was one when the rule was made is not told.
        (0, _) | (_, Known::Not) => None,
        (_, Known::Unnamed) => Some(false),
        (named, Known::Is(iif)) if named == iif => Some(true),
        // Since 6.15 a rule for a VRF sees what comes in by its ports.
        (_, Known::Is(iif)) if state.vrf(iif).is_some_and(|vrf| vrf.name == name) => None,
        _ => Some(false),
    }
}

/// What the table of a rule says of an address, unless the rule suppresses it: `None` if the next rule is asked.
fn in_table(state: &NodeState, rule: &KernelRule, flow: &Flow) -> Option<LookupEnd> {
    let RuleEffect::Lookup { table, suppressed_len, suppressed_group } = rule.action else {
        return Some(LookupEnd::Unknown);
    };
    let table = match (table, flow.vrf) {
        (Some(table), _) => table,
        (None, Known::Is(Some(table))) if !rule.inverted => table,
        // `not l3mdev` looks up another table than it says.
        _ => return Some(LookupEnd::Unknown),
    };
    let end = search(state, &[table], flow.to)?;
    if let LookupEnd::Route(at) = end {
        let route = &state.routes[at];
        let by_group = |group| {
            let link = route.legs.first().and_then(|leg| state.links.get(&leg.ifindex));
            link.is_some_and(|link| link.group == group)
        };
        if suppressed_len.is_some_and(|len| route.len <= len) {
            return None;
        }
        if suppressed_group.is_some_and(by_group) {
            // While its interface is going down the kernel may look at another route instead, which is not suppressed.
            let others = state.routes.iter().filter(|other| other.table == table && !other.tos);
            let is_alone =
                others.filter(|other| other.len <= route.len && contains(other.prefix, other.len, flow.to)).count()
                    == 1;
            return if is_alone { None } else { Some(LookupEnd::Unknown) };
        }
    }
    Some(end)
}

/// The route of the longest prefix in tables that are searched as one; those of the first table come first. `None` if
/// there is none, or one that says `throw`.
pub(super) fn search(state: &NodeState, tables: &[u32], addr: Ipv4Addr) -> Option<LookupEnd> {
    for len in (0..=32).rev() {
        for &table in tables {
            let of_prefix = state.routes.iter().enumerate().filter(|(_, route)| {
                route.table == table && route.len == len && !route.tos && contains(route.prefix, len, addr)
            });
            for (at, route) in of_prefix {
                match route.kind {
                    RouteType::Throw => return None,
                    RouteType::Error => return Some(LookupEnd::Refusal),
                    _ if route.legs.iter().any(|leg| is_usable(state, leg)) => return Some(LookupEnd::Route(at)),
                    // The others of this prefix are not asked.
                    _ if route.object.is_some() => break,
                    _ => {}
                }
            }
        }
    }
    None
}

fn is_usable(state: &NodeState, leg: &Leg) -> bool {
    let ignored = || {
        let scopes = ["all", state.links.get(&leg.ifindex).map_or("", |link| &link.name)];
        scopes.iter().any(|scope| state.setting(scope, "ignore_routes_with_linkdown") != 0)
    };
    let skipped = leg.linkdown && state.does_ipv4(leg.ifindex) && ignored();
    !(leg.dead || skipped)
}
