//! What decides which senders are believed.

use crate::plan::Plan;

/// The settings of source validation, on a port or everywhere.
pub(super) fn settings(plan: &mut Plan) {
    let scope = if plan.rng.chance(25) { "all".to_owned() } else { format!("v{}", plan.port()) };
    let value = *plan.rng.pick(&[0, 1, 1, 2, 2]);
    plan.conf(&scope, "rp_filter", value);
    for (key, percent) in [("accept_local", 15), ("arp_filter", 20), ("send_redirects", 20), ("src_valid_mark", 5)] {
        if plan.rng.chance(percent) {
            let value = plan.rng.below(2) as i64;
            plan.conf(&scope, key, value);
        }
    }
}

/// A known sender whose route leads elsewhere, or nowhere, in some table.
pub(super) fn sender_elsewhere(plan: &mut Plan) {
    if plan.senders.is_empty() {
        return;
    }
    let (sender, port) = (*plan.rng.pick(&plan.senders), plan.port());
    let table = *plan.rng.pick(&["main", "main", "100", "101", "local"]);
    let len = *plan.rng.pick(&[32, 32, 31, 24]);
    let (kind, rest) = match plan.rng.below(8) {
        0 => ("unreachable", String::new()),
        1 => ("broadcast", format!("dev v{port}")),
        2 => ("local", "dev lo".to_owned()),
        3 => ("throw", String::new()),
        4 => ("", format!("nexthop dev v{} nexthop dev v{port}", sender.port)),
        _ => ("", format!("dev v{port}")),
    };
    plan.route_to((sender.ip, len), kind, &format!("table {table} {rest}"));
}

/// Hosts that are known only by a default route out of the port that they ask by.
pub(super) fn sender_by_the_default_route(plan: &mut Plan) {
    let port = plan.ports - 1;
    for _ in 0..plan.rng.between(1, 3) {
        let ip = std::net::Ipv4Addr::new(198, 51, 100, plan.rng.byte());
        let sender = plan.sender(port, ip);
        plan.known(sender);
    }
    plan.conf(&format!("v{port}"), "proxy_arp", 1);
    if plan.rng.chance(50) {
        plan.route("replace", format!("default dev v{port} onlink"));
    }
}
