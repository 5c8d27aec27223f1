//! Routes, next hops and rules.

use anyhow::Result;
use lab::topology::{ROUTED_TARGET, UPLINK_IP};
use lab::{Answerer, needs_root};

use super::{ELSEWHERE, matrix_with_agent, who_has};

#[test]
fn a_route_is_followed_when_added_replaced_and_removed() -> Result<()> {
    needs_root!();
    let mut parity = matrix_with_agent()?;
    let rows = [
        ("route add 10.30.0.0/16 dev v0", Answerer::nobody("pvlan_off")),
        ("route add 10.30.0.1/32 via 10.9.0.254", Answerer::FastPath),
        ("route replace unreachable 10.30.0.1/32", Answerer::nobody("unanswerable_route")),
        ("route replace 10.30.0.1/32 dev u0", Answerer::FastPath),
        ("route replace blackhole 10.30.0.1/32", Answerer::nobody("unanswerable_route")),
        ("route del 10.30.0.1/32", Answerer::nobody("pvlan_off")),
        ("route replace 10.30.0.0/16 dev u0", Answerer::FastPath),
        ("route del 10.30.0.0/16", Answerer::FastPath),
        ("route del default", Answerer::nobody("no_route")),
        ("route add default via 10.9.0.254", Answerer::FastPath),
    ];
    for (command, expected) in rows {
        parity.node_ip(command)?;
        assert_eq!(who_has(&mut parity, ELSEWHERE)?, expected, "after {command}");
    }
    Ok(())
}

#[test]
fn a_multipath_route_is_left_to_the_kernel() -> Result<()> {
    needs_root!();
    let mut parity = matrix_with_agent()?;
    // Both legs give the same verdict, so that the kernel's choice cannot differ between the labs.
    parity.node_ip("route add 10.30.0.0/16 nexthop via 10.9.0.254 nexthop via 10.9.0.253")?;
    assert_eq!(who_has(&mut parity, ELSEWHERE)?, Answerer::kernel("opaque_route"));
    parity.node_ip("route del 10.30.0.0/16")?;
    assert_eq!(who_has(&mut parity, ELSEWHERE)?, Answerer::FastPath);
    Ok(())
}

#[test]
fn a_nexthop_object_is_followed_when_replaced_and_deleted() -> Result<()> {
    needs_root!();
    let mut parity = matrix_with_agent()?;
    parity.both(|lab| lab.node().ip("nexthop add id 7 via 10.9.0.254 dev u0").map(drop))?;
    let rows = [
        ("route add 10.30.0.0/16 nhid 7", Answerer::FastPath),
        ("nexthop replace id 7 dev v0", Answerer::nobody("pvlan_off")),
        ("nexthop replace id 7 blackhole", Answerer::nobody("unanswerable_route")),
        ("nexthop replace id 7 dev u0", Answerer::FastPath),
        // Its routes go with it, unnoticed; the default route answers then.
        ("nexthop del id 7", Answerer::FastPath),
        ("route del default", Answerer::nobody("no_route")),
    ];
    for (command, expected) in rows {
        parity.node_ip(command)?;
        assert_eq!(who_has(&mut parity, ELSEWHERE)?, expected, "after {command}");
    }
    Ok(())
}

#[test]
fn a_rule_leaves_everything_to_the_kernel() -> Result<()> {
    needs_root!();
    let mut parity = matrix_with_agent()?;
    parity.node_ip("rule add from 10.5.0.5 lookup 100")?;
    assert_eq!(who_has(&mut parity, ROUTED_TARGET)?, Answerer::kernel("custom_rules"));
    parity.both(|lab| lab.node().ip("route add unreachable 10.9.0.9 table 100").map(drop))?;
    parity.agent().in_sync()?;
    assert_eq!(who_has(&mut parity, ROUTED_TARGET)?, Answerer::nobody("custom_rules"));
    parity.node_ip("rule del from 10.5.0.5 lookup 100")?;
    assert_eq!(who_has(&mut parity, ROUTED_TARGET)?, Answerer::FastPath);
    Ok(())
}

#[test]
fn the_uplink_takes_its_routes_with_it_when_it_goes_down() -> Result<()> {
    needs_root!();
    let mut parity = matrix_with_agent()?;
    assert_eq!(who_has(&mut parity, ROUTED_TARGET)?, Answerer::FastPath);
    parity.node_ip("link set u0 down")?;
    assert_eq!(who_has(&mut parity, ROUTED_TARGET)?, Answerer::nobody("no_route"));
    assert_eq!(who_has(&mut parity, UPLINK_IP)?, Answerer::FastPath, "its address stays the node's");
    parity.node_ip("link set u0 up")?;
    assert_eq!(who_has(&mut parity, ROUTED_TARGET)?, Answerer::FastPath, "the connected route is back");
    assert_eq!(who_has(&mut parity, ELSEWHERE)?, Answerer::nobody("no_route"), "the default route is not");
    Ok(())
}

#[test]
fn an_uplink_without_carrier_counts_unless_such_routes_are_to_be_ignored() -> Result<()> {
    needs_root!();
    let mut parity = matrix_with_agent()?;
    parity.change(|lab| lab.unplug("external"))?;
    let without = parity.ask("p0", |p0| p0.who_has(ROUTED_TARGET))?;
    assert_eq!(without.replies.len(), 1, "K109; by {:?}", without.by);
    parity.node_sysctl("net.ipv4.conf.u0.ignore_routes_with_linkdown", 1)?;
    let ignored = parity.ask("p0", |p0| p0.who_has(ROUTED_TARGET))?;
    assert_eq!(ignored.replies.len(), 0, "K110; by {:?}", ignored.by);
    parity.change(|lab| lab.plug("external"))?;
    assert_eq!(who_has(&mut parity, ROUTED_TARGET)?, Answerer::FastPath);
    Ok(())
}
