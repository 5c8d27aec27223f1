//! Routes and nexthop objects, as `ip` prints them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use serde_json::Value;

use super::{DEFAULT, LOCAL, MAIN, has_flag, text};

/// A route of any table.
#[derive(Debug)]
pub(crate) struct KernelRoute {
    pub(crate) table: u32,
    pub(crate) prefix: Ipv4Addr,
    pub(crate) len: u8,
    /// For packets with a type of service only, which ARP has not.
    pub(crate) tos: bool,
    pub(crate) kind: RouteType,
    pub(crate) legs: Vec<Leg>,
    /// The nexthop object or group that it uses.
    pub(crate) object: Option<u64>,
}

/// The types of routes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum RouteType {
    Unicast,
    Local,
    Throw,
    /// Unreachable, blackhole, prohibit.
    Error,
    Broadcast,
    /// Anycast, multicast, and whatever else there may be.
    Other,
}

/// One of the ways that a route leads.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Leg {
    /// The interface; 0 if there is none.
    pub(crate) ifindex: u32,
    pub(crate) dead: bool,
    /// Without a carrier.
    pub(crate) linkdown: bool,
}

impl KernelRoute {
    /// From a row of `ip -4 -j route show table all`.
    pub(super) fn of(row: &Value, ifindex: impl Fn(&str) -> u32) -> Option<Self> {
        let destination = text(row, "dst");
        let (prefix, len) = match destination.split_once('/') {
            _ if destination == "default" => (Ipv4Addr::UNSPECIFIED, 0),
            Some((prefix, len)) => (prefix.parse().ok()?, len.parse().ok()?),
            None => (destination.parse().ok()?, 32),
        };
        let kind = match row["type"].as_str() {
            None | Some("unicast") => RouteType::Unicast,
            Some("local") => RouteType::Local,
            Some("throw") => RouteType::Throw,
            Some("unreachable" | "blackhole" | "prohibit") => RouteType::Error,
            Some("broadcast") => RouteType::Broadcast,
            Some(_) => RouteType::Other,
        };
        let leg = |row: &Value| Leg {
            ifindex: ifindex(&text(row, "dev")),
            dead: has_flag(row, "dead"),
            linkdown: has_flag(row, "linkdown"),
        };
        let legs = row["nexthops"].as_array().map_or_else(|| vec![leg(row)], |legs| legs.iter().map(leg).collect());
        let (table, tos) = (number_of_table(row["table"].as_str()), !row["tos"].is_null());
        Some(KernelRoute { table, prefix, len, tos, kind, legs, object: row["nhid"].as_u64() })
    }

    /// The interfaces that it leads to.
    pub(crate) fn interfaces(&self) -> BTreeSet<u32> {
        self.legs.iter().map(|leg| leg.ifindex).collect()
    }
}

/// A table by what `ip` calls it.
pub(super) fn number_of_table(name: Option<&str>) -> u32 {
    match name {
        None | Some("main") => MAIN,
        Some("local") => LOCAL,
        Some("default") => DEFAULT,
        Some(number) => number.parse().unwrap_or_default(),
    }
}

/// The objects whose routes may be answered in more than one way: resilient groups, whose buckets show that a packet
/// came by, and those that are shared by routes of different types, of which the first decides for all. `rows` are those
/// of `ip -j nexthop`.
pub(super) fn opaque_objects(rows: &[Value], routes: &[KernelRoute]) -> BTreeSet<u64> {
    let mut groups: BTreeMap<u64, BTreeSet<u64>> = BTreeMap::new();
    let mut opaque = BTreeSet::new();
    for row in rows {
        let Some(id) = row["id"].as_u64() else { continue };
        let members = row["group"].as_array().into_iter().flatten().filter_map(|member| member["id"].as_u64());
        let members: BTreeSet<u64> = members.collect();
        if row["type"] == "resilient" {
            opaque.insert(id);
        }
        groups.insert(id, if members.is_empty() { BTreeSet::from([id]) } else { members });
    }
    let mut kinds: BTreeMap<u64, BTreeSet<RouteType>> = BTreeMap::new();
    for route in routes {
        let members = route.object.and_then(|id| groups.get(&id)).into_iter().flatten();
        members.for_each(|&member| kinds.entry(member).or_default().extend([route.kind]));
    }
    let is_shared = |member: &u64| kinds.get(member).is_some_and(|kinds| kinds.len() > 1);
    opaque.extend(groups.iter().filter(|(_, members)| members.iter().any(is_shared)).map(|(&id, _)| id));
    opaque
}
