//! Routes in the tables that every namespace has.

use crate::plan::Plan;

pub(super) fn route_by_port(plan: &mut Plan) {
    let (prefix, port) = (plan.some_prefix(), plan.port());
    let more = *plan.rng.pick(&["", "", "scope link", "onlink", "proto static"]);
    plan.route_to(prefix, "", &format!("dev v{port} {more}"));
}

pub(super) fn route_by_gateway(plan: &mut Plan) {
    let (prefix, gateway, port) = (plan.some_prefix(), plan.some_address(), plan.port());
    let gateway = if plan.rng.chance(85) { format!("via {gateway}") } else { "via inet6 fe80::1".to_owned() };
    plan.route_to(prefix, "", &format!("{gateway} dev v{port} onlink"));
}

pub(super) fn route_by_lo(plan: &mut Plan) {
    let prefix = plan.some_prefix();
    plan.route_to(prefix, "", "dev lo");
}

pub(super) fn route_of_type(plan: &mut Plan) {
    let (prefix, port) = (plan.some_prefix(), plan.port());
    match *plan.rng.pick(&["unreachable", "blackhole", "prohibit", "broadcast", "multicast", "anycast"]) {
        kind @ ("broadcast" | "multicast" | "anycast") => plan.route_to(prefix, kind, &format!("dev v{port}")),
        kind => plan.route_to(prefix, kind, ""),
    }
}

pub(super) fn route_throw(plan: &mut Plan) {
    let prefix = plan.some_prefix();
    let table = if plan.rng.chance(20) { "table local" } else { "" };
    plan.route_to(prefix, "throw", table);
}

pub(super) fn route_metrics(plan: &mut Plan) {
    let prefix = plan.some_prefix();
    for _ in 0..2 {
        let (port, metric) = (plan.port(), plan.rng.below(4));
        plan.route_to(prefix, "", &format!("dev v{port} metric {metric}"));
    }
}

pub(super) fn route_tos(plan: &mut Plan) {
    let (prefix, port) = (plan.some_prefix(), plan.port());
    plan.route_to(prefix, "", &format!("dev v{port} tos 0x10"));
}

pub(super) fn route_local(plan: &mut Plan) {
    let prefix = plan.some_prefix();
    let port = plan.port();
    let dev = if plan.rng.chance(70) { "lo".to_owned() } else { format!("v{port}") };
    plan.route_to((prefix.0, prefix.1.max(16)), "local", &format!("dev {dev}"));
}

pub(super) fn route_overlap(plan: &mut Plan) {
    let (ip, port) = (plan.some_address(), plan.port());
    plan.route_to((ip, 16), "local", "dev lo");
    plan.route_to((ip, 24), "", &format!("dev v{port}"));
}

pub(super) fn route_in_default(plan: &mut Plan) {
    let (prefix, port) = (plan.some_prefix(), plan.port());
    plan.route_to(prefix, "", &format!("dev v{port} table default"));
}

pub(super) fn route_in_wrong_table(plan: &mut Plan) {
    let (prefix, port) = (plan.some_prefix(), plan.port());
    match plan.rng.below(3) {
        0 => plan.route_to(prefix, "", &format!("dev v{port} table local")),
        1 => plan.route_to(prefix, "local", "dev lo table main"),
        _ => plan.route_to(prefix, "", &format!("dev v{port} table 100")),
    }
}

pub(super) fn route_beside(plan: &mut Plan) {
    let verb = *plan.rng.pick(&["append", "prepend"]);
    let (prefix, one, other) = (plan.some_prefix(), plan.port(), plan.port());
    plan.route_to(prefix, "", &format!("dev v{one}"));
    let destination = plan.routes.last().and_then(|route| route.split_whitespace().next()).map(str::to_owned);
    plan.route(verb, format!("{} dev v{other}", destination.unwrap_or_default()));
}

pub(super) fn route_replaced(plan: &mut Plan) {
    let port = plan.port();
    let existing = if plan.routes.is_empty() { "default".to_owned() } else { plan.rng.pick(&plan.routes).clone() };
    // The first word is the destination or the type.
    let destination = existing.split_whitespace().find(|word| word.contains('.') || *word == "default");
    let destination = destination.unwrap_or("default").to_owned();
    plan.route("replace", format!("{destination} dev v{port}"));
}

pub(super) fn route_removed(plan: &mut Plan) {
    if !plan.routes.is_empty() {
        let route = plan.rng.pick(&plan.routes).clone();
        plan.ip(format!("route del {route}"));
    }
}

pub(super) fn local_route_removed(plan: &mut Plan) {
    if !plan.own.is_empty() {
        let ip = *plan.rng.pick(&plan.own);
        plan.ip(format!("route del local {ip} table local"));
    }
}

pub(super) fn route_encap(plan: &mut Plan) {
    let (prefix, port) = (plan.some_prefix(), plan.port());
    plan.route_to(prefix, "", &format!("encap ip id 7 dst 10.9.0.254 dev v{port}"));
}

/// It goes when the address does.
pub(super) fn route_with_source(plan: &mut Plan) {
    let (prefix, port) = (plan.some_prefix(), plan.port());
    if !plan.own.is_empty() {
        let source = *plan.rng.pick(&plan.own);
        plan.route_to(prefix, "", &format!("dev v{port} src {source}"));
    }
}

/// While there is one anywhere, the kernel checks every sender in full.
pub(super) fn route_with_realm(plan: &mut Plan) {
    let (prefix, port) = (plan.some_prefix(), plan.port());
    plan.route_to(prefix, "", &format!("dev v{port} realm 5"));
}
