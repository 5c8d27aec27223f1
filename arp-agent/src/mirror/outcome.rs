//! What becomes of the targets of a prefix, by the steps that the routing rules come down to.

use super::routes::{TABLE_LOCAL, TABLE_MAIN};
use super::rules::{Action, Holds, Lookup, LookupStep, TABLE_LOCAL_AND_MAIN};
use super::slots::Legs;
use super::snapshot::Snapshot;
use crate::event::{Route, RouteKind};
use crate::prefix::Prefix;

/// The routing tables, as they are looked up.
pub(super) trait RoutingTables<'a> {
    /// The state that they are part of.
    fn snapshot(&self) -> &'a Snapshot;

    /// What the table says of the addresses that are in `prefix` and in no longer one.
    fn best(&self, table: u32, prefix: Prefix) -> Option<&'a Route>;
}

impl<'a> RoutingTables<'a> for &'a Snapshot {
    fn snapshot(&self) -> &'a Snapshot {
        self
    }

    fn best(&self, table: u32, prefix: Prefix) -> Option<&'a Route> {
        self.routes.table(table)?.best(prefix)
    }
}

/// What becomes of the targets of a prefix.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Outcome {
    NoRoute,
    Local {
        elsewhere: bool,
    },
    Unicast(Legs),
    Unanswerable,
    Opaque,
    OpaqueRule,
    /// Another view says.
    Fall(u16),
}

/// What a lookup in a table comes to.
pub(super) enum TableOutcome<'a> {
    /// Nothing that counts: the rules go on.
    Nothing,
    /// A route of a type that is a destination.
    Route(&'a Route),
    /// The end: a route that says so.
    Refused,
    /// Nobody knows whether it counts.
    Unknown,
}

/// Looks up in a table the addresses that are in `prefix`, and in no longer one of the table's prefixes (`fib_table_lookup`,
/// net/ipv4/fib_trie.c, and `fib4_rule_suppress`, net/ipv4/fib_rules.c, 6.18).
pub(super) fn look_up<'a>(tables: &impl RoutingTables<'a>, lookup: &Lookup, prefix: Prefix) -> TableOutcome<'a> {
    let snapshot = tables.snapshot();
    let best = |table| tables.best(table, prefix);
    let found = if lookup.table == TABLE_LOCAL_AND_MAIN {
        // Of equally long ones that of table local.
        let (local, main) = (best(TABLE_LOCAL), best(TABLE_MAIN));
        let local_is_longer = local.map(|route| route.prefix.len) >= main.map(|route| route.prefix.len);
        if local_is_longer { local } else { main }
    } else {
        best(lookup.table)
    };
    let Some(route) = found else { return TableOutcome::Nothing };
    match route.kind {
        RouteKind::Throw => return TableOutcome::Nothing,
        _ if refuses(route) => return TableOutcome::Refused,
        RouteKind::Other => return TableOutcome::Unknown,
        _ => {}
    }
    // If the kernel skips the route, because its interface goes down, it looks at these instead.
    let shorter = (0..route.prefix.len).flat_map(|len| snapshot.routes.at(route.table, route.prefix.shortened(len)));
    let mut others = snapshot.routes.at(route.table, route.prefix).iter().skip(1).chain(shorter);
    if lookup.suppress_prefixlen.is_some_and(|len| route.prefix.len <= len) {
        // They are not longer; but a route that refuses counts, whatever its prefix.
        return if others.any(refuses) { TableOutcome::Unknown } else { TableOutcome::Nothing };
    }
    let Some(group) = lookup.suppress_ifgroup else { return TableOutcome::Route(route) };
    match route.legs().first().map(|first| snapshot.links.get(first)) {
        Some(Some(link)) if link.group != group => TableOutcome::Route(route),
        Some(Some(_)) if others.next().is_none() => TableOutcome::Nothing,
        None if route.nexthop.is_none() => TableOutcome::Route(route),
        _ => TableOutcome::Unknown,
    }
}

/// Whether a route of this type ends the lookup without a destination.
pub(super) fn refuses(route: &Route) -> bool {
    matches!(route.kind, RouteKind::Blackhole | RouteKind::Unreachable | RouteKind::Prohibit)
}

/// What becomes of the addresses in `prefix` that no longer prefix of the steps covers.
pub(super) fn outcome<'a>(tables: &impl RoutingTables<'a>, steps: &[LookupStep], prefix: Prefix) -> Outcome {
    let mut at = 0;
    while let Some(step) = steps.get(at) {
        at += 1;
        match step.condition.at(prefix) {
            Holds::No => {}
            Holds::Perhaps => return outcome_backwards(tables, steps, prefix),
            Holds::Yes => match act(tables, step, prefix) {
                Act::GoOn => {}
                Act::Goto(step) => at = step,
                Act::End(outcome) => return outcome,
            },
        }
    }
    Outcome::NoRoute
}

/// The same where a step may or may not apply: each step's outcome out of those behind it.
fn outcome_backwards<'a>(tables: &impl RoutingTables<'a>, steps: &[LookupStep], prefix: Prefix) -> Outcome {
    let mut outcomes = vec![Outcome::NoRoute; steps.len() + 1];
    for (at, step) in steps.iter().enumerate().rev() {
        let otherwise = outcomes[at + 1].clone();
        let applied = || match act(tables, step, prefix) {
            Act::GoOn => otherwise.clone(),
            Act::Goto(step) => outcomes[step].clone(),
            Act::End(outcome) => outcome,
        };
        outcomes[at] = match step.condition.at(prefix) {
            Holds::No => otherwise,
            Holds::Yes => applied(),
            Holds::Perhaps if applied() == otherwise => otherwise,
            Holds::Perhaps => Outcome::OpaqueRule,
        };
    }
    outcomes.swap_remove(0)
}

enum Act {
    GoOn,
    Goto(usize),
    End(Outcome),
}

fn act<'a>(tables: &impl RoutingTables<'a>, step: &LookupStep, prefix: Prefix) -> Act {
    let lookup = match &step.action {
        Action::Lookup(lookup) => lookup,
        Action::Goto(step) => return Act::Goto(*step),
        Action::Refuse => return Act::End(Outcome::Unanswerable),
        Action::Fall(view) => return Act::End(Outcome::Fall(*view)),
        Action::Unknown => return Act::End(Outcome::OpaqueRule),
    };
    match look_up(tables, lookup, prefix) {
        TableOutcome::Nothing => Act::GoOn,
        TableOutcome::Refused => Act::End(Outcome::Unanswerable),
        TableOutcome::Unknown => Act::End(Outcome::Opaque),
        TableOutcome::Route(route) if lookup.type_alone && route.kind == RouteKind::Local => {
            Act::End(Outcome::Local { elsewhere: false })
        }
        TableOutcome::Route(route) => Act::End(destination(tables.snapshot(), route)),
    }
}

fn destination(snapshot: &Snapshot, route: &Route) -> Outcome {
    let opaque = snapshot.routes.objects.may_be_shared(route)
        || route.nexthop.is_some_and(|id| snapshot.resilient.contains(&id.get()));
    match route.kind {
        RouteKind::Local | RouteKind::Unicast if opaque => Outcome::Opaque,
        RouteKind::Local => Outcome::Local { elsewhere: route.table != TABLE_LOCAL && !is_in_vrf(snapshot, route) },
        RouteKind::Unicast => Legs::of(route).map_or(Outcome::Opaque, Outcome::Unicast),
        _ => Outcome::Unanswerable,
    }
}

/// Whether a local route is that of an address in a VRF.
fn is_in_vrf(snapshot: &Snapshot, route: &Route) -> bool {
    let is_address = route.prefix.len == 32 && snapshot.is_configured(route.prefix.addr);
    is_address && snapshot.links.values().any(|link| link.vrf_table == Some(route.table))
}
