//! Links and addresses.

use std::time::Duration;

use anyhow::{Error, Result};
use arp_common::Lladdr;
use lab::topology::{LOCAL_TARGET, NODE_MAC, ROUTED_TARGET};
use lab::{Answerer, SideBySide, needs_root, reply_bytes, stretched};

use super::{ELSEWHERE, matrix_with_agent, who_has};

#[test]
fn the_interface_s_new_address_is_in_the_replies() -> Result<()> {
    needs_root!();
    let mut parity = matrix_with_agent()?;
    let new = Lladdr::new([0x02, 0, 0, 0, 0x77, 0x77]);
    parity.node_ip(&format!("link set v0 address {new}"))?;
    // The kernel forgets the interface's neighbours with its address.
    let outcome = parity.ask("p0", |p0| p0.who_has(ROUTED_TARGET))?;
    assert_eq!(outcome.by, Answerer::kernel("neighbour_unknown"));
    parity.agent().in_sync()?;
    let outcome = parity.ask("p0", |p0| p0.who_has(ROUTED_TARGET))?;
    let p0 = parity.fast().host("p0");
    assert_eq!(outcome.replies, [reply_bytes(new, p0.mac(), p0.ip(), ROUTED_TARGET)]);
    assert_eq!(outcome.by, Answerer::FastPath);

    let to_old = parity.ask("p0", |p0| {
        let mut frame = p0.who_has(ROUTED_TARGET);
        frame[..6].copy_from_slice(&NODE_MAC.bytes());
        frame
    })?;
    assert_eq!(to_old.by, Answerer::nobody("other_destination"));
    Ok(())
}

#[test]
fn an_address_is_followed_when_added_and_removed() -> Result<()> {
    needs_root!();
    let mut parity = matrix_with_agent()?;
    let probe = |parity: &mut SideBySide| Ok::<_, Error>(parity.ask("p0", |p0| p0.probe(ELSEWHERE))?.by);
    assert_eq!(probe(&mut parity)?, Answerer::nobody("probe_not_local"));
    for interface in ["lo", "u0", "v0"] {
        parity.node_ip(&format!("addr add 10.30.0.1/32 dev {interface}"))?;
        assert_eq!(probe(&mut parity)?, Answerer::FastPath, "on {interface}");
        parity.node_ip(&format!("addr del 10.30.0.1/32 dev {interface}"))?;
        assert_eq!(probe(&mut parity)?, Answerer::nobody("probe_not_local"), "no longer on {interface}");
    }
    Ok(())
}

#[test]
fn the_pod_s_link_works_again_after_it_was_down() -> Result<()> {
    needs_root!();
    let mut parity = matrix_with_agent()?;
    parity.node_ip("link set v0 down")?;
    parity.node_ip("link set v0 up")?;
    assert_eq!(who_has(&mut parity, LOCAL_TARGET)?, Answerer::kernel("sender_route"), "its routes are gone");
    parity.node_ip("route add 10.5.0.5/32 dev v0 scope link")?;
    assert_eq!(who_has(&mut parity, LOCAL_TARGET)?, Answerer::FastPath, "the kernel has learnt the pod meanwhile");
    Ok(())
}

#[test]
fn noarp_and_a_bridge_leave_everything_to_the_kernel() -> Result<()> {
    needs_root!();
    let mut parity = matrix_with_agent()?;
    parity.node_ip("link set v0 arp off")?;
    assert_eq!(who_has(&mut parity, LOCAL_TARGET)?, Answerer::nobody("interface_noarp"));
    parity.node_ip("link set v0 arp on")?;
    parity.learn("p0", LOCAL_TARGET)?;
    assert_eq!(who_has(&mut parity, LOCAL_TARGET)?, Answerer::FastPath);

    parity.both(|lab| lab.node().ip_each("link add br0 type bridge forward_delay 0\n link set br0 up"))?;
    parity.node_ip("link set v0 master br0")?;
    let before = parity.agent().status()?;
    let mut answers = Vec::new();
    parity.both(|lab| {
        let p0 = lab.host("p0");
        answers.push(p0.ask_within(&p0.who_has(LOCAL_TARGET), stretched(Duration::from_millis(100)))?.len());
        Ok(())
    })?;
    assert_eq!(answers[0], answers[1]);
    let after = parity.agent().status()?;
    assert_eq!(after.answered("v0"), before.answered("v0"));
    assert_eq!(after.passed("v0").get("interface_has_master"), Some(&1), "{:?}", after.passed("v0"));

    parity.node_ip("link set v0 nomaster")?;
    parity.learn("p0", LOCAL_TARGET)?;
    assert_eq!(who_has(&mut parity, LOCAL_TARGET)?, Answerer::FastPath);
    Ok(())
}
