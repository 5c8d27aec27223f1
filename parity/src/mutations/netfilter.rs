//! What may filter ARP: chains of several families, and the table that Calico's Felix writes.

use crate::pair::Step;

use crate::plan::Plan;

pub(super) fn chain(plan: &mut Plan) {
    let port = plan.port();
    let chain = match plan.rng.below(8) {
        0 => "arp t { chain c { type filter hook input priority 0; drop; } }".to_owned(),
        1 => "arp t { chain c { type filter hook output priority 0; drop; } }".to_owned(),
        2 => "arp t { chain c { type filter hook input priority 0; arp operation reply drop; } }".to_owned(),
        3 => "arp t { chain c { type filter hook input priority 0; arp daddr ip 10.5.0.0/16 drop; } }".to_owned(),
        4 => "arp t { chain c { type filter hook input priority 0; meta mark set 7; } }".to_owned(),
        5 => format!("netdev t {{ chain c {{ type filter hook ingress device v{port} priority 0; drop; }} }}"),
        // Harmless: it decides nothing.
        6 => "arp t { chain c { type filter hook output priority 0; } }".to_owned(),
        _ => "inet t { chain c { type filter hook input priority 0; drop; } }".to_owned(),
    };
    table(plan, &chain);
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
    plan.step(Step::Nft(format!("add table {table}")), Some(Step::Nft("flush ruleset".to_owned())));
}

fn step(plan: &mut Plan, command: &str) {
    plan.step(Step::Nft(command.to_owned()), None);
}
