//! VRFs: devices whose ports look up a table of their own.

use crate::plan::Plan;

use super::tables;

/// A VRF with some of the ports, whatever they are for; enslaving a port takes away its routes and neighbours, so those
/// of its senders are made again.
pub(super) fn device(plan: &mut Plan) {
    let name = *plan.rng.pick(&["red", "blue"]);
    let table = if name == "red" { "100" } else { "101" };
    plan.ip_undone(format!("link add {name} type vrf table {table}"), format!("link del {name}"));
    crate::pair::stillness(name).for_each(|step| plan.step(step, None));
    plan.ip(format!("link set {name} up"));
    for _ in 0..plan.rng.between(1, 3) {
        let port = plan.port();
        enslaved(plan, port, name);
    }
    if plan.rng.chance(50) {
        plan.route("add", format!("unreachable default metric 4278198272 table {table}"));
    }
    for _ in 0..plan.rng.between(0, 3) {
        tables::route_in(plan, table);
    }
    // The kernel itself adds it only with the first VRF that a namespace ever has.
    super::rules::add(plan, "l3mdev priority 1000");
}

fn enslaved(plan: &mut Plan, port: u8, master: &str) {
    plan.ip_undone(format!("link set v{port} master {master}"), format!("link set v{port} nomaster"));
    let table = if master == "red" { "100" } else { "101" };
    for sender in plan.senders.clone().into_iter().filter(|sender| sender.port == port) {
        if plan.rng.chance(80) {
            plan.route("add", format!("{}/32 dev v{port} table {table}", sender.ip));
        }
        if plan.rng.chance(80) {
            plan.known(sender);
        }
    }
}

/// A port goes into a VRF, or leaves it.
pub(super) fn port(plan: &mut Plan) {
    let port = plan.port();
    match plan.rng.below(3) {
        0 => plan.ip(format!("link set v{port} nomaster")),
        _ => {
            let master = *plan.rng.pick(&["red", "blue"]);
            let table = if master == "red" { "100" } else { "101" };
            // It may be there already, and is refused then; a port of one that is not would end all steps behind it.
            plan.ip(format!("link add {master} type vrf table {table}"));
            enslaved(plan, port, master);
        }
    }
}
