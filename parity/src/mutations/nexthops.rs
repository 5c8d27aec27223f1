//! Routes with several next hops, and nexthop objects.

use crate::plan::Plan;

pub(super) fn route_multipath(plan: &mut Plan) {
    let (prefix, paths) = (plan.some_prefix(), plan.rng.between(2, 4));
    let one = plan.port();
    // All by the same interface now and then, where every choice has the same verdict.
    let same = plan.rng.chance(30);
    let mut nexthops = String::new();
    for _ in 0..paths {
        let port = if same { one } else { plan.port() };
        let weight = plan.rng.between(1, 3);
        let gateway = if plan.rng.chance(40) { format!("via {} onlink ", plan.some_address()) } else { String::new() };
        nexthops += &format!("nexthop {gateway}dev v{port} weight {weight} ");
    }
    plan.route_to(prefix, "", &nexthops);
}

fn object(plan: &mut Plan) -> usize {
    let (id, port) = (plan.rng.between(1, 6), plan.port());
    let what = match plan.rng.below(100) {
        0..15 => "blackhole".to_owned(),
        15..35 => format!("via {} dev v{port} onlink", plan.some_address()),
        _ => format!("dev v{port}"),
    };
    plan.ip_undone(format!("nexthop add id {id} {what}"), format!("nexthop del id {id}"));
    id
}

pub(super) fn nexthop_object(plan: &mut Plan) {
    let (id, prefix) = (object(plan), plan.some_prefix());
    plan.route_to(prefix, "", &format!("nhid {id}"));
}

pub(super) fn nexthop_group(plan: &mut Plan) {
    let (one, other, prefix) = (object(plan), object(plan), plan.some_prefix());
    let weight = *plan.rng.pick(&["", ",3"]);
    let group = if one == other { one.to_string() } else { format!("{one}/{other}{weight}") };
    let id = plan.rng.between(11, 14);
    plan.ip_undone(format!("nexthop add id {id} group {group}"), format!("nexthop del id {id}"));
    plan.route_to(prefix, "", &format!("nhid {id}"));
}

pub(super) fn nexthop_replaced(plan: &mut Plan) {
    let (id, port) = (plan.rng.between(1, 6), plan.port());
    match plan.rng.below(3) {
        0 => plan.ip(format!("nexthop del id {id}")),
        _ => plan.ip_undone(format!("nexthop replace id {id} dev v{port}"), format!("nexthop del id {id}")),
    }
}

pub(super) fn hash_policy(plan: &mut Plan) {
    let policy = plan.rng.between(0, 3);
    plan.sysctl("fib_multipath_hash_policy", policy, 0);
}

/// Whether a next hop whose neighbour has failed is avoided.
pub(super) fn use_neighbours(plan: &mut Plan) {
    plan.sysctl("fib_multipath_use_neigh", 1, 0);
}

/// A default route by two interfaces, one of which goes now and then.
pub(super) fn two_uplinks(plan: &mut Plan) {
    let (one, other) = (plan.ports - 1, plan.port());
    let table = *plan.rng.pick(&["", "", "table 100 "]);
    let gateway = if plan.rng.chance(50) { "via 10.9.0.254 onlink " } else { "" };
    let verb = if table.is_empty() { "replace" } else { "add" };
    plan.route(verb, format!("default {table}nexthop {gateway}dev v{one} nexthop dev v{other} weight 2"));
    if plan.rng.chance(25) {
        plan.ip_undone(format!("link set v{other} down"), format!("link set v{other} up"));
    }
}

/// A group that remembers who came by.
pub(super) fn resilient_group(plan: &mut Plan) {
    let (one, other, prefix) = (object(plan), object(plan), plan.some_prefix());
    plan.ip_undone(
        format!("nexthop add id 15 group {one}/{other} type resilient buckets 4"),
        "nexthop del id 15".to_owned(),
    );
    plan.route_to(prefix, "", "nhid 15");
}

/// One object for routes of several types, of which the first that is asked for decides for all.
pub(super) fn shared_object(plan: &mut Plan) {
    let id = object(plan);
    for kind in *plan.rng.pick(&[["local", ""], ["", "broadcast"], ["", ""], ["local", "broadcast"]]) {
        let (prefix, table) = (plan.some_prefix(), *plan.rng.pick(&["", "", "table 100", "table local"]));
        plan.route_to(prefix, kind, &format!("nhid {id} {table}"));
    }
    if plan.rng.chance(30) {
        let prefix = plan.some_prefix();
        plan.ip_undone(format!("nexthop add id 13 group {id}"), "nexthop del id 13");
        plan.route_to(prefix, "", "nhid 13");
    }
}
