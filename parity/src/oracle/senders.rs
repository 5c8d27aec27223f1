//! Whether source validation accepts a sender: the reverse lookup, and what `rp_filter` makes of its end.
//!
//! Its keys are the target (which `from` may name) and the interface that the request would leave by (which `iif` may
//! name). The fast path knows two things of a sender: that it is accepted whatever these two are, and that it is
//! accepted where no rule names them. Whether a rule names them is known of the target.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use crate::state::{Interface, NodeState, RouteType};

use super::contains;
use super::lookup::{Flow, Known, LookupEnd, ends};

/// What the reverse lookup ends in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum ReverseOutcome {
    /// A unicast route by the ingress interface.
    Via,
    /// Another unicast route.
    Elsewhere,
    /// Nothing, or a refusal.
    Nothing,
    /// A route of another type.
    Bad,
}

/// Whether a request of `spa` that comes in on `ingress` for `tpa` passes; `legs` are the interfaces that it may be
/// forwarded by, none for one to the node itself.
pub(super) fn is_accepted(state: &NodeState, ingress: u32, spa: Ipv4Addr, tpa: Ipv4Addr, legs: &BTreeSet<u32>) -> bool {
    let vrf = state.vrf(ingress).and_then(|vrf| vrf.vrf_table);
    let any_vrf = state.links.values().any(|link| link.vrf_table.is_some());
    let always = Flow {
        to: spa,
        from: Known::Not,
        iif: Known::Not,
        vrf: if vrf.is_none() && any_vrf { Known::Not } else { Known::Is(vrf) },
    };
    let plain = Flow { from: Known::Unnamed, iif: Known::Unnamed, vrf: Known::Is(vrf), ..always };
    let accepted = |flow: &Flow| accepts(state, ingress, spa, &ends(state, flow));
    accepted(&always) || (!differs(state, ingress, tpa, legs) && accepted(&plain))
}

/// Whether some rule that may match on the way back names the target, or the way that it leaves by.
fn differs(state: &NodeState, ingress: u32, tpa: Ipv4Addr, legs: &BTreeSet<u32>) -> bool {
    let lo = BTreeSet::from([state.ifindex("lo")]);
    let legs = if legs.is_empty() { &lo } else { legs };
    let live = state.rules.iter().filter(|rule| rule.others != Some(false));
    let named = live.filter(|rule| !matches!(rule.iif, Some((_, true)))).any(|rule| {
        let by_from = rule.from.is_some_and(|(prefix, len)| contains(prefix, len, tpa));
        let by_iif = rule.iif.as_ref().is_some_and(|(name, _)| {
            let ifindex = state.ifindex(name);
            ifindex == 0
                || legs.iter().any(|&leg| leg == ifindex || state.vrf(leg).is_some_and(|vrf| vrf.name == *name))
        });
        by_from || by_iif
    });
    named || (state.vrf(ingress).is_none() && legs.iter().any(|&leg| state.vrf(leg).is_some()))
}

/// Whether each of these ends is accepted.
fn accepts(state: &NodeState, ingress: u32, spa: Ipv4Addr, ends: &BTreeSet<LookupEnd>) -> bool {
    if state.default_rules && state.is_own(spa) {
        return false;
    }
    let Some(link) = state.links.get(&ingress) else { return false };
    let outcomes: BTreeSet<ReverseOutcome> = ends.iter().flat_map(|end| outcomes(state, ingress, link, end)).collect();
    let allowed: &[ReverseOutcome] = match effective(state, link, "rp_filter") {
        // The answer of `arp_filter` rests on one route that leads back.
        _ if effective(state, link, "arp_filter") != 0 => &[ReverseOutcome::Via],
        0 => &[ReverseOutcome::Via, ReverseOutcome::Elsewhere, ReverseOutcome::Nothing],
        2 if !link.addresses.is_empty() => &[ReverseOutcome::Via, ReverseOutcome::Elsewhere],
        _ => &[ReverseOutcome::Via],
    };
    outcomes.iter().all(|outcome| allowed.contains(outcome))
}

fn outcomes(state: &NodeState, ingress: u32, link: &Interface, end: &LookupEnd) -> Vec<ReverseOutcome> {
    let at = match end {
        LookupEnd::Nothing | LookupEnd::Refusal => return vec![ReverseOutcome::Nothing],
        LookupEnd::Unknown => {
            return vec![ReverseOutcome::Via, ReverseOutcome::Elsewhere, ReverseOutcome::Nothing, ReverseOutcome::Bad];
        }
        LookupEnd::Route(at) => *at,
    };
    let route = &state.routes[at];
    let legs = route.interfaces();
    let strict = effective(state, link, "arp_filter") != 0;
    vec![match route.kind {
        RouteType::Unicast if strict && (legs.len() > 1 || route.len == 0) => ReverseOutcome::Elsewhere,
        RouteType::Unicast if legs.contains(&ingress) => ReverseOutcome::Via,
        RouteType::Unicast => ReverseOutcome::Elsewhere,
        _ => ReverseOutcome::Bad,
    }]
}

/// The larger one of a setting's values.
pub(super) fn effective(state: &NodeState, link: &Interface, key: &'static str) -> i64 {
    state.setting("all", key).max(state.setting(&link.name, key))
}
