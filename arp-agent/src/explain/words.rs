//! What the kernel's state is called: links, routes and rules, nearly as `ip` prints them.

use crate::event::{Link, NeighbourEntry, Route, RouteKind, RoutingRule, RuleAction};
use crate::mirror::routes::{TABLE_DEFAULT, TABLE_LOCAL, TABLE_MAIN};
use crate::mirror::snapshot::Snapshot;
use crate::prefix::Prefix;
use arp_common::Lladdr;
use std::net::Ipv4Addr;

pub(super) fn join<T: ToString>(things: impl IntoIterator<Item = T>) -> String {
    things.into_iter().map(|thing| thing.to_string()).collect::<Vec<_>>().join(", ")
}

pub(super) fn describe_link(snapshot: &Snapshot, link: &Link) -> String {
    let mut words = vec![
        if link.flags & 1 != 0 { "up".to_owned() } else { "down".to_owned() },
        if link.carrier { "carrier".into() } else { "no carrier".into() },
    ];
    words.extend(link.mac.map(|mac| Lladdr::new(mac).to_string()));
    words.extend(link.kind.clone());
    words.extend(link.master.map(|master| format!("port of {}", interface(snapshot, master))));
    words.join(", ")
}

pub(super) fn describe_neighbour(entry: &NeighbourEntry) -> String {
    let states = [
        (0x01, "INCOMPLETE"),
        (0x02, "REACHABLE"),
        (0x04, "STALE"),
        (0x08, "DELAY"),
        (0x10, "PROBE"),
        (0x20, "FAILED"),
        (0x40, "NOARP"),
        (0x80, "PERMANENT"),
    ];
    let state = states.into_iter().find(|(bit, _)| entry.state & bit != 0).map_or("NONE", |(_, name)| name);
    match entry.lladdr {
        Some(lladdr) => format!("lladdr {} {state}", Lladdr::new(lladdr)),
        None => state.to_owned(),
    }
}

/// As `ip route` prints it, nearly.
pub(super) fn describe_route(snapshot: &Snapshot, route: &Route) -> String {
    let kind = match route.kind {
        RouteKind::Unicast => "",
        RouteKind::Local => "local ",
        RouteKind::Broadcast => "broadcast ",
        RouteKind::Anycast => "anycast ",
        RouteKind::Multicast => "multicast ",
        RouteKind::Blackhole => "blackhole ",
        RouteKind::Unreachable => "unreachable ",
        RouteKind::Prohibit => "prohibit ",
        RouteKind::Throw => "throw ",
        RouteKind::Other => "(other type) ",
    };
    let to = match route.prefix {
        Prefix { len: 0, .. } => "default".to_owned(),
        Prefix { addr, len: 32 } => Ipv4Addr::from(addr).to_string(),
        Prefix { addr, len } => format!("{}/{len}", Ipv4Addr::from(addr)),
    };
    let mut text = format!("{kind}{to}");
    let mut word = |name: &str, value: Option<String>| {
        if let Some(value) = value {
            text += &format!(" {name} {value}");
        }
    };
    word("nhid", route.nexthop.map(|id| id.to_string()));
    word("via", route.gateway.map(|gateway| gateway.to_string()));
    word("dev", route.oif.map(|oif| interface(snapshot, oif)));
    word("metric", Some(route.metric).filter(|&metric| metric != 0).map(|metric| metric.to_string()));
    if route.table != TABLE_MAIN {
        text += &format!(" table {}", table_name(route.table));
    }
    // `ip route` would print each gateway, and the encapsulation; they are not kept.
    for &hop in &route.hops {
        text += &format!(" nexthop dev {}", interface(snapshot, hop));
    }
    // With net.ipv4.nexthop_compat_mode 0 the kernel tells the object's number alone.
    if route.nexthop.is_some() && route.legs().is_empty() {
        text += " (a nexthop object)";
    }
    if route.encap {
        text += " (encapsulated)";
    }
    text
}

/// What refuses: a route, or the rule itself.
pub(super) fn refusing(snapshot: &Snapshot, route: Option<&Route>) -> String {
    route.map_or_else(|| "none: the rule refuses".to_owned(), |route| describe_route(snapshot, route))
}

pub(super) fn table_name(table: u32) -> String {
    match table {
        TABLE_LOCAL => "local".to_owned(),
        TABLE_MAIN => "main".to_owned(),
        TABLE_DEFAULT => "default".to_owned(),
        other => other.to_string(),
    }
}

/// As `ip rule` prints it, nearly.
pub(super) fn describe_rule(rule: &RoutingRule) -> String {
    let prefix = |prefix: Prefix| match prefix.len {
        32 => Ipv4Addr::from(prefix.addr).to_string(),
        len => format!("{}/{len}", Ipv4Addr::from(prefix.addr)),
    };
    let not = if rule.inverted { "not " } else { "" };
    let mut text = format!("{}: {not}from {}", rule.priority, rule.from.map_or_else(|| "all".to_owned(), prefix));
    let mut word = |name: &str, value: Option<String>| {
        if let Some(value) = value {
            text += &format!(" {name} {value}");
        }
    };
    word("to", rule.to.map(prefix));
    word("iif", rule.iif.clone());
    word("fwmark", rule.mark.map(|(mark, mask)| format!("{mark:#x}/{mask:#x}")));
    word("uidrange", rule.users.map(|(first, last)| format!("{first}-{last}")));
    for selector in &rule.never {
        word("", Some(selector.clone()).map(|selector| selector.trim().to_owned()));
    }
    if rule.unknown {
        word("and", Some("what this version does not know".to_owned()));
    }
    match &rule.action {
        RuleAction::Lookup { .. } if rule.l3mdev => word("lookup", Some("[l3mdev-table]".to_owned())),
        RuleAction::Lookup { table, suppress_prefixlen, suppress_ifgroup } => {
            word("lookup", Some(table_name(*table)));
            word("suppress_prefixlength", suppress_prefixlen.map(|len| len.to_string()));
            word("suppress_ifgroup", suppress_ifgroup.map(|group| group.to_string()));
        }
        RuleAction::Goto(to) => word("goto", Some(to.to_string())),
        RuleAction::Nop => word("nop", Some(String::new())),
        RuleAction::Refuse(action) => {
            let name = match *action {
                6 => "blackhole".to_owned(),
                7 => "unreachable".to_owned(),
                8 => "prohibit".to_owned(),
                other => format!("action {other}"),
            };
            word(&name, Some(String::new()));
        }
    }
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

pub(super) fn interface(snapshot: &Snapshot, ifindex: u32) -> String {
    snapshot.links.get(&ifindex).map_or_else(|| format!("if{ifindex}"), |link| link.name.clone())
}

/// An interface's name as sysctl(8) takes it in a dotted name: there a dot inside the name is written as a slash.
pub(super) fn sysctl_name(interface: &str) -> String {
    interface.replace('.', "/")
}
