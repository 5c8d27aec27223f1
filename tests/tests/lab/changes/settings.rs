//! Settings, static proxies and neighbour entries.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use lab::topology::{self, LOCAL_TARGET, NODE_MAC, ROUTED_TARGET, SAME_INTERFACE_TARGET};
use lab::{AgentOptions, Answerer, SideBySide, needs_root, stretched};

use super::{matrix_with_agent, who_has};

#[test]
fn each_flag_is_followed_there_and_back() -> Result<()> {
    needs_root!();
    let rows = [
        ("conf.v0.proxy_arp", 1, 0, ROUTED_TARGET, "proxy_arp_off"),
        ("conf.v0.forwarding", 1, 0, ROUTED_TARGET, "forwarding_off"),
        ("conf.v0.arp_ignore", 0, 8, LOCAL_TARGET, "arp_ignore"),
        ("conf.all.arp_ignore", 0, 1, LOCAL_TARGET, "arp_ignore"),
        ("conf.v0.medium_id", 0, -1, ROUTED_TARGET, "medium_id"),
        ("conf.v0.proxy_arp_pvlan", 1, 0, SAME_INTERFACE_TARGET, "pvlan_off"),
    ];
    let mut parity = matrix_with_agent()?;
    parity.node_sysctl("net.ipv4.conf.v0.proxy_arp_pvlan", 1)?;
    for (key, on, off, tpa, reason) in rows {
        let key = format!("net.ipv4.{key}");
        assert_eq!(who_has(&mut parity, tpa)?, Answerer::FastPath, "before {key}");
        parity.node_sysctl(&key, off)?;
        assert_eq!(who_has(&mut parity, tpa)?, Answerer::nobody(reason), "{key} = {off}");
        parity.node_sysctl(&key, on)?;
        assert_eq!(who_has(&mut parity, tpa)?, Answerer::FastPath, "{key} = {on}");
    }
    Ok(())
}

#[test]
fn the_medium_ids_of_both_interfaces_are_followed() -> Result<()> {
    needs_root!();
    let mut parity = matrix_with_agent()?;
    for (ingress, out, answered) in
        [(1, 1, false), (1, 2, true), (1, 0, true), (1, -1, false), (0, -1, true), (-1, 2, false)]
    {
        parity.both(|lab| lab.node().sysctl("net.ipv4.conf.v0.medium_id", ingress))?;
        parity.node_sysctl("net.ipv4.conf.u0.medium_id", out)?;
        let expected = if answered { Answerer::FastPath } else { Answerer::nobody("medium_id") };
        assert_eq!(who_has(&mut parity, ROUTED_TARGET)?, expected, "v0 {ingress}, u0 {out}");
    }
    Ok(())
}

#[test]
fn a_proxy_delay_leaves_broadcast_requests_to_the_kernel() -> Result<()> {
    needs_root!();
    let mut parity = matrix_with_agent()?;
    parity.node_sysctl("net.ipv4.neigh.v0.proxy_delay", 20)?;
    let before = parity.agent().status()?;
    let mut answers = Vec::new();
    parity.both(|lab| {
        let p0 = lab.host("p0");
        answers.push(p0.ask_within(
            &p0.who_has(ROUTED_TARGET),
            Duration::from_millis(200) + stretched(Duration::from_millis(200)),
        )?);
        Ok(())
    })?;
    assert_eq!(answers[0].len(), 1, "the kernel alone answers within 200 ms");
    assert_eq!(answers[1], answers[0]);
    let after = parity.agent().status()?;
    assert_eq!(after.answered("v0"), before.answered("v0"));
    assert_eq!(after.passed("v0").get("proxy_delay"), Some(&1), "{:?}", after.passed("v0"));

    let unicast = parity.ask("p0", |p0| {
        let mut frame = p0.who_has(ROUTED_TARGET);
        frame[..6].copy_from_slice(&NODE_MAC.bytes());
        frame
    })?;
    assert_eq!(unicast.by, Answerer::FastPath, "a unicast request is not delayed");
    assert_eq!(who_has(&mut parity, LOCAL_TARGET)?, Answerer::FastPath, "a local target is not delayed");
    parity.node_sysctl("net.ipv4.neigh.v0.proxy_delay", 0)?;
    assert_eq!(who_has(&mut parity, ROUTED_TARGET)?, Answerer::FastPath);
    Ok(())
}

#[test]
fn a_static_proxy_entry_is_followed_when_added_and_removed() -> Result<()> {
    needs_root!();
    let mut parity = matrix_with_agent()?;
    parity.node_sysctl("net.ipv4.conf.v0.proxy_arp", 0)?;
    assert_eq!(who_has(&mut parity, ROUTED_TARGET)?, Answerer::nobody("proxy_arp_off"));
    parity.node_ip("neigh add proxy 10.9.0.9 dev v0")?;
    assert_eq!(who_has(&mut parity, ROUTED_TARGET)?, Answerer::FastPath, "K089");
    parity.node_sysctl("net.ipv4.conf.v0.forwarding", 0)?;
    assert_eq!(who_has(&mut parity, ROUTED_TARGET)?, Answerer::nobody("forwarding_off"), "K090");
    parity.node_sysctl("net.ipv4.conf.v0.forwarding", 1)?;
    parity.node_ip("neigh del proxy 10.9.0.9 dev v0")?;
    assert_eq!(who_has(&mut parity, ROUTED_TARGET)?, Answerer::nobody("proxy_arp_off"));
    parity.node_ip("neigh add proxy 10.9.0.9 dev u0")?;
    assert_eq!(who_has(&mut parity, ROUTED_TARGET)?, Answerer::nobody("proxy_arp_off"), "K092");
    Ok(())
}

#[test]
fn a_neighbour_entry_is_followed_when_it_changes_and_goes() -> Result<()> {
    needs_root!();
    let mut parity = matrix_with_agent()?;
    let rows = [
        ("neigh replace 10.5.0.5 lladdr 02:00:00:00:05:99 dev v0 nud stale", Answerer::kernel("neighbour_differs")),
        // The kernel has learnt the pod's own address again from that.
        ("neigh change 10.5.0.5 dev v0 nud stale", Answerer::FastPath),
        ("neigh del 10.5.0.5 dev v0", Answerer::kernel("neighbour_unknown")),
        ("neigh replace 10.5.0.5 lladdr 02:00:00:00:05:99 dev v0 nud permanent", Answerer::FastPath),
        ("neigh replace 10.5.0.5 lladdr 02:00:00:00:05:99 dev v0 nud noarp", Answerer::FastPath),
    ];
    for (command, expected) in rows {
        parity.node_ip(command)?;
        assert_eq!(who_has(&mut parity, LOCAL_TARGET)?, expected, "after {command}");
    }
    Ok(())
}

/// How long the fast path goes on answering after `key` was written so that the kernel would no longer.
fn time_to_follow(parity: &mut SideBySide, key: &str, value: i64, tpa: [u8; 4]) -> Result<Duration> {
    assert_eq!(who_has(parity, tpa)?, Answerer::FastPath);
    let fast = parity.fast();
    let p0 = fast.host("p0");
    fast.node().sysctl(key, value)?;
    let written = Instant::now();
    loop {
        let passed = written.elapsed();
        if p0.ask(&p0.who_has(tpa))?.is_empty() {
            return Ok(passed);
        }
        ensure!(passed < stretched(Duration::from_secs(3)), "{key} = {value} is not followed within 3 s");
        thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn settings_are_followed_within_the_default_bound_whether_the_kernel_notifies_or_not() -> Result<()> {
    needs_root!();
    // The agent's own bound, and what two busy cores may add to it.
    let bound = Duration::from_millis(250) + stretched(Duration::from_millis(100));
    let mut parity = SideBySide::start_with(topology::matrix, AgentOptions::new(&["v0"]).default_reread())?;
    for (key, off, on, tpa) in [
        ("net.ipv4.conf.v0.proxy_arp", 0, 1, ROUTED_TARGET),
        ("net.ipv4.conf.v0.forwarding", 0, 1, ROUTED_TARGET),
        ("net.ipv4.conf.v0.arp_ignore", 8, 0, LOCAL_TARGET),
        ("net.ipv4.conf.all.arp_ignore", 8, 0, LOCAL_TARGET),
        ("net.ipv4.conf.v0.medium_id", -1, 0, ROUTED_TARGET),
    ] {
        let took = time_to_follow(&mut parity, key, off, tpa)?;
        println!("{key} = {off} was followed after {} ms", took.as_millis());
        assert!(took <= bound, "{key} = {off} was followed after {took:?} only");
        parity.node_sysctl(key, on)?;
    }
    Ok(())
}
