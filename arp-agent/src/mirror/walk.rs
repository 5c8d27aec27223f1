//! One packet's walk over the routing rules, as it is: for people who ask which rule and which route decided.
//!
//! Views say what becomes of every address; here it is one address, and the kernel's steps are taken as they come: a route
//! that the kernel skips, because its interface is down, is skipped here as well (`fib_table_lookup`, net/ipv4/fib_trie.c,
//! 6.18).

use super::outcome::refuses;
use super::routes::{TABLE_LOCAL, TABLE_MAIN};
use super::rules::{Action, Holds, Ingress, Lookup, TABLE_LOCAL_AND_MAIN};
use super::senders;
use super::snapshot::{IFF_UP, Snapshot};
use crate::event::{Link, LocalAndMain, Route, RouteKind, RoutingRule};
use crate::prefix::Prefix;
use nix::libc;
use std::net::Ipv4Addr;

/// Of the rule that looks up table main, while the rules are the default ones.
const MAIN_PRIORITY: u32 = 32766;
/// `LOOPBACK_IFINDEX` (include/net/net_namespace.h).
pub(crate) const LOOPBACK: u32 = 1;
const IFF_RUNNING: u32 = libc::IFF_RUNNING as u32;

/// Where a walk ends.
#[derive(Clone, Copy, Debug)]
pub enum End<'a> {
    /// At a route, in a table that this rule names.
    Route(&'a RoutingRule, &'a Route),
    /// At a rule that refuses, or at a route that does, in a table that the rule names.
    Refused(&'a RoutingRule, Option<&'a Route>),
    /// At a rule of which it is not known whether it applies, or what it does.
    Unknown(&'a RoutingRule),
    /// After the last rule.
    NoRoute,
}

/// What a table says of an address.
enum TableAnswer<'a> {
    /// Nothing that counts: the rules go on.
    Nothing,
    Route(&'a Route),
    Refused(&'a Route),
    Unknown,
}

impl Snapshot {
    /// The walk for a packet without a mark, from one address to another, that came in by the interface.
    pub fn walk(&self, ingress: u32, from: Ipv4Addr, to: Ipv4Addr) -> End<'_> {
        self.walk_by(ingress, ingress, from, to)
    }

    /// Source validation's walk (`__fib_validate_source`, net/ipv4/fib_frontend.c, 6.18): from the target to the sender, as
    /// a packet that came in by `oif`, which the route to the target leaves by; [`LOOPBACK`] for a local target. VRFs are
    /// those of the ingress interface, or else of `oif`.
    pub fn walk_back(&self, ingress: u32, oif: u32, target: Ipv4Addr, sender: Ipv4Addr) -> End<'_> {
        self.walk_by(oif, ingress, target, sender)
    }

    /// The route that a probe finds (`inet_addr_type_dev_table`, net/ipv4/fib_frontend.c, 6.18): in table local alone, or in
    /// the table of the VRF. The outer `None`: it is not known whether table local is apart from main, and it makes a
    /// difference.
    pub fn walk_probe(&self, ingress: u32, to: Ipv4Addr) -> Option<Option<&Route>> {
        let found = |table| match self.look_up_usable(&Lookup::all_of(table), to) {
            TableAnswer::Route(route) | TableAnswer::Refused(route) => Some(route),
            TableAnswer::Nothing | TableAnswer::Unknown => None,
        };
        let vrf = self.links.get(&ingress).and_then(|link| senders::vrf(self, link));
        match (vrf, self.local_and_main) {
            (Some((_, table)), _) => Some(found(table)),
            (None, Some(LocalAndMain::Split)) => Some(found(TABLE_LOCAL)),
            (None, Some(LocalAndMain::Merged)) => Some(found(TABLE_LOCAL_AND_MAIN)),
            (None, None) => {
                let (split, merged) = (found(TABLE_LOCAL), found(TABLE_LOCAL_AND_MAIN));
                let is_local = |route: Option<&Route>| route.is_some_and(|route| route.kind == RouteKind::Local);
                (is_local(split) == is_local(merged)).then_some(split)
            }
        }
    }

    fn walk_by(&self, iif: u32, ingress: u32, from: Ipv4Addr, to: Ipv4Addr) -> End<'_> {
        let vrf_of =
            |ifindex| self.links.get(ifindex).and_then(|link| own_vrf(link).or_else(|| senders::vrf(self, link)));
        let by = Ingress {
            name: self.links.get(&iif).map_or("lo", |link| &link.name),
            vrf: vrf_of(&ingress).or_else(|| vrf_of(&iif)),
            vrfs: self.links.values().any(|link| link.vrf_table.is_some()),
            may_be_marked: false,
        };
        let split = |is_merged| self.walk_rules(&by, from, to, is_merged);
        if !self.rules.are_default() {
            return split(false);
        }
        match self.local_and_main {
            Some(LocalAndMain::Split) => split(false),
            Some(LocalAndMain::Merged) => split(true),
            None => {
                let (one, other) = (split(false), split(true));
                let agree = match (one, other) {
                    (End::Route(_, here), End::Route(_, there)) => here == there,
                    (End::Refused(..), End::Refused(..)) | (End::NoRoute, End::NoRoute) => true,
                    _ => false,
                };
                let rule = self.rules.list().next();
                rule.filter(|_| !agree).map_or(other, End::Unknown)
            }
        }
    }

    fn walk_rules(&self, by: &Ingress<'_>, from: Ipv4Addr, to: Ipv4Addr, is_merged: bool) -> End<'_> {
        let prefix = Prefix::new(to.octets(), 32);
        let mut at = 0;
        while let Some((rule, condition, action)) = self.rules.step(at, by, from.into()) {
            at += 1;
            match condition.at(prefix) {
                Holds::No => continue,
                Holds::Perhaps => return End::Unknown(rule),
                Holds::Yes => {}
            }
            let lookup = match action {
                None => continue,
                Some(Action::Goto(rule)) => {
                    at = rule;
                    continue;
                }
                Some(Action::Refuse) => return End::Refused(rule, None),
                Some(Action::Fall(_) | Action::Unknown) => return End::Unknown(rule),
                Some(Action::Lookup(Lookup { table: TABLE_LOCAL, .. })) if is_merged => {
                    Lookup::all_of(TABLE_LOCAL_AND_MAIN)
                }
                // The lookup before was in main, too: after a throw route comes table default.
                Some(Action::Lookup(Lookup { table: TABLE_MAIN, .. })) if is_merged => continue,
                Some(Action::Lookup(lookup)) => lookup,
            };
            // The rule that names the table, also while two are one.
            let naming = |route: &Route| {
                let main = self.rules.list().find(|rule| rule.priority == MAIN_PRIORITY);
                main.filter(|_| is_merged && route.table == TABLE_MAIN).unwrap_or(rule)
            };
            match self.look_up_usable(&lookup, to) {
                TableAnswer::Nothing => {}
                TableAnswer::Refused(route) => return End::Refused(naming(route), Some(route)),
                TableAnswer::Unknown => return End::Unknown(rule),
                TableAnswer::Route(route) => return End::Route(naming(route), route),
            }
        }
        End::NoRoute
    }

    fn look_up_usable(&self, lookup: &Lookup, to: Ipv4Addr) -> TableAnswer<'_> {
        const BOTH: [u32; 2] = [TABLE_LOCAL, TABLE_MAIN];
        let tables = if lookup.table == TABLE_LOCAL_AND_MAIN { &BOTH[..] } else { std::slice::from_ref(&lookup.table) };
        for len in (0..=32).rev() {
            let prefix = Prefix::new(to.octets(), len);
            for route in tables.iter().flat_map(|&table| self.routes.at(table, prefix)) {
                match route.kind {
                    RouteKind::Throw => return TableAnswer::Nothing,
                    RouteKind::Other => return TableAnswer::Unknown,
                    _ if refuses(route) => return TableAnswer::Refused(route),
                    _ if !self.is_followed(route) => continue,
                    _ => {}
                }
                if lookup.suppress_prefixlen.is_some_and(|suppressed| len <= suppressed) {
                    return TableAnswer::Nothing;
                }
                let Some(group) = lookup.suppress_ifgroup else { return TableAnswer::Route(route) };
                return match route.legs().first().map(|first| self.links.get(first)) {
                    Some(Some(link)) if link.group == group => TableAnswer::Nothing,
                    Some(None) => TableAnswer::Unknown,
                    None if route.nexthop.is_some() => TableAnswer::Unknown,
                    _ => TableAnswer::Route(route),
                };
            }
        }
        TableAnswer::Nothing
    }

    /// Whether the kernel follows the route, or skips it because of its interfaces. Those of local routes do not matter.
    fn is_followed(&self, route: &Route) -> bool {
        let legs = route.legs();
        route.kind == RouteKind::Local || legs.is_empty() || legs.iter().any(|&leg| self.carries(leg))
    }

    /// Whether the kernel sends by a next hop on the interface (`fib_lookup_good_nhc`, net/ipv4/fib_trie.c, 6.18).
    pub fn carries(&self, ifindex: u32) -> bool {
        let Some(link) = self.links.get(&ifindex) else { return false };
        let ignores = |settings: crate::event::Settings| settings.ignore_routes_with_linkdown != 0;
        let ignores_linkdown =
            link.settings.is_some() && (self.all.is_some_and(ignores) || link.settings.is_some_and(ignores));
        let has_carrier = link.carrier && link.flags & IFF_RUNNING != 0;
        link.flags & IFF_UP != 0 && (has_carrier || !ignores_linkdown)
    }

    /// The name and the table of the VRF that an interface is a port of.
    pub fn vrf_of(&self, ifindex: u32) -> Option<(&str, u32)> {
        senders::vrf(self, self.links.get(&ifindex)?)
    }
}

/// A VRF's device is in the VRF, as its ports are (`l3mdev_master_ifindex_rcu`, net/l3mdev/l3mdev.c, 6.18).
fn own_vrf(link: &Link) -> Option<(&str, u32)> {
    Some((&link.name, link.vrf_table?))
}
