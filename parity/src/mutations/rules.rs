//! Routing rules. Once there has been one, a namespace is never what it was: few, so that most scenarios are without.

use crate::plan::Plan;

pub(super) fn rule(plan: &mut Plan) {
    if plan.rng.chance(10) {
        return without_a_default(plan);
    }
    let (ip, port, prefix) = (plan.some_address(), plan.port(), plan.some_prefix());
    let selector = match plan.rng.below(16) {
        0 => format!("from {ip}"),
        1 => format!("to {ip}"),
        2 => format!("iif v{port}"),
        3 => format!("oif v{port}"),
        4 => "fwmark 1".to_owned(),
        5 => "fwmark 0/1".to_owned(),
        6 => "fwmark 7".to_owned(),
        7 => "tos 0x10".to_owned(),
        8 => "iif lo".to_owned(),
        9 => "not fwmark 1".to_owned(),
        10 => "uidrange 0-0".to_owned(),
        11 => "ipproto tcp".to_owned(),
        12 => "sport 7".to_owned(),
        13 => format!("not from {ip}/8"),
        14 => format!("from {ip}/16 to {ip}/8"),
        _ => "from all".to_owned(),
    };
    let priority = *plan.rng.pick(&[0, 100, 32766, 40000]);
    let action = match plan.rng.below(10) {
        0 => "unreachable".to_owned(),
        1 => "blackhole".to_owned(),
        2 => "prohibit".to_owned(),
        3 => "goto 32767".to_owned(),
        4 => "lookup main suppress_prefixlength 0".to_owned(),
        _ => format!("lookup {}", plan.rng.pick(&["100", "main", "local", "default"])),
    };
    // The type of a rule comes first, its table or target last.
    let rule = match action.as_str() {
        "unreachable" | "blackhole" | "prohibit" => format!("{action} {selector} priority {priority}"),
        _ => format!("{selector} {action} priority {priority}"),
    };
    plan.ip_undone(format!("rule add {rule}"), format!("rule del {rule}"));
    plan.route_to(prefix, "", &format!("dev v{port} table 100"));
}

/// One of the rules that every namespace begins with, gone.
fn without_a_default(plan: &mut Plan) {
    let rule =
        *plan.rng.pick(&["lookup local priority 0", "lookup main priority 32766", "lookup default priority 32767"]);
    plan.ip_undone(format!("rule del {rule}"), format!("rule add from all {rule}"));
}
