//! §12.7: what a rule does.

use anyhow::{Context, Result, ensure};
use lab::netlink::{KernelChange, Netlink, Rule};
use lab::{Answerer, needs_root};

use super::Ask::For;
use super::Expect::{Fast, Silent};
use super::{Ask, DEAD, Expect, L, X, Z, each, rows, when, with_uplinks};

/// Beside Z: another host of its net.
const Z2: [u8; 4] = [10, 20, 0, 2];

const NEVER: Expect = Silent("unanswerable_route");
/// Of a rule for the net of Z that forbids it.
const FORBIDDEN: [(Ask, Expect); 3] = [(For(Z), NEVER), (For(X), Fast), (For(L), Fast)];

rows! {
    on with_uplinks;
    k173_unreachable_blackhole_and_prohibit: [
        each(&["rule add prio 100 to 10.20.0.0/16 unreachable"], &FORBIDDEN),
        each(&["rule del prio 100", "rule add prio 100 to 10.20.0.0/16 blackhole"], &FORBIDDEN),
        each(&["rule del prio 100", "rule add prio 100 to 10.20.0.0/16 prohibit"], &FORBIDDEN),
    ];
    k174_a_goto_past_an_unreachable_rule: [
        when(
            &["rule add prio 100 goto 200", "rule add prio 150 unreachable", "rule add prio 200 fwmark 9 lookup 100"],
            For(Z),
            Fast,
        ),
    ];
    k175_k176_and_k177_a_goto_whose_rule_comes_and_goes: [
        // It leads nowhere: the next rule is asked.
        when(&["rule add prio 100 goto 200", "rule add prio 150 unreachable"], For(Z), NEVER),
        when(&["rule add prio 200 lookup main"], For(Z), Fast),
        when(&["rule del prio 200"], For(Z), NEVER),
    ];
    k178_a_goto_for_one_target: [
        each(
            &[
                "rule add prio 100 to 10.20.0.1 goto 200",
                "rule add prio 150 unreachable",
                "rule add prio 200 lookup main",
            ],
            &[(For(Z), Fast), (For(Z2), NEVER)],
        ),
    ];
    k179_nop: [when(&["rule add prio 100 nop"], For(Z), Fast)];
    k180_the_first_of_two_rules_of_one_priority_is_dead: [
        when(&[DEAD, "rule add prio 100 lookup 100", "rule add prio 100 lookup main"], For(Z), NEVER),
    ];
    k181_the_first_of_two_rules_of_one_priority_is_main: [
        when(&[DEAD, "rule add prio 100 lookup main", "rule add prio 100 lookup 100"], For(Z), Fast),
    ];
    k182_and_k182b_a_goto_to_two_rules_of_one_priority: [
        when(
            &[
                DEAD,
                "rule add prio 200 lookup 100",
                "rule add prio 200 lookup main",
                "rule add prio 100 goto 200",
                "rule add prio 150 lookup main",
            ],
            For(Z),
            NEVER,
        ),
        when(
            &["rule del prio 150", "rule add prio 150 unreachable", "rule del prio 200 lookup 100"],
            For(Z),
            Fast,
        ),
    ];
    k315_a_static_proxy_entry_and_rules: [
        when(
            &["v0.proxy_arp=0", "neigh add proxy 10.20.0.1 dev v0", "route add default dev v0 table 100"],
            For(Z),
            Fast,
        ),
        when(&["rule add prio 10 from 10.5.0.5 lookup 100"], For(Z), Silent("pvlan_off")),
        when(&["rule del prio 10"], For(Z), Fast),
        when(&["rule add prio 10 to 10.20.0.1 unreachable"], For(Z), NEVER),
    ];
}

#[test]
fn k311_actions_that_are_none() -> Result<()> {
    needs_root!();
    let mut parity = with_uplinks()?;
    for action in [0, 4, 5, 9, 200] {
        parity.change(|lab| {
            let rule = Rule { priority: 40, to: Some(Z), action, ..Rule::default() };
            Netlink::open(lab.node())?
                .change(KernelChange::add_rule(&rule))
                .with_context(|| format!("a rule with action {action}"))
        })?;
        let by = parity.ask("p0", |p0| p0.who_has(Z))?.by;
        ensure!(by == Answerer::nobody("unanswerable_route"), "action {action}: {by:?}");
        let by = parity.ask("p0", |p0| p0.who_has(Z2))?.by;
        ensure!(by == Answerer::FastPath, "another target than that of action {action}: {by:?}");
        parity.node_ip("rule del prio 40")?;
    }
    Ok(())
}
