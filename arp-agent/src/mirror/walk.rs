//! One packet's walk over the routing rules, as it is: for people who ask which rule and which route decided.

use super::rules::{Action, Holds, Lookup, TABLE_LOCAL_AND_MAIN};
use super::senders;
use super::snapshot::{Snapshot, TABLE_LOCAL, TABLE_MAIN};
use super::views::{Found, look_up};
use crate::event::{LocalAndMain, Route, RoutingRule};
use crate::prefix::Prefix;
use std::net::Ipv4Addr;

/// Of the rule that looks up table main, while the rules are the default ones.
const MAIN_PRIORITY: u32 = 32766;

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

impl Snapshot {
    /// The walk for a packet from one address to another that came in by the interface.
    pub fn walk(&self, ingress: u32, from: Ipv4Addr, to: Ipv4Addr) -> End<'_> {
        let Some(link) = self.links.get(&ingress) else { return End::NoRoute };
        let to = Prefix::new(to.octets(), 32);
        let ingress = senders::ingress(self, link);
        let is_merged = self.rules.are_default() && self.local_and_main != Some(LocalAndMain::Split);
        let mut at = 0;
        while let Some((rule, condition, action)) = self.rules.step(at, &ingress, from.into()) {
            at += 1;
            match condition.at(to) {
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
                Some(Action::Lookup(lookup)) => lookup,
            };
            // The rule that names the table, also while two are one.
            let naming = |route: &Route| {
                let main = self.rules.list().find(|rule| rule.priority == MAIN_PRIORITY);
                main.filter(|_| is_merged && route.table == TABLE_MAIN).unwrap_or(rule)
            };
            match look_up(self, &lookup, to) {
                Found::Nothing => {}
                Found::Refused(route) => return End::Refused(naming(route), Some(route)),
                Found::Unknown => return End::Unknown(rule),
                Found::Route(route) => return End::Route(naming(route), route),
            }
        }
        End::NoRoute
    }
}
