//! What may filter ARP: chains of several families, and the table that Calico's Felix writes.

use crate::pair::ScriptStep;

use crate::plan::Plan;

pub(super) fn chain(plan: &mut Plan) {
    let port = plan.port();
    let chain = match plan.rng.below(8) {
        0 => "arp t { chain c { type filter hook input priority 0; drop; }; }".to_owned(),
        1 => "arp t { chain c { type filter hook output priority 0; drop; }; }".to_owned(),
        2 => "arp t { chain c { type filter hook input priority 0; arp operation reply drop; }; }".to_owned(),
        3 => "arp t { chain c { type filter hook input priority 0; arp daddr ip 10.5.0.0/16 drop; }; }".to_owned(),
        4 => "arp t { chain c { type filter hook input priority 0; meta mark set 7; }; }".to_owned(),
        5 => format!("netdev t {{ chain c {{ type filter hook ingress device v{port} priority 0; drop; }}; }}"),
        // Harmless: it decides nothing.
        6 => "arp t { chain c { type filter hook output priority 0; }; }".to_owned(),
        _ => "inet t { chain c { type filter hook input priority 0; drop; }; }".to_owned(),
    };
    table(plan, &chain);
}

/// Rules by interface, of several chains: what concerns one does not concern another.
pub(super) fn rules(plan: &mut Plan) {
    let (hook, name, index) = *plan.rng.pick(&[("input", "iifname", "iif"), ("output", "oifname", "oif")]);
    let policy = if plan.rng.chance(20) { " policy drop;" } else { "" };
    let other = some_rules(plan, name, index, 2, &["accept", "drop", "return", "counter"]);
    let verdicts = ["accept", "drop", "return", "counter", "jump other", "goto other", "meta mark set 7"];
    let rules = some_rules(plan, name, index, 4, &verdicts);
    table(
        plan,
        &format!(
            "arp t {{ chain other {{ {other} }}; chain c {{ type filter hook {hook} priority 0;{policy} {rules} }}; }}"
        ),
    );
}

fn some_rules(plan: &mut Plan, name: &str, index: &str, most: usize, verdicts: &[&str]) -> String {
    let mut rules = String::new();
    for _ in 0..plan.rng.between(1, most) {
        let [one, another] = [plan.port(), plan.port()].map(|port| format!("v{port}"));
        let verdict = *plan.rng.pick(verdicts);
        let rule = match plan.rng.below(12) {
            0 | 1 => format!("{name} {one} {verdict}"),
            2 => format!("{name} != {one} {verdict}"),
            3 => format!("{name} \"v*\" {verdict}"),
            4 => format!("{name} \"x*\" {verdict}"),
            5 => format!("{name} {{ {one}, {another} }} {verdict}"),
            6 => format!("{name} != {{ {one}, {another}, x0 }} {verdict}"),
            7 => format!("{index} {one} {verdict}"),
            8 => format!("{index} != {one} {verdict}"),
            9 => format!("{name} vmap {{ {one} : drop, x0 : accept }}"),
            10 => format!("arp saddr ip {} {name} {one} {verdict}", plan.some_address()),
            _ => format!("arp operation request {name} {one} {verdict}"),
        };
        rules += &format!("{rule}; ");
    }
    rules
}

/// Replies in which a workload's own address is claimed are dropped; now and then something is not as Felix writes it.
pub(super) fn calico(plan: &mut Plan) {
    const DISPATCH: &str = "filter-cali-arp-dispatch";
    table(plan, "arp calico-arp");
    step(plan, &format!("add map arp calico-arp {DISPATCH} {{ type ifname : verdict ; }}"));
    for _ in 0..plan.rng.between(1, 3) {
        let port = plan.port();
        let (dev, chain) = (format!("v{port}"), format!("filter-cali-arp-v{port}"));
        step(plan, &format!("add chain arp calico-arp {chain}"));
        for _ in 0..plan.rng.between(1, 2) {
            let ip = plan.some_address();
            let oifname = if plan.rng.chance(95) { &*dev } else { "v0" };
            let what = if plan.rng.chance(95) { "arp saddr ip" } else { "arp daddr ip" };
            let rule = format!("oifname {oifname} arp operation reply {what} {ip} counter drop comment \"cali:x;\"");
            step(plan, &format!("add rule arp calico-arp {chain} {rule}"));
        }
        step(plan, &format!("add element arp calico-arp {DISPATCH} {{ {dev} : goto {chain} }}"));
    }
    let policy = if plan.rng.chance(5) { " ; policy drop" } else { "" };
    step(plan, &format!("add chain arp calico-arp {DISPATCH}"));
    step(plan, &format!("add rule arp calico-arp {DISPATCH} oifname vmap @{DISPATCH}"));
    step(plan, &format!("add chain arp calico-arp filter-OUTPUT {{ type filter hook output priority 0{policy} ; }}"));
    step(plan, &format!("add rule arp calico-arp filter-OUTPUT counter jump {DISPATCH} comment \"cali:y;\""));
}

fn table(plan: &mut Plan, table: &str) {
    plan.step(ScriptStep::Nft(format!("add table {table}")), Some(ScriptStep::Nft("flush ruleset".to_owned())));
}

fn step(plan: &mut Plan, command: &str) {
    plan.step(ScriptStep::Nft(command.to_owned()), None);
}
