//! Rules and tables as programs make them.

use crate::plan::Plan;

use super::{Mutation, UNROUTED, rules};

/// The rules of one of the products.
pub(super) fn rule_set(plan: &mut Plan) {
    let sets: [Mutation; 9] = [
        ("rules of AWS", aws),
        ("rules of Cilium", cilium),
        ("rules of wg-quick", wg_quick),
        ("rules of Tailscale", tailscale),
        ("rules of kube-router", kube_router),
        ("rules of mwan3", mwan3),
        ("rules of two uplinks", two_uplinks),
        ("rules of Calico with WireGuard", calico_wireguard),
        ("rules of kilo", kilo),
    ];
    let (name, set) = *plan.rng.pick(&sets);
    plan.feature(name);
    set(plan);
}

/// The last port, as in all shapes that have an uplink.
fn uplink(plan: &Plan) -> u8 {
    plan.ports - 1
}

fn default_route(plan: &mut Plan, table: &str, port: u8) {
    plan.route("add", format!("default dev v{port} table {table}"));
}

/// One table an interface; each pod's packets leave by its own.
fn aws(plan: &mut Plan) {
    let port = plan.port();
    default_route(plan, "100", port);
    rules::add(plan, "fwmark 0x80/0x80 priority 1024 lookup main");
    for sender in plan.senders.clone() {
        rules::add(plan, &format!("to {} priority 512 lookup main", sender.ip));
        if plan.rng.chance(60) {
            rules::add(plan, &format!("from {} priority 1536 lookup 100", sender.ip));
        }
    }
}

fn cilium(plan: &mut Plan) {
    rules::add(plan, "fwmark 0x200/0xf00 priority 9 lookup 102");
    rules::add(plan, "fwmark 0xa00/0xf00 priority 10 lookup 101");
    plan.route("add", "local default dev lo table 102".to_owned());
    rules::add(plan, "lookup local priority 100");
    plan.ip("rule del lookup local priority 0");
}

fn wg_quick(plan: &mut Plan) {
    let port = plan.port();
    default_route(plan, "101", port);
    rules::add(plan, "lookup main priority 32764 suppress_prefixlength 0");
    rules::add(plan, "not fwmark 51820 priority 32765 lookup 101");
}

/// With an exit node: everything but the routes of its table goes there.
fn tailscale(plan: &mut Plan) {
    rules::add(plan, "fwmark 0x80000/0xff0000 priority 5210 lookup main");
    rules::add(plan, "fwmark 0x80000/0xff0000 priority 5230 lookup default");
    rules::add(plan, "unreachable fwmark 0x80000/0xff0000 priority 5250");
    rules::add(plan, "priority 5270 lookup 102");
    let port = plan.port();
    if plan.rng.chance(50) {
        default_route(plan, "102", port);
        plan.route("add", "throw 10.9.0.0/24 table 102".to_owned());
    } else {
        plan.route_to((UNROUTED, 32), "", &format!("dev v{port} table 102"));
    }
}

fn kube_router(plan: &mut Plan) {
    let port = uplink(plan);
    rules::add(plan, "priority 77 lookup 100");
    rules::add(plan, "priority 78 lookup 101");
    rules::add(plan, "fwmark 0x4000/0x4000 priority 79 lookup 102");
    plan.route("add", "local default dev lo table 102".to_owned());
    plan.route_to((UNROUTED, 24), "", &format!("dev v{port} table 100"));
}

fn mwan3(plan: &mut Plan) {
    let (one, other) = (plan.port(), uplink(plan));
    for (number, port) in [(1u32, one), (2, other)] {
        let table = 99 + number;
        default_route(plan, &table.to_string(), port);
        rules::add(plan, &format!("iif v{port} priority {} lookup {table}", 1000 + number));
        rules::add(plan, &format!("fwmark {number:#x}00/0x3f00 priority {} lookup {table}", 2000 + number));
        rules::add(plan, &format!("unreachable fwmark {number:#x}00/0x3f00 priority {}", 3000 + number));
    }
}

/// A host with two addresses answers by the way that it was asked.
fn two_uplinks(plan: &mut Plan) {
    let (one, other) = (plan.port(), uplink(plan));
    for (table, port) in [("100", one), ("101", other)] {
        default_route(plan, table, port);
        let who = match plan.rng.below(3) {
            _ if plan.own.is_empty() || plan.senders.is_empty() => plan.some_address(),
            0 => plan.rng.pick(&plan.senders).ip,
            _ => *plan.rng.pick(&plan.own),
        };
        rules::add(plan, &format!("from {who} priority 200 lookup {table}"));
    }
}

fn calico_wireguard(plan: &mut Plan) {
    let port = plan.port();
    rules::add(plan, "not fwmark 0x100000/0x100000 priority 99 lookup 100");
    for sender in plan.senders.clone() {
        plan.route("add", format!("throw {}/32 table 100", sender.ip));
    }
    let prefix = plan.some_prefix();
    plan.route_to(prefix, "", &format!("dev v{port} table 100"));
}

/// Tables that are asked for what comes in by one interface.
fn kilo(plan: &mut Plan) {
    let (port, target) = (plan.port(), plan.some_prefix());
    plan.route_to(target, "", &format!("dev v{port} table 101"));
    for sender in plan.senders.clone() {
        rules::add(plan, &format!("from {}/24 to {}/16 priority 32765 lookup 101", sender.ip, target.0));
    }
    rules::add(plan, &format!("iif v{port} priority 32764 lookup 101"));
}
