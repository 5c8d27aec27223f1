//! Routes in tables that only rules lead to.

use crate::plan::Plan;

pub(super) fn route(plan: &mut Plan) {
    let table = *plan.rng.weighted(&[(4, "100"), (3, "101"), (2, "102"), (2, "default"), (1, "local"), (1, "main")]);
    route_in(plan, table);
}

/// A route of any type in a table: often one that leads everything somewhere, or one that concerns a sender.
pub(super) fn route_in(plan: &mut Plan, table: &str) {
    let prefix = match plan.rng.below(10) {
        0..4 if table != "local" => (std::net::Ipv4Addr::UNSPECIFIED, 0),
        4..6 if !plan.senders.is_empty() => (plan.rng.pick(&plan.senders).ip, *plan.rng.pick(&[32, 32, 24, 16])),
        _ => plan.some_prefix(),
    };
    let (port, other) = (plan.port(), plan.port());
    let (name, kind, rest) = match plan.rng.below(100) {
        0..45 => ("table unicast", "", format!("dev v{port}")),
        45..52 => ("table gateway", "", format!("via 10.9.0.254 dev v{port} onlink")),
        52..62 => ("table unreachable", "unreachable", String::new()),
        62..65 => ("table blackhole", "blackhole", String::new()),
        65..67 => ("table prohibit", "prohibit", String::new()),
        67..77 => ("table throw", "throw", String::new()),
        77..83 => ("table local", "local", "dev lo".to_owned()),
        83..87 => ("table broadcast", *plan.rng.pick(&["broadcast", "multicast", "anycast"]), format!("dev v{port}")),
        87..94 => ("table multipath", "", format!("nexthop dev v{port} nexthop dev v{other}")),
        94..97 => ("table nexthop object", "", format!("nhid {}", plan.rng.pick(&[1, 2, 3, 11, 12]))),
        _ => ("table tos", "unreachable", "tos 0x10".to_owned()),
    };
    plan.feature(name);
    // Next hops come last.
    plan.route_to(prefix, kind, &format!("table {table} {rest}"));
}

/// All routes of a table at once.
pub(super) fn flushed(plan: &mut Plan) {
    let table = *plan.rng.pick(&["100", "101", "102", "default"]);
    plan.ip(format!("route flush table {table}"));
}
