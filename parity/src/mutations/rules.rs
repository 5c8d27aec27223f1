//! Routing rules: selectors, actions, order. Once there has been one, a namespace is never what it was: only some
//! generations of scenarios have them.

use crate::pair::ScriptStep;
use crate::plan::Plan;

use super::tables;

/// Several rules of one priority, and gaps for more.
const PRIORITIES: [u32; 16] = [0, 5, 9, 100, 100, 100, 150, 200, 200, 300, 1000, 32765, 32766, 32767, 33000, 40000];

/// The rules that every namespace begins with.
const FIRST: [(&str, u32); 3] = [("local", 0), ("main", 32766), ("default", 32767)];

pub(super) fn rule(plan: &mut Plan) {
    let mut selectors = selector(plan);
    if plan.rng.chance(25) {
        let more = selector(plan);
        // A selector can be given once.
        if more.split(' ').next() != selectors.split(' ').next() {
            selectors += &format!(" {more}");
        }
    }
    if plan.rng.chance(20) {
        selectors = format!("not {selectors}");
        plan.feature("rule not");
    }
    let priority = *plan.rng.pick(&PRIORITIES);
    with_action(plan, &selectors, priority);
}

/// A rule, with or without anything behind it.
fn with_action(plan: &mut Plan, selectors: &str, priority: u32) {
    let rule = match plan.rng.below(100) {
        // The type of a rule comes first, its table or target last.
        0..4 => format!("unreachable {selectors} priority {priority}"),
        4..7 => format!("blackhole {selectors} priority {priority}"),
        7..10 => format!("prohibit {selectors} priority {priority}"),
        10..20 => {
            plan.feature("rule goto");
            let later: Vec<u32> = PRIORITIES.into_iter().filter(|&other| other > priority).collect();
            let to = if later.is_empty() { priority + 1 } else { *plan.rng.pick(&later) };
            format!("{selectors} priority {priority} goto {to}")
        }
        20..24 => format!("{selectors} priority {priority} nop"),
        24..27 => format!("{selectors} priority {priority} l3mdev"),
        _ => {
            let table = *plan.rng.weighted(&[
                (40, "100"),
                (20, "101"),
                (15, "102"),
                (15, "main"),
                (5, "default"),
                (5, "local"),
                (2, "77"),
            ]);
            let suppressor = match plan.rng.below(12) {
                0..2 => format!("suppress_prefixlength {}", plan.rng.pick(&[0, 0, 0, 8, 16, 24, 31, 32])),
                2 => format!("suppress_ifgroup {}", plan.rng.pick(&[0, 5, 5])),
                _ => String::new(),
            };
            if !suppressor.is_empty() {
                plan.feature("rule suppressor");
            }
            if table.starts_with('1') && plan.rng.chance(60) {
                tables::route_in(plan, table);
            }
            format!("{selectors} priority {priority} lookup {table} {suppressor}")
        }
    };
    add(plan, &rule);
}

/// Adds a rule, which is undone.
pub(super) fn add(plan: &mut Plan, rule: &str) {
    restored(plan);
    plan.ip_undone(format!("rule add {rule}"), format!("rule del {rule}"));
    plan.rules.push(rule.to_owned());
}

/// At the end of the scenario there are the first rules alone, whatever happened to them. (`flush` leaves those of
/// priority 0, and the kernel takes a second one like its own.)
fn restored(plan: &mut Plan) {
    if !std::mem::replace(&mut plan.restores_rules, true) {
        for (table, priority) in FIRST {
            plan.undone_by(ScriptStep::Ip(format!("rule add lookup {table} priority {priority}")));
        }
        plan.undone_by(ScriptStep::Ip("rule del lookup local priority 0".to_owned()));
        plan.undone_by(ScriptStep::Ip("rule flush".to_owned()));
    }
}

fn selector(plan: &mut Plan) -> String {
    let (ip, port) = (plan.some_address(), plan.port());
    let sender = if plan.senders.is_empty() { ip } else { plan.rng.pick(&plan.senders).ip };
    let target = if plan.targets.is_empty() { ip } else { *plan.rng.pick(&plan.targets) };
    let len = *plan.rng.pick(&[32, 32, 32, 31, 24, 24, 16, 8, 1]);
    let (name, selector) = match plan.rng.below(100) {
        0..6 => ("rule from", format!("from {ip}/{len}")),
        6..16 => ("rule from", format!("from {sender}/{len}")),
        // On the way back it names the target.
        16..22 => ("rule from", format!("from {target}/{len}")),
        22..28 => ("rule to", format!("to {ip}/{len}")),
        28..38 => ("rule to", format!("to {target}/{len}")),
        38..44 => ("rule to", format!("to {sender}/{len}")),
        44..48 => ("rule from and to", format!("from {sender}/{len} to {target}/16")),
        48..58 => ("rule iif", format!("iif v{port}")),
        58..64 => ("rule iif lo", "iif lo".to_owned()),
        64..66 => ("rule iif of another device", format!("iif {}", plan.rng.pick(&["x0", "x0", "x9", "br0", "red"]))),
        66 => {
            // A name beside the device's own.
            plan.feature("rule iif by another name");
            let (name, device) = (format!("alt{port}"), format!("v{port}"));
            plan.ip_undone(
                format!("link property add dev {device} altname {name}"),
                format!("link property del dev {device} altname {name}"),
            );
            ("rule iif", format!("iif {name}"))
        }
        67..70 => ("rule oif", format!("oif {}", plan.rng.pick(&["v0", "v1", "x9", "lo"]))),
        70..79 => {
            let marks = ["1", "7", "0x200/0xf00", "0/1", "0/0xff", "0x80/0x80", "0xffffffff"];
            ("rule fwmark", format!("fwmark {}", plan.rng.pick(&marks)))
        }
        79..82 => ("rule tos", "tos 0x10".to_owned()),
        82..84 => ("rule ipproto", format!("ipproto {}", plan.rng.pick(&["tcp", "udp", "icmp"]))),
        84..87 => ("rule port", (*plan.rng.pick(&["sport 7", "dport 53", "sport 1-65535", "dport 80-90"])).to_owned()),
        87..90 => ("rule uidrange", format!("uidrange {}", plan.rng.pick(&["0-0", "0-1000", "1000-2000"]))),
        90 => ("rule tun_id", "tun_id 5".to_owned()),
        _ => ("rule of everything", "from all".to_owned()),
    };
    plan.feature(name);
    selector
}

pub(super) fn removed(plan: &mut Plan) {
    if !plan.rules.is_empty() {
        let rule = plan.rng.pick(&plan.rules).clone();
        plan.ip(format!("rule del {rule}"));
    }
}

/// Gone and there again, behind the others of its priority.
pub(super) fn again(plan: &mut Plan) {
    if !plan.rules.is_empty() {
        let rule = plan.rng.pick(&plan.rules).clone();
        plan.ip(format!("rule del {rule}"));
        plan.ip(format!("rule add {rule}"));
    }
}

/// One of the first rules, gone.
pub(super) fn without_one_of_the_first(plan: &mut Plan) {
    restored(plan);
    let (table, priority) = *plan.rng.pick(&FIRST);
    plan.ip(format!("rule del lookup {table} priority {priority}"));
}

/// One of the first rules at another place: before others, or behind them.
pub(super) fn first_moved(plan: &mut Plan) {
    let (table, priority) = *plan.rng.weighted(&[(5, FIRST[0]), (4, FIRST[1]), (1, FIRST[2])]);
    let to = *plan.rng.pick(&PRIORITIES);
    add(plan, &format!("lookup {table} priority {to}"));
    plan.ip(format!("rule del lookup {table} priority {priority}"));
}
