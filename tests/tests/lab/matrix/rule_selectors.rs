//! §12.7: what a rule selects by. For ARP most of it is decided beforehand: no mark, no TOS, no port, no way out.

use anyhow::Result;
use lab::netlink::{KernelChange, Netlink, Rule};
use lab::{Answerer, Lab, SideBySide, kernel_is_since, needs_root};

use super::Ask::For;
use super::Expect::{Fast, Silent};
use super::{Ask, BY_U1, DEAD, Expect, L, NO_DEFAULT, U, X, Z, each, rows, run_all, when, with_uplinks};

/// Beside Z: another host of its /16, one of another, one by `u1`.
const Z2: [u8; 4] = [10, 20, 0, 2];
const FAR: [u8; 4] = [10, 21, 0, 1];
const BY_SECOND_UPLINK: [u8; 4] = [10, 8, 0, 9];

const NEVER: Expect = Silent("unanswerable_route");
const REFUSED: Expect = Silent("sender_route");

/// Every rule that leads to table 100.
const NO_RULE: &str = "rule flush table 100";
/// Where the rule matches, the dead table silences all but the node's own addresses.
const APPLIES: [(Ask, Expect); 3] = [(For(Z), NEVER), (For(X), NEVER), (For(L), Fast)];

rows! {
    on with_uplinks;
    k160_selectors_that_no_request_has: [
        each(
            &[
                DEAD,
                "rule add fwmark 0x200/0xf00 lookup 100",
                "rule add fwmark 7 lookup 100",
                "rule add tos 0x10 lookup 100",
                "rule add ipproto tcp lookup 100",
                "rule add ipproto udp sport 68 lookup 100",
                "rule add dport 53 lookup 100",
                "rule add oif u0 lookup 100",
                "rule add uidrange 1000-2000 lookup 100",
                "rule add tun_id 5 lookup 100",
            ],
            &[(For(Z), Fast), (For(L), Fast), (For(X), Fast)],
        ),
    ];
    k161_the_opposite_of_such_selectors: [
        each(&[DEAD, "rule add not fwmark 7 lookup 100"], &APPLIES),
        each(&[NO_RULE, "rule add not fwmark 0x200/0xf00 lookup 100"], &APPLIES),
        each(&[NO_RULE, "rule add not tos 0x10 lookup 100"], &APPLIES),
        each(&[NO_RULE, "rule add not ipproto tcp lookup 100"], &APPLIES),
        each(&[NO_RULE, "rule add not sport 68 lookup 100"], &APPLIES),
        each(&[NO_RULE, "rule add not dport 53 lookup 100"], &APPLIES),
        each(&[NO_RULE, "rule add not oif u0 lookup 100"], &APPLIES),
        each(&[NO_RULE, "rule add not uidrange 1000-2000 lookup 100"], &APPLIES),
        each(&[NO_RULE, "rule add not tun_id 5 lookup 100"], &APPLIES),
    ];
    k161_the_opposite_of_other_names_and_nets: [
        each(&[DEAD, "rule add not iif u0 lookup 100"], &APPLIES),
        each(&[NO_RULE, "rule add not from 10.99.0.0/16 lookup 100"], &APPLIES),
        each(&[NO_RULE, "rule add not to 10.99.0.0/16 lookup 100"], &APPLIES),
        // Nothing has that name.
        each(&[NO_RULE, "rule add not iif nosuch lookup 100"], &APPLIES),
        each(&[NO_RULE, "rule add not oif nosuch lookup 100"], &APPLIES),
    ];
    k162_a_mark_of_0: [when(&[NO_DEFAULT, BY_U1, "rule add fwmark 0/1 lookup 100"], For(Z), Fast)];
    k162b_the_user_0: [when(&[NO_DEFAULT, BY_U1, "rule add uidrange 0-0 lookup 100"], For(Z), Fast)];
    k163_from_the_sender: [
        each(&[NO_DEFAULT, BY_U1, "rule add from 10.5.0.5 lookup 100"], &[(For(Z), Fast), (For(X), Fast)]),
    ];
    k164_from_and_to: [
        each(
            &[NO_DEFAULT, BY_U1, "rule add from 10.5.0.0/24 to 10.20.0.0/16 lookup 100"],
            &[(For(Z), Fast), (For(FAR), Silent("no_route"))],
        ),
    ];
    k165_to_one_target: [
        each(&[DEAD, "rule add to 10.20.0.1 lookup 100"], &[(For(Z), NEVER), (For(Z2), Fast)]),
    ];
    k166_not_to_a_net: [
        each(
            &[DEAD, "rule add not to 10.20.0.0/16 lookup 100"],
            &[(For(Z), Fast), (For(FAR), NEVER), (For(L), Fast)],
        ),
    ];
    // `not` inverts both together.
    k167_not_from_and_to: [
        each(
            &[DEAD, "rule add not from 10.5.0.5 to 10.20.0.1 lookup 100"],
            &[(For(Z), Fast), (For(Z2), NEVER)],
        ),
    ];
    k168_on_one_interface: [
        when(&[DEAD, "w0.proxy_arp=1", "rule add iif v0 lookup 100"], For(Z), NEVER),
        when(&[], For(Z), Fast).on_w0(),
    ];
    // The way back from a local target is looked up as if it came in on lo.
    k169_and_k170_on_lo: [
        each(&[DEAD, "rule add iif lo lookup 100"], &[(For(Z), Fast), (For(L), Fast)]),
        each(&["v0.rp_filter=1"], &[(For(Z), Fast), (For(L), REFUSED), (For(U), REFUSED)]),
    ];
    // And from another target, as if it came in where the route for it leaves.
    k171_on_the_interface_of_the_route: [
        each(
            &[DEAD, "rule add iif u0 lookup 100", "v0.rp_filter=1"],
            &[(For(Z), REFUSED), (For(X), REFUSED), (For(BY_SECOND_UPLINK), Fast), (For(L), Fast)],
        ),
    ];
    k172_realms: [
        each(
            &[
                "rule add from all realms 5 lookup main prio 30000",
                "route add 10.30.0.0/16 via 10.9.0.254 realm 3",
                "v0.rp_filter=1",
            ],
            &[(For(Z), Fast), (For(L), Fast)],
        ),
    ];
}

/// Attributes and one action of rules (include/uapi/linux/fib_rules.h).
const FRA_TABLE: u16 = 15;
const FRA_L3MDEV: u16 = 19;
const FRA_DSCP: u16 = 25;
const FRA_DSCP_MASK: u16 = 30;
const FR_ACT_TO_TBL: u8 = 1;

/// A rule at priority 50 takes the place of the one that may be there; it leads to table 100, which is dead. What becomes of
/// a request for Z.
fn ask_after(parity: &mut SideBySide, attributes: &[(u16, &[u8])]) -> Result<Answerer> {
    let table = 100_u32.to_ne_bytes();
    let attributes: Vec<(u16, &[u8])> = [(FRA_TABLE, &table[..])].iter().chain(attributes).copied().collect();
    parity.change(|lab| {
        run_all(lab, &["rule flush pref 50", "route replace unreachable default table 100"])?;
        let rule = Rule { priority: 50, action: FR_ACT_TO_TBL, attributes: &attributes, ..Rule::default() };
        Netlink::open(lab.node())?.change(KernelChange::add_rule(&rule))
    })?;
    Ok(parity.ask("p0", |p0| p0.who_has(Z))?.by)
}

#[test]
fn k312_rules_by_dscp() -> Result<()> {
    needs_root!();
    let mut parity = with_uplinks()?;
    let dead = Answerer::nobody("unanswerable_route");
    // A kernel before 6.12 does not know the attribute: to it the rule is for all.
    let none = if kernel_is_since(6, 12) { Answerer::FastPath } else { dead.clone() };
    assert_eq!(ask_after(&mut parity, &[(FRA_DSCP, &[10])])?, none);
    assert_eq!(ask_after(&mut parity, &[(FRA_DSCP, &[0]), (FRA_DSCP_MASK, &[0x0f])])?, dead);
    assert_eq!(ask_after(&mut parity, &[(FRA_DSCP, &[0])])?, dead);
    Ok(())
}

#[test]
fn k310_l3mdev_where_there_is_no_vrf() -> Result<()> {
    needs_root!();
    let mut parity = with_uplinks()?;
    let mut after = |change: &dyn Fn(&Lab) -> Result<()>| -> Result<Answerer> {
        parity.change(|lab| change(lab))?;
        Ok(parity.ask("p0", |p0| p0.who_has(Z))?.by)
    };
    let l3mdev = |priority, inverted| {
        let attributes: &[(u16, &[u8])] = &[(FRA_L3MDEV, &[1])];
        let rule = Rule { priority, inverted, action: FR_ACT_TO_TBL, attributes, ..Rule::default() };
        move |lab: &Lab| Netlink::open(lab.node())?.change(KernelChange::add_rule(&rule))
    };
    assert_eq!(after(&l3mdev(50, false))?, Answerer::FastPath);
    assert_eq!(after(&|lab| run_all(lab, &["rule del prio 32766"]))?, Answerer::nobody("no_route"));
    // It matches, and looks up table 0, which is main; also on the way back.
    assert_eq!(after(&l3mdev(60, true))?, Answerer::kernel("sender_route"));
    Ok(())
}
